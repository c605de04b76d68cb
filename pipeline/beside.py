"""What is known beside series: what samples bring of covariates, in columns, and what a forecast from each cell had been able to go by.

Letters: N samples, K covariates, W numbers of an outlook (see `models.covariates`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from models.covariates import Plan, Tells
from models.outlooks import Outlooks
from pipeline.events import Sample


def tells(batch: Iterable[Sample], step_us: int, names: Sequence[str], ahead: Sequence[str]) -> Tells:
    """What samples bring; some of them must bring something."""
    places = [names.index(name) for name in ahead]
    rows: list[tuple[int, int, int]] = []
    values: list[tuple[float, ...] | list[float]] = []
    for sample in batch:
        for told in sample.told:
            rows.append((sample.slot, told.cell // step_us, told.cell // step_us))
            values.append(told.values)
            for later, said in told.ahead:
                whole = [math.nan] * len(names)
                for place, number in zip(places, said, strict=True):
                    whole[place] = number
                rows.append((sample.slot, told.cell // step_us, later // step_us))
                values.append(whole)
    slot, by, about = np.array(rows, np.int64).T
    return Tells(slot, by, about, np.array(values, np.float64))


class Known(NamedTuple):
    """What was known at cells of series when they were forecast from."""

    slot: np.ndarray  # (N,) int64
    cell: np.ndarray  # (N,) int64
    outlook: np.ndarray  # (N, W) float16


class Samples:
    """Follows a history's samples, and says what a stream's learner would have known at each observed cell."""

    def __init__(self, plan: Plan, step_us: int, names: Sequence[str], ahead: Sequence[str]) -> None:
        self._outlooks, self._step, self._names, self._ahead = Outlooks(plan), step_us, names, ahead
        self.width, self.admit = plan.width, self._outlooks.admit

    def take(self, samples: Sequence[Sample]) -> Iterator[Known]:
        """In their order."""
        batch: dict[int, Sample] = {}
        for sample in samples:
            if sample.slot in batch:
                yield from self._known([*batch.values()])
                batch = {}
            batch[sample.slot] = sample
        if batch:
            yield from self._known([*batch.values()])

    def _known(self, batch: list[Sample]) -> Iterator[Known]:
        """Of samples of as many series."""
        if any(sample.told for sample in batch):
            self._outlooks.tell(tells(batch, self._step, self._names, self._ahead))
        slot, value = np.array([sample.slot for sample in batch]), np.array([sample.value for sample in batch])
        cell = np.array([sample.cell // self._step for sample in batch])
        new, outlook = self._outlooks.look(slot, cell, value)
        there = ~np.isnan(value[new])
        yield Known(slot[new][there], cell[new][there], outlook[there])
