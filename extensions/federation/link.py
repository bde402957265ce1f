"""A link at work: a session on a transport, with a queue that a slow link cannot make grow."""

import asyncio
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from websockets.frames import CloseCode

from extensions.federation.limits import STUCK_AFTER, Turns
from extensions.federation.reasons import Dropped, Fault
from extensions.federation.session import MAX_SWARMS, Event, LinkError, Opened, Session
from extensions.federation.wire import SOFT_FRAME
from tracker.extension import Channel, ChannelClosed, CloseReason, Offer, RemoteMember, TokenBucket

HANDSHAKE_TIMEOUT: Final = 10.0
BYE_TIMEOUT: Final = 1.0
PACE: Final = 0.01
"""Seconds from one frame to the next, until there is enough for a full one: what comes in between goes together. What
comes alone goes at once. Most of what a small message costs, here and there, is its frame."""

SLOW_POLL: Final = 0.05
"""Seconds until a transport whose buffer is full is tried again."""

MAX_QUEUED_OFFERS: Final = 1 << 20
MAX_QUEUED: Final = 8 << 20
"""Bytes of offers, and of all else, that wait for a slow link: of offers the oldest go, else the link is closed."""

BYTES_PER_SECOND: Final = 4 << 20
BYTES_BURST: Final = 16 << 20
MESSAGE_COST: Final = 1024
"""What is read of a link; the rest waits in the socket, where it is the sender's."""

OFFERS_PER_SECOND: Final = 1000.0
OFFERS_BURST: Final = 5000.0
SWARMS_PER_SECOND: Final = 5000.0
SWARMS_BURST: Final = 2.0 * MAX_SWARMS
"""What may come over a link: offers beyond are refused, swarms beyond end the link."""

REMEMBER: Final = 120.0
"""Seconds for which the answers to offers that went over a link are awaited."""

REFUSABLE: Final = 10.0
"""Seconds for which an offer is kept in case that it is refused."""

MAX_REFUSABLE: Final = 4 << 20
"""Bytes of them."""

MAX_ASKED: Final = 50_000
MAX_ANSWERS: Final = 20
"""Offers that are remembered for their answers, and answers to one: honest ones are one, or a few."""


class Transport(Protocol):
    """What carries a link's frames: text, in order, each whole.

    `receive` and `send` raise `LinkError` at its end, `send` also if a frame is not taken within `STUCK_AFTER`.
    """

    async def receive(self) -> bytes: ...
    async def send(self, frame: bytes) -> None: ...
    async def close(self) -> None: ...


class Accepted:
    """An accepted WebSocket as a link's transport."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def receive(self) -> bytes:
        try:
            frame, is_text = await self._channel.receive()
        except ChannelClosed:
            raise LinkError(Fault.LOST) from None
        if not is_text:
            raise LinkError(Fault.INVALID_MESSAGE)
        return frame

    async def send(self, frame: bytes) -> None:
        waited = 0.0
        # What it is given meanwhile it would drop, and count.
        while self._channel.blocked_since and self._channel.reason is None:
            if waited > STUCK_AFTER:
                raise LinkError(Fault.STUCK)
            await asyncio.sleep(SLOW_POLL)
            waited += SLOW_POLL
        if not self._channel.send(frame):
            raise LinkError(Fault.LOST)

    async def close(self) -> None:
        self._channel.close(CloseCode.NORMAL_CLOSURE, CloseReason.CLOSED_BY_EXTENSION)


class Link:
    """One link. `on_event` is called with what comes; `run` returns when it has ended."""

    def __init__(
        self,
        session: Session,
        transport: Transport,
        dialed: str,
        on_event: Callable[["Link", Event], None],
        turns: Turns | None = None,
    ) -> None:
        self.session = session
        self.url = dialed
        """What was dialed; empty if the other side did."""
        self.since = time.time()
        self.members: dict[str, RemoteMember] = {}
        """By info_hash, where the other side has peers in a swarm of ours."""
        self.last_shared = time.monotonic()
        self.tally: Counter[str] = Counter()
        self.dropped: Counter[Dropped] = Counter()
        # When each offer went there, by the same, and how many answers have come to it.
        self._asked: OrderedDict[tuple[str, str, str], tuple[float, int]] = OrderedDict()
        self.answered = 0
        """How many offers that went there were answered, while they could still be refused."""
        self.offering = TokenBucket(OFFERS_PER_SECOND, OFFERS_BURST, self.last_shared)
        """How many offers may come."""
        self._telling = TokenBucket(SWARMS_PER_SECOND, SWARMS_BURST, self.last_shared)
        self._transport = transport
        self._on_event = on_event
        self._turns = turns or Turns()
        # Offers that may still be refused, by info_hash, peer_id and offer_id.
        self._sent: OrderedDict[tuple[str, str, str], tuple[Offer, float]] = OrderedDict()
        self._bytes_sent = 0
        self._offers: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._bytes = {True: 0, False: 0}
        self._something = asyncio.Event()
        self._enough = asyncio.Event()
        self._end: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()

    @property
    def tracker_id(self) -> str:
        """Whose the other end is."""
        return self.session.tracker_id

    @property
    def direction(self) -> str:
        """Who has made it: "dialed" by us, or "accepted"."""
        return "dialed" if self.url else "accepted"

    async def run(self) -> LinkError:
        """Shake hands, then carry messages until the end; why it ended."""
        tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait([*tasks, self._end], return_when=asyncio.FIRST_COMPLETED)
            if self._end.done():
                return self._end.result()
            return next(task.result() for task in tasks if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self, fault: Fault) -> None:
        """Send what still waits and why it ends, as far as the other side listens, and close."""
        with suppress(LinkError, TimeoutError):
            if fault not in (Fault.LOST, Fault.CLOSED_THERE):
                async with asyncio.timeout(BYE_TIMEOUT):
                    while frame := self._next_frame():
                        await self._transport.send(frame)
                    await self._transport.send(self.session.bye(fault))
        await self._transport.close()

    def end(self, fault: Fault) -> None:
        """Have it end."""
        if not self._end.done():
            self._end.set_result(LinkError(fault))

    def post(self, messages: Iterable[bytes], offers: bool = False) -> None:
        """Send messages when the link takes them; of offers, the oldest give way."""
        queue = self._offers if offers else self._others
        for message in messages:
            queue.append(message)
            self._bytes[offers] += len(message)
        if offers:
            while self._bytes[True] > MAX_QUEUED_OFFERS:
                self._bytes[True] -= len(self._offers.popleft())
                self.dropped[Dropped.SLOW_LINK] += 1
        elif self._bytes[False] > MAX_QUEUED:
            self.end(Fault.STUCK)
        self._something.set()
        if self._bytes[True] + self._bytes[False] >= SOFT_FRAME:
            self._enough.set()

    def remember_offers(self, info_hash: str, peer_id: str, offers: list[tuple[str, Offer]], now: float) -> None:
        """Offers, each with its id, have gone there."""
        for offer_id, offer in offers:
            self.take_sent(info_hash, peer_id, offer_id)
            key = (info_hash, peer_id, offer_id)
            self._sent[key] = (offer, now)
            self._asked.pop(key, None)
            self._asked[key] = (now, 0)
            self._bytes_sent += memoryview(offer.description.sdp).nbytes
        while self._sent and (self._bytes_sent > MAX_REFUSABLE or next(iter(self._sent.values()))[1] + REFUSABLE < now):
            self.take_sent(*next(iter(self._sent)))
        while self._asked and (len(self._asked) > MAX_ASKED or next(iter(self._asked.values()))[0] + REMEMBER < now):
            self._asked.popitem(last=False)

    def expects_answer(self, info_hash: str, peer_id: str, offer_id: str, now: float) -> bool:
        """Whether an offer has gone there lately, and an answer to it may come; each time counts as one."""
        since, number = self._asked.get((info_hash, peer_id, offer_id), (-REMEMBER, 0))
        if since + REMEMBER < now or number >= MAX_ANSWERS:
            return False
        self._asked[(info_hash, peer_id, offer_id)] = (since, number + 1)
        return True

    def take_sent(self, info_hash: str, peer_id: str, offer_id: str) -> tuple[Offer, float] | None:
        """An offer that has gone there, and when; it is no longer remembered then. None if it is not."""
        sent = self._sent.pop((info_hash, peer_id, offer_id), None)
        if sent:
            self._bytes_sent -= memoryview(sent[0].description.sdp).nbytes
        return sent

    async def _read(self) -> LinkError:
        arriving = TokenBucket(BYTES_PER_SECOND, BYTES_BURST, time.monotonic())
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                self.post([self.session.start()])
                while not self.tracker_id:
                    await self._take(await self._transport.receive())
            while True:
                frame = await self._transport.receive()
                wait = arriving.take(len(frame) + MESSAGE_COST * (1 + frame.count(b"\n")), time.monotonic())
                if wait:
                    await asyncio.sleep(wait)
                await self._take(frame)
        except TimeoutError:
            return LinkError(Fault.HANDSHAKE_TIMEOUT)
        except LinkError as error:
            return error

    async def _take(self, frame: bytes) -> None:
        self.tally["bytes_in"] += len(frame)
        messages = iter(frame.split(b"\n"))
        rest = True
        while rest:
            async with self._turns:
                rest = False
                for message in messages:
                    self._take_message(message)
                    if self._turns.is_over:
                        rest = True
                        break

    def _take_message(self, message: bytes) -> None:
        told = self.session.told
        events, replies = self.session.receive(message)
        self.post(replies)
        if self.session.told > told and not self._telling.try_take(self.session.told - told, time.monotonic()):
            raise LinkError(Fault.FLOOD)
        for event in events:
            self._on_event(self, event)
            if isinstance(event, Opened) and self._end.done():
                raise self._end.result()

    async def _write(self) -> LinkError:
        try:
            while True:
                self._something.clear()
                frame = self._next_frame()
                if not frame:
                    await self._something.wait()
                    continue
                self.tally["bytes_out"] += len(frame)
                await self._transport.send(frame)
                if self.tracker_id and not (self._others or self._offers):
                    self._enough.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PACE):
                            await self._enough.wait()
        except LinkError as error:
            return error

    def _next_frame(self) -> bytes:
        """As many messages as fit a frame; offers after all else, which they may depend on."""
        parts: list[bytes] = []
        size = 0
        for offers, queue in ((False, self._others), (True, self._offers)):
            while queue and (not parts or size + len(queue[0]) < SOFT_FRAME):
                part = queue.popleft()
                self._bytes[offers] -= len(part)
                size += len(part) + 1
                parts.append(part)
        return b"\n".join(parts)
