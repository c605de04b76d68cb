"""Which cells a learning instant closes, and which instant comes next: a function of the cells that are open, and of nothing else.

Windows of a fixed span close the cells that end in them; sliding ones overlap, and learn each cell with the first that holds it, which
is as if they were as long as the way from one to the next. A session is the cells of a series between which it is silent for less than
`gap`; it ends when it has been silent so long, and is cut where it is `max_span` long. It is closed by the first instant at or after
its end. Cells that begin at or after an instant may be known or not when it passes: none of them can be in what it closes.

Times are microseconds; a cell is named by its start, and is added once.
"""

from __future__ import annotations

import heapq
import math
from bisect import bisect
from dataclasses import dataclass
from operator import attrgetter
from typing import Protocol

from pipeline.events import Rules

Cell = tuple[int, int]  # slot of the series, start


class Windows(Protocol):
    """Cells that are open, each until the instant that closes it."""

    def add(self, key: Cell) -> None: ...

    def due(self) -> float:
        """The first instant that closes anything of what is open; infinite: none does."""

    def close(self, instant: int) -> list[Cell]:
        """All that is due at an instant or before it; it is open no longer."""

    def latest(self, cell: int) -> int:
        """The instant that closes a cell at the latest, as far as it alone can tell."""


class Spans:
    """
    >>> spans = Spans(step=10, grid=30)
    >>> spans.add((0, 10)); spans.add((0, 30))
    >>> spans.due(), spans.close(30), spans.due()
    (30, [(0, 10)], 60)
    """

    def __init__(self, *, step: int, grid: int) -> None:
        self.step, self.grid = step, grid
        self.cells: dict[int, list[Cell]] = {}  # by the instant that closes them
        self.order: list[int] = []  # heap of the keys of `cells`

    def add(self, key: Cell) -> None:
        instant = self.latest(key[1])
        cells = self.cells.get(instant)
        if cells is None:
            cells = self.cells[instant] = []
            heapq.heappush(self.order, instant)
        cells.append(key)

    def due(self) -> float:
        return self.order[0] if self.order else math.inf

    def close(self, instant: int) -> list[Cell]:
        closed: list[Cell] = []
        while self.order and self.order[0] <= instant:
            closed += self.cells.pop(heapq.heappop(self.order))
        return closed

    def latest(self, cell: int) -> int:
        return -(-(cell + self.step) // self.grid) * self.grid


@dataclass
class Run:
    """Cells of a series between which it is silent for less than the gap."""

    first: int
    last: int
    cells: list[int]  # in any order


class Sessions:
    """
    >>> sessions = Sessions(step=10, grid=10, gap=20, max_span=60)
    >>> for cell in (0, 20, 100): sessions.add((0, cell))
    >>> sessions.due(), sorted(sessions.close(50)), sessions.due()
    (50, [(0, 0), (0, 20)], 130)
    """

    def __init__(self, *, step: int, grid: int, gap: int, max_span: int) -> None:
        self.step, self.grid, self.gap, self.max_span = step, grid, gap, max_span
        self.runs: dict[int, list[Run]] = {}  # slot -> its runs, by time
        # Heap of (instant, slot): for every slot of `runs` one that is not after what its first run is due at. A run that grows is due
        # later, which is looked at when its turn comes; only a new first cell may make it earlier.
        self.order: list[Cell] = []

    def add(self, key: Cell) -> None:
        slot, cell = key
        runs = self.runs.setdefault(slot, [])
        at = bisect(runs, cell, key=attrgetter("first"))
        runs.insert(at, Run(cell, cell, [cell]))
        if at + 1 < len(runs) and self._joined(runs[at], runs[at + 1]):
            self._join(runs, at)
        if at and self._joined(runs[at - 1], runs[at]):
            self._join(runs, at - 1)
        if runs[0].first == cell:
            heapq.heappush(self.order, (self._ends(runs[0]), slot))

    def due(self) -> float:
        while self.order:
            instant, slot = self.order[0]
            runs = self.runs.get(slot)
            if runs is None:
                heapq.heappop(self.order)
            elif (ends := self._ends(runs[0])) > instant:
                heapq.heapreplace(self.order, (ends, slot))
            else:
                return instant
        return math.inf

    def close(self, instant: int) -> list[Cell]:
        closed: list[Cell] = []
        while self.due() <= instant:
            slot = heapq.heappop(self.order)[1]
            closed += ((slot, cell) for cell in self._take(slot))
        return closed

    def latest(self, cell: int) -> int:
        return self._instant(cell + self.step + self.gap)

    def _take(self, slot: int) -> list[int]:
        """The first run of a series, up to where it is cut."""
        runs = self.runs[slot]
        run, cut = runs[0], runs[0].first + self.max_span
        rest = [cell for cell in run.cells if cell >= cut]
        runs[:1] = [Run(min(rest), run.last, rest)] if rest else []
        if runs:
            heapq.heappush(self.order, (self._ends(runs[0]), slot))
        else:
            del self.runs[slot]
        return [cell for cell in run.cells if cell < cut]

    def _joined(self, one: Run, other: Run) -> bool:
        return other.first - (one.last + self.step) < self.gap

    def _join(self, runs: list[Run], at: int) -> None:
        one, other = runs[at : at + 2]
        small, large = sorted((one.cells, other.cells), key=len)
        large += small
        runs[at : at + 2] = [Run(one.first, max(one.last, other.last), large)]

    def _ends(self, run: Run) -> int:
        return self._instant(min(run.first + self.max_span, run.last + self.step + self.gap))

    def _instant(self, at: int) -> int:
        """The first at or after."""
        return -(-at // self.grid) * self.grid


def windows_of(rules: Rules) -> Windows:
    if rules.kind == "session":
        return Sessions(step=rules.step, grid=rules.grid, gap=rules.gap, max_span=rules.max_span)
    return Spans(step=rules.step, grid=rules.grid)
