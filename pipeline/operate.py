"""Put the parts together and keep them going: live on brokers, over a file, or on another Beam runner."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import structlog
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.runner import PipelineState
from kafka import KafkaProducer
from kafka.errors import KafkaError, KafkaTimeoutError, RetriableError
from prometheus_client import CollectorRegistry, ProcessCollector

from models.apart import Gone
from models.snapshot import SnapshotDamaged
from pipeline import consume, engine, health, learn, metrics, pointers, publish, taught, topics, wire
from pipeline.configure import config_of, limits_of, rules_of, succession_of
from pipeline.decode import Decoder, shape_of
from pipeline.events import NEVER, Decision, LedgerBroken
from pipeline.files import FORMATS
from pipeline.flow import flow
from pipeline.history import NoHistory
from pipeline.jars import BrokerError
from pipeline.learn import LiveShard, Spec
from pipeline.lease import Held
from pipeline.metrics import Metrics
from pipeline.quantities import instant
from pipeline.records import Message, Pointer, Role, Source, encode, identity, rfc3339
from pipeline.scraper import NoPrometheus
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
    (Held, FENCED),
    (NoHistory, FAILED),
    (BrokerError, FAILED),
    (BrokersAway, FAILED),
    (NoPrometheus, FAILED),
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


def spec_of(settings: Settings, sources: tuple[Source, ...], *, now: float) -> Spec:
    """`now` (s) is the first start, for whoever asked to publish from there; a snapshot keeps it."""
    since = {"earliest": learn.EARLIEST, "first_start": int(now * 1e6)}
    publish_from, room = settings.forecast.publish_from, limits_of(settings).room
    return Spec(
        application=settings.application,
        rules=rules_of(settings, len(sources), room=room),
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
        succession=succession_of(settings, room=room),
        published=versions_of(settings),
    )


def versions_of(settings: Settings) -> taught.Published:
    """Where they are. A stream that has no state, and no file to start from, begins with the champion; a replay does not: it may tell
    of times that it has learnt.
    """
    return taught.Published(settings.registry.url, settings.application, moments=settings.registry.moments == "version")


class Seen(NamedTuple):
    """What a table or a pacer sees of a run in this process, now."""

    status: Mapping[str, Any]
    consumed: int
    lag: int
    commits: int
    latency_ms: Mapping[str, float | None]


PUBLISHER: publish.KafkaPublisher | None = None  # of the run in this process
SERVING = False  # its engine runs: it neither starts nor waits for brokers


def now_at() -> Seen:
    """How far the run in this process is; reads numbers only, so any thread may ask."""
    shard = next(iter(learn.LIVE.values()), None)
    consumed = sum(part.consumed for part in shard.gather.parts.values()) if shard is not None else 0
    publisher = PUBLISHER
    latency = publisher.latency_ms() if publisher is not None else {"p50": None, "p99": None}
    return Seen(dict(learn.STATUS), consumed, sum(consume.lag().values()), publisher.commits if publisher is not None else 0, latency)


def tell_limits(settings: Settings) -> None:
    """Where memory allows less than is asked for."""
    limits = limits_of(settings)
    if limits.room < settings.series.max_series:
        LOG.info("learn.state_budget has room for fewer series than series.max_series: further ones are rejected", room=limits.room)
    if limits.too_wide:
        LOG.info("input.values are too many for least squares of so many leads to see a whole record: each learns by itself")


def run(settings: Settings, *, stop: Stop, take_over: bool = False) -> dict[str, Any]:
    """The pipeline on the user's brokers until `stop` is set; returns the summary.

    Raises what NAMED lists. Broker trouble is waited out: the engine starts again from the last commit.
    """
    registry = CollectorRegistry()
    metrics.METRICS = Metrics(registry)
    metrics.METRICS.state_limit_bytes.set(settings.learn.state_budget)
    ProcessCollector(registry=registry)
    began = time.monotonic()
    guard = guard_of(settings)
    tell_limits(settings)
    with health.serve(registry, settings.metrics.address, lambda: health_of(settings), guard) as port:
        scheme = "http" if guard.certificate_file is None else "https"
        LOG.info("metrics", at=f"{scheme}://{settings.metrics.address.rpartition(':')[0]}:{port}/metrics")
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
    atexit.unregister(gc.unfreeze)  # one is enough, however often this process begins anew
    atexit.register(gc.unfreeze)  # what is frozen at the end is told of as leaked, line after line, by libraries that watch for it
    gc.set_threshold(GARBAGE, 20, 20)


GARBAGE = 50_000  # objects more than before, at which Python looks for cycles; a block of 1,000 records makes a few times less


def live(settings: Settings, *, stop: Stop, take_over: bool, began: float) -> dict[str, Any]:
    """One life of the engine, from the last commit to a stop or an error."""
    global PUBLISHER, SERVING  # noqa: PLW0603 - one run a process; tables, pacers and health look here
    options, prefix, application = kafka_options(settings), settings.output.prefix, settings.application
    starts = look(settings, options)
    look_less_for_garbage()
    if not take_over:
        publish.refuse_if_alive(options, application=application, prefix=prefix)
    publisher = PUBLISHER = publish.PUBLISHER = publish.KafkaPublisher(
        options, application=application, prefix=prefix, metrics=metrics.METRICS
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
    spec = spec_of(settings, tuple(sorted(starts)), now=time.time())._replace(champion=versions_of(settings))
    looking = threading.Event()
    looker = threading.Thread(target=look_at_rejected, args=(options, prefix, looking), name="rejected", daemon=True)
    follower = pointers.Follower(options, prefix=prefix, source=versions_of(settings), config=spec.config, offers=learn.OFFERS)
    following = threading.Thread(target=follower.run, args=(looking,), name="pointers", daemon=True)
    heart = publish.Heart(options, application=application, prefix=prefix, instance=uuid.uuid4().hex)
    try:
        pipeline = beam.Pipeline(runner=engine.LocalRunner(durability), options=PipelineOptions(["--streaming"]))
        raw = pipeline | consume.read(consume.Kafka(options, accept_loss=settings.commit.accept_loss), starts)
        messages = flow(raw, decode=Decoder(shape_of(settings, kafka=True)).decode, spec=spec)
        _ = messages | "Publish" >> beam.ParDo(publish.Publish())
        result = pipeline.run()
        SERVING = True
        looker.start()
        following.start()
        LOG.info("reading", topics=sorted({s.topic for s in starts}), partitions=len(starts), application=application)
        while result.state == PipelineState.RUNNING:
            if stop.wait(BEAT_SECONDS):
                result.stop()
                break
            heart.beat(status_now())
        result.wait_until_finish()
        return summed(publisher, began)
    finally:
        SERVING = False
        looking.set()
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


def look_at_rejected(options: Mapping[str, Any], prefix: str, over: threading.Event) -> None:
    """Now and then, in a thread of its own: how old the oldest rejected record is, which only the topic knows."""
    while not over.is_set():
        with suppress(publish.PublishError, KafkaError):  # nobody answers: what was known stays, and the commits tell of it
            since = publish.oldest(options, topics.topic(prefix, "rejected"))
            if metrics.METRICS is not None:
                metrics.METRICS.rejected_oldest_age_seconds.set(0.0 if since is None else max(time.time() - since, 0.0))
        over.wait(REJECTED_SECONDS)


REJECTED_SECONDS = 60.0


def guard_of(settings: Settings) -> health.Guard:
    given = settings.metrics
    password = given.password.get_secret_value() if given.password is not None else None
    return health.Guard(password, given.tls_certificate_file, given.tls_key_file)


def health_of(settings: Settings) -> health.Health:
    """Whether the run in this process serves what it should: its shard is there, at the last commit or past it, and has caught up."""
    shard = next(iter(learn.LIVE.values()), None)
    lag, limit, missing = sum(consume.lag().values()), settings.metrics.ready_lag, []
    if not SERVING:
        missing.append("the engine does not run: it starts, or waits for the brokers")
    if shard is None:
        missing.append("no model is loaded: nothing has been read yet")
    elif shard.gather.repeating:
        missing.append("recovering: what was published after the last snapshot is repeated")
    if lag > limit:
        missing.append(f"{lag:,} records behind, allowed: {limit:,} (metrics.ready_lag)")
    model = None if shard is None else shard.learner.version
    return health.Health(settings.application, version("tidecast"), model, lag, missing)


def _different(text: str) -> None:
    LOG.warning(text, meaning="another CPU or library computes otherwise; the state is as valid, only the bytes are not the same")
    if metrics.METRICS is not None:
        metrics.METRICS.state_digest_mismatches.inc()


def status_now() -> dict[str, Any]:
    """What the heartbeat tells, and the gauges that are asked for rather than counted."""
    seen = now_at()
    lags = consume.lag()
    if metrics.METRICS is not None:
        m = metrics.METRICS
        for source, records in lags.items():
            m.consumer_lag_records.labels(topic=source.topic, partition=str(source.partition)).set(records)
        m.partitions_idle.set(seen.status.get("idle", 0))
        m.observations_held.set(seen.status.get("held", 0))
        m.active_series.set(seen.status.get("series", 0))
        watermark = seen.status.get("watermark")
        if watermark is not None:
            m.watermark_lag_seconds.set((seen.status["clock"] - watermark) / 1e6)
        shard = next(iter(learn.LIVE.values()), None)
        if shard is not None:
            health.tell_model(m, shard.voice.model, shard.learner.version)
            m.model_age_seconds.set(max(time.time() - shard.changed, 0.0))
            m.device_memory_bytes.labels(device=str(shard.learner.device)).set(learn.memory_of(shard.learner.device))
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


def announce(settings: Settings, *, role: Role, version: str, effective_from: int, by: str, reason: str) -> None:
    """A pointer to a version, for whoever follows the models topic. Raises KafkaError, TopicsError where there is no such topic."""
    missing = [d for d in topics.plan(kafka_options(settings), [w for w in ours(settings) if w.name.endswith(".models.v1")]) if d.fatal]
    if missing:
        raise topics.TopicsError(f"{missing[0].topic} {missing[0].what}: run `tidecast topics apply` with these settings")
    application = settings.application
    pointer = Pointer(application, "default", role, version, rfc3339(effective_from), by, reason)
    name = identity("models", application, "default", role, version, effective_from)
    message = Message("models", f"{application}/default/{role}".encode(), encode(pointer), name, effective_from)
    producer = KafkaProducer(**kafka_options(settings), **publish.PLAIN)
    try:
        sent = producer.send(
            topics.topic(settings.output.prefix, "models"),
            key=message.key,
            value=message.value,
            headers=wire.headers(message, application),
        )
        sent.get(timeout=publish.COMMIT_SECONDS)
    finally:
        producer.close(timeout=publish.ABORT_SECONDS)


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
    tell_limits(settings)
    look_less_for_garbage()
    try:
        there = consume.there(given)
        spec = spec_of(settings, tuple(sorted(there)), now=time.time())._replace(close_at_end=close)
        if dump:
            wakes, plans = consume.decisions(str(decisions), settings.application, there) if decisions is not None else ([], [])
            ends = [Decision(source, positions.stop, NEVER) for source, positions in there.items()]
            spec = spec._replace(repeats=(*wakes, *ends), plans=tuple(plans))
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
