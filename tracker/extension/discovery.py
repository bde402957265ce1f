"""Finds the installed extensions and reads their settings."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, Self

from pydantic import ConfigDict, model_validator

from tracker.config import ConfigError, Configuration, read, validate
from tracker.extension.api import Extension, ExtensionSettings
from tracker.settings import Section, Settings
from tracker.sources import Sources

GROUP: Final = "peerservers.extensions"


class _NotEnabled(ExtensionSettings):
    """The section of an extension that is not installed or not enabled. It may have any keys."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="after")
    def _is_disabled(self) -> Self:
        if self.enabled:
            raise ValueError(f"no such extension is installed; there are {', '.join(sorted(_installed()))}")
        return self


def configure(
    file: Path | None, overrides: Mapping[str, Mapping[str, Any]]
) -> tuple[Configuration, dict[str, type[Extension]]]:
    """Return the settings from all sources, and the extensions that they enable.

    Raises `ConfigError` with all mistakes, also in the sections of extensions, or if an extension cannot be imported.
    """
    sources = Sources(file, overrides)
    tables = sources.extensions
    classes = _load({name for name in _installed() if _may_be_enabled(tables.get(name, {}))})
    sections: dict[str, type[Section]] = {name: extension.Settings for name, extension in classes.items()}
    return read(sources, dict.fromkeys(tables, _NotEnabled) | sections), classes


def discover(settings: Settings | None = None) -> dict[str, type[Extension]]:
    """The installed extensions by name, without those that `settings` disable: these need not even be importable.

    Raises `ConfigError` for one that cannot be imported.
    """
    tables = settings.extensions if settings else {}
    return _load({name for name in _installed() if _is_enabled(name, tables.get(name, {}))})


def sections(classes: Mapping[str, type[Extension]], settings: Settings) -> dict[str, ExtensionSettings]:
    """Every installed extension's settings. Raises `ConfigError`, also for a section that belongs to no extension.

    A section that only disables an extension is welcome whether or not that is installed.
    """
    for name, table in settings.extensions.items():
        if name not in classes and _is_enabled(name, table):
            raise ConfigError(f"extensions.{name}: no such extension is installed")
    return {
        name: validate(extension.Settings, settings.extensions.get(name, {}), f"extensions.{name}")
        for name, extension in classes.items()
    }


def sections_of_worker(
    classes: Mapping[str, type[Extension]], found: Mapping[str, ExtensionSettings]
) -> dict[str, ExtensionSettings]:
    """Return the sections for a worker: those of extensions that workers want are enabled unless they say otherwise."""
    return {
        name: section.model_copy(update={"enabled": True})
        if classes[name].wanted_by_workers and "enabled" not in section.model_fields_set
        else section
        for name, section in found.items()
    }


def check_workers(classes: Mapping[str, type[Extension]]) -> None:
    """Raise `ConfigError` if none of the extensions that may be enabled makes several workers one tracker."""
    if not any(extension.wanted_by_workers for extension in classes.values()):
        raise ConfigError(
            "server.workers: several workers need the extension cluster, which makes them one tracker; "
            "it is not installed, or extensions.cluster.enabled is false"
        )


def _installed() -> set[str]:
    return set(entry_points(group=GROUP).names)


def _load(names: set[str]) -> dict[str, type[Extension]]:
    found: dict[str, type[Extension]] = {}
    for point in entry_points(group=GROUP):
        if point.name not in names:
            continue
        try:
            loaded = point.load()
        except Exception as error:
            raise ConfigError(f"extensions.{point.name}: cannot be loaded: {error!r}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Extension)):
            raise ConfigError(f"extensions.{point.name}: {point.value} is not an Extension")
        found[point.name] = loaded
    return found


def _may_be_enabled(table: Any) -> bool:
    """Return whether a section enables its extension, or is wrong."""
    try:
        return not isinstance(table, Mapping) or _is_enabled("", table)
    except ConfigError:
        return True


def _is_enabled(name: str, table: Mapping[str, Any]) -> bool:
    """Whether a section enables its extension, whatever other keys it has."""
    chosen = {"enabled": table["enabled"]} if "enabled" in table else {}
    return validate(ExtensionSettings, chosen, f"extensions.{name}").enabled
