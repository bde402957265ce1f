"""Whether nodes of the DHT answer: pings that tell it in time, and one warning for each outage."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from extensions.dht.krpc.messages import Contact
from extensions.dht.krpc.messenger import Messenger

WATCH_PERIOD: Final = 3.0
"""Seconds between two calls of `Watch.look`: more than the timeout of a query, so that no ping is sent needlessly."""

QUIET: Final = 20.0
"""Seconds without any reply after which nodes are pinged, because an idle tracker sends no queries otherwise."""

CANDIDATES: Final = 32
PINGS: Final = 3
"""The nodes that have answered last, and how many of these are pinged at a time in an address family that is quiet or
cut off. One of those that have answered before is pinged, too, and one of the routing table: the last ones may be gone,
or belong to an attacker."""

UNCONFIRMED: Final = 8
"""Nodes pinged at a time that have never answered."""

ENOUGH: Final = 16
"""Lookups start only from nodes that have answered if there are as many of them: all those that a lookup takes."""

UNREACHABLE_AFTER: Final = 20.0
"""Seconds without a node that answers after which a warning is logged."""

NAMES: Final = {4: "IPv4", 6: "IPv6"}


class Watch:
    """Knows the nodes from which lookups start, and pings some, so that outages and their ends are noticed.

    `contacts` gives the nodes of the routing table in an address family (4 or 6). Some of them may have done no more
    than to query our node; they are pinged, too.
    """

    def __init__(self, messenger: Messenger, contacts: Callable[[int], list[Contact]]) -> None:
        self._messenger = messenger
        self._contacts = contacts
        self._looks = 0

    @property
    def knows_any(self) -> bool:
        """Whether any node is known that lookups could start from."""
        return any(self.contacts(family) for family in self._messenger.families)

    def contacts(self, family: int) -> list[Contact]:
        """Return the nodes from which lookups start.

        They are those of the routing table that have answered, or all of it if these are few. While it is empty, as
        after a long outage, they are the nodes that have answered within a day.
        """
        known = self._allowed(family)
        confirmed = [contact for contact in known if self._messenger.has_answered(contact.address)]
        if len(confirmed) >= ENOUGH:
            return confirmed
        return known or self._messenger.confirmed(family)

    def look(self, now: float) -> None:
        """Ping nodes as necessary. Must be called every `WATCH_PERIOD` seconds."""
        for family in self._messenger.families:
            reception, known = self._messenger.reception(family), self._allowed(family)
            if reception.is_cut_off or now - reception.heard > QUIET:
                self._ping_some(self._messenger.confirmed(family, with_silent=True), known)
            else:
                self._ping_unconfirmed(known)
        self._looks += 1

    def _allowed(self, family: int) -> list[Contact]:
        # The table may have nodes of the local network, which lookups do not use. They would answer in an outage.
        return [contact for contact in self._contacts(family) if self._messenger.is_allowed(contact.address)]

    def _ping_some(self, confirmed: list[Contact], known: Iterable[Contact]) -> None:
        last = confirmed[:CANDIDATES]
        addresses = {contact.address for contact in last}
        others = [contact for contact in known if contact.address not in addresses]
        for candidates, number in ((last, PINGS), (confirmed[CANDIDATES:], 1), (others, 1)):
            for index in range(number if candidates else 0):
                self._messenger.ping(candidates[(self._looks * number + index) % len(candidates)])

    def _ping_unconfirmed(self, known: Iterable[Contact]) -> None:
        waiting = [
            contact
            for contact in known
            if not self._messenger.has_answered(contact.address) and self._messenger.is_usable(contact.address)
        ]
        # In turn, because some answer with errors for ever.
        for index in range(min(UNCONFIRMED, len(waiting))):
            self._messenger.ping(waiting[(self._looks * UNCONFIRMED + index) % len(waiting)])


class Reachability:
    """Whether nodes of the DHT answer. Each outage of `UNREACHABLE_AFTER` seconds costs one warning.

    Times are seconds on any monotonic clock.
    """

    def __init__(self) -> None:
        self.event = asyncio.Event()
        """Set while nodes answer."""
        self._reached = 0.0
        self._is_warned = False
        self._log = structlog.get_logger().bind(extension="dht")

    def start(self, now: float) -> None:
        """Note the start, which counts as the last moment at which a node has answered."""
        self._reached = now

    def update(self, is_reachable: bool, reached: float, now: float, nodes: int, families: list[int]) -> bool:
        """Note whether nodes answer. Return whether they do again.

        `reached`: when the last node has answered. `nodes`: the size of the routing table. `families`: the address
        families (4, 6) on which our node listens.
        """
        self._reached = max(self._reached, now if is_reachable else reached)
        if not is_reachable:
            self.event.clear()
            if now - self._reached > UNREACHABLE_AFTER and not self._is_warned:
                self._is_warned = True
                names = ", ".join(NAMES[family] for family in families)
                self._log.warning("dht_unreachable", seconds=int(now - self._reached), families=names)
            return False
        if self._is_warned:
            self._is_warned = False
            self._log.info("dht_reachable", nodes=nodes)
        is_new = not self.event.is_set()
        self.event.set()
        return is_new
