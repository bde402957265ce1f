"""The sections of the configuration: every key, its type, its default and what it is for."""

import json
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LogLevel = Literal["debug", "info", "warning", "error"]


class Section(BaseModel):
    """A table of settings. Extensions derive their own section from it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Server(Section):
    """Where the tracker listens and what it keeps."""

    host: str | list[str] = Field(
        "0.0.0.0",
        min_length=1,
        description='Address to listen on, or a list of them; "::" alone listens on IPv6 and IPv4.',
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one and logs it.")
    public_url: str = Field(
        "",
        description='How other trackers reach this one, e.g. "wss://tracker.example.org"; empty: never published.',
    )
    state_dir: Path = Field(
        Path("~/.local/state/peerservers"), description="Directory of the identity key and other lasting state."
    )
    shutdown_timeout: float = Field(
        10.0, ge=0, description="Seconds that clients get to close after SIGTERM before their sockets are cut."
    )

    trusted_proxies: list[str] = Field(
        [],
        description="Addresses or networks of proxies in front, whose X-Forwarded-For, Forwarded and PROXY protocol "
        '(version 2) are believed, e.g. ["127.0.0.1", "10.0.0.0/8"]. They must set these headers themselves.',
    )

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        return _check_networks(value)

    @field_validator("public_url")
    @classmethod
    def _websocket_url(cls, value: str) -> str:
        if value and not value.startswith(("ws://", "wss://")):
            raise ValueError("must start with ws:// or wss://")
        return value

    @property
    def hosts(self) -> list[str]:
        """The addresses to listen on."""
        return [self.host] if isinstance(self.host, str) else self.host


class Tls(Section):
    """TLS on the port (wss://, https://), for a tracker without a proxy in front. Changed files are reloaded."""

    certificate: str = Field(
        "", description="File of the certificate and its chain, PEM; empty: the port speaks plain ws:// and http://."
    )
    key: str = Field("", description="File of the private key, PEM; empty: it is in the certificate's file.")


class Metrics(Section):
    """Where Prometheus finds the metrics: on the public port, or on one of their own."""

    host: str = Field("127.0.0.1", min_length=1, description="Address of the metrics' own port.")
    port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Port of /metrics and the statistics, instead of the public one; 0: they are on the public one.",
    )


class Access(Section):
    """Who may use the tracker. Files are reloaded when they change, and on SIGHUP."""

    allow_infohashes: str = Field(
        "", description="File with the only infohashes served: 40 hexadecimal digits a line, # begins a comment."
    )
    deny_infohashes: str = Field("", description="File with infohashes that are not served, in the same form.")
    allow_origins: list[str] = Field(
        [],
        description="The only web sites whose pages may connect; * stands for any text: "
        '["https://example.org", "https://*.example.org"]. Programs that are no browser send none and may connect.',
    )
    deny_origins: list[str] = Field([], description="Web sites whose pages may not connect, in the same form.")
    admission_timeout: float = Field(
        5, gt=0, description="Seconds that extensions get to say whether a peer may join a swarm; then it may not."
    )


class Limits(Section):
    """What all, and what the clients of one address (in IPv6, of one /64) may use."""

    max_connections: int = Field(
        0,
        ge=0,
        description="Most WebSockets; more are answered with 503. 0: as many as the limit of open files has room for.",
    )
    connections_per_address: int = Field(
        500, ge=0, description="Most connections of one address, also for pages; 0: no limit."
    )
    announces_per_second: float = Field(
        50, ge=0, description="Announces and scrapes of one address per second, in the long run; 0: no limit."
    )
    offers_per_second: float = Field(
        500, ge=0, description="Offers and answers of one address per second, in the long run; 0: no limit."
    )
    burst: float = Field(20, ge=1, description="Seconds' worth of the two that an address may use at once.")
    exempt: list[str] = Field(
        ["127.0.0.0/8", "::1/128"],
        description="Addresses and networks without these limits; a proxy that is not in server.trusted_proxies "
        "would be one client to them.",
    )

    @field_validator("exempt")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        return _check_networks(value)


class Tracker(Section):
    """How swarms are run."""

    announce_interval: int = Field(120, ge=5, description="Seconds between a peer's announces.")
    lonely_interval: int = Field(
        30, ge=5, description="The same for a peer that is alone, while trackers are federated."
    )
    max_offers: int = Field(20, ge=1, description="Most offers of one announce that are passed on.")
    peer_timeout: float = Field(
        3600, ge=1200, description="Seconds of silence after which a peer of a live connection leaves its swarm."
    )
    full_scrape: bool = Field(False, description="Answer a scrape without info_hash with every swarm.")
    max_scrape: int = Field(256, ge=1, description="Most swarms in one scrape; those beyond are left out.")
    max_swarms_per_connection: int = Field(2000, ge=1, description="Most peers one connection may announce.")
    max_foreign_offers: int = Field(
        120, ge=1, description="Most offers a minute that one peer is given from other trackers."
    )


class Connections(Section):
    """Limits of one client's connection."""

    max_message_size: int = Field(
        262144, ge=1024, le=1 << 30, description="Bytes of the longest message; longer closes with 1009."
    )
    send_buffer: int = Field(
        1048576,
        ge=65536,
        le=1 << 30,
        description="Bytes that may wait for a slow receiver; what comes on top is dropped.",
    )
    handshake_timeout: float = Field(
        10, gt=0, description="Seconds from connecting, TLS included, until a client has sent its HTTP request."
    )
    ping_interval: float = Field(40, gt=0, description="Seconds of silence after which a client is pinged.")
    ping_timeout: float = Field(30, gt=0, description="Seconds without answer to the ping before a client is cut.")
    stuck_timeout: float = Field(60, gt=0, description="Seconds with a full send buffer before a client is cut.")
    max_invalid: int = Field(
        10, ge=1, description="Invalid messages, less the valid ones, before a client is closed with 1008."
    )


class Log(Section):
    """What is written to standard error."""

    level: LogLevel = Field("info", description="debug, info, warning or error; reloaded on SIGHUP.")
    format: Literal["text", "json"] = Field("text", description="text for people, json for machines.")
    addresses: bool = Field(
        False,
        description="Log the addresses of clients that are refused also above the level debug.",
    )


class Settings(Section):
    """All settings of `peerservers serve`."""

    server: Server = Server()
    tracker: Tracker = Tracker()
    tls: Tls = Tls()
    access: Access = Access()
    limits: Limits = Limits()
    connections: Connections = Connections()
    metrics: Metrics = Metrics()
    log: Log = Log()
    extensions: dict[str, dict[str, Any]] = Field(
        default_factory=dict, description="One table for each extension; each says which keys it takes."
    )

    @field_validator("extensions")
    @classmethod
    def _lists_from_environment(cls, value: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        # What an extension's keys are is not known yet, so lists in environment variables have arrived as text.
        return {
            name: {key: _from_json(item) if isinstance(item, str) else item for key, item in table.items()}
            for name, table in value.items()
        }

    @model_validator(mode="after")
    def _messages_fit(self) -> Self:
        if self.connections.max_message_size > self.connections.send_buffer:
            raise ValueError("connections.send_buffer must not be smaller than connections.max_message_size")
        return self

    @model_validator(mode="after")
    def _key_has_certificate(self) -> Self:
        if self.tls.key and not self.tls.certificate:
            raise ValueError("tls.certificate must be set with tls.key")
        return self


_RELOADED: Final = ("access.", "limits.", "log.", "tls.", "server.trusted_proxies", "server.shutdown_timeout")
"""What begins so is used at once when settings are read again."""


def needs_restart(running: Settings, fresh: Settings) -> list[str]:
    """The keys of `fresh` that a tracker which started with `running` cannot take up: `server.port`."""
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


def _check_networks(value: list[str]) -> list[str]:
    for text in value:
        try:
            ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"not an address or network: {text}") from None
    return value


def _from_json(text: str) -> Any:
    if text.startswith(("[", "{")):
        with suppress(ValueError):
            return json.loads(text)
    return text
