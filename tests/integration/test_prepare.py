"""Extensions that check whether they can run, before the tracker serves."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.client import PATIENCE, eventually, raw_client
from tests.integration.friend import Friend
from tests.unit.fakes import peer_id
from tracker.config import ConfigError, load
from tracker.core.swarm import Swarm
from tracker.extension import Extension, ExtensionOff, host
from tracker.server import Server


class Recorder(Extension):
    """Knows which of its methods were called."""

    def __init__(self, tracker: Any, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.called: list[str] = []

    async def start(self) -> None:
        self.called.append("start")

    async def swarm_opened(self, swarm: Swarm) -> None:
        self.called.append("swarm_opened")


class Off(Recorder):
    async def prepare(self) -> None:
        raise ExtensionOff("a program is missing", "/usr/bin/program")


class OffAtStart(Recorder):
    async def start(self) -> None:
        raise ExtensionOff("a port is taken")


class Raises(Recorder):
    async def prepare(self) -> None:
        raise RuntimeError("as told")


class Cancelled(Recorder):
    async def prepare(self) -> None:
        raise asyncio.CancelledError


class Refuses(Recorder):
    async def prepare(self) -> None:
        raise ConfigError("extensions.refuses.key: is wrong", "server.host: is wrong")


class RefusesToo(Recorder):
    async def prepare(self) -> None:
        raise ConfigError("server.host: is wrong")


async def test_an_extension_that_cannot_run_is_off_and_the_others_run(serve: Any) -> None:
    tracker = await serve(
        {"off": Off, "off_at_start": OffAtStart, "raises": Raises, "cancelled": Cancelled, "friend": Friend}
    )
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))
        await eventually(lambda: bool(tracker.extension("friend").members))
    assert tracker.extension("off").called == tracker.extension("raises").called == []
    server = tracker.server
    assert server.extensions.tables.off == {
        "off": "a program is missing",
        "off_at_start": "a port is taken",
        "raises": "its start has failed",
        "cancelled": "its start has failed",
    }
    errors = server.extensions.errors
    assert (errors["off"], errors["off_at_start"], errors["raises"]) == (0, 0, 1)
    up = {
        name: server.registry.get_sample_value("peerservers_extension_up", {"extension": name})
        for name in server.extensions.extensions
    }
    assert up == {"off": 0, "off_at_start": 0, "raises": 0, "cancelled": 0, "friend": 1}


async def test_mistakes_that_several_extensions_find_are_told_at_once() -> None:
    server = Server(
        load(None, {"server": {"host": "127.0.0.1", "port": 0}}), {"refuses": Refuses, "refuses_too": RefusesToo}
    )
    with pytest.raises(ConfigError) as caught:
        await server.start()
    assert sorted(caught.value.mistakes) == ["extensions.refuses.key: is wrong", "server.host: is wrong"]
    assert server.addresses == []


async def test_peers_do_not_wait_for_an_extension_that_takes_long(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PREPARE_TIMEOUT", 0.01)
    may_go_on = asyncio.Event()

    class Slow(Recorder):
        async def prepare(self) -> None:
            await may_go_on.wait()

    class SlowAndWrong(Recorder):
        async def prepare(self) -> None:
            await may_go_on.wait()
            raise ConfigError("server.host: is wrong")

    tracker = await serve({"slow": Slow, "wrong": SlowAndWrong})
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))
        slow = tracker.extension("slow")
        assert slow.called == []
        may_go_on.set()
        await eventually(lambda: slow.called == ["start", "swarm_opened"])
        await eventually(lambda: bool(tracker.server.extensions.tables.off))
    assert tracker.server.extensions.tables.off == {"wrong": "a setting cannot be used"}


async def test_an_extension_that_prepares_for_ever_is_stopped(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "PREPARE_TIMEOUT", 0.01)
    cancelled = asyncio.Event()

    class Stuck(Recorder):
        async def prepare(self) -> None:
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()

    tracker = await serve({"stuck": Stuck})
    await asyncio.wait_for(tracker.server.stop(), PATIENCE)
    await asyncio.wait_for(cancelled.wait(), PATIENCE)


async def test_two_servers_do_not_share_a_state_directory(serve: Any, tmp_path: Path) -> None:
    class User(Recorder):
        async def prepare(self) -> None:
            self.directory = await self.tracker.use_state(lambda directory: directory)

    settings = {"server": {"state_dir": str(tmp_path / "state")}}
    first = await serve({"user": User, "friend": User}, settings)
    assert first.extension("user").directory == first.extension("friend").directory == tmp_path / "state"
    with pytest.raises(ConfigError, match="another running tracker uses it"):
        await serve({"user": User}, settings)
    await asyncio.wait_for(first.server.stop(), PATIENCE)
    await serve({"user": User}, settings)
