"""Places offers on the members of a swarm, or parks them until a receiver comes (sans I/O).

All times are seconds on any monotonic clock.
"""

import sys
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final, Protocol, cast

from tracker.core.choice import Chooser
from tracker.core.counters import Counters
from tracker.core.outbox import Outbox
from tracker.core.rooms import is_room, local_receivers_of, receivers_of
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL, Connection, Member, Peer, Random, RemoteMember, Swarm
from tracker.expiring import ExpiringMap
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason

LIFETIME: Final = 45.0
"""Seconds for which an offer is valid: bittorrent-tracker's client destroys its connection after 50 s."""

MAX_BYTES: Final = 16 << 20
"""Bytes of memory for all parked offers. Beyond this, the oldest are dropped."""

_OVERHEAD: Final = 400
"""Bytes that an offer takes besides its SDP."""

_WINDOW: Final = 60.0
"""Seconds for which the offers given to a peer are counted."""

_REFUSAL_WINDOW: Final = 10.0
_MAX_RECEIVERS: Final = 10_000
"""Seconds, and number of peers, for which the receivers of a peer's offers are kept in case that some are refused."""


class Observer(Protocol):
    """Is notified of swarms, and of offers and answers that leave the tracker. The extensions implement it.

    Its methods return at once and do not raise.
    """

    def swarm_opened(self, swarm: Swarm) -> None: ...
    def swarm_changed(self, swarm: Swarm) -> None: ...
    def swarm_closed(self, swarm: Swarm) -> None: ...
    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None: ...
    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None: ...
    def answer_unplaced(self, answer: Answer) -> bool:
        """Take an answer to a peer that is not here; return whether an extension wants it."""


class Trace(Protocol):
    """Is told what happens to single peers, for the log. Its methods return at once and do not raise."""

    def joined(self, peer: Peer) -> None: ...
    def left(self, peer: Peer) -> None: ...
    def failed(self, connection: Connection, error: RequestError) -> None: ...


class Parked:
    """The parked offers of one peer.

    `met` counts the offers that the peer has received since, by origin. As many peers at that origin need no offer.
    """

    __slots__ = ("connection", "made", "met", "offers", "peer", "size")

    def __init__(self, peer: Peer, offers: list[Offer], made: float) -> None:
        self.peer = peer
        self.connection = peer.connection
        """The connection on which the last of the offers were made."""
        self.offers = offers
        self.made = made
        self.met: Counter[Any] = Counter()
        self.size = _size(offers)


class ParkedOffers:
    """The last offers of each peer that found no receiver. Nothing is parked before `enable`."""

    def __init__(self, counters: Counters, max_bytes: int = MAX_BYTES) -> None:
        self.enabled = False
        """Whether offers are parked. If so, a peer that is alone announces more often."""
        self._counters = counters
        self._on_placed: list[Callable[[float], None]] = []
        # A dict keeps the order of insertion: the oldest offers come first.
        self._parked: dict[Peer, Parked] = {}
        self._swarms: dict[Swarm, dict[Peer, Parked]] = {}
        self._bytes = 0
        self._max_bytes = max_bytes

    @property
    def size(self) -> int:
        """Bytes of memory that the parked offers take."""
        return self._bytes

    def enable(self, on_placed: Callable[[float], None]) -> None:
        """Park offers from now on. `on_placed` gets the seconds that a parked offer waited for a receiver."""
        self.enabled = True
        self._on_placed.append(on_placed)

    def count(self, now: float) -> int:
        """Return the number of parked offers that are still valid."""
        self.expire(now)
        return sum(len(parked.offers) for parked in self._parked.values() if parked.made + LIFETIME > now)

    def park(self, peer: Peer, offers: list[Offer], now: float) -> None:
        """Park a peer's offers, which replace the peer's parked offers."""
        self.forget(peer)
        parked = Parked(peer, [offer.detached() for offer in offers], now)
        self._parked[peer] = parked
        self._swarms.setdefault(peer.swarm, {})[peer] = parked
        self._bytes += parked.size
        self.expire(now)

    def add(self, peer: Peer, offers: list[Offer], made: float, now: float) -> None:
        """Park more offers of a peer, made at the time `made`. All its offers then expire with the oldest."""
        parked = self._parked.get(peer)
        if parked is None or parked.made + LIFETIME <= now:
            self.park(peer, offers, made)
        else:
            parked.offers += [offer.detached() for offer in offers]
            parked.made = min(parked.made, made)
            size = _size(offers)
            parked.size += size
            self._bytes += size
        self.expire(now)

    def of(self, swarm: Swarm, now: float) -> list[Parked]:
        """Return the parked offers of a swarm that are still valid, the oldest first."""
        return [parked for parked in self._swarms.get(swarm, {}).values() if parked.made + LIFETIME > now]

    def note_met(self, peer: Peer, origin: Any) -> None:
        """Note that a peer has received an offer from `origin`."""
        parked = self._parked.get(peer)
        if parked:
            parked.met[origin] += 1

    def take(self, parked: Parked, count: int, now: float) -> list[Offer]:
        """Remove up to `count` of a peer's offers, and return them for placing."""
        if count <= 0:
            return []
        taken, parked.offers = parked.offers[:count], parked.offers[count:]
        size = _size(taken)
        parked.size -= size
        self._bytes -= size
        for on_placed in self._on_placed:
            on_placed(now - parked.made)
        if not parked.offers:
            self.forget(parked.peer)
        return taken

    def forget(self, peer: Peer) -> None:
        """Remove a peer's offers, because the peer left or because they are no longer valid."""
        parked = self._parked.pop(peer, None)
        if parked:
            self._bytes -= parked.size
            swarm = self._swarms[peer.swarm]
            del swarm[peer]
            if not swarm:
                del self._swarms[peer.swarm]

    def forget_from(self, peer: Peer, connection: Connection) -> None:
        """Remove a peer's offers if they were made on this connection: its client forgets them when it ends."""
        parked = self._parked.get(peer)
        if parked and parked.connection is connection:
            self.forget(peer)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if the sums or the two indexes differ; for tests."""
        assert self._bytes == sum(parked.size for parked in self._parked.values())
        assert all(parked.offers and parked.size == _size(parked.offers) for parked in self._parked.values())
        assert self._parked == {peer: parked for of in self._swarms.values() for peer, parked in of.items()}
        assert all(self._swarms.values())

    def expire(self, now: float) -> None:
        """Drop the offers that are too old, and further ones, the oldest first, while all take too much memory."""
        while self._parked:
            oldest = next(iter(self._parked.values()))
            if self._bytes <= self._max_bytes and oldest.made + LIFETIME > now:
                break
            self._counters.dropped[DropReason.UNPLACED_OFFER] += len(oldest.offers)
            self.forget(oldest.peer)


def _spread(chosen: list[Member], remotes: list[RemoteMember]) -> None:
    """Replace members that were chosen before by remote members that were not.

    So a peer that has met no other one makes offers to all remote members, even if one of them claims most peers.
    """
    spare = [remote for remote in remotes if remote not in chosen and remote.complete + remote.incomplete]
    seen: set[Member] = set()
    for at, member in enumerate(chosen):
        if member in seen and spare:
            chosen[at] = spare.pop()
        seen.add(member)


class OfferPlacement:
    """Finds receivers for the offers of local and remote peers."""

    def __init__(self, rules: Rules, random: Random, counters: Counters, observer: Observer | None) -> None:
        self.parked = ParkedOffers(counters)
        self._rules = rules
        self.chooser = Chooser(rules, random)
        self._counters = counters
        self._observer = observer
        self._given: dict[Peer, Counter[Any]] = {}
        """Remote offers given to each peer in this window, in all (None) and by origin."""
        self._window_ends = 0.0
        self._receivers: ExpiringMap[Peer, list[Member]] = ExpiringMap(_REFUSAL_WINDOW, _MAX_RECEIVERS)
        """The receivers of a peer's last offers, if some of them were remote members, which may refuse."""

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
    ) -> None:
        """Give a peer's offers to other members of its swarm, and park the rest.

        Within one announce, each receiver gets at most one offer. `connection` is the connection on which the offers
        were just made, or None if they are placed again. Then `age` is the number of seconds since they were made, and
        `refused` is the remote member that has refused them.
        """
        observer, counters = self._observer, self._counters
        if swarm.complete + swarm.incomplete < self._rules.min_peers:
            counters.dropped[DropReason.FEW_PEERS] += len(offers)
            return
        given = [] if connection is not None else self._receivers.get(peer, now) or []
        overlap = swarm.overlap
        if overlap is not None:
            overlap.hide(peer, given, refused, now)
        others = swarm.complete + swarm.incomplete - 1
        if not given and 1 < len(offers) < others and is_room(swarm):
            chosen = receivers_of(swarm, peer, now - 2 * self._rules.announce_interval).assign(offers)
        else:
            chosen = self.chooser.choose(swarm, peer, len(offers) + len(given), now)
        if not peer.met and len(swarm.remotes) > 1:
            _spread(chosen, swarm.remotes)
        if overlap is not None:
            overlap.show()
        if given:
            chosen = [member for member in chosen if isinstance(member, RemoteMember) or member not in given]
            chosen = chosen[: len(offers)]
        placed = len(chosen)
        if placed == others and placed > 1:
            # Every member gets an offer, the first one for the member that joined first. Trystero repeats its offers
            # until they are answered, and makes the same ones on several trackers. So each member mostly gets the same
            # one again, also after others have joined. If two members answer one offer, only the first is connected,
            # and the other one ignores the maker of the offer for 23 seconds.
            chosen.sort(key=_order)
        if placed:
            if swarm.remotes:
                receivers, relayed = self._hand_over(peer, chosen, offers)
                if len(receivers) < placed:
                    self._receivers.put(peer, [*given, *chosen], now)
            else:
                receivers, relayed = cast("list[Peer]", chosen), offers
            if receivers:
                outbox.offers(swarm.info_hash, peer.peer_id, receivers, relayed)
                counters.offers_relayed += len(receivers)
            self.chooser.note_wanted(peer, placed)
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

    def place_parked(self, member: RemoteMember, newcomers: Collection[str], now: float, origin: Any) -> None:
        """Place parked offers on new peers behind a remote member: each gets one offer of every local peer.

        `newcomers` are their marks, empty for peers of which only the number is known. A local peer makes no offer to
        peers that it meets at another tracker. If it has received offers from `origin` since, as many fewer of its
        offers are placed, because these newcomers probably made them.
        """
        if self._observer is None:
            return
        overlap = member.swarm.overlap
        for parked in self.parked.of(member.swarm, now):
            count = len(newcomers) if overlap is None else overlap.newcomers_for(parked.peer, member, newcomers, now)
            known = min(parked.met[origin], count)
            parked.met[origin] -= known
            offers = self.parked.take(parked, count - known, now)
            if offers:
                self._counters.offers_handed_over += len(offers)
                self._observer.offers_placed(member, parked.peer.peer_id, offers)

    def give_parked(self, peer: Peer, now: float, outbox: Outbox) -> None:
        """Give a new peer that makes no offers one parked offer of each other peer."""
        for parked in self.parked.of(peer.swarm, now)[: self._rules.max_offers]:
            offers = self.parked.take(parked, 1, now)
            self._counters.offers_relayed += len(offers)
            outbox.offers(peer.swarm.info_hash, parked.peer.peer_id, [peer], offers)

    def deliver(
        self,
        swarm: Swarm,
        peer_id: str,
        offers: list[Offer],
        now: float,
        outbox: Outbox,
        origin: Any,
        member: RemoteMember | None = None,
    ) -> list[Offer]:
        """Give a remote peer's offers to distinct local peers, and return the offers that found no receiver.

        Peers that the remote peer, which is behind `member`, meets at another tracker are left out. In each window, a
        peer receives at most `max_foreign_offers` remote offers, and at most half of them from one `origin`.
        """
        if swarm.complete + swarm.incomplete < self._rules.min_peers:
            return offers
        if now > self._window_ends:
            self._given.clear()
            self._window_ends = now + _WINDOW
        met = [] if member is None or swarm.overlap is None else swarm.overlap.sharing(member, peer_id)
        wanted = SMALL if is_room(swarm) else len(offers) + len(met)
        receivers = [
            peer
            for peer in self.chooser.choose_local(swarm, wanted, peer_id, now)
            if peer.offers_due <= now and peer not in met and self._may_be_given(peer, origin)
        ]
        if len(receivers) > len(offers) and is_room(swarm):
            receivers = cast("list[Peer]", local_receivers_of(peer_id, receivers).assign(offers))
        else:
            del receivers[len(offers) :]
            receivers.sort(key=_order)  # for the same reason as in `place`
        for peer in receivers:
            given = self._given.setdefault(peer, Counter())
            given[None] += 1
            if origin is not None:
                given[origin] += 1
            self.parked.note_met(peer, origin)
        if receivers:
            outbox.offers(swarm.info_hash, peer_id, receivers, offers)
        self._counters.offers_relayed += len(receivers)
        return offers[len(receivers) :]

    def forget(self, peer: Peer) -> None:
        """Forget a peer that has left."""
        self.parked.forget(peer)
        self._given.pop(peer, None)
        self._receivers.pop(peer)

    def expire(self, now: float) -> None:
        """Drop the parked offers that are too old, and forget receivers that can no longer refuse."""
        self.parked.expire(now)
        self._receivers.expire(now)

    def _hand_over(self, peer: Peer, chosen: list[Any], offers: list[Offer]) -> tuple[list[Peer], list[Offer]]:
        """Give the offers for remote members to the observer; return the local receivers and their offers."""
        receivers: list[Peer] = []
        relayed: list[Offer] = []
        remote: dict[RemoteMember, list[Offer]] = {}
        for member, offer in zip(chosen, offers, strict=False):
            if isinstance(member, Peer):
                receivers.append(member)
                relayed.append(offer)
            else:
                remote.setdefault(member, []).append(offer)
        if self._observer:
            for remote_member, batch in remote.items():
                self._counters.offers_handed_over += len(batch)
                self._observer.offers_placed(remote_member, peer.peer_id, batch)
        return receivers, relayed

    def _may_be_given(self, peer: Peer, origin: Any) -> bool:
        given = self._given.get(peer)
        if given is None:
            return True
        limit = self._rules.max_foreign_offers
        return given[None] < limit and (origin is None or given[origin] < limit / 2)


def _order(member: Member) -> int:
    if not isinstance(member, Peer):
        return sys.maxsize
    return member.index + (len(member.swarm.leechers) if member.complete else 0)


def _size(offers: list[Offer]) -> int:
    return sum(offer.size + _OVERHEAD for offer in offers)
