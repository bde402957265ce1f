"""The page in Chromium: its layout on a desktop and on a phone, its updates, and its safety.

With the environment variable SCREENSHOTS, the tests leave screenshots in that directory.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from playwright.async_api import Browser, Error, Page, Route, expect

from tests.client import raw_client
from tests.conftest import SharedTracker, StartTracker, TrackerProcess, environment, free_port
from tests.e2e.browser import PATIENCE
from tests.federated import Federation, federation
from tests.integration.friend import install
from tests.unit.fakes import peer_id

DESK = {"width": 1280, "height": 800}
PHONE = {"width": 390, "height": 844}
SMALL = {"width": 320, "height": 568}
SIZES = {"desk": DESK, "phone": PHONE, "small": SMALL}

NAME = "The tracker of a very long name " + "x" * 28
CONTACT = "operator-of-the-tracker@some-where.example.org"

# The page updates itself every four seconds; in tests that wait for updates, more often.
HURRY = """
const inTime = setTimeout
globalThis.setTimeout = (call, ms, ...rest) => inTime(call, ms === 4000 ? 400 : ms, ...rest)
"""

Open = Callable[..., Awaitable[Page]]

expect.set_options(timeout=PATIENCE * 1000)


@pytest.fixture
async def open_url(browser: Browser) -> AsyncIterator[Open]:
    """Opens URLs, each in a profile of its own.

    At the end, no page may have written to the console, nor requested anything from another server. Take this fixture
    after that of the tracker: a page that outlives its tracker writes to the console.
    """
    async with AsyncExitStack() as contexts:
        complaints: list[str] = []
        asked: set[str] = set()

        async def open_url(url: str, may_complain: bool = False, hurries: bool = False, **options: Any) -> Page:
            context = await contexts.enter_async_context(await browser.new_context(**options))
            if hurries:
                await context.add_init_script(HURRY)
            page = await context.new_page()
            if not may_complain:
                page.on("console", lambda message: complaints.append(message.text))
                page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: asked.add(request.url.partition("?")[0]))
            await page.goto(url)
            return page

        yield open_url
        assert complaints == []
        assert {url for url in asked if not url.startswith(("http://127.0.0.1:", "data:"))} == set()


@pytest.fixture
async def tracker(shared_tracker: SharedTracker) -> SharedTracker:
    """Return a tracker that the tests of this module share."""
    return shared_tracker


def address(tracker: TrackerProcess) -> str:
    """Return the URL of the page."""
    return f"http://127.0.0.1:{tracker.port}/"


async def keep(page: Page, name: str) -> None:
    """Leave a screenshot, if SCREENSHOTS is set."""
    directory = os.environ.get("SCREENSHOTS")
    if directory:
        # New elements fade in.
        await asyncio.sleep(1)
        await page.screenshot(path=Path(directory) / f"page-{name}.png", full_page=True)


async def is_laid_out(page: Page) -> None:
    """Check that nothing is cut off at the right, and that every text contrasts with its background."""
    width, room = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width <= room
    too_wide = await page.evaluate(
        """[...document.querySelectorAll('main *:not(svg *)')].filter(
            element => !element.closest('.wide') && element.getBoundingClientRect().right > innerWidth + 1
        ).map(element => element.outerHTML.slice(0, 80))"""
    )
    assert too_wide == []
    assert await page.evaluate(LOW_CONTRASTS) == []


LOW_CONTRASTS = """
() => {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
  const light = colour => {
    context.clearRect(0, 0, 1, 1)
    context.fillStyle = colour
    context.fillRect(0, 0, 1, 1)
    const [r, g, b, a] = context.getImageData(0, 0, 1, 1).data
    const linear = [r, g, b].map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    return a && .2126 * linear[0] + .7152 * linear[1] + .0722 * linear[2]
  }
  const ground = element => {
    for (; element; element = element.parentElement) {
      const colour = getComputedStyle(element).backgroundColor
      if (colour !== 'rgba(0, 0, 0, 0)') return light(colour)
    }
    return 1
  }
  const found = []
  for (const element of document.querySelectorAll('body *')) {
    const text = [...element.childNodes].some(node => node.nodeType === Node.TEXT_NODE && node.data.trim())
    if (!text || !element.checkVisibility() || element.closest('title, desc, script, style')) continue
    const style = getComputedStyle(element)
    const [a, b] = element.closest('.middle, .tracker circle ~ *')
      ? [light(style.fill), light(getComputedStyle(element.parentElement.querySelector('circle')).fill)]
      : [light(element.closest('svg') ? style.fill : style.color), ground(element)]
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
    if (contrast < 4.5) found.push([element.textContent, contrast])
  }
  return found
}
"""


async def tile(page: Page, label: str) -> str:
    """Return the number in a tile of the page."""
    text = await page.locator("dl > div", has=page.get_by_text(label, exact=True)).locator("dd").inner_text()
    return text.split()[0]


@pytest.fixture(scope="module")
async def four_linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    """Start a tracker and three others that link with it. They have 4, 3, 2 and 1 swarms, each with a peer."""
    async with federation(tmp_path_factory.mktemp("linked"), nodes=0) as trackers, AsyncExitStack() as stack:
        here = await trackers.start(in_dht=False)
        for _ in range(3):
            await trackers.start(in_dht=False, peers=[trackers.url_at(here.port)])
        for number, tracker in enumerate(trackers.started):
            client = await stack.enter_async_context(raw_client(tracker.url))
            for swarm in range(4 - number):
                await client.announce(peer_id(number), chr(ord("a") + swarm) * 20, left=number)
        yield trackers


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_how_it_looks(four_linked: Federation, open_url: Open, size: str, scheme: str) -> None:
    here, *others = four_linked.started
    page = await open_url(address(here), viewport=SIZES[size], color_scheme=scheme)
    await expect(page.locator(".node")).to_have_count(3)
    await expect(page.locator(".node.accepted .number", has_text="3")).to_have_count(1)
    await expect(page.get_by_text("Accepting peers")).to_be_visible()
    await expect(page.get_by_text("4 seeding, 0 leeching")).to_be_visible()
    assert [await tile(page, label) for label in ("Peers", "Swarms", "Linked trackers")] == ["4", "4", "3"]
    await expect(page.locator("#url code")).to_have_text(here.url.rstrip("/"))
    await expect(page.locator("#links tbody tr")).to_have_count(3)
    for other in others:
        short = four_linked.id_of(other)[:16]
        await expect(page.locator(".node .name", has_text=short)).to_be_visible()
        await expect(page.locator("#links th", has_text=short).first).to_be_visible()
    assert "3 shared swarms, accepted" in (await page.locator("svg desc").text_content() or "")
    await expect(page.get_by_role("link", name="Metrics")).to_be_visible()
    await is_laid_out(page)
    await keep(page, f"{size}-{scheme}")


@pytest.mark.parametrize("size", SIZES)
async def test_a_tracker_alone(tracker: TrackerProcess, open_url: Open, size: str) -> None:
    page = await open_url(address(tracker), viewport=SIZES[size])
    await expect(page.get_by_text("Linked with no other tracker.")).to_be_visible()
    await expect(page.locator("#links")).to_be_hidden()
    await is_laid_out(page)
    await keep(page, f"alone-{size}")


class Trouble(NamedTuple):
    """A tracker with an extension that is off, and with three listed trackers, of which it is linked with one."""

    tracker: TrackerProcess
    trackers: Federation
    down: int
    """The port of another one, which does not run."""


@asynccontextmanager
async def trouble(directory: Path) -> AsyncIterator[Trouble]:
    """Start a tracker that is in trouble."""
    async with federation(directory, nodes=0) as trackers:
        there = await trackers.start(in_dht=False)
        port = free_port()
        install(directory, "fails", "tests.integration.test_bad_extensions:FailsToStart")
        path = os.pathsep.join([str(directory), *filter(None, [os.environ.get("PYTHONPATH")])])
        here = await TrackerProcess.start(
            env={
                "PYTHONPATH": path,
                **environment("server", state_dir=str(directory / "here")),
                **environment("extensions.fails", enabled=True),
                **environment(
                    "extensions.federation",
                    enabled=True,
                    peers=[trackers.url_at(there.port), trackers.url_at(port), f"wss://127.0.0.1:{there.port}"],
                ),
            }
        )
        await here.logged("extension_failed")
        yield Trouble(here, trackers, port)
        assert await here.stop() == 0


@pytest.fixture(scope="module")
async def in_trouble(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Trouble]:
    """Return a tracker that is in trouble and stays so."""
    async with trouble(tmp_path_factory.mktemp("trouble")) as one:
        yield one


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", SIZES)
async def test_what_is_wrong(in_trouble: Trouble, open_url: Open, size: str, scheme: str) -> None:
    """An extension is off, and two listed trackers are down."""
    page = await open_url(address(in_trouble.tracker), viewport=SIZES[size], color_scheme=scheme, hurries=True)
    await expect(page.locator("#off")).to_have_text("The extension fails is off: its start has failed.")
    await expect(page.locator(".node.down")).to_have_count(2)
    await expect(page.locator(".node.dialed")).to_have_count(1)
    await expect(page.locator("#unlinked tbody tr")).to_have_count(2)
    row = page.locator("#unlinked tbody tr", has_text=in_trouble.trackers.url_at(in_trouble.down))
    await expect(row).to_contain_text("unreachable: Connection refused")
    await expect(row).to_contain_text("down")
    await expect(page.get_by_text("2 listed not linked")).to_be_visible()
    await is_laid_out(page)
    await keep(page, f"wrong-{size}-{scheme}")


async def test_a_listed_tracker_that_was_down_comes(open_url: Open, tmp_path: Path) -> None:
    async with trouble(tmp_path) as one:
        page = await open_url(address(one.tracker), hurries=True)
        await expect(page.locator("#unlinked tbody tr")).to_have_count(2)
        await one.trackers.start(one.down, in_dht=False)
        await expect(page.locator("#unlinked tbody tr")).to_have_count(1)
        await expect(page.locator(".node.dialed")).to_have_count(2)
        # Before the trackers stop, or the page would complain.
        await page.close()


@pytest.fixture(scope="module")
async def named_and_linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Federation]:
    """Start a tracker that has a name and a contact, and one that is linked with it."""
    async with federation(tmp_path_factory.mktemp("named"), nodes=0) as trackers:
        here = await trackers.start(in_dht=False, page={"name": NAME, "contact": CONTACT})
        there = await trackers.start(in_dht=False, peers=[trackers.url_at(here.port)])
        await trackers.linked(here, there)
        yield trackers


@pytest.mark.parametrize("size", SIZES)
async def test_the_name_of_the_tracker_and_of_its_operator(
    named_and_linked: Federation, open_url: Open, size: str
) -> None:
    here = named_and_linked.started[0]
    page = await open_url(address(here), viewport=SIZES[size])
    assert await page.title() == NAME
    await expect(page.get_by_role("heading", level=1)).to_have_text(NAME)
    await expect(page.get_by_role("link", name=CONTACT)).to_have_attribute("href", f"mailto:{CONTACT}")
    await expect(page.get_by_role("link", name="Documentation")).to_be_visible()
    await expect(page.locator("#id code")).to_have_text(named_and_linked.id_of(here))
    await is_laid_out(page)
    await keep(page, f"named-{size}")


@pytest.mark.parametrize("size", SIZES)
async def test_without_javascript(named_and_linked: Federation, open_url: Open, size: str) -> None:
    here, there = named_and_linked.started
    page = await open_url(address(there), viewport=SIZES[size], java_script_enabled=False)
    await expect(page.get_by_role("button")).to_have_count(0)
    await expect(page.locator("#url code")).to_have_text(there.url.rstrip("/"))
    await expect(page.locator(".node.dialed .name")).to_have_text(f"127.0.0.1:{here.port}")
    row = page.locator("#links tbody tr")
    await expect(row).to_contain_text(f"ws://127.0.0.1:{here.port}")
    await expect(row).to_contain_text("dialed")
    await keep(page, f"plain-{size}")


async def test_it_follows_peers_and_links(open_url: Open, tmp_path: Path) -> None:
    async with federation(tmp_path, nodes=0) as trackers:
        here = await trackers.start(in_dht=False)
        page = await open_url(address(here), hurries=True)
        await expect(page.locator(".middle .number")).to_have_text("0")
        # Elements that stay are kept, or a selection in them would be lost, and no change could be animated.
        await page.evaluate("document.querySelector('.middle').mark = document.querySelector('#numbers dd').mark = 1")
        async with raw_client(here.url) as client:
            await client.announce(peer_id(1), left=0)
            await expect(page.get_by_text("1 seeding, 0 leeching")).to_be_visible()
            await expect(page.locator(".middle .number")).to_have_text("1")
            there = await trackers.start(in_dht=False, peers=[f"ws://127.0.0.1:{here.port}"])
            name = trackers.id_of(there)[:16]
            await expect(page.locator(".node .name")).to_have_text(name)
            await expect(page.locator(".node .number")).to_have_text("0")
            async with raw_client(there.url) as other:
                await other.announce(peer_id(2))
                await expect(page.locator(".node .number")).to_have_text("1")
                await page.evaluate("document.querySelector('.node').mark = 1")
                third = await trackers.start(in_dht=False, peers=[f"ws://127.0.0.1:{here.port}"])
                await expect(page.locator(".node")).to_have_count(2)
                await expect(page.locator("#links tbody tr")).to_have_count(2)
                marked = (
                    "[...document.querySelectorAll('.node, .middle, dd')].filter(e => e.mark).map(e => e.textContent)"
                )
                kept = await page.evaluate(marked)
                assert len(kept) == 3
                assert any(name in text for text in kept)
                await third.stop()
                await expect(page.locator(".node")).to_have_count(1)
                await expect(page.locator(".node .name")).to_have_text(name)
        await expect(page.get_by_text("0 seeding, 0 leeching")).to_be_visible()
        fresh = await open_url(address(here))
        link_map = "document.querySelector('#linkmap').outerHTML.replace(/ class=\"[^\"]*\"/g, '')"
        assert await page.evaluate(link_map) == await fresh.evaluate(link_map)
        # Before the tracker stops, or the page would complain.
        await page.close()


async def test_a_tracker_that_goes_and_comes_back(open_url: Open, start_tracker: StartTracker) -> None:
    tracker = await start_tracker()
    page = await open_url(address(tracker), may_complain=True, hurries=True)
    await tracker.stop()
    await expect(page.locator("#status")).to_contain_text("Can’t be reached since")
    await is_laid_out(page)
    await keep(page, "lost")
    await start_tracker(port=tracker.port)
    await expect(page.locator("#status")).to_have_text("Accepting peers")
    await expect(page.locator("html.lost")).to_have_count(0)


async def test_a_hidden_page_does_not_update(tracker: TrackerProcess, open_url: Open) -> None:
    page = await open_url(address(tracker), hurries=True)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    show = "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
    show += " document.dispatchEvent(new Event('visibilitychange')) }"
    await page.evaluate(show, True)
    # A request may have begun just before.
    asked.clear()
    await asyncio.sleep(1)
    assert asked == []
    async with page.expect_event("requestfinished", lambda request: request.url.endswith("/live")):
        await page.evaluate(show, False)
    await page.close()


@pytest.mark.parametrize("is_trusted", [True, False], ids=["clipboard", "without one"])
async def test_copying(tracker: TrackerProcess, open_url: Open, is_trusted: bool) -> None:
    """Browsers give a clipboard only to secure contexts: encrypted pages, and those of the same machine."""
    page = await open_url(address(tracker), permissions=["clipboard-read", "clipboard-write"])
    if not is_trusted:
        await page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    field = page.locator(".copy", has=page.locator("#magnet"))
    await field.get_by_role("button", name="Copy").press("Enter")
    await expect(field.get_by_role("button")).to_have_text("Copied")
    expected = f"&tr=ws%3A%2F%2F127.0.0.1%3A{tracker.port}"
    assert await page.evaluate("getSelection().toString()") == expected
    if is_trusted:
        assert await page.evaluate("navigator.clipboard.readText()") == expected
    await expect(field.get_by_role("button")).to_have_text("Copy")


async def test_a_copy_that_is_not_allowed_selects_the_text(tracker: TrackerProcess, open_url: Open) -> None:
    page = await open_url(address(tracker))
    await page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('no')) }")
    await page.get_by_role("button", name="Copy").first.click()
    await expect(page.get_by_role("button", name="Selected")).to_be_visible()
    assert await page.evaluate("getSelection().toString()") == tracker.url.rstrip("/")


async def test_below_a_path_of_a_proxy(browser: Browser, tracker: TrackerProcess) -> None:
    """The tracker knows neither the path nor the scheme of the URL that people use."""
    async with await browser.new_context() as context:
        page = await context.new_page()

        async def forward(route: Route) -> None:
            path = route.request.url.removeprefix("https://example.org/tracker")
            await route.fulfill(response=await route.fetch(url=address(tracker).rstrip("/") + path))

        await page.route("https://example.org/tracker/**", forward)
        await page.goto("https://example.org/tracker/")
        await expect(page.locator("#url code")).to_have_text("wss://example.org/tracker")
        async with page.expect_response("https://example.org/tracker/live") as response:
            pass
        assert (await response.value).ok
        links = await page.evaluate("[...document.querySelectorAll('nav a')].map(link => link.href)")
        assert links == [f"https://example.org/tracker/{name}" for name in ("stats", "stats.json", "metrics")]


@pytest.mark.parametrize("path", ["tracker", "tracker/"])
async def test_below_a_path_that_no_proxy_removes(start_tracker: StartTracker, open_url: Open, path: str) -> None:
    """The page updates itself, and its links lead to the statistics, also without a slash at the end of its path."""
    tracker = await start_tracker(env=environment("server", path_prefix="/tracker"))
    page = await open_url(address(tracker) + path, hurries=True)
    assert await page.locator("#url code").inner_text() == f"ws://127.0.0.1:{tracker.port}/tracker"
    async with raw_client(tracker.url) as client:
        await client.announce(peer_id(1), left=0)
        await expect(page.get_by_text("1 seeding, 0 leeching")).to_be_visible()
    await page.get_by_role("link", name="Statistics").click()
    await expect(page.get_by_role("heading", name="Connected Peers: 0")).to_be_visible()
    assert page.url == address(tracker) + "tracker/stats"


async def test_a_browser_opens_a_websocket_with_subprotocols(tracker: TrackerProcess, open_url: Open) -> None:
    """Chromium fails the connection if none of them is chosen."""
    page = await open_url(address(tracker))
    chosen = await page.evaluate(
        """() => new Promise((resolve, reject) => {
            const socket = new WebSocket(location.href.replace('http', 'ws'), ['webtorrent', 'other'])
            socket.onopen = () => resolve(socket.protocol)
            socket.onerror = () => reject(new Error('failed'))
        })"""
    )
    assert chosen == "webtorrent"


async def test_the_page_runs_no_injected_scripts_or_styles(tracker: TrackerProcess, open_url: Open) -> None:
    page = await open_url(address(tracker), may_complain=True)
    await page.evaluate(
        """document.body.insertAdjacentHTML('beforeend', '<b onclick="globalThis.ran = 1" style="color: red">x</b>')"""
    )
    await page.evaluate("document.querySelector('b').click()")
    assert await page.evaluate("globalThis.ran") is None
    assert await page.evaluate("getComputedStyle(document.querySelector('b')).color") != "rgb(255, 0, 0)"
    with pytest.raises(Error):
        await page.evaluate("fetch('https://example.org')")


async def test_nothing_moves_with_reduced_motion(tracker: TrackerProcess, open_url: Open) -> None:
    page = await open_url(address(tracker), reduced_motion="reduce")
    assert await page.evaluate("document.getAnimations().length") == 0
