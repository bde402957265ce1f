"""An example extension joins every swarm to a friend elsewhere."""

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.client import HASH, PATIENCE, announce, answer, eventually, offers, raw_client
from tests.conftest import StartTracker
from tests.integration.friend import FRIEND, Friend, install
from tests.unit.fakes import peer_id
from tracker.config import ConfigError, load
from tracker.extension.discovery import discover
from tracker.protocol import codec

A, B = peer_id(1), peer_id(2)


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
        assert (back.peer_id, back.to_peer_id, codec.from_json(back.sdp)) == (A, FRIEND, "back")
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


async def test_a_third_partys_extension_is_found_by_its_entry_point(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    (tmp_path / "greeter.py").write_text(
        "from tracker.extension import Extension\n"
        "from tracker.extension import Response\n"
        "class Greeter(Extension):\n"
        "    def __init__(self, tracker, settings):\n"
        "        super().__init__(tracker, settings)\n"
        "        tracker.add_route('/greet', self.greet)\n"
        "    async def greet(self, request):\n"
        "        return Response(b'hello')\n"
    )
    install(tmp_path, "greeter", "greeter:Greeter")
    env = {"PYTHONPATH": str(tmp_path)}
    tracker = await start_tracker(env=env)
    assert await tracker.get("/greet") == (200, "hello")
    off = await start_tracker(env={**env, "PEERSERVERS_EXTENSIONS__GREETER__ENABLED": "false"})
    assert (await off.get("/greet"))[0] == 404


def test_what_is_no_extension_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for target in ("json:JSONDecoder", "no_such_module:X"):
        install(tmp_path, "bad", target)
        with pytest.raises(ConfigError, match=r"extensions\.bad"):
            discover()
        assert "bad" not in discover(load(None, {"extensions": {"bad": {"enabled": False}}}))
