"""Trackers whose links begin and end, and whose messages are slow: in the end, all know the numbers of each other."""

import asyncio
import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.client import announce
from tests.unit.fakes import FakeConnection, peer_id
from tests.unit.federation.here import Here
from tests.unit.federation.links import dialing, listening, shake_hands, tracker_id
from tests.unit.federation.mesh_in_memory import MemoryLink

HASHES = ["h" * 20, "a room"]
TRACKERS = 3

trackers = st.sampled_from([0, 0, 0, 1, 1, 1, 2])
pairs = st.sampled_from([(0, 1), (0, 1), (0, 2), (1, 2)])
hashes = st.sampled_from([0, 0, 0, 1])
steps = st.one_of(
    st.tuples(st.just("join"), trackers, hashes, st.booleans()),
    st.tuples(st.just("leave"), trackers, st.integers(0, 9), st.booleans()),
    st.tuples(st.just("deliver"), trackers, trackers, st.integers(1, 3)),
    st.tuples(st.just("deliver"), trackers, trackers, st.integers(1, 3)),
    st.sampled_from([("notice",), ("tell",), ("wait",)]).flatmap(lambda step: st.tuples(st.just(*step), trackers)),
    st.tuples(st.just("link"), pairs, st.booleans()),
)


class Network:
    """Some trackers, not linked at first."""

    def __init__(self) -> None:
        self.trackers = [Here() for _ in range(TRACKERS)]
        self.links: dict[tuple[int, int], MemoryLink] = {}
        self.peers: list[list[FakeConnection]] = [[] for _ in range(TRACKERS)]
        self._made = 0
        for number, tracker in enumerate(self.trackers):
            tracker.timers = []
            tracker.exchange = tracker.exchange_of(tracker_id(number + 1))

    async def perform(self, step: str, *arguments: Any) -> None:
        if step == "join":
            number, which, at_once = arguments
            info_hash = HASHES[which]
            self._made += 1
            connection = FakeConnection()
            self.trackers[number].send(connection, announce(peer_id(self._made), info_hash))
            self.peers[number].append(connection)
            if at_once:
                await self.trackers[number].settle()
        elif step == "leave":
            number, which, at_once = arguments
            if self.peers[number]:
                self.trackers[number].hub.close(self.peers[number].pop(which % len(self.peers[number])))
            if at_once:
                await self.trackers[number].settle()
        elif step == "notice":
            await self.trackers[arguments[0]].settle()
        elif step == "link":
            (one, other), knows_marks = arguments
            if not self.cut(one, other):
                self.link(one, other, knows_marks)
        elif step == "deliver":
            self.deliver(*arguments)
        elif step == "tell":
            await self.trackers[arguments[0]].exchange.tell_changes()
        else:
            self.fire(self.trackers[arguments[0]])

    def link(self, one: int, other: int, knows_marks: bool) -> None:
        self._made += 1
        sessions = (
            dialing(one + 1, nonce=self._made % 100, swarms=self.trackers[one].swarms),
            listening(other + 1, nonce=100 + self._made % 100, swarms=self.trackers[other].swarms),
        )
        shake_hands(*sessions)
        for here, there, session in ((one, other, sessions[0]), (other, one, sessions[1])):
            link = self.links[here, there] = MemoryLink(self.trackers[here], session, knows_marks)
            self.trackers[here].exchange.add(link)

    def cut(self, one: int, other: int) -> bool:
        was_linked = (one, other) in self.links
        for here, there in ((one, other), (other, one)):
            link = self.links.pop((here, there), None)
            if link:
                self.trackers[here].exchange.remove(link)
        return was_linked

    def deliver(self, one: int, other: int, many: int) -> bool:
        link = self.links.get((one, other))
        if not link or not link.out:
            return False
        for _ in range(min(many, len(link.out))):
            self.links[other, one].receive(link.out.popleft())
        return True

    def fire(self, tracker: Here) -> None:
        """Let all timers end."""
        assert tracker.timers is not None
        timers, tracker.timers = tracker.timers, []
        for seconds, function in timers:
            tracker.later += seconds
            function()

    async def settle(self) -> None:
        for _ in range(3):
            for tracker in self.trackers:
                await tracker.settle()
                self.fire(tracker)
                tracker.later += 60
                await tracker.exchange.tell_changes()
            while any(self.deliver(*pair, 100) for pair in permutations(range(TRACKERS), 2)):
                for tracker in self.trackers:
                    await tracker.settle()

    def check(self) -> None:
        for (here, there), link in self.links.items():
            theirs = self.trackers[there].hub.swarms
            for info_hash, swarm in self.trackers[here].hub.swarms.items():
                expected = len(theirs[info_hash].peers) if info_hash in theirs else 0
                assert sum(link.session.counts(info_hash)) == expected
                member = link.account.members.get(info_hash)
                assert (member.complete + member.incomplete if member else 0) == expected
                assert member is None or member.swarm is swarm
            assert link.account.members.keys() <= self.trackers[here].hub.swarms.keys()
            assert link.account.told <= self.trackers[here].hub.swarms.keys()
        for tracker in self.trackers:
            assert all(info_hash in tracker.swarms for info_hash in tracker.hub.swarms)
            assert len(tracker.swarms) == len(tracker.hub.swarms)
            tracker.hub.check_invariants()


@settings(max_examples=100, deadline=None)
@example(
    [("join", 1, 0, True), ("deliver", 1, 0, 3), ("join", 0, 0, True), ("join", 0, 0, True), ("tell", 0)],
)
@given(st.lists(steps, max_size=40))
def test_whatever_has_happened_linked_trackers_know_each_others_numbers(script: list[tuple[Any, ...]]) -> None:
    async def scenario() -> None:
        network = Network()
        network.link(0, 1, True)
        for step, *arguments in script:
            await network.perform(step, *arguments)
        await network.settle()
        network.check()

    asyncio.run(scenario())


@pytest.mark.parametrize("seed", range(20))
def test_linked_trackers_know_each_others_numbers_again_and_again(seed: int) -> None:
    """Longer than hypothesis makes them."""

    async def scenario() -> None:
        chosen = random.Random(seed)
        network = Network()
        network.link(0, 1, True)
        for _ in range(30):
            for _ in range(chosen.randrange(1, 20)):
                number, other = chosen.choice([(0, 1), (1, 0), (0, 1), (1, 0), (0, 2), (2, 1)])
                possible: list[tuple[Any, ...]] = [
                    ("join", number, chosen.choice([0, 0, 0, 1]), chosen.random() < 0.8),
                    ("join", number, 0, True),
                    ("leave", number, chosen.randrange(9), chosen.random() < 0.8),
                    ("leave", number, chosen.randrange(9), True),
                    ("deliver", number, other, chosen.randrange(1, 4)),
                    ("deliver", number, other, chosen.randrange(1, 4)),
                    ("tell", number),
                    ("notice", number),
                    ("wait", number),
                    *([("link", tuple(sorted((number, other))), True)] if chosen.random() < 0.2 else []),
                ]
                step, *arguments = chosen.choice(possible)
                await network.perform(step, *arguments)
            await network.settle()
            network.check()

    asyncio.run(scenario())
