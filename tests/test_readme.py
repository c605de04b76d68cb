"""The README says what is: its tree, its tables, its commands, its five lines of Python."""

import re
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from pipeline.metrics import Metrics, RetrainMetrics
from pipeline.settings import describe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def settings_table() -> list[str]:
    return [f"| `{row.name}` | {row.default} | {row.meaning} |".replace("^", "\\^") for row in describe()]


def metrics_table() -> list[str]:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    labels = {m._name: m._labelnames for m in (*vars(metrics).values(), *vars(RetrainMetrics(registry)).values())}
    rows = []
    for family in registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        said = ", ".join(labels[family.name])
        rows.append(f"| `{name}{'{' + said + '}' if said else ''}` | {family.type} | {family.documentation} |")
    return rows


def tracked() -> set[str]:
    listed = subprocess.run(
        ["git", "ls-files", "pipeline", "models", "deploy", "tests"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return {path for path in listed.stdout.splitlines() if path.endswith(".py") and not path.endswith("__init__.py")}


def tree() -> dict[str, str]:
    """Path -> what the README says of it, from its drawing of the tree."""
    [drawing] = re.findall(r"## The tree\n\n```\n(.*?)```", README, re.DOTALL)
    said, folders = {}, []
    for line in drawing.splitlines():
        indent, _, text = re.fullmatch(r"((?:│   |    )*)(├── |└── |)(.*)", line).groups()
        depth = len(indent) // 4 + (1 if "── " in line else 0)
        names, _, meaning = text.partition("  ")
        folders[depth:] = []
        for name in names.split():
            path = "".join(folders) + name
            said[path] = meaning.strip()
        if names.endswith("/"):
            folders.append(names.strip())
    return said


def test_every_file_is_in_the_tree_and_the_tree_has_no_other():
    drawn = {path for path in tree() if path.endswith(".py")}
    whole = {path for path in tree() if path.endswith("/")}
    pictured = {p for p in tracked() if not p.startswith("tests/") or p in drawn}
    assert pictured - drawn == set(), "files that the README's tree does not show"
    assert {p for p in drawn if not (ROOT / p).exists()} == set(), "files that the README's tree shows and that are not there"
    assert {p for p in whole if not (ROOT / p).is_dir()} == set()


@pytest.mark.parametrize("table", [settings_table, metrics_table])
def test_tables_are_what_the_code_says(table):
    missing = [row for row in table() if row not in README]
    assert not missing, "\n".join(["the README lacks these rows:", *table()])


def test_the_two_commands_are_there():
    first, second = "pip install uv && uv run tidecast demo --seconds 60", "uv run python -m tests"
    assert README.index(f"```console\n{first}\n```") < README.index(f"```console\n{second}\n```")


def test_the_lines_of_python_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        names: dict[str, object] = {}
        exec(compile(code, "README.md", "exec"), names)
        assert names


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
