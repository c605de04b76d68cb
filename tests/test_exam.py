"""An exam in old regimes: who has forgotten one is found, in numbers and by a retraining; whoever has not, is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import retraining
import torch

from models import course
from models.course import Begin, Budget
from models.exam import examined
from models.learner import Config, Learner
from models.past import Past, Scales, scales
from models.regimes import REGIMES, STRETCHES, forgotten
from pipeline.configure import parameters_of
from pipeline.registry import Because, Registry
from pipeline.retrainer import text

CONFIG = Config(model="lstm", horizon=4, season=6, hidden=16)
QUARTER = 300
UNTIL = REGIMES * QUARTER


def waves(rows: int, swapped: int, seed: int = 0) -> np.ndarray:
    """(rows, 3); a cell says what the next one is, and in the first `swapped` rows the other way round."""
    rng, t = np.random.default_rng(seed), np.arange(rows)
    steps = np.stack([rng.normal(0, 1, rows) for _ in range(3)], 1)
    sign = np.where(t < swapped, -0.8, 0.8)[:, None]
    values = np.zeros((rows, 3))
    for k in range(1, rows):
        values[k] = sign[k] * values[k - 1] + steps[k]
    return values


def history(values: np.ndarray) -> tuple[Past, Scales]:
    rows = len(values)
    past = Past(np.arange(1, 4, dtype=np.uint64), np.zeros(3, np.int64), np.arange(4) * rows, values.T.ravel())
    return past, scales(past, CONFIG, until=UNTIL)


def taught(past: Past, of: Scales, begin: Begin | None, **changes: Any) -> course.Trained:
    given: dict[str, Any] = {"resume": None, "saved": lambda _: None, "told": lambda _: None, "clock": lambda: 0.0}
    found = course.train(Learner(CONFIG), past, of, until=UNTIL, begin=begin, budget=Budget(60), **given | changes)
    assert found is not None
    return found


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pair() -> tuple[Past, Scales, np.ndarray, np.ndarray]:
    """A history whose first quarter is of another kind; weights that learnt on that kind alone, and on all that came after it alone."""
    mixed = waves(UNTIL + QUARTER, QUARTER)
    old, of_old = history(waves(UNTIL + QUARTER, UNTIL + QUARTER))
    new, of_new = history(waves(UNTIL + QUARTER, 0))
    return *history(mixed), taught(old, of_old, None).weights, taught(new, of_new, None).weights


def test_who_knows_an_old_regime_no_more_is_found(pair: tuple[Past, Scales, np.ndarray, np.ndarray]) -> None:
    past, of, before, after = pair
    ends, losses = examined(Learner(CONFIG), past, of, [before, after], until=UNTIL)
    assert ends.tolist() == [k * QUARTER for k in range(REGIMES + 1)]
    assert losses.shape == (2, REGIMES, STRETCHES)
    found = forgotten(losses[0], losses[1], share=0.1)
    assert found.lost.tolist() == [True, False, False, False]
    assert found.rise[0] > 0.2
    assert (found.rise[1:] < 0).all()


def test_the_exam_is_the_same_for_everybody_and_each_time(pair: tuple[Past, Scales, np.ndarray, np.ndarray]) -> None:
    past, of, before, _ = pair
    one = examined(Learner(CONFIG), past, of, [before], until=UNTIL)[1]
    two = examined(Learner(CONFIG), past, of, [before, before], until=UNTIL)[1]
    np.testing.assert_array_equal(one[0], two[1])
    assert not forgotten(two[0], two[1], share=0.0).lost.any()


def test_nothing_of_what_comes_after_a_regime_is_in_its_losses(pair: tuple[Past, Scales, np.ndarray, np.ndarray]) -> None:
    past, of, before, _ = pair
    values = past.values.copy().reshape(3, -1)
    values[:, QUARTER:] = 1e3
    changed = examined(Learner(CONFIG), past._replace(values=values.ravel()), of, [before], until=UNTIL)[1]
    np.testing.assert_array_equal(changed[0, 0], examined(Learner(CONFIG), past, of, [before], until=UNTIL)[1][0, 0])


def test_a_regime_that_is_forgotten_is_told_from_one_that_is_only_noisy() -> None:
    rng = np.random.default_rng(0)
    champion = rng.gamma(4, 0.2, (3, 40))
    challenger = champion * np.array([[1.0], [1.3], [0.9]]) * np.exp(rng.normal(0, 0.1, (3, 40)))
    found = forgotten(champion, challenger, share=0.1)
    assert found.lost.tolist() == [False, True, False]
    assert np.allclose(found.rise, [0.0, 0.3, -0.1], atol=0.05)
    noisy = forgotten(champion, challenger[:, ::-1] * 1.2, share=0.1)
    assert not noisy.lost[0]


def test_a_regime_of_which_nothing_is_known_is_not_lost() -> None:
    champion = np.array([[1.0, np.nan], [np.nan, np.nan]])
    found = forgotten(champion, champion * 5, share=0.1)
    assert found.lost.tolist() == [False, False]
    assert np.isnan(found.rise[1])


def test_a_retraining_tells_what_it_has_cost_and_may_be_told_to_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    retraining.rows(tmp_path, 1_600)
    first = json.loads(retraining.run(tmp_path).stdout)
    assert first["forgotten"] == [], "from random weights there is nothing to forget"
    shelf = Registry(str(tmp_path / "models"), application="app", model="default", parameters=parameters_of)
    shelf.promote(first["version"], shelf.last(), Because("test", 0, ""))
    frame = pl.read_csv(tmp_path / "rows.csv").with_columns(pl.col("value") * 1.5)
    frame.write_csv(tmp_path / "rows.csv")

    def all_lost(champion: np.ndarray, challenger: np.ndarray, *, share: float) -> Any:
        return forgotten(champion, np.where(np.isnan(challenger), challenger, champion * (1.5 + share)), share=share)

    monkeypatch.setattr("pipeline.retrain.forgotten", all_lost)
    monkeypatch.setattr(course, "LEAST", -1e9)  # whatever it gains
    refused = json.loads(retraining.run(tmp_path, "--set", "registry.forgetful=refuse").stdout)
    assert (refused["outcome"], refused["version"]) == ("forgetful", first["version"])
    assert len(refused["forgotten"]) == REGIMES
    assert any(regime["lost"] for regime in refused["forgotten"])
    assert [name for name, _ in shelf.versions()] == [first["version"]]
    told = json.loads(retraining.run(tmp_path, "--set", "registry.most_forgotten=0.2").stdout)
    assert told["outcome"] == "challenger"
    assert "It has forgotten: it loses more from 2026-01-" in text(told)
