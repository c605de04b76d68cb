"""Grafana's boards: the files are what the code writes, and every panel asks for what there is, in a unit, with advice."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

import pytest
from queries import unknown

FOLDER = Path(__file__).parents[1] / "deploy" / "grafana"
CODE = runpy.run_path(str(FOLDER / "build.py"))
BOARDS = {board.uid: board for board in CODE["BOARDS"]}
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
PANELS = [(uid, panel) for uid, board in FILES.items() for panel in board["panels"]]


def test_the_files_are_what_the_code_writes():
    assert set(FILES) == set(BOARDS)
    for uid, board in BOARDS.items():
        assert (FOLDER / f"{uid}.json").read_text() == CODE["rendered"](board), "run: uv run python deploy/grafana/build.py"


@pytest.mark.parametrize(("uid", "panel"), PANELS, ids=[f"{uid}: {panel['title']}" for uid, panel in PANELS])
def test_a_panel_has_a_unit_thresholds_advice_and_queries_for_what_there_is(uid, panel):
    given = panel["fieldConfig"]["defaults"]
    assert given["unit"]
    assert len(given["thresholds"]["steps"]) > 1
    assert len(panel["description"]) > 30
    assert panel["targets"]
    for target in panel["targets"]:
        assert unknown(target["expr"]) == set()
        assert 'application=~"$application"' in target["expr"]
        assert target["legendFormat"]


def test_variables_list_labels_of_metrics_that_exist():
    for uid, board in FILES.items():
        listed = {v["name"]: v["query"] for v in board["templating"]["list"]}
        assert {"datasource", "application"} <= set(listed)
        assert unknown(" ".join(listed.values())) == set()
        used = set(re.findall(r"\$(\w+)", json.dumps(board["panels"]))) - {"__rate_interval"}
        assert used == set(listed), uid


def test_lines_are_a_few():
    """Nothing is drawn by series but the few that the settings name, and a histogram only by its quantiles."""
    for _, panel in PANELS:
        for target in panel["targets"]:
            expression = target["expr"]
            if "series" in re.sub(r"tidecast_\w+", "", expression):
                assert re.match(r"tidecast_(observed_value|forecast_made_earlier|forecast_value)\{", expression)
            if "_bucket" in expression:
                assert expression.startswith("histogram_quantile(")


def test_no_board_says_the_same_twice():
    for board in FILES.values():
        titles = [panel["title"] for panel in board["panels"]]
        assert len(titles) == len(set(titles))
