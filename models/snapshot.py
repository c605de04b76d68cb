"""A learner as bytes: tensors as safetensors, the rest as JSON, checked by SHA-256 and a format version. Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Parts = Mapping[str, bytes | memoryview]

FORMAT = 4  # 1: evidence of who serves in units of the scale; 2, 3: hidden states of all carries, of live ones in half precision


class SnapshotDamaged(ValueError):  # noqa: N818 - named for what it tells at 3 a.m.
    """The bytes are not those of a snapshot that this program wrote."""


def pack(arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> Parts:
    """Arrays and plain JSON values as named bytes."""
    return later(arrays, rest)()


def sealed(tensors: memoryview, text: bytes) -> Parts:
    """Arrays and values that are bytes already, beside what `unpack` knows them by."""
    seal = {"format": FORMAT, "sha256": {"tensors": hashlib.sha256(tensors).hexdigest(), "rest": hashlib.sha256(text).hexdigest()}}
    return {"tensors": tensors, "rest": text, "seal": json.dumps(seal).encode()}


def laid_out(arrays: dict[str, np.ndarray]) -> memoryview:
    """A copy of arrays in any layout, as a file that safetensors reads (its format: https://github.com/huggingface/safetensors).

    One copy, without the interpreter's lock; `save` makes two more of contiguous ones, under it: 3 GB and half a second of 100,000 series.
    """
    header: dict[str, Any] = {}
    end = 0
    for name in sorted(arrays, key=lambda name: -arrays[name].itemsize):  # each is aligned behind those of larger items
        of = arrays[name]
        kind = "BOOL" if of.dtype == np.bool_ else f"{of.dtype.kind}{8 * of.itemsize}".upper()
        header[name] = {"dtype": kind, "shape": of.shape, "data_offsets": [end, end + of.nbytes]}
        end += of.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    whole = np.empty(len(head) + end, np.uint8)
    whole[: len(head)] = np.frombuffer(head, np.uint8)
    for name, said in header.items():
        begin, end = said["data_offsets"]
        np.copyto(whole[len(head) + begin : len(head) + end].view(arrays[name].dtype).reshape(arrays[name].shape), arrays[name])
    return whole.data


def later(arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> Callable[[], Parts]:
    """What gives `pack` of arrays and values as they are now, once, in any thread: what takes longest, their hashes, is left to it."""
    copy, text = [laid_out(arrays)], json.dumps(rest, sort_keys=True).encode()
    return lambda: sealed(copy.pop(), text)


def unpack(parts: Parts) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The inverse of `pack`; raises SnapshotDamaged when a part is missing, altered or of another format."""
    missing = {"tensors", "rest", "seal"} - parts.keys()
    if missing:
        raise SnapshotDamaged(f"a snapshot without {', '.join(sorted(missing))}")
    try:
        seal = json.loads(bytes(parts["seal"]))
        found, sums = seal["format"], {name: seal["sha256"][name] for name in ("tensors", "rest")}
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotDamaged("the seal of the snapshot cannot be read") from error
    if found != FORMAT:
        raise SnapshotDamaged(f"the snapshot has format {found}, this program reads {FORMAT}")
    for name, expected in sums.items():
        if hashlib.sha256(parts[name]).hexdigest() != expected:
            raise SnapshotDamaged(f"the SHA-256 of {name!r} is not the one that the snapshot was sealed with")
    return views(memoryview(parts["tensors"])), json.loads(bytes(parts["rest"]))


def views(file: memoryview) -> dict[str, np.ndarray]:
    """The arrays that `laid_out` has laid out, as they lie there: not copied, not to be written to, and maybe not aligned.

    >>> views(laid_out({"a": np.arange(3), "b": np.ones((1, 2), bool)}))["b"].tolist()
    [[True, True]]
    """
    begin = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(bytes(file[8:begin]))
    data = np.frombuffer(file, np.uint8)[begin:]
    data.flags.writeable = False
    found = {}
    for name, said in header.items():
        kind = np.dtype(np.bool_ if said["dtype"] == "BOOL" else f"{said['dtype'][0].lower()}{int(said['dtype'][1:]) // 8}")
        found[name] = data[slice(*said["data_offsets"])].view(kind).reshape(said["shape"])
    return found
