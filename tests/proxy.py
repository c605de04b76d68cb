"""A TCP proxy in front of a broker that can lose one kind of request, or only the answers to it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

END_TXN = 26


def exactly(stream, count):
    data = b""
    while len(data) < count:
        more = stream.recv(count - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data


def frame(stream):
    head = exactly(stream, 4)
    return head + exactly(stream, struct.unpack(">i", head)[0])


class Proxy:
    """Listens on `port`, passes every frame on to `target`; `lose` is None, "request" or "answer": of every EndTxn."""

    def __init__(self, port, target):
        self.lose = None
        self.lost = 0
        self._target = target
        self._server = socket.create_server(("127.0.0.1", port))
        self._streams = [self._server]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._server.accept()
                self._streams.append(client)
                try:
                    broker = socket.create_connection(("127.0.0.1", self._target), timeout=5)
                except OSError:
                    client.close()
                    continue
                broker.settimeout(None)
                self._streams.append(broker)
                lost = set()  # correlation ids whose answers stay away
                threading.Thread(target=self._requests, args=(client, broker, lost), daemon=True).start()
                threading.Thread(target=self._answers, args=(broker, client, lost), daemon=True).start()

    def _requests(self, client, broker, lost):
        with contextlib.suppress(OSError), client, broker:
            while True:
                request = frame(client)
                kind, _, correlation = struct.unpack(">hhi", request[4:12])
                if kind == END_TXN and self.lose:
                    self.lost += 1
                    lost.add(correlation)
                    if self.lose == "request":
                        continue
                broker.sendall(request)

    def _answers(self, broker, client, lost):
        with contextlib.suppress(OSError), client, broker:
            while True:
                answer = frame(broker)
                if struct.unpack(">i", answer[4:8])[0] not in lost:
                    client.sendall(answer)

    def close(self):
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()
