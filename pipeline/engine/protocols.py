"""What the engine asks of the rest: someone who commits, and someone who knows the state behind the cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Parts = Mapping[str, bytes | memoryview]  # named pieces of a snapshot; they are written one behind the other, and never copied together


class Committer(Protocol):
    """Where outputs go, and the one place that says how far we are. It is fenced before the engine sees it."""

    def last(self) -> dict[str, Any] | None:
        """The last committed record; None if there has never been one."""
        ...

    def commit(self, record: dict[str, Any]) -> None:
        """Outputs since the last commit, the positions in `record["account"]`, and the record: all or nothing.

        Returns when it is committed. Whatever it raises ends the job, and the next start reads `last`.
        """
        ...

    def mute(self, muted: bool, /) -> None:  # noqa: FBT001 - one flag, named by the verb
        """While muted, outputs are dropped: they are committed already."""
        ...


class Live(Protocol):
    """The state that lives beside the cells, and its account. Called in the engine's thread, between bundles."""

    def freeze(self, cell: bytes, /) -> Callable[[], Parts] | None:
        """What a state cell stands for, as it is now -> what gives it as it must be on disk; None: the cell is all there is.

        Called once, in the thread that writes, while work goes on. A cell is what its coder writes in Beam's nested form
        (`coder.get_impl().encode_nested(value)`).
        """
        ...

    def thaw(self, parts: Parts, /) -> bytes:
        """What `freeze` gave, read back -> the cell that stands for it until its DoFn asks. `parts` are of one file, all in memory."""
        ...

    def account(self) -> dict[str, Any]:
        """How far the state is, as JSON: positions, ledger, digest, decisions. The engine only asks if it has changed.

        It may be asked before the first element came. `positions` is a list of [topic, partition, position].
        """
        ...

    def repeat(self, account: dict[str, Any], /) -> None:
        """A repetition is about to begin: it must stop exactly at this account."""
        ...

    def repeated(self) -> bool:
        """The repetition stands at the account it was given."""
        ...

    def resume(self, account: dict[str, Any], /) -> None:
        """The repetition is over: take the recorded flags, compare the digest."""
        ...

    def snapshotted(self) -> None:
        """A snapshot has just been frozen.

        Later commits may still name the snapshot before it, and a recovery may fall back to the one before that: what an
        account lists "since the snapshot" must reach back to the third last call of this.
        """
        ...


def nowhere(_name: str, /) -> None:
    """The default `point`: production passes these points without a word."""


@dataclass(frozen=True, kw_only=True)
class Durability:
    """How a job survives its process.

    A commit is made at the first quiet moment once `interval_s` has passed since the last one, or sooner when there is nothing
    else to do, if the account has changed: an idle topic costs the broker nothing, and a sample after silence is committed
    almost at once. A snapshot is made when what would have to be repeated after a crash is `snapshot_every_s` of work, in a rest if
    there is one soon.
    """

    application: str
    committer: Committer
    live: Live
    folder: Path  # snapshots; must follow the process
    interval_s: float = 0.5
    # Half of it doubles what is written, twice as much doubles the time to recover; promised are seconds.
    snapshot_every_s: float = 5.0
    point: Callable[[str], None] = nowhere  # called at named points, where tests kill the process
