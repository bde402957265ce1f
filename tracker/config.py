"""Settings: what they are, where they come from, and how to write them down.

Command line over environment (`PEERSERVERS_SERVER__PORT=9000`) over TOML file over default.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from tracker.hub import Rules

ENV_PREFIX: Final = "PEERSERVERS_"

T = TypeVar("T", bound="Section")
LogLevel = Literal["debug", "info", "warning", "error"]


class ConfigError(Exception):
    """Settings that cannot be used. The text is one line that names the key."""


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

    def rules(self) -> Rules:
        """The same, as the hub takes it."""
        return Rules(**self.model_dump())


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
    handshake_timeout: float = Field(10, gt=0, description="Seconds for a client to send its HTTP request.")
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


class Settings(Section):
    """All settings of `peerservers serve`."""

    server: Server = Server()
    tracker: Tracker = Tracker()
    connections: Connections = Connections()
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


def load(file: Path | None = None, overrides: Mapping[str, Mapping[str, Any]] | None = None) -> Settings:
    """Settings from all sources; `overrides` (the command line) is {section: {key: value}}. Raises `ConfigError`."""
    table: dict[str, Any] = {}
    if file is not None:
        table = _read_toml(file)
        # Only here can a type be wrong as written: the environment has nothing but text.
        validate(Settings, table, strict=True)

    class Layers(Settings, BaseSettings):
        model_config = SettingsConfigDict(
            extra="forbid", env_prefix=ENV_PREFIX, env_nested_delimiter="__", nested_model_default_partial_update=True
        )

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, table)

    known = tuple(f"{ENV_PREFIX}{name}__".upper() for name in Settings.model_fields)
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name != "PEERSERVERS_CONFIG" and not name.startswith(known):
            raise ConfigError(f"{name}: unknown key")
    try:
        return Layers(**cast(Any, overrides or {}))
    except ValidationError as error:
        raise _config_error(error) from None
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None


def validate(model: type[T], data: Mapping[str, Any], prefix: str = "", strict: bool = False) -> T:
    """`data` as a section. Raises `ConfigError` that names the first wrong key, `prefix` in front of it.

    With `strict`, text is not taken for a number or a switch.
    """
    try:
        return model.model_validate_json(json.dumps(data, default=str), strict=strict)
    except ValidationError as error:
        raise _config_error(error, prefix) from None


def default_toml(extensions: Mapping[str, type[Section]]) -> str:
    """The commented default configuration, with the sections of the extensions given by name."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "extensions"}
    sections |= {f"extensions.{name}": section for name, section in extensions.items()}
    lines = ["# Peerservers: every setting with its default."]
    for name, section in sections.items():
        assert section is not None
        lines += ["", f"# {section.__doc__}" if section.__doc__ else "", f"[{name}]"]
        for key, field in section.model_fields.items():
            if field.description:
                lines.append(f"# {field.description}")
            lines.append(f"{key} = {_toml_value(field.get_default(call_default_factory=True))}")
    return "\n".join(lines) + "\n"


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: {error}") from None


def _config_error(error: ValidationError, prefix: str = "") -> ConfigError:
    first = error.errors(include_url=False)[0]
    # A union's location names its members too; the key ends where those begin.
    parts = [str(part) for part in first["loc"] if "[" not in str(part) and part not in ("str", "int")]
    key = ".".join([prefix, *parts] if prefix else parts)
    text = "unknown key" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    return ConfigError(f"{key}: {text}" if key else text)


def _from_json(text: str) -> Any:
    if text.startswith(("[", "{")):
        with suppress(ValueError):
            return json.loads(text)
    return text


def _toml_value(value: Any) -> str:
    # JSON's strings, numbers, lists and switches are TOML's too.
    return json.dumps(str(value) if isinstance(value, Path) else value)
