"""Virtual time: an event loop whose clock jumps to the next timer, and clocks and random numbers that belong to a run.

Call `install` before any module of the product is imported: many of them keep `time.monotonic` under a name of their
own, or as the default of an argument. Outside of a run, the functions that it installs give the real values.
"""

import asyncio
import contextvars
import gc
import os
import random
import selectors
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from heapq import heapify, heappop, heappush
from typing import Any, Final, TypeVar, TypeVarTuple

from tests.simulation.errors import Stalled

EPOCH: Final = 1_800_000_000.0
"""Unix seconds at the start of a run: eight o'clock in UTC, so that no record of the day before is read."""

START: Final = 1000.0
"""The monotonic clock at the start of a run."""

SPARE: Final = 10_000
"""Timers are cleared of cancelled ones once there are more of them than of others, and more than this."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_real_time = time.time
_real_monotonic = time.monotonic
_real_urandom = os.urandom


class _Run:
    """The run under way."""

    def __init__(self) -> None:
        self.loop: VirtualLoop | None = None
        self.random = random.Random(0)


_run: Final = _Run()


def _time() -> float:
    return EPOCH - START + _run.loop.now if _run.loop else _real_time()


def _monotonic() -> float:
    return _run.loop.now if _run.loop else _real_monotonic()


def _urandom(size: int) -> bytes:
    return _run.random.randbytes(size) if _run.loop else _real_urandom(size)


def install() -> None:
    """Replace the clocks and `os.urandom` for the whole process. Raise `RuntimeError` if the product is loaded."""
    if time.monotonic is not _monotonic:
        loaded = [name for name in sys.modules if name.partition(".")[0] in ("tracker", "extensions")]
        if loaded:
            raise RuntimeError(f"imported before the clocks were replaced: {', '.join(loaded)}")
        time.time, time.monotonic, os.urandom = _time, _monotonic, _urandom


class _NoSockets(selectors.BaseSelector):
    """Waits for nothing but time, which it lets pass at once."""

    def __init__(self) -> None:
        self.pass_time: Callable[[bool], None] = lambda _: None
        """Makes the timers ready that are due; if nothing else is ready, those that are due next."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.pass_time(timeout is None)
        return []

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which work takes no time, and waiting takes no work. It has no sockets and no threads.

    Only UDP sockets can be opened if there is a network for them.
    """

    _ready: deque[asyncio.Handle]

    def __init__(self) -> None:
        self.now = START
        """Seconds of the virtual monotonic clock."""
        self.open_udp: Callable[[asyncio.DatagramProtocol, str], asyncio.DatagramTransport] | None = None
        """Opens a UDP socket on a host of the network, if there is one."""
        # The loop's own heap compares handles in Python, which would take a tenth of a simulation's time.
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._made = 0
        self._enough = SPARE
        selector = _NoSockets()
        super().__init__(selector)
        selector.pass_time = self._pass_time

    def time(self) -> float:
        return self.now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._made += 1
        heappush(self._timers, (when, self._made, handle))
        if len(self._timers) > self._enough:
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapify(self._timers)
            self._enough = 2 * len(self._timers) + SPARE
        return handle

    def call_later(
        self, delay: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def run_in_executor(self, executor: Any, func: Callable[..., T], *args: Any) -> asyncio.Future[T]:  # type: ignore[override]
        """Call the function at once: the end of a thread would come at a different time in each run."""
        done: asyncio.Future[T] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    async def create_datagram_endpoint(  # type: ignore[override]
        self, protocol_factory: Callable[[], T], local_addr: tuple[str, int], **_options: Any
    ) -> tuple[asyncio.DatagramTransport, T]:
        if self.open_udp is None:
            raise OSError("no network")
        protocol: Any = protocol_factory()
        return self.open_udp(protocol, local_addr[0]), protocol

    def _pass_time(self, is_idle: bool) -> None:
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heappop(timers)
        if is_idle:
            if not timers:
                raise Stalled("all tasks wait, and none for the time")
            self.now = max(self.now, timers[0][0])
        while timers and timers[0][0] <= self.now:
            handle = heappop(timers)[2]
            if not handle.cancelled():
                self._ready.append(handle)


@contextmanager
def virtual_time(seed: int) -> Iterator[VirtualLoop]:
    """Give a loop in virtual time; all clocks are its clock, and all randomness follows from `seed`, until the end."""
    if time.monotonic is not _monotonic:
        raise RuntimeError("install() was not called")
    state = random.getstate()
    loop = VirtualLoop()
    random.seed(seed)
    _run.random = random.Random(seed + 1)
    _run.loop = loop
    thresholds = gc.get_threshold()
    # Thousands of trackers are visited by each full collection, and hardly any of them is garbage.
    gc.set_threshold(100_000, 50, 1000)
    try:
        yield loop
    finally:
        loop.close()
        _run.loop = None
        random.setstate(state)
        gc.set_threshold(*thresholds)


def run(seed: int, main: Callable[[], Awaitable[T]]) -> T:
    """Run a coroutine in virtual time to its end."""

    async def call() -> T:
        return await main()

    with virtual_time(seed) as loop:
        asyncio.set_event_loop(loop)
        try:
            return loop.run_until_complete(call())
        finally:
            # After an error: hundreds of tasks would complain of their end.
            tasks = asyncio.all_tasks(loop)
            for task in tasks:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            asyncio.set_event_loop(None)
