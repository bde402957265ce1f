"""Applies messages to swarms and says what to send to whom (sans I/O; clock and randomness are passed in).

Times are seconds on any monotonic clock. Invariants, checked by `Hub.check`:

1. No swarm is empty: a swarm without local peers does not exist, whatever remote members it had.
2. Every peer of a connection is a member of its swarm, and every member is among its connection's peers.
3. `seeders` and `leechers` are the sums over all swarms (local peers only).
4. Those of each swarm (`tracker.swarm`).
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from tracker.access.addresses import Quota
from tracker.core.counters import Counters
from tracker.core.offers import Parking
from tracker.core.pending import PendingJoin, PendingJoins
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Peer, Random, RemoteMember, Swarm
from tracker.protocol.codec import (
    announce_reply,
    decode,
    detached,
    failure,
    relayed_answer,
    relayed_offers,
    scrape_reply,
    to_json,
)
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import NO_INFO_HASH, Announce, Answer, Offer, Scrape
from tracker.reasons import DropReason

_NOT_GARBAGE: Final = frozenset(
    {DropReason.FULL_SCRAPE, DropReason.TOO_MANY_SWARMS, DropReason.INFO_HASH_DENIED, DropReason.ADMISSION_QUEUE_FULL}
)
"""Refused for what they ask, not for how they are written."""

_OFFERS_COME_WITHIN: Final = 10.0
"""Seconds from a seeder's `completed` to its first offers: webtorrent's begin so, and gather candidates for up to five.

Until then it is given none of those that wait. Where two clients make each other an offer at the same time, each hangs
up when its own is answered, because it has answered the other's, and nobody is left.
"""

Outgoing = list[tuple[Any, bytes]]
"""Frames to send, in order: (connection, JSON in UTF-8)."""


class Observer(Protocol):
    """What the hub tells the extensions. Calls must return at once and must not raise.

    `answer_unplaced` says whether anybody cares.
    """

    def swarm_opened(self, swarm: Swarm) -> None: ...
    def swarm_changed(self, swarm: Swarm) -> None: ...
    def swarm_closed(self, swarm: Swarm) -> None: ...
    def offers_placed(self, member: RemoteMember, peer: Peer, offers: list[Offer]) -> None: ...
    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None: ...
    def answer_unplaced(self, answer: Answer) -> bool: ...


class Hub:
    """All swarms that have a peer here."""

    def __init__(self, rules: Rules, random: Random, observer: Observer | None = None) -> None:
        self.rules = rules
        self.random = random
        self.observer = observer
        self.swarms: dict[str, Swarm] = {}
        self.seeders = 0
        self.leechers = 0
        self.tally = Counters()
        self.parking: Parking | None = None
        """Where offers wait for somebody to come. While it is there, a peer that is alone announces more often."""
        self.serves: Callable[[str], bool] = lambda _: True
        """Whether a swarm, by info_hash, may be."""
        self.lobby: PendingJoins | None = None
        """Where peers wait until it is decided whether they may join; None: they all may."""

    def receive(self, connection: Connection, payload: bytes, now: float) -> Outgoing:
        """Apply one frame (its payload, JSON in UTF-8) from a connection; what to send because of it.

        A frame that cannot be served is answered with a failure. One that is no message raises the connection's
        `strikes` by one; a message lowers them by one. Raises `UnicodeDecodeError` as `protocol.decode` does.
        """
        try:
            message = decode(payload, self.rules.max_offers)
            if connection.quota is not None:
                self._charge(connection.quota, message, now)
            if type(message) is Announce:
                out = self._announce(connection, message, now)
            elif type(message) is Answer:
                out = self._answer(connection, message, now)
            else:
                assert isinstance(message, Scrape)
                out = self._scrape(connection, message)
        except RequestError as malformed:
            if malformed.reason not in _NOT_GARBAGE:
                connection.strikes += 1
            return [(connection, self.refuse(malformed))]
        if connection.strikes:
            connection.strikes -= 1
        return out

    def refuse(self, malformed: RequestError) -> bytes:
        """Count a failure; the frame that tells the client."""
        self.tally.failures += 1
        self.tally.dropped[malformed.reason] += 1
        return failure(malformed)

    def close(self, connection: Connection) -> None:
        """A connection has ended: the peers it still owns leave, and those that wait to join do not."""
        if self.lobby:
            self.lobby.close(connection)
        for peer in list(connection.peers):
            self._leave(peer)

    def admitted(self, join: PendingJoin, now: float) -> Outgoing:
        """A peer that waits may join: what it has announced meanwhile counts as if it came now."""
        assert self.lobby
        for older in self.lobby.older(join):
            # Or its verdict, if it comes later, would give the peer back to the socket that it had before.
            self.tally.dropped[DropReason.TAKEN_OVER] += 1
            self.lobby.cancel(older)
        out: Outgoing = []
        for announce in self.lobby.leave(join):
            try:
                out += self._announce(join.connection, announce, now, admitted=True)
            except RequestError as malformed:
                out.append((join.connection, self.refuse(malformed)))
        return out

    def refused(self, join: PendingJoin, reason: DropReason, text: str) -> Outgoing:
        """A peer that waits may not join: its announces are answered with failures."""
        assert self.lobby
        failures = [RequestError(reason, text, announce.info_hash) for announce in self.lobby.leave(join)]
        return [(join.connection, self.refuse(malformed)) for malformed in failures]

    def close_denied(self) -> Outgoing:
        """Close the swarms that may be no more; what to send to their peers."""
        out: Outgoing = []
        for swarm in [swarm for swarm in self.swarms.values() if not self.serves(swarm.info_hash)]:
            for peer in list(swarm.peers.values()):
                out.append((peer.connection, self.refuse(_denied(swarm.info_hash))))
                self._leave(peer)
        return out

    def expire(self, connection: Connection, now: float) -> None:
        """Let those of a live connection's peers go that have been silent for `peer_timeout`."""
        overdue = now - self.rules.peer_timeout
        for peer in [peer for peer in connection.peers if peer.seen < overdue]:
            self.tally.dropped[DropReason.SILENT_PEER] += 1
            self._leave(peer)

    def place(
        self, swarm: Swarm, peer: Peer, offers: list[Offer], now: float, out: Outgoing, age: float | None = None
    ) -> None:
        """Place a peer's offers among the members of its swarm; what is to be sent is added to `out`.

        `age` is how many seconds ago they were made, if they are placed again.
        """
        observer, tally = self.observer, self.tally
        chosen = swarm.choose(peer, len(offers), self.fresh_since(now), self.random)
        frames = relayed_offers(swarm.token, peer.token, offers[: len(chosen)])
        relayed = len(out)
        remote: dict[RemoteMember, list[Offer]] = {}
        for member, offer, frame in zip(chosen, offers, frames, strict=False):
            if isinstance(member, Peer):
                out.append((member.connection, frame))
            else:
                remote.setdefault(member, []).append(offer)
        tally.offers_relayed += len(out) - relayed
        if observer:
            for remote_member, batch in remote.items():
                tally.offers_handed_over += len(batch)
                observer.offers_placed(remote_member, peer, batch)
        if len(chosen) < len(offers):
            left = offers[len(chosen) :]
            if self.parking and age is None:
                self.parking.park(peer, detached(left), now)
            elif self.parking and age is not None:
                self.parking.add(peer, detached(left), now - age, now)
            else:
                tally.dropped[DropReason.UNPLACED_OFFER] += len(left)
            if observer:
                observer.offers_unplaced(swarm, peer, left)

    def fresh_since(self, now: float) -> float:
        """Peers not heard of since then are offered to last."""
        return now - 2 * self.rules.announce_interval

    def check_invariants(self) -> None:
        """Raise `AssertionError` if an invariant is broken; for tests, it visits every peer."""
        connections: dict[int, Connection] = {}
        for info_hash, swarm in self.swarms.items():
            assert swarm.info_hash == info_hash
            assert swarm.peers, "empty swarm"
            swarm.check_invariants()
            connections.update((id(peer.connection), peer.connection) for peer in swarm.peers.values())
        if self.lobby:
            self.lobby.check_invariants()
        for connection in connections.values():
            for peer in connection.peers:
                assert peer.connection is connection
                assert self.swarms[peer.swarm.info_hash] is peer.swarm
                assert peer.swarm.peers[peer.peer_id] is peer
        assert self.seeders == sum(len(swarm.seeders) for swarm in self.swarms.values())
        assert self.leechers == sum(len(swarm.leechers) for swarm in self.swarms.values())

    def _charge(self, quota: Quota, message: Announce | Answer | Scrape, now: float) -> None:
        """Have an address pay for a message. Raises `RequestError` if it has used up what it may."""
        if isinstance(message, Announce):
            if message.stopped:
                return
            reason = quota.charge_announce(len(message.offers), now)
        else:
            reason = quota.charge_offers(1, now) if isinstance(message, Answer) else quota.charge_announce(0, now)
        if reason is not None:
            info_hash = NO_INFO_HASH if isinstance(message, Scrape) else message.info_hash
            raise RequestError(reason, "too many requests from your address", info_hash)

    def _announce(self, connection: Connection, message: Announce, now: float, admitted: bool = False) -> Outgoing:
        tally = self.tally
        if not admitted:
            tally.announces += 1
            if message.invalid_offers:
                tally.dropped[DropReason.INVALID_OFFER] += message.invalid_offers
            if message.surplus_offers:
                tally.dropped[DropReason.SURPLUS_OFFER] += message.surplus_offers

        swarm = self.swarms.get(message.info_hash)
        peer = swarm.peers.get(message.peer_id) if swarm else None
        joins = peer is None
        if message.stopped:
            return self._stop(connection, message, peer)
        if peer is None or peer.connection is not connection:
            self._check_may_join(connection, message.info_hash, swarm)
            if self.lobby and not admitted:
                self.lobby.enter(connection, message)
                return []
            if peer is not None:
                self._take_over(connection, peer)
        if peer is None:
            peer = self._join(connection, message, swarm, now)
        else:
            self._refresh(peer, message.complete, now)
        swarm = peer.swarm
        tally.replies += 1
        complete, incomplete = swarm.complete, swarm.incomplete
        interval = self.rules.announce_interval
        if self.parking and (complete + incomplete == 1 or (not peer.met and len(swarm.peers) == 1)):
            # Also with others elsewhere: they may be this very peer, which announces to several trackers.
            interval = min(interval, self.rules.lonely_interval)
        out: Outgoing = [(connection, announce_reply(swarm.token, interval, complete, incomplete))]
        if message.offers:
            self.place(swarm, peer, message.offers, now, out)
        elif joins and self.parking and not peer.offers_by:
            out += self._give_parked(peer, now)
        return out

    def _stop(self, connection: Connection, message: Announce, peer: Peer | None) -> Outgoing:
        info_hash = message.info_hash
        if self.lobby:
            self.lobby.withdraw(connection, info_hash, message.peer_id)
        if peer is not None:
            if peer.connection is connection:
                self._leave(peer)
            else:
                self.tally.dropped[DropReason.NOT_OWNER] += 1
        # bittorrent-tracker's client waits for this before it closes.
        swarm = self.swarms.get(info_hash)
        complete, incomplete = (swarm.complete, swarm.incomplete) if swarm else (0, 0)
        self.tally.replies += 1
        return [(connection, announce_reply(to_json(info_hash), self.rules.announce_interval, complete, incomplete))]

    def _check_may_join(self, connection: Connection, info_hash: str, swarm: Swarm | None) -> None:
        if len(connection.peers) >= self.rules.max_swarms_per_connection:
            raise RequestError(DropReason.TOO_MANY_SWARMS, "too many swarms on one connection", info_hash)
        if swarm is None and not self.serves(info_hash):
            raise _denied(info_hash)

    def _join(self, connection: Connection, message: Announce, swarm: Swarm | None, now: float) -> Peer:
        opened = swarm is None
        if swarm is None:
            swarm = self.swarms[message.info_hash] = Swarm(message.info_hash)
        peer = swarm.join(message.peer_id, connection, message.complete, now)
        if message.completed and not message.offers:
            peer.offers_by = now + _OFFERS_COME_WITHIN
        if message.complete:
            self.seeders += 1
        else:
            self.leechers += 1
        if self.observer:
            if opened:
                self.observer.swarm_opened(swarm)
            self.observer.swarm_changed(swarm)
        return peer

    def _take_over(self, connection: Connection, peer: Peer) -> None:
        # A client that reconnects keeps its peer_id; its old socket may take minutes to be known dead.
        peer.connection.peers.discard(peer)
        peer.connection = connection
        connection.peers.add(peer)
        self.tally.dropped[DropReason.TAKEN_OVER] += 1
        if self.parking:
            # Its client made them on the old socket, and has forgotten them with it.
            self.parking.forget(peer)

    def _refresh(self, peer: Peer, complete: bool, now: float) -> None:
        peer.seen = now
        peer.offers_by = 0.0
        if complete and not peer.complete:
            peer.swarm.become_seeder(peer)
            self.leechers -= 1
            self.seeders += 1
            if self.observer:
                self.observer.swarm_changed(peer.swarm)

    def _leave(self, peer: Peer) -> None:
        swarm = peer.swarm
        swarm.leave(peer)
        if self.parking:
            self.parking.forget(peer)
        if peer.complete:
            self.seeders -= 1
        else:
            self.leechers -= 1
        if not swarm.peers:
            del self.swarms[swarm.info_hash]
        if self.observer:
            if swarm.peers:
                self.observer.swarm_changed(swarm)
            else:
                self.observer.swarm_closed(swarm)

    def _give_parked(self, peer: Peer, now: float) -> Outgoing:
        """What waits for somebody who makes no offers of its own: one of each peer's."""
        assert self.parking
        out: Outgoing = []
        for parked in self.parking.of(peer.swarm, now)[: self.rules.max_offers]:
            offers = self.parking.take(parked, 1, now)
            frames = relayed_offers(peer.swarm.token, parked.peer.token, offers)
            self.tally.offers_relayed += len(frames)
            out += [(peer.connection, frame) for frame in frames]
        return out

    def _answer(self, connection: Connection, answer: Answer, now: float) -> Outgoing:
        self.tally.answers += 1
        swarm = self.swarms.get(answer.info_hash)
        sender = swarm.peers.get(answer.peer_id) if swarm else None
        if swarm is None or sender is None or sender.connection is not connection:
            self.tally.dropped[DropReason.NOT_OWNER] += 1
            return []
        # anacrolix/torrent never announces again on a timer: its answers are what keeps it fresh.
        sender.seen = now
        receiver = swarm.peers.get(answer.to_peer_id)
        if receiver is not None:
            sender.met = receiver.met = True
            self.tally.answers_relayed += 1
            return [(receiver.connection, relayed_answer(swarm.token, sender.token, answer))]
        sender.met = True
        if self.observer and self.observer.answer_unplaced(answer):
            self.tally.answers_handed_over += 1
        else:
            self.tally.dropped[DropReason.UNKNOWN_RECEIVER] += 1
        return []

    def _scrape(self, connection: Connection, message: Scrape) -> Outgoing:
        self.tally.scrapes += 1
        wanted = message.info_hashes
        if wanted is None:
            if not self.rules.full_scrape:
                raise RequestError(DropReason.FULL_SCRAPE, "full scrape is not available", NO_INFO_HASH, "scrape")
            wanted = list(self.swarms)
        elif len(wanted) > self.rules.max_scrape:
            self.tally.dropped[DropReason.SURPLUS_SCRAPE] += len(wanted) - self.rules.max_scrape
            wanted = wanted[: self.rules.max_scrape]
        if message.invalid:
            self.tally.dropped[DropReason.INVALID_SCRAPE] += message.invalid
        files = []
        for info_hash in wanted:
            swarm = self.swarms.get(info_hash)
            if swarm:
                files.append((swarm.token, swarm.complete, swarm.incomplete))
            else:
                # bittorrent-tracker's client waits for ever for a hash that is left out.
                files.append((to_json(info_hash), 0, 0))
        self.tally.replies += 1
        return [(connection, scrape_reply(files))]


def _denied(info_hash: str) -> RequestError:
    return RequestError(DropReason.INFO_HASH_DENIED, "this tracker does not serve this infohash", info_hash)
