"""Libraries that connect the pages of a room through trackers, without a torrent."""

import pytest

from tests.conftest import TrackerProcess
from tests.e2e.browser import meet_and_part
from tests.e2e.conftest import OpenPage


@pytest.mark.parametrize("client", ["trystero", "trystero-0.21", "p2pt"])
async def test_two_pages_meet_and_part(client: str, tracker: TrackerProcess, open_page: OpenPage) -> None:
    stays, leaves = await open_page(client), await open_page(client)
    await meet_and_part(stays, leaves, tracker.url, tracker.url)
