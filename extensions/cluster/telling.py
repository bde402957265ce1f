"""Tells other nodes of this node's peers in the swarms that they share (sans I/O).

A node tells its seeders one by one while they are few, and their number otherwise, at most ten times in a second; and
so its leechers. Each `Roster` is complete: the next one replaces it. The first one about a swarm asks for the other
node's. The gateway hears of all swarms.

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from extensions.cluster.session import Session
from extensions.cluster.shares import Share, SharedSwarms
from extensions.cluster.wire import (
    COMPLETE,
    HEARD,
    MAX_JOINED,
    NEEDS_OFFERS,
    NEWCOMER,
    OLDER,
    PLAIN,
    ROSTER,
    encode,
)
from extensions.cluster.work import SLICE
from tracker.extension import ExpiringMap, Peer, Swarm

FEW: Final = 16
MANY: Final = 12
"""Local peers of a role up to which they are told one by one, and down to which by number once there were more."""

NEEDY_FOR: Final = 10.0
MAX_NEEDY: Final = 10_000
"""Seconds, and number of peers, for which it is remembered that a new peer needs offers."""


class Telling:
    """The statements of this node about swarms."""

    def __init__(self, shared: SharedSwarms, swarms: Mapping[str, Swarm], clock: Callable[[], float]) -> None:
        self.gateway: Session | None = None
        """The other node that is the gateway and hears of all swarms, if any."""
        self._shared = shared
        self._swarms = swarms
        self._clock = clock
        self._dirty: dict[str, Swarm] = {}
        """Swarms of which the other nodes must be told at the end of this turn."""
        self._counted: set[str] = set()
        self._later: dict[str, Swarm] = {}
        """Swarms that were told by number since the last tick, and those of them that must be told at the next one."""
        self._many: dict[bool, set[str]] = {True: set(), False: set()}
        """Swarms whose seeders are told by number, and those whose leechers are."""
        self._joined: dict[str, list[str]] = {}
        """The peers that are told by number and have joined since the swarm was told last."""
        self._needy: ExpiringMap[tuple[str, str], bool] = ExpiringMap(NEEDY_FOR, MAX_NEEDY)

    def joined(self, peer: Peer, needs_offers: bool) -> bool:
        """Take notice of a new local peer. Return whether that must be told."""
        swarm = peer.swarm
        key = swarm.info_hash
        if needs_offers:
            self._needy.put((key, peer.peer_id), True, self._clock())
        if self.gateway is None and key not in self._shared.by_key:
            return False
        if key in self._many[peer.complete]:
            joined = self._joined.setdefault(key, [])
            if len(joined) < MAX_JOINED:
                joined.append(peer.peer_id)
        self._dirty[key] = swarm
        return True

    def changed(self, peer: Peer) -> bool:
        """Take notice that a local peer has left its swarm, or become a seeder. Return whether that must be told."""
        swarm = peer.swarm
        if self.gateway is None and swarm.info_hash not in self._shared.by_key:
            return False
        self._dirty[swarm.info_hash] = swarm
        return True

    def closed(self, swarm: Swarm) -> list[Session]:
        """Take notice that the last local peer has left a swarm. Return the nodes that must be told."""
        key = swarm.info_hash
        self._dirty.pop(key, None)
        self._later.pop(key, None)
        for many in self._many.values():
            many.discard(key)
        self._joined.pop(key, None)
        sessions = self._shared.closed(key)
        if self.gateway is not None and self.gateway not in sessions:
            sessions.append(self.gateway)
        return sessions

    def tell(self) -> None:
        """Tell the other nodes of the swarms that have changed in this turn."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        for key, swarm in dirty.items():
            if not swarm.peers:
                continue
            # Both must be looked at: a bitwise or.
            if self._are_many(key, swarm.seeders, True) | self._are_many(key, swarm.leechers, False):
                if key in self._counted:
                    self._later[key] = swarm
                    continue
                self._counted.add(key)
            gateway = self.gateway
            joined = self._joined.pop(key, None)
            part = b""
            shared = self._shared.by_key.get(key)
            if shared is not None:
                for share in shared.shares:
                    if share.is_told:
                        part = part or self.statement(key, swarm, PLAIN, joined)
                        share.session.put_control(part)
                        if share.session is gateway:
                            gateway = None
            if gateway is not None:
                gateway.put_control(part or self.statement(key, swarm, PLAIN, joined))

    def tick(self) -> bool:
        """Let large swarms be told again. Return whether there is anything to tell."""
        self._counted.clear()
        self._needy.expire(self._clock())
        if not self._later:
            return False
        self._dirty.update(self._later)
        self._later = {}
        return True

    def tell_first(self, key: str, swarm: Swarm, share: Share, is_placed: bool = False) -> None:
        """Tell a node of a swarm that it shares, and ask it to do the same.

        `is_placed`: its peers were known before the first one has joined here, so that no offers are parked for them.
        """
        if not share.is_told:
            share.is_told = True
            share.is_placed = is_placed
        flag = (NEWCOMER if share.is_newcomer else OLDER) + (HEARD if share.has_met else 0)
        share.session.put_control(self.statement(key, swarm, flag))

    def retell(self, session: Session, job: str) -> Iterator[bool]:
        """Tell a node of all swarms that it shares, in slices; then end the job."""
        shares = self._shared.of(session)
        keys = list(shares)
        for start in range(0, len(keys), SLICE):
            for key in keys[start : start + SLICE]:
                share = shares.get(key)
                swarm = self._swarms.get(key)
                if share is not None and share.is_told and share.session is session and swarm is not None:
                    self.tell_first(key, swarm, share)
            yield session.is_slow
        session.end_job(job)

    def retell_all(self, session: Session, job: str) -> Iterator[bool]:
        """Tell the gateway of all other swarms, in slices; then end the job."""
        keys = list(self._swarms)
        for start in range(0, len(keys), SLICE):
            for key in keys[start : start + SLICE]:
                swarm = self._swarms.get(key)
                if swarm is not None and swarm.peers and session is self.gateway:
                    share = self._shared.find(key, session)
                    if share is None or not share.is_told:
                        session.put_control(self.statement(key, swarm, PLAIN))
            yield session.is_slow
        session.end_job(job)

    def statement(self, key: str, swarm: Swarm, flag: int, joined: list[str] | None = None) -> bytes:
        """Return the encoded statement about the local peers of a swarm.

        `flag` is its field `share`. `joined` are the new peers of the roles that are told by number.
        """
        needy = self._needy if len(self._needy) else None
        rows: list[tuple[str, int]] = []
        seeders = leechers = needy_seeders = needy_leechers = 0
        if self._are_many(key, swarm.seeders, True):
            seeders = len(swarm.seeders)
        else:
            rows += [(peer.peer_id, self._flags(key, peer, COMPLETE, needy)) for peer in swarm.seeders]
        if self._are_many(key, swarm.leechers, False):
            leechers = len(swarm.leechers)
        else:
            rows += [(peer.peer_id, self._flags(key, peer, 0, needy)) for peer in swarm.leechers]
        if not seeders and not leechers:
            return encode((ROSTER, key, flag, rows))
        joined = joined or []
        if needy is not None:
            for peer_id in joined:
                peer = swarm.peers.get(peer_id)
                if peer is not None and needy.get((key, peer_id), self._clock()):
                    if peer.complete:
                        needy_seeders += 1
                    else:
                        needy_leechers += 1
        return encode((ROSTER, key, flag, rows, seeders, leechers, joined, needy_seeders, needy_leechers))

    def _flags(self, key: str, peer: Peer, role: int, needy: ExpiringMap[tuple[str, str], bool] | None) -> int:
        if needy is not None and needy.get((key, peer.peer_id), self._clock()):
            return role + NEEDS_OFFERS
        return role

    def _are_many(self, key: str, pool: list[Peer], complete: bool) -> bool:
        """Return whether the peers of a role are told by number."""
        many = self._many[complete]
        size = len(pool)
        if size > FEW:
            many.add(key)
            return True
        if key not in many:
            return False
        if size >= MANY:
            return True
        many.discard(key)
        return False
