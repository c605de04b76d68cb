"""A shard: event time and learner together. What it publishes is a function of the log."""

import json
import random
from collections.abc import Iterable

import numpy as np
import pytest

from models.learner import Config, Learner
from models.snapshot import SnapshotDamaged
from pipeline import events, learn
from pipeline.gather import Gather, Rules
from pipeline.learn import EARLIEST, Shard, Spec
from pipeline.records import Block, Message, Raw, Rejection, Source

HOUR = 3_600_000_000
START = 500_000 * HOUR  # 2027
SOURCES = tuple(Source("t", p) for p in range(3))
Row = tuple[str, int, float]  # series, hours since the start, value


def spec(sources=SOURCES, **changes):
    base = Spec(
        application="app",
        rules=Rules(step=HOUR, grid=HOUR, disorder=HOUR),
        config=Config(horizon=6, season=4, step_us=HOUR, hidden=16, rows=64, min_scores=5),
        sources=sources,
        layout="record",
        publish_from=EARLIEST,
        rejected_max_bytes=1000,
        watched=(),
        version="test",
    )
    return base._replace(**changes)


def log(steps=40, partitions=3, seed=0) -> dict[Source, list[Row]]:
    """Per partition two series, with gaps, disorder within an hour, and repeats."""
    rng = random.Random(seed)
    out = {}
    for source in SOURCES[:partitions]:
        rows: list[Row] = []
        for t in range(steps):
            for k in range(2):
                if rng.random() < 0.9:
                    rows.append((f"s{source.partition}{k}", t, 10 * k + np.sin(t) + rng.random()))
            if rng.random() < 0.2 and len(rows) > 2:
                rows[-1], rows[-2] = rows[-2], rows[-1]
            if rng.random() < 0.1:
                rows.append((rows[-1][0], rows[-1][1], rows[-1][2] + 1))
        out[source] = rows
    return out


def block(source: Source, first: int, rows: list[Row]) -> Block:
    names = sorted({s for s, _, _ in rows})
    at = np.array([START + t * HOUR for _, t, _ in rows], np.int64)
    return Block(
        source, first, first + len(rows), 0.0, names=names,
        series=np.array([names.index(s) for s, _, _ in rows], np.int32), at=at, value=np.array([v for *_, v in rows], np.float64),
        offset=np.arange(first, first + len(rows)), stamp=at, record=np.arange(len(rows), dtype=np.int32),
        records=[Raw(first + i, int(a), None, b"") for i, a in enumerate(at)],
    )  # fmt: skip


def schedule(rows: dict[Source, list[Row]], seed: int, largest: int = 9) -> Iterable[Block]:
    """The log as some reader would cut and interleave it."""
    rng = random.Random(seed)
    position = dict.fromkeys(rows, 0)
    while open_ := [s for s in rows if position[s] < len(rows[s])]:
        source = rng.choice(open_)
        size = rng.randint(1, largest)
        first = position[source]
        taken = rows[source][first : first + size]
        position[source] += len(taken)
        yield block(source, first, taken)


def told(messages: Iterable[Message]) -> list[tuple[str, bytes]]:
    return sorted((m.kind, m.value or b"") for m in messages)


def run(shard: Shard, blocks: Iterable[Block]) -> list[Message]:
    return [m for b in blocks for m in shard.take(b)]


def test_every_sample_in_order_is_forecast_once_and_every_forecast_has_its_own_id():
    rows = {SOURCES[0]: [("a", t, float(t % 4)) for t in range(30)]}
    messages = run(Shard(spec(SOURCES[:1])), schedule(rows, 0))
    forecasts = [m for m in messages if m.kind == "forecasts"]
    assert [json.loads(m.value)["issued_at"] for m in forecasts][:2] == ["2027-01-15T08:00:00Z", "2027-01-15T09:00:00Z"]
    assert len({m.id for m in forecasts}) == len(forecasts) == 30


@pytest.mark.parametrize("seed", range(4))
def test_polls_block_sizes_and_interleavings_do_not_show(seed):
    rows = log()
    first = told(run(Shard(spec()), schedule(rows, 100)))
    other = told(run(Shard(spec()), schedule(rows, seed, largest=(1, 3, 25, 200)[seed])))
    assert len(first) > 200
    assert other == first


@pytest.mark.parametrize("seed", range(4))
def test_which_blocks_a_turn_has_does_not_show(seed):
    rows, rng, shard = log(), random.Random(seed), Shard(spec())
    blocks, turns = [*schedule(rows, seed, largest=25)], []
    while blocks:
        among = rng.randint(1, 9)
        turns.append(blocks[:among])
        del blocks[:among]
    together = told(m for turn in turns for m in shard.take(*turn))
    assert max(len({b.source for b in turn}) for turn in turns) > 1, "blocks of several partitions in a turn"
    assert together == told(run(Shard(spec()), schedule(rows, 100)))


def test_a_cell_that_two_partitions_close_at_one_offset_is_scored_once():
    of = spec(SOURCES[:2])
    shard, rows = Shard(of._replace(rules=of.rules._replace(aggregate="sum"))), [("a", t, float(t % 4)) for t in range(9)]
    messages = shard.take(*(block(source, 0, rows[:8]) for source in SOURCES[:2]))
    messages += shard.take(*(block(source, 8, rows[8:]) for source in SOURCES[:2]))
    ids = [m.id for m in messages if m.kind == "scores"]
    assert len(ids) == len(set(ids)) > 3


def test_what_a_turn_has_twice_is_told_once():
    bad = Block(SOURCES[0], 0, 1, 1.0, records=[Raw(0, 0, None, b"?")], rejected=[Rejection(0, 0, "not_json", "no JSON")])
    assert [m.kind for m in Shard(spec()).take(bad, bad)] == ["rejected"]


def perturbation_holds(make=lambda: Shard(spec())) -> bool:
    """Change every value after an hour: do all forecasts issued up to it keep their bytes?"""
    moment = 25
    rows = log()
    changed = {s: [(n, t, v if t <= moment else -3 * v + 100) for n, t, v in r] for s, r in rows.items()}
    until = START + moment * HOUR
    before = told(m for m in run(make(), schedule(rows, 1)) if m.kind == "forecasts" and m.at <= until)
    after = told(m for m in run(make(), schedule(changed, 1)) if m.kind == "forecasts" and m.at <= until)
    assert len(before) > 100
    return before == after


def test_the_future_does_not_reach_forecasts_issued_before_it():
    assert perturbation_holds()


def scales_by_the_whole_block(monkeypatch):
    """A scaler that is fitted to all that a poll returned, what comes after a sample included."""
    honest = Shard.turns

    def leaky(self, blocks):
        values = np.concatenate([block.value for block in blocks])
        self.learner.learnt["scale"][:] = np.abs(values).mean() if len(values) else 1.0
        return honest(self, blocks)

    monkeypatch.setattr(Shard, "turns", leaky)


def labels_by_all_that_has_been_read(monkeypatch):
    """Labels from cells that are read and not closed."""
    honest = Shard._begin

    def leaky(self):
        ahead = [(slot, cell, value) for (slot, cell), value in self.gather.open.items()]
        close = self.queue[0]
        self.queue[0] = close._replace(cells=sorted({*close.cells, *ahead}))
        return honest(self)

    monkeypatch.setattr(Shard, "_begin", leaky)


def aggregates_over_the_end_of_the_step(monkeypatch):
    """A sample's cell takes in what the next one holds, where that has been read."""
    honest = Gather._sample

    def leaky(self, held):
        want, cell, offset, slot, value, *rest = held
        later = [self.open[slot, cell + HOUR]] if (slot, cell + HOUR) in self.open else []
        return honest(self, (want, cell, offset, slot, (value + sum(later)) / (1 + len(later)), *rest))

    monkeypatch.setattr(Gather, "_sample", leaky)


@pytest.mark.parametrize("plant", [scales_by_the_whole_block, labels_by_all_that_has_been_read, aggregates_over_the_end_of_the_step])
def test_a_planted_leak_is_seen_by_changing_the_future(plant, monkeypatch):
    plant(monkeypatch)
    assert not perturbation_holds()


def test_forecasting_under_whatever_was_learnt_last_is_seen(monkeypatch):
    """Planted: the newest generation instead of the one that event time fixes, as a careless loop would take it."""
    honest = Learner.arrive

    def newest(self, cells, *, generation, woken):
        return honest(self, cells, generation=max(g for g, one in self.generations.items() if one.weights is not None), woken=woken)

    monkeypatch.setattr(Learner, "arrive", newest)
    rows = log()
    assert told(run(Shard(spec()), schedule(rows, 100))) != told(run(Shard(spec()), schedule(rows, 3, largest=200)))


def test_learning_from_samples_that_have_not_closed_is_seen(monkeypatch):
    """Planted: a learning instant that sees what has arrived after it."""
    honest = Shard._begin

    def leaky(self):
        ahead = [*self.gather.open]
        close = self.queue[0]
        more = [(slot, cell, 1e3) for slot, cell in ahead]
        self.queue[0] = close._replace(cells=sorted({*close.cells, *more}))
        return honest(self)

    monkeypatch.setattr(Shard, "_begin", leaky)
    rows = log()
    assert told(run(Shard(spec()), schedule(rows, 100))) != told(run(Shard(spec()), schedule(rows, 3, largest=200)))


@pytest.mark.parametrize("cut", [1, 20, 60])
def test_a_shard_thawed_goes_on_as_if_nothing_had_been(cut):
    blocks = list(schedule(log(), 7))
    whole = told(run(Shard(spec()), blocks))
    first = Shard(spec())
    early = run(first, blocks[:cut])
    second = Shard.thaw(spec(), first.freeze())
    assert told(early + run(second, blocks[cut:])) == whole
    assert second.account()["digest"] == digest_of(whole)


def test_a_state_that_was_made_with_other_settings_is_refused_and_all_that_differ_are_named():
    shard = Shard(spec())
    run(shard, list(schedule(log(), 7))[:5])
    other = spec(config=Config(horizon=8, season=4, step_us=HOUR, hidden=16, rows=64, min_scores=9), rules=Rules(HOUR, 2 * HOUR, HOUR))
    with pytest.raises(learn.OtherSettings, match=r"'app'.*: window.span was 1h and is 2h; forecast.horizon was 6 and is 8\. Bring"):
        Shard.thaw(other, shard.freeze())


def digest_of(messages: list[tuple[str, bytes]]) -> str:
    shard = Shard(spec())
    shard._sum_up([Message(kind, None, value, "", 0) for kind, value in messages])  # type: ignore[arg-type]
    return shard.account()["digest"]


def test_recovery_repeats_to_the_account_and_then_goes_on():
    """An old snapshot, a later commit: what lies between is repeated muted, exactly, in any order of partitions."""
    rows = log()
    blocks = list(schedule(rows, 5))
    first = Shard(spec())
    early = run(first, blocks[:20])
    snapshot = first.freeze()
    early += run(first, blocks[20:60])
    account = json.loads(json.dumps(first.account()))
    late = run(first, blocks[60:])

    back = Shard.thaw(spec(), snapshot)
    back.repeat(account)
    muted = []
    target = {Source(t, p): position for t, p, position in account["positions"]}
    while not back.gather.repeated():
        for source in SOURCES:
            here = back.gather.parts[source].position or 0
            limit = min(back.gather.limit(source) or 0, here + 2, target[source])
            muted += back.take(block(source, here, rows[source][here:limit]))
    assert back.resume(account), "what was repeated differs from what was committed"
    assert told(muted) == told(early[len(early) - len(muted) :]) or set(told(muted)) <= set(told(early))
    again = []
    for source in SOURCES:
        here = back.gather.parts[source].position
        again += back.take(block(source, here, rows[source][here:]))
    assert told(again) == told(late)


def test_a_changed_byte_in_the_repetition_is_noticed():
    blocks = list(schedule(log(), 5))
    first = Shard(spec())
    run(first, blocks[:30])
    account = first.account() | {"digest": "0" * 32}
    back = Shard.thaw(spec(), first.freeze())
    back.repeat(account)
    assert not back.resume(account)


def test_learning_waits_until_a_sample_needs_it_or_the_stream_is_quiet():
    shard = Shard(spec(SOURCES[:1]))
    run(shard, [block(SOURCES[0], 0, [("a", t, 1.0) for t in range(4)])])
    assert shard.queue
    quiet = block(SOURCES[0], 4, [])
    quiet.now = 5.0
    waiting = len(shard.queue)
    shard.take(quiet)
    assert len(shard.queue) == waiting - 1


def test_history_before_publish_from_is_learnt_and_not_published():
    rows = {SOURCES[0]: [("a", t, float(t % 4)) for t in range(30)]}
    shard = Shard(spec(SOURCES[:1], publish_from=START + 20 * HOUR))
    messages = run(shard, schedule(rows, 0))
    assert [m.at for m in messages if m.kind == "forecasts"] == [START + t * HOUR for t in range(20, 30)]
    scores = [json.loads(m.value) for m in messages if m.kind == "scores"]
    assert len(scores) == 9
    assert [s["lead"] for s in scores[0]["scores"]] == [1]
    assert shard.status()["ledger"]["used"] == 30


def test_sums_over_all_series_take_a_part_of_the_time_and_counts_are_those_of_now(monkeypatch):
    shard, clock, summed = Shard(spec(SOURCES[:1])), iter(range(1000)), []
    monkeypatch.setattr(shard.learner, "summary", lambda: summed.append(1) or {"skill": len(summed)})
    monkeypatch.setattr(learn.time, "perf_counter", lambda: next(clock) * 0.02)  # each look at it is 20 ms later than the last
    seen = []
    for at, now in enumerate([10.0, 10.5, 10.9, 11.1, 11.7]):
        one = block(SOURCES[0], at, [("a", at, 1.0)])
        one.now = now
        shard.take(one)
        seen.append((learn.STATUS["learner"]["skill"], learn.STATUS["ledger"]["used"]))
    assert seen == [(1, 1), (1, 2), (1, 2), (2, 4), (2, 5)]  # at 10.9 the status is not half a second old


def test_late_refused_and_woken_are_told():
    rules = Rules(step=HOUR, grid=HOUR, disorder=HOUR, quota=1)
    shard = Shard(spec(SOURCES[:1], rules=rules))
    messages = run(shard, [block(SOURCES[0], 0, [("a", 10, 1.0), ("b", 10, 1.0), ("a", 5, 1.0)])])
    assert [m.kind for m in messages if m.kind != "forecasts"] == ["rejected", "late"]
    assert shard.gather.totals() == {"consumed": 3, "used": 1, "duplicate": 0, "late": 1, "rejected": 1}


def test_state_is_kept_by_reference_only_where_an_engine_asks_for_it():
    shard = Shard(spec())
    coder = learn.ShardCoder()
    assert isinstance(coder.decode(coder.encode(shard)), learn.FrozenShard)
    live = learn.LiveShard()
    try:
        assert coder.decode(coder.encode(shard)) is shard
        impl = coder.get_impl()
        frozen = impl.decode_nested(live.thaw(live.freeze(impl.encode_nested(shard))()))
        assert isinstance(frozen, learn.FrozenShard)
        assert live.freeze(impl.encode_nested(frozen))() == frozen.parts  # a snapshot before it has been asked for
        assert live.freeze(impl.encode_nested(learn.FrozenShard({"not": b"ours"}))) is None
        assert learn.wake(spec(), frozen).account() == shard.account()
        assert not learn.FROZEN
    finally:
        learn.BY_REFERENCE = False
        learn.LIVE.clear()


def test_state_of_another_shape_is_named_and_not_taken_for_a_shard():
    for found in ([b"gather", {}, {}, None], {}):  # the first: as releases kept it that knew no parts
        with pytest.raises(SnapshotDamaged, match="not written by this release: begin again"):
            Shard.thaw(spec(), found)


def test_start_of_time_is_the_same_for_gather_and_learner():
    from models.learner import START as LEARNERS

    assert events.START == LEARNERS
