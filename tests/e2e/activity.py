"""Trackers on which everything happens that the dashboards show.

Two are linked. One has two workers. One has narrow limits and an extension that raises exceptions. One does TLS and
compression, and extensions decide about its peers. Clients and other trackers of all kinds, also hostile ones, keep
them busy.
"""

import asyncio
import os
import random
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from websockets.exceptions import ConnectionClosed

from extensions.tokens.token import make_token
from tests.certificates import Pair
from tests.client import HASH, RawClient, announce, answer, offers, raw_client
from tests.conftest import TrackerProcess, environment, free_port
from tests.federated import federation
from tests.integration.friend import install
from tests.integration.hostile import HostileLink, link_to
from tests.integration.wire import HANDSHAKE
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id

_ADDRESS_LIMIT, _LIMIT = 2, 4
_DENIED_ORIGIN = "https://evil.example"
_DENIED = "denied--------------"
_LONELY = "lonely--------------"
"""A swarm with one peer here and one behind the hostile link."""
_EMPTY = "empty---------------"
"""A swarm in which offers find no receiver."""
_LONELY_PEER = peer_id(0)
_SECRET = "a secret of an operator"


class Trackers(NamedTuple):
    """The trackers that Prometheus scrapes."""

    here: TrackerProcess
    """Linked to `there`."""
    there: TrackerProcess
    narrow: TrackerProcess
    """A few clients reach its limits."""
    cluster: TrackerProcess
    """Two workers, which are nodes."""
    tls: TrackerProcess
    denied: Path
    """The list of denied infohashes of `narrow`."""
    dht: PrivateDht


@asynccontextmanager
async def trackers(directory: Path) -> AsyncIterator[Trackers]:
    """Run the trackers, which must stop cleanly and log no unexpected errors."""
    async with federation(directory) as federated:
        # With one listed tracker that is linked and one that is down.
        there = await federated.start()
        here = await federated.start(peers=[federated.url_at(there.port), federated.url_at(free_port())])
        await federated.linked(here, there)
        denied = directory / "denied"
        narrow = await _start_narrow(directory, denied)
        gate = directory / "gate"
        gate.mkdir()
        install(gate, "gate", "tests.integration.friend:Gatekeeper")
        tls = await TrackerProcess.start(
            env={
                "PYTHONPATH": os.pathsep.join([str(gate), *filter(None, [os.environ.get("PYTHONPATH")])]),
                **Pair(directory, "127.0.0.1", days=1).env,
                **environment("extensions.tokens", enabled=True, secrets=[_SECRET]),
                **environment("connections", deflate=True),
                **environment("nearby", enabled=True),
            }
        )
        cluster = await TrackerProcess.start(
            "--workers",
            "2",
            env={
                **environment("server", state_dir=str(directory / "cluster")),
                # One of the nodes is the gateway, because there is something to do for one.
                **environment("extensions.federation", enabled=True, policy="allow"),
            },
        )
        try:
            yield Trackers(here, there, narrow, cluster, tls, denied, federated.dht)
        finally:
            codes = [await tracker.stop() for tracker in (narrow, cluster, tls)]
        assert codes == [0, 0, 0]
        assert cluster.complaints() == []
        assert tls.complaints() == []
        assert {line["event"] for line in narrow.complaints()} <= {"extension_failed", "reload_failed"}


async def _start_narrow(directory: Path, denied: Path) -> TrackerProcess:
    install(directory, "raises", "tests.integration.test_bad_extensions:Raises")
    await asyncio.to_thread(denied.write_text, _DENIED.encode().hex() + "\n")
    return await TrackerProcess.start(
        env={
            "PYTHONPATH": str(directory),
            **environment("access", deny_infohashes=str(denied), deny_origins=[_DENIED_ORIGIN]),
            **environment(
                "limits",
                max_connections=_LIMIT,
                connections_per_address=_ADDRESS_LIMIT,
                announces_per_second=2,
                offers_per_second=2,
                burst=2,
                # Prometheus connects from this address.
                exempt=["127.0.0.1"],
            ),
            **environment("extensions.raises", enabled=True),
        }
    )


class Activity:
    """Everything that happens at the trackers, again and again."""

    def __init__(self, trackers: Trackers) -> None:
        self._trackers = trackers
        self._numbers = iter(range(100, 1_000_000))

    async def run(self) -> None:
        """Go on until cancelled."""
        here, there, narrow, *_ = self._trackers
        async with AsyncExitStack() as stack:
            for number, (tracker, swarm) in enumerate(
                [(here, _LONELY), (here, HASH), (there, HASH), (narrow, HASH)],
            ):
                peer = await stack.enter_async_context(raw_client(tracker.url))
                await peer.announce(peer_id(number), swarm, left=number % 2)
            link = await stack.enter_async_context(link_to(here.url))
            await link.send(link.have((_LONELY, 0, 1)))
            alone = await stack.enter_async_context(raw_client(here.url))
            held = [await stack.enter_async_context(_from(narrow, 2)) for _ in range(_ADDRESS_LIMIT)]
            parts = (
                self._meet,
                lambda: self._offer_in_an_empty_swarm(alone),
                self._meet_at_other_nodes,
                self._join_with_admission,
                self._send_garbage,
                lambda: self._send_unexpected_offers(link),
                self._abort_a_link,
                lambda: self._exceed_a_limit(held[0]),
                self._be_rejected,
                self._reload,
                self._lose_a_node,
                self._reload_an_invalid_list,
            )
            await asyncio.gather(*(self._repeat(part) for part in parts))

    async def _repeat(self, part: Callable[[], Awaitable[None]]) -> None:
        while True:
            await part()
            await asyncio.sleep(random.uniform(0.3, 0.6))

    async def _meet(self) -> None:
        """Park offers of one peer until a peer of the other tracker joins and answers."""
        number = next(self._numbers)
        swarm, seeder, leecher = f"swarm {number:014}", peer_id(number), peer_id(-number)
        async with raw_client(self._trackers.here.url) as first, raw_client(self._trackers.there.url) as second:
            await first.announce(seeder, swarm, left=0, offers=offers(5, start=number * 10))
            await second.announce(leecher, swarm)
            offer = await second.receive_until(lambda message: "offer" in message)
            await second.send(answer(leecher, seeder, offer["offer_id"], swarm))
            await first.receive_until(lambda message: "answer" in message)
            await second.announce(leecher, swarm, offers=offers(5, start=number * 10 + 5))
            await first.receive_until(lambda message: "offer" in message)
            await first.send({"action": "scrape", "info_hash": swarm})
            await first.receive_until(lambda message: "files" in message)

    async def _offer_in_an_empty_swarm(self, client: RawClient) -> None:
        """Send offers for which there is no receiver, so that some are parked at every moment."""
        await client.announce(peer_id(9), _EMPTY, offers=offers(2, start=next(self._numbers) * 10))

    async def _meet_at_other_nodes(self) -> None:
        """Let a dozen peers meet at two workers. Each connection belongs to the worker of its own swarm, its first."""
        async with AsyncExitStack() as stack:
            swarm = f"swarm {next(self._numbers):014}"
            for number in range(12):
                client = await stack.enter_async_context(raw_client(self._trackers.cluster.url))
                await client.announce(peer_id(number), f"own swarm {number:010}")
                stack.callback(asyncio.create_task(_answer_all(client, peer_id(number), swarm)).cancel)
                await client.send(announce(peer_id(number), swarm, offers=offers(5, start=number * 10)))
            await asyncio.sleep(1)

    async def _join_with_admission(self) -> None:
        """Join a swarm at the tracker whose extensions decide about it, and send a large offer with compression."""
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        url = self._trackers.tls.url.replace("ws:", "wss:") + make_token(_SECRET, int(time.time()) + 60)
        async with raw_client(url, ssl=trusting, compression="deflate") as client:
            await client.announce(peer_id(8))
            await client.announce(peer_id(10), offers=offers(1, sdp="v=0\r\n" * 300))
            await client.receive_until(lambda message: "offer" in message)

    async def _send_garbage(self) -> None:
        """Send invalid messages until the tracker closes the connection."""
        async with raw_client(self._trackers.here.url) as client:
            with suppress(ConnectionClosed):
                while True:
                    await client.socket.send('{"action": "dance"}')
                    await client.receive()

    async def _send_unexpected_offers(self, link: HostileLink) -> None:
        """Send offers over a link: some of an unknown swarm, and some that claim to come from a local peer."""
        ids = [f"{next(self._numbers):020}" for _ in range(3)]
        await link.send(link.offers("u" * 20, peer_id(7), ids), link.offers(_LONELY, _LONELY_PEER, ids))

    async def _abort_a_link(self) -> None:
        """Open a link and abort its connection."""
        async with link_to(self._trackers.here.url) as link:
            link.socket.transport.abort()

    async def _exceed_a_limit(self, client: RawClient) -> None:
        """Send more than an address may send, or announce a denied infohash."""
        # One kind at a time, because they share the allowance of the address: the first would leave nothing to the
        # others.
        match random.choice(("denied", "announces", "offers")):
            case "denied":
                await client.announce(peer_id(2), _DENIED)
            case "announces":
                for _ in range(5):
                    await client.announce(peer_id(2), offers=offers(2))
            case "offers":
                for _ in range(5):
                    await client.send(answer(peer_id(2), peer_id(3), offers(1)[0]["offer_id"], HASH))

    async def _be_rejected(self) -> None:
        """Connect beyond the limit of an address, from a denied origin, and beyond the limit of the tracker."""
        await self._rejected(429, 2)
        await self._rejected(403, 3, f"Origin: {_DENIED_ORIGIN}\r\n".encode())
        async with _from(self._trackers.narrow, 3):
            await self._rejected(503, 4)

    async def _rejected(self, status: int, host: int, headers: bytes = b"") -> None:
        narrow = self._trackers.narrow
        reader, writer = await asyncio.open_connection(narrow.host, narrow.port, local_addr=(f"127.0.0.{host}", 0))
        # The tracker may have closed the connection before the request is sent.
        with suppress(ConnectionError):
            writer.write(HANDSHAKE + headers + b"\r\n")
            assert (await reader.readline()).split()[1:2] == [str(status).encode()]
        writer.close()

    async def _reload(self) -> None:
        self._trackers.there.tell(signal.SIGHUP)

    async def _lose_a_node(self) -> None:
        """Kill a node of the DHT that other nodes still name, so that queries to it time out."""
        if len(self._trackers.dht.nodes) > 4:
            await self._trackers.dht.kill(1)
        await asyncio.sleep(5)

    async def _reload_an_invalid_list(self) -> None:
        """Make a list invalid and reload, then repair it and reload."""
        for text in ("nonsense", _DENIED.encode().hex()):
            await asyncio.to_thread(self._trackers.denied.write_text, text + "\n")
            self._trackers.narrow.tell(signal.SIGHUP)
            await asyncio.sleep(1)


async def _answer_all(client: RawClient, own_id: str, swarm: str) -> None:
    """Answer all offers until the connection is closed."""
    with suppress(ConnectionClosed):
        while True:
            message = await client.receive()
            if "offer" in message:
                await client.send(answer(own_id, message["peer_id"], message["offer_id"], swarm))


def _from(tracker: TrackerProcess, host: int) -> AbstractAsyncContextManager[RawClient]:
    return raw_client(tracker.url, local_addr=(f"127.0.0.{host}", 0))
