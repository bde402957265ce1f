"""Whether the nodes of an address family still answer (sans I/O; times are seconds on any monotonic clock)."""

from collections import deque
from typing import Final

from extensions.dht.krpc.messages import Address

LOST: Final = 8
"""Queries without a reply, to nodes that have answered before, after which timeouts are put down to our own network.

One or two such nodes may be gone, or packets may be lost. It is unlikely that this happens eight times in a row.
"""


MAX_AVOIDED: Final = 1000
"""Avoided nodes that are known since the last reply: in a family that few nodes use, that may be long ago."""


class Reception:
    """The replies of one address family.

    It is *cut off* after `LOST` timeouts of queries that were sent after the last reply, until the next reply.
    """

    def __init__(self, now: float) -> None:
        self.is_cut_off = False
        self.has_answered = False
        """Whether there was any reply since the start."""
        self.heard = now
        """When the last reply came; at first, the start."""
        self._timeouts = 0
        self._avoided: deque[Address] = deque(maxlen=MAX_AVOIDED)

    @property
    def works(self) -> bool:
        """Whether nodes answer."""
        return self.has_answered and not self.is_cut_off

    def answered(self, now: float) -> list[Address]:
        """Note a reply. Return the nodes that were avoided because of the outage that ends with it."""
        wrongly = list(self._avoided) if self.is_cut_off else []
        self.is_cut_off, self.has_answered, self.heard = False, True, now
        self._timeouts = 0
        self._avoided.clear()
        return wrongly

    def timed_out(self, address: Address, sent: float, is_known: bool) -> bool:
        """Note a query without a reply. Return whether its node should be avoided.

        `is_known`: the node has answered before. Others count only while there was no reply at all.
        """
        # A query may end after the reply to a later one: then the node was at fault.
        if sent >= self.heard and (is_known or not self.has_answered):
            self._timeouts += 1
            self.is_cut_off |= self._timeouts >= LOST
        if not self.is_cut_off:
            self._avoided.append(address)
        return not self.is_cut_off
