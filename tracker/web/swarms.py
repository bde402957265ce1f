"""The counts of one swarm as JSON: `/swarms/<infohash>.json`."""

import asyncio
import json
import re
from http import HTTPStatus
from typing import Final

from tracker.core.observers import Counts
from tracker.core.scrapes import Scrapes
from tracker.net.routes import Request, Response, plain

START: Final = "/swarms/"
_PATH: Final = re.compile(rf"{START}([0-9a-fA-F]{{40}})\.json")


async def swarm_counts(scrapes: Scrapes, request: Request) -> Response:
    """Return the numbers of seeders and leechers, own ones and those of linked trackers; 404 without such a swarm."""
    match = _PATH.fullmatch(request.path)
    counts = None
    if match is not None:
        info_hash = bytes.fromhex(match[1]).decode("latin-1")
        counts = (await _find(scrapes, info_hash)).get(info_hash)
    if match is None or counts is None:
        return plain(HTTPStatus.NOT_FOUND)
    complete, incomplete, own_complete, own_incomplete = counts
    content = {
        "infohash": match[1].lower(),
        "seeders": complete,
        "leechers": incomplete,
        "local": {"seeders": own_complete, "leechers": own_incomplete},
        "remote": {"seeders": complete - own_complete, "leechers": incomplete - own_incomplete},
    }
    return Response(json.dumps(content).encode(), "application/json")


async def _find(scrapes: Scrapes, info_hash: str) -> dict[str, Counts]:
    found: asyncio.Future[dict[str, Counts]] = asyncio.get_running_loop().create_future()

    def done(counts: dict[str, Counts]) -> None:
        if not found.done():
            found.set_result(counts)

    scrapes.find([info_hash], done)
    return await found
