"""The cost of a message that crosses a link, compared with one that does not.

A message is an offer or an answer that has come to a peer; its CPU time is that of both trackers together, which share
one core. An announce has five offers, for as many peers, and each is answered. `across`: the one that announces is
alone at its tracker and the other five are at the other one, so that every message crosses. `local`: all six are at one
tracker. `50, across`: swarms where all peers announce, half here and half there, so that about half crosses. `paced`
is at a fixed rate that a link bears for ever; `at once` as fast as the trackers can, for as long as the burst lasts
that a link is allowed. Bytes are those of frames on the link.
"""

import time
from collections.abc import Iterator
from dataclasses import replace
from random import Random
from typing import Final

import uvloop

from benchmarks.links import Tracker, shared, two, until
from benchmarks.load import OFFERS, Load, Peer, Shape, open_socket
from benchmarks.servers import OURS
from benchmarks.suite import Figures, Result, Suite

SOCKETS: Final = 240
RATE: Final = 320.0
"""Announces a second, paced."""

BURST: Final = 1600
"""Announces `at once` over a link: it takes the offers of 1000 as a burst in each direction."""

LONGER: Final = 5
"""Times as many where nothing crosses, or it would be too short to measure."""

SMALL: Final = 1 + OFFERS
LARGE: Final = 50


class Maker(Peer):
    """A peer that announces with other offer_ids each time, as clients do; so often, if `left` is not negative."""

    __slots__ = ("_made", "_parts", "left")

    def __init__(self, load: Load, hashes: list[str], number: int, random: Random) -> None:
        super().__init__(load, hashes, number, random)
        head, *tails = next(self.rounds).split(b'"offer_id":"')
        self._parts = [head, *(tail[tail.index(b'"') :] for tail in tails)]
        self._made = number * 10**9
        self.left = -1

    def begin_round(self) -> None:
        """Announce with offers, unless it has done so often enough."""
        if self.left:
            self.left -= 1
            frame = self._parts[0]
            for tail in self._parts[1:]:
                self._made += 1
                frame += b'"offer_id":"%020d%b' % (self._made, tail)
            self.announce(frame, 1 + OFFERS)


def link(suite: Suite) -> Iterator[Result]:
    """A message across a federation link, beside a local one; the CPU time of both trackers together."""
    cases = [("local", SMALL, False), ("across", SMALL, True)]
    if not suite.quick:
        cases += [("50, local", LARGE, False), ("50, across", LARGE, True)]
    for case, size, across in cases:
        paced, at_once = uvloop.run(_case(suite, size, across))
        yield Result("link", f"{case}, paced", OURS, paced)
        yield Result("link", f"{case}, at once", OURS, at_once)


async def _case(suite: Suite, size: int, across: bool) -> tuple[Figures, Figures]:
    async with two(suite) as pair:
        load, makers = await _peers(pair, SOCKETS // size, size, across)
        load.shape = replace(load.shape, rate=RATE)
        load.idle.extend(makers)
        load.running = True
        await load.run(suite.warm_up)
        before = _counted(pair, load)
        await load.run(suite.seconds)
        paced = _figures(before, _counted(pair, load))
        await load.stop()

        load.shape = replace(load.shape, rate=None)
        load.running = True
        before = _counted(pair, load)
        for maker in makers:
            maker.left = BURST * (1 if across else LONGER) // len(makers)
            maker.begin_round()
        await until(lambda: not any(maker.missing for maker in makers), 0.01)
        at_once = _figures(before, _counted(pair, load))
        paced["lost"] = load.lost + load.closed + load.unexpected
        await load.disconnect()
        return paced, at_once


async def _peers(pair: list[Tracker], swarms: int, size: int, across: bool) -> tuple[Load, list[Maker]]:
    """Peers that have joined, and those that are to announce; every other swarm begins at the other tracker."""
    load, random = Load(Shape(0)), Random(1)
    all_announce = size == LARGE
    for number in range(swarms * size):
        swarm, place = divmod(number, size)
        peer = (Maker if all_announce or not place else Peer)(load, [f"{swarm:020}"], number, random)
        load.peers.append(peer)
        away = across and (place % 2 if all_announce else place > 0)
        await open_socket(peer, pair[(swarm + away) % 2].port)
    await load.join()
    # Counts are told some time after they have changed.
    await until(lambda: shared(pair) == {swarms * across})
    return load, [peer for peer in load.peers if isinstance(peer, Maker)]


def _counted(pair: list[Tracker], load: Load) -> Figures:
    """Return the counters so far. The clocks come last, because reading the counters costs CPU time."""
    links = [link for one in pair for link in one.links]
    dropped = ("peerservers_federation_dropped_total", "peerservers_dropped_total")
    counted = {
        "crossed": sum(link["offers_out"] + link["answers_out"] for link in links),
        "bytes": sum(one.metric("peerservers_federation_bytes_total", 'direction="out"') for one in pair),
        "refused": sum(link["refused"] for link in links) / 2,
        "dropped": sum(one.metric(name) for one in pair for name in dropped),
    }
    user, system = (sum(parts) for parts in zip(*(one.server.cpu() for one in pair), strict=True))
    messages = load.received - len(load.latencies)
    clocks = {"wall": time.perf_counter(), "own": time.process_time(), "user": user, "system": system}
    return {**counted, **clocks, "messages": messages}


def _figures(before: Figures, after: Figures) -> Figures:
    done = {key: after[key] - before[key] for key in after}
    messages, cpu = done["messages"], done["user"] + done["system"]
    return {
        "per_second": messages / done["wall"],
        "per_cpu_second": messages / cpu,
        "user_us": done["user"] / messages * 1e6,
        "system_us": done["system"] / messages * 1e6,
        "each_us": cpu / messages * 1e6,
        "crossed": done["crossed"] / messages,
        "link_bytes": done["bytes"] / done["crossed"] if done["crossed"] else 0.0,
        "refused": done["refused"],
        "dropped": done["dropped"],
        "server_cpu": cpu / done["wall"],
        "load_cpu": done["own"] / done["wall"],
    }
