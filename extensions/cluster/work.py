"""Work on many swarms, done a slice at a time, so that peers are served in between (sans I/O)."""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

SLICE: Final = 200
"""Swarms that are visited at once."""

PAUSE: Final = True
"""A job yields this to wait for the next tick, and False to go on in the next turn of the event loop."""


class Work:
    """Jobs, each of which is an iterator that does one slice at a time. `wake` makes the node call `run` soon."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._jobs: deque[Iterator[bool]] = deque()
        self._paused: list[Iterator[bool]] = []

    def __len__(self) -> int:
        return len(self._jobs) + len(self._paused)

    def add(self, job: Iterator[bool]) -> None:
        """Do a job from the next turn of the event loop on."""
        self._jobs.append(job)
        self._wake()

    def run(self) -> None:
        """Do one slice of one job."""
        if not self._jobs:
            return
        job = self._jobs.popleft()
        verdict = next(job, None)
        if verdict is not None:
            if verdict:
                self._paused.append(job)
            else:
                self._jobs.append(job)
        if self._jobs:
            self._wake()

    def tick(self) -> None:
        """Go on with the jobs that wait."""
        if self._paused:
            self._jobs.extend(self._paused)
            self._paused.clear()
            self._wake()
