"""Trackers in processes of their own that are one tracker over a real NATS server."""

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from extensions.cluster.troubles import Trouble
from extensions.identity import KEY_FILE
from tests.client import eventually, offers, raw_client
from tests.conftest import ALONE, StartTracker, TrackerProcess, environment
from tests.integration.test_life import assert_one_line, peerservers
from tests.nats_server import NatsServer, NatsServers
from tests.unit.fakes import peer_id

A, B, C, D = (peer_id(number) for number in range(1, 5))
PASSWORD = "correct horse"


@pytest.fixture
async def server() -> AsyncIterator[NatsServer]:
    """Return a server that is not running yet."""
    async with NatsServers() as servers:
        server = servers.make(authorization={"user": "me", "password": PASSWORD})
        server.enable_jetstream()
        yield server


def node(server: NatsServer, directory: Path, **settings: Any) -> dict[str, str]:
    """Return the environment of a node with a state directory of its own."""
    cluster = {"servers": [server.url], "user": "me", "password": PASSWORD, **settings}
    return {**environment("server", state_dir=str(directory)), **environment("extensions.cluster", **cluster)}


async def knows(tracker: TrackerProcess, nodes: int) -> None:
    """Wait until a tracker knows so many nodes, itself included."""

    async def is_true() -> bool:
        return len((await tracker.stats())["cluster"]) == nodes

    await eventually(is_true)


async def test_peers_of_two_nodes_meet(start_tracker: StartTracker, server: NatsServer, tmp_path: Path) -> None:
    """They do so again after the server was away, and meanwhile each node serves its own peers."""
    await server.start()
    first, second = await asyncio.gather(
        start_tracker(env=node(server, tmp_path / "first")), start_tracker(env=node(server, tmp_path / "second"))
    )
    await knows(first, 2)
    await knows(second, 2)
    assert (tmp_path / "first" / KEY_FILE).read_bytes() == (tmp_path / "second" / KEY_FILE).read_bytes()
    async with raw_client(first.url) as a, raw_client(second.url) as b, raw_client(second.url) as c:
        await a.announce(A)
        await b.announce(B, offers=offers(1))
        assert (await a.receive())["peer_id"] == B
        await server.stop(signal.SIGKILL)
        await first.logged("cluster_transport_down")
        await second.logged("cluster_transport_down")
        await knows(second, 1)
        await c.announce(C, offers=offers(1))
        assert (await b.receive())["peer_id"] == C
        assert (await second.get("/ready"))[0] == 200
        assert await second.metric("peerservers_cluster_troubles_total", reason=Trouble.LOST) == 1
        await server.start()
        await knows(first, 2)
        await knows(second, 2)
        async with raw_client(first.url) as d:
            await d.announce(D, offers=offers(3))
            assert {(await client.receive())["peer_id"] for client in (a, b, c)} == {D}
    for tracker in (first, second):
        assert PASSWORD not in repr(tracker.log)


async def test_a_wrong_password_is_told_once(start_tracker: StartTracker, server: NatsServer, tmp_path: Path) -> None:
    await server.start()
    tracker = await start_tracker(env=node(server, tmp_path, key="file", password="battery staple"))

    async def is_refused_again() -> bool:
        return await tracker.metric("peerservers_cluster_troubles_total", reason=Trouble.REFUSED) > 2

    await eventually(is_refused_again)
    [line] = [line for line in tracker.log if line["event"] == "nats_unavailable"]
    assert (line["reason"], line["error"]) == ("refused", "Authorization Violation")
    async with raw_client(tracker.url) as a:
        assert "interval" in await a.announce(A)
    assert "battery" not in repr(tracker.log)


async def test_the_first_start_needs_nats_for_the_key(server: NatsServer, tmp_path: Path) -> None:
    done = await asyncio.to_thread(peerservers, "serve", "--port", "0", **ALONE, **node(server, tmp_path))
    assert_one_line(
        done, "extensions.cluster.key: this node has no key yet, and NATS cannot be asked for it", "connection refused"
    )
    assert not (tmp_path / KEY_FILE).exists()


async def test_mistakes_in_urls_do_not_show_passwords(server: NatsServer, tmp_path: Path) -> None:
    env = node(server, tmp_path, servers=[f"nats://me:{PASSWORD}/x@127.0.0.1"])
    done = await asyncio.to_thread(peerservers, "serve", "--port", "0", **ALONE, **env)
    assert_one_line(done, "extensions.cluster.servers", "a password in it must be percent-encoded")
    assert PASSWORD not in done.stderr


async def test_files_that_cannot_be_used_are_mistakes(server: NatsServer, tmp_path: Path) -> None:
    env = node(server, tmp_path, key="file", tls_ca="/no/such/file")
    done = await asyncio.to_thread(peerservers, "serve", "--port", "0", **ALONE, **env)
    assert_one_line(done, "extensions.cluster.tls_ca: /no/such/file: No such file or directory")
