"""What the engine raises by itself. What a bundle or the committer raises passes through unchanged."""

from __future__ import annotations


class EngineError(Exception):
    """The engine cannot go on."""


class NotDurable(EngineError):  # noqa: N818 - named for what happened
    """The pipeline holds something that a snapshot cannot carry."""


class SnapshotFailed(EngineError):  # noqa: N818 - named for what happened
    """A snapshot could not be written: the disk is full or broken. The last good ones are untouched."""


class StateLost(EngineError):  # noqa: N818 - named for what happened
    """There is a commit, but no snapshot that fits it. Nothing is guessed; the message says what can be done."""
