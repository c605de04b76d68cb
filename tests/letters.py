"""Letters out of letters: a recurrent cell that has read this repository's own sources, and writes on.

    python -m tests.letters

The text are the Python files of `models/` and `pipeline/` as they were on 2026-11-25 (a copy: code grows, and what is measured here should
not), in the order of their names; every tenth file is held out whole. The cell
reads ROWS places of the text at once, STEPS_BACK letters a step of learning, and goes on from there with the carry it had: gradients
end at a step's first letter, memory does not (truncated backpropagation through time, Williams & Peng 1990). Beside it stand counts of
pairs, triples and quadruples of letters, with the k that is best for them on the held-out text itself.

Letters: B rows, T letters of a row, C kinds of letters, D hidden units.
"""

from __future__ import annotations

import argparse
import gzip
import math
import time
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.cells import CELLS, Carry
from models.descent import Descent
from models.distributions import Categorical

ROOT = Path(__file__).parent.parent
HIDDEN = 128
EMBEDDED = 24
ROWS = 32
STEPS_BACK = 32
RATE = 0.02  # 0.01 is 0.11 bits behind after as much time (64 hidden units, 16 rows)
ADDED = (1e-3, 3e-3, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


class Text(NamedTuple):
    letters: str  # as they are numbered; the last stands for those that the text to learn from does not have
    learn: Tensor  # (letters,)
    held: Tensor

    def number(self, text: str) -> Tensor:
        at = {letter: k for k, letter in enumerate(self.letters)}
        return torch.tensor([at.get(letter, len(at) - 1) for letter in text])

    def spell(self, numbers: Tensor) -> str:
        return "".join(self.letters[k] for k in numbers.tolist())


def load() -> Text:
    with gzip.open(ROOT / "tests/data/sources.txt.gz", "rt", encoding="utf-8") as lines:
        learn, held = lines.read().split("\0")
    text = Text("".join(sorted(set(learn))) + "\N{REPLACEMENT CHARACTER}", torch.empty(0), torch.empty(0))
    return text._replace(learn=text.number(learn), held=text.number(held))


class Writer(nn.Module):
    """A cell over letters, and scores of the next one."""

    def __init__(self, *, letters: int, cell: str, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(letters, EMBEDDED, generator=generator))
        self.cell = CELLS[cell](features=EMBEDDED, hidden=HIDDEN, generator=generator)
        self.head = nn.Parameter(torch.zeros(letters, HIDDEN))
        self.bias = nn.Parameter(torch.zeros(letters))

    def forward(self, x: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Letters (B, T) -> scores (B, C, T), and the carry after them."""
        output, after = self.cell(self.embed[x], None, carry)
        return linear(output, self.head, self.bias).movedim(2, 1), after


def nothing(rows: int) -> Carry:
    return Carry(torch.zeros(rows, HIDDEN), torch.zeros(rows, HIDDEN))


def rows_of(letters: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Letters and the ones that follow them, (B, T) each: the text in so many places at once."""
    long = (len(letters) - 1) // rows
    return letters[: rows * long].view(rows, long), letters[1 : rows * long + 1].view(rows, long)


def taught(text: Text, steps: int, *, cell: str = "lstm", seed: int) -> Writer:
    """A network after so many steps of learning; when the text is at its end it begins anew, with an empty carry."""
    head = Categorical(len(text.letters))
    writer = Writer(letters=len(text.letters), cell=cell, seed=seed)
    descent = Descent(writer, rate=RATE, least=1e-4, halving=300)
    x, follow = rows_of(text.learn, ROWS)
    known = torch.ones(ROWS, STEPS_BACK)
    starts = range(0, x.shape[1] - STEPS_BACK, STEPS_BACK)
    carry = nothing(ROWS)
    for step in range(steps):
        at = starts[step % len(starts)]
        if at == 0:
            carry = nothing(ROWS)
        piece, after = slice(at, at + STEPS_BACK), []

        def loss(network: Writer, piece=piece, carry=carry, after=after) -> Tensor:
            raw, reached = network(x[:, piece], carry)
            after.append(Carry(reached.hidden.detach(), reached.cell.detach()))
            return head.loss(raw, follow[:, piece], known)

        descent.step(loss)
        [carry] = after
    descent.flat.read(descent.average)
    return writer


def bits(writer: Writer, text: Text, *, rows: int = 16, piece: int = 200) -> float:
    """Of a held-out letter, mean: how well the writer foresees it, having read those before it."""
    head, carry, spent = Categorical(len(text.letters)), nothing(rows), 0.0
    x, follow = rows_of(text.held, rows)
    with torch.no_grad():
        for at in range(0, x.shape[1], piece):
            raw, carry = writer(x[:, at : at + piece], carry)
            spent += float(head.nats(raw, follow[:, at : at + piece]).double().sum())
    return spent / x.numel() / math.log(2)


def bits_by_counts(text: Text, order: int, *, added: tuple[float, ...] = ADDED) -> tuple[float, float]:
    """Of a held-out letter, foreseen from how often it follows the `order` - 1 before it (add-k smoothing); with the best k, and that k."""
    kinds = len(text.letters)

    def contexts(letters: Tensor) -> tuple[Tensor, Tensor]:
        windows = letters.unfold(0, order, 1)
        return (windows[:, :-1] * kinds ** torch.arange(order - 2, -1, -1)).sum(1), windows[:, -1]

    (context, letter), (asked, answer) = contexts(text.learn), contexts(text.held)
    places = kinds ** (order - 1)
    # Sorted keys instead of a table of all contexts: quadruples have 10^8 places.
    keys, counts = (context * kinds + letter).unique(return_counts=True)
    of_context = torch.bincount(context, minlength=places)[asked].double()
    wanted = asked * kinds + answer
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    together = torch.where(keys[at] == wanted, counts[at], 0).double()
    return min((float(-((together + k) / (of_context + k * kinds)).log2().mean()), k) for k in added)


def written(writer: Writer, text: Text, start: str, count: int, *, temperature: float, seed: int) -> str:
    """So many letters that follow the start."""
    head, generator = Categorical(len(text.letters)), torch.Generator().manual_seed(seed)
    drawn = []
    with torch.no_grad():
        raw, carry = writer(text.number(start)[None], nothing(1))
        for _ in range(count):
            drawn.append(head.sample(raw[:, :, -1:], temperature, generator))
            raw, carry = writer(drawn[-1], carry)
    return text.spell(torch.cat(drawn, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--cell", choices=CELLS, default="lstm")
    given = parser.parse_args()
    torch.set_num_threads(1)
    text = load()
    print(f"{len(text.learn):,} letters to learn from, {len(text.held):,} held out, {len(text.letters)} kinds\n")
    print(f"{'bits a held-out letter':<36}")
    for order, name in ((1, "letters"), (2, "pairs"), (3, "triples"), (4, "quadruples")):
        found, k = bits_by_counts(text, order)
        print(f"{f'counts of {name}, best k {k:g}':<36}{found:.3f}")
    for seed in given.seeds:
        began = time.perf_counter()
        writer = taught(text, given.steps, cell=given.cell, seed=seed)
        label = f"{given.cell.upper()}, {given.steps} steps, seed {seed}"
        print(f"{label:<36}{bits(writer, text):.3f}   ({time.perf_counter() - began:.0f} s)", flush=True)
    for temperature in (0.0, 0.5, 1.0):
        print(f"\n-- temperature {temperature}\n{written(writer, text, 'def ', 300, temperature=temperature, seed=0)}")


if __name__ == "__main__":
    main()
