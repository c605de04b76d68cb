"""A version of a model for others: its networks as an ONNX file, and in a JSON file what goes in and comes out."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch

from models.onnx import NoNetworks, graph, layout
from pipeline.configure import learner_of
from pipeline.registry import Registry, RegistryError, placed

FORMAT = 1
GRAPH, LAYOUT = "networks.onnx", "networks.json"
NEEDED = ("onnx", "onnxscript")  # by torch's exporter; not of the installation, since nobody else does


class NotExportable(RegistryError):  # noqa: N818 - named for what is the matter
    """The version cannot be written in this format, or not on this machine."""


def export_onnx(registry: Registry, version: str, folder: Path) -> list[Path]:
    """Write a version's networks, checked, into a folder on this machine. Raises NotExportable, and what `Registry.export` does."""
    lacking = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if lacking:
        raise NotExportable(
            f"--format onnx needs {' and '.join(lacking)}, not installed here: pip install 'tidecast[export]', or {NEEDED[1]}"
        )
    manifest, flat = registry.whole(version)
    learner = learner_of(manifest.shape)
    said = {
        "format": FORMAT,
        "version": version,
        "application": manifest.application,
        "model": manifest.model,
        "created_at": manifest.created_at,
        "settings": msgspec.to_builtins(manifest.shape),
        **layout(learner),
    }
    told = {name: text if isinstance(text, str) else json.dumps(text) for name, text in said.items()}
    try:
        with quiet():
            made = graph(learner, torch.from_numpy(flat), told)
    except NoNetworks as error:
        raise NotExportable(f"version {version} cannot be written as ONNX: {error}; --format safetensors writes what there is") from error
    return placed(folder, {GRAPH: made, LAYOUT: json.dumps(said, indent=1).encode()})


@contextmanager
def quiet() -> Iterator[None]:
    """Without what torch's exporter warns of at every start: packages that it could do more with, for others."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)
