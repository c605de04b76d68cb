"""Programs that come from Debian, not from PyPI: where they are, and what to install where they are not."""

from __future__ import annotations

import shutil
from typing import NamedTuple


class Program(NamedTuple):
    """By which names it may be found, and the package that it comes with."""

    names: tuple[str, ...]
    package: str
    service: str | None = None  # that the package starts where there is systemd


PROGRAMS = {
    "prometheus": Program(("prometheus",), "prometheus", "prometheus"),
    "promtool": Program(("promtool",), "prometheus", "prometheus"),
    "amtool": Program(("amtool",), "prometheus-alertmanager", "prometheus-alertmanager"),
    "chromium": Program(("chromium", "chromium-browser", "google-chrome"), "chromium"),
}


class Missing(Exception):  # noqa: N818 - reads as what is the matter
    """A program that a test needs is not there; the message says what to install."""


def found(program: str) -> str | None:
    return next((path for name in PROGRAMS[program].names if (path := shutil.which(name)) is not None), None)


def tool(program: str) -> str:
    """Its path. Raises Missing."""
    path = found(program)
    if path is None:
        raise Missing(f"{program} is missing: apt-get install {PROGRAMS[program].package}, or `uv run python -m tests`, which does it")
    return path


def missing() -> list[Program]:
    """Of each package that is not there, a program."""
    return list({program.package: program for name, program in PROGRAMS.items() if found(name) is None}.values())
