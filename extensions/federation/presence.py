"""The peers of a swarm, as neighbours are told of them: those at all nodes of this tracker."""

import os
from hashlib import sha256
from typing import Final

from extensions.federation.wire import MAX_PRESENT
from tracker.extension import MARK_LENGTH, Swarm, known_peers, marks_of, swarm_key

State = tuple[int, int, frozenset[str]]
"""Seeders and leechers of a swarm and, if they are few, their peer_ids."""

_SALT: Final = os.urandom(16)
"""Makes the marks of unknown peers different from those of other trackers."""


def counts_of(swarm: Swarm) -> tuple[int, int]:
    """Return the number of seeders and leechers."""
    return swarm.own_complete, swarm.own_incomplete


def is_empty(swarm: Swarm) -> bool:
    """Return whether a swarm has no peers at any node. The gateway of a cluster may still keep it open."""
    return not swarm.own_complete + swarm.own_incomplete


def state_of(swarm: Swarm) -> State:
    """Return everything that neighbours may be told of a swarm. It is equal as long as there is no news for them."""
    counts = counts_of(swarm)
    peers = known_peers(swarm) if sum(counts) <= MAX_PRESENT else []
    return *counts, frozenset(peer.peer_id for peer in peers)


def marks_in(swarm: Swarm) -> tuple[list[str], list[str]] | None:
    """Return the marks of the seeders and leechers; None if there are too many.

    Peers at another node of which only the number is known have marks that no other peer has. A peer that is present at
    two nodes has one mark, though it counts twice until one of its connections has ended.
    """
    counts = counts_of(swarm)
    if sum(counts) > MAX_PRESENT:
        return None
    seeders = [peer.peer_id for peer in known_peers(swarm) if peer.complete]
    leechers = [peer.peer_id for peer in known_peers(swarm) if not peer.complete]
    unknown = counts[0] - len(seeders), counts[1] - len(leechers)
    first = set(seeders)
    second = [peer_id for peer_id in dict.fromkeys(leechers) if peer_id not in first]
    return (
        marks_of(swarm.info_hash, dict.fromkeys(seeders)) + _stand_ins(swarm, b"s", unknown[0]),
        marks_of(swarm.info_hash, second) + _stand_ins(swarm, b"l", unknown[1]),
    )


def _stand_ins(swarm: Swarm, role: bytes, count: int) -> list[str]:
    """Return marks for peers of which only the number is known: the same ones each time."""
    start = _SALT + swarm_key(swarm.info_hash) + role
    return [sha256(start + number.to_bytes(2, "big")).hexdigest()[:MARK_LENGTH] for number in range(count)]
