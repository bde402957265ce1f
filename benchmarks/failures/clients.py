"""Clients that behave like webtorrent's, and count what a failure does to them.

Each announces with offers every few seconds, answers the offers that it receives, and connects again, to another node,
about a second after its socket has closed. Times are seconds of `time.monotonic`.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from random import Random
from time import monotonic
from typing import Any, Final

import msgspec
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect

PERIOD: Final = 3.0
"""Seconds between two announces of a client."""
OFFERS: Final = 2
BACKOFF: Final = 1.0
SLOW: Final = 1.0
"""Seconds without a reply from which on an announce counts as slow."""
SDP: Final = "v=0\r\n" + "a=candidate:1 1 udp 1 192.0.2.1 50000 typ host\r\n" * 12
CONNECT_TIMEOUT: Final = 5.0


class Crowd:
    """The clients, and what has happened to them.

    Args:
        size: The number of clients.
        swarm_size: The number of clients of each swarm.
        choose: Returns the port for a client that connects: what a balancer does.
    """

    def __init__(self, size: int, swarm_size: int, choose: Callable[[], int]) -> None:
        self.random = Random(1)
        self.choose = choose
        self.counts: Counter[str] = Counter()
        self.waits: dict[int, float] = {}
        """The longest time without a reply, by the port of the node."""
        self.made: dict[str, float] = {}
        """The times at which offers were made that have not arrived."""
        self.lag = 0.0
        """The longest time for which this process itself did nothing."""
        self.hashes = [_hash(self.random) for _ in range(-(-size // swarm_size))]
        self.clients = [Client(self, self.hashes[n // swarm_size], n) for n in range(size)]
        self.numbers = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Connect all clients, and let them announce from now on."""
        self._tasks = [asyncio.create_task(client.run()) for client in self.clients]
        self._tasks.append(asyncio.create_task(self._watch()))
        await asyncio.gather(*(client.served.wait() for client in self.clients))

    async def stop(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Count from now on."""
        self.counts.clear()
        self.waits.clear()
        self.made.clear()
        self.lag = 0.0

    def settle_waits(self) -> None:
        """Count the announces that still have no reply."""
        for client in self.clients:
            client.note_wait()

    def lost_offers(self, since: float, until: float) -> int:
        """Return the number of offers made between two times that have never arrived."""
        return sum(since <= made <= until for made in self.made.values())

    def lost_by_second(self, start: float, until: float) -> dict[int, int]:
        """Return the numbers of offers that have never arrived by the second in which they were made."""
        return dict(sorted(Counter(int(made - start) for made in self.made.values() if made <= until).items()))

    def truth(self) -> Counter[str]:
        """Return the number of peers of each swarm."""
        return Counter(client.info_hash for client in self.clients if client.transport)

    async def _watch(self) -> None:
        while True:
            before = monotonic()
            await asyncio.sleep(0.05)
            self.lag = max(self.lag, monotonic() - before - 0.05)


class Client(WSListener):  # type: ignore[misc]
    """One client: one peer of one swarm."""

    def __init__(self, crowd: Crowd, info_hash: str, number: int) -> None:
        self.crowd = crowd
        self.info_hash = info_hash
        self.peer_id = f"-CF0001-{number:012}"
        self.transport: WSTransport | None = None
        self.port = 0
        self.served = asyncio.Event()
        """Set when it has received a reply."""
        self.total = 0
        """The number of peers by the last reply."""
        self.announced = 0.0
        """The time of the oldest announce without a reply, or 0."""
        self._closed = asyncio.Event()

    async def run(self) -> None:
        """Connect and announce, again and again."""
        random = self.crowd.random
        await asyncio.sleep(random.random() * PERIOD)
        try:
            while True:
                if await self._connect():
                    while not self._closed.is_set():
                        self._announce()
                        with suppress(TimeoutError):
                            await asyncio.wait_for(self._closed.wait(), PERIOD * (0.75 + random.random() / 2))
                await asyncio.sleep(BACKOFF * (0.5 + random.random()))
        finally:
            if self.transport is not None:
                self.transport.disconnect()

    async def _connect(self) -> bool:
        self._closed.clear()
        self.port = self.crowd.choose()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await ws_connect(lambda: self, f"ws://127.0.0.1:{self.port}/")
        except TimeoutError:
            self.crowd.counts["connect_timeout"] += 1
            return False
        except Exception:
            self.crowd.counts["refused"] += 1
            return False
        return True

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_disconnected(self, transport: WSTransport) -> None:  # noqa: ARG002
        if self.transport is not None:
            self.crowd.counts["lost"] += 1
        self.note_wait(is_over=True)
        self.transport = None
        self._closed.set()

    def note_wait(self, is_over: bool = False) -> None:
        """Note the time since the announce without a reply."""
        if self.announced:
            wait = monotonic() - self.announced
            waits = self.crowd.waits
            waits[self.port] = max(waits.get(self.port, 0.0), wait)
            if wait > SLOW:
                self.crowd.counts["slow"] += 1
            if is_over:
                self.announced = 0.0

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.PING:
            transport.send(WSMsgType.PONG, frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            self.crowd.counts[f"code_{frame.get_close_code()}"] += 1
            transport.send_close(frame.get_close_code())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            self._received(msgspec.json.decode(frame.get_payload_as_bytes()))

    def _received(self, message: dict[str, Any]) -> None:
        counts = self.crowd.counts
        if "offer" in message:
            if self.crowd.made.pop(message["offer_id"], None) is None:
                counts["offers_twice"] += 1
            counts["offers"] += 1
            self._send(
                action="announce",
                info_hash=self.info_hash,
                peer_id=self.peer_id,
                to_peer_id=message["peer_id"],
                offer_id=message["offer_id"],
                answer={"type": "answer", "sdp": SDP},
            )
        elif "answer" in message:
            counts["answers"] += 1
        elif "interval" in message:
            counts["replies"] += 1
            self.served.set()
            self.total = message["complete"] + message["incomplete"]
            self.note_wait(is_over=True)
        else:
            counts["failures"] += 1

    def _announce(self) -> None:
        now = monotonic()
        offers = []
        for _ in range(OFFERS):
            offer_id = f"{next(self.crowd.numbers):020}"
            self.crowd.made[offer_id] = now
            offers.append({"offer_id": offer_id, "offer": {"type": "offer", "sdp": SDP}})
        self.crowd.counts["announces"] += 1
        self.announced = self.announced or now
        self._send(
            action="announce",
            info_hash=self.info_hash,
            peer_id=self.peer_id,
            uploaded=0,
            downloaded=0,
            left=1,
            numwant=OFFERS,
            offers=offers,
        )

    def _send(self, **message: Any) -> None:
        if self.transport is not None:
            self.transport.send(WSMsgType.TEXT, msgspec.json.encode(message))


class _ProbePeer(WSListener):  # type: ignore[misc]
    """One of two peers, which meet when one has received an offer or an answer of the other."""

    def __init__(self, met: asyncio.Event) -> None:
        self._met = met

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:  # noqa: ARG002
        if frame.msg_type == WSMsgType.TEXT and b'"offer":{' in frame.get_payload_as_bytes():
            self._met.set()

    def announce(self, info_hash: str, number: str) -> None:
        """Announce with one offer."""
        offer = {"offer_id": number, "offer": {"type": "offer", "sdp": SDP}}
        message = {
            "action": "announce",
            "info_hash": info_hash,
            "peer_id": number,
            "uploaded": 0,
            "downloaded": 0,
            "left": 1,
            "numwant": 1,
            "offers": [offer],
        }
        self.transport.send(WSMsgType.TEXT, msgspec.json.encode(message))


class Probes:
    """Pairs of new peers at two nodes, one pair each half second: when does each meet?

    Attributes:
        pairs: For each pair the time of its start and that of its meeting, 0 before.
    """

    def __init__(self, ports: Callable[[], Sequence[int]]) -> None:
        self.pairs: list[list[float]] = []
        self._ports = ports
        self._random = Random(2)
        self._tasks: set[asyncio.Task[None]] = set()
        self._numbers = itertools.count(1)

    def start(self) -> None:
        """Begin."""
        self._add(self._repeat())

    async def stop(self) -> None:
        """End."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def seconds_until_meeting(self, since: float) -> float | None:
        """Return the seconds from a time until the first pair that started after it had met."""
        ends = [met for began, met in self.pairs if began >= since and met]
        return min(ends) - since if ends else None

    def longest(self, since: float, until: float) -> float | None:
        """Return the longest time that a pair which started between two times took to meet; None if one has not."""
        pairs = [pair for pair in self.pairs if since <= pair[0] <= until]
        return None if not all(met for _, met in pairs) else max((met - began for began, met in pairs), default=0.0)

    def never(self, since: float, until: float) -> int:
        """Return the number of pairs started between two times that have not met."""
        return sum(since <= began <= until and not met for began, met in self.pairs)

    def _add(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _repeat(self) -> None:
        while True:
            self._add(self._pair())
            await asyncio.sleep(0.5)

    async def _pair(self) -> None:
        met = asyncio.Event()
        peers = [_ProbePeer(met), _ProbePeer(met)]
        ports = self._random.sample(self._ports(), 2)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                for peer, port in zip(peers, ports, strict=True):
                    await ws_connect(lambda peer=peer: peer, f"ws://127.0.0.1:{port}/")
        except Exception:
            return
        info_hash = _hash(self._random)
        pair = [monotonic(), 0.0]
        self.pairs.append(pair)
        for peer in peers:
            peer.announce(info_hash, f"-CFprobe-{next(self._numbers):011}")
        try:
            await met.wait()
            pair[1] = monotonic()
        finally:
            for peer in peers:
                peer.transport.disconnect()


def _hash(random: Random) -> str:
    return "".join(chr(random.randrange(128, 256)) for _ in range(20))
