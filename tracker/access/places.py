"""The places of clients: the network of an address, its autonomous system and its country, by MaxMind DB files.

https://maxmind.github.io/MaxMind-DB/ specifies the format. GeoLite2 and DB-IP Lite have the same fields, and IPinfo
others.
"""

from collections.abc import Callable
from functools import lru_cache, partial
from ipaddress import ip_address
from pathlib import Path
from shutil import copyfileobj
from sys import intern
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any, Final

from tracker.config import ConfigError
from tracker.settings import Nearby

if TYPE_CHECKING:
    from maxminddb import Reader

CACHE: Final = 8192
"""Addresses whose places are remembered: a client may join thousands of swarms."""

_IPV6_PREFIX: Final = 48
"""Bits of an IPv6 address that are its network: the largest one that providers assign to a site."""


Locate = Callable[[str], tuple[str, ...]]
"""Returns the keys of a numeric address, the nearest first: of the address, its network, autonomous system, country."""


def locator(settings: Nearby) -> Locate:
    """Read the files, and return a function that finds places. Raise `ConfigError` if a file cannot be used.

    It returns an empty key for an autonomous system or a country that is in none of the files.
    """
    # Not a method: a frozen cycle of references would keep the files in memory after a reload.
    return lru_cache(CACHE)(partial(_locate, [_open(name) for name in settings.databases]))


def _locate(readers: list["Reader"], address: str) -> tuple[str, ...]:
    parsed = ip_address(address)
    if parsed.version == 4:
        network = address.rpartition(".")[0] + "."
    else:
        network = f"{int(parsed) >> (128 - _IPV6_PREFIX):x}/{_IPV6_PREFIX}"
    asn = country = ""
    for reader in readers:
        record = _look_up(reader, address)
        asn = asn or _asn(record)
        country = country or _country(record)
    # Many peers have the same autonomous system and country.
    return address, network, intern(asn), intern(country)


def _asn(record: dict[str, Any]) -> str:
    number = record.get("autonomous_system_number") or record.get("asn")
    return f"AS{str(number).removeprefix('AS')}" if number else ""


def _country(record: dict[str, Any]) -> str:
    country = record.get("country_code") or record.get("country")
    code = country.get("iso_code") if isinstance(country, dict) else country
    return f"country {code}" if code else ""


def _look_up(reader: "Reader", address: str) -> dict[str, Any]:
    try:
        record = reader.get(address)
    except (RuntimeError, ValueError):
        # The file is damaged in this place (InvalidDatabaseError), or has no IPv6 addresses.
        return {}
    return record if isinstance(record, dict) else {}


def _open(name: str) -> "Reader":
    """Open a file. Raise `ConfigError` if it cannot be used."""
    # Imported late, because it takes as long as a tenth of a start, and most trackers do not need it.
    from maxminddb import InvalidDatabaseError, open_database

    path = Path(name)
    try:
        path = path.expanduser()
        # The file is mapped into memory. If it were overwritten then, the tracker would crash. A copy has no name.
        with path.open("rb") as source, NamedTemporaryFile(suffix=".mmdb") as copy:
            copyfileobj(source, copy)
            copy.flush()
            return open_database(copy.name)
    except InvalidDatabaseError:
        raise ConfigError(f"nearby.databases: {path}: no MaxMind DB file, or a damaged one") from None
    except OSError as error:
        raise ConfigError(f"nearby.databases: {path}: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:
        # The home directory of an unknown user, or a name that no file can have.
        raise ConfigError(f"nearby.databases: {path}: {error}") from None
