"""Another program on the subjects of a cluster: it listens, and writes nonsense and old messages."""

import asyncio
from collections import deque
from random import Random
from time import monotonic
from typing import Any, Final

import nats

KEPT: Final = 20_000
RATE: Final = 500
"""Messages per second."""


class Foreign:
    """The program. Its methods write for some seconds."""

    def __init__(self, url: str, name: str = "tracker") -> None:
        self.sent = 0
        self._url = url
        self._prefix = f"peerservers.{name}"
        self._seen: deque[tuple[str, bytes]] = deque(maxlen=KEPT)
        self._random = Random(5)

    async def start(self) -> None:
        """Connect and listen."""
        # Otherwise it would hear itself.
        self._client = await nats.connect(self._url, no_echo=True)

        async def keep(message: Any) -> None:
            self._seen.append((message.subject, message.data))

        await self._client.subscribe(f"{self._prefix}.>", cb=keep)

    async def stop(self) -> None:
        """Disconnect."""
        await self._client.close()

    async def garbage(self, seconds: float) -> None:
        """Write random bytes, and messages of nodes with some bytes changed or cut off."""
        random = self._random

        def make() -> tuple[str, bytes]:
            subject, data = random.choice(self._seen)
            choice = random.randrange(3)
            if choice == 0:
                return subject, random.randbytes(random.randrange(200))
            if choice == 1:
                return subject, data[: random.randrange(len(data))]
            changed = bytearray(data)
            changed[random.randrange(len(data))] ^= 1 << random.randrange(8)
            return subject, bytes(changed)

        await self._write(make, seconds)

    async def replay(self, seconds: float) -> None:
        """Write the messages that were seen before, in the same order, again and again."""
        seen = list(self._seen)
        index = 0

        def make() -> tuple[str, bytes]:
            nonlocal index
            index += 1
            return seen[index % len(seen)]

        await self._write(make, seconds)

    async def shuffle(self, seconds: float) -> None:
        """Write the newest messages in any order."""
        await self._write(lambda: self._seen[-1 - self._random.randrange(min(200, len(self._seen)))], seconds)

    async def _write(self, make: Any, seconds: float) -> None:
        end = monotonic() + seconds
        while monotonic() < end:
            for _ in range(RATE // 20):
                subject, data = make()
                await self._client.publish(subject, data)
                self.sent += 1
            await asyncio.sleep(0.05)
