"""The LSTM against its equations, against torch's own, and against itself in pieces."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cells import LSTM, Carry

FEATURES, HIDDEN = 3, 5


def cell(seed=0):
    return LSTM(features=FEATURES, hidden=HIDDEN, generator=torch.Generator().manual_seed(seed)).double()


def sequences(batch, steps, seed=1):
    return torch.randn(batch, steps, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def nothing(batch):
    return Carry(*torch.zeros(2, batch, HIDDEN, dtype=torch.float64))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def by_the_book(lstm, x):
    """One sequence (T, F), one unit and one step at a time, from the equations."""
    w, u, b = (p.detach().numpy() for p in (lstm.into, lstm.again, lstm.bias))
    h, c, out = np.zeros(HIDDEN), np.zeros(HIDDEN), []
    for row in x:
        before = h.copy()
        for k in range(HIDDEN):
            i, f, g, o = (w[k + j * HIDDEN] @ row + u[k + j * HIDDEN] @ before + b[k + j * HIDDEN] for j in range(4))
            c[k] = sigmoid(f) * c[k] + sigmoid(i) * np.tanh(g)
            h[k] = sigmoid(o) * np.tanh(c[k])
        out.append(h.copy())
    return np.array(out)


def test_the_cell_is_what_its_equations_say():
    lstm, x = cell(), sequences(2, 7)
    output, _ = lstm(x, None, nothing(2))
    for row in range(2):
        np.testing.assert_allclose(output[row].detach().numpy(), by_the_book(lstm, x[row].numpy()), rtol=1e-12)


def test_values_and_gradients_are_those_of_torch():
    lstm, x = cell(), sequences(3, 6).requires_grad_()
    theirs = torch.nn.LSTM(FEATURES, HIDDEN, batch_first=True).double()
    with torch.no_grad():
        theirs.weight_ih_l0.copy_(lstm.into)
        theirs.weight_hh_l0.copy_(lstm.again)
        theirs.bias_ih_l0.copy_(lstm.bias)
        theirs.bias_hh_l0.zero_()
    output, carry = lstm(x, None, nothing(3))
    (output**2).sum().backward()
    mine, x.grad = x.grad, None
    other, (hidden, memory) = theirs(x)
    (other**2).sum().backward()
    torch.testing.assert_close(output, other)
    torch.testing.assert_close(carry.hidden, hidden[0])
    torch.testing.assert_close(carry.cell, memory[0])
    torch.testing.assert_close(mine, x.grad)
    torch.testing.assert_close(lstm.into.grad, theirs.weight_ih_l0.grad)
    torch.testing.assert_close(lstm.again.grad, theirs.weight_hh_l0.grad)
    torch.testing.assert_close(lstm.bias.grad, theirs.bias_ih_l0.grad)


@settings(deadline=None, max_examples=30)
@given(steps=st.integers(2, 12), data=st.data())
def test_two_halves_with_the_carry_are_one_pass(steps, data):
    cut = data.draw(st.integers(1, steps - 1))
    lstm, x = cell(), sequences(2, steps)
    whole, after = lstm(x, None, nothing(2))
    first, carry = lstm(x[:, :cut], None, nothing(2))
    second, last = lstm(x[:, cut:], None, carry)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    torch.testing.assert_close(last, after)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6))
def test_a_padded_batch_is_each_sequence_alone(lengths):
    lstm, x = cell(), sequences(len(lengths), max(lengths))
    output, carry = lstm(x, torch.tensor(lengths), nothing(len(lengths)))
    for row, length in enumerate(lengths):
        alone, own = lstm(x[row : row + 1, :length], None, nothing(1))
        torch.testing.assert_close(output[row, :length], alone[0])
        torch.testing.assert_close(carry.hidden[row], own.hidden[0])
        torch.testing.assert_close(carry.cell[row], own.cell[0])


def test_what_lies_behind_a_sequences_end_is_not_remembered():
    lstm, x = cell(), sequences(1, 6)
    changed = x.clone()
    changed[:, 4:] = 100.0
    lengths = torch.tensor([4])
    torch.testing.assert_close(lstm(x, lengths, nothing(1))[1], lstm(changed, lengths, nothing(1))[1])
