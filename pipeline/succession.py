"""Which weights serve from which learning instant on: what is planned, the shadow beside the champion, and what its judge says.

A plan is made when somebody moves a pointer, or when the judge has seen enough: for the first instant that the flow has not passed
(`Plan.instant`), and it is carried out with the first one at or behind it at which something is learnt. Pointers and the wall clock,
which has a say in who takes too long, come from outside the log; so plans are in the account of every commit and on the decisions topic,
and a repetition follows them and asks nobody.

A *shadow* is a second learner on the same cells. It begins as a copy of the champion's, with the challenger's weights handed over; what
it says is compared cell by cell with what the champion says (`models.versus`), and never published. Promoted, the two exchange their
weights as they have learnt them: the learner that serves stays, with its series, its evidence and its bands. The former champion is the
shadow from then on, for a while, and is taken back if it proves the better one after all.

Letters: N series, H lead times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from models.handover import Incoming
from models.learner import REASONS, Cells, Config, Decision, Learner
from models.snapshot import Parts
from models.versus import PROMOTED, REFUSED, Guards, Verdict, Versus
from models.versus import Rules as Judging
from pipeline.events import BETTER, END, SHADOW, SWITCH, Plan
from pipeline.quantities import duration_text
from pipeline.records import Pointer, Role, rfc3339

BY = "tidecast run"  # moves names itself, by its judge
NOT_FINITE = REASONS.index("not_finite")


class Rules(NamedTuple):
    """What is asked of whoever is to serve."""

    judge: Judging
    automatic: bool  # promoted and taken back without anybody's word
    longest: int  # us of event time that a shadow stays
    most: int  # series for which there is room twice


class Offer(NamedTuple):
    """A pointer that somebody has moved, with the weights that it names."""

    role: Role
    version: str | None
    effective_from: int  # us
    incoming: Incoming | None
    refused: str = ""  # why the version cannot serve


class Shadow:
    """A second learner on the same cells, and the comparison with the first."""

    def __init__(self, learner: Learner, *, role: Role, since: int, rules: Judging) -> None:
        self.learner, self._rules = learner, rules
        self.restart(role, since)

    def restart(self, role: Role, since: int) -> None:
        """It has other weights from the instant `since` on."""
        self.role: Role = role
        self.since, self.said = since, False
        config = self.learner.config
        self.versus = Versus(horizon=config.horizon, season=config.season, rules=self._rules)
        self.broken = 0  # leads that were not finite
        self.spent = np.zeros(2)  # s of both; what comes of it is on record

    def arrive(self, cells: Cells, *, generation: int, woken: np.ndarray, beside: float) -> None:
        """What the champion has just taken in, in `beside` seconds."""
        began = time.perf_counter()
        step = self.learner.arrive(cells, generation=generation, woken=woken)
        self.spent += beside, time.perf_counter() - began
        if generation >= self.since:
            self.broken += int((step.reason == NOT_FINITE).sum())

    def compare(self, champion: Learner, cells: Cells, wanted: Callable[[int], int]) -> bool:
        """Before both learn from these cells: what their forecasts of them were worth. Whether there is something new to be judged."""
        ended, step = False, champion.config.step_us
        for cell in np.unique(cells.cell).tolist():
            if wanted(cell * step) >= self.since:
                slot = cells.slot[cells.cell == cell]
                mine, theirs = (learner.missed(slot, cell) for learner in (champion, self.learner))
                ended |= self.versus.take(slot, mine, theirs, ~np.isnan(mine) & ~np.isnan(theirs))
        return ended

    def verdict(self) -> Verdict:
        pool, latency = self.learner.pool, 1.0
        if self.spent[0] > 0:
            latency = float(self.spent[1] / self.spent[0])
        scored = float(pool.scored.sum())
        coverage = float(pool.covered[-1].sum() / scored) if len(pool.covered) and scored else None
        return self.versus.judge(Guards(coverage, self.broken, latency))

    def frozen(self) -> tuple[Callable[[], Parts], list[Any]]:
        columns = {name: [a.dtype.str, list(a.shape), a.tobytes()] for name, a in self.versus.state().items()}
        return self.learner.frozen(), [self.role, self.since, self.said, self.broken, columns]

    @classmethod
    def thaw(cls, config: Config, rules: Judging, parts: Parts, rest: list[Any]) -> Shadow:
        """The inverse of `frozen`. Raises snapshot.SnapshotDamaged."""
        self = cls(Learner.restore(config, parts), role=rest[0], since=rest[1], rules=rules)
        self.said, self.broken = rest[2], rest[3]
        self.versus.load({name: np.frombuffer(data, kind).reshape(shape) for name, (kind, shape, data) in rest[4].items()})
        return self


class Change(NamedTuple):
    """What an instant brings."""

    champion: Incoming | None  # to be handed to the learner that serves
    shadow: Incoming | None  # to the other one
    decisions: list[tuple[Decision, str, str | None]]  # with version, and the one that served before
    pointers: list[Pointer]
    swaps: list[str]  # outcomes, for metrics
    promotions: list[str]


NOTHING = Change(None, None, [], [], [], [])
MEASURED = ("outcome", "difference", "lower", "upper", "evidence", "instants", "series")


def promotions(plan: Plan) -> list[str]:
    """What became of a challenger."""
    if plan.verdict == "promote":
        return ["promoted"]
    return [plan.numbers["outcome"]] if plan.verdict == "refuse" else []


def weights_of(learner: Learner) -> Incoming:
    """Those that it serves with now, and what its rule of descent remembers."""
    descent = learner.descent
    return Incoming(learner.version, descent.average.clone(), torch.stack(list(descent.moments)))


class Succession:
    """The plans of a shard, and its shadow."""

    def __init__(self, application: str, rules: Rules | None, *, load: Callable[[str], Incoming]) -> None:
        """`load` fetches a version that a repetition needs; `rules` None: nothing is ever handed over."""
        self.application, self.rules, self._load = application, rules, load
        self.plans: list[Plan] = []  # by instant; those carried out stay until no snapshot needs them
        self.shadow: Shadow | None = None
        self._known: dict[str, Incoming] = {}  # of plans
        self._waiting: list[Offer] = []  # for a plan to be carried out

    # Plans

    def pending(self, learnt: int) -> Plan | None:
        """What is planned and not carried out, when everything up to an instant has been learnt."""
        return next((plan for plan in self.plans if plan.instant > learnt), None)

    def offer(self, offer: Offer, champion: Learner, *, learnt: int, first: int, grid: int) -> str:
        """Plan what a pointer says, for the instant `first` at the earliest. Returns why that cannot be; empty: nothing is wrong."""
        if offer.role == "challenger" and self.pending(learnt) is not None:
            self._waiting.append(offer)
            return ""
        named, shadow = offer.version, self.shadow
        if named is None:
            if offer.role == "challenger" and shadow is not None and shadow.role == "challenger":
                self._plan(Plan(END, first, shadow.learner.version, offer.effective_from, "", "nobody is challenger any more", {}), learnt)
            return ""
        planned = self.pending(learnt)
        serves = planned.version if planned is not None and planned.what == SWITCH else champion.version
        if named == serves or (offer.role == "challenger" and shadow is not None and shadow.learner.version == named):
            return ""
        why = offer.refused or ("the model has no networks" if not champion.taught or self.rules is None else "")
        if not why and offer.role == "challenger" and champion.memory.used > (self.rules.most if self.rules else 0):
            why = "learn.state_budget has no room for every series twice"
        if why:
            return why
        assert offer.incoming is not None, "an offer has weights, or says why not"
        if planned is not None and planned.what == SHADOW:  # whoever serves comes first
            self._waiting.append(Offer("challenger", planned.version, planned.effective_from, self._known[planned.version]))
        self._known[named] = offer.incoming
        what, cause = (SWITCH, "it was made champion") if offer.role == "champion" else (SHADOW, "it was made challenger")
        self._plan(Plan(what, max(first, -(-offer.effective_from // grid) * grid), named, offer.effective_from, "", cause, {}), learnt)
        return ""

    def waiting(self, learnt: int) -> list[Offer]:
        """Offers that may be looked at again."""
        if self.pending(learnt) is not None:
            return []
        waiting, self._waiting = self._waiting, []
        return waiting

    def _plan(self, plan: Plan, learnt: int) -> None:
        self.plans = [*(one for one in self.plans if one.instant <= learnt), plan]

    def judge(self, *, learnt: int, first: int) -> None:
        """A block of the comparison has ended: plan what follows from it."""
        shadow, rules = self.shadow, self.rules
        if shadow is None or rules is None or self.pending(learnt) is not None:
            return
        verdict, version = shadow.verdict(), shadow.learner.version
        told = {**verdict.numbers, **{name: getattr(verdict, name) for name in MEASURED}}
        former = shadow.role == "previous"
        away = END, "" if former else "refuse"
        if former and rules.automatic and shadow.versus.disaster >= rules.judge.disaster:
            lost = f"{shadow.versus.disaster:.0%} more than the one before it, of what both lose"
            (what, kind), cause = (SWITCH, "rollback"), f"the champion loses {lost}: no proof is waited for"
        elif verdict.outcome == PROMOTED and rules.automatic:
            (what, kind), cause = (SWITCH, "rollback" if former else "promote"), verdict.cause
        elif verdict.outcome == PROMOTED and not shadow.said:
            (what, kind), cause = (BETTER, ""), f"{verdict.cause}; promote it by hand"
        elif verdict.outcome == REFUSED:
            (what, kind), cause = away, verdict.cause
        elif first - shadow.since > rules.longest:
            (what, kind), cause = away, f"after {duration_text(rules.longest)}: {verdict.cause}"
        else:
            return
        self._plan(Plan(what, first, version, first, kind, cause, told), learnt)

    def load(self, plans: list[Plan], learnt: int) -> None:
        """Follow these from now on, those up to an instant are done. Raises what fetching a version raises."""
        self.plans = [*(one for one in self.plans if one.instant <= learnt), *(one for one in plans if one.instant > learnt)]
        for plan in self.plans:
            if plan.instant > learnt and plan.what in (SWITCH, SHADOW) and not plan.verdict and plan.version not in self._known:
                self._known[plan.version] = self._load(plan.version)

    def drop(self, learnt: int) -> None:
        """Plans carried out by an instant are not asked for again."""
        self.plans = [plan for plan in self.plans if plan.instant > learnt]

    # Carrying out

    def due(self, *, learnt: int, instant: int) -> Plan | None:
        """What is to be carried out with an instant."""
        plan = self.pending(learnt)
        return plan if plan is not None and plan.instant <= instant else None

    def carry_out(self, plan: Plan, champion: Learner, instant: int) -> Change:
        """Do what is due at an instant. Both learners stand whole."""
        before, shadow = champion.version, self.shadow
        role = None if shadow is None else shadow.role
        numbers = {"effective_from": plan.effective_from, "instant": instant}
        known = self._known.get(plan.version)
        later = {one.version for one in self.plans if one.instant > plan.instant}
        self._known = {version: weights for version, weights in self._known.items() if version in later}
        made: list[tuple[Decision, str, str | None]] = []
        if plan.verdict:
            made.append((Decision(plan.verdict, plan.cause, {**plan.numbers, **numbers}), plan.version, before))
        change = NOTHING
        if plan.what == SWITCH:
            change = self._switch(plan, champion, known, instant)
            made.append((Decision("switch", plan.cause, numbers), plan.version, before))
        else:
            if plan.what == SHADOW:
                self._begin(champion, "challenger", instant)
                change = NOTHING._replace(shadow=known)
            elif plan.what == BETTER:
                assert shadow is not None
                shadow.said, numbers = True, {**plan.numbers, **numbers}
            else:
                self.shadow = None
            made.append((Decision("shadow", plan.cause, {**numbers, "state": plan.what}), plan.version, before))
        return change._replace(decisions=made, pointers=self._pointers(plan, role, before, instant), promotions=promotions(plan))

    def _switch(self, plan: Plan, champion: Learner, known: Incoming | None, instant: int) -> Change:
        """The shadow's weights for the champion's, where it is of that version; else those that were fetched."""
        shadow = self.shadow
        outcome = "rolled_back" if plan.verdict == "rollback" else "switched"
        if shadow is not None and shadow.learner.version == plan.version:
            theirs, mine = (weights_of(learner) for learner in (shadow.learner, champion))
            if plan.verdict == "rollback":
                self.shadow = None
                return NOTHING._replace(champion=theirs, swaps=[outcome])
            shadow.restart("previous", instant)
            shadow.learner.count_anew()
            return NOTHING._replace(champion=theirs, shadow=mine, swaps=[outcome])
        assert known is not None, "fetched when it was planned"
        self.shadow = None
        if self.rules is not None and champion.memory.used <= self.rules.most:
            self._begin(champion, "previous", instant)
        return NOTHING._replace(champion=known, swaps=[outcome])

    def _begin(self, champion: Learner, role: Role, instant: int) -> None:
        assert self.rules is not None
        self.shadow = Shadow(champion.copy(), role=role, since=instant, rules=self.rules.judge)
        self.shadow.learner.count_anew()

    def _pointers(self, plan: Plan, role: Role | None, before: str, instant: int) -> list[Pointer]:
        """The names that have moved by the judge's word, or that nobody has any more, for whoever follows the models topic."""

        def pointer(name: Role, version: str | None) -> Pointer:
            return Pointer(self.application, "default", name, version, rfc3339(max(instant, 0)), BY, plan.cause)

        moved: dict[Role, str | None] = {"challenger": None} if role == "challenger" and plan.what in (SWITCH, END) else {}
        if plan.verdict == "promote":
            moved |= {"champion": plan.version, "previous": before}
        if plan.verdict == "rollback":
            moved |= {"champion": plan.version, "previous": None}
        return [pointer(name, version) for name, version in moved.items()]

    # For people

    def difference(self) -> np.ndarray | None:
        """(H,) part of the loss that the shadow loses less than the champion, by lead; None: there is no shadow."""
        return None if self.shadow is None else self.shadow.versus.by_lead()
