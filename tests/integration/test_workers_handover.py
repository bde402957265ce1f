"""Connections that are handed to the workers of their swarms."""

import asyncio
import json
import os
import signal
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode

from tests.certificates import Pair
from tests.client import PATIENCE, announce, answer, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment
from tests.integration.test_workers_watching import samples
from tests.integration.workers import StartWorkers, with_joined, workers_of
from tests.unit.fakes import peer_id

CLIENTS = 16
HEAD = (
    b"GET /x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def masked(text: str) -> bytes:
    """Return a client's frame."""
    return Frame(Opcode.TEXT, text.encode()).serialize(mask=True)


ANNOUNCE = json.dumps(announce(peer_id(1), "i" * 20))


async def joined(stack: AsyncExitStack, tracker: TrackerProcess, swarm: str) -> None:
    """Connect clients, each with a peer in the swarm, and check that each meets the one before."""
    before = None
    for number in range(CLIENTS):
        client = await stack.enter_async_context(raw_client(tracker.url))
        await client.announce(peer_id(number), swarm)
        if before:
            # The workers are not one tracker here: these peers meet only if they are at the same one.
            await client.announce(peer_id(number), swarm, offers=offers(number), numwant=number)
            offer = await before.receive_until(lambda message: "offer" in message)
            await before.send(answer(peer_id(number - 1), offer["peer_id"], offer["offer_id"], swarm))
            assert (await client.receive_until(lambda message: "answer" in message))["peer_id"] == peer_id(number - 1)
        before = client


async def test_all_peers_of_a_swarm_are_at_one_worker(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    await workers_of(tracker)
    async with AsyncExitStack() as stack:
        for swarm in ("a" * 20, "b" * 20):
            await joined(stack, tracker, swarm)
        found = await samples(tracker)
        assert found["peerservers_connections"] == 2 * CLIENTS
        assert found["peerservers_connections_handed_total direction=in"] > 0
        assert (
            found["peerservers_connections_handed_total direction=in"]
            == (found["peerservers_connections_handed_total direction=out"])
        )
        closed = sum(value for name, value in found.items() if "connections_closed_total" in name)
        # A connection that was handed has not ended.
        assert closed == 0
    await eventually(lambda: none_is_connected(tracker))


async def none_is_connected(tracker: TrackerProcess) -> bool:
    return await tracker.metric("peerservers_connections") == 0


@pytest.fixture
def start_workers(start_workers: StartWorkers) -> StartWorkers:
    """Starts trackers with two workers, which group swarms."""

    async def start(*arguments: str, env: dict[str, str] | None = None) -> TrackerProcess:
        return await start_workers(*arguments, env=environment("server", group_swarms=True) | (env or {}))

    return start


async def opened(
    tracker: TrackerProcess, lines: bytes = b"", path: Path | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a WebSocket without a library."""
    if path:
        reader, writer = await asyncio.open_unix_connection(path)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)
    writer.write(HEAD + lines + b"\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
    return reader, writer


async def test_a_first_message_in_pieces_and_messages_behind_it(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    whole = masked(ANNOUNCE)
    for _ in range(12):
        reader, writer = await opened(tracker)
        for piece in (whole[:1], whole[1:50], whole[50:] + whole + whole[:30], whole[30:]):
            writer.write(piece)
            await writer.drain()
        for _ in range(3):
            reply = await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
            assert b'"interval"' in reply
        writer.close()
    assert await tracker.metric("peerservers_connections_handed_total", direction="in") > 0


async def test_a_request_and_a_message_in_one_packet(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    for _ in range(8):
        reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)
        writer.write(HEAD + b"\r\n" + masked(ANNOUNCE))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        assert b'"interval"' in await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
        writer.close()


async def test_the_address_that_a_proxy_tells_is_kept(start_workers: StartWorkers) -> None:
    """Both limits and refusals are of the client, and not of the proxy."""
    env = environment("server", trusted_proxies=["127.0.0.1"]) | environment("limits", connections_per_address=3)
    tracker = await start_workers(env=env)
    lines = b"X-Forwarded-For: 192.0.2.7\r\n"
    clients = [await opened(tracker, lines if number < 2 else b"") for number in range(8)]
    for _, writer in clients:
        writer.write(masked(ANNOUNCE))
    for reader, _ in clients:
        assert b'"interval"' in await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
    for _, writer in clients:
        writer.close()


async def test_without_an_address_from_a_proxy_there_are_no_limits(start_workers: StartWorkers, tmp_path: Path) -> None:
    """As in a single process: a Unix-domain socket has no address."""
    path = tmp_path / "socket"
    env = environment("limits", connections_per_address=3, exempt=[])
    tracker = await start_workers("--host", f"unix:{path}", env=env)
    clients = [await opened(tracker, path=path) for _ in range(24)]
    for number, (_, writer) in enumerate(clients):
        writer.write(masked(json.dumps(announce(peer_id(number), chr(number + 1) * 20))))
    for reader, _ in clients:
        assert b'"interval"' in await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
    for _, writer in clients:
        writer.close()


async def test_no_connection_is_cut_because_the_worker_of_its_swarm_is_full(start_workers: StartWorkers) -> None:
    tracker = await start_workers(env=environment("limits", max_connections=2))

    async def opened_soon() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            # A worker that is full refuses those that the kernel gives it.
            reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)
            writer.write(HEAD + b"\r\n")
            if (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)).startswith(b"HTTP/1.1 101 "):
                return reader, writer
            writer.close()

    for number in range(6):
        clients = []
        for _ in range(2):
            reader, writer = await opened_soon()
            writer.write(masked(json.dumps(announce(peer_id(number), chr(number + 1) * 20))))
            assert b'"interval"' in await asyncio.wait_for(reader.readuntil(b"}"), PATIENCE)
            clients.append(writer)
        for writer in clients:
            writer.close()
        await eventually(lambda: none_is_connected(tracker))


async def test_a_worker_with_other_settings_takes_connections(start_tracker: StartTracker, tmp_path: Path) -> None:
    """As during a rolling restart with a new setting."""
    file = tmp_path / "peerservers.toml"
    file.write_text("[server]\ngroup_swarms = true\n")
    env = with_joined(tmp_path)
    del env["PEERSERVERS_SERVER__GROUP_SWARMS"]
    tracker = await start_tracker("--workers", "2", "--config", str(file), env=env)
    first, second = await workers_of(tracker)
    file.write_text("[server]\ngroup_swarms = false\n")
    os.kill(first["pid"], signal.SIGKILL)
    (await tracker.logged("worker_ended"))["level"] = "expected"
    await tracker.logged("worker_started")
    assert (await workers_of(tracker))[1] == second
    handed = 0.0
    for number in range(100):
        async with raw_client(tracker.url) as client:
            await client.announce(peer_id(number), chr(number + 1) * 20)
        if number % 10 == 9:
            handed = await tracker.metric("peerservers_connections_handed_total", direction="in")
            if handed:
                break
    assert handed


async def test_it_can_be_turned_off(start_workers: StartWorkers) -> None:
    tracker = await start_workers(env=environment("server", group_swarms=False))
    async with AsyncExitStack() as stack:
        for number in range(CLIENTS):
            client = await stack.enter_async_context(raw_client(tracker.url))
            await client.announce(peer_id(number))
        found = await samples(tracker)
    assert all(found[f"peerservers_worker_connections worker={index}"] for index in range(2))
    assert found["peerservers_connections_handed_total direction=in"] == 0


async def test_connections_over_tls_stay(start_workers: StartWorkers, tmp_path: os.PathLike[str]) -> None:
    pair = Pair(tmp_path)  # type: ignore[arg-type]
    tracker = await start_workers(env=pair.env)
    url = tracker.url.replace("ws:", "wss:")
    counts: Counter[int] = Counter()
    async with AsyncExitStack() as stack:
        for number in range(CLIENTS):
            client = await stack.enter_async_context(raw_client(url, **pair.client()))
            counts[(await client.announce(peer_id(number)))["incomplete"]] += 1
    # The workers are not one tracker here: each has a part of the peers.
    assert max(counts) < CLIENTS


async def test_a_dead_worker_is_handed_nothing(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    for worker in await workers_of(tracker):
        os.kill(worker["pid"], signal.SIGKILL)
        line = await tracker.logged("worker_ended")
        line["level"] = "expected"
        for number in range(6):
            async with raw_client(tracker.url) as client:
                await client.announce(peer_id(number), chr(number + 1) * 20)
        await tracker.logged("worker_started")
        await workers_of(tracker)
        tracker.log.clear()


async def test_connections_that_wait_for_a_stopped_worker_are_taken_by_others(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    first, _ = await workers_of(tracker)
    # Half of the swarms are served by it. Some of these connections it has accepted itself.
    clients = [await opened(tracker) for _ in range(12)]
    os.kill(first["pid"], signal.SIGSTOP)
    for number, (_, writer) in enumerate(clients):
        writer.write(masked(json.dumps(announce(peer_id(number), chr(number + 1) * 20))))
    await tracker.logged("worker_slow")
    replies = [asyncio.ensure_future(reader.readuntil(b"}")) for reader, _ in clients]
    await asyncio.wait(replies, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
    os.kill(first["pid"], signal.SIGCONT)
    assert all(b'"interval"' in reply for reply in await asyncio.wait_for(asyncio.gather(*replies), PATIENCE))
    for _, writer in clients:
        writer.close()
