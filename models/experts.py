"""All experts as one: what each says of a cell, the mixture's weights, and what closed cells teach those that are no networks.

Order of the experts: networks, linear ones, the seasonal naive where there is a season, the last value (which says the level).
Letters: N rows, K experts, M networks, H lead times, G groups of leads, V voices of the mixture, C columns of a wide record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from models.carry import MANY, Memory
from models.cells import CELLS
from models.driven import Driven
from models.inputs import CLIP, Shape, View
from models.linear import Linear, Related, Sums, affordable
from models.mixture import OWN_RATE, Mixture, Weights

MIXTURES = ("mixture", "nets", "mixture-without-nets", "linear")  # models made of several experts, or of one that is no network
LARGE = 1e30  # scales: what an expert says beyond it is as good there

# Usable scales and means, each of (N,) slots: by whatever is behind a forecast, or behind learning
Sizes = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class Experts:
    """The linear experts, the mixture, and who has a voice in it."""

    def __init__(self, form: Shape, *, model: str, cell: str, members: int, columns: int) -> None:
        self.form, self.members, self.model = form, members, model
        self.alone = model not in MIXTURES  # nobody beside the one that serves is asked, or remembered
        fits = affordable(form, columns)
        self.columns = columns if columns > 1 and fits and not self.alone else 0
        self.too_wide = columns > 1 and not fits and not self.alone and model != "nets"  # its columns do not see each other, then
        self.linear = [] if self.alone else [Linear(form), *([Linear(form, columns=self.columns)] if self.columns else [])]
        self.driven = Driven(form) if form.known.number and not self.alone else None
        self.sums: dict[str, Sums] = {f"linear {k}": one for k, one in enumerate(self.linear)}  # as a snapshot names them
        if self.driven is not None:
            self.sums["linear covariates"] = self.driven
        nets = [cell] if members == 1 else [f"{cell} {k + 1}" for k in range(members)]
        seasonal = [] if form.season is None else ["seasonal_naive"]
        lines = ["linear", "linear related"][: len(self.linear)] + (["linear covariates"] if self.driven else [])
        self.names = (*nets, *lines, *seasonal, "last_value")
        self.kept = 0 if self.alone else members + len(lines)  # whose forecasts must be remembered: the naive ones are in the ring
        self.judged = 0 if self.alone else len(self.names)  # beside each other
        self.mixture = self._mixture()
        self.prior = self.mixture.prior.astype(np.float32)
        self.lean = (0, 0) if self.alone else (self.mixture.groups, self.mixture.voices)

    def _mixture(self) -> Mixture:
        allowed = np.array([self._allowed(name) for name in self.names])
        return Mixture(nets=self.members, others=len(self.names) - self.members, allowed=allowed, horizon=self.form.horizon)

    def _allowed(self, name: str) -> bool:
        """Whether an expert may have weight in the model that is asked for."""
        net = name.startswith(tuple(CELLS))
        match self.model:
            case "mixture":
                return True
            case "mixture-without-nets":
                return not net
            case "linear":
                return name.startswith("linear")
            case _:
                return net

    # Arrivals

    @property
    def solved(self) -> tuple[np.ndarray, ...]:
        """The linear experts' coefficients as they stand, for good."""
        return tuple(one.solved for one in self.sums.values())

    def lines(
        self,
        m: Memory,
        slot: np.ndarray,
        cell: np.ndarray,
        level: np.ndarray,
        size: np.ndarray,
        *,
        solved: tuple[np.ndarray, ...],
        sizes: Sizes,
        v: View,
        outlook: np.ndarray,
    ) -> list[np.ndarray]:
        """(N, H) what each linear expert says, less the level, in units of the scale."""
        out = []
        for linear, coefficients in zip(self.linear, solved[: len(self.linear)], strict=True):
            related = self._related(linear, m, slot, m["newest"], sizes)
            out.append(linear.say(linear.see(m["ring"], slot, cell, level, size, related), m["column"][slot], coefficients))
        if self.driven is not None:
            out.append(self.driven.say(self.driven.arriving(v, size, outlook), solved[-1]))
        return out

    def _related(self, linear: Linear, m: Memory, slot: np.ndarray, newest: np.ndarray, sizes: Sizes) -> Related | None:
        if not linear.columns:
            return None
        of = m["related"][slot]
        each, at = np.unique(of, return_inverse=True)  # all columns of a record name the same ones
        size, mean = (found[at].reshape(of.shape) for found in sizes(each))
        return Related(of, size, mean, newest[of])

    def speak(self, nets: np.ndarray, lines: list[np.ndarray], seasonal: np.ndarray, size: np.ndarray) -> np.ndarray:
        """(N, K, H) what every expert says, less the level, in units of the scale; one that cannot speak says the level.

        `nets` (N, M, H) in these units, `seasonal` (N, H) in the series' own.
        """
        parts = [nets, *(line[:, None] for line in lines), np.zeros((len(nets), 1, nets.shape[2]))]
        if self.form.season is not None:
            with np.errstate(over="ignore"):
                parts.insert(-1, (seasonal / size[:, None])[:, None])
        return np.asarray(np.clip(np.nan_to_num(np.concatenate(parts, 1)), -LARGE, LARGE), np.float32)

    def mixed(self, weights: Weights, lean: np.ndarray) -> np.ndarray:
        """(N, K, H) weights of the experts, of series that lean (N, G, V) to some voices."""
        if self.alone:
            only = (np.arange(len(self.names)) == 0)[:, None].astype(np.float32)
            return np.broadcast_to(only, (len(lean), len(self.names), self.form.horizon))
        return weights.of(lean.astype(np.float32), self.prior).transpose(0, 2, 1)

    def voices(self, mixed: np.ndarray) -> np.ndarray:
        """(N, M, H) how much of the quantiles' distance from the point comes from each network, by weights (N, K, H)."""
        voice = np.maximum(mixed[:, : self.members], 1e-6)
        return np.asarray(voice / voice.sum(1, keepdims=True))

    def heard(self, parts: np.ndarray, seasonal: np.ndarray, unit: np.ndarray) -> np.ndarray:
        """(N, judged, H) what each expert had said, less the level at issue, in naive errors of the lead.

        `parts` (N, kept, H) what was remembered of it, and `seasonal` (N, H; NaN: not known), in the series' own units; `unit` (N, H).
        """
        if self.alone:
            return parts
        with np.errstate(over="ignore", invalid="ignore"):
            said = [parts / unit[:, None]]
            if self.form.season is not None:
                said.append((np.where(np.isnan(seasonal), 0.0, seasonal) / unit)[:, None])
        said.append(np.zeros((len(unit), 1, unit.shape[1])))
        return np.asarray(np.clip(np.nan_to_num(np.concatenate(said, 1)), -CLIP, CLIP))

    # Learning

    def regress(self, m: Memory, slot: np.ndarray, cell: np.ndarray, size: np.ndarray, sizes: Sizes) -> None:
        """What the newest closed cells (N,) complete for the linear experts."""
        for one in self.sums.values():
            one.fade()
        for linear in self.linear:
            for group, (fine, origin, level, target) in enumerate(linear.rows_of(m["closed"], slot, cell)):
                if not fine.size:
                    continue
                mine = slot[fine]
                x = linear.see(m["closed"], mine, origin, level, size[fine], self._related(linear, m, mine, m["closed_newest"], sizes))
                with np.errstate(over="ignore"):
                    change = (target - level[:, None]) / size[fine, None]
                linear.learn(group, x, m["column"][mine], change)
        if self.driven is not None:
            self.driven.take(m, slot, cell, size)

    def mix(self, m: Memory, slot: np.ndarray, said: np.ndarray, met: np.ndarray) -> np.ndarray:
        """Learn who is how good from what was said (N, K, H) and came (N, H; NaN: no score); returns what the series lean to (N, G, V)."""
        if self.alone:
            return np.zeros((len(slot), *self.lean))
        known = ~np.isnan(met)
        off, count = self.mixture.by_group(self.mixture.learn(said, met, known), known)
        total = np.minimum(m["losses"][slot] + count, MANY)
        rate = count / np.maximum(total, 1)
        loss = m["loss"][slot]
        m["loss"][slot] = loss = loss + (off - loss) * np.maximum(rate, np.where(count > 0, OWN_RATE, 0.0))[:, None]
        m["losses"][slot] = total
        return self.mixture.lean(loss, total)

    def settle(self) -> None:
        """Weights and coefficients anew: an instant has been learnt."""
        if not self.alone:
            self.mixture.weigh()
        for one in self.sums.values():
            one.solve()

    def forget(self) -> None:
        """Who is how good is open again; what the linear experts have learnt stays."""
        self.mixture = self._mixture()

    # What is to be known of them

    def weights(self) -> dict[str, list[float]]:
        """The mixture's weights of all series together, by expert and lead."""
        weights = self.mixture.weights.of(np.zeros((1, *self.lean)), self.mixture.prior)[0]
        return {name: [round(float(w), 6) for w in weights[:, k]] for k, name in enumerate(self.names)}

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Groups of arrays by name."""
        return {"mixture": self.mixture.state()} | {name: one.state() for name, one in self.sums.items()}

    def load(self, groups: Mapping[str, dict[str, np.ndarray]]) -> None:
        """The inverse of `state`; raises KeyError or ValueError where it does not fit."""
        self.mixture.load(groups["mixture"])
        for name, one in self.sums.items():
            one.load(groups[name])
