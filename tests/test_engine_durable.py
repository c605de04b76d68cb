"""When a job is made durable: by a clock of its own, without a pipeline."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from pipeline.engine import durable
from pipeline.engine.durable import AT_LEAST_EVERY, REST, RESTLESS, Ledger
from pipeline.engine.protocols import Durability

INTERVAL, EVERY, BUNDLE = 0.5, 5.0, 0.25  # s
BEGAN = 1000.0


class AtOnce:
    """An executor without a thread: nothing takes time here but what is said to."""

    def __init__(self, **_: object) -> None: ...

    def submit(self, work: Callable[..., None], *given: object) -> Future[None]:
        done = Future[None]()
        done.set_result(work(*given))
        return done


class Timed:
    """A ledger that has begun, at a clock that moves with the work it is told of."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.frozen_at, self.account = BEGAN, list[float](), 0
        monkeypatch.setattr(durable, "time", SimpleNamespace(monotonic=lambda: self.now, time_ns=time.time_ns))
        monkeypatch.setattr(durable, "ThreadPoolExecutor", AtOnce)
        monkeypatch.setattr(durable.image, "take", self.take)
        live = Mock(account=lambda: {"account": self.account})
        how = Durability(application="timed", committer=Mock(), live=live, folder=folder, interval_s=INTERVAL, snapshot_every_s=EVERY)
        self.ledger = Ledger(how, Mock())
        self.ledger.begin()
        self.frozen_at.clear()

    def take(self, *_: object, **__: object) -> object:
        self.frozen_at.append(self.now)
        return bytes

    def work(self, seconds: float) -> None:
        """Bundle after bundle, with a moment between them in which there is nothing to do."""
        for _ in range(round(seconds / BUNDLE)):
            self.now += BUNDLE
            self.account += 1
            self.ledger.worked(BUNDLE)
            self.ledger.quiet(wanted=False)
            self.ledger.quiet(wanted=False, idle=True)

    def rest(self, seconds: float) -> None:
        """As the job does: asleep until something is due."""
        end = self.now + seconds
        for _ in range(100):
            self.ledger.quiet(wanted=False, idle=True)
            self.now = max(self.now, min(end, self.ledger.due()))
            if self.now == end:
                return
        pytest.fail("it does not rest")


@pytest.fixture
def timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Timed:
    return Timed(tmp_path, monkeypatch)


def test_what_is_due_is_frozen_when_a_burst_is_over_and_not_in_it(timed: Timed) -> None:
    for _ in range(4):
        timed.rest(60)
        timed.frozen_at.clear()
        timed.work(2)
        assert timed.frozen_at == []
        over = timed.now
        timed.rest(5)
        [at] = timed.frozen_at
        assert INTERVAL < at - over <= (REST + 1) * INTERVAL
        assert timed.ledger.due() == math.inf, "nothing is new"


def test_who_never_rests_is_frozen_a_little_later(timed: Timed) -> None:
    timed.work(60)
    assert len(timed.frozen_at) == 60 // (RESTLESS * EVERY)
    assert all(RESTLESS * EVERY <= each <= RESTLESS * EVERY + BUNDLE for each in apart(timed))


def test_little_work_is_frozen_once_a_minute_in_the_rest_behind_it(timed: Timed) -> None:
    for _ in range(30):
        timed.work(BUNDLE)
        timed.rest(9.75)
    assert len(timed.frozen_at) == 4
    assert all(AT_LEAST_EVERY * EVERY <= each <= AT_LEAST_EVERY * EVERY + 10 + REST * INTERVAL + BUNDLE for each in apart(timed))


def apart(timed: Timed) -> list[float]:
    """s from snapshot to snapshot, the first from the beginning."""
    return [b - a for a, b in pairwise([BEGAN, *timed.frozen_at])]
