"""One connection to a NATS server, by nats-py, until it ends; `extensions.cluster.nats` makes the next one.

nats-py can reconnect by itself. Then it gives up after some errors of a server, keeps messages for minutes, and hangs
if the server reads no more. Here it connects once, parses and writes. A `Connection` ends once, for one reason, and
closes in a bounded time.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext

from extensions.cluster.nats_options import NatsOptions, Secrets, Server
from extensions.cluster.nats_stream import CLOSE_TIMEOUT, NatsStream
from extensions.cluster.transport import MAX_PAYLOAD
from extensions.cluster.troubles import Trouble
from tracker.extension import BackgroundTasks, aside

CONNECT_TIMEOUT: Final = 5.0
"""Seconds for a connection with its login. Each step has `STEP_TIMEOUT`."""
STEP_TIMEOUT: Final = 2
PING_PERIOD: Final = 1.0
"""Seconds between a server's pong and the next ping."""
PING_TIMEOUT: Final = 3.0
"""Seconds after which a server that has not answered a ping is taken for dead."""
MIN_PAYLOAD: Final = 1 << 12
"""The least that a server must take as one message, in bytes."""
MAX_BUFFERED: Final = 4 << 20
"""The most bytes that wait to be written to the server. A message that exceeds them is not sent."""
# All that it logs are errors with a traceback, which a `Connection` tells in words.
logging.getLogger("nats.aio.client").setLevel(logging.CRITICAL)
_NEVER: Final = 1 << 30


class NatsError(Exception):
    """A connection could not be made, or has ended. The text is one line without credentials."""

    def __init__(self, trouble: Trouble, text: str) -> None:
        super().__init__(text)
        self.trouble = trouble


class Connection:
    """A connection to one server.

    Attributes:
        server: The server.
        ended: Set when the connection has ended or is of no use any more.
        end: The reason, from then on.
        is_leaving: Set when the server shuts down soon (lame duck mode) and asks its clients to go elsewhere.
        round_trip: Seconds between the last ping and its pong; 0 before the first one.
        published: Messages that were sent so far.
        slow: Messages that nats-py has dropped because this node did not take them fast enough.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.ended = asyncio.Event()
        self.end: NatsError | None = None
        self.is_leaving = asyncio.Event()
        self.round_trip = 0.0
        self.slow = 0
        self.published = 0
        self._stream = NatsStream()  # type: ignore[no-untyped-call]
        self._client = _Client(self._stream, server.is_tls, self._on_read_end)
        self._is_open = False
        self._max_payload = MAX_PAYLOAD
        self._watchdog = BackgroundTasks()

    @property
    def max_payload(self) -> int:
        """The longest message that the server takes, in bytes, but no more than `MAX_PAYLOAD`."""
        return self._max_payload

    @property
    def is_tls(self) -> bool:
        """Whether the connection is encrypted."""
        return self._stream.is_tls

    @property
    def pending(self) -> int:
        """The bytes that wait to be written."""
        return self._client.pending_data_size + self._stream.buffered

    @property
    def named(self) -> list[Any]:
        """The URLs of other servers that the server has named."""
        return self._client.discovered_servers

    async def open(self, options: NatsOptions, secrets: Secrets, name: str) -> None:
        """Connect and log in, under a name for the server's operator. Call `close` also if this fails.

        Raises:
            NatsError: if that fails.
        """
        scheme = "tls" if self.server.is_tls else "nats"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await self._client.connect(
                    [f"{scheme}://{self.server.name}"],
                    error_cb=self._on_error,
                    closed_cb=self._on_closed,
                    lame_duck_mode_cb=self._on_lame_duck,
                    name=name,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,
                    connect_timeout=STEP_TIMEOUT,
                    ping_interval=_NEVER,
                    no_echo=True,
                    tls=secrets.tls,
                    tls_hostname=self.server.tls_name,
                    # `publish` would wait when this is exceeded, which it never is.
                    pending_size=2 * MAX_BUFFERED,
                    **options.login(self.server, secrets),
                )
        except Exception as error:
            raise _failed(error) from None
        limit: Any = self._client.max_payload
        if not isinstance(limit, int) or limit < MIN_PAYLOAD:
            raise NatsError(Trouble.UNREACHABLE, f"its max_payload is not at least {MIN_PAYLOAD}")
        self._max_payload = min(limit, MAX_PAYLOAD)
        self._is_open = True
        self._watchdog.start("nats_watchdog", self._watch())

    async def subscribe(self, subject: str, receive: Callable[[bytes], None]) -> None:
        """Receive the messages of a subject, without headers. `receive` does not raise.

        Raises:
            NatsError: if the connection has ended.
        """

        async def on_long_message(message: Msg) -> None:
            receive(message.data)

        try:
            await self._client.subscribe(
                subject, cb=on_long_message, pending_msgs_limit=1 << 16, pending_bytes_limit=4 * MAX_BUFFERED
            )
        except nats.errors.Error as error:
            raise _failed(error) from None
        self._stream.receivers[subject.encode()] = receive

    async def settle(self) -> None:
        """Wait until the server has seen all that was sent, and told its objections.

        Raises:
            NatsError: if the connection has ended, maybe because of an objection.
        """
        try:
            await self._ping(STEP_TIMEOUT)
        except NatsError as error:
            self._finish(error)
            raise

    def publish(self, subject: str, payload: bytes) -> bool:
        """Send a message. Return False if it cannot be sent now."""
        if self.ended.is_set() or len(payload) > self.max_payload or self.pending + len(payload) > MAX_BUFFERED:
            return False
        # nats-py's `publish` would leave it to another task.
        self._stream.publish(subject.encode(), payload)
        self.published += 1
        return True

    def jetstream(self, timeout: float) -> JetStreamContext:
        """Return the interface to the server's JetStream, whose requests take at most `timeout` seconds."""
        return self._client.jetstream(timeout=timeout)

    async def close(self) -> None:
        """Close the connection at once. This neither raises nor takes long."""
        self._finish(NatsError(Trouble.LOST, "closed"))
        await self._watchdog.stop()
        self._stream.abort()
        # nats-py cancels its tasks.
        with suppress(Exception):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._client.close()

    async def _watch(self) -> None:
        """End the connection when the server does not answer a ping."""
        try:
            while True:
                self.round_trip = await self._ping(PING_TIMEOUT)
                await asyncio.sleep(PING_PERIOD)
        except NatsError as error:
            self._finish(error)

    async def _ping(self, timeout: float) -> float:  # noqa: ASYNC109 (it has two parts)
        """Send a ping and wait for its pong. Return the seconds between them. Raise `NatsError` if none comes."""
        ping = asyncio.ensure_future(self._client.rtt(_NEVER))
        end = asyncio.ensure_future(self.ended.wait())
        try:
            # In halves: if this process was stopped, the second one gives it the time to read the pong.
            for _ in range(2):
                await asyncio.wait([ping, end], timeout=timeout / 2, return_when=asyncio.FIRST_COMPLETED)
            if self.end is not None:
                raise self.end
            if not ping.done():
                raise NatsError(Trouble.STUCK, "no answer to a ping")
            return ping.result()
        except nats.errors.Error as error:
            raise _failed(error) from None
        finally:
            end.cancel()
            if not ping.done():
                # nats-py fails if it reads the pong of a ping that is no longer awaited.
                self._stream.abort()
                ping.cancel()
            elif not ping.cancelled():
                ping.exception()

    def _finish(self, end: NatsError) -> None:
        if not self.ended.is_set():
            self.end = end
            self.ended.set()

    async def _on_error(self, error: Exception) -> None:
        if not self._is_open:
            # nats-py would try again.
            raise error
        if isinstance(error, nats.errors.SlowConsumerError):
            self.slow += 1
        else:
            self._finish(_failed(error))

    async def _on_closed(self) -> None:
        error = self._client.last_error
        self._finish(_failed(error) if error else NatsError(Trouble.LOST, "closed by the server"))

    def _on_read_end(self) -> None:
        self._finish(NatsError(Trouble.LOST, "unreadable data from the server"))

    async def _on_lame_duck(self) -> None:
        self.is_leaving.set()


async def connect_any(options: NatsOptions, name: str) -> Connection:
    """Return a connection to any of the servers in the settings, which are tried once, in order.

    Raises:
        ConfigError: if a file of the settings cannot be used.
        NatsError: if none can be connected to.
    """
    secrets = await aside(options.read_files)
    failure = NatsError(Trouble.UNREACHABLE, "there are no servers")
    for server in options.servers:
        connection = Connection(server)
        try:
            await connection.open(options, secrets, name)
        except BaseException as error:
            await connection.close()
            if not isinstance(error, NatsError):
                raise
            failure = NatsError(error.trouble, f"{server.name}: {error}")
        else:
            return connection
    raise failure


class _Client(Client):
    """nats-py's client, which sends no credentials without TLS if the server's URL says `tls://`.

    It calls `on_read_end` when it reads no more, for any reason.
    """

    def __init__(self, stream: NatsStream, needs_tls: bool, on_read_end: Callable[[], None]) -> None:
        super().__init__()
        self._transport = stream
        self._needs_tls = needs_tls
        self._stream = stream
        self._on_read_end = on_read_end

    def _connect_command(self) -> bytes:
        if self._needs_tls and not self._stream.is_tls:
            raise nats.errors.SecureConnWantedError
        return super()._connect_command()

    async def _read_loop(self) -> None:
        try:
            await super()._read_loop()
        finally:
            self._on_read_end()


def _failed(error: BaseException) -> NatsError:
    """Return an exception of nats-py in words."""
    if isinstance(error, NatsError):
        return error
    if isinstance(error, ssl.SSLCertVerificationError):
        return NatsError(Trouble.UNREACHABLE, f"invalid certificate: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return NatsError(Trouble.UNREACHABLE, f"TLS failed: {error.reason or 'protocol error'}")
    if isinstance(error, nats.errors.SecureConnWantedError):
        return NatsError(Trouble.UNREACHABLE, "the server does not use TLS")
    if isinstance(error, socket.gaierror):
        return NatsError(Trouble.UNREACHABLE, error.strerror or "unknown host")
    if isinstance(error, ConnectionRefusedError):
        return NatsError(Trouble.UNREACHABLE, "connection refused")
    if isinstance(error, TimeoutError):
        return NatsError(Trouble.UNREACHABLE, "no answer")
    if isinstance(error, OSError):
        return NatsError(Trouble.UNREACHABLE, error.strerror or type(error).__name__)
    if isinstance(error, nats.errors.Error):
        text = str(error).removeprefix("nats: ").strip("'")
        return NatsError(_trouble_of(text.lower()), text)
    # Its text may have a part of a secret.
    return NatsError(Trouble.REFUSED, f"cannot log in: {type(error).__name__}")


def _trouble_of(text: str) -> Trouble:
    if "permissions violation" in text:
        return Trouble.FORBIDDEN
    if "auth" in text or "maximum connections" in text:
        return Trouble.REFUSED
    return Trouble.LOST
