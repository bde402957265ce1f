"""Libraries that use trackers to bring the pages of a room together, without a torrent."""

import pytest

from tests.conftest import TrackerProcess
from tests.e2e.conftest import OpenPage


@pytest.mark.parametrize("client", ["trystero", "trystero-0.21", "p2pt"])
async def test_two_pages_meet_and_part(client: str, tracker: TrackerProcess, open_page: OpenPage) -> None:
    """Each learns who the other is, both are heard, and who stays sees the other go."""
    stays, leaves = await open_page(client), await open_page(client)
    await stays.call("join", tracker.url, "room")
    await leaves.call("join", tracker.url, "room")
    first, second = await stays.told("joined"), await leaves.told("joined")
    assert await stays.told("met") == second
    assert await leaves.told("met") == first
    await stays.call("say", "hello")
    await leaves.call("say", "goodbye")
    assert await leaves.told("heard") == "hello"
    assert await stays.told("heard") == "goodbye"
    await leaves.leave()
    assert await stays.told("lost") == second
