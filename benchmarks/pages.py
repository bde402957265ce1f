"""The effect of many requests for one page on the announces of peers, and the cost of a request.

A process of its own asks for a page as fast as the tracker answers, `AT_A_TIME` requests at once, from addresses
without limits. Meanwhile, the victims announce at a fixed rate. The CPU time of a request leaves out that of the
victims, which is measured before without requests.
"""

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.load import Load, Shape
from benchmarks.measure import latency, warm
from benchmarks.servers import OURS, Running
from benchmarks.storm import Storm
from benchmarks.suite import Figures, Result, Suite

PAGES: Final = ("/metrics", "/", "/live", "/stats", "/stats.json", "/health")
VICTIMS: Final = Shape(50, rate=40)
AT_A_TIME: Final = 20
_SLICE: Final = 0.5


def pages(suite: Suite) -> Iterator[Result]:
    """Requests for one page as fast as they are answered: their cost, and the announces of others meanwhile."""
    for path in ("", *PAGES):

        async def measure(server: Running, path: str = path) -> Figures:
            return await _victims(suite, server, path)

        yield from suite.each("pages", path or "none", measure, only=(OURS,))


async def _victims(suite: Suite, server: Running, path: str) -> Figures:
    await warm(server)
    load = Load(VICTIMS)
    await load.connect(server.port)
    await load.join()
    await load.start()
    await load.run(suite.warm_up)
    began, idle = time.perf_counter(), sum(server.cpu())
    await load.run(suite.seconds)
    share = (sum(server.cpu()) - idle) / (time.perf_counter() - began)
    with _asking(path, server.port) as answered:
        while path and not answered.value:
            await load.run(_SLICE)
        load.latencies.clear()
        began, before, cpu = time.perf_counter(), answered.value, sum(server.cpu())
        await load.run(suite.seconds)
        seconds, requests = time.perf_counter() - began, answered.value - before
        used = sum(server.cpu()) - cpu
    await load.stop()
    figures = {**latency(load.latencies), "server_cpu": used / seconds, "lost": load.lost + load.closed}
    if requests:
        figures |= {"attempts": requests / seconds, "each_us": (used - share * seconds) / requests * 1e6}
    return figures


@contextmanager
def _asking(path: str, port: int) -> Iterator[Any]:
    """Ask for a page during the block; yield the number of responses."""
    context = multiprocessing.get_context("spawn")
    answered = context.Value("q", 0)
    process = context.Process(target=_ask, args=(path, port, answered), daemon=True)
    if path:
        process.start()
    try:
        yield answered
    finally:
        if path:
            process.kill()
            process.join()


def _ask(path: str, port: int, answered: Any) -> None:
    # The tracker and the victims must not wait for the core that this process shares with them.
    os.nice(19)
    crowd = Storm(port, request=f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(), start=b"HTTP/1.1 200")
    while True:
        crowd.run(0.1, AT_A_TIME)
        answered.value = crowd.done
