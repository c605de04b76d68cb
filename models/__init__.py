"""What learns: tensors and numbers; no Beam, no Kafka, no clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.frames import backtest, forecast

__all__ = ["backtest", "forecast"]


def __getattr__(name: str) -> Any:
    """`backtest` and `forecast` of `models.frames`, imported when asked for: who learns in a process beside needs neither."""
    if name not in __all__:
        raise AttributeError(f"module 'models' has no attribute {name!r}")
    from models import frames

    return getattr(frames, name)
