"""Heads that say a distribution: against torch's own, against sums and integrals, and at numbers that no network should say."""

import itertools
import math
from statistics import NormalDist

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.distributions import (
    LEAST_DISPERSION,
    LEAST_MEAN,
    Categorical,
    Gaussian,
    NegativeBinomial,
    StudentT,
    beta_share,
    student_log_density,
    student_quantile,
)

LEVELS = (0.001, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.999)
HEADS = {"gaussian": Gaussian(), "student": StudentT(), "negative binomial": NegativeBinomial()}
heads = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)


def reference(head, raw):
    """The same distribution, as torch has it."""
    p = head.parameters(raw)
    if isinstance(head, Gaussian):
        return torch.distributions.Normal(*p)
    if isinstance(head, StudentT):
        return torch.distributions.StudentT(p[2], p[0], p[1])
    return torch.distributions.NegativeBinomial(1 / p[1], logits=(p[0] * p[1]).log())


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def numbers(head, seed, size, rows=3, leads=4):
    return size * torch.randn(rows, head.outputs, leads, generator=seeded(seed), dtype=torch.float64)


def targets(head, seed, rows=3, leads=4):
    drawn = 4 * torch.randn(rows, leads, generator=seeded(seed + 1), dtype=torch.float64)
    return drawn.abs().round() if isinstance(head, NegativeBinomial) else drawn


def one(*values):
    """Numbers of one row and one lead."""
    return torch.tensor(values, dtype=torch.float64)[None, :, None]


seeds, sizes = st.integers(0, 2**31), st.floats(0.01, 5)


@heads
@settings(deadline=None, max_examples=30)
@given(seed=seeds, size=sizes)
def test_the_loss_and_its_gradient_are_those_of_torchs_distributions(head, seed, size):
    raw, target = numbers(head, seed, size).requires_grad_(), targets(head, seed)
    ours = head.loss(raw, target, torch.ones_like(target))
    theirs = -reference(head, raw).log_prob(target).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(*(torch.autograd.grad(loss, raw)[0] for loss in (ours, theirs)), rtol=1e-6, atol=1e-8)


@heads
def test_the_gradient_is_the_slope_of_the_loss(head):
    target = targets(head, 5)
    known = torch.tensor([1.0, 0.0, 1.0, 1.0], dtype=torch.float64).expand(3, 4)
    assert torch.autograd.gradcheck(lambda raw: head.loss(raw, target, known), numbers(head, 5, 1.0).requires_grad_())


@heads
@pytest.mark.parametrize("target", [0.0, 1.0, 1e4])
def test_the_loss_is_finite_whatever_the_network_says(head, target):
    raw = torch.tensor(list(itertools.product((-1e4, -30.0, 0.0, 30.0, 1e4), repeat=head.outputs)))[:, :, None].requires_grad_()
    nats = head.nats(raw, torch.full((len(raw), 1), target))
    nats.sum().backward()
    assert nats.isfinite().all()
    assert raw.grad.isfinite().all()
    assert all(p.isfinite().all() for p in head.parameters(raw))


@heads
def test_in_float32_the_loss_is_that_of_float64(head):
    """Many degrees of freedom, little dispersion: what `lgamma` of large numbers would spoil."""
    raw = one(0.3, 4.0, 4000.0)[:, : head.outputs] if isinstance(head, StudentT) else one(5.0, -9.0)
    target = torch.tensor([[7.0]], dtype=torch.float64)
    torch.testing.assert_close(head.nats(raw.float(), target.float()).double(), head.nats(raw, target), rtol=1e-5, atol=1e-5)


@heads
@pytest.mark.parametrize("wild", [float("nan"), float("inf"), -3.5, 1e30])
def test_what_is_not_known_is_not_looked_at(head, wild):
    raw, target = numbers(head, 2, 1.0).requires_grad_(), targets(head, 2)
    known = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64).expand(3, 4)
    loss = head.loss(raw, torch.where(known > 0, target, wild), known)
    torch.testing.assert_close(loss, head.nats(raw, target)[:, ::2].mean())
    loss.backward()
    assert (raw.grad[:, :, ::2] != 0).any()
    assert (raw.grad[:, :, 1::2] == 0).all()


@heads
def test_with_nothing_known_there_is_nothing_to_lose(head):
    assert head.loss(numbers(head, 2, 1.0), torch.full((3, 4), torch.nan), torch.zeros(3, 4)) == 0


@heads
def test_the_loss_is_least_where_the_data_came_from(head):
    truth = one(2.0, 0.5, 1.0)[:, : head.outputs]
    torch.manual_seed(11)  # torch's distributions take no generator
    target = reference(head, truth).sample((20_000,))[:, :, 0]
    known = torch.ones_like(target)

    def loss(raw):
        return float(head.loss(raw.expand(len(target), -1, -1), target, known))

    for k in range(head.outputs):
        # Degrees of freedom are told apart with difficulty: 3.3 from 2.9 or 4.3.
        for by in (-0.2, 0.2) if k < 2 else (-1.0, 1.0):
            other = truth.clone()
            other[0, k] += by
            assert loss(other) > loss(truth)


@heads
@settings(deadline=None, max_examples=30)
@given(
    seed=seeds,
    size=st.sampled_from([0.1, 1.0, 10.0, 1e4]),
    levels=st.lists(st.floats(1e-6, 1 - 1e-6), min_size=1, max_size=6, unique=True).map(sorted),
    single=st.booleans(),
)
def test_quantiles_never_cross_whatever_the_network_says(head, seed, size, levels, single):
    raw = numbers(head, seed, size, rows=2, leads=3)
    quantiles = head.quantiles(raw.float() if single else raw, levels)
    assert quantiles.shape == (2, len(levels), 3)
    assert quantiles.isfinite().all()
    assert (quantiles.diff(dim=1) >= 0).all()


@heads
@pytest.mark.parametrize("level", [0.5, 0.3, 0.975])
def test_levels_a_rounding_apart_do_not_cross(head, level):
    raw = numbers(head, 9, 3.0, rows=20, leads=20)
    near = [level, math.nextafter(level, 1), math.nextafter(math.nextafter(level, 1), 1)]
    assert (head.quantiles(raw, near).diff(dim=1) >= 0).all()


@heads
@pytest.mark.parametrize("levels", [(0.5, 0.1), (0.1, 0.1), (0.0, 0.5), (0.5, 1.0)])
def test_levels_that_are_none_are_refused(head, levels):
    with pytest.raises(ValueError, match="levels are"):
        head.quantiles(numbers(head, 1, 1.0), levels)


def test_quantiles_of_a_normal():
    raw = one(7.0, 0.3)
    _, scale = Gaussian().parameters(raw)
    wanted = [NormalDist(7.0, float(scale)).inv_cdf(level) for level in LEVELS]
    torch.testing.assert_close(Gaussian().quantiles(raw, LEVELS)[0, :, 0].tolist(), wanted)


@pytest.mark.parametrize("freedom", [2.001, 2.5, 3.0, 4.0, 8.3, 40.0, 1000.0])
def test_students_quantiles_are_where_its_density_sums_up_to_the_level(freedom):
    """Simpson's rule over z = tan u, and torch's density, which the quantile does not use."""
    theirs = torch.distributions.StudentT(torch.tensor(freedom, dtype=torch.float64))
    levels = torch.tensor([0.001, 0.025, 0.2, 0.4999, 0.5, 0.6, 0.9, 0.999, 0.999999], dtype=torch.float64)
    for level, quantile in zip(levels, student_quantile(levels, torch.tensor(freedom, dtype=torch.float64)), strict=True):
        u = torch.linspace(0, math.atan(float(quantile)), 20_001, dtype=torch.float64)
        heights = theirs.log_prob(u.tan()).exp() / u.cos() ** 2
        weights = torch.tensor([2.0, 4.0], dtype=torch.float64).repeat(10_001)[: len(u)]
        weights[[0, -1]] = 1
        found = 0.5 + float((heights * weights).sum() * u[-1] / 60_000)
        assert found == pytest.approx(float(level), abs=1e-11)


def test_students_quantiles_are_those_of_the_tables():
    for freedom, level, printed in [(3, 0.975, 3.182446), (5, 0.975, 2.570582), (10, 0.95, 1.812461), (30, 0.995, 2.749996)]:
        found = student_quantile(torch.tensor(level, dtype=torch.float64), torch.tensor(float(freedom), dtype=torch.float64))
        assert float(found) == pytest.approx(printed, abs=1e-6)


def test_students_tails_are_right_far_out():
    """With two degrees of freedom the quantile is (2p - 1) / sqrt(2p(1 - p))."""
    tails = torch.logspace(-9, -1, 33, dtype=torch.float64)
    found = student_quantile(tails, torch.full_like(tails, 2.0))
    torch.testing.assert_close(found, (2 * tails - 1) / (2 * tails * (1 - tails)).sqrt(), rtol=1e-9, atol=0)


def test_students_density_with_many_degrees_is_nearly_the_normals():
    z = torch.linspace(-4, 4, 9, dtype=torch.float64)
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0).log_prob(z)
    torch.testing.assert_close(student_log_density(z, torch.full_like(z, 1e6)), normal, rtol=0, atol=1e-4)


@settings(deadline=None, max_examples=40)
@given(mean=st.floats(-6, 60), dispersion=st.floats(-12, 3))
def test_quantiles_of_counts_are_found_by_adding_up(mean, dispersion):
    head, raw = NegativeBinomial(), one(mean, dispersion)
    found = head.quantiles(raw, LEVELS)[0, :, 0]
    counts = torch.arange(5_000, dtype=torch.float64)[None]
    shares = reference(head, raw).log_prob(counts)[0].exp().cumsum(0)
    for level, quantile in zip(LEVELS, found.int(), strict=True):
        assert shares[quantile] >= level - 1e-9
        assert quantile == 0 or shares[quantile - 1] < level + 1e-9


def test_a_count_reaches_its_own_level_and_no_more():
    """With a dispersion of 1 it is geometric: the share up to k is 1 - odds^(k + 1), odds = m / (1 + m)."""
    raw = one(2.0, math.log(math.expm1(1 - LEAST_DISPERSION)))
    mean = float(NegativeBinomial().parameters(raw)[0])
    for k in range(12):
        share = 1 - (mean / (1 + mean)) ** (k + 1)
        assert NegativeBinomial().quantiles(raw, [share - 1e-9, share + 1e-9])[0, :, 0].tolist() == [k, k + 1]


@pytest.mark.parametrize(("a", "b"), [(1, 1), (3, 8), (20, 4), (1, 40), (60, 60)])
def test_shares_of_the_beta_are_tails_of_a_binomial(a, b):
    """I_x(a, b) = P(at least a of a + b - 1 tries succeed), for whole numbers (DLMF 8.17.5)."""
    x = torch.linspace(0.01, 0.99, 25, dtype=torch.float64)
    n = a + b - 1
    wanted = sum(float(math.comb(n, j)) * x**j * (1 - x) ** (n - j) for j in range(a, n + 1))
    found = beta_share(torch.tensor(float(a)).double(), torch.tensor(float(b)).double(), x, 1 - x)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-14)


@settings(deadline=None)
@given(a=st.floats(1e-3, 1e4), b=st.floats(1e-3, 1e4), x=st.floats(1e-6, 1 - 1e-6))
def test_shares_of_the_beta_from_both_sides_are_the_whole(a, b, x):
    a, b, x = (torch.tensor(v, dtype=torch.float64) for v in (a, b, x))
    assert float(beta_share(a, b, x, 1 - x) + beta_share(b, a, 1 - x, x)) == pytest.approx(1, abs=1e-9)


def test_what_is_not_a_number_is_answered_at_once():
    nothing = torch.full((1,), torch.nan, dtype=torch.float64)
    assert beta_share(nothing, nothing, nothing, nothing).isnan().all()


@heads
def test_draws_fall_below_a_quantile_as_often_as_it_says(head):
    raw = one(3.0, 1.0, 0.5)[:, : head.outputs]
    draws = head.sample(raw, 20_000, seeded(4))[0, :, 0]
    assert draws.shape == (20_000,)
    for level, quantile in zip(LEVELS, head.quantiles(raw, LEVELS)[0, :, 0], strict=True):
        share = float((draws <= quantile).double().mean())
        if isinstance(head, NegativeBinomial):  # a count reaches its level, and the one below does not
            assert float((draws < quantile).double().mean()) - 0.015 < level < share + 0.015
        else:
            assert share == pytest.approx(level, abs=0.015)


@heads
def test_the_same_seed_gives_the_same_draws(head):
    raw = numbers(head, 6, 1.0)
    once, again, other = (head.sample(raw, 5, seeded(seed)) for seed in (1, 1, 2))
    assert once.shape == (3, 5, 4)
    assert once.equal(again)
    assert not once.equal(other)


@heads
def test_the_point_is_the_mean(head):
    raw = numbers(head, 8, 1.5)
    torch.testing.assert_close(head.point(raw), reference(head, raw).mean)


@settings(deadline=None)
@given(raw=st.floats(-1e4, 1e4))
def test_students_has_a_variance_and_counts_have_a_mean(raw):
    _, scale, freedom = StudentT().parameters(torch.full((1, 3, 1), raw))
    assert scale > 0
    assert freedom > 2
    mean, dispersion = NegativeBinomial().parameters(torch.full((1, 2, 1), raw))
    assert mean >= LEAST_MEAN
    assert dispersion >= LEAST_DISPERSION


# Classes

CLASSES = Categorical(4)


@settings(deadline=None, max_examples=30)
@given(seed=seeds, size=st.floats(0.01, 1e4))
def test_the_loss_of_classes_is_torchs_cross_entropy(seed, size):
    raw = numbers(CLASSES, seed, size).requires_grad_()
    target = torch.randint(0, 4, (3, 4), generator=seeded(seed))
    ours, theirs = CLASSES.loss(raw, target, torch.ones(3, 4)), torch.nn.functional.cross_entropy(raw, target)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, raw)[0] for loss in (ours, theirs)))


def test_the_loss_of_classes_is_finite_whatever_the_network_says():
    raw = torch.tensor(list(itertools.product((-1e4, 0.0, 1e4), repeat=4)))[:, :, None].requires_grad_()
    nats = torch.stack([CLASSES.nats(raw, torch.full((len(raw), 1), k)) for k in range(4)])
    nats.sum().backward()
    assert nats.isfinite().all()
    assert raw.grad.isfinite().all()


@pytest.mark.parametrize("wild", [-1, 4, 1000])
def test_a_class_that_is_not_known_is_not_looked_at(wild):
    raw, known = numbers(CLASSES, 2, 1.0).requires_grad_(), torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(3, 4)
    target = torch.randint(0, 4, (3, 4), generator=seeded(3))
    loss = CLASSES.loss(raw, torch.where(known > 0, target, wild), known)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(raw[:, :, ::2], target[:, ::2]))
    loss.backward()
    assert (raw.grad[:, :, 1::2] == 0).all()


def test_accuracy_counts_what_is_known():
    raw = torch.eye(4)[None]  # says 0, 1, 2, 3
    assert CLASSES.accuracy(raw, torch.tensor([[0, 1, 0, 0]]), torch.tensor([[1.0, 1.0, 1.0, 1.0]])) == 0.5
    assert CLASSES.accuracy(raw, torch.tensor([[0, 1, 0, 0]]), torch.tensor([[1.0, 1.0, 1.0, 0.0]])) == pytest.approx(2 / 3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_classes_are_drawn_as_often_as_the_softmax_says(temperature):
    raw = torch.tensor([1.0, 0.0, -1.0, 0.5])[None, :, None].expand(1, 4, 40_000)
    drawn = CLASSES.sample(raw, temperature, seeded(5))
    found = torch.bincount(drawn[0], minlength=4) / 40_000
    torch.testing.assert_close(found, CLASSES.parameters(raw[:, :, :1] / temperature)[0, :, 0], rtol=0, atol=0.01)


@settings(deadline=None)
@given(seed=seeds, size=st.floats(0.1, 1e4), temperature=st.sampled_from([0.0, 1e-12, 1e-300]))
def test_a_cold_draw_is_the_likeliest_class(seed, size, temperature):
    raw = numbers(CLASSES, seed, size).float()
    assert CLASSES.sample(raw, temperature, seeded(0)).equal(raw.argmax(1))


def test_the_same_seed_draws_the_same_classes():
    raw = numbers(CLASSES, 6, 1.0, rows=20)
    once, again, other = (CLASSES.sample(raw, 1.0, seeded(seed)) for seed in (1, 1, 2))
    assert once.shape == (20, 4)
    assert once.equal(again)
    assert not once.equal(other)


@pytest.mark.parametrize("temperature", [-1.0, float("nan")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        CLASSES.sample(numbers(CLASSES, 1, 1.0), temperature, seeded(0))
