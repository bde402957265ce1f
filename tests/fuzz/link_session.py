"""A link with a hostile tracker: whatever it sends, the link ends with a reason, or the events are well-formed.

The first byte of an input is `h` for a link in its handshake, otherwise the link is open. The rest are frames, divided
by NUL bytes.
"""

from collections.abc import Iterator
from functools import cache

from extensions.federation import wire
from extensions.federation.events import Interest, MayHave, Offered, Opened, Refused, Sought, Told
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.limits import Budget
from extensions.federation.reasons import EndReason
from extensions.federation.session import Session, State
from tests.fuzz import link_wire
from tests.fuzz.codec import check_sdp, is_relayed
from tests.fuzz.target import Target
from tests.unit.federation.links import (
    dialing,
    filter_of,
    listening,
    names_in,
    own_swarms,
    shake_hands,
    some_offers,
    tracker_id,
)
from tracker.protocol import codec
from tracker.protocol.ids import is_id
from tracker.protocol.messages import Answer

BINARY, TEXT = "h" * 20, "a room"
ROOM = 100
"""Bytes of filters that all links may have: few enough for inputs to use all of them."""


def swarms() -> OwnSwarms:
    """Return the open swarms of both trackers."""
    return own_swarms(BINARY, TEXT)


@cache
def greetings() -> tuple[bytes, bytes]:
    """Return the messages of a handshake that the dialer sends: always the same, because keys and nonces are."""
    dialers = shake_hands(dialing(), listening(swarms=swarms()))
    return dialers[0], dialers[1]


def check(data: bytes) -> None:
    """Receive frames."""
    budget = Budget(ROOM, 2)
    session = listening(swarms=swarms(), budget=budget)
    session.start()
    if data[:1] != b"h":
        for message in greetings():
            session.receive(message)
        assert session.state is State.OPEN
    try:
        for frame in data[1:].split(b"\0"):
            receive(session, frame)
    except LinkError as error:
        assert error.reason in EndReason
        assert error.reason is not EndReason.INTERNAL_ERROR
    session.release()
    assert budget.take(0, ROOM * 3 // 4), "all bytes are given back"


def receive(session: Session, frame: bytes) -> None:
    """Receive one frame, and check its events."""
    events, replies = session.receive(frame)
    for reply in replies:
        assert wire.decode(reply)
    counts: dict[str, tuple[int, int]] = {}
    for event in events:
        assert session.state is State.OPEN
        match event:
            case Opened():
                assert event.tracker_id == tracker_id(1), "only that one has signed"
            case MayHave():
                assert event.info_hashes
                assert set(event.info_hashes) <= {BINARY, TEXT}
            case Sought():
                assert event.info_hash in ("", BINARY, TEXT)
            case Told():
                assert event.info_hash in ("", BINARY, TEXT)
                assert all(len(one.tracker_id) == 64 and len(one.signature) == 64 for one in event.entries)
            case Interest():
                assert event.info_hash in (BINARY, TEXT)
                counts[event.info_hash] = event.complete, event.incomplete
            case Offered():
                check_ids(event.info_hash, event.peer_id, *(offer.id for offer in event.offers))
                for offer in event.offers:
                    check_sdp(offer.description.sdp)
            case Refused():
                check_ids(event.info_hash, event.peer_id, *event.offer_ids)
            case Answer():
                check_ids(event.info_hash, event.peer_id, event.to_peer_id, event.id)
                check_sdp(event.sdp)
    assert all(session.counts(info_hash) == last for info_hash, last in counts.items())


def check_ids(info_hash: str, *ids: str) -> None:
    """The swarm is open, and its clients take the ids."""
    assert info_hash in (BINARY, TEXT)
    assert all(is_relayed(one, is_id(info_hash)) for one in ids)


def seeds() -> Iterator[bytes]:
    """Yield handshakes, and what a link carries afterwards."""
    yield b"h" + b"\0".join(greetings())
    yield b"h" + b"\n".join(greetings())
    dialer = opened_dialer()
    binary, text = names()
    talk = [
        *filter_of(swarms()),
        *dialer.tell([(BINARY, 1, 2), (TEXT, 0, 1)]),
        *dialer.tell_present([(BINARY, ["a" * 16], ["b" * 16])], reply=True),
        *dialer.refuse(TEXT, "p", ["o"]),
        *dialer.answer(codec.make_answer(BINARY, "p" * 20, "q" * 20, "o" * 20, "v=0\r\n")),
        *dialer.seek(BINARY),
        *dialer.leave_swarm(TEXT),
        wire.encode_offers(binary, "p" * 20, some_offers(2)),
        wire.encode_offers(text, "p", some_offers(1)),
        wire.encode(wire.Opened(binary.decode()[:16])),
        wire.encode(wire.Trackers("", [("a" * 64, 1, "wss://t", "b" * 128)])),
    ]
    talk.append(wire.encode(wire.Filter(0, 1, bytes(ROOM // 2))))
    for message in talk:
        yield b"o" + message
    yield b"o" + b"\0".join(talk)
    yield b"o" + b"\n".join(talk)
    for message in link_wire.messages():
        yield b"o" + message
        yield b"h" + message


def opened_dialer() -> Session:
    """Return the other end of the open link."""
    dialer = dialing(swarms=swarms())
    shake_hands(dialer, listening(swarms=swarms()))
    return dialer


def names() -> tuple[bytes, bytes]:
    """Return the names that the dialer uses for both swarms."""
    binary, text = names_in(opened_dialer().tell([(BINARY, 0, 1), (TEXT, 0, 1)]))
    return binary.encode(), text.encode()


TARGET = Target(
    check,
    seeds,
    (*link_wire.WORDS, *names(), names()[0][:16], b"\0"),
    max_size=4000,
    runs=300,
)
