"""The settings of the connection to NATS: servers, credentials, TLS. Part of the section `[extensions.cluster]`."""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import Field, ValidationInfo, field_validator

from tracker.extension import ConfigError, ExtensionSettings

SECTION: Final = "extensions.cluster"
MAX_FILE: Final = 1 << 16
"""Bytes of the largest file of credentials that is read."""
_DEFAULT_PORT: Final = 4222
_CREDENTIALS: Final = re.compile(
    r"-+BEGIN NATS USER JWT-+\r?\n(\S+)\s*\r?\n-+END NATS USER JWT-+.*"
    r"-+BEGIN USER NKEY SEED-+\r?\n(\S+)\s*\r?\n-+END USER NKEY SEED-+",
    re.DOTALL,
)
_SEED: Final = re.compile(r"SU[A-Z2-7]{56}")
"""The seed of a user's key (NKEY): 32 bytes with a prefix and a checksum in base 32."""


@dataclass(frozen=True, slots=True)
class Server:
    """A NATS server. `user`, `password` and `token` are those of its URL; `repr` has none of them."""

    host: str
    port: int
    is_tls: bool
    tls_name: str
    """The name in its certificate."""
    user: str = ""
    password: str = ""
    token: str = ""

    @property
    def name(self) -> str:
        """Host and port, for people."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __repr__(self) -> str:
        return f"<Server {self.name}>"

    def neighbour(self, host: str, port: int) -> "Server":
        """Return another server of its cluster, which this one has named."""
        tls_name = self.tls_name if _is_address(host) else host
        return Server(host, port, self.is_tls, tls_name, self.user, self.password, self.token)


def parse_server(text: str) -> Server:
    """Return the server of a URL: `nats://[USER:PASSWORD@|TOKEN@]HOST[:PORT]`, or `tls://`.

    Raises:
        ValueError: if it is no such URL. The text has nothing of the URL, which may have a password.
    """
    try:
        parts = urlsplit(text if "://" in text else f"nats://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port, parts = "", None, urlsplit("")
    if not host or parts.scheme not in ("nats", "tls") or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ValueError("not a URL nats://HOST:PORT or tls://HOST:PORT; a password in it must be percent-encoded")
    user, password, token = unquote(parts.username or ""), unquote(parts.password or ""), ""
    if user and parts.password is None:
        user, token = "", user
    return Server(host, port or _DEFAULT_PORT, parts.scheme == "tls", host, user, password, token)


class NatsSettings(ExtensionSettings):
    """The keys of the connection to NATS."""

    servers: list[str] = Field(
        [],
        repr=False,
        description='URLs of NATS servers, e.g. ["nats://10.0.0.1:4222", "tls://nats.example.net"]; one that answers '
        "is enough. Other servers of its cluster are found through it.",
    )
    user: str = Field("", description="User name for NATS; it may be in the URLs instead, as may password and token.")
    password: str = Field("", repr=False, description="Password for NATS.")
    token: str = Field("", repr=False, description="Token for NATS.")
    credentials_file: str = Field(
        "", description="File (`.creds`) with a JWT and a seed for NATS, read again for each connection."
    )
    nkey_file: str = Field(
        "", description="File with the seed of a key (NKEY) for NATS, read again for each connection."
    )
    tls_ca: str = Field(
        "",
        description="File of the authorities that sign certificates of NATS servers; empty: those of the system.",
    )
    tls_certificate: str = Field("", description="File of this tracker's certificate for NATS, in PEM form.")
    tls_key: str = Field("", description="File of the key of `tls_certificate`; empty: in the same file.")

    @field_validator("servers", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        # An environment variable with one URL is plain text.
        return [value] if isinstance(value, str) else value

    @field_validator("servers")
    @classmethod
    def _urls(cls, value: list[str]) -> list[str]:
        for text in value:
            parse_server(text)
        return value

    @field_validator("tls_key")
    @classmethod
    def _with_certificate(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("tls_certificate"):
            raise ValueError("needs tls_certificate")
        return value


@dataclass(frozen=True, slots=True)
class Secrets:
    """The content of the files that a connection needs, read for each connection, because files may be renewed."""

    tls: ssl.SSLContext
    credentials: str = ""
    seed: str = ""


class NatsOptions:
    """The checked settings of the connection to NATS."""

    def __init__(self, settings: NatsSettings) -> None:
        self.servers = tuple(parse_server(text) for text in settings.servers)
        self._settings = settings

    def read_files(self) -> Secrets:
        """Read all files. This may block.

        Raises:
            ConfigError: if one of them cannot be used. The text names its key and the file, and has nothing of it.
        """
        settings = self._settings
        credentials = seed = ""
        if settings.credentials_file:
            credentials = _read("credentials_file", settings.credentials_file)
            match = _CREDENTIALS.search(credentials)
            if not match or not _SEED.fullmatch(match[2]):
                raise _mistake("credentials_file", settings.credentials_file, "not a JWT and a user's seed")
        if settings.nkey_file:
            seed = _read("nkey_file", settings.nkey_file).strip()
            if not _SEED.fullmatch(seed):
                raise _mistake("nkey_file", settings.nkey_file, "not the seed of a user's key")
        return Secrets(self._tls(), credentials, seed)

    def login(self, server: Server, secrets: Secrets) -> dict[str, Any]:
        """Return the arguments of nats-py's `connect` that authenticate this tracker at a server."""
        settings = self._settings
        arguments: dict[str, Any] = {}
        if secrets.credentials:
            from nats.aio.client import RawCredentials

            arguments["user_credentials"] = RawCredentials(secrets.credentials)
        if secrets.seed:
            arguments["nkeys_seed_str"] = secrets.seed
        user = (server.user, server.password) if server.user else (settings.user, settings.password)
        token = server.token or settings.token
        if user[0]:
            arguments["user"], arguments["password"] = user
        elif token:
            arguments["token"] = token
        return arguments

    def _tls(self) -> ssl.SSLContext:
        settings = self._settings
        try:
            context = ssl.create_default_context(cafile=_path(settings.tls_ca))
        except OSError as error:
            raise _mistake("tls_ca", settings.tls_ca, _in_words(error)) from None
        if settings.tls_certificate:
            try:
                context.load_cert_chain(
                    _path(settings.tls_certificate) or "", _path(settings.tls_key), password=_no_password
                )
            except OSError as error:
                text = "the key is encrypted" if isinstance(error.__context__, _EncryptedKey) else _in_words(error)
                raise _mistake("tls_certificate", settings.tls_certificate, text) from None
            except _EncryptedKey:
                raise _mistake("tls_certificate", settings.tls_certificate, "the key is encrypted") from None
        return context


class _EncryptedKey(Exception):
    """A key has a password. Without this, OpenSSL would ask for it on the terminal."""


def _no_password() -> str:
    raise _EncryptedKey


def _path(name: str) -> str | None:
    return str(Path(name).expanduser()) if name else None


def _read(key: str, name: str) -> str:
    try:
        with Path(name).expanduser().open("rb") as file:
            return file.read(MAX_FILE).decode()
    except UnicodeDecodeError:
        raise _mistake(key, name, "not text") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise _mistake(key, name, _in_words(error)) from None


def _in_words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return "not a certificate and its key in PEM form"
    if isinstance(error, OSError):
        return error.strerror or "cannot be read"
    return "not a path that can be used"


def _mistake(key: str, name: str, text: str) -> ConfigError:
    return ConfigError(f"{SECTION}.{key}: {name}: {text}")


def _is_address(host: str) -> bool:
    return ":" in host or not re.search(r"[^0-9.]", host)


def neighbours(server: Server, named: list[Any]) -> Iterator[Server]:
    """Yield the servers that a server has named, as `ParseResult`s of their URLs."""
    for url in named:
        if url.hostname:
            yield server.neighbour(url.hostname, url.port or _DEFAULT_PORT)
