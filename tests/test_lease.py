"""One at a time: who holds the lease, who takes it over, and what is scheduled."""

from __future__ import annotations

import subprocess
import threading
from datetime import datetime
from pathlib import Path

import msgspec
import pytest

from pipeline import lease, retrain, schedule, store
from pipeline.lease import LEASE, Held, Lease
from pipeline.schedule import Cron, Every, due
from pipeline.settings import SettingsError

HOUR = 3_600_000_000
NOON = 1_767_268_800_000_000  # 2026-01-01 12:00


class Clock:
    now = NOON

    def __call__(self) -> int:
        return self.now


@pytest.fixture(params=["folder", "memory"])
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> store.Store:
    return store.opened(str(tmp_path) if request.param == "folder" else f"memory://{tmp_path}")


def elsewhere(shelf: store.Store, clock: Clock, *, until: int, life: str = "boot space 1 1") -> None:
    """Somebody on another machine has it."""
    number = Lease(shelf, now=clock).last().number + 1
    record = lease.Record(number, "process 1 on other", life, clock.now, until)
    shelf.create(f"leases/{number:08d}.json", msgspec.json.encode(record))


def test_whoever_comes_second_is_told_who_was_first(shelf: store.Store) -> None:
    clock = Clock()
    first, second = Lease(shelf, now=clock), Lease(shelf, now=clock)
    with first.held():
        with (
            pytest.raises(Held, match=rf"{lease.me()} retrains this model since 2026-01-01T12:00:00Z.*at 2026-01-01T12:10:00Z"),
            second.held(),
        ):
            pass
        first.check()
    with second.held():
        second.check()
    assert len(shelf.names("leases")) == 1, "older ones go"


def test_a_holder_that_is_not_heard_of_is_followed_after_the_time_of_the_rule(shelf: store.Store) -> None:
    clock = Clock()
    elsewhere(shelf, clock, until=NOON + LEASE)
    mine = Lease(shelf, now=clock)
    clock.now = NOON + LEASE - 1
    with pytest.raises(Held, match="process 1 on other"), mine.held():
        pass
    clock.now = NOON + LEASE
    with mine.held():
        mine.check()


def test_a_dead_process_of_this_machine_is_followed_at_once(shelf: store.Store) -> None:
    clock, child = Clock(), subprocess.Popen(["sleep", "60"])
    life = lease.life(child.pid)
    assert not lease.died(life)
    child.kill()
    child.wait()
    assert lease.died(life)
    elsewhere(shelf, clock, until=NOON + LEASE, life=life)
    with Lease(shelf, now=clock).held():
        pass


def test_who_was_thought_dead_and_was_not_does_not_publish(shelf: store.Store) -> None:
    clock = Clock()
    slow, quick = Lease(shelf, now=clock), Lease(shelf, now=clock)
    with slow.held():
        clock.now += LEASE
        with quick.held():
            with pytest.raises(Held, match="has taken over"):
                slow.check()
            quick.check()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    barrier, won, told = threading.Barrier(8), [], []

    def ask() -> None:
        barrier.wait()
        try:
            with Lease(store.opened(str(tmp_path))).held():
                won.append(1)
                over.wait(10)
        except Held as error:
            told.append(str(error))
            if len(told) == 7:
                over.set()

    over = threading.Event()
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(told)) == (1, 7)


# Schedules


def us(text: str) -> int:
    return int(datetime.fromisoformat(text).timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("times", "now", "done", "expected"),
    [
        (Every("6h"), "2026-01-01T13:00Z", None, "2026-01-01T12:00Z"),  # nothing on record: at once
        (Every("6h"), "2026-01-01T13:00Z", "2026-01-01T12:00Z", None),
        (Every("6h"), "2026-01-03T13:00Z", "2026-01-01T12:00Z", "2026-01-03T12:00Z"),  # missed eight times: once
        (Cron("0 3 * * *"), "2026-01-02T04:00Z", "2026-01-01T03:00Z", "2026-01-02T03:00Z"),
        (Cron("0 3 * * *"), "2026-01-09T02:59Z", "2026-01-01T03:00Z", "2026-01-08T03:00Z"),
        (Cron("0 3 * * *"), "2026-01-02T03:00Z", "2026-01-01T03:00Z", "2026-01-02T03:00Z"),  # to the second
        (Cron("0 3 * * *"), "2026-01-02T02:59Z", "2026-01-01T03:00Z", None),
        (Cron("0 3 * * *"), "2026-01-02T04:00Z", None, None),  # begins now: has missed nothing
    ],
)
def test_what_is_due(times: schedule.Schedule, now: str, done: str | None, expected: str | None) -> None:
    assert due(times, us(now), None if done is None else us(done)) == (None if expected is None else us(expected))


@pytest.mark.parametrize("word", ["0 25 * * *", "sometimes", ""])
def test_a_schedule_that_is_none_is_said(word: str) -> None:
    with pytest.raises(SettingsError, match="--cron"):
        Cron(word)
    with pytest.raises(SettingsError, match="--every"):
        Every(word)


class Days(threading.Event):
    """Waiting lets time pass, until the last day."""

    def __init__(self, clock: Clock, end: int) -> None:
        super().__init__()
        self.clock, self.end = clock, end

    def wait(self, timeout: float | None = None) -> bool:
        self.clock.now += HOUR
        if self.clock.now > self.end:
            self.set()
        return self.is_set()


def stayed(shelf: store.Store, clock: Clock, days: int, work: retrain.Work, *, wrong: list[Exception]) -> list[int]:
    ended: list[int] = []
    retrain.stay(
        work, Lease(shelf, now=clock), Cron("0 3 * * *"), stop=Days(clock, clock.now + days * 24 * HOUR), now=clock,
        ended=lambda _: ended.append(clock.now), failed=wrong.append,
    )  # fmt: skip
    return ended


def test_each_due_time_has_one_run_and_those_missed_have_one_together(shelf: store.Store) -> None:
    clock, wrong = Clock(), []
    ended = stayed(shelf, clock, 3, dict, wrong=wrong)
    assert [(at - NOON) // HOUR for at in ended] == [15, 39, 63]
    clock.now += 4 * 24 * HOUR  # nobody is there
    late = clock.now
    ended = stayed(shelf, clock, 1, dict, wrong=wrong)
    assert ended[0] == late, "late, and at once"
    assert len(ended) == 2
    assert not wrong


def test_a_run_that_fails_is_told_of_and_not_made_again_before_the_next_time(shelf: store.Store) -> None:
    clock, wrong = Clock(), []

    def fail() -> dict[str, object]:
        raise OSError("no")

    assert stayed(shelf, clock, 2, fail, wrong=wrong) == []
    assert len(wrong) == 2


def test_while_another_is_at_it_nothing_is_run(shelf: store.Store) -> None:
    clock, wrong = Clock(), []
    elsewhere(shelf, clock, until=NOON + 20 * HOUR)
    ended = stayed(shelf, clock, 1, dict, wrong=wrong)
    assert [(at - NOON) // HOUR for at in ended] == [20]
    assert {type(error) for error in wrong} == {Held}
