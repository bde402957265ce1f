"""The BEP 5 fallback for records that cannot be read or written: announcements lead to hosts, hosts to descriptors."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from extensions.dht.krpc.client import Client, Found
from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.keys import announce_hash
from extensions.dht.records.reports import Bep5Report, HostRequest
from extensions.dht.records.votes import Votes
from extensions.dialing import is_public, network_of
from extensions.entries import Rejected
from extensions.trackers import RENDEZVOUS, TrackerEntry
from tracker.extension import ExpiringMap

MAX_FETCHES: Final = 8
ROUNDS: Final = 2
"""Hosts that one lookup requests a descriptor from, because anyone can announce any number of ports; and how often it
does that with others if none of them was a tracker."""

PARALLEL: Final = 4
MAX_WAITING: Final = 32
"""Requests at a time, and requests that wait; further ones are dropped. The rendezvous has as many of its own."""

TIMEOUT: Final = 15.0
"""Seconds that one round of a lookup waits for descriptors."""

REMEMBER: Final = 600.0
"""Seconds during which no host is requested again, whatever the result was."""

MAX_REMEMBERED: Final = 2000
"""Hosts whose results are kept."""

TOKENS: Final = 120.0
MAX_TOKENS: Final = 64
"""Seconds for which an announcement uses the nodes that a lookup has found, and hashes of which they are kept. Nodes
accept tokens for five minutes at least (BEP 5)."""

Fetch = Callable[[Address, float], Awaitable[TrackerEntry]]
"""Fetches the descriptor of a host, at this time (Unix seconds). Raises `DescriptorError`."""


class Bep5Fallback:
    """Finds trackers by their addresses.

    Without `private`, descriptors are requested from global addresses only, and the addresses of one IPv6 network
    (/64) count as one host. With `private`, any address is allowed, and each address and port counts as a host.

    `port` is the TCP port at which other hosts reach our own descriptor. `clock` gives Unix seconds and may be set
    back; `monotonic` gives seconds that never go back. Invalid descriptors are counted in `rejected`.
    """

    def __init__(
        self,
        client: Client,
        fetch: Fetch,
        port: int,
        private: bool,
        clock: Callable[[], float],
        monotonic: Callable[[], float],
        rejected: Counter[Rejected],
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        self.port = port
        self.rejected = rejected
        self._client = client
        self._fetch = fetch
        self._private = private
        self._clock = clock
        self._monotonic = monotonic
        self._timeout = timeout
        # Its own for the rendezvous: attacks on many infohashes must not keep trackers from meeting at all.
        self._lanes = {False: _Lane(), True: _Lane()}
        # By host, its valid descriptor; empty if it gave none.
        self._results: ExpiringMap[str, tuple[TrackerEntry, ...]] = ExpiringMap(REMEMBER, MAX_REMEMBERED)
        # By announced hash, the nodes closest to it, with their tokens.
        self._found: ExpiringMap[bytes, Found] = ExpiringMap(TOKENS, MAX_TOKENS)

    async def find(
        self,
        info_hash: bytes,
        days: list[int],
        job: Job,
        on_entry: Callable[[TrackerEntry], bool],
        report: Bep5Report | None = None,
    ) -> None:
        """Look up the hosts that announced an infohash and request the descriptors of some.

        Half of these hosts are those that most nodes name, the others are taken from all nodes in turn. `on_entry` is
        called with each valid descriptor, and returns whether it is that of another tracker. If there is none, other
        hosts get requests. The results of earlier requests are used as well. All steps are added to the `report`, if
        there is one.
        """
        votes = Votes()

        def collect(node: Address, peers: tuple[Address, ...]) -> None:
            named = [(self._host(peer), peer) for peer in peers if peer[1] and self._is_allowed(peer[0])]
            votes.add(node, named)
            if report:
                report.note_named(node, named, len(peers) - len(named))

        for day in days:
            announced = announce_hash(info_hash, day)
            lookup = report.begin(day, announced, self._clock) if report else None
            found = await self._client.get_peers(announced, job, collect)
            self._found.put(announced, found, self._monotonic())
            if lookup:
                lookup.end(found)
        others = 0

        def count(entry: TrackerEntry) -> None:
            nonlocal others
            others += on_entry(entry)

        for host in list(votes.hosts):
            if (result := self._result(host)) is not None:
                votes.discard(host)
                for entry in result:
                    count(entry)
        lane = self._lanes[info_hash == RENDEZVOUS]
        for _ in range(ROUNDS):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._timeout):
                    await asyncio.gather(
                        *(self._request(address, lane, count, report) for address in votes.take(MAX_FETCHES))
                    )
            if others:
                break

    async def announce(self, info_hash: bytes, day: int, job: Job) -> None:
        """Announce an infohash for this host and `port`, at the nodes that a lookup has just found if there was one."""
        announced = announce_hash(info_hash, day)
        found = self._found.get(announced, self._monotonic())
        if found is None:
            found = await self._client.get_peers(announced, job, lambda _node, _peers: None)
        await self._client.announce(found, announced, self.port)

    async def _request(
        self, address: Address, lane: "_Lane", on_entry: Callable[[TrackerEntry], object], report: Bep5Report | None
    ) -> None:
        host = self._host(address)
        request = report.request(host, address) if report else None
        if self._result(host) is None:
            if lane.waiting >= MAX_WAITING:
                return
            lane.waiting += 1
            try:
                await lane.turns.acquire()
            finally:
                lane.waiting -= 1
            try:
                # Another lookup may have requested it in the meantime.
                if self._result(host) is None:
                    self._results.put(host, await self._fetch_from(address, request), self._monotonic())
            finally:
                lane.turns.release()
        for entry in self._result(host) or ():
            on_entry(entry)

    def _result(self, host: str) -> tuple[TrackerEntry, ...] | None:
        return self._results.get(host, self._monotonic())

    def _is_allowed(self, host: str) -> bool:
        return self._private or is_public(host)

    def _host(self, address: Address) -> str:
        return f"{address[0]} {address[1]}" if self._private else network_of(address[0], ipv4_bits=32)

    async def _fetch_from(self, address: Address, request: HostRequest | None) -> tuple[TrackerEntry, ...]:
        try:
            entry = await self._fetch(address, self._clock())
        except DescriptorError as error:
            self.rejected[error.reason] += 1
            if request:
                request.fault = str(error)
            return ()
        if request:
            request.fault, request.entry = "", entry
        return (entry,)


@dataclass(slots=True)
class _Lane:
    """Requests that are made a few at a time, and those that wait."""

    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PARALLEL))
    waiting: int = 0
