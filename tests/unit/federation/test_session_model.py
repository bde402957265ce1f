"""Random conversations of trackers that are all linked with each other, whose links end and begin anew.

Each tracker does the same with its sessions as the extension, in the simplest way.
"""

from collections import Counter, deque
from itertools import combinations, count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from extensions.federation.events import Event, Interest, MayHave, Offered, Opened, Refused
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.limits import Budget
from extensions.federation.reasons import Dropped
from extensions.federation.session import Session
from tests.unit.fakes import peer_id
from tests.unit.federation.links import filter_of, ids_of, key, opened, some_offers
from tracker.protocol.codec import from_json, make_answer
from tracker.protocol.messages import Answer

# Two of them are text swarms.
HASHES = [*(f"{n:020}" for n in range(2)), "a room", "\u0100" * 20]
URL = "wss://tracker.example.org"

trackers = st.integers(0, 2)
hashes = st.sampled_from(HASHES)
numbers = st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(any)


class End:
    """A session, its messages that are not delivered yet, the numbers that it was told, and what it has told."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.out: deque[bytes] = deque([session.start()])
        self.others: dict[str, tuple[int, int]] = {}
        self.told: set[str] = set()
        """Swarms whose numbers the other side was told, unless it has said since that it has no peers."""
        self.outdated: set[str] = set()
        """Those of them whose numbers have changed since, before the other side has told its own."""
        self.is_open = False

    def say(self, messages: list[bytes]) -> None:
        self.out.extend(messages)


class FakeTracker:
    """Its swarms, and its end of each link, by the other tracker's number."""

    def __init__(self, number: int, room: int) -> None:
        self.number = number
        self.budget = Budget(room, 3)
        self.swarms: dict[str, tuple[int, int]] = {}
        self.own = OwnSwarms()
        self.ends: dict[int, End] = {}
        self.accepted: Counter[str] = Counter()
        self.waiting: dict[str, tuple[str, set[int]]] = {}
        """Offers that may still be refused: the swarm, and the trackers that they were sent to."""
        self.asked: set[str] = set()

    def tell(self, end: End, info_hash: str, reply: bool = False) -> None:
        end.told.add(info_hash)
        end.outdated.discard(info_hash)
        end.say(end.session.tell([(info_hash, *self.swarms[info_hash])], reply))

    def hear(self, other: int, event: Event) -> None:
        end = self.ends[other]
        if isinstance(event, Opened):
            end.is_open = True
            end.say(filter_of(self.own))
        elif isinstance(event, MayHave):
            for info_hash in event.info_hashes:
                assert info_hash_is_open(self, info_hash)
                if info_hash not in end.others:
                    self.tell(end, info_hash)
        elif isinstance(event, Interest):
            assert info_hash_is_open(self, event.info_hash)
            assert event.is_new == (event.info_hash not in end.others)
            if not (event.complete or event.incomplete):
                end.others.pop(event.info_hash, None)
                end.told.discard(event.info_hash)
            else:
                end.others[event.info_hash] = event.complete, event.incomplete
                is_up_to_date = event.reply and event.info_hash in end.told - end.outdated
                if event.is_new and not is_up_to_date:
                    self.tell(end, event.info_hash, reply=True)
        elif isinstance(event, Offered):
            assert info_hash_is_open(self, event.info_hash)
            assert event.peer_id == peer_id(other)
            self.consider(end, event)
        elif isinstance(event, Refused):
            assert event.peer_id == peer_id(self.number)
            for offer_id in event.offer_ids:
                self.place_again(other, offer_id)
        else:
            assert isinstance(event, Answer)
            assert event.to_peer_id == peer_id(self.number)
            assert from_json(event.offer_id) in self.asked, "it was never offered"

    def consider(self, end: End, offered: Offered) -> None:
        """Take every second offer and answer it, refuse the others."""
        ids = ids_of(offered.offers)
        taken = [offer_id for offer_id in ids if int(offer_id) % 2]
        self.accepted.update(taken)
        refused = [offer_id for offer_id in ids if offer_id not in taken]
        if refused:
            end.say(end.session.refuse(offered.info_hash, offered.peer_id, refused))
        for offer_id in taken:
            mine = make_answer(offered.info_hash, peer_id(self.number), offered.peer_id, offer_id, "v=0")
            end.say(end.session.answer(mine))

    def offer(self, other: int, info_hash: str, offer_ids: list[int]) -> None:
        end = self.ends[other]
        offers = [one for number in offer_ids for one in some_offers(1, start=number)]
        messages = end.session.offer(info_hash, peer_id(self.number), offers)
        assert messages, "it was told that there are peers"
        end.say(messages)
        for offer_id in ids_of(offers):
            self.asked.add(offer_id)
            self.waiting.setdefault(offer_id, (info_hash, set()))[1].add(other)

    def place_again(self, refused_by: int, offer_id: str) -> None:
        info_hash, asked = self.waiting.pop(offer_id)
        assert refused_by in asked
        for other, end in self.ends.items():
            if other not in asked and info_hash in end.others:
                self.waiting[offer_id] = info_hash, asked
                self.offer(other, info_hash, [int(offer_id)])
                return


def info_hash_is_open(tracker: FakeTracker, info_hash: str) -> bool:
    """Return whether a tracker has peers in a swarm. No event may concern other swarms."""
    return info_hash in tracker.swarms


class LinkedTrackers(RuleBasedStateMachine):
    """Three trackers, or two."""

    size = 3
    room = 10_000
    """Bytes of the filters of all neighbours of a tracker. One filter has 40."""

    def __init__(self) -> None:
        super().__init__()
        self.trackers = [FakeTracker(number, self.room) for number in range(self.size)]
        self.nonces = count(1)
        self.offer_ids = count()
        self.recorded: list[tuple[Session, bytes]] = []
        self.given_up = False
        """Whether a tracker has given up a neighbour for a swarm. Then some numbers may be missing, at both ends."""

    @initialize()
    def link_all(self) -> None:
        for one, other in combinations(range(self.size), 2):
            self.link(one, other)

    @rule(number=trackers, info_hash=hashes, now=numbers)
    def peers_come_or_go(self, number: int, info_hash: str, now: tuple[int, int]) -> None:
        tracker = self.trackers[number % self.size]
        opens = info_hash not in tracker.swarms
        tracker.swarms[info_hash] = now
        tag = tracker.own.add(info_hash)
        for end in tracker.ends.values():
            if end.is_open and opens:
                end.say([opened(tag)])
            if end.is_open and (info_hash in end.others or (opens and end.session.may_have(tag))):
                tracker.tell(end, info_hash)
            elif info_hash in end.told:
                end.outdated.add(info_hash)

    @rule(number=trackers, info_hash=hashes)
    def the_last_peer_goes(self, number: int, info_hash: str) -> None:
        tracker = self.trackers[number % self.size]
        if tracker.swarms.pop(info_hash, None):
            for end in tracker.ends.values():
                if info_hash in end.told:
                    end.say(end.session.leave_swarm(info_hash))
                end.session.forget_swarm(info_hash)
                end.others.pop(info_hash, None)
                end.told.discard(info_hash)
            tracker.own.remove(info_hash)

    @rule(one=trackers, other=trackers, info_hash=hashes)
    def a_neighbour_is_given_up_for_a_swarm(self, one: int, other: int, info_hash: str) -> None:
        tracker = self.trackers[one % self.size]
        end = tracker.ends.get(other % self.size)
        if end and info_hash in end.others:
            end.say(end.session.leave_swarm(info_hash))
            del end.others[info_hash]
            end.told.discard(info_hash)
            self.given_up = True

    @rule(one=trackers, other=trackers)
    def a_filter_is_sent_again(self, one: int, other: int) -> None:
        tracker = self.trackers[one % self.size]
        end = tracker.ends.get(other % self.size)
        if end and end.is_open:
            end.say(filter_of(tracker.own))

    @rule(number=trackers, info_hash=hashes, many=st.integers(1, 4))
    def a_peer_makes_offers(self, number: int, info_hash: str, many: int) -> None:
        tracker = self.trackers[number % self.size]
        for other, end in tracker.ends.items():
            if info_hash in end.others:
                tracker.offer(other, info_hash, [next(self.offer_ids) for _ in range(many)])

    @rule(one=trackers, other=trackers, many=st.integers(1, 6))
    def messages_arrive(self, one: int, other: int, many: int) -> None:
        one, other = one % self.size, other % self.size
        if one != other:
            self.deliver(one, other, many)

    @rule(one=trackers, other=trackers, at_once=st.booleans())
    def a_link_ends_and_another_begins(self, one: int, other: int, at_once: bool) -> None:
        one, other = one % self.size, other % self.size
        if one == other or other not in self.trackers[one].ends:
            return
        for mine, theirs in ((one, other), (other, one)):
            self.trackers[mine].ends.pop(theirs).session.release()
        if at_once:
            self.link(one, other)

    @rule(one=trackers, other=trackers, pick=st.integers(0))
    def something_comes_of_another_link(self, one: int, other: int, pick: int) -> None:
        end = self.trackers[one % self.size].ends.get(other % self.size)
        if end is None or not end.is_open or not self.recorded:
            return
        partner = self.trackers[other % self.size].ends[one % self.size].session
        session, message = self.recorded[pick % len(self.recorded)]
        if session in (end.session, partner):
            return
        try:
            events, replies = end.session.receive(message)
        except LinkError:
            # A hello or proof. A link that ends for it would begin anew; this one is left as it was.
            return
        assert (events, replies) == ([], [])

    @rule()
    def everything_arrives(self) -> None:
        self.settle()
        self.agree()

    @invariant()
    def no_offer_is_taken_twice(self) -> None:
        taken: Counter[str] = Counter()
        for tracker in self.trackers:
            taken.update(tracker.accepted)
        assert all(times == 1 for times in taken.values())

    def teardown(self) -> None:
        for one, other in combinations(range(self.size), 2):
            if other not in self.trackers[one].ends:
                self.link(one, other)
        self.settle()
        self.agree()
        for tracker in self.trackers:
            for end in tracker.ends.values():
                end.session.release()
            assert tracker.budget.take(0, self.room // 2), "all room is free again"

    def link(self, one: int, other: int) -> None:
        for mine, theirs in ((one, other), (other, one)):
            tracker = self.trackers[mine]
            nonce = next(self.nonces).to_bytes(32, "big")
            dials = mine == one
            accepts = None if dials else (lambda url: url == URL)
            session = Session(
                key(mine + 1),
                nonce,
                url=URL if dials else "",
                accepts=accepts,
                swarms=tracker.own,
                budget=tracker.budget,
            )
            tracker.ends[theirs] = End(session)

    def deliver(self, one: int, other: int, many: int) -> bool:
        """Deliver some messages of one end to the other, in one frame. Return whether there were any."""
        sender, receiver = self.trackers[one].ends.get(other), self.trackers[other].ends.get(one)
        if not sender or not receiver or not sender.out:
            return False
        messages = [sender.out.popleft() for _ in range(min(many, len(sender.out)))]
        # Filters and tags are the same on all links.
        of_one_link = [one for one in messages if not one.startswith((b'{"type":"filter"', b'{"type":"opened"'))]
        self.recorded = [*self.recorded[-200:], *((sender.session, message) for message in of_one_link)]
        events, replies = receiver.session.receive(b"\n".join(messages))
        receiver.say(replies)
        for event in events:
            self.trackers[other].hear(one, event)
        return True

    def settle(self) -> None:
        pairs = [(one, other) for one in range(self.size) for other in range(self.size) if one != other]
        while any(self.deliver(one, other, 100) for one, other in pairs):
            pass

    def agree(self) -> None:
        for one, tracker in enumerate(self.trackers):
            for other, end in tracker.ends.items():
                partner = self.trackers[other].ends[one]
                theirs = self.trackers[other].swarms
                expected = {key: theirs[key] for key in tracker.swarms if key in theirs}
                for info_hash, numbers in end.others.items():
                    assert numbers == expected[info_hash] == end.session.counts(info_hash)
                assert end.others.keys() == partner.others.keys(), "a swarm is common for both or for none"
                missing = expected.keys() - end.others.keys()
                assert not missing or self.given_up or self.lacks_room(end, partner)
                assert all(end.session.counts(info_hash) == (0, 0) for info_hash in missing)

    def lacks_room(self, *ends: End) -> bool:
        """Return whether neither end could store the other's filter."""
        return all(end.session.dropped.get(Dropped.TOO_MANY_SWARMS) for end in ends)


class TwoTrackers(LinkedTrackers):
    """The same with one link."""

    size = 2


class LittleRoom(LinkedTrackers):
    """The same with room for the filter of one neighbour: the known numbers are right, but some are missing."""

    room = 80


class NoRoom(LinkedTrackers):
    """The same without room for any filter."""

    room = 0


for machine, examples in ((LinkedTrackers, 30), (TwoTrackers, 20), (LittleRoom, 20), (NoRoom, 20)):
    machine.TestCase.settings = settings(max_examples=examples, stateful_step_count=40)
TestThreeTrackers = LinkedTrackers.TestCase
TestTwoTrackers = TwoTrackers.TestCase
TestLittleRoom = LittleRoom.TestCase
TestNoRoom = NoRoom.TestCase
