"""An open link: counts, offers, refusals, answers."""

import json
from collections.abc import Callable, Iterable

import pytest
from msgspec import Raw

from extensions.federation import filters, wire
from extensions.federation import session as module
from extensions.federation.events import Event, Interest, MayHave, Offered, Refused
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.reasons import Dropped, EndReason
from extensions.federation.session import Session
from tests.client import HASH
from tests.unit.federation.links import (
    A,
    B,
    C,
    an_answer,
    give,
    ids_of,
    linked,
    names_in,
    opened,
    own_swarms,
    sharing,
    some_offers,
)
from tracker.core.overlap import marks_of
from tracker.extension import swarm_key
from tracker.protocol import codec
from tracker.protocol.messages import Answer, Offer, OfferDescription

OTHER = "i" * 20


def name_of(session: Session, info_hash: str = HASH) -> str:
    """The name of a swarm in messages of this end."""
    return names_in(session.tell([(info_hash, 1, 1)]))[0]


def close(session: Session, swarms: OwnSwarms, info_hash: str = HASH) -> list[bytes]:
    """Close a swarm at one end, and return its messages."""
    messages = session.leave_swarm(info_hash)
    session.forget_swarm(info_hash)
    swarms.remove(info_hash)
    return messages


ROOM = "a room"


def test_the_peers_of_a_text_swarm_meet_over_a_link() -> None:
    a, b = sharing(ROOM)
    made = [codec.make_offer("short", "v=0", ROOM), codec.make_offer("\U0001f600" * 64, "v=0", ROOM)]
    assert give(b, a.offer(ROOM, "x", made)) == [Offered(ROOM, "x", made)]
    assert give(a, b.refuse(ROOM, "x", ids_of(made))) == [Refused(ROOM, "x", ids_of(made))]
    answer = codec.make_answer(ROOM, "\u0100", "x", "short", "v=0")
    assert give(a, b.answer(answer)) == [answer]


def test_a_text_swarm_has_not_the_name_of_the_swarm_with_its_key() -> None:
    key = swarm_key(ROOM).decode("latin-1")
    a, b = linked(own_swarms(ROOM), own_swarms(key))
    assert give(b, a.tell([(ROOM, 0, 1)])) == []
    assert give(a, b.tell([(key, 0, 1)])) == []
    assert a.counts(ROOM) == b.counts(key) == (0, 0)


@pytest.mark.parametrize("bad", ["short", "n" * 64, "\u0100" * 20, "\U0001f600"])
def test_about_a_binary_swarm_no_text_ids_are_taken(bad: str) -> None:
    """The clients of this swarm would end their connections."""
    swarms = own_swarms(HASH)
    a, b = linked(own_swarms(HASH), swarms)
    name = name_of(a)
    offer = {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": A}
    messages: list[dict[str, object]] = [
        {"type": "offers", "peer_id": bad, "offers": [offer]},
        {"type": "offers", "peer_id": A, "offers": [{**offer, "offer_id": bad}]},
        {"type": "refused", "peer_id": bad, "offer_ids": [A]},
        {"type": "refused", "peer_id": A, "offer_ids": [bad]},
        {"type": "answer", "peer_id": bad, "to_peer_id": A, "offer_id": A, "sdp": "v=0"},
        {"type": "answer", "peer_id": A, "to_peer_id": bad, "offer_id": A, "sdp": "v=0"},
        {"type": "answer", "peer_id": A, "to_peer_id": A, "offer_id": bad, "sdp": "v=0"},
    ]
    for message in messages:
        frame = json.dumps({**message, "swarm": name}).encode()
        with pytest.raises(LinkError) as caught:
            b.receive(frame)
        assert caught.value.reason is EndReason.INVALID_MESSAGE
    # A swarm that has closed here may have been a text swarm.
    close(b, swarms)
    for message in messages:
        assert b.receive(json.dumps({**message, "swarm": name}).encode()) == ([], [])
    assert b.dropped == {Dropped.UNKNOWN_SWARM: len(messages)}


@pytest.mark.parametrize("bad", ["", "n" * 65, "\ud800", 5, None])
def test_about_a_text_swarm_only_ids_are_taken(bad: object) -> None:
    a, b = sharing(ROOM)
    offer = {"offer": {"type": "offer", "sdp": "v=0"}, "offer_id": "o"}
    for message in (
        {"type": "offers", "peer_id": bad, "offers": [offer]},
        {"type": "offers", "peer_id": "x", "offers": [{**offer, "offer_id": bad}]},
        {"type": "refused", "peer_id": "x", "offer_ids": [bad]},
        {"type": "answer", "peer_id": "x", "to_peer_id": bad, "offer_id": "o", "sdp": "v=0"},
        {"type": "answer", "peer_id": "x", "to_peer_id": "y", "offer_id": bad, "sdp": "v=0"},
    ):
        with pytest.raises(LinkError):
            b.receive(json.dumps({**message, "swarm": name_of(a, ROOM)}).encode())


def test_the_longest_sdp_fits_a_frame_with_the_longest_ids() -> None:
    """Each character is written as two escapes of six bytes."""
    longest = "\U0001f600" * 64
    offer_id = Raw(b'"' + rb"\ud83d\ude00" * 64 + b'"')
    sdp = Raw(b'"' + rb"\u0000" * ((wire.MAX_FRAME - wire.OVERHEAD - 2) // 6) + b'"')
    assert wire.fits(sdp)
    a, b = sharing(ROOM)
    ((frame,), (given,)) = (
        a.offer(ROOM, longest, [Offer(OfferDescription("offer", sdp), offer_id)]),
        b.answer(Answer(ROOM, longest, longest, sdp, offer_id)),
    )
    assert len(give(b, [frame])) == len(give(a, [given])) == 1


def test_messages_of_one_link_mean_nothing_on_another() -> None:
    (a, _), (_, d) = sharing(), linked(None, own_swarms(HASH), nonce=20)
    said = [
        *a.tell([(HASH, 1, 1)]),
        *a.tell_present([(HASH, [], marks_of(HASH, [A]))]),
        *a.offer(HASH, A, some_offers(1)),
        *a.answer(an_answer()),
        *a.refuse(HASH, A, []),
        *a.seek(HASH),
        *a.trackers(HASH, []),
    ]
    assert give(d, said) == []
    assert d.dropped == {Dropped.UNKNOWN_SWARM: len(said)}
    assert d.counts(HASH) == (0, 0)


def test_own_messages_that_come_back_mean_nothing() -> None:
    a, _ = sharing()
    said = [*a.tell([(HASH, 5, 5)]), *a.offer(HASH, A, some_offers(1)), *a.seek(HASH)]
    assert give(a, said) == []
    assert (a.dropped, a.counts(HASH)) == ({Dropped.UNKNOWN_SWARM: len(said)}, (0, 1))


@pytest.mark.parametrize("change", [lambda name: name[:16] + "0" * 16, lambda name: "0" * 16 + name[16:], str.upper])
def test_numbers_of_a_swarm_with_another_proof_are_ignored(change: Callable[[str], str]) -> None:
    a, b = linked(own_swarms(HASH), own_swarms(HASH))
    name = name_of(a)
    assert give(b, [wire.encode(wire.Have([(change(name), 0, 7)]))]) == []
    assert (b.dropped, b.told, b.counts(HASH)) == ({Dropped.UNKNOWN_SWARM: 1}, 1, (0, 0))
    assert give(b, [wire.encode(wire.Have([(name, 0, 7)]))]) == [Interest(HASH, 0, 7, is_new=True)]


def test_numbers_of_unknown_swarms_are_not_stored() -> None:
    swarms = OwnSwarms()
    a, b = linked(own_swarms(HASH), swarms)
    assert give(b, a.tell([(HASH, 2, 3)])) == [], "b does not know which swarm it is"
    assert b.dropped == {Dropped.UNKNOWN_SWARM: 1}
    swarms.add(HASH)
    assert b.counts(HASH) == (0, 0)
    assert give(b, a.tell([(HASH, 2, 3)])) == [Interest(HASH, 2, 3, is_new=True)]


def test_numbers_change_and_end() -> None:
    a, b = sharing()
    assert give(b, a.tell([(HASH, 4, 5)])) == [Interest(HASH, 4, 5)]
    assert b.counts(HASH) == (4, 5)
    assert give(b, a.leave_swarm(HASH)) == [Interest(HASH, 0, 0)]
    assert b.counts(HASH) == (0, 0)
    assert b.offer(HASH, A, some_offers(1)) == [], "all peers have left"
    assert give(b, a.leave_swarm(HASH)) == [Interest(HASH, 0, 0, is_new=True)], "again, which changes nothing"
    assert give(b, a.tell([(HASH, 1, 0)])) == [Interest(HASH, 1, 0, is_new=True)]


def test_a_reply_is_marked_as_one() -> None:
    a, b = linked(own_swarms(HASH), own_swarms(HASH))
    marks: tuple[list[str], list[str]] = ([], marks_of(HASH, [A]))
    assert give(b, a.tell([(HASH, 0, 1)], reply=True)) == [Interest(HASH, 0, 1, is_new=True, reply=True)]
    assert give(b, a.tell_present([(HASH, *marks)], reply=True)) == [Interest(HASH, 0, 1, marks, reply=True)]


def test_who_leaves_a_swarm_forgets_the_numbers_of_the_other() -> None:
    a, b = sharing()
    assert give(a, b.leave_swarm(HASH)) == [Interest(HASH, 0, 0)]
    assert a.counts(HASH) == b.counts(HASH) == (0, 0)
    assert (a.offer(HASH, A, some_offers(1)), b.offer(HASH, A, some_offers(1))) == ([], [])


def test_a_swarm_that_closes_is_forgotten_with_its_names() -> None:
    swarms = own_swarms(HASH)
    a, b = linked(own_swarms(HASH), swarms)
    give(b, a.tell([(HASH, 2, 3)]))
    assert json.loads(close(b, swarms)[0])["swarms"][0][1:] == [0, 0]
    assert (b.counts(HASH), give(b, a.tell([(HASH, 7, 7)]))) == ((0, 0), [])
    swarms.add(HASH)
    assert b.counts(HASH) == (0, 0)
    assert give(b, a.tell([(HASH, 7, 7)])) == [Interest(HASH, 7, 7, is_new=True)]


def test_only_open_swarms_are_told() -> None:
    swarms = own_swarms(HASH)
    a, _ = linked(swarms)
    marks: tuple[list[str], list[str]] = ([], marks_of(HASH, [A]))
    assert len(names_in(a.tell([(HASH, 1, 1), (OTHER, 1, 1)]))) == 1
    assert len(names_in(a.tell_present([(OTHER, *marks), (HASH, *marks)]))) == 1
    close(a, swarms)
    assert a.tell([(HASH, 1, 1)]) == a.tell_present([(HASH, *marks)]) == []
    assert a.seek(HASH) == a.trackers(HASH, []) == a.refuse(HASH, A, []) == a.answer(an_answer()) == []


def test_of_two_swarms_with_one_tag_only_the_first_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "tag_of", lambda _: 5)
    a, b = linked(own_swarms(HASH, OTHER), own_swarms(OTHER, HASH))
    told = [give(other, one.tell([(HASH, 1, 1), (OTHER, 1, 1)])) for one, other in ((a, b), (b, a))]
    assert told == [[], []], "each has linked another one of the two"
    assert give(b, [opened(5)]) == [MayHave([OTHER], has_opened=True)]


def test_many_swarms_are_told_in_messages_of_bounded_length() -> None:
    hashes = [f"{n:020}" for n in range(2 * module.BATCH + 1)]
    a, b = linked(own_swarms(*hashes), own_swarms(*hashes))
    messages = a.tell([(info_hash, wire.MAX_COUNT, wire.MAX_COUNT) for info_hash in hashes])
    assert len(messages) == 3
    assert max(map(len, messages)) <= wire.SOFT_FRAME
    assert [event.info_hash for message in messages for event in interests(give(b, [message]))] == hashes
    assert b.told == len(hashes)


def interests(events: Iterable[Event]) -> list[Interest]:
    """All of them, which they must be."""
    found = [event for event in events if isinstance(event, Interest)]
    assert found == list(events)
    return found


def test_more_peers_than_can_be_told_are_told_as_the_most() -> None:
    a, b = sharing()
    assert give(b, a.tell([(HASH, 10**9, 10**9)])) == [Interest(HASH, wire.MAX_COUNT, wire.MAX_COUNT)]


def test_the_same_swarm_twice_in_a_message_counts_as_it_was_said_last() -> None:
    a, b = sharing()
    name = name_of(a)
    events = give(b, [wire.encode(wire.Have([(name, 3, 3), (name, 0, 0), (name, 1, 2)]))])
    assert events == [Interest(HASH, 3, 3), Interest(HASH, 0, 0), Interest(HASH, 1, 2, is_new=True)]
    assert b.told == 1 + 3, "each counts against the flood"


def test_peers_of_common_swarms_are_told_by_their_marks() -> None:
    a, b = sharing()
    marks = marks_of(HASH, [A]), marks_of(HASH, [B, C])
    assert (a.knows_marks, b.knows_marks) == (True, True)
    assert give(b, a.tell_present([(HASH, *marks)])) == [Interest(HASH, 1, 2, marks)]
    assert b.counts(HASH) == (1, 2)
    assert give(b, a.tell_present([(HASH, [], [])])) == [Interest(HASH, 0, 0, ([], []))]
    assert b.counts(HASH) == (0, 0)


def test_marks_are_told_in_messages_of_bounded_length() -> None:
    hashes = [f"{n:020}" for n in range(100)]
    a, b = linked(own_swarms(*hashes), own_swarms(*hashes))
    marks = marks_of(HASH, [f"{n:020}" for n in range(wire.MAX_PRESENT)])
    messages = a.tell_present([(info_hash, [], marks) for info_hash in hashes])
    assert len(messages) > 1
    assert max(map(len, messages)) <= wire.SOFT_FRAME
    assert [event.info_hash for message in messages for event in interests(give(b, [message]))] == hashes


# Offers and answers


def test_offers_a_refusal_and_an_answer_pass() -> None:
    a, b = sharing()
    (offered,) = give(b, a.offer(HASH, A, some_offers(2)))
    assert isinstance(offered, Offered)
    assert (offered.info_hash, offered.peer_id) == (HASH, A)
    assert ids_of(offered.offers) == ids_of(some_offers(2))
    assert give(a, b.refuse(HASH, A, ids_of(offered.offers[1:]))) == [Refused(HASH, A, [f"{1:020}"])]
    assert give(a, b.refuse(HASH, A, [f"{1:020}"], known=True)) == [Refused(HASH, A, [f"{1:020}"], known=True)]
    for _ in range(2):
        (answered,) = give(a, b.answer(an_answer(f"{0:020}")))
        assert isinstance(answered, Answer)
        assert (answered.info_hash, answered.to_peer_id, codec.from_json(answered.offer_id)) == (HASH, A, f"{0:020}")


def test_offers_are_made_only_where_the_other_has_peers() -> None:
    a, b = linked(own_swarms(HASH), own_swarms(HASH, OTHER))
    assert a.offer(HASH, A, some_offers(1)) == []
    give(a, b.tell([(HASH, 0, 1), (OTHER, 0, 1)]))
    assert len(a.offer(HASH, A, some_offers(1))) == 1
    assert a.offer(OTHER, A, some_offers(1)) == []


def test_messages_for_a_swarm_that_has_closed_here_are_dropped() -> None:
    swarms = own_swarms(HASH)
    a, b = linked(own_swarms(HASH), swarms)
    give(a, b.tell([(HASH, 0, 1)]))
    on_the_way = [*a.offer(HASH, A, some_offers(1)), *a.answer(an_answer()), *a.refuse(HASH, A, ["o" * 20])]
    close(b, swarms)
    assert give(b, on_the_way) == []
    assert b.dropped == {Dropped.UNKNOWN_SWARM: 3}
    assert (b.refuse(HASH, A, []), b.answer(an_answer())) == ([], [])


def batches(session: Session, offers: list[Offer]) -> list[list[str]]:
    """The offer_ids of each message."""
    messages = session.offer(HASH, A, offers)
    assert all(len(message) <= wire.MAX_FRAME for message in messages)
    return [[offer["offer_id"] for offer in json.loads(message)["offers"]] for message in messages]


def test_offers_travel_together_as_far_as_number_and_size_allow() -> None:
    a, _ = sharing()
    many = some_offers(2 * wire.MAX_OFFERS + 1)
    assert list(map(len, batches(a, many))) == [wire.MAX_OFFERS, wire.MAX_OFFERS, 1]
    quoted = wire.SOFT_FRAME // 2
    assert list(map(len, batches(a, some_offers(5, "v" * (quoted - 2))))) == [2, 2, 1]
    assert list(map(len, batches(a, some_offers(5, "v" * (quoted - 1))))) == [1, 1, 1, 1, 1], "not beyond"
    growing = [
        *some_offers(2, "v" * 1000),
        *some_offers(1, "v" * (wire.SOFT_FRAME - 2000), 2),
        *some_offers(1, start=3),
    ]
    assert list(map(len, batches(a, growing))) == [2, 2]
    longest = some_offers(3, "v" * codec.MAX_SDP_BYTES)
    assert list(map(len, batches(a, longest))) == [1, 1, 1]
    mixed = [*some_offers(3), *some_offers(1, "v" * codec.MAX_SDP_BYTES, 3), *some_offers(2, start=4)]
    assert [offer_id for batch in batches(a, mixed) for offer_id in batch] == ids_of(mixed), "all of them, in order"


ESCAPED = Raw(b'"' + b"\\u0061" * codec.MAX_SDP_BYTES + b'"')
"""An SDP that is just short enough, as only a hostile client writes it: 384 KiB."""


def test_no_client_can_make_a_frame_that_is_too_long() -> None:
    a, b = sharing()
    offer = Offer(OfferDescription("offer", ESCAPED), Raw(codec.to_json("o" * 20)))
    assert codec.is_offer(offer), "it is valid for clients, if connections.max_message_size lets it in"
    (offered,) = give(b, a.offer(HASH, A, [*some_offers(1), offer, *some_offers(1, start=1)]))
    assert isinstance(offered, Offered)
    assert ids_of(offered.offers) == ids_of(some_offers(2)), "the others go"
    assert a.dropped == {Dropped.TOO_LONG: 1}
    assert a.offer(HASH, A, [offer]) == []
    assert give(a, b.answer(Answer(HASH, A, A, ESCAPED, offer.offer_id))) == []
    assert (a.dropped, b.dropped) == ({Dropped.TOO_LONG: 2}, {Dropped.TOO_LONG: 1})


def test_the_longest_sdp_that_goes_over_a_link_fits_a_frame_with_the_longest_ids() -> None:
    a, b = sharing()
    longest = Raw(b'"' + b"v" * (wire.MAX_FRAME - wire.OVERHEAD - 2) + b'"')
    ids = "\u0000" * 20
    offer = Offer(OfferDescription("offer", longest), Raw(codec.to_json(ids)))
    for messages in (a.offer(HASH, ids, [offer]), b.answer(Answer(HASH, ids, ids, longest, offer.offer_id))):
        assert wire.MAX_FRAME - wire.OVERHEAD < len(messages[0]) <= wire.MAX_FRAME
    more = Offer(OfferDescription("offer", Raw(b'"v' + bytes(longest)[1:])), offer.offer_id)
    assert a.offer(HASH, ids, [more]) == []


def test_no_offers_are_no_message() -> None:
    a, b = sharing()
    assert a.offer(HASH, A, []) == []
    assert (a.dropped, b.dropped) == ({}, {})
