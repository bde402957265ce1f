"""The keys under which the DHT knows swarms, and the way back from a key to a text swarm (sans I/O).

A key has 20 bytes: the infohash, or a hash of the info_hash of a text swarm (`tracker.extension.swarm_key`).
"""

from collections import Counter

from tracker.extension import is_id, swarm_key


class SwarmKeys:
    """The text swarms in use, by key. A swarm may be used several times; it is forgotten after the last `release`."""

    def __init__(self) -> None:
        self._texts: dict[bytes, str] = {}
        self._uses: Counter[bytes] = Counter()

    def hold(self, info_hash: str) -> bytes:
        """Remember a swarm until `release`, and return its key."""
        key = swarm_key(info_hash)
        if not is_id(info_hash):
            self._texts[key] = info_hash
            self._uses[key] += 1
        return key

    def release(self, info_hash: str) -> None:
        """Undo one `hold`."""
        if is_id(info_hash):
            return
        key = swarm_key(info_hash)
        self._uses[key] -= 1
        if not self._uses[key]:
            del self._uses[key], self._texts[key]

    def info_hash_of(self, key: bytes) -> str:
        """Return the info_hash of a key. A key that belongs to no text swarm in use is an infohash."""
        return self._texts.get(key) or key.decode("latin-1")
