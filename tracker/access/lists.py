"""Access lists: the infohashes that are served, and the origins of pages that may connect."""

import re
from fnmatch import translate
from pathlib import Path
from typing import Final

from tracker.config import ConfigError
from tracker.mistakes import both
from tracker.protocol.ids import is_id, parse_info_hash
from tracker.settings import Access

MAX_FILE: Final = 1 << 28
"""Bytes of the largest file that is read."""

_QUOTED: Final = re.compile(r'\s*("(?:[^"\\]|\\.)*")\s*(?:#.*)?$')
"""A line with a JSON string, which may contain a `#`, and perhaps a comment."""

Key = bytes | str
"""An info_hash in a list: a binary one as its 20 bytes, which take less memory, and a text one as text."""


class AccessLists:
    """Allow and deny lists. They are immutable: a reload makes a new object.

    Attributes:
        allowed: The info_hashes that are served, or None if all are.
        denied: The info_hashes that are not served, even if they are allowed.
    """

    def __init__(self, settings: Access) -> None:
        """Read the files. Raise `ConfigError` if one cannot be used."""
        self.allowed, denied = both(
            lambda: _read("access.allow_infohashes", settings.allow_infohashes),
            lambda: _read("access.deny_infohashes", settings.deny_infohashes),
        )
        self.denied = denied or frozenset()
        self._allow_origins = _patterns(settings.allow_origins)
        self._deny_origins = _patterns(settings.deny_origins)

    def serves(self, info_hash: str) -> bool:
        """Return whether the swarm of an info_hash, binary or text, is served."""
        if self.allowed is None and not self.denied:
            return True
        key = _key(info_hash)
        return key not in self.denied and (self.allowed is None or key in self.allowed)

    def admits(self, origin: str | None) -> bool:
        """Return whether a page may connect; `origin` is the field `Origin` (RFC 6454), or None without one.

        Browsers always send an origin, so a client without one is no browser.
        """
        if origin is None:
            return True
        origin = origin.lower()
        if self._deny_origins and self._deny_origins.fullmatch(origin):
            return False
        return self._allow_origins is None or bool(self._allow_origins.fullmatch(origin))


def _key(info_hash: str) -> Key:
    return info_hash.encode("latin-1") if is_id(info_hash) else info_hash


def _read(key: str, name: str) -> frozenset[Key] | None:
    """Return the info_hashes in a file, or None if no file is set. Raise `ConfigError`."""
    if not name:
        return None
    found: set[Key] = set()
    path = Path(name)
    try:
        path = path.expanduser()
        if path.stat().st_size > MAX_FILE:
            raise ConfigError(f"{key}: {path}: longer than {MAX_FILE >> 20} MiB")
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                text = _without_comment(line)
                if not text:
                    continue
                try:
                    found.add(_key(parse_info_hash(text)))
                except ValueError as error:
                    # A list that is read in part would admit infohashes that the operator denies.
                    raise ConfigError(f"{key}: {path}, line {number}: {error}") from None
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path}: not text in UTF-8") from None
    except (RuntimeError, ValueError) as error:
        # The home directory of an unknown user, or a name that no file can have.
        raise ConfigError(f"{key}: {path}: {error}") from None
    return frozenset(found)


def _without_comment(line: str) -> str:
    quoted = _QUOTED.match(line)
    return quoted[1] if quoted else line.partition("#")[0].strip()


def _patterns(texts: list[str]) -> re.Pattern[str] | None:
    if not texts:
        return None
    # Only * is a wildcard: an IPv6 address has brackets.
    escaped = (text.lower().rstrip("/").replace("[", "[[]").replace("?", "[?]") for text in texts)
    return re.compile("|".join(map(translate, escaped)))
