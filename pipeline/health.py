"""What is asked of a run over HTTP: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever starts and stops it, `/version`."""

from __future__ import annotations

import base64
import hmac
import platform
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import NamedTuple

import uvicorn
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from pipeline.metrics import Metrics, PortTaken


class Health(NamedTuple):
    """What a run says of itself."""

    application: str
    version: str  # of the program
    model: str | None  # version of the weights that learning went on from; None: there are none yet
    lag: int  # records
    missing: list[str]  # why nobody should rely on it now; none: it is ready


class Guard(NamedTuple):
    """Who may ask, and over what; nothing of it: anybody, in plain HTTP."""

    password: str | None = None  # of the user `tidecast`, for what tells numbers; who starts and stops it asks without
    certificate_file: str | None = None
    key_file: str | None = None


OPEN = Guard()
USER = b"tidecast:"


def guarded(answer: Callable[[Request], Response], password: str | None) -> Callable[[Request], Response]:
    """The answer, for those who know the password."""
    if password is None:
        return answer
    wanted = b"Basic " + base64.b64encode(USER + password.encode())

    def asked(request: Request) -> Response:
        if hmac.compare_digest(request.headers.get("authorization", "").encode(), wanted):
            return answer(request)
        return PlainTextResponse("a password is asked for\n", status_code=401, headers={"www-authenticate": 'Basic realm="tidecast"'})

    return asked


def app(registry: CollectorRegistry, ask: Callable[[], Health], password: str | None = None) -> Starlette:
    """Nothing here waits for a broker: whoever asks gets an answer while the brokers are away, too."""

    def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), headers={"content-type": content_type})

    def alive(_: Request) -> Response:
        return PlainTextResponse("alive\n")  # brokers that are away are waited for, and a fault ends the process: to answer is to be alive

    def ready(_: Request) -> Response:
        found = ask()
        said = {"ready": not found.missing, "missing": found.missing, "lag_records": found.lag, "model_version": found.model}
        return JSONResponse(said, status_code=503 if found.missing else 200)

    def version(_: Request) -> Response:
        found = ask()
        return JSONResponse(
            {
                "version": found.version,
                "application": found.application,
                "model_version": found.model,
                "python": platform.python_version(),
            }
        )

    open_, closed = {"/livez": alive, "/readyz": ready}, {"/metrics": metrics, "/version": version}
    answers = open_ | {path: guarded(answer, password) for path, answer in closed.items()}
    return Starlette(routes=[Route(path, answer) for path, answer in answers.items()])


def tell_model(metrics: Metrics, model: str, version: str) -> None:
    """The version that learning went on from; of the one before, nothing is said any more."""
    told = [sample.labels for family in metrics.model_info.collect() for sample in family.samples]
    if told != [labels := {"model": model, "version": version, "role": "champion"}]:
        metrics.model_info.clear()
        metrics.model_info.labels(**labels).set(1)


@contextmanager
def serve(registry: CollectorRegistry, address: str, ask: Callable[[], Health], guard: Guard = OPEN) -> Iterator[int]:
    """All of it at host:port while the context lasts, in a thread; yields the port, which is chosen here for port 0. Raises PortTaken."""
    host, _, port = address.rpartition(":")
    try:
        listening = socket.create_server((host, int(port)))
    except OSError as error:
        raise PortTaken(f"metrics.address = {address}: {error.strerror}; stop who listens there, or set metrics.address") from error
    config = uvicorn.Config(
        app(registry, ask, guard.password), http="h11", ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
        ssl_certfile=guard.certificate_file, ssl_keyfile=guard.key_file,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]}, name="health", daemon=True)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()
