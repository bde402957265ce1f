"""Rooms: which member receives which offer, and how soon all members are connected."""

from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import HASH, announce, answer, offers
from tests.unit.core.swarms import swarm_of
from tests.unit.core.test_hub_parking import ParkingHarness
from tests.unit.fakes import FakeConnection, HubHarness, Json, peer_id
from tracker.core.rooms import is_room, receivers_of
from tracker.core.swarm import Peer
from tracker.protocol.codec import make_offer
from tracker.protocol.messages import Offer

LONG_AGO = 50.0


def some(*numbers: int) -> list[Offer]:
    return [make_offer(f"{number:020}", "v=0") for number in numbers]


@pytest.mark.parametrize(
    ("seeders", "leechers", "remotes", "room"),
    [
        (0, 8, (), True),
        (8, 0, (), True),
        (1, 7, (), False),
        (0, 8, ((1, 0),), False),
        (0, 8, ((0, 8),), True),
        (0, 17, (), False),
    ],
)
def test_a_room_is_small_and_of_one_role(
    seeders: int, leechers: int, remotes: tuple[tuple[int, int], ...], room: bool
) -> None:
    assert is_room(swarm_of(seeders, leechers, remotes=remotes)[0]) is room


@given(st.integers(2, 16), st.integers(0, 20), st.integers(0, 3), st.sets(st.integers(0, 15)), st.integers(0, 15))
def test_each_offer_has_a_receiver_of_its_own(size: int, count: int, remote: int, met: set[int], who: int) -> None:
    swarm, peers = swarm_of(0, size, remotes=((0, remote),) if remote else ())
    maker = peers[who % size]
    for number in met:
        if number < size:
            maker.meet(peers[number].bit, complete=False)
    chosen = receivers_of(swarm, maker, LONG_AGO).assign(some(*range(count)))
    assert len(chosen) == min(count, size - 1 + remote)
    local = [member for member in chosen if isinstance(member, Peer)]
    assert len(set(local)) == len(local)
    assert maker not in local
    assert len(chosen) - len(local) <= remote
    better = [p for p in peers if p is not maker and not p.bit & maker.met and p.peer_id > maker.peer_id]
    if not remote:
        assert len(set(better) & set(local)) == min(count, len(better)), "those that answer come first"


def test_a_repeated_offer_goes_to_the_same_member() -> None:
    swarm, (maker, *others) = swarm_of(0, 8)
    first = receivers_of(swarm, maker, LONG_AGO).assign(some(1, 2, 3))
    assert receivers_of(swarm, maker, LONG_AGO).assign(some(1, 2, 3)) == first
    # One is answered, and replaced by another one.
    maker.meet(next(peer for peer in others if peer is first[0]).bit, complete=False)
    again = receivers_of(swarm, maker, LONG_AGO).assign(some(2, 3, 4))
    assert again[:2] == first[1:]
    assert again[2] not in first


def test_two_trackers_give_an_offer_to_the_same_member() -> None:
    one, (maker, *_) = swarm_of(0, 8)
    other, reversed_peers = swarm_of(0, 8)
    for peer in reversed_peers[::-1]:
        other.leave(peer)
    for number in (3, 1, 7, 0, 5, 2, 6, 4):
        other.join(peer_id(number), FakeConnection(), False, 300.0)
    chosen = [
        [
            member.peer_id
            for member in receivers_of(swarm, swarm.peers[maker.peer_id], LONG_AGO).assign(some(1, 2, 3))
            if isinstance(member, Peer)
        ]
        for swarm in (one, other)
    ]
    assert chosen[0] == chosen[1]


def test_a_remote_peers_repeated_offer_goes_to_the_same_member() -> None:
    harness = ParkingHarness()
    members = {peer_id(n): harness.join(peer_id(n)) for n in range(1, 7)}
    maker = peer_id(0)
    got = []
    for _ in range(5):
        harness.remote.deliver_offers(HASH, maker, some(1, 2), harness.now, "link")
        got.append({who: [m["offer_id"] for m in one.take()] for who, one in members.items()})
    assert got == got[:1] * 5
    assert sorted(offer for received in got[0].values() for offer in received) == [f"{1:020}", f"{2:020}"]


class Page:
    """A page with Trystero 0.25: three offers, repeated until they are answered, and answers to greater ids only."""

    OFFERS = 3
    REPEATS = (0.0, 0.23, 0.77, 2.1)
    IGNORES_FOR = 23.0

    def __init__(self, room: "Room", who: str) -> None:
        self.room = room
        self.who = who
        self.connection = FakeConnection()
        self.open: dict[str, None] = {}
        self.connected: set[str] = set()
        self.ignored: dict[str, float] = {}

    def announce(self) -> None:
        while len(self.open) < self.OFFERS:
            self.open[f"{self.room.next_offer():020}"] = None
        made = [{**offers(1)[0], "offer_id": offer_id} for offer_id in self.open]
        self.room.harness.send(self.connection, announce(self.who, offers=made, numwant=self.OFFERS))

    def take(self, message: Json) -> None:
        now, maker = self.room.harness.now, message.get("peer_id", "")
        if "offer" in message:
            if maker < self.who and maker not in self.connected and self.ignored.get(maker, 0) <= now:
                self.ignored[maker] = now + self.IGNORES_FOR
                self.room.later(0.3, lambda: self.answer(maker, message["offer_id"]))
        elif "answer" in message and message["offer_id"] in self.open:
            # A second answer to an offer finds it gone.
            del self.open[message["offer_id"]]
            self.connected.add(maker)
            self.room.pages[maker].connected.add(self.who)

    def answer(self, maker: str, offer_id: str) -> None:
        self.room.harness.send(self.connection, answer(self.who, maker, offer_id))


class Room:
    """Pages that join within two seconds, and announce a few times. To make an answer takes them 0.3 seconds."""

    def __init__(self, size: int, seed: int) -> None:
        self.harness = HubHarness(seed=seed)
        self.start = self.harness.now
        self._random = Random(seed)
        self.pages = {who: Page(self, who) for who in (peer_id(self._random.randrange(10**9)) for _ in range(size))}
        self._offers = 0
        self._due: list[tuple[float, int, Callable[[], None]]] = []

    def next_offer(self) -> int:
        self._offers += 1
        return self._offers

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        heappush(self._due, (self.harness.now + seconds, len(self._due) + self._offers * 1000, do))

    def meet(self, *intervals: float) -> int:
        """Let all join; return the number of pairs that are not connected in the end, after some announce intervals."""
        for page in self.pages.values():
            joins = 2 * self._random.random()
            for repeat in (*Page.REPEATS, *(Page.REPEATS[-1] + interval for interval in intervals)):
                self._offers += 1
                self.later(joins + repeat, page.announce)
        while self._due:
            self.harness.now, _, do = heappop(self._due)
            do()
            for page in self.pages.values():
                for message in page.connection.take():
                    page.take(message)
        return sum(len(self.pages) - 1 - len(page.connected) for page in self.pages.values()) // 2


@pytest.mark.parametrize(("size", "missing"), [(4, 0.0), (6, 0.65), (8, 1.8)])
def test_few_pairs_of_a_room_have_to_wait_for_the_next_interval(size: int, missing: float) -> None:
    """Without rules for rooms, 0.7 pairs of a room of 6 would, and 2.6 of a room of 8."""
    rooms = [Room(size, seed).meet() for seed in range(40)]
    assert sum(rooms) / len(rooms) <= missing


@pytest.mark.parametrize("size", [6, 8])
def test_rooms_are_complete_after_the_next_interval(size: int) -> None:
    """The second answer to an offer connects no pair: if it counted as a meeting, the pair would come last."""
    assert [Room(size, seed).meet(30) for seed in range(40)] == [0] * 40


def test_a_second_answer_to_an_offer_is_no_meeting() -> None:
    harness = HubHarness()
    a, b, c = (harness.join(peer_id(n)) for n in range(3))
    for one, who in ((b, peer_id(1)), (c, peer_id(2))):
        harness.send(one, answer(who, peer_id(0), "o" * 20))
    maker, *others = (harness.hub.swarms[HASH].peers[peer_id(n)] for n in range(3))
    assert maker.met == others[0].bit
    assert [other.met for other in others] == [maker.bit, 0]
    assert len(a.take()) == 2, "both are passed on"
