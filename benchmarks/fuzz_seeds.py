"""The seeds and tokens of `benchmarks.fuzz_cost`, by target."""

import zlib
from typing import Final, NamedTuple

from benchmarks.attacks import ATTACKS, HARD_NUMBER
from benchmarks.load import announce
from benchmarks.operations import INFO_HASH, peer_id
from benchmarks.targets import valid_announce
from extensions.dht.krpc import bencode
from extensions.federation import wire
from tracker.protocol.codec import encode_answer, make_answer

_SMALL: Final = 2000
"""Bytes of the longest known attack that is a seed: the search makes it longer."""


class Grammar(NamedTuple):
    """The language of a target.

    `marks` are the characters with a meaning, beside which a seed is cut. `wraps` are triples of the text before a
    repeated unit, at the end of each unit, and behind the last one.
    """

    seeds: list[bytes]
    tokens: list[bytes]
    wraps: list[tuple[bytes, bytes, bytes]]
    marks: frozenset[int]


_JSON_TOKENS: Final = [
    *(b'""', b"[]", b"{}", b"0", b"1", b"-1", b"1e308", b"1e-320", b"null", b"true", b"1" * 300, HARD_NUMBER),
    *(b"[", b"]", b"{", b"}", b",", b":", b" ", b"\n", b'"', b"\\", b"x", b"\xc3\xa9", b"\xf0\x9f\x98\x80", b"\xff"),
    *(b'"\\u0000"', b'"\\ud83d\\ude00"', b'"\\ud800"', b'{"a":', b'"":0', b'"a":[]', b'"' + b"i" * 20 + b'"'),
    b'{"offer":{"type":"offer","sdp":""},"offer_id":"iiiiiiiiiiiiiiiiiiii"}',
]
_JSON_WRAPS: Final = [
    (b"", b"", b""),
    (b"[", b",", b"0]"),
    (b"", b",", b"0"),
    (b"[", b"", b"]"),
    (b'"', b"", b'"'),
    (b'{"a":0', b"", b"}"),
    (b",", b",", b""),
]


def _json(seeds: list[bytes], tokens: list[bytes]) -> Grammar:
    return Grammar(seeds, _JSON_TOKENS + tokens, _JSON_WRAPS, frozenset(b'[]{},:"'))


def _client(target: str) -> Grammar:
    fields = {"event": "completed", "left": 0, "numwant": 5, "uploaded": 0}
    answer = make_answer(INFO_HASH, peer_id(1), peer_id(0), peer_id(2), "v=0")
    seeds = [
        announce(INFO_HASH, peer_id(1), fields),
        announce("text", "peer", fields),
        valid_announce(500),
        encode_answer(answer).replace(b'"answer"', b'"to_peer_id":"%b","answer"' % peer_id(0).encode()),
        b'{"action":"scrape","info_hash":["' + INFO_HASH.encode() + b'","x"]}',
        b'{"action":"ping"}',
        b"ping",
    ]
    names = b"action info_hash peer_id to_peer_id offer_id event left numwant offers answer".split()
    return _json(seeds + _known(target), [b'"%b":' % name for name in names])


def _link() -> Grammar:
    name = "a" * wire.NAME_LENGTH
    seeds = [
        wire.encode(wire.Hello(1, "a" * 64, "b" * 64, "wss://a.example/", (wire.PRESENT,))),
        wire.encode(wire.Proof("a" * 128, (name,))),
        wire.encode(wire.Filter(0, 1, b"a" * 64)),
        wire.encode(wire.Have([(name, 1, 2)] * 3)),
        wire.encode(wire.Present([(name, "", "")] * 3)),
        wire.encode(wire.Refused(name, "p" * 20, ["o" * 20])),
        wire.encode(wire.Seek("")),
        wire.encode(wire.Trackers("", [("a" * 64, 1, "wss://a.example/", "b" * 128)])),
        wire.encode(wire.Bye("full")),
        b'{"type":"offers","swarm":"%b","peer_id":"pppppppppppppppppppp","offers":[%b]}'
        % (name.encode(), _JSON_TOKENS[-1]),
        b'{"type":"opened","tags":"aaaaaaaaaaaaaaaa"}',
    ]
    seeds.append(b"\n".join(seeds[-3:]))
    return _json(seeds + _known("link"), [b'"type":', b'"swarms":', b'"offers":', b'["",0,0]', b'["","",""]'])


def _datagram() -> Grammar:
    node = b"n" * 20
    item = {b"k": b"k" * 32, b"sig": b"s" * 64, b"seq": 1, b"v": [1, b"a", {b"b": []}]}
    bodies: list[dict[bytes, object]] = [
        {b"y": b"r", b"r": {b"id": node, b"nodes": b"c" * 26 * 8, b"values": [b"v" * 6] * 20, b"token": b"t"}},
        {b"y": b"r", b"r": {b"id": node, b"nodes6": b"c" * 38 * 8, **item}},
        {b"y": b"e", b"e": [201, b"error"]},
        {b"y": b"q", b"q": b"ping", b"a": {b"id": node}},
    ]
    seeds = [bencode.encode({b"t": b"abcd", **body}) for body in bodies]
    tokens = [
        b"i1e",
        b"i-1e",
        b"le",
        b"de",
        b"l",
        b"d",
        b"e",
        b"0:",
        b"1:a",
        b"4:abcd",
        b"i" + b"9" * 300 + b"e",
        b"-",
        b"9",
    ]
    return Grammar(
        seeds + _known("datagram"), tokens, [(b"", b"", b""), (b"l", b"", b"e"), (b"d", b"", b"e")], frozenset(b"lde:")
    )


def _head() -> Grammar:
    seeds = [
        b"GET / HTTP/1.1\r\nHost: a.example\r\nUser-Agent: x\r\nAccept: */*\r\n\r\n",
        b"GET /announce HTTP/1.1\r\nHost: a.example:8000\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: a, b\r\n"
        b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n",
        b"POST http://a.example/x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n",
    ]
    tokens = [
        b"a",
        b":",
        b",",
        b" ",
        b"\t",
        b"\r\n",
        b"\r",
        b"a:\r\n",
        b"a: b\r\n",
        b'"',
        b"=",
        b";",
        b"a=b",
        b"\xff",
        b"%41",
        b"/",
        b"0",
    ]
    wraps = [(b"", b"", b""), (b"", b",", b""), (b"\r\na:", b"", b""), (b"", b"\r\n", b"")]
    return Grammar(seeds + _known("head"), tokens, wraps, frozenset(b"\r\n:,; /"))


def _frames() -> Grammar:
    mask = bytes(4)
    ping, text, first, more = (bytes((opcode, 0x80)) + mask for opcode in (0x89, 0x81, 0x01, 0x00))
    seeds = [ping + text + first + more, b"\x81\x85" + mask + b"hello"]
    tokens = [ping, text, first, more, b"\0", b"\xff", b"\x00\x81" + mask + b"a", b"\x80\x80" + mask]
    return Grammar(seeds + _known("frames"), tokens, [(b"", b"", b"")], frozenset(b"\x81\x89\x80"))


def _deflated() -> Grammar:
    made = zlib.compressobj(9, zlib.DEFLATED, -15)
    texts = (bytes(range(64)) * 2, b"a" * 1000, bytes(range(256)), valid_announce(2000))
    seeds = [made.compress(text) + made.flush(zlib.Z_FULL_FLUSH) for text in texts]
    tokens = [*seeds[:2], b"\x02\0", b"\0\0\0\xff\xff", b"\x04", b"\x05", b"\xed", b"\0", b"\xff"]
    return Grammar(seeds + _known("deflated"), tokens, [(b"", b"", b"")], frozenset(range(256)))


def _known(target: str) -> list[bytes]:
    """Return the beginnings and ends of the known attacks on a target."""
    made = [build() for kind, build in ATTACKS.values() if kind == target]
    return [data if len(data) <= _SMALL else data[: _SMALL // 2] + data[-_SMALL // 2 :] for data in made]


GRAMMARS: Final = {
    "client": _client("client"),
    "fields": _client("fields"),
    "link": _link(),
    "datagram": _datagram(),
    "head": _head(),
    "frames": _frames(),
    "deflated": _deflated(),
}
