"""A link: a session on a transport, with bounded send queues."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from extensions.federation.events import Event, Opened
from extensions.federation.handshake import LinkError
from extensions.federation.limits import Turns
from extensions.federation.neighbour import Account, Neighbour
from extensions.federation.reasons import NO_FEDERATION, Dropped, EndReason
from extensions.federation.session import Session, State
from extensions.federation.transports import Transport
from extensions.federation.wire import SOFT_FRAME, fits, lines_of
from extensions.trackers import TrackerEntry
from tracker.extension import Answer, Offer, TokenBucket

HANDSHAKE_TIMEOUT: Final = 10.0
BYE_TIMEOUT: Final = 1.0
PACE: Final = 0.01
"""Seconds between two frames, unless enough messages for a full frame are queued. A message after a longer silence is
sent at once. Most of the cost of a small message, on both sides, is the cost of its frame."""

MAX_QUEUED_OFFERS: Final = 1 << 20
MAX_QUEUED: Final = 8 << 20
"""Bytes of queued messages with offers, and of all other queued messages. Beyond, the oldest messages with offers are
dropped; for other messages the link ends."""

SLOW: Final = 1 << 20
"""Bytes of queued messages without offers beyond which no further swarms are told that can wait."""

BYTES_PER_SECOND: Final = 4 << 20
BYTES_BURST: Final = 16 << 20
MESSAGE_COST: Final = 1024
"""The token bucket for received bytes; a message costs this much on top of its length. While the bucket is empty, the
link is not read, and backpressure makes the sender wait."""

SWARMS_PER_SECOND: Final = 5000.0
SWARMS_BURST: Final = 200_000.0
"""The token bucket for swarms in `have`, `present` and `opened`. Beyond it, the link ends."""

FILTERS_PER_SECOND: Final = 0.1
FILTERS_BURST: Final = 4.0
"""The token bucket for filters; a part counts for its share of the filter. Beyond it, the link ends."""


@dataclass(frozen=True, slots=True)
class FrameEnd:
    """All messages of one frame have been applied.

    It is repeated in later turns while that reduces `Account.backlog`, but leaves some of it.
    """


LinkEvent = Event | FrameEnd


class Link(Neighbour):
    """One link. `on_event` is called with each event of the session, and with `FrameEnd` after each frame.

    `dialed` is the URL that this tracker has dialed, empty if the other tracker dialed. `wanted` are the infohashes of
    swarms for which this tracker has dialed.
    """

    def __init__(
        self,
        session: Session,
        transport: Transport,
        dialed: str,
        on_event: Callable[["Link", LinkEvent], None],
        turns: Turns | None = None,
        wanted: Collection[str] = (),
    ) -> None:
        self.session = session
        self.url = dialed
        self._wanted = wanted
        self.since = time.time()
        """Unix seconds. The clock may be set since: see `age`."""
        self.opened_at = time.monotonic()
        """Seconds on a monotonic clock."""
        self.account = Account(self.opened_at)
        self._telling = TokenBucket(SWARMS_PER_SECOND, SWARMS_BURST, self.opened_at)
        self._filtering = TokenBucket(FILTERS_PER_SECOND, FILTERS_BURST, self.opened_at)
        self._transport = transport
        self._on_event = on_event
        self._turns = turns or Turns()
        self._offers: deque[bytes] = deque()
        self._others: deque[bytes] = deque()
        self._bytes = {True: 0, False: 0}
        """Bytes queued in `_offers` (True) and in `_others` (False)."""
        self._something = asyncio.Event()
        self._enough = asyncio.Event()
        self._end: asyncio.Future[LinkError] = asyncio.get_running_loop().create_future()

    @property
    def tracker_id(self) -> str:
        """The other tracker's id, empty until it is proved."""
        return self.session.tracker_id

    @property
    def wanted(self) -> Collection[str]:
        """The infohashes of open swarms for which the dialer has made the link."""
        return self._wanted or self.session.wanted

    @property
    def age(self) -> float:
        """The seconds since its beginning."""
        return time.monotonic() - self.opened_at

    @property
    def direction(self) -> str:
        """ "dialed" by this tracker, or "accepted"."""
        return "dialed" if self.url else "accepted"

    @property
    def dropped(self) -> Counter[Dropped]:
        """Everything that was dropped on this link, by reason."""
        return self.account.dropped + Counter(self.session.dropped)

    async def run(self) -> LinkError:
        """Shake hands, then carry messages until the link ends. Return why it ended."""
        tasks = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._write())]
        try:
            await asyncio.wait([*tasks, self._end], return_when=asyncio.FIRST_COMPLETED)
            if tasks[1].done():
                # The other side may have closed after a `bye` that is still to be read.
                await asyncio.wait([tasks[0], self._end], timeout=BYE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
            if self._end.done():
                return self._end.result()
            return next(task.result() for task in tasks if task.done())
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def close(self, reason: EndReason) -> None:
        """Send the queued messages and `bye`, if the other side still reads, and close the transport."""
        with suppress(LinkError, TimeoutError):
            if reason not in (EndReason.LOST, EndReason.CLOSED_THERE, EndReason.REFUSED):
                async with asyncio.timeout(BYE_TIMEOUT):
                    while frame := self._next_frame():
                        await self._transport.send(frame)
                    await self._transport.send(self.session.bye(reason))
        await self._transport.close()

    def end(self, reason: EndReason, text: str = "") -> None:
        """Have `run` return, unless it has another reason to do so already. `text` is for this side's operator."""
        if not self._end.done():
            self._end.set_result(LinkError(reason, text))

    def post(self, messages: Iterable[bytes], offers: bool = False) -> None:
        """Queue messages. `offers` tells whether they are offers, which may be dropped if the link is slow."""
        queue = self._offers if offers else self._others
        for message in messages:
            queue.append(message)
            self._bytes[offers] += len(message)
        if offers:
            while self._bytes[True] > MAX_QUEUED_OFFERS:
                self._bytes[True] -= len(self._offers.popleft())
                self.account.dropped[Dropped.SLOW_LINK] += 1
        elif self._bytes[False] > MAX_QUEUED:
            self.end(EndReason.STUCK)
        self._something.set()
        if self._bytes[True] + self._bytes[False] >= SOFT_FRAME:
            self._enough.set()

    # The neighbour

    @property
    def knows_marks(self) -> bool:
        return self.session.knows_marks

    @property
    def is_slow(self) -> bool:
        return self._bytes[False] > SLOW

    def may_have(self, tag: int) -> bool:
        return self.session.may_have(tag)

    def show(self, messages: Iterable[bytes]) -> None:
        self.post(messages)

    def leave_swarm(self, info_hash: str) -> None:
        self.post(self.session.leave_swarm(info_hash))

    def forget_swarm(self, info_hash: str) -> None:
        self.session.forget_swarm(info_hash)

    def tell(self, counts: Iterable[tuple[str, int, int]], reply: bool) -> None:
        self.post(self.session.tell(counts, reply))

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]], reply: bool) -> None:
        self.post(self.session.tell_present(swarms, reply))

    def counts(self, info_hash: str) -> tuple[int, int]:
        return self.session.counts(info_hash)

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        messages = self.session.offer(info_hash, peer_id, offers)
        self.post(messages, offers=True)
        return [offer for offer in offers if fits(offer.description.sdp)] if messages else []

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str], known: bool) -> None:
        self.post(self.session.refuse(info_hash, peer_id, offer_ids, known))

    def answer(self, answer: Answer) -> None:
        self.post(self.session.answer(answer))

    def seek(self, info_hash: str) -> None:
        """Ask for other trackers of an open swarm; of any, if `info_hash` is empty."""
        self.post(self.session.seek(info_hash))

    def name_trackers(self, info_hash: str, entries: Sequence[TrackerEntry]) -> None:
        """Name trackers of an open swarm, or descriptors if `info_hash` is empty."""
        self.post(self.session.trackers(info_hash, entries))

    async def _read(self) -> LinkError:
        arriving = TokenBucket(BYTES_PER_SECOND, BYTES_BURST, time.monotonic())
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT):
                self.post([self.session.start()])
                while not self.tracker_id:
                    await self._apply(await self._transport.receive())
            while True:
                frame = await self._transport.receive()
                wait = arriving.take(len(frame) + MESSAGE_COST * (1 + frame.count(b"\n")), time.monotonic())
                if wait:
                    await asyncio.sleep(wait)
                await self._apply(frame)
        except TimeoutError:
            reason, text = EndReason.HANDSHAKE_TIMEOUT, ""
        except LinkError as error:
            # Not the exception itself: its traceback would keep this frame, and with it the link, in memory.
            reason, text = error.reason, str(error)
        is_silent = self.url and self.session.state is State.HELLO
        if is_silent and reason in (EndReason.HANDSHAKE_TIMEOUT, EndReason.LOST):
            text = f"no hello: it is too busy, or {NO_FEDERATION}"
        return LinkError(reason, text)

    async def _apply(self, frame: bytes) -> None:
        """Apply the messages of a frame and then its end, in as many turns as they take."""
        self.account.counters["bytes_in"] += len(frame)
        messages = lines_of(frame)
        is_done = False
        while not is_done:
            async with self._turns:
                is_done = True
                for message in messages:
                    self._apply_message(message)
                    if self._turns.is_over:
                        is_done = False
                        break
                if is_done:
                    left = self.account.backlog
                    self._on_event(self, FrameEnd())
                    is_done = self.account.backlog in (0, left)

    def _apply_message(self, message: bytes) -> None:
        session = self.session
        told, filtered = session.told, session.filtered
        events, replies = session.receive(message)
        self.post(replies)
        if session.told > told and not self._telling.try_take(session.told - told, time.monotonic()):
            raise LinkError(EndReason.FLOOD)
        if session.filtered > filtered and not self._filtering.try_take(session.filtered - filtered, time.monotonic()):
            raise LinkError(EndReason.FLOOD)
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
                self.account.counters["bytes_out"] += len(frame)
                await self._transport.send(frame)
                if self.tracker_id and not (self._others or self._offers):
                    self._enough.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(PACE):
                            await self._enough.wait()
        except LinkError as error:
            return error

    def _next_frame(self) -> bytes:
        """Take as many queued messages as fit a frame. Offers come last, because they may depend on the others."""
        parts: list[bytes] = []
        size = 0
        for offers, queue in ((False, self._others), (True, self._offers)):
            while queue and (not parts or size + len(queue[0]) < SOFT_FRAME):
                part = queue.popleft()
                self._bytes[offers] -= len(part)
                size += len(part) + 1
                parts.append(part)
        return b"\n".join(parts)
