"""Retrainings in processes of their own that are killed at a named moment, for real; imported by the server that forks them."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from typer.testing import CliRunner

from models import course
from pipeline import history, lease, operate, retrain, retrainer, store
from pipeline.__main__ import app

WORDS = [
    "--step", "1h", "--set", "series.season=6", "--set", "forecast.horizon=4", "--set", "learn.members=1", "--set", "application=app",
    "--steps", "18", "--json",
]  # fmt: skip
MOMENTS: list[tuple[Any, str]] = [  # what is done for good, and what a step is
    (retrain, "write"), (store.Folder, "create"), (history.Book, "close"), (course.Descent, "step"), (retrainer.Retrainer, "_announce"),
    (retrain.shutil, "rmtree"), (store.Folder, "remove"),
]  # fmt: skip


def rows(folder: Path, count: int = 300) -> Path:
    """Two waves by the hour."""
    rng, t = np.random.default_rng(0), np.arange(count)
    at = np.datetime_as_string(np.datetime64("2026-01-01T00:00:00") + t.astype("timedelta64[h]"))
    values = np.round(np.stack([10 + 3 * np.sin(2 * np.pi * (t + k) / 6) + rng.normal(0, 0.4, count) for k in range(2)]), 3)
    parts = [pl.DataFrame({"series": name, "at": [f"{a}Z" for a in at], "value": v}) for name, v in zip("ab", values, strict=True)]
    file = folder / "rows.csv"
    pl.concat(parts).write_csv(file)
    return file


def words(folder: Path, *more: str) -> list[str]:
    return [
        "retrain",
        str(folder / "rows.csv"),
        *WORDS,
        "--set",
        f"registry.url={folder / 'models'}",
        "--work",
        str(folder / "work"),
        *more,
    ]


def run(folder: Path, *more: str) -> Any:
    """The verb, in this process."""
    return CliRunner().invoke(app, words(folder, *more))


def run_until(folder: Path, nth: int) -> None:
    """The verb, killed at the nth moment; its output and exit code are the process's."""
    seen = 0

    def counted(inner: Callable[..., Any]) -> Callable[..., Any]:
        def moment(*args: Any, **named: Any) -> Any:
            nonlocal seen
            seen += 1
            if seen == nth:
                os.kill(os.getpid(), signal.SIGKILL)
            return inner(*args, **named)

        return moment

    for owner, name in MOMENTS:
        setattr(owner, name, counted(getattr(owner, name)))
    torch.set_num_threads(1)
    done = run(folder)
    if done.exit_code:
        traceback.print_exception(done.exception)
        sys.stderr.write(done.output)
    sys.exit(done.exit_code)


def run_long(folder: Path) -> None:
    """The verb, for as long as nobody stops it."""
    torch.set_num_threads(1)
    course.PATIENCE = 10**9  # else it ends after two seconds
    done = run(folder, "--steps", "1000000", "--minutes", "60")
    sys.stderr.write(done.stderr)
    sys.exit(done.exit_code)


def run_at_once(folder: Path, barrier: Any) -> None:
    barrier.wait(60)
    sys.exit(run(folder, "--work", str(folder / f"work-{os.getpid()}")).exit_code)


assert operate
assert lease
