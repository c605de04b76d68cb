"""Programs that come from Debian, not from PyPI: where they are, and what to install where they are not."""

from __future__ import annotations

import shutil

PACKAGES = {  # program -> package
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "amtool": "prometheus-alertmanager",
    "chromium": "chromium",
}


class Missing(Exception):  # noqa: N818 - reads as what is the matter
    """A program that a test needs is not there; the message says what to install."""


def tool(program: str) -> str:
    """Its path. Raises Missing."""
    found = shutil.which(program)
    if found is None:
        raise Missing(f"{program} is missing: apt-get install {PACKAGES[program]}, or `uv run python -m tests`, which does it")
    return found


def absent() -> list[str]:
    """Packages of all programs that are missing."""
    return sorted({package for program, package in PACKAGES.items() if shutil.which(program) is None})
