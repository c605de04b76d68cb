"""What event time says, as plain data: the rules it obeys, the events that `gather` gives, the state of a partition.

Times are microseconds. A cell is named by its start, on the step's grid; an instant lies on the learning grid.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pipeline.aggregates import Mark, SoFar
from pipeline.records import Raw, Rejection, Source

START = -(1 << 60)  # before all time: the clock of a partition that has shown none, and generation 0
NEVER = 1 << 60  # after all time: no instant comes so late


class Rules(NamedTuple):
    """The settings that event time obeys; durations in microseconds, wall-clock ones in seconds."""

    step: int
    grid: int  # from one learning instant to the next
    disorder: int
    learn_ahead: bool = True
    idle_after: float = math.inf
    max_hold: float = math.inf
    max_skew: int = 1 << 60
    max_held: int = 200_000  # samples held per partition before it is read no further, or put aside; about 100 bytes each
    quota: int = 1 << 60  # series per partition
    forget_after: int = 1 << 60
    aggregate: str | None = None  # of several samples a step; None: one sample a step
    kind: str = "fixed"  # of window; sliding: as fixed, session: see the two below
    gap: int = 0  # silence that ends a session
    max_span: int = 0  # length at which it is cut
    fill: bool = False  # a series without a sample is forecast at every step that closes, too


class Decision(NamedTuple):
    """When learning passed `instant`, a partition that held nobody stood at `position`. The log does not say this.

    To repeat a run: the partition reads no further than `position` before the instant, and the instant is not passed
    before the partition stands there. Where a log ends, it stands before an instant that never comes, and holds nobody.
    """

    source: Source
    position: int
    instant: int


SWITCH, SHADOW, END, BETTER = "switch", "begins", "ends", "better"


class Plan(NamedTuple):
    """What changes at a learning instant in who serves. The log does not say this either; see `pipeline.succession`."""

    what: str  # switch; of a shadow: begins, ends, better (than who serves, and somebody has to say so)
    instant: int  # us; carried out with the first instant at or behind it that learns
    version: str
    effective_from: int  # us
    verdict: str  # kind of the decision that led to it: promote, rollback or refuse; empty: somebody's word, or its time is over
    cause: str
    numbers: dict[str, Any]


class Tell(NamedTuple):
    """What a record says of covariates (see pipeline.records.Told), by cells."""

    cell: int  # its own
    values: tuple[float, ...]
    ahead: tuple[tuple[int, tuple[float, ...]], ...]  # (cell, values) of later ones


class Sample(NamedTuple):
    """One sample, or all of a cell as one value, released for its series: to be scored, advanced over and forecast from, in this order.

    NaN stands for a cell that has closed without any: only to be forecast.
    """

    slot: int
    cell: int
    value: float
    generation: int
    woken: bool  # learning had gone on without it: forecast, never scored
    inserted: bool  # a newer cell of the series came first, or this one has been forecast without it: advanced over, not forecast
    stamp: int
    trace: str | None
    offset: int  # of its record; of several samples a step: of the record that closed the cell
    told: tuple[Tell, ...] = ()  # of covariates: what has come since the series' last sample, and with this one


class Close(NamedTuple):
    """Learn: the cells (slot, cell, value) that instant closes, by (key of the series, cell); then drop old generations."""

    instant: int
    cells: list[tuple[int, int, float]]
    drop: list[int]


class Admit(NamedTuple):
    slot: int
    series: str
    key: int


class Forget(NamedTuple):
    """Nothing of the series is held or to be learnt; the closes before this one may still name its slot."""

    slot: int


class TooLate(NamedTuple):
    source: Source
    series: str
    at: int
    value: float
    late: int  # us behind what the partition's clock still allowed
    offset: int


class Refused(NamedTuple):
    source: Source
    rejection: Rejection
    raw: Raw


Event = Sample | Close | Admit | Forget | TooLate | Refused | Decision
# Generation wanted, cell, position, slot, value, stamp, trace, told
Held = tuple[int, int, int, int, float, int, str | None, tuple[Tell, ...]]


@dataclass
class Partition:
    source: Source
    clock: int = START
    position: int | None = None  # None: nothing read yet, wherever it starts
    idle: bool = False
    rejoining: bool = False  # awake, but behind learning: holds nobody until it has caught up
    moved: float = 0.0  # wall clock of the clock's last move
    blocked: float | None = None  # wall clock since which samples are held
    consumed: int = 0
    filtered: int = 0
    ledger: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("used", "duplicate", "late", "rejected"), 0))
    held: deque[Held] = field(default_factory=deque)  # read, waiting for their generation, in order
    aside: list[Held] = field(default_factory=list)  # too far ahead of a clock that their stamp has capped: by time; hold nothing
    filling: dict[int, dict[int, SoFar]] = field(default_factory=dict)  # several samples a step: cell -> {slot: what has come of it}
    closing: list[int] = field(default_factory=list)  # heap of the keys of `filling`
    ahead: list[int] = field(default_factory=list)  # heap: the cell of everything in `filling` that began too far ahead of the clock
    marks: dict[int, Mark] = field(default_factory=dict)  # slot -> where its next cell goes on from
    latest: dict[int, int] = field(default_factory=dict)  # with `fill`: slot -> its newest cell on the way to be released
    passed: int = START  # with `fill`: cells that begin before have closed
    seen: dict[int, int] = field(default_factory=dict)  # slot -> the newest event time of its series here
    expiry: list[tuple[int, int]] = field(default_factory=list)  # heap: (a time that `seen` had, slot), once for every slot of `seen`


class LedgerBroken(Exception):  # noqa: N818 - named for what it tells at 3 a.m.
    """A block or a record does not join what was before it, or the ledger's sum is wrong: nothing may go on."""
