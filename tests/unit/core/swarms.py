"""Swarms for tests."""

from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.swarm import Peer, RemoteMember, Swarm

FRESH, STALE, NOW = 300.0, 0.0, 300.0


def swarm_of(
    seeders: int, leechers: int, stale: int = 0, remotes: tuple[tuple[int, int], ...] = ()
) -> tuple[Swarm, list[Peer]]:
    """A swarm and its local peers; the last `stale` leechers have been silent."""
    swarm = Swarm("h" * 20)
    total = seeders + leechers
    peers = [
        swarm.join(peer_id(n), FakeConnection(), n < seeders, STALE if n >= total - stale else FRESH)
        for n in range(total)
    ]
    for complete, incomplete in remotes:
        swarm.set_remote(RemoteMember(swarm, None), complete, incomplete)
    swarm.check_invariants()
    return swarm, peers
