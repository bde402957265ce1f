"""The choice of the gateway: the node at which extensions run that exist once in a cluster (sans I/O).

The nodes that can be it agree by rendezvous hashing. The one that they agree on says so in its heartbeats, and only
then do the others take it for the gateway. It stays the gateway as long as it lives: a node that comes does not move
it.

All times are seconds on any monotonic clock.
"""

from typing import Final

from extensions.cluster.members import Members

START: Final = 1.5
ALONE: Final = 10.0
"""Seconds for which a node is not the gateway after it can reach others for the first time, or after its start if it
cannot: it must have heard of them.
"""

STEADY: Final = 1.0
"""Seconds for which a node must have been the right one until it is the gateway."""


class GatewayChoice:
    """The gateway, as this node knows it."""

    def __init__(self, members: Members, now: float) -> None:
        self.is_here = False
        """Whether this node is the gateway."""
        self._members = members
        self._best = ""
        self._since = now
        self._earliest = now + ALONE
        self._was_connected = False

    def connected(self, now: float) -> None:
        """Take notice that the transport works."""
        if not self._was_connected:
            self._was_connected = True
            self._earliest = min(self._earliest, now + START)

    def choose(self, now: float) -> str:
        """Choose again, and return the id of the gateway; empty if there is none."""
        members = self._members
        best = members.gateway(self.is_here)
        if best != self._best:
            self._best, self._since = best, now
        if best == members.node_id:
            if not self.is_here and now >= self._since + STEADY and now >= self._earliest:
                self.is_here = True
        else:
            self.is_here = False
        if self.is_here:
            return members.node_id
        claiming = [node_id for node_id, member in members.others.items() if member.is_gateway and member.is_certain]
        if best in claiming:
            return best
        return min(claiming, default="")
