"""Counts, offers, refusals and answers between the swarms of this tracker and its neighbours.

A neighbour is another tracker that serves some of the same swarms. How its messages travel is its own business: see
`Neighbour`. All times are seconds on a monotonic clock. Infohashes, peer_ids and offer_ids are ids as
`tracker.protocol.ids` describes them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable
from itertools import islice
from typing import Any, Final, Protocol

from extensions.federation.ledger import Ledger
from extensions.federation.reasons import Dropped
from tracker.extension import Answer, ExpiringMap, Offer, RemoteMember, Swarm, TokenBucket, TrackerHandle, from_json

YIELD_TO: Final = 1.0
"""Seconds that the tracker with the greater id delays its parked offers. Otherwise two peers, each alone on its
tracker, would make an offer to each other at the same time."""

CREDIT: Final = 50
CREDIT_PER_ANSWER: Final = 20
"""Peers of one swarm that a neighbour is believed to have, and how many more for each of its answered offers. A
neighbour that claims a million peers gets only as many offers as it has earned."""

ROUTE_LIFETIME: Final = 120.0
MAX_ROUTES: Final = 100_000
"""Seconds, and number of offers, for which it is remembered from which neighbour an offer came."""

MAX_REFUSALS: Final = 2
"""How often one offer is placed again after a refusal."""

OFFERS_PER_SECOND: Final = 1000.0
OFFERS_BURST: Final = 5000.0
"""The token bucket for the offers of one neighbour. Offers beyond it are refused."""

CHUNK: Final = 200
"""Swarms that a new neighbour is told of until other tasks of the event loop run."""

MAX_GROWN: Final = 50
"""Swarms for which parked offers are placed until other tasks of the event loop may run: one frame can tell of 7000."""


class Account:
    """The state of one neighbour in the exchange."""

    def __init__(self, now: float) -> None:
        self.members: dict[str, RemoteMember] = {}
        """Its remote members by infohash: one for each swarm in which it has peers and this tracker has, too."""
        self.last_shared = now
        """When `members` was last seen not to be empty."""
        self.ledger = Ledger()
        self.answered = 0
        """The offers sent to it that were answered while they could still be refused."""
        self.offering = TokenBucket(OFFERS_PER_SECOND, OFFERS_BURST, now)
        self.grown: dict[RemoteMember, int] = {}
        """Newcomers behind each remote member for which no parked offers have been placed yet."""
        self.counters: Counter[str] = Counter()
        self.dropped: Counter[Dropped] = Counter()


class Neighbour(Protocol):
    """Another tracker, as the exchange uses it. Implementations inherit from this class."""

    account: Account

    @property
    def tracker_id(self) -> str:
        """Its tracker id, 64 hexadecimal digits."""
        ...

    def open_swarm(self, info_hash: str, complete: int, incomplete: int) -> None:
        """Tell it at once that a swarm has opened here, with this number of seeders and leechers."""
        ...

    def close_swarm(self, info_hash: str) -> None:
        """Tell it at once that a swarm has closed here."""
        ...

    def tell(self, counts: Iterable[tuple[str, int, int]]) -> None:
        """Tell it the number of seeders and leechers in swarms: (infohash, seeders, leechers)."""
        ...

    def counts(self, info_hash: str) -> tuple[int, int]:
        """Return the number of seeders and leechers that it has told for a swarm that is open here."""
        ...

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        """Send it offers of a local peer, and return those that were sent. The others are too long for it."""
        ...

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str]) -> None:
        """Return offers that it sent and that no local peer was given."""
        ...

    def answer(self, answer: Answer) -> None:
        """Send it a local peer's answer to an offer that came from it."""
        ...


class Exchange:
    """Connects the swarms of `tracker` with the neighbours that were added.

    `tracker_id` is the id of this tracker. `is_trusted` tells whether the counts of a neighbour are believed in full.
    """

    def __init__(
        self,
        tracker: TrackerHandle,
        tracker_id: str,
        is_trusted: Callable[[Neighbour], bool],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.dropped: Counter[Dropped] = Counter()
        """Answers for neighbours that are gone."""
        self._tracker = tracker
        self._id = tracker_id
        self._is_trusted = is_trusted
        self._monotonic = monotonic
        self._neighbours: dict[Neighbour, int] = {}
        """Each with a number that no other neighbour has or had."""
        self._by_number: dict[int, Neighbour] = {}
        self._added = 0
        self._open: dict[str, Swarm] = {}
        """The swarms of which the neighbours know. The tracker itself may be a moment ahead."""
        self._dirty: dict[Swarm, None] = {}
        self._just_told: dict[Swarm, tuple[int, int]] = {}
        """The counts that all neighbours were told when a swarm opened, until the next `tell_changes`."""
        self._yielding: dict[RemoteMember, int] = {}
        """Newcomers behind remote members, while their trackers may make their offers first."""
        self._routes: ExpiringMap[tuple[str, str, str], int] = ExpiringMap(ROUTE_LIFETIME, MAX_ROUTES)
        """The number of the neighbour that each delivered offer came from, by infohash, peer_id and offer_id. Not the
        neighbour itself, because a route must not keep one in memory that is gone, with all names of its swarms."""
        self._refusals: ExpiringMap[tuple[str, str, str], int] = ExpiringMap(ROUTE_LIFETIME, MAX_ROUTES)

    # Neighbours

    def add(self, neighbour: Neighbour) -> None:
        """Begin to tell a neighbour of changes. It knows of no swarm until `introduce`."""
        self._added += 1
        self._neighbours[neighbour] = self._added
        self._by_number[self._added] = neighbour

    def introduce(self, neighbour: Neighbour) -> Coroutine[Any, Any, None]:
        """Return a coroutine that tells a new neighbour of all swarms that are open now, `CHUNK` at a time.

        Swarms that open later are told by `swarm_opened`.
        """
        return self._introduce(neighbour, list(self._open.values()))

    async def _introduce(self, neighbour: Neighbour, swarms: list[Swarm]) -> None:
        for start in range(0, len(swarms), CHUNK):
            if neighbour not in self._neighbours:
                return
            for swarm in swarms[start : start + CHUNK]:
                if self._open.get(swarm.info_hash) is swarm:
                    self._open_swarm(neighbour, swarm)
            await asyncio.sleep(0)

    def remove(self, neighbour: Neighbour) -> None:
        """Forget a neighbour and the peers behind it. Offers that are on their way come to nothing."""
        number = self._neighbours.pop(neighbour, None)
        if number is not None:
            del self._by_number[number]
        members = neighbour.account.members
        for member in members.values():
            self._tracker.remove_remote(member)
        members.clear()
        neighbour.account.grown.clear()

    # Events of the tracker

    def swarm_opened(self, swarm: Swarm) -> None:
        """Tell all neighbours at once."""
        self._open[swarm.info_hash] = swarm
        self._just_told[swarm] = _counts(swarm)
        for neighbour in list(self._neighbours):
            self._open_swarm(neighbour, swarm)

    def swarm_changed(self, swarm: Swarm) -> None:
        """Have `tell_changes` tell the counts of a swarm, unless it has just opened with the same ones."""
        if self._just_told.get(swarm) != _counts(swarm):
            self._just_told.pop(swarm, None)
            self._dirty[swarm] = None

    def swarm_closed(self, swarm: Swarm) -> None:
        """Tell all neighbours at once, unless a new swarm of this infohash was told already."""
        self._dirty.pop(swarm, None)
        self._just_told.pop(swarm, None)
        if self._open.get(swarm.info_hash) is not swarm:
            # The tracker reports an opening early if offers of the new swarm wait for it.
            return
        del self._open[swarm.info_hash]
        for neighbour in self._neighbours:
            members = neighbour.account.members
            member = members.get(swarm.info_hash)
            # It may also belong to a newer swarm, which has closed before it was reported.
            if member and self._tracker.swarms.get(swarm.info_hash) is not member.swarm:
                del members[swarm.info_hash]
            neighbour.close_swarm(swarm.info_hash)

    async def tell_changes(self) -> None:
        """Tell all neighbours the counts that have changed since the last call.

        Also forget the offers that can no longer be refused or answered.
        """
        now = self._monotonic()
        self._routes.expire(now)
        self._refusals.expire(now)
        dirty = list(self._dirty)
        self._dirty.clear()
        self._just_told.clear()
        for neighbour in list(self._neighbours):
            # The counts of this moment, because later neighbours may have been told newer ones meanwhile.
            open_now = [swarm for swarm in dirty if self._open.get(swarm.info_hash) is swarm]
            neighbour.tell([(swarm.info_hash, *_counts(swarm)) for swarm in open_now])
            neighbour.account.ledger.expire(now)
            await asyncio.sleep(0)

    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        """Send the neighbour behind a remote member the offers that the tracker has placed there."""
        neighbour: Neighbour = member.owner
        info_hash = member.swarm.info_hash
        if neighbour not in self._neighbours or neighbour.counts(info_hash) == (0, 0):
            # Its link or its swarm has just ended. Other members may have room.
            self._tracker.place_again(info_hash, peer_id, offers, None, 0.0)
            return
        # Offers that are too long are not placed again, because they could come back here at once, for ever.
        sent = neighbour.offer(info_hash, peer_id, offers)
        neighbour.account.counters["offers_out"] += len(sent)
        now = self._monotonic()
        for offer in sent:
            neighbour.account.ledger.enter((info_hash, peer_id, from_json(offer.offer_id)), offer, now)

    def answer_unplaced(self, answer: Answer) -> None:
        """Send an answer to the neighbour that the offer came from."""
        key = (answer.info_hash, answer.to_peer_id, from_json(answer.offer_id))
        number = self._routes.get(key, self._monotonic())
        neighbour = None if number is None else self._by_number.get(number)
        if neighbour is None:
            self.dropped[Dropped.LINK_GONE] += 1
            return
        neighbour.account.counters["answers_out"] += 1
        neighbour.answer(answer)

    # Messages of neighbours. Those of a neighbour that was removed, or was not added yet, are ignored.

    def on_counts(self, neighbour: Neighbour, info_hash: str, complete: int, incomplete: int) -> None:
        """Apply the number of peers that a neighbour has in a swarm that is open here."""
        if neighbour not in self._neighbours:
            return
        account = neighbour.account
        member = account.members.get(info_hash)
        if not complete + incomplete:
            if member:
                del account.members[info_hash]
                self._tracker.remove_remote(member)
            return
        if member is None or self._tracker.swarms.get(info_hash) is not member.swarm:
            member = self._tracker.add_remote(info_hash, neighbour)
            if member is None:
                return
            account.members[info_hash] = member
        before = member.complete + member.incomplete
        self._believe(neighbour, member, complete, incomplete)
        newcomers = member.complete + member.incomplete - before
        if newcomers <= 0:
            return
        # Only a single peer that was alone there has parked offers there.
        if self._id < neighbour.tracker_id or newcomers > 1 or before:
            account.grown[member] = account.grown.get(member, 0) + newcomers
        elif member in self._yielding:
            self._yielding[member] += newcomers
        else:
            self._yielding[member] = newcomers
            asyncio.get_running_loop().call_later(YIELD_TO, self._end_yielding, member)

    def on_offers(self, neighbour: Neighbour, info_hash: str, peer_id: str, offers: list[Offer]) -> None:
        """Give the offers of a remote peer to local peers, and refuse those that are left over."""
        if neighbour not in self._neighbours:
            return
        account, number = neighbour.account, self._neighbours[neighbour]
        if info_hash not in account.members:
            account.dropped[Dropped.NOT_ASKED_FOR] += len(offers)
            return
        account.counters["offers_in"] += len(offers)
        now = self._monotonic()
        if account.offering.try_take(len(offers), now):
            rest = self._tracker.deliver_offers(info_hash, peer_id, offers, neighbour.tracker_id)
        else:
            account.dropped[Dropped.TOO_FAST] += len(offers)
            rest = offers
        # By offer, not by peer: another neighbour that uses the same peer_id must not get the answers.
        for offer in offers[: len(offers) - len(rest)]:
            self._routes.put((info_hash, peer_id, from_json(offer.offer_id)), number, now)
        if rest:
            account.counters["refused_out"] += len(rest)
            neighbour.refuse(info_hash, peer_id, [from_json(offer.offer_id) for offer in rest])

    def on_refused(self, neighbour: Neighbour, info_hash: str, peer_id: str, offer_ids: list[str]) -> None:
        """Place offers elsewhere that a neighbour has refused in time."""
        if neighbour not in self._neighbours:
            return
        account = neighbour.account
        now = self._monotonic()
        again: list[Offer] = []
        age = 0.0
        for offer_id in offer_ids:
            key = (info_hash, peer_id, offer_id)
            sent = account.ledger.take(key, now)
            if sent is None:
                account.dropped[Dropped.NOT_ASKED_FOR] += 1
                continue
            offer, since = sent
            account.counters["refused_in"] += 1
            refusals = (self._refusals.get(key, now) or 0) + 1
            self._refusals.put(key, refusals, now)
            if refusals <= MAX_REFUSALS:
                again.append(offer)
                age = max(age, now - since)
        if again:
            self._tracker.place_again(info_hash, peer_id, again, account.members.get(info_hash), age)

    def on_answer(self, neighbour: Neighbour, answer: Answer) -> None:
        """Give a remote peer's answer to the local peer whose offer was sent to this neighbour."""
        if neighbour not in self._neighbours:
            return
        account = neighbour.account
        key = (answer.info_hash, answer.to_peer_id, from_json(answer.offer_id))
        now = self._monotonic()
        if not account.ledger.count_answer(key, now):
            account.dropped[Dropped.NOT_ASKED_FOR] += 1
            return
        account.counters["answers_in"] += 1
        if account.ledger.take(key, now):
            # Only the first answer to an offer gives credit.
            account.answered += 1
            member = account.members.get(answer.info_hash)
            if member and member.complete + member.incomplete >= CREDIT:
                # A neighbour with fewer peers is believed already.
                self._believe(neighbour, member, *neighbour.counts(answer.info_hash))
        self._tracker.deliver_answer(answer)

    def on_frame_end(self, neighbour: Neighbour) -> None:
        """Place parked offers on the newcomers of the messages that came together, in `MAX_GROWN` swarms.

        Not before: the same frame may bring offers of these newcomers, and one offer between two peers is enough. The
        other swarms are left in `Account.grown` for the next call.
        """
        for member in list(islice(neighbour.account.grown, MAX_GROWN)):
            self._place_grown(neighbour, member)

    def _open_swarm(self, neighbour: Neighbour, swarm: Swarm) -> None:
        counts = _counts(swarm)
        if self._just_told.get(swarm, counts) != counts:
            # Neighbours know different counts now: tell them at the next opportunity, even if they change back.
            del self._just_told[swarm]
        info_hash = swarm.info_hash
        neighbour.open_swarm(info_hash, *counts)
        complete, incomplete = neighbour.counts(info_hash)
        if complete or incomplete:
            self.on_counts(neighbour, info_hash, complete, incomplete)
            member = neighbour.account.members.get(info_hash)
            if member:
                self._place_grown(neighbour, member)

    def _place_grown(self, neighbour: Neighbour, member: RemoteMember) -> None:
        newcomers = neighbour.account.grown.pop(member, 0)
        if newcomers:
            self._tracker.place_parked(member, newcomers, neighbour.tracker_id)

    def _end_yielding(self, member: RemoteMember) -> None:
        neighbour: Neighbour = member.owner
        self._tracker.place_parked(member, self._yielding.pop(member), neighbour.tracker_id)

    def _believe(self, neighbour: Neighbour, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Count as many of the peers that a neighbour claims as its credit allows, in proportion."""
        account = neighbour.account
        believed = CREDIT + CREDIT_PER_ANSWER * account.answered
        total = complete + incomplete
        if total > believed and not self._is_trusted(neighbour):
            complete = complete * believed // total
            incomplete = believed - complete
        self._tracker.set_remote(member, complete, incomplete)


def _counts(swarm: Swarm) -> tuple[int, int]:
    return len(swarm.seeders), len(swarm.leechers)
