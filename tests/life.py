"""The life of a model on a real broker, told as a story: python -m tests.life.

New York's taxis, hour by hour, four stretches of seven weeks side by side; after four days the city lives seven hours later, and twice as
widely. The stream learns online, at a rate that somebody has set low: its weights hardly move, and the change is more than they follow.
(At the usual rate online learning follows by itself, and a retraining on so little loses to it.) A retraining reads the topic, its version
proves the better one in the shadow, and what comes afterwards is worse, or damaged, or put in charge by mistake. `tests/test_life_kafka.py`
holds it to all of this.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer
from confluent_kafka import TopicPartition as Place
from typer.testing import CliRunner

from pipeline import feed, operate, topics
from pipeline.__main__ import app, settings_of_registry
from pipeline.broker import Broker
from pipeline.configure import parameters_of
from pipeline.registry import Because, Manifest, Registry
from pipeline.settings import Settings
from tests.client import read
from tests.instances import AT, BEGIN, HOUR, Instance, Sample, make_ours, server, settings, until

STRETCHES, PARTITIONS, DAY = 4, 2, 24
DRIFT, HISTORY = 96, 384  # hours until the city changes, and until somebody retrains
LATER, MORE = 7, 2.0  # hours that the day comes later by, and how much wider it swings
CAREFUL, USUAL = "0.00002", "0.002"  # rates: of the stream, and of the retraining
NOISE = 0.3  # standard deviation of what is added to weights to make them bad
NOT_SOONER = 240  # hours in the shadow before a kill
MORE_SETTINGS = {
    **AT, "series__season": "24", "forecast__horizon": "4", "forecast__model": "lstm", "learn__rate": CAREFUL,
    "time__idle_after": "60s", "time__max_hold": "60s",  # nobody is idle here: the pauses are the teller's
}  # fmt: skip
SERVING = ("switch", "shadow", "promote", "rollback", "refuse")  # kinds of decisions on who serves

Tell = Callable[[str], object]


def city() -> np.ndarray:
    """(T, S) taxi passengers an hour, of three stretches; a change at `DRIFT` is planted, all else is as it was."""
    halves = np.array(feed.taxi()[1])
    hours = halves.reshape(-1, 2).sum(1)
    length = len(hours) // STRETCHES
    calm = hours[: length * STRETCHES].reshape(STRETCHES, length).T
    usual = calm[:DRIFT].mean(0)
    return np.concatenate([calm[:DRIFT], usual + MORE * (calm[DRIFT + LATER :] - usual)])


def log() -> list[Sample]:
    """In order of time."""
    return [Sample(f"stretch-{k}", BEGIN + t * HOUR, round(float(value), 1)) for t, row in enumerate(city()) for k, value in enumerate(row)]


class Stranger:
    """What a client that nobody here wrote sees of topics as they grow."""

    def __init__(self, bootstrap: str, *names: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "nobody", "isolation.level": "read_committed", "enable.auto.commit": False}
        )
        places = [
            Place(name, p, OFFSET_BEGINNING) for name in names for p in self._consumer.list_topics(name, timeout=10).topics[name].partitions
        ]
        self._consumer.assign(places)
        self._seen: dict[str, list[dict[str, Any]]] = {name: [] for name in names}

    def seen(self, name: str) -> list[dict[str, Any]]:
        """Of a topic so far."""
        while records := self._consumer.consume(1_000, 0.05):
            for record in records:
                assert record.error() is None, record.error()
                self._seen[record.topic()].append(json.loads(record.value()))
        return self._seen[name]


class Life:
    """A topic, a stream that runs over it, a registry, and what has become of them so far."""

    def __init__(self, bootstrap: str, name: str, topic: str, folder: Path, *, tell: Tell) -> None:
        self.bootstrap, self.name, self.topic, self.folder = bootstrap, name, topic, folder
        self.log, self.fed = log(), 0  # hours that are in the topic
        self.words = settings(bootstrap, name, topic, folder, registry__url=str(folder / "models"), **MORE_SETTINGS)
        self.registry = Registry(str(folder / "models"), application=name, model="default", parameters=parameters_of)
        self.versions: dict[str, str] = {}  # by what they are in the story
        self.seconds: dict[str, float] = {}  # by chapter
        self.blocks: dict[str, int] = {}  # of the comparison, until a verdict
        self.code: int | None = None  # the stream's, at its end
        make_ours(bootstrap, name)
        self._tell, self._producer = tell, Producer({"bootstrap.servers": bootstrap, "linger.ms": 20})
        self._stranger = Stranger(bootstrap, f"{name}.forecasts.v1", f"{name}.decisions.v1")
        self._told = 0  # decisions
        self._stream: Instance | None = None

    def say(self, text: str) -> None:
        self.report()
        self._line(text)

    def _line(self, text: str) -> None:
        self._tell(f"{datetime.now(UTC):%H:%M:%S}  hour {self.fed:>5}  {text}")

    def chapter(self, number: int, title: str, live: Callable[[], None]) -> None:
        self._tell(f"\n{number}. {title}")
        began = time.monotonic()
        live()
        self.seconds[title] = round(time.monotonic() - began, 1)

    # The stream

    def start(self, *more: str) -> None:
        self._stream = Instance(self.folder, "run", "--json", *more, *self.words)

    @property
    def stream(self) -> Instance:
        assert self._stream is not None
        return self._stream

    def wait(self, true: Callable[[], Any]) -> Any:
        """Until it is so, or the stream has died."""

        def so() -> Any:
            assert self.stream.running(), self.stream.said()
            return true()

        return until(so, told=self.stream.said)

    def offer(self, hours: int) -> None:
        """Into the topic, and nobody waits."""
        begin, self.fed = self.fed, self.fed + hours
        assert self.fed * STRETCHES <= len(self.log), f"there is no hour {self.fed}"
        for row in self.log[begin * STRETCHES : self.fed * STRETCHES]:
            self._producer.produce(self.topic, key=row.series.encode(), value=row.json())
        assert self._producer.flush(30) == 0

    def catch_up(self) -> None:
        self.wait(lambda: len(self.forecasts()) >= self.fed * STRETCHES)
        self.report()

    def feed(self, hours: int) -> None:
        """A day at a time, all of it forecast before the next comes: what is decided is decided at the same hour on any machine."""
        end = self.fed + hours
        while self.fed < end:
            self.offer(min(DAY, end - self.fed))
            self.catch_up()

    def told(self, kind: str, name: str) -> bool:
        """Whether the stream has decided so of a version."""
        return any((d["kind"], d["version"]) == (kind, self.versions[name]) for d in self.changes())

    def feed_until(self, kind: str, name: str) -> None:
        while not self.told(kind, name):
            self.feed(DAY)

    # What others see

    def forecasts(self) -> list[dict[str, Any]]:
        return self._stranger.seen(f"{self.name}.forecasts.v1")

    def decisions(self) -> list[dict[str, Any]]:
        return self._stranger.seen(f"{self.name}.decisions.v1")

    def changes(self) -> list[dict[str, Any]]:
        """Of who serves."""
        return [d for d in self.decisions() if d["kind"] in SERVING]

    def report(self) -> None:
        """Decisions that have not been told of."""
        fresh = self.changes()[self._told :]
        self._told += len(fresh)
        for d in fresh:
            numbers = d["numbers"]
            measured = ""
            if "blocks" in numbers:
                self.blocks[f"{d['kind']} {self.called(d['version'])}"] = numbers["blocks"]
                bounds = f"{numbers['difference']:+.1%} ({numbers['lower']:+.1%} to {numbers['upper']:+.1%})"
                measured = f"; difference {bounds}, evidence {numbers['evidence']:g}, {numbers['blocks']} blocks of {numbers['block']}"
            state = f" {numbers['state']}" if numbers.get("state") else ""
            self._line(f"decision: {d['kind']}{state}, {self.called(d['version'])} at {d['at'][:16]}: {d['cause']}{measured}")

    def called(self, version: str) -> str:
        """A version, and what it is in the story."""
        known = next((name for name, one in self.versions.items() if one == version), "")
        return f"{version} ({known})" if known else version

    def names(self) -> dict[str, str | None]:
        """Who is who in the registry."""
        aliases: dict[str, str | None] = self.command("models", "list", *self.words)["aliases"]
        return aliases

    def named(self, **wanted: str | None) -> None:
        """Wait for the registry to say so: it follows the stream."""
        self.wait(lambda: {role: self.names()[role] for role in wanted} == wanted)
        said = ", ".join(f"{role} {self.called(v) if v else 'nobody'}" for role, v in self.names().items())
        self.say(f"the registry: {said}")

    # What people do

    def command(self, *words: str) -> dict[str, Any]:
        done = CliRunner().invoke(app, [*words, "--json"])
        assert done.exit_code == 0, f"{done.stderr}\n{done.exception!r}"
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def spoil(self, name: str, seed: int) -> Manifest:
        """A version of the champion's weights with noise on top."""
        known, weights = self.registry.whole(self.versions["retrained"])
        noise = np.random.default_rng(seed).normal(0, NOISE, weights.shape)
        made = self.registry.publish(
            (weights + noise).astype(np.float32), known.shape, seed=seed, data=known.data, metrics={}, parent=known.version,
            at=time.time_ns() // 1_000,
        )  # fmt: skip
        self.versions[name] = made.version
        self.say(f"somebody publishes {self.called(made.version)}")
        return made

    def unheard(self) -> list[str]:
        """Flags without the brokers."""
        pairs = zip(self.words[::2], self.words[1::2], strict=True)
        return [word for pair in pairs if "kafka.bootstrap" not in pair[1] for word in pair]


def settings_of(life: Life) -> Settings:
    return settings_of_registry(None, [word for word in life.words if word != "--set"])


def online(life: Life) -> None:
    life.start()
    life.feed(DRIFT)
    life.versions["random"] = life.forecasts()[0]["model_version"]
    life.say(f"{len(life.forecasts()):,} forecasts of {STRETCHES} series; {life.called(life.versions['random'])} serves")


def drift(life: Life) -> None:
    life.feed(HISTORY - DRIFT)
    found = [d for d in life.decisions() if d["kind"] == "drift"]
    life.say(f"{len(found)} changes were noticed by the stream: {', '.join(sorted({d['cause'] for d in found})) or 'none'}")


def retraining(life: Life) -> None:
    made = life.command("retrain", *life.words, "--set", f"learn.rate={USUAL}", "--work", str(life.folder / "work"))
    assert made["outcome"] == "challenger", made
    life.versions["retrained"] = made["version"]
    life.say(
        f"{life.called(made['version'])} of {made['observations']:,} observations in {made['seconds']:.1f} s and {made['passes']} passes: "
        f"loss {made['loss']:.3f}, before {made['loss_at_start']:.3f}"
    )
    life.named(champion=None, challenger=made["version"], previous=None)


def shadow(life: Life) -> None:
    life.feed_until("shadow", "retrained")
    life.feed(NOT_SOONER)
    assert not life.told("promote", "retrained"), "too late to be killed in the middle of it"
    before = len(life.forecasts())
    life.offer(3 * DAY)
    life.wait(lambda: len(life.forecasts()) > before)
    life.stream.kill()
    assert len(life.forecasts()) < life.fed * STRETCHES, "too late to be killed with work to do"
    life.say("kill -9, in the middle of a day")
    life.start("--take-over")
    life.catch_up()
    life.say("started again, and all is there")


def promotion(life: Life) -> None:
    life.feed_until("promote", "retrained")
    life.feed_until("switch", "retrained")
    life.named(champion=life.versions["retrained"], challenger=None)


def bad(life: Life) -> None:
    """One that is worse, for the judge; one that is damaged after it was looked at, for whoever fetches it."""
    worse = life.spoil("bad", 1)
    now = time.time_ns() // 1_000
    life.registry.nominate(worse.version, life.registry.last(), Because("somebody", now, "it looked good"))
    pairs = [word for word in life.words if word != "--set"]
    operate.announce(
        settings_of_registry(None, pairs),
        role="challenger",
        version=worse.version,
        effective_from=0,
        by="somebody",
        reason="it looked good",
    )
    life.feed_until("refuse", "bad")
    life.named(champion=life.versions["retrained"], challenger=None)
    damaged = life.spoil("damaged", 2)
    life.command("models", "promote", damaged.version, *life.unheard())
    weights = life.folder / "models" / life.name / "default/versions" / damaged.version / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    life.say("a disk damages it, and it is made champion by hand")
    life.command("models", "promote", damaged.version, *life.words)
    life.feed_until("refuse", "damaged")
    life.command("models", "rollback", "--reason", "it is damaged", *life.words)
    life.named(champion=life.versions["retrained"], challenger=None)


def mistake(life: Life) -> None:
    worse = life.spoil("mistake", 3)
    life.command("models", "promote", worse.version, "--reason", "by mistake", *life.words)
    life.say("it is made champion by hand")
    life.feed_until("switch", "mistake")
    life.feed_until("rollback", "retrained")
    life.named(champion=life.versions["retrained"], challenger=None, previous=None)


def end(life: Life) -> None:
    life.feed(DAY)
    life.code, summary = life.stream.stopped()
    life.say(f"stopped: {summary['consumed']:,} observations, {summary['used']:,} used")


def again(life: Life) -> None:
    """A replay of the topic with the decisions on record."""
    dumped(life.folder / "topic.ndjson", life.bootstrap, life.topic)
    dumped(life.folder / "decisions.ndjson", life.bootstrap, f"{life.name}.decisions.v1")
    words = [word for pair in zip(life.words[::2], life.words[1::2], strict=True) if "input.topics" not in pair[1] for word in pair]
    once = Instance(
        life.folder, "replay", str(life.folder / "topic.ndjson"), "--dump", "--decisions", str(life.folder / "decisions.ndjson"),
        "--out", str(life.folder / "again"), "--json", *words,
    )  # fmt: skip
    assert once.ends() == 0, once.said()
    same = {kind: of_topic(life, kind) == of_file(life, kind) for kind in ("forecasts", "scores")}
    life.say(f"the same bytes: {', '.join(f'{kind} {so}' for kind, so in same.items())}")


def of_topic(life: Life, kind: str) -> list[bytes]:
    return sorted(record.value() for record in read(life.bootstrap, topics.topic(life.name, kind)))


def of_file(life: Life, kind: str) -> list[bytes]:
    return sorted((life.folder / "again" / f"{kind}.ndjson").read_bytes().splitlines())


def dumped(file: Path, bootstrap: str, name: str) -> None:
    """A topic as kcat -J writes it."""
    with file.open("w") as out:
        for record in read(bootstrap, name):
            said = {
                "topic": name, "partition": record.partition(), "offset": record.offset(), "ts": record.timestamp()[1],
                "key": record.key().decode(), "payload": record.value().decode(),
            }  # fmt: skip
            out.write(json.dumps(said) + "\n")


CHAPTERS = (
    ("A stream begins, from random weights", online),
    ("The city changes; online learning is alone with it", drift),
    ("A retraining reads the topic", retraining),
    ("Its version is tried in the shadow; the stream is killed meanwhile", shadow),
    ("It is promoted, since it is better and that is no chance", promotion),
    ("A bad model is pushed and refused, and a damaged one", bad),
    ("A worse model is made champion by mistake, and taken back", mistake),
    ("The stream ends", end),
    ("The same again, from what is on record", again),
)


def live(life: Life) -> Life:
    for number, (title, chapter) in enumerate(CHAPTERS, 1):
        life.chapter(number, title, lambda chapter=chapter: chapter(life))  # type: ignore[misc]
    return life


def summary(life: Life) -> str:
    ids = [f["id"] for f in life.forecasts()]
    samples = f"{life.fed:,} hours of {STRETCHES} series, {life.fed * STRETCHES:,} samples"
    return "\n".join(
        [
            f"\n{samples}: {len(ids):,} forecasts, {len({*ids}):,} of them different",
            "blocks until a verdict: " + ", ".join(f"{what} {count}" for what, count in life.blocks.items()),
            *(f"{seconds:>7.1f} s  {title}" for title, seconds in life.seconds.items()),
        ]
    )


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="tidecast-life-") as folder, Broker(Path(folder) / "kafka", die_with_parent=True) as broker:
        topics.apply({"bootstrap_servers": [broker.bootstrap]}, [topics.Wanted("taxis", PARTITIONS, {})], replication=1)
        with server():
            print(summary(live(Life(broker.bootstrap, "life", "taxis", Path(folder), tell=print))))


if __name__ == "__main__":
    main()
