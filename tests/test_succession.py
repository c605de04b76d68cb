"""Who serves, from when on: a run that is told to hand over does so at one instant, and its record is enough to do it again."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_learn import HOUR, SOURCES, START, block, log, run, schedule, spec, told

from models import versus
from models.handover import Incoming
from models.learner import Learner
from models.versus import PROMOTED, REFUSED, UNDECIDED, Verdict, Versus
from pipeline import learn, succession
from pipeline.dump import decisions
from pipeline.events import Plan
from pipeline.learn import Shard
from pipeline.quantities import instant
from pipeline.records import rfc3339
from pipeline.succession import Offer, Shadow

CHOICE = succession.Rules(versus.Rules(instants=8, series=1), automatic=True, longest=1_000 * HOUR, most=100)
A, B = "a" * 16, "b" * 16


@pytest.fixture(autouse=True)
def _no_offers():
    learn.OFFERS.clear()
    yield
    learn.OFFERS.clear()


def another(name, seed, **changes):
    """Weights of another network, and moments as they are where nothing has been learnt."""
    descent = Learner(replace(spec().config, seed=seed, **changes)).descent
    return Incoming(name, descent.weights.clone(), torch.stack(list(descent.moments)))


def offered(role, version, hour=0, **more):
    known = None if version is None else another(version, 5 if version == A else 6)
    return Offer(role, version, START + hour * HOUR, known)._replace(**more)


def chosen(**changes):
    return spec(succession=CHOICE._replace(**changes))


def told_to(shard, blocks, *offers):
    """Run, and make each offer (before which block, what) in time."""
    out = []
    for at, one in enumerate(blocks):
        learn.OFFERS.extend(offer for when, offer in offers if when == at)
        out += shard.take(one)
    return out


def of(messages, kind):
    return [json.loads(m.value) for m in messages if m.kind == kind]


def changes(messages):
    return [d for d in of(messages, "decisions") if d["kind"] in ("switch", "shadow", "promote", "rollback", "refuse")]


def recorded(messages, folder):
    """Plans as a replay has them from the decisions topic."""
    (folder / "decisions").write_bytes(b"".join(m.value + b"\n" for m in messages if m.kind == "decisions"))
    return tuple(decisions(str(folder / "decisions"), "app", {}).plans)


def says(monkeypatch, **words):
    """The judge's words: of a version, after how many blocks (of two instants) and what; else it is undecided."""

    def verdict(self):
        after, outcome = (
            words.get(self.learner.version[0], (0, UNDECIDED)) if self.role == "challenger" else words.get("former", (0, UNDECIDED))
        )
        said = outcome if self.versus.all.blocks[0] >= after else UNDECIDED
        return Verdict(said, "so it is", 0.1, 0.05, 0.15, 30.0, 9, 2, {"blocks": 3})

    monkeypatch.setattr(versus, "SHORTEST", 2)
    monkeypatch.setattr(Versus, "__init__", short(Versus.__init__))
    monkeypatch.setattr(Shadow, "verdict", verdict)


def short(honest):
    def init(self, **given):
        honest(self, **given)
        self.length = 2

    return init


HOURS = 56
BLOCKS = list(schedule(log(HOURS), 7, largest=3))
MIDDLE = 80


@pytest.fixture(scope="module")
def undisturbed():
    return run(Shard(chosen()), BLOCKS)


def test_at_the_instant_and_not_before_forecasts_are_another_versions_and_none_is_missed(undisturbed):
    shard = Shard(chosen())
    first = shard.learner.version
    messages = told_to(shard, BLOCKS, (MIDDLE, offered("champion", A)))
    (switch,) = changes(messages)
    at = switch["numbers"]["instant"]
    assert (switch["kind"], switch["version"], switch["from_version"], switch["at"]) == ("switch", A, first, rfc3339(at))
    forecasts = of(messages, "forecasts")
    assert [f["id"] for f in forecasts] == [f["id"] for f in of(undisturbed, "forecasts")]
    under = {f["id"]: f["model_version"] for f in forecasts}
    for f in forecasts:
        wanted = shard.gather.wanted(instant(f["issued_at"]))
        assert f["model_version"] == (A if wanted >= at else first)
    assert {*under.values()} == {first, A}
    before = [(m.kind, m.value) for m in messages if m.kind == "forecasts" and shard.gather.wanted(m.at) < at]
    assert before == [(m.kind, m.value) for m in undisturbed if m.kind == "forecasts" and shard.gather.wanted(m.at) < at]


def test_a_score_names_the_version_that_its_forecast_named():
    messages = told_to(Shard(chosen()), BLOCKS, (MIDDLE, offered("champion", A)))
    under = {f["id"]: f["model_version"] for f in of(messages, "forecasts")}
    scored = [(s["forecast_id"], s["model_version"]) for one in of(messages, "scores") for s in one["scores"]]
    assert {version for _, version in scored} == {*under.values()}
    assert [version for name, version in scored] == [under[name] for name, _ in scored]
    both = [{s["model_version"] for s in one["scores"]} for one in of(messages, "scores")]
    assert any(len(versions) == 2 for versions in both), "a value that was forecast by both"


def offers():
    """Of a life, by the block before which they are made."""
    return {30: offered("challenger", A), 110: offered("challenger", B), len(BLOCKS) - 25: offered("champion", A)}


def judged(monkeypatch):
    says(monkeypatch, a=(1, PROMOTED), former=(1, PROMOTED), b=(1, REFUSED))


@pytest.fixture(scope="module")
def life():
    """A challenger is offered, promoted, taken back; another one refused; the first serves by somebody's word, and is taken back."""
    with pytest.MonkeyPatch.context() as patch:
        judged(patch)
        shard = Shard(chosen())
        return shard, told_to(shard, BLOCKS, *offers().items())


def test_a_whole_life_is_told_of(life):
    shard, messages = life
    first = Shard(chosen()).learner.version
    found = [(d["kind"], d["version"], d["from_version"], d["numbers"].get("state")) for d in changes(messages)]
    assert found == [
        ("shadow", A, first, "begins"),
        ("promote", A, first, None),
        ("switch", A, first, None),
        ("rollback", first, A, None),
        ("switch", first, A, None),
        ("shadow", B, first, "begins"),
        ("refuse", B, first, None),
        ("shadow", B, first, "ends"),
        ("switch", A, first, None),
        ("rollback", first, A, None),
        ("switch", first, A, None),
    ]
    promoted = next(d for d in changes(messages) if d["kind"] == "promote")["numbers"]
    assert {"outcome", "difference", "lower", "upper", "evidence", "instants", "series", "blocks", "effective_from", "instant"} == {
        *promoted
    }
    assert [(p["role"], p["version"]) for p in of(messages, "models")] == [
        ("challenger", None),
        ("champion", A),
        ("previous", first),
        ("champion", first),
        ("previous", None),
        ("challenger", None),
        ("champion", first),
        ("previous", None),
    ]
    assert shard.learner.version == first
    assert shard.succession.shadow is None
    assert len({d["id"] for d in of(messages, "decisions")}) == len(of(messages, "decisions"))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_on_record_is_enough_to_live_it_again(life, monkeypatch, tmp_path, seed):
    _, messages = life
    judged(monkeypatch)
    plans = recorded(messages, tmp_path)
    monkeypatch.setattr(Shard, "_version", lambda _, name: offered("champion", name).incoming)
    monkeypatch.setattr(Shadow, "verdict", None)  # nobody asks
    again = Shard(chosen()._replace(plans=plans))
    again.gather.repeating = True  # as with a dump, whose ends are decisions
    monkeypatch.setattr(type(again.gather), "_check_record", lambda _: None)
    repeated = run(again, schedule(log(HOURS), seed, largest=(1, 9, 100)[seed]))
    assert told(repeated) == told(messages)


@pytest.mark.parametrize("cut", [31, 45, 60, 118, len(BLOCKS) - 22])
def test_a_restart_does_not_show(life, monkeypatch, cut):
    _, whole = life
    judged(monkeypatch)
    shard, out, made = Shard(chosen()), [], offers()
    monkeypatch.setattr(Shard, "_version", lambda _, name: offered("champion", name).incoming)
    for at, one in enumerate(BLOCKS):
        if at == cut:
            account = json.loads(json.dumps(shard.account()))
            back = Shard.thaw(chosen(), shard.freeze())
            back.repeat(account)
            assert back.resume(account)
            shard = back
        if at in made:
            learn.OFFERS.append(made[at])
        out += shard.take(one)
    assert told(out) == told(whole)


def test_a_shadow_thawed_is_the_one_that_was_frozen(monkeypatch):
    """What it has scored of each series, too: from how many scores on a band counts hangs on it."""
    monkeypatch.setattr(Versus, "__init__", short(Versus.__init__))
    shard = Shard(chosen())
    told_to(shard, BLOCKS[:120], (30, offered("challenger", A)))
    shadow = shard.succession.shadow
    back = Shard.thaw(chosen(), shard.freeze()).succession.shadow
    assert shadow.learner.memory["scores"].any()
    assert back.learner.snapshot() == shadow.learner.snapshot()
    assert (back.role, back.since, back.said, back.broken) == (shadow.role, shadow.since, shadow.said, shadow.broken)
    for name, kept in shadow.versus.state().items():
        np.testing.assert_array_equal(back.versus.state()[name], kept, name)


@pytest.mark.parametrize(("snapshot", "commit"), [(20, 60), (60, 118), (100, len(BLOCKS) - 20)])
def test_recovery_repeats_what_was_planned_and_asks_nobody(monkeypatch, snapshot, commit):
    monkeypatch.setattr(Shard, "_version", lambda _, name: offered("champion", name).incoming)
    judged(monkeypatch)
    first, out, frozen, made = Shard(chosen()), [], b"", offers()
    for at, one in enumerate(BLOCKS[:commit]):
        if at == snapshot:
            frozen = first.freeze()
        if at in made:
            learn.OFFERS.append(made[at])
        out.append(first.take(one))
    account = json.loads(json.dumps(first.account()))
    back = Shard.thaw(chosen(), frozen)
    with monkeypatch.context() as quiet:
        quiet.setattr(Shadow, "verdict", None)
        back.repeat(account)
        muted = run(back, BLOCKS[snapshot:commit])
        assert back.resume(account), "what was repeated differs from what was committed"
    assert told(m for m in muted if m.kind == "decisions") == told(m for ms in out[snapshot:] for m in ms if m.kind == "decisions")
    assert back.learner.version == first.learner.version
    rest = BLOCKS[commit:]
    assert told(run(back, rest)) == told(run(first, rest))


def test_plans_are_kept_as_long_as_a_snapshot_may_need_them(monkeypatch):
    shard = Shard(chosen())
    told_to(shard, BLOCKS[:60], (30, offered("champion", A)))
    for at in range(60, 68, 2):
        assert len(shard.account()["plans"]) == (1 if at < 64 + 2 else 0)
        shard.snapshotted()
        run(shard, BLOCKS[at : at + 2])


def test_somebodys_newer_word_takes_the_place_of_one_that_has_not_come_yet():
    shard = Shard(chosen())
    messages = told_to(shard, BLOCKS, (40, offered("champion", A, hour=40)), (60, offered("champion", B, hour=46)))
    (switch,) = changes(messages)
    assert (switch["version"], switch["numbers"]["effective_from"]) == (B, START + 46 * HOUR)
    assert switch["numbers"]["instant"] >= START + 46 * HOUR


def test_a_challenger_waits_for_a_plan_to_be_carried_out():
    messages = told_to(Shard(chosen()), BLOCKS, (40, offered("champion", A, hour=30)), (41, offered("challenger", B)))
    assert [(d["kind"], d["version"]) for d in changes(messages)] == [("switch", A), ("shadow", B)]


def test_a_champion_comes_before_a_challenger_that_was_planned():
    messages = told_to(Shard(chosen()), BLOCKS, (40, offered("challenger", B, hour=36)), (41, offered("champion", A)))
    assert [(d["kind"], d["version"]) for d in changes(messages)] == [("switch", A), ("shadow", B)]


def test_what_serves_or_is_in_the_shadow_already_is_nothing_new():
    shard = Shard(chosen())
    first = shard.learner.version
    messages = told_to(
        shard, BLOCKS, (30, offered("champion", first)), (40, offered("challenger", A)), (60, offered("challenger", A)),
        (70, offered("challenger", first)),
    )  # fmt: skip
    assert [(d["kind"], d["version"]) for d in changes(messages)] == [("shadow", A)]


def test_a_challenger_that_nobody_wants_any_more_leaves():
    shard = Shard(chosen())
    messages = told_to(shard, BLOCKS, (40, offered("challenger", A)), (60, offered("challenger", None)))
    assert [d["numbers"]["state"] for d in changes(messages)] == ["begins", "ends"]
    assert shard.succession.shadow is None


def test_the_shadows_own_version_is_promoted_by_hand_with_what_it_has_learnt():
    shard = Shard(chosen())
    told_to(shard, BLOCKS[:80], (30, offered("challenger", A)))
    learnt = shard.succession.shadow.learner.descent.average.clone()
    messages = told_to(shard, BLOCKS[80:], (0, offered("champion", A)))
    assert [(d["kind"], d["version"]) for d in changes(messages)] == [("switch", A)]
    assert [(p["role"], p["version"]) for p in of(messages, "models")] == [("challenger", None)], "the champion's pointer was somebody's"
    assert shard.learner.version == A
    assert not torch.equal(learnt, another(A, 5).weights)


def test_by_hand_it_is_told_once_that_the_shadow_is_better(monkeypatch):
    says(monkeypatch, a=(1, PROMOTED))
    shard = Shard(chosen(automatic=False))
    messages = told_to(shard, BLOCKS, (30, offered("challenger", A)))
    assert [d["numbers"]["state"] for d in changes(messages)] == ["begins", "better"]
    assert changes(messages)[1]["cause"] == "so it is; promote it by hand"
    assert shard.learner.version != A


def test_who_stays_undecided_leaves_when_its_time_is_over(monkeypatch):
    says(monkeypatch)
    shard = Shard(chosen(longest=20 * HOUR))
    messages = told_to(shard, BLOCKS, (30, offered("challenger", A)))
    _, refused, ended = changes(messages)
    assert (refused["kind"], refused["numbers"]["outcome"], refused["cause"]) == ("refuse", "undecided", "after 20h: so it is")
    assert ended["numbers"]["instant"] - changes(messages)[0]["numbers"]["instant"] > 20 * HOUR


@pytest.mark.parametrize(
    ("rules", "offer", "why"),
    [
        ({}, offered("champion", A, refused="it is damaged", incoming=None), "it is damaged"),
        ({"most": 2}, offered("challenger", A), "learn.state_budget has no room for every series twice"),
    ],
)
def test_what_cannot_serve_is_refused_by_name(rules, offer, why, undisturbed):
    shard = Shard(chosen(**rules))
    messages = told_to(shard, BLOCKS, (MIDDLE, offer))
    (refused,) = changes(messages)
    assert (refused["kind"], refused["version"], refused["cause"]) == ("refuse", A, why)
    assert shard.account()["refused"] == 1, "an account that has not changed is not committed"
    assert instant(refused["at"]) > START, "when it was refused, not since when it was to serve"
    assert told(m for m in messages if m.kind != "decisions") == told(m for m in undisturbed if m.kind != "decisions")


def test_without_room_for_a_shadow_a_switch_is_one_all_the_same():
    shard = Shard(chosen(most=2))
    assert [d["kind"] for d in changes(told_to(shard, BLOCKS, (MIDDLE, offered("champion", A))))] == ["switch"]
    assert shard.succession.shadow is None


def test_a_model_without_networks_takes_nobodys():
    shard = Shard(spec(config=replace(spec().config, model="linear"), succession=CHOICE))
    (refused,) = changes(told_to(shard, BLOCKS, (MIDDLE, offered("champion", A))))
    assert refused["cause"] == "the model has no networks"


def test_a_shadow_hears_and_learns_what_the_champion_does(monkeypatch):
    """Of the same weights, it says the same: nothing reaches one and not the other."""
    monkeypatch.setattr(Versus, "__init__", short(Versus.__init__))
    shard = Shard(chosen())
    told_to(shard, BLOCKS[:60])
    shard._settle()
    same = succession.weights_of(shard.learner)
    learn.OFFERS.append(Offer("challenger", "c" * 16, 0, same))
    run(shard, BLOCKS[60:])
    shadow = shard.succession.shadow
    compared = shadow.versus.all
    assert compared.blocks[0] > 3
    assert abs(compared.mean[0]) < 0.1, "they learn from other replays"
    mine, theirs = shard.learner, shadow.learner
    for name in ("key", "newest", "seen", "level", "ring", "closed", "closed_newest", "changes"):
        np.testing.assert_array_equal(mine.memory[name][:6], theirs.memory[name][:6], name)
    for name in ("scale", "mean", "naive"):
        np.testing.assert_array_equal(mine.learnt[name][:6], theirs.learnt[name][:6], name)
    assert mine.pending.count == theirs.pending.count > 0


def test_a_real_judge_takes_a_champion_that_talks_nonsense_back():
    """Weights that are noise, by somebody's word: the former champion beside them is the better one, and comes back."""
    rng = np.random.default_rng(0)
    rows = [(f"s{k}", t, 10 * k + 3 * np.sin(np.pi / 2 * t + k) + rng.normal(0, 0.5)) for t in range(500) for k in range(2)]
    wild = another(B, 9, model="lstm")
    wild = wild._replace(weights=wild.weights + torch.from_numpy(rng.normal(0, 0.3, wild.weights.shape).astype(np.float32)))
    shard = Shard(spec(SOURCES[:1], succession=CHOICE, config=replace(spec().config, model="lstm")))
    first = shard.learner.version
    blocks = [block(SOURCES[0], at, rows[at : at + 20]) for at in range(0, len(rows), 20)]
    messages = told_to(shard, blocks, (15, Offer("champion", B, 0, wild)))
    assert [(d["kind"], d["version"]) for d in changes(messages)] == [("switch", B), ("rollback", first), ("switch", first)]
    assert shard.learner.version == first
    assert "no proof is waited for" in changes(messages)[1]["cause"]
    assert changes(messages)[1]["numbers"]["blocks"] == versus.SUDDEN


def test_a_plan_is_plain(tmp_path):
    plan = Plan("switch", 5, A, 4, "", "it was made champion", {})
    assert Plan(*json.loads(json.dumps([*plan]))) == plan
