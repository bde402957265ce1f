"""Pages for a real browser, each with one tracker client in it."""

import asyncio
import os
import subprocess
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import pytest
from playwright.async_api import BrowserContext
from playwright.async_api import Page as PlaywrightPage

# Events take well under a second, but much longer on a busy machine.
PATIENCE = 60.0

# No sandbox, because root in a container may be unable to have one; and no features that connect to the Internet.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# The clients do not tell their page the close code of a socket.
REPORT_CLOSE_CODES = """
globalThis.WebSocket = class extends WebSocket {
  constructor (...args) {
    super(...args)
    this.addEventListener('close', ({ code }) => report('closed', code))
  }
}
"""


def build_pages(web: Path, site: Path) -> None:
    """Bundle each script in `web`/pages with the client that it imports; write it and its HTML page to `site`."""
    sources = sorted((web / "pages").glob("*.js"))
    esbuild = web / "node_modules" / ".bin" / "esbuild"
    options = ("--bundle", "--format=esm", "--define:global=globalThis", "--log-level=warning", f"--outdir={site}")
    subprocess.run([esbuild, *sources, *options], check=True)
    for source in sources:
        (site / f"{source.stem}.html").write_text(
            f'<!doctype html><link rel="icon" href="data:,"><script type="module" src="{source.name}"></script>'
        )


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def serving(directory: Path) -> Iterator[str]:
    """Serve a directory; yield its URL. On loopback, browsers give pages the same rights as over HTTPS."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=os.fspath(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Page:
    """A page with a client in it. A test calls the page's functions, and the page calls `report` for each event."""

    def __init__(self, page: PlaywrightPage) -> None:
        self.page = page
        self.sockets: list[str] = []
        self.errors: list[str] = []
        self._reports: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

    @classmethod
    async def open(cls, context: BrowserContext, url: str) -> Self:
        """Open a page of the site."""
        page = cls(await context.new_page())
        page.page.on("websocket", lambda socket: page.sockets.append(socket.url))
        page.page.on("pageerror", lambda error: page.errors.append(str(error)))
        await page.page.expose_function("report", page._reported)
        await page.page.add_init_script(REPORT_CLOSE_CODES)
        await page.page.goto(url)
        return page

    async def call(self, function: str, *arguments: object) -> None:
        """Call a function of the page, without waiting for its result."""
        await self.page.evaluate("([name, args]) => { globalThis[name](...args) }", [function, arguments])

    async def told(self, event: str) -> Any:
        """Return the value of the page's next unread report of an event; wait for it if there is none."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._reports[event].get(), PATIENCE)
        others = [name for name, values in self._reports.items() if not values.empty()]
        pytest.fail(f"the page did not report {event!r}; unread reports: {others}, errors: {self.errors}")

    async def leave(self) -> None:
        """Go to another page, so that the browser unloads this one normally."""
        await self.page.goto("about:blank")

    async def close(self) -> None:
        """Close the page without unloading it, as a crash does."""
        await self.page.close()

    def _reported(self, event: str, value: Any = None) -> None:
        self._reports[event].put_nowait(value)


async def meet_and_part(stays: Page, leaves: Page, url: str, other_url: str) -> None:
    """Let two pages enter a room over one tracker or two. Each must learn the other's id and receive its text, and the
    page that stays must notice that the other one leaves.
    """
    await stays.call("join", url, "room")
    await leaves.call("join", other_url, "room")
    first, second = await stays.told("joined"), await leaves.told("joined")
    assert await stays.told("met") == second
    assert await leaves.told("met") == first
    await stays.call("say", "hello")
    await leaves.call("say", "goodbye")
    assert await leaves.told("heard") == "hello"
    assert await stays.told("heard") == "goodbye"
    await leaves.leave()
    assert await stays.told("lost") == second
