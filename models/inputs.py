"""What the network sees of a series at a cell: values around it, relative to the newest, in units of the series' own change.

Letters: N (series, cell) pairs, R cells of a ring, H lead times, F features, S steps of a season.
A ring holds a series' value of cell c at c % R; NaN: not observed. A *view* reads only cells at or before its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from models import covariates
from models.gaps import Gaps, begun, filled

LAGS = 12  # how far one step looks back, and how far the carry it continues lies behind
CLIP = 20.0  # inputs and targets beyond this many naive errors are as good as there: a target of 1e300 must not move the weights
BEND = 4.0  # of inputs alone: what networks have hardly ever seen must not drive them far; storms cost 0.4 % less (LOG 2026-11-26)
DAY_US = 86_400_000_000
UNITS = (1, 4, 12, 24)  # leads whose naive errors tell what kind of series it is
# A row of a matrix product comes out the same at any place of any batch only if the product is no odd number of floats wide
# (of widths 8 to 128 into 8: differs in the last bit for all but multiples of 8).
WIDTH = 16
MASK = Gaps()
LONGEST = 1_000_000  # steps of a week that is told: a table of more would be larger than the model
SEASONAL, WEEKLY = 3, 2  # harmonics of the season, and of the week and further seasons
AHEAD = (1, 2, 4, 8, 12, 24)  # leads at which the last season's course is shown
FURTHER = 2  # paths of a further season, see View


class Season(NamedTuple):
    """One that is looked at beside the first, which baselines know: the week beside the day."""

    steps: int
    back: np.ndarray  # (H,) as in Shape
    whole: np.ndarray  # (H,)


class Shape(NamedTuple):
    """What a view looks like: fixed by the settings."""

    horizon: int
    season: int | None
    step_us: int
    leads: np.ndarray  # (H,) 1..H
    back: np.ndarray  # (H,) steps from the newest cell back to the same phase as the lead's target, one season before it: >= 0
    whole: np.ndarray  # (H,) the seasons that this goes back, in steps
    phases: tuple[np.ndarray, ...]  # (L, C) each: calendar features by cell % L
    units: np.ndarray  # indices of leads, see UNITS
    ahead: np.ndarray  # indices of leads, see AHEAD
    gaps: Gaps
    known: covariates.Plan = covariates.NONE
    further: tuple[Season, ...] = ()

    @property
    def beside(self) -> list[np.ndarray]:
        """(H,) each, in steps back: of every further season the same phase of a lead's target, and of the cell itself."""
        return [steps for season in self.further for steps in (season.back, season.whole)]

    @property
    def reach(self) -> int:
        """How many steps back a view reads at most."""
        further = [int(season.whole.max()) for season in self.further]
        return max(LAGS, int(self.whole.max(initial=0)) + (self.season or 0), *further) + self.beyond

    @property
    def beyond(self) -> int:
        """How many of them only say what stands for those that are missing, or where the sequence began."""
        # A gap that does not split leaves no carry of its time farther behind than itself and two dilated steps
        return self.gaps.most + (1 + self.gaps.most + 2 * LAGS if self.gaps.splits else 0)

    @property
    def own(self) -> int:
        """Features that tell of the series' own last changes; they come first."""
        return (LAGS - 1) + LAGS + 2 + 2 + len(self.units)

    @property
    def week(self) -> tuple[int, int]:
        """Columns (first, behind the last) that tell the day of the week."""
        end = self._told
        return end - (0 if week(self.step_us) is None else 2 * WEEKLY), end

    @property
    def _told(self) -> int:
        """Features that say something: the rest is padding."""
        seasonal = 0 if self.season is None else 2 + 2 * len(self.ahead) + 2 * len(self.units)
        further = len(self.further) * (2 + 2 * len(self.ahead))
        return self.own + seasonal + further + sum(int(table.shape[1]) for table in self.phases)

    @property
    def more(self) -> int:
        """Paths beside those of the naive forecasts: of further seasons and of covariates."""
        return FURTHER * len(self.further) + self.known.paths

    @property
    def features(self) -> int:
        return -(-(self._told + self.known.features) // WIDTH) * WIDTH


def shape(
    horizon: int,
    season: int | None,
    step_us: int,
    policy: Gaps = MASK,
    known: covariates.Plan = covariates.NONE,
    further: Sequence[int] = (),
) -> Shape:
    """What the settings make of it.

    >>> shape(6, 4, 1).back.tolist(), shape(6, 4, 1).whole.tolist()
    ([3, 2, 1, 0, 3, 2], [4, 4, 4, 4, 8, 8])
    """
    leads = np.arange(1, horizon + 1)
    whole = np.zeros(horizon, np.int64) if season is None else wholes(leads, season)
    units = np.array([k - 1 for k in UNITS if k <= horizon])
    ahead = np.array([k - 1 for k in AHEAD if k <= horizon])
    beside = tuple(Season(steps, wholes(leads, steps) - leads, wholes(leads, steps)) for steps in further)
    phases = calendar(season, step_us, further)
    return Shape(horizon, season, step_us, leads, whole - leads, whole, phases, units, ahead, policy, known, beside)


def wholes(leads: np.ndarray, season: int) -> np.ndarray:
    """Leads rounded up to whole seasons."""
    return np.asarray(-(-leads // season) * season)


def calendar(season: int | None, step_us: int, further: Sequence[int] = ()) -> tuple[np.ndarray, ...]:
    """(L, C) each, by cell % L: three harmonics of the season, two of each further one, and two of the week."""
    own = [] if season is None else [waves(season, SEASONAL)]
    weekly = week(step_us)
    return (*own, *(waves(steps, WEEKLY) for steps in further if steps != weekly), *([] if weekly is None else [waves(weekly, WEEKLY)]))


def week(step_us: int) -> int | None:
    """Steps of a week, where they divide its days and are not too many."""
    return 7 * DAY_US // step_us if step_us < DAY_US and DAY_US % step_us == 0 and 7 * DAY_US // step_us <= LONGEST else None


def waves(period: int, harmonics: int) -> np.ndarray:
    """(L, C) sines and cosines."""
    angles = [2 * np.pi * k * np.arange(period) / period for k in range(1, harmonics + 1)]
    return np.stack([f(a) for a in angles for f in (np.sin, np.cos)], 1).astype(np.float32)


class View(NamedTuple):
    level: np.ndarray  # (N,) the value that all else is relative to
    lags: np.ndarray  # (N, LAGS) changes from k = 1..LAGS steps back to the level; NaN where not observed
    newest: np.ndarray  # (N,) bool: the cell itself was observed
    last: np.ndarray  # (N, H) a season before the target, less the level
    before: np.ndarray  # (N, H) two seasons before the target, less the level
    offset: np.ndarray  # (N, H) whole seasons before the cell itself, less the level
    further: np.ndarray  # (N, FURTHER * K, H) of each of K further seasons: `last`, `offset`


def read(ring: np.ndarray, slot: np.ndarray, cells: np.ndarray) -> np.ndarray:
    """Values of (N,) slots at (N, K) cells, which must lie within the ring's length behind its newest."""
    return np.asarray(ring[slot[:, None], cells % ring.shape[1]])


def behind(ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, back: np.ndarray, form: Shape) -> np.ndarray:
    """(N, K) values of (N,) slots `back` (K,) steps before (N,) cells, with gaps filled where the settings say so."""
    if not form.gaps.fills:
        return read(ring, slot, cell[:, None] - back)
    width = int(back.max()) + form.beyond
    return filled(read(ring, slot, cell[:, None] - np.arange(width, -1, -1)), form.gaps)[:, width - back]


def goes_on(ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, before: np.ndarray, form: Shape) -> np.ndarray:
    """(N,) bool: at `cell` the sequence goes on that was there at the cell `before`; no gap between them has ended it."""
    if not form.gaps.splits:
        return np.ones(len(slot), bool)
    past = read(ring, slot, cell[:, None] - np.arange(form.reach, -1, -1))
    return np.asarray(before >= cell - begun(past, form.gaps))


def view(ring: np.ndarray, slot: np.ndarray, cell: np.ndarray, level: np.ndarray, form: Shape) -> View:
    """What is known at (N,) cells; `level` (N,) finite: the newest observed value at or before each."""
    seasons = [] if form.season is None else [form.back, form.back + form.season, form.whole]
    values = behind(ring, slot, cell, np.concatenate([np.arange(LAGS + 1), *seasons, *form.beside]), form)
    with np.errstate(over="ignore"):  # 1e308 less -1e308: infinite here, clipped where it is used
        relative = np.asarray(values - level[:, None])
    lags, seasonal = relative[:, 1 : LAGS + 1], relative[:, LAGS + 1 :].reshape(len(slot), len(seasons) + len(form.beside), form.horizon)
    last, before, offset = seasonal[:, : len(seasons)].transpose(1, 0, 2) if seasons else np.full((3, len(slot), form.horizon), np.nan)
    return View(level, lags, ~np.isnan(values[:, 0]), last, before, offset, seasonal[:, len(seasons) :])


def gaps(lags: np.ndarray) -> np.ndarray:
    """(N,) steps since the observation before the newest, at most LAGS + 1."""
    seen = ~np.isnan(lags)
    return np.where(seen.any(1), seen.argmax(1) + 1, LAGS + 1)


def features(
    v: View,
    cell: np.ndarray,
    naive: np.ndarray,
    scale: np.ndarray,
    lasting: np.ndarray,
    carry_gap: np.ndarray,
    form: Shape,
    outlook: np.ndarray,
) -> np.ndarray:
    """(N, F) float32, finite, within +-CLIP; naive (N, 3, H) float32 errors of the naive paths in units of `scale` (N,).

    `lasting` (N, H): see models.scale.last; `outlook` (N, W): see models.covariates.
    """
    kind, last, drift = (np.ascontiguousarray(naive[:, k][:, form.units]) for k in range(3))
    middle = min(2, kind.shape[1] - 1)
    unit = scale * kind[:, middle] * lasting[:, form.units[middle]]
    seen = ~np.isnan(v.lags)
    parts = [
        bent(v.lags[:, : LAGS - 1] / unit[:, None]),
        seen[:, : LAGS - 1],
        v.newest[:, None],
        bent(-v.lags[:, LAGS - 1 :] / unit[:, None]),
        seen[:, LAGS - 1 :],
        np.minimum(gaps(v.lags) - 1, LAGS)[:, None] / LAGS,
        np.minimum(carry_gap, 8)[:, None] / 8,
        np.log(kind),
    ]
    if form.season is not None:
        course = v.last[:, form.ahead]
        parts += [
            bent(v.offset[:, :1] / unit[:, None]),
            ~np.isnan(v.offset[:, :1]),
            bent(course / unit[:, None]),
            ~np.isnan(course),
            np.log(last / kind),
            np.log(drift / kind),
        ]
    for k in range(0, v.further.shape[1], FURTHER):
        course, offset = v.further[:, k][:, form.ahead], v.further[:, k + 1, :1]
        parts += [bent(offset / unit[:, None]), ~np.isnan(offset), bent(course / unit[:, None]), ~np.isnan(course)]
    parts += [*(table[cell % len(table)] for table in form.phases), *covariates.features(form.known, outlook)]
    columns = [np.asarray(p, np.float32) for p in parts]
    columns.append(np.zeros((len(cell), form.features - sum(c.shape[1] for c in columns)), np.float32))
    return np.concatenate(columns, 1)


def bent(x: np.ndarray) -> np.ndarray:
    """As it is up to `BEND` either way, beyond that by its logarithm, within +-CLIP; 0 where it is not known."""
    size = np.abs(x)
    return bounded(np.where(size <= BEND, x, np.copysign(BEND + np.log1p(np.maximum(size - BEND, 0)), x)))


def bounded(x: np.ndarray) -> np.ndarray:
    """Within +-CLIP; what is not known is 0, and a mask beside it says so."""
    x = np.maximum(np.minimum(x, CLIP), -CLIP)
    x[np.isnan(x)] = 0.0
    return np.asarray(x)


def bearings(v: View, naive: np.ndarray, scale: np.ndarray, lasting: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where naive forecasts point, and the unit of each lead.

    Returns the blend (N, H), the paths (N, 3 + FURTHER * K, H), both in units, and the unit (N, H) in the series' own: the best naive
    error, as it has been for long.
    """
    unit = scale[:, None] * units(naive) * lasting
    drift = v.last - v.offset
    known = np.stack([np.ones(v.last.shape, bool), ~np.isnan(v.last), ~np.isnan(drift)], 1)
    weight = np.where(known, naive, np.inf).astype(np.float64)
    weight = weight.min(1, keepdims=True) / weight
    weight *= weight
    weight *= weight  # the fourth power: the square is best for independent errors, and these are not
    total = weight[:, 0] + weight[:, 1] + weight[:, 2]
    paths = np.stack([bounded(p / unit) for p in (v.last, v.before, v.offset, *v.further.transpose(1, 0, 2))], 1)
    blend = (weight[:, 1] * paths[:, 0] + weight[:, 2] * bounded(drift / unit)) / total
    return blend, paths, unit


FLOOR = 0.2  # naive errors in units of the one-step change; below it a lead's unit would blow up its errors


def units(naive: np.ndarray) -> np.ndarray:
    """(N, H) what errors of each lead are measured in today: the best naive error, in units of the scale."""
    return np.asarray(np.maximum(naive.min(1), FLOOR))
