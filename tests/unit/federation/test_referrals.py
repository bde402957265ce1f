"""Trackers tell each other of trackers: what is asked, answered, and believed."""

import random
from collections.abc import Callable, Collection, Sequence

import pytest

from extensions.federation.reasons import Gossip
from extensions.federation.referrals import (
    ANSWERS_BURST,
    ASKS_BURST,
    CREDIT,
    FEW,
    FIRST_ASK,
    MAX_ASKED,
    MAX_PERIOD,
    MAX_STALE,
    OWN_BURST,
    OWN_PERIOD,
    PERIOD,
    REFERRED,
    Referrals,
)
from extensions.federation.wire import MAX_TRACKERS
from extensions.trackers import TrackerEntry
from tests.client import HASH

OTHER = "i" * 20
US = f"{0:064x}"
OWN = TrackerEntry(US, 100, "wss://us.example", bytes(64))


def entry(number: int, expires: int = 1) -> TrackerEntry:
    return TrackerEntry(f"{number:064x}", expires, f"wss://{number}.example", bytes(64))


class FakePeer:
    """A neighbour that keeps the messages to it."""

    def __init__(self, number: int, *wanted: str) -> None:
        self.number = number
        self.tracker_id = entry(number).tracker_id
        self.wanted: Collection[str] = wanted
        self.sought: list[str] = []
        self.told: list[tuple[str, list[int]]] = []

    def seek(self, info_hash: str) -> None:
        self.sought.append(info_hash)

    def name_trackers(self, info_hash: str, entries: Sequence[TrackerEntry]) -> None:
        self.told.append((info_hash, [int(one.tracker_id, 16) for one in entries]))

    def take(self) -> list[tuple[str, list[int]]]:
        """Return the trackers that it was told of since the last time."""
        told, self.told = self.told, []
        return told


class World:
    """The store, the neighbours, and a clock."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.own: TrackerEntry | None = OWN
        self.known: dict[str, list[TrackerEntry]] = {}
        self.learned: list[tuple[str, int]] = []
        self.common: list[FakePeer] = []
        self.is_common: Callable[[str], bool] = lambda info_hash: info_hash in (HASH, "")
        self.wants_more = True
        self.valid = True
        self.referrals = Referrals(
            self,
            US,
            lambda info_hash: self.common if self.is_common(info_hash) else [],
            lambda: self.wants_more,
            lambda _: self.valid,
            random.Random(1).sample,
            lambda _, most: most,
            self.now,
        )

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool:
        known = self.known.setdefault(info_hash, [])
        if entry in known:
            return False
        known.append(entry)
        self.learned.append((info_hash, int(entry.tracker_id, 16)))
        return True

    def entries(self, info_hash: str) -> Sequence[TrackerEntry]:
        return self.known.get(info_hash, [])

    def own_descriptor(self) -> TrackerEntry | None:
        return self.own

    def peer(self, number: int, *wanted: str, described: bool = False) -> FakePeer:
        """A link opens."""
        peer = FakePeer(number, *wanted)
        self.referrals.on_opened(peer, self.now)
        if described:
            self.tells(peer, "", entry(number))
        peer.take()
        return peer

    def tells(self, peer: FakePeer, info_hash: str, *entries: TrackerEntry) -> None:
        """A neighbour names trackers."""
        self.referrals.on_told(peer, info_hash, list(entries), self.now)

    def seeks(self, peer: FakePeer, info_hash: str) -> list[tuple[str, list[int]]]:
        """A neighbour asks. Return the answers."""
        self.referrals.on_sought(peer, info_hash, self.now)
        return peer.take()

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 3.0)
            self.referrals.ask(self.now)

    def count(self, gossip: Gossip) -> int:
        return self.referrals.counters[gossip]


@pytest.fixture
def world() -> World:
    return World()


def test_a_new_neighbour_is_told_the_own_descriptor_and_again_before_it_ends(world: World) -> None:
    peer = FakePeer(1)
    world.referrals.on_opened(peer, world.now)
    assert peer.take() == [("", [0])]
    world.wait(OWN_PERIOD - 10)
    assert peer.take() == []
    world.wait(20)
    assert peer.take() == [("", [0])]


def test_a_descriptor_that_is_there_later_is_told_then(world: World) -> None:
    world.own = None
    peer = world.peer(1)
    world.wait(10)
    assert peer.take() == []
    world.own = OWN
    world.wait(10)
    assert peer.take() == [("", [0])]


def test_a_question_is_answered_with_trackers_that_are_linked_first(world: World) -> None:
    peer, linked = world.peer(1), world.peer(30)
    world.common = [peer, linked]
    world.known[HASH] = [entry(number) for number in range(1, 40)]
    ((info_hash, told),) = world.seeks(peer, HASH)
    assert info_hash == HASH
    assert told[0] == 30
    assert len(told) == MAX_TRACKERS
    assert 1 not in told, "it knows itself"
    assert world.seeks(peer, OTHER) == [(OTHER, [])]


def test_only_linked_trackers_are_named_to_one_that_asks_for_any(world: World) -> None:
    world.known[""] = [entry(number) for number in range(50, 60)]
    peer = world.peer(1, described=True)
    world.peer(2, described=True)
    world.peer(3)
    gone = world.peer(4, described=True)
    assert [sorted(told) for _, told in world.seeks(peer, "")] == [[2, 4]]
    world.referrals.on_closed(gone)
    assert world.seeks(peer, "") == [("", [2])]
    world.valid = False
    assert world.seeks(peer, "") == [("", [])], "it has ended"


def test_questions_beyond_the_rate_are_not_answered(world: World) -> None:
    peer = world.peer(1)
    answers = sum(len(world.seeks(peer, HASH)) for _ in range(200))
    assert answers == ANSWERS_BURST
    assert world.count(Gossip.TOO_FAST) == 200 - ANSWERS_BURST
    world.now += 3.0
    assert sum(len(world.seeks(peer, HASH)) for _ in range(10)) == 3
    assert len(world.seeks(world.peer(2), HASH)) == 1, "others are answered"


def test_a_few_neighbours_are_asked_less_and_less_often_about_a_swarm(world: World) -> None:
    world.wants_more = False
    peer = world.peer(1)
    world.common = [peer]
    world.referrals.on_common(HASH, world.now)
    world.referrals.on_common(HASH, world.now)
    world.wait(2 * FIRST_ASK)
    assert peer.sought == [HASH]
    world.wait(PERIOD + 10)
    assert peer.sought == [HASH] * 2
    world.wait(PERIOD + 10)
    assert peer.sought == [HASH] * 2
    world.wait(PERIOD)
    assert peer.sought == [HASH] * 3
    world.wait(10 * MAX_PERIOD)
    asked = len(peer.sought)
    world.wait(10 * MAX_PERIOD)
    assert len(peer.sought) - asked == 10


def test_nobody_is_asked_about_a_swarm_with_enough_neighbours_or_none(world: World) -> None:
    world.wants_more = False
    peers = [world.peer(number) for number in range(1, FEW + 1)]
    for common in (peers, []):
        world.common = common
        world.referrals.on_common(HASH, world.now)
        world.wait(1000)
        assert not any(peer.sought for peer in peers)
    world.common = peers[:-1]
    world.referrals.on_common(HASH, world.now)
    world.wait(10)
    assert sum(len(peer.sought) for peer in peers) == 1


def test_one_neighbour_is_asked_for_any_trackers_each_minute_while_links_are_few(world: World) -> None:
    peers = [world.peer(number) for number in range(1, 4)]
    world.wait(10 * PERIOD)
    assert sum(peer.sought == [""] * len(peer.sought) for peer in peers) == 3
    assert 9 <= sum(len(peer.sought) for peer in peers) <= 10
    world.wants_more = False
    before = world.count(Gossip.SEEK_OUT)
    world.wait(10 * PERIOD)
    assert world.count(Gossip.SEEK_OUT) == before


def test_questions_about_very_many_swarms_are_spread(world: World) -> None:
    world.wants_more = False
    peer = world.peer(1)
    world.common = [peer]
    referrals = world.referrals
    for number in range(1000):
        referrals.on_common(HASH if not number else f"{number:020}", world.now)
    world.now += 10
    referrals.ask(world.now)
    # The others have no common neighbour any more. They cost a question, too.
    assert world.count(Gossip.SEEK_OUT) <= ASKS_BURST


def test_only_answers_that_were_asked_for_count(world: World) -> None:
    world.wants_more = False
    peer = world.peer(1)
    world.tells(peer, HASH, entry(7))
    assert world.learned == []
    assert world.count(Gossip.NOT_ASKED_FOR) == 1
    world.common = [peer]
    world.referrals.on_common(HASH, world.now)
    world.wait(2 * FIRST_ASK)
    world.tells(peer, HASH, entry(7), OWN)
    world.tells(peer, HASH, entry(8))
    assert world.learned == [(HASH, 7)]
    assert world.count(Gossip.NOT_ASKED_FOR) == 2
    world.tells(FakePeer(9), "", entry(9))
    assert world.learned == [(HASH, 7)], "there is no link"


def test_a_tracker_that_is_refused_may_be_told_of_others_without_a_question(world: World) -> None:
    peer = world.peer(1, HASH)
    world.tells(peer, HASH, entry(7))
    world.tells(peer, "", entry(8))
    assert world.learned == [(HASH, 7), ("", 8)]
    world.tells(peer, HASH, entry(9))
    world.tells(peer, "", entry(10))
    assert world.count(Gossip.NOT_ASKED_FOR) == 2


def test_a_refused_tracker_is_told_of_trackers_of_its_swarms_or_else_of_any(world: World) -> None:
    for number in range(20, 40):
        world.peer(number, described=True)
    world.known[HASH] = [entry(number) for number in range(1, 30)]
    refused = FakePeer(1, HASH, OTHER)
    world.referrals.refer(refused)
    ((info_hash, told),) = refused.take()
    assert (info_hash, len(told)) == (HASH, REFERRED // 2)
    assert 1 not in told
    only = FakePeer(1, HASH)
    world.referrals.refer(only)
    assert [(info_hash, len(told)) for info_hash, told in only.take()] == [(HASH, REFERRED)]
    for wanted in ((), (OTHER,)):
        stranger = FakePeer(2, *wanted)
        world.referrals.refer(stranger)
        ((info_hash, told),) = stranger.take()
        assert (info_hash, len(told)) == ("", REFERRED)
        assert set(told) <= set(range(20, 40))


def test_the_descriptor_of_a_neighbour_is_verified_and_may_not_change_all_the_time(world: World) -> None:
    peer = world.peer(1)
    world.valid = False
    world.tells(peer, "", entry(1))
    world.valid = True
    assert world.learned == []
    for expires in range(1, 100):
        world.tells(peer, "", entry(1, expires))
    assert len(world.learned) == OWN_BURST - 1
    assert world.count(Gossip.TOO_FAST) > 90
    world.tells(peer, "", entry(1, 1))
    assert len(world.learned) == OWN_BURST - 1, "an older one is no news"


def test_a_neighbour_that_names_trackers_which_do_not_exist_is_believed_no_more(world: World) -> None:
    peer = world.peer(1, *(f"{number:020}" for number in range(50)))
    number = 100
    for info_hash in peer.wanted:
        world.tells(peer, info_hash, *(entry(number + n) for n in range(MAX_TRACKERS)))
        number += MAX_TRACKERS
    assert CREDIT <= len(world.learned) <= CREDIT + 1
    assert world.count(Gossip.NO_CREDIT) > 900


def test_a_neighbour_that_names_trackers_which_can_be_linked_is_believed(world: World) -> None:
    peer = world.peer(1, *(f"{number:020}" for number in range(50)))
    number = 100
    for info_hash in peer.wanted:
        world.tells(peer, info_hash, *(entry(number + n) for n in range(5)))
        for _ in range(5):
            world.peer(number)
            number += 1
    assert len(world.learned) == 250
    assert world.count(Gossip.NO_CREDIT) == 0


def test_trackers_that_are_linked_already_cost_nothing(world: World) -> None:
    peer = world.peer(1, HASH)
    for number in range(100, 120):
        world.peer(number)
    world.tells(peer, HASH, *(entry(number) for number in range(100, 120)))
    assert len(world.learned) == 20
    world.tells(peer, "", *(entry(number) for number in range(200, 220)))
    assert len(world.learned) == 40


def test_swarms_that_close_leave_nothing_and_cost_no_question(world: World) -> None:
    world.wants_more = False
    world.common = [world.peer(1)]
    referrals = world.referrals
    for number in range(3 * MAX_STALE):
        referrals.on_common(f"{number:020}", world.now)
        referrals.swarm_closed(f"{number:020}")
    assert referrals.waiting <= MAX_STALE + 1
    referrals.on_common(HASH, world.now)
    world.wait(2 * FIRST_ASK)
    assert world.count(Gossip.SEEK_OUT) == 1, "the closed ones come first"
    assert referrals.waiting == 1
    # It opens again, and has one time.
    referrals.swarm_closed(HASH)
    referrals.on_common(HASH, world.now)
    world.wait(2 * FIRST_ASK)
    assert world.count(Gossip.SEEK_OUT) == 2
    world.wait(2 * PERIOD)
    assert world.count(Gossip.SEEK_OUT) == 3


def test_questions_that_a_neighbour_does_not_answer_are_forgotten(world: World) -> None:
    world.wants_more = False
    world.is_common = lambda _: True
    peer = world.peer(1)
    world.common = [peer]
    hashes = [f"{number:020}" for number in range(2 * MAX_ASKED)]
    for info_hash in hashes:
        world.referrals.on_common(info_hash, world.now)
        world.wait(FIRST_ASK)
    last = list(dict.fromkeys(reversed(peer.sought)))
    assert len(last) > MAX_ASKED
    for info_hash in last:
        # Of a tracker that is linked already, any number of entries may be told.
        world.tells(peer, info_hash, entry(1))
    assert [info_hash for info_hash, _ in world.learned] == last[:MAX_ASKED]
    world.tells(peer, last[0], entry(1, 2))
    assert len(world.learned) == MAX_ASKED, "it was answered"
