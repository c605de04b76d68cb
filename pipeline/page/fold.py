"""What the topics have said so far, in bounded memory. Pure: records in, plain values out; no clock, no Kafka, no browser.

The bounds: MOST_SERIES have a line in the picker (some 400 bytes each, and their name), IN_DETAIL of them a `Trace`, those looked at
last; MOST_BEATS heartbeats, MOST_DECISIONS decisions; what is over time is in the bins of a `Timeline`.

Letters: S series, G groups of leads, E experts, L shown leads.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import pairwise, repeat
from operator import contains
from typing import Any, NamedTuple

import msgspec
import numpy as np

from pipeline.metrics import LEADS, lead_bucket
from pipeline.page.messages import (
    LARGEST_DECISION,
    MOST_LEADS,
    Decision,
    Head,
    Row,
    Score,
    Status,
    Whole,
    decoder,
    us,
)
from pipeline.page.timeline import Timeline
from pipeline.page.trace import Trace, numbers, room, sound, step_of
from pipeline.records import SECOND

MOST_SERIES = 120_000  # series.max_series and the tenth that its quotas add
IN_DETAIL = 48
MOST_BEATS = 900  # a quarter of an hour
MOST_DECISIONS = 400
MOST_EXPERTS = 16
OTHERS = 8  # other applications that are remembered, to say that they are there
FADING = 0.99  # of a series' sums at each of its scores: what the picker shows are the last hundred or so
LEAST_SCORES = 30.0  # before a series' skill counts, as forecast.min_scores has it
WEIGHED = (1, 2, 3, 6, 12, 24, 48, 96, 168, 336, 672, 1_000)  # leads whose weights over time are kept
OURS, THEIRS, HELD, COUNT = range(4)  # sums of |error|, of the baseline's, of held by the widest band, and how many
GROUP = [LEADS.index(lead_bucket(lead)) for lead in range(1, MOST_LEADS + 1)]
POINTS = 120  # of what is shown over event time: a bin of few scores says little
HUGE = 1e100  # of errors: no sum of them overflows

read_head, read_whole, read_row, read_score = decoder(Head), decoder(Whole), decoder(Row), decoder(Score)
read_decision, read_status = decoder(Decision), decoder(Status)


class Beat(NamedTuple):
    """What is kept of a heartbeat."""

    at: int  # us of wall clock, when it was written
    instance: str
    consumed: int
    lag: int | None
    commits: int | None
    p50: float | None
    p99: float | None


class Fold:
    """All that the page knows. `application`: whose records count; topics may be shared."""

    def __init__(self, application: str) -> None:
        self.application = application
        self.names: list[str] = []
        self.folded: list[str] = []  # the same, as search compares them
        self.index: dict[str, int] = {}
        self.by_name: list[int] = []  # lines in order of their names; those that came since somebody last asked are not in it
        self.places = np.zeros(0, np.int32)  # of each of those lines in it
        self.sums = np.zeros((1024, 4, len(LEADS)))  # (S, 4, G), fading
        self.listing = np.full((2, 1024), np.nan)  # (2, S) skill and coverage of all leads, as the picker has them; NaN: nothing to say yet
        self.partitions = np.full((1024, 2), -1, np.int32)  # (S, 2): where its forecasts and its scores lie; a look back reads there
        self.traces: OrderedDict[int, Trace | None] = OrderedDict()  # None: nothing yet; in order of being looked at
        self.over_time = Timeline((4, len(LEADS)))  # errors in units of each series' own baseline
        self.band = 0.9  # nominal coverage of the widest band
        self.last: Status | None = None  # the newest heartbeat
        self.heard: int | None = None  # when it came (us)
        self.beats: deque[Beat] = deque(maxlen=MOST_BEATS)
        self.experts: tuple[str, ...] = ()
        self.weights: deque[np.ndarray] = deque(maxlen=MOST_BEATS)  # (E, L) beside each beat
        self.decisions: deque[dict[str, Any]] = deque(maxlen=MOST_DECISIONS)
        self.others: set[str] = set()
        self.unreadable = 0  # records that are none of ours
        self.turned_away = 0  # records of series beyond MOST_SERIES
        self.changed = dict.fromkeys(("series", "decisions"), 0)  # counts up: who draws looks whether it must

    # Records in

    def forecast(self, value: bytes, partition: int) -> None:
        head = read_head(value)
        slot = self._slot(head, partition, kind=0)
        if head is None or slot is None:
            return
        self.changed["series"] += 1
        if slot in self.traces:
            self._detail(slot, read_whole(value) if head.lead is None else read_row(value))
        elif len(self.traces) < IN_DETAIL:
            self.traces[slot] = None
            self._detail(slot, read_whole(value) if head.lead is None else read_row(value))

    def _detail(self, slot: int, said: Whole | Row | None) -> None:
        if said is None or not sound(said):
            self.unreadable += 1
            return
        trace, wide = self.traces[slot], said.lead if isinstance(said, Row) else len(said.point)
        if trace is None or (trace.step, trace.levels) != (step_of(said), tuple(said.levels)) or trace.horizon < wide:
            trace = self.traces[slot] = Trace(step_of(said), said.levels, room(wide))
            self.band = widest(said.levels) or self.band
        if isinstance(said, Row):
            trace.row(said)
        else:
            trace.whole(said)

    def score(self, value: bytes, partition: int) -> None:
        said = read_score(value)
        slot = self._slot(said, partition, kind=1)
        if said is None or slot is None:
            return
        self.changed["series"] += 1
        # Plain lists up to the end: arrays of four take ten times as long, and this is done for every score of every series
        new = [[0.0] * len(LEADS) for _ in range(4)]
        ours, theirs, held, count = new
        band = self.band
        for one in said.scores:
            group = GROUP[one.lead - 1]
            ours[group] += abs(one.error)
            theirs[group] += abs(one.baseline_error)
            held[group] += band in one.covered
            count[group] += 1.0
        if max(*ours, *theirs) > HUGE:
            self.unreadable += 1
            return
        sums = self.sums[slot].tolist()
        for group, scored in enumerate(count):
            if scored:
                for k in (OURS, THEIRS, HELD, COUNT):
                    sums[k][group] = FADING * sums[k][group] + new[k][group]
                unit = sums[THEIRS][group] / sums[COUNT][group]
                usable = unit > 1 / HUGE  # a series that the baseline has always hit says nothing of skill
                ours[group] = ours[group] / unit if usable else 0.0
                theirs[group] = theirs[group] / unit if usable else 0.0
        self.sums[slot] = sums
        self.listing[:, slot] = worth(*map(sum, sums))
        self.over_time.add(us(said.at), np.array(new), width=SECOND)
        trace = self.traces.get(slot)
        if trace is not None:
            trace.score(said, band)

    def look_back(self, name: str, value: bytes, *, kind: int) -> None:
        """An older record of a series that is in detail: only its trace learns of it. `kind`: 0 a forecast, 1 a score."""
        slot = self.index.get(name)
        if slot is None or slot not in self.traces:
            return
        if kind == 0:
            head = read_head(value)
            if head is not None and head.application == self.application:
                self._detail(slot, read_whole(value) if head.lead is None else read_row(value))
        else:
            said = read_score(value)
            trace = self.traces[slot]
            if said is not None and said.application == self.application and trace is not None:
                trace.score(said, self.band)
        self.changed["series"] += 1

    def decision(self, value: bytes) -> None:
        said = read_decision(value) if len(value) <= LARGEST_DECISION else None
        if self._theirs(said) or said is None:
            return
        self.changed["decisions"] += 1
        told = msgspec.to_builtins(said)
        self.decisions.append({**told, "at": us(said.at) // 1_000})

    def status(self, value: bytes, at: int, heard: int) -> None:
        """Takes up a heartbeat that was written `at` and heard here when (us of wall clocks, which need not agree)."""
        said = read_status(value)
        if self._theirs(said) or said is None:
            return
        weights = said.learner.weights
        experts = tuple(weights)[:MOST_EXPERTS]
        if experts != self.experts:
            self.experts = experts
            self.weights.clear()
        if experts:
            leads = [lead for lead in WEIGHED if lead <= min(len(weights[name]) for name in experts)]
            self.weights.append(np.array([[weights[name][lead - 1] for lead in leads] for name in experts]))
        p50, p99 = (said.latency_ms.get(name) for name in ("p50", "p99"))
        self.heard = heard
        self.beats.append(Beat(at, said.instance, said.ledger.get("consumed", 0), said.lag, said.commits, p50, p99))
        self.last = said

    def _theirs(self, said: Head | Score | Decision | Status | None) -> bool:
        """Whether a record is another application's; None counts as unreadable."""
        if said is None:
            self.unreadable += 1
            return False
        if said.application == self.application:
            return False
        if len(self.others) < OTHERS:
            self.others.add(said.application[:200])
        return True

    def _slot(self, said: Head | Score | None, partition: int, *, kind: int) -> int | None:
        """The line of a record's series, a new one if it is new; None where the record does not count."""
        if self._theirs(said) or said is None:
            return None
        slot = self.index.get(said.series)
        if slot is None:
            if len(self.names) >= MOST_SERIES:
                self.turned_away += 1
                return None
            slot = self.index[said.series] = len(self.names)
            self.names.append(said.series)
            self.folded.append(said.series.casefold())
            if slot == len(self.sums):
                self.sums = np.concatenate([self.sums, np.zeros_like(self.sums)])
                self.partitions = np.concatenate([self.partitions, np.full_like(self.partitions, -1)])
                self.listing = np.concatenate([self.listing, np.full_like(self.listing, np.nan)], 1)
        self.partitions[slot, kind] = partition
        return slot

    # Looking

    def pick(self, name: str) -> bool:
        """Keep a series in detail from now on; False if it was already, or is not known. The one not looked at for longest gives way."""
        slot = self.index.get(name)
        if slot is None:
            return False
        new = slot not in self.traces
        if new and len(self.traces) >= IN_DETAIL:
            self.traces.popitem(last=False)
        self.traces.setdefault(slot, None)
        self.traces.move_to_end(slot)
        return new

    def listed(self, query: str, order: str, most: int) -> dict[str, Any]:
        """Series whose name contains `query`: the first `most` by `order` (worst, band, name), and how many there are.

        Few steps, each over all series at once: behind every one of them the thread that reads may have its turn first.
        """
        wanted, n = query.casefold(), len(self.names)
        found = np.flatnonzero(np.fromiter(map(contains, self.folded, repeat(wanted)), bool, n)) if wanted else np.arange(n)
        if order == "name":
            by = self._places()[found]
        else:
            by = self.listing[0, found] if order == "worst" else -np.abs(self.listing[1, found] - self.band)
            by[np.isnan(by)] = np.inf
        chosen = found[first(by, most)].tolist()
        shown = zip(chosen, *self.listing[:, chosen].tolist(), strict=True)
        return {
            "total": n,
            "found": len(found),
            "series": [{"id": self.names[k], "skill": maybe(skill), "coverage": maybe(coverage)} for k, skill, coverage in shown],
        }

    def _places(self) -> np.ndarray:
        """(S,) where each line stands in order of names."""
        new = range(len(self.by_name), len(self.names))
        if new:
            self.by_name += new
            self.by_name.sort(key=self.names.__getitem__)  # quick where most of it is in order
            self.places = np.empty(len(self.by_name), np.int32)
            self.places[self.by_name] = np.arange(len(self.by_name))
        return self.places

    def shown(self, name: str, lead: int) -> dict[str, Any] | None:
        """One series as its charts need it; None if it is not known."""
        slot = self.index.get(name)
        if slot is None:
            return None
        trace = self.traces.get(slot)
        ours, theirs, held, count = self.sums[slot]
        with np.errstate(all="ignore"):
            skill = np.where((count >= 1) & (theirs > 0), 1 - ours / theirs, np.nan)
            coverage = np.where(count >= 1, held / count, np.nan)
        about = {"id": name, "groups": LEADS, "skill_by_group": numbers(skill), "coverage_by_group": numbers(coverage), "band": self.band}
        if trace is None:
            return {**about, "lead": lead, "leads": 0, "times": [], "fan": None}
        return {
            **about,
            "step": trace.step // 1_000,
            "leads": trace.leads,
            "levels": trace.levels,
            "served": [msgspec.to_builtins(run) for run in sorted(trace.served, key=lambda run: run.from_lead)],
            "cold": trace.cold,
            **trace.shown(lead),
        }

    def now(self) -> dict[str, Any]:
        """The newest heartbeat and what the page itself has counted."""
        said = self.last
        counted = {
            "application": self.application,
            "known": len(self.names),
            "others": sorted(self.others),
            "unreadable": self.unreadable,
            "turned_away": self.turned_away,
            "band": self.band,
            "heard": None if self.heard is None else self.heard // 1_000,
        }
        if said is None:
            return {**counted, "status": None}
        weights = {name: numbers(np.array(said.learner.weights[name][:MOST_LEADS])) for name in self.experts}
        told = {name: getattr(said, name) for name in STATUS_FIELDS}
        learner = {"skill": said.learner.skill, "coverage": said.learner.coverage, "weights": weights}
        return {**counted, "status": {**told, **learner, "rate": self.rate()}}

    def rate(self, last: int = 10) -> float | None:
        """Observations a second over the last beats; None where there are too few, or another instance has begun."""
        recent = list(self.beats)[-last:]
        return rates([recent[0], recent[-1]])[-1] if recent else None

    def history(self, points: int = 300) -> dict[str, Any]:
        """Over event time: skill and coverage of all series by group of leads. Over wall clock: the run, and the mixture's weights."""
        times, width, sums = self.over_time.coarse(POINTS)
        some = sums[:, COUNT].any(1)
        ours, theirs, held, count = (sums[some, k] for k in range(4))
        with np.errstate(all="ignore"):
            skill, coverage = np.where(theirs > 0, 1 - ours / theirs, np.nan), np.where(count > 0, held / count, np.nan)
        beats, weights = list(self.beats), list(self.weights)
        kept = thinned(len(beats), points)
        first = len(beats) - len(weights)  # beats from before the experts were those of now have no weights
        weighed = [k for k in kept if k >= first and weights[k - first].shape == weights[-1].shape]
        return {
            "groups": LEADS,
            "times": (times[some] // 1_000).tolist(),
            "bin": width // 1_000,
            "skill": numbers(skill.T),
            "coverage": numbers(coverage.T),
            "run": {
                "times": [beats[k].at // 1_000 for k in kept],
                "rate": rates([beats[k] for k in kept]),
                "lag": [beats[k].lag for k in kept],
                "p50": [beats[k].p50 for k in kept],
                "p99": [beats[k].p99 for k in kept],
                "commits": [beats[k].commits for k in kept],
            },
            "weights": {
                "leads": WEIGHED[: weights[-1].shape[1]] if weights else [],
                "experts": self.experts,
                "times": [beats[k].at // 1_000 for k in weighed],
                "by": numbers(np.stack([weights[k - first] for k in weighed]).transpose(1, 2, 0)) if weighed else [],  # (E, L, beats)
            },
        }

    @property
    def size(self) -> int:
        """Bytes of what grows with series: arrays, traces."""
        return (
            self.sums.nbytes
            + self.listing.nbytes
            + self.partitions.nbytes
            + sum(trace.size for trace in self.traces.values() if trace is not None)
        )


STATUS_FIELDS = (
    "instance", "state", "ledger", "published", "latency_ms", "lag", "commits", "updates", "series", "held", "idle", "filtered",
    "watermark", "clock",
)  # fmt: skip


def worth(ours: float, theirs: float, held: float, count: float) -> tuple[float, float]:
    """Skill and coverage of a series from its sums; NaN: nothing to say yet.

    >>> worth(20.0, 40.0, 36.0, 40.0), worth(0.0, 0.0, 0.0, 0.0)
    ((0.5, 0.9), (nan, nan))
    """
    skill = 1 - ours / theirs if count >= LEAST_SCORES and theirs > 0 else float("nan")
    return skill, held / count if count else float("nan")


def first(by: np.ndarray, most: int) -> list[int]:
    """Where the `most` smallest are, the smallest first; of equal ones, those that stand first.

    >>> first(np.array([3.0, 1.0, np.inf, 1.0]), 3)
    [1, 3, 0]
    """
    small = np.flatnonzero(by <= np.partition(by, most - 1)[most - 1]) if len(by) > most else np.arange(len(by))
    chosen: list[int] = small[np.argsort(by[small], kind="stable")[:most]].tolist()
    return chosen


def widest(levels: Sequence[float]) -> float | None:
    """Nominal coverage of the widest central band, as scores name it; None where the levels make none.

    >>> widest([0.05, 0.1, 0.5, 0.9, 0.95]), widest([0.1, 0.5])
    (0.9, None)
    """
    rounded = {round(level, 9) for level in levels}
    return max((round(1 - 2 * low, 9) for low in rounded if low < 0.5 and round(1 - low, 9) in rounded), default=None)  # noqa: PLR2004  the median


def maybe(x: float) -> float | None:
    return round(float(x), 4) if np.isfinite(x) else None


def thinned(count: int, most: int) -> list[int]:
    """At most `most` indices of `count`, evenly, the last among them.

    >>> thinned(5, 3), thinned(3, 5), thinned(0, 5)
    ([0, 2, 4], [0, 1, 2], [])
    """
    stride = -(-count // most) or 1
    return list(range((count - 1) % stride, count, stride)) if count else []


def rates(beats: Sequence[Beat]) -> list[float | None]:
    """Observations a second from one beat to the next; None for the first, and where another instance began."""
    out: list[float | None] = [None] * min(len(beats), 1)
    for before, after in pairwise(beats):
        seconds, risen = (after.at - before.at) / 1e6, after.consumed - before.consumed
        same = before.instance == after.instance and seconds > 0 and risen >= 0
        out.append(round(risen / seconds, 1) if same else None)
    return out
