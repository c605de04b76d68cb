"""Ragged and padded batches."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.batch import BUCKETS, ROWS, WASTE, buckets, pad, rows

LENGTHS = st.lists(st.integers(0, 20), min_size=1, max_size=30).map(np.array)


@given(LENGTHS)
def test_padding_keeps_every_sequence_and_adds_only_zeros(lengths):
    flat = 1 + np.arange(lengths.sum(), dtype=float)[:, None]
    starts = lengths.cumsum() - lengths
    padded = pad(flat, starts, lengths)
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        assert (padded[row, :length] == flat[start : start + length]).all()
        assert not padded[row, length:].any()


@given(LENGTHS)
def test_buckets_hold_every_sequence_once_but_the_empty_ones(lengths):
    found = np.concatenate([np.zeros(0, int), *buckets(lengths)])
    assert sorted(found) == np.flatnonzero(lengths).tolist()


@given(LENGTHS)
def test_buckets_are_few_and_waste_less_than_one_would(lengths):
    found = buckets(lengths)
    assert len(found) <= BUCKETS
    if len(found) > 1:
        assert sum(len(b) * lengths[b].max() for b in found) < np.count_nonzero(lengths) * lengths.max()
        assert 1 - lengths[lengths > 0].mean() / lengths.max() > WASTE


def test_a_batch_has_a_multiple_of_sixteen_rows_and_zeros_behind():
    batch = rows(np.ones((17, 2), np.float16), torch.device("cpu"))
    assert batch.shape == (2 * ROWS, 2)
    assert batch.sum() == 34
