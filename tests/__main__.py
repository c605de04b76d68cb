"""`python -m tests`: the whole suite. What it needs of Debian and is not there is installed first, where that is allowed.

Arguments go to pytest.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from tools import Program, missing  # noqa: E402


def privilege() -> list[str] | None:
    """What to put before a command so that root runs it; None: there is no way without asking somebody."""
    if os.geteuid() == 0:
        return []
    may = shutil.which("sudo") and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode == 0
    return ["sudo", "-n"] if may else None


def install(programs: list[Program], before: list[str]) -> None:
    """By apt; services that come along are stopped again, where there is anything that starts them."""
    packages = [program.package for program in programs]
    print(f"installing {', '.join(packages)}", flush=True)
    environment = [*before, "env", "DEBIAN_FRONTEND=noninteractive"]
    subprocess.run([*environment, "apt-get", "update", "-q"], check=True)
    subprocess.run([*environment, "apt-get", "install", "-q", "-y", "--no-install-recommends", *packages], check=True)
    if Path("/run/systemd/system").exists():
        for program in programs:
            if program.service is not None:
                subprocess.run([*before, "systemctl", "disable", "--now", program.service], check=False)


def main() -> int:
    wanted = missing()
    if wanted:
        line = f"apt-get install -y --no-install-recommends {' '.join(program.package for program in wanted)}"
        before = privilege()
        if before is None or shutil.which("apt-get") is None:
            print(f"programs are missing, and nobody here may install them. Run, as root:\n\n    {line}\n", file=sys.stderr)
            print("and this command again; `uv run pytest` runs all tests that need none of them.", file=sys.stderr)
            return 1
        try:
            install(wanted, before)
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd)} failed; run, as root:\n\n    {line}\n", file=sys.stderr)
            return 1
    os.chdir(ROOT)
    return pytest.main(["--system", "--durations=25", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
