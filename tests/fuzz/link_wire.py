"""Messages of links between trackers: decoded or refused, and written again the same.

The first byte of an input says whether the swarms in the rest, a frame, are binary.
"""

from collections.abc import Iterator

from msgspec import Raw

from extensions.federation import wire
from extensions.federation.wire import WireError
from tests.fuzz.codec import check_sdp, is_relayed
from tests.fuzz.target import Target
from tracker.protocol import codec
from tracker.protocol.messages import Answer

NAME = "0123456789abcdef" * 2
MAKER, RECEIVER, OFFER = "p" * 20, "q" * 20, "o" * 20
SDP = '"v=0\\r\\n"'


def check(data: bytes) -> None:
    """Decode a frame."""
    binary, frame = data[:1] != b"t", data[1:].replace(b"~", b"x" * (codec.MAX_SDP_BYTES - 2), 2)
    has_type = wire.has_type(frame)
    try:
        messages = wire.decode(frame, lambda _: binary)
    except WireError:
        return
    assert has_type
    assert len(messages) == frame.count(b"\n") + 1
    for message in messages:
        check_ids(message, binary)
        if isinstance(message, wire.Offers | wire.Answered):
            # Any text is accepted as a name, and is then unknown. Only names are written.
            message.swarm = NAME
        assert wire.decode(encoded(message), lambda _: binary) == [message]


def check_ids(message: wire.Message, binary: bool) -> None:
    """All ids may be relayed to clients."""
    match message:
        case wire.Offers():
            ids = [message.peer_id, *(offer.id for offer in message.offers)]
            for offer in message.offers:
                check_sdp(offer.description.sdp)
        case wire.Answered():
            ids = [message.peer_id, message.to_peer_id, codec.from_json(message.offer_id)]
            check_sdp(message.sdp)
        case wire.Refused():
            ids = [message.peer_id, *message.offer_ids]
        case _:
            ids = []
    assert all(is_relayed(one, binary) for one in ids)


def encoded(message: wire.Message) -> bytes:
    """Encode any message."""
    match message:
        case wire.Offers():
            return wire.encode_offers(message.swarm.encode(), message.peer_id, message.offers)
        case wire.Answered():
            ids = "", message.peer_id, message.to_peer_id
            return wire.encode_answer(message.swarm.encode(), Answer(*ids, message.sdp, message.offer_id))
        case _:
            return wire.encode(message)


def messages() -> Iterator[bytes]:
    """Yield one message of each type."""
    offer = codec.make_offer(OFFER, "v=0\r\n")
    yield wire.encode(wire.Hello(1, "a" * 64, "b" * 64, "wss://t", ("present",)))
    yield b'{"type":"hello","version":2,"other":[]}'
    yield wire.encode(wire.Proof("c" * 128, (NAME,)))
    yield wire.encode(wire.Filter(0, 1, b"\x01\x00"))
    yield wire.encode(wire.Opened(NAME))
    yield wire.encode(wire.Have([(NAME, 1, 2)], True))
    yield wire.encode(wire.Present([(NAME, "a" * 16, "b" * 32)]))
    yield wire.encode_offers(NAME.encode(), MAKER, [offer, offer])
    yield wire.encode(wire.Refused(NAME, MAKER, [OFFER], True))
    yield wire.encode_answer(NAME.encode(), Answer("", MAKER, RECEIVER, Raw(SDP.encode()), Raw(f'"{OFFER}"'.encode())))
    yield wire.encode(wire.Seek(NAME))
    yield wire.encode(wire.Trackers("", [("a" * 64, 1, "wss://t", "b" * 128)]))
    yield wire.encode(wire.Bye("shutdown"))


def seeds() -> Iterator[bytes]:
    """Yield frames of one message, and of all."""
    for message in messages():
        yield b"b" + message
    yield b"t" + b"\n".join(messages())
    yield b'b{"type":"answer","swarm":"%b","peer_id":"%b","to_peer_id":"%b","offer_id":"%b","sdp":"~\\ud800x"}' % tuple(
        text.encode() for text in (NAME, MAKER, RECEIVER, OFFER)
    )


WORDS = (
    *(b'"type":', b'"hello"', b'"proof"', b'"filter"', b'"opened"', b'"have"', b'"present"', b'"offers"', b'"refused"'),
    *(
        b'"answer"',
        b'"seek"',
        b'"trackers"',
        b'"bye"',
        b'"swarm":',
        b'"swarms":',
        b'"peer_id":',
        b'"offer_ids":',
        b"\n",
    ),
    *(
        b'"version":',
        b'"parts":',
        b'"bits":',
        b'"tags":',
        b"\\ud800",
        b"\xc3\xa9",
        b"\xed\xa0\x80",
        b"~",
        b"null",
        b"[]",
    ),
)

TARGET = Target(check, seeds, WORDS, runs=1500)
