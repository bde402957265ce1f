"""What links between trackers cost, and what hostile ones do to peers: `python -m benchmarks.federation`.

Real trackers on loopback, all on one core; the load, and whatever is hostile, on another. In `relay` a message is an
offer or an answer that has come to a peer, and its CPU time is that of both trackers together. An announce has five
offers, for as many peers, and each is answered. In `6, across` the one that announces is alone at its tracker and the
other five are at the other one, so that every message crosses the link; in `6, local` all six are at one tracker.
`50` are swarms where everybody announces, half here and half there: of those only a part crosses. `paced` is at a fixed
rate, below what a link may carry; `at once` is as fast as trackers can, for as long as the limits' burst lasts.

Memory is resident memory, the difference of two moments. In `flood` links toggle the counts of swarms, or make offers,
as fast as they are read and the limits let them, while peers in other swarms are given offers.
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
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count, islice
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
from tracker.limits import Bucket
from extensions.federation.link import SWARMS_BURST, SWARMS_PER_SECOND
from extensions.federation.session import BATCH, LinkError, Session
from tracker.protocol import offer

PARTS: Final = ("relay", "memory", "flood")
PATIENCE: Final = 30.0
SETTLE: Final = 5.0
"""Seconds until changed counts are told, and what came is worked off."""

ROUNDS_AT_ONCE: Final = 1600
"""Announces of `at once`: a link takes the offers of 1000 as a burst in each direction."""

SWARMS_PER_SOCKET: Final = 1000
HOSTILE: Final = 10
"""Links of `flood`."""

MARGIN: Final = 0.95
"""How much of what the limits allow is told, so that jitter does not end the link."""

PAIRS: Final = 20
"""Peers of `flood` that make offers, each to one other."""

_TEXT: Final = WSMsgType.TEXT


# The trackers.


class Tracker:
    """One that runs, and what it says of itself over HTTP."""

    def __init__(self, server: Running) -> None:
        self.server = server
        self.port = server.port

    @property
    def links(self) -> list[dict[str, Any]]:
        """Its links."""
        links: list[dict[str, Any]] = json.loads(self._get("/stats.json"))["federation"]
        return links

    def metric(self, name: str, label: str = "") -> float:
        """The sum of a metric's values with a label, such as `type="offers_in"`."""
        lines = [line for line in self._get("/metrics").splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in lines if label in line)

    def _get(self, path: str) -> str:
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as response:
            text: str = response.read().decode()
            return text


@contextmanager
def tracker(core: int | None, *peers: int) -> Iterator[Tracker]:
    """A tracker with a link to each port in `peers`, without DHT."""
    with TemporaryDirectory() as state:
        environment = {
            "SERVER__STATE_DIR": state,
            "TRACKER__MAX_FOREIGN_OFFERS": str(10**9),
            "EXTENSIONS__DHT__ENABLED": "false",
            "EXTENSIONS__FEDERATION__ENABLED": "true",
            "EXTENSIONS__FEDERATION__PEERS": json.dumps([f"ws://127.0.0.1:{port}/{n}" for n, port in enumerate(peers)]),
        }
        words = ["env", *(f"PEERSERVERS_{key}={value}" for key, value in environment.items()), sys.executable]
        command = f"{shlex.join(words)} -m tracker serve --host 127.0.0.1 --port {{port}} --log-level error"
        with running("peerservers", command, core) as server:
            yield Tracker(server)


@asynccontextmanager
async def linked(core: int | None) -> AsyncIterator[tuple[Tracker, Tracker]]:
    """Two trackers with a link."""
    with tracker(core) as one, tracker(core, one.port) as other:
        await _until(lambda: bool(one.links and other.links))
        yield one, other


async def _until(done: Callable[[], bool], pause: float = 0.1) -> None:
    async with asyncio.timeout(PATIENCE):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(pause)


# What a message costs that crosses.


@dataclass(frozen=True)
class Relay:
    """One way to place peers, at one pace. CPU time is of both trackers, in microseconds per message."""

    case: str
    pace: str
    messages: int
    messages_per_second: float
    crossed: float
    cpu_us: float
    user_us: float
    system_us: float
    trackers_cpu: float
    load_cpu: float
    link_bytes_each: float
    refused: int
    dropped: int
    lost: int


class Maker(Peer):
    """A peer that announces, each time with other offer_ids, as clients do; so often, if `left` is not negative."""

    __slots__ = ("_ids", "_parts", "left")

    def __init__(self, load: Load, info_hash: str, number: int, random: Random) -> None:
        super().__init__(load, info_hash, number, random)
        head, *tails = self.round_announce.split(b'"offer_id":"')
        self._parts = [head, *(tail[tail.index(b'"') :] for tail in tails)]
        self._ids = count(number * 10**9)
        self.left = -1

    def begin_round(self) -> None:
        """Announce with offers, unless it has done so often enough."""
        if self.left:
            self.left -= 1
            frame = self._parts[0]
            for tail in self._parts[1:]:
                frame += b'"offer_id":"%020d' % next(self._ids) + tail
            self.announce(frame, 1 + OFFERS)


async def measure_relay(core: int | None, sockets: int, rate: float, seconds: float) -> list[Relay]:
    """All layouts at both paces, each on new trackers."""
    rows = []
    for size in (1 + OFFERS, 50):
        for crossing in (False, True):
            async with linked(core) as pair:
                load, makers = await _peers(pair, sockets // size, size, crossing)
                rows += await _relay(f"{size}, {'across' if crossing else 'local'}", pair, load, makers, rate, seconds)
                await load.disconnect()
    return rows


async def _peers(pair: tuple[Tracker, Tracker], swarms: int, size: int, crossing: bool) -> tuple[Load, list[Maker]]:
    """Peers that have joined; every other swarm begins at the other tracker."""
    load, makers, random = Load(0, None), [], Random(1)
    everybody = size > 1 + OFFERS
    for number in range(swarms * size):
        swarm, place = divmod(number, size)
        is_maker = everybody or not place
        peer = (Maker if is_maker else Peer)(load, f"{swarm:020}", number, random)
        if isinstance(peer, Maker):
            makers.append(peer)
        load.peers.append(peer)
        away = crossing and (place % 2 if everybody else place > 0)
        await _connect(peer, pair[(swarm + away) % 2].port)
    await load.join()
    await asyncio.sleep(SETTLE)
    if any(link["shared_swarms"] != swarms * crossing for tracker in pair for link in tracker.links):
        raise ServerFailed("not all swarms are shared that should be")
    return load, makers


async def _relay(
    case: str, pair: tuple[Tracker, Tracker], load: Load, makers: list[Maker], rate: float, seconds: float
) -> list[Relay]:
    rows = []
    for pace in ("paced", "at once"):
        load.running, load.rate = True, rate if pace == "paced" else None
        if load.rate:
            load.idle.extend(makers)
            await load.run(3.0)
        links, before = _carried(pair), _clocks(pair, load)
        if load.rate:
            await load.run(seconds)
        else:
            for maker in makers:
                maker.left = ROUNDS_AT_ONCE // len(makers)
                maker.begin_round()
            await _until(lambda: not any(maker.missing for maker in makers), 0.01)
        user, system, wall, own, messages = (now - then for now, then in zip(_clocks(pair, load), before, strict=True))
        crossed, size, refused, dropped = (now - then for now, then in zip(_carried(pair), links, strict=True))
        await load.stop()
        load.idle.clear()
        # For the buckets to be full again, which count what comes over a link.
        await asyncio.sleep(SETTLE)
        rows.append(
            Relay(
                case=case,
                pace=pace,
                messages=int(messages),
                messages_per_second=messages / wall,
                crossed=crossed / messages,
                cpu_us=(user + system) / messages * 1e6,
                user_us=user / messages * 1e6,
                system_us=system / messages * 1e6,
                trackers_cpu=(user + system) / wall,
                load_cpu=own / wall,
                link_bytes_each=size / max(1.0, crossed),
                refused=int(refused),
                dropped=int(dropped),
                lost=load.lost + load.closed + load.unexpected,
            )
        )
    return rows


def _clocks(pair: tuple[Tracker, Tracker], load: Load) -> tuple[float, ...]:
    """The trackers' user and system CPU seconds, the time, our own CPU seconds, and the messages that have come."""
    user, system = (sum(parts) for parts in zip(*(one.server.cpu() for one in pair), strict=True))
    return user, system, time.perf_counter(), time.process_time(), load.received - len(load.latencies)


def _carried(pair: tuple[Tracker, Tracker]) -> list[float]:
    """Of all links: messages, bytes, refusals, and what was dropped."""
    links = [link for one in pair for link in one.links]
    dropped = ("peerservers_federation_dropped_total", "peerservers_dropped_total")
    return [
        sum(link["offers_out"] + link["answers_out"] for link in links),
        sum(one.metric("peerservers_federation_bytes_total", 'direction="out"') for one in pair),
        sum(link["refused"] for link in links) / 2,
        sum(one.metric(name) for one in pair for name in dropped),
    ]


async def _connect(listener: WSListener, port: int) -> None:
    await ws_connect(lambda: listener, f"ws://127.0.0.1:{port}/", websocket_handshake_timeout=20, use_aiofastnet=False)


# What links and swarms take.


@dataclass(frozen=True)
class Memory:
    """Resident memory of one tracker, and how much of it each of `number` took. `accepting` was dialed by the other."""

    case: str
    number: int
    before_mib: float
    after_mib: float
    kib_each: float


async def measure_memory(core: int | None, links: int, swarms: int) -> list[Memory]:
    """Of links without swarms, at either end, and of swarms without a link, with one, and shared over it."""
    rows = [await _links(core, links, False), await _links(core, links, True)]
    for case in ("no link", "told", "shared"):
        async with linked(core) if case != "no link" else _apart(core) as pair:
            # What is loaded or made for the first ones is no cost of each.
            openers = [await _open_swarms(one.port, range(10**9, 10**9 + 100), str(n)) for n, one in enumerate(pair)]
            await asyncio.sleep(SETTLE)
            before = [one.server.resident() for one in pair]
            for n, one in enumerate(pair):
                first = 0 if case == "shared" else n * swarms
                openers.append(await _open_swarms(one.port, range(first, first + swarms), str(n)))
            await asyncio.sleep(2 * SETTLE)
            expected = {"no link": set(), "told": {100}, "shared": {100 + swarms}}[case]
            if {link["shared_swarms"] for one in pair for link in one.links} != expected:
                raise ServerFailed("not all swarms are shared that should be")
            for one, base, end in zip(pair, before, ("accepting", "dialing"), strict=True):
                rows.append(_memory(f"swarm, {case}, {end}", swarms, base, one.server.resident()))
            del openers
    return rows


@asynccontextmanager
async def _apart(core: int | None) -> AsyncIterator[tuple[Tracker, Tracker]]:
    with tracker(core) as one, tracker(core) as other:
        yield one, other


def _memory(case: str, number: int, before: float, after: float) -> Memory:
    return Memory(case, number, before / 1024, after / 1024, (after - before) / number)


async def _links(core: int | None, number: int, dialed: bool) -> Memory:
    """Links that a tracker has accepted, or dialed, with trackers that this process pretends to be."""
    ports = [_free_port()] * number if dialed else []
    with tracker(core, *ports) as one:
        kept = [await neighbour(one.port) for _ in range(5)]
        await asyncio.sleep(1.0)
        before = one.server.resident()
        if dialed:
            async with serve(_listen, "127.0.0.1", ports[0], subprotocols=[SUBPROTOCOL], compression=None):
                await _until(lambda: len(one.links) == 5 + number)
                await asyncio.sleep(SETTLE)
                after = one.server.resident()
        else:
            kept += [await neighbour(one.port) for _ in range(number)]
            await asyncio.sleep(SETTLE)
            after = one.server.resident()
        if len(one.links) != 5 + number:
            raise ServerFailed("not all links are there")
        for _, transport in kept:
            await transport.close()
    return _memory(f"link, {'dialing' if dialed else 'accepting'}", number, before, after)


def _free_port() -> int:
    from benchmarks.servers import _free_port as free_port

    return free_port()


async def neighbour(port: int) -> tuple[Session, Dialed]:
    """A tracker that has dialed the one at a port, and proved its id."""
    url = f"ws://127.0.0.1:{port}/"
    transport = Dialed(await dial(Target(url, "127.0.0.1", port)))
    session = Session(Ed25519PrivateKey.generate(), os.urandom(32), url=url)
    await _shake_hands(session, transport)
    return session, transport


async def _listen(socket: ServerConnection) -> None:
    transport: Any = Dialed(socket)  # type: ignore[arg-type]
    await _shake_hands(Session(Ed25519PrivateKey.generate(), os.urandom(32), accepts=lambda _: True), transport)
    await socket.wait_closed()


async def _shake_hands(session: Session, transport: Dialed) -> None:
    await transport.send(session.start())
    while not session.tracker_id:
        for reply in session.receive(await transport.receive())[1]:
            await transport.send(reply)


class _Opener(WSListener):
    """A client that has a peer in many swarms, and makes nothing of what it is told."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport


async def _open_swarms(port: int, numbers: range, kind: str) -> list[_Opener]:
    """Have swarms opened, by clients that are to be kept."""
    openers = []
    numbers_left = iter(numbers)
    while some := list(islice(numbers_left, SWARMS_PER_SOCKET)):
        opener = _Opener()
        await _connect(opener, port)
        for number in some:
            head = {"action": "announce", "info_hash": _info_hash(number), "peer_id": f"{kind}-{number:018}"}
            opener.transport.send(_TEXT, json.dumps({**head, "left": 1, "event": "started", "offers": []}).encode())
            if not number % 100:
                await asyncio.sleep(0.01)
        openers.append(opener)
    return openers


def _info_hash(number: int) -> str:
    return f"{number:020}"


# What hostile links do.


@dataclass(frozen=True)
class Flood:
    """Milliseconds from an announce to when its offer has come, and what was told or offered over the links."""

    case: str
    offers: int
    lost: int
    median_ms: float
    p99_ms: float
    worst_ms: float
    tracker_cpu: float
    load_cpu: float
    frames_sent: int
    mib_read: float
    swarms_or_offers_sent: int
    links_left: int


class _Receiver(Peer):
    """Notes when offers come. Those are numbered."""

    __slots__ = ("came",)

    came: dict[int, float]

    def on_ws_frame(self, _transport: WSTransport, frame: WSFrame) -> None:
        _, found, rest = frame.get_payload_as_bytes().partition(b'"offer_id":"')
        if found:
            self.came[int(rest[:20])] = time.perf_counter()


async def measure_flood(core: int | None, seconds: float, rate: float, swarms: int) -> list[Flood]:
    """Without a hostile link, and with each kind of them."""
    return [await _flood(case, core, seconds, rate, swarms) for case in ("none", "have", "offers")]


async def _flood(case: str, core: int | None, seconds: float, rate: float, swarms: int) -> Flood:
    load, random, sent = Load(0, None), Random(1), dict[int, float]()
    with tracker(core) as one:
        openers = await _open_swarms(one.port, range(swarms), "0")
        makers = [Peer(load, f"own{pair:017}", pair, random) for pair in range(PAIRS)]
        receivers = [_Receiver(load, f"own{pair:017}", PAIRS + pair, random) for pair in range(PAIRS)]
        came: dict[int, float] = {}
        for peer in (*makers, *receivers):
            await _connect(peer, one.port)
            peer.transport.send(_TEXT, peer.first_announce)
        for receiver in receivers:
            receiver.came = came
        await asyncio.sleep(1.0)
        with _hostile(case, one.port, swarms) as pipe:
            await asyncio.to_thread(pipe.recv)
            read = one.metric("peerservers_federation_bytes_total", 'direction="in"')
            pipe.send(None)
            cpu, own, began = sum(one.server.cpu()), time.process_time(), time.perf_counter()
            for number in range(int(rate * seconds)):
                await asyncio.sleep(began + number / rate - time.perf_counter())
                maker = makers[number % PAIRS]
                head, _, tail = _ONE_OFFER.partition(b"#")
                frame = maker.first_announce.replace(b'"offers":[]', head + b"%020d" % number + tail)
                sent[number] = time.perf_counter()
                maker.transport.send(_TEXT, frame)
            elapsed = time.perf_counter() - began
            cpu, own = sum(one.server.cpu()) - cpu, time.process_time() - own
            read = one.metric("peerservers_federation_bytes_total", 'direction="in"') - read
            await asyncio.sleep(SETTLE)
            left = len(one.links)
            pipe.send(None)
            frames, told = await asyncio.to_thread(pipe.recv)
        times = sorted((came[number] - since) * 1e3 for number, since in sent.items() if number in came)
        cuts = quantiles(times, n=100)
        lost = len(sent) - len(times)
        latency = len(times), lost, cuts[49], cuts[98], times[-1]
        del openers
        return Flood(case, *latency, cpu / elapsed * 100, own / elapsed * 100, frames, read / 2**20, told, left)


_ONE_OFFER: Final = b'"offers":[{"offer":{"type":"offer","sdp":"%b"},"offer_id":"#"}]' % (b"x" * 900)


@contextmanager
def _hostile(case: str, port: int, swarms: int) -> Iterator[Connection]:
    """Hostile links from another process; it says when they are open, and is told to begin and to end."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    process = context.Process(target=_attack, args=(case, port, swarms, theirs), daemon=True)
    process.start()
    try:
        yield pipe
    finally:
        process.join(SETTLE)
        process.kill()


def _attack(case: str, port: int, swarms: int, pipe: Connection) -> None:
    # What is measured must not wait for the core that this process has.
    os.nice(19)
    gc.disable()

    async def attack() -> tuple[int, int]:
        links = [await neighbour(port) for _ in range(HOSTILE if case != "none" else 0)]
        frames = [_frames(case, session, swarms) for session, _ in links]
        tasks = [asyncio.ensure_future(_swallow(transport)) for _, transport in links]
        await asyncio.sleep(SETTLE)
        pipe.send(None)
        await asyncio.to_thread(pipe.recv)
        tally = [0, 0]
        for (_, transport), (first, some) in zip(links, frames, strict=True):
            for frame in first:
                await transport.send(frame)
            tasks.append(asyncio.ensure_future(_send(transport, some, case, tally)))
        await asyncio.to_thread(pipe.recv)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return tally[0], tally[1]

    pipe.send(uvloop.run(attack()))


def _frames(case: str, session: Session, swarms: int) -> tuple[list[bytes], list[tuple[bytes, int]]]:
    """What is sent at first, and what is sent again and again: frames, with how many swarms or offers are in each."""
    names = [session._name(_info_hash(number)) for number in range(swarms)]
    have = [partial(_have, names[start : start + BATCH]) for start in range(0, swarms, BATCH)]
    if case == "have":
        return [], [_full(message(counts) for message in have) for counts in ((1, 0), (0, 0))]
    made = [offer(f"{number:020}", "x") for number in range(wire.MAX_OFFERS)]
    messages = ((wire.encode_offers(name.encode(), "h" * 20, made), len(made)) for name in names)
    return [message((1, 0))[0] for message in have], [_full(messages) for _ in range(10)]


def _have(names: list[str], counts: tuple[int, int]) -> tuple[bytes, int]:
    return wire.encode(wire.Have([(name, *counts) for name in names])), len(names)


def _full(messages: Iterator[tuple[bytes, int]]) -> tuple[bytes, int]:
    """As many messages as fit the longest frame."""
    parts, size, number = [], 0, 0
    for message, some in messages:
        if size + len(message) >= wire.MAX_FRAME:
            break
        parts.append(message)
        size += len(message) + 1
        number += some
    return b"\n".join(parts), number


async def _send(transport: Dialed, frames: list[tuple[bytes, int]], case: str, tally: list[int]) -> None:
    allowed = Bucket(MARGIN * SWARMS_PER_SECOND, MARGIN * SWARMS_BURST, time.monotonic())
    with suppress(LinkError):
        while True:
            for frame, number in frames:
                await asyncio.sleep(allowed.take(number, time.monotonic()) if case == "have" else 0)
                await transport.send(frame)
                tally[0] += 1
                tally[1] += number


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
    core = cores[0] if len(cores) > 1 else None
    if core is None:
        print("trackers and load share the only core")
    else:
        os.sched_setaffinity(0, {cores[1]})
    gc.disable()
    report: dict[str, list[dict[str, Any]]] = {}
    for part in options.parts or PARTS:
        print(f"{part} (load average {os.getloadavg()[0]:.1f})")
        try:
            report[part] = [asdict(row) for row in uvloop.run(_measure(part, core, options))]
        except (ServerFailed, TimeoutError) as error:
            sys.exit(f"benchmarks.federation: {part}: {error or 'timeout'}")
        print(table(report[part]), flush=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


async def _measure(part: str, core: int | None, options: argparse.Namespace) -> list[Any]:
    if part == "relay":
        return [*await measure_relay(core, options.sockets, options.rate, options.seconds)]
    if part == "memory":
        return [*await measure_memory(core, options.links, options.swarms)]
    return [*await measure_flood(core, options.seconds, options.offers, options.swarms)]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.federation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)}; without, all")
    parser.add_argument("--sockets", type=int, default=240, help="peers of `relay`")
    parser.add_argument("--rate", type=float, default=320, help="announces a second of all peers of `relay`, paced")
    parser.add_argument("--seconds", type=float, default=10, help="how long a measurement takes")
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
