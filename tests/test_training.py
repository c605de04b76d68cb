"""Training that is stopped and gone on with ends as one that was not; what it learns helps; what it costs is bounded."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from models import course, snapshot, training
from models.course import Begin, Budget, Lanes, Teacher, Trained
from models.learner import Config, Learner
from models.past import Past, Scales, scales

CONFIG = Config(horizon=4, season=6, members=2, hidden=16)
ROWS, UNTIL = 400, 320


@pytest.fixture(scope="module")
def history() -> tuple[Past, Scales]:
    rng, t = np.random.default_rng(0), np.arange(ROWS)
    values = np.stack([5 + 3 * np.sin(2 * np.pi * (t + k) / 6 + 0.3 * np.sin(t / 9)) + rng.normal(0, 0.3, ROWS) for k in range(3)])
    values[rng.random(values.shape) < 0.04] = np.nan
    past = Past(np.arange(1, 4, dtype=np.uint64), np.zeros(3, np.int64), np.arange(4) * ROWS, values.ravel())
    return past, scales(past, CONFIG, until=UNTIL)


def train(history: tuple[Past, Scales], *, steps: int | None = 40, config: Config = CONFIG, **more: Any) -> Trained:
    given: dict[str, Any] = {"resume": None, "saved": lambda _: None, "told": lambda _: None, "begin": None, "clock": lambda: 0.0}
    given |= {"budget": Budget(steps), **more}
    found = course.train(Learner(config), *history, until=UNTIL, **{"go": training.fit, **given})
    assert found is not None
    return found


@pytest.fixture(scope="module")
def whole(history: tuple[Past, Scales]) -> tuple[Trained, list[dict[str, bytes]]]:
    """A training that nobody has disturbed, and what it left after each pass."""
    left: list[dict[str, bytes]] = []
    return train(history, saved=lambda teacher: left.append(teacher.state())), left


def test_it_learns(whole: tuple[Trained, list[dict[str, bytes]]]) -> None:
    trained, left = whole
    assert trained.steps == 40
    assert len(left) == trained.progress.passes + 1
    assert trained.loss < 0.95 * trained.progress.start
    assert np.isfinite(trained.weights).all()
    assert trained.progress.stopped == "steps"


def test_from_whatever_pass_it_goes_on_it_ends_with_the_same_bytes(
    history: tuple[Past, Scales], whole: tuple[Trained, list[dict[str, bytes]]]
) -> None:
    trained, left = whole
    for parts in (left[0], left[len(left) // 2], left[-1]):
        again = train(history, resume=parts)
        assert again.weights.tobytes() == trained.weights.tobytes()
        assert again.moments.tobytes() == trained.moments.tobytes()
        assert (again.loss, again.steps, again.progress.passes) == (trained.loss, trained.steps, trained.progress.passes)


def test_with_lightning_or_without_it_is_the_same(history: tuple[Past, Scales], whole: tuple[Trained, list[dict[str, bytes]]]) -> None:
    plain = train(history, go=course.walk)
    assert plain.weights.tobytes() == whole[0].weights.tobytes()
    assert plain.moments.tobytes() == whole[0].moments.tobytes()
    assert (plain.loss, plain.progress.passes) == (whole[0].loss, whole[0].progress.passes)


def test_it_may_be_stopped_in_the_middle_of_a_pass(history: tuple[Past, Scales], whole: tuple[Trained, list[dict[str, bytes]]]) -> None:
    class EnoughError(Exception):
        pass

    def enough(teacher: Teacher) -> None:
        if teacher.steps == 17:
            raise EnoughError

    left: list[dict[str, bytes]] = []
    with pytest.raises(EnoughError):
        train(history, told=enough, saved=lambda teacher: left.append(teacher.state()))
    assert train(history, resume=left[-1]).weights.tobytes() == whole[0].weights.tobytes()


def test_a_signal_between_two_questions_is_the_wish_that_it_was(history: tuple[Past, Scales]) -> None:
    """Lightning ends the process where it sees SIGTERM before we do."""

    class EnoughError(Exception):
        pass

    wished: list[int] = []

    def told(teacher: Teacher) -> None:
        if wished:
            raise EnoughError
        if teacher.progress.passes == 1:  # at its end Lightning looks first
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, _: wished.append(number))
    try:
        with pytest.raises(EnoughError):
            train(history, told=told)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_seed_gives_other_weights(history: tuple[Past, Scales]) -> None:
    one, again, other = (train(history, steps=6, config=Config(**{**vars(CONFIG), "seed": seed})) for seed in (1, 1, 2))
    assert one.weights.tobytes() == again.weights.tobytes()
    assert one.weights.tobytes() != other.weights.tobytes()


def test_weights_that_have_learnt_are_gone_on_from(history: tuple[Past, Scales], whole: tuple[Trained, list[dict[str, bytes]]]) -> None:
    before = whole[0]
    on = train(history, steps=12, begin=Begin(before.weights, before.moments))
    assert on.progress.start == pytest.approx(before.loss, rel=0.2)  # each network's best, of passes that may differ
    assert on.loss <= on.progress.start
    assert on.steps == 12


def test_time_ends_it_and_counts_across_a_stop(history: tuple[Past, Scales]) -> None:
    def ticking() -> Callable[[], float]:
        now = iter(range(1 << 30))
        return lambda: float(next(now))

    left: list[dict[str, bytes]] = []
    first = train(history, steps=None, budget=Budget(seconds=60), clock=ticking(), saved=lambda teacher: left.append(teacher.state()))
    assert first.progress.stopped == "seconds"
    assert first.progress.seconds >= 60
    again = train(history, steps=None, budget=Budget(seconds=first.progress.seconds + 1), clock=ticking(), resume=left[-2])
    assert again.progress.seconds <= first.progress.seconds + 20


def test_it_stops_when_nothing_more_is_gained(history: tuple[Past, Scales], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "LEAST", 10.0)
    trained = train(history, steps=None)
    assert (trained.progress.passes, trained.progress.stopped) == (course.PATIENCE, "patience")
    assert trained.loss == pytest.approx(trained.progress.start)


def test_too_little_is_nothing(history: tuple[Past, Scales]) -> None:
    past, of = history
    short = past._replace(start=np.arange(4) * 8, values=past.values[:24])
    given: dict[str, Any] = {"resume": None, "saved": print, "told": print, "begin": None, "clock": lambda: 0.0, "budget": Budget()}
    assert course.train(Learner(CONFIG), short, of, until=1, **given) is None


def test_what_another_network_has_left_is_refused(history: tuple[Past, Scales], whole: tuple[Trained, list[dict[str, bytes]]]) -> None:
    with pytest.raises(snapshot.SnapshotDamaged, match="does not fit these settings"):
        train(history, resume=whole[1][-1], config=Config(**{**vars(CONFIG), "hidden": 32}))


def test_the_network_serves_as_it_was_trained(history: tuple[Past, Scales], whole: tuple[Trained, list[dict[str, bytes]]]) -> None:
    """The weights that come of it are those that its loss is of."""
    learner = Learner(CONFIG)
    learner.descent.weights.copy_(torch.from_numpy(whole[0].weights))
    teacher = Teacher(learner, Begin(whole[0].weights, None), seen=lambda _: None)
    lanes = Lanes(*history, learner, until=UNTIL, teacher=teacher, most=0, goes_on=lambda: True)
    teacher.look()
    with torch.no_grad():
        for chunk in lanes.watched():
            teacher.watch(chunk)
    teacher.looked()
    assert teacher.progress.start == pytest.approx(whole[0].loss, rel=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_what_is_trained_on_a_gpu_serves_on_a_cpu(history: tuple[Past, Scales]) -> None:
    trained = train(history, config=Config(**{**vars(CONFIG), "device": "cuda"}))
    assert trained.loss < 0.95 * trained.progress.start
    said = []
    for device in ("cuda", "cpu"):
        learner = Learner(Config(**{**vars(CONFIG), "device": device}))
        network = learner.descent.flat.read(torch.from_numpy(trained.weights).to(learner.device))
        lanes = Lanes(*history, learner, until=UNTIL, teacher=Teacher(learner, None, seen=lambda _: None), most=0, goes_on=lambda: True)
        chunk = next(lanes.watched())
        x = torch.from_numpy(chunk.whole.x[:64]).to(learner.device)
        outputs, _ = network(x[:, None], torch.zeros(64, 4, CONFIG.hidden, device=learner.device))
        blend, paths = (torch.from_numpy(np.asarray(a[:64], np.float32)).to(learner.device) for a in (chunk.whole.blend, chunk.whole.paths))
        said.append(torch.stack([s.point for s in network.say([o[:, 0] for o in outputs], x, blend, paths)]).detach().cpu())
    torch.testing.assert_close(said[0], said[1], rtol=1e-5, atol=1e-5)
