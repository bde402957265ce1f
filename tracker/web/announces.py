"""The response to BitTorrent's announces and scrapes over HTTP (BEP 3, BEP 48), which this tracker does not serve."""

import re
from typing import Final

from tracker.net.routes import Request, Response

REASON: Final = "This tracker serves WebTorrent peers over WebSocket (ws:// or wss://), not BitTorrent over HTTP."

INTERVAL: Final = 86400
"""Seconds until the next announce, for clients that do not know BEP 31, such as libtorrent."""

_LAST_SEGMENT: Final = re.compile(r".*/(?:announce|scrape)(?:\.[0-9a-z]+)?", re.IGNORECASE)

# Keys of a dictionary are sorted. `retry in` is of BEP 31.
_BODY: Final = (
    f"d14:failure reason{len(REASON)}:{REASON}8:intervali{INTERVAL}e12:min intervali{INTERVAL}e8:retry in5:nevere"
).encode()


def is_announce(path: str, query: str) -> bool:
    """Return whether a request is an announce or a scrape: by the end of its path, or by `info_hash` in its query."""
    return query.startswith("info_hash=") or "&info_hash=" in query or bool(_LAST_SEGMENT.fullmatch(path))


async def refuse_announce(_request: Request) -> Response:
    """Return a failure in the form of an HTTP tracker, because clients try again and again after any other response."""
    return Response(_BODY, "text/plain")
