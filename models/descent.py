"""One guarded step down on a flat vector of weights, by AdamW or another rule: nothing that is not finite ever reaches them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.network import Ensemble, Flat

# Gradients of a series' first cells are many times its later ones; one new series must not move the weights that all share.
CLIP_NORM = 1.0
PATIENCE = 5  # bad steps in a row, after which the last good weights come back
# Steps that the served weights are a mean of, about (Polyak & Juditsky 1992): noise of single steps is not served. Of 100 ETTh2 loses
# 0.1 % at long leads, of 50 0.2 % more; young weights move fast, and a tenth of their steps was too many (LOG 2026-11-26, 2026-11-27).
AVERAGED = 200
YOUNG = 20  # their mean is of a twentieth of the steps so far
GOOD_EVERY = 50  # good steps between copies that a rollback returns to

# Rules by the rate that is their own here (LOG 2026-11-26). Adam: Kingma & Ba 2015; AdamW: Loshchilov & Hutter 2019; sgd: with momentum.
RATES = {"adamw": 2e-3, "adam": 2e-3, "sgd": 5e-2}
MOMENTUM = 0.9  # of sgd (Polyak 1964), and what Adam remembers of gradients
SQUARES = 0.999  # what Adam remembers of their squares
DECAY = 0.01  # of weights, a unit of rate: AdamW

STATE = ("weights", "first", "second", "average", "good_weights", "good_first", "good_second")
ROWS = len(STATE)


class Outcome(NamedTuple):
    """What a step did: `kind` "step", "skip" or "rollback_weights"; `cause` what was not finite, first of all: loss, gradient, weights."""

    kind: str
    cause: str
    loss: float
    norm: float  # of the gradient, before clipping


class Descent:
    """Weights that learn: a rule of descent, its moments, and the copy to fall back on.

    All of it is one tensor, `state` (ROWS, P), that may lie where another process sees it; `steps` and `bad` are told.
    """

    def __init__(
        self,
        network: Ensemble,
        *,
        rate: float,
        least: float,
        halving: int,
        clip: float = CLIP_NORM,
        rule: str = "adamw",
        paces: Sequence[float] = (1.0,),
        state: Tensor | None = None,
    ) -> None:
        """`clip`: norm that gradients are cut to; `rule`: one of RATES; `paces`: of equal parts of the weights, in parts of `least`.

        `state`: one to go on with, as it stands; None: begin with the network's own weights.
        """
        self.flat = Flat(network)
        self.gradient = self.flat.learn()
        if state is None:
            state = torch.zeros(ROWS, len(self.gradient), device=self.gradient.device)
            state[:] = self.flat.weights * torch.tensor([name.endswith(("weights", "average")) for name in STATE])[:, None].to(state)
        self._lie(state)
        self.steps = 0
        self.bad = 0
        self.rate, self.least, self.halving, self.clip, self.rule, self.paces = rate, least, halving, clip, rule, tuple(paces)

    def take_over(self, weights: Tensor, moments: Iterable[Tensor] | None) -> None:
        """Go on from these weights; `moments` None: with those that there are."""
        for mine in (self.weights, self.average, self.good[0]):
            mine.copy_(weights)
        if moments is not None:
            for mine, theirs in zip([*self.moments, *self.good[1:]], [*moments] * 2, strict=True):
                mine.copy_(theirs)

    def _lie(self, state: Tensor) -> None:
        self.state = state
        self.weights, first, second, self.average, *self.good = state
        self.moments = [first, second]
        self.flat.read(self.weights)

    def move(self, state: Tensor) -> None:
        """Everything into this tensor, and go on there."""
        state.copy_(self.state)
        self._lie(state)

    @property
    def settled(self) -> int:
        """Steps after which the rate falls no further."""
        return int(self.halving * ((self.rate / self.least) ** 2 - 1)) + 1

    def rate_now(self, pace: float = 1.0) -> float:
        """Falls as 1 / sqrt(1 + steps / halving) towards `least` times the pace: it never stops learning."""
        return max(self.least * pace, self.rate * float((1 + self.steps / self.halving) ** -0.5))

    def step(self, loss: Callable[[Ensemble], Tensor]) -> Outcome:
        """Take one step down; skipped, with the cause, when loss, gradient or the new weights are not finite."""
        network = self.flat.network
        network.train()
        self.gradient.zero_()
        value = loss(network)
        size = float(value.detach())
        if not math.isfinite(size):
            return self._skip("loss", size, float("nan"))
        value.backward()  # type: ignore[no-untyped-call]
        norm = float(torch.linalg.vector_norm(self.gradient))
        if not norm < float("inf"):
            return self._skip("gradient", size, norm)
        self.gradient.mul_(min(1.0, self.clip / (norm + 1e-6)))
        kept = [self.weights.clone(), *(m.clone() for m in self.moments)]
        self._descend()
        if not math.isfinite(float(self.weights.sum())):
            self._restore(kept)
            return self._skip("weights", size, norm)
        self.average.lerp_(self.weights, max(1 / AVERAGED, YOUNG / (YOUNG + self.steps)))
        self.bad = 0
        if self.steps % GOOD_EVERY == 0:
            for good, mine in zip(self.good, [self.weights, *self.moments], strict=True):
                good.copy_(mine)
        return Outcome("step", "", size, norm)

    def _descend(self) -> None:
        self.steps += 1
        first, second = self.moments
        parts = [a.chunk(len(self.paces)) for a in (self.weights, first)]
        rates = [self.rate_now(pace) for pace in self.paces]
        if self.rule == "sgd":
            first.mul_(MOMENTUM).add_(self.gradient)
            for weights, way, rate in zip(*parts, rates, strict=True):
                weights.sub_(way, alpha=rate)
            return
        first.lerp_(self.gradient, 1 - MOMENTUM)
        second.mul_(SQUARES).addcmul_(self.gradient, self.gradient, value=1 - SQUARES)
        steps = (second / (1 - SQUARES**self.steps)).sqrt_().add_(1e-8).chunk(len(self.paces))
        for weights, way, step, rate in zip(*parts, steps, rates, strict=True):
            kept = 1 - rate * DECAY if self.rule == "adamw" else 1
            weights.mul_(kept).addcdiv_(way, step, value=-rate / (1 - MOMENTUM**self.steps))

    def _skip(self, cause: str, loss: float, norm: float) -> Outcome:
        self.bad += 1
        if self.bad < PATIENCE:
            return Outcome("skip", cause, loss, norm)
        self.bad = 0
        self._restore(self.good)
        return Outcome("rollback_weights", cause, loss, norm)

    def _restore(self, kept: list[Tensor]) -> None:
        self.weights.copy_(kept[0])
        for mine, theirs in zip(self.moments, kept[1:], strict=True):
            mine.copy_(theirs)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a restart needs, but for `counts`."""
        return dict(zip(STATE, self.state, strict=True))

    def counts(self) -> dict[str, Any]:
        return {"steps": self.steps, "bad": self.bad}

    def load(self, tensors: dict[str, Tensor], counts: dict[str, Any]) -> None:
        """Take over what `tensors` and `counts` gave."""
        for name, mine in self.tensors().items():
            mine.copy_(tensors[name])
        self.steps, self.bad = counts["steps"], counts["bad"]
