"""Why gating: a gradient that is still there after 200 steps, what is learnt by it, and a memory longer than any window."""

import pytest
import torch
from torch.nn.functional import cross_entropy, one_hot

from models.cells import CELLS, Carry
from models.truncated import truncated
from tests.gating import GATED, LAG, Reader, adding, by_lag, copying, teach

TASK = copying(symbols=1, alphabet=2)  # one bit: what a memory is at the least, and learnt fast enough for a test
GUESS = 1 / 2
HIDDEN = 32
SEEDS = (0, 1)
every = pytest.mark.parametrize("kind", CELLS)
gated = pytest.mark.parametrize("kind", GATED)


def reader(kind, *, seed=0, span=LAG, task=TASK):
    return Reader(kind, features=task.features, hidden=HIDDEN, outputs=task.outputs, seed=seed, span=span)


def sequences(batch=3, seed=9, task=TASK):
    return task.draw(batch, torch.Generator().manual_seed(seed))[0]


# What is left of a gradient


@every
@pytest.mark.parametrize("lag", [0, 3])
def test_the_norm_by_lag_is_that_of_differences(kind, lag):
    """The whole Jacobian, a column at a time, at the end of a short sequence."""
    made, x = reader(kind), sequences(1)[:, -6:].double()
    cell, nothing = made.cell.double().requires_grad_(False), Carry(*torch.zeros(2, 1, HIDDEN, dtype=torch.float64))
    square = 0.0
    for feature in range(x.shape[2]):
        ends = []
        for step in (1e-6, -1e-6):
            moved = x.clone()
            moved[0, -1 - lag, feature] += step
            ends.append(cell(moved, None, nothing)[0][0, -1])
        square += float((((ends[0] - ends[1]) / 2e-6) ** 2).sum())
    assert float(by_lag(made, x, lags=5)[lag]) == pytest.approx(square**0.5, rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["elman", "jordan"])
def test_without_gates_nothing_is_left_of_a_gradient_after_200_steps(kind, seed):
    curve = by_lag(reader(kind, seed=seed), sequences())
    assert curve[LAG] < 1e-20 * curve[0]
    assert curve[LAG] < 1e-10 * curve[LAG // 2] < 1e-20 * curve[0]  # it falls by the same factor again and again


@pytest.mark.parametrize("seed", SEEDS)
@gated
def test_gates_that_begin_open_to_the_past_hand_a_gradient_back_over_200_steps(kind, seed):
    curve = by_lag(reader(kind, seed=seed), sequences())
    assert curve[LAG] > 1e-3 * curve[0]


@gated
def test_it_is_the_gates_biases_that_do_it(kind):
    """The same weights without them forget as the others do."""
    kept, lost = (by_lag(reader(kind, span=span), sequences())[LAG] for span in (LAG, None))
    assert lost < 1e-8 * kept


# What is learnt by it

BUDGET = 200  # steps of descent: half as many again as the slowest of the gated ones takes


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
@gated
def test_with_gates_a_bit_is_copied_over_200_blanks(kind, seed):
    learnt = teach(reader(kind, seed=seed), TASK, steps=BUDGET, rate=1e-2, batch=16, every=25)
    assert learnt.score > 0.99, learnt.steps


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["elman", "jordan"])
def test_without_gates_the_same_descent_does_no_better_than_a_guess(kind):
    learnt = teach(reader(kind), TASK, steps=BUDGET, rate=1e-2, batch=16, every=25)
    assert learnt.steps == BUDGET
    assert abs(learnt.score - GUESS) < 0.1  # of 512 bits: a guess has a standard deviation of 0.02


ENOUGH = 400  # the same, for adding


def added(kind, numbers):
    task = adding(numbers)
    return teach(reader(kind, task=task, span=numbers), task, steps=ENOUGH, rate=2e-2, batch=32, every=25)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "numbers"), [("gru", LAG), ("lstm", LAG // 2)])  # 200 steps, 250; an LSTM adds 200 after 425
def test_with_gates_two_marked_numbers_are_added(kind, numbers):
    learnt = added(kind, numbers)
    assert learnt.score < 0.01, learnt.steps


@pytest.mark.slow
@pytest.mark.parametrize("numbers", [LAG, LAG // 2])
def test_without_gates_the_sum_is_guessed_by_its_mean(numbers):
    learnt = added("elman", numbers)
    assert learnt.steps == ENOUGH
    assert learnt.score > 0.14  # who always says 1 has 1/6


def test_what_a_bit_is_worth_is_told_by_nothing_but_the_bit():
    """So that no one can guess better: without the first step all sequences are one."""
    x, right = TASK.draw(64, torch.Generator().manual_seed(3))
    assert x[:, 1:].unique(dim=0).shape[0] == 1
    assert sorted(right.unique().tolist()) == [0, 1]


# A memory longer than any window

WINDOW, STREAMS = 20, 16
LEARNT, EXAMINED = 400, 50  # windows
RARE = 1 / 20  # a bit comes so often: of a third of all steps the newest is older than a window


def streams(windows, generator):
    """Inputs (B, T, F), the newest bit (B, T) at every step, how many steps ago it came (B, T)."""
    steps = torch.arange(windows * WINDOW)
    comes = torch.rand(STREAMS, len(steps), generator=generator) < RARE
    comes[:, 0] = True
    bits = torch.randint(2, comes.shape, generator=generator)
    x = one_hot(torch.where(comes, bits, 2), TASK.features).float()
    came = torch.where(comes, steps, 0).cummax(1).values
    return x, bits.gather(1, came), steps - came


def old_bits_known(kind, *, handed_on):
    """Share of right answers to "what was the newest bit?" where it is older than a window is long; answers are wanted at every step.

    Gradients never reach further back than the window. `handed_on`: the carry, from window to window, in learning and after it.
    """
    made, generator = reader(kind), torch.Generator().manual_seed(1)
    descent = torch.optim.Adam(made.parameters(), 1e-2)

    def stretches(x):
        if handed_on:
            return truncated(made, x, made.nothing(STREAMS), k1=WINDOW, k2=WINDOW)
        return (s for window in x.split(WINDOW, 1) for s in truncated(made, window, made.nothing(STREAMS), k1=WINDOW, k2=WINDOW))

    x, newest, _ = streams(LEARNT, generator)
    for stretch, right in zip(stretches(x), newest.split(WINDOW, 1), strict=True):
        descent.zero_grad()
        cross_entropy(stretch.output.flatten(0, 1), right.flatten()).backward()
        torch.nn.utils.clip_grad_norm_(made.parameters(), 1.0)
        descent.step()
    x, newest, age = streams(EXAMINED, generator)
    with torch.no_grad():
        said = torch.cat([stretch.output for stretch in stretches(x)], 1).argmax(2)
    old = age >= WINDOW
    return float((said == newest)[old].float().mean())


@every
def test_a_carry_handed_on_knows_what_came_before_the_window(kind):
    assert old_bits_known(kind, handed_on=True) > 0.97


@every
def test_a_carry_that_begins_anew_in_each_window_leaves_a_guess(kind):
    assert abs(old_bits_known(kind, handed_on=False) - GUESS) < 0.05
