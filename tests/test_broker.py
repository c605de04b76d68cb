import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from kafka import KafkaConsumer, KafkaProducer
from kafka.structs import TopicPartition

from pipeline import broker as development
from pipeline.broker import Broker, BrokerFailed, PortTaken, birth, free_port
from pipeline.jars import LOCK, DownloadFailed, fetch, locked

PAYLOAD = bytes(range(256)) * 1000
GOOD = f"a.b:c:1 {len(PAYLOAD)} {hashlib.sha256(PAYLOAD).hexdigest()}\n"


class Repository:
    """A Maven repository of one jar that breaks off after `breaks` bytes, once, and remembers the ranges asked for."""

    def __init__(self, payload, breaks=None, status=None):
        self.ranges = []
        repository = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked = self.headers.get("Range")
                repository.ranges.append(asked)
                if status:
                    self.send_error(status)
                    return
                first = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
                self.send_response(206 if asked else 200)
                self.send_header("Content-Length", str(len(payload) - first))
                self.end_headers()
                last = breaks if breaks and len(repository.ranges) == 1 else len(payload)
                self.wfile.write(payload[first:last])

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def fetch_from(repository, folder, lock=GOOD):
    folder.mkdir(exist_ok=True)
    (folder / "the.lock").write_text(lock)
    return fetch(folder, lock=folder / "the.lock", repository=repository.url)


def test_the_lock_file_names_kafka_and_no_file_twice():
    jars = locked(LOCK.read_text())
    assert "org/apache/kafka/kafka_2.13/4.3.1/kafka_2.13-4.3.1.jar" in {jar.path for jar in jars}
    assert len({jar.name for jar in jars}) == len(jars)
    assert all(len(jar.sha256) == 64 for jar in jars)


def test_a_line_that_names_no_jar_is_refused_with_its_number():
    with pytest.raises(DownloadFailed, match="line 2"):
        locked("a:b:1 10 ff\na:b 10 ff\n")


def test_a_download_that_breaks_off_is_resumed_where_it_stopped(tmp_path):
    with Repository(PAYLOAD, breaks=100_000) as repository:
        folder = fetch_from(repository, tmp_path)
    assert (folder / "c-1.jar").read_bytes() == PAYLOAD
    assert repository.ranges == [None, "bytes=100000-"]


def test_what_is_there_is_not_asked_for_again(tmp_path):
    with Repository(PAYLOAD) as repository:
        fetch_from(repository, tmp_path)
        fetch_from(repository, tmp_path)
    assert len(repository.ranges) == 1


def test_a_jar_damaged_on_disk_is_fetched_again(tmp_path):
    with Repository(PAYLOAD) as repository:
        jar = fetch_from(repository, tmp_path) / "c-1.jar"
        jar.write_bytes(b"\0" + PAYLOAD[1:])
        fetch_from(repository, tmp_path)
    assert jar.read_bytes() == PAYLOAD


def test_a_jar_that_the_lock_file_does_not_name_leaves_the_class_path(tmp_path):
    (tmp_path / "stray-2.jar").write_bytes(b"x")
    with Repository(PAYLOAD) as repository:
        assert [file.name for file in fetch_from(repository, tmp_path).glob("*.jar")] == ["c-1.jar"]


def test_bytes_of_another_hash_are_refused_and_not_kept(tmp_path):
    with Repository(PAYLOAD[:-1] + b"\0") as repository, pytest.raises(DownloadFailed, match="not the file that the lock file names"):
        fetch_from(repository, tmp_path)
    assert not list(tmp_path.glob("c-1*"))


def test_a_jar_that_the_repository_does_not_have_is_named_at_once(tmp_path):
    with Repository(PAYLOAD, status=404) as repository, pytest.raises(DownloadFailed, match=r"c-1\.jar: the server says 404"):
        fetch_from(repository, tmp_path)
    assert len(repository.ranges) == 1


def test_without_a_network_the_error_says_where_to_put_the_jars(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.jars.time.sleep", lambda _: None)
    (tmp_path / "the.lock").write_text(GOOD)
    with pytest.raises(DownloadFailed, match=str(tmp_path)):
        fetch(tmp_path, lock=tmp_path / "the.lock", repository=f"http://127.0.0.1:{free_port()}")


def test_a_process_is_known_by_its_birth_and_a_dead_one_has_none():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    born = birth(child.pid)
    assert born is not None
    assert born == birth(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert birth(child.pid) is None, "a zombie is dead"
    child.communicate()
    assert birth(child.pid) is None


def test_a_pid_given_out_again_is_never_killed(tmp_path):
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        (tmp_path / "broker.json").write_text(json.dumps({"pid": stranger.pid, "birth": "1", "port": free_port(), "controller": 1}))
        assert development.status(tmp_path).running is False
        assert development.down(tmp_path).running is False
        assert stranger.poll() is None
        stranger.kill()


def test_a_port_that_is_taken_is_said_so(tmp_path):
    with socket.create_server(("127.0.0.1", free_port())) as other, pytest.raises(PortTaken, match="taken by another program"):
        Broker(tmp_path, port=other.getsockname()[1]).start()


@pytest.mark.kafka
def test_a_broker_that_cannot_start_says_what_kafka_said(tmp_path):
    with pytest.raises(BrokerFailed, match=r"num\.io\.threads"):
        Broker(tmp_path, properties={"num.io.threads": "0"}).start()


@pytest.mark.kafka
def test_up_status_down_leave_a_broker_running_between_commands(tmp_path):
    up = development.up(tmp_path)
    try:
        assert up.running
        assert development.up(tmp_path) == up, "a second `up` finds the first one's broker"
        assert development.status(tmp_path) == up
    finally:
        down = development.down(tmp_path)
    assert not down.running
    assert development.status(tmp_path) == down


@pytest.mark.kafka
def test_what_was_acknowledged_survives_sigkill_on_the_same_port(own_broker, name, make_topic):
    topic = make_topic(bootstrap=own_broker.bootstrap)
    producer = KafkaProducer(bootstrap_servers=own_broker.bootstrap)
    producer.send(topic, b"kept").get(10)
    producer.close()
    before = own_broker.bootstrap
    own_broker.kill()
    assert own_broker.status().running is False
    own_broker.start()
    assert own_broker.bootstrap == before
    consumer = KafkaConsumer(bootstrap_servers=before, auto_offset_reset="earliest", enable_auto_commit=False, consumer_timeout_ms=10_000)
    consumer.assign([TopicPartition(topic, 0)])
    assert next(consumer).value == b"kept"
    consumer.close()


@pytest.mark.kafka
def test_a_broker_dies_with_a_parent_that_was_killed(tmp_path):
    program = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.broker import Broker\n"
        "print(Broker(Path(sys.argv[1]), die_with_parent=True).start().pid(), flush=True)\ninput()\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    pid = int(parent.stdout.readline())
    assert birth(pid) is not None
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 15
    while birth(pid) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert birth(pid) is None
