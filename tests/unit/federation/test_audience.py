"""Which neighbours are told of which swarms."""

from collections import Counter

import pytest

from extensions.federation.audience import ENOUGH, EXCHANGE, FEW, GATHER, MANY, MAX_ENGAGED, MAX_GATHERED, RENEW, SMALL
from extensions.federation.filters import has_tag, part_of, tag_of
from extensions.federation.link import SWARMS_BURST, SWARMS_PER_SECOND
from extensions.federation.neighbour import ENGAGED_BURST, ENGAGED_PER_SECOND
from extensions.federation.wire import Filter, Opened, decode
from tests.client import HASH, offers
from tests.unit.federation.here import OTHER, FakeNeighbour, Here
from tests.unit.federation.links import A, B
from tracker.extension import TokenBucket


async def neighbours_with(here: Here, count: int, info_hash: str = HASH) -> list[FakeNeighbour]:
    """Return neighbours that have a swarm."""
    found = [await here.neighbour(number) for number in range(1, count + 1)]
    for neighbour in found:
        neighbour.has(0, 1, info_hash)
    return found


def told(neighbours: list[FakeNeighbour], info_hash: str = HASH) -> int:
    """Return the number of neighbours whose last news of a swarm was that it has peers here."""
    last = [[one for one in neighbour.told if one[0] == info_hash][-1:] for neighbour in neighbours]
    return sum(any(counts) for told in last for _, *counts in told)


def opened(neighbour: FakeNeighbour) -> list[int]:
    """Return the tags in messages about newly opened swarms, and forget all messages."""
    messages = [message for frame in neighbour.shown for message in decode(frame)]
    neighbour.shown.clear()
    texts = "".join(message.tags for message in messages if isinstance(message, Opened))
    return [int(texts[at : at + 16], 16) for at in range(0, len(texts), 16)]


def filters(neighbour: FakeNeighbour) -> list[Filter]:
    """Return the parts of filters that were sent, and forget all messages."""
    messages = [message for frame in neighbour.shown for message in decode(frame)]
    neighbour.shown.clear()
    return [message for message in messages if isinstance(message, Filter)]


async def test_a_small_swarm_is_told_to_all_neighbours_that_may_have_it(here: Here) -> None:
    some, others = await neighbours_with(here, SMALL), await here.neighbour(100)
    await here.peer(A)
    assert (told(some), others.told) == (SMALL, [])
    assert here.exchange.degree(HASH) == SMALL


async def test_a_popular_swarm_is_told_to_some_neighbours(here: Here) -> None:
    many = await neighbours_with(here, 60)
    await here.peer(A)
    assert told(many) == here.exchange.degree(HASH) == ENOUGH
    for neighbour in many:
        here.exchange.on_may_have(neighbour, [HASH])
        here.exchange.on_frame_end(neighbour)
    await here.settle()
    assert told(many) == here.exchange.degree(HASH) == ENOUGH, "their filters tell nothing new"


async def test_neighbours_that_come_later_are_told_until_there_are_enough(here: Here) -> None:
    await here.peer(A)
    many = [await here.neighbour(number) for number in range(1, 61)]
    for neighbour in many:
        neighbour.has(0, 1, OTHER)
    await here.peer(A, OTHER)
    assert here.exchange.degree(OTHER) == ENOUGH
    assert here.exchange.degree(HASH) == 0


async def test_each_neighbour_that_tells_of_a_swarm_is_taken_in_place_of_another(here: Here) -> None:
    many = await neighbours_with(here, 60)
    await here.peer(A)
    for neighbour in many:
        neighbour.has(0, 1)
        assert HASH in neighbour.account.members, "none is turned away"
        await here.settle()
        assert here.exchange.degree(HASH) <= MANY
    assert here.exchange.degree(HASH) == MANY == told(many)
    assert {neighbour for neighbour in many if HASH in neighbour.account.members} == set(here.exchange.common(HASH))
    assert here.counts() == (0, MANY + 1)


async def test_neighbours_that_come_by_themselves_do_not_push_out_chosen_ones(here: Here) -> None:
    """Otherwise many ids of one attacker could surround a tracker."""
    many = await neighbours_with(here, 60)
    await here.peer(A)
    chosen = here.exchange.common(HASH)
    assert len(chosen) == ENOUGH
    for _ in range(5):
        for neighbour in many:
            neighbour.has(0, 1)
            await here.settle()
    assert set(chosen) <= set(here.exchange.common(HASH))
    assert here.exchange.degree(HASH) == MANY


async def test_in_a_popular_swarm_a_neighbour_is_exchanged_for_another_from_time_to_time(here: Here) -> None:
    many = await neighbours_with(here, 60)
    await here.peer(A)
    for neighbour in many[:30]:
        neighbour.has(0, 1)
        await here.settle()
    seen = set(here.exchange.common(HASH))
    for _ in range(100):
        here.later += EXCHANGE + 1
        await here.exchange.tell_changes()
        await here.settle()
        assert here.exchange.degree(HASH) == MANY
        seen |= set(here.exchange.common(HASH))
    assert len(seen) > 50


async def test_a_swarm_that_loses_neighbours_finds_others(here: Here) -> None:
    many = await neighbours_with(here, 40)
    await here.peer(A)
    for neighbour in list(here.exchange.common(HASH)):
        neighbour.has(0, 0)  # type: ignore[attr-defined]
        await here.exchange.tell_changes()
        await here.settle()
        assert here.exchange.degree(HASH) >= FEW - 1
    assert here.exchange.degree(HASH) >= FEW
    for neighbour in list(here.exchange.common(HASH)):
        here.exchange.remove(neighbour)
        await here.exchange.tell_changes()
        await here.settle()
    assert here.exchange.degree(HASH) >= FEW
    assert told(many) >= FEW


async def test_a_neighbour_is_told_again_when_its_swarm_has_opened_again(here: Here) -> None:
    """It has ignored the numbers that came while its swarm was closed."""
    neighbour = await here.neighbour(1)
    await here.peer(A)
    for has_opened in (True, False, True):
        here.exchange.on_may_have(neighbour, [HASH], has_opened)
        here.exchange.on_frame_end(neighbour)
    assert neighbour.told == [(HASH, 0, 1)] * 2
    neighbour.has(0, 1)
    here.exchange.on_may_have(neighbour, [HASH], has_opened=True)
    here.exchange.on_frame_end(neighbour)
    assert here.exchange.degree(HASH) == 1
    assert neighbour.told == [(HASH, 0, 1)] * 3, "once more in reply to its own numbers"


async def test_a_neighbour_that_wants_no_offers_is_not_told_again_and_again(here: Here) -> None:
    (neighbour,) = await neighbours_with(here, 1)
    await here.peer(A)
    neighbour.has(0, 0)
    for _ in range(5):
        await here.exchange.tell_changes()
        await here.settle()
    assert neighbour.told == [(HASH, 0, 1)]


@pytest.mark.parametrize("opens_last", [True, False])
async def test_neighbours_that_claim_a_swarm_and_do_not_reply_do_not_keep_out_others(
    here: Here, opens_last: bool
) -> None:
    """Filters are wrong for one swarm of a hundred, and those of hostile trackers for more."""
    if not opens_last:
        await here.peer(A)
    wrong = [await here.neighbour(number) for number in range(100, 140)]
    for neighbour in wrong:
        neighbour.claims_all = True
        here.exchange.on_may_have(neighbour, [HASH] * (not opens_last))
        here.exchange.on_frame_end(neighbour)
    honest = [await here.neighbour(number) for number in range(1, 11)]
    for neighbour in honest:
        neighbour.would_have(0, 1)
        here.exchange.on_may_have(neighbour, [HASH] * (not opens_last))
        here.exchange.on_frame_end(neighbour)
    if opens_last:
        await here.peer(A)
    for _ in range(12):
        await here.exchange.tell_changes()
        await here.settle()
    assert here.exchange.degree(HASH) >= FEW
    assert all(len(neighbour.told) <= 1 for neighbour in wrong), "each is told once"


async def test_neighbours_have_time_to_reply_before_others_are_chosen(here: Here) -> None:
    many = [await here.neighbour(number) for number in range(60)]
    for neighbour in many:
        neighbour.claims_all = True
    await here.peer(A)
    for periods in range(1, 12):
        assert told(many) == (1 + (periods - 1) // 2) * ENOUGH
        await here.exchange.tell_changes()


async def test_only_some_filters_are_looked_at_in_one_turn(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extensions.federation.audience.MAX_LOOKED", 100)
    hashes = [f"{n:020}" for n in range(20)]
    many = [await here.neighbour(number) for number in range(50)]
    for neighbour in many[: SMALL - 2]:
        for info_hash in hashes:
            neighbour.would_have(0, 1, info_hash)
    for info_hash in hashes:
        await here.peer(A, info_hash)
    newcomer = many[-1]
    for info_hash in hashes:
        newcomer.would_have(0, 1, info_hash)
    here.exchange.on_may_have(newcomer, hashes)
    steps = []
    while newcomer.account.backlog:
        here.exchange.on_frame_end(newcomer)
        steps.append(len(newcomer.told))
    assert steps == [3, 6, 9, 12, 15, 18, 20]


async def test_all_neighbours_learn_the_tags_of_swarms_that_open_soon_after_each_other(here: Here) -> None:
    here.timers = []
    neighbour = await here.neighbour(1)
    assert [len(one.bits) > 0 for one in filters(neighbour)] == [True]
    await here.peer(A)
    assert opened(neighbour) == [tag_of(HASH)]
    await here.peer(A, OTHER)
    await here.peer(A, "third" * 4)
    assert opened(neighbour) == []
    ((wait, tell),) = here.timers
    assert 0 < wait <= GATHER
    tell()
    assert opened(neighbour) == [tag_of(OTHER), tag_of("third" * 4)]


async def test_many_swarms_that_open_at_once_are_told_by_the_next_filter(here: Here) -> None:
    here.timers = []
    neighbour = await here.neighbour(1)
    hashes = [f"{n:020}" for n in range(MAX_GATHERED + 2)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    assert len(opened(neighbour)) == 1
    for _, tell in here.timers:
        tell()
    assert opened(neighbour) == []
    await here.exchange.tell_changes()
    (part,) = filters(neighbour)
    assert all(has_tag(part.bits, tag_of(info_hash)) for info_hash in hashes)
    await here.peer(A)
    here.later += RENEW + 1
    await here.exchange.tell_changes()
    assert filters(neighbour) == [], "nothing has changed but one swarm"


async def test_a_filter_is_renewed_when_many_swarms_have_closed(here: Here) -> None:
    connections = [await here.peer(A, f"{n:020}") for n in range(200)]
    neighbour = await here.neighbour(1)
    await here.exchange.tell_changes()
    filters(neighbour)
    for connection in connections[:-1]:
        here.hub.close(connection)
    await here.settle()
    here.later += RENEW + 1
    await here.exchange.tell_changes()
    (part,) = filters(neighbour)
    held = [n for n in range(200) if has_tag(part.bits, tag_of(f"{n:020}"))]
    assert 199 in held
    assert len(held) < 20


async def test_a_filter_is_divided_and_sent_in_parts(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extensions.federation.filters.TAGS_PER_PART", 50)
    hashes = [f"{n:020}" for n in range(300)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    neighbour = await here.neighbour(1)
    parts = filters(neighbour)
    assert [(one.part, one.parts) for one in parts] == [(number, 8) for number in range(8)]
    for info_hash in hashes:
        tag = tag_of(info_hash)
        assert has_tag(parts[part_of(tag, 8)].bits, tag)


async def test_a_neighbour_with_many_common_swarms_is_told_of_some_at_a_time(here: Here) -> None:
    hashes = [f"{n:020}" for n in range(2 * MAX_ENGAGED + 1)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    neighbour = await here.neighbour(1)
    here.exchange.on_may_have(neighbour, hashes)
    steps = []
    while neighbour.account.backlog:
        here.exchange.on_frame_end(neighbour)
        steps.append(len(neighbour.told))
    assert steps == [MAX_ENGAGED, 2 * MAX_ENGAGED, 2 * MAX_ENGAGED + 1]
    here.exchange.on_may_have(neighbour, hashes)
    here.exchange.on_frame_end(neighbour)
    assert len(neighbour.told) == steps[-1], "each is told once"


@pytest.mark.parametrize("number", [MAX_ENGAGED, MAX_ENGAGED + 1])
async def test_of_many_common_swarms_the_tracker_with_the_lesser_id_tells_first(here: Here, number: int) -> None:
    here.exchange = here.exchange_of("f" * 64)
    hashes = [f"{n:020}" for n in range(number)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    neighbour = await here.neighbour(1)
    here.exchange.on_may_have(neighbour, hashes)
    here.exchange.on_frame_end(neighbour)
    assert len(neighbour.told) == (0 if number > MAX_ENGAGED else number)
    await here.exchange.tell_changes()
    assert len(neighbour.told) == number, "if the other one does not"


async def test_a_neighbour_that_reads_slowly_is_told_of_swarms_later(here: Here) -> None:
    hashes = [f"{n:020}" for n in range(10)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    neighbour = await here.neighbour(1)
    neighbour.reads_slowly = True
    here.exchange.on_may_have(neighbour, hashes)
    here.exchange.on_frame_end(neighbour)
    await here.exchange.tell_changes()
    assert neighbour.told == []
    neighbour.reads_slowly = False
    await here.exchange.tell_changes()
    assert [info_hash for info_hash, *_ in neighbour.told] == hashes


async def test_a_neighbour_is_told_of_swarms_at_a_rate_that_it_accepts(here: Here) -> None:
    """Otherwise trackers with very many common swarms would take each other for hostile ones."""
    assert ENGAGED_BURST * 2 < SWARMS_BURST
    assert ENGAGED_PER_SECOND * 2 < SWARMS_PER_SECOND
    hashes = [f"{n:020}" for n in range(400)]
    for info_hash in hashes:
        await here.peer(A, info_hash)
    neighbour = await here.neighbour(1)
    neighbour.account.engaging = TokenBucket(0.04, 150, here.now)
    here.exchange.on_may_have(neighbour, hashes)
    for _ in range(5):
        here.exchange.on_frame_end(neighbour)
    assert len(neighbour.told) == 150
    here.later += 3000
    await here.exchange.tell_changes()
    assert len(neighbour.told) == 150 + 120
    for _ in range(2):
        here.later += 3000
        await here.exchange.tell_changes()
    assert sorted(info_hash for info_hash, *_ in neighbour.told) == hashes


async def test_replies_to_one_frame_are_sent_together_and_before_offers(here: Here) -> None:
    here.park()
    hashes = [f"{n:020}" for n in range(MAX_ENGAGED + 50)]
    for info_hash in hashes:
        a = await here.peer(A, info_hash)
        await here.make_offers(a, offers(1), info_hash=info_hash)
    neighbour = await here.neighbour(1)
    for info_hash in hashes:
        neighbour.has(0, 2, info_hash, frame_ends=False)
    neighbour.has(0, 0, hashes[0], frame_ends=False)
    neighbour.has(0, 2, hashes[0], frame_ends=False)
    assert neighbour.replies == []
    here.exchange.on_frame_end(neighbour)
    await here.settle()
    assert len(neighbour.replies) == MAX_ENGAGED
    assert neighbour.given == []
    while neighbour.account.backlog:
        here.exchange.on_frame_end(neighbour)
    assert sorted(neighbour.replies) == hashes, "each once"
    await here.settle()
    assert len(neighbour.given) == len(hashes)


async def test_two_swarms_with_one_tag_are_served_one_after_the_other(
    here: Here, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only somebody who searches for such infohashes finds some."""
    monkeypatch.setattr("extensions.federation.filters.tag_of", lambda _: 5)
    first = await here.peer(A)
    second = await here.peer(A, OTHER)
    assert (HASH in here.swarms, OTHER in here.swarms) == (True, False)
    here.hub.close(second)
    await here.settle()
    assert HASH in here.swarms
    here.hub.close(first)
    await here.peer(B, OTHER)
    assert OTHER in here.swarms


async def test_peers_are_lonely_until_they_meet(here: Here) -> None:
    assert not here.exchange.is_lonely(HASH)
    a = await here.peer(A)
    assert here.exchange.is_lonely(HASH)
    neighbour = await here.neighbour(1)
    neighbour.has(0, 1)
    assert here.exchange.is_lonely(HASH), "it may claim peers that do not exist"
    here.hub.swarms[HASH].peers[A].meet(1, False)
    assert not here.exchange.is_lonely(HASH)
    here.hub.close(a)
    await here.settle()
    assert not here.exchange.is_lonely(HASH)


async def test_the_receivers_of_a_popular_swarm_are_drawn_at_random(here: Here) -> None:
    many = await neighbours_with(here, 40)
    drawn: Counter[int] = Counter()
    for _ in range(100):
        a = await here.peer(A)
        drawn.update(number for number, neighbour in enumerate(many) if told([neighbour]))
        here.hub.close(a)
        await here.settle()
        await here.exchange.tell_changes()
    assert len(drawn) == len(many)
    assert max(drawn.values()) < 50, drawn
