"""Tells the owners of infohashes of this node's swarms, and as an owner the holders of each other (sans I/O)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from extensions.cluster.directory import Directory, Holder
from extensions.cluster.members import Ring
from extensions.cluster.reasons import Resync
from extensions.cluster.session import Session, Sessions
from extensions.cluster.wire import SHARES, encode
from extensions.cluster.work import SLICE, Work
from tracker.extension import Swarm

JOB: Final = "owned"
"""The part of the state that is told to a node because it owns infohashes."""

PATIENCE: Final = 50
"""Ticks for which slow nodes are waited for. Then they are told everything again later, and no others wait for them."""

PURGED: Final = 2000
"""Records of the directory that are examined in each tick."""


class Owners:
    """This node as the owner of some infohashes, and the other owners.

    `shares` is called with an infohash of a swarm of this node, the other nodes that have it, and whether this one has
    opened it later.
    """

    def __init__(
        self,
        node_id: str,
        sessions: Sessions,
        swarms: Mapping[str, Swarm],
        work: Work,
        shares: Callable[[str, list[str], bool], None],
    ) -> None:
        self.directory = Directory()
        self.ring = Ring()
        """The nodes that are told of swarms as their owners. New ones are added once all swarms are visited."""
        self.ring.add(node_id)
        self._node_id: Final = node_id
        self._sessions = sessions
        self._swarms = swarms
        self._work = work
        self._shares = shares
        self._own = Holder(node_id)
        self._fresh: dict[str, Session] = {}
        """Nodes that must be told of all swarms whose infohashes they own."""
        self._coming: set[str] = set()
        """Those of them that are told for the first time just now. Other nodes have owned their infohashes before."""
        self._gone: set[str] = set()
        """Nodes that have ended. Other nodes now own their infohashes."""
        self._is_telling = False

    def opened(self, key: str) -> None:
        """Take notice of the first local peer of a swarm."""
        owner = self.ring.owner(key)
        if owner == self._node_id:
            self._hold(key, self._own)
        else:
            session = self._sessions.by_id.get(owner)
            if session is not None:
                session.opened(key)

    def closed(self, key: str) -> list[Session]:
        """Take notice that the last local peer has left a swarm. Return the nodes that must be told."""
        owners = [self.ring.owner(key)]
        if owners[0] in self._coming:
            # The former owner may not have been told of the new one yet.
            owners.append(self.ring.owner_without(key, self._coming))
        sessions: list[Session] = []
        for owner in owners:
            session = self._sessions.by_id.get(owner)
            if session is not None:
                sessions.append(session)
            elif owner == self._node_id:
                self.directory.closed(key, owner)
        return sessions

    def on_opened(self, session: Session, keys: list[str]) -> None:
        """Take notice of swarms of another node, also if this node does not own them: it may not know that yet."""
        for key in keys:
            self._hold(key, session.holder)

    def on_closed(self, session: Session, keys: list[str]) -> None:
        """Take notice that another node has closed swarms, or that they have another owner now."""
        for key in keys:
            self.directory.closed(key, session.node_id)

    def on_done(self, session: Session) -> None:
        """Forget the statements of another node from before the epoch that it has now told completely."""
        for holder in session.old_holders:
            self.directory.end(holder)
        session.old_holders.clear()

    def tell_again(self, session: Session) -> None:
        """Tell a node, which may be a new one, of all swarms whose infohashes it owns."""
        self._fresh[session.node_id] = session
        self._start()

    def tell_all_again(self) -> None:
        """Tell all nodes of all swarms whose infohashes they own."""
        self._fresh.update({node_id: one for node_id, one in self._sessions.by_id.items() if node_id in self.ring})
        self._start()

    def ended(self, session: Session) -> None:
        """Forget a node, and tell the next owners of the swarms that it owned."""
        self.directory.end(session.holder)
        for holder in session.old_holders:
            self.directory.end(holder)
        session.old_holders.clear()
        self._fresh.pop(session.node_id, None)
        if session.node_id in self.ring:
            self.ring.remove(session.node_id)
            self._gone.add(session.node_id)
        self._start()

    def tick(self) -> None:
        """Remove some void records."""
        self.directory.purge(PURGED)

    def _start(self) -> None:
        if not self._is_telling:
            self._is_telling = True
            self._work.add(self._tell())

    def _tell(self) -> Iterator[bool]:
        """Visit all swarms, as often as nodes have come or gone."""
        while self._fresh or self._gone:
            fresh, self._fresh = self._fresh, {}
            self._coming = {node_id for node_id in fresh if node_id not in self.ring}
            for node_id in self._coming:
                self.ring.add(node_id)
            gone, self._gone = self._gone, set()
            keys = list(self._swarms)
            patience = PATIENCE
            for start in range(0, len(keys), SLICE):
                for key in keys[start : start + SLICE]:
                    self._tell_of(key, fresh, gone)
                slow = [session for session in fresh.values() if session.is_slow]
                if slow and patience == 0:
                    for session in slow:
                        session.begin_later(Resync.SLOW_NODE)
                elif slow:
                    patience -= 1
                yield bool(slow)
            for session in fresh.values():
                if session.node_id not in self._fresh:
                    session.end_job(JOB)
        self._coming = set()
        self._is_telling = False

    def _tell_of(self, key: str, fresh: dict[str, Session], gone: set[str]) -> None:
        swarm = self._swarms.get(key)
        if swarm is None or not swarm.peers:
            return
        owner = self.ring.owner(key)
        session = fresh.get(owner)
        if session is not None:
            session.opened(key)
            if owner in self._coming:
                self._leave(self.ring.owner_without(key, self._coming), key)
        elif gone and self.ring.was_owned(key, gone):
            self.opened(key)

    def _leave(self, node_id: str, key: str) -> None:
        """Tell the former owner of an infohash that it no longer is."""
        if node_id == self._node_id:
            self.directory.closed(key, node_id)
        else:
            session = self._sessions.by_id.get(node_id)
            if session is not None:
                session.moved(key)

    def _hold(self, key: str, holder: Holder) -> None:
        """Note that a node has a swarm, and tell the holders of each other."""
        others, is_newcomer = self.directory.opened(key, holder)
        if not others:
            return
        self._tell_shares(holder.node_id, key, others, is_newcomer)
        if is_newcomer:
            for node_id in others:
                self._tell_shares(node_id, key, [holder.node_id], False)

    def _tell_shares(self, node_id: str, key: str, others: list[str], is_newcomer: bool) -> None:
        if node_id == self._node_id:
            self._shares(key, others, is_newcomer)
        else:
            session = self._sessions.by_id.get(node_id)
            if session is not None:
                session.put_control(encode((SHARES, key, others, is_newcomer)))
