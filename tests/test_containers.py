"""The compose file and the Dockerfile, as far as that can be judged where no container runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.__main__ import app
from pipeline.settings import FIELDS, Settings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
BIN = Path(sys.executable).parent
OURS = [name for name, service in COMPOSE["services"].items() if service["image"] == "tidecast:local"]


def test_the_compose_file_is_one():
    given = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dockerfile_has_no_fault():
    given = [str(BIN / "hadolint"), "deploy/Dockerfile"]
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("service", OURS)
def test_a_service_of_ours_has_settings_and_a_verb_that_there_are(service):
    given = COMPOSE["services"][service]
    image = dict(re.findall(r"(TIDECAST_\w+)=(\S+)", DOCKERFILE))
    settings = Settings.read(None, {**image, **given["environment"]}, {})
    assert settings.metrics.address == "0.0.0.0:9464"
    assert settings.commit.state == "/state"
    assert {name for name, origin in settings.origins.items() if origin.startswith("environment")} <= set(FIELDS)
    assert CliRunner().invoke(app, [*given["command"], "--help"]).exit_code == 0


def test_what_is_mounted_is_there_and_what_is_named_is_declared():
    for name, service in COMPOSE["services"].items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in COMPOSE["volumes"] or (DEPLOY / source).exists(), (name, volume)
        for other in service.get("depends_on", []):
            assert other in COMPOSE["services"], (name, other)


def test_nothing_listens_but_on_this_machine():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_names_in_configurations_are_those_of_services():
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "compose.yml").read_text())
    targets = [
        t
        for job in (*prometheus["scrape_configs"], *prometheus["alerting"]["alertmanagers"])
        for s in job["static_configs"]
        for t in s["targets"]
    ]
    grafana = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml").read_text())
    targets += [source["url"].removeprefix("http://") for source in grafana["datasources"]]
    assert {target.split(":")[0] for target in targets} <= set(COMPOSE["services"])
    boards = yaml.safe_load((DEPLOY / "grafana" / "provisioning" / "dashboards" / "tidecast.yaml").read_text())
    assert [provider["options"]["path"] for provider in boards["providers"]] == ["/etc/boards"]
    assert "./grafana:/etc/boards:ro" in COMPOSE["services"]["grafana"]["volumes"]


def test_the_image_has_what_it_copies_and_the_copies_are_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source}" in ignored, source
