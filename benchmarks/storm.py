"""Connections opened as fast as a tracker accepts them, as after an outage of the network.

Plain sockets and epoll are used, because a client library costs more CPU time for a connection than a tracker. Each
connection sends a WebSocket's opening handshake, waits for the response, and closes. Latencies are from the start of
the connection to the response.
"""

import select
import socket
import time
from collections.abc import Iterator
from typing import Final

from benchmarks.measure import Mark, latency, warm
from benchmarks.servers import Running
from benchmarks.suite import Figures, Result, Suite

AT_A_TIME: Final = 200
ADDRESSES: Final = 8
"""Source addresses. One alone would run out of ports while closed connections are in TIME_WAIT."""

HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_IN: Final = select.EPOLLIN
_OUT: Final = select.EPOLLOUT
_WAIT: Final = 0.1
_IP_BIND_ADDRESS_NO_PORT: Final = 24
"""The value in Linux' <linux/in.h>; Python has no name for it."""


class Storm:
    """Connections to one port, several at a time. Each sends a request and expects the beginning of a response."""

    def __init__(
        self, port: int, source: str | None = None, request: bytes = HANDSHAKE, start: bytes = b"HTTP/1.1 101"
    ) -> None:
        self.done = 0
        self.refused = 0
        """Connections closed, reset, or answered otherwise."""
        self.latencies: list[float] = []
        self._port = port
        self._source = source
        self._request = request
        self._start = start
        self._began: dict[int, tuple[socket.socket, float]] = {}
        self._epoll = select.epoll()

    def run(self, seconds: float, at_a_time: int = AT_A_TIME, most: int | None = None) -> None:
        """Open connections for some seconds, or until `most` of them have been answered or refused."""
        end = time.perf_counter() + seconds
        while time.perf_counter() < end and (most is None or self.done + self.refused < most):
            while len(self._began) < at_a_time:
                self._open()
            for file, events in self._epoll.poll(_WAIT):
                self._on(file, events)

    def close(self) -> None:
        """Close all open connections."""
        for one, _ in self._began.values():
            one.close()
        self._began.clear()
        self._epoll.close()

    def _open(self) -> None:
        one = socket.socket()
        one.setblocking(False)
        source = self._source or f"127.0.0.{1 + (self.done + len(self._began)) % ADDRESSES}"
        # The kernel chooses the port when connecting, and may take one that is in use towards another server.
        one.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        one.bind((source, 0))
        one.connect_ex(("127.0.0.1", self._port))
        self._began[one.fileno()] = one, time.perf_counter()
        self._epoll.register(one.fileno(), _OUT)

    def _on(self, file: int, events: int) -> None:
        one, began = self._began[file]
        try:
            if events & _OUT:
                one.send(self._request)
                self._epoll.modify(file, _IN)
                return
            answered = one.recv(1024).startswith(self._start)
        except OSError:
            answered = False
        if answered:
            self.done += 1
            self.latencies.append(time.perf_counter() - began)
        else:
            self.refused += 1
        del self._began[file]
        one.close()


def storm(suite: Suite) -> Iterator[Result]:
    """Connections opened as fast as they are accepted, 200 at a time, each closed when its handshake is done."""
    yield from suite.each("storm", f"handshakes, {AT_A_TIME} at a time", lambda server: under_storm(suite, server))


async def under_storm(suite: Suite, server: Running) -> Figures:
    """Measure a server that has just started while connections are opened."""
    await warm(server)
    crowd = Storm(server.port)
    try:
        # This blocks the event loop, which has no other task.
        crowd.run(suite.warm_up)
        crowd.latencies.clear()
        mark, refused = Mark.of(server, crowd.done), crowd.refused
        crowd.run(suite.seconds)
        figures = mark.until_now(server, crowd.done) | latency(crowd.latencies)
    finally:
        crowd.close()
    return {**figures, "refused": crowd.refused - refused}
