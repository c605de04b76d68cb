"""What is known of covariates at a cell: only what has been told by then, in units that each series has shown so far.

A *tell* is what a record says of a cell: of its own, and of covariates that are declared as known ahead, of later ones, too. An *outlook*
is what is known when a cell is forecast from. It is made once, when the sample arrives, and learning goes by it, as it was: what is told
or corrected later never enters an older origin. All of it follows a series alone, in the order of its own records.

Letters: N rows, M tells, K covariates, A of them known ahead, H lead times, R cells of a ring, W numbers of an outlook.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from models.scale import MEMORY, ROBUST, SETTLED

NEVER = -(1 << 60)  # see models.carry
LAGS = 12  # steps back that an outlook shows
FAR = 3  # horizons: what is told of later cells is not kept
LEADS = (1, 2, 4, 8, 12, 24)  # at which a network's step sees what is known ahead; its paths show all
CLIP = 20.0  # units; see models.inputs.CLIP
SLOW = 5e-4  # rate at which mean and spread forget
WIDEST = 1.5  # standard deviations: what a change of many steps is at most measured by
PRIOR = 10.0  # pairs of changes, before a reaction is believed
STANDS, REACTION, RATIO, NOW = range(4)  # numbers of a covariate in an outlook: see `Outlook`


class Plan(NamedTuple):
    """Which covariates there are."""

    number: int = 0
    ahead: tuple[int, ...] = ()  # which of them are known ahead
    horizon: int = 1

    @property
    def each(self) -> int:
        """Numbers of a covariate in an outlook, but for the leads."""
        return NOW + 1 + LAGS

    @property
    def width(self) -> int:
        return self.number * self.each + len(self.ahead) * self.horizon

    @property
    def far(self) -> int:
        """Steps ahead of which a tell is kept."""
        return FAR * self.horizon if self.ahead else 0

    @property
    def leads(self) -> np.ndarray:
        return np.array([k - 1 for k in LEADS if k <= self.horizon])

    @property
    def features(self) -> int:
        """Of a network's step."""
        return self.number * (4 + LAGS) + 2 * len(self.ahead) * len(self.leads)

    @property
    def paths(self) -> int:
        """By which a network's forecast of a lead follows what is known of that lead."""
        return 2 * len(self.ahead)


NONE = Plan()


def planned(names: tuple[str, ...], ahead: tuple[str, ...], horizon: int) -> Plan:
    """Raises ValueError where names stand twice, or are known ahead and no covariates.

    >>> planned(("load", "wind"), ("wind",), 24).ahead
    (1,)
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    strange = [name for name in ahead if name not in names]
    wrong = [f"covariate {name!r} stands twice" for name in twice] + [f"{name!r} is known ahead and no covariate" for name in strange]
    if wrong:
        raise ValueError("; ".join(wrong))
    return Plan(len(names), tuple(k for k, name in enumerate(names) if name in ahead), horizon) if names else NONE


class Tells(NamedTuple):
    """What records have said."""

    slot: np.ndarray  # (M,)
    by: np.ndarray  # (M,) the record's own cell
    about: np.ndarray  # (M,) the cell that it speaks of, never before its own
    values: np.ndarray  # (M, K) float64; NaN: nothing said


def columns(plan: Plan, kept: int) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
    """What a memory keeps of a series (see models.carry.Memory); outlooks of `kept` cells."""
    if not plan.number:
        return {}
    k = plan.number
    return {
        # written by arrivals
        "told": (np.float64, (k, LAGS + 1 + plan.far), np.nan),  # by cell % R
        "heard": (np.int64, (), NEVER),  # the cell that the ring stands at: it reaches LAGS back and `far` ahead
        "usual": (np.float64, (3, k), 0),  # mean, mean squared deviation, mean squared one-step change
        "usual_count": (np.int64, (2, k), 0),  # values and changes
        "together": (np.float64, (3, k), 0),  # mean products of the one-step changes of value and covariate: both, covariate's, value's
        "together_count": (np.int64, (k,), 0),
        # written by learning
        "outlook": (np.float16, (kept, plan.width), np.nan),  # by cell % kept
        "outlook_of": (np.int64, (kept,), NEVER),  # the cell that it is of
    }


Columns = Any  # a Memory, or anything else that gives these arrays by name


def tell(m: Columns, plan: Plan, tells: Tells) -> None:
    """Take in what has been told. What the newer record says of a cell counts; of one record, what it says last."""
    slots = np.unique(tells.slot)
    newest = m["heard"][tells.slot]  # before these tells
    by = np.full(len(slots), NEVER)
    np.maximum.at(by, np.searchsorted(slots, tells.slot), tells.by)
    move(m, plan, slots, by)
    values = tells.values.copy()
    for k in set(range(plan.number)) - set(plan.ahead):
        values[tells.about != tells.by, k] = np.nan
    stands = m["heard"][tells.slot]
    near = (tells.about >= tells.by) & (tells.about >= stands - LAGS) & (tells.about <= stands + plan.far)
    order = np.argsort(tells.by, kind="stable")
    order = order[near[order]]
    late = tells.by[order] < newest[order]  # whoever has spoken since knows better
    ring = m["told"]
    for rows, older in ((order[late], True), (order[~late], False)):
        for k in range(plan.number):
            said = rows[~np.isnan(values[rows, k])]
            slot, at = tells.slot[said], tells.about[said] % ring.shape[2]
            if older:
                open_ = np.isnan(ring[slot, k, at])
                said, slot, at = (a[open_][::-1] for a in (said, slot, at))  # of several, the first keeps the place
            ring[slot, k, at] = values[said, k]


def move(m: Columns, plan: Plan, slot: np.ndarray, cell: np.ndarray) -> None:
    """Series (each once) are at these cells now, if they were not already farther on: what falls behind is forgotten."""
    on = cell > m["heard"][slot]
    slot, cell = slot[on], cell[on]
    ring = m["told"]
    length = ring.shape[2]
    first = m["heard"][slot] + plan.far + 1
    passed = np.minimum(cell + plan.far + 1 - first, length)
    behind = (np.arange(length) - first[:, None]) % length < passed[:, None]
    rows = ring[slot]
    rows[np.broadcast_to(behind[:, None], rows.shape)] = np.nan
    ring[slot] = rows
    m["heard"][slot] = cell


def look(m: Columns, plan: Plan, slot: np.ndarray, cell: np.ndarray, change: np.ndarray) -> np.ndarray:
    """(N, W) float16 outlooks at (N,) cells, none older than its series' newest; `change` (N,) of the value in one step, NaN: not known.

    Of each covariate: how far it stands from its mean, in standard deviations; how it has moved together with the value (a correlation of
    changes); standard deviations in units of its change; then for the cell and LAGS before it the change from there to what is known last
    (of the cell itself: 0 if it is what is known last). Of those known ahead: the changes from what is known last to each lead.
    NaN: not known.
    """
    if not plan.number:
        return np.zeros((len(slot), 0), np.float16)
    move(m, plan, slot, cell)
    gone = m["heard"][slot] > cell  # nobody says what was known there
    ring = m["told"]
    back = ring[slot[:, None, None], np.arange(plan.number)[:, None], (cell[:, None] - np.arange(LAGS + 1))[:, None] % ring.shape[2]]
    back[gone] = np.nan
    seen = ~np.isnan(back)
    last = np.take_along_axis(back, seen.argmax(2)[..., None], 2)[..., 0]  # (N, K) NaN: none
    _get_used_to(m, slot, back, seen, change)
    mean, spread, step = m["usual"][slot].transpose(1, 0, 2)
    spread, step = np.sqrt(spread), np.sqrt(step)
    step = np.where(step > 0, step, np.nan)  # a covariate that has not changed yet has no unit
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        out = np.empty((len(slot), plan.number, plan.each))
        out[..., STANDS] = (last - mean) / np.where(spread > 0, spread, np.nan)
        both, own, value = m["together"][slot].transpose(1, 0, 2)
        count = m["together_count"][slot]
        out[..., REACTION] = np.nan_to_num(both / np.sqrt(own * value)) * count / (count + PRIOR)
        out[..., RATIO] = spread / step
        out[..., NOW:] = (back - last[..., None]) / units(np.arange(LAGS + 1), spread, step)
        out[..., NOW] = np.where(seen[..., 0], 0.0, np.nan)
        ahead = list(plan.ahead)
        at = (cell[:, None] + np.arange(1, plan.horizon + 1))[:, None] % ring.shape[2]
        known = ring[slot[:, None, None], np.array(ahead, np.int64)[:, None], at]
        known = (known - last[:, ahead, None]) / units(np.arange(1, plan.horizon + 1), spread[:, ahead], step[:, ahead])
    flat = np.concatenate([x.reshape(len(x), x.shape[1] * x.shape[2]) for x in (out, known)], 1)
    return np.asarray(np.clip(flat, -CLIP, CLIP), np.float16)


def units(steps: np.ndarray, spread: np.ndarray, step: np.ndarray) -> np.ndarray:
    """(N, K, steps) what changes of so many steps are measured by: a slow wave's grow with the steps, noise's do not."""
    return np.asarray(np.maximum(np.minimum(np.maximum(steps, 1) * step[..., None], WIDEST * spread[..., None]), step[..., None] / 2))


def _get_used_to(m: Columns, slot: np.ndarray, back: np.ndarray, seen: np.ndarray, change: np.ndarray) -> None:
    """What is usual of covariates, after one more value (N, K, LAGS + 1, newest first) of each series."""
    now, here = back[..., 0], seen[..., 0]
    usual, count = m["usual"][slot], m["usual_count"][slot]
    gone = seen[..., 1:].argmax(2)
    before = np.take_along_axis(back[..., 1:], gone[..., None], 2)[..., 0]
    moved = here & seen[..., 1:].any(2)
    count[:, 0] += here
    count[:, 1] += moved
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.where(count[:, 0] > 1, usual[:, 0], now)
        off = _held(now - mean, np.sqrt(usual[:, 1]), count[:, 0])
        rate = np.maximum(1 / np.maximum(count[:, 0], 1), SLOW)
        usual[:, 1] = np.where(here, usual[:, 1] + (off * off - usual[:, 1]) * rate, usual[:, 1])
        usual[:, 0] = np.where(here, mean + off * rate, usual[:, 0])
        off = _held((now - before) / np.sqrt(gone + 1), np.sqrt(usual[:, 2]), count[:, 1])
        rate = np.maximum(1 / np.maximum(count[:, 1], 1), MEMORY)
        usual[:, 2] = np.where(moved, usual[:, 2] + (off * off - usual[:, 2]) * rate, usual[:, 2])
    m["usual"][slot], m["usual_count"][slot] = usual, count
    sums, count = m["together"][slot], m["together_count"][slot]
    step, value = now - back[..., 1], np.broadcast_to(change[:, None], now.shape)
    both = ~np.isnan(step) & np.isfinite(value)
    count += both
    step, value = (np.where(both, x, 0.0) for x in (step, value))
    step, value = (_held(x, np.sqrt(of), count) for x, of in ((step, sums[:, 1]), (value, sums[:, 2])))
    rate = np.where(both, np.maximum(1 / np.maximum(count, 1), MEMORY), 0.0)[:, None]
    sums += (np.stack([step * value, step * step, value * value], 1) - sums) * rate
    m["together"][slot], m["together_count"][slot] = sums, count


def _held(off: np.ndarray, usual: np.ndarray, count: np.ndarray) -> np.ndarray:
    """One value counts for at most so much, once there have been some: it may not hide all that follows."""
    bound = np.where((count > SETTLED) & (usual > 0), ROBUST * usual, 1e150)
    return np.asarray(np.clip(off, -bound, bound))


# What learning keeps


def kinds(plan: Plan) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The arrays of an outlook that waits for the instant that closes its cell (see models.score.Pending)."""
    return {"outlook": (np.float16, (plan.width,))}


def keep(m: Columns, slot: np.ndarray, cell: np.ndarray, outlook: np.ndarray) -> None:
    """Outlooks (N, W) of cells that an instant has closed."""
    ring, of = m["outlook"], m["outlook_of"]
    order = np.argsort(cell, kind="stable")
    order = order[cell[order] >= of[slot[order], cell[order] % of.shape[1]]]
    at = slot[order], cell[order] % of.shape[1]
    ring[at], of[at] = outlook[order], cell[order]


def kept(m: Columns, plan: Plan, slot: np.ndarray, cell: np.ndarray, places: np.ndarray | None = None) -> np.ndarray:
    """(N, W) outlooks of closed cells, as they were when these were forecast from; NaN where there is none.

    `places`, (P,) or (N, P): only these numbers of each.
    """
    if not plan.number:
        return np.zeros((len(slot), 0), np.float16)
    at = slot, cell % m["outlook_of"].shape[1]
    out = m["outlook"][at] if places is None else m["outlook"][at[0][:, None], at[1][:, None], places]
    out[m["outlook_of"][at] != cell] = np.nan
    return np.asarray(out)


def unknown(plan: Plan, count: int) -> np.ndarray:
    """(N, W) outlooks on nothing."""
    return np.full((count, plan.width), np.nan, np.float16)


# What experts make of it


class Outlook(NamedTuple):
    """An outlook, by what it tells; NaN: not known."""

    own: np.ndarray  # (N, K, 3) stands, reaction, ratio
    lags: np.ndarray  # (N, K, LAGS + 1) from the cell backwards
    ahead: np.ndarray  # (N, A, H)


def opened(plan: Plan, outlook: np.ndarray) -> Outlook:
    """Its parts.

    >>> opened(Plan(2, (1,), 5), np.zeros((3, Plan(2, (1,), 5).width), np.float16)).ahead.shape
    (3, 1, 5)
    """
    end = plan.number * plan.each
    own = outlook[:, :end].astype(np.float32).reshape(len(outlook), plan.number, plan.each)
    ahead = outlook[:, end:].astype(np.float32).reshape(len(outlook), len(plan.ahead), plan.horizon)
    return Outlook(own[..., :NOW], own[..., NOW:], ahead)


def features(plan: Plan, outlook: np.ndarray) -> list[np.ndarray]:
    """Columns for a network's step, (N, plan.features) together: float32, finite; masks beside what may not be known."""
    if not plan.number:
        return []
    own, lags, ahead = opened(plan, outlook)
    course = ahead[..., plan.leads]
    parts = [
        np.nan_to_num(own[..., :2]),
        ~np.isnan(lags[..., :1]),
        np.nan_to_num(lags[..., 1:]),
        (~np.isnan(lags)).mean(2, keepdims=True),
    ]
    each = np.concatenate([np.asarray(p, np.float32) for p in parts], 2)
    return [x.reshape(len(x), x.shape[1] * x.shape[2]).astype(np.float32) for x in (each, np.nan_to_num(course), ~np.isnan(course))]


def paths(plan: Plan, outlook: np.ndarray) -> np.ndarray:
    """(N, 2A, H) float32: what is known ahead at each lead, and what the value would make of it, had it reacted as so far."""
    if not plan.ahead:
        return np.zeros((len(outlook), 0, plan.horizon), np.float32)
    own, _, ahead = opened(plan, outlook)
    ahead = np.nan_to_num(ahead)
    return np.asarray(np.concatenate([ahead, reactions(plan, own, ahead, np.arange(1, plan.horizon + 1))], 1), np.float32)


def reactions(plan: Plan, own: np.ndarray, ahead: np.ndarray, leads: np.ndarray) -> np.ndarray:
    """Changes ahead (N, A, L) at `leads`, (L,) or (N, 1), times the correlation of changes: in units of the value's own, within CLIP."""
    of = own[:, list(plan.ahead)]
    steps = np.minimum(leads, np.maximum(WIDEST * np.nan_to_num(of[..., RATIO, None]), 0.5))
    return np.asarray(np.clip(of[..., REACTION, None] * ahead * np.maximum(steps, 0.5), -CLIP, CLIP))
