"""Who gets which offer."""

import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.swarm import Member, Peer, RemoteMember, Swarm

FRESH, STALE, LONG_AGO = 100.0, 0.0, 50.0


def seeded(seed: int = 7) -> Callable[[], float]:
    """The same chance in every run."""
    return random.Random(seed).random


def swarm_of(
    seeders: int, leechers: int, stale: int = 0, remotes: tuple[tuple[int, int], ...] = ()
) -> tuple[Swarm, list[Peer]]:
    """A swarm and its local peers; the last `stale` leechers have been silent."""
    swarm = Swarm("h" * 20)
    total = seeders + leechers
    peers = [
        swarm.join(peer_id(n), FakeConnection(), n < seeders, STALE if n >= total - stale else FRESH)
        for n in range(total)
    ]
    for complete, incomplete in remotes:
        swarm.set_remote(RemoteMember(swarm, None), complete, incomplete)
    swarm.check_invariants()
    return swarm, peers


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
    chosen = swarm.choose(sender, count, LONG_AGO, seeded(seed))
    assert len(chosen) == min(count, swarm.complete + swarm.incomplete - 1)
    assert sender not in chosen
    for member, times in Counter(chosen).items():
        size = 1 if isinstance(member, Peer) else member.complete + member.incomplete
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


def frequencies(swarm: Swarm, sender: Peer, count: int, rounds: int = 4000) -> Counter[Member]:
    source = seeded()
    seen: Counter[Member] = Counter()
    for _ in range(rounds):
        seen.update(swarm.choose(sender, count, LONG_AGO, source))
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
        chosen = swarm.choose(peers[0], 5, LONG_AGO, seeded(seed))
        assert {member.complete for member in chosen} == {False}
    assert sum(not member.complete for member in swarm.choose(peers[0], 8, LONG_AGO, seeded())) == 5


def test_a_leecher_is_given_seeders_for_half_its_offers_at_least() -> None:
    swarm, peers = swarm_of(10, 500)
    share = [sum(m.complete for m in swarm.choose(peers[-1], 5, LONG_AGO, seeded(n))) for n in range(200)]
    assert min(share) == 3
    assert sum(share) < 200 * 3.2, "leechers must get to know leechers too"
    (only,) = swarm.choose(peers[-1], 1, LONG_AGO, seeded())
    assert only.complete


def test_seeders_are_paired_with_seeders_when_nobody_else_is_there() -> None:
    swarm, peers = swarm_of(3, 0)
    assert set(swarm.choose(peers[0], 5, LONG_AGO, seeded())) == set(peers[1:])


@pytest.mark.parametrize("fresh", [10, 300], ids=["small", "large"])
def test_fresher_peers_are_preferred(fresh: int) -> None:
    swarm, peers = swarm_of(0, fresh + 10, stale=10)
    seen = frequencies(swarm, peers[0], 5, rounds=500)
    stale_share = sum(seen[peer] for peer in peers[-10:]) / seen.total()
    assert stale_share < 0.005


def test_stale_peers_are_better_than_none() -> None:
    swarm, peers = swarm_of(0, 6, stale=5)
    assert len(swarm.choose(peers[0], 5, LONG_AGO, seeded())) == 5
    swarm, peers = swarm_of(0, 400, stale=399)
    assert len(swarm.choose(peers[0], 5, LONG_AGO, seeded())) == 5


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
        assert swarm.remotes[0] in swarm.choose(peers[0], 3, LONG_AGO, seeded(seed))


def test_remote_counts() -> None:
    swarm, _ = swarm_of(1, 2)
    member = RemoteMember(swarm, None)
    swarm.set_remote(member, 0, 0)
    assert swarm.remotes == []
    swarm.set_remote(member, 3, 4)
    swarm.set_remote(member, 2, 5)
    assert (swarm.complete, swarm.incomplete) == (3, 7)
    swarm.check_invariants()
    with pytest.raises(ValueError, match="negative"):
        swarm.set_remote(member, -1, 0)
    swarm.set_remote(member, 0, 0)
    assert (swarm.complete, swarm.incomplete, swarm.remotes) == (1, 2, [])
    swarm.check_invariants()


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.booleans(), st.integers(0, 2**32))
def test_foreign_offers_go_to_distinct_local_peers(s: int, le: int, count: int, same: bool, seed: int) -> None:
    swarm, peers = swarm_of(s, le, remotes=((2, 2),))
    maker = peers[seed % len(peers)].peer_id if peers and same else "f" * 20
    chosen = swarm.choose_local(count, maker, LONG_AGO, seeded(seed))
    assert len(chosen) == len(set(chosen)) == min(count, len(peers) - (maker in swarm.peers))
    assert all(isinstance(peer, Peer) and peer.peer_id != maker for peer in chosen)


@given(st.lists(st.tuples(st.sampled_from("jls"), st.integers(0, 9))))
def test_the_pools_stay_in_order(steps: list[tuple[str, int]]) -> None:
    swarm = Swarm("h" * 20)
    for what, number in steps:
        peer = swarm.peers.get(peer_id(number))
        if what == "j" and peer is None:
            swarm.join(peer_id(number), FakeConnection(), number % 2 == 0, FRESH)
        elif what == "l" and peer is not None:
            swarm.leave(peer)
        elif what == "s" and peer is not None and not peer.complete:
            swarm.become_seeder(peer)
        swarm.check_invariants()
