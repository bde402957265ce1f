"""Places offers on the members of a swarm, or parks them until a receiver comes (sans I/O).

All times are seconds on any monotonic clock.
"""

from typing import Final, cast

from tracker.core.choice import Chooser
from tracker.core.counters import Counters
from tracker.core.crossing import note_given
from tracker.core.elsewhere import FIRST, FOREIGN, FROM_SEEDER, LINKED, PEER
from tracker.core.linked import MAX_RECEIVERS, NO_NODES, REFUSAL_WINDOW, LinkedOffers, spread
from tracker.core.members import note_maker
from tracker.core.observers import Nodes, Observer
from tracker.core.outbox import Outbox
from tracker.core.parked import ParkedOffers
from tracker.core.rooms import is_room, receivers_of, stable_order
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL, Connection, Member, NodeMember, Peer, Random, RemoteMember, Swarm
from tracker.expiring import ExpiringMap
from tracker.protocol.messages import Offer
from tracker.reasons import DropReason

_RETURN_WINDOW: Final = 2.0
_MAX_PLACED: Final = 1000
"""Seconds, and number of peers, for which receivers at other nodes are kept. These nodes return offers at once."""

_NO_MEMBERS: Final[list[Member]] = []


class OfferPlacement:
    """Finds receivers for the offers of local peers, and local receivers for those of peers at other nodes."""

    def __init__(self, rules: Rules, random: Random, counters: Counters, observer: Observer | None) -> None:
        self.parked = ParkedOffers(counters)
        self._rules = rules
        self.chooser = Chooser(rules, random)
        self._counters = counters
        self._observer = observer
        self.nodes: Nodes | None = None
        self.linked = LinkedOffers(rules, self.chooser, self.parked, counters, observer, self._send_to_nodes)
        self._receivers: ExpiringMap[Peer, list[Member]] = ExpiringMap(REFUSAL_WINDOW, MAX_RECEIVERS)
        """The receivers of a peer's last offers, if some of them were remote members, which may refuse."""
        self._placed: dict[Peer, tuple[float, list[Member]]] = {}
        """The same for receivers at other nodes, in small swarms, with the time. The oldest come first."""

    @property
    def remembered(self) -> int:
        """Peers with remembered receivers, because some of these may refuse."""
        return len(self._receivers)

    def place(
        self,
        swarm: Swarm,
        peer: Peer,
        offers: list[Offer],
        now: float,
        outbox: Outbox,
        connection: Connection | None = None,
        age: float = 0.0,
        refused: RemoteMember | None = None,
        refused_by: frozenset[str] = NO_NODES,
    ) -> None:
        """Give a peer's offers to other members of its swarm, and park the rest.

        Within one announce, each receiver gets at most one offer. `connection` is the connection on which the offers
        were just made, or None if they are placed again. Then `age` is the number of seconds since they were made, and
        `refused` is the remote member that has refused them, and `refused_by` the nodes that have.
        """
        observer, counters = self._observer, self._counters
        are_few = swarm.complete + swarm.incomplete < self._rules.min_peers
        if are_few and self.nodes is None:
            counters.dropped[DropReason.FEW_PEERS] += len(offers)
            return
        given = [] if connection is not None else self._receivers.get(peer, now) or []
        if refused is not None:
            self.linked.crossings.note_made(peer.peer_id, refused, -len(offers), now)
        overlap = swarm.overlap
        if overlap is not None:
            overlap.hide(peer, given, refused, now)
        others = swarm.complete + swarm.incomplete - 1
        chosen: list[Member]
        if are_few:
            # A swarm that has just opened here may have peers at other nodes.
            chosen = []
        elif refused_by:
            _, before = self._placed.get(peer, (now, _NO_MEMBERS))
            chosen = self.chooser.choose_again(swarm, peer, len(offers), before, refused_by, now)
        elif not given and 1 < len(offers) < others and is_room(swarm):
            chosen = receivers_of(swarm, peer, now - 2 * self._rules.announce_interval).assign(offers)
        else:
            chosen = self.chooser.choose(swarm, peer, len(offers) + len(given), now)
        if chosen and not peer.met and len(swarm.remotes) > 1:
            spread(chosen, swarm.remotes)
        if swarm.remotes:
            chosen = self.linked.crossings.leave_out(peer.peer_id, chosen, now)
        if overlap is not None:
            overlap.show()
        if given:
            chosen = [member for member in chosen if _may_be_several(member) or member not in given]
            chosen = chosen[: len(offers)]
        placed = len(chosen)
        if placed == others and placed > 1:
            # Every member gets an offer, the first one for the member that joined first. Trystero repeats its offers
            # until they are answered, and makes the same ones on several trackers. So each member mostly gets the same
            # one again, also after others have joined. If two members answer one offer, only the first is connected,
            # and the other one ignores the maker of the offer for 23 seconds.
            chosen.sort(key=stable_order)
        if placed:
            if swarm.nodes is not None or swarm.remotes:
                receivers, relayed, for_links, for_nodes = self._hand_over(peer, chosen, offers, now)
                if for_nodes and others < SMALL:
                    self._note_placed(peer, chosen, refused_by, now)
                if for_links:
                    self._receivers.put(peer, [*given, *chosen], now)
            else:
                receivers, relayed, for_nodes = cast("list[Peer]", chosen), offers, 0
            if receivers:
                outbox.offers(swarm.info_hash, peer.peer_id, receivers, relayed)
                counters.offers_relayed += len(receivers)
                if others < SMALL:
                    note_given(receivers, peer.peer_id, peer.complete, now)
            # The other nodes note the offers that their peers receive.
            self.chooser.note_wanted(peer, placed - for_nodes)
        if placed < len(offers):
            rest = offers[placed:]
            presences = peer.presences
            if not self.parked.enabled:
                counters.dropped[DropReason.UNPLACED_OFFER] += len(rest)
            elif connection is None:
                self.parked.add(peer, rest, now - age, now)
            elif presences is not None and not presences.is_at_home(connection):
                # They must not replace the parked offers of the connections at home.
                counters.dropped[DropReason.UNPLACED_OFFER] += len(rest)
            else:
                self.parked.park(peer, rest, now)
            if observer:
                observer.offers_unplaced(swarm, peer, rest)

    def give_parked(self, peer: Peer, now: float, outbox: Outbox) -> None:
        """Give a new peer that makes no offers one parked offer of each other peer."""
        if self.nodes is not None and peer.swarm.complete + peer.swarm.incomplete < self._rules.min_peers:
            return
        for parked in self.parked.of(peer.swarm, now)[: self._rules.max_offers]:
            offers = self.parked.take(parked, 1, now)
            self._counters.offers_relayed += len(offers)
            outbox.offers(peer.swarm.info_hash, parked.peer.peer_id, [peer], offers)
            if peer.swarm.is_small:
                note_given([peer], parked.peer.peer_id, parked.peer.complete, now)

    def deliver_from(
        self, swarm: Swarm, maker: str, offers: list[Offer], now: float, outbox: Outbox, kind: int, flags: int
    ) -> list[Offer]:
        """Give offers of the peer `maker` at another node to distinct local peers; return those that found none.

        See `NodePeers.deliver`. `kind` is SEEDERS or LEECHERS.
        """
        receivers = self.chooser.choose_for(swarm, kind, len(offers), maker, flags, now)
        if flags & FOREIGN:
            receivers = [peer for peer in receivers if self.linked.foreign.may_be_given(peer, None, now)]
        if receivers:
            self.deliver_to_each(swarm, maker, receivers, offers, now, outbox, flags)
        return offers[len(receivers) :]

    def deliver_to_each(
        self,
        swarm: Swarm,
        maker: str,
        receivers: list[Peer],
        offers: list[Offer],
        now: float,
        outbox: Outbox,
        flags: int,
    ) -> None:
        """Give offers of the peer `maker` at another node to as many local peers."""
        if flags & FOREIGN:
            for peer in receivers:
                self.linked.foreign.note_given(peer, None, now)
                self.parked.note_met(peer, None)
        else:
            is_seeder = (flags & FROM_SEEDER) != 0
            if is_seeder:
                note_maker(swarm, maker)
            self.chooser.note_wanted_by(swarm, is_seeder, len(receivers))
            if swarm.is_small:
                note_given(receivers, maker, is_seeder, now)
        outbox.offers(swarm.info_hash, maker, receivers, offers)
        self._counters.offers_relayed += len(receivers)

    def send_to_node(self, member: NodeMember, maker: str, offers: list[Offer], flags: int) -> None:
        """Give offers for a member at another node to this node."""
        if self.nodes is not None:
            self._counters.offers_to_nodes += len(offers)
            self.nodes.offers(member, maker, offers, flags)

    def give_parked_to(self, member: NodeMember, count: int, most: int, now: float) -> None:
        """Place up to `count` parked offers of each of `most` local peers on a member at another node.

        A peer that has received as many offers of linked peers since places as many fewer on linked peers.
        """
        nodes, swarm = self.nodes, member.swarm
        if nodes is None or swarm.complete + swarm.incomplete < self._rules.min_peers:
            return
        for parked in self.parked.of(swarm, now):
            peer = parked.peer
            if peer.peer_id == member.peer_id:
                continue
            if most <= 0:
                break
            most -= 1
            known = 0
            if member.kind == LINKED:
                known = min(parked.met[None], count)
                parked.met[None] -= known
            offers = self.parked.take(parked, count - known, now)
            if offers:
                self._counters.offers_to_nodes += len(offers)
                nodes.offers(member, peer.peer_id, offers, _flags_of(peer))

    def forget(self, peer: Peer) -> None:
        """Forget a peer that has left."""
        self.parked.forget(peer)
        if self._placed:
            self._placed.pop(peer, None)
        self.linked.foreign.forget(peer)
        self._receivers.pop(peer)

    def expire(self, now: float) -> None:
        """Drop the parked offers that are too old, and forget receivers that can no longer refuse."""
        self.parked.expire(now)
        self._receivers.expire(now)
        self.linked.expire(now)
        while self._placed:
            oldest = next(iter(self._placed))
            if self._placed[oldest][0] + _RETURN_WINDOW > now:
                break
            del self._placed[oldest]

    def _hand_over(
        self, peer: Peer, chosen: list[Member], offers: list[Offer], now: float
    ) -> tuple[list[Peer], list[Offer], int, int]:
        """Give the offers for remote members to the other nodes and the observer.

        Return the local receivers and their offers, and the numbers of offers for other trackers, and for own peers at
        other nodes.
        """
        receivers: list[Peer] = []
        relayed: list[Offer] = []
        nodes: list[Member] = []
        for_nodes: list[Offer] = []
        linked = 0
        remote: dict[RemoteMember, list[Offer]] = {}
        for member, offer in zip(chosen, offers, strict=False):
            if isinstance(member, Peer):
                receivers.append(member)
                relayed.append(offer)
            elif isinstance(member, NodeMember):
                nodes.append(member)
                for_nodes.append(offer)
                if member.kind == LINKED:
                    linked += 1
            elif isinstance(member, RemoteMember):
                remote.setdefault(member, []).append(offer)
        if nodes:
            self._send_to_nodes(nodes, peer.peer_id, for_nodes, _flags_of(peer))
        for remote_member, batch in remote.items():
            self.linked.hand_over(remote_member, peer.peer_id, batch, now)
        return receivers, relayed, len(chosen) - len(receivers) - len(nodes), len(nodes) - linked

    def _send_to_nodes(self, chosen: list[Member], maker: str, offers: list[Offer], flags: int) -> None:
        """Give the offers for members at other nodes to these nodes: those for one member together."""
        nodes = self.nodes
        if nodes is None:
            return
        several: dict[NodeMember, list[Offer]] = {}
        peers: dict[str, list[NodeMember]] = {}
        for_peers: dict[str, list[Offer]] = {}
        for member, offer in zip(chosen, offers, strict=False):
            if isinstance(member, NodeMember):
                self._counters.offers_to_nodes += 1
                if member.kind != PEER:
                    several.setdefault(member, []).append(offer)
                elif member.node in peers:
                    peers[member.node].append(member)
                    for_peers[member.node].append(offer)
                else:
                    peers[member.node] = [member]
                    for_peers[member.node] = [offer]
        for one, batch in several.items():
            nodes.offers(one, maker, batch, flags)
        for node, members in peers.items():
            if len(members) == 1:
                nodes.offers(members[0], maker, for_peers[node], flags)
            else:
                nodes.offers_to_each(members, maker, for_peers[node], flags)

    def _note_placed(self, peer: Peer, chosen: list[Member], refused_by: frozenset[str], now: float) -> None:
        """Remember the receivers of a peer's offers, in case that some are returned."""
        former = self._placed.pop(peer, None)
        self._placed[peer] = (now, [*former[1], *chosen] if former is not None and refused_by else chosen)
        if len(self._placed) > _MAX_PLACED:
            del self._placed[next(iter(self._placed))]


def _flags_of(peer: Peer) -> int:
    return (FROM_SEEDER if peer.complete else 0) + (0 if peer.met else FIRST)


def _may_be_several(member: Member) -> bool:
    """Return whether a member may stand for several peers."""
    return isinstance(member, RemoteMember) and not (isinstance(member, NodeMember) and member.kind == PEER)
