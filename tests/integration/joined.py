"""An extension that makes workers one tracker, as far as tests of the supervisor need one. It is copied for them."""

import json
import os
from typing import Any

from pydantic import Field

from tracker.extension import Extension, ExtensionSettings, Request, Response, TrackerHandle


class Joined(Extension):
    """Tells at `/worker` which worker has served the request."""

    wanted_by_workers = True

    class Settings(ExtensionSettings):
        """Workers without a cluster."""

        enabled: bool = Field(False, description="Whether it is on.")
        dies: bool = Field(False, description="Whether the process ends at its start.")

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        if settings.dies:
            os._exit(3)
        tracker.add_route("/worker", self._route)

    async def _route(self, _request: Request) -> Response:
        worker = self.tracker.worker
        assert worker
        told = {"index": worker.index, "count": worker.count, "number": worker.number, "pid": os.getpid()}
        return Response(json.dumps({**told, "directory": str(worker.directory)}).encode())
