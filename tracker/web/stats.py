"""Statistics in the form of npm's bittorrent-tracker, so that what reads its `/stats.json` reads ours."""

import asyncio
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

import structlog

from tracker.core.hub import Hub

Rows = list[dict[str, Any]]
"""Texts and numbers by column."""


@dataclass(frozen=True, slots=True)
class Table:
    """What an extension shows to people. The page draws `links` to other trackers as a picture."""

    rows: Callable[[], Rows]
    links: bool = False


Tables = dict[str, Table]

MAX_AGE: Final = 5.0
"""Seconds for which one count is given to everybody who asks: it visits every peer."""

MAX_CLIENTS: Final = 200
"""Client versions that are told apart."""

_CHUNK: Final = 2000

# Client codes as in the `bittorrent-peerid` package that bittorrent-tracker uses, for those that speak WebRTC.
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
    """Counts of distinct peer_ids, whatever number of swarms each is in."""

    torrents: int = 0
    peers_all: int = 0
    peers_seeder_only: int = 0
    peers_leecher_only: int = 0
    peers_seeder_and_leecher: int = 0
    peers_ipv4: int = 0
    peers_ipv6: int = 0
    clients: dict[str, dict[str, int]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """With bittorrent-tracker's names. Here every swarm is active: empty ones do not exist."""
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


def read(tables: Tables) -> dict[str, Rows]:
    """The rows of each table; none of one that fails, so that the others are still to be had."""
    found: dict[str, Rows] = {}
    for name, table in tables.items():
        try:
            found[name] = [{str(column): cell for column, cell in row.items()} for row in table.rows()]
        except Exception:
            structlog.get_logger().exception("extension_failed", extension=name, on="table")
            found[name] = []
    return found


class StatisticsCache:
    """Counts at most once in `MAX_AGE`, a little at a time, however many ask."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._counted_at = -MAX_AGE
        self._latest = Statistics()
        self._counting: asyncio.Task[Statistics] | None = None

    async def get(self) -> Statistics:
        """Statistics not older than `MAX_AGE`."""
        if monotonic() - self._counted_at < MAX_AGE:
            return self._latest
        if self._counting is None:
            self._counting = asyncio.get_running_loop().create_task(count(self._hub))
            self._counting.add_done_callback(self._counted)
        # Whoever asked first may hang up; the others still want the answer.
        return await asyncio.shield(self._counting)

    def _counted(self, task: asyncio.Task[Statistics]) -> None:
        self._counting = None
        if not task.cancelled() and task.exception() is None:
            self._latest = task.result()
            self._counted_at = monotonic()


async def count(hub: Hub) -> Statistics:
    """ConnectionInfo every peer, giving way to others every now and then."""
    seeder, leecher, ipv4, ipv6 = 1, 2, 4, 8
    flags: dict[str, int] = {}
    swarms = list(hub.swarms.values())
    visited = 0
    for swarm in swarms:
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
        # Peers choose their ids: without a limit, the table could grow as long as the list of peers.
        if len(kinds_of_client) >= MAX_CLIENTS and (name, version) not in kinds_of_client:
            name, version = "other", "-"
        kinds_of_client.add((name, version))
        versions = clients.setdefault(name, {})
        versions[version] = versions.get(version, 0) + 1
        if number % _CHUNK == 0:
            await asyncio.sleep(0)
    return Statistics(
        torrents=len(swarms),
        peers_all=len(flags),
        peers_seeder_only=having(seeder, leecher),
        peers_leecher_only=having(leecher, seeder),
        peers_seeder_and_leecher=having(seeder | leecher),
        peers_ipv4=having(ipv4),
        peers_ipv6=having(ipv6),
        clients=clients,
    )


def client_of(peer_id: str) -> tuple[str, str]:
    """The client's name and version that a peer_id tells (BEP 20, Azureus style).

    Ids in no known form are one client without versions: trystero's and p2pt's are random, and a table of them would
    be as long as the list of peers.
    """
    found = _AZUREUS.match(peer_id)
    if not found:
        return "unknown", "-"
    code, digits = found.groups()
    if code in ("WW", "WD"):
        # WebTorrent packs two digits of major and of minor version: 0208 is 2.8.
        version = f"{int(digits[:2])}.{int(digits[2:])}" if digits.isdigit() else digits
    else:
        version = ".".join(digits.rstrip("0") or "0")
    return _CLIENTS.get(code, code), version
