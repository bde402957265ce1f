"""The content and the size of a tracker's log, whatever clients and other trackers send."""

import asyncio
import threading
import time
from collections import Counter
from pathlib import Path

from tests.client import eventually, raw_client
from tests.conftest import StartTracker, TrackerProcess, free_port
from tests.integration.friend import install
from tests.integration.hostile import at_least, ended, link_to, start_target
from tests.integration.wire import HANDSHAKE
from tests.unit.federation.links import key
from tracker.extension.api import Extension
from tracker.logs import BURST, PERIOD

SECRETS = ("192.0.2.55", "v=0", "IN IP4")


class Careless(Extension):
    """Raises exceptions that no code can catch."""

    async def start(self) -> None:
        class Trash:
            def __del__(self) -> None:
                raise RuntimeError("trash")

        Trash()
        threading.Thread(target=lambda: 1 // 0).start()
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)


async def _send(tracker: TrackerProcess, request: bytes) -> None:
    """Send a request, and read until the tracker closes."""
    reader, writer = await asyncio.open_connection(tracker.host, tracker.port)
    writer.write(request)
    writer.write_eof()
    await reader.read()
    writer.close()


def _lines(tracker: TrackerProcess) -> Counter[str]:
    return Counter(line["event"] for line in tracker.log)


async def test_outsiders_cannot_flood_the_log(start_tracker: StartTracker, tmp_path: Path) -> None:
    tracker = await start_target(start_tracker, tmp_path)
    started = time.monotonic()
    for number in range(2 * BURST):
        # Links of a tracker without a proven id that breaks the rules, and of one with an id that says a reason.
        async with link_to(tracker.url, shake=False) as link:
            await link.send(b'{"type":"dance"}')
            await link.ended()
        async with link_to(tracker.url, key(number + 1)) as link:
            await link.send(b'{"type":"bye","reason":"here is 192.0.2.55"}')
            await link.ended()
        async with raw_client(tracker.url) as client:
            await client.socket.send('{"sdp": "v=0\\r\\no=- 1 2 IN IP4 192.0.2.55"}')
            await client.receive()
            await client.socket.send(b"\xff" * 1000)
            await client.receive()
        for junk in (
            b"\x16\x03\x01\x02\x00",
            b"GET /v=0 HTTP/1.1\r\n\r\n",
            b"GET /" + b"x" * 20_000,
            HANDSHAKE + b"Sec-WebSocket-Version: 99\r\n\r\n",
            HANDSHAKE + b"X-Forwarded-For: 192.0.2.55\r\n\r\n" + b"\xff" * 100,
        ):
            await _send(tracker, junk)
    # The test reads the log a moment after it is written.
    await eventually(lambda: _lines(tracker)["link_ended"] >= BURST)
    lines = _lines(tracker)
    allowance = BURST * (2 + int((time.monotonic() - started) / PERIOD))
    assert lines.keys() <= {"listening", "started", "linked", "link_ended"}
    assert max(lines.values()) <= allowance
    assert not any(secret in str(line) for line in tracker.log for secret in SECRETS)


async def test_a_listed_tracker_that_is_unreachable_is_logged(start_tracker: StartTracker, tmp_path: Path) -> None:
    url = f"ws://127.0.0.1:{free_port()}/"
    tracker = await start_target(start_tracker, tmp_path, peers=[url])
    line = await tracker.logged("listed_tracker_down")
    assert (line["level"], line["url"], line["reason"]) == ("warning", url, "unreachable")
    assert line["text"] == "Connection refused"
    # Further attempts are no news.
    await eventually(lambda: at_least(ended(tracker, "unreachable"), 3))
    assert len([line for line in tracker.log if line["event"] in ("listed_tracker_down", "link_ended")]) == 1


async def test_exceptions_that_no_code_can_catch_are_logged_as_json(tmp_path: Path) -> None:
    install(tmp_path, "careless", "tests.integration.test_logs:Careless")
    env = {"PYTHONPATH": str(tmp_path), "PEERSERVERS_EXTENSIONS__CARELESS__ENABLED": "true"}
    tracker = await TrackerProcess.start(env=env)
    for event in ("unraisable_error", "thread_failed", "event_loop_error"):
        assert (await tracker.logged(event))["error"]
    assert await tracker.stop() == 0
    # Every line was JSON.
    assert all("level" in line for line in tracker.log)
