"""Versions are whole or refused by name; of two who move a name one does; what has a name is never removed."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from arrivals import Stream, small, wavy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from safetensors.numpy import load, save
from shelves import BEFORE, DATA, ME, SHAPE, check, in_memory, over, published, registry, weights

from models.learner import Learner
from pipeline.configure import parameters_of, shape_of
from pipeline.registry import (
    LEFT,
    MANIFEST,
    WEIGHTS,
    Aliases,
    BeingRemoved,
    Damaged,
    ForeignFormat,
    Manifest,
    Move,
    MovedFirst,
    NotFinite,
    NotSafetensors,
    OtherContent,
    Registry,
    RegistryError,
    UnknownVersion,
    WrongShape,
    seal_of,
    sealed,
)
from pipeline.store import Store, StoreError

# Publishing


@pytest.fixture(scope="module")
def learner() -> Learner:
    """A small one, taught."""
    return Stream(wavy(40, 3), small(members=2)).play().learner


def test_weights_that_were_learnt_come_back_and_a_learner_goes_on_from_them_under_the_name_of_the_version(
    learner: Learner, tmp_path: Path
) -> None:
    shelf = registry(tmp_path, of=parameters_of)
    learnt = learner.descent.average.numpy()
    made = shelf.publish(learnt, shape_of(learner.config), seed=0, data=DATA, metrics={"skill_1": 0.1}, parent=None, at=BEFORE)
    said, flat = registry(tmp_path, of=parameters_of).whole(made.version)
    assert said == made
    assert flat.tobytes() == learnt.tobytes()
    heir = Learner(learner.config)
    heir.adopt(torch.from_numpy(flat.copy()), learner.descent.moments, learner.descent.steps)
    assert heir.version == made.version != learner.version


def test_a_version_is_plain_safetensors_by_parameter_and_plain_json(learner: Learner, tmp_path: Path) -> None:
    shelf = registry(tmp_path, of=parameters_of)
    made = shelf.publish(learner.descent.weights.numpy(), shape_of(learner.config), seed=0, data=DATA, metrics={}, parent=None, at=BEFORE)
    folder = tmp_path / "tidecast" / "default" / "versions" / made.version
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, WEIGHTS]
    there = load((folder / WEIGHTS).read_bytes())
    for name, parameter in learner.descent.flat.network.named_parameters():
        assert there.pop(name).tobytes() == parameter.detach().numpy().tobytes()
    assert there == {}
    said = json.loads((folder / MANIFEST).read_text())
    assert said["files"][WEIGHTS]["sha256"] == hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    assert (said["shape"]["hidden"], said["created_at"], said["data"]["positions"]) == (16, "2026-01-01T00:00:00Z", {"meters/0": [0, 744]})


def test_a_version_that_is_there_stays_as_it_is() -> None:
    shelf = in_memory()
    first = published(shelf, 1)
    assert published(shelf, 1) == first
    later = shelf.publish(weights(1), SHAPE, seed=9, data=DATA, metrics={}, parent=None, at=BEFORE * 2)
    assert later == first == shelf.manifest(first.version)
    assert len(shelf.versions()) == 1


def test_the_same_weights_under_other_settings_are_refused_with_the_difference() -> None:
    shelf = in_memory()
    made = published(shelf, 1)
    with pytest.raises(OtherContent, match=f"{made.version} is there, made with other settings: season 24, not 7"):
        published(shelf, 1, shape=msgspec.structs.replace(SHAPE, season=7))


def test_a_version_tells_its_parents_after_they_are_gone() -> None:
    shelf = in_memory()
    parent, made = None, []
    for seed in range(4):
        made.append(published(shelf, seed, parent=parent))
        parent = made[-1].version
    shelf.promote(parent, shelf.last(), ME)
    assert shelf.gc(0, shelf.last(), ME, dry_run=False) == sorted(one.version for one in made[:3])
    (left,) = shelf.versions()
    assert [(one.version, one.created_at) for one in left[1].lineage] == [(one.version, one.created_at) for one in reversed(made[:3])]


def test_a_parent_that_is_not_there_is_refused() -> None:
    with pytest.raises(UnknownVersion, match="has no version 0000000000000000"):
        published(in_memory(), 1, parent="0" * 16)


@pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_not_published(spoilt: float) -> None:
    shelf, bad = in_memory(), weights(1)
    bad[50] = spoilt
    with pytest.raises(NotFinite, match="head holds what is no number"):
        shelf.publish(bad, SHAPE, seed=0, data=DATA, metrics={}, parent=None, at=BEFORE)
    assert shelf.versions() == []


@pytest.mark.parametrize("bad", [weights(1)[:-1], weights(1).astype(np.float64), weights(1)[None], np.zeros(0, np.float32)])
def test_weights_that_their_settings_do_not_make_are_not_published(bad: np.ndarray) -> None:
    shelf = in_memory()
    with pytest.raises(WrongShape, match=r"want float32 \(52,\)"):
        shelf.publish(bad, SHAPE, seed=0, data=DATA, metrics={}, parent=None, at=BEFORE)
    assert shelf.versions() == []


def test_metrics_that_are_no_numbers_are_not_published() -> None:
    with pytest.raises(NotFinite, match="metrics skill_1"):
        in_memory().publish(weights(1), SHAPE, seed=0, data=DATA, metrics={"skill_1": np.nan}, parent=None, at=BEFORE)


# Damage


def folder_of(root: Path, version: str) -> Path:
    return root / "tidecast" / "default" / "versions" / version


def forged(folder: Path, weights: bytes | None = None, **changes: Any) -> None:
    """A version whose every seal fits, by somebody who knows how."""
    said = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=dict)
    if weights is not None:
        (folder / WEIGHTS).write_bytes(weights)
        said["files"] = {WEIGHTS: {"bytes": len(weights), "sha256": hashlib.sha256(weights).hexdigest()}}
    said |= changes
    said.pop("sha256")
    (folder / MANIFEST).write_text(json.dumps({"sha256": seal_of(said), **said}))


class Evil:
    """Would do harm if it were unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("harm",)


TENSORS = {"embed": weights(1)[:48].reshape(16, 3), "head": weights(1)[48:]}
NOT_A_NUMBER = TENSORS | {"head": np.array([1, np.nan, 2, 3], np.float32)}
HUGE_HEADER = (1 << 60).to_bytes(8, "little") + b"{" * 64

SPOILT: dict[str, tuple[Callable[[Path], object], type[Exception], str]] = {
    "a byte changed": (lambda f: flip(f / WEIGHTS, 300), Damaged, "SHA-256 is not the one"),
    "cut": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-4]), Damaged, "has .* bytes, published were"),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), Damaged, "has 0 bytes"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), Damaged, "is missing"),
    "a link": (lambda f: linked(f / WEIGHTS), StoreError, "a symbolic link leads elsewhere"),
    "a pickle": (lambda f: forged(f, pickle.dumps(Evil())), NotSafetensors, "is not safetensors, and nothing else is read"),
    "a huge header": (lambda f: forged(f, HUGE_HEADER), NotSafetensors, "header too large"),
    "not finite": (lambda f: forged(f, save(NOT_A_NUMBER)), NotFinite, "head holds what is no number"),
    "a tensor less": (lambda f: forged(f, save({"embed": TENSORS["embed"]})), WrongShape, r"head is missing, want \(4,\)"),
    "a tensor more": (lambda f: forged(f, save(TENSORS | {"x": TENSORS["head"]})), WrongShape, r"x is \(4,\), want nothing"),
    "turned": (lambda f: forged(f, save(TENSORS | {"embed": TENSORS["embed"].T.copy()})), WrongShape, r"is \(3, 16\), want \(16, 3\)"),
    "halves": (lambda f: forged(f, save({k: v.astype(np.float16) for k, v in TENSORS.items()})), WrongShape, "F16, want F32"),
    "other weights": (lambda f: forged(f, save({k: v + 1 for k, v in TENSORS.items()})), Damaged, "holds the weights of"),
    "other settings": (
        lambda f: forged(f, shape=msgspec.to_builtins(SHAPE) | {"hidden": 32}),
        WrongShape,
        r"embed is \(16, 3\), want \(32, 3\)",
    ),
    "another's": (lambda f: forged(f, application="other"), Damaged, "is that of other/default"),
    "a later format": (lambda f: forged(f, format=2), ForeignFormat, "has format 2, this program reads 1"),
    "a field more": (lambda f: forged(f, extra=1), Damaged, "unknown field `extra`"),
    "no json": (lambda f: (f / MANIFEST).write_bytes(b"\x80\x04"), Damaged, "model.json cannot be read"),
    "deep json": (lambda f: (f / MANIFEST).write_bytes(b"[" * 100_000), Damaged, "model.json cannot be read"),
    "changed json": (lambda f: replaced(f / MANIFEST, b"0.25", b"0.95"), Damaged, "SHA-256 is not that of what it says"),
}


def flip(path: Path, at: int, bit: int = 1) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= bit
    path.write_bytes(data)


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def replaced(path: Path, old: bytes, new: bytes) -> None:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize("how", SPOILT)
def test_what_is_not_whole_is_refused_by_name_and_the_champion_stays(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spoil, kind, says = SPOILT[how]
    shelf = registry(tmp_path)
    champion, version = published(shelf, 0).version, published(shelf, 1).version
    seen = shelf.promote(champion, shelf.last(), ME)
    spoil(folder_of(tmp_path, version))
    for ask in (lambda: shelf.whole(version), lambda: shelf.promote(version, seen, ME), lambda: shelf.nominate(version, seen, ME)):
        with pytest.raises(kind, match=says) as refused:
            ask()
        assert str(refused.value).count("\n") == 0
    assert shelf.last() == seen
    assert shelf.whole(champion)[0].version == champion
    assert {name for name, _ in shelf.versions()} == {champion, version}
    assert not (tmp_path / "harm").exists()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a version lies that whoever spoils it makes whole again."""
    root = tmp_path_factory.mktemp("registry")
    return folder_of(root, published(registry(root), 1).version)


@settings(max_examples=150)
@given(data=st.data())
def test_no_flipped_bit_of_a_version_goes_unseen(data: st.DataObject, lasting: Path) -> None:
    path = lasting / data.draw(st.sampled_from([WEIGHTS, MANIFEST]))
    content = path.read_bytes()
    bit = data.draw(st.integers(0, len(content) * 8 - 1))
    flip(path, bit // 8, 1 << bit % 8)
    try:
        said, flat = registry(lasting.parents[3]).whole(lasting.name)
    except RegistryError:
        return
    finally:
        path.write_bytes(content)
    assert path.name == MANIFEST  # JSON may say the same with other bytes: 1e-5 and 1E-5
    assert said == registry(lasting.parents[3]).manifest(lasting.name)
    assert flat.tobytes() == weights(1).tobytes()


def test_a_damaged_move_is_refused_and_the_one_before_it_counts_once_it_is_removed(tmp_path: Path) -> None:
    shelf = registry(tmp_path)
    versions = [published(shelf, seed).version for seed in range(2)]
    first = shelf.promote(versions[0], shelf.last(), ME)
    shelf.promote(versions[1], first, ME)
    newest = tmp_path / "tidecast" / "default" / "aliases" / "00000002.json"
    replaced(newest, versions[0].encode(), versions[1].encode())
    with pytest.raises(Damaged, match=r"00000002\.json: its SHA-256 .* remove it, if it is the newest"):
        shelf.last()
    newest.unlink()
    assert shelf.last() == first


def test_a_list_shows_what_cannot_be_read_beside_what_can(tmp_path: Path) -> None:
    shelf = registry(tmp_path)
    versions = [published(shelf, seed).version for seed in range(3)]
    (folder_of(tmp_path, versions[1]) / MANIFEST).write_bytes(b"")
    assert [name for name, _ in shelf.versions()] == [versions[2], versions[0], versions[1]]
    assert [type(said) for _, said in shelf.versions()] == [Manifest, Manifest, Damaged]
    assert shelf.gc(0, shelf.last(), ME, dry_run=True) == sorted([versions[0], versions[2]])


# Names


def test_names_move_as_an_operator_would_say() -> None:
    shelf = in_memory()
    a, b, c = (published(shelf, seed).version for seed in range(3))
    for act, expected in (
        (lambda seen: shelf.nominate(a, seen, ME), Aliases(None, a, None)),
        (lambda seen: shelf.promote(a, seen, ME), Aliases(a, None, None)),
        (lambda seen: shelf.nominate(b, seen, ME), Aliases(a, b, None)),
        (lambda seen: shelf.promote(c, seen, ME), Aliases(c, b, a)),
        (lambda seen: shelf.promote(b, seen, ME), Aliases(b, None, c)),
        (lambda seen: shelf.promote(b, seen, ME), Aliases(b, None, c)),
        (lambda seen: shelf.rollback(seen, ME), Aliases(c, None, None)),
    ):
        move = act(shelf.last())
        assert shelf.last() == move
        assert move.now == expected
    with pytest.raises(UnknownVersion, match="there is no previous champion"):
        shelf.rollback(shelf.last(), ME)
    assert [(one.generation, one.kind, one.by, one.reason) for one in shelf.moves()] == [
        (k + 1, kind, "me", "to try it") for k, kind in enumerate(["nominate", "promote", "nominate", "promote", "promote", "rollback"])
    ]
    assert (shelf.resolve("champion"), shelf.resolve(a)) == (c, a)
    for name, says in (
        ("challenger", "there is no challenger"),
        ("../x", "no version; allowed: champion"),
        ("ABCDEF0123456789", "no version"),
    ):
        with pytest.raises(UnknownVersion, match=says):
            shelf.resolve(name)


def test_who_has_not_seen_the_newest_move_is_told_who_was_first() -> None:
    shelf = in_memory()
    a, b = (published(shelf, seed).version for seed in range(2))
    seen = shelf.last()
    shelf.promote(a, seen, ME._replace(by="ann\n"))
    for late in (lambda: shelf.promote(b, seen, ME), lambda: shelf.nominate(b, seen, ME), lambda: shelf.gc(0, seen, ME, dry_run=False)):
        with pytest.raises(MovedFirst, match=rf"ann\\n was first \(promote at 2026-01-01T00:00:00Z; champion is {a}\)"):
            late()
    assert shelf.last().now == Aliases(champion=a)
    assert len(shelf.versions()) == 2
    shelf.promote(b, shelf.last(), ME)  # nor is a mark of the gc left that was refused


class Operators(RuleBasedStateMachine):
    """Some who look, and act on what they saw, whenever that was."""

    def __init__(self) -> None:
        super().__init__()
        self.shelf = in_memory()
        self.seen: list[Move] = [self.shelf.last()] * 3
        self.newest = self.shelf.last()
        self.made: list[str] = []
        self.gone: set[str] = set()

    who = st.integers(0, 2)

    @rule(who=who)
    def look(self, who: int) -> None:
        self.seen[who] = self.shelf.last()

    @rule(seed=st.integers(0, 5))
    def publish(self, seed: int) -> None:
        version = published(self.shelf, seed).version
        self.gone.discard(version)
        self.made.append(version)

    @precondition(lambda self: self.made)
    @rule(who=who, pick=st.integers(0, 100), kind=st.sampled_from(["promote", "nominate", "rollback", "gc"]), keep=st.integers(0, 3))
    def act(self, who: int, pick: int, kind: str, keep: int) -> None:
        seen, version = self.seen[who], self.made[pick % len(self.made)]
        before = {name for name, _ in self.shelf.versions()}
        try:
            if kind == "gc":
                removed = self.shelf.gc(keep, seen, ME, dry_run=False)
                assert not {*removed} & {*msgspec.structs.astuple(seen.now)}
                self.gone |= {*removed}
            else:
                move = self.shelf.rollback(seen, ME) if kind == "rollback" else getattr(self.shelf, kind)(version, seen, ME)
        except MovedFirst:
            assert seen != self.newest
            assert self.shelf.last() == self.newest
            assert {name for name, _ in self.shelf.versions()} == before
        except UnknownVersion:
            assert seen.now.previous is None or seen != self.newest if kind == "rollback" else version in self.gone
        else:
            done = self.shelf.last()
            assert done.generation - self.newest.generation in (0, 1)
            assert self.newest in (done, seen)  # who moves has seen the newest
            if kind != "gc":
                assert move in (done, seen)
            self.newest = done

    @invariant()
    def all_is_whole(self) -> None:
        assert self.shelf.last() == self.newest
        check(self.shelf)


Operators.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
test_whoever_acts_on_what_was_seen_whenever_that_was = Operators.TestCase


# Removing


def test_the_newest_stay_and_those_that_have_a_name() -> None:
    shelf = in_memory()
    made = [published(shelf, seed).version for seed in range(8)]
    shelf.promote(made[1], shelf.last(), ME)
    shelf.promote(made[2], shelf.last(), ME)
    shelf.nominate(made[0], shelf.last(), ME)
    expected = sorted(made[3:6])
    assert shelf.gc(2, shelf.last(), ME, dry_run=True) == expected
    assert len(shelf.versions()) == 8
    assert shelf.gc(2, shelf.last(), ME, dry_run=False) == expected
    assert [name for name, _ in shelf.versions()] == [made[k] for k in (7, 6, 2, 1, 0)]
    assert (shelf.last().kind, shelf.last().removed) == ("gc", tuple(expected))
    last = shelf.last()
    assert shelf.gc(2, last, ME, dry_run=False) == []
    assert shelf.last() == last
    check(shelf)


class Between:
    """A store in which something else happens before its nth use."""

    def __init__(self, files: Store, nth: int, happens: Callable[[], None]) -> None:
        self.files, self.left, self.happens = files, nth, happens

    def __getattr__(self, name: str) -> Any:
        if name == "root":
            return self.files.root

        def used(*given: Any) -> Any:
            self.left -= 1
            if self.left == 0:
                self.happens()
            return getattr(self.files, name)(*given)

        return used


def crossed(
    first: Callable[[Registry], object], second: Callable[[Registry], object], arrange: Callable[[Registry], object]
) -> set[tuple[str, str]]:
    """How the two end, for each use of the store by the first that all of the second may fall before; all must be whole each time."""
    ends: set[tuple[str, str]] = set()

    def end(act: Callable[[Registry], object], shelf: Registry) -> str:
        try:
            act(shelf)
        except RegistryError as error:
            return type(error).__name__
        return "done"

    for nth in range(1, 200):
        shelf = in_memory()
        arrange(shelf)
        said: list[str] = []
        other = over(shelf._store)
        between = Between(shelf._store, nth, lambda other=other, said=said: said.append(end(second, other)))
        how = end(first, over(between))
        check(other)
        if between.left > 0:
            assert nth > 5
            return ends
        ends.add((how, said[0]))
    raise AssertionError("it does not end")


def two_versions(shelf: Registry) -> None:
    """The second is champion, and the first may go."""
    published(shelf, 0)
    shelf.promote(published(shelf, 1).version, shelf.last(), ME)


OLD = published(in_memory(), 0).version


def promote_old(shelf: Registry) -> None:
    shelf.promote(OLD, shelf.last(), ME)


def remove_old(shelf: Registry) -> None:
    shelf.gc(0, shelf.last(), ME, dry_run=False)


def publish_old(shelf: Registry) -> None:
    published(shelf, 0)


def test_a_removal_in_the_middle_of_a_promotion_leaves_no_name_without_a_version() -> None:
    ends = crossed(promote_old, remove_old, two_versions)
    assert ends >= {("UnknownVersion", "done"), ("MovedFirst", "done")}
    assert {second for _, second in ends} == {"done"}


def test_a_promotion_in_the_middle_of_a_removal_leaves_no_name_without_a_version() -> None:
    ends = crossed(remove_old, promote_old, two_versions)
    assert ends >= {("done", "done"), ("MovedFirst", "done"), ("done", "BeingRemoved"), ("done", "UnknownVersion")}
    assert not ends & {("MovedFirst", "BeingRemoved")}


@pytest.mark.parametrize(
    "acts", [(publish_old, remove_old), (remove_old, publish_old), (publish_old, publish_old), (remove_old, remove_old)]
)
def test_who_publishes_and_who_removes_the_same_version_leave_it_whole_or_not_at_all(acts: tuple[Callable[[Registry], None], ...]) -> None:
    assert ("done", "done") in crossed(*acts, two_versions)


def test_what_somebody_left_who_died_before_his_model_json_is_taken_up_or_named(tmp_path: Path) -> None:
    shelf = registry(tmp_path)
    folder = folder_of(tmp_path, published(shelf, 0).version)
    (folder / MANIFEST).unlink()
    assert shelf.versions() == []
    assert shelf.gc(0, shelf.last(), ME, dry_run=False) == []
    published(shelf, 0)
    check(shelf)
    (folder / MANIFEST).unlink()
    flip(folder / WEIGHTS, 300)
    with pytest.raises(Damaged, match="belongs to nothing and is in the way"):
        published(shelf, 0)


def test_what_the_dead_have_left_is_removed_after_a_day_and_not_before(tmp_path: Path) -> None:
    shelf = registry(tmp_path)
    two_versions(shelf)
    root = tmp_path / "tidecast" / "default"
    champion = shelf.resolve("champion")
    left = [root / "versions" / champion / ".x.unfinished", root / "aliases" / ".x.unfinished", root / "versions" / champion / "removing.1"]
    for path in left:
        path.write_bytes(b"")
    now = time.time_ns() // 1_000
    shelf.gc(9, shelf.last(), ME._replace(at=now), dry_run=False)
    assert all(path.exists() for path in left)
    shelf.gc(9, shelf.last(), ME._replace(at=now + LEFT + 60_000_000), dry_run=False)
    assert not any(path.exists() for path in left)
    check(shelf)


def test_a_removal_that_was_cut_short_is_finished_by_the_next(tmp_path: Path) -> None:
    shelf = registry(tmp_path)
    two_versions(shelf)
    (folder_of(tmp_path, OLD) / "removing.1").write_bytes(b"")
    for refused in (promote_old, publish_old):
        with pytest.raises(BeingRemoved, match="run it again"):
            refused(shelf)
    assert shelf.gc(9, shelf.last(), ME, dry_run=False) == [OLD]
    assert [name for name, _ in shelf.versions()] == [shelf.resolve("champion")]
    assert shelf.gc(9, shelf.last(), ME, dry_run=False) == []


# What is written


def test_a_store_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "tidecast").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        published(registry(tmp_path), 1)


def test_what_is_sealed_says_who_and_why_whatever_they_wrote() -> None:
    shelf = in_memory()
    version = published(shelf, 1).version
    odd = ME._replace(by="\udcff", reason="\x1b[31m\n\u2028")
    assert shelf.promote(version, shelf.last(), odd) == shelf.last()
    assert (shelf.last().by, shelf.last().reason) == (odd.by, odd.reason)


def test_a_version_is_exported_as_it_is_and_over_no_other(tmp_path: Path) -> None:
    shelf = in_memory()
    a, b = (published(shelf, seed).version for seed in range(2))
    out = tmp_path / "out"
    for _ in range(2):
        assert shelf.export(a, out) == [out / WEIGHTS, out / MANIFEST]
    assert load((out / WEIGHTS).read_bytes())["head"].tobytes() == weights(0)[48:].tobytes()
    assert sealed(shelf.manifest(a)) == (out / MANIFEST).read_bytes()
    with pytest.raises(OtherContent, match=r"weights\.safetensors is there, and is another"):
        shelf.export(b, out)


class Turns:
    """Threads that use a store one use at a time, in an order that is told."""

    def __init__(self, acts: list[Callable[[Registry], object]], files: Store) -> None:
        self.ends: list[str] = ["" for _ in acts]
        self.go = [threading.Semaphore(0) for _ in acts]
        self.came = threading.Semaphore(0)
        self.threads = [threading.Thread(target=self.run, args=(k, act, files)) for k, act in enumerate(acts)]

    def run(self, k: int, act: Callable[[Registry], object], files: Store) -> None:
        end = "died"
        try:
            act(over(Waits(files, self, k)))
            end = "done"
        except RegistryError as error:
            end = type(error).__name__
        finally:
            self.ends[k] = end
            self.came.release()

    def play(self, order: Iterator[int]) -> list[str]:
        """How each of them ends; who is next is what `order` says, of those who are not at their end."""
        for thread in self.threads:
            thread.start()
            self.came.acquire()
        while left := [k for k, end in enumerate(self.ends) if not end]:
            self.go[left[next(order) % len(left)]].release()
            self.came.acquire()
        for thread in self.threads:
            thread.join()
        return self.ends


class Waits:
    """A store each use of which waits for its turn."""

    def __init__(self, files: Store, turns: Turns, k: int) -> None:
        self.files, self.turns, self.k = files, turns, k

    def __getattr__(self, name: str) -> Any:
        if name == "root":
            return self.files.root

        def used(*given: Any) -> Any:
            self.turns.came.release()
            self.turns.go[self.k].acquire()
            return getattr(self.files, name)(*given)

        return used


def in_turns(first: Callable[[Registry], object], second: Callable[[Registry], object], uses: Sequence[int]) -> tuple[str, ...]:
    """How two end who take turns of so many uses of the store; after those the second to its end, or the first, whose turn it is."""
    shelf = in_memory()
    two_versions(shelf)
    order = itertools.chain(*(itertools.repeat(k % 2, count) for k, count in enumerate(uses)), itertools.repeat(len(uses) % 2))
    ends = Turns([first, second], shelf._store).play(order)
    assert {*ends} <= {"done", "MovedFirst", "BeingRemoved", "UnknownVersion"}
    check(shelf)
    return tuple(ends)


def test_a_promotion_in_two_parts_around_parts_of_a_removal_leaves_no_name_without_a_version() -> None:
    ends = {in_turns(remove_old, promote_old, (n, m)) for n in range(5, 14) for m in range(1, 7)}
    assert ends >= {("done", "MovedFirst"), ("done", "BeingRemoved"), ("done", "UnknownVersion")}


def test_a_version_published_in_three_parts_around_parts_of_its_removal_is_whole_or_not_there() -> None:
    ends = {in_turns(publish_old, remove_old, (1, m, n)) for m in range(4, 14) for n in range(1, 5)}
    assert ends >= {("done", "done"), ("BeingRemoved", "done")}
