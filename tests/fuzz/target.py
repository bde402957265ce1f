"""The interface of fuzz targets, and how they cut bytes into pieces."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise

TARGETS = {
    "client": ("tracker.protocol",),
    "codec": ("tracker.protocol",),
    "deflate": ("tracker.net.deflate",),
    "envelope": ("extensions.cluster.envelope", "extensions.cluster.wire"),
    "forwarded": ("tracker.access.forwarded",),
    "frames": ("tracker.net.frames", "tracker.net.deflate"),
    "heads": ("tracker.net.request", "tracker.net.handshake", "tracker.net.deflate"),
    "krpc": ("extensions.dht.krpc.messages", "extensions.dht.krpc.bencode", "bencodepy"),
    "link_session": ("extensions.federation", "tracker.protocol"),
    "link_wire": ("extensions.federation.wire", "extensions.federation.filters", "tracker.protocol"),
    "nats_frames": ("extensions.cluster.nats_frames",),
    "node": ("extensions.cluster", "tracker.core", "tracker.protocol"),
    "peers": ("tracker.peers", "tracker.core", "tracker.protocol", "tracker.access.addresses"),
    "proxy": ("tracker.access.proxy_protocol", "tracker.access.forwarded"),
    "records": ("extensions.dht.records", "extensions.dht.krpc.bencode", "extensions.entries", "extensions.trackers"),
    "tokens": ("extensions.tokens.token",),
    "websocket": ("tracker.net.websocket", "tracker.net.frames", "tracker.net.deflate", "tracker.peers"),
}
"""The modules of this package with a `TARGET`, and the modules and packages whose coverage guides its fuzzer."""

NAMES = tuple(TARGETS)


@dataclass(frozen=True)
class Target:
    """One target.

    Attributes:
        check: Gets any bytes, and raises if the code under test does not keep a promise. It keeps no state, so that one
            input repeats a find.
        seeds: Returns the inputs to begin with: the first corpus. Its `check` raises for none of them.
        words: Byte strings that mean something to the code under test. The fuzzer puts them into inputs.
        max_size: Bytes of the longest input.
        runs: Executions in a short run, which takes about a second.
    """

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    words: tuple[bytes, ...] = ()
    max_size: int = 2048
    runs: int = 10_000


def load(name: str) -> Target:
    """Return the target of this name."""
    target = import_module(f"{__package__}.{name}").TARGET
    assert isinstance(target, Target)
    return target


def cut(data: bytes, seed: int) -> list[bytes]:
    """Return the data in pieces: single bytes for the seed 0, otherwise some that the seed decides about."""
    if seed == 0:
        return [data[at : at + 1] for at in range(len(data))]
    chosen = random.Random(seed)
    places = {chosen.randrange(len(data) + 1) for _ in range(1 + seed % 7)}
    return [data[start:end] for start, end in pairwise(sorted({0, len(data), *places}))]
