"""The nodes that the offers of each peer came from: the ways of the answers (sans I/O).

Many peers have a route at each node, so it takes few bytes.

All times are seconds on any monotonic clock.
"""

from typing import Final

ID_LENGTH: Final = 16
"""Characters of a node's id."""

LIFETIME: Final = 120.0
"""Seconds for which a route is kept at least; at most twice as long."""

MAX_ROUTES: Final = 100_000
"""Peers in one generation."""

MAX_NODES: Final = 4
"""Nodes that are remembered of one peer: a peer_id may be present at several."""


class Routes:
    """Remembers in two generations: the older one is forgotten as a whole."""

    def __init__(self, now: float) -> None:
        self._young = _Generation()
        self._old = _Generation()
        self._born = now

    def __len__(self) -> int:
        return self._young.count + self._old.count

    def note(self, info_hash: str, peer_id: str, node_id: str) -> None:
        """Note that a peer has made an offer at a node."""
        young = self._young
        peers = young.swarms.get(info_hash)
        if peers is None:
            peers = young.swarms[info_hash] = {}
        nodes = peers.get(peer_id)
        if nodes is None:
            peers[peer_id] = node_id
            young.count += 1
        elif not nodes.startswith(node_id):
            others = [one for one in _split(nodes) if one != node_id]
            peers[peer_id] = "".join([node_id, *others][:MAX_NODES])

    def find(self, info_hash: str, peer_id: str) -> list[str]:
        """Return the nodes at which a peer has made offers, the last one first."""
        young = _nodes_of(self._young, info_hash, peer_id)
        old = _nodes_of(self._old, info_hash, peer_id)
        if not old or young == old:
            return _split(young)
        found = _split(young)
        return (found + [node_id for node_id in _split(old) if node_id not in found])[:MAX_NODES]

    def age(self, now: float) -> None:
        """Forget routes that are too old, or too many. Called often."""
        if now - self._born >= LIFETIME or self._young.count >= MAX_ROUTES:
            self._old, self._young = self._young, _Generation()
            self._born = now


class _Generation:
    """Routes that were noted in the same time."""

    def __init__(self) -> None:
        self.swarms: dict[str, dict[str, str]] = {}
        """By infohash and peer_id: the ids of the nodes, one after the other, the last one first."""
        self.count = 0
        """The number of peers."""


def _nodes_of(routes: _Generation, info_hash: str, peer_id: str) -> str:
    peers = routes.swarms.get(info_hash)
    return "" if peers is None else peers.get(peer_id, "")


def _split(nodes: str) -> list[str]:
    """Return the ids in a text of several."""
    size = len(nodes)
    if size <= ID_LENGTH:
        return [nodes] if nodes else []
    return [nodes[start : start + ID_LENGTH] for start in range(0, size, ID_LENGTH)]
