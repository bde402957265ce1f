"""What links between trackers cost, and what hostile ones do to peers: `python -m benchmarks.federation`.

Real trackers on loopback, all on one core; the load, and whatever is hostile, on another.

`relay`: a message is an offer or an answer that has come to a peer; its CPU time, in microseconds, is that of both
trackers together. An announce has five offers, for as many peers, and each is answered. In `6, across` the one that
announces is alone at its tracker and the other five are at the other one, so that every message crosses the link; in
`6, local` all six are at one tracker. `50` are swarms where everybody announces; `across`, half here and half there,
so that about half of the messages cross. `paced` is at a fixed rate that a link bears for ever; `at once` is as fast as
the trackers can, for as long as the burst lasts that a link is allowed. Bytes are those of frames on the link.

`memory`: resident memory of one tracker, the difference of two moments. Who is `accepting` was dialed by the other.

`flood`: ten links toggle the counts of swarms, or make offers, in frames of the greatest length, as fast as they are
read and the limits let them. Latencies are from an announce to when its offer has come, in other swarms.
"""

import argparse
import asyncio
import gc
import json
import multiprocessing
import os
import shlex
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import cycle
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any, Final
from urllib.request import urlopen

import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_connect
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.dht import table
from benchmarks.load import OFFERS, Load, Peer
from benchmarks.servers import Running, ServerFailed, raise_file_limit, running
from extensions.federation import wire
from extensions.federation.dial import SUBPROTOCOL, Dialed, Target, dial
from extensions.federation.link import SWARMS_BURST, SWARMS_PER_SECOND
from extensions.federation.session import LinkError, Session
from tracker.protocol import offer

PARTS: Final = ("relay", "memory", "flood")
PATIENCE: Final = 30.0
SETTLE: Final = 5.0
"""Seconds until changed counts are told, what came is worked off, and a link's limits allow a burst again."""

WARM_UP: Final = 3.0
BURST: Final = 1600
"""Announces `at once` over a link: it takes the offers of 1000 as a burst in each direction."""

LONGER: Final = 5
"""Times as many where nothing crosses, or it would be too short to measure."""

SWARMS_PER_SOCKET: Final = 1000
WARM_LINKS: Final = 5
WARM_SWARMS: Final = 100
"""What is there before memory is measured: what the first ones load or make is no cost of each."""

HOSTILE: Final = 10
MARGIN: Final = 0.95
"""How much of what the limits allow hostile links tell, so that jitter does not end them."""

PAIRS: Final = 20
"""Peers of `flood` that make offers, each to one other."""

Row = dict[str, Any]


class Tracker:
    """One that runs, and what it says of itself over HTTP."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.port = server.port

    @property
    def links(self) -> list[Row]:
        """Its links."""
        links: list[Row] = json.loads(self._get("/stats.json"))["federation"]
        return links

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's values with a label, such as `direction="in"`."""
        lines = [line for line in self._get("/metrics").splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if label in line)

    def _get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as response:
            text: str = response.read().decode()
            return text


@contextmanager
def tracker(core: int | None, *peers: str) -> Iterator[Tracker]:
    """A tracker without DHT, with links to the URLs in `peers`."""
    with TemporaryDirectory() as state:
        environment = {
            "SERVER__STATE_DIR": state,
            "TRACKER__MAX_FOREIGN_OFFERS": 10**9,
            "EXTENSIONS__DHT__ENABLED": "false",
            "EXTENSIONS__FEDERATION__ENABLED": "true",
            "EXTENSIONS__FEDERATION__PEERS": json.dumps(peers),
        }
        words = ["env", *(f"PEERSERVERS_{key}={value}" for key, value in environment.items()), sys.executable]
        command = f"{shlex.join(words)} -m tracker serve --host 127.0.0.1 --port {{port}} --log-level error"
        with running("peerservers", command, core) as server:
            yield Tracker(server)


@asynccontextmanager
async def two(core: int | None, linked: bool = True) -> AsyncIterator[list[Tracker]]:
    """Two trackers, of which the second has dialed the first."""
    with tracker(core) as one, tracker(core, *[f"ws://127.0.0.1:{one.port}"] * linked) as other:
        await _until(lambda: len(one.links) == len(other.links) == linked)
        yield [one, other]


async def _until(done: Callable[[], bool], pause: float = 0.1) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(pause)


async def _connect(listener: WSListener, port: int) -> None:
    url = f"ws://127.0.0.1:{port}/"
    await ws_connect(lambda: listener, url, websocket_handshake_timeout=PATIENCE, use_aiofastnet=False)


def _check_shared(pair: list[Tracker], expected: set[int]) -> None:
    if {link["shared_swarms"] for one in pair for link in one.links} != expected:
        raise ServerFailed("not all swarms are shared that should be")


# What a message costs that crosses.


class Maker(Peer):
    """A peer that announces with other offer_ids each time, as clients do; so often, if `left` is not negative."""

    __slots__ = ("_made", "_parts", "left")

    def __init__(self, load: Load, info_hash: str, number: int, random: Random) -> None:
        super().__init__(load, info_hash, number, random)
        head, *tails = self.round_announce.split(b'"offer_id":"')
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


async def measure_relay(core: int | None, options: argparse.Namespace) -> list[Row]:
    """Each way to place peers, with new trackers, at both paces."""
    rows = []
    for size in (1 + OFFERS, 50):
        for across in (False, True):
            async with two(core) as pair:
                load, makers = await _peers(pair, options.sockets // size, size, across)
                case = f"{size}, {'across' if across else 'local'}"
                rows.append(await _relay(case, pair, load, makers, options.seconds, options.rate))
                rows.append(await _relay(case, pair, load, makers, BURST * (1 if across else LONGER), None))
                await load.disconnect()
    return rows


async def _peers(pair: list[Tracker], swarms: int, size: int, across: bool) -> tuple[Load, list[Maker]]:
    """Peers that have joined, and those that are to announce; every other swarm begins at the other tracker."""
    load, random = Load(0, None), Random(1)
    everybody = size > 1 + OFFERS
    for number in range(swarms * size):
        swarm, place = divmod(number, size)
        peer = (Maker if everybody or not place else Peer)(load, f"{swarm:020}", number, random)
        load.peers.append(peer)
        away = across and (place % 2 if everybody else place > 0)
        await _connect(peer, pair[(swarm + away) % 2].port)
    await load.join()
    await asyncio.sleep(SETTLE)
    _check_shared(pair, {swarms * across})
    return load, [peer for peer in load.peers if isinstance(peer, Maker)]


async def _relay(
    case: str, pair: list[Tracker], load: Load, makers: list[Maker], amount: float, rate: float | None
) -> Row:
    """For `amount` seconds at a rate, or so many announces without."""
    load.running, load.rate = True, rate
    if rate:
        load.idle.extend(makers)
        await load.run(WARM_UP)
    links, before = _carried(pair), _clocks(pair, load)
    if rate:
        await load.run(amount)
    else:
        for maker in makers:
            maker.left = int(amount) // len(makers)
            maker.begin_round()
        await _until(lambda: not any(maker.missing for maker in makers), 0.01)
    user, system, wall, own, messages = (now - then for now, then in zip(_clocks(pair, load), before, strict=True))
    crossed, size, refused, dropped = (now - then for now, then in zip(_carried(pair), links, strict=True))
    await load.stop()
    load.idle.clear()
    await asyncio.sleep(SETTLE)
    return {
        "case": case,
        "pace": "paced" if rate else "at once",
        "messages": int(messages),
        "messages per second": messages / wall,
        "crossed": crossed / messages,
        "cpu us": (user + system) / messages * 1e6,
        "user us": user / messages * 1e6,
        "system us": system / messages * 1e6,
        "link bytes each": size / crossed if crossed else 0.0,
        "trackers cpu": (user + system) / wall,
        "load cpu": own / wall,
        "refused": int(refused),
        "dropped": int(dropped),
        "lost": load.lost + load.closed + load.unexpected,
    }


def _clocks(pair: list[Tracker], load: Load) -> tuple[float, ...]:
    """The trackers' user and system CPU seconds, the time, our own CPU seconds, and the messages that have come."""
    user, system = (sum(parts) for parts in zip(*(one.server.cpu() for one in pair), strict=True))
    return user, system, time.perf_counter(), time.process_time(), load.received - len(load.latencies)


def _carried(pair: list[Tracker]) -> list[float]:
    """Of the link: messages, bytes and refusals; and what was dropped."""
    links = [link for one in pair for link in one.links]
    dropped = ("peerservers_federation_dropped_total", "peerservers_dropped_total")
    return [
        sum(link["offers_out"] + link["answers_out"] for link in links),
        sum(one.metric("peerservers_federation_bytes_total", 'direction="out"') for one in pair),
        sum(link["refused"] for link in links) / 2,
        sum(one.metric(name) for one in pair for name in dropped),
    ]


# What links and swarms take.


async def measure_memory(core: int | None, options: argparse.Namespace) -> list[Row]:
    """Of links without swarms, at either end; of swarms without a link, with one, and shared over it."""
    rows = [await _links(core, options.links, dialed) for dialed in (False, True)]
    number = options.swarms
    for case, shared in (("no link", set[int]()), ("told", {WARM_SWARMS}), ("shared", {WARM_SWARMS + number})):
        async with two(core, linked=case != "no link") as pair:
            clients = [await _open_swarms(one.port, -1 - WARM_SWARMS, WARM_SWARMS, n) for n, one in enumerate(pair)]
            await asyncio.sleep(SETTLE)
            before = [one.server.resident() for one in pair]
            for n, one in enumerate(pair):
                clients.append(await _open_swarms(one.port, 0 if case == "shared" else n * number, number, n))
            await asyncio.sleep(2 * SETTLE)
            _check_shared(pair, shared)
            for one, base, end in zip(pair, before, ("accepting", "dialing"), strict=True):
                rows.append(_grown(f"swarm, {case}, {end}", number, base, one))
            del clients
    return rows


async def _links(core: int | None, number: int, dialed: bool) -> Row:
    """Links that a tracker has dialed, or accepted, with trackers that this process pretends to be."""
    async with serve(_listen, "127.0.0.1", 0, subprotocols=[SUBPROTOCOL], compression=None) as listener:
        port = listener.sockets[0].getsockname()[1]
        listener.close(close_connections=False)
        with tracker(core, *(f"ws://127.0.0.1:{port}/{n}" for n in range(number if dialed else 0))) as one:
            kept = [await neighbour(one.port) for _ in range(WARM_LINKS)]
            await asyncio.sleep(1.0)
            before = one.server.resident()
            if not dialed:
                kept += [await neighbour(one.port) for _ in range(number)]
            async with serve(_listen, "127.0.0.1", port, subprotocols=[SUBPROTOCOL], compression=None):
                await _until(lambda: len(one.links) == WARM_LINKS + number)
                await asyncio.sleep(SETTLE)
                row = _grown(f"link, {'dialing' if dialed else 'accepting'}", number, before, one)
            for _, transport in kept:
                await transport.close()
            return row


def _grown(case: str, number: int, before: float, one: Tracker) -> Row:
    after = one.server.resident()
    mib = {"before MiB": before / 1024, "after MiB": after / 1024}
    return {"case": case, "number": number, **mib, "KiB each": (after - before) / number}


async def neighbour(port: int) -> tuple[Session, Dialed]:
    """A tracker that has dialed the one at a port, and proved its id."""
    url = f"ws://127.0.0.1:{port}/"
    transport = Dialed(await dial(Target(url, "127.0.0.1", port)))
    session = Session(Ed25519PrivateKey.generate(), os.urandom(32), url=url)
    await _shake_hands(session, transport)
    return session, transport


async def _listen(socket: ServerConnection) -> None:
    transport: Any = socket
    session = Session(Ed25519PrivateKey.generate(), os.urandom(32), accepts=lambda _: True)
    await _shake_hands(session, Dialed(transport))
    await socket.wait_closed()


async def _shake_hands(session: Session, transport: Dialed) -> None:
    await transport.send(session.start())
    while not session.tracker_id:
        for reply in session.receive(await transport.receive())[1]:
            await transport.send(reply)


class _Client(WSListener):
    """A client that makes nothing of what it is told."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport


async def _open_swarms(port: int, first: int, number: int, kind: int) -> list[_Client]:
    """Open swarms with these numbers as infohashes, by clients that are to be kept, with one peer in each."""
    clients = []
    for swarm in range(first, first + number):
        if (swarm - first) % SWARMS_PER_SOCKET == 0:
            clients.append(_Client())
            await _connect(clients[-1], port)
        ids = {"action": "announce", "info_hash": f"{swarm:020}", "peer_id": f"{kind}-{swarm:018}"}
        clients[-1].transport.send(WSMsgType.TEXT, json.dumps({**ids, "left": 1, "offers": []}).encode())
        if swarm % 100 == 0:
            await asyncio.sleep(0.01)
    return clients


# What hostile links do.


class Receiver(Peer):
    """Notes when numbered offers come."""

    __slots__ = ("came",)
    came: dict[int, float]

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        """A message has come."""
        _, found, rest = frame.get_payload_as_bytes().partition(b'"offer_id":"')
        if found:
            self.came[int(rest[:20])] = time.perf_counter()


async def measure_flood(core: int | None, options: argparse.Namespace) -> list[Row]:
    """Without a hostile link, and with each kind of them."""
    return [await _flood(case, core, options) for case in ("none", "have", "offers")]


async def _flood(case: str, core: int | None, options: argparse.Namespace) -> Row:
    load, random = Load(0, None), Random(1)
    sent, came = dict[int, float](), dict[int, float]()
    with tracker(core) as one:
        clients = await _open_swarms(one.port, 0, options.swarms, 0)
        makers = [Peer(load, f"own{pair:017}", pair, random) for pair in range(PAIRS)]
        receivers = [Receiver(load, f"own{pair:017}", PAIRS + pair, random) for pair in range(PAIRS)]
        for peer in (*makers, *receivers):
            await _connect(peer, one.port)
            peer.announce(peer.first_announce, 1)
        for receiver in receivers:
            receiver.came = came
        with _hostile(case, one.port, options.swarms) as pipe:
            await asyncio.to_thread(pipe.recv)
            read = one.metric("peerservers_federation_bytes_total", 'direction="in"')
            pipe.send(None)
            cpu, own, began = sum(one.server.cpu()), time.process_time(), time.perf_counter()
            for number in range(int(options.offers * options.seconds)):
                await asyncio.sleep(began + number / options.offers - time.perf_counter())
                maker = makers[number % PAIRS]
                made = {"offer": {"type": "offer", "sdp": "x" * 900}, "offer_id": f"{number:020}"}
                frame = json.dumps({**json.loads(maker.first_announce), "offers": [made]}).encode()
                sent[number] = time.perf_counter()
                maker.transport.send(WSMsgType.TEXT, frame)
            wall, cpu, own = time.perf_counter() - began, sum(one.server.cpu()) - cpu, time.process_time() - own
            read = one.metric("peerservers_federation_bytes_total", 'direction="in"') - read
            await asyncio.sleep(SETTLE)
            left = len(one.links)
            pipe.send(None)
            frames, units = await asyncio.to_thread(pipe.recv)
        del clients
    times = sorted((came[number] - since) * 1e3 for number, since in sent.items() if number in came)
    cuts = quantiles(times, n=100)
    return {
        "hostile": case,
        "offers": len(sent),
        "lost": len(sent) - len(times),
        "median ms": cuts[49],
        "p99 ms": cuts[98],
        "worst ms": times[-1],
        "tracker cpu": cpu / wall,
        "load cpu": own / wall,
        "links left": left,
        "MiB read": read / 2**20,
        "frames sent": frames,
        "swarms or offers sent": units,
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
    # What is measured must not wait for the core that this process shares.
    os.nice(19)
    tally = [0, 0]

    async def attack() -> None:
        links = [await neighbour(port) for _ in range(HOSTILE if case != "none" else 0)]
        tasks = [asyncio.ensure_future(_swallow(transport)) for _, transport in links]
        frames = []
        for session, transport in links:
            names = [session._name(f"{swarm:020}") for swarm in range(swarms)]
            on, off = _have(names, 1), _have(names, 0)
            if case == "offers":
                for message, _ in on:
                    await transport.send(message)
            frames.append([_full(on), _full(off)] if case == "have" else [_full(_offers(names))])
        await asyncio.sleep(SETTLE)
        pipe.send(None)
        await asyncio.to_thread(pipe.recv)
        for (_, transport), some in zip(links, frames, strict=True):
            tasks.append(asyncio.ensure_future(_send(transport, some, tally, limited=case == "have")))
        await asyncio.to_thread(pipe.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    uvloop.run(attack())
    pipe.send(tally)


def _have(names: list[str], leechers: int) -> list[tuple[bytes, int]]:
    """Messages, with how many swarms are in each."""
    parts = [names[start : start + wire.MAX_SWARMS] for start in range(0, len(names), wire.MAX_SWARMS)]
    return [(wire.encode(wire.Have([(name, 0, leechers) for name in part])), len(part)) for part in parts]


def _offers(names: list[str]) -> Iterator[tuple[bytes, int]]:
    made = [offer(f"{number:020}", "x") for number in range(wire.MAX_OFFERS)]
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


async def _send(transport: Dialed, frames: list[tuple[bytes, int]], tally: list[int], limited: bool) -> None:
    began, told = time.monotonic(), 0
    with suppress(LinkError):
        for frame, units in cycle(frames):
            told += units
            due = began + (told / MARGIN - SWARMS_BURST) / SWARMS_PER_SECOND
            await asyncio.sleep(max(0.0, due - time.monotonic()) if limited else 0)
            await transport.send(frame)
            tally[0] += 1
            tally[1] += units


async def _swallow(transport: Dialed) -> None:
    with suppress(LinkError):
        while True:
            await transport.receive()


# The command line.


def main() -> None:
    """Run the command line."""
    options = _options()
    raise_file_limit()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("trackers and load share the only core")
    os.sched_setaffinity(0, {cores[-1]})
    gc.disable()
    report: dict[str, list[Row]] = {}
    measures = dict(zip(PARTS, (measure_relay, measure_memory, measure_flood), strict=True))
    for part in options.parts or PARTS:
        print(f"{part} (load average {os.getloadavg()[0]:.1f})", flush=True)
        try:
            report[part] = uvloop.run(measures[part](cores[0], options))
        except (ServerFailed, TimeoutError, LinkError, EOFError) as error:
            sys.exit(f"benchmarks.federation: {part}: {str(error) or type(error).__name__}")
        print(table(report[part]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)}; without, all")
    parser.add_argument("--sockets", type=int, default=240, help="peers of `relay`")
    parser.add_argument("--rate", type=float, default=320, help="announces a second of all peers of `relay`, paced")
    parser.add_argument("--seconds", type=float, default=10, help="how long relaying at a rate, and a flood, take")
    parser.add_argument("--links", type=int, default=80, help="idle links of `memory`")
    parser.add_argument("--swarms", type=int, default=10_000, help="swarms of `memory` and `flood`")
    parser.add_argument("--offers", type=float, default=100, help="offers a second of the peers of `flood`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(unknown)}")
    return options


if __name__ == "__main__":
    main()
