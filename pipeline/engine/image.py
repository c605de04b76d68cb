"""What a snapshot holds: a job between two bundles, as bytes and numbers.

On disk: the length of the image (8 bytes, little-endian), the image, and behind it the parts of the state that lives beside the cells,
one after the other, as the image lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.worker_handlers import StateServicer
from msgspec import structs

from pipeline.engine.errors import NotDurable
from pipeline.engine.graph import Graph
from pipeline.engine.protocols import Parts
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
    live: list[tuple[bytes, list[tuple[str, int]]]]  # state key; name and length of each part of what the cell stands for
    ordered: list[tuple[bytes, list[int]]]  # keys that ordered lists have
    stages: list[StageImage]
    groups: list[tuple[bytes, int]]  # buffer, watermark
    shared: list[bytes]  # side inputs given out
    collected: list[tuple[bytes, list[bytes]]]  # side inputs still gathering


HEAD = 8

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Image).decode


def decode(body: memoryview) -> tuple[Image, list[tuple[bytes, Parts]]]:
    """An image, and of each cell whose state lives beside it the key and the parts, which are views of `body`."""
    at = HEAD + int.from_bytes(body[:HEAD], "little")
    image = _decode(body[HEAD:at])
    live: list[tuple[bytes, Parts]] = []
    for key, parts in image.live:
        views: dict[str, bytes | memoryview] = {}
        for name, length in parts:
            views[name] = body[at : at + length]
            at += length
        live.append((key, views))
    return image, live


def take(
    graph: Graph, *, freeze: Callable[[bytes], Callable[[], Parts] | None], commits: int
) -> Callable[[], Iterator[bytes | memoryview]]:
    """The image of a graph at rest, as what gives its bytes in pieces. Nothing in it changes afterwards: another thread may call it.

    Raises NotDurable when a GroupByKey is open: its triggers' state has no coder.
    """
    for group in graph.groups.values():
        if group.keys:
            raise NotDurable(
                f"GroupByKey {group.name!r} holds {group.keys} open keys, and what triggers remember cannot be written to a snapshot; "
                "keep state in a stateful DoFn instead"
            )
    plain, frozen = cells(graph.state, freeze)
    image = Image(
        pipeline=graph.pipeline,
        commits=commits,
        cells=plain,
        live=[],
        ordered=[(key, list(at)) for key, at in graph.state._ordered_list_keys.items()],  # noqa: SLF001 - it offers no reading
        stages=[stage_image(stage) for stage in graph.stages],
        groups=[(buffer, group.watermark) for buffer, group in graph.groups.items()],
        shared=sorted(graph.shared),
        collected=[(buffer, list(chunks)) for buffer, chunks in graph.collected.items()],
    )
    return lambda: pieces(image, [(key, parts()) for key, parts in frozen])


def pieces(image: Image, live: list[tuple[bytes, Parts]]) -> Iterator[bytes | memoryview]:
    """The inverse of `decode`."""
    head = _encode(
        structs.replace(image, live=[(key, [(name, memoryview(part).nbytes) for name, part in parts.items()]) for key, parts in live])
    )
    yield len(head).to_bytes(HEAD, "little")
    yield head
    for _, parts in live:
        yield from parts.values()


def put(image: Image, live: list[tuple[bytes, Parts]], graph: Graph, *, thaw: Callable[[Parts], bytes]) -> None:
    """Bring a graph that has not run yet to where the image was taken."""
    for key, content in [*image.cells, *((key, thaw(parts)) for key, parts in live)]:
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


def cells(
    state: StateServicer, freeze: Callable[[bytes], Callable[[], Parts] | None]
) -> tuple[list[tuple[bytes, bytes]], list[tuple[bytes, Callable[[], Parts]]]]:
    """Every state cell that has something in it: as it is, and of user state that `freeze` knows more of, what gives it."""
    plain, frozen = [], []
    for key, chunks in state._state.items():  # noqa: SLF001
        content = b"".join(chunks)
        if content:
            user = beam_fn_api_pb2.StateKey.FromString(key).WhichOneof("type") == "bag_user_state"
            if user and (parts := freeze(content)) is not None:
                frozen.append((key, parts))
            else:
                plain.append((key, content))
    return plain, frozen


def stage_image(stage: Stage) -> StageImage:
    return StageImage(
        name=stage.name,
        arrived=stage.arrived,
        passed=stage.passed,
        pending=[(transform, list(chunks)) for transform, chunks in stage.pending.items()],
        residuals=[(residual.watermark, residual.transform, residual.element) for residual in stage.residuals],
        timers=[(*family, timers.snapshot()) for family, timers in stage.timers.items() if timers],
    )
