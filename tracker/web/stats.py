"""Statistics with the field names of npm's bittorrent-tracker, for programs that read its `/stats.json`."""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import structlog

from tracker.core.hub import Hub
from tracker.web.distinct import EMPTY, Distinct, merged

Rows = list[dict[str, Any]]
"""Rows of a table: in each, texts and numbers by column."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table that an extension shows. With `links`, its rows are links to other trackers, and the page draws them."""

    rows: Callable[[], Rows]
    links: bool = False


MAX_AGE: Final = 5.0
"""Seconds for which a count is reused, because counting visits every peer."""

MAX_CLIENTS: Final = 200
"""Limit of distinct client versions; peers of any others are counted as `other`."""

_OTHER: Final = ("other", "-")
"""The name and version that stand for all further ones."""

_CHUNK: Final = 2000

# Codes of clients that speak WebRTC, as in the package `bittorrent-peerid`, which bittorrent-tracker uses.
_CLIENTS: Final = {
    "WW": "WebTorrent",
    "WD": "WebTorrent Desktop",
    "LT": "libtorrent (Rasterbar)",
    "BI": "BiglyBT",
    "GT": "GoTorrent",
    "lt": "libTorrent (Rakshasa)",
    "qB": "qBittorrent",
    "TR": "Transmission",
    "DE": "Deluge",
    "PT": "PeerTube",
}
_AZUREUS = re.compile(r"-([A-Za-z]{2})([0-9A-Za-z]{4})-")


@dataclass(slots=True)
class Statistics:
    """Counts of distinct peer_ids: a peer_id in several swarms counts once."""

    torrents: int = 0
    peers_all: int = 0
    peers_seeder_only: int = 0
    peers_leecher_only: int = 0
    peers_seeder_and_leecher: int = 0
    peers_ipv4: int = 0
    peers_ipv6: int = 0
    clients: dict[str, dict[str, int]] = field(default_factory=dict)
    swarms: bytes = EMPTY
    """A sketch of the swarms (`tracker.web.distinct`)."""

    def plus(self, others: Sequence["Statistics"]) -> "Statistics":
        """Return the statistics of this process and others: swarms are counted once, and peers are summed."""
        each = [self, *others]
        union = merged(one.swarms for one in each)
        clients: dict[str, dict[str, int]] = {}
        different = 0
        for name, version, number in (
            (name, version, number)
            for one in each
            for name, versions in one.clients.items()
            for version, number in versions.items()
        ):
            if different >= MAX_CLIENTS and version not in clients.get(name, {}):
                name, version = _OTHER
            versions = clients.setdefault(name, {})
            different += version not in versions
            versions[version] = versions.get(version, 0) + number
        return Statistics(
            torrents=union.count,
            peers_all=sum(one.peers_all for one in each),
            peers_seeder_only=sum(one.peers_seeder_only for one in each),
            peers_leecher_only=sum(one.peers_leecher_only for one in each),
            peers_seeder_and_leecher=sum(one.peers_seeder_and_leecher for one in each),
            peers_ipv4=sum(one.peers_ipv4 for one in each),
            peers_ipv6=sum(one.peers_ipv6 for one in each),
            clients=clients,
            swarms=union.pack(),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the statistics under bittorrent-tracker's names.

        Every swarm is active, because this tracker frees empty ones.
        """
        return {
            "torrents": self.torrents,
            "activeTorrents": self.torrents,
            "peersAll": self.peers_all,
            "peersSeederOnly": self.peers_seeder_only,
            "peersLeecherOnly": self.peers_leecher_only,
            "peersSeederAndLeecher": self.peers_seeder_and_leecher,
            "peersIPv4": self.peers_ipv4,
            "peersIPv6": self.peers_ipv6,
            "clients": self.clients,
        }


OFF: Final = "extensionsOff"
"""The field of `/stats.json` with the extensions that are off."""

_FIELDS: Final = frozenset((*Statistics().as_json(), OFF))


class Tables:
    """The tables that extensions show on the page and in `/stats.json`, by name, and the extensions that are off."""

    def __init__(self) -> None:
        self.tracker_id = ""
        """The public key of the tracker in hexadecimal digits, if an extension has one."""
        self.off: dict[str, str] = {}
        """Why an extension is off, by its name."""
        self.off_elsewhere: dict[str, str] = {}
        """The same for extensions that run in another process of this tracker."""
        self.refresh: Callable[[], Awaitable[None]] = _nothing
        """To be awaited before tables are shown: some may come from another process. It does not raise."""
        self._tables: dict[str, Table] = {}

    @property
    def all_off(self) -> dict[str, str]:
        """Why an extension of this tracker is off, by its name."""
        return {**self.off_elsewhere, **self.off}

    def add(self, name: str, table: Table) -> None:
        """Add a table.

        Raises:
            ValueError: another table has this name, or it is the name of one of the other fields of `/stats.json`.
        """
        if name in self._tables or name in _FIELDS:
            raise ValueError(f"the table name {name} is taken")
        self._tables[name] = table

    def names_of_links(self) -> list[str]:
        """Return the names of the tables that hold links to other trackers."""
        return [name for name, table in self._tables.items() if table.links]

    def read(self) -> dict[str, Rows]:
        """Return the rows of each table by its name. A table that fails is logged and has no rows."""
        return {name: self.rows_of(name) for name in self._tables}

    def rows_of(self, name: str) -> Rows:
        """Return the rows of one table."""
        try:
            return [{str(column): cell for column, cell in row.items()} for row in self._tables[name].rows()]
        except Exception:
            structlog.get_logger().exception("extension_failed", extension=name, on="table")
            return []


async def _nothing() -> None:
    """Do nothing."""


class StatisticsCache:
    """Counts at most once in `MAX_AGE`, however many requests there are."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._counted_at = -MAX_AGE
        self.latest = Statistics()
        """The statistics that were counted last."""
        self._counting: asyncio.Task[Statistics] | None = None

    async def get(self) -> Statistics:
        """Return statistics that are not older than `MAX_AGE`."""
        if monotonic() - self._counted_at < MAX_AGE:
            return self.latest
        if self._counting is None:
            self._counting = asyncio.get_running_loop().create_task(count(self._hub))
            self._counting.add_done_callback(self._counted)
        # The first request may be cancelled when its client disconnects; other requests wait for the same count.
        return await asyncio.shield(self._counting)

    def _counted(self, task: asyncio.Task[Statistics]) -> None:
        self._counting = None
        if not task.cancelled() and task.exception() is None:
            self.latest = task.result()
            self._counted_at = monotonic()


async def count(hub: Hub) -> Statistics:
    """Count the peers of all swarms, and give way to other tasks after every `_CHUNK` peers."""
    seeder, leecher, ipv4, ipv6 = 1, 2, 4, 8
    flags: dict[str, int] = {}
    swarms = list(hub.swarms.values())
    torrents = len(swarms) - hub.empty
    visited = 0
    sketch = Distinct()
    for swarm in swarms:
        sketch.add(swarm.info_hash)
        for peer in list(swarm.peers.values()):
            family = ipv6 if getattr(peer.connection, "ipv6", False) else ipv4
            flags[peer.peer_id] = flags.get(peer.peer_id, 0) | family | (seeder if peer.complete else leecher)
            visited += 1
            if visited % _CHUNK == 0:
                await asyncio.sleep(0)
    kinds = Counter(flags.values())

    def having(all_of: int, none_of: int = 0) -> int:
        return sum(n for kind, n in kinds.items() if kind & all_of == all_of and not kind & none_of)

    clients: dict[str, dict[str, int]] = {}
    kinds_of_client: set[tuple[str, str]] = set()
    for number, peer_id in enumerate(flags, 1):
        name, version = client_of(peer_id)
        # Peers choose their ids: without a limit, this table could get as long as the list of peers.
        if len(kinds_of_client) >= MAX_CLIENTS and (name, version) not in kinds_of_client:
            name, version = _OTHER
        kinds_of_client.add((name, version))
        versions = clients.setdefault(name, {})
        versions[version] = versions.get(version, 0) + 1
        if number % _CHUNK == 0:
            await asyncio.sleep(0)
    return Statistics(
        torrents=torrents,
        peers_all=len(flags),
        peers_seeder_only=having(seeder, leecher),
        peers_leecher_only=having(leecher, seeder),
        peers_seeder_and_leecher=having(seeder | leecher),
        peers_ipv4=having(ipv4),
        peers_ipv6=having(ipv6),
        clients=clients,
        swarms=sketch.pack(),
    )


def client_of(peer_id: str) -> tuple[str, str]:
    """Return the client's name and version that a peer_id encodes (BEP 20, Azureus style).

    A peer_id in any other form is `unknown`, without a version: those of trystero and p2pt are random, so that a table
    of them would be as long as the list of peers.
    """
    found = _AZUREUS.match(peer_id)
    if not found:
        return "unknown", "-"
    code, digits = found.groups()
    if code in ("WW", "WD"):
        # WebTorrent writes two digits each for the major and the minor version: 0208 is 2.8.
        version = f"{int(digits[:2])}.{int(digits[2:])}" if digits.isdigit() else digits
    else:
        version = ".".join(digits.rstrip("0") or "0")
    return _CLIENTS.get(code, code), version
