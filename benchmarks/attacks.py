"""The dearest inputs that are known, and their cost next to that of the valid announce of the same size.

`python -m benchmarks.attacks NUMBER NAME` serves one of them again and again, for valgrind to count. NAME is one of
`ATTACKS`, `announce SIZE`, or `file TARGET PATH`.
"""

import shutil
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import process_time
from timeit import repeat
from typing import Final

from benchmarks import instructions as instructions_of
from benchmarks.operations import INFO_HASH, peer_id
from benchmarks.servers import OURS
from benchmarks.suite import Result, Suite
from benchmarks.targets import MAX_MESSAGE, TARGETS, valid_announce
from benchmarks.valgrind import instructions

SELDOM: Final = 2
OFTEN: Final = 10

_IDS: Final = f'"action":"announce","info_hash":"{INFO_HASH}","peer_id":"{peer_id(0)}"'.encode()
HARD_NUMBER: Final = b"9007199254740993.00000000000000000001"
"""A number halfway between two floats but for its last digit: the parser needs its slowest way."""


_ITEM: Final = b"d1:rd2:id20:%b1:k32:%b3:seqi1e3:sig64:%b1:vl" % (bytes(20), bytes(32), bytes(64))
_HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: "
)


def _filled(head: bytes, unit: bytes, tail: bytes, size: int = MAX_MESSAGE) -> bytes:
    """Return `head` and `tail` with as many `unit` between them as fit in `size` bytes."""
    return head + unit * ((size - len(head) - len(tail)) // len(unit)) + tail


def _field(name: bytes, unit: bytes, last: bytes, size: int = MAX_MESSAGE) -> bytes:
    """Return an announce with a list of many units in a field."""
    return _filled(b"{%b,%b:[" % (_IDS, name), unit + b",", last + b"]}", size)


def _repeated(name: bytes, value: bytes, size: int = MAX_MESSAGE) -> bytes:
    """Return an announce with the same field many times."""
    return _filled(b"{%b" % _IDS, b",%b:%b" % (name, value), b"}", size)


def _names(size: int) -> bytes:
    """Return an announce with as many fields of different names as fit, each as short as possible."""
    names = b",".join(b'"%x":0' % number for number in range(0x1000, 0x1000 + (size - 200) // 9))
    return b"{%b,%b}" % (_IDS, names)


EMPTY_BLOCKS: Final = bytes.fromhex("04c0810800000000207feb43001c880000000000f2b73e") * 4
"""Compressed data that is nothing: eight blocks, each with a code of its own and without any data."""

ATTACKS: Final[dict[str, tuple[str, Callable[[], bytes]]]] = {
    "offers: small integers": ("client", partial(_field, b'"offers"', b"1", b"1")),
    "offers: small integers, 10 KB": ("client", partial(_field, b'"offers"', b"1", b"1", 10_000)),
    "offers: empty objects": ("client", partial(_field, b'"offers"', b"{}", b"{}")),
    "offers: no offer_id": (
        "client",
        partial(_field, b'"offers"', b'{"offer":{"type":"offer","sdp":""},"offer_id":1}', b"1"),
    ),
    "offers: empty ones": (
        "client",
        partial(_field, b'"offers"', b'{"offer":{"type":"offer","sdp":""},"offer_id":""}', b"1"),
    ),
    "left: a list of lists": ("client", partial(_field, b'"left"', b"[]", b"[]")),
    "left: a list of objects": ("client", partial(_field, b'"left"', b'{"a":{}}', b"1")),
    "numwant: a list of floats": ("client", partial(_field, b'"numwant"', HARD_NUMBER, b"1")),
    "left: repeated": ("client", partial(_repeated, b'"left"', HARD_NUMBER)),
    "event: repeated": ("client", partial(_repeated, b'"event"', b'""')),
    "info_hash: repeated": ("client", partial(_repeated, b'"info_hash"', b'"\xc3\xa9"')),
    "answer: repeated": ("client", partial(_repeated, b'"answer"', b'{"type":"answer","sdp":""}')),
    "unknown fields": ("client", partial(_repeated, b'""', b"0")),
    "scrape: empty ids": ("client", partial(_filled, b'{"action":"scrape","info_hash":[', b'"",', b'""]}')),
    "scrape: ids of one character": (
        "client",
        partial(_filled, b'{"action":"scrape","info_hash":[', b'"\xc3\xa9",', b'""]}'),
    ),
    "scrape: integers": ("client", partial(_filled, b'{"action":"scrape","info_hash":[', b"1,", b"1]}")),
    "other fields: thousands": ("fields", partial(_names, MAX_MESSAGE)),
    "other fields: as many as are decoded": ("fields", partial(_names, 6000)),
    "other fields: lists": ("fields", partial(_field, b'"x"', b"[]", b"[]", 16_000)),
    "link: empty counts": ("link", partial(_filled, b'{"type":"have","swarms":[', b'["",0,0],', b'["",0,0]]}')),
    "link: empty offers": (
        "link",
        partial(
            _filled,
            b'{"type":"offers","swarm":"","peer_id":"","offers":[',
            b'{"offer":{"type":"offer","sdp":""},"offer_id":""},',
            b"0]}",
        ),
    ),
    "link: newlines": ("link", partial(_filled, b"[", b"\n", b"")),
    "link: an unknown type": ("link", partial(_filled, b'{"type":"\xf0\x9f\x98\x80', b"x", b'"}')),
    "datagram: integers": ("datagram", partial(_filled, b"d1:rl", b"i1e", b"e1:t0:1:y1:re", 4096)),
    "datagram: lists": ("datagram", partial(_filled, b"d1:rl", b"le", b"e1:t0:1:y1:re", 4096)),
    "datagram: dicts": ("datagram", partial(_filled, b"d1:rdd1:r4:abcd", b"de", b"1:y1:re", 4096)),
    "datagram: an item of integers": ("datagram", partial(_filled, _ITEM, b"i1e", b"ee1:t4:abcd1:y1:re", 300)),
    "head: short fields": ("head", partial(_filled, b"GET / HTTP/1.1\r\nHost: a\r\n", b"a:\r\n", b"\r\n", 16_384)),
    "head: a long host": ("head", partial(_filled, b"GET / HTTP/1.1\r\nHost: ", b"a", b"\r\n\r\n", 16_384)),
    "head: subprotocols": ("head", partial(_filled, _HANDSHAKE, b"a,", b"\r\n\r\n", 16_384)),
    "head: offers of extensions": (
        "head",
        partial(_filled, _HANDSHAKE + b"a\r\nSec-WebSocket-Extensions: ", b"a,", b"a\r\n\r\n", 1200),
    ),
    "frames: fragments of a byte": ("frames", partial(_filled, b"\x01\x80\0\0\0\0", b"\0\x81\0\0\0\0a", b"", 7000)),
    "deflated: empty blocks": ("deflated", partial(_filled, b"", EMPTY_BLOCKS, b"")),
}
"""The target and the input of each."""


def attacks(suite: Suite) -> Iterator[Result]:
    """The dearest known inputs over a valid announce of the same size: instructions by valgrind, or else CPU time."""
    counts = shutil.which("valgrind") and not suite.quick
    measure, figure = (counted, "instructions") if counts else (timed, "each_us")
    valid: dict[int, float] = {}
    for name, (target, build) in ATTACKS.items():
        size = TARGETS[target].size(build())
        if size not in valid:
            valid[size] = measure(f"announce {size}")
        spent = measure(name)
        yield Result("attacks", name, OURS, {figure: spent, "over_valid": spent / valid[size]})


def counted(name: str) -> float:
    """Return the instructions of one input."""
    return instructions("benchmarks.attacks", name, SELDOM, OFTEN)


def timed(name: str) -> float:
    """Return the microseconds of one input: the least of several."""
    return min(repeat(operation(name), number=1, repeat=OFTEN, timer=process_time)) * 1e6


def operation(name: str) -> Callable[[], object]:
    """Return the service of one input as a function that can be called again and again."""
    kind, _, rest = name.partition(" ")
    if kind == "announce":
        target, data = "client", valid_announce(int(rest))
    elif kind == "file":
        target, _, path = rest.partition(" ")
        data = Path(path).read_bytes()
    else:
        target, build = ATTACKS[name]
        data = build()
    return partial(TARGETS[target].prepare(), data)


if __name__ == "__main__":
    instructions_of.repeat(operation(sys.argv[2]), int(sys.argv[1]))
