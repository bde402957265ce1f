"""The schema of the configuration: the sections with the type, the default and the description of each key."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracker.checks import UNIX, WILDCARDS, check_networks, check_origins, check_unix_socket, check_websocket_url

_FIELD_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]{1,100}")

PATH_PREFIX: Final = re.compile(r"(?:/(?:[-._~!$&'()*+;=:@0-9A-Za-z]|%[0-9A-Fa-f]{2})++)*+/?")
"""A path without empty segments (RFC 3986, section 3.3), and without commas, which separate the members of a list."""

MAX_WORKERS: Final = 256

LogLevel = Literal["debug", "info", "warning", "error"]


class Section(BaseModel):
    """A table of settings, immutable and without unknown keys. Sections of extensions derive from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def doubts(self, settings: "Settings") -> Iterator[str]:  # noqa: ARG002
        """Yield a warning, `section.key: text`, for each valid value that is probably a mistake.

        `settings` are those of the tracker.
        """
        yield from ()


class Server(Section):
    """Where the tracker listens, and where it keeps its state."""

    host: str | list[str] = Field(
        "0.0.0.0",
        min_length=1,
        description='Address to listen on, or a list of addresses. "::" alone listens on IPv6 and IPv4; '
        '"unix:/run/peerservers/socket" is a Unix-domain socket for proxies, all of which are trusted.',
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free port and logs it.")
    unix_socket_mode: str = Field(
        "0660",
        pattern="^0?[0-7]{3}$",
        description="Mode of the Unix-domain sockets' files, in octal digits; a proxy must be allowed to write.",
    )
    public_url: str = Field(
        "",
        description='URL at which other trackers reach this one, e.g. "wss://tracker.example.org"; '
        "without it, this tracker is not published.",
    )
    path_prefix: str = Field(
        "",
        description='Path under which a proxy serves the tracker, e.g. "/tracker", if it does not remove the path from '
        "requests. Pages are served with it and without; WebSockets open at every path. Trusted proxies that remove "
        "the path can tell it in X-Forwarded-Prefix.",
    )
    swarm_counts: bool = Field(
        False,
        description="Serve the number of seeders and leechers of a swarm at /swarms/<infohash>.json, also to pages of "
        "other sites.",
    )
    state_dir: Path = Field(
        Path("~/.local/state/peerservers"), description="Directory of the identity key and other persistent state."
    )
    workers: int | Literal["auto"] = Field(
        1,
        description='Number of processes that serve the port as one tracker; "auto": one for each usable CPU. With '
        "more than one, the extension cluster is on (docs/deploy.md).",
    )
    group_swarms: bool = Field(
        True,
        description="With several workers, without [tls]: hand each connection to the worker that serves its first "
        "swarm, unless that has far more connections than others.",
    )
    shutdown_timeout: float = Field(
        10.0, ge=0, description="Seconds after SIGTERM until connections that have not closed are cut."
    )
    restart_spread: float = Field(
        10.0,
        ge=0,
        description="Seconds over which a worker closes its connections in a rolling restart, so that clients do not "
        "all come back at once.",
    )

    trusted_proxies: list[str] = Field(
        [],
        description='Addresses or networks of reverse proxies, e.g. ["127.0.0.1", "10.0.0.0/8"]. The tracker takes a '
        "client's address from their X-Forwarded-For, Forwarded or PROXY protocol. The proxies must set these headers "
        "themselves, and not pass on those of a client.",
    )
    client_address_header: str = Field(
        "",
        description="The header in which trusted proxies give nothing but the client's address, instead of "
        'X-Forwarded-For and Forwarded, which are then ignored: "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", '
        '"Fly-Client-IP". The proxies must set it themselves, and not pass on that of a client.',
    )

    @field_validator("host")
    @classmethod
    def _unix_sockets(cls, value: str | list[str]) -> str | list[str]:
        for host in [value] if isinstance(value, str) else value:
            check_unix_socket(host)
        return value

    @field_validator("workers")
    @classmethod
    def _number(cls, value: int | Literal["auto"]) -> int | Literal["auto"]:
        if value != "auto" and not 1 <= value <= MAX_WORKERS:
            raise ValueError(f"must be 1 to {MAX_WORKERS}, or 'auto', not {value}")
        return value

    @field_validator("client_address_header")
    @classmethod
    def _field_name(cls, value: str) -> str:
        if value and not _FIELD_NAME.fullmatch(value):
            raise ValueError("not the name of a header")
        if value.lower() in ("forwarded", "x-forwarded-for"):
            raise ValueError(f"{value} is understood without this setting, which is for headers with one address")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        return check_networks(value)

    @field_validator("public_url")
    @classmethod
    def _websocket_url(cls, value: str) -> str:
        return check_websocket_url(value) if value else value

    @field_validator("path_prefix")
    @classmethod
    def _path(cls, value: str) -> str:
        if not PATH_PREFIX.fullmatch(value):
            raise ValueError('must be a path such as "/tracker"')
        return value.rstrip("/")

    @property
    def hosts(self) -> list[str]:
        """Return the addresses to listen on over TCP."""
        return [host for host in self._hosts if not host.startswith(UNIX)]

    @property
    def unix_sockets(self) -> list[str]:
        """Return the paths of the Unix-domain sockets to listen on."""
        return [host.removeprefix(UNIX) for host in self._hosts if host.startswith(UNIX)]

    @property
    def _hosts(self) -> list[str]:
        return [self.host] if isinstance(self.host, str) else self.host


class Tls(Section):
    """TLS on the public port (wss://, https://), for a tracker without a proxy. Changed files are reloaded."""

    certificate: str = Field(
        "", description="File of the certificate and its chain, in PEM; without it, the port speaks ws:// and http://."
    )
    key: str = Field("", description="File of the private key, in PEM; without it, the certificate's file has the key.")


class Metrics(Section):
    """The port of the metrics for Prometheus, if it is not the public one."""

    host: str = Field("127.0.0.1", min_length=1, description="Address of the separate port.")
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Separate port of /metrics, /stats and /stats.json; 0: they are on the public port.",
    )


class Access(Section):
    """Which swarms are served, and which clients may connect. Files are reloaded when they change, and on SIGHUP."""

    allow_infohashes: str = Field(
        "",
        description="File of the only infohashes that are served, one per line: 40 hexadecimal digits, or an info_hash"
        " that is no infohash, in quotes (a JSON string); # begins a comment.",
    )
    deny_infohashes: str = Field("", description="File of infohashes that are not served, in the same format.")
    allow_origins: list[str] = Field(
        [],
        description="The only web sites whose pages may connect; * stands for any text: "
        '["https://example.org", "https://*.example.org"]. Programs other than browsers send no origin, '
        "and may connect.",
    )
    deny_origins: list[str] = Field([], description="Web sites whose pages may not connect, in the same format.")
    admission_timeout: float = Field(
        5,
        gt=0,
        description="Seconds in which extensions must decide whether a peer may join; without a decision it may not.",
    )

    @field_validator("allow_origins", "deny_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        return check_origins(value)


class Limits(Section):
    """Limits of the tracker as a whole, and of the clients of one address (in IPv6: of one /64 network)."""

    max_connections: int = Field(
        0,
        ge=0,
        description="Maximum number of WebSockets; others get the HTTP status 503. 0: as many as open files allow. "
        "Workers have equal shares. All other limits hold for each worker.",
    )
    connections_per_address: int = Field(
        500, ge=0, description="Maximum number of connections of one address, also for pages; 0: no limit."
    )
    new_connections_per_second: float = Field(
        50,
        ge=0,
        description="Connections that one address opens per second, on average, also for pages. Others are refused, "
        "with TLS before its handshake. 0: no limit.",
    )
    pages_per_second: float = Field(
        10,
        ge=0,
        description="Requests of one address per second, on average, for pages that are made of current figures. "
        "Others get the HTTP status 429. 0: no limit.",
    )
    peers_per_address: int = Field(
        50000,
        ge=0,
        description="Maximum number of peers of one address; connections with less than 100 peers do not count. "
        "0: no limit.",
    )
    announces_per_second: float = Field(
        50,
        ge=0,
        description="Announces and scrapes of one address per second, on average. Announces over this limit are "
        "served, but their offers are not relayed. 0: no limit.",
    )
    offers_per_second: float = Field(
        500,
        ge=0,
        description="Offers and answers of one address per second, on average. Others are dropped. 0: no limit.",
    )
    bytes_per_second: float = Field(
        6_000_000,
        ge=0,
        description="Bytes of messages of one address per second, on average, counted after inflating. A compressed "
        "byte counts for ten, if that is more, and a ping or pong for 50. Beyond this, the address is read more "
        "slowly, and its messages are treated like those over the other limits. 0: no limit.",
    )
    burst: float = Field(20, ge=1, description="Seconds' worth of each of these rates that an address may use at once.")
    exempt: list[str] = Field(
        ["127.0.0.0/8", "::1/128"],
        description="Addresses and networks without limits per address. To these limits, a proxy that is not in "
        "server.trusted_proxies is a single client.",
    )

    @field_validator("exempt")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        return check_networks(value)


class Tracker(Section):
    """Announces, offers, scrapes and swarms."""

    announce_interval: int = Field(120, ge=5, description="Seconds between two announces of a peer.")
    lonely_interval: int = Field(
        30,
        ge=5,
        description="The same for peers of small swarms, and for peers that are alone while trackers are federated; up "
        "to a quarter less, at random. For peers that have met all others, it grows with the swarm, to "
        "announce_interval for 16 peers.",
    )
    max_offers: int = Field(20, ge=1, description="Maximum number of offers that are relayed from one announce.")
    max_offers_received: int = Field(
        30,
        ge=1,
        description="Number of offers per announce_interval that each seeder is given because leechers prefer seeders, "
        "and each leecher because seeders prefer leechers. Further offers go to all peers alike. For every two offers "
        "that they answer or make, they are given one more.",
    )
    min_peers: int = Field(
        0, ge=0, description="Number of peers in a swarm, seeders included, below which no offers are relayed."
    )
    peer_timeout: float = Field(
        3600,
        ge=1200,
        description="Seconds of silence after which a peer leaves its swarm although its connection is open.",
    )
    full_scrape: bool = Field(False, description="Answer a scrape without info_hash with all swarms.")
    max_scrape: int = Field(256, ge=1, description="Maximum number of swarms in one scrape; the others are left out.")
    max_swarms_per_connection: int = Field(
        20000, ge=1, description="Maximum number of peers that one connection may announce."
    )
    max_foreign_offers: int = Field(
        120, ge=1, description="Maximum number of offers per minute that one peer receives from other trackers."
    )


class Nearby(Section):
    """Offers for nearby peers first, in swarms of more than 16 peers. The files are reloaded when they change."""

    enabled: bool = Field(
        False,
        description="Give the offers of a peer to the nearest peers first: to those with the same address, then the "
        "same network (/24, in IPv6 /48), autonomous system, country (docs/deploy.md).",
    )
    databases: list[str] = Field(
        [],
        description="MaxMind DB files of autonomous systems and of countries (or cities), such as those of GeoLite2 or "
        "DB-IP Lite; without them, only addresses and networks are compared.",
    )
    random_share: float = Field(
        0.25,
        ge=0.05,
        le=1,
        description="Share of the offers that go to any peers, so that the whole swarm stays connected. Peers of other "
        "trackers receive offers from this share only.",
    )


class Connections(Section):
    """Limits of a single connection."""

    max_message_size: int = Field(
        262144,
        ge=1024,
        le=1 << 30,
        description="Bytes of the longest message; a longer one closes the connection with code 1009.",
    )
    send_buffer: int = Field(
        1048576,
        ge=65536,
        le=1 << 30,
        description="Bytes that are buffered for a slow receiver; messages that do not fit are dropped.",
    )
    handshake_timeout: float = Field(
        10,
        gt=0,
        description="Seconds from the TCP connection to the complete HTTP request, TLS included.",
    )
    ping_interval: float = Field(40, gt=0, description="Seconds of silence after which a client is pinged.")
    ping_timeout: float = Field(
        30, gt=0, description="Seconds without an answer to a ping after which a connection is cut."
    )
    stuck_timeout: float = Field(
        60, gt=0, description="Seconds with a full send buffer after which a connection is cut."
    )
    deflate: bool = Field(
        False,
        description="Negotiate permessage-deflate with clients that offer it: inflate their messages, and compress "
        "those for them. It saves bandwidth and costs CPU time (docs/performance.md).",
    )
    deflate_above: int = Field(
        512,
        ge=64,
        description="Bytes of the shortest message to clients that is compressed, with deflate. Offers and answers "
        "have about 900.",
    )
    max_invalid: int = Field(
        10,
        ge=1,
        description="Invalid messages after which a client is closed with code 1008. A valid message offsets one, and "
        "so do ten seconds.",
    )


class Log(Section):
    """The log, which goes to standard error."""

    level: LogLevel = Field("info", description="debug, info, warning or error; takes effect on SIGHUP.")
    format: Literal["text", "json"] = Field("text", description="text for people, json for programs.")
    addresses: bool = Field(
        False,
        description="Log rejected clients, with their addresses, at the level info instead of debug.",
    )


class Page(Section):
    """The tracker's page, at `/`."""

    name: str = Field("", max_length=60, description='Name of the tracker; by default "WebTorrent tracker".')
    contact: str = Field(
        "", max_length=200, description="How to reach the operator: an e-mail address, a URL, or any other text."
    )


class Settings(Section):
    """All settings of `peerservers serve`."""

    server: Server = Server()
    tracker: Tracker = Tracker()
    tls: Tls = Tls()
    access: Access = Access()
    limits: Limits = Limits()
    nearby: Nearby = Nearby()
    connections: Connections = Connections()
    metrics: Metrics = Metrics()
    page: Page = Page()
    log: Log = Log()
    extensions: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="One table for each extension, which defines its keys."
    )

    @model_validator(mode="after")
    def _agree(self) -> Self:
        contradictions = list(self._contradictions())
        if contradictions:
            raise ValueError("\n".join(contradictions))
        return self

    def _contradictions(self) -> Iterator[str]:
        """Yield `section.key: text` for each key that does not fit another."""
        if self.connections.max_message_size > self.connections.send_buffer:
            yield "connections.send_buffer: must not be smaller than connections.max_message_size"
        if self.tls.key and not self.tls.certificate:
            yield "tls.key: tls.certificate must be set with tls.key"
        hosts, port = self.server.hosts, self.metrics.port
        is_shared = self.metrics.host in hosts or (hosts and not {*hosts, self.metrics.host}.isdisjoint(WILDCARDS))
        if port and port == self.server.port and is_shared:
            yield "metrics.port: is server.port, too; choose another one, or 0 for metrics on the public port"

    def doubts(self, settings: "Settings") -> Iterator[str]:
        """Yield a warning for each valid value that is probably a mistake."""
        tracker = settings.tracker
        if tracker.lonely_interval > tracker.announce_interval:
            yield "tracker.lonely_interval: is longer than tracker.announce_interval, and so has no effect"


_RELOADED: Final = (
    *("access.", "limits.", "log.", "tls."),
    *("server.trusted_proxies", "server.client_address_header"),
    *("server.shutdown_timeout", "server.restart_spread"),
    *("nearby.databases", "nearby.random_share"),
)
"""Prefixes of the keys that take effect without a restart."""


def needs_restart(running: Settings, fresh: Settings) -> list[str]:
    """Return the keys, such as `server.port`, that differ in `fresh` and need a restart.

    `running` are the settings that the tracker was started with.
    """
    keys = [key for key in _differing(running.model_dump(), fresh.model_dump()) if not key.startswith(_RELOADED)]
    if bool(running.tls.certificate) != bool(fresh.tls.certificate):
        keys.append("tls.certificate")
    return keys


def _differing(one: Any, other: Any, key: str = "") -> Iterator[str]:
    if isinstance(one, dict) and isinstance(other, dict):
        for name in {**one, **other}:
            yield from _differing(one.get(name, {}), other.get(name, {}), f"{key}.{name}" if key else name)
    elif one != other:
        yield key
