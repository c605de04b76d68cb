"""A forecast from what `tidecast models export VERSION --format onnx` writes, without Tidecast: numpy and onnxruntime.

    python tests/serve_onnx.py exported/ history.csv --time date --value OT

Rows are the steps of one series, in order; an empty value is a missing one. Times without a zone are UTC. Prints one JSON object.
What is computed here, and what the names of the features mean, is told in words in exported/networks.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime


class Habits(NamedTuple):
    """What is usual for a series."""

    size: float  # mean absolute one-step change
    naive: np.ndarray  # (3, H) mean absolute errors of naive forecasts, in units of size
    lasting: np.ndarray  # (H,)


class Said(NamedTuple):
    """Of each network, in the series' own units."""

    points: np.ndarray  # (M, H)
    quantiles: np.ndarray  # (M, Q, H)


class Model:
    """An exported version."""

    def __init__(self, folder: Path) -> None:
        self.told = json.loads((folder / "networks.json").read_text())
        settings = self.told["settings"]
        if settings["covariates"] or settings["gaps"] != "mask":
            raise SystemExit("this example knows no covariates, and leaves gaps as they are: series.gaps = mask")
        one_thread = onnxruntime.SessionOptions()
        one_thread.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(folder / "networks.onnx", one_thread, providers=["CPUExecutionProvider"])
        self.names = [feature["name"] for feature in self.told["features"]]
        self.leads = np.arange(1, self.told["horizon"] + 1)
        season, further = self.told["season"], self.told["further_seasons"]
        self.whole = None if season is None else -(-self.leads // season) * season
        self.wholes = {steps: -(-self.leads // steps) * steps for steps in further}
        own = 0 if season is None else int(self.whole[-1]) + season
        self.reach = max(self.told["lags"], own, *(int(whole[-1]) for whole in self.wholes.values()))  # steps back that are looked at

    def habits(self, values: np.ndarray) -> Habits:
        """From a series' history (T,), where Tidecast has running means; missing: NaN."""
        size, horizon = float(np.nanmean(np.abs(np.diff(values)))), len(self.leads)
        naive = np.stack([np.ones(horizon), np.full(horizon, 1.5 * horizon**0.5), 1.5 * self.leads**0.5])
        for h in self.leads:
            off = [values[h:] - values[:-h]]
            if self.whole is not None:
                whole = self.whole[h - 1]
                off.append(values[whole:] - values[:-whole])
                off.append(off[0][whole:] - off[0][:-whole])
            naive[: len(off), h - 1] = [np.nanmean(np.abs(x)) / size for x in off]
        return Habits(size, naive, np.ones(horizon))


class Series:
    """One series, step by step."""

    def __init__(self, model: Model, carries: dict[int, tuple[int, np.ndarray]] | None = None) -> None:
        self.model = model
        self.carries = carries or {}  # by phase: the cell after which it was, and (2M, D)

    def step(self, values: np.ndarray, cell: int, habits: Habits) -> Said:
        """The forecast from a cell; `values`: (at least reach + 1,), the cell's own last."""
        told, h = self.model.told, len(self.model.leads)
        back = values[::-1]
        level = back[~np.isnan(back)][0]
        phase = cell % told["lags"]
        _, wide, hidden = told["inputs"]["carry"]["shape"]
        since, carry = self.carries.get(phase, (None, np.zeros((wide, hidden), np.float16)))
        gap = 0 if since is None else (cell - since) // told["lags"] - 1
        last, before, offset = np.full((3, h), np.nan)
        if self.model.whole is not None:
            season, whole = told["season"], self.model.whole
            last, before, offset = (back[k] - level for k in (whole - self.model.leads, whole - self.model.leads + season, whole))
        wholes = self.model.wholes.items()
        further = {steps: (back[whole - self.model.leads] - level, back[whole] - level) for steps, whole in wholes}
        unit = habits.size * np.maximum(habits.naive.min(0), told["floor"]) * habits.lasting
        known = np.stack([np.full(h, True), ~np.isnan(last), ~np.isnan(last - offset)])
        weights = np.where(known, habits.naive, np.inf)
        weights = (weights.min(0) / weights) ** 4
        blend = (weights[1] * self.clipped(last / unit) + weights[2] * self.clipped((last - offset) / unit)) / weights.sum(0)
        found = self.features(
            back, level, {"": (last, offset)} | {f"_{steps}": paths for steps, paths in further.items()}, cell, gap, habits
        )
        given = {
            "features": [found[name] for name in self.model.names],
            "carry": carry,
            "blend": blend,
            "paths": [self.clipped(x / unit) for x in (last, before, offset, *(path for paths in further.values() for path in paths))],
        }
        points, _, quantiles, after = self.model.session.run(None, {name: np.asarray([x], np.float32) for name, x in given.items()})
        if not np.isnan(back[0]):
            after[0, ::2] = np.rint(after[0, ::2] * 127) / 127
            self.carries[phase] = cell, after[0].astype(np.float16)
        return Said(level + unit * points[0], level + unit * quantiles[0])

    def features(
        self, back: np.ndarray, level: float, courses: dict[str, tuple[np.ndarray, np.ndarray]], cell: int, gap: int, habits: Habits
    ) -> dict[str, float]:
        """By name; each as networks.json has it. `courses`: `last` and `offset` of each season, by what its features' names have more."""
        told, leads = self.model.told, range(1, len(self.model.leads) + 1)
        lags, at = told["lags"], told["feature_lead"] - 1
        unit = habits.size * habits.naive[0, at] * habits.lasting[at]
        seen = ~np.isnan(back[: lags + 1])
        before = np.flatnonzero(seen[1:])
        found = {f"change_{k}": self.bent((back[k] - level) / unit) for k in range(1, lags + 1)}
        found |= {f"seen_{k}": float(seen[k]) for k in range(lags + 1)}
        found[f"rise_{lags}"] = -found[f"change_{lags}"]
        found["silence"] = before[0] / lags if len(before) else 1.0
        found["carry_gap"] = min(gap, 8) / 8
        kind, seasonal, drift = np.log(habits.naive)
        found |= {f"kind_{h}": kind[h - 1] for h in leads}
        found |= {f"seasonal_{h}": seasonal[h - 1] - kind[h - 1] for h in leads}
        found |= {f"drift_{h}": drift[h - 1] - kind[h - 1] for h in leads}
        for of, (last, offset) in courses.items():
            found |= {f"offset{of}": self.bent(offset[0] / unit), f"offset_known{of}": float(not np.isnan(offset[0]))}
            found |= {f"course{of}_{h}": self.bent(last[h - 1] / unit) for h in leads}
            found |= {f"course_known{of}_{h}": float(not np.isnan(last[h - 1])) for h in leads}
        periods = {"season": told["season"], "week": 7 * 86_400_000_000 / told["step_us"]}
        for name, period in (periods | {f"season_{steps}": steps for steps in told["further_seasons"]}).items():
            for k in range(1, 4):
                angle = 2 * math.pi * k * (cell % period) / period if period else 0.0
                found |= {f"{name}_sin_{k}": math.sin(angle), f"{name}_cos_{k}": math.cos(angle)}
        return found | {name: 0.0 for name in self.model.names if name.startswith("zero_")}

    def bent(self, x: Any) -> Any:
        size, bend = np.abs(x), self.model.told["bend"]
        return self.clipped(np.where(size <= bend, x, np.copysign(bend + np.log1p(np.maximum(size - bend, 0)), x)))

    def clipped(self, x: Any) -> Any:
        return np.nan_to_num(np.clip(x, -self.model.told["clip"], self.model.told["clip"]))


def forecast(model: Model, values: np.ndarray, newest: int) -> Said:
    """Of a series with this history (T,), NaN where missing, that ends at a cell: the carry runs along it, and then it is asked."""
    series, habits = Series(model), model.habits(values)
    padded = np.concatenate([np.full(model.reach, np.nan), values])
    first = int(np.flatnonzero(~np.isnan(values))[0])
    for k in range(first, len(values)):
        said = series.step(padded[k : k + model.reach + 1], newest - len(values) + 1 + k, habits)
    return said


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("history", type=Path)
    parser.add_argument("--time", default="at")
    parser.add_argument("--value", default="value")
    asked = parser.parse_args()
    model = Model(asked.folder)
    with asked.history.open(newline="") as file:
        rows = list(csv.DictReader(file))
    values = np.array([float(row[asked.value] or "nan") for row in rows])
    newest = datetime.fromisoformat(rows[-1][asked.time])
    newest = newest if newest.tzinfo else newest.replace(tzinfo=UTC)
    said = forecast(model, values, round(newest.timestamp() * 1_000_000) // model.told["step_us"])
    quantiles = dict(zip(map(str, model.told["levels"]), said.quantiles.mean(0).tolist(), strict=True))
    print(json.dumps({"version": model.told["version"], "point": said.points.mean(0).tolist(), "quantiles": quantiles}))


if __name__ == "__main__":
    main()
