"""Cases for the simulation: rules, logs and a schedule, as plain data; made from a seed, cut down while they still fail."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from pipeline.gather import START, Rules
from pipeline.records import Block, Raw, Rejection, Source

Step = tuple[Any, ...]  # ("read", partition, records, trailing gap too, die half-way), ("mark", partition), ("commit", die half-way) ...


class Record(NamedTuple):
    offset: int
    stamp: int
    wall: float  # from when on it can be read
    observations: tuple[tuple[str, int, float], ...]  # series, event time, value; none: rejected
    filtered: int = 0


class Case(NamedTuple):
    rules: Rules
    logs: list[list[Record]]
    ends: list[int]  # positions after the last record and what control records follow it
    schedule: list[Step]


def block(p: int, position: int, records: list[Record], end: int, now: float, *, stable: bool = False) -> Block:
    raws, rows, names = [], [], {}
    filtered, rejected = 0, []
    for i, r in enumerate(records):
        raws.append(Raw(r.offset, r.stamp, None, None))
        filtered += r.filtered
        if not r.observations and not r.filtered:
            rejected.append(Rejection(i, r.offset, "not_json", "no"))
        rows += [(names.setdefault(s, len(names)), at, value, r.stamp, i) for s, at, value in r.observations]
    b = Block(Source("t", p), position, end, now, stable, filtered=filtered, names=list(names), records=raws, rejected=rejected)
    if rows:
        b.series, b.at, b.value, b.stamp, b.record = (np.array(column) for column in zip(*rows, strict=True))
    return b


def make(seed: int) -> Case:
    rng = random.Random(seed)
    step = rng.choice((1, 2, 5))
    grid = step * rng.choice((1, 1, 3))
    disorder = rng.choice((0, 1, step, 2 * step))
    shortest = disorder + 2 * grid + step
    rules = Rules(
        step, grid, disorder, rng.random() < 0.5, rng.choice((5.0, 15.0)), rng.choice((3.0, math.inf)),
        max_skew=rng.choice((1 << 60, 20)), max_held=rng.choice((200_000, 3)),
        quota=rng.choice((1 << 60, 1, 2)), forget_after=rng.choice((1 << 60, shortest, 2 * shortest)),
    )  # fmt: skip
    logs = [make_log(rng, p, rules) for p in range(rng.choice((1, 2, 2, 3, 4)))]
    ends = [(log[-1].offset + 1 if log else 0) + rng.choice((0, 0, 1)) for log in logs]
    schedule = list(make_schedule(rng, len(logs)))
    rules = rules._replace(aggregate=rng.choice((None, None, None, "count", "last", "rate")))
    if rng.random() < 0.4:
        rules = rules._replace(kind="session", gap=rules.step * rng.choice((1, 2, 4)), max_span=rules.step * rng.choice((1, 3, 8)))
    return Case(rules._replace(fill=rng.random() < 0.4), logs, ends, schedule)


def make_log(rng: random.Random, p: int, rules: Rules) -> list[Record]:
    names = [f"p{p}s{i}" for i in range(rng.randint(1, 4))]
    t, wall, offset, log = rng.randint(0, 30), 0.0, 0, list[Record]()
    calm = rng.random() < 0.25
    for _ in range(rng.choice((0, 10, 20, 30))):
        t += rng.choice((0, 0, 1, 1, 2, rules.step))
        t += rng.choice((5 * rules.step, 60)) if rng.random() < 0.03 else 0
        wall = max(wall, t + rng.random() * 3)
        if not calm and rng.random() < 0.1:
            wall += rng.uniform(5, 80)  # the producer pauses, then comes back with its backlog
        offset += rng.choice((0, 0, 0, 0, 0, 0, 1, 3))
        kind = rng.random()
        seen = []
        for series in rng.sample(names, 1 if rng.random() < 0.8 else rng.randint(1, len(names))):
            at = t - rng.randint(0, rules.disorder + (3 if rng.random() < 0.1 else 0))
            if rng.random() < 0.03:
                at = t + rng.randint(1, 40)  # a fast clock
            seen.append((series, at, math.nan if rng.random() < 0.05 else float(rng.randint(0, 9))))
        if kind < 0.03:
            log.append(Record(offset, t, wall, ()))
        elif kind < 0.08:
            log.append(Record(offset, t, wall, tuple(seen[1:]), 1))
        else:
            log.append(Record(offset, t, wall, tuple(seen)))
        offset += 1
    return log


def make_schedule(rng: random.Random, parts: int) -> Iterator[Step]:
    mortal = rng.random() < 0.9
    for _ in range(rng.randint(10, 140)):
        p = rng.randrange(parts)
        kind = rng.choices(
            ("read", "mark", "pass", "learn", "freeze", "write", "commit", "die"), (40, 12, 14, 4, 14, 14, 20, 12 if mortal else 0)
        )[0]
        match kind:
            case "read":
                yield ("read", p, rng.randint(1, 8), rng.random() < 0.5, mortal and rng.random() < 0.02)
            case "mark":
                yield ("mark", p)
            case "pass":
                yield ("pass", round(rng.expovariate(1 / 8), 1))
            case "learn":
                yield ("learn", rng.randint(1, 9))
            case "commit":
                yield ("commit", mortal and rng.random() < 0.1)
            case "die":
                yield ("die", rng.random() < 0.5)
            case _:
                yield (kind,)


def shrink(case: Case, fails: Callable[[Case], bool]) -> Case:
    """Steps and records are dropped, many at a time and then one by one, while the case still fails."""
    smaller = True
    while smaller:
        smaller = False
        for cut in cuts(case):
            if fails(cut):
                case, smaller = cut, True
                break
    return case


def cuts(case: Case) -> Iterator[Case]:
    for some in without(case.schedule):
        yield case._replace(schedule=some)
    for p, log in enumerate(case.logs):
        for fewer in without(log):
            yield case._replace(logs=[*case.logs[:p], fewer, *case.logs[p + 1 :]])


def without(items: list[Any]) -> Iterator[list[Any]]:
    size = len(items)
    while size:
        for i in range(0, len(items), size):
            yield items[:i] + items[i + size :]
        size //= 2


def text(case: Case) -> str:
    lines = [str(case.rules)]
    for p, log in enumerate(case.logs):
        lines += [f"partition {p}, to {case.ends[p]}:"] + [f"  {tuple(r)}" for r in log]
    return "\n".join([*lines, "steps:", *(f"  {s}" for s in case.schedule)])


def changed(record: Record, moment: int) -> Record:
    seen = tuple((s, at, value + 1.0 if at >= moment else value) for s, at, value in record.observations)
    return record._replace(observations=seen)


def by_its_log(log: list[Record], rules: Rules) -> Counter[str]:
    """What becomes of a partition's observations as far as its log alone tells: slow, and written apart from the product."""
    told: Counter[str] = Counter()
    clock, seen = START, dict[str, int]()
    keep = max(rules.forget_after, rules.disorder + rules.step + rules.gap)
    for record in log:
        told["rejected"] += not record.observations and not record.filtered
        for series, at, value in record.observations:
            alive = {s for s, when in seen.items() if when >= clock - keep}
            if at < clock - rules.disorder:
                told["late"] += 1
            elif series not in alive and len(alive) >= rules.quota:
                told["rejected"] += 1
            else:
                told["null" if math.isnan(value) else "taken"] += 1
                clock = max(clock, min(at, record.stamp))
                seen[series] = max(seen.get(series, START), at)
    return told
