"""Model versions as people and programs are shown them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.quantities import instant, plain
from pipeline.records import rfc3339
from pipeline.registry import Manifest, Move, Registry

DIGITS = 4  # of a metric


def listing(registry: Registry) -> dict[str, Any]:
    """Every version, newest first, and who is who. Raises what `Registry.last` does."""
    now, rows = registry.last(), []
    for name, found in registry.versions():
        row: dict[str, Any] = {"version": name, "aliases": now.now.of(name)}
        if isinstance(found, Manifest):
            rows.append(row | brief(found) | {"trouble": None})
        else:
            rows.append(row | {"trouble": str(found)})
    who = {"generation": now.generation, "aliases": msgspec.to_builtins(now.now)}
    return {"registry": registry.place, "application": registry.application, "model": registry.model, **who, "versions": rows}


def brief(said: Manifest) -> dict[str, Any]:
    return {
        "created_at": said.created_at,
        "parent": said.lineage[0].version if said.lineage else None,
        "network": said.shape.model,
        "horizon": said.shape.horizon,
        "observations": said.data.observations,
        "metrics": said.metrics,
        "bytes": sum(file.bytes for file in said.files.values()),
    }


def showing(registry: Registry, name: str) -> dict[str, Any]:
    """All that is known of a version, checked whole, and the moves of names from it or to it. Raises what `Registry.whole` does."""
    said, _ = registry.whole(registry.resolve(name))
    moves = [move for move in registry.moves() if said.version in {*move.removed} or move.was.of(said.version) != move.now.of(said.version)]
    return {
        "registry": registry.place,
        "aliases": registry.last().now.of(said.version),
        **msgspec.to_builtins(said),
        "moves": [moved(move) for move in moves],
    }


def moved(move: Move) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(move).items() if name != "format"}


# For people


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns, aligned.

    >>> print(table([("a", "bc"), ("def", "g")]), end="")
    a    bc
    def  g
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n" for row in rows)


def list_text(found: dict[str, Any]) -> str:
    if not found["versions"]:
        return f"no versions of {found['application']}/{found['model']} in {found['registry']}\n"
    rows = [("version", "name", "created", "parent", "network", "leads", "observations", "metrics")]
    for one in found["versions"]:
        names = ", ".join(one["aliases"]) or "-"
        if one["trouble"] is not None:
            rows.append((one["version"], names, "cannot be read: models show says why", *[""] * 5))
            continue
        rows.append(
            (
                one["version"], names, day(one["created_at"]), one["parent"] or "-", plain(one["network"]), str(one["horizon"]),
                f"{one['observations']:,}", metrics(one["metrics"]),
            )
        )  # fmt: skip
    return table(rows)


def show_text(said: dict[str, Any]) -> str:
    data = said["data"]
    source = [f"{plain(name)} {first} to {behind - 1}" for name, (first, behind) in data["positions"].items()]
    if data["file"] is not None:
        source.append(f"{plain(data['file'])}, SHA-256 {plain(data['sha256'])}")
    rows = [
        ("version", f"{said['version']}  {', '.join(said['aliases']) or 'no name'}"),
        ("created", said["created_at"]),
        ("settings", ", ".join(f"{name} {plain(value)}" for name, value in said["shape"].items())),
        ("seed", str(said["seed"])),
        ("learnt from", f"{data['observations']:,} observations, {data['first']} to {data['last']}"),
        *(("", line) for line in source),
        ("metrics", metrics(said["metrics"])),
        ("made with", ", ".join(f"{name} {plain(one)}" for name, one in said["made_with"].items())),
        *(("file", f"{name}, {one['bytes']:,} bytes, SHA-256 {one['sha256']}: checked") for name, one in said["files"].items()),
        ("parents", " <- ".join(one["version"] for one in said["lineage"]) or "none"),
        *(("moved", move_text(move)) for move in said["moves"]),
    ]
    return table(rows)


def move_text(move: dict[str, Any]) -> str:
    """A move of names, on a line."""
    was, now = move["was"], move["now"]
    changes = [f"{name} {was[name] or 'nobody'} -> {now[name] or 'nobody'}" for name in now if now[name] != was[name]]
    removed = [f"removed {', '.join(move['removed'])}"] if move["removed"] else []
    why = f": {plain(move['reason'])}" if move["reason"] else ""
    return f"{move['at']} {move['kind']} by {plain(move['by'])}{why} ({'; '.join([*changes, *removed])})"


def metrics(found: dict[str, float]) -> str:
    return ", ".join(f"{plain(name)} {value:.{DIGITS}g}" for name, value in found.items()) or "-"


def day(text: str) -> str:
    """To the minute.

    >>> day("2026-11-26T08:15:30.500000Z")
    '2026-11-26 08:15'
    """
    return rfc3339(instant(text))[:16].replace("T", " ")
