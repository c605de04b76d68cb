"""Small registries to try things on, and processes that use one until they are killed."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import numpy as np
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.registry import Because, Data, Manifest, MovedFirst, Parameters, Registry, Shape

SHAPE = Shape("lstm", 4, 24, 3_600_000_000, (0.1, 0.5, 0.9), 16, 1, 0, (), (), "mask")
DATA = Data("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z", 744, {"meters/0": (0, 744)})
BEFORE = 1_767_225_600_000_000  # us: 2026-01-01
ME = Because("me", BEFORE, "to try it")
LOST = 3  # exit code of who has not been first


def parameters(shape: Shape) -> Parameters:
    """As a network has them: some that hidden units shape, and some that the horizon does."""
    return (("embed", (shape.hidden, 3)), ("head", (shape.horizon,)))


def registry(url: Path | str, *, of: Callable[[Shape], Parameters] = parameters) -> Registry:
    return Registry(str(url), application="tidecast", model="default", parameters=of)


def in_memory() -> Registry:
    """The only one there: a listing looks through all that is in memory."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    return registry("memory://registry")


def over(files: Any) -> Registry:
    """The same registry, for somebody else, or through something that stands before its store."""
    shelf = registry("memory://registry")
    shelf._store = files
    return shelf


def weights(seed: int, shape: Shape = SHAPE) -> np.ndarray:
    count = sum(int(np.prod(size)) for _, size in parameters(shape))
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def published(shelf: Registry, seed: int, *, parent: str | None = None, shape: Shape = SHAPE) -> Manifest:
    """A version that nothing has been taught; a later one for a larger seed."""
    at = BEFORE + seed * 1_000_000
    return shelf.publish(weights(seed, shape), shape, seed=seed, data=DATA, metrics={"skill_1": 0.25}, parent=parent, at=at)


def check(shelf: Registry) -> None:
    """Every version is whole, every name lies on one of them, and each move began where the one before it ended."""
    versions = dict(shelf.versions())
    for version in versions:
        shelf.whole(version)
    moves = shelf.moves()
    assert [move.generation for move in moves] == list(range(1, len(moves) + 1))
    for one, next_one in itertools.pairwise(moves):
        assert next_one.was == one.now
    now = shelf.last().now
    assert {now.champion, now.challenger, now.previous} - {None} <= versions.keys()


# Processes of their own


def turn(shelf: Registry, seed: int) -> None:
    """What a process that trains, and its operator, do with a registry, once."""
    last = shelf.last()
    made = published(shelf, seed, parent=last.now.champion)
    nominated = shelf.nominate(made.version, last, ME)
    promoted = shelf.promote(made.version, nominated, ME)
    if seed % 3 == 2:
        promoted = shelf.rollback(promoted, ME)
    shelf.gc(1, promoted, ME, dry_run=False)


def keep_turning(url: Path, began: Path) -> None:
    """Use a registry until killed."""
    shelf = registry(url)
    for seed in itertools.count(len(shelf.moves())):
        began.touch()
        turn(shelf, seed)


CALLS = ("open", "fsync", "link", "unlink", "mkdir", "rmdir", "lstat")


def turn_until(url: Path, seed: int, nth: int) -> None:
    """One turn, killed before the nth call of the system that touches a file; exits with 0 if there are not as many."""
    calls = itertools.count(1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*given: Any, **named: Any) -> Any:
            if next(calls) == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return called

    shelf = registry(url)
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))
    turn(shelf, seed)
    os._exit(0)


def promote_at_once(url: Path, version: str, generation: int, barrier: Barrier) -> None:
    """Promote what was seen as of a generation, when everybody is there."""
    shelf = registry(url)
    seen = shelf.last()
    assert seen.generation == generation
    barrier.wait(30)
    try:
        shelf.promote(version, seen, ME)
    except MovedFirst:
        os._exit(LOST)
    os._exit(0)
