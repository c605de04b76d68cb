"""What a carry is worth: networks that go on from the live one, from one re-advanced under today's weights, from none; rows in carries.csv.

    TIDECAST_DATA=... python -m tests.benchmarks.carries [SET ...] [--steps 6000]

From random weights, one pass, defaults, as `skill` plays them. At every seventh step behind the first fifth, each forecast is made again by
the same weights from other carries: `refreshed` goes on from the anchor, about five dilated steps of twelve behind, `zero N` from an empty
carry N such steps behind (one: no memory at all). Mean squared errors of the networks' mean at 1 / 6 / 24 leads, in standard deviations of
the series, and the others' as multiples of the live one's.
"""

import argparse
from collections.abc import Mapping

import numpy as np
import polars as pl
import torch

from models import lesson
from models.batch import pad
from models.carry import NEVER
from models.grid import Matrix, grid
from models.inputs import LAGS
from models.learner import Config, Learner, Step
from models.prequential import Prequential, Split
from tests.benchmarks.rows import HERE, write
from tests.benchmarks.skill import HORIZON, KINDS, LEADS, load

EVERY = 7  # steps between looks: of all phases of the season and of the carries
DEPTHS = (1, 5, 20)  # dilated steps from an empty carry
LONGEST = 8  # from an anchor
SETS = ("ETTh2", *KINDS)


def found(name: str) -> tuple[Matrix, int | None, str]:
    """The matrix, season and step of a set."""
    if name != "ETTh2":
        return load(KINDS[name]), KINDS[name].season, KINDS[name].step
    table = pl.read_csv(HERE.parent / "data/ETTh2.csv.gz").with_columns(pl.col("date").str.to_datetime(time_unit="us"))
    first = int(grid("1h").cells(table["date"].cast(pl.Int64).to_numpy())[0])
    return Matrix(first, table[:, 1:].to_numpy().astype(np.float64), tuple(table.columns[1:])), 24, "1h"


def shelf(whole: Matrix, learner: Learner) -> dict[str, np.ndarray]:
    """All values as a ring that chains of any depth can be read from."""
    rows, series = whole.values.shape
    ring = np.full((series, rows + learner.form.reach + LAGS * (max(DEPTHS) + 2)), np.nan)
    ring[np.arange(series)[:, None], (whole.first + np.arange(rows)) % ring.shape[1]] = whole.values.T
    return {"closed": ring, "closed_newest": np.full(series, NEVER)}


def said(learner: Learner, generation: int, from_: Mapping[str, np.ndarray], of: lesson.Series, cell: int, depth: int) -> np.ndarray:
    """(N, H) mean of the networks' points of series at a cell, in their own units, over chains from the anchors `from_` holds."""
    chains, origins = lesson.chains(from_, of, np.full(len(of.slot), cell), depth=depth, origins=1, form=learner.form)  # type: ignore[arg-type]
    assert len(origins.asked) == len(of.slot), "the cell itself was observed"
    network, points = learner._network_of(learner.generations[generation]), np.empty((len(of.slot), HORIZON))
    starts = chains.lengths.cumsum() - chains.lengths
    for length in np.unique(chains.lengths):
        rows = np.flatnonzero(chains.lengths == length)
        x = torch.from_numpy(pad(chains.x, starts[rows], chains.lengths[rows]))
        blend, paths = (torch.from_numpy(np.asarray(a[rows], np.float32)) for a in (chains.blend, chains.paths))
        with torch.no_grad():
            outputs, _ = network(x, torch.from_numpy(chains.carry[rows].astype(np.float32)))
            each = network.say([o[:, -1] for o in outputs], x[:, -1], blend, paths)
        points[rows] = torch.stack([one.point for one in each]).mean(0).numpy()
    return origins.level[:, None] + points * origins.unit


def squares(name: str, steps: int | None, seed: int) -> dict[str, np.ndarray]:
    """(H,) mean squared errors by kind of carry."""
    whole, season, step = found(name)
    whole = whole._replace(values=whole.values[:steps])
    loop = Prequential(whole, Config(horizon=HORIZON, season=season, step_us=grid(step).step_us, seed=seed, device="cpu"), split=Split())
    learner, values = loop.learner, whole.values
    ring, begin, unit = shelf(whole, learner), len(values) // 5, np.nanstd(values, 0)
    total: dict[str, list[np.ndarray]] = {}

    def heard(row: int, at: np.ndarray, live: Step) -> None:
        if row < begin or row % EVERY or row + HORIZON >= len(values):
            return
        cell = whole.first + row
        generation = max(g for g in loop.kept if g <= cell - loop.delay)
        rows, size, naive = learner._learnt_by(learner.generations[generation], at, live.level)
        of = lesson.Series(at, size, naive, rows["lasting"][:, learner.group])
        ring["closed_newest"][:] = cell
        m, empty = learner.memory, learner.memory["anchor"]
        anchors = {"anchor": m["anchor"], "anchored": m["anchored"]}
        none = {"anchor": np.zeros_like(empty), "anchored": np.full(m["anchored"].shape, NEVER)}
        points = {"live": live.level[:, None] + live.size[:, None] * live.parts[:, : learner.members].mean(1)}
        points["refreshed"] = said(learner, generation, {**ring, **anchors}, of, cell, LONGEST)
        points |= {f"zero {d}": said(learner, generation, {**ring, **none}, of, cell, d) for d in DEPTHS}
        actual = values[row + learner.form.leads][:, at].T
        for kind, point in points.items():
            total.setdefault(kind, []).append(((point - actual) / unit[at, None]) ** 2)

    for _ in loop.play(heard=heard):
        pass
    return {kind: np.nanmean(np.concatenate(each), 0) for kind, each in total.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", choices=[[], *SETS])
    parser.add_argument("--steps", type=int, help="of each set, at most")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.sets or SETS:
        mean = squares(name, given.steps, given.seed)
        for lead in LEADS:
            live = mean["live"][lead - 1]
            row = {"set": name, "steps": given.steps or 0, "seed": given.seed, "lead": lead, "live": float(live)}
            write("carries", row | {kind: float(each[lead - 1] / live) for kind, each in mean.items() if kind != "live"})


if __name__ == "__main__":
    main()
