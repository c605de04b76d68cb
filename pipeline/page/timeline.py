"""Numbers over event time in a bounded number of bins, which widen as time goes on: all of it is always there, ever more coarsely."""

from __future__ import annotations

import numpy as np

BINS = 480  # more than a chart of usual width has pixels for each


class Timeline:
    """Sums of some shape, by time.

    >>> line = Timeline((1,), bins=2)
    >>> for at in (10, 11, 12, 13): line.add(at, np.ones(1), width=1)
    >>> line.times().tolist(), line.sums[:, 0].tolist()
    ([10, 12], [2.0, 2.0])
    """

    def __init__(self, shape: tuple[int, ...], *, bins: int = BINS) -> None:
        self.sums = np.zeros((bins, *shape))
        self.start = 0
        self.width = 0  # 0: nothing has come

    def times(self) -> np.ndarray:
        """When each bin begins."""
        return self.start + self.width * np.arange(len(self.sums))

    def coarse(self, most: int) -> tuple[np.ndarray, int, np.ndarray]:
        """Times, width and sums of as many bins as there are used, or `most` where there are more, each of several then."""
        used = int(np.flatnonzero(self.sums.reshape(len(self.sums), -1).any(1))[-1]) + 1 if self.width else 0
        each = -(-used // most) or 1
        whole = -(-used // each)
        padded = np.zeros((whole * each, *self.sums.shape[1:]))
        padded[:used] = self.sums[:used]
        sums = padded.reshape(whole, each, *self.sums.shape[1:]).sum(1)
        return self.start + each * self.width * np.arange(whole), each * self.width, sums

    def add(self, at: int, what: np.ndarray, *, width: int) -> None:
        """`width`: of a bin, at first."""
        if not self.width:
            self.start, self.width = at, width
        if at < self.start:
            self._begin_at(at)
        while at >= self.start + self.width * len(self.sums):
            self._widen()
        self.sums[(at - self.start) // self.width] += what

    def _widen(self) -> None:
        half = len(self.sums) // 2
        merged = self.sums.reshape(half, 2, *self.sums.shape[1:]).sum(1)
        self.sums[:half], self.sums[half:] = merged, 0
        self.width *= 2

    def _begin_at(self, at: int) -> None:
        """Partitions are read one ahead of the other: what is older than the first bin moves it."""
        used = int(np.flatnonzero(self.sums.reshape(len(self.sums), -1).any(1))[-1]) + 1
        while (shift := -((at - self.start) // self.width)) + used > len(self.sums):
            self._widen()
            used = (used + 1) // 2
        self.sums = np.roll(self.sums, shift, axis=0)  # what wraps is empty
        self.start -= shift * self.width
