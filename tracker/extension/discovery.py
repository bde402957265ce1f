"""Finds the installed extensions and reads their settings."""

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from tracker.config import ConfigError, validate
from tracker.extension.api import Extension, ExtensionSettings
from tracker.settings import Settings

GROUP: Final = "peerservers.extensions"


def discover(settings: Settings | None = None) -> dict[str, type[Extension]]:
    """The installed extensions by name, without those that `settings` disable: these need not even be importable.

    Raises `ConfigError` for one that cannot be imported.
    """
    found: dict[str, type[Extension]] = {}
    for point in entry_points(group=GROUP):
        if settings and not _is_enabled(point.name, settings.extensions.get(point.name, {})):
            continue
        try:
            loaded = point.load()
        except Exception as error:
            raise ConfigError(f"extensions.{point.name}: cannot be loaded: {error!r}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Extension)):
            raise ConfigError(f"extensions.{point.name}: {point.value} is not an Extension")
        found[point.name] = loaded
    return found


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


def _is_enabled(name: str, table: Mapping[str, Any]) -> bool:
    """Whether a section enables its extension, whatever other keys it has."""
    chosen = {"enabled": table["enabled"]} if "enabled" in table else {}
    return validate(ExtensionSettings, chosen, f"extensions.{name}").enabled
