"""What the clients of one address may use (sans I/O; times are seconds of any monotonic clock)."""

from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Final

from tracker.access.ratelimit import TokenBucket
from tracker.reasons import DropReason
from tracker.settings import Limits

MAX_REMEMBERED: Final = 100_000
"""Addresses that have gone, and whose use is remembered until it is forgiven."""

_IPV6_PREFIX: Final = 64
"""Bits of an IPv6 address that name a customer: whoever has one address has all of its /64."""


Networks = tuple[IPv4Network | IPv6Network, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressLimits:
    """What an address may use; 0 is no limit. `burst` is how many seconds' worth it may use at once."""

    connections_per_address: int = 0
    announces_per_second: float = 0.0
    offers_per_second: float = 0.0
    burst: float = 1.0
    exempt: Networks = ()

    @classmethod
    def from_settings(cls, settings: Limits) -> "AddressLimits":
        """Return the limits of one address out of the section `[limits]`."""
        limits = settings.model_dump(exclude={"max_connections", "exempt"})
        return cls(**limits, exempt=networks(settings.exempt))

    @property
    def memory(self) -> float:
        """Seconds after which an address that has used up everything may use as much again."""
        rates = self.announces_per_second, self.offers_per_second
        return max(self.burst, *(1 / rate for rate in rates if rate), 0.0)


class Quota:
    """What one address has used and may still use."""

    __slots__ = ("_announces", "_offers", "address", "connections", "forgiven")

    def __init__(self, address: str, limits: AddressLimits, now: float) -> None:
        self.address = address
        self.connections = 0
        self.forgiven = now
        """When it may be forgotten, if no connection is left."""
        self._announces = _bucket(limits.announces_per_second, limits.burst, now)
        self._offers = _bucket(limits.offers_per_second, limits.burst, now)

    def charge_announce(self, offers: int, now: float) -> DropReason | None:
        """Use an announce with so many offers, or a scrape; why not, if it may not."""
        if self._announces is not None and not self._announces.try_take(1, now):
            return DropReason.TOO_MANY_ANNOUNCES
        return self.charge_offers(offers, now) if offers else None

    def charge_offers(self, number: int, now: float) -> DropReason | None:
        """Use so many offers or answers; why not, if it may not."""
        # More than there can ever be takes all there can be: it must not be refused for ever.
        if self._offers is not None and not self._offers.try_take(min(number, self._offers.burst), now):
            return DropReason.TOO_MANY_OFFERS
        return None


class Addresses:
    """The quotas of all addresses that have a connection, or have had one a moment ago."""

    def __init__(self, limits: AddressLimits) -> None:
        self._limits = limits
        self._quotas: dict[str, Quota] = {}
        self._gone: OrderedDict[str, Quota] = OrderedDict()

    def __len__(self) -> int:
        return len(self._quotas)

    def change(self, limits: AddressLimits) -> None:
        """Other limits from now on; connections that are open keep what they have."""
        if limits == self._limits:
            return
        self._limits = limits
        self._gone.clear()
        self._quotas = {key: quota for key, quota in self._quotas.items() if quota.connections}

    def enter(self, address: str, now: float) -> Quota | None:
        """Count a connection from a numeric address; None if it is exempt. Raises `TooManyConnections`."""
        if contains(self._limits.exempt, address):
            return None
        key = _customer(address)
        quota = self._quotas.get(key)
        if quota is None:
            self._forget(now)
            quota = self._quotas[key] = Quota(key, self._limits, now)
        limit = self._limits.connections_per_address
        if limit and quota.connections >= limit:
            raise TooManyConnections(key)
        quota.connections += 1
        self._gone.pop(key, None)
        return quota

    def leave(self, quota: Quota | None, now: float) -> None:
        """A connection has ended."""
        if quota is None:
            return
        quota.connections -= 1
        if not quota.connections and self._quotas.get(quota.address) is quota:
            # Not at once: whoever reconnects must not find a full allowance.
            quota.forgiven = now + self._limits.memory
            self._gone[quota.address] = quota
            self._forget(now)

    def _forget(self, now: float) -> None:
        while self._gone:
            address, quota = next(iter(self._gone.items()))
            if quota.forgiven > now and len(self._gone) <= MAX_REMEMBERED:
                break
            del self._gone[address]
            del self._quotas[address]


class TooManyConnections(Exception):
    """An address has as many connections as it may."""


def networks(texts: list[str]) -> Networks:
    """Addresses and networks in their usual notation. Raises `ValueError`."""
    return tuple(ip_network(text, strict=False) for text in texts)


@lru_cache(8192)
def contains(among: Networks, address: str) -> bool:
    """Whether a numeric address is in one of some networks."""
    parsed = ip_address(address)
    return any(parsed in network for network in among)


@lru_cache(8192)
def _customer(address: str) -> str:
    parsed = ip_address(address)
    if parsed.version == 4:
        return address
    return str(IPv6Network((parsed, _IPV6_PREFIX), strict=False))


def _bucket(rate: float, burst: float, now: float) -> TokenBucket | None:
    # One must fit: less than that could never be used.
    return TokenBucket(rate, max(1.0, rate * burst), now) if rate else None
