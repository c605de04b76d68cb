"""The learner alone, event by event: score -> forecast -> learn, on the generations that a stream would use.

    python tests/benchmarks/prequential.py taxi ETTh2 --seed 0

taxi: nyc_taxi in company of 20 synthetic series; ETTh2: its seven columns. From random weights, one pass, cumulative from the
start. The files are looked for in $TIDECAST_DATA.
"""

import argparse
import csv
import gzip
import os
import time
from pathlib import Path

import numpy as np
import torch

from models.learner import START, Cells, Config, Learner

MINUTE_US = 60_000_000


def column(name, *columns):
    path = Path(os.environ.get("TIDECAST_DATA", "data")) / f"{name}.csv.gz"
    with gzip.open(path, "rt") as lines:
        rows = list(csv.DictReader(lines))
    return np.array([[float(r[c]) for c in (columns or list(rows[0])[1:])] for r in rows])


def company(steps, count=20, season=48, seed=0):
    """(steps, count): noisy sines, random walks, level shifts, counts, in turn."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)
    out = []
    for k in range(count):
        kind, size = k % 4, 10.0 ** rng.integers(-1, 4)
        if kind == 0:
            x = np.sin(2 * np.pi * (t + rng.integers(season)) / season) * 3 + rng.normal(0, 0.3 + 0.1 * k, steps)
        elif kind == 1:
            x = rng.normal(0, 1, steps).cumsum()
        elif kind == 2:
            x = np.repeat(rng.normal(0, 5, steps // 200 + 1), 200)[:steps] + rng.normal(0, 1, steps)
        else:
            x = rng.poisson(2 + 2 * (np.sin(2 * np.pi * t / season) > 0)).astype(float)
        out.append(x * size)
    return np.stack(out, 1)


class Tally:
    """Sums of absolute and squared errors by series and lead, from forecasts that met their values."""

    def __init__(self, series, horizon, bands):
        self.error, self.base, self.count = (np.zeros((series, horizon)) for _ in range(3))
        self.square = np.zeros((series, horizon))
        self.covered = np.zeros((series, horizon, bands))
        self.net = np.zeros((series, horizon))

    def add(self, step, values):
        off = np.where(step.scored, step.s_point - values[:, None], 0)
        self.error += np.abs(off)
        self.square += off**2
        self.base += np.where(step.scored, np.abs(step.s_baseline_point - values[:, None]), 0)
        self.count += step.scored
        self.net += step.scored & (step.s_by == 0)
        self.covered += step.covered

    def skill(self, series=slice(None)):
        return 1 - self.error[series] / self.base[series]


def run(x, config, *, disorder=1, first=0, every=0, name="", heard=None):
    """All columns of x (steps, series) advance together; returns the learner and the tally. `heard` (step, what came of it) is told all."""
    learner = Learner(config)
    steps, series = x.shape
    keys = np.random.default_rng(5).integers(0, 1 << 62, series).astype(np.uint64)
    order = np.argsort(keys)
    for slot in range(series):
        learner.admit(slot, int(keys[slot]))
    slots = np.arange(series)
    tally = Tally(series, config.horizon, len(learner.bands))
    kept = [START]
    spent = {"arrive": 0.0, "close": 0.0}
    for k in range(steps):
        t = first + k
        begun = time.process_time()
        want = t - disorder - 1
        instant = want
        if k >= disorder + 2:
            i = k - disorder - 2  # cell [t', t'+1) ends at instant t' + 1
            cells = Cells(slots[order], keys[order], np.full(series, first + i), x[i, order])
            kept.append(instant)
            drop, kept = kept[:-4], kept[-4:]
            learner.close(cells, instant=instant, drop=drop)
        middle = time.process_time()
        generation = max(g for g in kept if g <= want)
        step = learner.arrive(Cells(slots, keys, np.full(series, t), x[k]), generation=generation, woken=np.zeros(series, bool))
        spent["close"] += middle - begun
        spent["arrive"] += time.process_time() - middle
        tally.add(step, x[k])
        if heard is not None:
            heard(k, step)
        if every and (k + 1) % every == 0:
            report(f"{name} {k + 1}", tally, learner, spent, k + 1)
    return learner, tally, spent


def report(name, tally, learner, spent, steps):
    h = tally.error.shape[1]
    leads = [0, min(5, h - 1), h - 1]
    s0 = tally.skill(0)
    share = tally.net / np.maximum(tally.count, 1)
    cov = tally.covered[..., -1] / np.maximum(tally.count, 1)
    print(
        f"{name}: first skill {' '.join(f'{s0[k]:+.3f}' for k in leads)} net {' '.join(f'{share[0, k]:.2f}' for k in leads)} "
        f"cov90 {' '.join(f'{cov[0, k]:.3f}' for k in leads)} "
        f"| mean skill {' '.join(f'{np.nanmean(tally.skill()[:, k]):+.3f}' for k in leads)} "
        f"net {' '.join(f'{share[:, k].mean():.2f}' for k in leads)} cov90 {' '.join(f'{cov[:, k].mean():.3f}' for k in leads)} "
        f"| arrive {spent['arrive'] / steps * 1e3:.2f} ms close {spent['close'] / steps * 1e3:.2f} ms loss {learner.training['loss']:.3f}",
        flush=True,
    )


def taxi():
    x = column("nyc_taxi", "value")
    return np.concatenate([x, company(len(x))], 1)


SETS = {
    "taxi": (48, 30 * MINUTE_US, taxi, 24 * 2 * 365 * 44 + 24 * 2 * 192),
    "ETTh2": (24, 60 * MINUTE_US, lambda: column("ETTh2"), 24 * 365 * 46),
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("sets", nargs="+", choices=SETS)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--every", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], help="field=value of Config")
    parser.add_argument("--each", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kinds = {k: type(getattr(Config(), k) or 0.0) for k, _ in (s.split("=") for s in args.set)}  # what is not said is a number
    fields = {k: kinds[k](v) for k, v in (s.split("=") for s in args.set)}
    for name in args.sets:
        season, step_us, load, first = SETS[name]
        x = load()[: args.steps]
        learner, tally, spent = run(x, Config(season=season, step_us=step_us, **fields), first=first, every=args.every, name=name)
        report(f"{name} {len(x)} end", tally, learner, spent, len(x))
        if args.each:
            for k in range(x.shape[1]):
                s, n = tally.skill(k), tally.net[k] / tally.count[k]
                c = tally.covered[k, :, -1] / tally.count[k]
                print(
                    f"  {k}: skill {s[0]:+.3f} {s[5]:+.3f} {s[-1]:+.3f} net {n[0]:.2f} {n[5]:.2f} {n[-1]:.2f} "
                    f"cov {c[0]:.3f} {c[5]:.3f} {c[-1]:.3f}"
                )


if __name__ == "__main__":
    main()
