"""permessage-deflate with the WebSockets of browsers and of npm's ws."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.conftest import WEB, StartTracker, TrackerProcess, unavailable
from tests.e2e.browser import CHROMIUM_FLAGS, PATIENCE
from tests.integration.test_deflate import OFFERS, ON, sizes

SCRIPT = WEB / "npm_client" / "deflate.mjs"

PAGE = """<!doctype html><link rel="icon" href="data:,"><script type="module">
import { introduce } from './deflate.mjs'
const { url, offers } = %s
const result = await introduce(WebSocket, url, offers).catch(error => ({ error: error.message }))
await fetch('/result', { method: 'POST', body: JSON.stringify(result) })
</script>"""


class Site:
    """Serves a page that runs the script, and takes its result."""

    def __init__(self, tracker: TrackerProcess) -> None:
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[dict[str, Any]] = loop.create_future()
        page = PAGE % json.dumps({"url": tracker.url, "offers": OFFERS})
        files = {"/": ("text/html", page.encode()), "/deflate.mjs": ("text/javascript", SCRIPT.read_bytes())}

        def done(result: dict[str, Any]) -> None:
            if not self.result.done():
                self.result.set_result(result)

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                kind, content = files.get(self.path, ("text/plain", b""))
                self.send_response(200 if self.path in files else 404)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(content)

            def do_POST(self) -> None:
                result = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(204)
                self.end_headers()
                loop.call_soon_threadsafe(done, result)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@pytest.fixture
async def deflating(start_tracker: StartTracker) -> TrackerProcess:
    return await start_tracker(env=ON)


@pytest.fixture
async def site(deflating: TrackerProcess) -> AsyncIterator[Site]:
    site = Site(deflating)
    thread = Thread(target=site.server.serve_forever)
    thread.start()
    yield site
    await asyncio.to_thread(site.server.shutdown)
    thread.join()
    site.server.server_close()


async def check(tracker: TrackerProcess, result: dict[str, Any]) -> None:
    """The client has agreed to compress, and so have both directions been."""
    assert "error" not in result
    assert all(extensions.startswith("permessage-deflate") for extensions in result["extensions"])
    assert result["sdp"] in [offer["offer"]["sdp"] for offer in OFFERS]
    counted = await sizes(tracker)
    for direction in ("received", "sent"):
        assert 0 < counted[direction, "compressed"] < 0.8 * counted[direction, "inflated"]


def firefox(profile: Path) -> list[str]:
    return ["firefox-esr", "--headless", "--no-remote", "--profile", str(profile)]


def chromium(profile: Path) -> list[str]:
    return ["chromium", "--headless", f"--user-data-dir={profile}", *CHROMIUM_FLAGS]


@pytest.mark.parametrize("browser", [chromium, firefox])
async def test_a_browser(
    deflating: TrackerProcess, site: Site, tmp_path: Path, browser: Callable[[Path], list[str]]
) -> None:
    command = browser(tmp_path)
    if not shutil.which(command[0]):
        unavailable(command[0])
    process = await asyncio.create_subprocess_exec(
        *command, site.url, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        await check(deflating, await asyncio.wait_for(site.result, PATIENCE))
    finally:
        process.terminate()
        await process.wait()


async def test_npms_ws(deflating: TrackerProcess) -> None:
    node = shutil.which("node")
    if node is None or not (WEB / "node_modules" / "ws").exists():
        unavailable("npm's ws")
    assert node
    process = await asyncio.create_subprocess_exec(
        *(node, str(SCRIPT), deflating.url, json.dumps(OFFERS)), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    await check(deflating, json.loads(output))
