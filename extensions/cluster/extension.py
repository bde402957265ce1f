"""The extension `cluster`: many processes, on one machine or many, are one tracker."""

import asyncio
import secrets
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import Histogram

from extensions.cluster.metrics import ClusterCollector
from extensions.cluster.nats_options import NatsOptions
from extensions.cluster.reasons import Left, Refused
from extensions.cluster.settings import ClusterSettings
from extensions.cluster.troubles import Trouble
from extensions.identity import own_key, tracker_id
from tracker.extension import (
    ConfigError,
    ExpiringMap,
    Extension,
    Receiver,
    Stream,
    TokenBucket,
    TrackerHandle,
    __version__,
    aside,
)

if TYPE_CHECKING:
    # A tracker of one process imports none of these.
    from extensions.cluster.key import SharedKey
    from extensions.cluster.members import Member
    from extensions.cluster.node import Node
    from extensions.cluster.questions import Reply
    from extensions.cluster.streams import NodeStream
    from extensions.cluster.transport import Transport

ASK_TIMEOUT: Final = 5.0
"""Seconds to wait for the answer of the gateway."""

LOG_PERIOD: Final = 60.0
MAX_LOGGED: Final = 1000
"""Seconds until a refused message of the same node, for the same reason, is logged again; and number of these."""

MAX_LINES: Final = 20
"""Refused messages, and failures, that are logged in `LOG_PERIOD`: another program may write any id of a sender."""

GATEWAY: Final = "gateway"
"""The kind of questions that the gateway answers."""


class ClusterNode(Extension):
    """Makes this process a node: connects the hub, the node and the transport."""

    Settings = ClusterSettings
    wanted_by_workers = True
    connect: "Callable[[], Transport] | None" = None
    """Makes the transport, by default as the settings say."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.max_piece = 0
        """Bytes of the longest piece of data in a stream; 0 until the extension is prepared."""
        self.node: Node | None = None
        """None until the extension is prepared."""
        self.transport: Transport | None = None
        self.is_connected = False
        """Whether the transport works."""
        self.left: Counter[Left] = Counter()
        """The nodes that have left, by reason."""
        self._started = int(time.time())
        self._key: SharedKey | None = None
        self._answers: dict[str, Callable[[], Awaitable[bytes]]] = {}
        self._gateway = tracker.join_cluster(self)
        tracker.add_gather(self)
        self._logged: ExpiringMap[tuple[Refused, str], bool] = ExpiringMap(LOG_PERIOD, MAX_LOGGED)
        self._lines = TokenBucket(MAX_LINES / LOG_PERIOD, MAX_LINES, time.monotonic())
        self._round_trips = Histogram(
            "peerservers_cluster_round_trip_seconds",
            "Round trips of pings to other nodes",
            buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1),
            registry=tracker.registry,
        )
        # A node that is cut off must be seen in the metrics of all.
        tracker.merge_gauge("peerservers_cluster_nodes", "min")
        tracker.merge_gauge("peerservers_cluster_connected", "min")
        tracker.add_table("cluster", self.table)
        tracker.registry.register(ClusterCollector(self))

    @property
    def troubles(self) -> Counter[Trouble]:
        """The troubles of the transport, by kind."""
        troubles = getattr(self.transport, "troubles", None)
        return troubles if isinstance(troubles, Counter) else Counter()

    async def fetch_key(self) -> None:
        """Fetch the identity key that NATS keeps, if the settings say so, for all extensions."""
        settings = self.settings
        if settings.servers and settings.key == "nats":
            if self._key is None:
                from extensions.cluster.key import SharedKey

                self._key = SharedKey(self.tracker, NatsOptions(settings), settings.name)
            await self._key.fetch()

    async def prepare(self) -> None:
        from extensions.cluster.envelope import Sealer, derive_key
        from extensions.cluster.node import Node
        from extensions.cluster.streams import MAX_PIECE

        self.max_piece = MAX_PIECE
        if self.settings.servers:
            # A file that cannot be used is a mistake now, and trouble later.
            await aside(NatsOptions(self.settings).read_files)
        key = await own_key(self.tracker)
        transport = self.transport = (self.connect or self._make_transport)()
        node_id = secrets.token_hex(8)
        mac_key = derive_key(key.private_bytes_raw(), self.settings.name) if transport.needs_mac else None
        node = self.node = Node(
            node_id,
            _Load(self.tracker, self.settings, key, self._started),
            Sealer(node_id, self.settings.name, mac_key),
            transport,
            self.tracker.nodes,
            self.tracker.swarms,
            time.monotonic,
            self._soon,
            self,
        )
        node.parts.questions.on_ask(GATEWAY, self._on_question)
        for kind, answer in self._answers.items():
            node.parts.questions.on_ask(kind, partial(self._answer, kind, answer))
        # From now on: clients join before the extension starts.
        self.tracker.nodes.attach(node)

    async def start(self) -> None:
        from extensions.cluster.node import TICK

        assert self.node
        assert self.transport
        receive = partial(self._guarded, "message", self.node.receive)
        lost = partial(self._guarded, "lost", self.node.lost)
        await self.transport.start(self.node.node_id, receive, lost, self.on_connected)
        self.tracker.repeat_task("cluster_tick", TICK, self._tick)

    async def stop(self) -> None:
        assert self.node
        assert self.transport
        await self.tracker.stop_tasks()
        self._gateway.move(False)
        self.node.stop()
        await self.transport.stop()

    # The other nodes, for the rest of the tracker

    @property
    def label(self) -> str:
        """The name of this node among all."""
        return self._labels().get(self.node.node_id, "") if self.node else ""

    def others(self, everywhere: bool) -> int:
        """Return the number of other live nodes: of all, or only of the workers of this machine."""
        return len(self._others(everywhere))

    async def ask(self, kind: str, timeout: float, everywhere: bool) -> Mapping[str, bytes]:  # noqa: ASYNC109
        """Ask other nodes. Return the answers that come in time, by label."""
        labels = self._labels()
        answers = await self._ask(kind, b"", self._others(everywhere), timeout)
        return {labels.get(node_id, node_id): answer for node_id, answer in answers.items() if answer}

    def on_ask(self, kind: str, answer: Callable[[], Awaitable[bytes]]) -> None:
        """Let a function answer the questions of other nodes."""
        self._answers[kind] = answer
        if self.node is not None:
            self.node.parts.questions.on_ask(kind, partial(self._answer, kind, answer))

    def ask_gateway(self, question: bytes) -> Awaitable[bytes | None]:
        return self._ask_gateway(question)

    def open_stream(self, opening: bytes, receiver: Receiver) -> Stream | None:
        if self.node is None or self.node.parts.telling.gateway is None:
            return None
        return self.node.parts.streams.open(self.node.parts.telling.gateway, opening, receiver)

    def table(self) -> list[dict[str, Any]]:
        """Return the nodes for the page and the statistics, one row each."""
        if self.node is None:
            return []
        parts = self.node.parts
        swarms, seeders, leechers = self.tracker.local_counts
        rows = [
            {
                "label": parts.load.label,
                "node": self.node.node_id[:8],
                "version": parts.load.version,
                "connections": self.tracker.connections,
                "swarms": swarms,
                "peers": seeders + leechers,
                "latency_ms": 0.0,
                "since": self._started,
                "connected": self.is_connected,
                "gateway": parts.gateway.is_here,
            }
        ]
        rows += [
            {
                "label": member.label,
                "node": member.node_id[:8],
                "version": member.version,
                "connections": member.connections,
                "swarms": member.swarms,
                "peers": member.seeders + member.leechers,
                "latency_ms": round(member.latency * 1000, 2),
                "since": member.started,
                "connected": True,
                "gateway": member.is_gateway,
            }
            for member in parts.members.others.values()
        ]
        return sorted(rows, key=lambda row: (str(row["label"]), str(row["node"])))

    # What the node tells

    def node_joined(self, member: "Member") -> None:
        """Log that a node has joined."""
        log = self.tracker.log.debug if self._is_here(member) else self.tracker.log.info
        log("node_joined", node=member.node_id[:8], label=member.label, version=member.version)

    def node_left(self, member: "Member", why: Left) -> None:
        """Log that a node has left."""
        self.left[why] += 1
        log = self.tracker.log.warning
        if why is Left.STOPPED:
            log = self.tracker.log.debug if self._is_here(member) else self.tracker.log.info
        log("node_left", node=member.node_id[:8], label=member.label, reason=why)

    def gateway_changed(self, is_here: bool, node_id: str) -> None:
        """Start or stop the extensions that run at the gateway."""
        self.tracker.log.info("gateway_changed", here=is_here, node=node_id[:8] or "-")
        self._gateway.move(is_here)

    def refused(self, reason: Refused, sender: str) -> None:
        """Log a refused message."""
        now = time.monotonic()
        if self._logged.get((reason, sender), now) is None and self._lines.try_take(1, now):
            self._logged.put((reason, sender), True, now)
            self.tracker.log.warning("cluster_message_refused", reason=reason, node=sender[:8] or "-")

    def round_trip(self, seconds: float) -> None:
        """Count a round trip to another node."""
        self._round_trips.observe(seconds)

    def accept(self, opening: bytes, stream: "NodeStream") -> Receiver | None:
        """Accept a stream of another node."""
        return self._gateway.accept(opening, stream)

    # Details

    def _make_transport(self) -> "Transport":
        tracker, settings = self.tracker, self.settings
        worker = tracker.worker
        sockets = None
        if worker:
            from extensions.cluster.unix import UnixSockets

            sockets = UnixSockets(worker.directory, tracker.log, tracker.task_failures)
        if settings.servers:
            # Workers of one machine do not need these, nor the memory that they take.
            from extensions.cluster.both import Both
            from extensions.cluster.nats import Nats

            nats = Nats(NatsOptions(settings), settings.name, tracker.log, tracker.task_failures)
            return Both(sockets, nats) if sockets else nats
        if sockets is None:
            raise ConfigError("extensions.cluster.servers: needed, unless there are several workers (server.workers)")
        return sockets

    def on_connected(self, is_connected: bool) -> None:
        """Take notice that the transport works, or no longer does."""
        if is_connected != self.is_connected:
            self.is_connected = is_connected
            if self.node is not None:
                self._guarded("connected", self.node.connected, is_connected)
            if is_connected:
                self.tracker.log.info("cluster_transport_up")
            else:
                self.tracker.log.warning("cluster_transport_down")

    async def _tick(self) -> None:
        assert self.node
        self.node.tick()

    def _soon(self, function: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._guarded, "turn", function)

    def _is_here(self, member: "Member") -> bool:
        """Return whether a node is a worker of this machine, of which the supervisor tells."""
        group = self.node.parts.load.group if self.node else ""
        return group != "" and member.group == group

    def _guarded(self, where: str, function: Callable[..., None], *arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            # Neither the transport nor the loop could do anything about it. It may happen at every message.
            if self._lines.try_take(1, time.monotonic()):
                self.tracker.log.exception("extension_failed", on=where)

    async def _ask_gateway(self, question: bytes) -> bytes | None:
        gateway = self.node.parts.telling.gateway if self.node else None
        if gateway is None:
            return None
        answers = await self._ask(GATEWAY, question, [gateway.node_id], ASK_TIMEOUT)
        return answers.get(gateway.node_id)

    async def _ask(self, kind: str, data: bytes, nodes: list[str], timeout: float) -> dict[str, bytes]:  # noqa: ASYNC109
        if self.node is None:
            return {}
        waiting: asyncio.Future[dict[str, bytes]] = asyncio.get_running_loop().create_future()

        def done(answers: dict[str, bytes]) -> None:
            if not waiting.done():
                waiting.set_result(answers)

        self.node.parts.questions.ask(kind, data, nodes, timeout, done)
        return await waiting

    def _on_question(self, question: bytes, reply: "Reply") -> None:
        self._answer(GATEWAY, partial(self._gateway.answer, question), b"", reply)

    def _answer(self, kind: str, answer: Callable[[], Awaitable[bytes]], _question: bytes, reply: "Reply") -> None:
        async def run() -> None:
            reply(await answer())

        self.tracker.start_task(f"cluster_answer_{kind}", run())

    def _others(self, everywhere: bool) -> list[str]:
        if self.node is None:
            return []
        others = self.node.parts.members.others
        return [node_id for node_id, one in others.items() if everywhere or self._is_here(one)]

    def _labels(self) -> dict[str, str]:
        """Return a name for each node: its label, with the first digits of its id if several have the same label."""
        if self.node is None:
            return {}
        parts = self.node.parts
        labels = {self.node.node_id: parts.load.label}
        labels.update({node_id: member.label for node_id, member in parts.members.others.items()})
        times = Counter(labels.values())
        return {node_id: label if times[label] == 1 else f"{label}-{node_id[:4]}" for node_id, label in labels.items()}


class _Load:
    """This node, as its heartbeats describe it."""

    def __init__(self, tracker: TrackerHandle, settings: ClusterSettings, key: Ed25519PrivateKey, started: int) -> None:
        host, worker = socket.gethostname()[:48], tracker.worker
        self.label = settings.label or host
        self.group = ""
        if worker is not None:
            self.label += f"-{worker.index}"
            self.group = f"{host} {worker.directory}"
        self.version = __version__
        self.tracker_id = tracker_id(key)
        self.started = started
        self.is_capable = tracker.needs_gateway
        self._tracker = tracker

    def numbers(self) -> tuple[int, int, int, int]:
        return self._tracker.connections, *self._tracker.local_counts
