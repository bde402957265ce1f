"""The hosts that nodes name for an infohash, and which of them get a request (sans I/O).

A node may name any hosts, in any number. Therefore, nodes count, not names: a host that several nodes name comes before
others, and each node gets its turn.
"""

import random
from collections import Counter
from collections.abc import Iterable
from typing import Final

from extensions.dht.krpc.messages import Address

MAX_HOSTS: Final = 32
"""Hosts of one node's reply that count, chosen at random."""

MAX_PORTS: Final = 4
"""Ports of one host in one node's reply that count, chosen at random."""


class Votes:
    """The hosts that the nodes of one lookup have named. A text identifies each host."""

    def __init__(self) -> None:
        self.hosts: dict[str, Counter[Address]] = {}
        """The hosts that have not been taken yet: how many nodes have named each address."""
        self._named: dict[Address, list[str]] = {}
        """By node, the hosts that it has named; the node that waits for its turn longest is the first."""
        self._counts: Counter[str] = Counter()
        self._has_begun = False

    def add(self, node: Address, named: Iterable[tuple[str, Address]]) -> None:
        """Add the hosts that a node has named, each with an address. Of several replies of a node, the first counts."""
        if node in self._named:
            return
        addresses: dict[str, set[Address]] = {}
        for host, address in named:
            addresses.setdefault(host, set()).add(address)
        chosen = self._named[node] = random.sample(list(addresses), min(MAX_HOSTS, len(addresses)))
        self._counts.update(chosen)
        for host in chosen:
            ports = sorted(addresses[host])
            self.hosts.setdefault(host, Counter()).update(random.sample(ports, min(MAX_PORTS, len(ports))))

    def discard(self, host: str) -> None:
        """Do not take a host."""
        self.hosts.pop(host, None)

    def take(self, number: int) -> list[Address]:
        """Return the addresses of so many hosts, one of each, and do not take these hosts again.

        Half of them are the hosts that most nodes have named. For the others, the nodes have turns in random order; in
        the next call, the nodes come first that have had none.
        """
        by_votes = sorted(self.hosts, key=lambda host: (self._counts[host], random.random()), reverse=True)
        taken = [self._take(host) for host in by_votes[: number // 2]]
        if taken and not self._has_begun:
            nodes = list(self._named.items())
            random.shuffle(nodes)
            self._named, self._has_begun = dict(nodes), True
        while len(taken) < number and self._named:
            node = next(iter(self._named))
            left = [host for host in self._named.pop(node) if host in self.hosts]
            if left:
                taken.append(self._take(random.choice(left)))
                self._named[node] = left
        return taken

    def _take(self, host: str) -> Address:
        """Return the address of a host that most nodes have named."""
        ports = self.hosts.pop(host)
        most = max(ports.values())
        return random.choice([address for address, count in ports.items() if count == most])
