"""Libraries that connect the pages of a room through trackers, without a torrent."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.conftest import TrackerProcess
from tests.e2e.browser import meet_and_part
from tests.e2e.conftest import OpenPage
from tests.federated import federation


@pytest.fixture(scope="module")
async def linked(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[TrackerProcess]]:
    """Three trackers that are linked with each other. Clients announce often, so that a room is soon complete."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEERSERVERS_TRACKER__ANNOUNCE_INTERVAL", "10")
        async with federation(tmp_path_factory.mktemp("federation")) as trackers:
            yield await trackers.start_linked(3)


@pytest.mark.parametrize("client", ["trystero", "trystero-0.21", "p2pt"])
async def test_two_pages_meet_and_part(client: str, tracker: TrackerProcess, open_page: OpenPage) -> None:
    stays, leaves = await open_page(client), await open_page(client)
    await meet_and_part(stays, leaves, tracker.url, tracker.url)


@pytest.mark.parametrize("client", ["trystero", "trystero-0.21"])
@pytest.mark.parametrize("lists", [(2, 2, 2, 2), (1, 2, 3, 3)])
async def test_pages_with_linked_trackers_in_their_lists_meet(
    client: str, lists: tuple[int, ...], linked: list[TrackerProcess], open_page: OpenPage
) -> None:
    pages = [await open_page(client) for _ in lists]
    urls = [tracker.url for tracker in linked]
    name = f"{client} {lists}"
    await asyncio.gather(
        *(
            page.call("join", urls[-count:] if count < 2 else urls[:count], name)
            for page, count in zip(pages, lists, strict=True)
        )
    )
    ids = [await page.told("joined") for page in pages]
    for page, own in zip(pages, ids, strict=True):
        assert {await page.told("met") for _ in pages[1:]} == {*ids} - {own}
