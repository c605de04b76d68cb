"""What a carry is worth: networks that go on from the live one, from one re-advanced under today's weights, from none; rows in carries.csv.

    TIDECAST_DATA=... python -m tests.benchmarks.carries [SET ...] [--steps 6000]

From random weights, one pass, defaults, as `skill` plays them. At every seventh step behind the first fifth, each forecast is made again by
the same weights from other carries: `refreshed` goes on from the anchor, about five dilated steps of twelve behind, `zero N` from an empty
carry N such steps behind (one: no memory at all). Mean squared errors of the networks' mean at 1 / 6 / 24 leads, in standard deviations of
the series, and the others' as multiples of the live one's.
"""

from collections.abc import Mapping

import numpy as np
import torch

from models import lesson
from models.batch import pad
from models.carry import NEVER
from models.grid import Matrix
from models.inputs import LAGS
from models.learner import Learner, Step
from models.prequential import Prequential, Split
from tests.benchmarks.figures import ETT
from tests.benchmarks.rows import write
from tests.benchmarks.skill import HORIZON, KINDS, LEADS, Kind, asked, config_of, parsed

EVERY = 7  # steps between looks: of all phases of the season and of the carries
DEPTHS = (1, 5, 20)  # dilated steps from an empty carry
LONGEST = 8  # from an anchor
SETS = {"ETTh2": Kind("ETTh2", parsed("date", "%Y-%m-%d %H:%M:%S"), tuple(ETT.split(",")), "1h", 24), **KINDS}


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
    network, rows, last = learner._network_of(learner.generations[generation]), np.arange(len(chains.lengths)), chains.lengths - 1
    x = torch.from_numpy(pad(chains.x, chains.lengths.cumsum() - chains.lengths, chains.lengths))
    carry, blend, paths = (torch.from_numpy(np.asarray(a, np.float32)) for a in (chains.carry, chains.blend, chains.paths))
    with torch.no_grad():
        outputs, _ = network(x, carry)  # what is behind a chain's end changes nothing before it
        each = network.say([o[rows, last] for o in outputs], x[rows, last], blend, paths)
    return origins.level[:, None] + torch.stack([one.point for one in each]).mean(0).numpy() * origins.unit


def squares(whole: Matrix, kind: Kind, seed: int) -> dict[str, np.ndarray]:
    """(H,) mean squared errors by kind of carry."""
    loop = Prequential(whole, config_of(kind, seed, device="cpu"), split=Split())
    learner, values, m = loop.learner, whole.values, loop.learner.memory
    ring, begin, unit = shelf(whole, learner), len(values) // 5, np.nanstd(values, 0)
    anchors = ring | {name: m[name] for name in ("anchor_hidden", "anchor_cell", "anchored")}  # all series are there: these arrays stay
    none = ring | {"anchored": np.full_like(m["anchored"], NEVER)}
    none |= {name: np.zeros_like(m[name]) for name in ("anchor_hidden", "anchor_cell")}
    total: dict[str, list[np.ndarray]] = {}

    def heard(row: int, at: np.ndarray, live: Step) -> None:
        if row < begin or row % EVERY or row + HORIZON >= len(values):
            return
        cell = whole.first + row
        generation = loop.generation(cell)
        rows, size, naive = learner._learnt_by(learner.generations[generation], at, live.level)
        of = lesson.Series(at, size, naive, rows["lasting"][:, learner.group])
        ring["closed_newest"][:] = cell
        points = {"live": live.level[:, None] + live.size[:, None] * live.parts[:, : learner.members].mean(1)}
        points["refreshed"] = said(learner, generation, anchors, of, cell, LONGEST)
        points |= {f"zero {d}": said(learner, generation, none, of, cell, d) for d in DEPTHS}
        actual = values[row + learner.form.leads][:, at].T
        for name, point in points.items():
            total.setdefault(name, []).append(((point - actual) / unit[at, None]) ** 2)

    for _ in loop.play(heard=heard):
        pass
    return {name: np.nanmean(np.concatenate(each), 0) for name, each in total.items()}


def main() -> None:
    for name, kind, whole, seed in asked(__doc__, SETS):
        mean = squares(whole, kind, seed)
        for lead in LEADS:
            live = mean["live"][lead - 1]
            row = {"set": name, "steps": len(whole.values), "seed": seed, "lead": lead, "live": float(live)}
            write("carries", row | {other: float(each[lead - 1] / live) for other, each in mean.items() if other != "live"})


if __name__ == "__main__":
    main()
