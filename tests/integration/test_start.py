"""The start of a tracker on hosts as operators have them, and what it says about itself."""

import asyncio
import os
import platform
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.client import PATIENCE, eventually, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment, free_port
from tests.integration.hostile import federated
from tests.integration.test_life import assert_one_line, peerservers
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id
from tests.unit.test_mistakes import SERVICE_LINKS
from tracker import COMPILED, __version__

# The environment


async def test_a_service_of_kubernetes_with_the_same_name(start_tracker: StartTracker) -> None:
    names = ("PEERSERVERS", "PEERSERVERS_SERVER")
    tracker = await start_tracker(
        env={link.format(name): value for name in names for link, value in SERVICE_LINKS.items()}
    )
    await tracker.logged("started")
    assert {line["event"] for line in tracker.log} == {"listening", "started"}


async def test_a_near_miss_is_warned_of(start_tracker: StartTracker) -> None:
    tracker = await start_tracker(env={"PEERSERVERS_SERVER_PUBLIC_URL": "wss://tracker.example.org"})
    warning = await tracker.logged("settings_doubtful")
    assert warning["text"] == "PEERSERVERS_SERVER_PUBLIC_URL: ignored; did you mean PEERSERVERS_SERVER__PUBLIC_URL?"
    assert warning["level"] == "warning"


# libtorrent


@pytest.fixture
def without_libtorrent(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which libtorrent cannot be imported, as if it were not installed."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "libtorrent.py").write_text("raise ModuleNotFoundError('No module named libtorrent', name='libtorrent')")
    return {"PYTHONPATH": os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])}


async def test_without_libtorrent_it_serves_and_federates(
    start_tracker: StartTracker, tmp_path: Path, without_libtorrent: dict[str, str]
) -> None:
    port = free_port()
    other = await start_tracker(port=port, env=federated(tmp_path / "other", f"ws://127.0.0.1:{port}"))
    env = federated(tmp_path / "one") | environment("extensions.dht", enabled=True, **PrivateDht(0).settings)
    env |= environment("extensions.federation", peers=[other.url.rstrip("/")])
    tracker = await start_tracker(env=env | without_libtorrent)
    off = await tracker.logged("dht_off")
    assert off["error"].startswith("libtorrent is not installed")
    await eventually_linked(tracker)
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))


async def eventually_linked(tracker: TrackerProcess) -> None:
    async def is_linked() -> bool:
        return bool((await tracker.stats())["federation"])

    await eventually(is_linked)


def test_without_libtorrent_a_lookup_says_so(without_libtorrent: dict[str, str]) -> None:
    assert_one_line(peerservers("lookup", "ab" * 20, **without_libtorrent), "libtorrent is not installed")


# The state directory


async def test_one_state_directory_serves_one_process(start_tracker: StartTracker, tmp_path: Path) -> None:
    env = federated(tmp_path)
    first = await start_tracker(env=env)
    await first.logged("started")
    second = await asyncio.to_thread(peerservers, "serve", "--host", "127.0.0.1", "--port", "0", **env)
    assert_one_line(second, "PEERSERVERS_SERVER__STATE_DIR: server.state_dir", "another running tracker uses it")
    # Other commands may read it.
    assert peerservers("identity", **env).returncode == 0
    assert peerservers("config", "--check", **env).returncode == 0
    await first.stop()
    await start_tracker(env=env)


@pytest.mark.parametrize("kind", ["file", "missing", "key"])
async def test_a_state_directory_that_cannot_be_used(start_tracker: StartTracker, tmp_path: Path, kind: str) -> None:
    """It is a mistake if an operator has set it. If it is the default one, the tracker serves without federation."""
    state = tmp_path / ".local" / "state" / "peerservers"
    if kind == "file":
        state.parent.mkdir(parents=True)
        state.write_text("")
    elif kind == "key":
        state.mkdir(parents=True)
        (state / "identity.pem").write_text("no key")
    home = "/proc/missing" if kind == "missing" else str(tmp_path)
    env = federated(tmp_path)
    del env["PEERSERVERS_SERVER__STATE_DIR"]
    # click refuses a file itself.
    given = str(Path(home, ".local", "state", "peerservers", "below" if kind == "file" else ""))
    assert_one_line(
        peerservers("serve", "--host", "127.0.0.1", "--port", "0", "--state-dir", given, **env),
        "--state-dir: server.state_dir: ",
    )
    tracker = await start_tracker(env=env | {"HOME": home})
    off = await tracker.logged("federation_off")
    assert off["level"] == "warning"
    assert off["error"]
    assert not (await tracker.logged("started"))["tracker_id"]
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))


# What runs


async def test_one_line_says_what_runs(start_tracker: StartTracker, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("")
    port = free_port()
    env = federated(tmp_path / "state", "wss://tracker.example.org") | environment("metrics", port=port)
    tracker = await start_tracker("--config", str(file), host="0.0.0.0", env=env)
    started = await tracker.logged("started")
    identity = await asyncio.to_thread(peerservers, "identity", **env)
    assert started["version"] == __version__
    assert started["compiled"] is COMPILED
    assert started["python"] == platform.python_version()
    assert started["config"] == str(file)
    assert started["tracker_id"] == identity.stdout.strip()
    assert started["state_dir"] == str(tmp_path / "state")
    assert started["max_connections"] > 0
    assert started["urls"].split() == [
        f"http://127.0.0.1:{tracker.port}/",
        f"http://127.0.0.1:{port}/stats",
        "https://tracker.example.org",
    ]


async def test_joins_leaves_and_failures_are_logged_at_debug(start_tracker: StartTracker, tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("")
    tracker = await start_tracker("--config", str(file))

    async def join_and_leave() -> None:
        async with raw_client(tracker.url) as client:
            await client.announce(peer_id(1), left=0)
            await client.send({"action": "scrape"})
            await client.receive()

    await join_and_leave()
    assert not [line for line in tracker.log if line["level"] == "debug"]
    file.write_text('[log]\nlevel = "debug"\n')
    tracker.tell(signal.SIGHUP)
    await tracker.logged("reloaded")
    await join_and_leave()
    await tracker.logged("peer_left")
    lines: dict[str, dict[str, Any]] = {line["event"]: line for line in tracker.log if line["level"] == "debug"}
    joined = lines["peer_joined"]
    assert joined["peer_id"] == peer_id(1).encode("latin-1").hex()
    assert (joined["address"], joined["role"], len(joined["info_hash"])) == ("127.0.0.1", "seeder", 40)
    assert lines["peer_left"]["peer_id"] == joined["peer_id"]
    assert lines["failure_sent"]["reason"] == "full_scrape"
    assert lines["failure_sent"]["info_hash"] == ""


# systemd


@contextmanager
def notified(directory: Path, abstract: bool) -> Iterator[tuple[str, socket.socket]]:
    """Yield the value of NOTIFY_SOCKET, and the socket of a service manager."""
    name = f"peerservers-test-{os.getpid()}" if abstract else str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(PATIENCE)
        yield f"@{name}" if abstract else name, manager


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told_the_state(start_tracker: StartTracker, tmp_path: Path, abstract: bool) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text("")
    with notified(tmp_path, abstract) as (name, manager):

        async def state() -> str:
            return (await asyncio.to_thread(manager.recv, 4096)).decode()

        tracker = await start_tracker("--config", str(file), env={"NOTIFY_SOCKET": name})
        assert await state() == "READY=1"
        assert (await tracker.get("/ready"))[0] == 200
        for text in ("", "[log]\nlevel = 'loud'\n"):
            # After a mistake it is ready, too, with its old settings.
            file.write_text(text)
            tracker.tell(signal.SIGHUP)
            kind, _, since = (await state()).partition("\n")
            assert kind == "RELOADING=1"
            assert since.removeprefix("MONOTONIC_USEC=").isdecimal()
            assert await state() == "READY=1"
        (await tracker.logged("reload_failed"))["level"] = "expected"
        await tracker.stop()
        assert await state() == "STOPPING=1"


# `peerservers config`


def test_a_check_of_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text('[server]\npublic_url = "wss://10.0.0.7"\n[tracker]\nannounce_interval = 60\n')
    done = peerservers("config", "--check", "--config", str(file))
    assert (done.returncode, done.stdout) == (0, "the settings are valid\n")
    assert done.stderr.startswith(f"warning: {file}, line 2: server.public_url: has a private address")
    file.write_text('[server]\nprot = 1\nport = "x"\n')
    wrong = peerservers("config", "--check", PEERSERVERS_CONFIG=str(file))
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert [line.partition(": ")[2] for line in wrong.stderr.splitlines()] == [
        f"{file}, line 2: server.prot: unknown key; did you mean server.port?",
        f"{file}, line 3: server.port: must be a whole number, not 'x'",
    ]


def test_a_check_reads_the_files_that_the_settings_name(tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    file.write_text('[tls]\ncertificate = "/no/pem"\n[access]\nallow_infohashes = "/no/a"\ndeny_infohashes = "/no/d"\n')
    wrong = peerservers("config", "--check", "--config", str(file))
    assert wrong.returncode == 2
    keys = [line.split(": ")[2] for line in wrong.stderr.splitlines()]
    assert keys == ["access.allow_infohashes", "access.deny_infohashes", "tls.certificate"]
    assert wrong.stderr.count(f"{file}, line ") == 3


def test_the_effective_settings(tmp_path: Path) -> None:
    file = tmp_path / "peerservers.toml"
    secret = "a secret of a private tracker"
    file.write_text(f'[tracker]\nmax_offers = 5\n[extensions.tokens]\nenabled = true\nsecrets = ["{secret}"]\n')
    done = peerservers("config", "--effective", "--config", str(file), PEERSERVERS_SERVER__PORT="9000")
    assert done.returncode == 0, done.stderr
    table = tomllib.loads(done.stdout)
    assert (table["server"]["port"], table["tracker"]["max_offers"]) == (9000, 5)
    assert table["extensions"]["tokens"] == {"enabled": True, "secrets_file": ""}
    lines = done.stdout.splitlines()
    for line in (
        "port = 9000  # PEERSERVERS_SERVER__PORT",
        f"max_offers = 5  # {file}, line 2",
        "announce_interval = 120  # default",
        f"# secrets is secret: {file}, line 5",
    ):
        assert line in lines
    assert secret not in done.stdout


# `peerservers health`


async def test_the_health_of_a_tracker(start_tracker: StartTracker, tmp_path: Path) -> None:
    tracker = await start_tracker(host="::")
    file = tmp_path / "peerservers.toml"
    file.write_text(f'[server]\nhost = "::"\nport = {tracker.port}\n')
    healthy = await asyncio.to_thread(peerservers, "health", "--config", str(file))
    assert (healthy.returncode, healthy.stdout, healthy.stderr) == (0, "healthy\n", "")
    by_option = await asyncio.to_thread(peerservers, "health", "--host", "::1", "--port", str(tracker.port))
    assert by_option.returncode == 0
    await tracker.stop()
    gone = await asyncio.to_thread(peerservers, "health", "--config", str(file))
    assert (gone.returncode, gone.stdout) == (1, "")
    assert gone.stderr == f"no healthy tracker at :: port {tracker.port}: Connection refused\n"


async def test_the_health_of_another_server() -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = str(server.sockets[0].getsockname()[1])
        done = await asyncio.to_thread(peerservers, "health", "--host", "127.0.0.1", "--port", port)
    assert done.returncode == 1
    assert done.stderr.endswith("HTTP/1.1 503 Service Unavailable\n")


def test_mistakes_of_a_health_check() -> None:
    assert_one_line(peerservers("health", PEERSERVERS_SERVER__PORT="x"), "PEERSERVERS_SERVER__PORT: server.port")
    assert peerservers("health", "--port", "0").returncode == 1


def test_a_health_check_imports_no_server() -> None:
    """It runs every few seconds."""
    code = (
        "import sys, tracker.cli; print(*{'uvloop', 'prometheus_client', 'tracker.server'}.intersection(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
