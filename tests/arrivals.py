"""Plays series into a learner as a stream would: any interleaving that event time allows."""

from dataclasses import dataclass, field

import numpy as np

from models.learner import START, Cells, Config, Learner, Tells

SMALL = {"hidden": 16, "replay": 64, "replayed": 4, "min_scores": 5, "step_us": 3_600_000_000}


def small(**kwargs):
    return Config(**(SMALL | {"horizon": 6, "season": 8} | kwargs))


def wavy(steps, series, seed=0):
    """(steps, series): sines, random walks and noise, with a few values missing."""
    rng = np.random.default_rng(seed)
    t = np.arange(steps)[:, None]
    kinds = [
        np.sin(2 * np.pi * t / 8) * 3 + rng.normal(0, 0.5, (steps, 1)),
        rng.normal(0, 1, (steps, 1)).cumsum(0),
        rng.normal(5, 1, (steps, 1)),
    ]
    x = np.concatenate([kinds[k % 3] * (1 + k) + rng.normal(0, 0.1, (steps, 1)) for k in range(series)], 1)
    x[rng.random(x.shape) < 0.03] = np.nan
    return x


@dataclass
class Stream:
    """One learner, series in slots, and where each of them and learning stand. NaN in `values`: no sample."""

    values: np.ndarray  # (steps, series)
    config: Config
    first: int = 400_000  # the first cell
    disorder: int = 1
    slots: np.ndarray | None = None  # of the series; as they stand unless said
    covariates: np.ndarray | None = None  # (steps and more, series, K): told with each sample, and so far ahead
    told_ahead: int = 0  # steps
    handed: dict = field(default_factory=dict)  # Incoming by the row whose closing hands it over
    learner: Learner = None
    said: dict = field(default_factory=dict)  # (series, cell) -> everything issued and scored there, as bytes
    steps: dict = field(default_factory=dict)  # (series, cell) -> (point, quantiles, by, reason)
    parts: dict = field(default_factory=dict)  # (series, cell) -> what every expert said
    decisions: list = field(default_factory=list)
    begun: object = None  # what is being learnt, beside arrivals that do not need it

    def __post_init__(self):
        count = self.values.shape[1]
        self.keys = (np.arange(count, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        self.slots = np.arange(count) if self.slots is None else self.slots
        self.at = np.zeros(count, int)  # next row of each series
        self.closed = 0  # rows that learning has passed
        self.kept = [START]
        if self.learner is None:
            self.learner = Learner(self.config)
            wide = self.config.columns or 1
            for k, (slot, key) in enumerate(zip(self.slots.tolist(), self.keys.tolist(), strict=True)):
                of = {"record": 1 + k // wide, "column": k % wide} if wide > 1 else {}
                self.learner.admit(slot, key, **of)

    def may_arrive(self):
        """Series whose next cell has its generation."""
        want = self.at - self.disorder - 1  # in rows; the instant that closes row r is r + 1
        return np.flatnonzero((self.at < len(self.values)) & (want <= self.closed))

    def may_close(self):
        return self.closed < len(self.values) and (self.at > self.closed).all()

    def arrive(self, series):
        """The next cells of these series; those of one generation in one call."""
        rows = self.at[series]
        self.at[series] += 1
        there = ~np.isnan(self.values[rows, series])
        series, rows = series[there], rows[there]
        wanted = np.array([max(g for g in self.kept if g <= r - self.disorder - 1) for r in rows.tolist()], dtype=object)
        for generation in sorted(set(wanted.tolist())):
            mine = wanted == generation
            self._arrive(series[mine], rows[mine], generation)

    def _arrive(self, series, rows, generation):
        if self.begun is not None and generation >= self.begun.instant:
            self.settle()
        cells = Cells(self.slots[series], self.keys[series], self.first + rows, self.values[rows, series])
        if self.covariates is not None:
            self.learner.tell(self.tells(series, rows))
        step = self.learner.arrive(cells, generation=generation, woken=np.zeros(len(series), bool))
        for k, (s, r) in enumerate(zip(series.tolist(), rows.tolist(), strict=True)):
            self.said[s, r] = b"".join(a[k].tobytes() for a in step)
            self.parts[s, r] = step.parts[k]
            self.steps[s, r] = (step.point[k], step.quantiles[k], step.by[k], step.reason[k])
        self.last = step

    def tells(self, series, rows):
        """What comes with the samples of these rows."""
        about = rows[:, None] + np.arange(self.told_ahead + 1)
        who, by = (np.broadcast_to(x[:, None], about.shape) for x in (series, rows))
        there = about < len(self.covariates)
        about, who, by = about[there], who[there], by[there]
        return Tells(self.slots[who], self.first + by, self.first + about, self.covariates[about, who].astype(float))

    def close(self, *, beside=False):
        row = self.closed
        self.closed += 1
        series = np.flatnonzero(~np.isnan(self.values[row]))
        series = series[np.argsort(self.keys[series])]
        if not series.size:
            return
        cells = Cells(self.slots[series], self.keys[series], np.full(len(series), self.first + row), self.values[row, series])
        self.kept.append(self.closed)
        older = [g for g in self.kept if g <= self.closed - self.disorder - 3]
        drop = older[:-1]
        self.kept = [g for g in self.kept if g not in drop]
        begun = self.learner.begin(cells, instant=self.closed, drop=drop, incoming=self.handed.get(row))
        self.settle()
        self.begun = begun
        if not beside:
            self.settle()

    def settle(self):
        if self.begun is not None:
            self.begun.run()
            self.decisions += self.learner.finish(self.begun)
            self.begun = None

    def play(self, rng=None):
        """To the end: in step, or as `rng` has it."""
        while True:
            ready = self.may_arrive()
            if self.may_close() and (rng is None or not ready.size or rng.random() < 0.3):
                self.close(beside=rng is not None and rng.random() < 0.7)
            elif ready.size and rng is None:
                self.arrive(ready[self.at[ready] == self.at[ready].min()])
            elif ready.size:
                of = ready // (self.config.columns or 1)  # the columns of a record come together
                records = rng.permutation(np.unique(of))
                self.arrive(rng.permutation(ready[np.isin(of, records[: rng.integers(1, records.size + 1)])]))
            else:
                self.settle()
                return self
