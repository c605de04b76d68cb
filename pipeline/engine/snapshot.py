"""A folder of snapshot files: a header that detects every damage, and writes that are whole or not there.

A file is a header (magic, format version, length and SHA-256 of the body) and the body, in pieces as they come: what is large is
not copied. It is written beside its name, synced, renamed, and the folder synced: after `write` returns, a power cut cannot take it back.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterable
from pathlib import Path

from pipeline.engine.protocols import nowhere

MAGIC = b"TIDESNAP"
VERSION = 2  # 1: state within the image
HEADER = struct.Struct(">8sIQ32s")  # magic, version, bytes of the body, SHA-256 of the body
SUFFIX = ".snapshot"
UNFINISHED = ".unfinished"


class Damaged(Exception):  # noqa: N818 - named for what happened
    """A snapshot file that cannot be used. Says which, and what is wrong with it."""


class Folder:
    """Snapshot files by id.

    >>> import tempfile
    >>> folder = Folder(Path(tempfile.mkdtemp()))
    >>> folder.write("0001", [b"st", b"ate"])
    >>> folder.ids(), bytes(folder.read("0001"))
    (['0001'], b'state')
    """

    def __init__(self, path: Path, point: Callable[[str], None] = nowhere) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._point = point

    def write(self, name: str, body: Iterable[bytes | memoryview]) -> None:
        """Put a snapshot on disk, for good. Raises OSError, and leaves the other files as they are."""
        target = self.path / (name + SUFFIX)
        beside = self.path / (name + UNFINISHED)
        try:
            with beside.open("wb") as file:
                file.write(bytes(HEADER.size))
                digest, length = hashlib.sha256(), 0
                for piece in body:
                    digest.update(piece)
                    length += file.write(piece)
                file.seek(0)
                file.write(HEADER.pack(MAGIC, VERSION, length, digest.digest()))
                file.flush()
                os.fsync(file.fileno())
            self._point("before_snapshot_rename")
            beside.rename(target)
            sync(self.path)
        except OSError:
            beside.unlink(missing_ok=True)  # a full disk stays full otherwise
            raise
        self._point("after_snapshot_rename")

    def read(self, name: str) -> memoryview:
        """The body of a snapshot. Raises Damaged if it is missing, cut, changed, or of another format."""
        path = self.path / (name + SUFFIX)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise Damaged(f"{path}: {error.strerror}") from error
        if len(data) < HEADER.size:
            raise Damaged(f"{path}: {len(data)} bytes, shorter than its header")
        magic, version, length, digest = HEADER.unpack_from(data)
        body = memoryview(data)[HEADER.size :]
        if magic != MAGIC:
            raise Damaged(f"{path}: is not a snapshot")
        if version != VERSION:
            raise Damaged(f"{path}: has format {version}, this program reads {VERSION}")
        if length != len(body):
            raise Damaged(f"{path}: has {len(body)} bytes, its header says {length}")
        if hashlib.sha256(body).digest() != digest:
            raise Damaged(f"{path}: its SHA-256 differs from its header")
        return body

    def ids(self) -> list[str]:
        """The snapshots there are, damaged ones too, in order of name."""
        return sorted(path.stem for path in self.path.glob("*" + SUFFIX))

    def remove(self, name: str) -> None:
        """Remove a snapshot; one that is gone already is no fault."""
        (self.path / (name + SUFFIX)).unlink(missing_ok=True)

    def sweep(self) -> None:
        """Remove what interrupted writes left behind."""
        for path in self.path.glob("*" + UNFINISHED):
            path.unlink()


def sync(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
