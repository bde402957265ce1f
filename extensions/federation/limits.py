"""What all links together may cost."""

import asyncio


class Turns:
    """Lets one link at a time work off what came, so that however many there are, others wait for one of them only."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> None:
        await self._lock.acquire()

    async def __aexit__(self, *_: object) -> None:
        try:
            # Whatever else is ready comes before the next link's turn.
            await asyncio.sleep(0)
        finally:
            self._lock.release()


class Room:
    """Places for what others have us remember, shared by all links."""

    def __init__(self, places: int) -> None:
        self.left = places
