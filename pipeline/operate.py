"""Put the parts together and keep them going: live on brokers, over a file, or on another Beam runner."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError
from prometheus_client import CollectorRegistry

from models.apart import Gone
from models.snapshot import SnapshotDamaged
from pipeline import consume, engine, learn, metrics, publish, topics
from pipeline.configure import config_of
from pipeline.decode import Decoder, shape_of
from pipeline.events import NEVER, Decision, LedgerBroken, Rules
from pipeline.files import FORMATS
from pipeline.flow import flow
from pipeline.jars import BrokerError
from pipeline.learn import LiveShard, Spec
from pipeline.metrics import Metrics
from pipeline.quantities import instant
from pipeline.records import Source
from pipeline.settings import Settings, SettingsError, kafka_options
from pipeline.stop import Stop
from pipeline.summary import summary
from pipeline.taught import NotTaught

LOG = structlog.get_logger()

LOST = 78
FENCED = 70
WRONG_SETTINGS = 2
FAILED = 1


class BrokersAway(Exception):  # noqa: N818 - reads as what happened
    """Nobody answers where the brokers should be."""


# Errors that say themselves what to do, and the command's exit code for each; everything else is a bug. The first that fits counts.
NAMED: tuple[tuple[type[BaseException], int], ...] = (
    (publish.Fenced, FENCED),
    (publish.StillAlive, FENCED),
    (engine.StateLost, LOST),
    (consume.InputTrimmed, LOST),
    (consume.InputError, FAILED),
    (consume.FileUnreadable, FAILED),
    (publish.PublishError, FAILED),
    (topics.TopicsError, FAILED),
    (metrics.PortTaken, FAILED),
    (engine.EngineError, FAILED),
    (LedgerBroken, FAILED),
    (Gone, FAILED),
    (learn.OtherSettings, WRONG_SETTINGS),
    (NotTaught, WRONG_SETTINGS),
    (learn.OtherModel, LOST),
    (SnapshotDamaged, LOST),
    (BrokerError, FAILED),
    (BrokersAway, FAILED),
    (KafkaError, FAILED),
)

# After these the engine starts again in this process, from the last commit: the brokers were away, an answer was lost, or the
# process that learns has died.
AGAIN: tuple[type[BaseException], ...] = (publish.CommitLost, BrokersAway, Gone)
PATIENCE_SECONDS = 600.0  # without a single commit in between; then the process ends, and whoever supervises it decides


REMEDIES: Mapping[type[BaseException], str] = {
    consume.InputTrimmed: "start with --accept-loss to go on where the log begins; what is gone is counted",
}


def told(error: BaseException) -> str:
    """The error and what can be done, without what Beam adds to it."""
    text = str(error).partition(" [while running")[0]
    return "; ".join([text, *(remedy for kind, remedy in REMEDIES.items() if isinstance(error, kind))])


def log_to_stderr(level: str = "info") -> None:
    """Human lines on a terminal, JSON anywhere else."""
    human = sys.stderr.isatty()
    shared: list[Any] = [structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True)]
    structlog.configure(
        processors=[*shared, structlog.dev.ConsoleRenderer() if human else structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True)
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it tells of every reconnection; what matters, we say ourselves
    logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)  # it prints the trace of what it raises, too


def rules_of(settings: Settings, sources: int) -> Rules:
    window = settings.window
    return Rules(
        step=settings.series.step,
        grid=window.span if window.every is None else window.every,
        disorder=settings.time.disorder,
        learn_ahead=settings.learn.learn_ahead,
        idle_after=settings.time.idle_after / 1e6,
        max_hold=settings.time.max_hold / 1e6,
        max_skew=settings.input.max_skew,
        quota=math.ceil(1.1 * settings.series.max_series / max(sources, 1)),
        forget_after=settings.series.forget_after,
        aggregate=settings.series.aggregate if settings.series.samples == "many" else None,
        kind=window.kind,
        gap=window.gap or 0,
        max_span=window.max_span or 0,
        fill=settings.series.silent == "fill",
    )


def spec_of(settings: Settings, sources: tuple[Source, ...], *, now: float) -> Spec:
    """`now` (s) is the first start, for whoever asked to publish from there; a snapshot keeps it."""
    since = {"earliest": learn.EARLIEST, "first_start": int(now * 1e6)}
    publish_from = settings.forecast.publish_from
    return Spec(
        application=settings.application,
        rules=rules_of(settings, len(sources)),
        config=config_of(settings),
        sources=sources,
        layout=settings.output.layout,
        publish_from=since[publish_from] if isinstance(publish_from, str) else publish_from,
        rejected_max_bytes=settings.output.rejected_max_bytes,
        watched=settings.metrics.series,
        version=version("tidecast"),
        columns=settings.input.values,
        start_from=settings.learn.start_from,
        apart=(os.cpu_count() or 1) > 1,  # on one core they would only take turns
    )


class Seen(NamedTuple):
    """What a table or a pacer sees of a run in this process, now."""

    status: Mapping[str, Any]
    consumed: int
    lag: int
    commits: int
    latency_ms: Mapping[str, float | None]


PUBLISHER: publish.KafkaPublisher | None = None  # of the run in this process


def now_at() -> Seen:
    """How far the run in this process is; reads numbers only, so any thread may ask."""
    shard = next(iter(learn.LIVE.values()), None)
    consumed = sum(part.consumed for part in shard.gather.parts.values()) if shard is not None else 0
    publisher = PUBLISHER
    latency = publisher.latency_ms() if publisher is not None else {"p50": None, "p99": None}
    return Seen(dict(learn.STATUS), consumed, sum(consume.lag().values()), publisher.commits if publisher is not None else 0, latency)


def run(settings: Settings, *, stop: Stop, take_over: bool = False) -> dict[str, Any]:
    """The pipeline on the user's brokers until `stop` is set; returns the summary.

    Raises what NAMED lists. Broker trouble is waited out: the engine starts again from the last commit.
    """
    registry = CollectorRegistry()
    learn.METRICS = Metrics(registry)
    began = time.monotonic()
    with metrics.serve(registry, settings.metrics.address):
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            before = PUBLISHER.commits if PUBLISHER is not None else 0
            try:
                return live(settings, stop=stop, take_over=take_over, began=began)
            except AGAIN as error:
                if PUBLISHER is None and isinstance(error, BrokersAway):
                    raise  # there has been nobody from the start: more likely a wrong address than a restart
                take_over = True  # the instance that may still seem alive was this one
                if PUBLISHER is not None and PUBLISHER.commits > before:
                    patience = time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() > patience or stop.is_set():
                    raise
                LOG.warning("starting again from the last commit", because=str(error))
                stop.wait(1.0)


def look_less_for_garbage() -> None:
    """What has been loaded stays for good, and a block makes thousands of lists that live for milliseconds.

    To look through all of them again and again took a fifth of a burst's time (LOG 2026-11-26).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE, 20, 20)


GARBAGE = 50_000  # objects more than before, at which Python looks for cycles; a block of 1,000 records makes a few times less


def live(settings: Settings, *, stop: Stop, take_over: bool, began: float) -> dict[str, Any]:
    """One life of the engine, from the last commit to a stop or an error."""
    global PUBLISHER  # noqa: PLW0603 - one run a process; tables and pacers look here
    options, prefix, application = kafka_options(settings), settings.output.prefix, settings.application
    starts = look(settings, options)
    look_less_for_garbage()
    if not take_over:
        publish.refuse_if_alive(options, application=application, prefix=prefix)
    publisher = PUBLISHER = publish.PUBLISHER = publish.KafkaPublisher(
        options, application=application, prefix=prefix, metrics=learn.METRICS
    )
    shards = LiveShard(complain=_different)
    consume.GATE, consume.WAKE = shards.limit, engine.wake
    folder = Path(settings.commit.state) / application
    durability = engine.Durability(
        application=application,
        committer=publisher,
        live=shards,
        folder=folder,
        interval_s=settings.commit.interval / 1e6,
    )
    spec = spec_of(settings, tuple(sorted(starts)), now=time.time())
    heart = publish.Heart(options, application=application, prefix=prefix, instance=uuid.uuid4().hex)
    try:
        pipeline = beam.Pipeline(runner=engine.LocalRunner(durability), options=PipelineOptions(["--streaming"]))
        raw = pipeline | consume.read(consume.Kafka(options, accept_loss=settings.commit.accept_loss), starts)
        messages = flow(raw, decode=Decoder(shape_of(settings, kafka=True)).decode, spec=spec)
        _ = messages | "Publish" >> beam.ParDo(publish.Publish())
        result = pipeline.run()
        LOG.info("reading", topics=sorted({s.topic for s in starts}), partitions=len(starts), application=application)
        while result.state == PipelineState.RUNNING:
            if stop.wait(BEAT_SECONDS):
                result.stop()
                break
            heart.beat(status_now())
        result.wait_until_finish()
        return summed(publisher, began)
    finally:
        consume.close()
        shards.close()
        heart.close(status_now())
        publisher.close()
        consume.GATE = consume.WAKE = None


BEAT_SECONDS = 1.0


def look(settings: Settings, options: Mapping[str, Any]) -> dict[Source, int]:
    """Where reading begins, once all topics are as they must be. Raises BrokersAway; TopicsError; consume.InputError."""
    try:
        starts = consume.starts(options, settings.input.topics, settings.input.start, own=f"{settings.output.prefix}.")
        check_topics(settings)
    except (KafkaError, topics.TopicsError) as error:
        cause = error if isinstance(error, KafkaError) else error.__cause__
        if not isinstance(cause, RetriableError | KafkaTimeoutError):
            raise
        where = ", ".join(settings.kafka.bootstrap)
        raise BrokersAway(f"no broker answers at {where}: is kafka.bootstrap right, and does it run? ({cause})") from error
    return starts


def _different(text: str) -> None:
    LOG.warning(text, meaning="another CPU or library computes otherwise; the state is as valid, only the bytes are not the same")
    if learn.METRICS is not None:
        learn.METRICS.state_digest_mismatches.inc()


def status_now() -> dict[str, Any]:
    """What the heartbeat tells, and the gauges that are asked for rather than counted."""
    seen = now_at()
    lags = consume.lag()
    if learn.METRICS is not None:
        m = learn.METRICS
        for source, records in lags.items():
            m.consumer_lag_records.labels(topic=source.topic, partition=str(source.partition)).set(records)
        m.partitions_idle.set(seen.status.get("idle", 0))
        m.observations_held.set(seen.status.get("held", 0))
        m.active_series.set(seen.status.get("series", 0))
        watermark = seen.status.get("watermark")
        if watermark is not None:
            m.watermark_lag_seconds.set((seen.status["clock"] - watermark) / 1e6)
    return {**seen.status, "lag": seen.lag, "commits": seen.commits, "latency_ms": seen.latency_ms}


def summed(publisher: publish.KafkaPublisher, began: float) -> dict[str, Any]:
    shard = next(iter(learn.LIVE.values()), None)
    status = shard.status() if shard is not None else {}
    device = str(shard.learner.device) if shard is not None else "cpu"
    return summary(status, latency_ms=publisher.latency_ms(), seconds=time.monotonic() - began, device=device)


def check_topics(settings: Settings) -> None:
    """Raises TopicsError naming every topic of ours that is missing or cannot serve."""
    wrong = [d for d in topics.plan(kafka_options(settings), ours(settings)) if d.fatal]
    if wrong:
        raise topics.TopicsError("; ".join(f"{d.topic} {d.what}" for d in wrong) + ": run `tidecast topics apply` with these settings")


def ours(settings: Settings) -> list[topics.Wanted]:
    return topics.wanted(settings.output.prefix, settings.output.partitions)


def apply_topics(settings: Settings) -> list[str]:
    return topics.apply(kafka_options(settings), ours(settings), replication=settings.output.replication)


def plan_topics(settings: Settings) -> list[topics.Difference]:
    return topics.plan(kafka_options(settings), ours(settings))


def make_topic(settings: Settings, name: str, partitions: int) -> None:
    topics.apply(kafka_options(settings), [topics.Wanted(name, partitions, {"cleanup.policy": "delete"})], replication=-1)


def trouble(settings: Settings) -> list[str]:
    """What `check` finds wrong with brokers and topics, a line each."""
    found = []
    try:
        consume.starts(kafka_options(settings), settings.input.topics, settings.input.start, own=f"{settings.output.prefix}.")
    except (consume.InputError, KafkaError) as error:
        found.append(str(error))
    try:
        found += [f"{d.topic} {d.what}" for d in plan_topics(settings)]
    except topics.TopicsError as error:
        found.append(str(error))
    return found


def replay(
    settings: Settings,
    file: Path,
    *,
    out: str | None,
    as_is: bool,
    close: bool,
    wide_rows: bool,
    start: str | None,
    dump: bool,
    decisions: Path | None,
) -> dict[str, Any]:
    """The same flow over a file; returns the summary."""
    given = _file(settings, file, as_is=as_is, wide_rows=wide_rows, start=start, dump=dump)
    if decisions is not None and not dump:
        raise SettingsError("--decisions needs --dump: a decision names a partition and an offset, which other files do not have")
    shards = LiveShard()
    consume.GATE, consume.WAKE = shards.limit, engine.wake
    began = time.monotonic()
    look_less_for_garbage()
    try:
        there = consume.there(given)
        spec = spec_of(settings, tuple(sorted(there)), now=time.time())._replace(close_at_end=close)
        if dump:
            wakes = consume.decisions(str(decisions), settings.application, there) if decisions is not None else []
            ends = [Decision(source, positions.stop, NEVER) for source, positions in there.items()]
            spec = spec._replace(repeats=(*wakes, *ends))
        shape = shape_of(settings, kafka=dump)
        if wide_rows:
            shape = replace(shape, series=(), at="at", at_format="rfc3339", value="value", values=())  # as files.wide_rows writes them
        with closing(publish.FilePublisher(out)) as publish.PUBLISHER:
            pipeline = beam.Pipeline(runner=engine.LocalRunner(), options=PipelineOptions(["--streaming"]))
            raw = pipeline | consume.read(given, {source: positions.start for source, positions in there.items()})
            messages = flow(raw, decode=Decoder(shape).decode, spec=spec)
            _ = messages | "Publish" >> beam.ParDo(publish.Publish())
            pipeline.run().wait_until_finish()
    finally:
        consume.close()
        shards.close()
        consume.GATE = consume.WAKE = None
    shard = shards.shard()
    status = shard.status() if shard is not None else {}
    return summary(status, latency_ms={"p50": None, "p99": None}, seconds=time.monotonic() - began, device=device_of(shard))


def device_of(shard: learn.Shard | None) -> str:
    return str(shard.learner.device) if shard is not None else "cpu"


def _file(
    settings: Settings, file: Path, *, as_is: bool, wide_rows: bool, start: str | None, dump: bool
) -> consume.File | consume.WideRows | consume.Dump:
    if dump and (as_is or wide_rows or start is not None):
        raise SettingsError("--dump: a topic has an order and times of its own; allowed: to leave out --as-is, --wide-rows and --start")
    if dump:
        return consume.Dump(str(file))
    if wide_rows:
        if start is None:
            raise consume.FileUnreadable("--wide-rows needs --start, the time of the first column")
        return consume.WideRows(str(file), instant(start), settings.series.step)
    kind = FORMATS.get(Path(file.name.removesuffix(".gz")).suffix.lower())
    if kind is None:
        raise consume.FileUnreadable(f"{file}: what is it? allowed: {', '.join(FORMATS)}, also with .gz")
    order = tuple(settings.input.series) or (() if settings.input.values else ("series",))  # a wide row is all its series
    return consume.File(str(file), kind, tuple(settings.input.at.split(",")), settings.input.at_format, order, as_is)
