"""Counts, offers, refusals and answers between the swarms of this tracker and its neighbours.

A neighbour is another tracker that serves some of the same swarms. How its messages travel is its own business: see
`Neighbour`. All times are seconds on a monotonic clock. Infohashes, peer_ids and offer_ids are ids as
`tracker.protocol.ids` describes them.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, Final

from extensions.federation.ledger import OfferKey
from extensions.federation.neighbour import Neighbour
from extensions.federation.presence import State, counts_of, marks_in, state_of
from extensions.federation.reasons import Dropped
from extensions.federation.routes import MAX_ROUTES, ROUTE_LIFETIME, Routes
from extensions.federation.wire import MAX_PRESENT
from tracker.extension import (
    UNKNOWN,
    Answer,
    ExpiringMap,
    Offer,
    RemoteMember,
    Swarm,
    TrackerHandle,
    from_json,
)

YIELD_TO: Final = 1.0
"""Seconds that the tracker with the greater id delays its parked offers. Otherwise two peers, each alone on its
tracker, would make an offer to each other at the same time."""

CREDIT: Final = 50
CREDIT_PER_ANSWER: Final = 20
"""Peers of one swarm that a neighbour is believed to have, and how many more for each of its answered offers. A
neighbour that claims a million peers gets only as many offers as it has earned."""

MAX_REFUSALS: Final = 2
"""How often one offer is placed again after a refusal."""

CHUNK: Final = 200
"""Swarms that a new neighbour is told of until other tasks of the event loop run."""

MAX_GROWN: Final = 50
"""Swarms for which parked offers are placed until other tasks of the event loop may run: one frame can tell of 7000."""

MAX_NEWCOMERS: Final = 1000
"""Most newcomers behind a remote member for which parked offers are placed at once. No peer parks as many offers."""

KNOWN_FOR: Final = 300.0
"""Seconds for which no offers of a peer are sent to a neighbour that has said that it gets them otherwise."""

REFUSED_FOR: Final = 30.0
"""The same for a neighbour that does not say why it has refused an offer of the peer."""


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
        self._neighbours: dict[Neighbour, None] = {}
        self._open: dict[str, Swarm] = {}
        """The swarms of which the neighbours know. The tracker itself may be a moment ahead."""
        self._dirty: dict[Swarm, None] = {}
        self._just_told: dict[Swarm, State] = {}
        """The state that all neighbours were told when a swarm opened, until the next `tell_changes`."""
        self._yielding: dict[RemoteMember, list[str]] = {}
        """Marks of newcomers behind remote members, while their trackers may make their offers first."""
        self._routes = Routes()
        self._refusals: ExpiringMap[OfferKey, int] = ExpiringMap(ROUTE_LIFETIME, MAX_ROUTES)

    # Neighbours

    def add(self, neighbour: Neighbour) -> None:
        """Begin to tell a neighbour of changes. It knows of no swarm until `introduce`."""
        self._neighbours[neighbour] = None
        self._routes.add(neighbour)

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
        self._neighbours.pop(neighbour, None)
        self._routes.remove(neighbour)
        members = neighbour.account.members
        for member in members.values():
            self._tracker.remove_remote(member)
        members.clear()
        neighbour.account.grown.clear()

    # Events of the tracker

    def swarm_opened(self, swarm: Swarm) -> None:
        """Tell all neighbours at once."""
        self._open[swarm.info_hash] = swarm
        self._just_told[swarm] = state_of(swarm)
        for neighbour in list(self._neighbours):
            self._open_swarm(neighbour, swarm)

    def swarm_changed(self, swarm: Swarm) -> None:
        """Have `tell_changes` tell the peers of a swarm, unless it has just opened with the same ones."""
        if swarm not in self._just_told or self._just_told[swarm] != state_of(swarm):
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
            neighbour.account.told_present.discard(swarm.info_hash)
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
            self._tell(neighbour, open_now)
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
        neighbour = self._routes.get(key, self._monotonic())
        if neighbour is None:
            self.dropped[Dropped.LINK_GONE] += 1
            return
        neighbour.account.counters["answers_out"] += 1
        neighbour.answer(answer)

    # Messages of neighbours. Those of a neighbour that was removed, or was not added yet, are ignored.

    def on_counts(
        self,
        neighbour: Neighbour,
        info_hash: str,
        complete: int,
        incomplete: int,
        marks: tuple[list[str], list[str]] | None = None,
    ) -> None:
        """Apply the number of peers that a neighbour has in a swarm that is open here, and their marks if it tells."""
        if neighbour not in self._neighbours:
            return
        account = neighbour.account
        member = account.members.get(info_hash)
        if not complete + incomplete:
            account.told_present.discard(info_hash)
            if member:
                del account.members[info_hash]
                self._tracker.remove_remote(member)
            return
        swarm = self._open.get(info_hash)
        if neighbour.knows_marks:
            if swarm and info_hash not in account.told_present:
                # The swarm is common now.
                self._tell(neighbour, [swarm])
            if marks is None and complete + incomplete <= MAX_PRESENT:
                # The marks follow. Until then any of these peers may be a local one.
                return
        is_new = member is None or self._tracker.swarms.get(info_hash) is not member.swarm
        if member is None or is_new:
            member = self._tracker.add_remote(info_hash, neighbour)
            if member is None:
                return
            account.members[info_hash] = member
        if marks is None:
            before = member.complete + member.incomplete
            self._believe(neighbour, member, complete, incomplete)
            newcomers = [UNKNOWN] * min(member.complete + member.incomplete - before, MAX_NEWCOMERS)
        else:
            newcomers = self._tracker.set_remote_peers(member, *marks, self._ranks(neighbour))
        if not newcomers:
            return
        # Only a single peer that was alone there has parked offers there.
        if self._id < neighbour.tracker_id or complete + incomplete > 1 or not is_new:
            account.grown[member] = (account.grown.get(member, []) + newcomers)[:MAX_NEWCOMERS]
        elif member in self._yielding:
            self._yielding[member] += newcomers
        else:
            self._yielding[member] = newcomers
            asyncio.get_running_loop().call_later(YIELD_TO, self._end_yielding, member)

    def on_offers(self, neighbour: Neighbour, info_hash: str, peer_id: str, offers: list[Offer]) -> None:
        """Give the offers of a remote peer to local peers, and refuse those that are left over."""
        if neighbour not in self._neighbours:
            return
        account = neighbour.account
        member = account.members.get(info_hash)
        if member is None:
            account.dropped[Dropped.NOT_ASKED_FOR] += len(offers)
            return
        account.counters["offers_in"] += len(offers)
        now = self._monotonic()
        keys = {id(offer): (info_hash, peer_id, from_json(offer.offer_id)) for offer in offers}
        # A client that announces to several trackers may make the same offers there.
        fresh = [offer for offer in offers if self._routes.get(keys[id(offer)], now) in (None, neighbour)]
        is_known = self._gets_otherwise(neighbour, member, peer_id)
        rest = fresh
        if not account.offering.try_take(len(offers), now):
            account.dropped[Dropped.TOO_FAST] += len(offers)
        elif not is_known:
            rest = self._tracker.deliver_offers(info_hash, peer_id, fresh, neighbour.tracker_id, member)
        for offer in fresh[: len(fresh) - len(rest)]:
            self._routes.put(keys.pop(id(offer)), neighbour, now)
        if keys:
            account.counters["refused_out"] += len(keys)
            is_known = is_known or len(fresh) < len(offers)
            neighbour.refuse(info_hash, peer_id, [offer_id for *_, offer_id in keys.values()], is_known)

    def on_refused(
        self, neighbour: Neighbour, info_hash: str, peer_id: str, offer_ids: list[str], known: bool = False
    ) -> None:
        """Place offers elsewhere that a neighbour has refused in time.

        Send it no more offers of this peer for a while, if it gets them otherwise (`known`), or does not say why.
        """
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
            member = account.members.get(info_hash)
            if member and (known or not neighbour.knows_marks):
                self._tracker.keep_apart(member, peer_id, KNOWN_FOR if known else REFUSED_FOR)
            self._tracker.place_again(info_hash, peer_id, again, member, age)

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
        if swarm in self._just_told and self._just_told[swarm] != state_of(swarm):
            # Neighbours know different peers now: tell them at the next opportunity, even if they change back.
            del self._just_told[swarm]
        info_hash = swarm.info_hash
        neighbour.open_swarm(info_hash)
        self._tell(neighbour, [swarm])
        complete, incomplete = neighbour.counts(info_hash)
        if complete or incomplete:
            self.on_counts(neighbour, info_hash, complete, incomplete)
            member = neighbour.account.members.get(info_hash)
            if member:
                self._place_grown(neighbour, member)

    def _tell(self, neighbour: Neighbour, swarms: list[Swarm]) -> None:
        """Tell a neighbour of the peers in open swarms: by their marks if it has peers there, too, and they are few."""
        counts = []
        present = []
        for swarm in swarms:
            info_hash = swarm.info_hash
            if neighbour.knows_marks and len(swarm.peers) <= MAX_PRESENT and any(neighbour.counts(info_hash)):
                present.append((info_hash, *marks_in(swarm)))
                neighbour.account.told_present.add(info_hash)
            else:
                counts.append((info_hash, *counts_of(swarm)))
        if counts:
            neighbour.tell(counts)
        if present:
            neighbour.tell_present(present)

    def _gets_otherwise(self, neighbour: Neighbour, member: RemoteMember, peer_id: str) -> bool:
        """Return whether a neighbour's peer is a local peer, too, or one of another neighbour that sends its offers."""
        if peer_id in member.swarm.peers:
            return True
        others = (other.owner.tracker_id for other in self._tracker.members_with(member.swarm, peer_id))
        return min(others, default=neighbour.tracker_id) < neighbour.tracker_id

    def _place_grown(self, neighbour: Neighbour, member: RemoteMember) -> None:
        newcomers = neighbour.account.grown.pop(member, [])
        if newcomers:
            self._tracker.place_parked(member, newcomers, neighbour.tracker_id)

    def _end_yielding(self, member: RemoteMember) -> None:
        neighbour: Neighbour = member.owner
        self._tracker.place_parked(member, self._yielding.pop(member), neighbour.tracker_id)

    def _ranks(self, neighbour: Neighbour) -> tuple[str, str] | None:
        vouched = neighbour.account.answered or self._is_trusted(neighbour)
        return (neighbour.tracker_id, self._id) if vouched else None

    def _believe(self, neighbour: Neighbour, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Count as many of the peers that a neighbour claims as its credit allows, in proportion."""
        account = neighbour.account
        believed = CREDIT + CREDIT_PER_ANSWER * account.answered
        total = complete + incomplete
        if total > believed and not self._is_trusted(neighbour):
            complete = complete * believed // total
            incomplete = believed - complete
        self._tracker.set_remote(member, complete, incomplete)
