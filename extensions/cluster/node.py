"""This node of the cluster: passes events of its hub to other nodes, and their messages to the hub (sans I/O).

The messages of one turn of the event loop for one node are one message. `clock` returns seconds on any monotonic clock,
and `soon` calls a function in the next turn of the event loop. `tick` must be called every `TICK` seconds.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from extensions.cluster.envelope import BROADCAST, STREAM, Sealer
from extensions.cluster.errors import RefusedError
from extensions.cluster.membership import Membership
from extensions.cluster.numbers import AGAIN, GAP, LATE
from extensions.cluster.parts import Listener, Load, Parts
from extensions.cluster.reasons import Left, Refused, Resync
from extensions.cluster.session import Session
from extensions.cluster.transport import Transport
from extensions.cluster.wire import (
    Answered,
    Ask,
    AskAgain,
    Begin,
    Bye,
    Chunk,
    Closed,
    Done,
    Heartbeat,
    Linked,
    Moved,
    Newcomers,
    Offers,
    OffersToEach,
    Opened,
    Ping,
    Pong,
    Returned,
    Roster,
    Shares,
    Tick,
    Told,
    encode,
    messages_in,
)
from tracker.extension import Answer, Counts, NodeMember, NodePeers, Nodes, Offer, Peer, Swarm

TICK: Final = 0.1

_USUAL: Final = frozenset({Refused.DUPLICATE, Refused.UNKNOWN_NODE})
"""Reasons for which messages are refused also if all is well: a node sends before it is known, or after it has left."""


class Node(Nodes):
    """A node. The hub calls the methods of `Nodes`."""

    def __init__(
        self,
        node_id: str,
        load: Load,
        sealer: Sealer,
        transport: Transport,
        peers: NodePeers,
        swarms: Mapping[str, Swarm],
        clock: Callable[[], float],
        soon: Callable[[Callable[[], None]], object],
        listener: Listener,
    ) -> None:
        self.node_id: Final = node_id
        parts = Parts(node_id, load, sealer, transport, peers, swarms, clock, self.wake, listener)
        self.parts = parts
        self._membership = Membership(parts)
        self._telling = parts.telling
        self._relay = parts.relay
        self._sessions = parts.sessions
        self._clock = clock
        self._soon = soon
        self._is_awake = False
        self._opening: dict[str, None] = {}
        """Swarms that have opened in this turn."""
        self._handlers: dict[Any, Callable[[Session, Any], None]] = {
            Roster: parts.hearing.on_roster,
            Opened: self._on_opened,
            Closed: self._on_closed,
            Moved: self._on_moved,
            Shares: self._on_shares,
            Linked: parts.links.on_linked,
            Newcomers: parts.links.on_newcomers,
            Returned: parts.relay.on_returned,
            Chunk: parts.streams.on_chunk,
            Heartbeat: self._membership.describe,
            Begin: self._on_begin,
            Done: self._on_done,
            AskAgain: self._on_ask_again,
            Ping: self._on_ping,
            Pong: self._on_pong,
            Ask: parts.questions.on_question,
            Told: parts.questions.on_told,
        }

    # What the hub tells

    def opened(self, swarm: Swarm) -> None:
        self._opening[swarm.info_hash] = None
        self.wake()

    def closed(self, swarm: Swarm) -> None:
        key = swarm.info_hash
        sessions = self._telling.closed(swarm)
        if key in self._opening:
            del self._opening[key]
        else:
            sessions += [owner for owner in self.parts.owners.closed(key) if owner not in sessions]
        for session in sessions:
            session.closed(key)

    def joined(self, peer: Peer, needs_offers: bool) -> None:
        if self._telling.joined(peer, needs_offers):
            self.wake()

    def left(self, peer: Peer) -> None:
        if self._telling.changed(peer):
            self.wake()

    def completed(self, peer: Peer) -> None:
        if self._telling.changed(peer):
            self.wake()

    def offers(self, member: NodeMember, peer_id: str, offers: list[Offer], flags: int) -> None:
        self._relay.offers(member, peer_id, offers, flags)

    def offers_to_each(self, members: list[NodeMember], peer_id: str, offers: list[Offer], flags: int) -> None:
        self._relay.offers_to_each(members, peer_id, offers, flags)

    def answer(self, answer: Answer, complete: bool) -> bool:
        return self._relay.answer(answer, complete)

    def newcomers(self, swarm: Swarm, count: int) -> None:
        self.parts.links.newcomers(swarm, count)

    def returned(self, swarm: Swarm, peer_id: str, offers: list[Offer], age: float, flags: int) -> bool:
        return self._relay.returned(swarm.info_hash, peer_id, offers, age, flags)

    def linked(self, swarm: Swarm) -> None:
        """Take notice, at the gateway, that the numbers of linked peers in a swarm may have changed."""
        self.parts.links.linked(swarm)

    def counts(self, info_hashes: list[str] | None, done: Callable[[dict[str, Counts]], None]) -> None:
        self.parts.counts.find(info_hashes, done)

    # The clock

    def wake(self) -> None:
        """Call `flush` in the next turn of the event loop."""
        if not self._is_awake:
            self._is_awake = True
            self._soon(self.flush)

    def flush(self) -> None:
        """Send all messages of this turn, and do a slice of the work that waits."""
        self._is_awake = False
        if self._opening:
            opening, self._opening = self._opening, {}
            for key in opening:
                self.parts.owners.opened(key)
        self._telling.tell()
        self.parts.counts.flush()
        self.parts.work.run()
        sessions = self._sessions
        if sessions.ready:
            now = self._clock()
            ready, sessions.ready = sessions.ready, []
            for session in ready:
                session.flush(now)

    def tick(self) -> None:
        """Do everything that is due."""
        now = self._clock()
        parts = self.parts
        self._membership.tick(now, TICK)
        self._telling.tick()
        parts.links.tick()
        parts.owners.tick()
        parts.relay.routes.age(now)
        parts.questions.tick(now)
        parts.work.tick()
        self.flush()

    def stop(self) -> None:
        """Tell all nodes that this one stops."""
        self.parts.streams.end_all()
        self.flush()
        self._membership.end()

    # What the transport tells

    def receive(self, payload: bytes) -> None:
        """Take a message. One that cannot be used is counted, and harms nothing."""
        try:
            self._receive(payload)
        except RefusedError as error:
            self.parts.refused[error.reason] += 1
            if error.reason not in _USUAL:
                self.parts.listener.refused(error.reason, error.sender)

    def lost(self, node_id: str) -> None:
        """Take notice that a node cannot be reached any more."""
        if node_id in self.parts.members.others:
            self._membership.leave(node_id, Left.LOST)

    def connected(self, works: bool) -> None:
        """Take notice that the transport works, or that it no longer does."""
        if works:
            self._membership.connected()
            return
        for session in self._sessions.by_id.values():
            session.is_cut_off |= session.must_wait

    def _receive(self, payload: bytes) -> None:
        kind, raw, epoch, seq = self.parts.sealer.open(payload)
        sessions = self._sessions
        session = sessions.by_raw.get(raw)
        now = self._clock()
        if session is None:
            session = self._membership.meet(kind, raw.hex(), epoch, seq, payload, now)
        node_id = session.node_id
        size = len(payload)
        self._membership.charge(node_id, size, now)
        member = self.parts.members.others[node_id]
        for traffic in (session.traffic, sessions.traffic):
            traffic.messages_in += 1
            traffic.bytes_in += size
        if kind != BROADCAST:
            self._membership.ascertain(session)
        if kind == STREAM:
            verdict = session.accept(epoch, seq, now)
            if verdict == LATE:
                raise RefusedError(Refused.DUPLICATE, node_id)
            member.last_heard = now
            session.is_cut_off = False
            if verdict in (AGAIN, GAP):
                self.wake()
        elif kind == BROADCAST:
            if seq <= member.heartbeats:
                raise RefusedError(Refused.DUPLICATE, node_id)
            member.heartbeats = seq
            # Messages outside of a sequence do not count, because they may be old ones that another program repeats.
            member.last_heard = now
            session.is_cut_off = False
        try:
            messages = messages_in(payload)
        except RefusedError as error:
            if kind == STREAM:
                session.miss(now)
            raise RefusedError(error.reason, node_id) from None
        handlers = self._handlers
        for message in messages:
            of = type(message)
            if of is Offers:
                self._relay.on_offers(session, message)
            elif of is OffersToEach:
                self._relay.on_offers_to_each(session, message)
            elif of is Answered:
                self._relay.on_answer(session, message)
            elif of is Tick:
                session.accept_tick(epoch, seq, now)
            elif of is Bye:
                self._membership.leave(node_id, Left.STOPPED)
                return
            else:
                handlers[of](session, message)

    # Messages

    def _on_begin(self, session: Session, message: Begin) -> None:
        if message.again:
            # This node may have missed what the other one tells of the swarms whose infohashes it owns.
            self.parts.owners.tell_again(session)
        now = self._clock()
        if not message.seen and session.has_told_long(now):
            # It has taken this node for gone. If an epoch has just begun here, its first message may be on its way.
            session.begin_later(Resync.FORGOTTEN)

    def _on_done(self, session: Session, _message: Done) -> None:
        if not session.has_missed:
            self.parts.owners.on_done(session)
            self.parts.shared.sweep(session)
            self.parts.links.on_done(session)

    def _on_ask_again(self, session: Session, message: AskAgain) -> None:
        if message.epoch >= session.epoch:
            session.begin_later(Resync.GAP)

    def _on_opened(self, session: Session, message: Opened) -> None:
        self.parts.owners.on_opened(session, message.keys)

    def _on_closed(self, session: Session, message: Closed) -> None:
        self.parts.owners.on_closed(session, message.keys)
        self.parts.hearing.on_closed(session, message.keys)

    def _on_moved(self, session: Session, message: Moved) -> None:
        self.parts.owners.on_closed(session, message.keys)

    def _on_shares(self, _session: Session, message: Shares) -> None:
        self.parts.hearing.on_shares(message.key, message.nodes, message.newcomer)

    def _on_ping(self, session: Session, message: Ping) -> None:
        session.send_single(encode(Pong(message.number)))

    def _on_pong(self, session: Session, message: Pong) -> None:
        seconds = session.ponged(message.number, self._clock())
        if seconds >= 0:
            self.parts.members.others[session.node_id].latency = seconds
            self.parts.listener.round_trip(seconds)
