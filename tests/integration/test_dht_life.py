"""How a member of the DHT starts and stops, and which failures it survives."""

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import libtorrent as lt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from extensions.dht import service
from extensions.dht.extension import Dht
from extensions.dht.krpc.schedule import Job, LookupLimits
from extensions.dht.settings import DhtSettings
from extensions.entries import check_entry, sign_entry
from extensions.trackers import RENDEZVOUS, Sighting
from tests.client import PATIENCE, eventually
from tests.integration.dht import Members, published, seen_by
from tests.private_dht import PrivateDht
from tests.unit.fakes import FakeConnection
from tracker.core.swarm import Swarm
from tracker.extension import swarm_key
from tracker.extension.state import StateDirectory
from tracker.files import aside
from tracker.settings import Settings

HASH = "\u00ff" * 20


@pytest.fixture(scope="module")
async def dht() -> AsyncIterator[PrivateDht]:
    async with PrivateDht(5) as dht:
        yield dht


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make the resolver block until the event is set."""
    free = threading.Event()
    ask = socket.getaddrinfo

    def wait(host: str, *arguments: Any, **options: Any) -> Any:
        if host == "stuck.example":
            free.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "at last")
        return ask(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", wait)
    yield free
    free.set()


# The clock


@pytest.mark.parametrize("hours", [-5, 5])
async def test_a_tracker_is_found_within_seconds_after_its_clock_was_set(members: Members, hours: int) -> None:
    info_hash = bytes([100 + hours]) * 20
    tracker, reader = await asyncio.gather(members.start(f"wss://set{hours}.example.org"), members.start())
    # Peers that are not alone give no reason for an early visit.
    tracker.directory.swarm(info_hash, 5, linked=False)
    await published(tracker, info_hash)
    with capture_logs() as log:
        members.clock.ahead += hours * 3600

        async def is_found() -> bool:
            return tracker.directory.url in await seen_by(reader, info_hash)

        await eventually(is_found, PATIENCE)
    assert "clock_set" in [line["event"] for line in log]


# Names


async def test_an_invalid_bootstrap_name_costs_a_warning(members: Members) -> None:
    names = ["a..b:6881", "x" * 70 + ".org:6881", "a\0b:1", *members.dht.bootstrap[:2]]
    with capture_logs() as logs:
        one = await members.start(bootstrap=names)
    assert one.node.has_contacts
    assert [line["event"] for line in logs].count("dht_bootstrap_unknown") == 3


async def test_a_resolver_that_blocks_delays_neither_start_nor_stop(members: Members, stuck: threading.Event) -> None:
    one = await members.start(bootstrap=["stuck.example:6881", *members.dht.bootstrap[:2]])
    await one.stop()
    members.all.remove(one)
    assert not stuck.is_set()


async def test_a_node_that_is_restored_needs_no_resolver(
    members: Members, stuck: threading.Event, tmp_path: Path
) -> None:
    first = await members.start(state_dir=tmp_path)
    await first.stop()
    members.all.remove(first)
    again = await members.start(state_dir=tmp_path, bootstrap=["stuck.example:6881"])
    assert again.node.has_contacts
    assert not stuck.is_set()


# Failures


async def test_a_node_that_fails_a_few_times_is_refreshed_again(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await members.start()
    refresh, faults = one.node.refresh, iter([RuntimeError(), UnicodeError(), OSError()])

    async def fail() -> None:
        for fault in faults:
            raise fault
        await refresh()

    monkeypatch.setattr(one.node, "refresh", fail)
    one.reachable.clear()
    await eventually(one.reachable.is_set)


@pytest.mark.parametrize("part", ["save", "directory", "node"])
async def test_if_one_part_fails_to_stop_the_others_are_stopped(members: Members, part: str) -> None:
    one = await members.start()
    members.all.remove(one)

    async def fail() -> None:
        raise RuntimeError

    close = one.node.close
    if part == "save":
        one.node.state = fail  # type: ignore[assignment]
    else:
        getattr(one, part).close = fail
    with pytest.raises(RuntimeError):
        await one.stop()
    assert one.client.is_closed
    assert one.node.is_running == (part == "node")
    await close()


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_start_that_is_cancelled_leaves_nothing(dht: PrivateDht, tmp_path: Path, turns: int) -> None:
    before = threading.active_count()
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings))
    await one.prepare()
    starting = asyncio.ensure_future(one.start())
    for _ in range(turns):
        await asyncio.sleep(0.005)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert one.started.is_set()
    # Only threads of Python are counted; the next test is about the threads of libtorrent.
    await eventually(lambda: threading.active_count() <= before)


async def test_a_session_that_is_made_while_the_start_is_cancelled_is_ended(
    dht: PrivateDht, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []
    may_go_on = threading.Event()

    class Slow(lt.session):  # type: ignore[misc]
        def __init__(self, *arguments: Any) -> None:
            made.append(self)
            may_go_on.wait(10)
            super().__init__(*arguments)

        def __del__(self) -> None:
            ended.set()

    ended = threading.Event()
    monkeypatch.setattr(lt, "session", Slow)
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings))
    await one.prepare()
    starting = asyncio.ensure_future(one.start())
    await eventually(lambda: bool(made))
    made.clear()
    starting.cancel()
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(ended.is_set)


# The API for other extensions


def handle(state_dir: Path, url: str = "wss://tracker.example.org") -> Any:
    """Return the parts of a tracker handle that the extension needs."""
    settings = Settings.model_validate({"server": {"state_dir": str(state_dir), "public_url": url}})
    state = StateDirectory(settings)
    return SimpleNamespace(
        runs_here=True,
        extension=lambda _: None,
        settings=settings,
        show_id=lambda _: None,
        use_state=lambda read: aside(state.use, read),
        registry=CollectorRegistry(),
        log=SimpleNamespace(info=lambda *_, **__: None, warning=lambda *_, **__: None),
        add_route=lambda *_: None,
        add_table=lambda *_: None,
        task_failures=Counter(),
    )


async def test_requests_before_the_start_take_effect_after_it(
    dht: PrivateDht, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HASTY_PERIOD", 0.05)
    # The extension uses the real time of day, so its reader must do so, too.
    members.clock.ahead = 0.0
    reader = await members.start()
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings))
    one.publish(HASH)
    one.publish("w" * 20)
    one.withdraw("w" * 20)

    async def trackers() -> list[str]:
        return [found.entry.url async for found in one.trackers(HASH)]

    early = asyncio.ensure_future(trackers())
    await asyncio.sleep(0.01)
    assert not early.done()
    await one.prepare()
    await one.start()
    try:
        assert await early == []
        own = one.service
        assert own
        await published(own, HASH.encode("latin-1"))
        assert set(await seen_by(reader, HASH.encode("latin-1"))) == {"wss://tracker.example.org"}
        assert b"w" * 20 not in own.directory.tracked
    finally:
        await one.stop()
    # After its end, lookups end at once.
    assert await asyncio.wait_for(trackers(), 5) == []
    assert one.known(HASH) == []


async def test_trackers_are_learned_and_passed_on(dht: PrivateDht, members: Members, tmp_path: Path) -> None:
    assert members.dht is dht
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings))
    key, url = Ed25519PrivateKey.generate(), "wss://other.example"
    descriptor, entry = (sign_entry(key, about, url, int(time.time())) for about in (b"", HASH.encode("latin-1")))
    told: list[tuple[str, Sighting]] = []
    one.on_sighting(lambda *sighted: told.append(sighted))
    # Before the start and after the end nothing is known.
    assert (one.learn("", descriptor), one.entries(""), one.own_descriptor()) == (False, [], None)
    await one.prepare()
    await one.start()
    try:
        await one.swarm_opened(Swarm(HASH))
        await one.swarm_changed(SimpleNamespace(info_hash=HASH, own_complete=1, own_incomplete=1, remotes={}))  # type: ignore[arg-type]
        assert [one.learn("", descriptor), one.learn(HASH, entry), one.learn(HASH, entry)] == [True, True, False]
        assert told == [
            (RENDEZVOUS.decode("latin-1"), Sighting(descriptor, "link")),
            (HASH, Sighting(entry, "link")),
        ]
        assert (one.entries(""), one.entries(HASH), one.entries("unknown")) == ([descriptor], [entry], [])
        own = one.own_descriptor()
        assert own
        assert check_entry(own, b"", time.time()) is None
        assert one.own_descriptor() is own
        one.distrust(entry.tracker_id, url)
        assert (one.entries(""), one.entries(HASH), one.known(HASH)) == ([], [], [])
    finally:
        await one.stop()
    assert (one.learn("", descriptor), one.entries(""), one.own_descriptor()) == (False, [], None)


async def test_a_client_that_announces_the_key_of_a_text_swarm_does_not_disturb_it(
    dht: PrivateDht, members: Members, tmp_path: Path
) -> None:
    assert members.dht is dht
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings))
    key = swarm_key("a room")
    room, same_key = Swarm("a room"), Swarm(key.decode("latin-1"))
    for swarm in (room, same_key):
        swarm.join("a", FakeConnection(), False, 0.0)
    told: list[str] = []
    one.on_sighting(lambda info_hash, _: told.append(info_hash))
    sighting = Sighting(sign_entry(Ed25519PrivateKey.generate(), key, "wss://other.example", int(time.time())), "r0")
    await one.prepare()
    await one.start()
    try:
        own = one.service
        assert own
        tell = own.directory.sightings.listeners[0]
        for swarm in (same_key, room):
            await one.swarm_opened(swarm)
            await one.swarm_changed(swarm)
        tell(key, sighting)
        await one.swarm_closed(same_key)
        assert key in own.directory.tracked, "the text swarm is still open"
        tell(key, sighting)
        await one.swarm_closed(room)
        assert key not in own.directory.tracked
        tell(key, sighting)
        assert told == ["a room", "a room", same_key.info_hash]
    finally:
        await one.stop()


async def test_a_lookup_that_waits_for_a_turn_ends_when_the_extension_stops(
    dht: PrivateDht, tmp_path: Path, members: Members
) -> None:
    assert members.dht is dht
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings | {"bootstrap": []}))
    await one.prepare()
    await one.start()
    assert one.service
    scheduler = one.service.client.scheduler

    async def trackers() -> list[str]:
        return [found.entry.url async for found in one.trackers(HASH)]

    async with AsyncExitStack() as stack:
        for _ in range(LookupLimits().parallel):
            await stack.enter_async_context(scheduler.turn(Job()))
        waiting = asyncio.ensure_future(trackers())
        await eventually(lambda: scheduler.lookups_waiting > 0)
        await one.stop()
        assert await asyncio.wait_for(waiting, 5) == []
