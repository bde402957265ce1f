"""The counts of one swarm as JSON: `/swarms/<infohash>.json`."""

import json
import re
from http import HTTPStatus
from typing import Final

from tracker.core.hub import Hub
from tracker.net.routes import Request, Response, plain

START: Final = "/swarms/"
_PATH: Final = re.compile(rf"{START}([0-9a-fA-F]{{40}})\.json")


def swarm_counts(hub: Hub, request: Request) -> Response:
    """Return the numbers of seeders and leechers, those here and those of linked trackers; 404 without such a swarm."""
    match = _PATH.fullmatch(request.path)
    swarm = hub.swarms.get(bytes.fromhex(match[1]).decode("latin-1")) if match else None
    if match is None or swarm is None:
        return plain(HTTPStatus.NOT_FOUND)
    counts = {
        "infohash": match[1].lower(),
        "seeders": swarm.complete,
        "leechers": swarm.incomplete,
        "local": {"seeders": len(swarm.seeders), "leechers": len(swarm.leechers)},
        "remote": {"seeders": swarm.remote_complete, "leechers": swarm.remote_incomplete},
    }
    return Response(json.dumps(counts).encode(), "application/json")
