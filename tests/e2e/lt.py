"""libtorrent, the C++ BitTorrent library, as a WebTorrent peer: with a tracker and WebRTC only."""

import asyncio
import hashlib
import importlib
import ipaddress
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]

from tests.conftest import unavailable

try:
    libtorrent: Any = importlib.import_module("libtorrent")
except ImportError:
    libtorrent = None

PATIENCE = 30.0
PIECE_LENGTH = 1 << 16

_OFF = ("incoming_tcp", "outgoing_tcp", "incoming_utp", "outgoing_utp", "dht", "lsd", "upnp", "natpmp", "ip_notifier")
SETTINGS = {
    "listen_interfaces": "127.0.0.1:0",
    **{f"enable_{way}": False for way in _OFF},
    "webtorrent_stun_server": "",
    # All peers are on this machine.
    "allow_multiple_connections_per_ip": True,
    # Milliseconds between the runs of its timers.
    "tick_interval": 100,
}
"""Of sessions whose peers are all on this machine."""


@dataclass(frozen=True, slots=True)
class Torrent:
    """One file, and the tracker through which peers find it. A magnet link also has the further URLs."""

    name: str
    content: bytes
    tracker_url: str
    further_urls: tuple[str, ...] = ()

    @property
    def metainfo(self) -> bytes:
        """The `.torrent` file."""
        encoded: bytes = libtorrent.bencode({b"info": self._info, b"announce": self.tracker_url.encode()})
        return encoded

    @property
    def info_hash(self) -> str:
        """The infohash in hexadecimal digits."""
        return hashlib.sha1(libtorrent.bencode(self._info)).hexdigest()

    @property
    def magnet(self) -> str:
        """The magnet link."""
        trackers = "".join(f"&tr={quote(url, safe='')}" for url in (self.tracker_url, *self.further_urls))
        return f"magnet:?xt=urn:btih:{self.info_hash}&dn={quote(self.name)}{trackers}"

    @property
    def _info(self) -> dict[bytes, Any]:
        starts = range(0, len(self.content), PIECE_LENGTH)
        return {
            b"name": self.name.encode(),
            b"length": len(self.content),
            b"piece length": PIECE_LENGTH,
            b"pieces": b"".join(hashlib.sha1(self.content[start : start + PIECE_LENGTH]).digest() for start in starts),
        }


class LibtorrentPeer:
    """One libtorrent session with its files in `directory`. It needs a running event loop.

    `settings` are libtorrent's own.
    """

    def __init__(self, directory: Path, **settings: object) -> None:
        if libtorrent is None:
            unavailable("libtorrent")
        if not _has_network():
            # Its WebRTC offers no loopback addresses.
            unavailable("a network interface besides loopback")
        self.directory = directory
        self.connections: list[str] = []
        """Every connection with a peer so far, as libtorrent describes it."""
        self._waiting: dict[asyncio.Future[None], tuple[type, str]] = {}
        self._wakeups, self._waker = socket.socketpair()
        self._wakeups.setblocking(False)
        # A write must not block, because libtorrent's network thread does it.
        self._waker.setblocking(False)
        alerts = 0
        for category in ("status", "tracker", "connect", "storage", "piece_progress", "error"):
            alerts |= int(getattr(libtorrent.alert.category_t, f"{category}_notification"))
        self._session = libtorrent.session({**SETTINGS, **settings, "alert_mask": alerts})
        asyncio.get_running_loop().add_reader(self._wakeups, self._take_alerts)
        self._session.set_alert_fd(self._waker.fileno())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def seed(self, name: str, content: bytes, tracker_url: str) -> Torrent:
        """Seed a file; return once the tracker has answered, so that other peers find this one."""
        torrent = Torrent(name, content, tracker_url)
        (self.directory / name).write_bytes(content)
        checked = self._seen(libtorrent.torrent_finished_alert, torrent.info_hash)
        answered = self.answered(torrent)
        self._add(libtorrent.load_torrent_buffer(torrent.metainfo))
        await asyncio.gather(checked, answered)
        return torrent

    def announce_many(self, tracker_url: str, number: int) -> None:
        """Start to look for peers of `number` torrents that nobody has."""
        for n in range(1, number + 1):
            magnet = f"magnet:?xt=urn:btih:{n:040x}&tr={quote(tracker_url, safe='')}"
            self._add(libtorrent.parse_magnet_uri(magnet))

    async def leech(self, torrent: Torrent) -> bytes:
        """Download a torrent by its magnet link; return the content, once libtorrent has verified it."""
        finished = self._seen(libtorrent.torrent_finished_alert, torrent.info_hash)
        handle = self._add(libtorrent.parse_magnet_uri(torrent.magnet))
        await finished
        # The last blocks are still being written.
        flushed = self._seen(libtorrent.cache_flushed_alert, torrent.info_hash)
        handle.flush_cache()
        await flushed
        assert self.connections
        assert all("(RTC)" in connection for connection in self.connections), self.connections
        return (self.directory / torrent.name).read_bytes()

    async def forget(self, torrent: Torrent) -> None:
        """Leave the swarm and delete the downloaded file."""
        removed = self._seen(libtorrent.torrent_deleted_alert, torrent.info_hash)
        self._session.remove_torrent(self._handle(torrent), libtorrent.session.delete_files)
        await removed

    async def announce_again(self, torrent: Torrent) -> None:
        """Announce now instead of in a minute; return once the tracker has answered."""
        answered = self.answered(torrent)
        self._handle(torrent).force_reannounce(0, -1, libtorrent.torrent_handle.ignore_min_interval)
        await answered

    def answered(self, torrent: Torrent) -> asyncio.Future[None]:
        """Return a future that is done at the tracker's next reply to this peer's announce."""
        return self._seen(libtorrent.tracker_reply_alert, torrent.info_hash)

    async def told_off(self, torrent: Torrent) -> tuple[str, int]:
        """Announce a torrent; return the tracker's failure reason, and the seconds until the next announce."""
        failed = self._seen(libtorrent.tracker_error_alert, torrent.info_hash)
        handle = self._add(libtorrent.parse_magnet_uri(torrent.magnet))
        await failed
        entry = next(iter(handle.trackers()))
        return entry["message"], entry["next_announce"] - int(time.time())

    def has_begun(self, torrent: Torrent) -> asyncio.Future[None]:
        """Return a future that is done when the next piece is complete."""
        return self._seen(libtorrent.piece_finished_alert, torrent.info_hash)

    def neighbours(self, torrent: Torrent) -> list[bytes]:
        """Return the peer_ids of the connected peers."""
        return [bytes.fromhex(str(peer.pid)) for peer in self._handle(torrent).get_peer_info()]

    async def close(self) -> None:
        """End the session and all its connections."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._wakeups)
        for future in self._waiting:
            future.cancel()
        # The destructor blocks until the network thread ends.
        session = [self._session]
        del self._session
        await loop.run_in_executor(None, session.clear)
        self._wakeups.close()
        self._waker.close()

    def _add(self, params: Any) -> Any:
        params.save_path = str(self.directory)
        # With these flags, libtorrent would queue it and start it by a timer.
        params.flags &= ~(libtorrent.torrent_flags.auto_managed | libtorrent.torrent_flags.paused)
        return self._session.add_torrent(params)

    def _handle(self, torrent: Torrent) -> Any:
        return self._session.find_torrent(libtorrent.sha1_hash(bytes.fromhex(torrent.info_hash)))

    def _seen(self, kind: type, info_hash: str) -> asyncio.Future[None]:
        """Return a future that is done at a torrent's next alert of a type; it fails after `PATIENCE` seconds."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()

        def give_up() -> None:
            if not future.done():
                future.set_exception(TimeoutError(f"no {kind.__name__} in {PATIENCE:g} s"))

        def forget(future: asyncio.Future[None]) -> None:
            timer.cancel()
            del self._waiting[future]

        timer = loop.call_later(PATIENCE, give_up)
        future.add_done_callback(forget)
        self._waiting[future] = (kind, info_hash)
        return future

    def _take_alerts(self) -> None:
        while True:
            try:
                self._wakeups.recv(4096)
            except BlockingIOError:
                break
        # An alert is memory of libtorrent, valid until the next `pop_alerts`: none is kept.
        for alert in self._session.pop_alerts():
            if type(alert) is libtorrent.peer_connect_alert:
                self.connections.append(alert.message())
            for future, (kind, info_hash) in self._waiting.items():
                if type(alert) is kind and _info_hash(alert) == info_hash and not future.done():
                    future.set_result(None)


def _info_hash(alert: Any) -> str:
    # The handle of a deleted torrent is invalid.
    if type(alert) is libtorrent.torrent_deleted_alert:
        return str(alert.info_hash)
    return str(alert.handle.info_hash())


def _has_network() -> bool:
    addresses = [
        ipaddress.ip_address(address.address.partition("%")[0])
        for interface in psutil.net_if_addrs().values()
        for address in interface
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return not all(address.is_loopback or address.is_link_local for address in addresses)
