"""Whole files or none, on this machine and in what stands for an object store."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline import store
from pipeline.store import Folder, Objects, Store, StoreError, opened


@pytest.fixture(params=["folder", "memory"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return opened(str(tmp_path / "new" / "folder") if request.param == "folder" else f"memory://{uuid.uuid4().hex}")


def test_what_was_made_is_there_once_and_stays_as_it_is(files: Store) -> None:
    files.create("a/b/one", b"1")
    files.create("a/two", b"")
    with pytest.raises(FileExistsError):
        files.create("a/b/one", b"2")
    assert (files.read("a/b/one"), files.size("a/b/one"), files.read("a/two"), files.size("a/two")) == (b"1", 1, b"", 0)
    assert files.names("a") == ["b", "two"]
    assert files.names("a/b") == ["one"]


def test_what_was_removed_is_gone_and_may_be_made_anew(files: Store) -> None:
    files.create("a/one", b"1")
    for _ in range(2):
        files.remove("a/one")
    assert files.names("a") == []
    with pytest.raises(FileNotFoundError):
        files.read("a/one")
    files.create("a/one", b"2")
    assert files.read("a/one") == b"2"


def test_where_there_is_nothing_there_are_no_names_and_no_ages(files: Store) -> None:
    assert files.names("nowhere") == []
    for ask in (files.read, files.size, lambda path: files.age(path, 0)):
        with pytest.raises(FileNotFoundError):
            ask("nowhere/one")


def test_a_file_is_as_old_as_the_clock_says(files: Store) -> None:
    files.create("one", b"")
    now = 4_102_444_800_000_000  # 2100
    assert 0 < files.age("one", now) < now


def test_a_file_has_its_name_only_when_it_is_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    for name in ("fsync", "link"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, call=call: done.append(name) or call(*given))
    Folder(tmp_path).create("one", b"1")
    assert done == ["fsync", "link", "fsync"]
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_disk_that_is_full_is_said_to_be_and_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(store.os, "fsync", full)
    with pytest.raises(StoreError, match=r"one: No space left on device"):
        Folder(tmp_path).create("one", b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(b"1")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "root" / "file").symlink_to(tmp_path / "elsewhere" / "secret")
    for path in ("file", "folder/secret"):
        with pytest.raises(StoreError, match="a symbolic link leads elsewhere"):
            Folder(tmp_path / "root").read(path)


@pytest.mark.parametrize("ask", [lambda f: f.create("one", b""), lambda f: f.names(""), lambda f: f.create("a/one", b"")])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, ask: object) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="Not a directory"):
        ask(Folder(tmp_path / "file"))  # type: ignore[operator]


def test_a_bucket_that_is_not_there_is_named() -> None:
    class Nowhere(MemoryFileSystem):
        cachable = False

        def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: object) -> None:
            raise FileNotFoundError("The specified bucket does not exist")  # s3fs's words

    with pytest.raises(StoreError, match="bucket/one: The specified bucket does not exist"):
        Objects(Nowhere(), "bucket").create("one", b"")


@pytest.mark.parametrize("url", ["http://somewhere/x", "ftp://somewhere/x", "nonsense://x", "zip://a::file:///x.zip"])
def test_a_store_in_which_two_could_make_the_same_file_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="not a store that two can write to"):
        opened(url)
