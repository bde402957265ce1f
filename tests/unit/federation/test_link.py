"""A link at work on a transport that takes everything, or nothing."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest
from websockets.asyncio.client import ClientConnection

from extensions.federation import link, transports
from extensions.federation.link import MAX_QUEUED_OFFERS, Accepted, Link, Transport
from extensions.federation.reasons import Fault
from extensions.federation.session import LinkError
from extensions.federation.transports import Dialed
from extensions.federation.wire import SOFT_FRAME
from tests.unit.federation.links import linked
from tracker.extension.channel import Channel
from tracker.reasons import CloseReason


class Sink:
    """A transport that takes all at once; nothing comes."""

    def __init__(self) -> None:
        self.frames = asyncio.Queue[bytes]()

    async def receive(self) -> bytes:
        return await asyncio.Future[bytes]()

    async def send(self, frame: bytes) -> None:
        self.frames.put_nowait(frame)

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
async def paused(sink: Sink) -> AsyncIterator[Link]:
    """An open link that has just sent a frame."""
    one = Link(linked()[0], sink, "", lambda *_: None)
    task = asyncio.ensure_future(one.run())
    await sink.frames.get()
    yield one
    one.end(Fault.SHUTDOWN)
    assert (await task).fault is Fault.SHUTDOWN


async def test_what_comes_soon_after_a_frame_goes_together(paused: Link, sink: Sink) -> None:
    for message in (b"1", b"2", b"3"):
        paused.post([message])
        await asyncio.sleep(0)
    assert await sink.frames.get() == b"1\n2\n3"


@pytest.mark.parametrize("offers", [True, False])
async def test_what_fills_a_frame_goes_at_once(
    offers: bool, sink: Sink, paused: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PACE", 3600)
    paused.post([b"the last that does not wait for an hour"])
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


async def test_what_waits_goes_before_the_last_word(paused: Link, sink: Sink) -> None:
    paused.post([b"1", b"2"])
    await paused.close(Fault.SHUTDOWN)
    assert await sink.frames.get() == b"1\n2"
    assert json.loads(await sink.frames.get())["type"] == "bye"


async def test_who_is_gone_is_told_nothing(paused: Link, sink: Sink) -> None:
    paused.post([b"1"])
    await paused.close(Fault.LOST)
    assert sink.frames.empty()


class FullChannel:
    """A channel whose other side takes nothing."""

    def __init__(self) -> None:
        self.blocked_since = 1.0
        self.reason: CloseReason | None = None

    def send(self, frame: bytes) -> bool:
        assert not self.blocked_since, "counted as dropped"
        return self.reason is None

    async def receive(self) -> tuple[bytes, bool]:
        return await asyncio.Future[tuple[bytes, bool]]()


class FullSocket:
    """The same of a WebSocket that was dialed."""

    async def send(self, _frame: bytes, text: bool) -> None:
        await asyncio.Future[None]()

    async def recv(self) -> str:
        return await asyncio.Future[str]()


@pytest.mark.parametrize(
    "transport",
    [lambda: Accepted(cast(Channel, FullChannel())), lambda: Dialed(cast(ClientConnection, FullSocket()))],
    ids=["accepted", "dialed"],
)
async def test_a_frame_that_is_not_taken_ends_the_link(
    transport: Callable[[], Transport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "STUCK_AFTER", 0.01)
    monkeypatch.setattr(transports, "STUCK_AFTER", 0.01)
    one = Link(linked()[0], transport(), "", lambda *_: None)
    assert (await one.run()).fault is Fault.STUCK


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
    assert caught.value.fault is Fault.LOST
