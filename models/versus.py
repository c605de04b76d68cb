"""Is the challenger better than the champion? A test that may be looked at after every instant, for as long as one likes.

Both forecast the same cells, and their losses are compared pair by pair. Errors of lead h overlap for h cells, so an instant is no
unit: a *block* is, and of its forecasts those that were made no earlier than at the instant before it and are due within it. Nothing
of them was known before, so that differences of blocks less what was to be expected of each at its beginning are martingale
differences, whatever happens within a block. On them stands the empirical Bernstein confidence sequence for a mean that may change
(Howard, Ramdas, McAuliffe & Sekhon 2021, Theorem 4; for forecasters Choe & Ramdas 2023, Theorem 2): with x_i the difference of block
i, d_i what was to be expected of it, g_i the mean before it, c_i the range of x_i, 0 <= r < 1 and psi(r) = -log(1 - r) - r,

    exp(r * sum((x_i - d_i) / c_i) - psi(r) * sum(((x_i - g_i) / c_i)^2))

is a supermartingale that begins at 1 (Fan, Grama & Liu 2015, eq. 4.11). So is its mean over some r, which is the e-process here, and
by Ville's inequality it comes to 1 / alpha with a probability of alpha at most, at any time at all.

The null that promotion rejects: *the loss of the challenger that is to be expected at the beginning of each block is not lower, on
the average over the blocks so far*. A loss is the mean over series and, group by group, over leads; a block's difference is in parts
of what both had lost before, and counts as what blocks' differences were before (root of the mean square, times WIDE) at most, to
either side: without a bound there is no such test, with a wide one it is slow. In the average a block weighs one over its bound. What
is clipped can hide a rare disaster: nobody is promoted whose plain mean difference says otherwise, nor one who harms a single series.

What is *not* proven: two models may be equal in the long run, and yet one of them the better for weeks. That block after block then
leans to one side is true of the time that was seen, and the null above is false of it. Squares are therefore multiplied by how much
the sum of blocks varies beyond what independent ones would (Newey & West 1987, never less than once): larger squares only make an
e-process smaller, so the proof stands, and simulations (tests/benchmarks/versus.py) say how far it carries.

Averages of e-processes of every h-th instant (Arnold, Henzi & Ziegel 2023) use all the forecasts, but each of them holds in a
filtration of its own; to stop when the average is high needs adjusters (Choe & Ramdas 2024), which cost more than the forecasts
across a block's border that are left out here.

Letters: N rows, H lead times, G groups of leads, C slots, R rows of sums, L lags, J rates.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.mixture import BOUND, ENDS, groups, several

PROMOTED, REFUSED, UNDECIDED = "promoted", "refused", "undecided"
WIDE = 1.0  # root mean squares of differences: with 1.5, half of the gains of 5 % that 1 finds are not yet found; 0.8 hides more
FIRST, NARROW, BROAD = 0.07, 0.01, 0.5  # parts of the loss: that root before anything is known, and its bounds
OUTLYING = 2.0  # times the bound: a difference is taken for that at most when the next bounds are set
SHORTEST, LONGEST = 24, 96  # instants of a block that are asked for by more than its leads
USUAL = 0.05  # rate of forgetting in what both lose, a block
TINY = 1e-3  # naive errors: losses that small are none
RATES = np.array([0.05, 0.2, 0.5, 0.9])  # r of the mean; more of them cost log(4 / J) of the evidence, and found nothing sooner
COST = -np.log1p(-RATES) - RATES  # psi(r)
SUDDEN = 3  # blocks
LAGS = 4  # blocks over which what they share is looked for


class Rules(NamedTuple):
    """What is asked of a challenger."""

    instants: int  # at least, before anything good is said
    series: int  # likewise
    alpha: float = 0.05  # share of challengers that are promoted and are no better, at most
    harm: float = 0.1  # part by which the loss of one series may rise
    coverage: tuple[float, float] = (0.0, 1.0)  # of the challenger's widest band: from, to
    latency: float = 2.0  # times the champion's
    disaster: float = 0.5  # part by which the loss of either may be larger before anything is proved, after SUDDEN blocks


class Guards(NamedTuple):
    """What others have measured of the challenger."""

    coverage: float | None = None  # share of values in its widest band; None: it has none
    broken: int = 0  # forecasts that were not finite
    latency: float = 1.0  # seconds of a forecast beside the champion's


class Verdict(NamedTuple):
    """What a look has found. Differences are in parts of the loss, and positive where the challenger is better."""

    outcome: str
    cause: str
    difference: float
    lower: float  # with a confidence of 1 - alpha each, at all times together
    upper: float
    evidence: float  # e-value against the null
    instants: int
    series: int
    numbers: dict[str, Any]


class Sums:
    """What is kept of blocks' differences, a row for each thing that is compared. Arrays only; `ARRAYS` is all that is remembered."""

    ARRAYS = ("blocks", "weight", "total", "plain", "square", "lagged", "last", "usual", "varied")

    def __init__(self, rows: int) -> None:
        self.blocks = np.zeros(rows, np.int64)  # that count: the first one says only what is usual
        self.weight, self.total, self.square = np.zeros(
            (3, rows)
        )  # sums of 1 / c, x / c, ((x - g) / c)^2, with |x| <= c: of half the range
        self.plain = np.zeros(rows)  # of what x was before it was clipped
        self.lagged, self.last = np.zeros((2, rows, LAGS))  # sums of products of (x - g) / c with those before, and the newest
        self.usual = np.full(rows, np.nan)  # loss of both
        self.varied = np.full(rows, FIRST**2)  # mean square of differences

    def grow(self, rows: int) -> None:
        """Room for at least this many rows."""
        more = rows - len(self.blocks)
        if more > 0:
            fresh = Sums(max(more, len(self.blocks) // 2))
            for name in self.ARRAYS:
                setattr(self, name, np.concatenate([getattr(self, name), getattr(fresh, name)]))

    def forget(self, rows: np.ndarray) -> None:
        """These rows begin anew."""
        fresh = Sums(1)
        for name in self.ARRAYS:
            getattr(self, name)[rows] = getattr(fresh, name)[0]

    def add(self, rows: np.ndarray, champion: np.ndarray, challenger: np.ndarray) -> None:
        """Losses (n,) of a block."""
        usual = self.usual[rows]
        old = ~np.isnan(usual)
        at = rows[old]
        plain = (champion - challenger)[old] / np.maximum(usual[old], TINY)
        bound = WIDE * np.clip(np.sqrt(self.varied[at]), NARROW, BROAD)
        x = np.clip(plain / bound, -1, 1)
        off = x - np.clip(self.mean[at] / bound, -1, 1)
        self.blocks[at] += 1
        self.weight[at] += 1 / bound
        self.total[at] += x
        self.plain[at] += plain
        self.square[at] += off * off
        self.lagged[at] += off[:, None] * self.last[at]
        self.last[at] = np.concatenate([off[:, None], self.last[at, :-1]], 1)
        self.varied[at] += (np.minimum(np.abs(plain), OUTLYING * bound) ** 2 - self.varied[at]) / (self.blocks[at] + 1)
        rate = np.maximum(1 / (self.blocks[rows] + 1), USUAL)
        both = (champion + challenger) / 2
        self.usual[rows] = np.where(old, usual + rate * (both - usual), both)

    @property
    def mean(self) -> np.ndarray:
        """(R,) difference of a block."""
        return np.asarray(self.total / np.maximum(self.weight, 1))

    def spread(self) -> np.ndarray:
        """(R,) squares, times what blocks share with those before them (Newey & West 1987, Bartlett's weights)."""
        shared = self.lagged @ (1 - np.arange(1, LAGS + 1) / (LAGS + 1))
        return np.asarray(self.square + 2 * np.maximum(shared, 0))

    def evidence(self, side: int, beyond: float = 0.0) -> np.ndarray:
        """(R,) logarithm of the e-process against: the mean of what is to be expected, times `side`, is `beyond` at most."""
        return mixed((side * self.total - self.weight * beyond) / 2, self.spread() / 4)

    def radius(self, alpha: float) -> np.ndarray:
        """(R,) from the mean to either end of its confidence sequence, one at most."""
        return np.asarray(np.minimum(2 * reach(self.spread() / 4, alpha) / np.maximum(self.weight, 1), 1))

    def state(self, prefix: str) -> dict[str, np.ndarray]:
        return {f"{prefix}_{name}": getattr(self, name) for name in self.ARRAYS}

    def load(self, prefix: str, columns: dict[str, np.ndarray]) -> None:
        for name in self.ARRAYS:
            setattr(self, name, columns[f"{prefix}_{name}"].copy())


def mixed(total: np.ndarray, square: np.ndarray) -> np.ndarray:
    """(R,) logarithm of the mean over RATES of exp(r * total - psi(r) * square), totals and squares in units of the range."""
    each = total[:, None] * RATES - square[:, None] * COST
    most = each.max(1)
    return np.asarray(most + np.log(np.exp(each - most[:, None]).mean(1)))


def reach(square: np.ndarray, alpha: float) -> np.ndarray:
    """(R,) the total at which `mixed` comes to log(1 / alpha).

    >>> square = np.array([0.0, 5.0])
    >>> bool(np.allclose(np.exp(mixed(reach(square, 0.05), square)), 20))
    True
    """
    low, high = np.zeros(len(square)), ((np.log(len(RATES) / alpha) + COST * square[:, None]) / RATES).min(1)
    for _ in range(50):
        middle = (low + high) / 2
        over = mixed(middle, square) > -np.log(alpha)
        low, high = np.where(over, low, middle), np.where(over, middle, high)
    return np.asarray(high)


class Versus:
    """Champion and challenger. Arrays only; `ARRAYS`, and those of the two sums, are all that is remembered."""

    ARRAYS = ("instants", "losses", "count")

    def __init__(self, *, horizon: int, season: int | None, rules: Rules) -> None:
        self.rules = rules
        self._leads = np.arange(1, horizon + 1)
        self._of = (groups(horizon) == np.arange(several(horizon))[:, None]).astype(
            np.int64
        )  # (G, H): bools would not be counted, but joined
        self.length = max(2 * horizon, min(season or 1, LONGEST), SHORTEST)
        count = len(self._of)
        self.ends = [min(end, horizon) for end in (*ENDS, horizon)][:count]
        self.instants = np.zeros((), np.int64)  # that had something to say
        self.losses = np.zeros((0, 2, count))  # (C, 2, G) of champion and challenger in the block that is going on
        self.count = np.zeros((0, count), np.int64)
        self.all = Sums(1 + count)  # all leads together, then group by group
        self.own = Sums(0)  # (C,)
        self._weigh()

    def take(self, slot: np.ndarray, champion: np.ndarray, challenger: np.ndarray, known: np.ndarray) -> bool:
        """Absolute errors (N, H), in naive errors of their lead, of forecasts that meet their values at an instant, where `known`.

        Every instant of the stream that scores anything is told, in order. Returns whether a block has ended with it.
        """
        if not known.any():
            return False
        self._grow(int(slot.max()) + 1)
        inside = known & (self._leads <= self.instants % self.length + 1)  # others were made before the block's own instants
        both = np.minimum(np.nan_to_num(np.stack([champion, challenger], 1), nan=BOUND), BOUND)
        self.losses[slot] += np.where(inside[:, None], both, 0.0) @ self._of.T
        self.count[slot] += inside @ self._of.T
        self.instants += 1
        ended = bool(self.instants % self.length == 0)
        if ended:
            self._end()
        return ended

    def _grow(self, slots: int) -> None:
        self.own.grow(slots)
        more = len(self.own.blocks) - len(self.count)
        if more:
            self.losses = np.concatenate([self.losses, np.zeros((more, *self.losses.shape[1:]))])
            self.count = np.concatenate([self.count, np.zeros((more, self.count.shape[1]), np.int64)])

    def forget(self, slots: np.ndarray) -> None:
        """These slots hold nobody."""
        slots = slots[slots < len(self.count)]
        self.losses[slots], self.count[slots] = 0, 0
        self.own.forget(slots)

    def _end(self) -> None:
        mean = self.losses / np.maximum(self.count, 1)[:, None]
        there = self.count > 0  # (C, G)
        series = np.flatnonzero(there.any(1))
        own = mean[series].sum(2) / there[series].sum(1)[:, None]  # groups of leads weigh the same
        self.own.add(series, own[:, 0], own[:, 1])
        near = np.flatnonzero(there.any(0))
        by_group = mean.sum(0)[:, near] / there.sum(0)[near]  # as series do
        rows = np.concatenate([[0], near + 1])
        self.all.add(rows, *np.concatenate([by_group.mean(1, keepdims=True), by_group], 1))
        self.losses[:], self.count[:] = 0, 0
        self._weigh()

    def _weigh(self) -> None:
        """What blocks say, anew."""
        self._better, self._worse = self.all.evidence(1), self.all.evidence(-1)
        self._radius = self.all.radius(self.rules.alpha)
        self._series = int((self.own.blocks > 0).sum())
        harmed = self.own.evidence(-1, self.rules.harm)
        self._worst = int(np.argmax(harmed)) if self._series else -1
        self._harm = float(harmed[self._worst]) if self._series else 0.0

    def judge(self, guards: Guards) -> Verdict:
        """What is to be said now. It may be asked at any time: it is wrong of `alpha` of the challengers, not of the looks."""
        outcome, cause = self._outcome(guards)
        mean, radius = self.all.mean, self._radius
        leads = [f"{(self.ends[k - 1] if k else 0) + 1}-{end}" for k, end in enumerate(self.ends)]
        numbers = {
            "blocks": int(self.all.blocks[0]),
            "block": self.length,
            "against": rounded(np.exp(min(self._worse[0], 700.0))),
            "plain": rounded(self.plain),
            "leads": {name: [rounded(v) for v in (m, m - r, m + r)] for name, m, r in zip(leads, mean[1:], radius[1:], strict=True)},
            "coverage": guards.coverage,
            "broken": guards.broken,
            "latency": rounded(guards.latency),
        }
        low, high = (rounded(mean[0] + side * radius[0]) for side in (-1, 1))
        evidence = rounded(np.exp(min(self._better[0], 700.0)))
        return Verdict(outcome, cause, rounded(mean[0]), low, high, evidence, int(self.instants), self._series, numbers)

    def _outcome(self, guards: Guards) -> tuple[str, str]:
        rules, sure = self.rules, -np.log(self.rules.alpha)
        mean, count = self.all.mean, len(self.ends)
        by_lead = self._worse[1:]
        if guards.broken:
            return REFUSED, f"{guards.broken} of its forecasts were not finite"
        if -self.disaster >= rules.disaster:
            return REFUSED, f"it loses {-self.disaster:.0%} more than the champion, of what both lose: no proof is waited for"
        if self._worse[0] >= sure:
            return REFUSED, f"it loses {-mean[0]:.1%} more than the champion, and that is no chance"
        if by_lead.max() >= sure + np.log(count):
            worst = int(np.argmax(by_lead))
            return REFUSED, f"up to lead {self.ends[worst]} it loses {-mean[1 + worst]:.1%} more than the champion, and that is no chance"
        if self._harm >= sure + np.log(max(self._series, 1)):
            lost = -self.own.mean[self._worst]
            return REFUSED, f"the series in slot {self._worst} loses {lost:.1%} more, allowed are {rules.harm:.1%}"
        if self.instants < rules.instants or self._series < rules.series:
            wanted = f"want {rules.instants} instants of {rules.series} series"
            return UNDECIDED, f"{self.instants} instants of {self._series} series so far, {wanted}"
        if self._better[0] < sure or self.all.plain[0] <= 0:
            return UNDECIDED, f"it loses {mean[0]:.1%} less, give or take {self._radius[0]:.1%}: that may be chance"
        low, high = rules.coverage
        if guards.coverage is not None and not low <= guards.coverage <= high:
            return REFUSED, f"it is better, but its widest band holds {guards.coverage:.1%} of the values, want {low:.1%} to {high:.1%}"
        if not guards.latency <= rules.latency:
            return REFUSED, f"it is better, but takes {guards.latency:.2f} times as long as the champion, allowed are {rules.latency:.2f}"
        return PROMOTED, f"it loses {mean[0]:.1%} less than the champion, at least {mean[0] - self._radius[0]:.1%}"

    @property
    def plain(self) -> float:
        """The mean difference of blocks as they are."""
        return float(self.all.plain[0] / max(self.all.blocks[0], 1))

    @property
    def disaster(self) -> float:
        """The same once some blocks have ended, before that 0: so much is no chance, and whoever waits for proof waits ten blocks."""
        return self.plain if self.all.blocks[0] >= SUDDEN else 0.0

    def by_lead(self) -> np.ndarray:
        """(H,) the part of the loss that the challenger loses less, of the group that a lead is in."""
        return np.asarray(self.all.mean[1:] @ self._of)

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS} | self.all.state("all") | self.own.state("own")

    def load(self, columns: dict[str, np.ndarray]) -> None:
        """The inverse of `state`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())
        self.all.load("all", columns)
        self.own.load("own", columns)
        self._weigh()


def rounded(value: float) -> float:
    """As a decision has it."""
    return round(float(value), 6)
