"""Limits the packets that go to one node (sans I/O; times are seconds on any clock)."""

from collections import deque
from typing import Final

from extensions.dht.krpc.messages import Address

NODE_RATE: Final = 4
"""Packets to one node per second.

libtorrent bans an address that sends it more than 50 in ten seconds. It also receives packets of our own node from the
same address.
"""

WINDOW: Final = 1.005
"""Seconds for which a packet counts: a little more than one, since clocks and timers are not exact."""


class NodePace:
    """Decides when the next packet may go to a node: at most `rate` in any window of `WINDOW` seconds.

    Granted times count although they are in the future, so that packets that have to wait follow one another. A token
    bucket would not do: after a rest, it allows up to twice as many packets in one window.
    """

    def __init__(self, rate: int = NODE_RATE) -> None:
        self._rate = rate
        self._granted: dict[Address, deque[float]] = {}

    def grant(self, address: Address, now: float) -> float:
        """Return the time at which one more packet may be sent to `address`: `now`, or later."""
        times = self._granted.get(address)
        if times is None:
            times = self._granted[address] = deque(maxlen=self._rate)
        when = max(now, times[0] + WINDOW) if len(times) == self._rate else now
        times.append(when)
        return when

    def forget(self, now: float) -> None:
        """Drop the nodes whose packets no longer count. Must be called from time to time."""
        for address in [address for address, times in self._granted.items() if times[-1] + WINDOW < now]:
            del self._granted[address]

    def __len__(self) -> int:
        return len(self._granted)
