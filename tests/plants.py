"""Bugs, to be planted in a process before it becomes `tidecast run`: the oracle of `tests/faults.py` must tell of each of them."""

from __future__ import annotations

from typing import Any


def position_before_output() -> None:
    """Positions are committed, and what was read up to them is sent with the next commit."""
    from pipeline.publish import KafkaPublisher

    send, commit, close = KafkaPublisher.send, KafkaPublisher.commit, KafkaPublisher.close
    waiting: list[Any] = []

    def later(self: Any, message: Any) -> None:
        if not self._muted:
            waiting.append(message)

    def first(self: Any, record: dict[str, Any]) -> None:
        commit(self, record)
        for message in waiting:
            send(self, message)
        waiting.clear()

    def last(self: Any) -> None:  # who is not killed loses nothing
        self._producer.commit_transaction()
        self._producer.begin_transaction()
        close(self)

    KafkaPublisher.send, KafkaPublisher.commit, KafkaPublisher.close = later, first, last


def output_before_position() -> None:
    """Output is committed as it is made; the positions follow with the next commit."""
    from pipeline import publish

    process = publish.Publish.process

    def at_once(self: Any, element: list[Any]) -> None:
        process(self, element)
        publisher: Any = publish.PUBLISHER
        if not publisher._muted:
            publisher._producer.commit_transaction()
            publisher._producer.begin_transaction()

    publish.Publish.process = at_once


def output_outside_the_transaction() -> None:
    """Output goes by a producer that knows of no transactions."""
    from kafka import KafkaProducer

    from pipeline.publish import KafkaPublisher, topic
    from pipeline.wire import headers

    plain: list[KafkaProducer] = []

    def send(self: Any, message: Any) -> None:
        if self._muted:
            return
        if not plain:
            plain.append(KafkaProducer(**self._options, acks="all"))
        told = headers(message, self._application)
        plain[0].send(topic(self._prefix, message.kind), key=message.key, value=message.value, headers=told).get(10)

    KafkaPublisher.send = send


def repetition_aloud() -> None:
    """What is repeated from a snapshot is published again."""
    from pipeline.publish import KafkaPublisher

    KafkaPublisher.mute = lambda _self, _muted: None


def snapshot_without_moments() -> None:
    """A snapshot has the weights and not the optimiser's moments, which begin again at nothing."""
    import torch

    from models.descent import Descent

    tensors = Descent.tensors

    def without(self: Any) -> dict[str, Any]:
        return {name: torch.zeros_like(t) if name in {"first", "second"} else t for name, t in tensors(self).items()}

    Descent.tensors = without


def snapshot_without_queue() -> None:
    """A snapshot forgets the values that have been closed and not learnt."""
    from collections import deque

    from pipeline.learn import Shard

    frozen = Shard.frozen

    def forgets(self: Any) -> Any:
        kept, self.queue = self.queue, deque(close._replace(cells=[]) for close in self.queue)
        try:
            return frozen(self)
        finally:
            self.queue = kept

    Shard.frozen = forgets


def checksum_not_looked_at() -> None:
    """A snapshot is believed, whatever is in its file."""
    from pipeline.engine.snapshot import HEADER, SUFFIX, Folder

    Folder.read = lambda self, name: memoryview((self.path / (name + SUFFIX)).read_bytes())[HEADER.size :]


def training_per_poll() -> None:
    """All that a poll closes is learnt in one step, with the last of it; no other than the right one where a poll closes one instant."""
    from pipeline.events import Close
    from pipeline.learn import Shard

    follow = Shard.follow

    def in_one(self: Any, told: Any) -> Any:
        told = list(told)
        closes = [event for event in told if isinstance(event, Close)]
        for close in closes[:-1]:
            closes[-1].cells.extend(close.cells)
            close.cells.clear()
        if closes:
            closes[-1].cells.sort(key=lambda cell: (self.gather.series[cell[0]][1], cell[1]))
        return follow(self, told)

    Shard.follow = in_one
