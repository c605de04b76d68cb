"""What all series together have taught: as of now (`Pool`), and as of each instant that samples may still ask for (`Generation`).

Letters: N rows, H lead times, Q quantile levels, B central bands. Naive forecasts in the order of `models.baselines`,
evidence in the order of `models.learner.Learner.experts`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models import baselines, scale, score
from models.carry import MANY, Memory
from models.heads import MIDDLE
from models.mixture import Weights, groups

# Rates at which bands that cover too little grow, and shrink, at lead 1. At lead h they are less by its root: what a band did is known h
# cells later, and until then it goes on growing: with one rate for all leads, too many values were in it after a jump (LOG 2026-11-26).
# Less is enough since half of a band grows with its series' own errors: 0.25 has it 4 % wider at lead 48 of ETTh2.
WIDEN = 0.2  # of all series together; of few of them less, one says too little
FEW = 3  # series: of as many, it is root 1/2 of that
STRETCH = 0.02  # of one series
# Naive errors: a season that was said is tried as soon as there is one before; without any evidence it wins by this
BELIEVED = score.VISIBLE + 0.01
AGILE = 0.02  # rate at which what is usual for a series' errors is forgotten: 50 instants, and half of a band follows a new variance
PRIOR = 4.0  # scores that `scale.OFF` is worth
LEAST_OFF = 0.01  # naive errors: of errors that are all but none, too, there are quantiles
WIDEST = 4.0  # in logarithms: no band may vanish or explode while its network is still learning


@dataclass
class Generation:
    """All that is behind forecasts made under it. Nothing in it changes but that forgotten series leave `change`, and its weights come."""

    instant: int
    updates: int
    weights: Tensor | None  # None: still being learnt
    naive: np.ndarray  # (3, H) naive errors of all series
    relative: float  # mean one-step change as a part of the level
    spread: np.ndarray  # (2, Q, H) quantiles of the errors of last value and seasonal naive, in units of their mean
    residual: np.ndarray  # (Q, H) quantiles of the model's own errors, in units of what is usual for the series
    width: np.ndarray  # (Q, H) factors on the model's quantiles
    served: np.ndarray  # (H,) codes for series that have too little evidence of their own
    mixed: Weights  # of the experts
    solved: tuple[np.ndarray, ...]  # (C, F, H) coefficients of each linear one
    change: scale.Change

    def state(self) -> dict[str, np.ndarray]:
        assert self.weights is not None, "a snapshot waits for what is being learnt"
        return {
            "weights": self.weights.cpu().numpy(),
            "naive": self.naive,
            "spread": self.spread,
            "residual": self.residual,
            "width": self.width,
            "served": self.served,
            **self.mixed._asdict(),
            **{f"solved {k}": coefficients for k, coefficients in enumerate(self.solved)},
            "slots": self.change.slots,
            "rows": scale.to_bytes(self.change.rows),
        }

    @classmethod
    def load(
        cls, instant: int, updates: int, relative: float, columns: dict[str, np.ndarray], device: torch.device, lean: tuple[int, int]
    ) -> Generation:
        """The inverse of `state`."""
        change = scale.Change(columns["slots"].copy(), scale.from_bytes(columns["rows"], columns["naive"].shape[1], lean))
        plain = {name: columns[name].copy() for name in ("naive", "spread", "residual", "width", "served")}
        solved = tuple(columns[f"solved {k}"].copy() for k in range(sum(name.startswith("solved") for name in columns)))
        mixed = Weights(*(columns[name].copy() for name in Weights._fields))
        weights = torch.from_numpy(columns["weights"].copy()).to(device)
        return cls(instant=instant, updates=updates, weights=weights, relative=relative, change=change, mixed=mixed, solved=solved, **plain)


@dataclass
class Pool:
    """Running figures over all series; only learning moves those that forecasts are made with."""

    levels: np.ndarray  # (Q,)
    tails: np.ndarray  # the indices of all levels but the median
    naive: np.ndarray  # (3, H) float64
    spread: np.ndarray  # (2, Q, H)
    residual: np.ndarray  # (Q, H)
    log_width: np.ndarray  # (Q, H); the median's stays 0
    evidence: np.ndarray  # (6, H) mean absolute errors, and squared ones
    evidence_count: np.ndarray  # (H,)
    served: np.ndarray  # (H,) int8
    covered: np.ndarray  # (B, H) how often the bands held; for people only, as are these two
    scored: np.ndarray  # (H,)
    by: np.ndarray  # (experts, H)
    relative: float = 0.1
    batches: int = 0
    updates: int = 0
    adopted: int = 0  # of the updates: when the weights were put in that online learning started from

    @classmethod
    def new(cls, horizon: int, levels: Sequence[float]) -> Pool:
        start = score.code(np.full(horizon, score.LAST), np.full(horizon, score.COLD), np.full(horizon, score.LAST))
        return cls(
            levels=np.array(levels),
            tails=np.array([k for k, level in enumerate(levels) if level != MIDDLE]),
            naive=baselines.prior(horizon).astype(np.float64),
            spread=baselines.spread(levels, horizon),
            residual=baselines.spread(levels, horizon)[0],
            log_width=np.zeros((len(levels), horizon)),
            evidence=np.zeros((6, horizon)),
            evidence_count=np.zeros(horizon, np.int64),
            served=start,
            covered=np.zeros((len(score.bands(levels).nominal), horizon), np.int64),
            scored=np.zeros(horizon, np.int64),
            by=np.zeros((1 + len(score.BASELINES), horizon), np.int64),
        )

    def generation(
        self, instant: int, weights: Tensor | None, change: scale.Change, *, mixed: Weights, solved: tuple[np.ndarray, ...]
    ) -> Generation:
        """What stands now, for good; `mixed` and `solved` are nobody's to change any more."""
        return Generation(
            instant=instant,
            updates=self.updates - self.adopted,
            weights=weights,
            naive=self.naive.astype(np.float32),
            relative=self.relative,
            spread=self.spread.copy(),
            residual=self.residual.astype(np.float32),
            width=np.exp(self.log_width).astype(np.float32),
            served=self.served.copy(),
            mixed=mixed,
            solved=solved,
            change=change,
        )

    # Learning

    def relate(self, scales: np.ndarray, values: np.ndarray) -> None:
        """How large scales are beside levels, for series that have none yet."""
        known = (scales > 0) & (np.abs(values) > 0)
        if known.any():
            ratio = float(np.minimum(scales[known] / np.abs(values[known]), 1.0).mean())
            self.batches += 1
            self.relative += (ratio - self.relative) * max(1 / (1 + self.batches), scale.MEMORY)

    def naively(self, memory: Memory, slot: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """Learn from residuals of the naive forecasts (N, 3, H; NaN: none); returns each series' naive errors, float16."""
        known = ~np.isnan(residual)
        own, count = memory["naive"][slot], memory["naive_count"][slot]
        typical = baselines.pooled(own, count, self.naive)
        size = np.where(known, np.minimum(np.abs(residual), scale.ROBUST * typical), 0)
        unit = np.maximum(typical[:, :2], 1e-3)
        baselines.track(self.spread, residual[:, :2] / unit, self.levels)
        count = np.minimum(count + known, MANY)
        own = np.where(known, scale.mean(own, count, size, scale.MEMORY), own)
        memory["naive"][slot], memory["naive_count"][slot] = own, count
        total = known.sum(0)
        batch = size.sum(0) / np.maximum(total, 1)
        self.naive = np.where(total > 0, scale.mean(self.naive, np.full_like(self.naive, self.updates + 2), batch, 0.01), self.naive)
        return np.asarray(np.clip(baselines.pooled(own, count, self.naive), 0.01, 6e4), np.float16)

    def usual(self, error: np.ndarray, off: np.ndarray, count: np.ndarray) -> np.ndarray:
        """Learn how the model's own errors lie (N, H; actual less said, in naive errors; NaN: none), in units of what was usual.

        `off` (N, G): their mean size so far, over (N, H) scores; returns it with these.
        """
        of = groups(error.shape[1])
        known = ~np.isnan(error)
        total = known.sum(0)
        slower = np.sqrt(total / (total + FEW) / np.arange(1, error.shape[1] + 1))
        baselines.track(self.residual[None], (error / off[:, of])[:, None], self.levels, slower)
        size = np.minimum(np.abs(np.nan_to_num(error)), scale.ROBUST)
        fresh = off.copy()
        for group in range(off.shape[1]):
            mine = known & (of == group)
            each = mine.sum(1)
            rate = np.maximum(1 / (count[:, of == group].max(1) + PRIOR), AGILE)
            mean = (size * mine).sum(1) / np.maximum(each, 1)
            fresh[:, group] = np.where(each > 0, off[:, group] + (mean - off[:, group]) * rate, off[:, group])
        return np.asarray(np.maximum(fresh, LEAST_OFF))

    def weigh(
        self, memory: Memory, slot: np.ndarray, errors: np.ndarray, under: np.ndarray, stretch: np.ndarray, *, mixed: bool
    ) -> np.ndarray:
        """Learn from scores: evidence (see `models.score.choose`) and coverage (under (N, Q, H), see `models.score.Pending`).

        `errors` (N, 3, H) absolute, in naive ones as they have been for long; NaN: none. Returns the series' stretches (N, 2, H).
        """
        known = ~np.isnan(errors[:, 0])
        count = np.minimum(memory["evidence_count"][slot] + known, MANY)
        # Without a value a season before, the last value serves in the seasonal naive's place: its error is that one, not none
        net, seasonal, last = (errors[:, k] for k in (score.NET, score.SEASONAL, score.LAST))
        errors = np.nan_to_num(np.stack([net, np.where(np.isnan(seasonal), np.maximum(last - BELIEVED, 0), seasonal), last], 1))
        errors = np.concatenate([errors, errors * errors], 1)
        own, rates = memory["evidence"][slot], score.rates(errors.shape[2], mixed=mixed)
        memory["evidence"][slot] = np.where(known[:, None], scale.mean(own, count[:, None] / score.YOUNG, errors, rates), own)
        memory["evidence_count"][slot] = count
        total = known.sum(0)
        self.evidence_count += total
        batch = errors.sum(0) / np.maximum(total, 1)
        mean = scale.mean(self.evidence, self.evidence_count / np.maximum(total, 1) / score.YOUNG, batch, rates)
        self.evidence = np.where(total > 0, mean, self.evidence)
        return self._cover(under, stretch)

    def _cover(self, under: np.ndarray, stretch: np.ndarray) -> np.ndarray:
        """Widen what covers too little: an online conformal step (Gibbs & Candes 2021), on the distance from the median."""
        known, net = under >= 0, under > 1
        levels = self.levels[self.tails]
        upper = (levels > MIDDLE)[:, None]
        tail = np.where(upper[:, 0], 1 - levels, levels)[:, None]
        missed = (under & 1) != upper  # beyond the quantile, on its own side
        excess = np.where(known, missed - tail, 0.0)
        total = np.maximum(net.sum(0), 1)
        slower = np.arange(1, under.shape[2] + 1) ** -0.5
        rate = WIDEN * slower * np.sqrt(total / (total + FEW))
        moved = self.log_width[self.tails] + rate * np.where(net, excess, 0).sum(0) / total
        self.log_width[self.tails] = np.clip(moved, -WIDEST, WIDEST)
        sides = [excess[:, levels < MIDDLE], excess[:, levels > MIDDLE]]
        step = np.stack([side.mean(1) if side.shape[1] else np.zeros_like(stretch[:, 0]) for side in sides], 1)
        return np.asarray(np.clip(stretch * np.exp(STRETCH * slower * step), 0.1, 10))

    def decide(self, needed: int, *, mixed: bool) -> list[tuple[str, str, dict[str, Any]]]:
        """Who serves series that have too little evidence of their own; decisions where the network lost or won leads."""
        before, self.served = self.served, score.choose(self.evidence, self.evidence_count, self.served, needed=needed, mixed=mixed)
        was, now = ((codes & 3) == score.NET for codes in (before, self.served))
        cold = (before >> 3) == score.COLD
        changes = (("fallback", was & ~now), ("recover", now & ~was & ~cold))
        return [
            (kind, "skill of all series together", {"leads": (np.flatnonzero(leads) + 1).tolist()})
            for kind, leads in changes
            if leads.any()
        ]

    # For people

    def count(
        self,
        memory: Memory,
        slot: np.ndarray,
        due: np.ndarray,
        by: np.ndarray,
        errors: tuple[np.ndarray, np.ndarray],
        covered: np.ndarray,
        least: int,
    ) -> None:
        """Add scores (N, H) to the figures of `summary`: from each series' and lead's `least`-th on."""
        memory["scores"][slot] += due
        counted = due & (memory["scores"][slot] >= least)
        sums = np.where(counted[:, None], np.minimum(np.stack(errors, 1), 1e150), 0)
        memory["error"][slot] += sums
        for expert in range(len(self.by)):
            mine = due & (by == expert)
            self.by[expert] += mine.sum(0)
            if expert != score.LAST:  # the rest is its
                memory["by"][slot, expert] += mine
        inside = covered & counted[..., None]
        memory["held"][slot] += inside.sum(1)
        self.covered += inside.sum(0).T
        self.scored += counted.sum(0)

    def summary(
        self, memory: Memory, scales: np.ndarray, bands: tuple[float, ...], experts: tuple[str, ...], least: int, slot: int | None
    ) -> dict[str, Any]:
        """Skill and served shares by lead, coverage by band, and of all series together by lead."""
        chosen = np.flatnonzero(memory["live"]) if slot is None else np.array([slot])
        error, scores = memory["error"][chosen], memory["scores"][chosen]
        counted = np.maximum(scores - (least - 1), 0)
        unit = scales[chosen][:, None]
        usable = (counted > 0) & (unit > 0)
        mae = np.where(usable[:, None], error / np.maximum(counted, 1)[:, None] / np.where(unit > 0, unit, 1)[:, None], 0).sum(0)
        shares = memory["by"][chosen].sum(0, dtype=np.int64)
        shares = np.concatenate([shares, [scores.sum(0) - shares.sum(0)]])
        leads = range(shares.shape[1])
        out: dict[str, Any] = {
            "observations": int(memory["seen"][chosen].sum()),
            "skill": {str(h + 1): round(float(1 - mae[0, h] / mae[1, h]), 6) for h in leads if mae[1, h] > 0},
            "served": {str(h + 1): _shares(shares[:, h], experts) for h in leads if shares[:, h].any()},
        }
        if slot is not None:
            total = float(counted.sum())
            out["coverage"] = {f"{b:g}": round(float(n / total), 6) for b, n in zip(bands, memory["held"][slot], strict=True) if total}
        else:
            share = self.covered / np.maximum(self.scored, 1)
            total = float(self.covered.shape[1] and self.scored.sum())
            out["coverage"] = {f"{b:g}": round(float(self.covered[k].sum() / total), 6) for k, b in enumerate(bands) if total}
            out["coverage_by_lead"] = {
                f"{b:g}": {str(h + 1): round(float(share[k, h]), 6) for h in leads if self.scored[h]} for k, b in enumerate(bands)
            }
        return out

    # Restarts

    ARRAYS = ("naive", "spread", "residual", "log_width", "evidence", "evidence_count", "served", "covered", "scored", "by")

    def state(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in self.ARRAYS}

    def counts(self) -> dict[str, Any]:
        return {"relative": self.relative, "batches": self.batches, "updates": self.updates, "adopted": self.adopted}

    def load(self, columns: dict[str, np.ndarray], counts: dict[str, Any]) -> None:
        """The inverse of `state` and `counts`."""
        for name in self.ARRAYS:
            setattr(self, name, columns[name].copy())
        self.relative, self.batches = counts["relative"], counts["batches"]
        self.updates, self.adopted = counts["updates"], counts["adopted"]


def _shares(counts: np.ndarray, experts: tuple[str, ...]) -> dict[str, float]:
    total = counts.sum()
    return {experts[k]: round(float(n / total), 6) for k, n in enumerate(counts) if n}
