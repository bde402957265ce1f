"""Offers from and to peers of other trackers, which the observer sends and receives (sans I/O).

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable, Collection
from typing import Any, Final, cast

from tracker.core.choice import Chooser
from tracker.core.counters import Counters
from tracker.core.crossing import Crossings
from tracker.core.elsewhere import FIRST, FOREIGN
from tracker.core.foreign import ForeignOffers
from tracker.core.members import refusal_of
from tracker.core.observers import Observer
from tracker.core.outbox import Outbox
from tracker.core.parked import ParkedOffers
from tracker.core.rooms import is_room, own_receivers_of, stable_order
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL, Member, NodeMember, Peer, RemoteMember, Swarm
from tracker.expiring import ExpiringMap
from tracker.protocol.messages import Offer

NO_NODES: Final[frozenset[str]] = frozenset()

REFUSAL_WINDOW: Final = 10.0
MAX_RECEIVERS: Final = 10_000
"""Seconds, and number of peers, for which the receivers of a peer's offers are kept in case that some are refused."""


def spread(chosen: list[Member], remotes: list[RemoteMember]) -> None:
    """Replace members that were chosen before by remote members that were not.

    So a peer that has met no other one makes offers to all remote members, even if one of them claims most peers.
    """
    spare = [remote for remote in remotes if remote not in chosen and remote.complete + remote.incomplete]
    seen: set[Member] = set()
    for at, member in enumerate(chosen):
        if member in seen and spare:
            chosen[at] = spare.pop()
        seen.add(member)


class LinkedOffers:
    """Finds receivers for the offers of peers of other trackers, and there for those of own peers."""

    def __init__(
        self,
        rules: Rules,
        chooser: Chooser,
        parked: ParkedOffers,
        counters: Counters,
        observer: Observer | None,
        send_to_nodes: Callable[[list[Member], str, list[Offer], int], None],
    ) -> None:
        self.foreign = ForeignOffers(rules)
        self.crossings = Crossings()
        self._rules = rules
        self._chooser = chooser
        self._parked = parked
        self._counters = counters
        self._observer = observer
        self._send_to_nodes = send_to_nodes
        self._receivers: ExpiringMap[tuple[Swarm, str], list[Member]] = ExpiringMap(REFUSAL_WINDOW, MAX_RECEIVERS)
        """The receivers of the last offers of peers at other nodes, by swarm and peer_id."""

    def hand_over(self, member: RemoteMember, maker: str, offers: list[Offer], now: float) -> None:
        """Give the offers that are placed on a remote member to the observer."""
        self._counters.offers_handed_over += len(offers)
        self.crossings.note_made(maker, member, len(offers), now)
        if self._observer:
            self._observer.offers_placed(member, maker, offers)

    def place_parked(self, member: RemoteMember, newcomers: Collection[str], now: float, origin: Any) -> None:
        """Place parked offers on new peers behind a remote member: each gets one offer of every local peer.

        `newcomers` are their marks, empty for peers of which only the number is known. A local peer makes no offer to
        peers that it meets at another tracker. If it has received offers from `origin` since, as many fewer of its
        offers are placed, because these newcomers probably made them.
        """
        if self._observer is None:
            return
        overlap = member.swarm.overlap
        for parked in self._parked.of(member.swarm, now):
            count = len(newcomers) if overlap is None else overlap.newcomers_for(parked.peer, member, newcomers, now)
            known = min(parked.met[origin], count)
            parked.met[origin] -= known
            offers = self._parked.take(parked, count - known, now)
            if offers:
                self.hand_over(member, parked.peer.peer_id, offers, now)

    def deliver(
        self,
        swarm: Swarm,
        peer_id: str,
        offers: list[Offer],
        now: float,
        outbox: Outbox,
        origin: Any,
        member: RemoteMember | None = None,
        refused_by: frozenset[str] = NO_NODES,
    ) -> list[Offer]:
        """Give a remote peer's offers to distinct local peers, and return the offers that found no receiver.

        Peers that the remote peer, which is behind `member`, meets at another tracker are left out. In each window, a
        peer receives at most `max_foreign_offers` remote offers, and at most half of them from one `origin`. The offers
        are for peers of all nodes but those in `refused_by`, which have returned them.
        """
        if swarm.complete + swarm.incomplete < self._rules.min_peers:
            return offers
        foreign = self.foreign
        met = [] if member is None or swarm.overlap is None else swarm.overlap.sharing(member, peer_id)
        is_small = swarm.is_small
        wanted = SMALL if is_small else len(offers) + len(met)
        chosen: list[Member]
        if swarm.nodes is None:
            chosen = cast("list[Member]", self._chooser.choose_local(swarm, wanted, peer_id, now))
        else:
            chosen = self._chooser.choose_own(swarm, wanted, peer_id, now)
        chosen = [
            one
            for one in chosen
            if one not in met
            and (not isinstance(one, Peer) or (one.offers_due <= now and foreign.may_be_given(one, origin, now)))
            and not (isinstance(one, NodeMember) and refusal_of(one) in refused_by)
        ]
        if is_small and member is not None:
            chosen = self.crossings.admit(chosen, member, peer_id, now)
        if len(chosen) > len(offers) and is_room(swarm):
            chosen = own_receivers_of(swarm, peer_id, chosen).assign(offers)
        else:
            del chosen[len(offers) :]
            chosen.sort(key=stable_order)  # for the same reason as in `place`
        receivers = [one for one in chosen if isinstance(one, Peer)]
        relayed = offers
        if len(receivers) < len(chosen):
            relayed = [offer for one, offer in zip(chosen, offers, strict=False) if isinstance(one, Peer)]
            self._send_to_nodes(chosen, peer_id, offers, FOREIGN)
        for peer in receivers:
            foreign.note_given(peer, origin, now)
            self._parked.note_met(peer, origin)
        if is_small and member is not None:
            self.crossings.note_given(chosen, member, peer_id, now)
        if receivers:
            outbox.offers(swarm.info_hash, peer_id, receivers, relayed)
        self._counters.offers_relayed += len(receivers)
        return offers[len(chosen) :]

    def place(
        self,
        swarm: Swarm,
        maker: str,
        offers: list[Offer],
        now: float,
        refused: RemoteMember | None = None,
        flags: int = 0,
    ) -> list[Offer]:
        """Give offers of the peer `maker` at another node to the observer; return those for which there is no peer."""
        if self._observer is None or not swarm.remotes:
            return offers
        overlap, nodes = swarm.overlap, swarm.nodes
        peer = nodes.ids.get(maker) if nodes is not None else None
        if overlap is not None and peer is not None and peer.index >= 0:
            overlap.hide(peer, [], None, now)
        key = (swarm, maker)
        given = [] if refused is None else self._receivers.get(key, now) or []
        if refused is not None:
            self.crossings.note_made(maker, refused, -len(offers), now)
        chosen = self._chooser.choose_linked(swarm, len(offers), refused, given)
        chosen = self.crossings.leave_out(maker, chosen, now)
        if chosen:
            self._receivers.put(key, [*given, *chosen], now)
        if flags & FIRST and len(swarm.remotes) > 1:
            spread(chosen, [remote for remote in swarm.remotes if remote is not refused])
        if overlap is not None:
            overlap.show()
        batches: dict[RemoteMember, list[Offer]] = {}
        for member, offer in zip(chosen, offers, strict=False):
            batches.setdefault(cast(RemoteMember, member), []).append(offer)
        for remote, batch in batches.items():
            self.hand_over(remote, maker, batch, now)
        return offers[len(chosen) :]

    def expire(self, now: float) -> None:
        """Forget receivers that can no longer refuse, and offers that are no longer expected to be answered."""
        self._receivers.expire(now)
        self.crossings.expire(now)
