"""Registries that processes use until they are killed, for real."""

from __future__ import annotations

import random
import shutil
import signal
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import shelves
from shelves import LOST, ME, check, published, registry, turn

PRELOADED = ["shelves"]  # see `processes`


def test_a_registry_is_whole_after_each_of_twenty_kills_at_random_moments(tmp_path: Path, processes: ForkServerContext) -> None:
    rng, url = random.Random(0), tmp_path / "registry"
    generations = []
    for life in range(20):
        began = tmp_path / f"began-{life}"
        victim = processes.Process(target=shelves.keep_turning, args=(url, began))
        victim.start()
        end = time.monotonic() + 60
        while not began.exists():
            assert time.monotonic() < end, "it does not begin"
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.2))
        victim.kill()
        victim.join(60)
        assert victim.exitcode == -signal.SIGKILL
        check(registry(url))
        generations.append(registry(url).last().generation)
    assert generations == sorted(generations)
    assert len({*generations}) > 10, "they were killed before they did anything"
    turn(registry(url), generations[-1])
    check(registry(url))


@pytest.mark.slow
def test_a_registry_is_whole_after_a_kill_before_each_call_of_the_system(tmp_path: Path, processes: ForkServerContext) -> None:
    begun = registry(tmp_path / "begun")
    for seed in range(3):
        turn(begun, seed)
    before, found = begun.last().generation, set()
    for nth in range(1, 400):
        url = tmp_path / f"{nth}"
        shutil.copytree(tmp_path / "begun", url)
        shelf = registry(url)
        victim = processes.Process(target=shelves.turn_until, args=(url, 5, nth))
        victim.start()
        victim.join(60)
        check(registry(url))
        if victim.exitcode == 0:
            break
        assert victim.exitcode == -signal.SIGKILL
        found.add((len(shelf.versions()), shelf.last().generation - before))
        turn(shelf, 8)  # whoever comes next is not in its way
        check(shelf)
    assert nth > 40
    assert {moves for _, moves in found} == {0, 1, 2, 3, 4}  # of a turn: nominated, promoted, rolled back, removed
    assert len({versions for versions, _ in found}) > 1


def test_of_two_processes_that_promote_at_once_one_does_and_the_other_says_so(tmp_path: Path, processes: ForkServerContext) -> None:
    for attempt in range(10):
        url = tmp_path / f"{attempt}"
        shelf = registry(url)
        made = [published(shelf, seed).version for seed in range(3)]
        first = shelf.promote(made[0], shelf.last(), ME)
        barrier = processes.Barrier(2)
        rivals = [processes.Process(target=shelves.promote_at_once, args=(url, version, first.generation, barrier)) for version in made[1:]]
        for rival in rivals:
            rival.start()
        for rival in rivals:
            rival.join(60)
        assert sorted(rival.exitcode or 0 for rival in rivals) == [0, LOST]
        (winner,) = [version for version, rival in zip(made[1:], rivals, strict=True) if rival.exitcode == 0]
        assert (shelf.last().generation, shelf.last().now.champion, shelf.last().now.previous) == (2, winner, made[0])
        check(shelf)
