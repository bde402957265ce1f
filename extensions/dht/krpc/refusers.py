"""The nodes that are known to refuse puts. Sans I/O; times are seconds on any monotonic clock.

A refuser still routes, and its items are read, but it must not take the place of a node that stores. A conflict (301,
302) is no refusal, because another writer may have been there first. But if the node's item afterwards still has the
sequence number that the put expected, the node has lied.
"""

from typing import Final

from extensions.dht.krpc.messages import Address
from tracker.extension import ExpiringMap

REMEMBER: Final = 6 * 3600.0
"""Seconds for which a refuser is remembered."""

MAX_REFUSERS: Final = 10_000

RECENT: Final = 120.0
"""Seconds within which an item that contradicts a conflict counts. Later, an honest node may have lost its item."""

MAX_CONFLICTS: Final = 4000


class Refusers:
    """Remembers nodes, by their addresses, that refuse to store; for each method of storing others."""

    def __init__(self) -> None:
        self._refusers: ExpiringMap[tuple[str, Address], bool] = ExpiringMap(REMEMBER, MAX_REFUSERS)
        self._conflicts: ExpiringMap[tuple[bytes, Address], int] = ExpiringMap(RECENT, MAX_CONFLICTS)
        """By target and node, the sequence number that a put expected."""

    def count(self, now: float) -> int:
        """Return the number of nodes that are known to refuse; a node may count for each method."""
        self._refusers.expire(now)
        return len(self._refusers)

    def refuses(self, method: str, address: Address, now: float) -> bool:
        """Return whether a node is known to refuse this method (`put`, `announce_peer`)."""
        return bool(self._refusers.get((method, address), now))

    def on_refusal(self, method: str, address: Address, now: float) -> None:
        """Note that a node has refused, with any error that is no conflict."""
        self._refusers.put((method, address), True, now)

    def on_conflict(self, target: bytes, address: Address, expected: int, now: float) -> None:
        """Note that a node has refused a put because its item at `target` has not the expected sequence number."""
        self._conflicts.put((target, address), expected, now)

    def on_item(self, target: bytes, address: Address, seq: int, now: float) -> None:
        """Note the sequence number of the item that a node has at `target`, valid or not; 0 if it has none.

        An item that we take for invalid counts, too: the node may verify signatures differently.
        """
        expected = self._conflicts.get((target, address), now)
        self._conflicts.pop((target, address))
        if expected is not None and seq <= expected:
            # Rarely, an honest node has lost its item in between. It does no harm that another one stores instead.
            self._refusers.put(("put", address), True, now)
