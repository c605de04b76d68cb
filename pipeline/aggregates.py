"""Several samples of a step as one value. In which order they came shows in no bit of it.

What has come of a cell so far is a list of plain values, so that a snapshot holds it as it is, and it stays short however many
samples come: sums are kept exactly, as a few numbers that do not overlap. Times are microseconds.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

SECOND = 1_000_000
SoFar = list[Any]  # what has come of a cell, empty to begin with


class Mark(NamedTuple):
    """The last sample of a cell, where the next cell goes on from it."""

    at: int
    value: float


class Aggregate(Protocol):
    """How samples become a value."""

    def add(self, so_far: SoFar, at: int, offset: int, value: float, *, settled: int) -> None:
        """A sample, and where it lies in its partition; no later one is older than `settled`."""

    def close(self, so_far: SoFar, before: Mark | None) -> tuple[float | None, Mark | None]:
        """The value, None where the samples say none, and what the series' next cell is to know; `before`: of the step before."""


class Mean:
    """
    >>> so_far = []
    >>> for value in (1e16, 1.0, -1e16): Mean().add(so_far, 0, 0, value, settled=0)
    >>> Mean().close(so_far, None)
    (0.3333333333333333, None)
    """

    def add(self, so_far: SoFar, at: int, offset: int, value: float, *, settled: int) -> None:  # noqa: ARG002
        count, *parts = so_far or (0,)
        so_far[:] = count + 1, *grown(parts, value)

    def close(self, so_far: SoFar, before: Mark | None) -> tuple[float | None, Mark | None]:  # noqa: ARG002
        count, *parts = so_far
        return math.fsum(parts) / count, None


class Sum:
    def add(self, so_far: SoFar, at: int, offset: int, value: float, *, settled: int) -> None:  # noqa: ARG002
        so_far[:] = grown(so_far, value)

    def close(self, so_far: SoFar, before: Mark | None) -> tuple[float | None, Mark | None]:  # noqa: ARG002
        return math.fsum(so_far), None


class Count:
    def add(self, so_far: SoFar, at: int, offset: int, value: float, *, settled: int) -> None:  # noqa: ARG002
        so_far[:] = [so_far[0] + 1 if so_far else 1]

    def close(self, so_far: SoFar, before: Mark | None) -> tuple[float | None, Mark | None]:  # noqa: ARG002
        return float(so_far[0]), None


class Last:
    """The newest; of two for one moment the one that came later."""

    def add(self, so_far: SoFar, at: int, offset: int, value: float, *, settled: int) -> None:  # noqa: ARG002
        if not so_far or so_far[:2] <= [at, offset]:
            so_far[:] = at, offset, value

    def close(self, so_far: SoFar, before: Mark | None) -> tuple[float | None, Mark | None]:  # noqa: ARG002
        return float(so_far[2]), None


class Rate:
    """How much a counter rises a second. One that falls has begun again from nothing.

    From the last sample of the step before to the last of this one, so that no rise is lost between them; where the step before has
    none, from the first sample. A single moment rises by nothing that could be told.

    >>> so_far = []
    >>> for at, value in ((3, 10.0), (1, 4.0), (5, 2.0)): Rate().add(so_far, at * SECOND, 0, value, settled=0)
    >>> Rate().close(so_far, None), Rate().close(so_far, Mark(0, 1.0))
    ((2.0, Mark(at=5000000, value=2.0)), (2.2, Mark(at=5000000, value=2.0)))
    """

    def add(self, so_far: SoFar, at: int, offset: int, value: float, *, settled: int) -> None:
        if not so_far:
            so_far[:] = [], []
        run, waiting = so_far
        insort(waiting, [at, offset, value])
        while waiting and waiting[0][0] < settled:
            follow(run, waiting.pop(0))

    def close(self, so_far: SoFar, before: Mark | None) -> tuple[float | None, Mark | None]:
        run, waiting = so_far
        whole = [*run]
        for sample in waiting:
            follow(whole, sample)
        first, begun, last, value, risen = whole
        if before is not None:
            first, risen = before.at, grown(risen, rise(before.value, begun))
        return (math.fsum(risen) * SECOND / (last - first) if last > first else None), Mark(last, value)


def follow(run: list[Any], sample: list[Any]) -> None:
    """The next sample of a counter, in the order of time: a run is (first time, first value, last time, last value, parts of its rise)."""
    at, _, value = sample
    if run:
        run[2:] = at, value, grown(run[4], rise(run[3], value))
    else:
        run[:] = at, value, at, value, []


def rise(before: float, after: float) -> float:
    """Of a counter that may have begun again from nothing."""
    return after - before if after >= before else after


def grown(parts: list[float], x: float) -> list[float]:
    """Parts whose exact sum is that of all before and x (Shewchuk 1997, Grow-Expansion): at most 40 for any float64s.

    >>> grown(grown([1e16], 1.0), -1e16)
    [1.0, 0.0]
    """
    out = []
    for part in parts:
        large, small = (x, part) if abs(x) >= abs(part) else (part, x)
        x = large + small
        rest = small - (x - large)
        if rest:
            out.append(rest)
    return [*out, x]


AGGREGATES: Mapping[str, Aggregate] = {"mean": Mean(), "last": Last(), "sum": Sum(), "count": Count(), "rate": Rate()}
