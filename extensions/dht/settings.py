"""The section `[extensions.dht]`."""

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from extensions.dialing import is_public
from tracker.extension import ExtensionSettings, Settings, parse_info_hash

_LOCAL_NAMES: Final = (".local", ".localhost", ".internal", ".lan", ".home.arpa")
"""Ends of names that public DNS does not have."""


class DhtSettings(ExtensionSettings):
    """Finds the other trackers of a swarm in the BitTorrent DHT, and publishes this one if server.public_url is set."""

    listen: str = Field(
        "0.0.0.0:6881,[::]:6881",
        description="UDP addresses to listen on. An address family that the host does not have is left out.",
    )
    bootstrap: list[str] = Field(
        ["router.bittorrent.com:6881", "dht.libtorrent.org:25401", "router.utorrent.com:6881"],
        description="Bootstrap nodes.",
    )
    private: bool = Field(
        False, description="A private DHT (tests, a lab): nodes may have any address, and limits per address are off."
    )
    publish: Literal["all", "listed", "none"] = Field(
        "all", description='Swarms for which this tracker is published: "all", "listed" or "none".'
    )
    listed: list[str] = Field(
        [],
        description='With publish = "listed": the infohashes, in hexadecimal; other info_hashes in quotes: \'"name"\'.',
    )
    max_published: int = Field(
        10_000, ge=0, description="Swarms published, at most: the largest, and of equal ones the newest."
    )
    announce_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="TCP port at which other hosts reach this tracker by HTTP; 0: that of public_url.",
    )

    def doubts(self, settings: Settings) -> Iterator[str]:
        """Yield a warning for each valid value that is probably a mistake."""
        url = settings.server.public_url
        if not self.enabled or self.publish == "none":
            return
        if self.publish == "listed" and not self.listed:
            yield 'extensions.dht.listed: is empty, so that no swarm is published; publish is "listed"'
        if url and not self.private:
            if url.startswith("ws://"):
                yield "server.public_url: other trackers use only wss:// URLs that they find in the public DHT"
            if not _may_be_public(url):
                yield "server.public_url: has a private address, which other trackers in the public DHT cannot reach"

    @field_validator("listen")
    @classmethod
    def _addresses(cls, value: str) -> str:
        for address in value.split(","):
            host, _ = _split(address)
            # A name would need a lookup, and could have several addresses.
            _check_literal(host)
        return value

    @field_validator("bootstrap")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not _split(name)[1]:
                raise ValueError(f"not a node's port: {name}")
        return value

    @field_validator("listed")
    @classmethod
    def _infohashes(cls, value: list[str]) -> list[str]:
        for text in value:
            try:
                parse_info_hash(text)
            except ValueError as error:
                raise ValueError(f"{error}: {text}") from None
        return value

    @property
    def addresses(self) -> list[str]:
        """The UDP addresses to listen on, each as "host:port"."""
        return [address.strip() for address in self.listen.split(",")]

    @property
    def hosts(self) -> list[str]:
        """The hosts of `addresses`, without brackets, in their usual form."""
        return [str(ip_address(address.rpartition(":")[0].strip("[]"))) for address in self.addresses]


def _may_be_public(url: str) -> bool:
    """Return whether the host of a URL may be reachable from everywhere."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return True
    try:
        return is_public(str(ip_address(host)))
    except ValueError:
        return "." in host and not host.endswith(_LOCAL_NAMES)


def _split(text: str) -> tuple[str, int]:
    host, _, port = text.strip().rpartition(":")
    if not host or not port.isdecimal() or not port.isascii() or int(port) > 65535:
        raise ValueError(f"not host:port: {text}")
    return host, int(port)


def _check_literal(host: str) -> None:
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        (IPv6Address if is_bracketed else IPv4Address)(host.strip("[]"))
    except ValueError:
        raise ValueError(f"not an IPv4 address, nor an IPv6 address in brackets: {host}") from None
