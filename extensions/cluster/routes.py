"""The nodes that the offers of each peer came from: the ways of the answers (sans I/O).

All times are seconds on any monotonic clock.
"""

from typing import Final

LIFETIME: Final = 120.0
"""Seconds for which a route is kept at least; at most twice as long."""

MAX_ROUTES: Final = 100_000
"""Peers in one generation."""

MAX_NODES: Final = 4
"""Nodes that are remembered of one peer: a peer_id may be present at several."""


class Routes:
    """Remembers in two generations: the older one is forgotten as a whole."""

    def __init__(self, now: float) -> None:
        self._young: dict[tuple[str, str], list[str]] = {}
        self._old: dict[tuple[str, str], list[str]] = {}
        self._born = now

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def note(self, info_hash: str, peer_id: str, node_id: str) -> None:
        """Note that a peer has made an offer at a node."""
        key = info_hash, peer_id
        nodes = self._young.get(key)
        if nodes is None:
            self._young[key] = [node_id]
        elif nodes[-1] != node_id:
            if node_id in nodes:
                nodes.remove(node_id)
            nodes.append(node_id)
            del nodes[:-MAX_NODES]

    def find(self, info_hash: str, peer_id: str) -> list[str]:
        """Return the nodes at which a peer has made offers, the last one first."""
        key = info_hash, peer_id
        found: list[str] = []
        for generation in (self._young, self._old):
            nodes = generation.get(key)
            if nodes is not None:
                found += [node_id for node_id in reversed(nodes) if node_id not in found]
        return found[:MAX_NODES]

    def age(self, now: float) -> None:
        """Forget routes that are too old, or too many. Called often."""
        if now - self._born >= LIFETIME or len(self._young) >= MAX_ROUTES:
            self._old, self._young = self._young, {}
            self._born = now
