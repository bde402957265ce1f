"""Hosts without an address family, or without addresses at boot; networks that fail, disks that hang, homes that are
read-only."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.client import PATIENCE, eventually, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment, free_port, unavailable
from tests.integration.conftest import Federate
from tests.integration.hostile import federated
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id

ROOT = Path(__file__).parents[2]
LATER = "10.9.9.1"

SERVE = """
"$PYTHON" -m tracker serve --log-format json "$@" 2>"$LOG" & tracker=$!
trap 'cat "$LOG"' EXIT
for url in $URLS; do
    until "$PYTHON" -m tracker check "$url"; do kill -0 $tracker || exit 99; done
done
until grep -q -e dht_listening -e dht_off "$LOG"; do kill -0 $tracker || exit 98; sleep 0.1; done
kill -TERM $tracker
wait $tracker
"""

NODE = """
import asyncio, subprocess
from extensions.dht.node import Node

async def main():
    node = Node(["0.0.0.0:7001"], [], private=True)
    await node.start(None)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["ip", "addr", "add", "{address}/24", "dev", "lo"], check=True)
    async with asyncio.timeout({patience}):
        while ("{address}", 7001) not in node.addresses:
            await asyncio.sleep(0.05)
    await node.close()

asyncio.run(main())
"""


MEMBER = """
import asyncio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from tests.client import eventually
from tests.private_dht import PrivateDht

async def main():
    async with PrivateDht(6, "{host}") as dht:
        settings = DhtSettings(bootstrap=dht.bootstrap, private=True)
        assert settings.listen == "0.0.0.0:6881,[::]:6881"
        service = Service(settings, Ed25519PrivateKey.generate(), "wss://tracker.example.org", None)
        await service.start()
        service.directory.publish(bytes(20))
        await eventually(lambda: service.directory.published == 1, {patience})
        assert ("{host}", 6881) in service.node.addresses
        assert service.client.counters.timeouts == 0
        await service.stop()

asyncio.run(main())
"""

OUTAGE = """
import asyncio, subprocess
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from extensions.dht.service import Service
from extensions.dht.settings import DhtSettings
from tests.client import eventually
from tests.private_dht import PrivateDht

def drop(is_on):
    # A bucket that is too small for any packet.
    does, limits = ("add", "tbf rate 8bit burst 10 latency 1ms") if is_on else ("del", "")
    subprocess.run(f"tc qdisc {{does}} dev lo root {{limits}}", shell=True, check=True)

async def main():
    async with PrivateDht(12) as dht:
        service = Service(DhtSettings(**dht.settings), Ed25519PrivateKey.generate(), "wss://tracker.example.org", None)
        await service.start()
        directory = service.directory
        directory.swarm(bytes(20), 2, False)
        await eventually(lambda: directory.published == 1, {patience})
        drop(True)
        for number in range(1, 11):
            directory.swarm(bytes([number]) * 20, 2, False)
        await eventually(lambda: not service.reachable.is_set(), {patience})
        drop(False)
        await eventually(lambda: directory.published == 11, {patience})
        assert service.reachable.is_set()
        await service.stop()

asyncio.run(main())
"""


@cache
def _has_namespaces() -> bool:
    try:
        done = subprocess.run([*NAMESPACE, "ip", "link"], capture_output=True, check=False)
    except FileNotFoundError:
        return False
    return done.returncode == 0


NAMESPACE = ("unshare", "--map-root-user", "--net", "--mount")


def in_namespace(script: str, *arguments: str, **env: str) -> str:
    """Run a shell script on a host with nothing but a loopback interface that is down. Return its output."""
    if not _has_namespaces():
        unavailable("unshare, or the permission to use it")
    done = subprocess.run(
        [*NAMESPACE, "sh", "-c", f"set -e\n{script}", "sh", *arguments],
        env={**os.environ, "PYTHON": sys.executable, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        text=True,
        timeout=4 * PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


NO_IPV6 = "ip link set lo up; echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6\n"
NO_IPV4 = "ip link set lo up; ip addr del 127.0.0.1/8 dev lo\n"
# libtorrent uses no loopback interface for the DHT, unless its address is given.
DEVICE = "ip link set lo up; ip link add up0 type bridge; ip link set up0 up\n"
IPV4 = "ip addr add 10.9.9.1/24 dev up0; ip route add default dev up0\n"
IPV6 = "ip -6 addr add 2001:db8::1/64 dev up0 nodad; ip -6 route add default dev up0\n"
V6_ONLY = "ip link set lo up; echo 1 >/proc/sys/net/ipv6/bindv6only\n"


@pytest.mark.parametrize(
    ("setup", "urls"),
    [(NO_IPV6, ["127.0.0.1"]), (NO_IPV4, ["[::1]"]), (V6_ONLY, ["127.0.0.1", "[::1]"])],
    ids=["no IPv6", "no IPv4", "bindv6only"],
)
def test_a_host_without_an_address_family(tmp_path: Path, setup: str, urls: list[str]) -> None:
    port = str(free_port())
    printed = in_namespace(
        setup + SERVE,
        *("--host", "::", "--port", port, "--state-dir", str(tmp_path)),
        URLS=" ".join(f"ws://{address}:{port}/" for address in urls),
        LOG=str(tmp_path / "log"),
        **environment("extensions.dht", enabled=True, bootstrap=[], private=True),
    )
    lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [line for line in lines if line["level"] != "info" and line["event"] != "settings_doubtful"] == []
    assert "dht_listening" in [line["event"] for line in lines]
    assert lines[-1]["event"] == "stopped"


@pytest.mark.parametrize(
    ("setup", "host"),
    [
        (NO_IPV6 + DEVICE + IPV4, "10.9.9.1"),
        (NO_IPV4 + DEVICE + IPV6, "2001:db8::1"),
        (DEVICE + IPV4 + IPV6, "10.9.9.1"),
        (V6_ONLY + DEVICE + IPV4 + IPV6, "2001:db8::1"),
    ],
    ids=["no IPv6", "no IPv4", "both, DHT in IPv4", "both, DHT in IPv6"],
)
def test_a_tracker_is_published_in_the_address_family_that_there_is(setup: str, host: str) -> None:
    """With the default of `listen`. The family without nodes costs nothing."""
    printed = in_namespace(setup + 'exec "$PYTHON" -c "$CODE"', CODE=MEMBER.format(host=host, patience=PATIENCE))
    assert "warning" not in printed


def test_a_host_that_gets_its_addresses_after_the_start() -> None:
    """The node of the DHT listens on them, too."""
    in_namespace('exec "$PYTHON" -c "$CODE"', CODE=NODE.format(address=LATER, patience=PATIENCE))


def test_a_network_that_drops_all_packets_for_a_while() -> None:
    """Real sockets and nodes; tests/unit/dht/test_service.py has the details."""
    if shutil.which("tc") is None:
        unavailable("tc")
    in_namespace('ip link set lo up; exec "$PYTHON" -c "$CODE"', CODE=OUTAGE.format(patience=PATIENCE))


# Disks


async def _serves_and_stops(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1))
    assert (await tracker.get("/health"))[0] == 200
    assert await tracker.stop() == 0


def _dht(directory: Path) -> dict[str, str]:
    settings = PrivateDht(0).settings
    return federated(directory) | environment("extensions.dht", enabled=True, **settings)


async def test_a_disk_that_hangs_when_the_key_is_read(start_tracker: StartTracker, tmp_path: Path) -> None:
    # Nothing ever writes to this pipe.
    os.mkfifo(tmp_path / "identity.pem")
    tracker = await start_tracker(env=_dht(tmp_path))
    await _serves_and_stops(tracker)
    assert tracker.log[-1]["event"] == "leftovers_abandoned"


async def test_a_disk_that_hangs_when_the_state_is_saved(tmp_path: Path) -> None:
    async with PrivateDht(4) as dht:
        env = _dht(tmp_path) | environment("extensions.dht", bootstrap=dht.bootstrap)
        os.mkfifo(tmp_path / "dht.new")
        tracker = await TrackerProcess.start(env={**env, **environment("server", shutdown_timeout=3)})
        await eventually(lambda: _is_reachable(tracker))
        await _serves_and_stops(tracker)
    events = [line["event"] for line in tracker.log]
    assert events[-2:] == ["stopped", "leftovers_abandoned"]
    assert events.count("extension_stop_timed_out") == len(tracker.complaints()) == 1


async def _is_reachable(tracker: TrackerProcess) -> bool:
    return await tracker.metric("peerservers_dht_reachable") == 1


def test_a_home_that_is_read_only(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A key that is there is used all the same, and nothing else is needed."""
    port = str(free_port())
    read_only = f'ip link set lo up; mount --bind "{tmp_path}" "{tmp_path}"; mount -o remount,bind,ro "{tmp_path}"\n'
    arguments = ("--host", "127.0.0.1", "--port", port)
    state_dir = str(tmp_path / ".local" / "state" / "peerservers")
    log = str(tmp_path_factory.mktemp("log") / "log")
    env = {"HOME": str(tmp_path), "LOG": log, "URLS": f"ws://127.0.0.1:{port}/", **_dht(tmp_path)}
    del env["PEERSERVERS_SERVER__STATE_DIR"]
    events = {}
    for state in ("missing", "there"):
        if state == "there":
            subprocess.run([sys.executable, "-m", "tracker", "identity", "--state-dir", state_dir], check=True)
        printed = in_namespace(read_only + SERVE, *arguments, **env)
        lines = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
        assert "Traceback" not in printed
        assert [line for line in lines if line["level"] == "error"] == []
        events[state] = {line["event"]: line.get("error") for line in lines if line["level"] == "warning"}
    assert events["missing"].keys() == {"dht_off", "federation_off"}
    assert "Read-only file system" in str(events["missing"]["dht_off"])
    assert events["there"].keys() <= {"dht_cache_off", "dht_state_not_saved"}
    assert "dht_cache_off" in events["there"]


# Copied state directories


async def test_two_trackers_with_one_key_both_say_so(federate: Federate, tmp_path: Path) -> None:
    with capture_logs() as log:
        first = await federate("one")
        shutil.copytree(tmp_path / "one", tmp_path / "copy")
        second = await federate("copy", peers=[first.url])
        ends = [tracker.extension("federation") for tracker in (first, second)]
        # The second one dials again, but neither says so again.
        await eventually(lambda: all(end.mesh.ended["same_key"] >= 2 for end in ends))
    copied = [line for line in log if line["event"] == "identity_copied"]
    assert {(line["url"], line["log_level"]) for line in copied} == {("-", "error"), (first.url, "error")}
    assert len(copied) == 2
    assert not any(end.links for end in ends)
