"""A learner as bytes: tensors as safetensors, the rest as JSON, checked by SHA-256 and a format version. Never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import load, save

FORMAT = 3  # 1: evidence of who serves in units of the scale; 2: anchors in half precision, in one array


class SnapshotDamaged(ValueError):  # noqa: N818 - named for what it tells at 3 a.m.
    """The bytes are not those of a snapshot that this program wrote."""


def pack(arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> dict[str, bytes]:
    """Arrays and plain JSON values as named bytes."""
    tensors = save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    text = json.dumps(rest, sort_keys=True).encode()
    seal = {"format": FORMAT, "sha256": {"tensors": hashlib.sha256(tensors).hexdigest(), "rest": hashlib.sha256(text).hexdigest()}}
    return {"tensors": tensors, "rest": text, "seal": json.dumps(seal).encode()}


def later(arrays: dict[str, np.ndarray], rest: dict[str, Any]) -> Callable[[], dict[str, bytes]]:
    """What gives `pack` of the arrays as they are now, once, in any thread; the copies that it is made of are gone then."""
    copies = {name: np.array(array, order="C") for name, array in arrays.items()}

    def packed() -> dict[str, bytes]:
        parts = pack(copies, rest)
        copies.clear()
        return parts

    return packed


def unpack(parts: dict[str, bytes]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The inverse of `pack`; raises SnapshotDamaged when a part is missing, altered or of another format."""
    missing = {"tensors", "rest", "seal"} - parts.keys()
    if missing:
        raise SnapshotDamaged(f"a snapshot without {', '.join(sorted(missing))}")
    try:
        seal = json.loads(parts["seal"])
        found, sums = seal["format"], {name: seal["sha256"][name] for name in ("tensors", "rest")}
    except (ValueError, KeyError, TypeError) as error:
        raise SnapshotDamaged("the seal of the snapshot cannot be read") from error
    if found != FORMAT:
        raise SnapshotDamaged(f"the snapshot has format {found}, this program reads {FORMAT}")
    for name, expected in sums.items():
        if hashlib.sha256(parts[name]).hexdigest() != expected:
            raise SnapshotDamaged(f"the SHA-256 of {name!r} is not the one that the snapshot was sealed with")
    return load(parts["tensors"]), json.loads(parts["rest"])
