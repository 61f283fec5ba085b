"""A TCP proxy on loopback that can hold back what a producer sends to a broker, and let it go later.

Only Produce requests for one topic are held, and what comes behind them on the same connection (a broker answers in order); fetches,
heartbeats and commits go on. What is held is kept also when its sender has ended.
"""

from __future__ import annotations

import socket
import struct
import threading
from queue import Queue
from types import TracebackType
from typing import Self

PRODUCE = 0  # the key of the request in Kafka's protocol


class DelayingProxy:
    """Listens on `port` of 127.0.0.1; set `target` before the first client comes."""

    def __init__(self) -> None:
        self.target = ("127.0.0.1", 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.held: list[bytes] = []
        """The requests that are or were held back since the last `hold`, in the order in which they came."""
        self.late = 0
        """How many requests went on that had been held back first in their connection."""
        self._topic = b""
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        self._start(self._accept)

    @property
    def address(self) -> str:
        """For a client's bootstrap servers."""
        return f"127.0.0.1:{self.port}"

    def hold(self, topic: str) -> None:
        """From now on let no Produce request for this topic through."""
        self.held, self._topic = [], topic.encode()
        self._open.clear()

    def release(self) -> None:
        """Let what is held go, in order, and everything after it."""
        self._open.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        try:
            broker = socket.create_connection(self.target)
        except OSError:
            client.close()
            return
        self._sockets += [client, broker]
        requests: Queue[bytes] = Queue()
        self._start(_copy, broker, client)
        self._start(self._forward, requests, broker)
        try:
            self._receive(client, requests)
        except OSError:
            pass  # the client has gone
        finally:
            requests.put(b"")

    def _receive(self, client: socket.socket, requests: Queue[bytes]) -> None:
        with client.makefile("rb") as stream:
            while len(head := stream.read(4)) == 4:
                request = head + stream.read(struct.unpack(">i", head)[0])
                if self._is_held(request):
                    self.held.append(request)
                requests.put(request)

    def _forward(self, requests: Queue[bytes], broker: socket.socket) -> None:
        try:
            while request := requests.get():
                if self._is_held(request):
                    self._open.wait()
                    broker.sendall(request)
                    self.late += 1
                else:
                    broker.sendall(request)
        except OSError:
            pass  # the broker has gone
        finally:
            broker.close()

    def _is_held(self, request: bytes) -> bool:
        produces = struct.unpack_from(">h", request, 4)[0] == PRODUCE
        return produces and self._topic in request and not self._open.is_set()

    @staticmethod
    def _start(target: object, *arguments: object) -> None:
        threading.Thread(target=target, args=arguments, daemon=True).start()  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.set()
        for one in (self._listener, *self._sockets):
            one.close()


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
    except OSError:
        pass
    finally:
        target.close()
