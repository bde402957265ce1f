"""Trackers tell each other of trackers: whom to ask and when, what to answer, and which answers count (sans I/O).

All times are seconds on a monotonic clock. A swarm is given by its infohash, and "" stands for trackers of any swarm,
which are named by their descriptors. The store of entries verifies everything that neighbours say.
"""

import heapq
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Final, Protocol

from extensions.federation.reasons import Gossip
from extensions.federation.wire import MAX_TRACKERS
from extensions.trackers import TrackerEntry
from tracker.extension import ExpiringMap, TokenBucket

PERIOD: Final = 60.0
"""Seconds between two questions for trackers of any swarm, and at least between two questions about one swarm."""

FIRST_ASK: Final = 2.0
"""Seconds from the moment when a swarm is common to the first question about it."""

MAX_PERIOD: Final = 3600.0
"""Seconds between two questions about one swarm, at most: they are doubled after each question."""

FEW: Final = 6
"""Common neighbours below which others are asked for more trackers of a swarm."""

ASKS_PER_SECOND: Final = 10.0
ASKS_BURST: Final = 50.0
"""The token bucket for questions to all neighbours."""

ANSWERS_PER_SECOND: Final = 1.0
ANSWERS_BURST: Final = 50.0
"""The token bucket for answers to one neighbour. Its questions beyond it are ignored."""

CREDIT: Final = 20.0
CREDIT_PER_SECOND: Final = 1 / 60
"""The token bucket for trackers that are learned from one neighbour. Those that could be linked are given back: so a
neighbour that names trackers which do not exist soon causes few dials."""

MAX_ASKED: Final = 100
"""Swarms about which one neighbour was asked and has not answered yet; the oldest are forgotten first. It answers
`ANSWERS_BURST` at once, and the others within seconds."""

MAX_STALE: Final = 1000
"""Times in the heap that are no longer valid, besides one for each swarm."""

MAX_TOLD: Final = 10_000
TOLD_FOR: Final = 600.0
"""Trackers of which it is remembered who has named them, and for how many seconds."""

OWN_PERIOD: Final = 3600.0
"""Seconds after which neighbours are told the own descriptor again. It lives for twice that time."""

OWN_BURST: Final = 3.0
"""Descriptors of its own that a neighbour may tell at once, and then one in each `PERIOD`."""

REFERRED: Final = 10
"""Trackers that are named to a tracker for which there is no room."""


class Store(Protocol):
    """The part of the extension `dht` that is used here: the known entries of other trackers."""

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool: ...
    def entries(self, info_hash: str) -> Sequence[TrackerEntry]: ...
    def own_descriptor(self) -> TrackerEntry | None: ...


class Peer(Protocol):
    """Another tracker at the end of an open link."""

    @property
    def tracker_id(self) -> str: ...
    @property
    def wanted(self) -> Collection[str]:
        """Infohashes of the swarms for which the dialer has made the link."""
        ...

    def seek(self, info_hash: str) -> None: ...
    def name_trackers(self, info_hash: str, entries: Sequence[TrackerEntry]) -> None: ...


class _Relation:
    """The questions and answers on one link."""

    def __init__(self, peer: Peer, now: float) -> None:
        self.answering = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_BURST, now)
        self.asking = TokenBucket(ANSWERS_PER_SECOND, ANSWERS_BURST, now)
        """The other side answers no more than this."""
        self.telling = TokenBucket(1 / PERIOD, OWN_BURST, now)
        self.credit = TokenBucket(CREDIT_PER_SECOND, CREDIT, now)
        """The trackers that are learned from it."""
        # A tracker for which there is no room is told of others without having asked.
        self.asked = Counter(["", *peer.wanted])
        """The answers that are expected, by infohash."""
        self.knows_us = False
        """Whether it was told the own descriptor."""
        self.descriptor: TrackerEntry | None = None
        """The descriptor of the other side."""


class Referrals:
    """The questions and answers on all links.

    `common` returns the neighbours in a swarm, and `wants_more` whether trackers of any swarm are welcome. `is_valid`
    verifies a descriptor. `sample` draws from a sequence, `uniform` gives a random float between two floats.
    """

    def __init__(
        self,
        store: Store,
        own_id: str,
        common: Callable[[str], Sequence[Peer]],
        wants_more: Callable[[], bool],
        is_valid: Callable[[TrackerEntry], bool],
        sample: Callable[[Sequence[Peer], int], list[Peer]],
        uniform: Callable[[float, float], float],
        now: float,
    ) -> None:
        self.counters: Counter[Gossip] = Counter()
        self._store = store
        self._own_id = own_id
        self._common = common
        self._wants_more = wants_more
        self._is_valid = is_valid
        self._sample = sample
        self._uniform = uniform
        self._relations: dict[Peer, _Relation] = {}
        self._by_id: dict[str, _Relation] = {}
        self._told_by: ExpiringMap[str, str] = ExpiringMap(TOLD_FOR, MAX_TOLD)
        """The neighbour that has named a tracker, until there is a link with the tracker. Both are tracker ids."""
        self._asking = TokenBucket(ASKS_PER_SECOND, ASKS_BURST, now)
        self._next_general = now + uniform(0, PERIOD)
        self._next_own = now + OWN_PERIOD
        self._questions: dict[str, tuple[float, float]] = {}
        """When neighbours are asked about a swarm, and the seconds until the question after that, by infohash."""
        self._heap: list[tuple[float, str]] = []
        """The times of all questions. Those that are no longer valid are dropped when it is their turn."""

    @property
    def waiting(self) -> int:
        """Times that are stored, valid or not."""
        return len(self._heap)

    # Links

    def on_opened(self, peer: Peer, now: float) -> None:
        """Take notice of a new neighbour, and tell it the own descriptor."""
        relation = self._relations[peer] = self._by_id[peer.tracker_id] = _Relation(peer, now)
        teller = self._by_id.get(self._told_by.pop(peer.tracker_id) or "")
        if teller:
            # A negative amount is given back.
            teller.credit.take(-1, now)
        self._name_itself(peer, relation)

    def on_closed(self, peer: Peer) -> None:
        """Take notice that a link has ended."""
        relation = self._relations.pop(peer, None)
        if relation and self._by_id.get(peer.tracker_id) is relation:
            del self._by_id[peer.tracker_id]

    def refer(self, peer: Peer) -> None:
        """Name other trackers to one for which there is no room: for the swarms that it wants, or else any."""
        left = REFERRED
        for number, info_hash in enumerate(peer.wanted):
            share = -(-left // (len(peer.wanted) - number))
            entries = self._entries(info_hash, peer)[:share]
            if entries:
                self._name(peer, info_hash, entries)
                left -= len(entries)
        if left == REFERRED:
            self._name(peer, "", self._descriptors(peer)[:REFERRED])

    # Messages

    def on_sought(self, peer: Peer, info_hash: str, now: float) -> None:
        """Answer the question of a neighbour."""
        relation = self._relations.get(peer)
        self.counters[Gossip.SEEK_IN] += 1
        if relation is None or not relation.answering.try_take(1, now):
            self.counters[Gossip.TOO_FAST] += 1
            return
        entries = self._entries(info_hash, peer) if info_hash else self._descriptors(peer)
        self._name(peer, info_hash, entries[:MAX_TRACKERS])

    def on_told(self, peer: Peer, info_hash: str, entries: list[TrackerEntry], now: float) -> None:
        """Learn the trackers that a neighbour has named, if it was asked, or if it has named itself."""
        self.counters[Gossip.TRACKERS_IN] += 1
        relation = self._relations.get(peer)
        if relation is None:
            return
        if not info_hash and [entry.tracker_id for entry in entries] == [peer.tracker_id]:
            self._on_descriptor(relation, entries[0], now)
            return
        if not relation.asked[info_hash]:
            self.counters[Gossip.NOT_ASKED_FOR] += 1
            return
        relation.asked[info_hash] -= 1
        if not relation.asked[info_hash]:
            del relation.asked[info_hash]
        for entry in entries:
            if entry.tracker_id == self._own_id:
                continue
            if entry.tracker_id in self._by_id:
                # It causes no dial, and may be named to others.
                self._store.learn(info_hash, entry)
            elif relation.credit.take(0, now):
                self.counters[Gossip.NO_CREDIT] += 1
            elif self._store.learn(info_hash, entry):
                self.counters[Gossip.LEARNED] += 1
                relation.credit.take(1, now)
                self._told_by.put(entry.tracker_id, peer.tracker_id, now)

    # Questions

    def on_common(self, info_hash: str, now: float) -> None:
        """Take notice that a swarm has become common with a neighbour. It will be asked about the swarm soon."""
        if info_hash not in self._questions:
            self._schedule(info_hash, now + FIRST_ASK * self._uniform(0.5, 1.5), PERIOD)

    def swarm_closed(self, info_hash: str) -> None:
        """Ask no more about a swarm."""
        self._questions.pop(info_hash, None)

    def ask(self, now: float) -> None:
        """Ask neighbours as far as it is time. Call this every few seconds."""
        if now >= self._next_general:
            self._next_general = now + PERIOD
            peers = list(self._relations)
            if peers and self._wants_more():
                self._seek(self._sample(peers, 1)[0], "", now)
        while self._heap and self._heap[0][0] <= now:
            if self._is_valid_time(*self._heap[0]) and not self._asking.try_take(1, now):
                break
            due, info_hash = heapq.heappop(self._heap)
            if self._is_valid_time(due, info_hash):
                self._ask_about(info_hash, now)
        is_due = now >= self._next_own
        if is_due:
            self._next_own = now + OWN_PERIOD
        for peer, relation in self._relations.items():
            if is_due or not relation.knows_us:
                self._name_itself(peer, relation)

    def _ask_about(self, info_hash: str, now: float) -> None:
        peers = self._common(info_hash)
        if not 0 < len(peers) < FEW:
            # If that changes, the swarm becomes common with another neighbour.
            del self._questions[info_hash]
            return
        self._seek(self._sample(peers, 1)[0], info_hash, now)
        _, wait = self._questions[info_hash]
        self._schedule(info_hash, now + wait * self._uniform(0.5, 1.0), min(MAX_PERIOD, 2 * wait))

    def _schedule(self, info_hash: str, due: float, wait: float) -> None:
        self._questions[info_hash] = due, wait
        heapq.heappush(self._heap, (due, info_hash))
        # Swarms may close much sooner than it is time to ask about them.
        if len(self._heap) > 2 * len(self._questions) + MAX_STALE:
            self._heap = [(one_due, key) for key, (one_due, _) in self._questions.items()]
            heapq.heapify(self._heap)

    def _is_valid_time(self, due: float, info_hash: str) -> bool:
        question = self._questions.get(info_hash)
        return question is not None and question[0] == due

    def _seek(self, peer: Peer, info_hash: str, now: float) -> None:
        relation = self._relations.get(peer)
        if relation and relation.asking.try_take(1, now):
            relation.asked.pop(info_hash, None)
            relation.asked[info_hash] = 1
            if len(relation.asked) > MAX_ASKED:
                del relation.asked[next(iter(relation.asked))]
            self.counters[Gossip.SEEK_OUT] += 1
            peer.seek(info_hash)

    # Answers

    def _on_descriptor(self, relation: _Relation, entry: TrackerEntry, now: float) -> None:
        old = relation.descriptor
        if old and old.expires >= entry.expires:
            return
        if not relation.telling.try_take(1, now):
            self.counters[Gossip.TOO_FAST] += 1
        elif self._is_valid(entry):
            relation.descriptor = entry
            self.counters[Gossip.LEARNED] += self._store.learn("", entry)

    def _entries(self, info_hash: str, peer: Peer) -> list[TrackerEntry]:
        """Return entries of other trackers for a swarm. First come those that can be reached, as their link shows."""
        linked = {one.tracker_id for one in self._common(info_hash)}
        entries = [one for one in self._store.entries(info_hash) if one.tracker_id != peer.tracker_id]
        return sorted(entries, key=lambda one: one.tracker_id not in linked)

    def _descriptors(self, peer: Peer) -> list[TrackerEntry]:
        """Return descriptors of other linked trackers, in random order."""
        others = [one for one, relation in self._relations.items() if relation.descriptor and one is not peer]
        drawn = self._sample(others, min(len(others), MAX_TRACKERS))
        found = (self._relations[one].descriptor for one in drawn)
        return [entry for entry in found if entry and self._is_valid(entry)]

    def _name_itself(self, peer: Peer, relation: _Relation) -> None:
        own = self._store.own_descriptor()
        if own:
            relation.knows_us = True
            self._name(peer, "", [own])

    def _name(self, peer: Peer, info_hash: str, entries: Sequence[TrackerEntry]) -> None:
        self.counters[Gossip.TRACKERS_OUT] += 1
        peer.name_trackers(info_hash, entries)
