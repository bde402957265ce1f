"""Applies the rosters of other nodes to the swarms that this node shares with them (sans I/O).

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable, Mapping
from typing import Final

from extensions.cluster.reasons import Dropped
from extensions.cluster.session import Session, Sessions
from extensions.cluster.shares import Share, Shared, SharedSwarms
from extensions.cluster.telling import Telling
from extensions.cluster.wire import COMPLETE, HEARD, NEEDS_OFFERS, NEWCOMER, OLDER, PLAIN, Roster
from tracker.extension import NodeMember, NodePeers, Swarm


class Hearing:
    """Applies statements of other nodes. `on_first` is called when one first tells of its peers in a swarm."""

    def __init__(
        self,
        node_id: str,
        peers: NodePeers,
        sessions: Sessions,
        shared: SharedSwarms,
        telling: Telling,
        swarms: Mapping[str, Swarm],
        clock: Callable[[], float],
        on_first: Callable[[str, Session], None],
    ) -> None:
        self.has_met_strangers = False
        """Whether this node was told to share a swarm with a node that it does not know."""
        self._node_id: Final = node_id
        self._peers = peers
        self._sessions = sessions
        self._shared = shared
        self._telling = telling
        self._swarms = swarms
        self._clock = clock
        self._on_first = on_first

    def on_shares(self, key: str, nodes: list[str], is_newcomer: bool) -> None:
        """Share a swarm with other nodes. `is_newcomer`: this node has opened it later than they."""
        swarm = self._swarms.get(key)
        if swarm is None or not swarm.peers:
            self._sessions.dropped[Dropped.UNKNOWN_SWARM] += 1
            return
        for node_id in nodes:
            session = self._sessions.by_id.get(node_id)
            if session is None:
                self.has_met_strangers |= node_id != self._node_id
                continue
            share = self._shared.find(key, session) or self._shared.add(key, session)
            if not share.is_told:
                share.is_newcomer = is_newcomer
                self._telling.tell_first(key, swarm, share, share.has_met)

    def on_roster(self, session: Session, message: Roster) -> None:
        """Take notice of a node's peers."""
        key = message.key
        share = self._share_for(session, key, message.share)
        if share is None:
            return
        shared = self._shared.by_key[key]
        swarm = self._swarms[key]
        now = self._clock()
        gone: dict[str, NodeMember] = {member.peer_id: member for member in share.peers or ()}
        seen: dict[str, None] = {}
        needy: list[NodeMember] = []
        for peer_id, flags in message.peers:
            if peer_id in seen:
                continue
            seen[peer_id] = None
            is_seeder = (flags & COMPLETE) != 0
            member = gone.pop(peer_id, None)
            if member is not None:
                if (member.complete > 0) is not is_seeder:
                    self._peers.set(member, int(is_seeder), int(not is_seeder))
                continue
            member = self._shared.add_peer(key, share, peer_id, is_seeder)
            if not message.share & OLDER and peer_id in swarm.peers:
                self._peers.challenge(key, peer_id, now)
            elif member is not None and flags & NEEDS_OFFERS:
                needy.append(member)
        for member in gone.values():
            self._shared.remove_peer(share, member)
        if message.seeders or message.leechers or share.seeders is not None or share.leechers is not None:
            self._count(key, swarm, share, message)
        if not self._after(session, shared, share, message.share):
            for member in needy:
                self._peers.give_parked(member, 1, now)
            if share.seeders is not None and message.needy_seeders:
                self._peers.give_parked(share.seeders, min(message.needy_seeders, message.seeders), now)
            if share.leechers is not None and message.needy_leechers:
                self._peers.give_parked(share.leechers, min(message.needy_leechers, message.leechers), now)

    def on_closed(self, session: Session, keys: list[str]) -> None:
        """Take notice that a node has no more peers in swarms."""
        for key in keys:
            share = self._shared.find(key, session)
            if share is not None:
                self._shared.end(key, share)

    def _count(self, key: str, swarm: Swarm, share: Share, message: Roster) -> None:
        """Take notice of the numbers of a node's peers that are not known one by one."""
        self._shared.set_counts(key, share, message.seeders, message.leechers)
        now = self._clock()
        for peer_id in message.joined:
            if peer_id in swarm.peers:
                self._peers.challenge(key, peer_id, now)

    def _share_for(self, session: Session, key: str, flag: int) -> Share | None:
        """Return the share that a statement is about. None if the statement must be ignored."""
        share = self._shared.find(key, session)
        if share is None:
            swarm = self._swarms.get(key)
            if self._shared.is_gateway:
                if swarm is None:
                    self._peers.hold(key)
                    if key not in self._swarms:
                        return None  # This tracker does not serve it.
            elif swarm is None or not swarm.peers:
                self._sessions.dropped[Dropped.UNKNOWN_SWARM] += 1
                session.closed(key)
                return None
            elif flag == PLAIN:
                return None
            share = self._shared.add(key, session)
        share.epoch = session.heard_epoch
        return share

    def _after(self, session: Session, shared: Shared, share: Share, flag: int) -> bool:
        """Reply to the first statement of a node about a swarm, and let only one of the two nodes place its offers.

        Return whether this node has placed its parked offers on all peers of the other one.
        """
        key = shared.key
        swarm = self._swarms[key]
        knew, share.has_met = share.has_met, True
        if flag != PLAIN:
            if not swarm.peers:
                # Only the gateway hears of swarms without local peers, and shares none of them.
                session.closed(key)
            elif not share.is_told:
                share.is_newcomer = flag & NEWCOMER == 0
                self._telling.tell_first(key, swarm, share, knew)
            elif not flag & HEARD:
                # It may just not have arrived. But this node may also have told it when it had no peers there.
                session.put_control(self._telling.statement(key, swarm, PLAIN))
        if not knew:
            self._on_first(key, session)
        if not share.is_told or share.is_placed:
            return False
        share.is_placed = True
        ours = share.is_newcomer
        theirs = not ours if flag == PLAIN else flag & NEWCOMER != 0
        is_ours = (ours and not theirs) or (ours == theirs and self._node_id < session.node_id)
        if is_ours:
            self._place_parked(share)
        return is_ours

    def _place_parked(self, share: Share) -> None:
        now = self._clock()
        for member in list(share.peers or ()):
            self._peers.place_parked(member, 1, now)
        for counted in (share.leechers, share.seeders):
            if counted is not None:
                self._peers.place_parked(counted, counted.complete + counted.incomplete, now)
