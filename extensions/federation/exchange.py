"""Counts, offers, refusals and answers between the swarms of this tracker and its neighbours.

A neighbour is another tracker that serves some of the same swarms. How its messages travel is its own business: see
`Neighbour`. All times are seconds on a monotonic clock. Infohashes, peer_ids and offer_ids are ids as
`tracker.protocol.ids` describes them.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Final

from extensions.federation.audience import MAX_ENGAGED, Audience, CallLater, Sample
from extensions.federation.events import Interest
from extensions.federation.filters import OwnSwarms
from extensions.federation.ledger import OfferKey
from extensions.federation.neighbour import Neighbour
from extensions.federation.presence import counts_of
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
    known_peers,
    own_peer,
)

YIELD_TO: Final = 1.0
"""Seconds that the tracker with the greater id delays its parked offers. Otherwise two peers, each alone on its
tracker, would make an offer to each other at the same time."""

CREDIT: Final = 50
CREDIT_PER_ANSWER: Final = 20
"""Peers of one swarm that a neighbour is believed to have, and how many more for each of its answered offers. A
neighbour that claims a million peers gets only as many offers as it has earned."""

MAX_REFUSALS: Final = 4
"""How often one offer is placed again after a refusal, or because there is no answer."""

MAX_RESCUED: Final = 200
"""Offers to a neighbour whose link has ended that are placed again."""

MAX_GROWN: Final = 50
"""Swarms for which parked offers are placed until other tasks of the event loop may run: one frame can tell of 7000."""

MAX_LONELY: Final = 16
"""Local peers up to which it matters whether they have met each other."""

MAX_NEWCOMERS: Final = 1000
"""Most newcomers behind a remote member for which parked offers are placed at once. No peer parks as many offers."""

MAX_WITHHELD: Final = 32
"""Most newcomers behind a remote member that wait until its neighbour has answered an offer."""

KNOWN_FOR: Final = 300.0
"""Seconds for which no offers of a peer are sent to a neighbour that has said that it gets them otherwise."""

REFUSED_FOR: Final = 30.0
"""The same for a neighbour that does not say why it has refused an offer of the peer."""


def _call_later(seconds: float, function: Callable[[], None]) -> object:
    return asyncio.get_running_loop().call_later(seconds, function)


class Exchange:
    """Connects the swarms of `tracker` with the neighbours that were added.

    `tracker_id` is the id of this tracker. `is_trusted` tells whether the counts of a neighbour are believed in full.
    `swarms` are kept up to date: those that neighbours know. `sample` draws neighbours at random.
    """

    def __init__(
        self,
        tracker: TrackerHandle,
        tracker_id: str,
        is_trusted: Callable[[Neighbour], bool],
        swarms: OwnSwarms | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        sample: Sample = random.sample,
        call_later: CallLater = _call_later,
    ) -> None:
        self.dropped: Counter[Dropped] = Counter()
        """Answers for neighbours that are gone."""
        self._tracker = tracker
        self._id = tracker_id
        self._is_trusted = is_trusted
        self._monotonic = monotonic
        self._call_later = call_later
        self._audience = Audience(
            OwnSwarms() if swarms is None else swarms, self._give_up, sample, monotonic, call_later
        )
        self._yielding: dict[RemoteMember, list[str]] = {}
        """Marks of newcomers behind remote members, while their trackers may make their offers first."""
        self._routes = Routes()
        self._refusals: ExpiringMap[OfferKey, int] = ExpiringMap(ROUTE_LIFETIME, MAX_ROUTES)

    # Neighbours

    def add(self, neighbour: Neighbour) -> None:
        """Begin to exchange offers with a neighbour. It learns which swarms may be open here."""
        self._audience.add(neighbour)
        self._routes.add(neighbour)

    def remove(self, neighbour: Neighbour) -> None:
        """Forget a neighbour and the peers behind it. Offers that it has not answered may go elsewhere."""
        if neighbour not in self._audience.neighbours:
            return
        self._audience.remove(neighbour)
        self._routes.remove(neighbour)
        account = neighbour.account
        for member in account.members.values():
            self._tracker.remove_remote(member)
        account.members.clear()
        account.grown.clear()
        account.withheld.clear()
        now = self._monotonic()
        # Their answers cannot come any more. Two trackers that dial each other at once soon end a link that was in use.
        self._place_elsewhere(neighbour, account.ledger.take_last(MAX_RESCUED, now), now)

    def degree(self, info_hash: str) -> int:
        """Return the number of neighbours with which offers of a swarm are exchanged."""
        return self._audience.degree(info_hash)

    def common(self, info_hash: str) -> list[Neighbour]:
        """Return these neighbours."""
        return self._audience.common(info_hash)

    def has(self, swarm: Swarm) -> bool:
        """Return whether neighbours know that a swarm is open."""
        return self._audience.open.get(swarm.info_hash) is swarm

    def is_lonely(self, info_hash: str) -> bool:
        """Return whether a swarm is open here and no peer has met another one, here or behind a link.

        Neighbours that have the swarm do not count: they may claim peers that do not exist.
        """
        swarm = self._audience.open.get(info_hash)
        if swarm is None:
            return False
        elsewhere = sum(counts_of(swarm)) - len(swarm.peers)
        # In large swarms, peers meet. Two peers at other nodes may have met without this one.
        return len(swarm.peers) <= MAX_LONELY and elsewhere <= 1 and not any(peer.met for peer in known_peers(swarm))

    # Events of the tracker

    def swarm_opened(self, swarm: Swarm) -> None:
        """Tell neighbours of a swarm: those that may have it at once."""
        old = self._audience.open.get(swarm.info_hash)
        if old is not None:
            # The tracker reports an opening early if offers of the new swarm wait for it.
            self._close(old)
        self._audience.swarm_opened(swarm)

    def swarm_changed(self, swarm: Swarm) -> None:
        """Have `tell_changes` tell the peers of a swarm, unless it has just opened with the same ones."""
        self._audience.swarm_changed(swarm)

    def swarm_closed(self, swarm: Swarm) -> None:
        """Tell neighbours at once, unless a new swarm of this infohash was told already."""
        if self._audience.open.get(swarm.info_hash) is swarm:
            self._close(swarm)

    async def tell_changes(self) -> None:
        """Tell neighbours the counts that have changed since the last call.

        Also forget the offers that can no longer be refused or answered.
        """
        now = self._monotonic()
        self._routes.expire(now)
        self._refusals.expire(now)
        for neighbour in list(self._audience.neighbours):
            neighbour.account.ledger.expire(now)
            late, neighbour.account.ledger.late = neighbour.account.ledger.late, []
            if late:
                self._place_elsewhere(neighbour, late, now)
                await asyncio.sleep(0)
        await self._audience.tell_changes()

    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        """Send the neighbour behind a remote member the offers that the tracker has placed there."""
        neighbour: Neighbour = member.owner
        info_hash = member.swarm.info_hash
        if neighbour not in self._audience.neighbours or neighbour.counts(info_hash) == (0, 0):
            # Its link or its swarm has just ended. Other members may have room.
            self._tracker.place_again(info_hash, peer_id, offers, None, 0.0)
            return
        if member in self._yielding:
            # This is the one offer between the peers.
            del self._yielding[member][: len(offers)]
        # Offers that are too long are not placed again, because they could come back here at once, for ever.
        sent = neighbour.offer(info_hash, peer_id, offers)
        neighbour.account.counters["offers_out"] += len(sent)
        now = self._monotonic()
        for offer in sent:
            neighbour.account.ledger.enter((info_hash, peer_id, from_json(offer.offer_id)), offer, now)

    def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        """Refuse offers of a remote peer that were given to other nodes, because no peer there could be given them."""
        now = self._monotonic()
        refused: dict[Neighbour, list[str]] = {}
        for offer in offers:
            offer_id = from_json(offer.offer_id)
            neighbour = self._routes.get((swarm.info_hash, peer_id, offer_id), now)
            if neighbour is not None:
                refused.setdefault(neighbour, []).append(offer_id)
        for neighbour, offer_ids in refused.items():
            neighbour.account.counters["refused_out"] += len(offer_ids)
            neighbour.refuse(swarm.info_hash, peer_id, offer_ids, False)

    def answer_unplaced(self, answer: Answer) -> None:
        """Send an answer to the neighbour that the offer came from."""
        key = (answer.info_hash, answer.to_peer_id, from_json(answer.offer_id))
        now = self._monotonic()
        neighbour = self._routes.get(key, now)
        if neighbour is None:
            self.dropped[Dropped.LINK_GONE] += 1
            return
        neighbour.account.on_answer(answer.info_hash, answer.peer_id, answer.to_peer_id, now)
        neighbour.account.counters["answers_out"] += 1
        neighbour.answer(answer)

    # Messages of neighbours. Those of a neighbour that was removed, or was not added yet, are ignored.

    def on_may_have(self, neighbour: Neighbour, info_hashes: list[str], has_opened: bool = False) -> None:
        """Note that a neighbour may have open swarms. At the end of the frame, it is told their numbers.

        `has_opened`: they have just opened there, so that it has ignored all numbers that it was told before.
        """
        if neighbour in self._audience.neighbours:
            self._audience.on_may_have(neighbour, info_hashes, has_opened)

    def on_counts(self, neighbour: Neighbour, interest: Interest) -> None:
        """Apply the number of peers that a neighbour has in a swarm that is open here, and their marks if it tells."""
        if neighbour not in self._audience.neighbours:
            return
        info_hash, marks = interest.info_hash, interest.marks
        complete, incomplete = interest.complete, interest.incomplete
        if not complete + incomplete:
            self._end_common(neighbour, info_hash)
            return
        if interest.is_new:
            self._audience.begin_common(neighbour, info_hash, interest.reply)
            if info_hash not in neighbour.account.told:
                # The swarm has enough neighbours.
                return
        if neighbour.knows_marks and marks is None and complete + incomplete <= MAX_PRESENT:
            # The marks follow. Until then any of these peers may be a local one.
            return
        account = neighbour.account
        member = account.members.get(info_hash)
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
        if not (account.answered or self._is_trusted(neighbour)):
            # Its peers may not exist. A lonely peer must have offers left for those of other neighbours.
            waiting = account.withheld.get(member)
            account.withheld[member] = (newcomers[1:] if waiting is None else waiting + newcomers)[:MAX_WITHHELD]
            newcomers = newcomers[:1] if waiting is None else []
        if not newcomers:
            return
        # Only a single peer that was alone there has parked offers there.
        if self._id < neighbour.tracker_id or complete + incomplete > 1 or not is_new:
            account.grown[member] = (account.grown.get(member, []) + newcomers)[:MAX_NEWCOMERS]
        elif member in self._yielding:
            self._yielding[member] += newcomers
        else:
            self._yielding[member] = newcomers
            self._call_later(YIELD_TO, partial(self._end_yielding, member))

    def on_offers(self, neighbour: Neighbour, info_hash: str, peer_id: str, offers: list[Offer]) -> None:
        """Give the offers of a remote peer to local peers, and refuse those that are left over."""
        if neighbour not in self._audience.neighbours:
            return
        account = neighbour.account
        member = account.members.get(info_hash)
        if member is None:
            # This tracker may have just given up the neighbour in the swarm. Its peer must be able to meet another one.
            account.dropped[Dropped.NOT_ASKED_FOR] += len(offers)
            neighbour.refuse(info_hash, peer_id, [from_json(offer.offer_id) for offer in offers], False)
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
        if neighbour not in self._audience.neighbours:
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
            if self._may_be_placed_again(key, now):
                again.append(offer)
                age = max(age, now - since)
        if again:
            member = account.members.get(info_hash)
            if member and (known or not neighbour.knows_marks):
                self._tracker.keep_apart(member, peer_id, KNOWN_FOR if known else REFUSED_FOR)
            self._tracker.place_again(info_hash, peer_id, again, member, age)

    def on_answer(self, neighbour: Neighbour, answer: Answer) -> None:
        """Give a remote peer's answer to the local peer whose offer was sent to this neighbour."""
        if neighbour not in self._audience.neighbours:
            return
        account = neighbour.account
        key = (answer.info_hash, answer.to_peer_id, from_json(answer.offer_id))
        now = self._monotonic()
        if not account.ledger.count_answer(key, now):
            account.dropped[Dropped.NOT_ASKED_FOR] += 1
            return
        account.counters["answers_in"] += 1
        account.on_answer(answer.info_hash, answer.to_peer_id, answer.peer_id, now)
        if account.ledger.take(key, now):
            # Only the first answer to an offer gives credit.
            account.answered += 1
            while account.withheld:
                waiting, newcomers = account.withheld.popitem()
                account.grown[waiting] = (account.grown.get(waiting, []) + newcomers)[:MAX_NEWCOMERS]
            member = account.members.get(answer.info_hash)
            if member and member.complete + member.incomplete >= CREDIT:
                # A neighbour with fewer peers is believed already.
                self._believe(neighbour, member, *neighbour.counts(answer.info_hash))
        self._tracker.deliver_answer(answer)

    def on_frame_end(self, neighbour: Neighbour) -> None:
        """Do the work that the messages of one frame have caused, for some swarms: the rest is left for the next call.

        The neighbour is told the numbers that it is owed. Then parked offers are placed on newcomers. Not before: the
        same frame may bring offers of these newcomers, and one offer between two peers is enough. And the neighbour is
        told of swarms that it may have.
        """
        if neighbour in self._audience.neighbours:
            self._audience.reply(neighbour)
        if neighbour.account.owed:
            # It would ignore offers in swarms of which it has no numbers.
            return
        for member in list(islice(neighbour.account.grown, MAX_GROWN)):
            self._place_grown(neighbour, member)
        if neighbour not in self._audience.neighbours:
            return
        if self._id < neighbour.tracker_id or len(neighbour.account.may_have) <= MAX_ENGAGED:
            self._audience.engage(neighbour)
        # Of many swarms, the other side tells first. If both did at once, both would also reply.

    def _close(self, swarm: Swarm) -> None:
        info_hash = swarm.info_hash
        for neighbour in self._audience.neighbours:
            members = neighbour.account.members
            member = members.get(info_hash)
            # It may also belong to a newer swarm, which has closed before it was reported. The gateway of a cluster may
            # still keep a swarm open.
            if member and (member.swarm is swarm or self._tracker.swarms.get(info_hash) is not member.swarm):
                del members[info_hash]
                neighbour.account.grown.pop(member, None)
                neighbour.account.withheld.pop(member, None)
                self._tracker.remove_remote(member)
        self._audience.swarm_closed(swarm)

    def _place_elsewhere(
        self, neighbour: Neighbour, unanswered: list[tuple[OfferKey, Offer, float]], now: float
    ) -> None:
        """Place offers again that a neighbour has not answered, of peers that have met no other peer.

        The others have less need of it, and a second answer to an offer is in vain.
        """
        for key, offer, since in unanswered:
            info_hash, peer_id, _ = key
            swarm = self._audience.open.get(info_hash)
            peer = own_peer(swarm, peer_id) if swarm else None
            if peer and not peer.met and self._may_be_placed_again(key, now):
                member = neighbour.account.members.get(info_hash)
                self._tracker.place_again(info_hash, peer_id, [offer], member, now - since)

    def _may_be_placed_again(self, key: OfferKey, now: float) -> bool:
        refusals = (self._refusals.get(key, now) or 0) + 1
        self._refusals.put(key, refusals, now)
        return refusals <= MAX_REFUSALS

    def _give_up(self, neighbour: Neighbour, info_hash: str) -> None:
        neighbour.leave_swarm(info_hash)
        self._end_common(neighbour, info_hash)

    def _end_common(self, neighbour: Neighbour, info_hash: str) -> None:
        self._audience.end_common(neighbour, info_hash)
        member = neighbour.account.members.pop(info_hash, None)
        if member:
            neighbour.account.grown.pop(member, None)
            neighbour.account.withheld.pop(member, None)
            self._tracker.remove_remote(member)

    def _gets_otherwise(self, neighbour: Neighbour, member: RemoteMember, peer_id: str) -> bool:
        """Return whether a neighbour's peer is here, too, or one of another neighbour that sends its offers."""
        if own_peer(member.swarm, peer_id) is not None:
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
