"""The same flow on another Beam runner: its checkpoints keep the state, and what it publishes is published at least once.

A runner that restores a checkpoint does again what came after it; every record has an id, the same both times, so that a
consumer can drop the repeat. Exactly once is what the engine of one machine is for (pipeline.engine).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState

from pipeline import consume, operate, publish
from pipeline.decode import Decoder, shape_of
from pipeline.flow import flow
from pipeline.settings import Settings, kafka_options
from pipeline.stop import Stop

LOG = structlog.get_logger()
LOOK_SECONDS = 0.2
SUBMIT_SECONDS = 3.0  # after a stop: how long a job that is being submitted is waited for, so that it can be cancelled


def pipeline_of(settings: Settings, options: Mapping[str, Any], arguments: Sequence[str]) -> beam.Pipeline:
    """From our topics to our topics, on the runner that the arguments name."""
    starts = operate.look(settings, options)
    spec = operate.spec_of(settings, tuple(sorted(starts)), now=time.time())
    spec = spec._replace(apart=False, champion=operate.versions_of(settings))  # a shard lives for a bundle there
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming", *arguments]))
    raw = pipeline | consume.read(consume.Kafka(options, accept_loss=settings.commit.accept_loss), starts, lingers=True)
    messages = flow(raw, decode=Decoder(shape_of(settings, kafka=True)).decode, spec=spec)
    outlet = publish.PublishAtLeastOnce(options, application=settings.application, prefix=settings.output.prefix)
    _ = messages | "Publish" >> beam.ParDo(outlet)
    return pipeline


def run(settings: Settings, arguments: Sequence[str], *, stop: Stop) -> None:
    """Until the job ends or `stop` is set, which cancels it. Raises what the runner raises."""
    job: list[Any] = []
    failed: list[BaseException] = []

    def submit() -> None:
        try:
            job.append(pipeline_of(settings, kafka_options(settings), arguments).run())
            job[0].wait_until_finish()
        except BaseException as error:  # noqa: BLE001 - raised below, in the caller's thread
            failed.append(error)

    # Some runners run the job inside `run()`, for ever: only another thread can be told to stop
    runs = threading.Thread(target=submit, name="job", daemon=True)
    runs.start()
    LOG.info("on another runner: published at least once, repeats have the same id", arguments=list(arguments))
    try:
        while runs.is_alive() and not stop.wait(LOOK_SECONDS):
            pass
        deadline = time.monotonic() + SUBMIT_SECONDS
        while runs.is_alive() and not job and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)  # it is being submitted; a runner whose job runs inside `run()` dies with us
        if job and not PipelineState.is_terminal(job[0].state):
            job[0].cancel()
    finally:
        consume.close()
    if failed and not stop.is_set():
        raise failed[0]
