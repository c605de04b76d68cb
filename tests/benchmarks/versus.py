"""How often chance promotes, and how soon a gain is found: simulated champions and challengers, judged after every instant.

    python -m tests.benchmarks.versus --runs 200
    python -m tests.benchmarks.versus --runs 200 --gain 0.05
    python -m tests.benchmarks.versus --runs 200 --mutant instants
    python -m tests.benchmarks.versus --etth2

Errors as forecasts have them (`stream`): what is new at each step is heavy-tailed, of a size that comes and goes, and shared by the
series; an error of lead h is what was new in the last h steps, and what its model has wrong, which lasts. Both models are wrong alike,
each in its own way; a gain makes all of the challenger's errors smaller by a part. A row in versus.csv. `--etth2`: two learners that
differ by their seed alone, on tests/data; either is the challenger once.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import torch

from models.learner import Config
from models.versus import PROMOTED, REFUSED, Guards, Rules, Sums, Versus
from tests.benchmarks import prequential, rows

KEPT = 0.9  # of what is new at a step, at the next one
FAST, SLOW = 0.9, 0.99  # of what a model has wrong, at the next step: half of it is gone after 7 and 70
WRONG = 0.4  # of what a model has wrong, beside what nobody could know: blocks differ by 8 %; two seeds on ETTh2 by 1 %, as of 0.1
DATA = Path(__file__).parent.parent / "data"


class Instants(Versus):
    """A mutant: each instant is a unit, with all the forecasts that come due, as if they were independent."""

    def __init__(self, **what):
        super().__init__(**what)
        self.length, self._leads = 1, np.zeros_like(self._leads)
        self.all.__class__ = Alone


class Alone(Sums):
    """A mutant: squares as they are, whatever blocks share."""

    def spread(self):
        return self.square


class Blocks(Versus):
    """A mutant: blocks, as if they shared nothing."""

    def __init__(self, **what):
        super().__init__(**what)
        self.all.__class__ = Alone


JUDGES = {"": Versus, "instants": Instants, "blocks": Blocks}


def lasting(pushed, kept):
    """AR(1) along the first axis, of variance 1 where what is pushed has it."""
    out = np.empty_like(pushed)
    out[0] = pushed[0]
    for k in range(1, len(pushed)):
        out[k] = kept * out[k - 1] + (1 - kept * kept) ** 0.5 * pushed[k]
    return out


def stream(rng, *, steps, series=8, horizon=24, gain=0.0, wrong=WRONG):
    """Absolute errors (T, N, H) of champion and challenger in naive errors."""
    shape = steps, series
    size = np.exp(lasting(rng.normal(0, 1, (steps, 1)), 0.97) / 2)
    tails = rng.standard_t(3, shape) / 3**0.5
    new = (0.6 * rng.standard_t(3, (steps, 1)) / 3**0.5 + 0.8 * tails) * size
    pushed = rng.normal(0, 1, (steps, 2, 2, series)) * 0.8 + rng.normal(0, 1, (steps, 2, 2, 1)) * 0.6  # fast and slow, two models
    fast, slow = lasting(pushed[:, 0], FAST), lasting(pushed[:, 1], SLOW)
    error = np.zeros((2, *shape, horizon), np.float32)
    known, deviation = np.zeros(shape), 0.0
    for lead in range(1, horizon + 1):
        fresh = np.zeros(shape)
        fresh[lead - 1 :] = new[: steps - lead + 1] * KEPT ** (lead - 1)
        known = known + fresh
        deviation = (deviation**2 + KEPT ** (2 * (lead - 1))) ** 0.5
        share = lead / horizon
        for model in range(2):
            own = (1 - share) * fast[:-lead, model] + share * slow[:-lead, model]
            error[model, :, :, lead - 1] = known / deviation
            error[model, lead:, :, lead - 1] += wrong * own * size[:-lead]
    off = np.abs(error)
    off[1] *= 1 - gain
    return off


def played(judge, off, *, guards=None):
    """The first verdict that is not undecided, or the last; it is asked for after every instant."""
    _, steps, series, horizon = off.shape
    slots, known, verdict = np.arange(series), np.zeros((series, horizon), bool), None
    for k in range(steps):
        known[:, : k + 1] = True
        ended = judge.take(slots, off[0, k], off[1, k], known & ~np.isnan(off[:, k]).any(0))
        if ended or verdict is None:  # between two blocks nothing that it goes by changes
            verdict = judge.judge(guards or Guards())
        if verdict.outcome in (PROMOTED, REFUSED):
            return verdict
    return verdict


def simulated(kind, *, runs, steps, gain, seed=0, **what):
    """Verdicts of as many runs."""
    return [
        played(
            JUDGES[kind](horizon=what.get("horizon", 24), season=None, rules=Rules(instants=0, series=1)),
            stream(np.random.default_rng([seed, run]), steps=steps, gain=gain, **what),
        )
        for run in range(runs)
    ]


def learners(steps, series):
    """(2, T, N, H) absolute errors of two learners of other seeds on ETTh2, in mean changes of each lead over all steps."""
    os.environ["TIDECAST_DATA"] = str(DATA)
    torch.set_num_threads(1)
    x = prequential.column("ETTh2")[:steps, :series]
    out = np.full((2, steps, series, 24), np.nan)
    for seed in range(2):

        def heard(k, step, mine=out[seed]):
            mine[k] = np.where(step.scored, np.abs(step.s_point - x[k][:, None]), np.nan)

        prequential.run(x, Config(season=24, members=1, hidden=32, replayed=8, seed=seed, device="cpu"), heard=heard)
    return out / np.stack([np.abs(x[h:] - x[:-h]).mean(0) for h in range(1, 25)], 1)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--series", type=int, default=8)
    parser.add_argument("--gain", type=float, default=0.0)
    parser.add_argument("--wrong", type=float, default=WRONG)
    parser.add_argument("--mutant", choices=JUDGES, default="")
    parser.add_argument("--etth2", action="store_true")
    args = parser.parse_args()
    row = {"judge": args.mutant or "versus", "errors": "simulated", "runs": args.runs, "steps": args.steps, "series": args.series}
    if args.etth2:
        both = learners(args.steps, args.series)
        found = [
            played(JUDGES[args.mutant](horizon=24, season=24, rules=Rules(instants=0, series=1)), off * [[[[1]]], [[[1 - args.gain]]]])
            for off in (both, both[::-1])
        ]
        row |= {"errors": "ETTh2, two seeds", "runs": 2, "series": both.shape[2]}
    else:
        found = simulated(args.mutant, runs=args.runs, steps=args.steps, gain=args.gain, series=args.series, wrong=args.wrong)
    taken = [v.instants for v in found if v.outcome == PROMOTED]
    row |= {
        "wrong": "" if args.etth2 else args.wrong,
        "gain": args.gain,
        "promoted": len(taken),
        "refused": sum(v.outcome == REFUSED for v in found),
    }
    row |= {"median": np.median(taken) if taken else "", "of ten nine": np.quantile(taken, 0.9) if taken else ""}
    rows.write("versus", row)
    for v in found if args.etth2 else ():
        print(v)


if __name__ == "__main__":
    main()
