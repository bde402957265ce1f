"""A link on a transport that accepts every frame, or none."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from websockets.asyncio.client import ClientConnection

from extensions.federation import link, transports, wire
from extensions.federation.audience import RENEW
from extensions.federation.events import Interest, MayHave, Offered
from extensions.federation.filters import tag_of
from extensions.federation.handshake import LinkError
from extensions.federation.link import MAX_QUEUED_OFFERS, FrameEnd, Link, LinkEvent
from extensions.federation.reasons import EndReason
from extensions.federation.transports import Accepted, Dialed, Transport
from extensions.federation.wire import MAX_FRAME, SOFT_FRAME
from tests.client import HASH, eventually
from tests.unit.federation.links import (
    URL,
    B,
    dialing,
    filter_of,
    give,
    linked,
    opened,
    own_swarms,
    sharing,
    some_offers,
)
from tracker.core.swarm import Swarm
from tracker.extension import ChannelClosed, RemoteMember
from tracker.extension.channel import Channel
from tracker.reasons import CloseReason

MARK = "0" * 16
HAVE = wire.encode(wire.Have([("0" * 32, 0, 1)]))
FILTER = wire.encode(wire.Filter(0, 1, bytes(40)))
PARTS = [wire.encode(wire.Filter(part, 64, bytes(40))) for part in range(64)]


class Sink(Transport):
    """A transport that accepts every frame at once. A test puts the frames that come from the other side."""

    def __init__(self) -> None:
        self.frames = asyncio.Queue[bytes]()
        self.incoming = asyncio.Queue[bytes]()

    async def receive(self) -> bytes:
        return await self.incoming.get()

    async def send(self, frame: bytes) -> None:
        self.frames.put_nowait(frame)

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
async def paused(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Link]:
    """Yields an open link that has just sent a frame, and pauses for a time that is long enough for any machine."""
    monkeypatch.setattr(link, "PACE", 0.5)
    one = Link(linked()[0], sink, "", lambda *_: None)
    task = asyncio.ensure_future(one.run())
    await sink.frames.get()
    yield one
    one.end(EndReason.SHUTDOWN)
    assert (await task).reason is EndReason.SHUTDOWN


async def test_messages_soon_after_a_frame_are_sent_together(paused: Link, sink: Sink) -> None:
    for message in (b"1", b"2", b"3"):
        paused.post([message])
        await asyncio.sleep(0)
    assert await sink.frames.get() == b"1\n2\n3"


@pytest.mark.parametrize("offers", [True, False])
async def test_messages_that_fill_a_frame_are_sent_at_once(
    offers: bool, sink: Sink, paused: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PACE", 3600)
    paused.post([b"after this, frames wait for an hour"])
    await sink.frames.get()
    message = b"x" * (SOFT_FRAME // 4)
    number = 2 * MAX_QUEUED_OFFERS // len(message)
    for _ in range(number):
        paused.post([message], offers)
        await asyncio.sleep(0)
    assert not paused.dropped
    sent = 0
    while sent <= number - 4:
        sent += (await sink.frames.get()).count(b"\n") + 1


async def test_queued_messages_are_sent_before_bye(paused: Link, sink: Sink) -> None:
    paused.post([b"1", b"2"])
    await paused.close(EndReason.SHUTDOWN)
    assert await sink.frames.get() == b"1\n2"
    assert json.loads(await sink.frames.get())["type"] == "bye"


async def test_nothing_is_sent_to_a_tracker_that_is_gone(paused: Link, sink: Sink) -> None:
    paused.post([b"1"])
    await paused.close(EndReason.LOST)
    assert sink.frames.empty()


class FullChannel:
    """A channel whose send buffer is full."""

    def __init__(self) -> None:
        self.blocked_since = 1.0
        self.reason: CloseReason | None = None

    def send(self, frame: bytes) -> bool:
        assert not self.blocked_since, "counted as dropped"
        return self.reason is None

    async def receive(self) -> tuple[bytes, bool]:
        return await asyncio.Future[tuple[bytes, bool]]()


class FullSocket:
    """A dialed WebSocket whose send buffer is full."""

    async def send(self, _frame: bytes, text: bool) -> None:
        await asyncio.Future[None]()

    async def recv(self) -> str:
        return await asyncio.Future[str]()


@pytest.mark.parametrize(
    "transport",
    [lambda: Accepted(cast(Channel, FullChannel())), lambda: Dialed(cast(ClientConnection, FullSocket()))],
    ids=["accepted", "dialed"],
)
async def test_a_frame_that_is_not_accepted_ends_the_link(
    transport: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transports, "STUCK_AFTER", 0.01)
    one = Link(linked()[0], transport(), "", lambda *_: None)
    assert (await one.run()).reason is EndReason.STUCK


async def test_a_channel_that_was_full_takes_the_frame_when_it_has_room() -> None:
    channel = FullChannel()
    sending = asyncio.ensure_future(Accepted(cast(Channel, channel)).send(b"frame"))
    await asyncio.sleep(0)
    assert not sending.done()
    channel.blocked_since = 0.0
    await sending


async def test_a_channel_that_ends_while_it_is_full_is_lost() -> None:
    channel = FullChannel()
    sending = asyncio.ensure_future(Accepted(cast(Channel, channel)).send(b"frame"))
    await asyncio.sleep(0)
    channel.reason, channel.blocked_since = CloseReason.CONNECTION_LOST, 0.0
    with pytest.raises(LinkError) as caught:
        await sending
    assert caught.value.reason is EndReason.LOST


async def test_the_messages_of_a_frame_are_applied_before_its_end_is_reported(sink: Sink) -> None:
    here, there = sharing()
    events: list[LinkEvent] = []
    one = Link(here, sink, "", lambda _, event: events.append(event))
    task = asyncio.ensure_future(one.run())
    sink.incoming.put_nowait(b"\n".join([*there.tell([(HASH, 0, 2)]), *there.offer(HASH, B, some_offers(1))]))
    sink.incoming.put_nowait(there.tell([(HASH, 0, 3)])[0])
    await eventually(lambda: len(events) == 5)
    assert list(map(type, events)) == [Interest, Offered, FrameEnd, Interest, FrameEnd]
    one.end(EndReason.SHUTDOWN)
    await task


@pytest.mark.parametrize(
    ("allowed", "excess"),
    [
        ([FILTER] * 4, FILTER),
        (PARTS * 4, PARTS[0]),
        ([opened(*range(6)), opened(*range(4))], opened(1)),
        ([HAVE] * 10, HAVE),
        ([wire.encode(wire.Present([("0" * 32, "", MARK)] * 10))], HAVE),
    ],
    ids=["filters", "parts of filters", "tags", "numbers", "marks"],
)
async def test_too_many_filters_or_swarms_end_a_link(
    sink: Sink, allowed: list[bytes], excess: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit, burst in (("SWARMS", 10), ("FILTERS", 4)):
        monkeypatch.setattr(link, f"{limit}_BURST", burst)
        monkeypatch.setattr(link, f"{limit}_PER_SECOND", 1e-9)
    events: list[LinkEvent] = []
    one = Link(linked()[0], sink, "", lambda _, event: events.append(event))
    task = asyncio.ensure_future(one.run())
    for message in allowed:
        sink.incoming.put_nowait(message)
    await eventually(lambda: len(events) == len(allowed))
    sink.incoming.put_nowait(excess)
    assert (await task).reason is EndReason.FLOOD


def test_a_filter_may_be_renewed_as_often_as_this_tracker_does() -> None:
    assert 1 / RENEW < link.FILTERS_PER_SECOND
    assert 1 + 1 / RENEW < link.FILTERS_BURST, "also right after the first one"


@pytest.mark.parametrize("placed", [1, 0])
async def test_the_end_of_a_frame_is_repeated_until_no_newcomers_are_left_or_none_is_served(
    sink: Sink, placed: int
) -> None:
    """Between two of these events, other tasks of the event loop may run."""
    session, there = sharing()
    ends = 0

    def on_event(one: Link, event: LinkEvent) -> None:
        nonlocal ends
        if isinstance(event, FrameEnd):
            ends += 1
            for member in list(one.account.grown)[:placed]:
                del one.account.grown[member]

    one = Link(session, sink, "", on_event)
    one.account.grown = {RemoteMember(Swarm(HASH), n): [""] for n in range(3)}
    task = asyncio.ensure_future(one.run())
    sink.incoming.put_nowait(there.tell([(HASH, 0, 2)])[0])
    expected = 3 if placed else 1
    await eventually(lambda: ends >= expected)
    one.end(EndReason.SHUTDOWN)
    await task
    assert ends == expected


async def test_a_link_is_a_neighbour(sink: Sink) -> None:
    here, there = sharing()
    one = Link(here, sink, "", lambda *_: None)
    task = asyncio.ensure_future(one.run())
    await sink.frames.get()
    give(here, filter_of(own_swarms(HASH)))
    assert (one.may_have(tag_of(HASH)), one.may_have(tag_of(B)), one.counts(HASH)) == (True, False, (0, 1))
    one.show([opened(tag_of(HASH))])
    one.tell([(HASH, 2, 3)], reply=True)
    one.leave_swarm(HASH)
    one.forget_swarm(HASH)
    assert one.counts(HASH) == (0, 0)
    assert give(there, (await sink.frames.get()).split(b"\n")) == [
        MayHave([HASH], has_opened=True),
        Interest(HASH, 2, 3, reply=True),
        Interest(HASH, 0, 0),
    ]
    one.end(EndReason.SHUTDOWN)
    await task


@pytest.mark.parametrize(
    ("frame", "is_text", "reason"),
    [
        (b"{}", True, None),
        (b"{}", False, EndReason.INVALID_MESSAGE),
        (b" " * (MAX_FRAME + 1), True, EndReason.INVALID_MESSAGE),
        (CloseReason.TOO_BIG, True, EndReason.INVALID_MESSAGE),
        (CloseReason.CONNECTION_LOST, True, EndReason.LOST),
    ],
)
async def test_frames_of_an_accepted_websocket(
    frame: bytes | CloseReason, is_text: bool, reason: EndReason | None
) -> None:
    class ReceivingChannel(FullChannel):
        async def receive(self) -> tuple[bytes, bool]:
            if isinstance(frame, CloseReason):
                self.reason = frame
                raise ChannelClosed(frame.value)
            return frame, is_text

    transport = Accepted(cast(Channel, ReceivingChannel()))
    if reason:
        with pytest.raises(LinkError) as caught:
            await transport.receive()
        assert caught.value.reason is reason
    else:
        assert await transport.receive() == frame


async def test_a_bye_is_read_also_if_nothing_can_be_sent_any_more(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker without room says so and closes at once, often before the other side has sent anything."""
    _, there = sharing()

    async def send(_frame: bytes) -> None:
        raise LinkError(EndReason.LOST)

    monkeypatch.setattr(sink, "send", send)
    one = Link(dialing(), sink, URL, lambda *_: None)
    running = asyncio.ensure_future(one.run())
    for _ in range(5):
        # Sending has failed meanwhile.
        await asyncio.sleep(0)
    sink.incoming.put_nowait(there.bye(EndReason.TOO_MANY_LINKS))
    error = await running
    assert (error.reason, str(error)) == (EndReason.CLOSED_THERE, "too_many_links")
