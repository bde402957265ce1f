"""Fixtures: a browser, pages in it that run tracker clients, libtorrent, aiortc."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from tests.conftest import WEB, unavailable
from tests.e2e.browser import CHROMIUM_FLAGS, Page, build_pages, serving
from tests.e2e.lt import LibtorrentPeer
from tests.e2e.rtc import aiortc

OpenPage = Callable[[str], Awaitable[Page]]
Pair = tuple[LibtorrentPeer, LibtorrentPeer]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """Run the system's Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        unavailable("chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=CHROMIUM_FLAGS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the pages in `tests/web/pages`; yield the URL."""
    if shutil.which("node") is None or not (WEB / "node_modules" / ".bin" / "esbuild").exists():
        unavailable("npm's clients for pages")
    directory = tmp_path_factory.mktemp("site")
    build_pages(WEB, directory)
    with serving(directory) as url:
        yield url


@pytest.fixture
async def open_page(browser: Browser, site: str) -> AsyncIterator[OpenPage]:
    """Yield a function that opens a page by name, each in a profile of its own. No page may have had an error."""
    async with AsyncExitStack() as contexts:
        opened: list[Page] = []

        async def open_page(name: str) -> Page:
            context = await contexts.enter_async_context(await browser.new_context())
            opened.append(await Page.open(context, f"{site}/{name}.html"))
            return opened[-1]

        yield open_page
        assert [error for page in opened for error in page.errors] == []


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Two libtorrent peers: one that will seed, and one that will leech."""
    async with AsyncExitStack() as stack:
        peers = []
        for name in ("seeder", "leecher"):
            (tmp_path / name).mkdir()
            peers.append(await stack.enter_async_context(LibtorrentPeer(tmp_path / name)))
        yield peers[0], peers[1]


@pytest.fixture
def on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect aiortc's peers over loopback, which every machine has and aioice leaves out."""
    if aiortc is None:
        unavailable("aiortc")
    monkeypatch.setattr("aioice.ice.get_host_addresses", lambda **_: ["127.0.0.1"])
