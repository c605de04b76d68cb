"""The verb: a file becomes a challenger; killed runs are gone on with; of two at once one does it."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import threading
import time
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import retraining
from prometheus_client.parser import text_string_to_metric_families

from pipeline.configure import parameters_of
from pipeline.registry import Because, Damaged, Registry

PRELOADED = ["retraining"]  # see `processes`


def registry(folder: Path) -> Registry:
    return Registry(str(folder / "models"), application="app", model="default", parameters=parameters_of)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    retraining.rows(folder)
    done = retraining.run(folder, "--textfile", str(folder / "retrain.prom"))
    assert done.exit_code == 0, done.stderr
    return folder, json.loads(done.stdout)


def test_a_file_becomes_a_challenger_that_tells_where_it_is_from(undisturbed: tuple[Path, dict[str, object]]) -> None:
    folder, said = undisturbed
    shelf = registry(folder)
    manifest, weights = shelf.whole(str(said["version"]))
    assert shelf.last().now.challenger == said["version"]
    assert shelf.last().by == "tidecast retrain"
    assert (manifest.data.observations, manifest.data.first, manifest.data.last) == (600, "2026-01-01T00:00:00Z", "2026-01-13T11:00:00Z")
    assert (manifest.data.sha256, manifest.data.file) == (said["sha256"], str(folder / "rows.csv"))
    assert manifest.metrics["loss"] == said["loss"]
    assert said["loss"] < said["loss_at_start"]
    assert (said["outcome"], said["steps"], said["parent"], said["resumed"]) == ("challenger", 18, None, False)
    moments = shelf.moments(manifest)
    assert moments is not None
    assert moments.shape == (2, len(weights))
    assert not (folder / "work").exists()


def test_moments_are_exported_checked_and_removed_with_their_version(undisturbed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    version = str(undisturbed[1]["version"])
    shutil.copytree(undisturbed[0] / "models", tmp_path / "models")
    shelf = registry(tmp_path)
    assert {path.name for path in shelf.export(version, tmp_path / "out")} == {"model.json", "weights.safetensors", "moments.safetensors"}
    file = tmp_path / "models/app/default/versions" / version / "moments.safetensors"
    data = file.read_bytes()
    for spoilt in (data[:-1], data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]):
        file.write_bytes(spoilt)
        with pytest.raises(Damaged, match=r"moments\.safetensors"):
            shelf.moments(shelf.manifest(version))
    file.unlink()
    with pytest.raises(Damaged, match="missing"):
        shelf.moments(shelf.manifest(version))
    file.write_bytes(data)
    for move in (tmp_path / "models/app/default/aliases").iterdir():
        move.unlink()
    assert shelf.gc(0, shelf.last(), Because("test", 0, ""), dry_run=False) == [version]
    assert not file.parent.exists()


def numbers(textfile: Path) -> dict[str, float]:
    samples = [s for family in text_string_to_metric_families(textfile.read_text()) for s in family.samples]
    assert all(s.labels == {"application": "app"} for s in samples)
    return {s.name.removeprefix("tidecast_retrain_"): s.value for s in samples}


def test_numbers_are_written_for_prometheus(undisturbed: tuple[Path, dict[str, object]]) -> None:
    folder, said = undisturbed
    values = numbers(folder / "retrain.prom")
    assert values["duration_seconds"] == said["seconds"]
    assert values["last_success_timestamp_seconds"] > 1.7e9
    assert values["failed_timestamp_seconds"] == 0


def test_of_a_run_that_fails_it_is_told_beside_what_succeeded_before(undisturbed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    textfile = tmp_path / "retrain.prom"
    shutil.copy(undisturbed[0] / "retrain.prom", textfile)
    before = numbers(textfile)
    retraining.rows(tmp_path, 8)  # too few
    assert retraining.run(tmp_path, "--textfile", str(textfile)).exit_code == 1
    after = numbers(textfile)
    assert after.pop("failed_timestamp_seconds") > before.pop("failed_timestamp_seconds") + 1.7e9
    assert after == before


class Gateway(http.server.BaseHTTPRequestHandler):
    """Keeps what is pushed; a push gateway is not to be had here."""

    pushed: ClassVar[list[tuple[str, str, str]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.pushed.append((self.command, self.path, body))
        self.send_response(200)
        self.end_headers()

    do_PUT = do_POST  # noqa: N815 - the server's name for it

    def log_message(self, *_: object) -> None:
        pass


def test_a_gateway_is_pushed_only_what_is_new(tmp_path: Path) -> None:
    """POST leaves what it does not name, so that a failure does not take away when the newest success was."""
    retraining.rows(tmp_path, 8)
    with http.server.HTTPServer(("127.0.0.1", 0), Gateway) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert retraining.run(tmp_path, "--pushgateway", f"127.0.0.1:{server.server_port}").exit_code == 1
    [(command, path, body)] = Gateway.pushed
    assert (command, path) == ("POST", "/metrics/job/tidecast_retrain/application/app")
    assert [line.split()[0] for line in body.splitlines() if not line.startswith("#")] == ["tidecast_retrain_failed_timestamp_seconds"]


def test_a_champion_is_gone_on_from_and_a_fresh_one_is_not(undisturbed: tuple[Path, dict[str, object]], tmp_path: Path) -> None:
    said = undisturbed[1]
    shutil.copytree(undisturbed[0] / "models", tmp_path / "models")
    retraining.rows(tmp_path)
    shelf = registry(tmp_path)
    shelf.promote(str(said["version"]), shelf.last(), Because("test", 0, ""))
    on = json.loads(retraining.run(tmp_path, "--set", "learn.seed=5").stdout)
    fresh = json.loads(retraining.run(tmp_path, "--set", "learn.seed=5", "--fresh").stdout)
    assert on["parent"] == said["version"]
    assert on["loss_at_start"] == pytest.approx(said["loss"], rel=0.3)
    assert [ancestor.version for ancestor in shelf.manifest(on["version"]).lineage] == [said["version"]]
    assert fresh["parent"] is None
    assert fresh["loss_at_start"] > on["loss_at_start"]


def test_killed_at_twenty_moments_it_ends_with_the_same_version(
    undisturbed: tuple[Path, dict[str, object]], tmp_path: Path, processes: ForkServerContext
) -> None:
    retraining.rows(tmp_path)
    rng = np.random.default_rng(3)
    for _ in range(20):
        victim = processes.Process(target=retraining.run_until, args=(tmp_path, int(rng.integers(2, 14))))
        victim.start()
        victim.join(120)
        assert victim.exitcode in (-signal.SIGKILL, 0)
        shelf = registry(tmp_path)
        for name, found in shelf.versions():
            assert not isinstance(found, Exception), found
            shelf.whole(name)
        challenger = shelf.last().now.challenger
        assert challenger is None or shelf.whole(challenger)
        if victim.exitcode == 0:
            break
    done = retraining.run(tmp_path)
    assert done.exit_code == 0, done.stderr
    assert registry(tmp_path).last().now.challenger == undisturbed[1]["version"]
    assert [name for name, _ in registry(tmp_path).versions()] == [undisturbed[1]["version"]]


def test_killed_at_each_moment_it_ends_with_the_same_version(
    undisturbed: tuple[Path, dict[str, object]], tmp_path: Path, processes: ForkServerContext
) -> None:
    moments = 0
    for nth in range(1, 80, 3):
        folder = tmp_path / str(nth)
        folder.mkdir()
        retraining.rows(folder)
        victim = processes.Process(target=retraining.run_until, args=(folder, nth))
        victim.start()
        victim.join(120)
        if victim.exitcode == 0:
            break
        assert victim.exitcode == -signal.SIGKILL
        moments += 1
        done = retraining.run(folder)
        assert done.exit_code == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["version"], said["loss"]) == (undisturbed[1]["version"], undisturbed[1]["loss"]), nth
        assert registry(folder).last().now.challenger == said["version"]
        assert len(registry(folder).versions()) == 1
    assert moments > 8


def test_of_two_at_once_one_does_it_and_the_other_says_so(
    undisturbed: tuple[Path, dict[str, object]], tmp_path: Path, processes: ForkServerContext
) -> None:
    retraining.rows(tmp_path)
    barrier = processes.Barrier(2)
    rivals = [processes.Process(target=retraining.run_at_once, args=(tmp_path, barrier)) for _ in range(2)]
    for rival in rivals:
        rival.start()
    for rival in rivals:
        rival.join(120)
    assert sorted(rival.exitcode or 0 for rival in rivals) == [0, 70]
    assert [name for name, _ in registry(tmp_path).versions()] == [undisturbed[1]["version"]]


def test_a_run_on_other_rows_or_words_does_not_go_on_from_what_another_left(tmp_path: Path, processes: ForkServerContext) -> None:
    retraining.rows(tmp_path)
    victim = processes.Process(target=retraining.run_until, args=(tmp_path, 9))
    victim.start()
    victim.join(120)
    assert victim.exitcode == -signal.SIGKILL
    done = retraining.run(tmp_path, "--set", "learn.seed=7")
    assert json.loads(done.stdout)["resumed"] is False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_leaves_what_it_has_to_the_next(tmp_path: Path, processes: ForkServerContext, number: signal.Signals) -> None:
    retraining.rows(tmp_path)
    victim = processes.Process(target=retraining.run_long, args=(tmp_path,))
    victim.start()
    until = time.monotonic() + 120
    while not (tmp_path / "work/training").exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(victim.pid or 0, number)
    victim.join(60)
    assert victim.exitcode == 130
    assert (tmp_path / "work/job.json").exists()
    assert registry(tmp_path).versions() == []
    with retraining.lease.Lease(retraining.store.opened(str(tmp_path / "models/app/default"))).held():
        pass  # it has given the lease back


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--set", "forecast.model=linear"), "forecast.model = linear: it has no networks to train"),
        (("--set", "learn.device=cuda:31"), "learn.device = cuda:31: PyTorch finds"),
        (("--every", "6h", "--cron", "0 3 * * *"), "--every and --cron: allowed: one of them"),
        (("--metrics", "127.0.0.1:0"), "--metrics: a run that ends serves nobody"),
        (("--cron", "never"), "--cron never"),
        (("--set", "input.at=when"), "no column when; there are series, at, value"),
    ],
)
def test_what_cannot_be_done_ends_with_2_and_says_why(tmp_path: Path, more: tuple[str, ...], said: str) -> None:
    retraining.rows(tmp_path)
    done = retraining.run(tmp_path, *more)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "models/app/default/versions").exists()


def test_too_little_ends_with_1(tmp_path: Path) -> None:
    retraining.rows(tmp_path, 8)
    done = retraining.run(tmp_path)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "8 steps of 2 series are too few to train on" in done.stderr


def test_a_folder_of_somebody_else_is_not_emptied(tmp_path: Path) -> None:
    retraining.rows(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work/thesis.tex").write_text("years of work")
    ended = retraining.run(tmp_path)
    assert ended.exit_code == 2
    assert "holds files that are no retraining's" in ended.stderr
    assert (tmp_path / "work/thesis.tex").read_text() == "years of work"
