"""Connects nodes over NATS: any of several servers, for ever again, with no message kept meanwhile.

Each node subscribes to `peerservers.NAME.node.ID`, where other nodes send messages to it, and for broadcasts to
`peerservers.NAME.nodes`. NAME is the name of the cluster. Any program with access to the subjects can write to them.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from extensions.cluster.nats_connection import MAX_BUFFERED, Connection, NatsError
from extensions.cluster.nats_options import NatsOptions, Server, neighbours
from extensions.cluster.transport import MAX_PAYLOAD, Random, Transport
from extensions.cluster.troubles import Trouble
from tracker.extension import BackgroundTasks, ConfigError, aside

FIRST_DELAY: Final = 0.25
"""Seconds before the servers are tried again. Each time it doubles, up to `MAX_DELAY`."""
MAX_DELAY: Final = 5.0
STOP_TIMEOUT: Final = 1.0
"""Seconds that buffered messages have to go out when this node stops."""
CANCEL_PERIOD: Final = 0.1
"""Seconds after which the task that connects is cancelled again."""
_MAX_SERVERS: Final = 64
"""The most servers that are remembered because other ones have named them."""


class Nats(Transport):
    """The transport over NATS.

    Args:
        options: Servers and credentials.
        name: The name of the cluster.
        log: A logger of structlog.
        task_failures: As of `BackgroundTasks`.
        random: A source of uniform floats in [0, 1), for the delays between attempts.

    Attributes:
        troubles: Counts failed attempts and lost connections by reason, and broadcasts that were not sent.
        connects: Connections that were made so far.
        connection: The connection in use, or None.

    Raises:
        ConfigError: from `start`, if a file of the settings cannot be used.
    """

    def __init__(
        self,
        options: NatsOptions,
        name: str,
        log: Any = None,
        task_failures: Counter[str] | None = None,
        random: Random = random.random,
    ) -> None:
        self.max_payload: int = MAX_PAYLOAD
        self.needs_mac: bool = True
        self.troubles: Counter[Trouble] = Counter()
        self.connects = 0
        self.connection: Connection | None = None
        self._options = options
        self._prefix = f"peerservers.{name}"
        self._log = log or structlog.get_logger()
        self._random = random
        self._node_id = ""
        self._receive: Callable[[bytes], None] = _ignore
        self._connected: Callable[[bool], None] = _ignore
        self._tasks = BackgroundTasks(task_failures)
        self._closing = BackgroundTasks(task_failures)
        self._named: dict[str, Server] = {}
        """Servers that are not in the settings, by host and port."""
        self._logged: set[tuple[str, str]] = set()
        """Servers and texts that the log has told of since the last connection."""

    @property
    def servers_named(self) -> int:
        """Servers that are known because another one has named them."""
        return len(self._named)

    @property
    def slow(self) -> int:
        """Messages that were dropped because this node did not take them fast enough, over the connection in use."""
        return self.connection.slow if self.connection else 0

    @property
    def round_trip(self) -> float:
        """Seconds between the last ping to the server and its pong; 0 if it is unknown."""
        return self.connection.round_trip if self.connection else 0.0

    async def start(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],  # noqa: ARG002 (NATS does not tell)
        connected: Callable[[bool], None],
    ) -> None:
        self._node_id, self._receive, self._connected = node_id, receive, connected
        await aside(self._options.read_files)
        self._tasks.start("cluster_nats", self._run(), endless=True)

    async def stop(self) -> None:
        self._receive = self._connected = _ignore
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(NatsError, TimeoutError):
                await asyncio.wait_for(connection.settle(), STOP_TIMEOUT)
        # Before Python 3.12, `asyncio.wait_for` may lose a cancellation, and nats-py uses it.
        while not await self._tasks.stop(CANCEL_PERIOD):
            pass
        # Also one that has just taken the place of the other.
        for one in (connection, self.connection):
            if one is not None:
                self._close(one)
        self.connection = None
        await self._closing.wait(STOP_TIMEOUT)

    def send(self, to: str, payload: bytes) -> bool:
        connection = self.connection
        return connection is not None and connection.publish(f"{self._prefix}.node.{to}", payload)

    def broadcast(self, payload: bytes) -> None:
        connection = self.connection
        if connection is not None and not connection.publish(f"{self._prefix}.nodes", payload):
            self.troubles[Trouble.BUFFER_FULL] += 1

    def pending(self, to: str) -> int:  # noqa: ARG002 (all nodes share one connection)
        # Soon there may be another connection: until then, senders keep their messages.
        connection = self.connection
        return MAX_BUFFERED if connection is None or connection.ended.is_set() else connection.pending

    async def _run(self) -> None:
        """Connect, again and again."""
        delay = FIRST_DELAY
        while True:
            connection = await self._connect()
            if connection is None:
                await asyncio.sleep(delay * (1 - self._random() / 2))
                delay = min(2 * delay, MAX_DELAY)
                continue
            delay = FIRST_DELAY
            while connection is not None:
                connection = await self._use(connection)

    async def _use(self, connection: Connection) -> Connection | None:
        """Use a connection until it ends. Return the one that takes its place before that, or None."""
        is_first, self.connection = self.connection is None, connection
        self.max_payload = connection.max_payload
        self.connects += 1
        self._logged.clear()
        self._log.info("nats_connected", server=connection.server.name)
        if is_first:
            self._connected(True)
        successor = None
        try:
            await self._wait(connection)
            self._remember(connection)
            delay = FIRST_DELAY
            while successor is None and not connection.ended.is_set():
                # The server is about to shut down: first another connection, then the end of this one.
                successor = await self._connect(besides=connection.server)
                if successor is None:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(connection.ended.wait(), delay)
                    delay = min(2 * delay, MAX_DELAY)
        finally:
            self.connection = successor
            if successor is not None and not connection.ended.is_set():
                with suppress(NatsError):
                    await connection.settle()
            elif connection.end is not None:
                self._report(connection.server, connection.end)
            if successor is None:
                self._connected(False)
            self._close(connection)
        return successor

    async def _wait(self, connection: Connection) -> None:
        """Wait until a connection has ended or is about to."""
        waits = [asyncio.ensure_future(event.wait()) for event in (connection.ended, connection.is_leaving)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    async def _connect(self, besides: Server | None = None) -> Connection | None:
        """Try each server once, in random order, those of the settings first. Return the first connection."""
        try:
            secrets = await aside(self._options.read_files)
        except ConfigError as error:
            self._note(self._options.servers[0], Trouble.REFUSED, str(error))
            return None
        known = {server.name for server in self._options.servers}
        rounds = [list(self._options.servers), [one for one in self._named.values() if one.name not in known]]
        for servers in rounds:
            servers.sort(key=lambda _: self._random())
            for server in servers:
                if besides is not None and server.name == besides.name:
                    continue
                connection = Connection(server)
                try:
                    await connection.open(self._options, secrets, f"peerservers {self._node_id}")
                    await self._subscribe(connection)
                except NatsError as error:
                    self._close(connection)
                    self._report(server, error)
                    continue
                except BaseException:
                    self._close(connection)
                    raise
                self._remember(connection)
                return connection
        return None

    def _close(self, connection: Connection) -> None:
        # A task of its own, because this one may be cancelled.
        self._closing.start("cluster_nats_close", connection.close())

    async def _subscribe(self, connection: Connection) -> None:
        """Subscribe, and check that this node may use all subjects that it needs. Raises `NatsError`."""

        def on_message(payload: bytes) -> None:
            if len(payload) > MAX_PAYLOAD:
                self.troubles[Trouble.TOO_LONG] += 1
            # Empty messages are those that nodes send below.
            elif payload:
                try:
                    self._receive(payload)
                except Exception:
                    # nats-py would take it for an error of the connection.
                    self._log.exception("extension_failed", on="cluster_message")

        subjects = (f"{self._prefix}.nodes", f"{self._prefix}.node.{self._node_id}")
        for subject in subjects:
            await connection.subscribe(subject, on_message)
            connection.publish(subject, b"")
        await connection.settle()

    def _remember(self, connection: Connection) -> None:
        """Remember the servers that a server has named; forget those that earlier ones have named."""
        named = {server.name: server for server in neighbours(connection.server, connection.named)}
        self._named = dict(list(named.items())[:_MAX_SERVERS])

    def _report(self, server: Server, error: NatsError) -> None:
        self._note(server, error.trouble, str(error))

    def _note(self, server: Server, trouble: Trouble, text: str) -> None:
        """Count trouble with a server. Log it once until there is a connection."""
        self.troubles[trouble] += 1
        key = (server.name, text)
        if key not in self._logged and len(self._logged) < _MAX_SERVERS:
            self._logged.add(key)
            self._log.warning("nats_unavailable", server=server.name, reason=trouble.value, error=text)


def _ignore(_: object) -> None:
    pass
