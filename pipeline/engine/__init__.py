"""Beam on one machine, durable: snapshots, commits, recovery. Knows no model and no topic."""

from pipeline.engine.errors import EngineError, NotDurable, SnapshotFailed, StateLost
from pipeline.engine.job import wake
from pipeline.engine.protocols import Committer, Durability, Live
from pipeline.engine.runner import LocalRunner, Result

__all__ = ["Committer", "Durability", "EngineError", "Live", "LocalRunner", "NotDurable", "Result", "SnapshotFailed", "StateLost", "wake"]
