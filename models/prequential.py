"""The learner over a history, as a stream would have met it: every row is scored, forecast from, and learnt from later.

Rows before `warmup` are only looked at; there `models.warmup.warm` trains on them and stops by the validation rows; from there on
learning goes on to the end. Without warm-up rows it is online from random weights, from the first row on.

Letters: T rows of a grid, N series, H lead times, L leads that are shown, B bins of time, P rows of a trace, K experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import xxhash

from models.grid import Matrix
from models.learner import START, Cells, Config, Decision, Learner, Step, Tells
from models.outlooks import Outlooks
from models.tally import NAIVE, Errors, Tally
from models.warmup import History, Warmth, warm

HORIZONS = (1, 24, 48)  # of `by_horizon`, those that fit, beside the horizon itself
DECISIONS = 1_000  # that are kept with their row; all are counted
SCALES = ("none", "warmup")


class Split(NamedTuple):
    """Rows of each series, in this order; `test` None: all that is left."""

    warmup: int = 0
    validation: int = 0
    test: int | None = None

    def end(self, rows: int) -> int:
        """The row behind the last one that is used."""
        return rows if self.test is None else self.warmup + self.validation + self.test

    def origins(self, rows: int, horizon: int) -> range:
        """Rows whose forecasts count: from the last validation row to `horizon` before the end.

        >>> Split(10, 5, 20).origins(100, 3), Split().origins(10, 4)
        (range(14, 32), range(0, 6))
        """
        return range(max(self.warmup + self.validation - 1, 0), max(self.end(rows) - horizon, 0))

    def faults(self, rows: int, horizon: int) -> list[str]:
        """Why these rows are not enough; nothing if they are."""
        named = {"warm-up": self.warmup, "validation": self.validation, "test": self.test or 0}
        wrong = [f"{count} {name} rows: allowed: 0 and more" for name, count in named.items() if count < 0]
        if wrong:
            return wrong
        if max(self.end(rows), self.warmup + self.validation) > rows:
            asked = " + ".join(f"{count:,} {name}" for name, count in named.items() if count)
            return [f"{rows:,} rows (steps from the first to the last time) are fewer than {asked}"]
        if not self.origins(rows, horizon):
            used = self.warmup + self.validation
            return [
                f"{rows:,} rows leave no forecast to score: {used:,} are for warm-up and validation, and the last {horizon} only forecast"
            ]
        return []


def parts_of(learner: Learner, step: Step) -> dict[str, np.ndarray]:
    """The points (n, H) of every expert by its name."""
    return {name: step.said(k) for k, name in enumerate(learner.parts)}


def weights_of(learner: Learner) -> dict[str, list[float]]:
    """The mixture's weights by expert and lead, of those that have some; nothing where one expert has it all."""
    heard = {name: weights for name, weights in learner.weights().items() if any(weights)}
    return heard if len(heard) > 1 else {}


class Told(NamedTuple):
    """A decision, and the row that was newest when it was taken."""

    row: int
    decision: Decision


class Prequential:
    """A learner and how far it is. `clock`: seconds from anywhere, for whoever wants to know how long it took."""

    def __init__(
        self,
        matrix: Matrix,
        config: Config,
        *,
        split: Split,
        scale: str = "none",
        disorder: int = 1,
        learn_ahead: bool = True,
        clock: Callable[[], float] | None = None,
    ) -> None:
        rows, series = matrix.values.shape
        faults = split.faults(rows, config.horizon)
        if scale not in SCALES:
            faults.append(f"scale is {scale!r}; allowed: {', '.join(SCALES)}")
        if scale == "warmup" and not split.warmup:
            faults.append("scale is 'warmup' and there are no warm-up rows; allowed: none")
        if len(config.covariates) != (matrix.known.shape[2] if matrix.known.size else 0):
            faults.append(f"the covariates are {', '.join(config.covariates) or 'none'}, and {matrix.known.shape[2]} are in the matrix")
        if faults:
            raise ValueError("; ".join(faults))
        self.matrix, self.split, self.clock = matrix, split, clock
        self.config = replace(config, columns=matrix.columns)
        self.values = matrix.values[: split.end(rows)]
        self.disorder = disorder  # steps
        self.delay = disorder + learn_ahead  # steps from a cell to the newest instant that may be behind its forecast
        self.scale = scale
        self.unit = np.ones(series) if scale == "none" else deviation(self.values[: split.warmup])
        self.learner = Learner(self.config)
        self.slots = np.arange(series)
        self.keys = np.array([xxhash.xxh3_64_intdigest(n.encode("utf-8", "surrogatepass")) for n in matrix.names], np.uint64)
        self.order = np.lexsort((self.slots, self.keys))
        for slot in range(series):
            self.learner.admit(slot, int(self.keys[slot]), **recorded(matrix, slot))
        self.kept = [START]
        self.closed = 0  # rows that learning has passed
        self.tally = Tally(self.values, split.origins(rows, config.horizon), self.learner.form, config.levels, self.learner.experts)
        self.weights: list[tuple[int, dict[str, list[float]]]] = []  # (row, by expert) at the beginning of each bin
        self.decisions: list[Told] = []
        self.decided: dict[str, int] = {}
        self.warmth: Warmth | None = None
        self.observations = 0  # that came online, from the warm-up on
        self.row = 0  # rows that have been played
        self.began = self.online = self.now = clock() if clock else 0.0

    def play(
        self,
        *,
        passed: Callable[[int, int, float], None] | None = None,
        warmed: Callable[[Warmth], None] | None = None,
        heard: Callable[[int, np.ndarray, Step], None] | None = None,
    ) -> Iterator[int]:
        """Row after row; yields how many have been played. Stop whenever you like: `result` says what has been counted so far.

        `passed` (pass, passes at most, loss) is told of the warm-up, `warmed` of its end, before anything is learnt online,
        `heard` (row, series, step) of everything forecast.
        """
        for row in range(self.row, len(self.values)):
            if row and row == self.split.warmup:
                warmth = self._warm(passed)
                if warmed is not None:
                    warmed(warmth)
            self._close_before(row - self.delay)
            self._arrive(row, heard)
            self.row = row + 1
            self.now = self.clock() if self.clock else 0.0
            yield self.row

    def _warm(self, passed: Callable[[int, int, float], None] | None) -> Warmth:
        warmup, validation, _ = self.split
        self._close_before(warmup)
        history = History(self.matrix.first, self.values[: warmup + validation], self.slots, self._outlooks(warmup + validation))
        self.warmth = warm(self.learner, history, until=warmup, told=passed)
        self.online = self.clock() if self.clock else 0.0
        return self.warmth

    def _close_before(self, row: int) -> None:
        while self.closed < row:
            self._close(self.closed, learn=self.closed >= self.split.warmup)
            self.closed += 1

    def _close(self, row: int, *, learn: bool) -> None:
        """Pass the instant that closes a row; one that closes nothing changes nothing."""
        there = self.order[~np.isnan(self.values[row, self.order])]
        if not there.size:
            return
        instant = self.matrix.first + row + 1
        self.kept.append(instant)
        many = self.disorder + 3
        drop, self.kept = self.kept[:-many], self.kept[-many:]
        cells = Cells(there, self.keys[there], np.full(len(there), self.matrix.first + row), self.values[row, there])
        exercise = self.learner.begin(cells, instant=instant, drop=drop)
        if learn:
            exercise.run()
        for decision in self.learner.finish(exercise):
            self.decided[decision.kind] = self.decided.get(decision.kind, 0) + 1
            if len(self.decisions) < DECISIONS:
                self.decisions.append(Told(row, decision))

    def _tells(self, row: int) -> Tells:
        """What is told of covariates at a row: its own, and those of later rows that nobody has told before."""
        horizon = self.config.horizon if self.config.ahead else 0
        ahead = np.arange(1 if row == 0 else horizon, horizon + 1) if horizon else np.zeros(0, np.int64)
        about = np.concatenate([[row], row + ahead])
        about = about[about < len(self.matrix.known)]
        slot, by = np.tile(self.slots, len(about)), np.full(len(about) * len(self.slots), self.matrix.first + row)
        values = self.matrix.known[about].reshape(len(by), self.matrix.known.shape[2])
        return Tells(slot, by, self.matrix.first + np.repeat(about, len(self.slots)), values)

    def _outlooks(self, rows: int) -> np.ndarray:
        """(T, N, W) what will have been known at each row, when it is forecast from: a covariate's units are a series' own doing."""
        known = self.learner.form.known
        out = np.full((rows, len(self.slots), known.width), np.nan, np.float16)
        if not known.number:
            return out
        outlooks = Outlooks(known)
        for slot in self.slots.tolist():
            outlooks.admit(slot)
        for row in range(rows):
            outlooks.tell(self._tells(row))
            at = np.flatnonzero(~np.isnan(self.values[row]))
            if at.size:
                _, out[row, at] = outlooks.look(at, np.full(len(at), self.matrix.first + row), self.values[row, at])
        return out

    def generation(self, cell: int) -> int:
        """The one that a cell that comes next is forecast under."""
        # right after the warm-up all kept generations are newer than a stream's would be, and all as the warm-up left them
        return max((g for g in self.kept if g <= cell - self.delay), default=self.kept[0])

    def _arrive(self, row: int, heard: Callable[[int, np.ndarray, Step], None] | None) -> None:
        """The values of a row; a series without one is not forecast."""
        at = np.flatnonzero(~np.isnan(self.values[row]))
        if self.config.covariates:
            self.learner.tell(self._tells(row))
        if not at.size:
            return
        cell = self.matrix.first + row
        cells = Cells(at, self.keys[at], np.full(len(at), cell), self.values[row, at])
        step = self.learner.arrive(cells, generation=self.generation(cell), woken=np.zeros(len(at), bool))
        self.observations += len(at) if row >= self.split.warmup else 0
        self.tally.add(row, at, step, parts_of(self.learner, step))
        self._weigh(row)
        if heard is not None:
            heard(row, at, step)

    def _weigh(self, row: int) -> None:
        while row in self.tally.origins and len(self.weights) <= self.tally.bin(row):
            self.weights.append((row, weights_of(self.learner)))

    def result(self) -> Result:
        """What has been counted so far."""
        return Result(
            names=self.matrix.names,
            first=self.matrix.first,
            rows=len(self.matrix.values),
            played=self.row,
            config=self.config,
            split=self.split,
            scale=self.scale,
            disorder=self.disorder,
            unit=self.unit,
            tally=self.tally,
            weights=self.weights,
            decisions=self.decisions,
            decided=self.decided,
            warmth=self.warmth,
            observations=self.observations,
            device=str(self.learner.device),
            seconds=self.now - self.began if self.clock else None,
            online_seconds=self.now - self.online if self.clock else None,
        )


def recorded(matrix: Matrix, slot: int) -> dict[str, int]:
    """Which wide record, and which of its columns, a series is, as the stream names it; nothing where records are not wide."""
    if not matrix.columns:
        return {}
    record, column = divmod(slot, matrix.columns)
    name, _, _ = matrix.names[record * matrix.columns].rpartition("/")
    return {"record": xxhash.xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")) | 1, "column": column}


def deviation(values: np.ndarray) -> np.ndarray:
    """(N,) standard deviation of each series of (T, N); NaN where it has none or it is 0: such a series has no unit."""
    known = ~np.isnan(values)
    count = np.maximum(known.sum(0), 1)
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.where(known, values - np.where(known, values, 0).sum(0) / count, 0)
        out = np.sqrt((off**2).sum(0) / count)
    return np.where((out > 0) & np.isfinite(out), out, np.nan)


@dataclass
class Result:
    """What a backtest came to. Errors are in the unit of `scale`: the series' own, or standard deviations of its warm-up rows."""

    names: tuple[str, ...]  # (N,)
    first: int  # cell of the first row
    rows: int  # of the grid
    played: int  # of them
    config: Config
    split: Split
    scale: str
    disorder: int  # steps
    unit: np.ndarray  # (N,) what errors are divided by; NaN: the series does not count
    tally: Tally
    weights: list[tuple[int, dict[str, list[float]]]]
    decisions: list[Told]
    decided: dict[str, int]  # by kind
    warmth: Warmth | None
    observations: int  # online
    device: str
    seconds: float | None
    online_seconds: float | None

    @property
    def forecasts(self) -> int:
        """Forecasts of one lead and series that met their value."""
        return int(self.tally.ours.count.sum())

    def by_lead(self) -> dict[str, dict[str, float | None]]:
        """mse, mae, skill, pinball, crps (2 x mean pinball), coverage and width of the 90 % band, by lead.

        Beside its width, the one that the seasonal naive needs to hold as many (see `Tally.seasonal_width`).
        """
        t, count, skill = self.tally, self.tally.ours.count, self.skill()
        mse, mae = self.means(t.ours)
        pinball = self._mean(t.pinball.mean(0), count)
        coverage = self._mean(t.covered * self.unit[:, None], count)  # a share has no unit
        width = self._mean(t.width, count)
        banded, seasonal = t.band is not None, t.band is not None and self.config.season is not None
        naively = self._mean(np.nan_to_num(t.seasonal_width(self.played)) * count, count) if seasonal else width
        return {
            str(h + 1): {
                "mse": number(mse[h]),
                "mae": number(mae[h]),
                "skill": number(skill[h]),
                "pinball": number(pinball[h]),
                "crps": number(2 * pinball[h]),
                "coverage_90": number(coverage[h]) if banded else None,
                "width_90": number(width[h]) if banded else None,
                "seasonal_naive_width_90": number(naively[h]) if seasonal else None,
            }
            for h in range(self.config.horizon)
        }

    def by_horizon(self, errors: Errors) -> dict[str, dict[str, float | None]]:
        """Mse and mae, averaged over the leads up to each horizon."""
        mse, mae = self.means(errors)
        horizons = sorted({h for h in HORIZONS if h < self.config.horizon} | {self.config.horizon})
        return {str(h): {"mse": number(mse[:h].mean()), "mae": number(mae[:h].mean())} for h in horizons}

    def others(self) -> dict[str, Errors]:
        """Errors of the naive forecasts, and of each expert that the learner mixes."""
        naive = NAIVE if self.config.season is not None else NAIVE[:1]
        return {name: self.tally.naive[name] for name in naive} | {n: e for n, e in self.tally.parts.items() if n not in NAIVE}

    def skill(self, series: Sequence[int] | None = None) -> np.ndarray:
        """(H,) 1 - error / error of the naive forecast that was better in hindsight, per series and lead, in units of its change."""
        t = self.tally
        chosen = np.arange(len(self.names)) if series is None else np.asarray(series)
        count = t.ours.count[chosen]
        usable = (count > 0) & (t.change[chosen] > 0)[:, None] & ~np.isnan(self.unit[chosen])[:, None]
        unit = np.where(t.change > 0, t.change, 1)[chosen][:, None]
        ours, base = (
            np.where(usable, x / np.maximum(count, 1) / unit, 0).sum(0) / np.maximum(usable.sum(0), 1)
            for x in (t.ours.absolute[chosen], t.best[chosen])
        )
        return np.where(base > 0, 1 - ours / np.where(base > 0, base, 1), np.nan)

    def served(self) -> dict[str, float]:
        """The share of all forecasts that each of those who may serve has made."""
        total = self.tally.served.sum()
        shares = self.tally.served.sum((1, 2)) / max(int(total), 1)
        return {name: float(share) for name, share in zip(self.tally.experts, shares, strict=True) if share}

    def by_series(self) -> list[dict[str, Any]]:
        """Of each series: name, forecasts, mae and mse over all leads, skill, coverage; worst skill first."""
        return sorted((self._of(k) for k in range(len(self.names))), key=lambda one: (one["skill"] is None, one["skill"] or 0.0))

    def _of(self, k: int) -> dict[str, Any]:
        t = self.tally
        count = int(t.ours.count[k].sum())
        skill, unit = self.skill([k]), self.unit[k]
        best = float(t.best[k].sum())
        return {
            "series": k,
            "name": self.names[k],
            "forecasts": count,
            "mae": number(t.ours.absolute[k].sum() / unit / count) if count else None,
            "mse": number(t.ours.square[k].sum() / unit**2 / count) if count else None,
            "skill": number(1 - t.ours.absolute[k].sum() / best) if best > 0 else None,
            "skill_by_lead": {str(lead): number(skill[lead - 1]) for lead in t.leads.tolist()},
            "coverage_90": number(t.covered[k].sum() / count) if count and t.band is not None else None,
        }

    def means(self, errors: Errors) -> tuple[np.ndarray, np.ndarray]:
        """(H,) mean squared and mean absolute errors in the unit, over all series' forecasts."""
        return self._mean(errors.square / self.unit[:, None], errors.count), self._mean(errors.absolute, errors.count)

    def _mean(self, sums: np.ndarray, count: np.ndarray) -> np.ndarray:
        counted = ~np.isnan(self.unit)
        total = count[counted].sum(0)
        with np.errstate(over="ignore"):
            return np.where(total > 0, (sums[counted] / self.unit[counted, None]).sum(0) / np.maximum(total, 1), np.nan)

    def json(self, file: str) -> dict[str, Any]:
        """The object that `tidecast backtest --json` prints."""
        rate = self.observations / self.online_seconds if self.online_seconds else None
        return {
            "file": file,
            "rows": self.rows,
            "series": len(self.names),
            "by_lead": self.by_lead(),
            "by_horizon": self.by_horizon(self.tally.ours),
            "baselines": {name: self.by_horizon(errors) for name, errors in self.others().items()},
            "served": self.served(),
            "updates_per_s": None if rate is None else round(rate, 1),
            "seconds": None if self.seconds is None else round(self.seconds, 3),
        }


def number(x: float) -> float | None:
    """What JSON can say of it."""
    return float(x) if np.isfinite(x) else None
