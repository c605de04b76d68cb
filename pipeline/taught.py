"""A taught model as a file: a learner as a backtest's warm-up has left it, for a stream to start from.

The file is a header (magic, format version, SHA-256 of the body) and the body: settings that shape the learner, the time that
it was taught up to, and the parts of `models.learner.Learner.snapshot`. Never pickle.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch

from models.handover import Incoming
from models.learner import Config, Learner, device_of
from models.snapshot import SnapshotDamaged
from pipeline.configure import parameters_of, shape_of, shaping
from pipeline.events import START
from pipeline.quantities import duration_text
from pipeline.registry import Registry, RegistryError, difference
from pipeline.store import StoreError

MAGIC = b"TIDEMODL"
VERSION = 1
NAME = 16  # digits of a version's name
HEADER = struct.Struct(">8sI32s")  # magic, version, SHA-256 of the body


class NotTaught(ValueError):  # noqa: N818 - reads as what happened
    """The file is not what a stream with these settings can start from; says all that is wrong with it."""


class Taught(NamedTuple):
    """What a stream starts from."""

    learner: Learner
    until: int  # us: the end of the newest step that it has seen
    sha256: str  # of the file's body; of a published version, its name


def save(file: Path, learner: Learner, *, columns: Sequence[str], until: int) -> None:
    """Write the learner, whole or not at all; `columns` of wide records. Raises OSError."""
    body = msgspec.msgpack.encode([named(learner.config, columns), until, learner.snapshot()])
    beside = file.with_name(file.name + ".unfinished")
    try:
        beside.write_bytes(HEADER.pack(MAGIC, VERSION, hashlib.sha256(body).digest()) + body)
        beside.replace(file)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def load(file: Path, config: Config, *, columns: Sequence[str]) -> Taught:
    """The inverse, for a stream with this config. Raises NotTaught naming every setting that differs, or what is wrong with the file."""
    body = read(file)
    then, until, parts = msgspec.msgpack.decode(body)
    now = named(config, columns)
    wrong = [f"{name} was {then.get(name)} and is {now[name]}" for name in now if then.get(name) != now[name]]
    if wrong:
        raise NotTaught(f"learn.start_from = {file}: taught with other settings: {'; '.join(wrong)}; allowed: the same")
    try:
        learner = Learner.restore(config, parts)
    except SnapshotDamaged as error:
        raise NotTaught(f"learn.start_from = {file}: {error}") from error
    learner.start()
    return Taught(learner, until, hashlib.sha256(body).hexdigest())


class Published(NamedTuple):
    """A version of a model in a registry."""

    url: str
    application: str
    version: str | None = None  # None: who is champion when it is asked for; empty: none
    moments: bool = True  # of the rule of descent, too


def published(source: Published, config: Config) -> Taught | None:
    """A learner with the version's weights, which knows no series yet; None: nobody is champion.

    Raises NotTaught: it is damaged, gone, or of other settings.
    """
    try:
        registry = registry_of(source)
        version = registry.last().now.champion if source.version is None else source.version
    except (StoreError, RegistryError) as error:
        raise NotTaught(f"registry.url = {source.url}: {error}") from error
    if not version:
        return None
    given = incoming(source._replace(version=version), config)
    learner = Learner(config)
    learner.adopt(given.weights, given.moments, 0)
    learner.start()
    return Taught(learner, START, version)


def incoming(source: Published, config: Config) -> Incoming:
    """A version's weights and moments, checked whole, for a learner with this config. Raises NotTaught as `published` does."""
    assert source.version, "asked for by name"
    try:
        registry = registry_of(source)
        manifest, weights = registry.whole(source.version)
        moments = registry.moments(manifest) if source.moments else None
    except (StoreError, RegistryError) as error:
        raise NotTaught(f"registry.url = {source.url}: {error}") from error
    if manifest.shape != shape_of(config):
        wrong = difference(manifest.shape, shape_of(config))
        said = f"version {source.version} was made with other settings: {wrong}; allowed: the same, or another registry.url or version"
        raise NotTaught(f"registry.url = {source.url}: {said}")
    device = device_of(config)
    known = None if moments is None else torch.from_numpy(moments.copy()).to(device)
    return Incoming(source.version, torch.from_numpy(weights.copy()).to(device), known)


def registry_of(source: Published) -> Registry:
    return Registry(source.url, application=source.application, model="default", parameters=parameters_of)


def read(file: Path) -> bytes:
    """The body of a file. Raises NotTaught if it is missing, cut, changed, or of another format."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise NotTaught(f"learn.start_from = {file}: {error.strerror}") from error
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise NotTaught(f"learn.start_from = {file}: not a taught model; allowed: what `tidecast backtest --save` wrote")
    _, version, digest = HEADER.unpack_from(data)
    if version != VERSION:
        raise NotTaught(f"learn.start_from = {file}: has format {version}, this program reads {VERSION}")
    body = data[HEADER.size :]
    if hashlib.sha256(body).digest() != digest:
        raise NotTaught(f"learn.start_from = {file}: damaged, its SHA-256 differs from its header")
    return body


def named(config: Config, columns: Sequence[str]) -> dict[str, Any]:
    """The settings that the file is shaped by, as names and plain values."""
    own = {
        "series.step": duration_text(config.step_us),
        "input.values": list(columns),
        "learn.optimiser": config.optimiser,
        "learn.members": config.members,
    }
    return own | shaping(config)
