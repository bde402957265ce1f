"""Reads settings from all sources, and writes configuration files.

The command line takes precedence over the environment (`PEERSERVERS_SERVER__PORT=9000`), the environment over the TOML
file, and the file over the defaults.
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import ValidationError

from tracker.mistakes import ConfigError, Fields, KeyPath, mistakes_in
from tracker.settings import Section, Settings
from tracker.sources import CONFIG_VARIABLE, Sources, located

__all__ = [
    "ConfigError",
    "Configuration",
    "config_option",
    "default_toml",
    "effective_toml",
    "given",
    "load",
    "read",
    "toml_value",
    "validate",
]

T = TypeVar("T", bound=Section)

config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar=CONFIG_VARIABLE,
    help="Configuration file (TOML).",
)
"""The option `--config`, for every command that reads settings."""


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that were given on the command line: those that are not None."""
    return {key: value for key, value in options.items() if value is not None}


@dataclass(frozen=True)
class Configuration:
    """Valid settings, with their sources.

    Attributes:
        settings: The settings.
        sections: The sections of extensions, by name.
        file: The configuration file.
        origins: The source of each value that is not a default.
        warnings: Values that are probably mistakes, and ignored variables, one line for each.
    """

    settings: Settings
    sections: Mapping[str, Section]
    file: Path | None
    origins: Mapping[KeyPath, str]
    warnings: tuple[str, ...]

    @contextmanager
    def locating(self) -> Iterator[None]:
        """Name the sources in the mistakes that are found in the values later."""
        try:
            yield
        except ConfigError as error:
            raise ConfigError(*(located(mistake, self.origins) for mistake in error.mistakes)) from error.__cause__


def load(
    file: Path | None = None,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    extensions: Mapping[str, type[Section]] | None = None,
) -> Settings:
    """Return the settings from all sources.

    `overrides` are the settings of the command line, as `{section: {key: value}}`. The sections of `extensions` are
    checked, too. Raises `ConfigError` with all mistakes and their sources.
    """
    return read(Sources(file, overrides or {}), extensions or {}).settings


def read(sources: Sources, extensions: Mapping[str, type[Section]]) -> Configuration:
    """Return the settings and the sections of these extensions. Raise `ConfigError` with all mistakes."""
    fields = _fields(extensions)
    merged = sources.merge(fields)
    mistakes = [*merged.mistakes]
    places = list(merged.origins)
    models: dict[KeyPath, type[Section]] = {(): Settings}
    models |= {("extensions", name): section for name, section in extensions.items()}
    valid: dict[KeyPath, Any] = {}
    found: list[tuple[KeyPath, str]] = []
    for path, model in models.items():
        table: Any = merged.table
        for name in path:
            table = table.get(name, {}) if isinstance(table, dict) else {}
        if path and not isinstance(table, dict):
            # The model of all settings has found it.
            continue
        try:
            valid[path] = _valid(model, table, strict=True)
        except ValidationError as error:
            found += mistakes_in(error, path, fields)
    # In the order of the file.
    found.sort(key=lambda mistake: places.index(mistake[0]) if mistake[0] in places else len(places))
    mistakes += [located(f"{'.'.join(key)}: {text}", merged.origins) for key, text in found]
    if mistakes:
        raise ConfigError(*mistakes)
    settings = valid.pop(())
    warnings = [f"{name}: ignored; did you mean {meant}?" for name, meant in sources.near_misses(fields)]
    for section in (settings, *valid.values()):
        warnings += [located(doubt, merged.origins) for doubt in section.doubts(settings)]
    sections = {path[1]: section for path, section in valid.items()}
    return Configuration(settings, sections, sources.file, merged.origins, tuple(warnings))


def validate(model: type[T], data: Mapping[str, Any], prefix: str = "") -> T:
    """Return `data` as a section.

    Text is converted to a number or a boolean. Raises `ConfigError`, which names all wrong keys, with `prefix` in front
    of them.
    """
    try:
        return _valid(model, data, strict=False)
    except ValidationError as error:
        path = tuple(prefix.split(".")) if prefix else ()
        fields = {(*path, key): field for key, field in model.model_fields.items()}
        raise ConfigError(*(f"{'.'.join(key)}: {text}" for key, text in mistakes_in(error, path, fields))) from None


def default_toml(extensions: Mapping[str, type[Section]]) -> str:
    """Return the default configuration with comments, in TOML. `extensions` are the sections of extensions by name."""
    sections = {name: field.annotation for name, field in Settings.model_fields.items() if name != "extensions"}
    sections |= {f"extensions.{name}": section for name, section in extensions.items()}
    lines = ["# Peerservers: every setting with its default."]
    for name, section in sections.items():
        assert section is not None
        lines += ["", f"# {section.__doc__}" if section.__doc__ else "", f"[{name}]"]
        for key, field in section.model_fields.items():
            if field.description:
                lines += textwrap.wrap(field.description, 100, initial_indent="# ", subsequent_indent="# ")
            lines.append(f"{key} = {toml_value(field.get_default(call_default_factory=True))}")
    return "\n".join(lines) + "\n"


def effective_toml(configuration: Configuration) -> str:
    """Return all settings in TOML, each with its source in a comment."""
    settings = configuration.settings
    sections: dict[str, Section] = {name: getattr(settings, name) for name in Settings.model_fields}
    del sections["extensions"]
    sections |= {f"extensions.{name}": section for name, section in configuration.sections.items()}
    lines: list[str] = []
    for name, section in sections.items():
        lines.append(f"{chr(10) if lines else ''}[{name}]")
        for key, field in type(section).model_fields.items():
            origin = configuration.origins.get((*name.split("."), key), "default")
            if field.repr:
                lines.append(f"{key} = {toml_value(getattr(section, key))}  # {origin}")
            else:
                lines.append(f"# {key} is secret: {origin}")
    return "\n".join(lines) + "\n"


def _fields(extensions: Mapping[str, type[Section]]) -> Fields:
    """Return all keys of the tracker and of extensions."""
    sections: dict[KeyPath, Any] = {(name,): field.annotation for name, field in Settings.model_fields.items()}
    del sections[("extensions",)]
    sections |= {("extensions", name): section for name, section in extensions.items()}
    return {(*path, key): field for path, section in sections.items() for key, field in section.model_fields.items()}


def _valid(model: type[T], data: Any, strict: bool) -> T:
    # In JSON, the types are those of TOML: a list, and no tuple or set.
    return model.model_validate_json(json.dumps(data, default=str), strict=strict)


def toml_value(value: Any) -> str:
    """Return the value of a setting in TOML."""
    # TOML writes strings, numbers, lists and booleans as JSON does.
    return json.dumps(str(value) if isinstance(value, Path) else value)
