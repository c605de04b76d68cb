"""Every cell against its equations, against torch's own where there is one, and against itself in pieces."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cells import CELLS, Carry

FEATURES, HIDDEN = 3, 5
every = pytest.mark.parametrize("kind", CELLS)


def cell(kind, seed=0):
    generator = torch.Generator().manual_seed(seed)
    made = CELLS[kind](features=FEATURES, hidden=HIDDEN, generator=generator).double()
    with torch.no_grad():
        for p in made.parameters():  # biases begin at zero, where a mistake in them would not show
            p.add_(torch.empty(p.shape).uniform_(-0.3, 0.3, generator=generator))
    return made


def sequences(batch, steps, seed=1):
    return torch.randn(batch, steps, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nothing(batch):
    return Carry(*torch.zeros(2, batch, HIDDEN, dtype=torch.float64))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


# One sequence (T, F), one unit and one step at a time, from the equations; what is not `said` lives on in the closure


def lstm(w, u, b):
    c = np.zeros(HIDDEN)

    def unit(k, x, h):
        i, f, g, o = (w[k + j * HIDDEN] @ x + u[k + j * HIDDEN] @ h + b[k + j * HIDDEN] for j in range(4))
        c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c[k])

    return unit


def gru(w, u, b, d):
    def unit(k, x, h):
        r, z, n = k, k + HIDDEN, k + 2 * HIDDEN
        reset, keep = (sigmoid(w[j] @ x + u[j] @ h + b[j]) for j in (r, z))
        return (1 - keep) * np.tanh(w[n] @ x + b[n] + reset * (u[n] @ h + d[k])) + keep * h[k]

    return unit


def elman(w, u, b):
    return lambda k, x, h: np.tanh(w[k] @ x + u[k] @ h + b[k])


def jordan(w, u, b, v, c):
    def unit(k, x, y):
        inside = [np.tanh(w[j] @ x + u[j] @ y + b[j]) for j in range(HIDDEN)]
        return np.tanh(sum(v[k, j] * inside[j] for j in range(HIDDEN)) + c[k])

    return unit


BOOK = {"lstm": lstm, "gru": gru, "elman": elman, "jordan": jordan}


def by_the_book(kind, made, x):
    unit = BOOK[kind](*(p.detach().numpy() for p in made.parameters()))
    said, out = np.zeros(HIDDEN), []
    for row in x:
        before = said.copy()
        said = np.array([unit(k, row, before) for k in range(HIDDEN)])
        out.append(said)
    return np.array(out)


@every
def test_a_cell_is_what_its_equations_say(kind):
    made, x = cell(kind), sequences(2, 7)
    output, carry = made(x, None, nothing(2))
    for row in range(2):
        np.testing.assert_allclose(output[row].detach().numpy(), by_the_book(kind, made, x[row].numpy()), rtol=1e-12)
    torch.testing.assert_close(carry.hidden, output[:, -1])


@every
def test_gradients_are_those_of_differences(kind):
    """Of every weight, of the inputs, and of what is carried in: a step of 1e-6 to both sides of each number."""
    made, x = cell(kind), sequences(2, 4).requires_grad_()
    into = Carry(*(t.requires_grad_() for t in torch.randn(2, 2, HIDDEN, generator=torch.Generator().manual_seed(5), dtype=torch.float64)))
    names = [name for name, _ in made.named_parameters()]

    def loss(x, hidden, inner, *weights):
        output, carry = torch.func.functional_call(made, dict(zip(names, weights, strict=True)), (x, None, Carry(hidden, inner)))
        return (output**2).sum() + carry.hidden.sum() + (carry.cell**3).sum()

    assert torch.autograd.gradcheck(loss, (x, *into, *made.parameters()))


@every
def test_gradients_are_those_of_the_equations(kind):
    """Of every weight and every input: the book's own loss, a little to both sides of each number."""
    made, x = cell(kind), sequences(1, 5).requires_grad_()
    output, _ = made(x, None, nothing(1))
    (output**2).sum().backward()
    numbers = [*(p.detach().numpy() for p in made.parameters()), x.detach().numpy()]  # views: what is changed here is changed there
    for array, grad in zip(numbers, [*(p.grad for p in made.parameters()), x.grad], strict=True):
        slope = np.empty_like(array)
        for place in np.ndindex(array.shape):
            at = array[place]
            losses = []
            for array[place] in (at + 1e-6, at - 1e-6):
                losses.append((by_the_book(kind, made, x[0].detach().numpy()) ** 2).sum())
            array[place] = at
            slope[place] = (losses[0] - losses[1]) / 2e-6
        np.testing.assert_allclose(grad.numpy(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("kind", "theirs"), [("lstm", torch.nn.LSTM), ("gru", torch.nn.GRU), ("elman", torch.nn.RNN)])
def test_values_and_gradients_are_those_of_torch(kind, theirs):
    """From what is carried in to what is carried out, and back again."""
    made, x = cell(kind), sequences(3, 6).requires_grad_()
    into = Carry(*(t.requires_grad_() for t in torch.randn(2, 3, HIDDEN, generator=torch.Generator().manual_seed(5), dtype=torch.float64)))
    carried = [*into] if kind == "lstm" else [into.hidden]
    theirs = theirs(FEATURES, HIDDEN, batch_first=True).double()
    weights = {"weight_ih_l0": made.into, "weight_hh_l0": made.again, "bias_ih_l0": made.bias}
    with torch.no_grad():
        for name, mine in weights.items():
            getattr(theirs, name).copy_(mine)
        theirs.bias_hh_l0.zero_()
        if kind == "gru":
            theirs.bias_hh_l0[2 * HIDDEN :] = made.inner
    output, carry = made(x, None, into)
    mine = [output, *carry][: 1 + len(carried)]
    outer, after = theirs(x, tuple(t[None] for t in carried) if kind == "lstm" else into.hidden[None])
    other = [outer, *(t[0] for t in (after if kind == "lstm" else [after]))]
    torch.testing.assert_close(mine, other)

    def slopes(said, weights):
        return torch.autograd.grad(sum((t**3).sum() for t in said), [x, *carried, *weights], retain_graph=True)

    torch.testing.assert_close(slopes(mine, weights.values()), slopes(other, [getattr(theirs, name) for name in weights]))
    if kind == "gru":
        torch.testing.assert_close(slopes(mine, [made.inner])[-1], slopes(other, [theirs.bias_hh_l0])[-1][2 * HIDDEN :])


def test_all_steps_in_one_call_are_those_one_by_one():
    """What a GPU runs, here by torch's own for a CPU."""
    made, x = cell("lstm"), sequences(3, 6).requires_grad_()
    into = Carry(*torch.randn(2, 4, HIDDEN, generator=torch.Generator().manual_seed(5), dtype=torch.float64)[:, 1:])
    found = []
    for said, after in (made(x, None, into), made.at_once(x, into)):
        slopes = torch.autograd.grad((said**3).sum() + after.hidden.sum(), [x, *made.parameters()])
        found.append([said, after.hidden, after.cell, *slopes])
    torch.testing.assert_close(found[0], found[1])


@every
@settings(deadline=None, max_examples=15)
@given(steps=st.integers(2, 12), data=st.data())
def test_two_halves_with_the_carry_are_one_pass(kind, steps, data):
    cut = data.draw(st.integers(1, steps - 1))
    made, x = cell(kind), sequences(2, steps)
    whole, after = made(x, None, nothing(2))
    first, carry = made(x[:, :cut], None, nothing(2))
    second, last = made(x[:, cut:], None, carry)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, after)


@every
@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_padded_batch_is_each_sequence_alone(kind, lengths):
    made, x = cell(kind), sequences(len(lengths), max(lengths))
    output, carry = made(x, torch.tensor(lengths), nothing(len(lengths)))
    for row, length in enumerate(lengths):
        alone, own = made(x[row : row + 1, :length], None, nothing(1))
        torch.testing.assert_close(output[row, :length], alone[0])
        torch.testing.assert_close(carry.hidden[row], own.hidden[0])
        torch.testing.assert_close(carry.cell[row], own.cell[0])


@every
def test_gradients_of_a_padded_batch_are_those_of_each_sequence_alone(kind):
    lengths, batch, alone = [2, 6, 1, 4], cell(kind), cell(kind)
    x = sequences(len(lengths), max(lengths))
    output, carry = batch(x, torch.tensor(lengths), nothing(len(lengths)))
    own = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    ((output[own] ** 2).sum() + (carry.hidden**3).sum() + (carry.cell**3).sum()).backward()
    for row, length in enumerate(lengths):
        output, carry = alone(x[row : row + 1, :length], None, nothing(1))
        ((output**2).sum() + (carry.hidden**3).sum() + (carry.cell**3).sum()).backward()
    torch.testing.assert_close([p.grad for p in batch.parameters()], [p.grad for p in alone.parameters()])


@every
def test_what_lies_behind_a_sequences_end_is_not_remembered(kind):
    made, x = cell(kind), sequences(1, 6)
    changed = x.clone()
    changed[:, 4:] = 100.0
    lengths = torch.tensor([4])
    torch.testing.assert_close(made(x, lengths, nothing(1))[1], made(changed, lengths, nothing(1))[1])
