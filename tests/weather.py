"""Sequences to classes: what type of weather a day has, read by a recurrent cell from the days up to it.

    python -m tests.weather

Known are: of the days before, everything, their types too; of the day itself the two temperatures and the wind, the season and the
place. Not known is the day's precipitation: whoever made the data called a day rain wherever it is above 0, which leaves nothing to
find out. Taught on 2012 to 2014, judged on 2015; every choice here was made on 2014, taught on the two years before.

Letters: S places, N days, F input features, T days of a window, K types.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from models.cells import CELLS, Carry
from models.descent import Descent
from models.distributions import Categorical

FILE = Path(__file__).parent / "data" / "seattle_nyc_weather_daily.csv.gz"
TYPES = ("drizzle", "fog", "rain", "snow", "sun")
RAIN, SUN = TYPES.index("rain"), TYPES.index("sun")
DAYS = 14  # of a window; 28 were no better
HIDDEN = 16
STEPS = 300  # twice as many learn the two years by heart: on 2014 0.83 nats become 0.89
RATE = 0.01
ROWS = 32  # windows a step


class Weather(NamedTuple):
    """Both places, day by day."""

    year: np.ndarray  # (N,)
    wet: Tensor  # (S, N, 1) log of 1 + mm of precipitation
    dry: Tensor  # (S, N, 3) temperatures in tens of degrees C, log of the wind in m/s
    frame: Tensor  # (S, N, 3) the season as sine and cosine, the place as 0 or 1
    type: Tensor  # (S, N)


def load() -> Weather:
    table = pl.read_csv(FILE, try_parse_dates=True).sort("location", "date")
    columns = {name: table[name].to_numpy().reshape(2, -1) for name in ("precipitation", "temp_max", "temp_min", "wind")}
    dry = np.stack([columns["temp_max"] / 10 - 1.5, columns["temp_min"] / 10 - 0.8, np.log(columns["wind"] + 0.5)], -1)
    turn = 2 * np.pi * table["date"].dt.ordinal_day().to_numpy().reshape(2, -1) / 365.25
    frame = np.stack([np.sin(turn), np.cos(turn), np.array([[0.0], [1.0]]) + 0 * turn], -1)
    return Weather(
        year=table["date"].dt.year().to_numpy().reshape(2, -1)[0],
        wet=torch.tensor(np.log1p(columns["precipitation"])[..., None], dtype=torch.float32),
        dry=torch.tensor(dry, dtype=torch.float32),
        frame=torch.tensor(frame, dtype=torch.float32),
        type=torch.tensor([TYPES.index(name) for name in table["weather"]]).view(2, -1),
    )


def inputs(weather: Weather, *own: Tensor) -> Tensor:
    """(S, N, F): what is known of each day when its type is asked for; `own`: what of the day itself."""
    whole = torch.cat([weather.wet, weather.dry, torch.eye(len(TYPES))[weather.type]], -1)
    before = torch.cat([torch.zeros_like(whole[:, :1]), whole[:, :-1]], 1)
    return torch.cat([before, *own, weather.frame], -1)


class Reader(nn.Module):
    """A cell over the days, and of each day scores of its type."""

    def __init__(self, *, features: int, cell: str, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.cell = CELLS[cell](features=features, hidden=HIDDEN, generator=generator)
        self.head = nn.Parameter(torch.zeros(len(TYPES), HIDDEN + features))
        self.bias = nn.Parameter(torch.zeros(len(TYPES)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, F) -> (B, K, T)."""
        nothing = torch.zeros(len(x), HIDDEN)
        output, _ = self.cell(x, None, Carry(nothing, nothing))
        return linear(torch.cat([output, x], -1), self.head, self.bias).movedim(2, 1)


HEAD = Categorical(len(TYPES))


def taught(
    weather: Weather, x: Tensor, years: Sequence[int], *, days: int = DAYS, cell: str = "gru", steps: int = STEPS, seed: int
) -> Reader:
    """A network that has learnt these years, from windows that may reach into the days before them."""
    generator = torch.Generator().manual_seed(seed)
    reader = Reader(features=x.shape[-1], cell=cell, seed=seed)
    descent = Descent(reader, rate=RATE, least=1e-4, halving=100)
    last = torch.tensor(np.flatnonzero(np.isin(weather.year, years)))
    last = last[last >= days]
    windows, types = x.unfold(1, days, 1).movedim(-1, 2), weather.type.unfold(1, days, 1)
    known = (torch.arange(days) >= days // 2).float().expand(ROWS, days)  # the days before are there to be remembered
    for _ in range(steps):
        place = torch.randint(0, len(x), (ROWS,), generator=generator)
        first = last[torch.randint(0, len(last), (ROWS,), generator=generator)] - days + 1
        descent.step(lambda network, at=(place, first): HEAD.loss(network(windows[at]), types[at], known))
    descent.flat.read(descent.average)
    return reader


class Judged(NamedTuple):
    accuracy: float
    nats: float  # cross-entropy
    recall: list[float]  # by type


def judged(reader: Reader, weather: Weather, x: Tensor, years: Sequence[int], *, days: int = DAYS) -> Judged:
    """Each day of the years once, from a window that ends with it."""
    last = torch.tensor(np.flatnonzero(np.isin(weather.year, years)))
    with torch.no_grad():
        raw = reader(x.unfold(1, days, 1).movedim(-1, 2)[:, last - days + 1].flatten(0, 1))[:, :, -1:]
    target = weather.type[:, last].reshape(-1, 1)
    known = torch.ones(len(target), 1)
    right = HEAD.point(raw) == target
    recall = [float(right[target == k].float().mean()) for k in range(len(TYPES))]
    return Judged(float(HEAD.accuracy(raw, target, known)), float(HEAD.loss(raw, target, known)), recall)


def naive(weather: Weather, before: Sequence[int], years: Sequence[int]) -> dict[str, float]:
    """Accuracies of guesses that learn nothing, or next to nothing."""
    last = np.flatnonzero(np.isin(weather.year, years))
    target = weather.type[:, last]
    most = torch.mode(weather.type[:, np.isin(weather.year, before)].flatten()).values
    guesses = {
        "the commonest type": most,
        "yesterday's type": weather.type[:, last - 1],
        "rain if there was precipitation, else sun": torch.where(weather.wet[:, last, 0] > 0, RAIN, SUN),
    }
    return {name: float((guess == target).float().mean()) for name, guess in guesses.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--test", type=int, default=2015, help="the year to judge; taught are those before it")
    given = parser.parse_args()
    torch.set_num_threads(1)
    weather = load()
    before = range(2012, given.test)
    print(f"types of weather in {given.test}, taught on {before[0]} to {before[-1]}\n\n{'':<49}{'accuracy':<22}nats")
    for name, accuracy in naive(weather, before, [given.test]).items():
        print(f"{name:<49}{accuracy:.3f}")
    for known, own in (("", [weather.dry]), (", only days before known", []), (", and its rain", [weather.dry, weather.wet])):
        x = inputs(weather, *own)
        for name, cell, days in (("GRU", "gru", DAYS), ("LSTM", "lstm", DAYS), ("GRU, memory of one day", "gru", 1)):
            began = time.perf_counter()
            found = [
                judged(taught(weather, x, before, days=days, cell=cell, seed=s), weather, x, [given.test], days=days) for s in given.seeds
            ]
            label = name + known
            accuracies, nats = (" ".join(f"{getattr(one, what):.3f}" for one in found) for what in ("accuracy", "nats"))
            recall = ", ".join(f"{kind} {np.mean([one.recall[k] for one in found]):.2f}" for k, kind in enumerate(TYPES))
            print(f"{label:<49}{accuracies:<22}{nats}   recall: {recall}   ({time.perf_counter() - began:.1f} s)")


if __name__ == "__main__":
    main()
