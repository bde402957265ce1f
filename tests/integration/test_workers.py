"""Several workers of one tracker, as an operator and a client see them."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

from tests.client import PATIENCE, eventually, raw_client
from tests.conftest import ALONE, TrackerProcess, environment, free_port
from tests.integration.test_life import assert_one_line, peerservers
from tests.integration.test_start import notified
from tests.integration.workers import StartWorkers, processes_of, with_joined, worker_of, workers_of
from tests.unit.fakes import peer_id
from tracker.workers.place import MAX_FAILURES


def events(tracker: TrackerProcess) -> list[str]:
    return [line["event"] for line in tracker.log]


def mode(path: str) -> int | None:
    """Return the mode of a file, or None if there is none."""
    return os.stat(path).st_mode & 0o777 if os.path.exists(path) else None


async def test_two_workers_share_a_port(start_workers: StartWorkers) -> None:
    tracker = await start_workers(env=environment("limits", max_connections=10))
    first, second = await workers_of(tracker)
    assert (first["count"], second["count"]) == (2, 2)
    assert (first["number"], second["number"]) == (0, 1)
    assert {first["pid"], second["pid"]} == {process.pid for process in processes_of(tracker)}
    assert mode(first["directory"]) == 0o700
    started = await tracker.logged("started")
    assert started["workers"] == 2
    assert started["max_connections"] == 10
    assert started["urls"] == f"http://127.0.0.1:{tracker.port}/"
    assert events(tracker) == ["listening", "started"]
    assert await tracker.stop() == 0
    assert mode(first["directory"]) is None


async def test_all_addresses_share_a_free_port(start_workers: StartWorkers) -> None:
    tracker = await start_workers("--host", "127.0.0.2", port=0)
    addresses = [(line["host"], line["port"]) for line in tracker.log if line["event"] == "listening"]
    assert addresses == [("127.0.0.1", tracker.port), ("127.0.0.2", tracker.port)]
    assert len(await workers_of(tracker)) == 2
    tracker.host = "127.0.0.2"
    assert len(await workers_of(tracker)) == 2


async def test_workers_share_a_unix_socket(start_workers: StartWorkers, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    tracker = await start_workers(host=f"unix:{path}")
    await workers_of(tracker)
    # A worker that ends does not take the file away.
    for process in processes_of(tracker)[:1]:
        process.kill()
    (await tracker.logged("worker_ended"))["level"] = "expected"
    await tracker.logged("worker_started")
    await workers_of(tracker)
    assert await tracker.stop() == 0
    assert not path.exists()


async def test_workers_share_the_port_of_the_metrics(start_workers: StartWorkers) -> None:
    port = free_port()
    tracker = await start_workers(env=environment("metrics", port=port))
    tracker.port = port
    assert {(await tracker.get("/health"))[0] for _ in range(20)} == {200}


async def test_one_signal_stops_all(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(peer_id(1))
        await b.announce(peer_id(2))
        tracker.tell(signal.SIGINT)
        assert await a.closed() == (1001, "shutdown")
        assert await b.closed() == (1001, "shutdown")
    assert await tracker.stop() == 0
    assert events(tracker) == ["listening", "started", "stopping", "stopped"]


async def test_a_signal_to_every_process_stops_them_as_well(start_workers: StartWorkers) -> None:
    """Terminals and systemd send it to all."""
    tracker = await start_workers()
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))
        for process in processes_of(tracker):
            process.send_signal(signal.SIGTERM)
        tracker.tell(signal.SIGTERM)
        assert await client.closed() == (1001, "shutdown")
    assert await tracker.stop() == 0
    assert set(events(tracker)) <= {"listening", "started", "stopping", "stopped", "worker_ended"}
    tracker.log = [line for line in tracker.log if line["event"] != "worker_ended"]


async def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    env = with_joined(tmp_path) | environment("server", shutdown_timeout=60)
    tracker = await TrackerProcess.start("--workers", "2", env=env)
    async with raw_client(tracker.url) as client:
        client.socket.transport.pause_reading()
        tracker.tell(signal.SIGTERM)
        await tracker.logged("stopping")
        tracker.tell(signal.SIGTERM)
        assert await tracker.stop() == 1
        client.socket.transport.abort()
    assert events(tracker)[-1] == "stopped_at_once"


async def test_a_worker_that_dies_is_started_again(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    first, second = await workers_of(tracker)
    async with raw_client(tracker.url) as one, raw_client(tracker.url) as two:
        for client in (one, two):
            await client.announce(peer_id(1))
        os.kill(first["pid"], signal.SIGKILL)
        ended = await tracker.logged("worker_ended")
        assert (ended["worker"], ended["signal"], ended["pid"]) == (0, "SIGKILL", first["pid"])
        ended["level"] = "expected"
        # Meanwhile, the other worker accepts the connections of both.
        assert {(await worker_of(tracker))["index"] for _ in range(20)} <= {0, 1}
        started = await tracker.logged("worker_started")
        assert started["worker"] == 0
        successor, same = await workers_of(tracker)
        assert (successor["number"], successor["pid"]) == (2, started["pid"])
        assert same == second
        for client in (one, two):
            client.socket.transport.abort()


async def test_mistakes_are_reported_once(tmp_path: Path) -> None:
    arguments = ("serve", "--workers", "2", "--host", "127.0.0.1", "--port", "0")
    env = with_joined(tmp_path)
    missing = environment("access", deny_infohashes=str(tmp_path / "missing"))
    assert_one_line(peerservers(*arguments, **env, **missing), "access.deny_infohashes", "missing")
    assert_one_line(peerservers(*arguments, **env, **environment("tracker", max_offers=0)), "tracker.max_offers")
    disabled = with_joined(tmp_path, enabled=False)
    assert_one_line(peerservers(*arguments, **disabled), "server.workers", "extensions.cluster.enabled")
    done = peerservers(*arguments, **with_joined(tmp_path, fails=True))
    assert done.returncode == 2
    assert "--workers: server.workers: the extension joined is off: as told\n" in done.stderr
    assert_one_line(peerservers("serve", "--workers", "none"), "--workers: server.workers", "not 'none'")
    assert peerservers("config", "--check", **disabled, **environment("server", workers=2)).returncode == 2


@pytest.mark.parametrize("is_tracker", [False, True])
async def test_a_taken_port(start_workers: StartWorkers, tmp_path: Path, is_tracker: bool) -> None:
    """The port of another tracker with workers is taken, too, although the kernel would let both have it."""
    if is_tracker:
        port = (await start_workers()).port
    else:
        taken = socket.create_server(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    other = tmp_path / "other"
    other.mkdir()
    arguments = ("serve", "--workers", "2", "--host", "127.0.0.1", "--port", str(port))
    done = await asyncio.to_thread(peerservers, *arguments, **with_joined(other))
    assert_one_line(done, str(port), "in use")
    if not is_tracker:
        taken.close()


async def test_workers_share_their_state_directory_with_no_other_tracker(
    start_workers: StartWorkers, tmp_path: Path
) -> None:
    await start_workers()
    done = await asyncio.to_thread(peerservers, "serve", "--workers", "2", "--port", "0", **with_joined(tmp_path))
    assert_one_line(done, "server.state_dir", "another running tracker uses it")


async def test_a_worker_that_cannot_start_ends_the_tracker(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tracker", "serve", "--workers", "2", "--port", "0"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ALONE, **with_joined(tmp_path, dies=True)},
    )
    # It starts four processes, one after the other.
    async with asyncio.timeout(4 * PATIENCE):
        _, log = await process.communicate()
    assert process.returncode == 3
    assert log.count(b"worker_ended") == MAX_FAILURES


async def test_sighup_reloads_all(start_workers: StartWorkers, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("")
    tracker = await start_workers("--config", str(file))
    file.write_text('[log]\nlevel = "debug"\n[page]\nname = "X"\n')
    # Also if the terminal or the service manager tells all.
    for process in processes_of(tracker):
        process.send_signal(signal.SIGHUP)
    tracker.tell(signal.SIGHUP)
    await eventually(lambda: events(tracker).count("reloaded") == 2)
    assert sorted(line["worker"] for line in tracker.log if line["event"] == "reloaded") == [0, 1]
    assert [line["keys"] for line in tracker.log if line["event"] == "restart_needed"] == [["page.name"]]
    file.write_text('[log]\nlevel = "loud"\n')
    tracker.tell(signal.SIGHUP)
    (await tracker.logged("reload_failed"))["level"] = "expected"
    await workers_of(tracker)
    assert events(tracker).count("reload_failed") == 1


async def test_the_workers_end_with_their_supervisor(tmp_path: Path) -> None:
    tracker = await TrackerProcess.start("--workers", "2", env=with_joined(tmp_path))
    directory = Path((await worker_of(tracker))["directory"])
    workers = processes_of(tracker)
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))
        tracker.process.kill()
        assert await client.closed() == (1001, "shutdown")
    await asyncio.to_thread(psutil.wait_procs, workers, PATIENCE)
    assert not any(worker.is_running() for worker in workers)
    assert await tracker.stop() == -signal.SIGKILL
    await eventually(lambda: not directory.exists())
    assert sorted(line["worker"] for line in tracker.log if line["event"] == "supervisor_ended") == [0, 1]


async def test_systemd_hears_of_the_tracker_from_the_supervisor(start_workers: StartWorkers, tmp_path: Path) -> None:
    with notified(tmp_path, abstract=False) as (name, manager):

        async def state() -> str:
            return (await asyncio.to_thread(manager.recv, 4096)).decode()

        tracker = await start_workers(env={"NOTIFY_SOCKET": name})
        assert await state() == "READY=1"
        tracker.tell(signal.SIGHUP)
        assert (await state()).startswith("RELOADING=1\nMONOTONIC_USEC=")
        assert await state() == "READY=1"
        await eventually(lambda: events(tracker).count("reloaded") == 2)
        await tracker.stop()
        assert await state() == "STOPPING=1"


async def test_one_process_has_no_supervisor(start_workers: StartWorkers) -> None:
    tracker = await start_workers("--workers", "1")
    assert processes_of(tracker) == []
    tracker.tell(signal.SIGUSR2)
    await tracker.logged("restart_impossible")
    assert (await tracker.get("/health"))[0] == 200
