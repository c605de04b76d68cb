"""How much of the machine a step of learning uses: multiplications a second, beside one large product of matrices, in turns.

    python -m tests.benchmarks.learning

The step is that of an instant that closes a cell of each of 1,024 series (64 hidden units, the defaults): forward, backward, AdamW.
Only the products of matrices are counted, three times those of the forward pass; what is not multiplied (gates, losses, the rule of
descent) takes time and counts nothing. `part` is the ratio; a row in learning.csv, the median of the rounds.
"""

import argparse
import statistics
import time

import numpy as np
import torch

from models.learner import START, Cells, Config, Learner
from tests.benchmarks.rows import write

SIZE = 1024  # of the large product
STEPS = 100  # until chains have all that they look back on
REPEATED = 5


def exercise(series: int, model: str):
    """What the newest of `STEPS` instants asks of descent."""
    learner = Learner(Config(horizon=24, season=24, model=model))
    rng = np.random.default_rng(0)
    keys = np.sort(rng.integers(1, 1 << 62, series).astype(np.uint64))
    slots = np.arange(series)
    for slot in slots:
        learner.admit(int(slot), int(keys[slot]))
    values = np.sin(np.arange(STEPS)[:, None] / 4 + slots) + rng.normal(0, 0.3, (STEPS, series))
    kept = [START]
    for row in range(STEPS):
        cells = Cells(slots, keys, np.full(series, row), values[row])
        learner.arrive(cells, generation=kept[-1], woken=np.zeros(series, bool))
        kept.append(row + 1)
        now = learner.begin(cells, instant=row + 1, drop=kept[:-4])
        kept = kept[-4:]
        learner.finish(now)
    return learner, now


def products(learner: Learner, lesson) -> float:
    """Floating-point operations of the products of a forward pass (a multiplication and an addition are two)."""
    c, form = learner.config, learner.form
    said = (1 + 3 + len(c.levels)) * c.horizon * (c.hidden + form.features)
    each = len(lesson.x) * (form.features * c.hidden + 2 * 4 * c.hidden * c.hidden) + len(lesson.row) * said
    return 2.0 * learner.members * each


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--series", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    torch.set_num_threads(1)
    a, b = torch.randn(SIZE, SIZE), torch.randn(SIZE, SIZE)
    for model in ("mixture", "lstm"):
        learner, step = exercise(given.series, model)
        rates = []
        for _ in range(given.rounds):
            began = time.process_time()
            for _ in range(REPEATED):
                step.run()
            ours = REPEATED * 3 * products(learner, step.whole) / (time.process_time() - began)
            began = time.process_time()
            for _ in range(REPEATED):
                a @ b
            rates.append((ours, REPEATED * 2.0 * SIZE**3 / (time.process_time() - began)))
        part = statistics.median(ours / whole for ours, whole in rates)
        gflops = [statistics.median(rate[k] for rate in rates) / 1e9 for k in (0, 1)]
        row = {"model": model, "series": given.series, "chains": len(step.whole.lengths), "gflops": gflops[0], "matmul_gflops": gflops[1]}
        write("learning", {**row, "part": part})


if __name__ == "__main__":
    main()
