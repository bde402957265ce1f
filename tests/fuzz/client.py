"""The client's half: a tracker's messages, which are decoded or refused."""

from collections.abc import Iterator

from tests.fuzz import recorded
from tests.fuzz.target import Target
from tracker.protocol import codec
from tracker.protocol.client import MessageError, decode
from tracker.protocol.messages import AnnounceReply, RelayedAnswer, RelayedOffer, ScrapeReply


def check(data: bytes) -> None:
    """Decode a tracker's message: its fields have the types that callers rely on."""
    try:
        message = decode(data)
    except MessageError:
        return
    if isinstance(message, AnnounceReply):
        assert type(message.interval) in (int, float, type(None))
        assert all(type(count) in (int, type(None)) for count in (message.complete, message.incomplete))
    elif isinstance(message, RelayedOffer):
        assert isinstance(message.peer_id, str)
        codec.from_json(message.offer.offer_id)
        codec.from_json(message.offer.description.sdp)
    elif isinstance(message, RelayedAnswer):
        codec.from_json(message.offer_id)
        codec.from_json(message.sdp)
    elif isinstance(message, ScrapeReply):
        for info_hash, counts in message.files.items():
            assert isinstance(info_hash, str)
            assert all(type(count) is int for count in (counts.complete, counts.incomplete, counts.downloaded))


def seeds() -> Iterator[bytes]:
    """Yield messages of trackers."""
    for payload in recorded.received():
        yield from recorded.variants(payload)
    yield b'{"action":"scrape","files":{"h":{"complete":1,"incomplete":2,"downloaded":3},"":5}}'
    yield b'{"interval":1.5,"complete":"5","incomplete":true}'
    yield b'{"files":{"h":{"complete":1.5,"incomplete":null}}}'
    yield b'{"failure reason":"no","info_hash":5}'


TARGET = Target(
    check,
    seeds,
    (
        *(b'"action":', b'"announce"', b'"scrape"', b'"info_hash":', b'"peer_id":', b'"offer_id":', b'"interval":'),
        *(b'"complete":', b'"files":', b'"failure reason":', b'"offer":', b'"answer":', b'"type":', b'"sdp":'),
        *(b"null", b"{}", b"[]", b"1e400", b"\\ud800", b"\xff"),
    ),
)
