"""The effect of hostile links on a tracker's own peers.

Ten links toggle the counts of swarms (`have`), name their tags (`opened`), or make offers (`offers`), in frames of the
greatest length, as fast as they are read and the limits let them. They know the infohashes. Latencies are from an
announce to when its offer has come, in other swarms.
"""

import asyncio
import json
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from multiprocessing.connection import Connection
from random import Random
from typing import Final

import uvloop
from picows import WSFrame, WSMsgType, WSTransport

from benchmarks.links import neighbour, open_swarms, tracker
from benchmarks.load import SDP, Load, Peer, Shape, encode, open_socket
from benchmarks.measure import latency
from benchmarks.servers import OURS
from benchmarks.suite import Figures, Result, Suite
from extensions.federation import wire
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.link import SWARMS_BURST, SWARMS_PER_SECOND
from extensions.federation.transports import Dialed
from tracker.protocol.codec import make_offer

HOSTILE: Final = 10
MARGIN: Final = 0.95
"""The fraction of the limits that hostile links use, so that jitter does not end them."""

SWARMS: Final = 10_000
PAIRS: Final = 20
"""Peers that make offers, each to one other."""

RATE: Final = 100.0
"""Offers a second of all of them."""

SETTLE: Final = 5.0


class Receiver(Peer):
    """Notes when numbered offers come."""

    __slots__ = ("came",)
    came: dict[int, float]

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """A message has come."""
        _, found, rest = frame.get_payload_as_bytes().partition(b'"offer_id":"')
        if found:
            self.came[int(rest[:20])] = time.perf_counter()


def link_flood(suite: Suite) -> Iterator[Result]:
    """Measure local announces while ten hostile links tell of swarms, or make offers, at the highest permitted rate."""
    for case in ("none", "have", "opened", "offers"):
        yield Result("link-flood", f"hostile: {case}", OURS, uvloop.run(_flood(suite, case)))


async def _flood(suite: Suite, case: str) -> Figures:
    swarms = SWARMS // 10 if suite.quick else SWARMS
    load, random = Load(Shape(0)), Random(1)
    sent, came = dict[int, float](), dict[int, float]()
    with tracker(suite) as one:
        clients = await open_swarms(one.port, 0, swarms, 0)
        makers = [Peer(load, [f"own{pair:017}"], pair, random) for pair in range(PAIRS)]
        receivers = [Receiver(load, [f"own{pair:017}"], PAIRS + pair, random) for pair in range(PAIRS)]
        for peer in (*makers, *receivers):
            await open_socket(peer, one.port)
            peer.join()
        for receiver in receivers:
            receiver.came = came
        with _hostile(case, one.port, swarms) as pipe:
            await asyncio.to_thread(pipe.recv)
            pipe.send(None)
            cpu, own, began = sum(one.server.cpu()), time.process_time(), time.perf_counter()
            for number in range(int(RATE * suite.seconds)):
                await asyncio.sleep(began + number / RATE - time.perf_counter())
                made = {"offer": {"type": "offer", "sdp": SDP}, "offer_id": f"{number:020}"}
                head, end, _ = makers[number % PAIRS].first[0].rpartition(b"[")
                sent[number] = time.perf_counter()
                makers[number % PAIRS].transport.send(WSMsgType.TEXT, head + end + encode(made) + b"]}")
            wall, cpu, own = time.perf_counter() - began, sum(one.server.cpu()) - cpu, time.process_time() - own
            await asyncio.sleep(SETTLE)
            left = len(one.links)
            pipe.send(None)
            frames, _ = await asyncio.to_thread(pipe.recv)
        del clients
    times = [came[number] - since for number, since in sent.items() if number in came]
    return {
        "number": len(sent),
        **latency(times),
        "server_cpu": cpu / wall,
        "load_cpu": own / wall,
        "links_left": left,
        "attempts": frames,
        "lost": len(sent) - len(times),
    }


@contextmanager
def _hostile(case: str, port: int, swarms: int) -> Iterator[Connection]:
    """Hostile links in another process; it says when they are open, and is told to begin and to end."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_attack, args=(case, port, swarms, theirs), daemon=True)
    process.start()
    # So that an end of that process is noticed.
    theirs.close()
    try:
        yield pipe
    finally:
        process.join(SETTLE)
        process.kill()


def _attack(case: str, port: int, swarms: int, pipe: Connection) -> None:
    # The measured process must not wait for the core that this process shares.
    os.nice(19)
    sent_total = [0, 0]

    async def attack() -> None:
        hashes = [f"{swarm:020}" for swarm in range(swarms)]
        own = OwnSwarms()
        for info_hash in hashes:
            own.add(info_hash)
        links = [await neighbour(port, own) for _ in range(HOSTILE if case != "none" else 0)]
        tasks = [asyncio.ensure_future(_swallow(transport)) for _, transport in links]
        frames = []
        for session, transport in links:
            told = session.tell([(info_hash, 0, 1) for info_hash in hashes])
            names = [name for message in told for name, *_ in json.loads(message)["swarms"]]
            on, off = _have(names, 1), _have(names, 0)
            if case == "offers":
                for message, _ in on:
                    await transport.send(message)
            frames.append(
                {
                    "have": [_full(on), _full(off)],
                    "opened": [_full(_opened(names))],
                    "offers": [_full(_offers(names))],
                }[case]
            )
        await asyncio.sleep(SETTLE)
        pipe.send(None)
        await asyncio.to_thread(pipe.recv)
        for (_, transport), some in zip(links, frames, strict=True):
            tasks.append(asyncio.ensure_future(_send(transport, some, sent_total, limited=case != "offers")))
        await asyncio.to_thread(pipe.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    uvloop.run(attack())
    pipe.send(sent_total)


def _have(names: list[str], leechers: int) -> list[tuple[bytes, int]]:
    """Messages, with how many swarms are in each."""
    parts = [names[start : start + wire.MAX_SWARMS] for start in range(0, len(names), wire.MAX_SWARMS)]
    return [(wire.encode(wire.Have([(name, 0, leechers) for name in part])), len(part)) for part in parts]


def _opened(names: list[str]) -> list[tuple[bytes, int]]:
    tags = [name[: wire.TAG_LENGTH] for name in names]
    parts = [tags[start : start + wire.MAX_TAGS] for start in range(0, len(tags), wire.MAX_TAGS)]
    return [(wire.encode(wire.Opened("".join(part))), len(part)) for part in parts]


def _offers(names: list[str]) -> Iterator[tuple[bytes, int]]:
    made = [make_offer(f"{number:020}", "x") for number in range(wire.MAX_OFFERS)]
    return ((wire.encode_offers(name.encode(), "h" * 20, made), len(made)) for name in names)


def _full(messages: Iterable[tuple[bytes, int]]) -> tuple[bytes, int]:
    """As many messages as fit the longest frame."""
    frame, units = b"", 0
    for message, some in messages:
        if len(frame) + len(message) >= wire.MAX_FRAME:
            break
        frame += b"\n" * bool(frame) + message
        units += some
    return frame, units


async def _send(transport: Dialed, frames: list[tuple[bytes, int]], sent_total: list[int], limited: bool) -> None:
    began, told = time.monotonic(), 0
    with suppress(LinkError):
        for frame, units in cycle(frames):
            told += units
            due = began + (told / MARGIN - SWARMS_BURST) / SWARMS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()) if limited else 0)
            await transport.send(frame)
            sent_total[0] += 1
            sent_total[1] += units


async def _swallow(transport: Dialed) -> None:
    with suppress(LinkError):
        while True:
            await transport.receive()
