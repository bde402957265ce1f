"""Clients with ids of other lengths than 20 meet, at one tracker and at two linked ones."""

import asyncio
import json
import random
import shutil
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from tests.client import PATIENCE, eventually
from tests.conftest import TrackerProcess, free_port
from tests.e2e.rtc import connect, random_id, rtc_peer
from tests.federated import counted, federation

GO2RTC = shutil.which("go2rtc")
"""No Debian package has it, so it is there only if a developer has installed it. `tests/frames` has its messages."""


@pytest.fixture(scope="module")
async def linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[TrackerProcess]]:
    """Two linked trackers."""
    async with federation(tmp_path_factory.mktemp("federation")) as trackers:
        yield await trackers.start_linked(2)


@pytest.fixture(params=["one tracker", "two linked trackers"])
def trackers(request: pytest.FixtureRequest, linked: list[TrackerProcess]) -> list[TrackerProcess]:
    """The trackers of the two peers."""
    return linked if request.param.startswith("two") else linked[:1] * 2


def text_id() -> str:
    """Return an id of any length and any letters."""
    return "".join(random.choices('aZ0-\0"\\éΩ\u2028😀', k=random.choice([12, 16, 20, 44, 64])))


def base64_id(length: int) -> str:
    """Return an id of this length in base64."""
    return b64encode(random.randbytes(64)).decode()[:length]


@pytest.mark.usefixtures("on_loopback")
@pytest.mark.parametrize(
    ("swarm", "length"),
    [(base64_id(44), 16), (base64_id(8), 20), ("😀" * 64, 64), ("Ω" + base64_id(19), 20)],
    ids=["go2rtc's lengths", "short name", "longest ids", "20 characters, but not of latin-1"],
)
async def test_peers_with_text_ids_open_a_channel(trackers: list[TrackerProcess], swarm: str, length: int) -> None:
    here, there = trackers
    async with (
        rtc_peer(here, swarm, lambda: base64_id(length)) as offering,
        rtc_peer(there, swarm, text_id) as answering,
    ):
        await answering.join()
        await offering.join()
        await counted(here, swarm, complete=0, incomplete=2)
        await connect(offering, answering)


@pytest.mark.usefixtures("on_loopback")
async def test_a_text_swarm_does_not_disturb_the_binary_swarms_of_its_trackers(linked: list[TrackerProcess]) -> None:
    here, there = linked
    swarm, room = random_id(), base64_id(44)
    async with (
        rtc_peer(here, swarm) as offering,
        rtc_peer(there, swarm) as answering,
        rtc_peer(here, room, text_id) as near,
        rtc_peer(there, room, text_id) as far,
    ):
        for peer in (answering, offering, far, near):
            await peer.join()
        await counted(here, swarm, complete=0, incomplete=2)
        await counted(here, room, complete=0, incomplete=2)
        await asyncio.gather(connect(offering, answering), connect(near, far))


@asynccontextmanager
async def go2rtc(directory: Path, tracker: TrackerProcess, **sections: object) -> AsyncIterator[str]:
    """Run go2rtc with a tracker; yield the address of its API."""
    assert GO2RTC
    api = f"127.0.0.1:{free_port()}"
    config = {
        "api": {"listen": api},
        "rtsp": {"listen": ""},
        "webrtc": {"listen": f"127.0.0.1:{free_port()}", "ice_servers": [], "filters": {"loopback": True}},
        **sections,
        "webtorrent": {"trackers": [tracker.url], **sections.get("webtorrent", {})},  # type: ignore[dict-item]
    }
    file = directory / f"{api[-5:]}.yaml"
    file.write_text(json.dumps(config))
    process = await asyncio.create_subprocess_exec(GO2RTC, "-c", str(file), stdout=asyncio.subprocess.DEVNULL)
    try:
        yield api
    finally:
        process.terminate()
        await process.wait()


if GO2RTC:

    async def test_a_go2rtc_shows_the_camera_of_another(trackers: list[TrackerProcess], tmp_path: Path) -> None:
        here, there = trackers
        share, sound = base64_id(12), f"exec:{sys.executable} {tmp_path}/sound.py"
        (tmp_path / "sound.py").write_text(SOUND)
        camera = {"streams": {"cam": sound}, "webtorrent": {"shares": {share: {"pwd": "password", "src": "cam"}}}}
        viewer = {"streams": {"far": f"webtorrent:?share={share}&pwd=password"}}
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(go2rtc(tmp_path, there, **camera))
            await eventually(lambda: has_a_peer(there))
            host, port = (await stack.enter_async_context(go2rtc(tmp_path, here, **viewer))).split(":")
            async with asyncio.timeout(PATIENCE):
                assert len(await first_bytes(host, int(port), "/api/stream.mp4?src=far&mp4=flac", 10_000)) == 10_000


SOUND = """
import struct, sys, time
head = b"RIFF" + b"\\xff" * 4 + b"WAVEfmt " + struct.pack("<IHHIIHH", 18, 7, 1, 8000, 8000, 1, 8) + bytes(2)
sys.stdout.buffer.write(head + b"data" + b"\\xff" * 4)
while True:
    sys.stdout.buffer.write(bytes(800))
    sys.stdout.buffer.flush()
    time.sleep(0.1)
"""


async def has_a_peer(tracker: TrackerProcess) -> bool:
    return bool((await tracker.stats())["peersAll"])


async def first_bytes(host: str, port: int, path: str, count: int) -> bytes:
    """Return the first bytes of a resource, once the server accepts connections."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            break
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
    writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    content = await reader.readexactly(count)
    writer.close()
    return content
