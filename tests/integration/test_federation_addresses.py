"""The addresses that strangers' URLs may lead to: none in private networks."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dialing import Resolver, Target
from extensions.federation.handshake import LinkError
from extensions.federation.pursuits import MAX_DIALS
from extensions.federation.seeker import ALL, DEGREE
from extensions.federation.transports import dial
from extensions.identity import tracker_id
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry
from tests.certificates import Pair
from tests.client import HASH, PATIENCE, eventually, raw_client
from tests.conftest import free_port
from tests.integration.conftest import Federate
from tests.integration.hostile import A, HostileLink, hostile_tracker

PUBLIC = "192.0.32.8"
NAMES = {
    "loopback.example": ["127.0.0.1"],
    "loopback6.example": ["::1"],
    "private.example": ["10.0.0.1", "192.168.0.1", "172.16.0.1"],
    "link-local.example": ["169.254.169.254", "fe80::1%lo"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "mixed.example": ["127.0.0.1", "::1", PUBLIC],
    "public.example": [PUBLIC, "2606:4700::1"],
}

FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"


class Listener:
    """A TCP server that counts connections; it sends `says` after a request, and waits."""

    def __init__(self) -> None:
        self.port = 0
        self.heard = 0
        self.called = asyncio.Event()
        self.says = b""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += 1
        self.called.set()
        with suppress(OSError, asyncio.IncompleteReadError):
            if self.says:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(self.says)
            await reader.read()
        writer.close()


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    listener = Listener()
    server = await asyncio.start_server(listener.serve, "127.0.0.1", 0)
    listener.port = server.sockets[0].getsockname()[1]
    yield listener
    server.close()


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    async with listening() as listener:
        yield listener


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the name service, and return a list of the names that it resolves."""
    original = socket.getaddrinfo
    asked: list[str] = []

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in NAMES:
            return original(host, port, *arguments, **options)
        asked.append(name)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in NAMES[name]
        ]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return asked


def sight(tracker: Any, url: str, info_hash: str = RENDEZVOUS.decode("latin-1")) -> str:
    """Have the DHT name a tracker; its id."""
    entry = entry_of(url)
    tracker.extension("federation").discovery.on_sighting(info_hash, Sighting(entry, "r0"))
    return entry.tracker_id


def entry_of(url: str) -> TrackerEntry:
    """Return the entry of a new tracker."""
    return TrackerEntry(tracker_id(Ed25519PrivateKey.generate()), 2**40, url, bytes(64))


def hostile_urls(port: int) -> list[str]:
    """URLs that lead into private networks, most of them to this port of this machine."""
    hosts = [
        *("127.0.0.1", "localhost", "127.1", "0", "0.0.0.0", "2130706433", "0x7f000001", "0177.0.0.1"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]"),
        *("[::127.0.0.1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[fe80::1]", "[fe80::1%25lo]", "[fc00::1]"),
        *("10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "255.255.255.255"),
        *("[fec0::1]", "[ff02::1]", "[2001:db8::1]", "240.0.0.1"),
        *(name for name in NAMES if name not in ("mixed.example", "public.example")),
    ]
    return [
        *(f"wss://{host}:{port}" for host in hosts),
        *(f"ws://{host}:{port}" for host in (*hosts, PUBLIC, "public.example")),
        *(f"wss://{PUBLIC}:{low}" for low in (1, 22, 25, 110, 1023)),
        *(f"http://127.0.0.1:{port}", f"https://{PUBLIC}", f"WS://{PUBLIC}", "wss:///x", "wss://", "wss://["),
        *(f"wss://{PUBLIC}:99999", f"wss://{PUBLIC}:x", f"//{PUBLIC}", PUBLIC, ""),
    ]


@pytest.mark.usefixtures("names")
async def test_private_addresses_are_never_dialed(federate: Federate, listener: Listener) -> None:
    tracker = await federate(max_links=1000)
    mesh = tracker.extension("federation").mesh
    urls = hostile_urls(listener.port)
    for url in urls:
        assert tracker.extension("federation").discovery.pursuits.want(entry_of(url))
    await eventually(lambda: mesh.ended.total() >= len(urls))
    assert mesh.ended["forbidden_address"] + mesh.ended["unreachable"] == len(urls)
    # Some that are no addresses here are unknown names.
    assert mesh.ended["unreachable"] <= 4
    assert listener.heard == 0
    # A trusted URL leads there.
    assert (await Resolver().resolve(f"ws://127.1:{listener.port}", trusted=True)).address == "127.0.0.1"


async def test_the_resolved_address_is_dialed_and_the_name_not_resolved_again(
    names: list[str], listener: Listener
) -> None:
    task = asyncio.ensure_future(dial(Target("ws://public.example", "127.0.0.1", listener.port)))
    await asyncio.wait_for(listener.called.wait(), PATIENCE)
    task.cancel()
    await asyncio.wait([task])
    assert names == []


async def test_a_slow_name_server_does_not_keep_the_listed_from_being_dialed(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strangers' names must not occupy the few threads that the event loop has for all."""
    answer, original = threading.Event(), socket.getaddrinfo
    asked: list[str] = []

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if "slow" in host:
            asked.append(host)
            answer.wait(PATIENCE)
        return original(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    links: asyncio.Queue[str] = asyncio.Queue()

    async def listed(link: HostileLink) -> None:
        await link.shake()
        links.put_nowait("open")
        await link.ended()

    try:
        async with hostile_tracker(listed) as url:
            tracker = await federate(peers=[url.replace("127.0.0.1", "localhost")])
            for number in range(50):
                sight(tracker, f"wss://slow{number}.example.org/")
            await eventually(lambda: len(asked) >= 4)
            await asyncio.wait_for(links.get(), PATIENCE / 2)
    finally:
        answer.set()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "loopback.example"])
@pytest.mark.usefixtures("names")
async def test_private_addresses_are_dialed_if_allowed(federate: Federate, listener: Listener, host: str) -> None:
    listener.says = FORBIDDEN
    tracker = await federate(allow_private_addresses=True)
    sight(tracker, f"ws://{host}:{listener.port}/")
    await asyncio.wait_for(listener.called.wait(), PATIENCE)


async def test_only_so_many_are_dialed_at_once_for_one_swarm(federate: Federate, listener: Listener) -> None:
    tracker = await federate(allow_private_addresses=True)
    async with raw_client(tracker.url) as client:
        await client.announce(A)
        sight(tracker, f"ws://127.0.0.1:{listener.port}", "n" * 20)  # This swarm is not open here.
        for _ in range(3 * ALL):
            sight(tracker, f"ws://127.0.0.1:{listener.port}", HASH)
        await eventually(lambda: listener.heard >= DEGREE)
        assert tracker.extension("federation").discovery.pursuits.pursued == DEGREE


async def test_one_that_is_named_again_and_again_does_not_keep_others_from_being_dialed(
    federate: Federate, listener: Listener
) -> None:
    listener.says = FORBIDDEN
    tracker = await federate(allow_private_addresses=True)
    federation = tracker.extension("federation").discovery
    absent = tracker_id(Ed25519PrivateKey.generate())
    async with raw_client(tracker.url) as client:
        await client.announce(A)
        entry = TrackerEntry(absent, 2**40, f"ws://127.0.0.1:{free_port()}", bytes(64))
        for _ in range(3 * ALL):
            federation.on_sighting(HASH, Sighting(entry, "r0"))
        sight(tracker, f"ws://127.0.0.1:{listener.port}", HASH)
        await asyncio.wait_for(listener.called.wait(), PATIENCE)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("listed", [False, True])
async def test_redirects_are_not_followed(federate: Federate, listener: Listener, status: int, listed: bool) -> None:
    async with listening() as door:
        door.says = (
            f"HTTP/1.1 {status} Moved\r\nLocation: ws://127.0.0.1:{listener.port}/\r\nContent-Length: 0\r\n\r\n"
        ).encode()
        url = f"ws://127.0.0.1:{door.port}/"
        tracker = await federate(allow_private_addresses=True, peers=[url] if listed else [])
        if not listed:
            sight(tracker, url)
        mesh = tracker.extension("federation").mesh
        await eventually(lambda: mesh.ended["unreachable"] >= 1)
        assert (door.heard, listener.heard) == (1, 0)


async def test_tarpits_do_not_keep_us_from_the_listed(federate: Federate, listener: Listener) -> None:
    links: asyncio.Queue[HostileLink] = asyncio.Queue()

    async def listed(link: HostileLink) -> None:
        await link.shake()
        links.put_nowait(link)
        await link.ended()

    async with hostile_tracker(listed) as url:
        tracker = await federate(allow_private_addresses=True, peers=[url])
        link = await asyncio.wait_for(links.get(), PATIENCE)
        for _ in range(5 * MAX_DIALS):
            sight(tracker, f"ws://127.0.0.1:{listener.port}/")
        await eventually(lambda: listener.heard >= MAX_DIALS)
        await link.socket.close()
        await asyncio.wait_for(links.get(), PATIENCE / 2)


@pytest.mark.parametrize(
    ("trusted", "of", "named", "opens"),
    [
        (True, "tracker.example", "tracker.example", True),
        (True, "127.0.0.1", "127.0.0.1", True),
        (True, "tracker.example", "other.example", False),
        (True, "tracker.example", "127.0.0.1", False),
        (False, "tracker.example", "tracker.example", False),
    ],
)
async def test_a_certificate_must_be_trusted_and_of_the_urls_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool, of: str, named: str, opens: bool
) -> None:
    certificate = Pair(tmp_path, of)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate.authority))

    async def serve(link: HostileLink) -> None:
        await link.ended()

    async with hostile_tracker(serve, tls=certificate.server_context()) as url:
        port = int(url.rstrip("/").rpartition(":")[2])
        target = Target(f"wss://{named}:{port}/", "127.0.0.1", port)
        if opens:
            link = await dial(target)
            await link.close()
        else:
            with pytest.raises(LinkError, match="certificate") as failed:
                await dial(target)
            assert failed.value.reason == "unreachable"


async def test_a_listed_tracker_with_a_strangers_certificate_is_not_linked(federate: Federate, tmp_path: Path) -> None:
    shaken = asyncio.Event()

    async def serve(link: HostileLink) -> None:
        shaken.set()
        await link.shake()

    async with hostile_tracker(serve, tls=Pair(tmp_path, "other.example").server_context()) as url:
        tracker = await federate(peers=[url])
        mesh = tracker.extension("federation").mesh
        await eventually(lambda: mesh.ended["unreachable"] >= 1)
        assert not shaken.is_set()
        assert mesh.links == {}
