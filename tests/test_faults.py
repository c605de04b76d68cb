"""Deaths that must not show in the output, and mistakes that must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.broker import Broker
from tests.faults import Kill, kills, position_before_output, snapshot_without_queue, suffer
from tests.instances import server

pytestmark = [pytest.mark.kafka, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def forking() -> Iterator[None]:
    with server():
        yield


def test_ten_kills_of_the_process_lose_nothing_double_nothing_and_change_no_byte(broker: Broker, tmp_path: Path) -> None:
    outcome = suffer(broker, tmp_path, kills(10, seed=1), seed=1)

    assert outcome.verdict == (0, 0, 0, {}, [])
    assert len(outcome.recoveries) >= 5


def test_the_process_lives_on_when_its_broker_is_killed_and_comes_back(own_broker: Broker, tmp_path: Path) -> None:
    outcome = suffer(own_broker, tmp_path, [], broker_kills=1, seed=2)

    assert outcome.verdict == (0, 0, 0, {}, [])


MISTAKES = {
    "position before output": (position_before_output, [Kill("commit", 3)]),
    "snapshot without queue": (snapshot_without_queue, [Kill("commit", 1.5)] * 2),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_verdict_tells_of_a_mistake(broker: Broker, tmp_path: Path, mistake: str) -> None:
    plant: Callable[[], None]
    plant, fatal = MISTAKES[mistake]
    outcome = suffer(broker, tmp_path, fatal, seed=3, plant=plant)

    assert not outcome.verdict.holds
