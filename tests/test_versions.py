"""The verbs of the registry: one JSON object or a small table, and a code that says how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import shelves
from shelves import BEFORE, DATA, ME, registry
from typer.testing import CliRunner

from models.learner import Config, Learner
from pipeline.__main__ import DONE, FAILED, WRONG_USAGE, app
from pipeline.configure import parameters_of, shape_of
from pipeline.registry import Registry
from pipeline.versions import listing, move_text, moved

UNHEARD = "kafka.bootstrap is not set: no stream is told\n"


@pytest.fixture(autouse=True)
def _at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the default address of the registry is this test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOGNAME", "ann")


@pytest.fixture
def shelf() -> Registry:
    """Three versions, from one another; the last is challenger."""
    shelf = registry(".tidecast/models", of=parameters_of)
    parent = None
    for seed in range(3):
        learner = Learner(Config(season=24, hidden=16, horizon=4, members=1, seed=seed, replay=64))
        parent = shelf.publish(
            learner.descent.weights.numpy(),
            shape_of(learner.config),
            seed=seed,
            data=DATA,
            metrics={"skill_1": seed / 8},
            parent=parent,
            at=BEFORE + seed * 60_000_000,
        ).version
    shelf.nominate(parent, shelf.last(), ME)
    return shelf


def names(shelf: Registry) -> list[str]:
    """Versions, newest first."""
    return [name for name, _ in shelf.versions()]


def call(*words: str) -> Any:
    return CliRunner().invoke(app, ["models", *words])


def said(*words: str) -> Any:
    done = call(*words, "--json")
    assert done.exit_code == DONE, done.output
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def test_a_list_is_a_table_or_an_object(shelf: Registry) -> None:
    made = names(shelf)
    text = call("list").stdout.splitlines()
    assert text[0].split() == ["version", "name", "created", "parent", "network", "leads", "observations", "metrics"]
    assert text[1].split() == [made[0], "challenger", "2026-01-01", "00:02", made[1], "mixture", "4", "744", "skill_1", "0.25"]
    assert [line.split()[0] for line in text[1:]] == made
    assert len({line.index(" mixture ") for line in text[1:]}) == 1
    found = said("list")
    assert found["aliases"] == {"champion": None, "challenger": made[0], "previous": None}
    assert [(one["version"], one["aliases"], one["parent"]) for one in found["versions"]] == [
        (made[0], ["challenger"], made[1]), (made[1], [], made[2]), (made[2], [], None),
    ]  # fmt: skip


def test_an_empty_registry_says_so(tmp_path: Path) -> None:
    assert call("list").stdout == f"no versions of tidecast/default in {tmp_path}/.tidecast/models/tidecast/default\n"
    assert said("list")["versions"] == []
    assert call("gc", "--keep", "0").stdout == "nothing to remove\n"
    assert not (tmp_path / ".tidecast").exists()


def test_names_are_moved_and_moved_back_and_the_moves_are_kept(shelf: Registry) -> None:
    new, old, _ = names(shelf)
    move = said("promote", old)
    assert (move["generation"], move["kind"], move["by"], move["moved"]) == (2, "promote", "ann", True)
    done = call("promote", "challenger", "--reason", "a week\nof shadowing")
    assert done.stdout.endswith(
        f" promote by ann: a week\\nof shadowing (champion {old} -> {new}; challenger {new} -> nobody; previous nobody -> {old})\n{UNHEARD}"
    )
    assert call("promote", "champion").stdout == f"{new} is champion already\n{UNHEARD}"
    assert said("promote", "champion")["moved"] is False
    move = said("rollback", "--reason", "worse")
    assert (move["was"], move["now"]) == (
        {"champion": new, "challenger": None, "previous": old},
        {"champion": old, "challenger": None, "previous": None},
    )
    shown = said("show", new)
    assert [(one["kind"], one["reason"]) for one in shown["moves"]] == [
        ("nominate", "to try it"), ("promote", "a week\nof shadowing"), ("rollback", "worse"),
    ]  # fmt: skip
    assert said("list")["generation"] == 4


def test_what_is_known_of_a_version_is_shown(shelf: Registry) -> None:
    new, old, oldest = names(shelf)
    shown = said("show", "challenger")
    assert (shown["version"], shown["aliases"], shown["seed"]) == (new, ["challenger"], 2)
    assert [one["version"] for one in shown["lineage"]] == [old, oldest]
    text = call("show", new).stdout
    for part in (f"{new}  challenger", "meters/0 0 to 743", "hidden 16", ": checked", f"{old} <- {oldest}", "nominate by me: to try it"):
        assert part in text
    shelf.gc(1, shelf.last(), ME, dry_run=False)
    assert f"removed {', '.join(sorted([old, oldest]))}" in move_text(moved(shelf.last()))


def test_old_versions_go_when_told_and_not_when_asked(shelf: Registry) -> None:
    made = names(shelf)
    gone = sorted(made[1:])
    assert said("gc", "--keep", "1", "--dry-run") == {"removed": gone, "dry_run": True}
    assert call("gc", "--keep", "1", "--dry-run").stdout == "".join(f"would remove {one}\n" for one in gone)
    assert names(shelf) == made
    assert call("gc", "--keep", "1").stdout == "".join(f"removed {one}\n" for one in gone)
    assert names(shelf) == made[:1]


def test_a_version_is_written_out(shelf: Registry, tmp_path: Path) -> None:
    found = said("export", "challenger", "--out", "there/is")
    assert found == {"version": names(shelf)[0], "files": ["there/is/weights.safetensors", "there/is/model.json"]}
    assert json.loads((tmp_path / "there/is/model.json").read_text())["version"] == names(shelf)[0]
    refused = call("export", names(shelf)[1], "--out", "there/is")
    assert (refused.exit_code, "is another: name another folder" in refused.stderr) == (FAILED, True)


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["show", "champion"], FAILED, "there is no champion: `models list` shows which versions there are"),
        (["promote", "x" * 16], FAILED, "no version; allowed: champion, challenger, previous, or 16 hexadecimal digits"),
        (["promote", "0" * 16], FAILED, "has no version 0000000000000000"),
        (["rollback"], FAILED, "there is no previous champion to go back to"),
        (["promote", "champion", "--from", "soon"], WRONG_USAGE, "--from soon: not a time; allowed:"),
        (
            ["list", "--set", "registry.url=ftp://x"],
            WRONG_USAGE,
            "registry.url: ftp://x/tidecast/default: not a store that two can write to; allowed: a folder, memory, s3",
        ),
        (["list", "--set", "registry.address=x"], WRONG_USAGE, "registry.address (flag): no such setting"),
        (["gc"], WRONG_USAGE, "Missing option"),
        (["gc", "--keep", "-1"], WRONG_USAGE, "Invalid value"),
        (["export", "champion", "--onnx", "x"], WRONG_USAGE, "No such option"),
        (["show"], WRONG_USAGE, "Missing argument"),
    ],
)
def test_what_cannot_be_done_is_said_on_a_line_with_its_code(shelf: Registry, words: list[str], code: int, says: str) -> None:
    before = listing(shelf)
    done = call(*words)
    assert (done.exit_code, done.stdout) == (code, "")
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert listing(shelf) == before


def test_a_version_that_is_not_whole_is_refused_with_what_to_do(shelf: Registry, tmp_path: Path) -> None:
    new = names(shelf)[0]
    folder = tmp_path / ".tidecast/models/tidecast/default/versions" / new
    (folder / "weights.safetensors").unlink()
    for words in (["promote", "challenger"], ["show", new], ["export", new, "--out", "x"]):
        done = call(*words)
        assert done.exit_code == FAILED
        assert "is missing: bring back a copy, or remove its folder, train and publish it again" in done.stderr
    (folder / "model.json").write_text("{}")
    line = next(line for line in call("list").stdout.splitlines() if line.startswith(new))
    assert line.split("  ")[1:] == ["challenger", "cannot be read: models show says why"]
    assert "cannot be read" in said("list")["versions"][-1]["trouble"]


def test_settings_that_say_what_to_read_are_not_asked_for_and_do_not_disturb(tmp_path: Path) -> None:
    for text in ("", '[window]\nspan = "15min"\n', '[input]\ntopics = ["meters"]\n[series]\nstep = "1h"\n[registry]\nurl = "elsewhere"\n'):
        (tmp_path / "tidecast.toml").write_text(text)
        where = "elsewhere" if "elsewhere" in text else ".tidecast/models"
        assert said("list", "--set", "application=mine")["registry"] == f"{tmp_path}/{where}/mine/default"


def test_applications_do_not_see_each_other(shelf: Registry) -> None:
    assert said("list", "--set", "application=other")["versions"] == []
    other = Registry(".tidecast/models", application="other", model="default", parameters=shelves.parameters)
    shelves.published(other, 1)
    assert len(names(shelf)) == 3
