"""How a member of the DHT starts and ends, and what it survives."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import libtorrent as lt
import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from extensions.dht import service
from extensions.dht.extension import Dht
from extensions.dht.settings import DhtSettings
from tests.client import eventually
from tests.integration.dht import Members, published, seen_by
from tests.private_dht import PrivateDht
from tracker.settings import Settings

HASH = "\u00ff" * 20


@pytest.fixture(scope="module")
async def dht() -> AsyncIterator[PrivateDht]:
    async with PrivateDht(5) as dht:
        yield dht


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A resolver that says nothing until the event is set."""
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


# Names


async def test_a_name_that_is_none_costs_a_warning(members: Members) -> None:
    names = ["a..b:6881", "x" * 70 + ".org:6881", "a\0b:1", *members.dht.bootstrap[:2]]
    with capture_logs() as logs:
        one = await members.start(bootstrap=names)
    assert one.node.has_contacts
    assert [line["event"] for line in logs].count("dht_bootstrap_unknown") == 3


async def test_a_resolver_that_is_stuck_holds_up_neither_start_nor_end(
    members: Members, stuck: threading.Event
) -> None:
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


# What goes wrong


async def test_a_node_that_fails_once_is_looked_after_all_the_same(
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


@pytest.mark.parametrize("part", ["_save", "directory", "node"])
async def test_whatever_fails_at_the_end_the_rest_is_ended(members: Members, part: str) -> None:
    one = await members.start()
    members.all.remove(one)

    async def fail() -> None:
        raise RuntimeError

    close = one.node.close
    if part == "_save":
        one._save = fail  # type: ignore[method-assign]
    else:
        getattr(one, part).close = fail
    with pytest.raises(RuntimeError):
        await one.stop()
    assert one.client._closed.is_set()
    assert (one.node._session is None) == (part != "node")
    await close()


@pytest.mark.parametrize("turns", range(1, 5))
async def test_a_start_that_is_cancelled_leaves_nothing(dht: PrivateDht, tmp_path: Path, turns: int) -> None:
    before = threading.active_count()
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings))
    starting = asyncio.ensure_future(one.start())
    for _ in range(turns):
        await asyncio.sleep(0.005)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert one.started.is_set()
    # libtorrent's own threads are none of Python's; a session that was left would still hold its socket.
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
    starting = asyncio.ensure_future(one.start())
    await eventually(lambda: bool(made))
    made.clear()
    starting.cancel()
    may_go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await eventually(ended.is_set)


# What other extensions see


def handle(state_dir: Path, url: str = "wss://tracker.example.org") -> Any:
    """As much of a tracker as the extension needs."""
    return SimpleNamespace(
        settings=Settings.model_validate({"server": {"state_dir": str(state_dir), "public_url": url}}),
        registry=CollectorRegistry(),
        log=SimpleNamespace(info=lambda *_, **__: None, warning=lambda *_, **__: None),
        add_route=lambda *_: None,
        add_table=lambda *_: None,
    )


async def test_what_is_wanted_before_the_start_is_done_after_it(
    dht: PrivateDht, members: Members, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "HASTY_PERIOD", 0.05)
    # The extension goes by the real time of day, and so must who reads what it writes.
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
    await one.start()
    try:
        assert await early == []
        own = cast(Any, one)._service
        await published(own, HASH.encode("latin-1"))
        assert set(await seen_by(reader, HASH.encode("latin-1"))) == {"wss://tracker.example.org"}
        assert b"w" * 20 not in own.directory._topics
    finally:
        await one.stop()
    # And after its end there is nothing more to come.
    assert await asyncio.wait_for(trackers(), 5) == []
    assert one.known(HASH) == []


async def test_whoever_looks_for_trackers_at_the_end_hears_it(
    dht: PrivateDht, tmp_path: Path, members: Members
) -> None:
    assert members.dht is dht
    one = Dht(handle(tmp_path), DhtSettings(**dht.settings | {"bootstrap": []}))
    await one.start()
    own = cast(Any, one)._service
    own.client.queue.running = 8

    async def trackers() -> list[str]:
        return [found.entry.url async for found in one.trackers(HASH)]

    late = asyncio.ensure_future(trackers())
    await eventually(lambda: len(own.client.queue) > 0)
    await one.stop()
    assert await asyncio.wait_for(late, 5) == []
