"""The local peers of a swarm, as neighbours are told of them."""

from extensions.federation.wire import MAX_PRESENT
from tracker.extension import Swarm, marks_of

State = tuple[int, int, frozenset[str]]
"""Seeders and leechers of a swarm and, if they are few, their peer_ids."""


def counts_of(swarm: Swarm) -> tuple[int, int]:
    """Return the number of local seeders and leechers."""
    return len(swarm.seeders), len(swarm.leechers)


def state_of(swarm: Swarm) -> State:
    """Return everything that neighbours may be told of a swarm. It is equal as long as there is no news for them."""
    return *counts_of(swarm), frozenset(swarm.peers if len(swarm.peers) <= MAX_PRESENT else ())


def marks_in(swarm: Swarm) -> tuple[list[str], list[str]]:
    """Return the marks of the local seeders and leechers."""
    seeders, leechers = ([peer.peer_id for peer in pool] for pool in (swarm.seeders, swarm.leechers))
    return marks_of(swarm.info_hash, seeders), marks_of(swarm.info_hash, leechers)
