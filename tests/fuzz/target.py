"""The interface of fuzz targets, and how they cut bytes into pieces."""

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise

NAMES = (
    "client",
    "codec",
    "deflate",
    "envelope",
    "forwarded",
    "frames",
    "heads",
    "krpc",
    "link_session",
    "link_wire",
    "nats_frames",
    "node",
    "peers",
    "proxy",
    "records",
    "tokens",
    "websocket",
)
"""The modules of this package with a `TARGET`."""


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
