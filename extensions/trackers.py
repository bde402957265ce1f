"""Other trackers: their URLs, their signed entries, and where an entry was found (sans I/O).

The extensions `dht` and `federation` share these types. `docs/dht.md` specifies entries, URLs and the rendezvous.
"""

import re
from dataclasses import dataclass
from hashlib import sha1
from typing import Final
from urllib.parse import urlsplit

RENDEZVOUS: Final = sha1(b"peerservers rendezvous").digest()
"""The infohash (20 bytes) under which every published tracker keeps an entry, so that trackers find each other."""

RENDEZVOUS_TEXT: Final = RENDEZVOUS.decode("latin-1")
"""The same as an infohash in the tracker's form."""

MAX_URL: Final = 128
"""Characters of a tracker's URL."""

_URL: Final = re.compile(
    r"wss?://"
    r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"  # a name or IPv4 address, or an IPv6 address
    r"(?::([0-9]{1,5}))?"
    r"(?:[/?][!$%&()*+,./:;=?\[\]^_{|}~A-Za-z0-9-]*)?"
)


@dataclass(frozen=True, slots=True)
class TrackerEntry:
    """A tracker's signed statement that it serves an infohash at `url` until `expires`."""

    tracker_id: str
    """The tracker's Ed25519 public key as 64 hexadecimal digits."""
    expires: int
    """Unix seconds."""
    url: str
    signature: bytes
    """64 bytes; `docs/dht.md` gives the signed bytes."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """A tracker's entry, and its source: a slot of the record ("r0"), "bep5", "link" (another tracker) or "cache"."""

    entry: TrackerEntry
    where: str


def is_url(url: str) -> bool:
    """Return whether a tracker may have this URL: ws or wss, a host, printable ASCII, no userinfo, no fragment.

    The scheme and the address may still be forbidden: the code that connects checks them.
    """
    match = _URL.fullmatch(url) if len(url) <= MAX_URL else None
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def normal(url: str) -> str:
    """Return the normal form of a URL: two URLs are the same if their normal forms are equal."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "wss" else 80)
    except ValueError:
        return url
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}{query}"
