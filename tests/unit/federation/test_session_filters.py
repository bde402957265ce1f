"""An open link: filters, tags of opened swarms, and other trackers."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.federation import filters, wire
from extensions.federation.events import MayHave, Sought, Told
from extensions.federation.filters import tag_of
from extensions.federation.handshake import LinkError
from extensions.federation.limits import Budget
from extensions.federation.reasons import Dropped, EndReason
from extensions.federation.session import Session
from extensions.trackers import TrackerEntry
from tests.client import HASH
from tests.unit.federation.links import A, B, dialing, filter_of, give, linked, listening, opened, own_swarms, sharing

OTHER = "i" * 20
ROOM = "a room"


def test_a_filter_tells_which_swarms_the_other_may_have() -> None:
    theirs = [f"{n:020}" for n in range(100)]
    ours = [f"{n:020}" for n in range(50, 10_000)]
    there = own_swarms(*theirs)
    _, b = linked(there, own_swarms(*ours))
    assert not b.may_have(tag_of(theirs[0]))
    (event,) = give(b, filter_of(there))
    assert isinstance(event, MayHave)
    assert set(theirs[50:]) <= set(event.info_hashes) <= set(ours)
    assert len(event.info_hashes) < 50 + 0.03 * len(ours)
    assert all(b.may_have(tag_of(info_hash)) for info_hash in theirs)


def test_a_filter_without_a_common_swarm_is_no_event() -> None:
    there = own_swarms(HASH)
    _, b = linked(there, own_swarms(OTHER))
    assert give(b, filter_of(there)) == []


@pytest.mark.parametrize("theirs", [10, 200])
@pytest.mark.parametrize("ours", [10, 200])
def test_the_filters_of_both_sides_may_have_different_parts(
    ours: int, theirs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "TAGS_PER_PART", 16)
    there, here = (own_swarms(*(f"{n:020}" for n in range(number))) for number in (theirs, ours))
    _, b = linked(there, here)
    found = [
        info_hash
        for event in give(b, filter_of(there))
        if isinstance(event, MayHave)
        for info_hash in event.info_hashes
    ]
    assert len(set(found)) == len(found)
    assert {f"{n:020}" for n in range(min(ours, theirs))} <= set(found)
    assert b.filtered == pytest.approx(1)


def test_swarms_that_open_later_are_told_by_their_tags() -> None:
    there = own_swarms()
    _, b = linked(there, own_swarms(HASH, ROOM))
    give(b, filter_of(there))
    assert give(b, [opened(tag_of(OTHER))]) == []
    assert give(b, [opened(tag_of(ROOM), tag_of(A), tag_of(HASH), tag_of(ROOM))]) == [
        MayHave([ROOM, HASH, ROOM], has_opened=True)
    ]
    assert b.told == 5, "each counts against the flood"
    assert b.may_have(tag_of(OTHER))
    assert not b.may_have(tag_of(B))
    assert give(b, [opened()]) == []


def test_tags_are_found_also_without_a_filter() -> None:
    _, b = linked(None, own_swarms(HASH))
    assert give(b, [opened(tag_of(HASH))]) == [MayHave([HASH], has_opened=True)]
    assert not b.may_have(tag_of(HASH))


@pytest.mark.parametrize("tags", ["A" * 16, "g" * 16, " " * 16, "0x" + "0" * 14, "ä" * 16, "0 " * 8])
def test_tags_are_lower_case_hexadecimal(tags: str) -> None:
    assert reason_of(linked()[1], wire.encode(wire.Opened(tags))) is EndReason.INVALID_MESSAGE


def reason_of(session: Session, message: bytes) -> EndReason:
    """The reason why a message ends a link."""
    with pytest.raises(LinkError) as caught:
        session.receive(message)
    return caught.value.reason


@pytest.mark.parametrize(
    "message",
    [
        wire.Filter(0, 1, b"\xff" * 40),
        wire.Filter(0, 3, bytes(40)),
        wire.Filter(2, 2, bytes(40)),
        wire.Filter(0, 2 * filters.MAX_PARTS, bytes(40)),
        wire.Filter(0, 1, b""),
        wire.Filter(0, 1, bytes(filters.MAX_BYTES + 1)),
    ],
)
def test_a_filter_that_breaks_a_rule_ends_the_link(message: wire.Filter) -> None:
    assert reason_of(linked()[1], wire.encode(message)) is EndReason.INVALID_MESSAGE


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0), st.binary(min_size=1, max_size=20)), max_size=20))
def test_any_filters_are_kept_within_the_budget(sent: list[tuple[int, int, bytes]]) -> None:
    budget = Budget(100, 1)
    _, b = linked(None, own_swarms(HASH, ROOM), budget=budget)
    for power, part, bits in sent:
        give(b, [wire.encode(wire.Filter(part % 2**power, 2**power, bits + bytes(len(bits))))])
    left = next(more for more in range(100, -1, -1) if budget.take(0, more))
    budget.take(left, -left)
    b.release()
    b.release()
    assert budget.take(0, 100)
    assert left == 100 or sent


def test_a_filter_for_which_there_is_no_room_is_counted_and_the_older_one_stays() -> None:
    budget = Budget(200, 2)
    there = own_swarms(HASH)
    _, b = linked(there, own_swarms(HASH), budget=budget)
    assert give(b, filter_of(there)) == [MayHave([HASH])]
    assert give(b, [wire.encode(wire.Filter(0, 1, bytes(160)))]) == []
    assert (b.dropped, b.filtered) == ({Dropped.TOO_MANY_SWARMS: 1}, 2)
    assert b.may_have(tag_of(HASH))
    assert budget.take(0, 150), "only the older one takes room"


# Other trackers


ENTRY = TrackerEntry("ab" * 32, 2**40, "wss://tracker.example.org", b"s" * 64)


@pytest.mark.parametrize("info_hash", ["", HASH, ROOM])
def test_trackers_are_asked_for_and_told(info_hash: str) -> None:
    a, b = sharing(HASH, ROOM)
    assert give(b, a.seek(info_hash)) == [Sought(info_hash)]
    assert give(a, b.trackers(info_hash, [ENTRY, ENTRY])) == [Told(info_hash, [ENTRY, ENTRY])]
    assert give(a, b.trackers(info_hash, [])) == [Told(info_hash, [])]


def test_only_so_many_trackers_are_told() -> None:
    a, b = sharing()
    (told,) = give(a, b.trackers("", [ENTRY] * (wire.MAX_TRACKERS + 5)))
    assert isinstance(told, Told)
    assert len(told.entries) == wire.MAX_TRACKERS


@pytest.mark.parametrize(
    "row",
    [
        ("AB" * 32, 1, "", "00" * 64),
        ("ab" * 31, 1, "", "00" * 64),
        ("", 1, "", "00" * 64),
        ("ab" * 32, 1, "", "00" * 63),
        ("ab" * 32, 1, "", "0x" + "00" * 63),
        ("ab" * 32, 1, "", "AA" * 64),
        ("äb" * 32, 1, "", "00" * 64),
    ],
)
def test_ids_and_signatures_of_trackers_have_one_form(row: tuple[str, int, str, str]) -> None:
    assert reason_of(linked()[0], wire.encode(wire.Trackers("", [row]))) is EndReason.INVALID_MESSAGE


def test_trackers_of_unknown_swarms_are_neither_asked_for_nor_told() -> None:
    a, b = linked(own_swarms(HASH), None)
    assert give(b, [*a.seek(HASH), *a.trackers(HASH, [ENTRY])]) == []
    assert b.dropped == {Dropped.UNKNOWN_SWARM: 2}
    assert b.seek(HASH) == b.trackers(HASH, [ENTRY]) == []


def test_the_dialer_names_swarms_for_which_it_dials() -> None:
    hashes = [f"{n:020}" for n in range(wire.MAX_WANTED + 2)]
    both = own_swarms(ROOM, *hashes)
    _, b = linked(both, both, wanted=[OTHER, ROOM, *hashes])
    assert b.wanted == [ROOM, *hashes[: wire.MAX_WANTED - 1]], "those that are open, and not too many"
    _, b = linked(both, own_swarms(HASH, hashes[1]), wanted=hashes)
    assert b.wanted == [hashes[1]], "those that are open here"


def test_names_in_a_proof_must_prove_that_their_sender_knows_the_swarm() -> None:
    a, b = dialing(swarms=own_swarms(HASH), wanted=[HASH]), listening(swarms=own_swarms(HASH, ROOM))
    b.receive(a.start())
    proof = json.loads(a.receive(b.start())[1][0])
    (name,) = proof["swarms"]
    wrong = [name[:16] + "0" * 16, f"{tag_of(ROOM):016x}" + name[16:], name.upper(), "0" * 32]
    b.receive(json.dumps({**proof, "swarms": [*wrong, name]}).encode())
    assert b.wanted == [HASH]
