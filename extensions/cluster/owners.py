"""Tells the owners of infohashes of this node's swarms, and as an owner the holders of each other (sans I/O)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from extensions.cluster.directory import Directory, Holder
from extensions.cluster.members import Members
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
        members: Members,
        sessions: Sessions,
        swarms: Mapping[str, Swarm],
        work: Work,
        shares: Callable[[str, list[str], bool], None],
    ) -> None:
        self.directory = Directory()
        self._members = members
        self._sessions = sessions
        self._swarms = swarms
        self._work = work
        self._shares = shares
        self._own = Holder(members.node_id)
        self._fresh: dict[str, Session] = {}
        """Nodes that must be told of all swarms whose infohashes they own."""
        self._new: set[str] = set()
        """Those of them that were no members before. Other nodes have owned their infohashes."""
        self._gone: set[str] = set()
        """Nodes that have ended. Other nodes now own their infohashes."""
        self._is_telling = False

    def opened(self, key: str) -> None:
        """Take notice of the first local peer of a swarm."""
        owner = self._members.owner(key)
        if owner == self._members.node_id:
            self._hold(key, self._own)
        else:
            session = self._sessions.by_id.get(owner)
            if session is not None:
                session.opened(key)

    def closed(self, key: str) -> Session | None:
        """Take notice that the last local peer has left a swarm. Return the owner, which must be told, if any."""
        owner = self._members.owner(key)
        if owner == self._members.node_id:
            self.directory.closed(key, owner)
            return None
        return self._sessions.by_id.get(owner)

    def on_opened(self, session: Session, keys: list[str]) -> None:
        """Take notice of swarms of another node, also if this node does not own them: it may not know that yet."""
        for key in keys:
            self._hold(key, session.holder)

    def on_closed(self, session: Session, keys: list[str]) -> None:
        """Take notice that another node has closed swarms, or that they have another owner now."""
        for key in keys:
            self.directory.closed(key, session.node_id)

    def on_begin(self, session: Session) -> None:
        """Take notice that another node begins to tell everything again."""
        if session.epochs_heard > 1:
            # It may have missed what this node has told it as an owner. It tells this when it is told of the swarms.
            self.tell_again(session)

    def on_done(self, session: Session) -> None:
        """Forget what another node has told before the epoch that it has now told completely."""
        for holder in session.old_holders:
            self.directory.end(holder)
        session.old_holders.clear()

    def tell_again(self, session: Session, is_new: bool = False) -> None:
        """Tell a node of all swarms whose infohashes it owns. `is_new`: it was no member before."""
        self._fresh[session.node_id] = session
        if is_new:
            self._new.add(session.node_id)
        self._start()

    def tell_all_again(self) -> None:
        """Tell all nodes of all swarms whose infohashes they own."""
        self._fresh.update(self._sessions.by_id)
        self._start()

    def ended(self, session: Session) -> None:
        """Forget a node, and tell the next owners of the swarms that it owned."""
        self.directory.end(session.holder)
        for holder in session.old_holders:
            self.directory.end(holder)
        session.old_holders.clear()
        self._fresh.pop(session.node_id, None)
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
            new, self._new = self._new, set()
            gone, self._gone = self._gone, set()
            keys = list(self._swarms)
            patience = PATIENCE
            for start in range(0, len(keys), SLICE):
                for key in keys[start : start + SLICE]:
                    self._tell_of(key, fresh, new, gone)
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
        self._is_telling = False

    def _tell_of(self, key: str, fresh: dict[str, Session], new: set[str], gone: set[str]) -> None:
        swarm = self._swarms.get(key)
        if swarm is None or not swarm.peers:
            return
        members = self._members
        owner = members.owner(key)
        session = fresh.get(owner)
        if session is not None:
            session.opened(key)
            if owner in new:
                self._leave(members.owner_but(key, owner), key)
        elif gone and members.was_owned(key, gone, owner):
            self.opened(key)

    def _leave(self, node_id: str, key: str) -> None:
        """Take back what the former owner of an infohash was told."""
        if node_id == self._members.node_id:
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
        if node_id == self._members.node_id:
            self._shares(key, others, is_newcomer)
        else:
            session = self._sessions.by_id.get(node_id)
            if session is not None:
                session.put_control(encode((SHARES, key, others, is_newcomer)))
