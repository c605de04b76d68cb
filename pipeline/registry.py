"""Versions of a model, which never change, and the three names that move among them: champion, challenger, previous.

    <url>/<application>/<model>/versions/<version>/weights.safetensors
                                                   moments.safetensors  what the rule of descent remembers, where it is known
                                                   model.json           what makes a version be there: it is written last
                               /aliases/00000001.json, 00000002.json    every move of a name, for good; the newest says who is who

A version is named by its weights (see `models.learner.Learner.version`), so that `model_version` of a forecast finds it. Whoever moves
a name says which move he has seen, and makes the next: of two who have seen the same, one is refused. Nothing is ever overwritten, so
that a process that dies at any point leaves the old or the new.

`Registry.gc` alone removes. It marks what it is going to remove, then makes a move of its own, then removes. A move that has seen that
one finds the marks, or finds nothing, and a move that has not seen it is refused: no name comes to lie on what is being removed.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
import uuid
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import numpy as np
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from pipeline import store
from pipeline.quantities import instant, plain
from pipeline.records import rfc3339

FORMAT = 1
MANIFEST, WEIGHTS, MOMENTS = "model.json", "weights.safetensors", "moments.safetensors"
MARK = "removing."
NAME = re.compile(r"[0-9a-f]{16}")
MOVE = re.compile(r"([0-9]{8})\.json")
MADE_WITH = ("tidecast", "torch", "numpy", "safetensors")
LEFT = 86_400 * 1_000_000  # us after which a file that belongs to no version was left by somebody who died; publishing takes seconds

Parameters = tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes of a network's parameters, in the order of the flat weights


class RegistryError(Exception):
    """Something in the registry is not as it must be, or not there. Says what, and what to do."""


Trouble = RegistryError | store.StoreError


class UnknownVersion(RegistryError):  # noqa: N818 - named for what happened
    """There is no such version, or nothing has that name."""


class Damaged(RegistryError):  # noqa: N818 - named for what happened
    """A file is missing, cut, or changed."""


class ForeignFormat(RegistryError):  # noqa: N818 - named for what happened
    """Written by a program that writes otherwise."""


class NotSafetensors(RegistryError):  # noqa: N818 - named for what happened
    """Weights in a format that is not read here: a pickle may run anything."""


class WrongShape(RegistryError):  # noqa: N818 - named for what happened
    """Weights that the settings beside them do not make."""


class NotFinite(RegistryError):  # noqa: N818 - named for what happened
    """Weights or metrics that are no numbers."""


class OtherContent(RegistryError):  # noqa: N818 - named for what happened
    """A version of that name is there, and says otherwise."""


class MovedFirst(RegistryError):  # noqa: N818 - named for what happened
    """Somebody else has moved a name in the meantime."""


class BeingRemoved(RegistryError):  # noqa: N818 - named for what happened
    """`models gc` is removing this version."""


class Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings that shape a network, as in `models.learner.Config`."""

    model: str
    horizon: int  # steps
    season: int | None  # steps
    step_us: int
    levels: tuple[float, ...]
    hidden: int
    members: int
    columns: int
    covariates: tuple[str, ...]
    ahead: tuple[str, ...]
    gaps: str
    further_seasons: tuple[int, ...] = ()  # steps


class Data(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a version has learnt from: positions of a topic, or a file."""

    first: str  # RFC 3339, of the first and the last observation
    last: str
    observations: int
    positions: dict[str, tuple[int, int]] = {}  # topic/partition: first offset, and the one behind the last
    file: str | None = None
    sha256: str | None = None  # of the observations


class Ancestor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    version: str
    created_at: str


class File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `model.json` says. The lineage is whole, so that ancestors may be removed: parent first."""

    format: int
    version: str
    application: str
    model: str
    created_at: str
    shape: Shape
    seed: int
    data: Data
    metrics: dict[str, float]
    made_with: dict[str, str]
    lineage: tuple[Ancestor, ...]
    parameters: Parameters
    files: dict[str, File]


class Aliases(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None

    def of(self, version: str) -> list[str]:
        """The names that lie on a version."""
        return [name for name, where in msgspec.structs.asdict(self).items() if where == version]


class Move(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A move of names: who, when, why, from where, to where."""

    format: int
    generation: int  # of the first move: 1
    kind: str  # nominate, promote, rollback, dismiss or gc
    at: str
    by: str
    reason: str
    was: Aliases
    now: Aliases
    removed: tuple[str, ...] = ()


NOWHERE = Move(FORMAT, 0, "", "", "", "", Aliases(), Aliases())  # before the first move


class Because(NamedTuple):
    """Who moves a name, when (us since the epoch), and why."""

    by: str
    at: int
    reason: str


class Registry:
    """The versions of one model of one application.

    `parameters`: what a network of given settings is made of; the registry itself knows no network.
    """

    def __init__(self, url: str, *, application: str, model: str, parameters: Callable[[Shape], Parameters]) -> None:
        """Raises StoreError for an address that cannot be used."""
        self.application, self.model = application, model
        self._store = store.opened(f"{url.rstrip('/')}/{application}/{model}")
        self._parameters = parameters

    @property
    def place(self) -> str:
        return str(self._store.root)

    # Versions

    def versions(self) -> list[tuple[str, Manifest | Trouble]]:
        """Every version with what it says, or why it cannot be read; newest first, those that cannot be read last."""
        known = [(name, self._try(name)) for name in self._there() if self._published(name)]
        return sorted(known, key=lambda one: (instant(one[1].created_at) if isinstance(one[1], Manifest) else 0, one[0]), reverse=True)

    def resolve(self, name: str) -> str:
        """The version that an alias lies on, or that has this name. Raises UnknownVersion."""
        if NAME.fullmatch(name):
            return name
        aliases = msgspec.structs.asdict(self.last().now)
        if name not in aliases:
            raise UnknownVersion(f"{plain(name)}: no version; allowed: champion, challenger, previous, or 16 hexadecimal digits")
        if aliases[name] is None:
            raise UnknownVersion(f"there is no {name}: `models list` shows which versions there are")
        return str(aliases[name])

    def manifest(self, version: str) -> Manifest:
        """What a version says of itself. Raises UnknownVersion, Damaged, ForeignFormat."""
        path = f"versions/{version}/{MANIFEST}"
        try:
            data = self._store.read(path)
        except FileNotFoundError:
            raise UnknownVersion(f"{self.place} has no version {version}: `models list` shows which there are") from None
        found = unsealed(data, Manifest, where=f"{self.place}/{path}", remedy=AGAIN)
        if (found.version, found.application, found.model) != (version, self.application, self.model):
            named = f"{found.application}/{found.model} {found.version}"
            raise Damaged(f"{self.place}/{path} is that of {plain(named)}: bring back the one that was here, or remove the folder")
        return found

    def whole(self, version: str) -> tuple[Manifest, np.ndarray]:
        """A version and its flat weights (P,), float32, once all of it has been checked: each file's size and SHA-256, the format, names,
        shapes and kind of the parameters, that they are numbers, that the version's settings make them and that its name is theirs.

        Raises UnknownVersion, Damaged, ForeignFormat, NotSafetensors, WrongShape, NotFinite.
        """
        manifest = self.manifest(version)
        where = f"{self.place}/versions/{version}/{WEIGHTS}"
        flat = joined(self._intact(manifest), manifest.parameters, where)
        refuse_infinite(flat, manifest.parameters, where)
        if name_of(flat) != version:
            raise Damaged(f"{where} holds the weights of {name_of(flat)}: {AGAIN}")
        self._fits(manifest.shape, manifest.parameters, where)
        return manifest, flat

    def moments(self, manifest: Manifest) -> np.ndarray | None:
        """(2, P) float32, checked as the weights are; None: they are not known. Raises what `whole` does."""
        if MOMENTS not in manifest.files:
            return None
        where, parameters = f"{self.place}/versions/{manifest.version}/{MOMENTS}", kept_moments(manifest.parameters)
        flat = joined(self._intact(manifest, MOMENTS), parameters, where)
        refuse_infinite(flat, parameters, where)
        return flat.reshape(2, -1)

    def publish(
        self,
        weights: np.ndarray,
        shape: Shape,
        *,
        seed: int,
        data: Data,
        metrics: Mapping[str, float],
        parent: str | None,
        at: int,
        moments: np.ndarray | None = None,
    ) -> Manifest:
        """Make a version of flat weights (P,), float32; `at` (us since the epoch) is when, `parent` the version they went on from,
        `moments` (2, P) float32 what the rule of descent goes on with.

        One that is there already stays as it is, and is returned. Raises what `whole` does, OtherContent and BeingRemoved.
        """
        parameters = self._parameters(shape)
        flat = np.ascontiguousarray(weights)
        expected = sum(size_of(shape) for _, shape in parameters)
        if flat.dtype != np.float32 or flat.shape != (expected,):
            raise WrongShape(f"weights are {flat.dtype} {flat.shape}, want float32 ({expected},): their settings make as many")
        refuse_infinite(flat, parameters, "the weights")
        strange = [name for name, value in metrics.items() if not np.isfinite(value)]
        if strange:
            raise NotFinite(f"metrics {', '.join(strange)} are no numbers: leave them out, or find out why")
        version, bodies = name_of(flat), {WEIGHTS: save(apart(flat, parameters))}
        if moments is not None:
            refuse_infinite(moments, kept_moments(parameters), "the moments")
            bodies[MOMENTS] = save(apart(np.ascontiguousarray(moments).ravel(), kept_moments(parameters)))
        manifest = Manifest(
            format=FORMAT,
            version=version,
            application=self.application,
            model=self.model,
            created_at=rfc3339(at),
            shape=shape,
            seed=seed,
            data=data,
            metrics={name: float(value) for name, value in metrics.items()},
            made_with=made_with(),
            lineage=self._lineage(parent),
            parameters=parameters,
            files={name: File(len(body), hashlib.sha256(body).hexdigest()) for name, body in bodies.items()},
        )
        self._refuse_marked(version)
        folder = f"versions/{version}"
        there = MANIFEST in self._store.names(folder)
        self._ensure(f"{folder}/{WEIGHTS}", bodies[WEIGHTS], there=there)
        if there:
            return self._same(manifest)
        if MOMENTS in bodies:
            self._ensure(f"{folder}/{MOMENTS}", bodies[MOMENTS], there=False)
        try:
            self._store.create(f"{folder}/{MANIFEST}", sealed(manifest))
        except FileExistsError:
            return self._same(manifest)
        self._refuse_marked(version)  # of a gc that began in the meantime, with a version of that name that was here before
        return manifest

    def export(self, version: str, folder: Path) -> list[Path]:
        """Write a version's files, checked, into a folder on this machine. Raises what `whole` does, and OtherContent."""
        self.whole(version)
        names = (*self.manifest(version).files, MANIFEST)
        return placed(folder, {name: self._store.read(f"versions/{version}/{name}") for name in names})

    def _there(self) -> list[str]:
        return [name for name in self._store.names("versions") if NAME.fullmatch(name)]

    def _published(self, version: str) -> bool:
        """Its model.json is there, and no gc has taken its weights away."""
        names = self._store.names(f"versions/{version}")
        return MANIFEST in names and (WEIGHTS in names or not marks(names))

    def _try(self, version: str) -> Manifest | Trouble:
        try:
            return self.manifest(version)
        except (RegistryError, store.StoreError) as error:
            return error

    def _lineage(self, parent: str | None) -> tuple[Ancestor, ...]:
        if parent is None:
            return ()
        before = self.manifest(parent)
        return (Ancestor(before.version, before.created_at), *before.lineage)

    def _ensure(self, path: str, body: bytes, *, there: bool) -> None:
        """The weights are there, as of now, of a version that is `there`, or of who publishes the same, or did until he died."""
        try:
            self._store.create(path, body)
        except FileExistsError:
            if not there and self._read(path) != body:
                raise Damaged(f"{self.place}/{path} belongs to nothing and is in the way: remove it") from None

    def _read(self, path: str) -> bytes:
        try:
            return self._store.read(path)
        except FileNotFoundError:  # it was there
            raise BeingRemoved(f"`models gc` has just removed {self.place}/{path}: do this again") from None

    def _same(self, wanted: Manifest) -> Manifest:
        try:
            there, _ = self.whole(wanted.version)
        except UnknownVersion:  # it was there
            raise BeingRemoved(f"`models gc` has just removed version {wanted.version}: do this again") from None
        if there.shape != wanted.shape:
            raise OtherContent(f"version {wanted.version} is there, made with other settings: {difference(there.shape, wanted.shape)}")
        return there

    def _fits(self, shape: Shape, parameters: Parameters, where: str) -> None:
        try:
            expected = self._parameters(shape)
        except (ValueError, TypeError, ArithmeticError, RuntimeError) as error:
            raise WrongShape(f"{where}: its settings make no network: {error}") from error
        if expected != parameters:
            raise WrongShape(f"{where}: {unlike(dict(parameters), dict(expected))} by its settings; it is of another release: {AGAIN}")

    def _intact(self, manifest: Manifest, name: str = WEIGHTS) -> bytes:
        """The bytes of a version's file, as they were published."""
        path, expected = f"versions/{manifest.version}/{name}", manifest.files.get(name)
        if expected is None:
            raise Damaged(f"{self.place}/versions/{manifest.version}/{MANIFEST} names no {name}: {AGAIN}")
        try:
            size = self._store.size(path)
            if size != expected.bytes:
                raise Damaged(f"{self.place}/{path} has {size} bytes, published were {expected.bytes}: {AGAIN}")
            data = self._store.read(path)
        except FileNotFoundError:
            self._refuse_marked(manifest.version)
            self.manifest(manifest.version)  # or all of it has gone in the meantime
            raise Damaged(f"{self.place}/{path} is missing: {AGAIN}") from None
        if hashlib.sha256(data).hexdigest() != expected.sha256:
            raise Damaged(f"{self.place}/{path}: its SHA-256 is not the one that was published: {AGAIN}")
        return data

    def _refuse_marked(self, version: str) -> None:
        if marks(self._store.names(f"versions/{version}")):
            raise BeingRemoved(f"`models gc` is removing version {version}, or has died of it: run it again, then this")

    # Names

    def moves(self) -> list[Move]:
        """Every move of a name, oldest first. Raises Damaged, ForeignFormat."""
        return [self._move(int(found[1])) for found in map(MOVE.fullmatch, self._store.names("aliases")) if found]

    def last(self) -> Move:
        """The newest move: its `now` says who is who. Raises Damaged, ForeignFormat."""
        made = [int(found[1]) for found in map(MOVE.fullmatch, self._store.names("aliases")) if found]
        return self._move(max(made)) if made else NOWHERE

    def nominate(self, version: str, seen: Move, because: Because) -> Move:
        """The version is challenger from now on; returns the move. Raises what `promote` does."""
        if version in (seen.now.champion, seen.now.challenger):
            return seen
        self._ready(version)
        return self._make(seen, "nominate", msgspec.structs.replace(seen.now, challenger=version), because)

    def promote(self, version: str, seen: Move, because: Because) -> Move:
        """The version is champion from now on, the one before it previous; returns the move, or `seen` where nothing is to be done.

        Raises what `whole` does, BeingRemoved, and MovedFirst when `seen` is not the newest move any more.
        """
        if version == seen.now.champion:
            return seen
        return self._crown(version, seen, "promote", because, previous=seen.now.champion)

    def rollback(self, seen: Move, because: Because) -> Move:
        """The previous champion is champion again, and nobody previous; returns the move. Raises what `promote` does."""
        version = seen.now.previous
        if version is None:
            raise UnknownVersion("there is no previous champion to go back to: `models promote VERSION` takes any version")
        return self._crown(version, seen, "rollback", because, previous=None)

    def dismiss(self, seen: Move, because: Because) -> Move:
        """Nobody is challenger from now on; returns the move, or `seen` where nobody was. Raises MovedFirst."""
        if seen.now.challenger is None:
            return seen
        return self._make(seen, "dismiss", msgspec.structs.replace(seen.now, challenger=None), because)

    def _crown(self, version: str, seen: Move, kind: str, because: Because, *, previous: str | None) -> Move:
        self._ready(version)
        challenger = None if version == seen.now.challenger else seen.now.challenger
        return self._make(seen, kind, Aliases(version, challenger, previous), because)

    def _ready(self, version: str) -> None:
        self._refuse_marked(version)  # in this order: once gc is done there is no mark any more, and no version
        self.whole(version)

    def _move(self, generation: int) -> Move:
        path = f"aliases/{generation:08d}.json"
        return unsealed(self._store.read(path), Move, where=f"{self.place}/{path}", remedy=BEFORE)

    def _make(self, seen: Move, kind: str, now: Aliases, because: Because, removed: tuple[str, ...] = ()) -> Move:
        generation = seen.generation + 1
        move = Move(FORMAT, generation, kind, rfc3339(because.at), because.by, because.reason, seen.now, now, removed)
        try:
            self._store.create(f"aliases/{generation:08d}.json", sealed(move))
        except FileExistsError:
            first = self._move(generation)
            told = f"{plain(first.by)} was first ({first.kind} at {first.at}; champion is {first.now.champion or 'nobody'})"
            raise MovedFirst(f"{told}: nothing was changed; look again, and decide anew") from None
        return move

    # Removing

    def gc(self, keep: int, seen: Move, because: Because, *, dry_run: bool) -> list[str]:
        """Remove all but the newest versions and those that have a name; returns what goes, or would with `dry_run`.

        Versions that cannot be read are left. What somebody who died has left behind goes, too. Raises MovedFirst, with nothing removed.
        """
        readable = [name for name, found in self.versions() if isinstance(found, Manifest)]
        halves = [name for name in self._there() if self._half_gone(name)]
        doomed = sorted({name for name in [*readable[keep:], *halves] if not seen.now.of(name)})
        if dry_run:
            return doomed
        if doomed:
            mark = MARK + uuid.uuid4().hex
            for name in doomed:
                self._store.create(f"versions/{name}/{mark}", b"")
            try:
                self._make(seen, "gc", seen.now, because, tuple(doomed))
            except MovedFirst:
                for name in doomed:
                    self._store.remove(f"versions/{name}/{mark}")
                raise
            for name in doomed:
                self._remove(name, mark, because.at)
        self._sweep(because.at)
        return doomed

    def _half_gone(self, version: str) -> bool:
        """An earlier gc has died before it was done with it."""
        names = self._store.names(f"versions/{version}")
        return MANIFEST in names and bool(marks(names))

    def _remove(self, version: str, mark: str, now: int) -> None:
        """The weights first: who finds no model.json to go by finds no weights on their way out. The marks last: until then, nobody
        makes the same version anew.
        """
        folder = f"versions/{version}"
        for name in (WEIGHTS, MOMENTS, MANIFEST):
            self._store.remove(f"{folder}/{name}")
        for name in marks(self._store.names(folder)):
            if name == mark or self._old(f"{folder}/{name}", now):
                self._store.remove(f"{folder}/{name}")

    def _sweep(self, now: int) -> None:
        """What was left by those who died: half-written files, and marks. Weights without a model.json stay: whoever publishes them again
        may be about to write it.
        """
        for folder in ("aliases", *(f"versions/{name}" for name in self._there())):
            for name in self._store.names(folder):
                if (name.endswith(store.UNFINISHED) or name.startswith(MARK)) and self._old(f"{folder}/{name}", now):
                    self._store.remove(f"{folder}/{name}")

    def _old(self, path: str, now: int) -> bool:
        try:
            return self._store.age(path, now) > LEFT
        except FileNotFoundError:
            return False


AGAIN = "bring back a copy, or remove its folder, train and publish it again"
BEFORE = "bring back a copy, or remove it, if it is the newest: what was so before it then counts"


@cache
def made_with() -> dict[str, str]:
    return {name: installed(name) for name in MADE_WITH} | {"python": platform.python_version()}


def marks(names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(MARK)]


def placed(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write files into a folder on this machine; those that are there as they are to be stay. Raises OtherContent."""
    for name, data in files.items():
        try:
            store.Folder(folder).create(name, data)
        except FileExistsError:
            if (folder / name).read_bytes() != data:
                raise OtherContent(f"{folder / name} is there, and is another: name another folder") from None
    return [folder / name for name in files]


def name_of(flat: np.ndarray) -> str:
    """A version's name: its weights' hash, as `models.learner.Learner.version`."""
    return hashlib.sha256(flat.tobytes()).hexdigest()[:16]


def kept_moments(parameters: Parameters) -> Parameters:
    """What the moments of flat weights are stored as: the first of all, then the second."""
    size = sum(size_of(shape) for _, shape in parameters)
    return (("first", (size,)), ("second", (size,)))


def size_of(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64))


def apart(flat: np.ndarray, parameters: Parameters) -> dict[str, np.ndarray]:
    """Flat weights as parameters by name."""
    ends = np.cumsum([size_of(shape) for _, shape in parameters])
    return {name: flat[end - size_of(shape) : end].reshape(shape) for (name, shape), end in zip(parameters, ends, strict=True)}


def joined(data: bytes, parameters: Parameters, where: str) -> np.ndarray:
    """The inverse of `apart` and `save`. Raises NotSafetensors, WrongShape."""
    try:
        tensors = dict(deserialize(data))  # type: ignore[no-untyped-call]
    except SafetensorError as error:
        raise NotSafetensors(f"{where} is not safetensors, and nothing else is read: {error}") from error
    strange = [f"{name} is {one['dtype']}" for name, one in tensors.items() if one["dtype"] != "F32"]
    if strange:
        raise WrongShape(f"{where}: {strange[0]}, want F32: {AGAIN}")
    found = {name: tuple(one["shape"]) for name, one in tensors.items()}
    if found != dict(parameters):
        raise WrongShape(f"{where}: {unlike(found, dict(parameters))} by its {MANIFEST}: {AGAIN}")
    return np.concatenate([np.frombuffer(tensors[name]["data"], "<f4") for name, _ in parameters])


def unlike(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]]) -> str:
    """The first parameter of which two tables say different things.

    >>> unlike({"a": (2,)}, {"a": (3,)}), unlike({}, {"a": (3,)})
    ('a is (2,), want (3,)', 'a is missing, want (3,)')
    """
    name = min(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    return f"{plain(name)} is {found.get(name, 'missing')}, want {expected.get(name, 'nothing')}"


def difference(there: Shape, wanted: Shape) -> str:
    old, new = msgspec.structs.asdict(there), msgspec.structs.asdict(wanted)
    return ", ".join(f"{name} {plain(old[name])}, not {plain(new[name])}" for name in old if old[name] != new[name])


def refuse_infinite(flat: np.ndarray, parameters: Parameters, where: str) -> None:
    if not np.isfinite(flat).all():
        name = next(name for name, one in apart(flat, parameters).items() if not np.isfinite(one).all())
        raise NotFinite(f"{where}: {name} holds what is no number; such weights serve nobody: train again")


# Files of JSON

S = TypeVar("S", Manifest, Move)


def sealed(content: Manifest | Move) -> bytes:
    """As JSON, with the SHA-256 of its fields."""
    fields = msgspec.to_builtins(content)
    return json.dumps({"sha256": seal_of(fields), **fields}, indent=1).encode()


def unsealed(data: bytes, kind: type[S], *, where: str, remedy: str) -> S:
    """The inverse of `sealed`. Raises Damaged, with what can be done, and ForeignFormat."""
    try:
        fields = json.loads(data)
        seal, found = fields.pop("sha256"), fields["format"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{where} cannot be read: {remedy}") from error
    if found != FORMAT:
        raise ForeignFormat(f"{where} has format {plain(found)}, this program reads {FORMAT}: use the release that wrote it")
    if seal != seal_of(fields):
        raise Damaged(f"{where}: its SHA-256 is not that of what it says: {remedy}")
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise Damaged(f"{where}: {error}: {remedy}") from error


def seal_of(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
