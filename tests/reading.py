"""A reader for tests of event time: records in short, block by block."""

from pipeline.gather import Close, Gather, Rules, Sample
from pipeline.records import Source
from tests.cases import Record, block


class Reader:
    """Reads records into a gather; a record is (series, at), (series, at, value) or a list of those, and is stamped with `at`."""

    def __init__(self, partitions=1, **rules):
        self.gather = Gather(Rules(**{"step": 10, "grid": 10, "disorder": 10} | rules), [Source("t", p) for p in range(partitions)])
        self.end = [0] * partitions

    def read(self, p, *records, now=1.0, stable=False, stamp=None, skip=0):
        first = self.end[p]
        rows = []
        for record in records:
            seen = record if isinstance(record, list) else [record] if record else []
            seen = tuple((series, at, *value) if value else (series, at, 1.0) for series, at, *value in seen)
            when = stamp if stamp is not None else max((at for _, at, _ in seen), default=0)
            rows.append(Record(self.end[p], when, 0.0, seen))
            self.end[p] += 1 + skip
        return self.gather.add(block(p, first, rows, self.end[p], now, stable=stable))

    def mark(self, p=0, *, now=1.0, stable=True):
        return self.gather.add(block(p, self.end[p], [], self.end[p], now, stable=stable))

    def filtered(self, p=0, *, now=1.0, stable=True):
        first, self.end[p] = self.end[p], self.end[p] + 1
        return self.gather.add(block(p, first, [Record(first, 0, 0.0, (), 1)], self.end[p], now, stable=stable))

    def part(self, p=0):
        return self.gather.parts[Source("t", p)]

    def samples(self, events):
        return [(self.gather.series[e.slot][0], e.cell) for e in events if isinstance(e, Sample)]

    def closes(self, events):
        return [(e.instant, [(self.gather.series[s][0], cell, value) for s, cell, value in e.cells]) for e in only(events, Close)]


def only(events, kind):
    return [e for e in events if isinstance(e, kind)]


def behind_learning(**rules):
    """Partition 1 fell idle at 0; partition 0 is at 100, so instant 90 has passed."""
    r = Reader(2, idle_after=5, **rules)
    r.read(0, ("a", 0))
    r.read(1, ("b", 0), now=1.0)
    r.mark(1, now=10.0)
    r.read(0, *(("a", t) for t in range(10, 101, 10)), now=10.0)
    assert r.part(1).idle
    assert r.gather.reached == 90
    return r
