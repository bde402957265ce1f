"""Mistakes in settings, in words: one line for each, which names the key and suggests another one."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo

A = TypeVar("A")
B = TypeVar("B")

KeyPath = tuple[str, ...]
"""The names of the tables around a key, and of the key: `("server", "port")`."""

Fields = Mapping[KeyPath, FieldInfo]
"""Every known key."""

_MAX_SHOWN: Final = 80
"""Characters of a wrong value that are shown."""


class ConfigError(Exception):
    """The settings cannot be used.

    Attributes:
        mistakes: One line for each mistake. It names the key: `section.key: text`.
    """

    def __init__(self, *mistakes: str) -> None:
        # A value in the text may have control characters, which would begin a line or move the cursor of a terminal.
        self.mistakes = tuple(text if text.isprintable() else repr(text)[1:-1] for text in mistakes)
        super().__init__("; ".join(self.mistakes))


def both(one: Callable[[], A], other: Callable[[], B]) -> tuple[A, B]:
    """Return the results of two functions. Raise one `ConfigError` with the mistakes that both raise."""
    try:
        result = one()
    except ConfigError as error:
        try:
            other()
        except ConfigError as further:
            raise ConfigError(*error.mistakes, *further.mistakes) from None
        raise
    return result, other()


def mistakes_in(error: ValidationError, prefix: KeyPath, fields: Fields) -> Iterator[tuple[KeyPath, str]]:
    """Yield each mistake that a model has found: the key and the text. `prefix` is the table of the model."""
    types: dict[KeyPath, list[str]] = {}
    values: dict[KeyPath, str] = {}
    for one in error.errors(include_url=False):
        path = (*prefix, *_keys(one["loc"]))
        if one["type"] == "value_error":
            said = one["msg"].removeprefix("Value error, ")
            if path:
                yield path, said
                continue
            for line in said.split("\n"):
                # A contradiction between keys, which names the key itself.
                key, _, text = line.partition(": ")
                yield tuple(key.split(".")), text
        elif one["type"] == "extra_forbidden":
            yield path, unknown(path, fields)
        else:
            field = fields.get(path)
            is_member = any(isinstance(part, int) for part in one["loc"])
            types.setdefault(path, []).append(_text(dict(one), "each member must be" if is_member else "must be"))
            values[path] = _shown(one["input"]) if field is None or field.repr else ""
    for path, texts in types.items():
        # A value that may be text or a list has an error for each.
        yield path, " or ".join([texts[0], *(text.removeprefix("must be ") for text in texts[1:])]) + values[path]


def unknown(path: KeyPath, fields: Fields) -> str:
    """Return the text for an unknown key or section, with a similar one if there is one."""
    kind = "section" if len(path) == 1 else "key"
    similar = suggestion(path, fields)
    return f"unknown {kind}" + (f"; did you mean {'.'.join(similar)}?" if similar else "")


def suggestion(path: KeyPath, fields: Fields) -> KeyPath | None:
    """Return a known key or section with a name like that of an unknown one: beside it, or else anywhere."""
    depth = len(path)
    siblings = {known[depth - 1] for known in fields if known[: depth - 1] == path[:-1] and len(known) >= depth}
    close = get_close_matches(path[-1], siblings - {path[-1]}, 1, 0.7)
    if close:
        return (*path[:-1], close[0])
    elsewhere = {known for known in fields if known[-1] == path[-1]} if depth > 1 else set()
    elsewhere |= {known[:-1] for known in fields if known[-2] == path[-1]}
    return elsewhere.pop() if len(elsewhere) == 1 else None


def _keys(location: Iterable[int | str]) -> Iterator[str]:
    """Yield the keys of a location, without positions in lists and the members of a union."""
    for part in location:
        if isinstance(part, int) or "[" in part or part in ("str", "int", "float", "bool"):
            return
        yield part


def _shown(value: Any) -> str:
    """Return the end of a text that tells the wrong value."""
    text = repr(value) if not isinstance(value, bool) else str(value).lower()
    return f", not {text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + '...'}"


def _text(error: dict[str, Any], must_be: str) -> str:
    """Return the words for an error of pydantic."""
    kind, limits = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "must be set"
    if kind == "literal_error":
        return f"{must_be} {limits['expected']}"
    for start, text in _TYPES.items():
        if kind.startswith(start):
            return f"{must_be} {text}"
    if kind in _LIMITS:
        name, text = _LIMITS[kind]
        return f"{must_be} {text} {limits[name]:g}"
    return str(error["msg"])


_TYPES: Final = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "string_type": "text",
    "list_": "a list",
    "dict_": "a table",
    "model_": "a table",
}
"""The types of values by the beginnings of pydantic's names for errors."""

_LIMITS: Final = {
    "greater_than_equal": ("ge", "at least"),
    "less_than_equal": ("le", "at most"),
    "greater_than": ("gt", "more than"),
    "less_than": ("lt", "less than"),
}
"""The key in an error's context that has the limit, and the words for it, by pydantic's name for the error."""
