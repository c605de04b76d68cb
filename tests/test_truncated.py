"""Truncated back-propagation: with nothing cut it is the whole gradient, and what is cut off has none."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cells import CELLS, Carry
from models.truncated import truncated

FEATURES, HIDDEN, STEPS = 3, 5, 13
every = pytest.mark.parametrize("kind", CELLS)


def cell(kind):
    return CELLS[kind](features=FEATURES, hidden=HIDDEN, generator=torch.Generator().manual_seed(0)).double()


def sequences(seed=1):
    return torch.randn(2, STEPS, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def something():
    return Carry(*torch.randn(2, 2, HIDDEN, generator=torch.Generator().manual_seed(2), dtype=torch.float64))


def loss(output):
    return (output**3).sum()


def gradients(made, x, *, k1, k2):
    """Of the weights and of the inputs, added up over all stretches, weights as they are."""
    made.zero_grad()
    x = x.clone().requires_grad_()
    for stretch in truncated(made, x, something(), k1=k1, k2=k2):
        loss(stretch.output).backward()
    return [x.grad, *(p.grad.clone() for p in made.parameters())]


def whole(made, x):
    made.zero_grad()
    x = x.clone().requires_grad_()
    loss(made(x, None, something())[0]).backward()
    return [x.grad, *(p.grad.clone() for p in made.parameters())]


@every
@pytest.mark.parametrize("k1", [1, 4, STEPS])
@pytest.mark.parametrize("beyond", [0, 1, 100])
def test_as_far_back_as_the_sequence_goes_it_is_the_whole_gradient(kind, k1, beyond):
    made, x = cell(kind), sequences()
    torch.testing.assert_close(gradients(made, x, k1=k1, k2=STEPS + beyond), whole(made, x), rtol=1e-12, atol=1e-14)


@every
def test_one_stretch_as_long_as_the_sequence_is_the_whole_gradient_to_the_bit(kind):
    made, x = cell(kind), sequences()
    for mine, theirs in zip(gradients(made, x, k1=STEPS, k2=STEPS), whole(made, x), strict=True):
        assert mine.equal(theirs)


@every
@pytest.mark.parametrize("length", [1, 4, 6])
def test_where_both_are_the_same_the_carry_is_cut_from_stretch_to_stretch(kind, length):
    made, x = cell(kind), sequences()
    mine = gradients(made, x, k1=length, k2=length)
    made.zero_grad()
    x, carry = x.clone().requires_grad_(), something()
    odd = (STEPS - 1) % length + 1
    for piece in (x[:, :odd], *(x[:, odd:].split(length, 1) if odd < STEPS else ())):
        output, carry = made(piece, None, Carry(*(t.detach() for t in carry)))
        loss(output).backward()
    for one, other in zip(mine, [x.grad, *(p.grad for p in made.parameters())], strict=True):
        assert one.equal(other)


@every
@settings(deadline=None, max_examples=20)
@given(data=st.data(), k1=st.integers(1, STEPS))
def test_an_error_flows_back_over_k2_steps_and_no_further(kind, data, k1):
    """Of each stretch by itself: none before the last k2 steps, some at every one of them."""
    k2 = data.draw(st.integers(k1, STEPS + 2))
    made, x = cell(kind), sequences().requires_grad_()
    for stretch in truncated(made, x, something(), k1=k1, k2=k2):
        [grad] = torch.autograd.grad(loss(stretch.output), [x])
        reached = grad.abs().sum((0, 2)) > 0
        first = max(0, stretch.end - k2)
        assert reached.nonzero()[:, 0].tolist() == [*range(first, stretch.end)]


@every
@settings(deadline=None, max_examples=20)
@given(data=st.data(), k1=st.integers(1, STEPS))
def test_what_is_said_and_carried_is_what_one_pass_says(kind, data, k1):
    k2 = data.draw(st.integers(k1, STEPS + 2))
    made, x = cell(kind), sequences()
    stretches = [*truncated(made, x, something(), k1=k1, k2=k2)]
    output, carry = made(x, None, something())
    assert [s.end for s in stretches] == [*range(STEPS, 0, -k1)][::-1]
    assert [s.begin for s in stretches] == [0, *(s.end for s in stretches[:-1])]
    torch.testing.assert_close(torch.cat([s.output for s in stretches], 1), output)
    torch.testing.assert_close(stretches[-1].carry, carry)
    assert not any(t.requires_grad for s in stretches for t in s.carry)


@every
def test_no_gradient_flows_into_what_was_carried_in(kind):
    into = Carry(*(t.requires_grad_() for t in something()))
    for stretch in truncated(cell(kind), sequences(), into, k1=4, k2=8):
        loss(stretch.output).backward()
    assert [t.grad for t in into] == [None, None]


@every
def test_weights_may_be_stepped_between_stretches(kind):
    """The next stretch runs with the new ones, its history too."""
    made, x = cell(kind), sequences()
    descent = torch.optim.SGD(made.parameters(), 0.1)
    for stretch in truncated(made, x, something(), k1=4, k2=8):
        if stretch.end <= 8:
            history = made(x[:, : stretch.end], None, something())[0]
            torch.testing.assert_close(stretch.output, history[:, stretch.begin :])  # it begins at step 0, where nothing is old
        descent.zero_grad()
        loss(stretch.output).backward()
        descent.step()


@pytest.mark.parametrize(("k1", "k2"), [(0, 4), (5, 4), (-1, 2)])
def test_stretches_that_would_teach_nothing_are_refused(k1, k2):
    with pytest.raises(ValueError, match=f"k1 is {k1} and k2 is {k2}"):
        next(truncated(cell("elman"), sequences(), something(), k1=k1, k2=k2))
