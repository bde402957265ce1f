"""The page of `peerservers demo` in a browser: one client for each tracker, in a card of its own."""

import asyncio
import os
from pathlib import Path
from typing import Any

from playwright.async_api import BrowserContext, Locator, Page, expect

from tests.e2e.browser import PATIENCE

TRACKERS = ("A", "B", "C")

expect.set_options(timeout=PATIENCE * 1000)


class DemoPage:
    """The page with the pictures of all trackers, or the page of one client (`?at=B`)."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sockets: set[str] = set()
        self.complaints: list[str] = []
        page.on("websocket", lambda socket: self.sockets.add(socket.url.rstrip("/")))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._on_console)
        page.on("request", self._on_request)

    @classmethod
    async def open(cls, context: BrowserContext, url: str) -> "DemoPage":
        """Open it in a new tab."""
        page = cls(await context.new_page())
        await page.page.goto(url)
        return page

    def card(self, name: str) -> Locator:
        """Return the card of the client at a tracker."""
        return self.page.locator("section.page").filter(has=self.page.get_by_role("heading", name=f"Page {name}"))

    async def send(self, name: str, file: str, content: bytes) -> None:
        """Send a file from the client at a tracker."""
        chosen: Any = {"name": file, "mimeType": "", "buffer": content}
        await self.card(name).locator("input").set_input_files(chosen)

    async def received(self, name: str, file: str) -> bytes:
        """Wait until the client at a tracker has a file. Save it, and return its content."""
        link = self.card(name).locator(f".save[download='{file}']")
        await expect(link).to_be_visible()
        async with self.page.expect_download() as download:
            await link.click()
        return (await (await download.value).path()).read_bytes()

    async def picture(self, name: str) -> bytes:
        """Wait until the client at a tracker shows a picture. Return its content."""
        await expect(self.card(name).locator("img")).to_be_visible()
        return await self.received(name, "landscape.jpg")

    async def keep(self, name: str) -> None:
        """Leave a screenshot, if SCREENSHOTS is set."""
        directory = os.environ.get("SCREENSHOTS")
        if directory:
            # Pictures fade in, and pieces of the file are still on their way.
            await asyncio.sleep(2)
            await self.page.screenshot(path=Path(directory) / f"demo-{name}.png", full_page=True)

    def _on_console(self, message: Any) -> None:
        # Chromium says so when a new file has come before the client of the last one is connected.
        if "WebSocket is closed before the connection is established" not in message.text:
            self.complaints.append(message.text)

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "http://localhost:", "data:", "blob:")):
            self.complaints.append(f"requested {request.url}")
