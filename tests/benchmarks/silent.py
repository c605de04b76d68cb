"""What a series is forecast at steps without a sample of it: what was said is said again, or a network is shown the step without a value.

    python -m tests.benchmarks.silent [--rows 2000]

The first hours of ETTh2, whose columns fall silent at random for 14 hours on average, every 60; online from random weights. Over the silent
steps of the last two thirds: mean absolute error in mean one-step changes of the column, and the share that the 90 % band holds, by lead;
rows in silent.csv.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import torch

from models.grid import Matrix
from models.learner import Cells, Config, Step
from models.prequential import Prequential, Split
from tests.benchmarks.rows import write

FILE, HORIZON, LEADS = Path(__file__).parent.parent / "data/ETTh2.csv.gz", 24, (1, 6, 24)
EVERY, LONG = 60, 14  # steps


def silences(shape: tuple[int, int]) -> np.ndarray:
    """(T, N) bool: the column is silent."""
    rng, out = np.random.default_rng(0), np.zeros(shape, bool)
    for column in range(shape[1]):
        row = 50
        while row < shape[0]:
            row += int(rng.geometric(1 / EVERY))
            length = int(rng.geometric(1 / LONG))
            out[row : row + length, column] = True
            row += length
    return out


def played(values: np.ndarray) -> Iterator[tuple[int, np.ndarray, dict[str, Step]]]:
    """(row, columns, forecasts of each way) wherever some are silent."""
    loop = Prequential(
        Matrix(400_000, values, tuple("abcdefg"), columns=7), Config(horizon=HORIZON, season=24, members=1, fill=True), split=Split()
    )
    learner = loop.learner
    for played in loop.play():
        row = played - 1
        at = np.flatnonzero(np.isnan(values[row]))
        if not at.size:
            continue
        cell = np.full(len(at), loop.matrix.first + row)
        again = learner.fill(at, cell)
        generation = max((g for g in loop.kept if g <= cell[0] - loop.delay), default=loop.kept[0])
        shown = learner.arrive(Cells(at, loop.keys[at], cell, values[row, at]), generation=generation, woken=np.zeros(len(at), bool))
        learner.memory["issued"][at, cell % HORIZON] = False  # nothing is to be learnt from it
        yield row, at, {"said again": again, "network, the step masked": shown}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2000)
    torch.set_num_threads(1)
    truth = pl.read_csv(FILE).drop("date").to_numpy()[: parser.parse_args().rows]
    unit = np.abs(np.diff(truth, axis=0)).mean(0)
    found: dict[tuple[str, int], list[tuple[float, bool]]] = {}
    for row, at, ways in played(np.where(silences(truth.shape), np.nan, truth)):
        for lead in LEADS if row >= len(truth) / 3 else ():
            if row + lead >= len(truth):
                continue
            actual = truth[row + lead, at]
            for name, step in ways.items():
                error = np.abs(step.point[:, lead - 1] - actual) / unit[at]
                held = (step.quantiles[:, 0, lead - 1] <= actual) & (actual <= step.quantiles[:, -1, lead - 1])
                found.setdefault((name, lead), []).extend(zip(error.tolist(), held.tolist(), strict=True))
    for (name, lead), many in sorted(found.items()):
        error, held = np.mean(many, 0).tolist()
        write("silent", {"way": name, "lead": lead, "forecasts": len(many), "mae": error, "band_90": held})


if __name__ == "__main__":
    main()
