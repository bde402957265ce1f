"""Peers that are at this tracker and at neighbours, or at several neighbours, at the same time."""

import pytest

from extensions.federation.exchange import KNOWN_FOR, REFUSED_FOR
from extensions.federation.ledger import REFUSAL_TIMEOUT
from extensions.federation.wire import MAX_PRESENT
from tests.client import HASH, announce, answer, offers
from tests.unit.fakes import peer_id
from tests.unit.federation.here import FakeNeighbour, Here
from tests.unit.federation.links import A, B, C, ids_of, some_offers
from tracker.core import overlap
from tracker.core.overlap import marks_of

D = peer_id(4)


async def speaking(here: Here, number: int, *peer_ids: str, listed: bool = True) -> FakeNeighbour:
    """Return a neighbour that knows marks and has told that it has these peers."""
    neighbour = await here.neighbour(number)
    neighbour.is_new = True
    if listed:
        here.trusted.add(neighbour)
    if peer_ids:
        neighbour.has_peers(*peer_ids)
        await here.settle()
    return neighbour


# Telling


async def test_a_swarm_that_becomes_common_is_told_by_marks_and_then_each_change(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await speaking(here, 1)
    assert (neighbour.told, neighbour.told_present) == ([], [])
    neighbour.has(0, 1)
    assert neighbour.told_present == [(HASH, [], marks_of(HASH, [A]))]
    assert neighbour.replies == [HASH]
    neighbour.has_peers(C)
    await here.peer(B, left=0)
    here.hub.close(a)
    await here.settle()
    await here.exchange.tell_changes()
    assert neighbour.told_present[1:] == [(HASH, marks_of(HASH, [B]), [])]
    assert neighbour.told == []


async def test_a_peer_in_place_of_another_is_told_though_the_numbers_are_the_same(here: Here) -> None:
    neighbour = await speaking(here, 1)
    neighbour.has(0, 1)
    a = await here.peer(A)
    assert neighbour.told_present == [(HASH, [], marks_of(HASH, [A]))]
    await here.peer(B)
    here.hub.close(a)
    await here.settle()
    await here.exchange.tell_changes()
    assert neighbour.told_present[1:] == [(HASH, [], marks_of(HASH, [B]))]


async def test_a_peer_in_place_of_another_is_told_if_they_have_changed_before_the_opening_is_reported(
    here: Here,
) -> None:
    neighbour, other = await speaking(here, 1), await speaking(here, 3)
    for one in (neighbour, other):
        one.has(0, 1)
    a = here.join(A)
    here.exchange.swarm_opened(here.hub.swarms[HASH])
    here.join(B)
    here.hub.close(a)
    here.exchange.swarm_changed(here.hub.swarms[HASH])
    await here.exchange.tell_changes()
    assert neighbour.told_present[-1] == other.told_present[-1] == (HASH, [], marks_of(HASH, [B]))


@pytest.mark.parametrize("here_first", [False, True])
async def test_marks_are_told_again_when_a_swarm_has_reopened(here: Here, here_first: bool) -> None:
    neighbour = await speaking(here, 1)
    a = await here.peer(A)
    neighbour.has(0, 1)
    assert len(neighbour.told_present) == 1
    if here_first:
        here.hub.close(a)
        await here.settle()
        neighbour.has(0, 0)
        await here.peer(B)
    else:
        neighbour.has(0, 0)
    assert len(neighbour.told_present) == 1
    neighbour.has(0, 1)
    assert len(neighbour.told_present) == 2


async def test_a_swarm_of_many_peers_is_told_by_numbers(here: Here) -> None:
    neighbour = await speaking(here, 1)
    neighbour.has(0, 1)
    for number in range(MAX_PRESENT):
        await here.peer(peer_id(number))
    await here.exchange.tell_changes()
    assert len(neighbour.told_present.pop()[2]) == MAX_PRESENT
    last = await here.peer(peer_id(MAX_PRESENT))
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, MAX_PRESENT + 1)]
    here.hub.close(last)
    await here.settle()
    await here.exchange.tell_changes()
    assert len(neighbour.told_present.pop()[2]) == MAX_PRESENT


async def test_a_neighbour_without_the_feature_is_told_numbers(here: Here) -> None:
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.peer(A)
    await here.exchange.tell_changes()
    assert (neighbour.told, neighbour.told_present) == ([(HASH, 0, 1)], [])


# Counting


async def test_each_peer_counts_once(here: Here) -> None:
    await here.peer(A)
    one, other = await speaking(here, 1, A, B), await speaking(here, 3, B, C)
    assert here.counts() == (0, 3)
    one.has_peers(A)
    assert here.counts() == (0, 3)
    other.has_peers(C, seeders=[D])
    assert here.counts() == (1, 2)
    other.has(0, 0)
    assert here.counts() == (0, 1)


async def test_a_few_peers_are_not_counted_before_their_marks_are_known(here: Here) -> None:
    await here.peer(A)
    neighbour = await speaking(here, 1)
    neighbour.has(0, MAX_PRESENT)
    assert here.counts() == (0, 1)
    neighbour.has_peers(A)
    assert here.counts() == (0, 1)
    neighbour.has(0, MAX_PRESENT + 1)
    assert here.counts() == (0, MAX_PRESENT + 2), "there are too many for marks"
    neighbour.has_peers(A)
    assert here.counts() == (0, 1)


async def test_a_peer_that_comes_and_goes_here_is_counted_in_either_place(here: Here) -> None:
    await here.peer(A)
    await speaking(here, 1, A, B)
    b = await here.peer(B)
    assert here.counts() == (0, 2)
    here.hub.close(b)
    assert here.counts() == (0, 2)


async def test_marks_are_not_compared_in_a_large_swarm(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "MAX_LOCAL", 2)
    await here.peer(A)
    neighbour = await speaking(here, 1, A, B)
    await here.peer(C)
    assert here.counts() == (0, 3)
    d = await here.peer(D)
    assert here.counts() == (0, 5), "A is counted twice"
    neighbour.has_peers(A, B)
    assert here.counts() == (0, 5)
    here.hub.close(d)
    neighbour.has_peers(A, B)
    assert here.counts() == (0, 3)


# Offers


async def test_no_offer_goes_to_a_neighbour_that_has_its_maker(here: Here) -> None:
    a, c = await here.peer(A), await here.peer(C)
    neighbour, other = await speaking(here, 1, A, B), await speaking(here, 3, D)
    await here.make_offers(a, offers(5))
    assert (len(neighbour.take()), len(other.take()), len(c.take())) == (0, 1, 1)
    here.send(c, announce(C, offers=offers(5, start=10), numwant=5))
    await here.settle()
    assert (len(neighbour.take()), len(other.take())) == (1, 1), "C is only here"


async def test_a_new_peer_is_compared_before_its_first_offers_are_placed(here: Here) -> None:
    await here.peer(C)
    neighbour = await speaking(here, 1, A, B)
    here.send(here.join(B), announce(B, offers=offers(3), numwant=3))
    await here.settle()
    assert neighbour.take() == []


async def test_no_pair_is_introduced_that_a_third_tracker_has(here: Here) -> None:
    a, c = await here.peer(A), await here.peer(C)
    far, third = await speaking(here, 1, B), await speaking(here, 3, A, B)
    await here.make_offers(a, offers(5))
    assert (far.take(), third.take(), len(c.take())) == ([], [], 1)
    here.send(c, announce(C, offers=offers(5, start=10), numwant=5))
    await here.settle()
    assert len(far.take() + third.take()) == 1, "C and B share no tracker"
    least, other = sorted((far, third), key=lambda neighbour: neighbour.tracker_id)
    for peer in (a, c):
        peer.take()
    least.makes_offers(some_offers(2, start=20))
    other.makes_offers(some_offers(2, start=30))
    assert ([message["offer_id"] for message in c.take()], a.take()) == ([f"{20:020}"], [])
    assert (least.said_known, other.said_known) == ([False], [True])


@pytest.mark.parametrize("has_credit", [False, True])
async def test_only_a_neighbour_with_credit_keeps_peers_of_others_apart(here: Here, has_credit: bool) -> None:
    a = await here.peer(A)
    honest, liar = await speaking(here, 1, B), await speaking(here, 3, C, listed=False)
    if has_credit:
        await here.make_offers(a, offers(5))
        liar.answers_for_b(*liar.take())
    honest.take()
    liar.has_peers(A, B, C)
    await here.make_offers(a, offers(5, start=10))
    assert len(honest.take()) == (0 if has_credit else 1)
    assert here.counts() == (0, 3)


async def test_offers_are_not_given_to_peers_that_are_there_too(here: Here) -> None:
    a, c = await here.peer(A), await here.peer(C)
    neighbour = await speaking(here, 1, A, B)
    neighbour.makes_offers(some_offers(3))
    assert (a.take(), len(c.take())) == ([], 1)
    assert (neighbour.refused, neighbour.said_known) == (ids_of(some_offers(3))[1:], [False])


@pytest.mark.parametrize("first", [0, 1])
async def test_a_peer_of_two_neighbours_is_served_for_one_of_them(here: Here, first: int) -> None:
    c = await here.peer(C)
    neighbours = [await speaking(here, number, B) for number in (1, 3)]
    chosen = min(neighbours, key=lambda neighbour: neighbour.tracker_id)
    for number, neighbour in enumerate((neighbours[first], neighbours[1 - first])):
        neighbour.makes_offers(some_offers(1, start=number))
        assert (neighbour.refused, neighbour.said_known) == (
            ([], []) if neighbour is chosen else (ids_of(some_offers(1, start=number)), [True])
        )
    assert len(c.take()) == 1


async def test_the_same_offer_from_two_neighbours_is_delivered_once(here: Here) -> None:
    c = await here.peer(C)
    one, other = await here.neighbour(1), await here.neighbour(3)
    for neighbour in (one, other):
        neighbour.has(0, 1)
        neighbour.makes_offers(some_offers(1))
    assert len(c.take()) == 1
    assert (one.refused, other.refused, other.said_known) == ([], ids_of(some_offers(1)), [True])
    here.send(c, answer(C, B, f"{0:020}"))
    await here.settle()
    assert (len(one.answers), len(other.answers)) == (1, 0)
    here.exchange.remove(one)
    other.makes_offers(some_offers(1))
    assert len(c.take()) == 1, "the first neighbour is gone"


# Refusals


@pytest.mark.parametrize(("is_new", "known", "seconds"), [(True, True, KNOWN_FOR), (False, False, REFUSED_FOR)])
async def test_after_a_refusal_no_offers_of_the_peer_go_there_for_a_while(
    here: Here, is_new: bool, known: bool, seconds: float
) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.is_new = is_new
    neighbour.has(0, MAX_PRESENT + 1)
    await here.make_offers(a, offers(3))
    start = here.now
    neighbour.refuses(*neighbour.take()[:1], known=known)
    await here.settle()
    for later, expected in ((0, 0), (seconds - 1, 0), (seconds + 1, 3)):
        here.now = start + later
        await here.make_offers(a, offers(3, start=10))
        assert len(neighbour.take()) == expected
        assert here.counts() == (0, MAX_PRESENT + 2)


async def test_a_refusal_for_lack_of_receivers_does_not_last(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await speaking(here, 1, B)
    await here.make_offers(a, offers(1))
    neighbour.refuses(*neighbour.take())
    await here.make_offers(a, offers(1, start=1))
    assert len(neighbour.take()) == 1


async def test_new_marks_end_the_time_after_a_refusal(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await speaking(here, 1, B)
    await here.make_offers(a, offers(1))
    neighbour.refuses(*neighbour.take(), known=True)
    await here.make_offers(a, offers(1, start=1))
    assert neighbour.take() == []
    neighbour.has_peers(B, C)
    await here.make_offers(a, offers(1, start=2))
    assert len(neighbour.take()) == 1


async def test_a_refused_offer_is_not_placed_on_peers_that_have_one_of_the_same_announce(here: Here) -> None:
    a, b, c = await here.peer(A), await here.peer(B), await here.peer(C)
    refusing, other = await here.neighbour(1), await here.neighbour(3)
    refusing.has(0, 1)
    other.has(0, 1)
    await here.make_offers(a, offers(4))
    assert [len(given.take()) for given in (b, c, other)] == [1, 1, 1]
    (offer_id,) = refusing.take()
    refusing.refuses(offer_id)
    await here.settle()
    assert [given.take() for given in (b, c, other)] == [[], [], []]
    await here.make_offers(a, offers(4, start=10))
    assert [len(given.take()) for given in (b, c, other)] == [1, 1, 1]


async def test_a_refused_offer_is_placed_on_peers_that_have_none_of_the_same_announce(here: Here) -> None:
    a = await here.peer(A)
    others = [await here.peer(peer_id(100 + number)) for number in range(5)]
    refusing = await here.neighbour(1)
    refusing.has(0, 1)
    placed = 0
    for start in range(0, 100, 3):
        await here.make_offers(a, offers(3, start=start))
        for offer_id in refusing.take():
            refusing.refuses(offer_id)
            await here.settle()
            placed += 1
            break
        assert all(len(other.take()) <= 1 for other in others)
        here.hub.swarms[HASH].overlap = None  # forgets the refusal
    assert placed


async def test_receivers_are_forgotten_when_it_is_too_late_to_refuse(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    assert here.hub.offers.remembered == 1
    here.hub.expire(here.now + REFUSAL_TIMEOUT + 1, 0)
    assert here.hub.offers.remembered == 0


# Parked offers


async def test_parked_offers_do_not_go_to_newcomers_that_their_maker_meets_at_a_third_tracker(here: Here) -> None:
    here.park()
    await here.make_offers(await here.peer(A), offers(5))
    far, third = await speaking(here, 1), await speaking(here, 3)
    far.has_peers(B, C, frame_ends=False)
    third.has_peers(A, B)
    here.exchange.on_frame_end(far)
    await here.settle()
    assert (len(far.take()), third.take()) == (1, [])


async def test_parked_offers_go_to_newcomers_that_are_not_here_too(here: Here) -> None:
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(5))
    await here.peer(B)
    neighbour = await speaking(here, 1)
    neighbour.has_peers(B)
    await here.settle()
    assert neighbour.take() == []
    neighbour.has_peers(B, C)
    await here.settle()
    assert len(neighbour.take()) == 1


@pytest.mark.parametrize("listed", [False, True])
async def test_parked_offers_do_not_go_where_their_maker_is_too(here: Here, listed: bool) -> None:
    here.park()
    await here.make_offers(await here.peer(A), offers(5))
    neighbour = await speaking(here, 1, listed=listed)
    neighbour.has_peers(A, B)
    neighbour.has_peers(A, B, C)
    await here.settle()
    assert neighbour.take() == []


async def test_a_newcomer_at_two_neighbours_gets_one_parked_offer(here: Here) -> None:
    here.park()
    await here.make_offers(await here.peer(A), offers(5))
    one, other = await speaking(here, 1), await speaking(here, 3)
    for neighbour in (one, other):
        neighbour.has_peers(B)
        await here.settle()
    assert (len(one.take()), len(other.take())) == (1, 0)
