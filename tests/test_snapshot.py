"""Snapshots are read back whole, or not at all."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.snapshot import SnapshotDamaged, pack, unpack

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([True, False]), "c": np.zeros((0, 4), np.float16)}
REST = {"steps": 7, "names": ["x", "y"]}
PARTS = pack(ARRAYS, REST)


def test_what_went_in_comes_out():
    arrays, rest = unpack(PARTS)
    assert rest == REST
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@given(st.sampled_from(["tensors", "rest"]), st.data())
def test_one_flipped_bit_is_noticed(part, data):
    where = data.draw(st.integers(0, len(PARTS[part]) * 8 - 1))
    damaged = bytearray(PARTS[part])
    damaged[where // 8] ^= 1 << where % 8
    with pytest.raises(SnapshotDamaged, match="SHA-256"):
        unpack(PARTS | {part: bytes(damaged)})


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_or_truncated_part_is_noticed(part):
    with pytest.raises(SnapshotDamaged):
        unpack({name: data for name, data in PARTS.items() if name != part})
    with pytest.raises(SnapshotDamaged):
        unpack(PARTS | {part: PARTS[part][:-2]})


def test_another_format_is_refused_by_its_number():
    seal = json.loads(PARTS["seal"]) | {"format": 99}
    with pytest.raises(SnapshotDamaged, match="format 99"):
        unpack(PARTS | {"seal": json.dumps(seal).encode()})
