"""The choice of receivers."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import soon
from tests.unit.core.swarms import NOW, swarm_of
from tracker.core.bits import SEEDER, remote_bit
from tracker.core.choice import DAMPING, Chooser
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL, Member, Peer, Random, RemoteMember, Swarm


def seeded(seed: int = 7) -> Callable[[], float]:
    """The same chance in every run."""
    return random.Random(seed).random


def chooser(random: Random, **rules: Any) -> Chooser:
    return Chooser(Rules(**rules), random)


def choose(swarm: Swarm, peer: Peer, count: int, random: Random) -> list[Member]:
    """Choose as if no peer had been given an offer lately."""
    swarm.seeders_busy_until = swarm.leechers_busy_until = 0.0
    return chooser(random).choose(swarm, peer, count, NOW)


@given(
    seeders=st.integers(0, 30),
    leechers=st.integers(0, 30),
    stale=st.integers(0, 30),
    count=st.integers(0, 25),
    remotes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple),
    who=st.integers(0),
    seed=st.integers(0, 2**32),
)
def test_a_sample_without_replacement_of_the_others(
    seeders: int, leechers: int, stale: int, count: int, remotes: tuple[tuple[int, int], ...], who: int, seed: int
) -> None:
    if seeders + leechers == 0:
        return
    swarm, peers = swarm_of(seeders, leechers, min(stale, leechers), remotes)
    sender = peers[who % len(peers)]
    chosen = choose(swarm, sender, count, seeded(seed))
    assert len(chosen) == min(count, swarm.complete + swarm.incomplete - 1)
    assert sender not in chosen
    for member, times in Counter(chosen).items():
        size = member.complete + member.incomplete if isinstance(member, RemoteMember) else 1
        assert times <= size
    if len(chosen) < swarm.complete + swarm.incomplete - 1:
        complementary = sum(_is(member, not sender.complete) for member in chosen)
        others = swarm.incomplete if sender.complete else swarm.complete
        assert complementary >= min(count if sender.complete else (count + 1) // 2, others) - _either(swarm)


def _is(member: Member, complete: bool) -> bool:
    return not isinstance(member, Peer) or member.complete is complete


def _either(swarm: Swarm) -> int:
    """A remote member's place does not tell its role, so the bound is loose by as many as there are of the other."""
    return swarm.remote_complete + swarm.remote_incomplete


def seeders_of(members: list[Member]) -> int:
    """Return the number of local seeders among some members."""
    return sum(isinstance(member, Peer) and member.complete for member in members)


def frequencies(swarm: Swarm, sender: Peer, count: int, rounds: int = 4000) -> Counter[Member]:
    source = seeded()
    seen: Counter[Member] = Counter()
    for _ in range(rounds):
        seen.update(choose(swarm, sender, count, source))
    return seen


@pytest.mark.parametrize("leechers", [9, 200], ids=["small", "large"])
def test_every_peer_is_as_likely_as_any_other(leechers: int) -> None:
    swarm, peers = swarm_of(0, leechers)
    seen = frequencies(swarm, peers[3], 4, rounds=20_000)
    expected = 20_000 * 4 / (leechers - 1)
    assert set(seen) == set(peers) - {peers[3]}
    assert all(0.75 * expected < times < 1.25 * expected for times in seen.values())


def test_a_seeder_is_given_leechers_first() -> None:
    swarm, peers = swarm_of(50, 5)
    for seed in range(50):
        chosen = choose(swarm, peers[0], 5, seeded(seed))
        assert seeders_of(chosen) == 0
    assert seeders_of(choose(swarm, peers[0], 8, seeded())) == 3


def test_a_leecher_is_given_seeders_for_half_its_offers_at_least() -> None:
    swarm, peers = swarm_of(10, 500)
    share = [seeders_of(choose(swarm, peers[-1], 5, seeded(n))) for n in range(200)]
    assert min(share) == 3
    assert sum(share) < 200 * 3.2, "leechers must get to know leechers too"
    assert seeders_of(choose(swarm, peers[-1], 1, seeded())) == 1


def test_seeders_are_paired_with_seeders_when_nobody_else_is_there() -> None:
    swarm, peers = swarm_of(3, 0)
    assert set(choose(swarm, peers[0], 5, seeded())) == set(peers[1:])


@pytest.mark.parametrize("fresh", [10, 300], ids=["small", "large"])
def test_fresher_peers_are_preferred(fresh: int) -> None:
    swarm, peers = swarm_of(0, fresh + 10, stale=10)
    seen = frequencies(swarm, peers[0], 5, rounds=500)
    stale_share = sum(seen[peer] for peer in peers[-10:]) / seen.total()
    assert stale_share < 0.005


def test_stale_peers_are_better_than_none() -> None:
    swarm, peers = swarm_of(0, 6, stale=5)
    assert len(choose(swarm, peers[0], 5, seeded())) == 5
    swarm, peers = swarm_of(0, 400, stale=399)
    assert len(choose(swarm, peers[0], 5, seeded())) == 5


def test_remote_members_get_offers_in_proportion_to_their_numbers() -> None:
    swarm, peers = swarm_of(0, 21, remotes=((0, 20), (0, 60)))
    seen = frequencies(swarm, peers[0], 5)
    total = seen.total()
    small, large = swarm.remotes
    assert 0.17 < seen[small] / total < 0.23
    assert 0.55 < seen[large] / total < 0.65


def test_remote_seeders_are_as_complementary_as_local_ones() -> None:
    swarm, peers = swarm_of(0, 100, remotes=((1, 0),))
    for seed in range(20):
        assert swarm.remotes[0] in choose(swarm, peers[0], 3, seeded(seed))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.booleans(), st.integers(0, 2**32))
def test_foreign_offers_go_to_distinct_local_peers(s: int, le: int, count: int, same: bool, seed: int) -> None:
    swarm, peers = swarm_of(s, le, remotes=((2, 2),))
    maker = peers[seed % len(peers)].peer_id if peers and same else "f" * 20
    chosen = chooser(seeded(seed)).choose_local(swarm, count, maker, NOW)
    assert len(chosen) == len(set(chosen)) == min(count, len(peers) - (maker in swarm.peers))
    assert all(isinstance(peer, Peer) and peer.peer_id != maker for peer in chosen)


def meet(peer: Peer, other: Peer) -> None:
    peer.meet(other.bit, other.complete)
    other.meet(peer.bit, peer.complete)


@given(
    seeders=st.integers(0, 30),
    leechers=st.integers(0, 30),
    met=st.sets(st.integers(0, 59)),
    remote=st.integers(0, 9),
    remote_met=st.sets(st.characters(max_codepoint=255), max_size=9),
    answered=st.booleans(),
    count=st.one_of(st.just(1), st.integers(0, 25)),
    seed=st.integers(0, 2**32),
)
def test_met_peers_come_later_and_after_an_answer_not_at_all(
    seeders: int,
    leechers: int,
    met: set[int],
    remote: int,
    remote_met: set[str],
    answered: bool,
    count: int,
    seed: int,
) -> None:
    if seeders + leechers == 0:
        return
    swarm, peers = swarm_of(seeders, leechers, remotes=((0, remote),) if remote else ())
    peer, *others = peers
    known = [other for other in others if peers.index(other) in met and other.bit != peer.bit]
    for other in known:
        meet(peer, other)
    for character in remote_met:
        peer.meet(remote_bit("x" * 19 + character), complete=False)
    if answered:
        peer.answered_at = NOW
    may_forget = peer.met_count > 32 and swarm.complete + swarm.incomplete > SMALL
    chosen = choose(swarm, peer, count, seeded(seed))
    left_out = 0
    if answered and count == 1 and not may_forget:
        left_out = sum(any(other.bit == one.bit for one in known) and bool(other.met & peer.bit) for other in others)
        bits = {ord(character) % 8 for character in remote_met}
        left_out += remote if len(bits) >= remote else 0
        assert not set(known) & set(chosen)
    assert len(chosen) == min(count, len(others) + remote - left_out)
    assert peer not in chosen


def test_peers_that_have_not_met_are_introduced_first() -> None:
    swarm, peers = swarm_of(0, 12)
    peer = peers[0]
    for other in peers[1:7]:
        meet(peer, other)
    for seed in range(20):
        assert set(choose(swarm, peer, 5, seeded(seed))) == set(peers[7:])
    assert set(choose(swarm, peer, 8, seeded())) > set(peers[7:])


def test_in_a_large_swarm_old_meetings_are_forgotten() -> None:
    swarm, peers = swarm_of(0, 200)
    peer = peers[0]
    for other in peers[1:34]:
        meet(peer, other)
    assert peer.met_count == 33
    choose(swarm, peer, 5, seeded())
    assert (peer.met, peer.met_count) == (0, 0)


def test_after_an_answer_a_peer_with_one_offer_does_not_get_those_again_that_it_has_met() -> None:
    swarm, (peer, other, third) = swarm_of(0, 3)
    meet(peer, other)
    meet(peer, third)
    third.forget_met()
    peer.answered_at = NOW
    choice = chooser(seeded())
    assert choice.choose(swarm, peer, 1, NOW + DAMPING - 1) == [third], "its client has connected again"
    meet(peer, third)
    assert choice.choose(swarm, peer, 1, NOW + DAMPING - 1) == []
    assert set(choice.choose(swarm, peer, 2, NOW)) == {other, third}, "a client with more offers has an interval"
    assert choice.choose(swarm, other, 1, NOW) in ([peer], [third]), "it has received no answer"
    assert choice.choose(swarm, peer, 1, NOW + DAMPING) in ([other], [third])
    often = chooser(seeded(), announce_interval=10)
    assert often.choose(swarm, peer, 1, NOW + 5) in ([other], [third]), "that may be its next announce"


def test_a_lone_seeder_is_not_flooded_and_meets_every_leecher() -> None:
    swarm, (seeder, *leechers) = swarm_of(1, 600)
    choice = chooser(seeded(), announce_interval=120, max_offers_received=30)
    given = []
    for interval in range(25):
        now = 1000.0 + 120 * interval
        received = 0
        for number, leecher in enumerate(leechers):
            leecher.last_seen = seeder.last_seen = now
            if seeder in choice.choose(swarm, leecher, 5, now + number / 5):
                received += 1
                meet(leecher, seeder)
        given.append(received)
    # Of the five offers of a leecher, four or five go to any peers.
    assert max(given) < 30 * 1.25 + 20
    assert all(leecher.met & SEEDER for leecher in leechers)


def test_offers_that_are_answered_or_made_count_half() -> None:
    def first_come(answers: int) -> int:
        swarm, (seeder, *leechers) = swarm_of(1, 2000)
        choice = chooser(seeded(), announce_interval=120, max_offers_received=40)
        first: list[Peer] = []
        for leecher in leechers:
            busy = swarm.seeders_busy_until
            choice.choose(swarm, leecher, 1, NOW)
            if swarm.seeders_busy_until == busy:
                break
            first.append(leecher)
            choice.note_wanted(seeder, answers)
        return len(first)

    assert first_come(0) == 11
    assert first_come(1) == 21


def test_leechers_that_have_met_a_seeder_leave_busy_ones_to_others() -> None:
    swarm, (seeder, newcomer, old, *_) = swarm_of(1, 200)
    meet(old, seeder)
    choice = chooser(seeded())
    choice.choose(swarm, newcomer, 5, NOW)
    busy_until = swarm.seeders_busy_until
    assert busy_until > NOW
    choice.choose(swarm, old, 5, NOW)
    assert swarm.seeders_busy_until == busy_until
    assert seeder in choice.choose(swarm, newcomer, 5, NOW)


def test_a_lone_leecher_is_not_flooded_by_seeders() -> None:
    swarm, (*seeders, leecher) = swarm_of(600, 1)
    choice = chooser(seeded())
    assert sum(leecher in choice.choose(swarm, seeder, 5, NOW) for seeder in seeders) < 30


def test_seeders_prefer_leechers_without_a_seeder() -> None:
    swarm, (seeder, other, *leechers) = swarm_of(2, 16)
    for leecher in leechers[:8]:
        meet(leecher, other)
    assert set(choose(swarm, seeder, 8, seeded())) == set(leechers[8:])


@pytest.mark.parametrize(("others", "usual"), [(1, 30), (3, 30), (7, 60), (11, 90), (15, 120)])
def test_peers_of_small_swarms_announce_sooner(others: int, usual: int) -> None:
    swarm, (peer, *rest) = swarm_of(0, 1 + others)
    choice = chooser(seeded(), announce_interval=120, lonely_interval=30)
    for other in rest:
        assert choice.interval(peer, False) in soon(30), "it has not met all"
        meet(peer, other)
    assert choice.interval(peer, False) in soon(usual)
    swarm.set_remote(RemoteMember(swarm, None), 0, 1)
    assert choice.interval(peer, False) in (soon(30) if others + 2 <= SMALL else [120])
    peer.meet(remote_bit("r" * 20), complete=False)
    assert choice.interval(peer, False) in soon(max(30, min(120, (others + 2) * 120 // 16)))


def test_peers_of_large_swarms_announce_as_usual() -> None:
    swarm, (peer, *_) = swarm_of(0, SMALL + 1)
    assert chooser(seeded(), announce_interval=120, lonely_interval=30).interval(peer, False) == 120
    assert swarm.incomplete == SMALL + 1


@pytest.mark.parametrize(("parks", "intervals"), [(False, [120]), (True, soon(30))])
def test_a_peer_that_is_alone_announces_sooner_if_offers_are_parked(parks: bool, intervals: Sequence[int]) -> None:
    swarm, (peer,) = swarm_of(0, 1)
    assert chooser(seeded()).interval(peer, parks) in intervals
    swarm.set_remote(RemoteMember(swarm, None), 0, 1)
    assert chooser(seeded()).interval(peer, parks) in intervals, "that may be the same peer at another tracker"


def test_a_client_in_many_swarms_announces_as_usual() -> None:
    _, (peer, _) = swarm_of(0, 2)
    for number in range(20):
        Swarm(f"{number:020}").join(peer.peer_id, peer.connection, False, NOW)
    assert chooser(seeded()).interval(peer, False) == 120


def test_no_peer_is_told_a_longer_interval_than_the_usual_one() -> None:
    _, (peer, _) = swarm_of(0, 2)
    assert chooser(seeded(), announce_interval=20, lonely_interval=30).interval(peer, True) in soon(20)


def test_peers_that_have_joined_together_do_not_announce_together_again() -> None:
    swarm, (peer, other, _) = swarm_of(1, 2)
    choice = chooser(seeded(), announce_interval=120, lonely_interval=30)
    told = [choice.interval(one, False) for _ in range(100) for one in (peer, other)]
    assert set(told) == set(soon(30))
    assert swarm.complete == 1
