"""Pages for a real browser, each with one client of a tracker in it."""

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

# What a test waits for takes well under a second; on a busy machine it may take much longer.
PATIENCE = 30.0

# No sandbox, because a container's root may not have one; and nothing that speaks to the outside.
CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

# A page cannot learn from its clients why a socket was closed.
REPORT_CLOSE_CODES = """
globalThis.WebSocket = class extends WebSocket {
  constructor (...args) {
    super(...args)
    this.addEventListener('close', ({ code }) => report('closed', code))
  }
}
"""


def build_pages(web: Path, site: Path) -> None:
    """Bundle each of `web`'s pages with the client it imports into a page of its own in `site`."""
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
    """Serve a directory; yields its URL. From this address pages are trusted with all that encrypted ones are."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=os.fspath(directory))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class Page:
    """A page with a client in it: it is called by name and tells what happens through its `report`."""

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
        """Call a function of the page, without waiting for what it starts."""
        await self.page.evaluate("([name, args]) => { globalThis[name](...args) }", [function, arguments])

    async def told(self, event: str) -> Any:
        """Wait until the page reports an event (it may have done so before); what it said with it."""
        with suppress(TimeoutError):
            return await asyncio.wait_for(self._reports[event].get(), PATIENCE)
        others = [name for name, values in self._reports.items() if not values.empty()]
        pytest.fail(f"the page did not report {event!r}; unread reports: {others}, errors: {self.errors}")

    async def leave(self) -> None:
        """Go to another page, which ends this one in good order."""
        await self.page.goto("about:blank")

    async def close(self) -> None:
        """Take it away without a word, as a crash does."""
        await self.page.close()

    def _reported(self, event: str, value: Any = None) -> None:
        self._reports[event].put_nowait(value)


async def meet_and_part(stays: Page, leaves: Page, url: str, other_url: str) -> None:
    """Two pages enter a room by two trackers, or one: each must learn who the other is, both be heard, and who stays
    must see the other go.
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
