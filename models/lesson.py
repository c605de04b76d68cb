"""What an instant teaches: chains of closed cells with the labels that have come, ready for truncated backpropagation.

Letters: B chains, T steps of the longest, N steps of all chains, O origins that have labels, F features, M members,
D hidden units, H leads, P paths.
A chain is every LAGS-th cell of a series, from its anchor to an origin; cells that were not observed are no steps of it.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from models import covariates, heads
from models.batch import buckets, pad
from models.carry import NEVER, Memory, kept
from models.descent import Descent, Outcome
from models.inputs import CLIP, LAGS, Shape, bearings, features, goes_on, read, view
from models.network import PATHS, Ensemble


class Lesson(NamedTuple):
    """A ragged batch of chains, and the origins on them that are learnt from."""

    x: np.ndarray  # (N, F)
    lengths: np.ndarray  # (B,) all > 0
    carry: np.ndarray  # (B, 2M, D) before each chain's first step
    row: np.ndarray  # (O,) chain that an origin is on
    place: np.ndarray  # (O,) its step
    blend: np.ndarray  # (O, H)
    paths: np.ndarray  # (O, P, H)
    target: np.ndarray  # (O, H) in units, relative to the level; 0 where not known
    known: np.ndarray  # (O, H) bool


class Origins(NamedTuple):
    """Where the origins of a lesson stand: enough to label them when their targets have come."""

    asked: np.ndarray  # (O,) which of the chains asked for they are on
    slot: np.ndarray  # (O,)
    cell: np.ndarray  # (O,)
    level: np.ndarray  # (O,)
    unit: np.ndarray  # (O, H)


class Series(NamedTuple):
    """What chains are read with: scales and naive errors as of now, a row each."""

    slot: np.ndarray  # (N,)
    scale: np.ndarray  # (N,)
    naive: np.ndarray  # (N, 3, H)
    lasting: np.ndarray  # (N, H) see models.scale.last


def chains(memory: Memory, of: Series, end: np.ndarray, *, depth: int, origins: int, form: Shape) -> tuple[Lesson, Origins]:
    """Chains that end at cells (N,) of series (N,), with labels at their last `origins` steps. Chains without a step are left out."""
    ring, newest = memory["closed"], memory["closed_newest"][of.slot]
    phase = end % LAGS
    anchored = memory["anchored"][of.slot, phase]
    cells = end[:, None] - LAGS * np.arange(depth - 1, -1, -1)
    reached = (cells <= newest[:, None]) & (cells > newest[:, None] - ring.shape[1] + form.reach) & (cells > anchored[:, None])
    own = reached & ~np.isnan(read(ring, of.slot, cells))
    begins = beginnings(ring, of.slot, cells, own, anchored, form) if form.gaps.splits else np.full(len(end), NEVER)
    own &= cells >= begins[:, None]
    anchored = np.where(begins > NEVER, NEVER, anchored)
    lengths = own.sum(1)
    full = np.flatnonzero(lengths)
    own, lengths, carry = own[full], lengths[full], kept(memory, "anchor", of.slot[full], phase[full])[0]
    carry[begins[full] > NEVER] = 0
    who = np.nonzero(own)[0]
    cell, first = cells[full][own], lengths.cumsum() - lengths
    previous = np.roll(cell, 1)
    previous[first] = anchored[full]
    gap = np.where(previous > NEVER, (cell - previous) // LAGS - 1, 0)
    slot, scale, naive, lasting = (a[full[who]] for a in of)
    v = view(ring, slot, cell, read(ring, slot, cell[:, None])[:, 0], form)
    outlook = covariates.kept(memory, form.known, slot, cell)
    x = features(v, cell, naive, scale, lasting, gap, form, outlook)
    place = np.arange(len(cell)) - first[who]
    taught = np.flatnonzero(place >= lengths[who] - origins)
    v = type(v)(*(a[taught] for a in v))
    blend, paths, unit = bearings(v, naive[taught], scale[taught], lasting[taught])
    if form.known.ahead:
        paths = np.concatenate([paths, covariates.paths(form.known, outlook[taught])], 1)
    target, known = labels(ring, memory["closed_newest"], slot[taught], cell[taught], v.level, unit, form)
    lesson = Lesson(x, lengths, carry, who[taught], place[taught], blend, paths, target, known)
    return lesson, Origins(full[who[taught]], slot[taught], cell[taught], v.level, unit)


def beginnings(ring: np.ndarray, slot: np.ndarray, cells: np.ndarray, own: np.ndarray, anchored: np.ndarray, form: Shape) -> np.ndarray:
    """(B,) the newest step of chains (B, T; `own` those observed) that does not go on from the one before; NEVER: all do."""
    before = np.concatenate([anchored[:, None], np.where(own, cells, NEVER)[:, :-1]], 1)
    before = np.maximum.accumulate(before, 1)
    row, _ = np.nonzero(own)
    broken = np.zeros(own.shape, bool)
    broken[own] = ~goes_on(ring, slot[row], cells[own], before[own], form)
    return np.asarray(np.where(broken, cells, NEVER).max(1))


def labels(
    ring: np.ndarray, newest: np.ndarray, slot: np.ndarray, cell: np.ndarray, level: np.ndarray, unit: np.ndarray, form: Shape
) -> tuple[np.ndarray, np.ndarray]:
    """(O, H) what has come of the targets of (O,) origins, in units relative to the level, and which of them have come."""
    at = cell[:, None] + form.leads
    with np.errstate(over="ignore"):
        target = (read(ring, slot, at) - level[:, None]) / unit
    since = newest[slot][:, None] - at
    known = (since >= 0) & (since < ring.shape[1]) & ~np.isnan(target)
    return np.where(known, np.clip(target, -CLIP, CLIP), 0), known


def table(*, depth: int, form: Shape, members: int, hidden: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The arrays of a chain in the replay pool: its steps padded, and its last origin."""
    return {
        "x": (np.float32, (depth, form.features)),
        "length": (np.int64, ()),
        "carry": (np.float16, (2 * members, hidden)),
        "blend": (np.float32, (form.horizon,)),
        "paths": (np.float32, (PATHS + form.more, form.horizon)),
        "target": (np.float32, (form.horizon,)),
        "known": (np.bool_, (form.horizon,)),
    }


def waiting(*, depth: int, form: Shape, members: int, hidden: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """The arrays of a chain whose labels have not come: what the pool keeps but them, and where they will be."""
    kept = table(depth=depth, form=form, members=members, hidden=hidden)
    del kept["target"], kept["known"]
    where = {"slot": (np.int64, ()), "key": (np.uint64, ()), "cell": (np.int64, ()), "level": (np.float64, ())}
    return kept | where | {"unit": (np.float64, (form.horizon,))}


def stored(lesson: Lesson, origins: Origins, which: np.ndarray, keys: np.ndarray, depth: int) -> dict[str, np.ndarray]:
    """Origins (O,) bool at the ends of their chains as rows to wait for their labels; `keys` (slots,) of all series."""
    row = np.flatnonzero(which & (lesson.place == lesson.lengths[lesson.row] - 1))
    chain = lesson.row[row]
    padded = pad(lesson.x, (lesson.lengths.cumsum() - lesson.lengths)[chain], lesson.lengths[chain])
    x = np.zeros((len(chain), depth, lesson.x.shape[1]), np.float32)
    x[:, : padded.shape[1]] = padded
    return {
        "x": x,
        "length": lesson.lengths[chain],
        "carry": lesson.carry[chain],
        "blend": lesson.blend[row],
        "paths": lesson.paths[row],
        "slot": origins.slot[row],
        "key": keys[origins.slot[row]],
        "cell": origins.cell[row],
        "level": origins.level[row],
        "unit": origins.unit[row],
    }


def labelled(rows: dict[str, np.ndarray], memory: Memory, form: Shape) -> dict[str, np.ndarray]:
    """Rows that have waited, with the labels that have come, as rows for the pool; of series that have gone, none."""
    here = memory["live"][rows["slot"]] & (memory["key"][rows["slot"]] == rows["key"])
    slot, cell, level, unit = (rows[name][here] for name in ("slot", "cell", "level", "unit"))
    target, known = labels(memory["closed"], memory["closed_newest"], slot, cell, level, unit, form)
    some = known.any(1)
    kept = {name: rows[name][here][some] for name in ("x", "length", "carry", "blend", "paths")}
    return kept | {"target": target[some], "known": known[some]}


def of_rows(rows: dict[str, np.ndarray]) -> Lesson:
    """Rows of the pool, as they are."""
    length = rows["length"]
    own = np.arange(rows["x"].shape[1]) < length[:, None]
    rest = (rows[name] for name in ("blend", "paths", "target", "known"))
    return Lesson(rows["x"][own], length, rows["carry"], np.arange(len(length)), length - 1, *rest)


def together(lesson: Lesson, replayed: dict[str, np.ndarray]) -> Lesson:
    """A lesson with rows of the pool behind it."""
    if not len(replayed["length"]):
        return lesson
    behind = of_rows(replayed)
    behind = behind._replace(row=behind.row + len(lesson.lengths))
    return Lesson(*(np.concatenate([mine, theirs]) for mine, theirs in zip(lesson, behind, strict=True)))


def stepped(descent: Descent, lesson: Lesson, levels: Tensor) -> Outcome:
    """The step of descent that a lesson asks for. Its loss is not finite: was the lesson? Then the cause is `input`, and no weight's."""
    outcome = descent.step(partial(loss, lesson=lesson, levels=levels))
    if outcome.cause != "loss" or all(np.isfinite(part).all() for part in lesson):
        return outcome
    return outcome._replace(cause="input")


def loss(ensemble: Ensemble, lesson: Lesson, levels: Tensor) -> Tensor:
    """Of all members together, see `losses`."""
    return losses(ensemble, lesson, levels).sum()


def losses(ensemble: Ensemble, lesson: Lesson, levels: Tensor) -> Tensor:
    """(M,) robust error of each member's point plus pinball loss of its quantiles, over what is known."""
    carry = torch.from_numpy(lesson.carry.astype(np.float32)).to(levels.device)
    return _losses(ensemble, lesson, levels, carry, buckets(lesson.lengths))[0]


def carried(ensemble: Ensemble, lesson: Lesson, levels: Tensor, carry: Tensor) -> tuple[Tensor, Tensor]:
    """The same from carries (B, 2M, D) that are not the lesson's own, and the carries behind each chain's last step, without a gradient.

    Chains of one length run together: behind padding there would be no such carry.
    """
    groups = [np.flatnonzero(lesson.lengths == length) for length in np.unique(lesson.lengths)]
    each, after = _losses(ensemble, lesson, levels, carry, groups)
    order = np.argsort(np.concatenate(groups), kind="stable")
    return each, torch.cat(after)[torch.from_numpy(order).to(levels.device)]


def _losses(ensemble: Ensemble, lesson: Lesson, levels: Tensor, carry: Tensor, groups: list[np.ndarray]) -> tuple[Tensor, list[Tensor]]:
    """(M,) losses, and of each group of chains that ran together the carries behind the last step."""
    device = levels.device
    starts = lesson.lengths.cumsum() - lesson.lengths
    spoken: list[list[Tensor]] = []
    order: list[np.ndarray] = []
    carries: list[Tensor] = []
    for rows in groups:
        x = torch.from_numpy(pad(lesson.x, starts[rows], lesson.lengths[rows])).to(device)
        outputs, after = ensemble(x, carry[torch.from_numpy(rows).to(device)])
        where = np.full(len(lesson.lengths), -1)
        where[rows] = np.arange(len(rows))
        mine = np.flatnonzero(where[lesson.row] >= 0)
        at = torch.from_numpy(where[lesson.row[mine]]).to(device), torch.from_numpy(lesson.place[mine]).to(device)
        spoken.append([output[at] for output in outputs])
        order.append(mine)
        carries.append(after.detach())
    origin = np.concatenate(order)
    at_x = starts[lesson.row[origin]] + lesson.place[origin]
    x, blend, paths, target, known = (
        torch.from_numpy(np.ascontiguousarray(a, np.float32)).to(device)
        for a in (lesson.x[at_x], lesson.blend[origin], lesson.paths[origin], lesson.target[origin], lesson.known[origin])
    )
    said = ensemble.say([torch.cat(each) if len(each) > 1 else each[0] for each in zip(*spoken, strict=True)], x, blend, paths)
    each = torch.stack([heads.huber(s.point, target, known) + heads.pinball(s.quantiles, target, known, levels) for s in said])
    return each, carries
