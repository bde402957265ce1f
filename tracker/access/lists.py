"""Which swarms are served, and to the pages of which web sites."""

import re
from fnmatch import translate
from pathlib import Path
from typing import Final

from tracker.config import ConfigError
from tracker.settings import Access

MAX_FILE: Final = 1 << 28
"""Bytes of the longest list."""

_HASH = re.compile(r"[0-9a-fA-F]{40}")


class AccessLists:
    """Allow and deny lists. Immutable: a change makes another one."""

    def __init__(self, settings: Access) -> None:
        """Reads the files. Raises `ConfigError`."""
        self.allowed = _read("access.allow_infohashes", settings.allow_infohashes)
        self.denied = _read("access.deny_infohashes", settings.deny_infohashes) or frozenset()
        self._allow_origins = _patterns(settings.allow_origins)
        self._deny_origins = _patterns(settings.deny_origins)

    def serves(self, info_hash: str) -> bool:
        """Whether a swarm may be; `info_hash` is latin-1 text of 20 characters."""
        if self.allowed is None and not self.denied:
            return True
        key = info_hash.encode("latin-1")
        return key not in self.denied and (self.allowed is None or key in self.allowed)

    def admits(self, origin: str | None) -> bool:
        """Whether a page of this origin (RFC 6454, as in the header) may connect; None is no browser's."""
        if origin is None:
            return True
        origin = origin.lower()
        if self._deny_origins and self._deny_origins.fullmatch(origin):
            return False
        return self._allow_origins is None or bool(self._allow_origins.fullmatch(origin))


def _read(key: str, name: str) -> frozenset[bytes] | None:
    """A file's infohashes, 20 bytes each; None if there is no file. Raises `ConfigError`."""
    if not name:
        return None
    found = set()
    path = Path(name)
    try:
        path = path.expanduser()
        if path.stat().st_size > MAX_FILE:
            raise ConfigError(f"{key}: {path}: longer than {MAX_FILE >> 20} MiB")
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                text = line.partition("#")[0].strip()
                if not text:
                    continue
                if not _HASH.fullmatch(text):
                    # Half a list would let in what the operator wants to keep out.
                    raise ConfigError(f"{key}: {path}, line {number}: not 40 hexadecimal digits")
                found.add(bytes.fromhex(text))
    except OSError as error:
        raise ConfigError(f"{key}: {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{key}: {path}: not text in UTF-8") from None
    except (RuntimeError, ValueError) as error:
        # The home directory of nobody, or a name that none can have.
        raise ConfigError(f"{key}: {path}: {error}") from None
    return frozenset(found)


def _patterns(texts: list[str]) -> re.Pattern[str] | None:
    if not texts:
        return None
    # Only * is special: brackets stand round an IPv6 address.
    escaped = (text.lower().rstrip("/").replace("[", "[[]").replace("?", "[?]") for text in texts)
    return re.compile("|".join(map(translate, escaped)))
