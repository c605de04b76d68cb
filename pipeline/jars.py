"""Kafka's own jars: those that a lock file names, fetched once, checked by size and SHA-256.

A line of the lock file is `group:artifact:version bytes sha256`. Proxies and certificates are those of the environment, as urllib
reads it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

VERSION = "4.3.1"
LOCK = Path(__file__).with_name(f"kafka-{VERSION}.lock")
REPOSITORY = "https://repo1.maven.org/maven2"

TRIES = 4  # each goes on where the one before broke off
PARALLEL = 6
CHUNK = 1 << 16  # bytes; a progress bar moves by this much
SILENCE_SECONDS = 30.0  # of the server, before a try is given up


class BrokerError(Exception):
    """The development Kafka cannot do what was asked; the message says why and what helps."""


class DownloadFailed(BrokerError):  # noqa: N818  reads as what happened
    """A jar cannot be had, or is not the one that the lock file names."""


class Jar(NamedTuple):
    """One line of the lock file."""

    group: str
    artifact: str
    version: str
    size: int  # bytes
    sha256: str

    @property
    def name(self) -> str:
        """The file's name.

        >>> Jar("org.apache.kafka", "kafka_2.13", "4.3.1", 1, "00").name
        'kafka_2.13-4.3.1.jar'
        """
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path(self) -> str:
        """Where it lies in a Maven repository.

        >>> Jar("org.apache.kafka", "kafka_2.13", "4.3.1", 1, "00").path
        'org/apache/kafka/kafka_2.13/4.3.1/kafka_2.13-4.3.1.jar'
        """
        return f"{self.group.replace('.', '/')}/{self.artifact}/{self.version}/{self.name}"


def locked(text: str) -> list[Jar]:
    """The jars that a lock file names; empty lines and comments are passed over.

    Raises `DownloadFailed` for a line that is not one.

    >>> locked("a.b:c:1 10 ff")
    [Jar(group='a.b', artifact='c', version='1', size=10, sha256='ff')]
    """
    jars = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            name, size, sha256 = line.split()
            group, artifact, version = name.split(":")
            jars.append(Jar(group, artifact, version, int(size), sha256))
        except ValueError as error:
            raise DownloadFailed(f"line {number} of the lock file is {line!r}, want `group:artifact:version bytes sha256`") from error
    return jars


def default_cache(environ: Mapping[str, str]) -> Path:
    """The per-user folder of jars.

    >>> default_cache({"XDG_CACHE_HOME": "/c"}).as_posix()
    '/c/tidecast/kafka/4.3.1'
    """
    return Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tidecast" / "kafka" / VERSION


def fetch(cache: Path | None = None, *, lock: Path = LOCK, repository: str = REPOSITORY) -> Path:
    """The folder that holds exactly the jars of the lock file; what is missing is downloaded, what is damaged again.

    Two processes may ask at once: one downloads, the other waits. Raises `DownloadFailed`.
    """
    folder = cache or default_cache(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    jars = locked(lock.read_text())
    with (folder / "lock").open("w") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)
        missing = [jar for jar in jars if not _whole(folder / jar.name, jar)]
        if missing:
            _download(missing, folder, repository.rstrip("/"))
        for stray in set(folder.glob("*.jar")) - {folder / jar.name for jar in jars}:
            stray.unlink()  # the class path is `folder/*`: what the lock file does not name must not be on it
    return folder


def _whole(file: Path, jar: Jar) -> bool:
    return file.exists() and file.stat().st_size == jar.size and hashlib.sha256(file.read_bytes()).hexdigest() == jar.sha256


def _download(jars: list[Jar], folder: Path, repository: str) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("Kafka {task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(VERSION, total=sum(jar.size for jar in jars))
        with ThreadPoolExecutor(PARALLEL) as pool:
            for done in [pool.submit(_get, jar, folder, repository, lambda size: progress.advance(task, size)) for jar in jars]:
                done.result()


def _get(jar: Jar, folder: Path, repository: str, advance: Callable[[int], None]) -> None:
    """One jar, resumed where an earlier try, or an earlier process, broke off."""
    part = folder / f"{jar.name}.part"
    url = f"{repository}/{jar.path}"
    for left in reversed(range(TRIES)):
        try:
            _append(url, part, jar.size, advance)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code < 500 or not left:  # noqa: PLR2004  a client's fault does not pass
                raise DownloadFailed(f"{url}: the server says {error.code} {error.reason}") from error
        except (OSError, HTTPException) as error:
            if not left:
                raise DownloadFailed(
                    f"{url}: {error}. The development Kafka needs {VERSION}'s jars once; without a network, copy them into {folder}, "
                    "or name a repository that can be reached"
                ) from error
        else:
            break
        time.sleep(0.5 * 2 ** (TRIES - 1 - left))
    if not _whole(part, jar):
        found = f"{part.stat().st_size} bytes, SHA-256 {hashlib.sha256(part.read_bytes()).hexdigest()}"
        part.unlink()
        raise DownloadFailed(f"{url} is not the file that the lock file names: {found}; want {jar.size} bytes, {jar.sha256}")
    part.rename(folder / jar.name)


def _append(url: str, part: Path, size: int, advance: Callable[[int], None]) -> None:
    have = part.stat().st_size if part.exists() else 0
    if have >= size:
        return
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310  the user's own address
    with urllib.request.urlopen(request, timeout=SILENCE_SECONDS) as answer:  # noqa: S310
        if answer.status != 206:  # noqa: PLR2004  206: Partial Content; anything else starts from the first byte
            have = 0
        advance(have)
        with part.open("ab" if have else "wb") as file:
            while chunk := answer.read(CHUNK):
                file.write(chunk)
                advance(len(chunk))
                if file.tell() > size:
                    break  # not the file that was asked for: no need to fill the disk with it
    if part.stat().st_size < size:
        raise HTTPException(f"the connection ended after {part.stat().st_size} of {size} bytes")
