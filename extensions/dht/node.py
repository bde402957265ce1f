"""The node: a libtorrent session that does nothing but take part in the DHT, driven from asyncio.

libtorrent's Python binding needs some care. Alerts are signalled through a file descriptor, because a callback can
deadlock on the interpreter's lock. They are read at once, because they are valid only until the next `pop_alerts`. And
the session ends in an executor, because that waits for its threads.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Final, cast

import libtorrent as lt
import structlog

from extensions.dht.krpc import bencode
from extensions.dht.krpc.messages import Address, Contact
from extensions.dht.krpc.sockets import family_of
from extensions.dialing import lookup
from tracker.extension import BackgroundTasks

SETTLE: Final = 0.2
"""Seconds that a new session needs before it contacts nodes that are added."""

_SAVE: Final = lt.save_state_flags_t.save_dht_state

_CATEGORY = lt.alert.category_t
_SETTINGS: Final[dict[str, Any]] = {
    "enable_dht": True,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    # It listens on each address of the host: those that come later too, because many hosts have none at boot.
    "enable_ip_notifier": True,
    "enable_incoming_tcp": False,
    "enable_outgoing_tcp": False,
    "enable_incoming_utp": False,
    "enable_outgoing_utp": False,
    "connections_limit": 2,
    "aio_threads": 1,
    "hashing_threads": 1,
    "auto_manage_interval": 3600,
    "alert_mask": int(_CATEGORY.error_notification) | int(_CATEGORY.status_notification),
    "alert_queue_size": 5000,
    # libtorrent drops queries while its quota is used up, and the default quota is that of a dial-up line.
    "dht_upload_rate_limit": 1_000_000,
    "recv_socket_buffer_size": 1 << 20,
    "send_socket_buffer_size": 1 << 20,
}
_PRIVATE: Final[dict[str, Any]] = {
    "dht_restrict_routing_ips": False,
    "dht_restrict_search_ips": False,
    "dht_prefer_verified_node_ids": False,
    "dht_ignore_dark_internet": False,
    "dht_upload_rate_limit": 100_000_000,
    "dht_block_ratelimit": 1_000_000,
    "dht_block_timeout": 1,
    "dht_max_dht_items": 100_000,
}


class Node:
    """A member of the DHT.

    `listen` and `bootstrap` are addresses and names of the form "host:port". `private` lifts the limits per address.
    `task_failures` counts the background tasks that fail, by name.
    """

    def __init__(
        self, listen: list[str], bootstrap: list[str], private: bool, task_failures: Counter[str] | None = None
    ) -> None:
        self.stats: dict[str, int] = {}
        """libtorrent's counters and gauges as of the last refresh."""
        self.addresses: list[Address] = []
        """The addresses on which it listens."""
        self._is_private = private
        self._families = {family_of(address.rpartition(":")[0]) for address in listen}
        self._ports = {int(address.rpartition(":")[2]) for address in listen}
        self._bootstrap = bootstrap
        self._settings = {
            **_SETTINGS,
            **(_PRIVATE if private else {}),
            "listen_interfaces": ",".join(listen),
            # libtorrent queries the nodes named here, but never adds them to its routing table, where the nodes of a
            # small network must be; so bootstrap nodes are added like any other. An empty text would make it ignore
            # the saved state.
            "dht_bootstrap_nodes": "127.0.0.1:9",
        }
        self._live: dict[bytes, list[Contact]] = {}
        self._ids: list[bytes] = []
        self._session: Any = None
        self._making: asyncio.Future[Any] | None = None
        self._joining: set[str] = set()
        self._unknown: set[str] = set()
        """Bootstrap names that could not be resolved the last time."""
        self._tasks = BackgroundTasks(task_failures)
        self._stats_waiting: list[asyncio.Future[None]] = []
        self._log = structlog.get_logger().bind(extension="dht")
        # Its own executor: shutting down must not wait for a resolver that is stuck in the loop's executor.
        self._executor = ThreadPoolExecutor(1, "dht-node")

    @property
    def size(self) -> int:
        """The number of nodes in the routing table."""
        return self.stats.get("dht.dht_nodes", 0)

    @property
    def ids(self) -> list[bytes]:
        """Its node ids (20 bytes each), one for each address on which it listens."""
        return list(self._ids)

    @property
    def is_running(self) -> bool:
        """Whether it has a session."""
        return self._session is not None

    @property
    def has_contacts(self) -> bool:
        """Whether any other node is known."""
        return any(self._live.values())

    def contacts(self, family: int) -> list[Contact]:
        """Return the nodes of the routing table in an address family (4 or 6)."""
        return [contact for live in self._live.values() for contact in live if family_of(contact.address[0]) == family]

    async def start(self, state: bytes | None) -> None:
        """Start, with a saved state if one is given."""
        self._loop = asyncio.get_running_loop()
        parameters = lt.session_params()
        if state:
            try:
                parameters = lt.read_session_params(state, _SAVE)
            except RuntimeError as error:
                self._log.warning("dht_state_ignored", error=str(error))
        parameters.settings = cast(Any, self._settings)
        # libtorrent writes to the descriptor from its own thread, which must never block.
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        # If this is cancelled, `close` still has a session to end.
        self._making = self._loop.run_in_executor(self._executor, lt.session, parameters)
        self._session = await asyncio.shield(self._making)
        self._loop.add_reader(self._wake, self._on_alerts)
        self._session.set_alert_fd(self._waker.fileno())
        await asyncio.sleep(SETTLE)

    def join(self) -> None:
        """Add the bootstrap nodes, each as soon as its name is resolved.

        Addresses of a family on which it does not listen are left out. A name that cannot be resolved is logged once,
        until it can.
        """
        for name in self._bootstrap:
            if name not in self._joining:
                self._joining.add(name)
                self._tasks.start("dht_join", self._join_at(name))

    def add(self, address: Address) -> None:
        """Add a node, which stays in the routing table if it answers."""
        self._session.add_dht_node(address)

    async def refresh(self) -> None:
        """Update the statistics and the routing table from libtorrent."""
        done = self._loop.create_future()
        self._stats_waiting.append(done)
        self._session.post_session_stats()
        for node_id in self._ids:
            self._session.dht_live_nodes(lt.sha1_hash(node_id))
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                await done

    async def state(self) -> bytes:
        """Return the state for the next start. Also update `ids`, which may change with our address."""
        session = self._session

        def save() -> bytes:
            return bytes(lt.write_session_params_buf(session.session_state(_SAVE), _SAVE))

        saved = await self._loop.run_in_executor(self._executor, save)
        ids = bencode.decode(saved).get(b"dht state", {}).get(b"node-id", [])
        self._ids = [node_id[:20] for node_id in ids]
        for gone in self._live.keys() - set(self._ids):
            del self._live[gone]
        return saved

    async def close(self) -> None:
        """End the session, and wait for its threads without blocking the loop."""
        await self._tasks.stop()
        if self._making is None:
            return
        making, self._making = self._making, None
        box: list[Any] = []
        with suppress(Exception):
            box.append(await making)
        self._session = None
        del making
        self._loop.remove_reader(self._wake)
        await self._loop.run_in_executor(self._executor, box.clear)
        # Not earlier, because libtorrent writes to this descriptor until its session has ended.
        self._wake.close()
        self._waker.close()
        # It has nothing left to do, and its thread must end before the interpreter does.
        self._executor.shutdown()

    def _on_alerts(self) -> None:
        with suppress(BlockingIOError):
            while len(self._wake.recv(4096)) == 4096:
                pass
        for alert in self._session.pop_alerts():
            if isinstance(alert, lt.session_stats_alert):
                self.stats = {key: value for key, value in alert.values.items() if key.startswith("dht.")}
                waiting, self._stats_waiting = self._stats_waiting, []
                for done in waiting:
                    if not done.done():
                        done.set_result(None)
            elif isinstance(alert, lt.dht_live_nodes_alert):
                node_id = alert.node_id.to_bytes()
                if node_id in self._ids:
                    self._live[node_id] = [_contact(node) for node in alert.nodes]
            elif isinstance(alert, lt.listen_succeeded_alert):
                address = alert.address, alert.port
                if "udp" in str(alert.socket_type).lower() and address not in self.addresses:
                    self.addresses.append(address)
                    self._log.info("dht_listening", host=alert.address, port=alert.port)
                    if not {0, alert.port} & self._ports:
                        # libtorrent has taken the next free port, which a firewall may block.
                        self._log.warning("dht_port_taken", wanted=sorted(self._ports), port=alert.port)
            elif isinstance(alert, lt.listen_failed_alert):
                if "udp" in str(alert.socket_type).lower():
                    self._log.warning("dht_listen_failed", host=alert.address, port=alert.port, error=str(alert.error))
            elif isinstance(alert, lt.alerts_dropped_alert):
                self._log.warning("dht_alerts_dropped")

    async def _join_at(self, name: str) -> None:
        host, _, port = name.rpartition(":")
        try:
            addresses = await lookup(host.strip("[]"))
            families = families_of(self.addresses, self._is_private) or self._families
            for address in addresses:
                if family_of(address) in families:
                    self.add((address, int(port)))
            self._unknown.discard(name)
        except (OSError, UnicodeError) as error:
            if name not in self._unknown:
                self._unknown.add(name)
                reason = error.strerror if isinstance(error, OSError) else None
                self._log.warning("dht_bootstrap_unknown", name=host, error=reason or str(error))
        except Exception:
            self._log.exception("dht_join_failed", name=host)
        finally:
            self._joining.discard(name)


def families_of(addresses: Iterable[Address], private: bool) -> set[int]:
    """Return the address families (4, 6) in which a node at these addresses can be reached.

    Without `private`, loopback and link-local addresses do not count.
    """

    def is_local(host: str) -> bool:
        address = ip_address(host)
        return address.is_loopback or address.is_link_local

    return {family_of(host) for host, _ in addresses if private or not is_local(host)}


def _contact(node: Any) -> Contact:
    host, port = node["endpoint"]
    return Contact(node["nid"].to_bytes(), (host, port))
