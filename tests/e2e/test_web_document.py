"""The examples in docs/web.md are run as they stand there: two clients meet, each with one of two linked trackers."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser

from tests.client import eventually
from tests.conftest import WEB, TrackerProcess, unavailable
from tests.e2e import lt
from tests.e2e.browser import PATIENCE, Page, build_pages, serving
from tests.e2e.conftest import Pair
from tests.federated import federation
from tests.shipping import ROOT

DOCUMENT = (ROOT / "docs" / "web.md").read_text()
URL = "wss://tracker.example.org"
STUN = "stun:stun.example.org"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(heading: str) -> list[tuple[str, str]]:
    """Return the languages and texts of the code blocks under a heading."""
    section = re.split(rf"^#+ {re.escape(heading)}$", DOCUMENT, flags=re.MULTILINE)[1]
    return BLOCK.findall(re.split(r"^#+ ", section, flags=re.MULTILINE)[0])


WEBTORRENT = """
const greet = torrent => torrent.on('wire', wire => console.log(`${wire.peerId} is here`))
globalThis.seedFile = () => {
  const torrent = greet(seed([new File(['x'.repeat(100_000)], 'file')]))
  torrent.once('trackerAnnounce', () => report('infohash', torrent.infoHash))
}
globalThis.downloadFile = infohash => greet(download(`magnet:?xt=urn:btih:${infohash}`))
"""

# The heading, the number of the example under it, and a program for examples that only define functions.
PAGES = {
    "webtorrent": ("webtorrent", 0, WEBTORRENT),
    "trystero": ("Trystero", 0, ""),
    "trystero-0.21": ("Trystero", 1, ""),
    "p2pt": ("P2PT", 0, ""),
    "p2p-media-loader": ("P2P Media Loader", 0, ""),
}

# The pages must not ask servers in the Internet, so they only report which ones they would ask.
HTML = """<!doctype html><link rel="icon" href="data:,"><video muted></video>
<script>
// esbuild adds nothing of Node's to a page, and P2P Media Loader needs this.
globalThis.process = { browser: true, nextTick: (call, ...values) => queueMicrotask(() => call(...values)) }
console.log = text => report('log', text)
globalThis.RTCPeerConnection = class extends RTCPeerConnection {
  constructor (config) {
    report('asks', config.iceServers.flatMap(server => server.urls))
    super({ ...config, iceServers: [] })
  }
}
</script>
<script type="module" src="%s"></script>"""

# A player announces before it knows whether it can play the content.
PLAYLIST = """#EXTM3U
#EXT-X-VERSION:3
#EXT-X-TARGETDURATION:4
#EXTINF:4,
0.ts
#EXT-X-ENDLIST
"""


@pytest.fixture(scope="module")
async def linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[TrackerProcess]]:
    """Two linked trackers."""
    async with federation(tmp_path_factory.mktemp("federation")) as trackers:
        yield await trackers.start_linked(2)


@pytest.fixture(scope="module")
async def document_site(linked: list[TrackerProcess], tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Serve a page for each example and tracker; yield the URL."""
    if not (WEB / "node_modules" / "p2p-media-loader-hlsjs").exists():
        unavailable("npm's p2p-media-loader-hlsjs")
    sources, site = tmp_path_factory.mktemp("document"), tmp_path_factory.mktemp("site")
    (sources / "node_modules").symlink_to(WEB / "node_modules")
    (sources / "pages").mkdir()
    for name, (heading, number, program) in PAGES.items():
        example = examples(heading)[number][1].replace("'trystero/torrent'", "'trystero-0.21/torrent'")
        for index, tracker in enumerate(linked):
            (sources / "pages" / f"{name}-{index}.js").write_text(example.replace(URL, tracker.url) + program)
    build_pages(sources, site)
    for script in site.glob("*.js"):
        script.with_suffix(".html").write_text(HTML % script.name)
    (site / "stream.m3u8").write_text(PLAYLIST)
    (site / "0.ts").write_bytes(bytes(188 * 1000))
    with serving(site) as url:
        yield url


async def greeted(page: Page) -> None:
    """Wait until the page has connected to a peer."""
    while not (await page.told("log")).endswith(" is here"):
        pass


@pytest.mark.parametrize("name", PAGES)
async def test_two_pages_with_an_example_meet(name: str, browser: Browser, document_site: str) -> None:
    async with AsyncExitStack() as contexts:
        pages = []
        for index in range(2):
            context = await contexts.enter_async_context(await browser.new_context())
            pages.append(await Page.open(context, f"{document_site}/{name}-{index}.html"))
        first, second = pages
        if name == "webtorrent":
            await first.call("seedFile")
            await second.call("downloadFile", await first.told("infohash"))
        await asyncio.gather(*map(greeted, pages))
        assert [await page.told("asks") for page in pages] == [[STUN], [STUN]]
        assert [page.errors for page in pages] == [[], []]


async def test_the_example_of_libtorrent_downloads(
    linked: list[TrackerProcess], pair: Pair, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seeder, _ = pair
    torrent = await seeder.seed("file", bytes(100_000), linked[0].url)
    asked: dict[str, object] = {}

    def session(settings: dict[str, object]) -> object:
        asked.update(settings)
        return original(lt.SETTINGS)

    original = lt.libtorrent.session
    monkeypatch.setattr(lt.libtorrent, "session", session)
    monkeypatch.chdir(tmp_path)
    ((language, example),) = examples("libtorrent")
    assert language == "python"
    names: dict[str, Any] = {"magnet": f"magnet:?xt=urn:btih:{torrent.info_hash}"}
    exec(example.replace(URL, linked[1].url), names)

    async def complete() -> bool:
        return bool(names["handle"].status().is_seeding)

    await eventually(complete, PATIENCE)
    assert (tmp_path / "file").read_bytes() == torrent.content
    assert asked == {"webtorrent_stun_server": STUN.removeprefix("stun:") + ":3478"}


def test_all_examples_are_run() -> None:
    """anacrolix/torrent is the exception: the tests do not compile Go."""
    run = [examples(heading)[number] for heading, number, _ in PAGES.values()]
    run += examples("libtorrent") + examples("anacrolix/torrent")
    assert [text for _, text in BLOCK.findall(DOCUMENT) if URL in text] == [text for _, text in run]
