"""The other processes of one tracker, as its pages reach them."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from time import monotonic
from typing import Final, Protocol

import structlog

from tracker.web.merging import How

TIMEOUT: Final = 1.0
"""Seconds in which the other processes must answer. Those that do not are left out."""

MAX_AGE: Final = 1.0
"""Seconds for which answers are reused, however many requests there are."""

Answer = Callable[[], Awaitable[bytes]]
"""Answers a question of another process."""


class Gather(Protocol):
    """Asks the other processes of the tracker. An extension implements it."""

    @property
    def label(self) -> str:
        """The name of this process among all."""
        ...

    def others(self, everywhere: bool) -> int:
        """Return the number of the other live processes: of all, or only of the workers of this machine."""
        ...

    async def ask(self, kind: str, timeout: float, everywhere: bool) -> Mapping[str, bytes]:  # noqa: ASYNC109
        """Ask the other processes. Return the answers by label that have come within `timeout` seconds."""
        ...

    def on_ask(self, kind: str, answer: Answer) -> None:
        """Let a function answer the questions of other processes."""
        ...


class Others:
    """The other processes, which are none until an extension has added a `Gather`."""

    def __init__(self) -> None:
        self.rules: dict[str, How] = {}
        """How gauges of extensions are merged, by name, if they are not summed."""
        self._gather: Gather | None = None
        self._answers: dict[str, Answer] = {}
        self._latest: dict[tuple[str, bool], tuple[float, Mapping[str, bytes]]] = {}
        self._asking: dict[tuple[str, bool], asyncio.Task[Mapping[str, bytes]]] = {}

    @property
    def label(self) -> str:
        """The name of this process among all."""
        return self._gather.label if self._gather else ""

    def add(self, gather: Gather) -> None:
        """Use a way to the other processes.

        Raises:
            ValueError: if there is one already.
        """
        if self._gather is not None:
            raise ValueError("there is another extension that asks the other processes")
        self._gather = gather
        for kind, answer in self._answers.items():
            gather.on_ask(kind, answer)

    def on_ask(self, kind: str, answer: Answer) -> None:
        """Answer the questions of other processes by a function."""
        self._answers[kind] = answer
        if self._gather is not None:
            self._gather.on_ask(kind, answer)

    def count(self, everywhere: bool) -> int:
        """Return the number of the other live processes."""
        return self._gather.others(everywhere) if self._gather else 0

    async def ask(self, kind: str, everywhere: bool = False) -> Mapping[str, bytes]:
        """Return the answers of the other processes by label, which are at most `MAX_AGE` old."""
        if self._gather is None:
            return {}
        asked = kind, everywhere
        made, latest = self._latest.get(asked, (0.0, None))
        if latest is not None and monotonic() - made < MAX_AGE:
            return latest
        if asked not in self._asking:
            self._asking[asked] = asyncio.get_running_loop().create_task(self._ask(kind, everywhere))
        # The first request may be cancelled when its client disconnects; other requests wait for the same answers.
        return await asyncio.shield(self._asking[asked])

    async def _ask(self, kind: str, everywhere: bool) -> Mapping[str, bytes]:
        found: Mapping[str, bytes] = {}
        try:
            if self._gather is not None:
                async with asyncio.timeout(2 * TIMEOUT):
                    found = await self._gather.ask(kind, TIMEOUT, everywhere)
        except Exception:
            structlog.get_logger().exception("gather_failed", kind=kind)
        self._latest[kind, everywhere] = (monotonic(), found)
        del self._asking[kind, everywhere]
        return found
