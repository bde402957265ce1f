"""`peerservers demo` in Chromium: a file travels between pages at different trackers, and the picture shows it.

With the environment variable SCREENSHOTS, the tests leave screenshots in that directory.
"""

import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from playwright.async_api import Browser, expect

from tests.demo import Demo, demo
from tests.e2e.demo import TRACKERS, DemoPage
from tests.e2e.test_page import is_laid_out

Open = Callable[..., Awaitable[DemoPage]]


@pytest.fixture
async def running() -> AsyncIterator[Demo]:
    """A demo."""
    async with demo() as running:
        yield running


@pytest.fixture
async def open_demo(running: Demo, browser: Browser) -> AsyncIterator[Open]:
    """Opens the page, each time in a profile of its own.

    At the end, no page may have written to the console, nor requested anything from another host.
    """
    async with AsyncExitStack() as contexts:
        opened: list[DemoPage] = []

        async def open_demo(path: str = "", **options: Any) -> DemoPage:
            context = await contexts.enter_async_context(await browser.new_context(**options))
            opened.append(await DemoPage.open(context, running.urls["Page"] + path))
            return opened[-1]

        yield open_demo
        assert [complaint for page in opened for complaint in page.complaints] == []


def urls(running: Demo, *names: str) -> set[str]:
    """Return the WebSocket URLs of trackers."""
    return {running.urls[f"Tracker {name}"].replace("http", "ws").rstrip("/") for name in names}


async def test_a_picture_travels_at_once(running: Demo, open_demo: Open) -> None:
    page = await open_demo()
    pictures = [await page.picture(name) for name in TRACKERS]
    assert pictures[0].startswith(b"\xff\xd8")
    assert pictures == pictures[:1] * 3
    assert page.sockets == urls(running, *TRACKERS)


@pytest.mark.parametrize("sender", TRACKERS)
async def test_a_file_travels_from_each_page(sender: str, open_demo: Open) -> None:
    """All of it comes from peers: clients in one browser have no storage in common."""
    page = await open_demo()
    content = os.urandom(300_000)
    await page.send(sender, "file.bin", content)
    for name in TRACKERS:
        assert await page.received(name, "file.bin") == content
        if name != sender:
            await expect(page.card(name).locator(".status")).to_have_text(re.compile(r"has it after \d+\.\d s"))
            told = await page.card(name).locator(".from").inner_text()
            assert re.match(r"Met a peer after \d+\.\d s; ", told)
            assert sum(map(int, re.findall(r"(\d+)\sKB\sfrom\s[ABC]", told))) >= 300
            assert f"from\u00a0{name}" not in told


async def test_the_newest_file_wins(open_demo: Open) -> None:
    page = await open_demo()
    for number in range(6):
        await page.send(TRACKERS[number % 3], f"{number}.bin", os.urandom(200_000))
    for name in TRACKERS:
        await page.received(name, "5.bin")


async def test_pages_in_different_profiles_meet(running: Demo, open_demo: Open) -> None:
    """Each is connected to its own tracker only, and they have nothing else in common than the infohash."""
    content = os.urandom(300_000)
    seeder = await open_demo("?at=A")
    await seeder.send("A", "file.bin", content)
    await seeder.received("A", "file.bin")
    more = await seeder.card("A").get_by_role("link", name="One more page here").get_attribute("href")
    assert more
    leecher = await open_demo(more.replace("at=A", "at=C"))
    assert await leecher.received("C", "file.bin") == content
    await expect(leecher.card("C").locator(".from")).to_have_text(re.compile(r"; 300\sKB\sfrom\sA$"))
    assert seeder.sockets == urls(running, "A")
    assert leecher.sockets == urls(running, "C")


async def test_an_open_page_receives_the_next_file(open_demo: Open) -> None:
    page = await open_demo()
    picture = await page.picture("B")
    async with page.page.expect_popup() as popup:
        await page.card("B").get_by_role("link", name="One more page here").click()
    more = DemoPage(await popup.value)
    assert await more.picture("B") == picture
    await page.send("C", "file.bin", b"short")
    assert await more.received("B", "file.bin") == b"short"


async def test_the_picture_shows_links_and_peers(running: Demo, open_demo: Open) -> None:
    page = await open_demo()
    await expect(page.page.locator("#links")).to_have_text("All trackers are linked")
    await expect(page.page.locator("#map .way.linked")).to_have_count(3)
    await expect(page.page.locator("#map .arc.connected")).to_have_count(3)
    await expect(page.page.locator("#map .window")).to_have_count(3)
    more = await open_demo("?at=B#" + await page.page.locator("#infohash").inner_text())
    await more.picture("B")
    await expect(page.card("B").locator(".state")).to_have_text("2 peers, linked with A and C")
    await expect(page.page.locator("#map .window")).to_have_count(4)
    described = await page.page.locator("#map desc").text_content()
    assert described
    assert "Trackers B and C are linked." in described
    assert "Tracker B has 2 peers." in described
    await page.keep("four-peers")
    own = page.card("C").get_by_role("link", name="Its own page")
    assert await own.get_attribute("href") == running.urls["Tracker C"]


async def test_a_tracker_that_is_lost_is_shown(running: Demo, open_demo: Open) -> None:
    page = await open_demo()
    await expect(page.page.locator("#links")).to_have_text("All trackers are linked")
    running.trackers[2].suspend()
    try:
        await expect(page.card("C").locator(".state")).to_have_text("can’t be reached")
        await expect(page.page.locator("#links")).to_have_text("1 of 3 links")
        await expect(page.page.locator("#map .way.linked")).to_have_count(1)
    finally:
        running.trackers[2].resume()
    await expect(page.page.locator("#links")).to_have_text("All trackers are linked")


@pytest.mark.parametrize("width", [1280, 360, 320])
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_layout(width: int, scheme: str, open_demo: Open) -> None:
    page = await open_demo(viewport={"width": width, "height": 800}, color_scheme=scheme)
    for name in TRACKERS:
        await page.picture(name)
    await expect(page.page.locator("#links")).to_have_text("All trackers are linked")
    await is_laid_out(page.page)
    await page.keep(f"{width}-{scheme}")
    await page.send("A", f"{'long' * 20}.bin", b"short")
    await page.received("B", f"{'long' * 20}.bin")
    await is_laid_out(page.page)
