"""A language model of letters, on files that it has not read."""

import math

import pytest
import torch

from tests.letters import ROWS, STEPS_BACK, Text, Writer, bits, bits_by_counts, load, nothing, rows_of, taught, written

STEPS = 250  # a twelfth of the script's
MARGIN = 1.0  # bits a letter below pairs with their best k; measured: 1.24 to 1.28


@pytest.fixture(scope="module")
def text():
    return load()


@pytest.fixture(scope="module")
def writer(text):
    return taught(text, STEPS, seed=0)


def test_a_cell_foresees_letters_that_it_has_not_read_better_than_pairs_do(text, writer):
    assert bits(writer, text) < bits_by_counts(text, 2)[0] - MARGIN


def test_a_cell_that_has_learnt_nothing_would_not_pass(text):
    untaught = bits(Writer(letters=len(text.letters), cell="lstm", seed=0), text)
    assert untaught == pytest.approx(math.log2(len(text.letters)), abs=1e-4)
    assert untaught > bits_by_counts(text, 1)[0]


def test_the_carry_is_handed_on(text, writer):
    assert bits(writer, text, piece=37) == pytest.approx(bits(writer, text, piece=500), abs=1e-4)


def test_memory_goes_from_step_to_step_of_learning_and_gradients_do_not(monkeypatch):
    given, reached, forward = [], [], Writer.forward

    def noted(self, x, carry):
        raw, after = forward(self, x, carry)
        given.append(carry)
        reached.append(after)
        return raw, after

    monkeypatch.setattr(Writer, "forward", noted)
    letters = torch.randint(0, 3, (ROWS * (3 * STEPS_BACK + 1) + 1,), generator=torch.Generator().manual_seed(0))
    taught(Text("abc?", letters, letters), 5, seed=0)
    for step in range(1, 5):
        wanted = nothing(ROWS) if step == 3 else reached[step - 1]  # three steps to the end of the text
        assert all(one.equal(other) for one, other in zip(given[step], wanted, strict=True))
        assert not given[step].hidden.requires_grad
        assert not given[step].cell.requires_grad


def test_held_out_files_are_not_learnt_from(text):
    learnt = text.spell(text.learn)
    lines = [line for line in text.spell(text.held).splitlines() if len(line) > 60]
    assert len(lines) > 100
    assert sum(line in learnt for line in lines) < 0.1 * len(lines)


def test_the_same_seed_writes_the_same_text(text, writer):
    once, again, other = (written(writer, text, "def ", 80, temperature=1.0, seed=seed) for seed in (1, 1, 2))
    assert len(once) == 80
    assert once == again
    assert once != other


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_without_warmth_the_likeliest_letters_are_written(text, writer, temperature):
    found = written(writer, text, "def ", 40, temperature=temperature, seed=7)
    read, likeliest = text.number("def "), []
    with torch.no_grad():
        for _ in range(40):  # from the beginning each time, without a carry between
            raw, _ = writer(torch.cat([read, *likeliest])[None], nothing(1))
            likeliest.append(raw[0, :, -1].argmax()[None])
    assert found == text.spell(torch.cat(likeliest))


def test_the_warmer_the_less_likely(text, writer):
    def foreseen(said):
        numbers = text.number("def " + said)
        with torch.no_grad():
            raw, _ = writer(numbers[None, :-1], nothing(1))
        return float(torch.nn.functional.cross_entropy(raw, numbers[None, 1:]))

    cool, warm = (foreseen(written(writer, text, "def ", 200, temperature=t, seed=0)) for t in (0.5, 1.5))
    assert cool < warm


def test_bits_by_counts_of_a_text_counted_by_hand():
    """After a came b 2 of 2 times, after b came a 1 of 1: with k = 1 and 3 kinds, 3/5 and 2/4."""
    small = Text("ab?", torch.tensor([0, 1, 0, 1]), torch.tensor([0, 1, 0, 2]))
    wanted = -(math.log2(3 / 5) + math.log2(2 / 4) + math.log2(1 / 5)) / 3
    assert bits_by_counts(small, 2, added=(1.0,)) == (pytest.approx(wanted), 1.0)


def test_rows_are_places_of_one_text():
    x, follow = rows_of(torch.arange(10), 3)
    assert x.tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert follow.equal(x + 1)
