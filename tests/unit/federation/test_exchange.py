"""The exchange between the swarms of a tracker and its neighbours: where offers, refusals and answers go."""

import asyncio
import gc
import weakref
from itertools import pairwise

import pytest

from extensions.federation import exchange as module
from extensions.federation import neighbour as neighbour_module
from extensions.federation.exchange import MAX_REFUSALS
from extensions.federation.ledger import ANSWER_TIMEOUT, REFUSAL_TIMEOUT
from extensions.federation.reasons import Dropped
from extensions.federation.routes import ROUTE_LIFETIME
from tests.client import HASH, announce, answer, offers
from tests.unit.federation.here import MILLION, FakeNeighbour, Here
from tests.unit.federation.links import A, B, ids_of, some_offers


async def test_parked_offers_go_to_as_many_newcomers_as_are_believed(here: Here) -> None:
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(20))
    neighbour = await here.neighbour(1)
    here.trusted.add(neighbour)
    for now, more in ((3, 3), (5, 2), (4, 0)):
        neighbour.has(0, now)
        await here.settle()
        assert len(neighbour.take()) == more


async def test_no_parked_offers_go_to_peers_that_are_not_believed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CREDIT", 5)
    here.park()
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    await here.make_offers(a, offers(20))
    neighbour.has(0, MILLION - 1)
    neighbour.has(0, MILLION)
    await here.settle()
    (first,) = neighbour.take()
    neighbour.answers_for_b(first)
    here.exchange.on_frame_end(neighbour)
    await here.settle()
    assert len(neighbour.take()) == 4


async def test_a_neighbour_that_has_answered_nothing_is_given_one_parked_offer_of_each_peer(here: Here) -> None:
    """Otherwise a liar would take all of them, and its neighbours would get none."""
    here.park()
    await here.make_offers(await here.peer(A), offers(5))
    liar, honest = await here.neighbour(1), await here.neighbour(3)
    for claimed in (30, 31, 35):
        liar.has(0, claimed)
        await here.settle()
    honest.has(0, 1)
    await here.settle()
    assert (len(liar.take()), len(honest.take())) == (1, 1)
    liar.has(0, 0)
    assert liar.account.withheld == {}


async def test_newcomers_of_a_neighbour_that_has_answered_nothing_are_remembered_in_bounded_number(here: Here) -> None:
    await here.peer(A)
    liar = await here.neighbour(1)
    for claimed in range(1, 200):
        liar.has(0, claimed % 50 + 1)
    (withheld,) = liar.account.withheld.values()
    assert len(withheld) == module.MAX_WITHHELD
    await here.exchange.tell_changes()


async def test_an_offer_does_not_go_from_one_ending_link_to_the_next_for_ever(here: Here) -> None:
    a = await here.peer(A)
    neighbours = [await here.neighbour(number) for number in range(1, MAX_REFUSALS + 5)]
    neighbours[0].has(0, 1)
    await here.make_offers(a, offers(1))
    hops = 0
    for ending, other in pairwise(neighbours):
        other.has(0, 1)
        here.exchange.remove(ending)
        await here.settle()
        hops += len(other.take())
    assert hops == MAX_REFUSALS


async def test_a_peer_that_has_met_nobodybody_makes_offers_to_all_neighbours(here: Here) -> None:
    a = await here.peer(A)
    neighbours = [await here.neighbour(number) for number in range(1, 6)]
    for number, neighbour in enumerate(neighbours):
        neighbour.has(0, 1 if number == 2 else 50)
    await here.make_offers(a, offers(5))
    assert [len(neighbour.take()) for neighbour in neighbours] == [1] * 5
    here.hub.swarms[HASH].peers[A].meet(1, False)
    await here.make_offers(a, offers(5, start=5))
    assert len(neighbours[2].take()) <= 1


async def test_offers_of_a_lonely_peer_that_are_not_answered_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    silent, other = await here.neighbour(1), await here.neighbour(3)
    silent.has(0, 1)
    await here.make_offers(a, offers(1))
    given = silent.take()
    other.has(0, 1)
    await here.exchange.tell_changes()
    assert other.take() == []
    here.later = REFUSAL_TIMEOUT + 1
    await here.exchange.tell_changes()
    await here.settle()
    assert (silent.take(), other.take()) == ([], given)
    here.later += REFUSAL_TIMEOUT + 1
    here.hub.swarms[HASH].peers[A].meet(1, False)
    await here.exchange.tell_changes()
    await here.settle()
    assert (silent.take(), other.take()) == ([], []), "it has met a peer"


@pytest.mark.parametrize("waits", [False, True])
async def test_a_peer_with_an_offer_from_one_neighbour_still_makes_one_to_another(
    here: Here, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three peers that join three trackers at the same time, each must meet both others."""
    monkeypatch.setattr(module, "YIELD_TO", 0.0)
    here.exchange = here.exchange_of(("f" if waits else "0") * 64)
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(5))
    one, other = await here.neighbour(1), await here.neighbour(3)
    if waits:
        other.has(0, 1)
    one.has(0, 1)
    given = one.take()
    one.makes_offers(some_offers(1, start=9))
    assert a.inbox[-1]["peer_id"] == B
    if not waits:
        other.has(0, 1)
    await asyncio.sleep(0.01)
    await here.settle()
    assert (len(given + one.take()), len(other.take())) == (0 if waits else 1, 1)


async def test_no_second_offer_follows_one_that_was_made_in_the_yield_time(here: Here) -> None:
    here.exchange = here.exchange_of("f" * 64)
    here.timers = []
    here.park()
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(3))
    assert len(neighbour.take()) == 1
    ((_, end_yielding),) = [(wait, call) for wait, call in here.timers if wait == module.YIELD_TO]
    end_yielding()
    await here.settle()
    assert neighbour.take() == []


async def test_offers_in_the_same_frame_come_before_parked_offers_are_placed(here: Here) -> None:
    """Otherwise both peers would make an offer, and each would give up its own when it is answered."""
    here.park()
    a = await here.peer(A)
    await here.make_offers(a, offers(5))
    neighbour = await here.neighbour(1)
    here.trusted.add(neighbour)
    neighbour.has(0, 1, frame_ends=False)
    neighbour.makes_offers(some_offers(1, start=9))
    await here.settle()
    assert a.inbox[-1]["peer_id"] == B
    assert neighbour.take() == []
    neighbour.has(0, 2)
    await here.settle()
    assert len(neighbour.take()) == 1, "the next newcomer is given one"


async def test_peers_that_are_there_already_when_a_swarm_opens_are_given_parked_offers(here: Here) -> None:
    here.park()
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    a = here.join(A)
    here.send(a, announce(A, offers=offers(5), numwant=5))
    await here.settle()
    assert len(neighbour.take()) == 1


# Offers, refusals and answers


async def test_offers_that_are_too_long_for_a_neighbour_are_not_placed_again(here: Here) -> None:
    a = await here.peer(A)
    neighbours = [await here.neighbour(number) for number in (1, 3)]
    for neighbour in neighbours:
        neighbour.takes_offers = False
        neighbour.has(0, 1)
    await here.make_offers(a, offers(2))
    assert [neighbour.account.counters["offers_out"] for neighbour in neighbours] == [0, 0]
    assert [neighbour.account.ledger.refusable for neighbour in neighbours] == [0, 0]


async def test_a_neighbour_that_is_gone_is_not_kept_in_memory_for_the_answers_to_its_offers(here: Here) -> None:
    await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(1))
    assert neighbour.refused == []
    here.exchange.remove(neighbour)
    here.neighbours.clear()
    gone = weakref.ref(neighbour)
    del neighbour
    gc.collect()
    assert gone() is None


async def test_offers_that_can_neither_be_refused_nor_answered_any_more_are_forgotten(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    ledger = neighbour.account.ledger
    await here.exchange.tell_changes()
    assert (ledger.refusable, ledger.awaited) == (1, 1)
    here.later = REFUSAL_TIMEOUT + 1
    await here.exchange.tell_changes()
    assert (ledger.refusable, ledger.awaited) == (0, 1)
    here.later = ANSWER_TIMEOUT + 1
    await here.exchange.tell_changes()
    assert (ledger.refusable, ledger.awaited) == (0, 0)


@pytest.mark.parametrize("has_met", [False, True])
async def test_unanswered_offers_of_a_lonely_peer_go_elsewhere_when_the_link_ends(here: Here, has_met: bool) -> None:
    here.park()
    a = await here.peer(A)
    ending, other = await here.neighbour(1), await here.neighbour(3)
    here.trusted.add(other)
    ending.has(0, 3)
    await here.make_offers(a, offers(3))
    first, *rest = ending.take()
    if has_met:
        ending.answers_for_b(first)
    here.exchange.remove(ending)
    other.has(0, 3)
    await here.settle()
    assert sorted(other.take()) == ([] if has_met else sorted([first, *rest]))
    here.exchange.remove(ending)
    assert other.take() == [], "once"


async def test_few_offers_are_placed_again_when_a_busy_link_ends(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_RESCUED", 2)
    a = await here.peer(A)
    ending, other = await here.neighbour(1), await here.neighbour(3)
    ending.has(0, 5)
    await here.make_offers(a, offers(5))
    given = ending.take()
    other.has(0, 5)
    here.exchange.remove(ending)
    await here.settle()
    assert sorted(other.take()) == sorted(given[-2:])


async def test_offers_that_were_sent_too_long_ago_are_not_placed_again(here: Here) -> None:
    a = await here.peer(A)
    ending, other = await here.neighbour(1), await here.neighbour(3)
    ending.has(0, 1)
    await here.make_offers(a, offers(1))
    other.has(0, 1)
    here.later = REFUSAL_TIMEOUT + 1
    here.exchange.remove(ending)
    await here.settle()
    assert other.take() == []


async def test_offers_for_a_neighbour_that_is_just_gone_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    ending, other = await here.neighbour(1), await here.neighbour(3)
    ending.has(0, 1)
    here.send(a, announce(A, offers=offers(1)))
    other.has(0, 1)
    here.exchange.remove(ending)
    await here.settle()
    assert (ending.take(), len(other.take())) == ([], 1)


async def test_offers_for_peers_that_have_just_left_go_elsewhere(here: Here) -> None:
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    here.send(a, announce(A, offers=offers(1)))
    neighbour.has(0, 0)
    other.has(0, 1)
    await here.settle()
    assert (neighbour.take(), len(other.take())) == ([], 1)


async def test_a_refused_offer_is_placed_elsewhere_a_few_times(here: Here) -> None:
    a = await here.peer(A)
    neighbours = [await here.neighbour(number) for number in range(1, MAX_REFUSALS + 3)]
    for neighbour in neighbours:
        neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    placed: list[FakeNeighbour] = []
    for _ in range(MAX_REFUSALS + 2):
        for neighbour in neighbours:
            given = neighbour.take()
            if given:
                placed.append(neighbour)
                neighbour.refuses(*given)
                await here.settle()
                break
    assert len(placed) == 1 + MAX_REFUSALS
    assert len(set(placed)) == len(placed), "where an offer of a peer was refused, it makes none for a while"


async def test_a_late_refusal_is_ignored(here: Here) -> None:
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(2))
    given = neighbour.take()
    other.has(0, 2)
    here.later = REFUSAL_TIMEOUT - 1
    neighbour.refuses(given[0])
    await here.settle()
    assert other.take() == given[:1]
    here.later = REFUSAL_TIMEOUT + 1
    neighbour.refuses(given[0])
    await here.settle()
    assert other.take() == []
    assert neighbour.account.counters["refused_in"] == 1
    assert neighbour.account.dropped == {Dropped.NOT_ASKED_FOR: 1}


async def test_a_refused_offer_is_as_old_as_when_it_was_sent(here: Here) -> None:
    here.park()
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    here.later = 5
    neighbour.refuses(*neighbour.take())
    await here.settle()
    other.has(0, 1)
    await here.settle()
    assert len(other.take()) == 1
    assert here.parked_for == [pytest.approx(5, abs=0.5)]


async def test_offers_without_a_receiver_are_refused(here: Here) -> None:
    await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.makes_offers(some_offers(2))
    assert neighbour.account.dropped == {Dropped.NOT_ASKED_FOR: 2}, "it has told of no peers"
    assert neighbour.refused == ids_of(some_offers(2)), "it may have been given up in the swarm a moment ago"
    neighbour.refused.clear()
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(2))
    assert neighbour.refused == ids_of(some_offers(2))[1:]
    neighbour.makes_offers(some_offers(1, start=5), maker=A)
    assert neighbour.refused[1:] == ids_of(some_offers(1, start=5)), "its maker is a local peer"


async def test_offers_that_come_too_fast_are_refused(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbour_module, "OFFERS_BURST", 1.0)
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(2))
    assert (neighbour.refused, neighbour.account.dropped) == (ids_of(some_offers(2)), {Dropped.TOO_FAST: 2})
    assert a.take() == []


async def test_an_answer_goes_to_the_neighbour_that_the_offer_came_from(here: Here) -> None:
    a = await here.peer(A)
    one, other = await here.neighbour(1), await here.neighbour(3)
    for number, neighbour in enumerate((one, other)):
        neighbour.has(0, 1)
        neighbour.makes_offers(some_offers(1, start=number))
    here.send(a, answer(A, B, f"{0:020}"))
    await here.settle()
    assert [len(neighbour.answers) for neighbour in (one, other)] == [1, 0]
    here.exchange.remove(other)
    here.send(a, answer(A, B, f"{1:020}"))
    await here.settle()
    assert other.answers == []
    assert here.exchange.dropped == {Dropped.LINK_GONE: 1}


async def test_an_answer_that_is_too_late_goes_nowhere(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    neighbour.makes_offers(some_offers(1))
    here.later = ROUTE_LIFETIME + 1
    here.send(a, answer(A, B, f"{0:020}"))
    await here.settle()
    assert neighbour.answers == []
    assert here.exchange.dropped == {Dropped.LINK_GONE: 1}


async def test_parked_offers_are_placed_in_a_limited_number_of_swarms_at_once(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_GROWN", 2)
    here.park()
    neighbour = await here.neighbour(1)
    hashes = [f"{n:020}" for n in range(5)]
    for info_hash in hashes:
        here.send(await here.peer(A, info_hash), announce(A, info_hash, offers=offers(1)))
    for info_hash in hashes:
        neighbour.has(0, 1, info_hash, frame_ends=False)
    placed = []
    while neighbour.account.grown:
        here.exchange.on_frame_end(neighbour)
        await here.settle()
        placed.append(len(neighbour.take()))
    assert placed == [2, 2, 1]


# Neighbours that are gone


async def test_messages_of_a_neighbour_that_was_removed_are_ignored(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.make_offers(a, offers(1))
    here.exchange.remove(neighbour)
    assert here.counts() == (0, 1)
    neighbour.has(0, 2)
    neighbour.makes_offers(some_offers(1))
    neighbour.refuses(*neighbour.given)
    neighbour.answers_for_b(*neighbour.take())
    here.exchange.on_may_have(neighbour, [HASH])
    here.exchange.on_frame_end(neighbour)
    assert (here.counts(), neighbour.account.members, neighbour.account.backlog) == ((0, 1), {}, 0)
    assert neighbour.told == [(HASH, 0, 1)], "nothing since"
    assert [message for message in a.take() if "offer" in message or "answer" in message] == []
