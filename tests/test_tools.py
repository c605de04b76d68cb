"""The suite says what it needs: a program that is missing is an error with a package's name, and what is left out is told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import tools

ROOT = Path(__file__).parents[1]
SUITE = [sys.executable, "-m", "tests", "-q", "tests/test_times.py", "-k", "nothing-is-called-this"]


def test_a_missing_program_is_an_error_that_names_its_package(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(tools.Missing, match="amtool is missing: apt-get install prometheus-alertmanager"):
        tools.tool("amtool")
    assert {program.package for program in tools.missing()} == {"prometheus", "prometheus-alertmanager", "chromium"}


def test_who_may_not_install_is_told_the_one_line_to_run(tmp_path):
    done = subprocess.run(SUITE, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert "apt-get install -y --no-install-recommends prometheus prometheus-alertmanager chromium\n" in done.stderr


def test_what_is_missing_is_installed_by_root_or_a_sudo_that_asks_nothing(tmp_path):
    """With an apt-get of our own, which writes down what it is told and brings the programs."""
    said = tmp_path / "said"
    for name in ("apt-get", "sudo", "env", "systemctl"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {said}\n')
        (tmp_path / name).chmod(0o755)
    (tmp_path / "env").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "sudo").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (tmp_path / "true").symlink_to("/bin/true")
    subprocess.run(SUITE, cwd=ROOT, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=120)
    lines = said.read_text().splitlines()
    assert lines[:2] == [
        "apt-get update -q",
        "apt-get install -q -y --no-install-recommends prometheus prometheus-alertmanager chromium",
    ]


def test_pytest_alone_leaves_out_what_needs_debian_and_says_so():
    given = [sys.executable, "-m", "pytest", "-q", "tests/test_rules.py", "-k", "promtool or fires"]
    alone = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)  # nothing is left to be run
    assert "left out: 2 that need" in alone.stdout, alone.stdout
    assert "uv run python -m tests" in alone.stdout
    whole = subprocess.run([*given, "--system", "--co"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert "left out" not in whole.stdout
    assert "test_promtool_and_amtool_find_nothing" in whole.stdout
