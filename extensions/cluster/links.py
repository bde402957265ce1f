"""Linked peers, those of other trackers: the gateway tells the other nodes their numbers (sans I/O)."""

from collections.abc import Callable, Iterator, Mapping

from extensions.cluster.session import Session, Sessions
from extensions.cluster.shares import SharedSwarms
from extensions.cluster.wire import Linked, Newcomers, encode
from extensions.cluster.work import SLICE, Work
from tracker.extension import LINKED, NodeMember, NodePeers, Swarm, linked_counts


class Links:
    """The numbers of linked peers: told by this node if it is the gateway, and otherwise heard."""

    def __init__(
        self,
        peers: NodePeers,
        sessions: Sessions,
        shared: SharedSwarms,
        swarms: Mapping[str, Swarm],
        work: Work,
        clock: Callable[[], float],
    ) -> None:
        self.gateway: Session | None = None
        """The other node that is the gateway, if any."""
        self._peers = peers
        self._sessions = sessions
        self._shared = shared
        self._swarms = swarms
        self._work = work
        self._clock = clock
        self._dirty: dict[str, None] = {}
        """Swarms whose numbers may have changed."""
        self._told: dict[str, tuple[int, int]] = {}
        """The numbers that this node has told of each swarm that has any."""
        self._heard: dict[str, int] = {}
        """The swarms of which the gateway has told, and its epoch."""

    # At the gateway

    def linked(self, swarm: Swarm) -> bool:
        """Take notice that the numbers of linked peers in a swarm may have changed. Return whether to call `tick`."""
        if not self._shared.is_gateway:
            return False
        self._dirty[swarm.info_hash] = None
        return True

    def newcomers(self, swarm: Swarm, count: int) -> None:
        """Tell the nodes with peers in a swarm that new linked peers may be given parked offers."""
        key = swarm.info_hash
        self._tell(key)
        part = encode(Newcomers(key, count))
        for session in self._sessions_of(key):
            session.put_control(part)

    def tick(self) -> None:
        """Tell of all changes since the last tick."""
        if self._dirty:
            dirty, self._dirty = self._dirty, {}
            for key in dirty:
                self._tell(key)

    def on_first(self, key: str, session: Session) -> None:
        """Tell a node that has just told of its peers in a swarm."""
        if self._shared.is_gateway:
            # The others must be told of a change, too.
            self._tell(key)
            numbers = self._numbers(key)
            if numbers != (0, 0):
                session.put_control(encode(Linked(key, *numbers)))

    def retell(self, session: Session, job: str) -> Iterator[bool]:
        """Tell a node of all swarms with linked peers, in slices; then end the job."""
        keys = list(self._shared.of(session))
        for start in range(0, len(keys), SLICE):
            for key in keys[start : start + SLICE]:
                if self._shared.find(key, session) is not None:
                    self.on_first(key, session)
            yield session.is_slow
        session.end_job(job)

    def dropped(self, key: str) -> None:
        """Take notice that a swarm is no longer shared."""
        self._told.pop(key, None)
        self._heard.pop(key, None)

    def resign(self) -> None:
        """Forget the told numbers, because this node is no longer the gateway."""
        self._told.clear()
        self._dirty.clear()

    # At the other nodes

    def set_gateway(self, session: Session | None) -> None:
        """Believe another gateway from now on, and forget the numbers of the former one."""
        if session is not self.gateway:
            self.gateway = session
            if self._heard:
                self._work.add(self._forget_former())
            if session is not None and session.was_ignored:
                session.was_ignored = False
                session.miss(self._clock())

    def on_linked(self, session: Session, message: Linked) -> None:
        """Take notice of the numbers of linked peers in a swarm."""
        swarm = self._swarms.get(message.key)
        if session is not self.gateway:
            # It may have become the gateway just now: if so, it is asked to tell all again.
            session.was_ignored = True
        elif swarm is not None and swarm.peers:
            self._set(message.key, message.complete, message.incomplete)

    def on_newcomers(self, session: Session, message: Newcomers) -> None:
        """Place parked offers on new linked peers."""
        shared = self._shared.by_key.get(message.key)
        if session is self.gateway and shared is not None and shared.linked is not None:
            member = shared.linked
            self._peers.give_parked(member, min(message.count, member.complete + member.incomplete), self._clock())

    def on_done(self, session: Session) -> None:
        """Forget swarms that the gateway has not told of in its epoch."""
        if session is self.gateway:
            for key in [key for key, epoch in self._heard.items() if epoch < session.heard_epoch]:
                self._set(key, 0, 0)

    def _forget_former(self) -> Iterator[bool]:
        """Forget the numbers of former gateways, in slices."""
        keys = list(self._heard)
        for start in range(0, len(keys), SLICE):
            for key in keys[start : start + SLICE]:
                shared = self._shared.by_key.get(key)
                if shared is not None and shared.linked is not None and not self._is_current(shared.linked):
                    self._set(key, 0, 0)
            yield False

    def _is_current(self, member: NodeMember) -> bool:
        return self.gateway is not None and member.node == self.gateway.node_id

    def _set(self, key: str, complete: int, incomplete: int) -> None:
        shared = self._shared.record(key)
        member = shared.linked
        if member is not None and complete + incomplete and not self._is_current(member):
            self._peers.set(member, 0, 0)
            member = None
        if member is None and complete + incomplete and self.gateway is not None:
            member = self._peers.add(key, self.gateway.node_id, LINKED)
        if member is not None:
            self._peers.set(member, complete, incomplete)
        if complete + incomplete and self.gateway is not None:
            shared.linked = member
            self._heard[key] = self.gateway.heard_epoch
        else:
            shared.linked = None
            self._heard.pop(key, None)
        self._shared.tidy(shared)

    def _tell(self, key: str) -> None:
        numbers = self._numbers(key)
        sessions = self._sessions_of(key)
        if not sessions or numbers == self._told.get(key, (0, 0)):
            return
        if numbers == (0, 0):
            del self._told[key]
        else:
            self._told[key] = numbers
        part = encode(Linked(key, *numbers))
        for session in sessions:
            session.put_control(part)

    def _numbers(self, key: str) -> tuple[int, int]:
        swarm = self._swarms.get(key)
        if swarm is None:
            return 0, 0
        return linked_counts(swarm)

    def _sessions_of(self, key: str) -> list[Session]:
        shared = self._shared.by_key.get(key)
        return [] if shared is None else [share.session for share in shared.shares]
