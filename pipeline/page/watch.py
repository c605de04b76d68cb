"""`tidecast watch`: the reader and the server, together until they are told to stop."""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
from collections.abc import Callable

import uvicorn

from pipeline.metrics import PortTaken
from pipeline.page.app import make_app
from pipeline.page.fold import Fold
from pipeline.page.reader import Reader
from pipeline.settings import Settings, kafka_options
from pipeline.stop import Stop

CLOSING_SECONDS = 3
# How long a thread keeps the interpreter while others wait: an answer to a search waits so long for the reader at each of a dozen steps
TURN_SECONDS = 0.0005


def watch(settings: Settings, *, stop: Stop, ready: Callable[[str], None]) -> None:
    """Serves the page until `stop` is set; `ready` is told where it is. Raises PortTaken."""
    logging.getLogger("kafka").setLevel(logging.CRITICAL)  # it tells of every reconnection; what matters, the reader says
    host, taken = listen(settings.page.address)
    sys.setswitchinterval(TURN_SECONDS)
    fold = Fold(settings.application)
    with taken, Reader(kafka_options(settings), prefix=settings.output.prefix, fold=fold) as reader:
        app = make_app(reader, hosts=hosts(host), ending=lambda: server.should_exit)
        config = uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=CLOSING_SECONDS)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([taken],), daemon=True)  # a thread: signals are for `stop`
        thread.start()
        ready(f"http://{f'[{host}]' if ':' in host else host}:{taken.getsockname()[1]}/")
        while thread.is_alive() and reader.error is None and not stop.wait(0.5):
            pass
        server.should_exit = True
        thread.join(2 * CLOSING_SECONDS)
    if reader.error is not None:
        raise reader.error


def listen(address: str) -> tuple[str, socket.socket]:
    """A host, and a socket that listens there; port 0: one that is free."""
    name, _, port = address.rpartition(":")
    host = name.strip("[]")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        return host, socket.create_server((host, int(port)), family=family, backlog=128)
    except OSError as error:
        raise PortTaken(f"page.address = {address}: {error.strerror}; stop who listens there, or set page.address") from error


def hosts(host: str) -> list[str]:
    """Names that a browser may call us by: on this machine its own, so that no website can make one that leads here.

    >>> hosts("127.0.0.1"), hosts("0.0.0.0")
    (['127.0.0.1', 'localhost', '::1', '[::1]'], ['*'])
    """
    try:
        ours = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        ours = False
    return [*dict.fromkeys([host, "localhost", "::1", "[::1]"])] if ours else ["*"]
