"""What a snapshot holds: a job between two bundles, as bytes and numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import StateServicer
from msgspec import structs

from pipeline.engine.errors import NotDurable
from pipeline.engine.graph import Graph
from pipeline.engine.stages import Residual, Stage


class StageImage(msgspec.Struct, array_like=True):
    """A stage between its bundles. Elements and timers are in their coders' bytes."""

    name: str
    arrived: int  # watermarks, us
    passed: int
    pending: list[tuple[str, list[bytes]]]  # input, chunks: what waits for a side input
    residuals: list[tuple[int, str, bytes]]  # watermark, input, element; all are due after a restart
    timers: list[tuple[str, str, bytes]]  # transform, family, timers


class Image(msgspec.Struct, array_like=True):
    """A job between two bundles."""

    pipeline: str  # fingerprint
    commits: int  # commits made before it was taken
    cells: list[tuple[bytes, bytes]]  # state key, content
    ordered: list[tuple[bytes, list[int]]]  # keys that ordered lists have
    stages: list[StageImage]
    groups: list[tuple[bytes, int]]  # buffer, watermark
    shared: list[bytes]  # side inputs given out
    collected: list[tuple[bytes, list[bytes]]]  # side inputs still gathering


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Image).decode


def take(graph: Graph, *, freeze: Callable[[bytes], Callable[[], bytes]], commits: int) -> Callable[[], bytes]:
    """The image of a graph at rest, as what gives its bytes. Nothing in it changes afterwards, so that another thread may call it.

    Raises NotDurable when a GroupByKey is open: its triggers' state has no coder.
    """
    for group in graph.groups.values():
        if group.keys:
            raise NotDurable(
                f"GroupByKey {group.name!r} holds {group.keys} open keys, and what triggers remember cannot be written to a snapshot; "
                "keep state in a stateful DoFn instead"
            )
    frozen = cells(graph.state, freeze)
    image = Image(
        pipeline=graph.pipeline,
        commits=commits,
        cells=[],
        ordered=[(key, list(at)) for key, at in graph.state._ordered_list_keys.items()],  # noqa: SLF001 - it offers no reading
        stages=[stage_image(stage) for stage in graph.stages],
        groups=[(buffer, group.watermark) for buffer, group in graph.groups.items()],
        shared=sorted(graph.shared),
        collected=[(buffer, list(chunks)) for buffer, chunks in graph.collected.items()],
    )
    return lambda: encode(structs.replace(image, cells=[(key, content()) for key, content in frozen]))


def put(image: Image, graph: Graph) -> None:
    """Bring a graph that has not run yet to where the image was taken."""
    for key, content in image.cells:
        graph.state._state[key] = [content]  # noqa: SLF001
    for key, at in image.ordered:
        graph.state._ordered_list_keys[key].update(at)  # noqa: SLF001
    for stage, saved in zip(graph.stages, image.stages, strict=True):
        stage.arrived, stage.passed = saved.arrived, saved.passed
        stage.pending = {transform: list(chunks) for transform, chunks in saved.pending}
        stage.residuals = [Residual(0.0, watermark, transform, element) for watermark, transform, element in saved.residuals]
        for transform, family, timers in saved.timers:
            stage.timers[transform, family].update([timers])
    for buffer, watermark in image.groups:
        graph.groups[buffer].watermark = watermark
    graph.shared = set(image.shared)
    graph.collected = {buffer: list(chunks) for buffer, chunks in image.collected}


def cells(state: StateServicer, freeze: Callable[[bytes], Callable[[], bytes]]) -> list[tuple[bytes, Callable[[], bytes]]]:
    """Every state cell that has something in it; user state goes through `freeze`."""
    found = []
    for key, chunks in state._state.items():  # noqa: SLF001
        content = b"".join(chunks)
        if content:
            user = beam_fn_api_pb2.StateKey.FromString(key).WhichOneof("type") == "bag_user_state"
            found.append((key, freeze(content) if user else partial(bytes, content)))
    return found


def stage_image(stage: Stage) -> StageImage:
    return StageImage(
        name=stage.name,
        arrived=stage.arrived,
        passed=stage.passed,
        pending=[(transform, list(chunks)) for transform, chunks in stage.pending.items()],
        residuals=[(residual.watermark, residual.transform, residual.element) for residual in stage.residuals],
        timers=[(*family, timers.snapshot()) for family, timers in stage.timers.items() if timers],
    )
