"""The other nodes come and go, and one of all is the gateway (sans I/O)."""

from typing import Final

from extensions.cluster.envelope import ALL, BROADCAST
from extensions.cluster.errors import RefusedError
from extensions.cluster.members import HEARTBEAT, MAX_NODES, Member
from extensions.cluster.owners import JOB
from extensions.cluster.parts import Parts
from extensions.cluster.reasons import Left, Refused
from extensions.cluster.session import Session
from extensions.cluster.wire import CAPABLE, GATEWAY, Bye, Heartbeat, encode, messages_in
from tracker.extension import ExpiringMap, TokenBucket

MAX_RATE: Final = 128 << 20
MAX_BURST: Final = 512 << 20
"""Bytes of messages that are taken from one node: in a second, and at once."""

MESSAGE_COST: Final = 2048
"""Bytes that a message counts besides its own."""

DEPARTED_FOR: Final = 30 * 86400.0
MAX_DEPARTED: Final = 1000
"""Seconds, and number of nodes, for which it is remembered that a node has left: late messages do not revive it."""

YOUNG: Final = 5
"""Seconds after their start until which two nodes that meet have not met before."""

STOPPED: Final = 1 << 62
"""In place of the last numbers of a node that has said that it stops."""


class Membership:
    """Lets nodes join and leave, and sends the heartbeats of this one."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._born = parts.clock()
        self._has_ended = False
        self._beats = 0
        self._beat_at = parts.clock()
        self._departed: ExpiringMap[str, tuple[int, int]] = ExpiringMap(DEPARTED_FOR, MAX_DEPARTED)
        """The numbers of the last heartbeats and epochs of nodes that have left."""
        self._buckets: dict[str, TokenBucket] = {}

    def meet(self, kind: int, node_id: str, epoch: int, seq: int, payload: bytes, now: float) -> Session:
        """Return the session with a node that is not a member yet.

        Raises:
            RefusedError: if the message does not say that it is one, or if it cannot be one.
        """
        parts = self._parts
        messages = messages_in(payload)
        if self._has_ended or not messages or not isinstance(messages[0], Heartbeat):
            raise RefusedError(Refused.UNKNOWN_NODE, node_id)
        heartbeat = messages[0]
        last = self._departed.get(node_id, now)
        if last is not None and (seq <= last[0] if kind == BROADCAST else epoch <= last[1]):
            raise RefusedError(Refused.DUPLICATE, node_id)
        if heartbeat.tracker_id != parts.load.tracker_id:
            raise RefusedError(Refused.OTHER_TRACKER, node_id)
        if len(parts.members.others) >= MAX_NODES:
            raise RefusedError(Refused.TOO_MANY_NODES, node_id)
        member = parts.members.add(node_id, now)
        _describe(member, heartbeat)
        self._buckets[node_id] = TokenBucket(MAX_RATE, MAX_BURST, now)
        session = parts.sessions.add(node_id, now)
        self.begin(session, now)
        is_reunion = last is not None or min(heartbeat.age, self._age(now)) > YOUNG
        if is_reunion or parts.hearing.has_met_strangers:
            # This node has forgotten which swarms it shares with the other one, or was told while it did not know it.
            # The owners tell that again.
            parts.hearing.has_met_strangers = False
            parts.owners.tell_all_again()
        parts.listener.node_joined(member)
        return session

    def ascertain(self, session: Session) -> None:
        """Take notice that a node has sent a message to this one: it lives."""
        member = self._parts.members.others[session.node_id]
        if not member.is_certain:
            member.is_certain = True
            self._parts.owners.tell_again(session)

    def charge(self, node_id: str, size: int, now: float) -> None:
        """Charge a message to the node that has sent it.

        Raises:
            RefusedError: if the node sends too much.
        """
        if not self._buckets[node_id].try_take(size + MESSAGE_COST, now):
            raise RefusedError(Refused.FLOOD, node_id)

    def leave(self, node_id: str, why: Left) -> None:
        """Forget a node, and place the offers again that were not sent to it."""
        parts = self._parts
        member, session = self._forget(node_id, why)
        traffic = session.take_traffic()
        if traffic:
            parts.work.add(parts.relay.place_again(traffic, parts.shared.forget_gone))
        parts.listener.node_left(member, why)

    def _forget(self, node_id: str, why: Left) -> tuple[Member, Session]:
        parts = self._parts
        member = parts.members.others[node_id]
        parts.members.remove(node_id)
        del self._buckets[node_id]
        session = parts.sessions.remove(node_id)
        last = (STOPPED, STOPPED) if why is Left.STOPPED else (member.heartbeats, session.heard_epoch)
        self._departed.put(node_id, last, parts.clock())
        if session is parts.telling.gateway:
            self._believe(None)
        parts.shared.forget(session)
        parts.owners.ended(session)
        parts.streams.ended(session)
        parts.questions.ended(session)
        return member, session

    def begin(self, session: Session, now: float) -> None:
        """Begin to tell a node everything."""
        parts = self._parts
        session.begin([encode(self._heartbeat())], now)
        epoch = session.epoch
        shares, everything, links = f"shares {epoch}", f"everything {epoch}", f"links {epoch}"
        session.jobs = {JOB, shares}
        if parts.members.others[session.node_id].is_certain:
            parts.owners.tell_again(session)
        parts.work.add(parts.telling.retell(session, shares))
        if session is parts.telling.gateway:
            session.jobs.add(everything)
            parts.work.add(parts.telling.retell_all(session, everything))
        if parts.gateway.is_here:
            session.jobs.add(links)
            parts.work.add(parts.links.retell(session, links))

    def connected(self) -> None:
        """Introduce this node at once, because the transport works."""
        now = self._parts.clock()
        self._parts.gateway.connected(now)
        self._beat(now)

    def describe(self, session: Session, heartbeat: Heartbeat) -> None:
        """Note the content of a heartbeat."""
        member = self._parts.members.others[session.node_id]
        was_gateway = member.is_gateway
        _describe(member, heartbeat)
        if member.is_gateway and not was_gateway:
            # It may tell of linked peers at once.
            self._choose_gateway(self._parts.clock())

    def tick(self, now: float, period: float) -> None:
        """Do everything that is due. Called every `period` seconds."""
        parts = self._parts
        for node_id in parts.members.silent(now, period):
            self.leave(node_id, Left.SILENT)
        if now >= self._beat_at:
            self._beat(now)
        for session in parts.sessions.by_id.values():
            if session.can_begin(now):
                self.begin(session, now)
            session.tick(now)
        self._departed.expire(now)
        self._choose_gateway(now)

    def end(self) -> None:
        """Tell all nodes that this one stops, and forget them. No node can join any more."""
        self._broadcast(encode(Bye()))
        self._has_ended = True
        for node_id in list(self._parts.members.others):
            self._forget(node_id, Left.STOPPED)

    def _choose_gateway(self, now: float) -> None:
        parts = self._parts
        was_here = parts.gateway.is_here
        node_id = parts.gateway.choose(now)
        is_here = parts.gateway.is_here
        changed = is_here != was_here
        if is_here and changed:
            self._believe(None)
            parts.shared.become_gateway()
        elif changed:
            parts.links.resign()
            parts.shared.resign()
        if changed:
            self._beat(now)
        if not is_here:
            session = parts.sessions.by_id.get(node_id)
            if session is not parts.telling.gateway:
                changed = True
                self._believe(session)
        if changed:
            parts.listener.gateway_changed(is_here, node_id)

    def _believe(self, session: Session | None) -> None:
        """Take another node for the gateway, or none, and tell it of all swarms."""
        parts = self._parts
        parts.telling.gateway = session
        parts.links.set_gateway(session)
        if session is not None and not session.must_begin:
            job = f"everything {session.epoch}"
            session.jobs.add(job)
            parts.work.add(parts.telling.retell_all(session, job))

    def _beat(self, now: float) -> None:
        self._beat_at = now + HEARTBEAT
        self._broadcast(encode(self._heartbeat()))

    def _heartbeat(self) -> Heartbeat:
        load = self._parts.load
        age = self._age(self._parts.clock())
        flags = (CAPABLE if load.is_capable else 0) + (GATEWAY if self._parts.gateway.is_here else 0)
        return Heartbeat(
            load.label, load.group, load.version, load.tracker_id, load.started, age, *load.numbers(), flags
        )

    def _age(self, now: float) -> int:
        return int(now - self._born)

    def _broadcast(self, part: bytes) -> None:
        parts = self._parts
        self._beats += 1
        payload = parts.sealer.seal(BROADCAST, ALL, 0, self._beats, [part])
        count = len(parts.sessions.by_id)
        parts.sessions.traffic.messages_out += count
        parts.sessions.traffic.bytes_out += count * len(payload)
        parts.transport.broadcast(payload)


def _describe(member: Member, heartbeat: Heartbeat) -> None:
    """Note the content of a heartbeat."""
    member.label = heartbeat.label
    member.group = heartbeat.group
    member.version = heartbeat.version
    member.started = heartbeat.started
    member.connections = heartbeat.connections
    member.swarms = heartbeat.swarms
    member.seeders = heartbeat.seeders
    member.leechers = heartbeat.leechers
    member.is_capable = (heartbeat.flags & CAPABLE) != 0
    member.is_gateway = (heartbeat.flags & GATEWAY) != 0
