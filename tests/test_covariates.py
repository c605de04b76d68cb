"""Covariates: what has been told by then, and nothing else, is behind a forecast; and it helps."""

import json
import math
import random

import numpy as np
import pytest
from arrivals import Stream, small, wavy
from hypothesis import given, settings
from hypothesis import strategies as st

from models import covariates
from models.carry import Memory
from models.covariates import LAGS, NONE, Plan, Tells, columns, look, opened, planned, tell
from models.inputs import read, view
from models.learner import Config, Learner
from models.score import NET
from pipeline.configure import config_of
from pipeline.decode import Decoder, Shape, shape_of
from pipeline.gather import Gather, Rules, Sample
from pipeline.learn import EARLIEST, OtherSettings, Shard, Spec
from pipeline.records import Raw, RawBlock, Source, decode_block, encode_block, rfc3339
from pipeline.settings import Settings, SettingsError

HOUR = 3_600_000_000
LONG = 44
NAMES = {"covariates": ("load", "wind"), "ahead": ("load",)}


def known(steps, series, seed=0):
    """(steps, series, 2), with gaps."""
    x = np.random.default_rng(seed).normal(3, 2, (steps, series, 2))
    x[np.random.default_rng(seed + 1).random(x.shape) < 0.1] = np.nan
    return x


def stream(values, cov, told_ahead=6, **kwargs):
    return Stream(values, small(**(NAMES | kwargs)), covariates=cov, told_ahead=told_ahead)


@pytest.fixture(scope="module")
def reference():
    return stream(wavy(LONG, 4), known(LONG + 6, 4)).play()


# What is known


PLAN = Plan(2, (1,), 4)


def memory(plan=PLAN, slots=3):
    m = Memory(columns(plan, 8))
    m.grow(slots)
    return m


def said(*rows):
    """(by, about, values...) of slot 0."""
    by, about, *values = (np.array(x) for x in zip(*rows, strict=True))
    return Tells(np.zeros(len(by), np.int64), by, about, np.array(values, float).T)


def looked(m, cell, plan=PLAN):
    return opened(plan, look(m, plan, np.array([0]), np.array([cell]), np.array([np.nan])))


def test_of_a_covariate_that_is_not_known_ahead_no_later_cell_is_known():
    m = memory()
    tell(m, PLAN, said((10, 10, 1.0, 1.0), (10, 11, 5.0, 5.0), (10, 12, 5.0, np.nan)))
    rings = m["told"][0]
    assert np.nansum(rings[0]) == 1.0
    assert np.nansum(rings[1]) == 6.0


def test_what_the_newer_record_says_of_a_cell_counts_whatever_came_last():
    m = memory()
    tell(m, PLAN, said((12, 14, np.nan, 7.0)))
    tell(m, PLAN, said((11, 14, np.nan, 8.0), (11, 13, np.nan, 9.0)))
    ring = m["told"][0, 1]
    assert ring[14 % len(ring)] == 7.0
    assert ring[13 % len(ring)] == 9.0


def test_of_records_that_a_newer_one_has_overtaken_the_first_fills_the_gap_however_they_are_told():
    rows = (11, 14, np.nan, 8.0), (11, 14, np.nan, 9.0)
    together, apart = memory(), memory()
    for m in (together, apart):
        tell(m, PLAN, said((12, 12, 1.0, 1.0)))
    tell(together, PLAN, said(*rows))
    for row in rows:
        tell(apart, PLAN, said(row))
    at = 14 % together["told"].shape[2]
    assert together["told"][0, 1, at] == apart["told"][0, 1, at] == 8.0


def test_nothing_said_does_not_unsay_what_was():
    m = memory()
    tell(m, PLAN, said((12, 14, np.nan, 7.0)))
    tell(m, PLAN, said((13, 14, np.nan, np.nan)))
    assert m["told"][0, 1][14 % m["told"].shape[2]] == 7.0


def test_what_lies_too_far_back_or_ahead_is_not_kept_and_takes_nobodys_place():
    m = memory()
    tell(m, PLAN, said((100, 100, 1.0, 1.0)))
    tell(m, PLAN, said((100, 100 + PLAN.far + 1, np.nan, 5.0), (80, 80, 6.0, 6.0)))
    assert np.nansum(m["told"][0]) == 2.0


def test_a_covariate_that_is_missing_is_not_zero():
    m = memory()
    for cell in range(20):
        tell(m, PLAN, said((cell, cell, float(cell % 3), np.nan)))
        found = looked(m, cell)
    assert np.isnan(found.lags[0, 1]).all()
    assert np.isnan(found.ahead).all()
    assert np.isnan(found.own[0, 1, 0])
    assert not np.isnan(found.lags[0, 0]).any()
    x = np.concatenate(covariates.features(PLAN, covariates.unknown(PLAN, 2)), 1)
    assert x.shape == (2, PLAN.features)
    assert not x.any()  # the masks, too: nothing is known


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3), st.integers(1, 9), st.data())
def test_an_outlook_is_what_a_slow_reader_of_the_log_would_say(step, horizon, data):
    """Which numbers are known, by a dict that is read from the beginning."""
    plan = Plan(1, (0,), horizon)
    m = memory(plan)
    books, cell, heard = {}, 50, -(1 << 60)
    for _ in range(data.draw(st.integers(1, 12))):
        cell += data.draw(st.integers(1, 2 * step))
        rows = []
        for _ in range(data.draw(st.integers(1, 4))):
            by = cell - data.draw(st.integers(0, 3))
            about = by + data.draw(st.integers(0, 2 * horizon))
            rows.append((by, about, float(data.draw(st.integers(1, 9)))))
        tell(m, plan, said(*rows))
        for by, about, value in sorted(rows, key=lambda row: row[0]):
            if by >= heard or about not in books:
                books[about] = value
        heard = cell = max(cell, heard)
        found = looked(m, cell, plan)
        values = [books.get(cell - k) for k in range(LAGS + 1)] + [books.get(cell + k) for k in range(1, horizon + 1)]
        ring = m["told"][0, 0]
        for offset, value in zip([*range(0, -LAGS - 1, -1), *range(1, horizon + 1)], values, strict=True):
            if offset < 0 and cell + offset < 50:
                continue
            at = ring[(cell + offset) % len(ring)]
            assert (value is None and math.isnan(at)) or at == value
        assert np.isnan(found.lags[0, 0, 0]) == (values[0] is None)


def test_units_grow_with_the_steps_for_a_slow_wave_and_not_for_noise():
    slow, noise = Plan(1, (0,), 6), Plan(1, (0,), 6)
    for plan, series in ((slow, np.sin(np.arange(400) / 30)), (noise, np.random.default_rng(0).normal(0, 1, 400))):
        m = memory(plan)
        for cell in range(390):
            about = cell + np.arange(7)
            tell(m, plan, Tells(np.zeros(7, np.int64), np.full(7, cell), about, series[about, None]))
            found = looked(m, cell, plan)
        assert np.nanmax(np.abs(found.ahead)) < 6
        assert np.nanmax(np.abs(found.ahead)) > 0.2


def test_numbers_of_any_size_are_bounded():
    m = memory()
    for cell, value in enumerate([1e38, -1e38, 0.0, 1e-38, 1e38] * 8):
        tell(m, PLAN, said((cell, cell, value, -value), (cell, cell + 1, np.nan, value)))
        x = look(m, PLAN, np.array([0]), np.array([cell]), np.array([value]))
        assert (np.isfinite(x) | np.isnan(x)).all()
    for part in (*covariates.features(PLAN, x), covariates.paths(PLAN, x)):
        assert np.isfinite(part).all()


def test_names_that_stand_twice_or_are_no_covariates_are_refused():
    assert planned((), (), 6) is NONE
    with pytest.raises(ValueError, match="'load' stands twice; 'rain' is known ahead"):
        Learner(small(covariates=("load", "load"), ahead=("rain",)))


# The same bytes


@settings(deadline=None, max_examples=4)
@given(seed=st.integers(0, 2**31))
def test_any_interleaving_says_the_same(reference, seed):
    other = stream(wavy(LONG, 4), known(LONG + 6, 4)).play(np.random.default_rng(seed))
    assert other.said == reference.said
    assert other.learner.digest() == reference.learner.digest()


def test_a_restart_in_the_middle_does_not_show(reference):
    values, cov = wavy(LONG, 4), known(LONG + 6, 4)
    half = stream(values, cov)
    while half.closed < LONG // 2:
        ready = half.may_arrive()
        if half.may_close():
            half.close()
        else:
            half.arrive(ready[half.at[ready] == half.at[ready].min()])
    half.learner = Learner.restore(half.config, half.learner.snapshot())
    half.play()
    assert half.said == reference.said
    assert half.learner.digest() == reference.learner.digest()


# Nothing that nobody has told


@pytest.mark.parametrize("cut", [14, 30])
def test_what_is_not_declared_as_known_ahead_is_not_used_before_its_time(cut, reference):
    """Tells of later cells are there, and other ones from the cut on: without `ahead`, forecasts issued up to it keep their bytes."""
    values, cov = wavy(LONG, 4), known(LONG + 6, 4)
    plain = stream(values, cov, ahead=()).play()
    other = cov.copy()
    other[cut + 1 :] = known(LONG, 4, seed=9)[: len(cov) - cut - 1]
    again = stream(values, other, ahead=()).play()
    before = [at for at in plain.said if at[1] <= cut]
    assert all(again.said[at] == plain.said[at] for at in before)
    assert any(again.said[at] != plain.said[at] for at in plain.said if at[1] > cut)


@pytest.mark.parametrize("cut", [22, 30])
def test_what_is_known_ahead_is_used_once_it_has_been_told(cut, reference):
    """Only `load` is known ahead: other values of it show six steps early, and not seven; those of `wind` when they are there."""
    values, cov = wavy(LONG, 4), known(LONG + 6, 4)
    for name, early in ((0, 6), (1, 0)):
        other = cov.copy()
        other[cut:, :, name] = np.nan_to_num(cov[cut:, :, name], nan=1.0) * 2 + 1
        again = stream(values, other).play()
        assert all(again.said[at] == reference.said[at] for at in reference.said if at[1] < cut - early)
        assert any(again.said[at] != reference.said[at] for at in reference.said if at[1] == cut - early)


def corrected(values, cov, row, **kwargs):
    """As told by then, and from `row` on all that is told of later cells is another thing."""
    s = stream(values, cov, **kwargs)
    plain = s.tells

    def tells(series, rows):
        t = plain(series, rows)
        late = (t.by >= s.first + row) & (t.about > t.by)
        t.values[late] = t.values[late] + 5
        return t

    s.tells = tells
    return s


def test_what_is_corrected_later_does_not_enter_older_origins():
    """What learning reads of an origin is what its forecast was made from, whatever has been told of the same cells since."""
    s = corrected(wavy(LONG, 4), known(LONG + 6, 4), 30)
    made = {}
    inner = covariates.look

    def noted(m, plan, slot, cell, change):
        out = inner(m, plan, slot, cell, change)
        made.update({(a, b): row.tobytes() for a, b, row in zip(slot.tolist(), cell.tolist(), out, strict=True)})
        return out

    covariates.look = noted
    try:
        s.play()
    finally:
        covariates.look = inner
    m, found = s.learner.memory, 0
    for slot in range(4):
        for cell in range(s.first, s.first + LONG - 3):
            if m["outlook_of"][slot, cell % m["outlook_of"].shape[1]] == cell:
                kept = covariates.kept(m, s.learner.form.known, np.array([slot]), np.array([cell]))[0]
                assert kept.tobytes() == made[slot, cell]
                found += 1
    assert found > 100


class Copied:
    """A memory whose arrays may be written to without it."""

    def __init__(self, m):
        self.m, self.own = m, {}

    def __getitem__(self, name):
        return self.own.setdefault(name, self.m[name].copy())


def kept_now(m, plan, slot, cell, places=None):
    """Planted: learning reads what is known by now."""
    out = np.asarray(look(Copied(m), plan, slot, m["heard"][slot], np.full(len(slot), np.nan)))
    return out if places is None else np.take_along_axis(out, np.broadcast_to(places, (len(slot), np.shape(places)[-1])), 1)


def test_learning_from_what_is_known_by_now_would_show(reference, monkeypatch):
    monkeypatch.setattr(covariates, "kept", kept_now)
    with pytest.raises(AssertionError):
        test_any_interleaving_says_the_same.hypothesis.inner_test(reference, 5)


def test_using_what_is_not_declared_as_known_ahead_would_show(reference, monkeypatch):
    monkeypatch.setattr(covariates, "planned", lambda names, ahead, horizon: planned(names, names, horizon))
    with pytest.raises(AssertionError):
        test_what_is_not_declared_as_known_ahead_is_not_used_before_its_time(14, reference)


def test_without_covariates_there_is_nothing_of_them():
    bare = Learner(small())
    assert not {*columns(NONE, 5)} & {*bare.memory.state()}
    assert bare.form.features == Learner(small(covariates=())).form.features
    assert not any("outlook" in name for name in json.loads(bare.snapshot()["seal"])["sha256"])
    assert "linear covariates" not in bare.parts


@pytest.mark.parametrize("seasons", [(None, ()), (8, ()), (8, (20, 5))])
def test_what_least_squares_learn_of_a_cell_is_what_they_forecast_with_there(seasons, monkeypatch):
    values = np.nan_to_num(wavy(60, 4), nan=0.5)
    learner = stream(values, known(66, 4), season=seasons[0], further_seasons=seasons[1]).play().learner
    m, slots, form, driven, learnt = learner.memory, np.arange(4), learner.form, learner.others.driven, []
    monkeypatch.setattr(driven, "learn", lambda x, change: learnt.append(x))
    cell, size = m["closed_newest"][slots], np.full(4, 2.0)
    driven.take(m, slots, cell, size)
    for lead in form.leads.tolist():
        level = read(m["closed"], slots, cell[:, None] - lead)[:, 0]
        v = view(m["closed"], slots, cell - lead, level, form)
        x = driven.arriving(v, size, covariates.kept(m, form.known, slots, cell - lead))
        np.testing.assert_allclose(learnt[0][:, lead - 1], x[:, lead - 1], rtol=1e-6)
    assert x[:, -1].any(0).all()  # at the farthest lead nothing of what is looked at is always 0


# It helps


def skills(values, cov, **kwargs):
    """Skill at leads 1 and 4 over the rows behind the first third, against the last value; who served."""
    config = small(season=None, min_scores=30, model="linear", **kwargs)
    s = Stream(values, config, covariates=cov if config.covariates else None, told_ahead=6 if config.ahead else 0).play()
    rows = len(values)
    at = range(rows // 3, rows - 6)
    points = np.array([[s.steps[k, r][0] for k in range(values.shape[1])] for r in at])
    served = np.mean([[s.steps[k, r][2] == NET for k in range(values.shape[1])] for r in at])
    out = []
    for lead in (1, 4):
        actual, now = (values[[r + k for r in at]] for k in (lead, 0))
        out.append(1 - np.abs(points[..., lead - 1] - actual).mean() / np.abs(now - actual).mean())
    return (*out, served)


def caused(rows=300, series=4, lead=0, seed=0):
    """A noisy walk and three times a covariate that walks, too, `lead` steps before."""
    rng = np.random.default_rng(seed)
    cov = rng.normal(0, 1, (rows + 6, series, 1)).cumsum(0)
    values = rng.normal(0, 1, (rows, series)).cumsum(0)
    values[lead:] += 3 * cov[: rows - lead, :, 0]
    return values, cov


def test_what_is_known_ahead_helps_and_without_it_there_is_nothing_to_be_had():
    values, cov = caused()
    bare = skills(values, cov)
    past = skills(values, cov, covariates=("load",))
    ahead = skills(values, cov, covariates=("load",), ahead=("load",))
    assert max(*bare[:2], *past[:2]) < 0.05
    assert min(ahead[:2]) > 0.5
    assert ahead[2] > 0.9


def test_a_covariate_that_runs_before_helps_as_far_as_it_runs():
    values, cov = caused(lead=4)
    bare = skills(values, cov)
    past = skills(values, cov, covariates=("load",))
    assert max(bare[:2]) < 0.05
    assert min(past[:2]) > 0.3


# From records


def decoder(**kwargs):
    return Decoder(Shape(**({"covariates": ("load", "wind"), "ahead": ("load",)} | kwargs)))


def decoded(*values, **kwargs):
    raws = [Raw(k, 1 << 60, None, json.dumps(v).encode()) for k, v in enumerate(values)]
    return decoder(**kwargs).decode(RawBlock(Source("t", 0), 0, len(raws), 0.0, records=raws))


def at(hour):
    return rfc3339((500_000 + hour) * HOUR)


def plainly(told):
    return told if told is None else ([None if math.isnan(v) else v for v in told.values], [(t, [*v]) for t, v in told.ahead])


GOOD = {
    "both": ({"covariates": {"load": 0.4, "wind": 2}}, ([0.4, 2.0], [])),
    "one is missing": ({"covariates": {"wind": 2}}, ([None, 2.0], [])),
    "null is missing": ({"covariates": {"load": None, "wind": 2}}, ([None, 2.0], [])),
    "not declared": ({"covariates": {"rain": 1, "unit": "kW"}}, None),
    "none": ({}, None),
    "fields of the record": ({"load": 1, "wind": 2}, ([1.0, 2.0], [])),
    "ahead": ({"ahead": [{"at": at(1), "load": 1}]}, ([None, None], [(500_001 * HOUR, [1.0])])),
    "ahead, and not declared as such": ({"ahead": [{"at": at(1), "wind": 1}]}, None),
}  # fmt: skip
BAD = {
    "a text": ({"covariates": {"load": "high"}}, "schema"),
    "a truth value": ({"covariates": {"load": True}}, "schema"),
    "too large": ({"covariates": {"load": 1e39}}, "not_finite"),
    "a text in a field": ({"wind": "high"}, "schema"),
    "a text ahead": ({"ahead": [{"at": at(1), "load": "high"}]}, "schema"),
    "no time ahead": ({"ahead": [{"load": 1}]}, "schema"),
    "no object": ({"covariates": [1]}, "schema"),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_records_say_of_covariates(name):
    more, want = GOOD[name]
    block = decoded({"series": "a", "at": at(0), "value": 1} | more)
    assert block.value.tolist() == [1.0]
    assert plainly(block.told[0]) == want
    assert repr(decode_block(encode_block(block)).told) == repr(block.told)


@pytest.mark.parametrize("name", BAD)
def test_a_covariate_that_is_no_number_is_rejected_with_its_name(name):
    more, reason = BAD[name]
    block = decoded({"series": "a", "at": at(0), "value": 1} | more)
    assert [r.reason for r in block.rejected] == [reason]
    assert block.told == [None]
    assert not len(block.at)


def test_a_record_of_covariates_alone_is_used_and_gives_no_sample():
    gather = Gather(Rules(step=HOUR, grid=HOUR, disorder=HOUR), [Source("t", 0)])
    only = ({"covariates": {"load": 3}}, {"value": None, "load": 3}, {"load": 3}, {"ahead": [{"at": at(1), "load": 3}]})
    for k, more in enumerate(only):
        block = decoded({"series": "a", "at": at(0)} | more)
        block.first, block.next, block.offset = k, k + 1, block.offset + k
        assert not [e for e in gather.add(block) if isinstance(e, Sample)]
    assert gather.totals() == {"consumed": 4, "used": 4, "duplicate": 0, "late": 0, "rejected": 0}
    block = decoded({"series": "a", "at": at(0), "value": 1})
    block.first, block.next = 4, 5
    (sample,) = [e for e in gather.add(block) if isinstance(e, Sample)]
    assert [t.values[0] for t in sample.told] == pytest.approx([3, 3, 3, math.nan], nan_ok=True)
    assert not gather.told


def test_a_wide_record_tells_all_its_columns():
    block = decoded({"at": at(0), "a": 1, "b": 2, "load": 4}, {"at": at(1), "load": 5}, values=("a", "b"))
    assert block.value.tolist()[:2] == [1.0, 2.0]
    assert np.isnan(block.value[2:]).tolist() == [True, True]
    assert [t.values[0] for t in block.told] == [4.0, 5.0]


def test_what_is_told_by_a_later_cell_waits_for_it():
    gather = Gather(Rules(step=HOUR, grid=HOUR, disorder=3 * HOUR), [Source("t", 0)])
    events = gather.add(
        decoded(
            {"series": "a", "at": at(3), "covariates": {"load": 3}},
            {"series": "a", "at": at(1), "value": 1, "covariates": {"load": 1}},
            {"series": "a", "at": at(1), "value": 2, "covariates": {"load": 2}},
            {"series": "a", "at": at(3), "value": 1},
        )
    )
    first, second = (e for e in events if isinstance(e, Sample))
    assert [t.values[0] for t in first.told] == [1.0]
    assert [t.values[0] for t in second.told] == [3.0, 2.0]  # with what the second sample of an open cell had said


def test_what_is_told_of_a_series_that_has_no_values_takes_no_more_and_more_room():
    gather = Gather(Rules(step=HOUR, grid=HOUR, disorder=HOUR), [Source("t", 0)])
    gather.add(decoded(*({"series": "a", "at": at(k), "load": k} for k in range(100))))
    (waiting,) = gather.told.values()
    assert [t.values[0] for t in waiting] == [*range(76, 100)]
    again = Gather.restore(gather.rules, gather.state())
    assert repr(again.told) == repr(gather.told)


def test_settings_name_covariates_and_everything_that_is_wrong_with_them():
    said = {"input.topics": "t", "series.step": "1h", "input.covariates": "load, wind", "input.ahead": "wind"}
    asked = Settings.read(None, {}, said)
    assert (asked.input.covariates, asked.input.ahead) == (("load", "wind"), ("wind",))
    assert (config_of(asked).covariates, config_of(asked).ahead) == (("load", "wind"), ("wind",))
    assert (shape_of(asked, kafka=True).covariates, shape_of(asked, kafka=True).ahead) == (("load", "wind"), ("wind",))
    wrong = said | {"input.covariates": ["load", "load", "at", "y"], "input.ahead": ["at", "rain"], "input.values": ["y"]}
    with pytest.raises(SettingsError) as told:
        Settings.read(None, {}, wrong)
    assert str(told.value).splitlines()[1:] == [
        "  input.covariates = load, load, at, y: allowed: each name once",
        "  input.ahead = rain: allowed: names of input.covariates",
        "  input.ahead = at: allowed: other names; `at` is the time in `ahead` of a record",
        "  input.covariates = y: allowed: others than the values",
    ]


SPEC = Spec(
    application="app", rules=Rules(step=HOUR, grid=HOUR, disorder=HOUR),
    config=Config(horizon=4, season=None, step_us=HOUR, hidden=16, rows=64, min_scores=5, **NAMES),
    sources=tuple(Source("t", p) for p in range(3)), layout="record", publish_from=EARLIEST, rejected_max_bytes=1000, watched=(),
    version="test",
)  # fmt: skip


def logs(seed=0, steps=24, change=None):
    """Records of three partitions: with and without covariates, out of order, repeated, covariates alone; `change` may alter one."""
    rng = random.Random(seed)
    out = []
    for p in range(3):
        rows = []
        for t in range(steps):
            for k in range(2):
                row = {"series": f"s{p}{k}", "at": at(t), "value": round(rng.gauss(k, 1), 3), "covariates": {"wind": rng.random()}}
                if rng.random() < 0.8:
                    row["covariates"]["load"] = rng.random()
                if rng.random() < 0.8:
                    row["ahead"] = [{"at": at(t + h), "load": rng.random()} for h in range(1, rng.randint(1, 6))]
                if rng.random() < 0.15:
                    del row["value"]
                    rows.append({**row, "value": 1.0} if rng.random() < 0.5 else row)
                rows.append(row)
            if rng.random() < 0.2:
                rows[-1], rows[-2] = rows[-2], rows[-1]
        for row in rows:
            if change is not None:
                change(p, row)
        out.append([json.dumps(row).encode() for row in rows])
    return out


def played(log, seed, shard=None, largest=9, freeze=False):
    """Whatever a reader that cuts and interleaves the log in its own way comes to: the messages, sorted, and the shard."""
    rng = random.Random(seed)
    shard = shard or Shard(SPEC)
    position, out = [0] * len(log), []
    while left := [p for p in range(len(log)) if position[p] < len(log[p])]:
        p = rng.choice(left)
        first = position[p]
        values = log[p][first : first + rng.randint(1, largest)]
        position[p] += len(values)
        raws = [Raw(first + k, 1 << 60, None, v) for k, v in enumerate(values)]
        block = decoder().decode(RawBlock(Source("t", p), first, first + len(raws), 0.0, records=raws))
        out += shard.take(decode_block(encode_block(block)))
        if freeze and rng.random() < 0.1:
            while shard.queue:  # as an engine does before it takes a snapshot of a quiet stream
                out += shard.learn_next()
            shard = Shard.thaw(SPEC, shard.freeze())
    return sorted((m.kind, m.id, m.value or b"") for m in out), shard


def test_polls_interleavings_and_restarts_do_not_show():
    log = logs()
    reference, shard = played(log, 0)
    assert len(reference) > 200
    for seed, kwargs in ((1, {}), (2, {"largest": 1}), (3, {"freeze": True})):
        messages, other = played(log, seed, **kwargs)
        assert messages == reference
        assert other.gather.totals() == shard.gather.totals()


@pytest.mark.parametrize("cut", [8, 16])
def test_whatever_is_told_after_a_moment_reaches_nothing_said_before_it(cut):
    """The records of later cells say other things of covariates; and those of earlier ones, of a name that is not known ahead."""

    def change(_, row):
        for one in row.get("ahead", ()):
            one["wind"] = 1000.0  # declared, and not as known ahead
        if row["at"] > at(cut):
            row["covariates"] = {name: 10 * v + 1 for name, v in row["covariates"].items()}
            row["ahead"] = [{**one, "load": 7.0} for one in row.get("ahead", ())]

    plain, _ = played(logs(), 0)
    other, _ = played(logs(change=change), 0)
    before = [m for m in plain if m[0] == "forecasts" and json.loads(m[2])["issued_at"] <= at(cut)]
    assert len(before) > 20
    assert set(before) <= set(other)
    assert {m for m in plain if m[0] == "forecasts"} - set(other)


def test_a_state_of_other_covariates_is_refused_by_name():
    _, shard = played([log[:10] for log in logs()], 0)
    bare = SPEC._replace(config=Config(horizon=4, season=None, step_us=HOUR, hidden=16, rows=64, min_scores=5))
    with pytest.raises(OtherSettings, match=r"input.covariates was \['load', 'wind'\] and is \[\]"):
        Shard.thaw(bare, shard.freeze())
