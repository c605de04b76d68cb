"""Who retrains a model: one at a time, whoever else asks is told who. Files beside the model's versions, a number each, the newest counts.

    <url>/<application>/<model>/leases/00000007.json

To take, renew or give back the lease is to make the next number: of two who have seen the same newest file, one does (see pipeline.store).
**The rule**: a lease is held until it is given back, or `LEASE` after it was last renewed; at once where its holder was a process of this
machine that is no more. What is scheduled is on record here, too, so that a run that has been missed is made up for once, wherever.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from pipeline import store
from pipeline.records import SECOND, rfc3339

LEASE = 600 * SECOND  # us that nobody hears of a holder until another may take its place
RENEWED = 60.0  # s between renewals: nine may fail
NAME = re.compile(r"([0-9]{8})\.json")


class Held(Exception):  # noqa: N818 - reads as what happened
    """Somebody else retrains this model."""


class Record(msgspec.Struct, frozen=True):
    """Who, since when, until when (us); `slot`: the newest scheduled time that has had its run, in us."""

    number: int
    holder: str
    life: str
    at: int
    until: int
    slot: int | None = None


NOBODY = Record(0, "", "", 0, 0)


def now_us() -> int:
    return time.time_ns() // 1_000


class Lease:
    """The lease of one model."""

    def __init__(self, shelf: store.Store, *, now: Callable[[], int] = now_us) -> None:
        self._store, self._now = shelf, now
        self._lock = threading.Lock()
        self._mine: Record | None = None
        self._lost: Exception | None = None

    def last(self) -> Record:
        numbers = [int(found[1]) for found in map(NAME.fullmatch, self._store.names("leases")) if found]
        return self._read(max(numbers)) if numbers else NOBODY

    @contextmanager
    def held(self, slot: int | None = None) -> Iterator[None]:
        """While it lasts, nobody else holds it; it is renewed meanwhile, and given back at the end, `slot` done. Raises Held."""
        self._take()
        over = threading.Event()
        thread = threading.Thread(target=self._keep, args=(over,), name="tidecast-lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            with self._lock:
                if self._lost is None:
                    self._next(until=0, slot=slot)
                self._mine = None

    def check(self) -> None:
        """Renew it: after this, there are `LEASE` us for what must not be done twice. Raises Held if it is another's by now."""
        with self._lock:
            if self._lost is None:
                self._next(until=self._now() + LEASE)
            if self._lost is not None:
                raise self._lost

    def _take(self) -> None:
        before, now = self.last(), self._now()
        if before.until > now and not died(before.life):
            since, end = rfc3339(before.at), rfc3339(before.until)
            raise Held(f"{before.holder} retrains this model since {since}; if that is no more, it may be taken over at {end}")
        self._mine = msgspec.structs.replace(before, holder=me(), life=life(), at=now)
        self._next(until=now + LEASE)
        if self._lost is not None:
            raise self._lost

    def _next(self, *, until: int, slot: int | None = None) -> None:
        """Make the next number; if another has, it is lost."""
        assert self._mine is not None
        mine = self._mine
        new = msgspec.structs.replace(mine, number=mine.number + 1, until=until, slot=mine.slot if slot is None else slot)
        try:
            self._store.create(self._path(new.number), msgspec.json.encode(new))
        except FileExistsError:
            self._lost = Held(f"{self._read(new.number).holder} has taken over the retraining of this model")
            return
        self._mine = new
        if mine.number:  # who looks for the newest does not miss the older ones
            self._store.remove(self._path(mine.number))

    def _keep(self, over: threading.Event) -> None:
        while not over.wait(RENEWED):
            with self._lock:
                try:
                    if self._lost is None:
                        self._next(until=self._now() + LEASE)
                except store.StoreError:
                    continue  # the store is away: the next time, or `check` says so

    def _read(self, number: int) -> Record:
        try:
            return msgspec.json.decode(self._store.read(self._path(number)), type=Record)
        except FileNotFoundError:  # renewed in the meantime
            return self.last()
        except msgspec.DecodeError as error:
            raise store.StoreError(f"{self._store.root}/{self._path(number)}: not a lease: {error}; remove it") from error

    def _path(self, number: int) -> str:
        return f"leases/{number:08d}.json"


def me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def life(pid: int | None = None) -> str:
    """What no two processes share: machine and boot, its number's space, number and start; empty where the system does not say.

    >>> died(life()), life() == life()
    (False, True)
    """
    pid = pid or os.getpid()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        began = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{boot} {os.readlink('/proc/self/ns/pid')} {pid} {began}"  # noqa: PTH115 - what it says is no path
    except OSError:
        return ""


def died(then: str) -> bool:
    """The process lived where we do, and does not any more."""
    if not then:
        return False
    boot, space, pid, _ = then.split()
    here: Any = life().split()
    return bool(here) and [boot, space] == here[:2] and life(int(pid)) != then
