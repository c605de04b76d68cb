"""The contract of what learns: score -> forecast at arrivals, learn at instants.

Letters: N cells of a call, H lead times, Q quantile levels, B central bands, D hidden units, M series that learn.

Everything learnt changes in `close` alone and is kept per generation; `arrive` uses the generation it is told, and what
the series itself has shown so far. So two runs in which partitions interleave differently say the same, byte for byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

from models import baselines, covariates, inputs, lesson, linear, scale, score, silent, snapshot
from models.batch import rows as padded
from models.carry import NEVER, Kind, Memory, amend, keep, kept, memory, parted, put, skip
from models.cells import CELLS
from models.covariates import Tells
from models.descent import CLIP_NORM, RATES, Descent, Outcome
from models.drift import Drift
from models.experts import MIXTURES, Experts
from models.gaps import gaps
from models.generation import Generation, Pool
from models.handover import Incoming, Staging, opened, read_on
from models.heads import MIDDLE
from models.inputs import CLIP, LAGS, View
from models.mixture import groups
from models.network import Ensemble, Flat, manners
from models.regimes import Regimes
from models.replay import EACH, Replay, Waiting, mixed
from models.score import BASELINES, REASONS
from models.snapshot import Parts

__all__ = ["REASONS", "START", "Cells", "Config", "Decision", "Exercise", "Learner", "Step", "Tells"]

START = -(1 << 60)  # the generation before anything has been learnt
TAUGHT = 2  # origins on a chain that are learnt from: the last ones
SPARE = 12  # cells that a ring keeps beyond what is read, for samples out of order
HUGE = 1.7e308
LEAST_RATE = 0.05  # of the rate: where it ends
HALF = 0.5  # of a model's quantiles is what its networks say, if they are taught: weights that learnt did not do better (LOG 2026-11-26)
KEPT = 4  # generations, as a stream keeps them with a disorder of one step
VERSIONS = 15  # of weights that have served before, whose names are remembered
SLOW = 5e-4  # rate at which a series' mean forgets


@dataclass(frozen=True)
class Config:
    """What a learner is made from; `season`, `further_seasons` and `horizon` in steps."""

    horizon: int = 24
    season: int | None = None
    further_seasons: tuple[int, ...] = ()  # learnt from beside it
    step_us: int = 3_600_000_000
    levels: tuple[float, ...] = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    model: str = "mixture"
    members: int = 3  # networks in a mixture
    gaps: str = "mask"  # see models.gaps
    fill: bool = False  # series are forecast at steps without a sample, too: see models.silent
    columns: int = 0  # of a wide record, whose series may learn from each other; 0: none
    covariates: tuple[str, ...] = ()  # names, in the order of `Tells.values`
    ahead: tuple[str, ...] = ()  # those of them that are known ahead of their time
    hidden: int = 64
    truncation: int = 4  # dilated steps that gradients run back
    optimiser: str = "adamw"
    rate: float | None = None  # None: the optimiser's own
    least_rate: float | None = None  # None: a twentieth of it
    halving: int = 300  # steps over which the rate falls
    replay: int = 4000  # instants that the pool remembers
    replayed: int = 32  # of them a learning instant repeats
    rows: int = 2048  # chains a learning instant learns from, at most
    most_forgotten: float = 0.1  # part by which it may lose more on an old regime before it says so
    min_scores: int = 30
    seed: int = 0
    device: str = "auto"


class Cells(NamedTuple):
    """Values of series at cells; `cell` = event time // step."""

    slot: np.ndarray  # (N,) int64
    key: np.ndarray  # (N,) uint64, a stable hash of the series
    cell: np.ndarray  # (N,) int64
    value: np.ndarray  # (N,) float64, NaN: not observed


class Decision(NamedTuple):
    """Something to put on record: `kind` as in tidecast.decisions.v1."""

    kind: str
    cause: str
    numbers: dict[str, Any]
    leads: tuple[int, int] | None = None  # from, to


@dataclass
class Exercise:
    """The step of descent that an instant asks for: what is left of learning once event time has had its say.

    It touches nothing but the weights that learn and their moments: arrivals go on meanwhile (see models.apart).
    """

    instant: int
    descent: Descent
    whole: lesson.Lesson
    levels: torch.Tensor
    decisions: list[Decision]  # of who serves
    taught: bool  # networks have a part in the model
    incoming: Incoming | None = None  # other weights, which serve from this instant on
    outcome: Outcome | None = None

    @property
    def wanted(self) -> bool:
        """There is something to learn from, and somebody to learn it."""
        return self.taught and bool(self.whole.known.any())

    def run(self) -> None:
        """Take the step, if it is wanted."""
        if self.wanted:
            self.outcome = lesson.stepped(self.descent, self.whole, self.levels)


class Now(NamedTuple):
    """Samples being taken in, and what their generation knows of their series."""

    slot: np.ndarray  # (N,)
    at: np.ndarray  # (N,) row of the step
    cell: np.ndarray  # (N,)
    value: np.ndarray  # (N,)
    observed: np.ndarray  # (N,) bool
    woken: np.ndarray  # (N,) bool
    level: np.ndarray  # (N,) newest observed value
    rows: np.ndarray  # (N,) what is learnt of them, see models.scale
    size: np.ndarray  # (N,) usable scales
    naive: np.ndarray  # (N, 3, H) naive errors in units of it
    outlook: np.ndarray  # (N, W) what is known of covariates


class Step(NamedTuple):
    """What came of one call of `arrive`: forecasts where `issued`, scores where `scored`."""

    issued: np.ndarray  # (N,) bool
    point: np.ndarray  # (N, H)
    quantiles: np.ndarray  # (N, Q, H), ascending
    by: np.ndarray  # (N, H) index into `Learner.experts`
    reason: np.ndarray  # (N, H) index into REASONS
    cold: np.ndarray  # (N,) bool
    observations: np.ndarray  # (N,) of the series so far
    updates: np.ndarray  # (N,) learning instants behind each forecast
    scored: np.ndarray  # (N, H) bool: the forecast of lead h that was issued at cell - h met its actual value
    s_point: np.ndarray  # (N, H)
    s_by: np.ndarray  # (N, H)
    s_baseline: np.ndarray  # (N, H) index into `Learner.experts`: the baseline that had been better when it was issued
    s_baseline_point: np.ndarray  # (N, H)
    covered: np.ndarray  # (N, H, B) bool, bands as `Learner.bands`
    s_pinball: np.ndarray  # (N, H) pinball loss, mean over the levels but the median, in units of `size`
    parts: np.ndarray  # (N, K, H) what every expert said, as `Learner.parts` names them, less the level, in units of the size
    level: np.ndarray  # (N,)
    size: np.ndarray  # (N,)

    def said(self, expert: int) -> np.ndarray:
        """(N, H) what one of `Learner.parts` said, in the series' own units."""
        with np.errstate(over="ignore"):
            return finite(self.level[:, None] + self.size[:, None] * self.parts[:, expert])


def no_step(count: int, horizon: int, levels: int, bands: int, experts: int, updates: int) -> Step:
    """Nothing issued, nothing scored."""
    numbers, codes, none = (np.zeros((count, horizon), kind) for kind in (np.float64, np.int8, np.bool_))
    return Step(
        np.zeros(count, bool), numbers, np.zeros((count, levels, horizon)), codes, codes.copy(), np.zeros(count, bool),
        np.zeros(count, np.int64), np.full(count, updates), none, numbers.copy(), codes.copy(), codes.copy(), numbers.copy(),
        np.zeros((count, horizon, bands), bool), numbers.copy(), np.zeros((count, experts, horizon), np.float32),
        np.zeros(count), np.ones(count),
    )  # fmt: skip


class Learner:
    """All series of a shard and the weights they share."""

    def __init__(self, config: Config) -> None:
        if config.model not in {*CELLS, *MIXTURES, *BASELINES}:
            raise ValueError(f"model is {config.model!r}, want one of {', '.join([*MIXTURES, *CELLS, *BASELINES])}")
        if config.optimiser not in RATES:
            raise ValueError(f"optimiser is {config.optimiser!r}, want one of {', '.join(RATES)}")
        if config.hidden % inputs.WIDTH:
            raise ValueError(
                f"hidden is {config.hidden}, want a multiple of {inputs.WIDTH}: other widths give rows that depend on their batch"
            )
        self.config = config
        self.experts = (BY.get(config.model, config.model), *BASELINES)
        self.taught = config.model in {*CELLS, "mixture", "nets"}
        self.origins = (1, max(LAGS, config.horizon - LAGS))  # steps back to the ends of the chains that a closed cell teaches
        self.members = config.members if self.taught and config.model in MIXTURES else 1
        self.device = device_of(config)
        known = covariates.planned(config.covariates, config.ahead, config.horizon)
        self.form = inputs.shape(config.horizon, config.season, config.step_us, gaps(config.gaps), known, config.further_seasons)
        self.tails = np.array([k for k, level in enumerate(config.levels) if level != MIDDLE])
        self.edges = score.bands([config.levels[k] for k in self.tails])
        self.bands = self.edges.nominal
        self.group = groups(config.horizon)
        self.firsts, self.leads = np.unique(self.group, return_index=True, return_counts=True)[1:]  # of each group: first lead, how many
        self.side = np.array([0 if level < MIDDLE else 1 for level in config.levels])  # of the point that a quantile is on
        self.descent = Descent(self._network(), **self.plan()["descent"])
        self.reading: dict[int, Flat] = {}  # ensembles by generation
        cell = config.model if config.model in CELLS else "lstm"
        self.others = Experts(self.form, model=config.model, cell=cell, members=self.members, columns=config.columns)
        self.parts, self.columns, self.lean = self.others.names, self.others.columns, self.others.lean
        self.version = hashlib.sha256(self.descent.weights.cpu().numpy().tobytes()).hexdigest()[:16]
        self.versions = [(START, self.version)]  # the weights that learning went on from, by the instant since when
        self.stagings: list[Staging] = []  # the newest last
        self._chain = self.version
        self.levels = torch.tensor(config.levels, device=self.device)
        self.pool = Pool.new(config.horizon, config.levels)
        self.memory = self._memory()
        self.learnt = self._blank(0)  # (C,) as of the newest generation
        self.pending = score.Pending(score.scored(config.horizon, len(self.tails), self.others.judged))
        self.outlooks = score.Pending(covariates.kinds(known))
        sizes = {"depth": config.truncation, "members": self.members, "hidden": config.hidden}
        self.replay = Replay(lesson.table(form=self.form, **sizes), capacity=EACH * config.replay)
        self.regimes = Regimes(lesson.table(form=self.form, **sizes), every=config.replay)
        self.drift = self._drift()
        self.waiting = Waiting(lesson.waiting(form=self.form, **sizes))
        nothing = scale.Change(np.zeros(0, np.int64), self._blank(0))
        self.generations = {START: self._generation(START, self.descent.average.clone(), nothing)}
        self.training: dict[str, float] = {"loss": float("nan"), "gradient_norm": float("nan"), "chains": 0}

    def plan(self) -> dict[str, dict[str, Any]]:
        """What an Ensemble and a Descent are made from: plain values, for whoever else takes its steps."""
        c = self.config
        network = {
            "members": self.members,
            "features": self.form.features,
            "own": self.form.own,
            "week": self.form.week,
            "hidden": c.hidden,
            "horizon": c.horizon,
            "levels": c.levels,
            "seed": c.seed,
            "cell": c.model if c.model in CELLS else "lstm",
            "more": self.form.more,
        }
        rate = c.rate or RATES[c.optimiser]
        least = c.least_rate or rate * LEAST_RATE
        clip = CLIP_NORM * self.members**0.5  # of all together
        paces = [manner.pace for manner in manners(self.members)]  # members have as many weights each, one behind the other
        descent = {"rate": rate, "least": least, "halving": c.halving, "clip": clip, "rule": c.optimiser, "paces": paces}
        return {"network": network, "descent": descent}

    def _network(self) -> Ensemble:
        return Ensemble(**self.plan()["network"]).to(self.device)

    def _blank(self, count: int) -> np.ndarray:
        return scale.blank(count, self.config.horizon, self.lean)

    def _generation(self, instant: int, weights: torch.Tensor | None, change: scale.Change) -> Generation:
        return self.pool.generation(instant, weights, change, mixed=self.others.mixture.weights, solved=self.others.solved)

    def _drift(self) -> Drift:
        return Drift(horizon=self.config.horizon, season=self.config.season, band=self.bands[-1] if self.bands else None)

    def _memory(self) -> Memory:
        c, reach = self.config, self.form.reach
        farthest = max(c.horizon, max(self.origins) + LAGS * c.truncation)
        behind = max(reach, linear.LAGS + self.form.beyond)  # what arrivals read
        sizes = {"ring": behind + SPARE, "closed": reach + farthest + LAGS + SPARE, "outlooks": farthest + LAGS + SPARE}
        kept = {
            "tails": len(self.tails),
            "bands": len(self.bands),
            "members": self.members,
            "parts": self.others.kept,
        }
        more, known = silent.columns(c.horizon, len(c.levels)) if c.fill else {}, self.form.known
        return memory(horizon=c.horizon, hidden=c.hidden, lean=self.lean, columns=self.columns, known=known, more=more, **kept, **sizes)

    # Who is there

    def admit(self, slot: int, key: int, *, record: int = 0, column: int = -1) -> None:
        """A new series takes a slot. One that is a column of a wide record names the record by a hash of its own, not 0."""
        self.memory.grow(slot + 1)
        if len(self.learnt) < self.memory.capacity:
            self.learnt = np.concatenate([self.learnt, self._blank(self.memory.capacity - len(self.learnt))])
        m = self.memory
        if m["live"][slot]:  # all others are empty
            self.forget(np.array([slot]))
        m["key"][slot], m["live"][slot] = key, True
        if record and self.columns:
            m["record"][slot], m["column"][slot] = record, column
            if slot and m["record"][slot - 1] == np.uint64(record):  # columns come one after the other, and the one before knows the rest
                known = m["related"][slot - 1]
                self._join(np.append(known[known >= 0], slot))
            else:
                self._relate(record)

    def forget(self, slots: np.ndarray) -> None:
        """These slots hold nobody; they may be given away again."""
        self.read_all()
        records = np.unique(self.memory["record"][slots])
        self.memory.clear(slots)
        for record in records[records > 0].tolist():
            self._relate(record)
        self.learnt[slots] = self._blank(1)
        for generation in self.generations.values():
            generation.change.forget(slots)
        for staging in self.stagings:
            staging.forget(slots)
        self.pending.forget(slots)
        self.outlooks.forget(slots)

    def _relate(self, record: int) -> None:
        """Find the columns of a record, and tell them of each other."""
        self._join(np.flatnonzero((self.memory["record"] == np.uint64(record)) & self.memory["live"]))

    def _join(self, slots: np.ndarray) -> None:
        m = self.memory
        of = np.full(self.columns, -1)
        of[m["column"][slots]] = slots
        m["related"][slots] = of

    # Arrivals

    def tell(self, tells: Tells) -> None:
        """What records say of covariates, before the samples that came with them or after them; by cells no later than those."""
        self.read_all()
        covariates.tell(self.memory, self.form.known, tells)

    def arrive(self, cells: Cells, *, generation: int, woken: np.ndarray) -> Step:
        """Score what was forecast for these cells, advance their series, and forecast, all under one generation.

        Each series at most once. A cell older than its series' newest is only taken in. `woken` (N,): never scored.
        """
        then = self.generations[generation]
        h, q = self.config.horizon, len(self.config.levels)
        step = no_step(len(cells.slot), h, q, len(self.bands), len(self.parts), then.updates)
        newer = cells.cell > self.memory["newest"][cells.slot]
        old, new = np.flatnonzero(~newer), np.flatnonzero(newer)
        if old.size:
            self._insert(Cells(*(c[old] for c in cells)), then)
        if new.size:
            self._advance(Cells(*(c[new] for c in cells)), new, woken[new], then, step)
        step.observations[:] = self.memory["seen"][cells.slot]
        step.cold[:] = step.observations < (self.config.season or h)
        return step

    def fill(self, slot: np.ndarray, cell: np.ndarray) -> Step:
        """Forecasts of series (N,) at cells (N,) behind their newest, without a sample there; needs `Config.fill`, and changes nothing."""
        m, h = self.memory, self.config.horizon
        step = no_step(len(slot), h, len(self.config.levels), len(self.bands), len(self.parts), 0)
        said = silent.again(m, slot, cell, self.config.season)
        seen, known = m["seen"][slot], m["said_at"][slot] > NEVER
        return step._replace(**said._asdict(), issued=known, observations=seen, cold=seen < (self.config.season or h))

    def _advance(self, cells: Cells, at: np.ndarray, woken: np.ndarray, then: Generation, step: Step) -> None:
        m, slot = self.memory, cells.slot
        if self.stagings:
            self._take_over(slot, then)
        put(m["ring"], m["newest"], slot, cells.cell, cells.value)
        skip(m["issued"], m["newest"], slot, cells.cell, empty=False)
        m["newest"][slot] = cells.cell
        observed = ~np.isnan(cells.value)
        m["level"][slot] = level = np.where(observed, cells.value, m["level"][slot])
        m["seen"][slot] += observed
        outlook = self._look(cells, observed)
        begun = np.flatnonzero(~np.isnan(level))  # a series whose first cells were not observed has nothing to forecast from
        if begun.size:
            slot, level = slot[begun], level[begun]
            rows, size, naive = self._learnt_by(then, slot, level)
            cell, value, woke = cells.cell[begun], cells.value[begun], woken[begun]
            now = Now(slot, at[begun], cell, value, observed[begun], woke, level, rows, size, naive, outlook[begun])
            self._score(now, step)
            self._forecast(now, then, step)

    def _take_over(self, slot: np.ndarray, then: Generation) -> None:
        """Series (N,) that come to their first cell under weights that have been handed over get the carries that go with them."""
        m, fresh = self.memory, np.full(len(slot), NEVER)
        if self.stagings[-1].instant <= then.instant:
            self.read_all()
        for staging in self.stagings:  # of several that wait, the newest
            if staging.instant <= then.instant:
                mine, at = staging.find(slot)
                m["carry_hidden"][slot[mine]], m["carry_cell"][slot[mine]] = parted(staging.carry[at])
                m["carried"][slot[mine]] = staging.carried[at]
                fresh[mine] = staging.until[at]
                staging.left[at] = False
        newest = m["newest"][slot]
        first = np.maximum(fresh, newest - SPARE)  # the cells in between had come before, and were not closed at the instant
        for ahead in range(1, int((newest - first)[fresh > NEVER].max(initial=0)) + 1):
            cell = first + ahead
            value = inputs.read(m["ring"], slot, cell[:, None])[:, 0]
            there = (fresh > NEVER) & (cell <= newest) & ~np.isnan(value)
            if there.any():
                self.follow(then, m, "ring", "carry", slot[there], cell[there], value[there])

    def version_at(self, generation: int) -> str:
        """The weights that learning went on from, as of a generation."""
        return [version for since, version in self.versions if since <= generation][-1]

    def _look(self, cells: Cells, observed: np.ndarray) -> np.ndarray:
        """(N, W) what is known of covariates at these cells; it waits to be learnt from, as it is now."""
        known, m = self.form.known, self.memory
        with np.errstate(over="ignore", invalid="ignore"):
            change = cells.value - inputs.read(m["ring"], cells.slot, cells.cell[:, None] - 1)[:, 0]
        outlook = covariates.look(m, known, cells.slot, cells.cell, change)
        if known.number and observed.any():
            self.outlooks.append(slot=cells.slot[observed], cell=cells.cell[observed], outlook=outlook[observed])
        return outlook

    def _keep_outlooks(self, cells: Cells) -> None:
        """Of closed cells, what was known at their arrival."""
        if not self.form.known.number:
            return
        found = self.outlooks.find(cells.slot, cells.cell)
        had = found >= 0
        covariates.keep(self.memory, cells.slot[had], cells.cell[had], self.outlooks.columns["outlook"][found[had]])
        self.outlooks.drop(found[had])

    def _learnt_by(self, then: Generation, slot: np.ndarray, level: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows (N,), usable scales (N,) and naive errors (N, 3, H) of a generation."""
        rows = self.learnt[slot]
        for later in reversed(self.generations.values()):
            if later.instant <= then.instant:
                break
            later.change.undo(slot, rows)
        known = rows["naive"].astype(np.float32)
        return rows, scale.usable(rows["scale"], level, then.relative), np.where(np.isnan(known), then.naive, known)

    def _sizes_by(self, then: Generation, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Usable scales and means of series (N,) as arrivals under a generation know them."""
        rows, size, _ = self._learnt_by(then, slot, np.nan_to_num(self.memory["level"][slot]))
        return size, rows["mean"]

    def _sizes(self, slot: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same as learning knows them."""
        m, rows = self.memory, self.learnt[slot]
        level = np.nan_to_num(m["closed"][slot, m["closed_newest"][slot] % m["closed"].shape[1]])
        return scale.usable(rows["scale"], level, self.pool.relative), rows["mean"]

    def _network_of(self, then: Generation) -> Ensemble:
        """The ensemble with the weights of a generation; those of dropped ones are used again."""
        assert then.weights is not None, f"generation {then.instant} is asked for and still being learnt"
        if then.instant not in self.reading:
            gone = [at for at in self.reading if at not in self.generations]
            flat = self.reading.pop(gone[0]) if gone else Flat(self._network())
            self.reading[then.instant] = flat
            flat.weights.copy_(then.weights)  # into its own: to point every parameter elsewhere takes longer
        return self.reading[then.instant].network

    def _step(self, then: Generation, x: np.ndarray, carry: np.ndarray) -> np.ndarray:
        """The new carry (N, 2M, D) of each row, whoever stands beside it."""
        with torch.no_grad():
            _, after = self._network_of(then)(padded(x, self.device)[:, None], padded(carry, self.device))
            return np.asarray(after[: len(x)].cpu().numpy())

    def _run(self, then: Generation, x: np.ndarray, carry: np.ndarray, blend: np.ndarray, paths: np.ndarray) -> tuple[np.ndarray, ...]:
        """One step of the networks for each row, whoever stands beside it, float32:

        points (N, M, H), medians (N, M, H), quantiles (N, M, Q, H), carries (N, 2M, D).
        """
        ensemble = self._network_of(then)
        with torch.no_grad():
            inputs_ = padded(x, self.device)
            after = padded(carry, self.device)
            if self.taught:
                outputs, after = ensemble(inputs_[:, None], after)
            else:  # heads as they begin hear nothing
                outputs = [torch.zeros(len(inputs_), 1, self.config.hidden, device=self.device)] * self.members
            said = ensemble.say([o[:, 0] for o in outputs], inputs_, padded(blend, self.device), padded(paths, self.device))
            parts = (*(torch.stack(list(each), 1) for each in zip(*said, strict=True)), after)
        return tuple(t[: len(x)].cpu().numpy() for t in parts)

    def _gap(self, cell: np.ndarray, carried: np.ndarray) -> np.ndarray:
        """Dilated steps missing between a carry and the cell that continues it."""
        return np.where(carried > NEVER, (cell - carried) // LAGS - 1, 0)

    def _forecast(self, now: Now, then: Generation, step: Step) -> None:
        m, slot, cell, level, observed = self.memory, now.slot, now.cell, now.level, now.observed
        rows, size, naive, at = now.rows, now.size, now.naive, now.at
        v = inputs.view(m["ring"], slot, cell, level, self.form)
        carry, carried = self._goes_on_from(m, "ring", "carry", slot, cell)
        x = inputs.features(v, cell, naive, size, rows["lasting"][:, self.group], self._gap(cell, carried), self.form, now.outlook)
        blend, paths, unit = inputs.bearings(v, naive, size, rows["lasting"][:, self.group])
        paths = np.concatenate([paths, covariates.paths(self.form.known, now.outlook)], 1) if self.form.known.ahead else paths
        points, medians, quantiles, after = self._run(then, x, carry, blend, paths)
        keep(m, "carry", slot[observed], cell[observed], after[observed])

        relative = unit / size[:, None]
        sizes = partial(self._sizes_by, then)
        lines = self.others.lines(m, slot, cell, level, size, solved=then.solved, sizes=sizes, v=v, outlook=now.outlook)
        parts = self.others.speak(points * relative[:, None], lines, v.last, size)
        mixed = self.others.mixed(then.mixed, rows["lean"])
        said = np.asarray((parts * mixed).sum(1), np.float32)
        fine = np.isfinite(said) & np.isfinite(quantiles).all((1, 2))
        codes = np.where(rows["served"] == scale.UNDECIDED, then.served, rows["served"])
        by, reason = self._serve(codes, fine, v)
        with np.errstate(over="ignore"):
            served = np.where(by == score.NET, level[:, None] + size[:, None] * said, level[:, None])
        if self.form.season is not None:
            served = np.where(by == score.SEASONAL, inputs.behind(m["ring"], slot, cell, self.form.back, self.form), served)
        own = self._spread(now, then, quantiles - medians[:, :, None], medians - points, self.others.voices(mixed), relative)
        naively = then.spread[np.where(by == score.SEASONAL, 1, 0), :, np.arange(by.shape[1])].transpose(0, 2, 1)
        naively = naively * np.where(by == score.SEASONAL, naive[:, 1], naive[:, 0])[:, None]
        spread = np.where((by == score.NET)[:, None], own, naively)
        spread = ascending(np.clip(spread * scale.factor(rows["stretch"])[:, self.side], -60_000, 60_000)).astype(np.float16)

        step.issued[at], step.parts[at], step.level[at], step.size[at] = True, parts, level, size
        step.point[at], step.by[at], step.reason[at] = finite(served), by, reason
        step.quantiles[at] = finite(served[:, None] + size[:, None, None] * spread)
        if self.config.fill:
            said_ = silent.Said(step.point[at], step.quantiles[at], by, reason, step.updates[at])
            silent.keep(m, slot[observed], cell[observed], silent.Said(*(column[observed] for column in said_)))
        where = slot[:, None], score.places(cell, self.config.horizon)
        m["said"][where] = np.where(fine, said, np.nan)
        m["parts"][where] = np.clip(parts[:, : self.others.kept], -60_000, 60_000).transpose(0, 2, 1)
        m["spread"][where] = spread[:, self.tails].transpose(0, 2, 1)
        m["served"][where] = score.code(by, reason, score.decode(codes)[2])
        origin = slot, cell % self.config.horizon
        m["issued"][origin] = ~now.woken
        m["origin_level"][origin], m["origin_scale"][origin] = level, size

    def _spread(
        self, now: Now, then: Generation, tails: np.ndarray, shift: np.ndarray, voices: np.ndarray, relative: np.ndarray
    ) -> np.ndarray:
        """(N, Q, H) the model's quantiles less its point, in units of the scale: what networks say, and where its own errors have lain.

        Quantiles are averaged, not distributions (Vincent 1912; Ratcliff 1979): bands of one width make one as wide.
        `tails` (N, M, Q, H) of the networks beside their medians, `shift` (N, M, H) of these beside their points, in naive errors, which
        are `relative` (N, H) in units of the scale; `voices` (N, M, H).
        """
        usual = now.rows["off"][:, self.group] * inputs.units(now.naive)
        spread = then.residual * usual[:, None]
        if not self.taught:
            return np.asarray(spread * then.width)
        said = (tails * voices[:, :, None]).sum(1) * relative[:, None]
        centre = (shift * voices).sum(1) * relative
        return np.asarray((HALF * said + (1 - HALF) * spread) * then.width + HALF * centre[:, None])

    def _serve(self, codes: np.ndarray, fine: np.ndarray, v: View) -> tuple[np.ndarray, np.ndarray]:
        """Who serves (N, H), and why not the network: as learnt, unless that cannot be had now."""
        by, reason, better = score.decode(codes)
        if self.config.model in BASELINES:
            by, reason = np.full_like(by, score.SEASONAL if self.config.model == BASELINES[0] else score.LAST), np.zeros_like(reason)
        lost = (by == score.NET) & ~fine
        by, reason = np.where(lost, better, by), np.where(lost, score.NOT_FINITE, reason)
        return np.where((by == score.SEASONAL) & np.isnan(v.last), score.LAST, by), reason

    def _insert(self, cells: Cells, then: Generation) -> None:
        """A sample that newer ones have overtaken: the ring takes it, and the carry that it should have advanced."""
        m = self.memory
        seen = ~np.isnan(cells.value) & (cells.cell > m["newest"][cells.slot] - SPARE)
        m["seen"][cells.slot] += ~np.isnan(cells.value)
        slot, cell, value = cells.slot[seen], cells.cell[seen], cells.value[seen]
        amend(m["ring"], m["newest"], slot, cell, value)
        behind = m["carried"][slot, cell % LAGS] < cell
        slot, cell, value = slot[behind], cell[behind], value[behind]
        if slot.size and self.taught:
            self.follow(then, m, "ring", "carry", slot, cell, value)

    def follow(self, then: Generation, m: Memory, ring: str, kind: Kind, slot: np.ndarray, cell: np.ndarray, value: np.ndarray) -> None:
        """Advance carries of a memory over one observed cell each, and forecast nothing."""
        rows, size, naive = self._learnt_by(then, slot, value)
        v = inputs.view(m[ring], slot, cell, value, self.form)
        known = self.form.known  # of a cell that a newer one has overtaken, nothing: no forecast was made there
        outlook = covariates.kept(m, known, slot, cell) if ring == "closed" else covariates.unknown(known, len(slot))
        carry, carried = self._goes_on_from(m, ring, kind, slot, cell)
        x = inputs.features(v, cell, naive, size, rows["lasting"][:, self.group], self._gap(cell, carried), self.form, outlook)
        keep(m, kind, slot, cell, self._step(then, x, carry))

    def _goes_on_from(self, m: Memory, ring: str, kind: Kind, slot: np.ndarray, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Carries (N, 2M, D) and the cells (N,) they were after; where a gap has ended the sequence, none and NEVER."""
        carry, carried = kept(m, kind, slot, cell % LAGS)
        anew = ~inputs.goes_on(m[ring], slot, cell, carried, self.form)
        carry[anew], carried[anew] = 0, NEVER
        return carry, carried

    def _score(self, now: Now, step: Step) -> None:
        m, h, slot, cells = self.memory, self.config.horizon, now.slot, now
        where = slot[:, None], (now.cell[:, None] - self.form.leads) % h
        due = m["issued"][where] & (now.observed & ~now.woken)[:, None]
        rows = np.flatnonzero(due.any(1))
        if not rows.size:
            return
        slot, due, where = slot[rows], due[rows], (slot[rows, None], where[1][rows])
        actual = cells.value[rows, None]
        place = slot[:, None], score.places(cells.cell[rows], h)
        level, size = m["origin_level"][where], m["origin_scale"][where]
        by, _, better = score.decode(m["served"][place])
        seasonal = np.full(due.shape, np.nan)
        if self.form.season is not None:
            seasonal = inputs.behind(m["ring"], slot, cells.cell[rows], self.form.whole, self.form)
        better = np.where(np.isnan(seasonal), score.LAST, better)
        with np.errstate(over="ignore"):
            net = level + size * m["said"][place]
        point = np.where(by == score.NET, net, np.where(by == score.SEASONAL, seasonal, level))
        edges = finite(point[..., None] + size[..., None] * m["spread"][place])
        base = np.where(better == score.SEASONAL, seasonal, level)
        on = now.at[rows]
        step.scored[on], step.s_by[on], step.s_baseline[on] = due, by, better
        step.s_point[on], step.s_baseline_point[on] = (np.where(due, finite(p), 0) for p in (point, base))
        inside = (edges[..., self.edges.low] <= actual[..., None]) & (actual[..., None] <= edges[..., self.edges.high])
        step.covered[on] = inside & due[..., None]
        if len(self.tails):
            with np.errstate(over="ignore", invalid="ignore"):
                over, levels = actual[..., None] - edges, np.array(self.config.levels)[self.tails]
                pinball = np.maximum(levels * over, (levels - 1) * over).mean(-1) / now.size[rows, None]
            step.s_pinball[on] = np.where(due, finite(np.nan_to_num(pinball)), 0)
        with np.errstate(over="ignore"):
            errors = errors_of(actual[:, None], np.stack([net, seasonal, level], 1)) / now.size[rows, None, None]
        worst = scale.ROBUST * now.naive[rows, 0]
        errors[:, 0] = np.where(np.isnan(errors[:, 0]), worst, errors[:, 0])
        if self.form.season is None:
            errors[:, 1] = errors[:, 2]  # a naive forecast that never speaks must not count as one that is never wrong
        errors = np.where(due[:, None], np.minimum(errors, worst[:, None]), np.nan)
        errors[:, 0] = np.where(net < actual, -errors[:, 0], errors[:, 0])
        under = (actual[..., None] <= edges) + 2 * (by == score.NET)[..., None]
        under = np.where(due[..., None], under, -1).transpose(0, 2, 1)
        unit = now.size[rows, None] * inputs.units(now.naive[rows]) * now.rows["lasting"][rows][:, self.group]
        with np.errstate(over="ignore", invalid="ignore"):
            said = self.others.heard(m["parts"][place].transpose(0, 2, 1) * size[:, None], seasonal - level, unit)
            met = np.clip(np.where(due, (actual - level) / unit, np.nan), -CLIP, CLIP)
        held = step.covered[on, :, -1] if self.bands else np.zeros_like(due)
        self.pending.append(slot=slot, cell=cells.cell[rows], error=errors, held=held, under=under, said=said, actual=met)
        off = errors_of(actual, point), errors_of(actual, base)
        self.pool.count(m, slot, due, by, off, step.covered[on], self.config.min_scores)

    # Learning

    def close(self, cells: Cells, *, instant: int, drop: Sequence[int], incoming: Incoming | None = None) -> list[Decision]:
        """Learn from the cells of all windows that end at this instant, ordered by (key, cell); values are final.

        The new generation is named `instant`; those in `drop` are let go after it. With `incoming`, it has these weights.
        """
        exercise = self.begin(cells, instant=instant, drop=drop, incoming=incoming)
        exercise.run()
        return self.finish(exercise)

    def begin(self, cells: Cells, *, instant: int, drop: Sequence[int], incoming: Incoming | None = None) -> Exercise:
        """The first part of `close`: all but the step of descent. Until `finish`, no forecast can be made under the new generation.

        The exercise before this one may still be running; it must be finished before this one is run.
        """
        self.read_all()
        m = self.memory
        salt = int(cells.cell.max()) + 1 if len(cells.cell) else 0  # not the instant: a history and a stream name theirs differently
        mine = cells.slot < m.capacity
        mine[mine] = m["live"][cells.slot[mine]] & (m["key"][cells.slot[mine]] == cells.key[mine])  # gone meanwhile: nothing to learn from
        cells = Cells(*(c[mine] for c in cells))
        self._keep_outlooks(cells)
        late = cells.cell <= m["closed_newest"][cells.slot]
        if late.any():
            amend(m["closed"], m["closed_newest"], cells.slot[late], cells.cell[late], cells.value[late])
            cells = Cells(*(c[~late] for c in cells))
        cells = Cells(*(c[~np.isnan(cells.value)] for c in cells))
        slots = np.unique(cells.slot)
        before = scale.Change(slots, self.learnt[slots])
        behind = [*self.generations.values()][-2:][0]  # the newest may still be learnt: what is anchored now does not wait for it
        if self.versions[-1][0] in [*self.generations][-1:]:
            behind = self.generations[self.versions[-1][0]]  # it was handed over, and so were the anchors
        for wave in waves(cells.slot):
            self._take(Cells(*(c[wave] for c in cells)), behind)
        whole = self._lesson(cells if self.taught and incoming is None else Cells(*(c[:0] for c in cells)), salt)
        decisions = [*self._drifted(), *self._decide(slots)]
        self.others.settle()
        self.pool.updates += 1
        decisions += self._remember(behind)
        if incoming is not None:
            self.pool.adopted = self.pool.updates
        self.generations[instant] = self._generation(instant, None if incoming is None else incoming.weights.clone(), before)
        if incoming is not None:
            self._hand_over(incoming, instant)
        for old in drop:
            self.generations.pop(old, None)
        return Exercise(instant, self.descent, whole, self.levels, decisions, self.taught, incoming)

    def _hand_over(self, incoming: Incoming, instant: int) -> None:
        """All but the weights of the descent, which may still be learning: see `finish`."""
        m = self.memory
        slots = np.flatnonzero(m["live"] & (m["closed_newest"] > NEVER))
        oldest = min(self.generations)
        while len(self.stagings) > 1 and self.stagings[1].instant <= oldest:  # whoever comes now takes a later one
            del self.stagings[0]
        if self.taught:
            self.stagings.append(opened(m, self.series(slots), instant=instant))
        self.replay.clear()  # its rows have carries of the former weights
        self.waiting.clear()
        self.regimes.clear()
        self.drift = self._drift()
        self.versions = [*self.versions[-VERSIONS:], (instant, incoming.version)]

    def read_some(self) -> bool:
        """After a hand-over, read the values of some series under the new weights; whether there was anything to read. It may wait."""
        if not self.stagings or self.stagings[-1].of is None or not self.stagings[-1].of.slot.size:
            return False
        made = self.stagings[-1]
        network = self._network_of(self.generations[made.instant])
        read_on(made, self.memory, network, self.form, truncation=self.config.truncation)
        return True

    def read_all(self) -> None:
        """The rest, before anything changes that it reads, or somebody needs it."""
        while self.read_some():
            pass

    def finish(self, exercise: Exercise) -> list[Decision]:
        """The last part of `close`, once the exercise has run: its generation may be forecast under."""
        outcome, chains = exercise.outcome, len(exercise.whole.lengths)
        if exercise.incoming is not None:
            self._put_in(exercise.incoming)
        self.generations[exercise.instant].weights = self.descent.average.clone()
        self._chain = hashlib.sha256(f"{self._chain} {exercise.instant} {outcome}".encode()).hexdigest()
        if outcome is None:
            return exercise.decisions
        self.training = {"loss": outcome.loss, "gradient_norm": outcome.norm, "chains": chains}
        if outcome.kind == "step":
            return exercise.decisions
        numbers = {"loss": str(outcome.loss), "gradient_norm": str(outcome.norm), "chains": chains}
        return [Decision(outcome.kind, outcome.cause, numbers), *exercise.decisions]

    def _put_in(self, incoming: Incoming) -> None:
        """Go on learning from these weights."""
        descent, self.version = self.descent, incoming.version
        descent.take_over(incoming.weights, incoming.moments)
        descent.bad, descent.steps = 0, max(descent.steps, descent.settled)
        self._chain = hashlib.sha256(f"{self._chain} {incoming.version}".encode()).hexdigest()

    def _take(self, cells: Cells, behind: Generation) -> None:
        """One closed cell of each series: what it says of scales, naive errors, evidence and widths."""
        m, slot, cell = self.memory, cells.slot, cells.cell
        since = np.minimum(cell - m["closed_newest"][slot], m["closed"].shape[1])
        last = m["closed"][slot, m["closed_newest"][slot] % m["closed"].shape[1]]  # the newest closed cell was observed, or there is none
        put(m["closed"], m["closed_newest"], slot, cell, cells.value)
        m["closed_newest"][slot] = cell
        with np.errstate(over="ignore"):
            change = np.minimum(np.abs(cells.value - last), 1e300) / np.sqrt(since)
        moved = ~np.isnan(change)
        m["changes"][slot] += moved
        rows = self.learnt[slot]
        self.drift.step(change[moved], rows["scale"][moved], m["changes"][slot[moved]])
        rows["scale"][moved] = scale.advance(rows["scale"][moved], m["changes"][slot[moved]], change[moved])
        size = scale.usable(rows["scale"], cells.value, self.pool.relative)
        mean = np.where(np.isnan(rows["mean"]), cells.value, rows["mean"])
        new = np.maximum(1 / (1 + m["changes"][slot]), SLOW)
        rows["mean"] = mean * (1 - new) + cells.value * new
        self.pool.relate(rows["scale"], cells.value)
        residual = baselines.errors(m["closed"], slot, cell, self.form) / size[:, None, None]
        rows["naive"] = self.pool.naively(m, slot, residual)
        unit = inputs.units(rows["naive"].astype(np.float32))
        today = np.add.reduceat(unit, self.firsts, 1) / self.leads
        m["long"][slot], rows["lasting"] = scale.last(m["long"][slot], m["changes"][slot], today * size[:, None])
        found = self.pending.find(slot, cell)
        had = np.flatnonzero(found >= 0)
        if had.size:
            errors, under = self.pending.columns["error"][found[had]], self.pending.columns["under"][found[had]]
            long = errors / (unit[had] * rows["lasting"][had][:, self.group])[:, None]
            self._compare(slot[had], long[:, 0], self.pending.columns["held"][found[had]])
            stretch = self.pool.weigh(m, slot[had], np.abs(long), under, scale.factor(rows["stretch"][had]), mixed=not self.others.alone)
            rows["stretch"][had] = scale.in_steps(stretch, cell[had])
            said, met = (self.pending.columns[name][found[had]].astype(np.float64) for name in ("said", "actual"))
            error = -errors[:, 0] / unit[had]
            rows["off"][had] = self.pool.usual(error, rows["off"][had], m["evidence_count"][slot[had]])
            rows["lean"][had] = self.others.mix(m, slot[had], said, met)
            self.pending.drop(found[had])
        self.learnt[slot] = rows
        self.others.regress(m, slot, cell, size, self._sizes)
        if self.taught:
            self._drop_anchor(slot, cell, behind)

    def _compare(self, slot: np.ndarray, errors: np.ndarray, held: np.ndarray) -> None:
        """Errors of the model (N, H; signed, NaN: none) beside the series' own so far, once there are some."""
        m = self.memory
        known = ~np.isnan(errors) & (m["evidence_count"][slot] >= self.config.min_scores)
        self.drift.score(np.nan_to_num(errors), m["evidence"][slot, 0], held, known)

    def _drifted(self) -> list[Decision]:
        """What the cells taken in at this instant say of the stream."""
        return [Decision("drift", f.cause, f.numbers, f.leads) for f in self.drift.judge()]

    def _remember(self, behind: Generation) -> list[Decision]:
        """Now and then: what a generation has forgotten of old regimes; what has been of late becomes one of them."""
        instants = self.pool.updates - self.pool.adopted
        if not self.taught or instants % self.config.replay:
            return []
        network = self._network_of(behind)

        def loss(rows: dict[str, np.ndarray]) -> float:
            with torch.no_grad():
                return float(lesson.losses(network, lesson.of_rows(rows), self.levels).mean())

        exam, at = self.regimes.ask(loss, share=self.config.most_forgotten), self.regimes.at.copy()
        self.regimes.keep(self.replay, instants, loss, seed=self.config.seed)
        if exam is None:
            return []
        lost = np.flatnonzero(exam.lost)
        rise, error = (part[lost].round(4).tolist() for part in (exam.rise, exam.error))
        said = {"instants": at[lost].tolist(), "rise": rise, "error": error}
        return [Decision("retrain", "old regimes are being forgotten", said)]

    def _drop_anchor(self, slot: np.ndarray, cell: np.ndarray, behind: Generation) -> None:
        """Move the anchor of the phase that is learnt from next one dilated step on."""
        m = self.memory
        at = cell - 1 - LAGS * self.config.truncation
        value = inputs.read(m["closed"], slot, at[:, None])[:, 0]
        seen = ~np.isnan(value) & (m["anchored"][slot, at % LAGS] < at)
        if seen.any():
            self.follow(behind, m, "closed", "anchor", slot[seen], at[seen], value[seen])

    def _lesson(self, cells: Cells, salt: int) -> lesson.Lesson:
        """Chains that end a few steps before these cells, and some of long ago."""
        c, m = self.config, self.memory
        chosen = self._chosen(cells, salt, c.rows // len(self.origins))
        end = (cells.cell[chosen] - np.array(self.origins)[:, None]).ravel()
        of = self.series(np.tile(cells.slot[chosen], len(self.origins)))
        now, origins = lesson.chains(m, of, end, depth=c.truncation, origins=TAUGHT, form=self.form)
        past = self.replay.draw(c.replayed, (c.seed, salt & ((1 << 63) - 1)))
        keep = self._chosen(Cells(*(a[chosen] for a in cells)), salt + 1, self.replay.wanted)  # of the newest chains
        self.waiting.add(lesson.stored(now, origins, np.isin(origins.asked, keep), m["key"], c.truncation))
        self.replay.add(lesson.labelled(self.waiting.take(m["closed_newest"], c.horizon), m, self.form))
        return lesson.together(now, past)

    def series(self, slot: np.ndarray) -> lesson.Series:
        """What chains of these series are read with, as learnt so far."""
        rows = self.learnt[slot]
        m = self.memory
        level = m["closed"][slot, m["closed_newest"][slot] % m["closed"].shape[1]]
        known = rows["naive"].astype(np.float32)
        naive = np.where(np.isnan(known), self.pool.naive, known)
        return lesson.Series(slot, scale.usable(rows["scale"], level, self.pool.relative), naive, rows["lasting"][:, self.group])

    def _chosen(self, cells: Cells, salt: int, most: int) -> np.ndarray:
        """At most so many of the cells, by hash of (series, cell) and the salt; in their own order."""
        if len(cells.slot) <= most:
            return np.arange(len(cells.slot))
        ranks = mixed(mixed(cells.key, salt) + cells.cell.astype(np.uint64), 1)
        return np.sort(np.argsort(ranks, kind="stable")[:most])

    def _decide(self, slots: np.ndarray) -> list[Decision]:
        """Who serves from the next generation on."""
        m, needed = self.memory, self.config.min_scores
        old = self.learnt["served"][slots]
        count = m["evidence_count"][slots]
        before, mixed = np.where(old == scale.UNDECIDED, self.pool.served, old), not self.others.alone
        codes = score.choose(m["evidence"][slots], count, before, needed=needed, mixed=mixed)
        self.learnt["served"][slots] = np.where(count >= needed, codes, scale.UNDECIDED)
        return [Decision(*d) for d in self.pool.decide(needed, mixed=mixed)]

    def adopt(self, weights: torch.Tensor, moments: Iterable[torch.Tensor] | None, steps: int) -> None:
        """Weights that were learnt elsewhere serve from now on, and go on learning at the rate of an old stream.

        What had been found of the former ones is forgotten: evidence, widths, forecasts that wait for their value.
        """
        self.descent.take_over(weights, moments)
        self.descent.bad, self.descent.steps = 0, max(steps, self.descent.settled)
        self.version = hashlib.sha256(weights.cpu().numpy().tobytes()).hexdigest()[:16]
        self.versions, self.stagings = [(START, self.version)], []
        m, fresh = self.memory, Pool.new(self.config.horizon, self.config.levels)
        m["evidence"][:], m["evidence_count"][:], m["loss"][:], m["losses"][:], m["issued"][:] = 0, 0, 0, 0, False
        self.pending.drop(np.arange(self.pending.count))
        self.replay.clear()
        self.waiting.clear()
        self.regimes.clear()
        self.learnt["served"], self.learnt["stretch"], self.learnt["lean"], self.learnt["off"] = scale.UNDECIDED, 0, 0, scale.OFF
        self.others.forget()
        self.drift = self._drift()
        for name in ("residual", "log_width", "evidence", "evidence_count", "served"):
            setattr(self.pool, name, getattr(fresh, name))
        self.pool.adopted = self.pool.updates
        nothing = scale.Change(np.zeros(0, np.int64), self._blank(0))
        self.generations = {at: self._generation(at, self.descent.average.clone(), nothing) for at in self.generations}
        self.reading = {}

    def start(self) -> None:
        """What it knows now is what a stream starts from, by whatever names of instants it was learnt; what people see counts from here."""
        self.count_anew()
        nothing = scale.Change(np.zeros(0, np.int64), self._blank(0))
        self.generations, self.reading = {START: self._generation(START, self.descent.average.clone(), nothing)}, {}

    # What is to be known of it

    def count_anew(self) -> None:
        """What people see of its skill and its bands counts from here."""
        for name in ("error", "scores", "held", "by"):
            self.memory[name][:] = 0
        self.pool.covered[:], self.pool.scored[:], self.pool.by[:] = 0, 0, 0

    def missed(self, slot: np.ndarray, cell: int) -> np.ndarray:
        """(N, H) absolute errors of the model's forecasts of a cell about to be learnt, in naive errors of their lead; NaN: none."""
        found = self.pending.find(slot, np.full(len(slot), cell))
        had = found >= 0
        known = self.learnt["naive"][slot[had]].astype(np.float32)
        unit = inputs.units(np.where(np.isnan(known), self.pool.naive, known))
        out = np.full((len(slot), self.config.horizon), np.nan)
        out[had] = np.abs(self.pending.columns["error"][found[had], 0]) / unit
        return out

    def holds(self, slot: int, key: int) -> bool:
        """The series has this slot already."""
        m = self.memory
        return bool(slot < m.capacity and m["live"][slot] and m["key"][slot] == key)

    def slots(self) -> dict[int, int]:
        """The slot of every series, by its key."""
        slots = np.flatnonzero(self.memory["live"]).tolist()
        return dict(zip(self.memory["key"][slots].tolist(), slots, strict=True))

    def state_bytes(self) -> int:
        """What is remembered of the series that there are."""
        return self.memory.used * self.bytes_each()

    def bytes_each(self) -> int:
        """Of it, what a series takes: its own, and what each generation that is kept may hold of it."""
        return self.memory.bytes_each() + KEPT * self.learnt.dtype.itemsize

    def updates(self, generation: int) -> int:
        """Learning instants behind a generation; for one that is not kept, as of the newest before it."""
        kept = [g for at, g in self.generations.items() if at <= generation]
        return kept[-1].updates if kept else 0

    def digest(self) -> str:
        """Of the weights and their moments, and of what every instant so far has come to, chained."""
        state = xxhash.xxh3_128(self._chain.encode())  # at every commit, of megabytes: it is to find mistakes, not forgeries
        state.update(self.descent.state.cpu().numpy().data)
        return state.hexdigest()

    def summary(self, slot: int | None = None) -> dict[str, Any]:
        """Skill, coverage and who served, by lead, since the start: of all series, or of one; of all, the mixture's weights as they are."""
        found = self.pool.summary(self.memory, self.learnt["scale"], self.bands, self.experts, self.config.min_scores, slot)
        return found if slot is not None else {**found, "weights": self.weights()}

    def weights(self) -> dict[str, list[float]]:
        """The mixture's weights of all series together, by expert and lead; of a model that is no mixture, nothing."""
        return {} if self.others.alone else self.others.weights()

    def snapshot(self) -> Parts:
        """All of it as named bytes; `restore` is the inverse."""
        return snapshot.pack(*self._held())

    def frozen(self) -> Callable[[], Parts]:
        """The snapshot of now, to be made of a copy by whoever calls it, in any thread: its hash takes longer than its copy."""
        return snapshot.later(*self._held())

    def _held(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Arrays that will change, and plain values."""
        self.read_all()
        groups: dict[str, dict[str, np.ndarray]] = {
            "memory": self.memory.state(),
            "pending": self.pending.state(),
            "replay": self.replay.state(),
            "regimes": self.regimes.state(),
            "waiting": self.waiting.columns,
            "descent": {name: t.cpu().numpy() for name, t in self.descent.tensors().items()},
            "pool": self.pool.state(),
            "drift": self.drift.state(),
            "learnt": {"rows": scale.to_bytes(self.learnt[: self.memory.used])},
        }
        groups |= self.others.state()
        if self.form.known.number:
            groups["outlooks"] = self.outlooks.state()
        groups |= {f"generation {at}": generation.state() for at, generation in self.generations.items()}
        groups |= {f"staging {staging.instant}": staging.state() for staging in self.stagings}
        arrays = {f"{group}/{name}": array for group, columns in groups.items() for name, array in columns.items()}
        rest = {
            "version": self.version,
            "versions": self.versions,
            "stagings": [staging.instant for staging in self.stagings],
            "chain": self._chain,
            "descent": self.descent.counts(),
            "replay": self.replay.put,
            "pool": self.pool.counts(),
            "generations": [[at, g.updates, g.relative] for at, g in self.generations.items()],
        }
        return arrays, rest

    @classmethod
    def restore(cls, config: Config, parts: Parts) -> Learner:
        """The learner that `snapshot` was taken of; raises snapshot.SnapshotDamaged."""
        return cls._made_of(config, *snapshot.unpack(parts))

    def copy(self) -> Learner:
        """Another one in the same state: as `restore` of `snapshot`, without what guards files."""
        arrays, rest = self._held()
        return self._made_of(self.config, {name: array.copy() for name, array in arrays.items()}, deepcopy(rest))

    @classmethod
    def _made_of(cls, config: Config, arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> Learner:
        groups: dict[str, dict[str, np.ndarray]] = {}
        for name, array in arrays.items():
            group, _, column = name.partition("/")
            groups.setdefault(group, {})[column] = array
        self = cls(config)
        try:
            self.memory.load(groups["memory"])
            self.pending.load(groups["pending"])
            self.replay.load(groups["replay"], rest["replay"])
            self.waiting.load(groups["waiting"])
            self.regimes.load(groups["regimes"])
            self.descent.load({name: torch.from_numpy(a.copy()) for name, a in groups["descent"].items()}, rest["descent"])
            self.pool.load(groups["pool"], rest["pool"])
            self.drift.load(groups["drift"])
            self.others.load(groups)
            if self.form.known.number:
                self.outlooks.load(groups["outlooks"])
            self.learnt = scale.from_bytes(groups["learnt"]["rows"], config.horizon, self.lean)
            self.generations = {
                at: Generation.load(at, updates, relative, groups[f"generation {at}"], self.device, self.lean)
                for at, updates, relative in rest["generations"]
            }
            self.stagings = [Staging.load(at, groups[f"staging {at}"]) for at in rest["stagings"]]
            self.versions = [(since, version) for since, version in rest["versions"]]
        except (KeyError, ValueError, RuntimeError) as error:
            raise snapshot.SnapshotDamaged(f"the snapshot does not fit these settings: {error}") from error
        self.version, self._chain = rest["version"], rest["chain"]
        return self


def device_of(config: Config) -> torch.device:
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(auto if config.device == "auto" else config.device)


BY = {"nets": "mixture", "mixture-without-nets": "mixture"}  # what a forecast calls them


def finite(x: np.ndarray) -> np.ndarray:
    """Within what a float64 can say."""
    return np.asarray(np.clip(x, -HUGE, HUGE))


def ascending(x: np.ndarray) -> np.ndarray:
    """(N, Q, H) sorted by Q; few rows need it, and to sort was a sixth of a forecast."""
    wrong = ~(x[:, 1:] >= x[:, :-1]).all((1, 2))
    if wrong.any():
        x[wrong] = np.sort(x[wrong], 1)
    return x


def errors_of(actual: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Absolute errors; infinite where a float64 does not hold the difference."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(np.abs(actual - point))


def waves(slot: np.ndarray) -> list[np.ndarray]:
    """Rows of the first cell of each series, then of the second, and so on.

    >>> [w.tolist() for w in waves(np.array([5, 5, 3, 5, 3]))]
    [[0, 2], [1, 4], [3]]
    """
    order = np.argsort(slot, kind="stable")
    ordered = slot[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if len(slot) else np.zeros(0, np.int64)
    turn = np.empty(len(slot), np.int64)
    turn[order] = np.arange(len(slot)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(slot)]])))
    return [np.flatnonzero(turn == k) for k in range(int(turn.max(initial=-1)) + 1)]
