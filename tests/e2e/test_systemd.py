"""The tracker under the restrictions of docs/systemd/peerservers.service, without systemd."""

import asyncio
import os
import shutil
import signal
import sys
from ctypes.util import find_library
from pathlib import Path

from tests.certificates import Pair
from tests.client import HASH, eventually, offers, raw_client
from tests.conftest import ALONE, TrackerProcess, environment, unavailable
from tests.federated import PATIENCE
from tests.integration.workers import with_joined, workers_of
from tests.private_dht import PrivateDht
from tests.shipping import ROOT
from tests.unit.fakes import peer_id

UNIT = ROOT / "docs" / "systemd" / "peerservers.service"


def require_seccomp() -> None:
    """Skip the test on a machine that cannot apply the restrictions."""
    if shutil.which("systemd-analyze") is None:
        unavailable("systemd-analyze")
    if find_library("seccomp") is None:
        unavailable("libseccomp")


async def test_workers_run_under_the_restrictions(tmp_path: Path) -> None:
    """A supervisor starts processes, and hands them its sockets."""
    require_seccomp()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.confined", UNIT),
        *(sys.executable, "-m", "tracker", "serve", "--log-format=json", "--workers=2"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **ALONE, **with_joined(tmp_path), **environment("server", host="127.0.0.1", port=0)},
    )
    tracker = TrackerProcess(process, "127.0.0.1")
    try:
        tracker.port = (await tracker.logged("listening"))["port"]
        await workers_of(tracker)
        tracker.tell(signal.SIGUSR2)
        await tracker.logged("restarted")
        await workers_of(tracker)
        assert [line for line in tracker.log if line.get("level") != "info"] == []
        assert await tracker.stop() == 0
    finally:
        if process.returncode is None:
            process.kill()


async def test_the_tracker_runs_under_the_restrictions(tmp_path: Path) -> None:
    """TLS, the DHT, threads and memory of uvloop and libtorrent, a reload and the shutdown all work."""
    require_seccomp()
    pair = Pair(tmp_path)
    async with PrivateDht(8) as dht:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.confined", UNIT),
            *(sys.executable, "-m", "tracker", "serve", "--log-format=json"),
            stderr=asyncio.subprocess.PIPE,
            env={
                **os.environ,
                **pair.env,
                **environment("server", host="127.0.0.1", port=0, state_dir=str(tmp_path)),
                **environment("server", public_url="wss://localhost"),
                **environment("extensions.dht", **dht.settings),
            },
        )
        tracker = TrackerProcess(process, "127.0.0.1")
        try:
            tracker.port = (await tracker.logged("listening"))["port"]
            url = tracker.url.replace("ws:", "wss:")
            async with raw_client(url, **pair.client()) as first, raw_client(url, **pair.client()) as second:
                await first.announce(peer_id(1))
                await second.announce(peer_id(2), offers=offers(1))
                assert (await first.receive())["info_hash"] == HASH
                await eventually(lambda: bool(list(tmp_path.glob("dht*"))), PATIENCE)
                assert [line for line in tracker.log if line.get("level") != "info"] == []
                tracker.tell(signal.SIGHUP)
                await tracker.logged("reloaded")
                stopping = asyncio.create_task(tracker.stop())
                assert (await first.closed())[0] == 1001
            assert await stopping == 0
        finally:
            if process.returncode is None:
                process.kill()
    assert tracker.complaints() == []
