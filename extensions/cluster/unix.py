"""Connects the nodes of one machine over Unix-domain sockets, each with each, in a directory that only they can use.

Each node listens on a socket whose file has the node's id as its name, `ID.sock`. Of two nodes, the one with the
greater id connects to the other. Nodes look for new files several times per second, so a node that is started again,
which has another id, is soon connected, also if the node that it replaces still runs.

On a connection, each message follows its length (4 bytes, network byte order). The first message of each end is
`HELLO` and its id.
"""

import asyncio
import os
import re
import socket
import stat
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog

from extensions.cluster.transport import MAX_PAYLOAD, Transport
from extensions.cluster.troubles import Trouble
from tracker.extension import BackgroundTasks, ConfigError

HELLO: Final = b"PSN1"
SCAN_PERIOD: Final = 0.1
"""Seconds between two looks for new nodes."""
HELLO_TIMEOUT: Final = 5.0
"""Seconds after which an accepted connection is closed if the other end has not introduced itself."""
STOP_TIMEOUT: Final = 1.0
"""Seconds that buffered messages have to go out when this node stops."""
MAX_BUFFERED: Final = 4 << 20
"""The most bytes that wait for one node. A message that exceeds them is not sent."""
_RECEIVE_BUFFER: Final = 256 << 10
_BACKLOG: Final = 256
_HEAD: Final = struct.Struct(">I")
_FILE_NAME: Final = re.compile(r"([0-9a-f]{16})\.sock")
_CREDENTIALS: Final = struct.Struct("3i")
"""Of the other end: process id, user id, group id."""


class UnixSockets(Transport):
    """The transport between the nodes of one machine.

    Args:
        directory: Only this user may have access to it. Its path and 22 characters must fit a socket's address, which
            has at most 107 bytes on Linux.
        log: A logger of structlog.
        task_failures: As of `BackgroundTasks`.

    Attributes:
        troubles: Counts connections that were refused or could not be made, and broadcasts that were not sent.

    Raises:
        ConfigError: from `start`, if the directory cannot be used, or if others than this user can.
    """

    def __init__(self, directory: Path, log: Any = None, task_failures: Counter[str] | None = None) -> None:
        self.max_payload: int = MAX_PAYLOAD
        self.needs_mac: bool = False
        self.troubles: Counter[Trouble] = Counter()
        self._directory = directory
        self._log = log or structlog.get_logger()
        self._node_id = ""
        self._nodes: dict[str, _Connection] = {}
        """The connections whose other end has introduced itself, by node id."""
        self._dialed: set[str] = set()
        """The ids of the nodes that this one has connected to."""
        self._gone: set[str] = set()
        """The nodes whose connection has ended, until their file is removed."""
        self._open: set[_Connection] = set()
        self._all_closed = asyncio.Event()
        self._receive: Callable[[bytes], None] = _ignore
        self._lost: Callable[[str], None] = _ignore
        self._server: asyncio.Server | None = None
        self._tasks = BackgroundTasks(task_failures)
        self._unreachable: set[str] = set()
        """The nodes that could not be connected to, so that the log tells once."""
        self.scratch = memoryview(bytearray(_RECEIVE_BUFFER))
        """All connections read into it, because each has used all data before the next one reads."""

    @property
    def nodes(self) -> list[str]:
        """The ids of the nodes that are connected."""
        return list(self._nodes)

    def reaches(self, node_id: str) -> bool:
        """Return whether a node is connected."""
        return node_id in self._nodes

    async def start(
        self,
        node_id: str,
        receive: Callable[[bytes], None],
        lost: Callable[[str], None],
        connected: Callable[[bool], None],
    ) -> None:
        self._node_id, self._receive, self._lost = node_id, receive, lost
        listener = self._listen()
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=listener)
        await self._scan()
        self._tasks.repeat("cluster_sockets", SCAN_PERIOD, self._scan)
        connected(True)

    async def stop(self) -> None:
        self._receive = self._lost = _ignore
        await self._tasks.stop()
        if self._server is not None:
            self._server.close()
            self._server = None
            with suppress(OSError):
                self._file(self._node_id).unlink()
        for connection in list(self._open):
            connection.close()
        if self._open:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._all_closed.wait(), STOP_TIMEOUT)
        for connection in list(self._open):
            connection.abort()

    def send(self, to: str, payload: bytes) -> bool:
        connection = self._nodes.get(to)
        return connection is not None and connection.send(payload)

    def broadcast(self, payload: bytes) -> None:
        for connection in self._nodes.values():
            if not connection.send(payload):
                self.troubles[Trouble.BUFFER_FULL] += 1

    def pending(self, to: str) -> int:
        connection = self._nodes.get(to)
        return connection.buffered if connection is not None else 0

    def opened(self, connection: "_Connection") -> bytes:
        """Register a connection. Return the message that introduces this node."""
        self._open.add(connection)
        self._all_closed.clear()
        return HELLO + self._node_id.encode()

    def introduced(self, connection: "_Connection", node_id: str) -> None:
        """Use a connection from now on, instead of any other one to the same node."""
        other = self._nodes.get(node_id)
        if other is not None:
            self.fail(other, Trouble.REPLACED)
            self.closed(other)
        self._nodes[node_id] = connection
        self._gone.discard(node_id)

    def is_acceptable(self, connection: "_Connection", node_id: str) -> bool:
        """Return whether the node at the other end may have this id."""
        return node_id == connection.expected if connection.expected else node_id > self._node_id

    def received(self, payload: bytes) -> None:
        """Pass a message to the node."""
        self._receive(payload)

    def fail(self, connection: "_Connection", trouble: Trouble) -> None:
        """Close a connection at once."""
        self.troubles[trouble] += 1
        node = connection.node_id or connection.expected
        if self._server is not None:
            self._log.warning("node_connection_failed", reason=trouble.value, node=node)
        connection.abort()

    def closed(self, connection: "_Connection") -> None:
        """Take notice of the end of a connection. May be called twice."""
        self._open.discard(connection)
        if not self._open:
            self._all_closed.set()
        if connection.expected and not connection.is_forgotten:
            self._dialed.discard(connection.expected)
        connection.is_forgotten = True
        node_id = connection.node_id
        if node_id and self._nodes.get(node_id) is connection:
            del self._nodes[node_id]
            # Its listening socket may be closed a moment later than the connection.
            self._gone.add(node_id)
            self._lost(node_id)

    def _file(self, node_id: str) -> Path:
        return self._directory / f"{node_id}.sock"

    def _listen(self) -> socket.socket:
        """Return a listening socket. Raises `ConfigError`."""
        # Other nodes take a file on which no process listens for that of a dead one, and remove it.
        draft = self._directory / f".{self._node_id}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            status = os.stat(self._directory)
            if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise ConfigError(f"{self._directory}: other users than this one can use the directory")
            listener.bind(str(draft))
            listener.listen(_BACKLOG)
            listener.setblocking(False)
            draft.rename(self._file(self._node_id))
        except OSError as error:
            listener.close()
            # The text of a path that is too long is no `strerror`.
            raise ConfigError(f"{self._directory}: {error.strerror or error}") from None
        except BaseException:
            listener.close()
            raise
        return listener

    async def _scan(self) -> None:
        """Connect to the nodes with smaller ids that have come since the last time; remove the files of dead ones."""
        try:
            names = os.listdir(self._directory)
            self._unreachable.discard("")
        except OSError as error:
            self._report_unreachable("", error)
            return
        listening = {match[1] for match in map(_FILE_NAME.fullmatch, names) if match}
        self._gone &= listening
        self._unreachable &= listening
        for node_id in listening:
            if node_id in self._gone:
                self._remove_if_dead(node_id)
            if node_id < self._node_id and node_id not in self._dialed:
                await self._dial(node_id)

    async def _dial(self, node_id: str) -> None:
        connector = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connector.setblocking(False)
        try:
            connector.connect(str(self._file(node_id)))
            self._dialed.add(node_id)
            make = asyncio.get_running_loop().create_unix_connection
            await make(lambda: _Connection(self, node_id), sock=connector)
            self._unreachable.discard(node_id)
        except ConnectionRefusedError:
            connector.close()
            self._remove_if_dead(node_id)
        except (BlockingIOError, FileNotFoundError):
            # Its backlog is full, or it has just ended.
            connector.close()
        except OSError as error:
            connector.close()
            self._dialed.discard(node_id)
            self._report_unreachable(node_id, error)

    def _report_unreachable(self, node_id: str, error: OSError) -> None:
        self.troubles[Trouble.UNREACHABLE] += 1
        if node_id not in self._unreachable:
            self._unreachable.add(node_id)
            self._log.warning("node_unreachable", node=node_id, error=error.strerror or str(error))

    def _remove_if_dead(self, node_id: str) -> None:
        """Remove the file of a node that has ended without doing so. Ids are random: no other node gets this one."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe, suppress(OSError):
            probe.setblocking(False)
            try:
                probe.connect(str(self._file(node_id)))
            except ConnectionRefusedError:
                self._file(node_id).unlink()


class _Connection(asyncio.BufferedProtocol):
    """A connection to another node.

    Attributes:
        node_id: The node at the other end; empty until it has introduced itself.
        expected: The node that was connected to; empty if the connection was accepted.
        is_forgotten: Whether `UnixSockets` has taken notice of its end.
    """

    def __init__(self, owner: UnixSockets, expected: str = "") -> None:
        self.node_id = ""
        self.expected = expected
        self.is_forgotten = False
        self._owner = owner
        self._transport: Any = None
        self._timeout: asyncio.TimerHandle | None = None
        self._kept = b""
        """The incomplete length of the next message."""
        self._message: bytearray | None = None
        """An incomplete message."""
        self._filled = 0

    @property
    def buffered(self) -> int:
        """The bytes that wait to be written."""
        return int(self._transport.get_write_buffer_size())

    def send(self, payload: bytes) -> bool:
        """Send a message. Return False if the buffer is full."""
        if self.buffered + len(payload) > MAX_BUFFERED or self._transport.is_closing():
            return False
        self._transport.writelines((_HEAD.pack(len(payload)), payload))
        return True

    def close(self) -> None:
        """Close the connection when all messages are written."""
        self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        hello = self._owner.opened(self)
        if not _is_same_user(transport.get_extra_info("socket")):
            self._owner.fail(self, Trouble.OTHER_USER)
            return
        self.send(hello)
        if not self.expected:
            self._timeout = asyncio.get_running_loop().call_later(HELLO_TIMEOUT, self._on_timeout)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self._timeout is not None:
            self._timeout.cancel()
        self._owner.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        if self._message is not None:
            return memoryview(self._message)[self._filled :]
        kept = len(self._kept)
        self._owner.scratch[:kept] = self._kept
        return self._owner.scratch[kept:]

    def buffer_updated(self, nbytes: int) -> None:
        if self._message is not None:
            self._filled += nbytes
            if self._filled == len(self._message):
                payload, self._message = bytes(self._message), None
                self._on_message(payload)
            return
        data = self._owner.scratch[: len(self._kept) + nbytes]
        self._kept = b""
        position = 0
        while position + 4 <= len(data):
            (length,) = _HEAD.unpack_from(data, position)
            if not 0 < length <= self._owner.max_payload:
                self._owner.fail(self, Trouble.INVALID_LENGTH)
                return
            position += 4
            end = position + length
            if end > len(data):
                self._message = bytearray(length)
                self._filled = len(data) - position
                self._message[: self._filled] = data[position:]
                return
            if not self._on_message(bytes(data[position:end])):
                return
            position = end
        self._kept = bytes(data[position:])

    def _on_message(self, payload: bytes) -> bool:
        """Handle a message. Return whether the connection is still of use."""
        if self.node_id:
            self._owner.received(payload)
        else:
            node_id = payload[len(HELLO) :].decode("latin-1")
            if (
                payload[: len(HELLO)] != HELLO
                or not _FILE_NAME.fullmatch(f"{node_id}.sock")
                or not self._owner.is_acceptable(self, node_id)
            ):
                self._owner.fail(self, Trouble.NOT_A_NODE)
                return False
            self.node_id = node_id
            if self._timeout is not None:
                self._timeout.cancel()
            self._owner.introduced(self, node_id)
        return not self.is_forgotten

    def _on_timeout(self) -> None:
        if not self.node_id:
            self._owner.fail(self, Trouble.NOT_A_NODE)


def _is_same_user(connection: Any) -> bool:
    """Return whether the process at the other end of a socket runs as the same user as this one.

    Where the system does not tell, the mode of the directory must do.
    """
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    credentials = connection.getsockopt(socket.SOL_SOCKET, option, _CREDENTIALS.size)
    return bool(_CREDENTIALS.unpack(credentials)[1] == os.geteuid())


def _ignore(_: object) -> None:
    pass
