"""One real broker for a whole test run, started by the first test that asks for it; with several processes, one for each."""

from __future__ import annotations

import gc
import uuid
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import structlog

from pipeline.broker import Broker
from tests import forking

# An example that takes longer than others says what else the machine does
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--system", action="store_true", help="run those tests, too, that need packages of Debian")


LEFT_OUT = pytest.StashKey[int]()
WORD = "tidecast_left_out"  # by which a process that shares the tests tells of it


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `--system` (or `-m`, which says it itself), what comes from PyPI and Maven has to do; nothing is skipped in silence."""
    config.stash[LEFT_OUT] = 0
    if config.option.system or config.option.markexpr:
        return
    out = [item for item in items if item.get_closest_marker("system")]
    if out:
        items[:] = [item for item in items if item not in out]
        config.hook.pytest_deselected(items=out)
        config.stash[LEFT_OUT] = len(out)
    if (told := getattr(config, "workeroutput", None)) is not None:  # this is one of several processes that share the tests
        told[WORD] = len(out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Each of the processes has left out the same; one that crashed says nothing."""
    if (count := getattr(node, "workeroutput", {}).get(WORD)) is not None:
        node.config.stash[LEFT_OUT] = count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(LEFT_OUT, 0):
        terminalreporter.write_line(
            f"left out: {count} that need Debian's prometheus, prometheus-alertmanager or chromium; `uv run python -m tests` runs all"
        )


def pytest_configure(config: pytest.Config) -> None:
    # kafka-python 3.0 reads its schemas by a call that Python 3.11 and 3.12 deprecate and 3.13 takes back
    config.addinivalue_line("filterwarnings", "ignore:(read|open)_text is deprecated:DeprecationWarning")
    # and leaves the sockets that found no broker to the garbage collector
    config.addinivalue_line("filterwarnings", r"ignore:unclosed <socket.socket.*laddr=\('0\.0\.0\.0':ResourceWarning")
    # and, of a client that was fenced or whose broker died, the pair that its selector wakes itself by
    config.addinivalue_line("filterwarnings", r"ignore:unclosed <socket.socket fd=\d+, family=1, type=1, proto=0>:ResourceWarning")


def pytest_sessionfinish() -> None:
    """What clients left to the garbage collector goes here, where the filters above no longer hold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """As in the product: small steps wait for each other, and the number belongs to the thread that sets it."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _log_of_its_own() -> Iterator[None]:
    """A command that a test ran in this process logs to the test's own stderr, which is closed after it."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The run's broker: shared, so nobody stops it; a test that wants to takes `own_broker`."""
    # Every five minutes a broker deletes segments that hold nothing newer than a week by its records' own times: tests choose those.
    kept = {"log.retention.ms": "-1"}
    with Broker(tmp_path_factory.mktemp("kafka"), die_with_parent=True, properties=kept) as running:
        yield running


@pytest.fixture(scope="session")
def kafka(broker: Broker) -> str:
    """Its bootstrap address."""
    return broker.bootstrap


@pytest.fixture
def own_broker(tmp_path: Path) -> Iterator[Broker]:
    """A broker for one test, to kill, pause, restart (3 s to start)."""
    with Broker(tmp_path / "kafka", die_with_parent=True) as running:
        yield running


@pytest.fixture(scope="module")
def processes(request: pytest.FixtureRequest) -> Iterator[ForkServerContext]:
    """What a module's `PRELOADED` imports is imported once, in a server that forks; each process is new all the same."""
    with forking.server(request.module.PRELOADED):
        yield forking.CONTEXT


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A name that no other test has: for a topic, an application, a group, a transaction."""
    return f"{request.node.originalname[:40]}-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def make_topic(request: pytest.FixtureRequest, name: str) -> Callable[..., str]:
    """`make_topic(partitions=1, **configs)` creates a topic on the run's broker and returns its name; `bootstrap` names another one."""

    def make(partitions: int = 1, *, suffix: str = "", bootstrap: str | None = None, **configs: str) -> str:
        create_topic(bootstrap or request.getfixturevalue("kafka"), name + suffix, partitions, configs)
        return name + suffix

    return make


def create_topic(bootstrap: str, topic: str, partitions: int, configs: dict[str, str]) -> None:
    from kafka import KafkaAdminClient
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        admin.create_topics(
            [NewTopic(topic, partitions, 1, topic_configs={key.replace("_", "."): value for key, value in configs.items()})]
        )
    finally:
        admin.close()
