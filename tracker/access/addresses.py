"""Limits on the clients of one address (sans I/O; times are seconds on any monotonic clock)."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from tracker.access.ratelimit import TokenBucket
from tracker.expiring import ExpiringMap
from tracker.settings import Limits

MAX_REMEMBERED: Final = 100_000
"""Addresses without a connection whose quotas are kept. Without a limit, each address that connects would stay."""

_IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that count as one client, because providers assign at least a /64 to each customer."""

EXCESS: Final = 20
"""Messages over the limits that a client may still send, as a multiple of its announces.

A machine with thousands of torrents announces all of them when it connects. Serving these announces without their
offers costs hardly more than refusing them. With the default limits, an address may send 20 000 of them at once.
"""

ANSWERS_SHARE: Final = 0.25
"""The share of the allowance for offers that is kept for answers.

An answer completes an offer that the tracker has relayed, so it is worth more than one more offer.
"""

LARGE: Final = 100
"""Peers of a connection from which on they count towards `peers_per_address`. So the quota of an ordinary client needs
no list of its connections."""

Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLimits:
    """The limits of one address; 0 means no limit.

    Attributes:
        connections_per_address: Open connections, also for pages.
        new_connections_per_second: Connections that are opened, also for pages.
        pages_per_second: Requests for pages that cost more than a constant text.
        peers_per_address: Peers of the connections that have `LARGE` or more of them.
        announces_per_second: Announces and scrapes.
        offers_per_second: Offers and answers.
        bytes_per_second: Bytes of messages, after inflating compressed ones (`tracker.peers`).
        burst: Seconds' worth of each rate that may be used at once.
        exempt: Networks without limits.
    """

    connections_per_address: int = 0
    new_connections_per_second: float = 0.0
    pages_per_second: float = 0.0
    peers_per_address: int = 0
    announces_per_second: float = 0.0
    offers_per_second: float = 0.0
    bytes_per_second: float = 0.0
    burst: float = 1.0
    exempt: Networks = ()

    @classmethod
    def from_settings(cls, settings: Limits) -> "AddressLimits":
        """Return the limits of one address out of the section `[limits]`."""
        limits = settings.model_dump(exclude={"max_connections", "exempt"})
        return cls(**limits, exempt=networks(settings.exempt))

    @property
    def memory(self) -> float:
        """Seconds until a fully used allowance is full again."""
        rates = (
            self.announces_per_second,
            self.offers_per_second,
            self.bytes_per_second,
            self.new_connections_per_second,
            self.pages_per_second,
        )
        return max(self.burst, *(1 / rate for rate in rates if rate), 0.0)


class Quota:
    """The use of one address, or of one IPv6 /64.

    Attributes:
        address: The address, or the network of an IPv6 client.
        connections: The number of open connections.
        received: The allowance for the bytes of messages, which may go into debt; None without a limit.
    """

    __slots__ = (
        "_announces",
        "_excess",
        "_large",
        "_limits",
        "_offers",
        "_opened",
        "_pages",
        "address",
        "connections",
        "received",
    )

    def __init__(self, address: str, limits: AddressLimits, now: float) -> None:
        self.address = address
        self.connections = 0
        self._limits = limits
        self._announces = _bucket(limits.announces_per_second, limits.burst, now)
        self._offers = _bucket(limits.offers_per_second, limits.burst, now)
        self._opened = _bucket(limits.new_connections_per_second, limits.burst, now)
        # Public, because each message takes from it: a method would cost more than the bucket.
        self.received = _bucket(limits.bytes_per_second, limits.burst, now)
        # Most clients never need these three.
        self._pages: TokenBucket | None = None
        self._excess: TokenBucket | None = None
        self._large: dict[int, Collection[object]] | None = None

    def charge_connection(self, now: float) -> bool:
        """Charge a new connection; return whether it is within the limit."""
        return self._opened is None or self._opened.try_take(1, now)

    def charge_page(self, now: float) -> bool:
        """Charge a request for a page; return whether it is within the limit."""
        if self._pages is None:
            self._pages = _bucket(self._limits.pages_per_second, self._limits.burst, now)
        return self._pages is None or self._pages.try_take(1, now)

    def charge_request(self, now: float) -> bool:
        """Charge an announce or a scrape; return whether it is within the limit."""
        return self._announces is None or self._announces.try_take(1, now)

    def charge_offers(self, number: int, now: float) -> int:
        """Charge offers; return how many of them are within the limit."""
        if self._offers is None:
            return number
        limits = self._limits
        # Rounded down, because the lowest limit must still let an offer through.
        kept = int(limits.offers_per_second * limits.burst * ANSWERS_SHARE)
        return self._offers.take_up_to(number, now, kept)

    def charge_answer(self, now: float) -> bool:
        """Charge an answer; return whether it is within the limit."""
        return self._offers is None or self._offers.try_take(1, now)

    def charge_excess(self, messages: int, now: float) -> float:
        """Charge messages that are over a limit; return the seconds until the client may send further ones.

        All connections of the address wait for the same allowance, also a new one. So reconnecting gains nothing.
        """
        rate, burst = self._limits.announces_per_second, self._limits.burst
        if self._excess is None:
            self._excess = _bucket(rate * EXCESS, burst, now)
        return 0.0 if self._excess is None else self._excess.take(messages, now)

    def may_join(self, peers: Collection[object]) -> bool:
        """Return whether the connection with these peers may have one more.

        `peers` is kept from `LARGE` peers on, until `forget`.
        """
        limit = self._limits.peers_per_address
        if not limit or len(peers) < LARGE:
            return True
        if self._large is None:
            self._large = {}
        self._large[id(peers)] = peers
        return sum(map(len, self._large.values())) < limit

    def forget(self, peers: Collection[object]) -> None:
        """Forget the peers of a connection that has ended."""
        if self._large is not None:
            self._large.pop(id(peers), None)


class Addresses:
    """The quotas of all addresses that have a connection, or had one until recently."""

    def __init__(self, limits: AddressLimits, max_remembered: int = MAX_REMEMBERED) -> None:
        self._limits = limits
        self._max_remembered = max_remembered
        self._connected: dict[str, Quota] = {}
        # Kept for a while, because a client that reconnects must not find a full allowance.
        self._gone = self._new_memory()

    def __len__(self) -> int:
        return len(self._connected) + len(self._gone)

    def connections(self) -> dict[str, int]:
        """Return the number of open connections of each address that has any."""
        return {address: quota.connections for address, quota in self._connected.items()}

    def change(self, limits: AddressLimits) -> None:
        """Apply other limits to new quotas; an address with open connections keeps its quota."""
        if limits != self._limits:
            self._limits = limits
            self._gone = self._new_memory()

    def enter(self, address: str, now: float, *, is_new: bool = True) -> Quota | None:
        """Count a connection from a numeric address; return its quota, or None if the address is exempt.

        `is_new`: the connection was not charged to this address by another process before.

        Raises:
            TooManyConnections: The address has as many connections as it may have.
            TooManyNewConnections: The address has opened too many of late.
        """
        if contains(self._limits.exempt, address):
            return None
        key = _client(address)
        quota = self._connected.get(key)
        if quota is None:
            self._gone.expire(now)
            quota = self._gone.pop(key) or Quota(key, self._limits, now)
        limit = self._limits.connections_per_address
        if limit and quota.connections >= limit:
            raise TooManyConnections(key)
        if is_new and not quota.charge_connection(now):
            if not quota.connections:
                self._gone.put(key, quota, now)
            raise TooManyNewConnections(key)
        self._connected[key] = quota
        quota.connections += 1
        return quota

    def leave(self, quota: Quota | None, now: float) -> None:
        """Count off a connection; an exempt one has no quota."""
        if quota is None:
            return
        quota.connections -= 1
        if not quota.connections:
            del self._connected[quota.address]
            self._gone.put(quota.address, quota, now)

    def check_invariants(self) -> None:
        """Raise `AssertionError` unless quotas with and without connections are kept apart, and the latter bounded."""
        assert all(quota.connections > 0 for quota in self._connected.values())
        assert all(quota.address == address for address, quota in self._connected.items())
        assert not self._connected.keys() & set(self._gone)
        assert len(self._gone) <= self._max_remembered

    def _new_memory(self) -> ExpiringMap[str, Quota]:
        return ExpiringMap(self._limits.memory, self._max_remembered)


class TooManyConnections(Exception):
    """An address has as many connections as it may have."""


class TooManyNewConnections(Exception):
    """An address opens connections faster than it may."""


def networks(texts: list[str]) -> Networks:
    """Parse addresses and networks in their usual notation. Raise `ValueError` if one is invalid."""
    return tuple(ip_network(text, strict=False) for text in texts)


@lru_cache(8192)
def contains(among: Networks, address: str) -> bool:
    """Return whether a numeric address is in one of the networks."""
    parsed = ip_address(address)
    return any(parsed in network for network in among)


@lru_cache(8192)
def _client(address: str) -> str:
    """Return the key of a numeric address: itself, or the network of an IPv6 address."""
    parsed = ip_address(address)
    if parsed.version == 4:
        return address
    return str(IPv6Network((parsed, _IPV6_PREFIX), strict=False))


def _bucket(rate: float, burst: float, now: float) -> TokenBucket | None:
    # At least 1, because a lower burst could never be used.
    return TokenBucket(rate, max(1.0, rate * burst), now) if rate else None
