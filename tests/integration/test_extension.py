"""An example extension that joins a swarm to a friend elsewhere, and extensions that misbehave."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter, generate_latest
from pydantic import Field
from websockets.asyncio.client import connect

from tests.client import HASH, PATIENCE, announce, answer, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess
from tests.unit.fakes import peer_id
from tracker import channel as channel_module
from tracker import host, protocol
from tracker.channel import Channel
from tracker.config import ConfigError, load
from tracker.extension import Extension, ExtensionSettings, TrackerHandle, discover
from tracker.http import Request, Response
from tracker.protocol import Answer, Offer
from tracker.server import Server
from tracker.swarm import RemoteMember, Swarm

A, B, FRIEND = peer_id(1), peer_id(2), peer_id(99)


class Friend(Extension):
    """Every swarm has one more leecher, a friend that answers every offer and makes one to each newcomer."""

    class Settings(ExtensionSettings):
        """A friend in every swarm."""

        sdp: str = Field("friendly", description="What the friend says.")

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.members: dict[str, RemoteMember] = {}
        self.events: list[str] = []
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self.unplaced: asyncio.Queue[tuple[str, list[Offer]]] = asyncio.Queue()
        self.greeted = Counter("peerservers_friend_greeted", "Offers made", registry=tracker.registry)
        tracker.add_route("/friend", self.route)
        tracker.add_subprotocol("echo.1", self.echo)

    async def start(self) -> None:
        self.events.append("start")

    async def stop(self) -> None:
        self.events.append("stop")

    async def swarm_opened(self, swarm: Swarm) -> None:
        self.events.append("opened")
        member = self.tracker.add_remote(swarm.info_hash, "friend")
        if member:
            self.members[swarm.info_hash] = member
            self.tracker.set_remote(member, 0, 1)

    async def swarm_changed(self, swarm: Swarm) -> None:
        self.events.append(f"{len(swarm.seeders)}+{len(swarm.leechers)}")

    async def swarm_closed(self, swarm: Swarm) -> None:
        self.events.append("closed")
        del self.members[swarm.info_hash]

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        assert member.owner == "friend"
        for offer in offers:
            sdp = self.settings.sdp + protocol.text(offer.description.sdp)
            offer_id = protocol.text(offer.offer_id)
            assert self.tracker.deliver_answer(protocol.answer(member.swarm.info_hash, FRIEND, peer_id, offer_id, sdp))
        left_over = self.tracker.deliver_offers(
            member.swarm.info_hash, FRIEND, [protocol.offer("f" * 20, "from afar")] * 2
        )
        self.greeted.inc(2 - len(left_over))

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        self.unplaced.put_nowait((peer_id, offers))

    async def answer_unplaced(self, answer: Answer) -> None:
        self.answers.put_nowait(answer)

    async def route(self, request: Request) -> Response:
        return Response(json.dumps([request.path, request.query, len(self.tracker.swarms)]).encode())

    async def echo(self, channel: Channel) -> None:
        channel.send(channel.remote_address.encode())
        while True:
            payload, is_text = await channel.receive()
            if payload == b"bye":
                return
            if payload == b"crash":
                raise RuntimeError("as told")
            channel.send(payload, is_text)


class Running:
    """A tracker in this process, with extensions."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = f"ws://127.0.0.1:{server.addresses[0][1]}/"

    def extension(self, name: str) -> Any:
        """The extension object of that name."""
        return next(runner.extension for runner in self.server.extensions._runners if runner.name == name)


@pytest.fixture
async def serve() -> AsyncIterator[Any]:
    """Starts trackers with given extension classes."""
    running: list[Running] = []

    async def start(classes: dict[str, type[Extension]], **sections: dict[str, Any]) -> Running:
        settings = load(None, {"server": {"host": "127.0.0.1", "port": 0}, "extensions": sections})
        server = Server(settings, classes)
        await server.start()
        running.append(Running(server))
        return running[-1]

    yield start
    for tracker in running:
        await asyncio.wait_for(tracker.server.stop(), PATIENCE)


async def test_a_remote_member_gets_offers_and_answers_and_makes_its_own(serve: Any) -> None:
    tracker = await serve({"friend": Friend}, friend={"sdp": "hi:"})
    friend = tracker.extension("friend")
    async with raw_client(tracker.url) as a:
        assert (await a.announce(A))["incomplete"] == 1
        await eventually(lambda: HASH in friend.members)
        await a.send(announce(A, offers=offers(3, sdp="v=0")))
        assert (await a.receive())["incomplete"] == 2, "the friend counts"
        told = await a.receive_until(lambda message: "answer" in message)
        assert (told["peer_id"], told["answer"]["sdp"]) == (FRIEND, "hi:v=0")
        offered = await a.receive_until(lambda message: "offer" in message)
        assert (offered["peer_id"], offered["offer"]["sdp"]) == (FRIEND, "from afar")
        await a.send(answer(A, FRIEND, offered["offer_id"], sdp="back"))
        back = await asyncio.wait_for(friend.answers.get(), PATIENCE)
        assert (back.peer_id, back.to_peer_id, protocol.text(back.sdp)) == (A, FRIEND, "back")
        who, left_over = await asyncio.wait_for(friend.unplaced.get(), PATIENCE)
        assert (who, len(left_over)) == (A, 2)
        assert tracker.server.registry.get_sample_value("peerservers_friend_greeted_total") == 1
    await eventually(lambda: "closed" in friend.events)
    assert friend.events[:3] == ["start", "opened", "0+1"]
    assert tracker.server.hub.swarms == {}


async def test_routes_and_subprotocols(serve: Any) -> None:
    tracker = await serve({"friend": Friend})
    port = tracker.server.addresses[0][1]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /friend?x=1 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).endswith(b'["/friend", "x=1", 0]')
    writer.close()
    async with connect(tracker.url, subprotocols=["other", "echo.1"], max_size=None) as socket:  # type: ignore[list-item]
        assert socket.subprotocol == "echo.1"
        assert await socket.recv() == "127.0.0.1"
        large = b"x" * 200_000
        await socket.send("é")
        await socket.send(large)
        assert [await socket.recv(), await socket.recv()] == ["é", large]
        for _ in range(20):
            await socket.send(large)
        for _ in range(20):
            assert await asyncio.wait_for(socket.recv(), PATIENCE) == large
        await socket.send("bye")
        await asyncio.wait_for(socket.wait_closed(), PATIENCE)
        assert socket.close_code == 1000
    async with connect(tracker.url, subprotocols=["echo.1"]) as socket:  # type: ignore[list-item]
        await socket.send("crash")
        await asyncio.wait_for(socket.wait_closed(), PATIENCE)
        assert socket.close_code == 1011


async def test_channels_end_with_the_tracker(serve: Any) -> None:
    tracker = await serve({"friend": Friend})
    async with connect(tracker.url, subprotocols=["echo.1"]) as socket:  # type: ignore[list-item]
        await socket.recv()
        await tracker.server.stop()
        assert socket.close_code == 1001


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
    monkeypatch.setattr(host, "MAX_EVENTS", 50)
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
    assert tracker.server.hub.tally.dropped["extension_queue_full"] > 0
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
    monkeypatch.setattr(host, "MAX_EVENTS", 10)
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
        assert isinstance(channel, Channel)
        await eventually(lambda: channel._queued == 1000 * 100)
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
    _install(tmp_path, "clinger", "clinger:Clinger")
    env = {"PYTHONPATH": str(tmp_path), "PEERSERVERS_SERVER__SHUTDOWN_TIMEOUT": "0.2"}
    tracker = await TrackerProcess.start(env=env)
    assert await tracker.stop() == 0
    assert tracker.log[-1]["event"] == "leftovers_abandoned"


def _install(directory: Path, name: str, target: str) -> None:
    """Make an entry point as an installed package has it."""
    info = directory / f"{name}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[peerservers.extensions]\n{name} = {target}\n")


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
        await eventually(lambda: bool(tracker.server.extensions.errors))
        reply = await a.announce(A)
        assert (reply["complete"], reply["incomplete"]) == (0, 1)


async def test_a_third_partys_extension_is_found_by_its_entry_point(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    (tmp_path / "greeter.py").write_text(
        "from tracker.extension import Extension\n"
        "from tracker.http import Response\n"
        "class Greeter(Extension):\n"
        "    def __init__(self, tracker, settings):\n"
        "        super().__init__(tracker, settings)\n"
        "        tracker.add_route('/greet', self.greet)\n"
        "    async def greet(self, request):\n"
        "        return Response(b'hello')\n"
    )
    _install(tmp_path, "greeter", "greeter:Greeter")
    env = {"PYTHONPATH": str(tmp_path)}
    tracker = await start_tracker(env=env)
    assert await tracker.get("/greet") == (200, "hello")
    off = await start_tracker(env={**env, "PEERSERVERS_EXTENSIONS__GREETER__ENABLED": "false"})
    assert (await off.get("/greet"))[0] == 404


def test_what_is_no_extension_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for target in ("json:JSONDecoder", "no_such_module:X"):
        _install(tmp_path, "bad", target)
        with pytest.raises(ConfigError, match=r"extensions\.bad"):
            discover()
        assert "bad" not in discover(load(None, {"extensions": {"bad": {"enabled": False}}}))
