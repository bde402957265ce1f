"""Start, reload and stop, as an operator and a client see them."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.client import PATIENCE, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess, free_port
from tests.unit.fakes import peer_id


def peerservers(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tracker", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **env},
        check=False,
    )


def assert_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    """Check that a mistake of the operator gave exit code 2 and one line that names it."""
    assert done.returncode == 2, done
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("peerservers: ")
    for part in parts:
        assert part in done.stderr


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_a_signal_closes_every_socket_with_1001_and_exits_with_0(tracker: TrackerProcess, name: str) -> None:
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(peer_id(1))
        await b.announce(peer_id(2))
        tracker.tell(signal.Signals[name])
        assert await a.closed() == (1001, "shutdown")
        assert await b.closed() == (1001, "shutdown")
    assert await tracker.stop() == 0
    assert [line["event"] for line in tracker.log] == ["listening", "started", "stopping", "stopped"]


async def test_sockets_that_do_not_close_are_cut_after_the_timeout(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env={"PEERSERVERS_SERVER__SHUTDOWN_TIMEOUT": "0.2"})
    async with raw_client(tracker.url) as client:
        client.socket.transport.pause_reading()
        assert await tracker.stop() == 0
        client.socket.transport.abort()


async def test_a_second_signal_stops_at_once() -> None:
    tracker = await TrackerProcess.start(env={"PEERSERVERS_SERVER__SHUTDOWN_TIMEOUT": "60"})
    async with raw_client(tracker.url) as client:
        client.socket.transport.pause_reading()
        tracker.tell(signal.SIGTERM)
        await tracker.logged("stopping")
        tracker.tell(signal.SIGTERM)
        assert await tracker.stop() == 1
        client.socket.transport.abort()
    assert tracker.log[-1]["event"] == "stopped_at_once"


async def test_sigterm_under_load_then_restart_and_all_meet_again(start_tracker: StartTracker) -> None:
    port = free_port()
    tracker = await start_tracker(port=port)
    loaded = 0

    async def keep_announcing(number: int) -> tuple[int | None, str]:
        nonlocal loaded
        async with raw_client(tracker.url) as client:
            while client.socket.close_code is None:
                try:
                    await client.announce(peer_id(number), offers=offers(5, sdp="x" * 900))
                except Exception:  # the socket closes in the middle of an exchange
                    break
                loaded += 1
            return await client.closed()

    clients = [asyncio.ensure_future(keep_announcing(n)) for n in range(50)]
    await eventually(lambda: loaded >= 500)
    assert await tracker.stop() == 0
    assert {await client for client in clients} == {(1001, "shutdown")}

    tracker = await start_tracker(port=port)
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await a.announce(peer_id(1))
        await b.announce(peer_id(2), offers=offers(1))
        assert (await a.receive())["peer_id"] == peer_id(2)


async def test_ready_until_it_stops(tracker: TrackerProcess) -> None:
    assert (await tracker.get("/ready"))[0] == 200


async def test_sighup_reloads_the_log_level(start_tracker: StartTracker, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text('[log]\nlevel = "info"\n')
    tracker = await start_tracker("--config", str(file))

    async def reload_with(text: str) -> dict[str, object]:
        file.write_text(text)
        tracker.log.clear()
        tracker.tell(signal.SIGHUP)
        return await tracker.logged("reloaded", "reload_failed")

    assert (await reload_with('[log]\nlevel = "debug"\n'))["log_level"] == "debug"
    assert tracker.log[-1]["event"] == "reloaded"
    failed = await reload_with('[log]\nlevel = "loud"\n')
    assert failed["event"] == "reload_failed"
    assert "log.level" in str(failed["error"])
    tracker.log.remove(failed)
    assert (await tracker.get("/health"))[0] == 200


def test_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert_one_line(peerservers("serve", "--host", "127.0.0.1", "--port", port), port, "in use")


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["serve", "--port", "99999"], ["server.port"]),
        (["serve", "--port", "http"], ["--port"]),
        (["serve", "--host", "no.such.host.invalid"], ["no.such.host.invalid"]),
        (["serve", "--host", "192.0.2.1", "--port", "0"], ["192.0.2.1"]),
        (["serve", "--host", "..", "--port", "0"], [".."]),
        (["identity", "--state-dir", "~no-such-user/x"], ["no-such-user"]),
        (["serve", "--log-level", "loud"], ["log.level"]),
        (["serve", "--config", "/no/such/file.toml"], ["/no/such/file.toml", "No such file"]),
        (["serve", "--config", "."], ["is a directory"]),
        (["serve", "--nope"], ["--nope"]),
        (["dance"], ["dance"]),
        (["check", "--nope"], ["--nope"]),
    ],
    ids=lambda value: " ".join(value) if value[0] in ("serve", "dance", "check", "identity") else "",
)
def test_mistakes_on_the_command_line(arguments: list[str], parts: list[str]) -> None:
    assert_one_line(peerservers(*arguments), *parts)


@pytest.mark.parametrize(
    ("toml", "part"),
    [
        ("[server", "peerservers.toml"),
        ("[server]\nprot = 8000", "server.prot: unknown key"),
        ("[sever]\nport = 8000", "sever: unknown section"),
        ('[server]\nport = "8000"', "server.port"),
        ("[server]\nport = true", "server.port"),
        ("[tracker]\nannounce_interval = 1.5", "tracker.announce_interval"),
        ('[server]\npublic_url = "https://x"', "server.public_url"),
        ("[connections]\nsend_buffer = 70000", "connections.send_buffer"),
        ("[extensions.nope]", "extensions.nope: no such extension"),
        ("[extensions.nope]\nenabled = 7", "extensions.nope.enabled"),
        ("\udcff", "peerservers.toml"),
    ],
)
def test_mistakes_in_the_configuration_file(tmp_path: Path, toml: str, part: str) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_bytes(toml.encode(errors="surrogateescape"))
    assert_one_line(peerservers("serve", "--config", str(file)), part)


@pytest.mark.parametrize(
    ("name", "value", "part"),
    [
        ("PEERSERVERS_SERVER__PORT", "http", "server.port"),
        ("PEERSERVERS_SERVER__PROT", "8000", "server.prot: unknown key"),
        ("PEERSERVERS_SEVER__PORT", "8000", "PEERSERVERS_SEVER__PORT: sever: unknown section"),
        ("PEERSERVERS_SERVER__HOST", "[]", "server.host"),
    ],
)
def test_mistakes_in_the_environment(name: str, value: str, part: str) -> None:
    assert_one_line(peerservers("serve", **{name: value}), part)


async def test_command_line_over_environment_over_file_over_default(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("[tracker]\nannounce_interval = 30\nmax_offers = 3\n[server]\nport = 1\n")
    env = {"PEERSERVERS_TRACKER__ANNOUNCE_INTERVAL": "60", "PEERSERVERS_SERVER__PORT": "2"}
    tracker = await start_tracker("--config", str(file), env=env)
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        assert (await a.announce(peer_id(1)))["interval"] == 60
        await b.announce(peer_id(2), offers=offers(9), numwant=9)
        assert await tracker.metric("peerservers_dropped_total", reason="surplus_offer") == 6


def test_the_printed_configuration_is_the_default_and_can_be_used(tmp_path: Path) -> None:
    done = peerservers("config")
    assert done.returncode == 0
    settings = tomllib.loads(done.stdout)
    assert settings["server"]["port"] == 8000
    assert all(line.startswith("#") for line in done.stdout.splitlines() if line and "=" not in line and line[0] != "[")
    file = tmp_path / "peerservers.toml"
    file.write_text(done.stdout)
    assert_one_line(peerservers("serve", "--config", str(file), "--port", "99999"), "server.port")


def test_identity_is_made_once_and_private(tmp_path: Path) -> None:
    first = peerservers("identity", "--state-dir", str(tmp_path / "a" / "b"))
    assert first.returncode == 0, first.stderr
    assert bytes.fromhex(first.stdout.strip())
    assert len(first.stdout.strip()) == 64
    assert peerservers("identity", PEERSERVERS_SERVER__STATE_DIR=str(tmp_path / "a" / "b")).stdout == first.stdout
    (key,) = (tmp_path / "a" / "b").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600


def test_version_and_help() -> None:
    assert peerservers("--version").stdout.startswith("peerservers, version ")
    shown = peerservers("--help")
    assert shown.returncode == 0
    assert "serve" in shown.stdout


def assert_serves_and_stops(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a tracker serves, and stop it."""
    try:
        done = peerservers("check", "--json", f"ws://127.0.0.1:{port}")
        while "Connect call failed" in done.stdout and process.poll() is None:
            done = peerservers("check", "--json", f"ws://127.0.0.1:{port}")
        assert json.loads(done.stdout)["peers_can_meet"] is True
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()


@pytest.mark.parametrize("style", ["text", "json"])
def test_closed_standard_streams(style: str) -> None:
    port = free_port()
    command = f"exec {sys.executable} -m tracker serve --host 127.0.0.1 --port {port} --log-format {style} <&- >&- 2>&-"
    process = subprocess.Popen(["sh", "-c", command])
    assert_serves_and_stops(process, port)


def test_a_full_disk_under_the_log_stops_nothing() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("/dev/full is not there")
    port = free_port()
    with open("/dev/full", "w") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "tracker", "serve", "--host", "127.0.0.1", "--port", str(port)], stderr=full
        )
        assert_serves_and_stops(process, port)


async def test_a_configuration_that_is_slow_to_read_holds_up_no_peer(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    """SIGHUP reads it in a thread: it may lie on a network file system."""
    file = tmp_path / "config.toml"
    file.write_text("")
    tracker = await start_tracker("--config", str(file))
    file.unlink()
    os.mkfifo(file)
    tracker.tell(signal.SIGHUP)
    # Opening it for writing succeeds once the tracker has opened it for reading.
    pipe = await asyncio.wait_for(asyncio.to_thread(file.open, "w"), PATIENCE)
    with pipe:
        assert (await asyncio.wait_for(tracker.get("/health"), PATIENCE))[0] == 200
        pipe.write('[log]\nlevel = "debug"\n')
    assert (await tracker.logged("reloaded"))["log_level"] == "debug"


async def test_a_slow_reload_does_not_bring_back_older_settings(start_tracker: StartTracker, tmp_path: Path) -> None:
    file, log = tmp_path / "config.toml", '[log]\nlevel = "{}"\n'
    file.write_text("")
    tracker = await start_tracker("--config", str(file))
    file.unlink()
    os.mkfifo(file)
    tracker.tell(signal.SIGHUP)
    pipe = await asyncio.wait_for(asyncio.to_thread(file.open, "w"), PATIENCE)
    with pipe:
        file.unlink()
        file.write_text(log.format("info"))
        tracker.tell(signal.SIGHUP)
        # The second signal has been handled when the tracker serves this request.
        assert (await asyncio.wait_for(tracker.get("/health"), PATIENCE))[0] == 200
        pipe.write(log.format("debug"))

    def levels() -> list[str]:
        return [line["log_level"] for line in tracker.log if line["event"] == "reloaded"]

    await eventually(lambda: len(levels()) == 2)
    assert levels() == ["debug", "info"]
