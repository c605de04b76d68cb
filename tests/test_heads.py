"""Points, quantiles and their losses."""

from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.heads import Quantiles, huber, pinball

LEVELS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)


@settings(deadline=None)
@given(st.sampled_from([LEVELS, (0.5,), (0.1, 0.9), (0.01, 0.02, 0.6), (0.2,)]), st.integers(0, 2**31), st.floats(0.01, 100))
def test_quantiles_never_cross_whatever_the_network_says(levels, seed, size):
    head = Quantiles(levels)
    raw = size * torch.randn(4, head.outputs, 3, generator=torch.Generator().manual_seed(seed))
    median, quantiles = head.assemble(raw, torch.randn(4, 3))
    assert quantiles.shape == (4, len(levels), 3)
    assert (quantiles.diff(dim=1) >= 0).all()
    for k, level in enumerate(levels):
        assert ((quantiles[:, k] <= median) if level <= 0.5 else (quantiles[:, k] >= median)).all()


def test_the_first_quantiles_are_a_normals_around_the_point():
    head = Quantiles(LEVELS)
    _, quantiles = head.assemble(head.start()[None, :, None], torch.full((1, 1), 7.0))
    wanted = torch.tensor([7 + 1.2533 * NormalDist().inv_cdf(level) for level in LEVELS])
    torch.testing.assert_close(quantiles[0, :, 0], wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("levels", [(0.5, 0.1), (0.1, 0.1), (0.0, 0.5), (0.5, 1.0)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ValueError, match="levels are"):
        Quantiles(levels)


def test_labels_that_have_not_come_do_not_count():
    point, target = torch.zeros(2, 3, requires_grad=True), torch.ones(2, 3)
    known = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    huber(point, target, known).backward()
    assert (point.grad != 0).equal(known.bool())
    wild = torch.where(known.bool(), target, 1e6)
    assert huber(point, wild, known) == huber(point, target, known)
    quantiles = point[:, None].expand(2, len(LEVELS), 3)
    levels = torch.tensor(LEVELS)
    assert pinball(quantiles, wild, known, levels) == pinball(quantiles, target, known, levels)


def test_the_first_lead_pulls_as_many_times_harder_as_the_last_one_is_far():
    point, target, known = torch.zeros(2, 6, requires_grad=True), torch.full((2, 6), 0.5), torch.ones(2, 6)
    huber(point, target, known).backward()
    pull = -point.grad[0]
    torch.testing.assert_close(pull[0] / pull, torch.arange(1.0, 7))
    assert pull.mean() == pytest.approx(0.5 / 12), "1 in the mean: rates and clips mean what they meant"


def test_pinball_is_least_at_the_quantiles_of_the_data():
    data = torch.randn(20_001, generator=torch.Generator().manual_seed(3))
    levels = torch.tensor([0.1, 0.5, 0.9])
    best = data.quantile(levels)

    def loss(marks):
        return pinball(marks[None, :, None].expand(len(data), 3, 1), data[:, None], torch.ones(len(data), 1), levels)

    for k in range(3):
        for by in (-0.1, 0.1):
            other = best.clone()
            other[k] += by
            assert loss(other) > loss(best)
