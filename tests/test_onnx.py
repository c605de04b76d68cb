"""What is exported says what we say: the graph beside our networks, and a forecast without our code beside the learner's."""

import ast
import csv
import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import serve_onnx
import torch
from shelves import BEFORE, DATA, registry
from typer.testing import CliRunner

from models import covariates, inputs
from models.baselines import errors
from models.carry import HIDDEN, kept
from models.learner import START, Cells, Config, Learner
from models.onnx import OPSET, features, graph, sizes
from pipeline.__main__ import DONE, FAILED, WRONG_USAGE, app
from pipeline.configure import parameters_of, shape_of
from pipeline.portable import GRAPH, LAYOUT

HERE = Path(__file__).parent
TAUGHT, SERVED = 300, 40  # steps
FIRST = 407_592  # the first cell: hours until 2016-07-01
HOUR = 3_600_000_000


def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def close(found, wanted):
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        Config(model="lstm", season=24, horizon=24),
        Config(model="gru", season=24, horizon=4, hidden=16),
        Config(model="elman", horizon=4, hidden=16),
        Config(model="jordan", season=7, step_us=24 * HOUR, horizon=9, hidden=32, levels=(0.25, 0.75)),
        Config(model="mixture", members=3, season=24, horizon=4, hidden=16, covariates=("load", "wind"), ahead=("wind",)),
        Config(model="nets", members=3, season=24, further_seasons=(60, 168), horizon=4, hidden=16, covariates=("wind",), ahead=("wind",)),
    ],
    ids=["lstm", "gru", "elman", "jordan", "mixture with covariates", "covariates and several seasons"],
)
def test_a_graph_says_what_the_networks_say_while_each_feeds_its_own_carry_back(config):
    learner = Learner(config)
    ours = learner.descent.flat.network
    torch.manual_seed(0)
    weights = torch.randn_like(learner.descent.weights) * 0.3
    theirs = session(graph(learner, weights, {}))
    learner.descent.flat.read(weights)
    shapes = sizes(learner)["inputs"]
    for rows in (1, 5):
        carry = torch.zeros(rows, *shapes["carry"])
        carried = carry.numpy()
        for _ in range(12):
            x, blend, paths = (torch.randn(rows, *shapes[name]) for name in ("features", "blend", "paths"))
            with torch.no_grad():
                outputs, carry = ours(x[:, None], carry)
                said = ours.say([one[:, 0] for one in outputs], x, blend, paths)
            wanted = [torch.stack(each, 1).numpy() for each in zip(*said, strict=True)]
            given = {"features": x.numpy(), "carry": carried, "blend": blend.numpy(), "paths": paths.numpy()}
            *found, carried = theirs.run(None, given)
            for one, other in zip([*found, carried], [*wanted, carry.numpy()], strict=True):
                close(one, other)
    assert np.abs(carried).max() > 0.1


@pytest.fixture(scope="module")
def history():
    """ETTh2 (T, 7)."""
    with gzip.open(HERE / "data/ETTh2.csv.gz", "rt") as file:
        rows = list(csv.reader(file))
    return np.array([[float(x) for x in row[1:]] for row in rows[1 : TAUGHT + SERVED + 1]])


def taught(history, config):
    """A learner that has seen the first part, its generation, and the keys of its series."""
    learner, slots = Learner(config), np.arange(history.shape[1])
    keys = (slots + 1).astype(np.uint64)
    for slot, key in zip(slots.tolist(), keys.tolist(), strict=True):
        learner.admit(slot, key)
    behind = START
    for k, row in enumerate(history[:TAUGHT]):
        cells = Cells(slots, keys, np.full(len(slots), FIRST + k), row)
        learner.arrive(cells, generation=behind, woken=np.zeros(len(slots), bool))
        learner.close(cells, instant=k, drop=[behind])
        behind = k
    return learner, behind, keys


@pytest.fixture(scope="module")
def exported(history, tmp_path_factory):
    """A taught learner, its generation, keys, and the folder that its version has been exported to."""
    folder = tmp_path_factory.mktemp("exported")
    learner, behind, keys = taught(
        history, Config(season=24, further_seasons=(168, 48), horizon=24, hidden=32, members=3, replay=256, device="cpu")
    )
    version = publish(folder, learner)
    done = export(folder, version, folder / "out")
    assert done.exit_code == DONE, done.output
    written = [str(folder / "out" / name) for name in (GRAPH, LAYOUT)]
    assert json.loads(done.stdout) == {"version": version, "files": written}
    return learner, behind, keys, folder / "out"


def publish(folder, learner):
    """What serves now, as a version."""
    shelf = registry(folder / "models", of=parameters_of)
    weights, shape = learner.descent.average.numpy(), shape_of(learner.config)
    return shelf.publish(weights, shape, seed=0, data=DATA, metrics={}, parent=None, at=BEFORE).version


def export(folder, version, out, *words):
    set_ = f"registry.url={folder / 'models'}"
    return CliRunner().invoke(app, ["models", "export", version, "--format", "onnx", "--out", str(out), "--set", set_, "--json", *words])


def test_the_example_forecasts_what_the_learner_forecasts(exported, history, monkeypatch):
    learner, behind, keys, folder = exported
    model, m, slots = serve_onnx.Model(folder), learner.memory, np.arange(len(keys))
    of = slots.tolist()

    def carries(s):
        carry, carried = kept(m, "carry", np.full(inputs.LAGS, s), np.arange(inputs.LAGS))
        return {p: (int(carried[p]), carry[p]) for p in range(inputs.LAGS)}

    fed_back, ran, run = [serve_onnx.Series(model, carries(s)) for s in of], [], learner._run
    monkeypatch.setattr(learner, "_run", lambda *given: ran.append(run(*given)) or ran[-1])
    past = history.copy()
    past[TAUGHT:][np.random.default_rng(0).random((SERVED, len(of))) < 0.1] = np.nan
    for k in range(TAUGHT, len(past)):
        stepped = [serve_onnx.Series(model, carries(s)) for s in of]
        cells = Cells(slots, keys, np.full(len(slots), FIRST + k), past[k])
        step = learner.arrive(cells, generation=behind, woken=np.zeros(len(slots), bool))
        points, _, quantiles, _ = ran[-1]
        for s in of:
            rows = learner.learnt[s]
            habits = serve_onnx.Habits(step.size[s], rows["naive"].astype(float), rows["lasting"][learner.group].astype(float))
            unit = step.size[s] * inputs.units(habits.naive[None])[0] * habits.lasting
            read = past[k - model.reach : k + 1, s]
            said = stepped[s].step(read, FIRST + k, habits)
            close((said.points - step.level[s]) / unit, points[s])
            close((said.quantiles - step.level[s]) / unit, quantiles[s])
            close((said.points - step.level[s]) / unit, [(step.said(n)[s] - step.level[s]) / unit for n in range(learner.members)])
            # Carries are kept rounded: a last bit that is another one grows, but not by much
            said = fed_back[s].step(read, FIRST + k, habits)
            np.testing.assert_allclose((said.points - step.level[s]) / unit, points[s], atol=1e-3)
            theirs, ours = fed_back[s].carries, carries(s)
            assert {p: cell for p, (cell, _) in theirs.items()} == {p: ours[p][0] for p in theirs}
            for p, (_, carry) in theirs.items():
                np.testing.assert_allclose(carry[1::2], ours[p][1][1::2], atol=4e-3)
                np.testing.assert_allclose(carry[::2], ours[p][1][::2], atol=1.1 / HIDDEN)
    assert len(ran) == SERVED


def test_the_example_forecasts_from_a_file_and_needs_nothing_of_ours(exported, history, tmp_path):
    learner, *_, folder = exported
    used = {a.name for n in ast.walk(ast.parse(Path(serve_onnx.__file__).read_text())) if isinstance(n, ast.Import) for a in n.names}
    used |= {n.module for n in ast.walk(ast.parse(Path(serve_onnx.__file__).read_text())) if isinstance(n, ast.ImportFrom)}
    assert {name.split(".")[0] for name in used} <= {*sys.stdlib_module_names, "numpy", "onnxruntime"}
    with gzip.open(HERE / "data/ETTh2.csv.gz", "rt") as file:
        (tmp_path / "history.csv").write_text("".join(list(file)[: TAUGHT + 1]))
    words = [str(folder), str(tmp_path / "history.csv"), "--time", "date", "--value", "OT"]
    done = subprocess.run([sys.executable, serve_onnx.__file__, *words], cwd=tmp_path, capture_output=True, text=True, check=True)
    said = json.loads(done.stdout)
    assert said["version"] == json.loads((folder / LAYOUT).read_text())["version"]
    quantiles = np.array([*said["quantiles"].values()])
    assert (quantiles.shape, np.shape(said["point"])) == ((7, 24), (24,))
    assert (np.diff(quantiles, axis=0) >= 0).all()
    # A learner with the same weights that knows what the example knows: as float16, hence near
    values, ours = history[:TAUGHT, -1], Learner(learner.config)
    habits = serve_onnx.Model(folder).habits(values)
    ours.admit(0, 1)
    ours.adopt(learner.descent.average, learner.descent.moments, learner.descent.steps)
    ours.learnt["scale"][0], ours.learnt["naive"][0] = habits.size, habits.naive
    ring = np.concatenate([np.full(ours.form.reach, np.nan), values])
    off = errors(ring[None], np.zeros(TAUGHT, int), np.arange(ours.form.reach, len(ring)), ours.form)
    np.testing.assert_allclose(habits.naive * habits.size, np.nanmean(np.abs(off), 0))
    for k, value in enumerate(values):
        cells = Cells(np.zeros(1, int), np.ones(1, np.uint64), np.array([FIRST + k]), np.array([value]))
        step = ours.arrive(cells, generation=START, woken=np.zeros(1, bool))
    unit = habits.size * inputs.units(habits.naive[None])[0]
    np.testing.assert_allclose((said["point"] - np.mean([step.said(n)[0] for n in range(ours.members)], 0)) / unit, 0, atol=5e-3)
    assert np.abs((said["point"] - values[-1]) / unit).mean() > 0.3


def test_files_say_which_version_they_are_of_and_how_it_is_fed(exported):
    learner, *_, folder = exported
    file, told = onnx.load(folder / GRAPH), json.loads((folder / LAYOUT).read_text())
    onnx.checker.check_model(file, full_check=True)
    assert [(one.domain, one.version) for one in file.opset_import] == [("", OPSET)]
    for kind, values in (("inputs", file.graph.input), ("outputs", file.graph.output)):
        shapes = {v.name: [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
        assert shapes == {name: one["shape"] for name, one in told[kind].items()}
        assert [*shapes] == [*told[kind]]
    beside = {one.key: one.value for one in file.metadata_props}
    assert {
        name: json.loads(text) if name not in ("version", "application", "model", "created_at") else text for name, text in beside.items()
    } == told
    assert told["settings"]["hidden"] == 32
    assert len({feature["name"] for feature in told["features"]}) == len(told["features"]) == learner.form.features
    assert str(HERE.parent) not in file.SerializeToString().decode("latin-1"), "notes of where the code lay"


@pytest.mark.parametrize("season", [None, 24])
def test_features_of_covariates_have_the_names_of_what_they_show(season):
    plan = covariates.planned(("load", "wind"), ("wind",), 24)
    form = inputs.shape(24, season, HOUR, known=plan)
    names = [name for name, _ in features(form, ("load", "wind"))]
    assert len(set(names)) == len(names) == form.features
    outlook = covariates.unknown(plan, 1)
    parts = {"load: stands": covariates.STANDS, "load: change_3": covariates.NOW + 3, "wind: reaction": plan.each + covariates.REACTION}
    parts |= {"load: known": covariates.NOW, "wind: course_8": 2 * plan.each + 7}
    for at in parts.values():
        outlook[0, at] = 0.25 + at
    found = dict(zip(names[form._told :], np.concatenate(covariates.features(plan, outlook), 1)[0], strict=False))
    for name, at in parts.items():
        assert found[name] == pytest.approx(1.0 if name == "load: known" else 0.25 + at, rel=1e-3)
    assert found["wind: course_known_8"] == 1
    assert found["wind: course_known_4"] == found["wind: known"] == 0
    assert found["load: known_share"] == pytest.approx(2 / 13)


def test_the_same_version_is_written_again_as_it_is_and_no_other_over_it(tmp_path):
    version, other = (
        publish(tmp_path, Learner(Config(model="elman", hidden=16, horizon=4, replay=64, seed=n, device="cpu"))) for n in (0, 1)
    )
    out = tmp_path / "out"
    assert export(tmp_path, version, out).exit_code == DONE
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert export(tmp_path, version, out).exit_code == DONE
    refused = export(tmp_path, other, out)
    assert (refused.exit_code, f"{out / GRAPH} is there, and is another: name another folder" in refused.stderr) == (FAILED, True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("model", ["linear", "mixture-without-nets", "seasonal_naive", "last_value"])
def test_a_model_without_taught_networks_is_refused(model, tmp_path):
    version = publish(tmp_path, Learner(Config(model=model, season=24, hidden=16, horizon=4, replay=64, device="cpu")))
    refused = export(tmp_path, version, tmp_path / "out")
    said = f"version {version} cannot be written as ONNX: its model is {model}, whose networks nobody teaches"
    assert (refused.exit_code, refused.stdout, said in refused.stderr) == (FAILED, "", True)
    assert not (tmp_path / "out").exists()


def test_what_is_not_installed_is_named(tmp_path, monkeypatch):
    version = publish(tmp_path, Learner(Config(model="lstm", season=24, hidden=16, horizon=4, replay=64, device="cpu")))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    refused = export(tmp_path, version, tmp_path / "out")
    assert (refused.exit_code, refused.stdout) == (FAILED, "")
    assert refused.stderr == "tidecast: --format onnx needs onnxscript, not installed here: pip install 'tidecast[export]', or onnxscript\n"


def test_another_format_is_wrong_usage(tmp_path):
    refused = export(tmp_path, "champion", tmp_path / "out", "--format", "tensorrt")
    assert (refused.exit_code, "'safetensors', 'onnx'" in refused.stderr) == (WRONG_USAGE, True)
