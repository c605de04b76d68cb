"""How long bands take to hold what they promise after a jump in variance: a seasonal stream whose noise has `factor` times the variance.

    python -m tests.benchmarks.conformal --factor 2 --seed 0

Eight series, season 24, noise that remembers half of itself; the jump is in the middle. A row in conformal.csv: coverage of the 90 % band
at leads 1, 2-6, 7-24 from step 400 on; and for a trailing window of 200 steps, its least share after the jump, and the steps from the jump
until it is within 88-92 % to stay (counted over 900 steps; 0: never left).
"""

import argparse

import numpy as np
import torch

from models.learner import Config
from tests.benchmarks.prequential import run
from tests.benchmarks.rows import write

SEASON, SERIES, WINDOW, COUNTED = 24, 8, 200, 900
GROUPS = {"1": slice(0, 1), "2-6": slice(1, 6), "7-24": slice(6, 24)}


def jumping(steps, factor, seed):
    """(steps, series)."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    out = []
    for _ in range(SERIES):
        size, phase = 10.0 ** rng.integers(-1, 3), rng.integers(SEASON)
        shape = 3 * np.sin(2 * np.pi * (t + phase) / SEASON) + rng.uniform(0, 1.5) * np.sin(4 * np.pi * (t + phase) / SEASON)
        pushed = rng.normal(0, 1, steps) * np.where(t < steps // 2, 1, factor**0.5)
        noise = np.zeros(steps)
        for k in range(1, steps):
            noise[k] = noise[k - 1] / 2 + pushed[k]
        out.append((shape + noise + 10) * size)
    return np.stack(out, 1)


def trailing(held):
    """(T,) share of a window that ends at each step, NaN before there is one."""
    total = np.concatenate([[0], held.cumsum()])
    return np.concatenate([np.full(WINDOW - 1, np.nan), (total[WINDOW:] - total[:-WINDOW]) / WINDOW])


def recovery(held, jump):
    """The least share of a trailing window after the jump, and the steps until it is within 88-92 % for good."""
    share = trailing(held)[jump : jump + COUNTED]
    outside = np.flatnonzero(np.abs(share - 0.9) > 0.02)
    return share.min(), int(outside[-1] + 1) if outside.size else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--factor", type=float, default=2)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--members", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    x = jumping(args.steps, args.factor, args.seed)
    held = np.full((args.steps, 24), np.nan)

    def heard(k, step):
        if step.scored.all():
            held[k] = step.covered[..., -1].mean(0)

    run(x, Config(season=SEASON, members=args.members, device="cpu"), heard=heard)
    row = {"factor": args.factor, "seed": args.seed, "steps": args.steps, "members": args.members}
    for name, leads in GROUPS.items():
        mine = np.nan_to_num(held[:, leads].mean(1))
        least, back = recovery(mine, args.steps // 2)
        row |= {f"coverage {name}": round(float(mine[400:].mean()), 4), f"least {name}": round(float(least), 4), f"back {name}": back}
    write("conformal", row)


if __name__ == "__main__":
    main()
