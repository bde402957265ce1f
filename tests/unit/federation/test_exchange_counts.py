"""The counts of swarms between a tracker and its neighbours: which are told, and which are believed."""

import asyncio

import pytest

from extensions.federation.exchange import CREDIT, CREDIT_PER_ANSWER
from extensions.federation.ledger import REFUSAL_TIMEOUT
from extensions.federation.reasons import Dropped
from tests.client import HASH, offers
from tests.unit.fakes import peer_id
from tests.unit.federation.here import MILLION, OTHER, Here
from tests.unit.federation.links import A, B


async def test_a_swarm_that_opens_is_told_once_to_a_neighbour_that_has_it(here: Here) -> None:
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    await here.peer(A)
    assert neighbour.told == [(HASH, 0, 1)]
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1)]
    await here.peer(B)
    assert neighbour.told == [(HASH, 0, 1)]
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 2)]
    await here.exchange.tell_changes()
    assert len(neighbour.told) == 2
    assert other.told == [], "only its tag"
    assert neighbour.replies == []


async def test_counts_that_change_after_the_opening_are_told_again(here: Here) -> None:
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    await here.peer(A)
    await here.peer(B)
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 2)]


async def test_counts_that_change_before_a_neighbour_has_replied_are_told(here: Here) -> None:
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    here.join(A)
    swarm = here.hub.swarms[HASH]
    here.exchange.swarm_opened(swarm)
    here.join(B)
    here.exchange.swarm_changed(swarm)
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 2)]
    neighbour.reply()
    assert (here.counts(), len(neighbour.told)) == ((0, 3), 2)


async def test_a_neighbour_that_comes_between_two_changes_ends_up_with_the_right_counts(here: Here) -> None:
    """The counts change and change back, and only in between they are told to a new neighbour."""
    await here.peer(A)
    b = here.join(B)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    here.hub.close(b)
    await here.settle()
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 2), (HASH, 0, 1)]


async def test_a_swarm_that_closes_is_told_at_once_and_no_more_after_that(here: Here) -> None:
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, 1)
    neighbour.has(0, 1, OTHER)
    a = await here.peer(A)
    await here.peer(B, OTHER)
    neighbour.told.clear()
    here.hub.close(a)
    await here.settle()
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 0)]
    assert other.told == [], "it was never told of the swarm"


async def test_a_swarm_that_reopens_is_told_with_its_new_counts_only(here: Here) -> None:
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    connections = [await here.peer(peer_id(number)) for number in range(5)]
    for connection in connections:
        here.hub.close(connection)
    await here.peer(A)
    await here.exchange.tell_changes()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 0), (HASH, 0, 1)]


async def test_a_swarm_that_reopens_while_changes_are_told_is_not_told_with_its_old_counts(here: Here) -> None:
    neighbours = [await here.neighbour(number) for number in (1, 3)]
    for neighbour in neighbours:
        neighbour.has(0, 1)
    a, b = await here.peer(A), await here.peer(B)
    telling = asyncio.ensure_future(here.exchange.tell_changes())
    await asyncio.sleep(0)
    assert [neighbour.told[-1] for neighbour in neighbours] == [(HASH, 0, 2), (HASH, 0, 1)]
    for connection in (a, b):
        here.hub.close(connection)
    await here.peer(A)
    await telling
    assert [neighbour.told[-1] for neighbour in neighbours] == [(HASH, 0, 1)] * 2


async def test_a_swarm_that_reopens_stays_open_although_the_closing_is_reported_later(here: Here) -> None:
    """The extension host reports an opening early if offers of that swarm wait for it."""
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    here.hub.close(await here.peer(A))
    here.join(A)
    closing, *later = here.events
    assert closing[0] == "swarm_closed"
    here.events = [*later, closing]
    await here.settle()
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 0), (HASH, 0, 1)]
    assert here.counts() == (0, 2)


async def test_a_swarm_that_opens_and_closes_unreported_leaves_no_remote_member(here: Here) -> None:
    """The extension host does not report a swarm that has closed again before its opening could be reported."""
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    here.hub.close(await here.peer(A))
    closing = here.events[0]
    again = here.join(A)
    neighbour.has(0, 2)
    here.hub.close(again)
    here.events = [closing]
    await here.settle()
    assert neighbour.account.members == {}
    assert neighbour.told == [(HASH, 0, 1), (HASH, 0, 0)]


# Counts that are believed


@pytest.mark.parametrize(
    ("told", "believed"),
    [
        ((0, 1), (0, 1)),
        ((20, 30), (20, 30)),
        ((CREDIT, 1), (49, 1)),
        ((0, MILLION), (0, CREDIT)),
        ((MILLION, 0), (CREDIT, 0)),
        ((MILLION, MILLION), (25, 25)),
        ((1, MILLION), (0, CREDIT)),
        ((100, 300), (12, 38)),
    ],
)
async def test_a_neighbour_is_believed_to_have_some_peers_of_each_kind_in_proportion(
    here: Here, told: tuple[int, int], believed: tuple[int, int]
) -> None:
    assert CREDIT == 50
    await here.peer(A)
    (await here.neighbour(1)).has(*told)
    assert here.counts() == (believed[0], believed[1] + 1)


async def test_each_answered_offer_gives_credit(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 85)
    await here.make_offers(a, offers(3))
    assert here.counts() == (0, 51)
    first, second, third = neighbour.take()
    neighbour.answers_for_b(first)
    assert here.counts() == (0, 51 + CREDIT_PER_ANSWER)
    neighbour.answers_for_b(second)
    assert here.counts() == (0, 86), "it does not claim more"
    neighbour.answers_for_b(third)
    neighbour.has(0, MILLION)
    assert here.counts() == (0, 51 + 3 * CREDIT_PER_ANSWER)
    assert len([message for message in a.take() if "answer" in message]) == 3


async def test_many_answers_to_one_offer_give_credit_once(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    await here.make_offers(a, offers(1))
    neighbour.answers_for_b(*neighbour.take() * 1000)
    neighbour.has(0, MILLION)
    assert here.counts() == (0, 51 + CREDIT_PER_ANSWER)


async def test_a_late_answer_is_delivered_and_gives_no_credit(here: Here) -> None:
    a = await here.peer(A)
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    await here.make_offers(a, offers(1))
    here.later = REFUSAL_TIMEOUT + 1
    neighbour.answers_for_b(*neighbour.take())
    assert here.counts() == (0, 51)
    assert a.inbox[-1]["answer"]


async def test_answers_to_no_offer_give_no_credit(here: Here) -> None:
    a = await here.peer(A)
    neighbour, other = await here.neighbour(1), await here.neighbour(3)
    neighbour.has(0, MILLION)
    neighbour.answers_for_b("x" * 20)
    await here.make_offers(a, offers(1))
    (offer_id,) = neighbour.take()
    neighbour.answers_for_b("x" * 20)
    other.has(0, MILLION)
    other.answers_for_b(offer_id)
    assert here.counts() == (0, 1 + 2 * CREDIT)
    assert neighbour.account.dropped == {Dropped.NOT_ASKED_FOR: 2}
    assert other.account.dropped == {Dropped.NOT_ASKED_FOR: 1}


async def test_credit_belongs_to_one_neighbour_and_counts_in_all_of_its_swarms(here: Here) -> None:
    a = await here.peer(A)
    await here.peer(B, OTHER)
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    await here.make_offers(a, offers(1))
    neighbour.answers_for_b(*neighbour.take())
    neighbour.has(0, MILLION, OTHER)
    assert here.counts() == here.counts(OTHER) == (0, 71)
    (await here.neighbour(3)).has(0, MILLION)
    assert here.counts() == (0, 121)


async def test_a_trusted_neighbour_is_believed(here: Here) -> None:
    await here.peer(A)
    neighbour = await here.neighbour(1)
    here.trusted.add(neighbour)
    neighbour.has(3, MILLION)
    assert here.counts() == (3, MILLION + 1)


async def test_a_neighbour_that_claims_a_million_peers_gets_its_share_of_the_offers(here: Here) -> None:
    a = await here.peer(A)
    local = [await here.peer(peer_id(100 + number)) for number in range(25)]
    neighbour = await here.neighbour(1)
    neighbour.has(0, MILLION)
    for start in range(0, 1000, 5):
        await here.make_offers(a, offers(5, start=start))
    there = len(neighbour.take())
    assert there + sum(len(connection.take()) for connection in local) == 1000
    assert 600 < there < 730, "of 75 peers it seems to have 50"


# Parked offers
