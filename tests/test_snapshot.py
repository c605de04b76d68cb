"""Snapshots are read back whole, or not at all."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load

from models.snapshot import SnapshotDamaged, laid_out, later, pack, unpack

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([True, False]), "c": np.zeros((0, 4), np.float16)}
REST = {"steps": 7, "names": ["x", "y"]}
PARTS = {name: bytes(part) for name, part in pack(ARRAYS, REST).items()}


def test_what_went_in_comes_out():
    arrays, rest = unpack(PARTS)
    assert rest == REST
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array)


@given(st.data())
def test_arrays_of_any_type_and_layout_are_laid_out_so_that_the_library_reads_them(data):
    kinds = st.sampled_from(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"])
    arrays = {}
    for name in data.draw(st.sets(st.text(min_size=1, max_size=5), max_size=6)):
        shape = data.draw(st.lists(st.integers(0, 4), max_size=3))
        array = np.random.default_rng(len(arrays)).integers(0, 100, shape).astype(data.draw(kinds))
        arrays[name] = data.draw(st.sampled_from([array, array.T, array[::-1] if array.ndim else array]))
    made = load(bytes(laid_out(arrays)))
    assert made.keys() == arrays.keys()
    for name, array in made.items():
        assert array.dtype == arrays[name].dtype
        np.testing.assert_array_equal(array, arrays[name])


def test_what_changes_after_the_freezing_is_not_in_it():
    array = np.arange(6.0)
    frozen = later({"a": array}, REST)
    array += 1
    np.testing.assert_array_equal(unpack(frozen())[0]["a"], np.arange(6.0))


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
