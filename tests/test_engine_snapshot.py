"""Snapshot files: every damage is seen, an interrupted write leaves nothing, the right ones are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.engine import image
from pipeline.engine.snapshot import HEADER, Damaged, Folder

BODY = bytes(range(200))


def file_of(folder: Folder, name: str) -> Path:
    return folder.path / f"{name}.snapshot"


def test_what_was_written_is_read(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "new" / "folder")
    folder.write("1", [BODY])
    folder.write("2", [])
    assert (folder.read("1"), folder.read("2"), folder.ids()) == (BODY, b"", ["1", "2"])


@given(at=st.integers(0, HEADER.size + len(BODY) - 1), bit=st.integers(0, 7))
def test_every_flipped_bit_is_seen(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    folder = Folder(tmp_path_factory.mktemp("folder"))
    folder.write("1", [BODY])
    data = bytearray(file_of(folder, "1").read_bytes())
    data[at] ^= 1 << bit
    file_of(folder, "1").write_bytes(data)
    with pytest.raises(Damaged, match=r"1\.snapshot"):
        folder.read("1")


@given(length=st.integers(0, HEADER.size + len(BODY) - 1))
def test_every_truncation_is_seen(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    folder = Folder(tmp_path_factory.mktemp("folder"))
    folder.write("1", [BODY])
    file_of(folder, "1").write_bytes(file_of(folder, "1").read_bytes()[:length])
    with pytest.raises(Damaged):
        folder.read("1")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda data: data + b"\0", "its header says 200"),
        (lambda data: data[: HEADER.size] + bytes(200), "SHA-256"),
        (lambda data: data[:11] + b"\1" + data[12:], "has format 1, this program reads 2"),
        (lambda data: b"ELFELFEL" + data[8:], "is not a snapshot"),
        (lambda _: b"", "shorter than its header"),
    ],
)
def test_the_message_says_what_is_wrong(tmp_path: Path, spoil: object, says: str) -> None:
    folder = Folder(tmp_path)
    folder.write("1", [BODY])
    file_of(folder, "1").write_bytes(spoil(file_of(folder, "1").read_bytes()))  # type: ignore[operator]
    with pytest.raises(Damaged, match=says):
        folder.read("1")


def test_a_missing_file_is_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(Damaged, match="No such file"):
        Folder(tmp_path).read("1")


def test_an_interrupted_write_is_not_there_and_is_cleaned_away(tmp_path: Path) -> None:
    class Crash(BaseException):
        pass

    def crash(at: str) -> None:
        if at == "before_snapshot_rename":
            raise Crash

    Folder(tmp_path).write("1", [BODY])
    with pytest.raises(Crash):
        Folder(tmp_path, crash).write("2", [BODY[:50], memoryview(BODY)[50:]])

    folder = Folder(tmp_path)
    assert folder.ids() == ["1"]
    folder.sweep()
    assert [path.name for path in tmp_path.iterdir()] == ["1.snapshot"]


def test_what_is_removed_is_gone_and_may_be_removed_again(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for name in "123":
        folder.write(name, [BODY])
    folder.remove("2")
    folder.remove("2")
    assert folder.ids() == ["1", "3"]


def test_state_beside_the_cells_is_neither_copied_into_an_image_nor_out_of_it() -> None:
    """A shard of 100,000 series is 1.6 GB, and the process that recovers must not need it thrice."""
    large = memoryview(bytes(range(256)) * 1000)
    whole = image.Image("fingerprint", 3, [(b"plain", b"content")], [], [], [], [], [], [])
    pieces = list(image.pieces(whole, [(b"one", {"a": large, "b": b""}), (b"two", {"a": b"xyz"})]))
    assert any(piece is large for piece in pieces)

    body = memoryview(b"".join(pieces))
    back, live = image.decode(body)
    assert (back.pipeline, back.commits, back.cells) == ("fingerprint", 3, [(b"plain", b"content")])
    assert live == [(b"one", {"a": large, "b": b""}), (b"two", {"a": b"xyz"})]
    assert live[0][1]["a"].obj is body.obj


def test_a_file_is_read_as_it_was_written_in_pieces(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("1", iter([BODY[:1], b"", memoryview(BODY)[1:150], BODY[150:]]))
    folder.write("2", [BODY])
    assert file_of(folder, "1").read_bytes() == file_of(folder, "2").read_bytes()
