"""The nodes with peers in each swarm, for the infohashes that this node owns (sans I/O).

Each node tells the owner of an infohash when it opens and closes the swarm. The owner tells the holders of each other.
It keeps no infohash of a swarm that only one node has, but only its hash: if two have the same one by chance, a node is
told to share a swarm that it does not have, and ignores that.
"""

from collections.abc import Iterator
from typing import Final


class Holder:
    """A node, as far as it has told of its swarms in one epoch. It is not alive when these statements are void."""

    __slots__ = ("is_alive", "node_id")

    def __init__(self, node_id: str) -> None:
        self.node_id: Final = node_id
        self.is_alive = True


class Directory:
    """The holders of swarms. `Holder`s that are no longer alive are ignored at once, and removed by `purge`."""

    def __init__(self) -> None:
        self._records: dict[int, Holder | tuple[Holder, ...]] = {}
        self._purging: Iterator[int] | None = None
        self._purge_again = False

    def __len__(self) -> int:
        return len(self._records)

    @property
    def must_purge(self) -> bool:
        """Whether there may be holders that are no longer alive."""
        return self._purging is not None or self._purge_again

    def opened(self, key: str, holder: Holder) -> tuple[list[str], bool]:
        """Note that a node has a swarm. Return the other nodes that have it, and whether this one is a newcomer."""
        code = hash(key)
        record = self._records.get(code)
        if record is None:
            self._records[code] = holder
            return [], True
        if isinstance(record, Holder):
            record = (record,)
        node_id = holder.node_id
        is_newcomer = True
        others: list[Holder] = []
        for one in record:
            if one.is_alive:
                if one.node_id == node_id:
                    is_newcomer = False
                else:
                    others.append(one)
        self._records[code] = (*others, holder) if others else holder
        return [one.node_id for one in others], is_newcomer

    def closed(self, key: str, node_id: str) -> None:
        """Note that a node no longer has a swarm, or that this node no longer owns its infohash."""
        code = hash(key)
        record = self._records.get(code)
        if record is None:
            return
        if isinstance(record, Holder):
            record = (record,)
        self._put(code, [one for one in record if one.is_alive and one.node_id != node_id])

    def holders(self, key: str) -> list[str]:
        """Return the nodes that have a swarm."""
        record = self._records.get(hash(key))
        if record is None:
            return []
        if isinstance(record, Holder):
            record = (record,)
        return [one.node_id for one in record if one.is_alive]

    def end(self, holder: Holder) -> None:
        """Make the statements of a node void."""
        holder.is_alive = False
        self._purge_again = True

    def purge(self, count: int) -> None:
        """Remove holders that are no longer alive from the next `count` records."""
        if self._purging is None:
            if not self._purge_again:
                return
            self._purge_again = False
            self._purging = iter(list(self._records))
        for _ in range(count):
            code = next(self._purging, None)
            if code is None:
                self._purging = None
                return
            record = self._records.get(code)
            if isinstance(record, Holder):
                if not record.is_alive:
                    del self._records[code]
            elif record is not None:
                self._put(code, [one for one in record if one.is_alive])

    def _put(self, code: int, holders: list[Holder]) -> None:
        if not holders:
            del self._records[code]
        elif len(holders) == 1:
            self._records[code] = holders[0]
        else:
            self._records[code] = tuple(holders)
