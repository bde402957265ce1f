"""Announces over HTTP: they are recognized, and the response is one that BitTorrent clients understand."""

import bencodepy
import pytest

from tracker.net.routes import Request
from tracker.web.announces import is_announce, refuse_announce


@pytest.mark.parametrize(
    ("path", "query", "is_one"),
    [
        ("/announce", "info_hash=%00&peer_id=x", True),
        ("/announce", "", True),
        ("/scrape", "", True),
        ("/0123456789abcdef/announce", "", True),
        ("/announce.php", "", True),
        ("/x/scrape.php", "", True),
        ("/", "info_hash=%00", True),
        ("/tracker", "peer_id=x&info_hash=%00", True),
        ("/", "", False),
        ("/announcement", "", False),
        ("/announce/x", "", False),
        ("/preannounce", "", False),
        ("/announce.", "", False),
        ("/a.b/c", "", False),
        ("/", "x_info_hash=", False),
        ("/" * 16000, "&" * 16000, False),
    ],
)
def test_announces_and_scrapes_are_recognized(path: str, query: str, is_one: bool) -> None:
    assert is_announce(path, query) is is_one


async def test_the_response_is_a_failure_that_needs_no_retry() -> None:
    response = await refuse_announce(Request("/announce", "", {}))
    decoded = bencodepy.decode(response.body)
    assert b"WebSocket" in decoded.pop(b"failure reason")
    assert decoded == {b"interval": 86400, b"min interval": 86400, b"retry in": b"never"}
    assert bencodepy.encode(bencodepy.decode(response.body)) == response.body
    assert response.content_type == "text/plain"
