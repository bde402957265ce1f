"""An extension that makes workers one tracker, as far as tests of the supervisor need one. It is copied for them."""

import asyncio
import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from pydantic import Field

from tracker.extension import Extension, ExtensionOff, ExtensionSettings, Request, Response, TrackerHandle


class Joined(Extension):
    """Tells at `/worker` which worker has served the request, and asks the other workers over sockets."""

    wanted_by_workers = True

    class Settings(ExtensionSettings):
        """Workers without a cluster."""

        enabled: bool = Field(False, description="Whether it is on.")
        dies: bool = Field(False, description="Whether the process ends at its start.")
        fails: bool = Field(False, description="Whether it is off.")

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        if settings.dies:
            os._exit(3)
        assert tracker.worker
        self._worker = tracker.worker
        self._answers: dict[str, Callable[[], Awaitable[bytes]]] = {}
        self.label = f"here/{self._worker.number}"
        tracker.add_route("/worker", self._route)
        tracker.add_gather(self)

    async def prepare(self) -> None:
        if self.settings.fails:
            raise ExtensionOff("as told")

    async def start(self) -> None:
        path = self._worker.directory / f"{self._worker.number}.sock"
        self._server = await asyncio.start_unix_server(self._serve, path)

    def others(self, everywhere: bool) -> int:
        return len(self._paths())

    def on_ask(self, kind: str, answer: Callable[[], Awaitable[bytes]]) -> None:
        self._answers[kind] = answer

    async def ask(self, kind: str, timeout: float, everywhere: bool) -> Mapping[str, bytes]:  # noqa: ASYNC109
        answers = await asyncio.gather(*(self._ask_one(path, kind, timeout) for path in self._paths()))
        return {f"here/{path.stem}": answer for path, answer in zip(self._paths(), answers, strict=True) if answer}

    def _paths(self) -> list[Any]:
        own = f"{self._worker.number}.sock"
        return sorted(path for path in self._worker.directory.glob("*.sock") if path.name != own)

    async def _ask_one(self, path: Any, kind: str, timeout: float) -> bytes:  # noqa: ASYNC109
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(timeout):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(f"{kind}\n".encode())
                answer = await reader.read()
                writer.close()
                return answer
        return b""

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        kind = (await reader.readline()).decode().strip()
        writer.write(await self._answers[kind]())
        writer.close()

    async def _route(self, _request: Request) -> Response:
        worker = self._worker
        told = {"index": worker.index, "count": worker.count, "number": worker.number, "pid": os.getpid()}
        return Response(json.dumps({**told, "directory": str(worker.directory)}).encode())
