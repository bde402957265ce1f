"""Applies messages to swarms (sans I/O; times and randomness are arguments).

All times are seconds on any monotonic clock. Invariants, checked by `Hub.check_invariants`:

1. No swarm is empty unless it is held: a swarm without local peers is removed, even if it had remote members.
2. Every peer of a connection is a member of its swarm, and every member is among the peers of its connections.
3. `seeders` and `leechers` are the sums over all swarms (local peers only). `empty` is the number of empty swarms.
4. Each swarm keeps its own invariants (`tracker.core.swarm`, `tracker.core.members`).
5. `shared` contains a swarm for each node that has a member in it, and only open swarms.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from math import inf
from typing import Final

from tracker.core.answers import AnswerRelay
from tracker.core.challenges import Challenges
from tracker.core.counters import Counters
from tracker.core.members import (
    check_members,
    clear_members,
    is_held,
    nodes_of,
    release_if_empty,
    settle,
)
from tracker.core.nearby import Nearby
from tracker.core.observers import Nodes, Observer, Trace
from tracker.core.offers import OfferPlacement
from tracker.core.outbox import Outbox
from tracker.core.pending import PendingJoin, PendingJoins
from tracker.core.rules import Rules
from tracker.core.scrapes import Scrapes
from tracker.core.several import SeveralConnections
from tracker.core.swarm import SMALL, Connection, Peer, Random, Swarm, each_peer
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import NO_INFO_HASH, Announce, Answer, Message, Offer, Scrape
from tracker.reasons import DropReason

_FIRST_OFFERS_WITHIN: Final = 10.0
"""Seconds for which a peer that joined with `completed` is expected to make its first offers.

webtorrent's seeders join with `completed` and make offers later, after gathering ICE candidates for up to five seconds.
Until then the seeder receives no parked offers: if two webtorrent clients make each other an offer at the same time,
both connections fail, because each client destroys its own when the answer to it arrives.
"""


def serve_all(_info_hash: str) -> bool:
    """Serve every swarm."""
    return True


class Hub:
    """All open swarms: those with at least one local peer, and those that are held.

    `serves` returns whether an info_hash may have a swarm. `observer` is notified of events. `nearby`: see that class.
    """

    def __init__(
        self,
        rules: Rules,
        random: Random,
        serves: Callable[[str], bool] = serve_all,
        observer: Observer | None = None,
        nearby: Nearby | None = None,
    ) -> None:
        self.rules = rules
        self.nearby = nearby
        self.swarms: dict[str, Swarm] = {}
        self.seeders = 0
        self.leechers = 0
        self.counters = Counters()
        self.offers = OfferPlacement(rules, random, self.counters, observer)
        self.several = SeveralConnections(self.offers.parked, self.counters, self._become_seeder)
        crossings = self.offers.linked.crossings
        self.answers = AnswerRelay(self.swarms, self.offers.chooser, self.counters, observer, crossings)
        self.scrapes = Scrapes(self.swarms, rules, self.counters)
        self.pending = PendingJoins()
        self.nodes: Nodes | None = None
        """The other nodes of the tracker; see `tracker.core.nodes`."""
        self.shared: dict[str, set[Swarm]] = {}
        """The swarms with members at another node, by its id. Some may have lost these members."""
        self.empty = 0
        self.challenges = Challenges(rules, self.counters, self._leave)
        self.trace: Trace | None = None
        self._random = random
        self._serves = serves
        self._observer = observer
        self._round: Iterator[Peer] = iter(())

    def apply(self, connection: Connection, message: Message, now: float, outbox: Outbox) -> None:
        """Apply one message of a connection, and send all resulting messages through `outbox`.

        Answer a request that cannot be served with a failure.
        """
        try:
            if type(message) is Announce:
                self._announce(connection, message, now, outbox)
            elif type(message) is Answer:
                self.answers.relay(connection, message, now, outbox)
            else:
                assert isinstance(message, Scrape)
                self.scrapes.reply(connection, message, outbox)
        except RequestError as error:
            self.refuse(connection, error, outbox)

    def refuse(self, connection: Connection, error: RequestError, outbox: Outbox) -> None:
        """Answer a request with a failure, and count it."""
        if error.action == "announce" and error.info_hash != NO_INFO_HASH:
            error.interval = self.rules.announce_interval
        self.counters.failures += 1
        self.counters.dropped[error.reason] += 1
        if self.trace is not None:
            self.trace.failed(connection, error)
        outbox.failure(connection, error)

    def close(self, connection: Connection) -> None:
        """End a connection: remove the peers that are present on no other, and cancel its pending joins."""
        if self.pending.required:
            self.pending.close(connection)
        for peer in list(connection.peers):
            self._leave_connection(peer, connection)

    def admit(self, join: PendingJoin, now: float, outbox: Outbox, until: float = inf) -> None:
        """Let a pending peer join: apply the announces that it has made while it waited, as if they came now.

        From `until` on, an announce of the peer needs a new verdict.
        """
        for announce in self.pending.take(join):
            try:
                self._announce(join.connection, announce, now, outbox, admitted=True)
            except RequestError as error:
                self.refuse(join.connection, error, outbox)
            else:
                peer = self.swarms[join.info_hash].peers[join.peer_id]
                self.pending.limit(peer, until)

    def reject(self, join: PendingJoin, reason: DropReason, text: str, now: float, outbox: Outbox) -> None:
        """Do not let a pending peer join: answer its announces with failures.

        If it is a member whose earlier admission has ended, it leaves this connection.
        """
        announces = self.pending.take(join)
        for announce in announces:
            self.refuse(join.connection, RequestError(reason, text, announce.info_hash), outbox)
        swarm = self.swarms.get(join.info_hash)
        peer = swarm.peers.get(join.peer_id) if swarm else None
        if announces and peer in join.connection.peers and self.pending.has_ended(peer, now):
            self._end_admission(peer, join.connection)

    def restrict(self, serves: Callable[[str], bool], outbox: Outbox) -> None:
        """Serve the swarms that `serves` allows from now on; close the others and tell their peers."""
        self._serves = serves
        for swarm in [swarm for swarm in self.swarms.values() if not serves(swarm.info_hash)]:
            for peer in list(swarm.peers.values()):
                for connection in peer.connections:
                    self.refuse(connection, _denied(swarm.info_hash), outbox)
                self._leave(peer)
            if is_held(swarm):
                self.release(swarm)
                if self.nodes is not None:
                    self.nodes.closed(swarm)

    def hold(self, info_hash: str) -> None:
        """Keep a swarm open also without local peers, from now on. Open it if it is served."""
        swarm = self.swarms.get(info_hash)
        if swarm is None:
            if not self._serves(info_hash):
                return
            swarm = self.swarms[info_hash] = Swarm(info_hash)
            self.empty += 1
            nodes_of(swarm).held = True
            if self._observer:
                self._observer.swarm_opened(swarm)
                self._observer.swarm_changed(swarm)
        else:
            nodes_of(swarm).held = True

    def release(self, swarm: Swarm) -> None:
        """Do not keep a swarm open without local peers any more."""
        if is_held(swarm):
            nodes_of(swarm).held = False
            release_if_empty(swarm)
            if not swarm.peers:
                self.empty -= 1
                self._close_swarm(swarm)

    def members_changed(self, swarm: Swarm) -> None:
        """Take notice that the numbers of a swarm's own peers at other nodes have changed."""
        if self._observer and is_held(swarm):
            self._observer.swarm_changed(swarm)
        if swarm.overlap is not None:
            self.linked_changed(swarm)

    def linked_changed(self, swarm: Swarm) -> None:
        """Take notice that the numbers of peers behind remote members may have changed."""
        if self.nodes is not None:
            self.nodes.linked(swarm)

    def return_offers(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> bool:
        """Return offers of a remote peer to the extensions, because no peer at other nodes could be given them."""
        return self._observer is not None and self._observer.offers_returned(swarm, peer_id, offers)

    def expire(self, now: float, count: int) -> None:
        """Remove peers that have been silent for `peer_timeout`, and parked offers that are too old.

        Also remove peers that were due to announce since their admission ended, and have not.

        Each call examines the next `count` peers. After the last peer, the next round starts. Each call also examines
        all peers that have a pinged connection.
        """
        self.offers.expire(now)
        self.several.listen(now)
        if self.nodes is not None:
            self.challenges.listen(now)
        overdue = now - self.rules.peer_timeout
        batch = list(islice(self._round, count))
        if not batch:
            self._round = each_peer(self.swarms)
        for peer in batch:
            if peer.last_seen < overdue:
                self.counters.dropped[DropReason.SILENT_PEER] += 1
                self._leave(peer)
            elif self.pending.required and self.pending.has_ended(peer, now - 2 * self.rules.announce_interval):
                for connection in peer.connections:
                    self._end_admission(peer, connection)
            elif peer.presences is not None:
                peer.presences.forget_offers(now)

    def check_invariants(self) -> None:
        """Raise `AssertionError` if an invariant is broken; for tests, because it visits every peer."""
        connections: dict[int, Connection] = {}
        for info_hash, swarm in self.swarms.items():
            assert swarm.info_hash == info_hash
            assert swarm.peers or is_held(swarm), "empty swarm"
            swarm.check_invariants()
            check_members(swarm, self.shared)
            for peer in swarm.peers.values():
                connections.update((id(connection), connection) for connection in peer.connections)
        self.pending.check_invariants()
        self.offers.parked.check_invariants()
        self.challenges.check_invariants()
        assert self.empty == sum(not swarm.peers for swarm in self.swarms.values())
        assert all(self.swarms.get(swarm.info_hash) is swarm for swarms in self.shared.values() for swarm in swarms)
        for connection in connections.values():
            for peer in connection.peers:
                assert connection in peer.connections
                assert self.swarms[peer.swarm.info_hash] is peer.swarm
                assert peer.swarm.peers[peer.peer_id] is peer
        for peer in self.several.pinged:
            assert peer.presences is not None
            assert self.swarms[peer.swarm.info_hash].peers[peer.peer_id] is peer
        assert self.seeders == sum(len(swarm.seeders) for swarm in self.swarms.values())
        assert self.leechers == sum(len(swarm.leechers) for swarm in self.swarms.values())

    def _announce(
        self, connection: Connection, message: Announce, now: float, outbox: Outbox, admitted: bool = False
    ) -> None:
        counters = self.counters
        if not admitted:
            counters.announces += 1
            if message.invalid_offers:
                counters.dropped[DropReason.INVALID_OFFER] += message.invalid_offers
            if message.surplus_offers:
                counters.dropped[DropReason.SURPLUS_OFFER] += message.surplus_offers
            if message.limited_offers:
                counters.dropped[DropReason.TOO_MANY_OFFERS] += message.limited_offers

        swarm = self.swarms.get(message.info_hash)
        peer = swarm.peers.get(message.peer_id) if swarm else None
        joins = peer is None
        if message.stopped:
            self._stop(connection, message, peer, outbox)
            return
        if peer is None or (peer.connection is not connection and peer not in connection.peers):
            self._check_may_join(connection, message.info_hash, swarm)
            if not admitted and self.pending.required:
                self.pending.add(connection, message)
                return
        elif not admitted and self.pending.required and self.pending.has_ended(peer, now):
            self.pending.add(connection, message)
            return
        if peer is None:
            peer = self._join(connection, message, swarm, now)
        elif peer.connection is connection and peer.presences is None:
            self._refresh(peer, message.complete, now)
        else:
            self._announce_on_one_of_several(connection, peer, message, now, admitted)
        swarm = peer.swarm
        counters.replies += 1
        complete, incomplete = swarm.complete, swarm.incomplete
        parked = self.offers.parked
        # A swarm that has just opened here may have peers at other nodes, which are not known yet.
        parks = parked.renewed or (joins and self.nodes is not None)
        interval = self.offers.chooser.interval(peer, parks)
        if message.limited_offers:
            # The client may make these offers again soon. Its other peers come at other times.
            interval = self.rules.announce_interval
            interval -= int(interval / 2 * self._random())
        outbox.reply(connection, swarm.info_hash, interval, complete, incomplete)
        if message.offers:
            self.offers.place(swarm, peer, message.offers, now, outbox, connection)
        elif joins and parked.enabled and not peer.offers_due:
            self.offers.give_parked(peer, now, outbox)

    def _stop(self, connection: Connection, message: Announce, peer: Peer | None, outbox: Outbox) -> None:
        info_hash = message.info_hash
        if self.pending.required:
            self.pending.stop(connection, info_hash, message.peer_id)
        if peer is not None:
            if peer in connection.peers:
                self._leave_connection(peer, connection)
            else:
                self.counters.dropped[DropReason.NOT_OWNER] += 1
        # bittorrent-tracker's client waits for this reply before it closes.
        swarm = self.swarms.get(info_hash)
        complete, incomplete = (swarm.complete, swarm.incomplete) if swarm else (0, 0)
        self.counters.replies += 1
        outbox.reply(connection, info_hash, self.rules.announce_interval, complete, incomplete)

    def _check_may_join(self, connection: Connection, info_hash: str, swarm: Swarm | None) -> None:
        if len(connection.peers) >= self.rules.max_swarms_per_connection or connection.is_full:
            raise RequestError(DropReason.TOO_MANY_SWARMS, "too many swarms", info_hash)
        if swarm is None and not self._serves(info_hash):
            raise _denied(info_hash)

    def _join(self, connection: Connection, message: Announce, swarm: Swarm | None, now: float) -> Peer:
        opened = swarm is None
        if swarm is None:
            swarm = self.swarms[message.info_hash] = Swarm(message.info_hash)
        peer = swarm.join(message.peer_id, connection, message.complete, now)
        if self.nearby is not None and swarm.places is None and len(swarm.peers) > SMALL:
            swarm.prefer_nearby(self.nearby)
        if message.completed and not message.offers:
            peer.offers_due = now + _FIRST_OFFERS_WITHIN
        if message.complete:
            self.seeders += 1
        else:
            self.leechers += 1
        if self.trace is not None:
            self.trace.joined(peer)
        if not opened and len(swarm.peers) == 1:
            self.empty -= 1
        if self.nodes is not None:
            settle(swarm, peer.peer_id, True)
            if len(swarm.peers) == 1:
                self.nodes.opened(swarm)
            self.nodes.joined(peer, not message.offers and not message.completed)
            if swarm.overlap is not None:
                self.nodes.linked(swarm)
        if self._observer:
            if opened:
                self._observer.swarm_opened(swarm)
            self._observer.swarm_changed(swarm)
        return peer

    def _announce_on_one_of_several(
        self, connection: Connection, peer: Peer, message: Announce, now: float, admitted: bool
    ) -> None:
        """Refresh a peer on one of its connections, which may be new."""
        if self.several.announce(connection, peer, message, now, admitted):
            offers_due = peer.offers_due
            self._refresh(peer, message.complete, now)
            if message.completed and not message.offers:
                # A seeder with two connections joins on both before it makes its first offers.
                peer.offers_due = offers_due

    def _leave_connection(self, peer: Peer, connection: Connection) -> None:
        """Remove a peer from one of its connections; from its swarm, if that was the last one."""
        if peer.presences is None:
            self._leave(peer)
        else:
            self.several.leave(peer, connection)

    def _refresh(self, peer: Peer, complete: bool, now: float) -> None:
        peer.last_seen = now
        peer.offers_due = 0.0
        if complete and not peer.complete:
            self._become_seeder(peer)

    def _become_seeder(self, peer: Peer) -> None:
        peer.swarm.become_seeder(peer)
        self.leechers -= 1
        self.seeders += 1
        if self.nodes is not None:
            self.nodes.completed(peer)
        if self._observer:
            self._observer.swarm_changed(peer.swarm)

    def _leave(self, peer: Peer) -> None:
        swarm = peer.swarm
        if self.trace is not None:
            self.trace.left(peer)
        swarm.leave(peer)
        self.offers.forget(peer)
        self.several.forget(peer)
        if self.pending.required:
            self.pending.forget(peer)
        if peer.complete:
            self.seeders -= 1
        else:
            self.leechers -= 1
        if self.nodes is not None:
            self.challenges.forget(peer)
            settle(swarm, peer.peer_id, False)
            self.nodes.left(peer)
            if swarm.overlap is not None:
                self.nodes.linked(swarm)
        if not swarm.peers:
            if is_held(swarm):
                self.empty += 1
            else:
                self._close_swarm(swarm)
            if self.nodes is not None:
                self.nodes.closed(swarm)
        if self._observer and self.swarms.get(swarm.info_hash) is swarm:
            self._observer.swarm_changed(swarm)

    def _close_swarm(self, swarm: Swarm) -> None:
        del self.swarms[swarm.info_hash]
        if swarm.nodes is not None:
            clear_members(swarm)
            for swarms in self.shared.values():
                swarms.discard(swarm)
        if self._observer:
            self._observer.swarm_closed(swarm)

    def _end_admission(self, peer: Peer, connection: Connection) -> None:
        self.counters.dropped[DropReason.ADMISSION_ENDED] += 1
        self._leave_connection(peer, connection)


def _denied(info_hash: str) -> RequestError:
    return RequestError(DropReason.INFO_HASH_DENIED, "this tracker does not serve this infohash", info_hash)
