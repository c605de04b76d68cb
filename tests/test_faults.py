"""Deaths that must not show in the output, and bugs that must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipeline.broker import Broker
from tests import plants
from tests.faults import APPLICATION, ENOUGH, SEED, STEPS, Ending, Expected, Kill, kills, log, replay, suffer, two_lives
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


# Each bug needs the ending that brings it out, and each ending is harmless without a bug.

ENDINGS = {
    "killed before a commit": Ending(Kill("before_commit", 1, forecasts=ENOUGH)),
    "killed after a commit": Ending(Kill("after_commit", 1, forecasts=ENOUGH)),
    "stopped": Ending(),
    "its last snapshot damaged": Ending(damage=True),
}

BUGS = [
    (plants.position_before_output, "killed after a commit", "lost"),
    (plants.output_before_position, "killed before a commit", "doubled"),
    (plants.output_outside_the_transaction, "killed before a commit", "doubled"),
    (plants.repetition_aloud, "killed after a commit", "doubled"),
    (plants.snapshot_without_moments, "stopped", "wrong"),
    (plants.snapshot_without_queue, "stopped", "wrong"),
    (plants.checksum_not_looked_at, "its last snapshot damaged", "wrong"),
    (plants.training_per_poll, "stopped", "wrong"),
]


@pytest.fixture(scope="module")
def should(forking: None, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    return replay(log(STEPS, SEED), tmp_path_factory.mktemp("replay"), APPLICATION)


@pytest.mark.parametrize("ending", ENDINGS)
def test_how_a_life_ended_does_not_show_in_what_came_out(broker: Broker, tmp_path: Path, should: Expected, ending: str) -> None:
    assert two_lives(broker, tmp_path, ENDINGS[ending], should) == (0, 0, 0, {}, [])


@pytest.mark.parametrize(("plant", "ending", "how"), BUGS, ids=[plant.__name__ for plant, *_ in BUGS])
def test_the_verdict_tells_of_a_bug(
    broker: Broker, tmp_path: Path, should: Expected, plant: Callable[[], None], ending: str, how: str
) -> None:
    verdict = two_lives(broker, tmp_path, ENDINGS[ending], should, plant=plant)

    assert getattr(verdict, how), verdict
