"""Offers for nearby peers first: the index of places, and the choice of receivers with it."""

import random
from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import HASH, announce, offers
from tests.unit.core.swarms import FRESH, NOW, swarm_of
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.choice import Chooser
from tracker.core.nearby import NEARNESS, OTHER, Nearby, Place, PlaceIndex, SwarmPlaces, nearness
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL, Member, Peer, RemoteMember, Swarm

PLACES = st.tuples(*(st.sampled_from(["", *(f"{kind}{number}" for number in range(3))]) for kind in "anAc"))
ADDRESSES = st.sampled_from(["1.1.1.1", "1.1.1.2", "1.1.2.1", "1.2.1.1", "2.1.1.1", "2.1.1.2"])


def locate(address: str) -> Place:
    """The first number of an address is its country, and the first two are its autonomous system."""
    country, asn, *_ = address.split(".")
    return address, address.rpartition(".")[0] + ".", f"AS{country}.{asn}", country


def nearby(random_share: float = 0.25) -> Nearby:
    return Nearby(locate, random_share)


def near_swarm(
    *addresses: str,
    seeders: int = 0,
    stale: int = 0,
    remotes: tuple[tuple[int, int], ...] = (),
    random_share: float = 0.25,
) -> tuple[Swarm, list[Peer]]:
    """A swarm of peers with these addresses, which prefers nearby ones. The first `seeders` are seeders."""
    swarm, peers = swarm_of(seeders, len(addresses) - seeders, stale, remotes)
    for peer, address in zip(peers, addresses, strict=True):
        peer.connection.address = address
    swarm.prefer_nearby(nearby(random_share))
    swarm.check_invariants()
    return swarm, peers


def spread(count: int, country: int = 9) -> list[str]:
    """Addresses in one country that have nothing else in common."""
    return [f"{country}.{number}.1.1" for number in range(count)]


def choose(swarm: Swarm, peer: Peer, count: int, seed: int = 1, **rules: Any) -> list[Member]:
    """Choose as if no peer had been given an offer lately."""
    swarm.seeders_busy_until = swarm.leechers_busy_until = 0.0
    return Chooser(Rules(**rules), random.Random(seed).random).choose(swarm, peer, count, NOW)


def places_of(swarm: Swarm) -> SwarmPlaces:
    assert swarm.places is not None
    return swarm.places


class TestTheIndex:
    @given(st.lists(st.tuples(st.sampled_from(["append", "remove", "move"]), PLACES, st.integers(0))))
    def test_it_follows_its_pool(self, steps: list[tuple[str, Place, int]]) -> None:
        index, pool = PlaceIndex(), list[Place]()
        for step, place, number in steps:
            if step == "append":
                pool.append(place)
                index.append(place)
            elif pool:
                at = number % len(pool)
                if step == "remove":
                    last = pool.pop()
                    if at < len(pool):
                        pool[at] = last
                    index.remove(at)
                else:
                    pool[at] = place
                    index.move(at, place)
            index.check_invariants()
            groups = defaultdict(set)
            for member, keys in enumerate(pool):
                for key in filter(None, keys):
                    groups[key].add(member)
            assert index.places == pool
            assert {key: set(group) for key, group in index.groups.items()} == groups

    @given(st.lists(st.tuples(st.sampled_from("lsm"), st.integers(0, 9), ADDRESSES), min_size=10))
    def test_it_follows_a_swarm(self, steps: list[tuple[str, int, str]]) -> None:
        swarm = Swarm(HASH)
        swarm.prefer_nearby(nearby())
        for what, number, address in steps:
            peer = swarm.peers.get(peer_id(number))
            if peer is None:
                swarm.join(peer_id(number), FakeConnection(address), number % 3 == 0, FRESH)
            elif what == "l":
                swarm.leave(peer)
            elif what == "s" and not peer.complete:
                swarm.become_seeder(peer)
            elif what == "m":
                peer.connection.address = address
                swarm.moved(peer)
            swarm.check_invariants()
            for one in swarm.peers.values():
                assert swarm.place_of(one) == locate(one.connection.address)

    def test_the_first_common_key_is_the_nearness(self) -> None:
        place = locate("1.1.1.1")
        others = ["1.1.1.1", "1.1.1.2", "1.1.2.1", "1.2.1.1", "2.1.1.1"]
        assert [NEARNESS[nearness(place, locate(other))] for other in others] == list(NEARNESS)

    def test_unknown_keys_are_not_equal(self) -> None:
        assert nearness(("a", "b", "", ""), ("c", "d", "", "")) == OTHER


class TestTheChoice:
    def test_the_nearest_come_first(self) -> None:
        here = "1.1.1.1"
        near = [here, "1.1.1.2", "1.1.2.1", "1.2.1.1"]
        swarm, (peer, *others) = near_swarm(here, *near, *spread(500))
        for count in range(1, 5):
            seen = Counter[Member]()
            for seed in range(400):
                seen.update(choose(swarm, peer, count, seed))
            # Three quarters of the offers, and sometimes a random one.
            assert 0.70 < sum(seen[other] for other in others[:count]) / seen.total() < 0.80

    @pytest.mark.parametrize("share", [0.05, 0.25, 0.6, 1])
    @pytest.mark.parametrize("count", [1, 5, 10])
    def test_the_random_share_goes_to_any_members(self, share: float, count: int) -> None:
        near, far = 200, 800
        swarm, (peer, *_) = near_swarm(*["1.1.1.1"] * (near + 1), *spread(far), random_share=share)
        places = places_of(swarm)
        rounds = 2000
        for seed in range(rounds):
            assert len(choose(swarm, peer, count, seed)) == count
        expected = rounds * count * share * far / (near + far)
        assert sum(places.nearby.offers) == rounds * count
        assert abs(sum(places.nearby.offers[1:]) - expected) < 5 * expected**0.5

    def test_near_peers_are_chosen_at_random(self) -> None:
        swarm, (peer, *others) = near_swarm(*["1.1.1.1"] * 41, *spread(200), random_share=0.05)
        seen = Counter[Member]()
        for seed in range(4000):
            seen.update(choose(swarm, peer, 10, seed))
        assert all(0.85 < seen[other] / (4000 * 9.5 / 40) < 1.15 for other in others[:40])

    @given(
        addresses=st.lists(ADDRESSES, min_size=1, max_size=60),
        seeders=st.integers(0, 60),
        stale=st.integers(0, 60),
        count=st.integers(0, 25),
        remotes=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple),
        met=st.sets(st.integers(0, 60)),
        answered=st.booleans(),
        share=st.floats(0.05, 1),
        who=st.integers(0),
        seed=st.integers(0, 2**32),
    )
    def test_the_other_rules_hold(
        self,
        addresses: list[str],
        seeders: int,
        stale: int,
        count: int,
        remotes: tuple[tuple[int, int], ...],
        met: set[int],
        answered: bool,
        share: float,
        who: int,
        seed: int,
    ) -> None:
        seeders = min(seeders, len(addresses))
        stale = min(stale, len(addresses) - seeders)
        swarm, peers = near_swarm(*addresses, seeders=seeders, stale=stale, remotes=remotes, random_share=share)
        peer = peers[who % len(peers)]
        known = [peers[number] for number in met if number < len(peers) and peers[number] is not peer]
        for other in known:
            peer.meet(other.bit, other.complete)
            other.meet(peer.bit, peer.complete)
        damped = count == 1 and answered and (peer.met_count <= 32 or swarm.complete + swarm.incomplete <= SMALL)
        peer.answered_at = NOW if damped else 0.0
        chosen = choose(swarm, peer, count, seed)
        others = swarm.complete + swarm.incomplete - 1
        assert peer not in chosen
        for member, times in Counter(chosen).items():
            assert times <= (member.complete + member.incomplete if isinstance(member, RemoteMember) else 1)
        assert len(chosen) <= min(count, others)
        if damped:
            assert not set(known) & set(chosen)
        else:
            assert len(chosen) == min(count, others)
            wanted = len(peers) - seeders if peer.complete else seeders
            found = sum(not isinstance(member, Peer) or member.complete is not peer.complete for member in chosen)
            assert found >= min(count if peer.complete else (count + 1) // 2, wanted) or len(chosen) == others
        assert sum(places_of(swarm).nearby.offers) == len(chosen)

    def test_half_of_a_leechers_offers_go_to_seeders_the_nearest_first(self) -> None:
        swarm, peers = near_swarm(*["1.1.1.1"] * 10, *spread(90), *["1.1.1.1"] * 100, *spread(300), seeders=100)
        near, peer = set(peers[:10]), peers[100]
        near_seeders = seeders = 0
        for seed in range(500):
            chosen = choose(swarm, peer, 6, seed, max_offers_received=1000)
            near_seeders += len(near & set(chosen))
            seeders += sum(isinstance(member, Peer) and member.complete for member in chosen)
        assert 500 * 3 <= seeders < 500 * 3.6
        assert near_seeders > 500 * 3 * 0.75

    def test_a_seeder_is_given_near_leechers_first(self) -> None:
        swarm, peers = near_swarm(*["1.1.1.1"] * 20, *["1.1.1.1"] * 10, *spread(300), seeders=20)
        near = set(peers[20:30])
        found = [len(near & set(choose(swarm, peers[0], 8, seed))) for seed in range(300)]
        assert 5.9 < sum(found) / 300 < 6.4

    def test_near_peers_that_are_stale_or_have_met_come_later(self) -> None:
        swarm, (peer, *others) = near_swarm(*["1.1.1.1"] * 5, *["1.1.1.2"] * 5, *spread(300), random_share=0.05)
        for other in others[:2]:
            peer.meet(other.bit, complete=False)
            other.meet(peer.bit, complete=False)
        for other in others[2:4]:
            other.last_seen = -1000.0
        seen = Counter[Member]()
        for seed in range(300):
            seen.update(choose(swarm, peer, 5, seed))
        assert sum(seen[other] for other in others[:4]) == 0
        assert sum(seen[other] for other in others[4:9]) > 300 * 4

    def test_remote_members_get_offers_from_the_random_share(self) -> None:
        swarm, (peer, *_) = near_swarm(*["1.1.1.1"] * 100, remotes=((0, 300),))
        remote = sum(choose(swarm, peer, 4, seed).count(swarm.remotes[0]) for seed in range(2000))
        assert 0.9 < remote / (2000 * 4 * 0.25 * 0.75) < 1.1

    @pytest.mark.parametrize("complete", [True, False], ids=["seeder", "leecher"])
    def test_a_lone_peer_among_near_ones_that_need_it_is_not_flooded(self, complete: bool) -> None:
        """Elsewhere there are enough, so that the limit of the whole swarm is not reached."""
        near, far = ["1.1.1.1"] * 1000, spread(99)
        if complete:
            swarm, (lone, *rest) = near_swarm("1.1.1.1", *far, *near, seeders=100)
            makers = rest[99:]
        else:
            swarm, peers = near_swarm(*near, "1.1.1.1", *far, seeders=1000)
            makers, lone = peers[:1000], peers[1000]
        choice = Chooser(Rules(announce_interval=120, max_offers_received=30), random.Random(1).random)
        given = []
        for interval in range(5):
            now = NOW + 120 * interval
            for peer in swarm.peers.values():
                peer.last_seen = now
            chosen = [choice.choose(swarm, peer, 5, now + 120 * n / 1000) for n, peer in enumerate(makers)]
            given.append(sum(lone in members for members in chosen))
        # Of a thousand, all would choose it first. It gets 30, as many of the random share, and those of its group.
        assert min(given) > 20
        assert max(given) < 100

    @pytest.mark.parametrize(("share", "parts"), [(0, 10), (0.05, 1), (0.25, 1)])
    def test_a_swarm_in_many_networks_stays_connected(self, share: float, parts: int) -> None:
        networks, size, rounds = 10, 100, 3
        swarm, peers = near_swarm(*(f"{n % networks}.1.1.{n}" for n in range(networks * size)), random_share=share)
        choice = Chooser(Rules(), random.Random(1).random)
        part = {peer.peer_id: number for number, peer in enumerate(peers)}
        members = {number: [peer.peer_id] for number, peer in enumerate(peers)}
        for interval in range(rounds):
            now = NOW + 120 * interval
            for peer in peers:
                peer.last_seen = now
            for peer in peers:
                for other in choice.choose(swarm, peer, 5, now):
                    assert isinstance(other, Peer)
                    mine, its = part[peer.peer_id], part[other.peer_id]
                    if mine != its:
                        members[mine] += members[its]
                        part.update(dict.fromkeys(members.pop(its), mine))
        assert len(members) == parts
        offered = places_of(swarm).nearby.offers
        assert sum(offered) == networks * size * rounds * 5
        assert abs(offered[OTHER] / sum(offered) - share * 0.9) < 0.02


class TestTheHub:
    def join(self, harness: HubHarness, count: int, address: str = "1.1.1.1", start: int = 0) -> None:
        for number in range(start, start + count):
            harness.send(FakeConnection(address), announce(peer_id(number)))

    def test_only_swarms_that_are_not_small_keep_places(self) -> None:
        harness = HubHarness(nearby=nearby())
        self.join(harness, SMALL)
        swarm = harness.hub.swarms[HASH]
        assert swarm.places is None
        self.join(harness, 2, "2.1.1.1", SMALL)
        assert [swarm.place_of(peer)[3] for peer in swarm.peers.values()] == ["1"] * SMALL + ["2"] * 2

    def test_without_the_option_no_swarm_keeps_places(self) -> None:
        harness = HubHarness()
        self.join(harness, 2 * SMALL)
        assert harness.hub.swarms[HASH].places is None

    def test_offers_are_counted_by_nearness(self) -> None:
        option = nearby(0.05)
        harness = HubHarness(nearby=option)
        self.join(harness, 20, "1.1.1.1")
        self.join(harness, 20, "2.1.1.1", 20)
        peer = FakeConnection("1.1.1.1")
        harness.send(peer, announce(peer_id(99), offers=offers(10), numwant=10))
        assert sum(option.offers) == 10
        assert option.offers[0] >= 8

    def test_a_peer_has_the_place_of_its_current_connection(self) -> None:
        harness = HubHarness(nearby=nearby())
        self.join(harness, SMALL + 1)
        swarm = harness.hub.swarms[HASH]
        peer = swarm.peers[peer_id(0)]
        old, new = peer.connection, FakeConnection("2.1.1.1")
        harness.send(new, announce(peer_id(0)))
        harness.hub.close(old)
        harness.hub.check_invariants()
        assert swarm.place_of(peer) == locate("2.1.1.1")

    def test_other_places_and_another_share(self) -> None:
        option = nearby()
        harness = HubHarness(nearby=option)
        self.join(harness, SMALL + 1)
        option.change(lambda address: (address, "", "", "elsewhere"), 0.5)
        self.join(harness, 1, start=99)
        swarm = harness.hub.swarms[HASH]
        assert swarm.place_of(swarm.peers[peer_id(99)])[3] == "elsewhere"
        assert swarm.place_of(swarm.peers[peer_id(0)])[3] == "1"
        assert places_of(swarm).nearby.random_share == 0.5
        harness.hub.close(swarm.peers[peer_id(0)].connection)
        harness.hub.check_invariants()
