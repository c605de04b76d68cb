"""Whole files in a folder or an object store: each is there with all its bytes or not at all, and of two who make the same one, one does.

On this machine a file is written beside its name, synced, linked to its name, and the folder synced: after `create` returns, a power
cut cannot take it back. In an object store it is one conditional write, through fsspec. Paths are relative, with / between their parts.
"""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

# Stores whose driver makes a file only where there is none, in one step: with any other, two who move an alias could both win.
EXCLUSIVE = ("file", "local", "memory", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
UNFINISHED = ".unfinished"


class StoreError(Exception):
    """The folder or object store cannot be used as it is. Says where, and why."""


class Folder:
    """Files on this machine.

    >>> import tempfile
    >>> folder = Folder(Path(tempfile.mkdtemp()))
    >>> folder.create("a/b.json", b"{}")
    >>> folder.names("a"), folder.read("a/b.json")
    (['b.json'], b'{}')
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self, folder: str) -> list[str]:
        """What is directly in a folder, in order; nothing where there is none."""
        with named(self.root / folder), suppress(FileNotFoundError):
            return sorted(path.name for path in (self.root / folder).iterdir())
        return []

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError; StoreError for what is no file of its own."""
        target = self.root / path
        with named(target):
            found = target.lstat().st_size
        if any(place.is_symlink() for place in (target, target.parent)):
            raise StoreError(f"{target}: a symbolic link leads elsewhere; what is read here must lie here")
        return found

    def read(self, path: str) -> bytes:
        """All of a file. Raises FileNotFoundError; StoreError for what is no file of its own."""
        self.size(path)
        with named(self.root / path):
            return (self.root / path).read_bytes()

    def create(self, path: str, data: bytes) -> None:
        """A new file, for good. Raises FileExistsError where there is one."""
        target = self.root / path
        beside = target.parent / f".{target.name}.{uuid.uuid4().hex}{UNFINISHED}"
        with named(target, missing=True):
            make(target.parent)
            try:
                with beside.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.link(beside, target)
            finally:
                beside.unlink(missing_ok=True)  # a full disk stays full otherwise
            sync(target.parent)

    def remove(self, path: str) -> None:
        """Remove a file, and its folder with the last one; what is gone already is no fault."""
        target = self.root / path
        with named(target), suppress(FileNotFoundError):
            target.unlink()
            sync(target.parent)
        with suppress(OSError):  # it holds more
            target.parent.rmdir()

    def age(self, path: str, now: int) -> int:
        """Microseconds since a file was last written. Raises FileNotFoundError."""
        with named(self.root / path):
            return now - (self.root / path).lstat().st_mtime_ns // 1_000


class Objects:
    """Files in an object store, or in memory: fsspec's."""

    def __init__(self, files: fsspec.AbstractFileSystem, root: str) -> None:
        self._files = files
        self.root = root.rstrip("/")

    def names(self, folder: str) -> list[str]:
        """What is directly in a folder, in order; nothing where there is none."""
        with named(self._at(folder)), suppress(FileNotFoundError):
            self._files.invalidate_cache()  # of listings: others write here, too
            return sorted(path.rstrip("/").rpartition("/")[2] for path in self._files.ls(self._at(folder), detail=False))
        return []

    def size(self, path: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""
        with named(self._at(path)):
            return int(self._files.info(self._at(path))["size"])

    def read(self, path: str) -> bytes:
        """All of a file. Raises FileNotFoundError."""
        with named(self._at(path)):
            return bytes(self._files.cat_file(self._at(path)))

    def create(self, path: str, data: bytes) -> None:
        """A new file. Raises FileExistsError where there is one."""
        with named(self._at(path), missing=True):
            self._files.pipe_file(self._at(path), data, mode="create")

    def remove(self, path: str) -> None:
        """Remove a file; one that is gone already is no fault."""
        with named(self._at(path)), suppress(FileNotFoundError):
            self._files.rm_file(self._at(path))

    def age(self, path: str, now: int) -> int:
        """Microseconds since a file was last written. Raises FileNotFoundError."""
        with named(self._at(path)):
            return now - int(self._files.modified(self._at(path)).timestamp() * 1e6)

    def _at(self, path: str) -> str:
        return f"{self.root}/{path}"


Store = Folder | Objects


def opened(url: str) -> Store:
    """The store at an address of fsspec's: a folder, or `s3://bucket/folder`. Raises StoreError.

    >>> opened("ftp://somewhere/models")
    Traceback (most recent call last):
        ...
    pipeline.store.StoreError: ftp://somewhere/models: not a store that two can write to; allowed: a folder, memory, s3, gs, az or abfs
    """
    kind, _, rest = url.rpartition("://")
    if kind and kind not in EXCLUSIVE:
        raise StoreError(f"{url}: not a store that two can write to; allowed: a folder, memory, s3, gs, az or abfs")
    try:
        files, root = fsspec.core.url_to_fs(url if kind else rest)
    except (ImportError, ValueError) as error:
        raise StoreError(f"{url}: {error}") from error
    return Folder(Path(root)) if isinstance(files, LocalFileSystem) else Objects(files, root)


@contextmanager
def named(place: Path | str, *, missing: bool = False) -> Iterator[None]:
    """That a file is there or not is an answer; whatever else goes wrong is a StoreError that says where.

    `missing`: that something is not there is no answer either: the bucket is not. Drivers of object stores raise what their libraries
    raise: of theirs, everything counts.
    """
    try:
        yield
    except FileExistsError:
        raise
    except Exception as error:
        bug = isinstance(place, Path) and not isinstance(error, OSError)
        if bug or (isinstance(error, FileNotFoundError) and not missing):
            raise
        raise StoreError(f"{place}: {getattr(error, 'strerror', None) or error or type(error).__name__}") from error


def make(folder: Path) -> None:
    """A folder and those it lies in, for good."""
    if not folder.is_dir():
        make(folder.parent)
        try:
            folder.mkdir(exist_ok=True)
        except FileExistsError as error:  # not the answer of `create`
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from error
        sync(folder.parent)


def sync(folder: Path) -> None:
    """Make what has changed in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
