"""A rolling restart, and workers that hang."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest
from websockets.frames import Frame, Opcode

from tests.client import PATIENCE, announce, eventually, raw_client
from tests.conftest import TrackerProcess, environment
from tests.integration.workers import StartWorkers, worker_of, workers_of
from tests.unit.fakes import peer_id

UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)

CONNECTIONS = 2000
AT_ONCE = 40


async def open_and_close(tracker: TrackerProcess, number: int, announces: bool) -> str:
    """Open a WebSocket without a library, which would take most of the time. Return the trouble that it had."""
    reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)
    try:
        writer.write(UPGRADE)
        line = await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        if line != b"HTTP/1.1 101 Switching Protocols\r\n":
            return line.decode()
        if announces:
            message = json.dumps(announce(peer_id(number), f"{number % 50:020}"))
            writer.write(Frame(Opcode.TEXT, message.encode()).serialize(mask=True))
            opcode, size = await reader.readexactly(2)
            payload = await reader.readexactly(size)
            # An old worker may have its turn to close it before.
            if b'"interval"' not in payload and (opcode & 0x0F) != Opcode.CLOSE:
                return repr(payload)
        return ""
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("group_swarms", [False, True])
async def test_a_rolling_restart_refuses_no_connection(start_workers: StartWorkers, group_swarms: bool) -> None:
    """With grouped swarms, connections are also handed over by and to workers that are replaced."""
    tracker = await start_workers(env=environment("server", group_swarms=group_swarms))
    before = await workers_of(tracker)
    left = CONNECTIONS
    refused: list[str] = []

    async def keep_opening() -> None:
        nonlocal left
        # Until the restart is over, and at least so many.
        while left > 0 or "restarted" not in [line["event"] for line in tracker.log]:
            left -= 1
            try:
                trouble = await asyncio.wait_for(open_and_close(tracker, left, group_swarms), PATIENCE)
            except Exception as error:
                refused.append(repr(error))
            else:
                refused.extend(filter(None, [trouble]))

    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(peer_id(1))
        await b.announce(peer_id(2))
        opening = [asyncio.ensure_future(keep_opening()) for _ in range(AT_ONCE)]
        await eventually(lambda: left < CONNECTIONS - 100)
        tracker.tell(signal.SIGUSR2)
        assert await a.closed() == (1012, "restart")
        assert await b.closed() == (1012, "restart")
        await asyncio.gather(*opening)
    assert refused == []
    after = await workers_of(tracker)
    assert [worker["number"] for worker in after] == [2, 3]
    assert {worker["pid"] for worker in before}.isdisjoint(worker["pid"] for worker in after)
    names = [line["event"] for line in tracker.log if line["event"] != "suppressed"]
    assert names[2:] == ["restarting", *["worker_started", "worker_replaced"] * 2, "restarted"]


async def test_a_connection_without_its_request_is_served_by_the_old_worker(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    reader, writer = await asyncio.open_connection("127.0.0.1", tracker.port)
    # Half a request. A request behind it shows that the connection has been accepted.
    writer.write(UPGRADE[:20])
    await writer.drain()
    await workers_of(tracker)
    tracker.tell(signal.SIGUSR2)
    await tracker.logged("worker_started")
    writer.write(UPGRADE[20:])
    assert await asyncio.wait_for(reader.readline(), PATIENCE) == b"HTTP/1.1 101 Switching Protocols\r\n"
    await reader.readuntil(b"\r\n\r\n")
    # It is closed as all others are.
    assert await asyncio.wait_for(reader.read(2), PATIENCE) == b"\x88\x09"
    writer.close()
    await tracker.logged("restarted")


async def test_a_rolling_restart_adopts_settings(start_workers: StartWorkers, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("[tracker]\nannounce_interval = 100\n")
    tracker = await start_workers("--config", str(file))

    async def interval() -> object:
        async with raw_client(tracker.url) as client:
            return (await client.announce(peer_id(1), left=0))["interval"]

    async def outcome(text: str) -> str:
        file.write_text(text)
        tracker.log.clear()
        tracker.tell(signal.SIGUSR2)
        line = await tracker.logged("restart_failed", "restarted")
        line["level"] = "expected"
        return str(line)

    assert await interval() == 100
    assert "announce_interval" in await outcome("[tracker]\nannounce_interval = 0\n")
    assert "server.unix_socket_mode" in await outcome("[server]\nunix_socket_mode = '0666'\n")
    assert await interval() == 100
    assert "restarted" in await outcome("[tracker]\nannounce_interval = 200\n")
    assert await interval() == 200


async def test_a_new_worker_that_cannot_start_leaves_the_old_one(start_workers: StartWorkers, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("")
    tracker = await start_workers("--config", str(file))
    before = await workers_of(tracker)
    file.write_text(f"[access]\ndeny_infohashes = '{tmp_path / 'missing'}'\n")
    tracker.tell(signal.SIGUSR2)
    failed = await tracker.logged("restart_failed")
    assert failed["worker"] == 0
    ended = await tracker.logged("worker_not_replaced")
    assert ended["code"] == 2
    assert await workers_of(tracker) == before
    # The worker itself has told the mistake.
    assert [line["event"].endswith("No such file or directory") for line in tracker.log if "level" not in line] == [
        True
    ]
    tracker.log.clear()


IMPATIENT = """
from tracker.workers import pool
pool.SLOW_TIMEOUT, pool.HUNG_TIMEOUT = 1.5, {hung}
from tracker.cli import main
main()
"""


async def test_the_connections_of_a_stopped_worker_are_accepted_by_others(start_workers: StartWorkers) -> None:
    tracker = await start_workers(program=("-c", IMPATIENT.format(hung=3600)))
    first, second = await workers_of(tracker)
    os.kill(first["pid"], signal.SIGSTOP)
    assert (await tracker.logged("worker_slow"))["worker"] == 0
    assert [(await worker_of(tracker))["index"] for _ in range(20)] == [1] * 20
    for number in range(10):
        # Also if their swarm would be served by the stopped one.
        async with raw_client(tracker.url) as client:
            await client.announce(peer_id(number), chr(number + 1) * 20)
    os.kill(first["pid"], signal.SIGCONT)
    assert await workers_of(tracker) == [first, second]


async def test_a_worker_that_hangs_is_replaced(start_workers: StartWorkers) -> None:
    tracker = await start_workers(program=("-c", IMPATIENT.format(hung=3)))
    first, second = await workers_of(tracker)
    os.kill(first["pid"], signal.SIGSTOP)
    for event in ("worker_killed", "worker_ended"):
        line = await tracker.logged(event)
        assert (line["worker"], line["pid"]) == (0, first["pid"])
        line["level"] = "expected"
    await tracker.logged("worker_started")
    successor, same = await workers_of(tracker)
    assert same == second
    assert successor["pid"] != first["pid"]
