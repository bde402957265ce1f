"""Extensions that raise, stall, flood and cling harm neither the tracker nor each other."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from websockets.asyncio.client import connect

from tests.client import HASH, PATIENCE, announce, eventually, offers, raw_client
from tests.conftest import TrackerProcess
from tests.integration.friend import Friend, install
from tests.unit.fakes import peer_id
from tracker.core.swarm import RemoteMember, Swarm
from tracker.extension import channel as channel_module
from tracker.extension import host, runner
from tracker.extension.api import Extension, TrackerHandle
from tracker.extension.channel import Channel, SocketChannel
from tracker.net.routes import Request, Response
from tracker.protocol.messages import Offer

A, B = peer_id(1), peer_id(2)


class Raises(Extension):
    """Fails at everything but being started."""

    async def swarm_opened(self, swarm: Swarm) -> None:
        raise RuntimeError("as told")

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        raise RuntimeError("as told")

    async def stop(self) -> None:
        raise RuntimeError("as told")


class FailsToStart(Extension):
    """Adds a remote member and then fails."""

    async def start(self) -> None:
        raise RuntimeError("as told")

    async def swarm_opened(self, swarm: Swarm) -> None:
        raise AssertionError("it never started")


class Stalls(Extension):
    """Never comes back from anything."""

    async def start(self) -> None:
        pass

    async def swarm_opened(self, swarm: Swarm) -> None:
        await asyncio.Event().wait()

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        raise AssertionError("the event before this one has not come back")

    async def stop(self) -> None:
        await asyncio.Event().wait()


class StallsAtStart(Extension):
    """Never comes back from starting."""

    async def start(self) -> None:
        await asyncio.Event().wait()


async def test_bad_extensions_harm_nobody(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "STOP_TIMEOUT", 0.1)
    monkeypatch.setattr(runner, "MAX_EVENTS", 50)
    bad = {"raises": Raises, "fails": FailsToStart, "stalls": Stalls, "stalls_at_start": StallsAtStart}
    tracker = await serve({**bad, "friend": Friend})
    friend = tracker.extension("friend")
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(A)
        await b.announce(B, offers=offers(5))
        await a.receive_until(lambda message: "offer" in message and message["peer_id"] == B)
        for n in range(100):
            await a.announce(A, info_hash=f"{n:020}", offers=offers(2))
        await eventually(lambda: len(friend.members) == 101)
    errors = tracker.server.extensions.errors
    assert errors["fails"] == 1
    assert errors["raises"] > 1
    raised = tracker.server.registry.get_sample_value("peerservers_extension_errors_total", {"extension": "raises"})
    assert raised == errors["raises"]
    registry = tracker.server.registry
    up = {name: registry.get_sample_value("peerservers_extension_up", {"extension": name}) for name in (*bad, "friend")}
    assert up == {"raises": 1, "fails": 0, "stalls": 1, "stalls_at_start": 1, "friend": 1}
    assert tracker.server.extensions.tables.off == {"fails": "its start has failed"}
    assert tracker.server.hub.counters.dropped["extension_queue_full"] > 0
    await asyncio.wait_for(tracker.server.stop(), PATIENCE)
    assert "stop" in friend.events


class Cancelled(Extension):
    """Lets the cancellation of something it awaits escape."""

    async def swarm_opened(self, swarm: Swarm) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.cancel()
        await future


class Bystander(Extension):
    """Knows which swarms are open."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        # It does not call the base class, and what it has under that name is its own.
        self.tracker = None  # type: ignore[assignment]
        self.open: set[str] = set()

    async def swarm_opened(self, swarm: Swarm) -> None:
        self.open.add(swarm.info_hash)

    async def swarm_closed(self, swarm: Swarm) -> None:
        self.open.remove(swarm.info_hash)


async def test_no_opening_or_closing_is_lost_however_many_come_at_once(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "MAX_EVENTS", 10)
    tracker = await serve({"bystander": Bystander, "cancelled": Cancelled})
    bystander = tracker.extension("bystander")
    for _ in range(2):
        async with raw_client(tracker.url) as a:
            for n in range(500):
                await a.send(announce(A, info_hash=f"{n:020}", offers=offers(1)))
            for _ in range(500):
                await a.receive()
            await eventually(lambda: len(bystander.open) == 500)
        await eventually(lambda: bystander.open == set())
    errors = tracker.server.extensions.errors
    await eventually(lambda: errors["cancelled"] > 100)
    assert errors["bystander"] == 0


async def test_an_extensions_failing_metrics_leave_the_trackers(serve: Any) -> None:
    class Bad(Extension):
        def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
            super().__init__(tracker, settings)
            tracker.registry.register(self)  # type: ignore[arg-type]

        def describe(self) -> list[Any]:
            return []

        def collect(self) -> Any:
            raise RuntimeError("as told")

    tracker = await serve({"bad": Bad})
    assert b"peerservers_swarms 0.0" in generate_latest(tracker.server.registry)
    assert tracker.server.extensions.errors["bad"] == 1


async def test_routes_that_fail_are_answered_with_500(serve: Any) -> None:
    class Bad(Extension):
        def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
            super().__init__(tracker, settings)
            tracker.add_route("/raises", self.raises)
            tracker.add_route("/none", self.nothing)  # type: ignore[arg-type]
            tracker.add_route("/header", self.header)

        async def raises(self, request: Request) -> Response:
            raise RuntimeError("as told")

        async def nothing(self, request: Request) -> None:
            pass

        async def header(self, request: Request) -> Response:
            return Response(b"", headers={"x": "two\nlines"})

    tracker = await serve({"bad": Bad})
    for path in ("/raises", "/none", "/header"):
        reader, writer = await asyncio.open_connection("127.0.0.1", tracker.server.addresses[0][1])
        writer.write(f"GET {path} HTTP/1.1\r\nHost: t\r\n\r\n".encode())
        assert (await asyncio.wait_for(reader.read(), PATIENCE)).startswith(b"HTTP/1.1 500")
        writer.close()


async def test_a_channels_handler_does_not_outlive_it(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channel_module, "GRACE", 0.05)
    ended: list[str] = []

    class Busy(Extension):
        def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
            super().__init__(tracker, settings)
            tracker.add_subprotocol("busy.1", self.busy)
            tracker.add_subprotocol("cancelled.1", self.cancelled)

        async def busy(self, channel: Channel) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("sent" if channel.send(b"too late") else "not sent")

        async def cancelled(self, channel: Channel) -> None:
            raise asyncio.CancelledError

    tracker = await serve({"busy": Busy})
    async with connect(tracker.url, subprotocols=["busy.1"]) as socket:  # type: ignore[list-item]
        # A flood of empty messages is as bounded as any other.
        for _ in range(1000):
            await socket.send(b"")
        (channel,) = tracker.server.endpoint.websockets
        assert isinstance(channel, SocketChannel)
        await eventually(lambda: channel.queued_bytes == 1000 * 100)
    await eventually(lambda: ended == ["not sent"])
    async with connect(tracker.url, subprotocols=["cancelled.1"]) as socket:  # type: ignore[list-item]
        await asyncio.wait_for(socket.wait_closed(), PATIENCE)
        assert socket.close_code == 1000


@pytest.mark.parametrize("how", ["await asyncio.to_thread(time.sleep, 60)", "await never()"])
async def test_extensions_that_do_not_end_do_not_keep_the_process(tmp_path: Path, how: str) -> None:
    (tmp_path / "clinger.py").write_text(
        "import asyncio, time\n"
        "from tracker.extension import Extension\n"
        "async def never():\n"
        "    while True:\n"
        "        try:\n"
        "            await asyncio.Event().wait()\n"
        "        except asyncio.CancelledError:\n"
        "            pass\n"
        "class Clinger(Extension):\n"
        "    async def start(self):\n"
        f"        {how}\n"
        "    async def stop(self):\n"
        f"        {how}\n"
    )
    install(tmp_path, "clinger", "clinger:Clinger")
    env = {"PYTHONPATH": str(tmp_path), "PEERSERVERS_SERVER__SHUTDOWN_TIMEOUT": "0.2"}
    tracker = await TrackerProcess.start(env=env)
    assert await tracker.stop() == 0
    assert tracker.log[-1]["event"] == "leftovers_abandoned"


async def test_a_failed_start_removes_its_remote_members(serve: Any) -> None:
    class Late(Extension):
        member: RemoteMember | None = None

        async def start(self) -> None:
            await eventually(lambda: bool(self.tracker.swarms))
            self.member = self.tracker.add_remote(HASH, None)
            assert self.member
            self.tracker.set_remote(self.member, 3, 3)
            raise RuntimeError("as told")

    tracker = await serve({"late": Late})
    async with raw_client(tracker.url) as a:
        await a.announce(A)
        await eventually(lambda: tracker.server.extensions.errors.total() > 0)
        reply = await a.announce(A)
        assert (reply["complete"], reply["incomplete"]) == (0, 1)
