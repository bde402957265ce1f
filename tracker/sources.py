"""Where settings come from: the command line, the environment and a TOML file, with the place of each value."""

import json
import os
import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from tracker.checks import UNIX
from tracker.mistakes import ConfigError, Fields, KeyPath
from tracker.settings import Settings

ENV_PREFIX: Final = "PEERSERVERS_"
_CONFIG: Final = "CONFIG"
CONFIG_VARIABLE: Final = ENV_PREFIX + _CONFIG
"""Names the configuration file."""

_OPTIONS: Final[dict[KeyPath, str]] = {("log", "level"): "--log-level", ("log", "format"): "--log-format"}
"""Options of the command line that have other names than their key."""

_KEY: Final = r"""(?:[\w-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_BEGINS: Final = re.compile(rf"[ \t]*(?:\[|{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*[ \t]*=)")
"""The beginning of a statement in TOML: of a table, or of a key with its value."""

_SERVICE_LINK: Final = re.compile(r"(?:\w*_)?(?:SERVICE_(?:HOST|PORT(?:_.*)?)|PORT_\d+_(?:TCP|UDP|SCTP)(?:_.*)?)")
_SERVICE_URL: Final = re.compile(r"(?:tcp|udp|sctp)://")
"""Variables that Kubernetes sets for each Service: here for one named `peerservers`, or `peerservers-...`."""


class Sources:
    """All values that are given, before they are checked.

    Raises:
        ConfigError: if the file cannot be read.
    """

    def __init__(self, file: Path | None, options: Mapping[str, Mapping[str, Any]]) -> None:
        self.file = file
        text = _read(file) if file else ""
        self._toml = _parse(file, text) if file else {}
        self._lines = _lines_of(text)
        self._options = options
        names = [name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name != CONFIG_VARIABLE]
        self._variables = [name for name in names if _is_setting(name)]
        self._others = [name for name in names if not _is_setting(name)]

    @property
    def extensions(self) -> dict[str, Any]:
        """The tables of extensions, whose keys are not known yet."""
        table = self.merge({}).table.get("extensions", {})
        return table if isinstance(table, dict) else {}

    def merge(self, fields: Fields) -> "Merged":
        """Return all values, with the types of `fields`, which are the known keys."""
        merged = Merged({}, {}, [])
        for path, line in self._lines.items():
            merged.origins[path] = f"{self.file}, line {line}"
        for path, value in _leaves(self._toml):
            merged.put(path, value, merged.origins[path])
        for name in self._variables:
            path = _path_of(name)
            try:
                value = _value_of(os.environ[name], fields.get(path))
            except ValueError as error:
                merged.mistakes.append(f"{name}: {'.'.join(path)}: {error}")
                continue
            # A whole section in JSON does not replace the keys of other sources.
            for inner, part in _leaves(value, path) if isinstance(value, dict) and value else ((path, value),):
                merged.put(inner, part, name)
        for path, value in _leaves(self._options):
            merged.put(path, value, _OPTIONS.get(path) or f"--{path[-1].replace('_', '-')}")
        return merged

    def near_misses(self, fields: Fields) -> Iterator[tuple[str, str]]:
        """Yield each variable that is ignored, but has a name like that of a setting, and the name of that setting.

        Other variables are ignored silently, because not only operators set variables with this prefix.
        """
        known = {"__".join(path).upper(): path for path in fields} | {_CONFIG: (_CONFIG,)}
        for name in self._others:
            rest = name[len(ENV_PREFIX) :].upper()
            if _SERVICE_LINK.fullmatch(rest) or _SERVICE_URL.match(os.environ[name]):
                continue
            meant = [one for one in known if one.replace("_", "") == rest.replace("_", "")]
            # A key without its section, or a section without a key.
            meant += [one for one, path in known.items() if rest in (path[-1].upper(), "__".join(path[:-1]).upper())]
            meant += get_close_matches(rest, known, 1, 0.8)
            if meant and rest:
                yield name, ENV_PREFIX + meant[0]


@dataclass(frozen=True)
class Merged:
    """The values of all sources.

    Attributes:
        table: The values in nested tables.
        origins: The source of each value.
        mistakes: Variables of the environment that do not have the form of their values.
    """

    table: dict[str, Any]
    origins: dict[KeyPath, str]
    mistakes: list[str]

    def put(self, path: KeyPath, value: Any, origin: str) -> None:
        """Set a value, in place of one from another source."""
        if not _is_unicode(value):
            self.mistakes.append(f"{origin}: {'.'.join(path)}: must be text in UTF-8")
            return
        table = self.table
        for name in path[:-1]:
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                # The value in the place of the table is a mistake.
                return
            table = inner
        if value != {} or path[-1] not in table:
            table[path[-1]] = value
            self.origins[path] = origin


def _is_unicode(value: Any) -> bool:
    """Return whether the texts in a value have no bytes that are not UTF-8 (PEP 383)."""
    try:
        json.dumps(value, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:
        return False
    return True


def _path_of(name: str) -> KeyPath:
    return tuple(name[len(ENV_PREFIX) :].lower().split("__"))


def _is_setting(name: str) -> bool:
    """Return whether a variable sets a key, or is meant to: Kubernetes may set some with `__`, too."""
    path = _path_of(name)
    is_link = path[0] not in Settings.model_fields and _SERVICE_LINK.fullmatch(name[len(ENV_PREFIX) :].upper())
    return len(path) > 1 and path[0] != "" and not is_link


def origin_of(path: KeyPath, origins: Mapping[KeyPath, str]) -> str | None:
    """Return the source of a key or table, or else of the first key in it, or of the table around it."""
    inner = (origin for known, origin in origins.items() if known[: len(path)] == path)
    outer = (origins[path[:length]] for length in range(len(path), 0, -1) if path[:length] in origins)
    return origins.get(path) or next(inner, None) or next(outer, None)


def located(mistake: str, origins: Mapping[KeyPath, str]) -> str:
    """Return a mistake, `section.key: text`, with the source of the key in front of it."""
    key, colon, _ = mistake.partition(": ")
    origin = origin_of(tuple(key.split(".")), origins) if colon else None
    return f"{origin}: {mistake}" if origin else mistake


def _leaves(table: Mapping[str, Any], prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Yield the path and value of each key in nested tables; of a table without keys, the table."""
    for name, value in table.items():
        path = (*prefix, name)
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _value_of(text: str, field: FieldInfo | None) -> Any:
    """Return the value that a variable's text stands for, or the text if its type is not known or does not fit.

    Raise `ValueError` if a list does not have the form of one.
    """
    if field is None:
        # The key of an extension that is not known here.
        return _json(text) if text.startswith(("[", "{")) else text
    annotation: Any = field.annotation
    members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = {get_origin(member) or member for member in members}
    if list in kinds:
        return _list(text, is_secret=not field.repr, may_be_text=str in kinds)
    if dict in kinds:
        return _json(text)
    if not {int, float, bool} & kinds:
        return text
    try:
        value = TypeAdapter(annotation).validate_strings(text.strip())
    except ValidationError:
        return text
    return value if isinstance(value, (bool, int, float)) else text


def _list(text: str, is_secret: bool, may_be_text: bool) -> Any:
    if text.lstrip().startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            shown = "" if is_secret else f", not {text}"
            raise ValueError(f'must be a list as a,b or in JSON, as ["a", "b"]{shown}') from None
    if is_secret:
        # It may contain commas.
        return text
    if may_be_text and ("," not in text or text.startswith(UNIX)):
        return text
    return [part.strip() for part in text.split(",") if part.strip()]


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _read(file: Path) -> str:
    named = CONFIG_VARIABLE if os.environ.get(CONFIG_VARIABLE) == str(file) else "--config"
    try:
        return file.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{named}: {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}, line {line}: not text in UTF-8") from None
    except ValueError as error:
        raise ConfigError(f"{named}: {str(file)!r}: {error}") from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        said, _, place = str(error).rstrip(")").partition(" (at ")
        line = place.partition("line ")[2].partition(",")[0] or _wrong_line(text)
        raise ConfigError(f"{file}, line {line}: {said[:1].lower()}{said[1:]}") from None


def _statements(text: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield the first and last line of each complete statement in TOML, and the tables that it alone makes."""
    lines = text.split("\n")
    header = ""
    start, *ends = [*(number for number, line in enumerate(lines) if _BEGINS.match(line)), len(lines)]
    for end in ends:
        statement = "\n".join(lines[start:end])
        is_header = statement.lstrip().startswith("[")
        try:
            made = tomllib.loads(statement if is_header else f"{header}\n{statement}")
        except tomllib.TOMLDecodeError:
            # The next line looks like a statement, but is in a text or a list.
            continue
        header = statement if is_header else header
        yield start + 1, end, made
        start = end


def _lines_of(text: str) -> dict[KeyPath, int]:
    """Return the line of each key and table of a valid TOML document."""
    lines: dict[KeyPath, int] = {}
    for start, _, made in _statements(text):
        for path, _ in _leaves(made):
            for length in range(1, len(path) + 1):
                lines.setdefault(path[:length], start)
    return lines


def _wrong_line(text: str) -> int:
    """Return the line of a TOML document's first statement that does not fit those before it, or does not end."""
    lines = text.split("\n")
    statements = list(_statements(text))

    def is_wrong(statement: tuple[int, int, dict[str, Any]]) -> bool:
        try:
            tomllib.loads("\n".join(lines[: statement[1]]))
        except tomllib.TOMLDecodeError:
            return True
        return False

    first = bisect_left(statements, True, key=is_wrong)
    if first < len(statements):
        return statements[first][0]
    return min(statements[-1][1] + 1 if statements else 1, len(lines))
