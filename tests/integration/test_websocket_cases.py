"""The WebSocket side of the tracker, case by case, as the Autobahn test suite has them (RFC 6455 and RFC 7692).

The numbers are those of its cases. Its servers echo every message, which the tracker does not: where a case expects an
echo, here a client announces and expects the reply. These are the other differences, all of them on purpose:

* A text that is no message of the protocol is answered with a failure. An empty one is a heartbeat, and has no answer.
* Binary messages are served like text, and the replies are text (1.2).
* UTF-8 is checked when a message is complete, not before (6.4), and only as far as the message is read.
* Messages are limited in size (`connections.max_message_size`), and in the number of their frames (9, 10).
* Contexts of compression are never taken over, and the tracker's window has at least 12 bits (13).
"""

import asyncio
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest

from tests.client import HASH, Json, announce, answer, raw_client
from tests.conftest import Share, TrackerProcess, environment
from tests.integration.wire import HANDSHAKE, WireClient, wire
from tests.unit.fakes import peer_id
from tracker.net.frames import MAX_FRAGMENTS
from tracker.settings import Connections

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
MASK = b"\x37\xfa\x21\x3d"
MAX_SIZE = Connections().max_message_size

REPLY, FAILURE = "reply", "failure"
ALIVE = b"still open"

Expected = str | tuple[int, bytes | int]
"""A reply or a failure, a pong with its payload, or a close frame with its code."""


def frame(opcode: int, payload: bytes = b"", fin: bool = True, rsv: int = 0, masked: bool = True) -> bytes:
    """Return a client's frame."""
    size = len(payload)
    length = (
        bytes([size]) if size < 126 else b"\x7e" + size.to_bytes(2) if size < 1 << 16 else b"\x7f" + size.to_bytes(8)
    )
    head = bytes([fin << 7 | rsv << 4 | opcode, masked << 7 | length[0]]) + length[1:]
    if not masked:
        return head + payload
    pattern = (MASK * (size // 4 + 1))[:size]
    return head + MASK + (int.from_bytes(payload) ^ int.from_bytes(pattern)).to_bytes(size)


def message(size: int = 0) -> bytes:
    """Return an announce; of this size, if that is given."""
    text = '{"action":"announce","info_hash":"%s","peer_id":"%s"%s}'
    plain = text % (HASH, peer_id(1), "")
    if not size:
        return plain.encode()
    room = size - len(plain) - len(',"x":""')
    padded = text % (HASH, peer_id(1), ',"x":"%s"' % ("x" * room))
    assert len(padded) == size
    return padded.encode()


def fragments(opcode: int, payload: bytes, size: int, rsv: int = 0) -> list[bytes]:
    """Return a message in frames of this size."""
    starts = range(0, max(len(payload), 1), size)
    return [
        frame(
            CONTINUATION if start else opcode,
            payload[start : start + size],
            start + size >= len(payload),
            rsv=rsv * (not start),
        )
        for start in starts
    ]


def split(payload: bytes, *places: int) -> list[bytes]:
    """Return a text message in fragments that end at these places."""
    ends = [0, *places, len(payload)]
    parts = [payload[start:end] for start, end in pairwise(ends)]
    return [
        frame(CONTINUATION if number else TEXT, part, fin=number == len(parts) - 1) for number, part in enumerate(parts)
    ]


def pong(payload: bytes = b"") -> Expected:
    return PONG, payload


def closed(code: int) -> Expected:
    return CLOSE, code


@dataclass(frozen=True)
class Case:
    """The frames that a client sends, and those that it gets. Unless the last one is a close frame, it stays open.

    `at_once`: all frames must come in one piece, because the tracker closes its socket between them. The kernel then
    answers any further data with a reset, which may overtake the close frame.
    """

    name: str
    sent: list[bytes]
    expected: list[Expected]
    at_once: bool = False


async def deliver(client: WireClient, sent: list[bytes], size: int) -> None:
    """Write frames: in pieces of this size, or each frame in a piece of its own if it is 0."""
    stream = b"".join(sent)
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)] if size else sent
    for piece in pieces:
        client.writer.write(piece)
        await client.writer.drain()
        await asyncio.sleep(0)


async def received(client: WireClient) -> Expected:
    """Return the next frame."""
    opcode, payload = await client.receive()
    if opcode == TEXT:
        answered = json.loads(payload)
        return FAILURE if "failure reason" in answered else REPLY if "interval" in answered else payload.decode()
    return (opcode, int.from_bytes(payload[:2])) if opcode == CLOSE else (opcode, payload)


async def play(tracker: TrackerProcess, case: Case, size: int) -> None:
    """Do as a case says."""
    async with wire(tracker) as client:
        with_end = isinstance(case.expected[-1] if case.expected else None, tuple) and case.expected[-1][0] == CLOSE
        try:
            await deliver(client, case.sent if with_end else [*case.sent, frame(PING, ALIVE)], size)
        except ConnectionError:
            assert with_end
        wanted = case.expected if with_end else [*case.expected, pong(ALIVE)]
        assert [await received(client) for _ in wanted] == wanted
        if with_end:
            assert await client.reader.read() == b""


@pytest.fixture
async def tracker(share_tracker: Share) -> TrackerProcess:
    """Return a tracker for all cases."""
    return await share_tracker()


WHOLE = 1 << 20
BY_FRAME = 0
"""Sizes of the pieces in which a stream is delivered: one piece, or one for each frame."""

ANNOUNCE = frame(TEXT, message())
BAD, GOOD_TEXT = closed(1002), "\u03ba\u1f79\u03c3\u03bc\u03b5"


def framing() -> Iterator[Case]:
    yield Case("1.1.1 an empty text", [frame(TEXT)], [])
    for number, size in enumerate((125, 126, 127, 128, 65_535, 65_536), 2):
        yield Case(f"1.1.{number} a text of {size} bytes", [frame(TEXT, message(size))], [REPLY])
    yield Case("1.2.1 an empty binary message", [frame(BINARY)], [])
    for number, size in enumerate((125, 126, 127, 128, 65_535, 65_536), 2):
        yield Case(f"1.2.{number} {size} bytes", [frame(BINARY, message(size))], [REPLY])
    yield Case("a frame without a mask", [frame(TEXT, message(), masked=False)], [BAD])
    yield Case("a ping without a mask", [frame(PING, masked=False)], [BAD])
    yield Case("a close frame without a mask", [frame(CLOSE, masked=False)], [BAD])
    # It is not the shortest form of the length (RFC 6455, section 5.2), which websockets accepts, too.
    long = b"\x81\xff" + len(message()).to_bytes(8) + ANNOUNCE[-len(message()) - 4 :]
    yield Case("a length in more bytes than it needs", [long], [REPLY])


def pings() -> Iterator[Case]:
    yield Case("2.1 without payload", [frame(PING)], [pong()])
    yield Case("2.2 with a text", [frame(PING, b"Hello, world!")], [pong(b"Hello, world!")])
    binary = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
    yield Case("2.3 with bytes that are no text", [frame(PING, binary)], [pong(binary)])
    yield Case("2.4 with 125 bytes", [frame(PING, b"\xfe" * 125)], [pong(b"\xfe" * 125)])
    yield Case("2.5 with 126 bytes", [frame(PING, b"\xfe" * 126)], [BAD])
    yield Case("2.7 an unsolicited pong", [frame(PONG)], [])
    yield Case("2.8 an unsolicited pong with payload", [frame(PONG, b"unsolicited")], [])
    yield Case("2.9 a pong, then a ping", [frame(PONG, b"unsolicited"), frame(PING, b"ping")], [pong(b"ping")])
    ten = [b"payload-%d" % number for number in range(10)]
    yield Case("2.10 ten pings", [frame(PING, payload) for payload in ten], [pong(payload) for payload in ten])
    yield Case("a pong with 126 bytes", [frame(PONG, bytes(126))], [BAD])


def reserved() -> Iterator[Case]:
    for rsv in range(1, 8):
        yield Case(f"3.1 RSV {rsv} of a text", [frame(TEXT, message(), rsv=rsv)], [BAD])
    yield Case("3.2 after a text", [ANNOUNCE, frame(TEXT, message(), rsv=2), frame(PING)], [REPLY, BAD])
    yield Case("3.5 of a binary message", [frame(BINARY, message(), rsv=5)], [BAD])
    yield Case("3.6 of a ping", [frame(PING, b"x", rsv=6)], [BAD])
    yield Case("3.7 of a close frame", [frame(CLOSE, b"\x03\xe8", rsv=7)], [BAD])
    for number, opcode in enumerate((3, 4, 5, 6, 7), 1):
        yield Case(
            f"4.1.{number} opcode {opcode}", [ANNOUNCE, frame(opcode, b"x" * (number % 2)), frame(PING)], [REPLY, BAD]
        )
    for number, opcode in enumerate((11, 12, 13, 14, 15), 1):
        yield Case(
            f"4.2.{number} opcode {opcode}", [ANNOUNCE, frame(opcode, b"x" * (number % 2)), frame(PING)], [REPLY, BAD]
        )


def fragmentation() -> Iterator[Case]:
    whole = message()
    two = split(whole, 20)
    ping = frame(PING, b"between")
    stray, more = frame(CONTINUATION, b"x"), frame(CONTINUATION, b"x", fin=False)
    yield Case("5.1 a ping in fragments", [frame(PING, b"1", fin=False), frame(CONTINUATION, b"2")], [BAD])
    yield Case("5.2 a pong in fragments", [frame(PONG, b"1", fin=False), frame(CONTINUATION, b"2")], [BAD])
    yield Case("a close frame in fragments", [frame(CLOSE, b"\x03\xe8", fin=False)], [BAD])
    yield Case("5.3 two fragments", two, [REPLY])
    yield Case("5.6 a ping between", [two[0], ping, two[1]], [pong(b"between"), REPLY])
    yield Case("5.9 a continuation of nothing", [stray, ANNOUNCE], [BAD])
    yield Case("5.12 an unfinished one", [more, ANNOUNCE], [BAD])
    yield Case("5.15 one behind a message", [*two, more, ANNOUNCE], [REPLY, BAD])
    yield Case("5.16 again and again", [more, ANNOUNCE] * 2, [BAD])
    yield Case("5.18 two first fragments", [two[0], frame(TEXT, whole[20:])], [BAD])
    five = split(whole, 10, 20, 30, 40)
    between = [*five[:2], frame(PING, b"1"), *five[2:4], frame(PING, b"2"), five[4]]
    yield Case("5.19 five fragments with pings", between, [pong(b"1"), pong(b"2"), REPLY])
    yield Case("a binary message in fragments", fragments(BINARY, whole, 7), [REPLY])
    yield Case("a binary fragment in a text", [two[0], frame(BINARY, whole[20:])], [BAD])


VALID = {
    "6.2 greek": GOOD_TEXT.encode(),
    "6.5 one code point": b"\xe2\x98\xba",
    "6.6 the shortest of each length": b"\x00\xc2\x80\xe0\xa0\x80\xf0\x90\x80\x80",
    "6.7 the longest of each length": b"\x7f\xdf\xbf\xef\xbf\xbf\xf4\x8f\xbf\xbf",
    "6.11 around the surrogates": b"\xed\x9f\xbf\xee\x80\x80\xef\xbf\xbd\xf4\x8f\xbf\xbf",
    "6.22 noncharacters": b"\xef\xbf\xbe\xef\xbf\xbf\xf0\x9f\xbf\xbe\xf0\xaf\xbf\xbf",
    "6.23 the replacement character": b"\xef\xbf\xbd",
}
INVALID = {
    "6.3 a surrogate": b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
    "6.8 five bytes": b"\xf8\x88\x80\x80\x80",
    "6.8 six bytes": b"\xfc\x84\x80\x80\x80\x80",
    "6.10 above U+10FFFF": b"\xf4\x90\x80\x80",
    "6.12 continuations alone": b"\x80\xbf\x80",
    "6.13 first bytes alone": b"\xc0 \xe0 \xf0 ",
    "6.14 the last byte is missing": b"\xe2\x98",
    "6.15 many are missing": b"\xc0\xe0\x80\xf0\x80\x80",
    "6.16 impossible bytes": b"\xfe\xfe\xff\xff",
    "6.17 a slash in two bytes": b"\xc0\xaf",
    "6.17 a slash in four bytes": b"\xf0\x80\x80\xaf",
    "6.18 the longest overlong ones": b"\xc1\xbf\xe0\x9f\xbf\xf0\x8f\xbf\xbf",
    "6.19 overlong NUL": b"\xc0\x80",
    "6.20 a single surrogate": b"\xed\xad\xbf",
    "6.21 a pair of surrogates": b"\xed\xa0\x80\xed\xb0\x80",
}


def utf_8() -> Iterator[Case]:
    yield Case("6.1.2 three empty fragments", split(b"", 0, 0), [])
    yield Case("6.1.3 only the middle is not empty", split(message(), 0, len(message())), [REPLY])
    for name, text in VALID.items():
        yield Case(name, [frame(TEXT, text)], [FAILURE])
        yield Case(f"{name}, each byte a fragment", split(text, *range(1, len(text))), [FAILURE])
    for name, text in INVALID.items():
        yield Case(name, [frame(TEXT, text), ANNOUNCE], [closed(1007)])
        yield Case(f"{name}, each byte a fragment", split(text, *range(1, len(text))), [closed(1007)])
        yield Case(f"{name}, binary", [frame(BINARY, text)], [FAILURE])
    # Valid UTF-8 could not follow. A server may notice this at once, but need not.
    text = INVALID["6.3 a surrogate"]
    yield Case("6.4 only the last fragment ends the connection", split(text, 12)[:1], [])
    yield Case("6.4 and it does", split(text, 12), [closed(1007)])


def closing() -> Iterator[Case]:
    bye = frame(CLOSE, b"\x03\xe8")
    yield Case("7.1.1 behind a text", [ANNOUNCE, bye], [REPLY, closed(1000)])
    yield Case("7.1.2 twice", [bye, bye], [closed(1000)], at_once=True)
    yield Case("7.1.3 before a ping", [bye, frame(PING)], [closed(1000)], at_once=True)
    yield Case("7.1.4 before a text", [bye, ANNOUNCE], [closed(1000)], at_once=True)
    first, second = split(message(), 20)
    yield Case("7.1.5 in a message", [first, bye, second], [closed(1000)], at_once=True)
    yield Case("7.1.6 behind a long one", [frame(TEXT, message(MAX_SIZE)), bye], [REPLY, closed(1000)])
    yield Case("7.3.1 without a code", [frame(CLOSE)], [closed(1000)])
    yield Case("7.3.2 with half a code", [frame(CLOSE, b"a")], [BAD])
    yield Case("7.3.4 with a reason", [frame(CLOSE, b"\x03\xe8Hello, world!")], [closed(1000)])
    yield Case("7.3.5 with the longest reason", [frame(CLOSE, b"\x03\xe8" + b"*" * 123)], [closed(1000)])
    yield Case("7.3.6 with a longer one", [frame(CLOSE, b"\x03\xe8" + b"*" * 124)], [BAD])
    yield Case("7.5.1 with a reason that is no text", [frame(CLOSE, b"\x03\xe8" + INVALID["6.3 a surrogate"])], [BAD])
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        yield Case(f"7.7 code {code}", [frame(CLOSE, code.to_bytes(2))], [closed(code)])
    for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
        yield Case(f"7.9 code {code}", [frame(CLOSE, code.to_bytes(2))], [BAD])


def limits() -> Iterator[Case]:
    longest = message(MAX_SIZE)
    too_big = closed(1009)
    for number, (opcode, size) in enumerate(
        [(opcode, size) for opcode in (TEXT, BINARY) for size in (1 << 16, MAX_SIZE)]
    ):
        yield Case(f"9.{number} {size} bytes, opcode {opcode}", [frame(opcode, message(size))], [REPLY])
    yield Case("9.1 a byte more", [frame(TEXT, longest + b" ")], [too_big])
    for size in (MAX_SIZE // MAX_FRAGMENTS, 1024, 4096, 65_536):
        yield Case(f"9.3 in fragments of {size}", fragments(TEXT, longest, size), [REPLY])
        yield Case(f"9.4 in fragments of {size}", fragments(BINARY, longest, size), [REPLY])
    yield Case("9.3 in more fragments than are allowed", fragments(TEXT, longest, 64), [too_big])
    yield Case("9.3 a byte more in fragments", fragments(TEXT, longest + b" ", 4096), [too_big])
    yield Case("10.1.1 in fragments of 1300", fragments(TEXT, message(65_536), 1300), [REPLY])
    for size in (128, 1024, 16_384):
        yield Case(f"9.7 fifty of {size}", [frame(TEXT, message(size))] * 50, [REPLY] * 50)
        yield Case(f"9.8 fifty of {size}", [frame(BINARY, message(size))] * 50, [REPLY] * 50)


def named(*groups: Iterator[Case]) -> list[Any]:
    """Return the cases of all groups as parameters of a test."""
    cases = [case for group in groups for case in group]
    assert len({case.name for case in cases}) == len(cases)
    return [pytest.param(case, id=case.name) for case in cases]


@pytest.mark.parametrize("case", named(framing(), pings(), reserved(), fragmentation(), utf_8(), closing()))
async def test_a_case_in_any_pieces(tracker: TrackerProcess, case: Case) -> None:
    """One piece, a piece for each frame, and for each byte if there are not too many."""
    sizes = (WHOLE, BY_FRAME, 1 if sum(map(len, case.sent)) < 1000 else 997)
    for size in sizes[:1] if case.at_once else sizes:
        await play(tracker, case, size)


@pytest.mark.parametrize("case", named(limits()))
async def test_sizes(tracker: TrackerProcess, case: Case) -> None:
    await play(tracker, case, WHOLE)


@pytest.mark.parametrize("size", [64, 128, 1024, 2048])
async def test_a_long_message_in_small_pieces(tracker: TrackerProcess, size: int) -> None:
    """Cases 9.5 and 9.6."""
    await play(tracker, Case("9.5", [frame(TEXT, message(65_536))], [REPLY]), size)


async def test_texts_are_relayed_to_the_byte(tracker: TrackerProcess) -> None:
    async with raw_client(tracker.url) as receiver, wire(tracker) as client:
        for number, text in enumerate(VALID.values()):
            info_hash, sdp = f"{number:020}", text.decode()
            await receiver.announce(peer_id(2), info_hash)
            made: list[Json] = [{"offer": {"type": "offer", "sdp": sdp}, "offer_id": "o" * 20}]
            written = json.dumps(announce(peer_id(1), info_hash, offers=made), ensure_ascii=False).encode()
            client.writer.write(b"".join(split(written, *range(1, len(written)))))
            assert (await receiver.receive())["offer"]["sdp"] == sdp
            await receiver.send(answer(peer_id(2), peer_id(1), "o" * 20, info_hash, sdp))
            while "answer" not in (got := json.loads((await client.receive())[1])):
                pass
            assert got["answer"]["sdp"] == sdp


# permessage-deflate: cases 12 and 13.

TAIL = b"\x00\x00\xff\xff"
NO_CONTEXT = "server_no_context_takeover; client_no_context_takeover"
LIMITED = f"{NO_CONTEXT}; server_max_window_bits=12"
OFFERS = {
    "permessage-deflate": NO_CONTEXT,
    "permessage-deflate; client_max_window_bits": NO_CONTEXT,
    "permessage-deflate; server_no_context_takeover": NO_CONTEXT,
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover": NO_CONTEXT,
    "permessage-deflate; client_max_window_bits=9": NO_CONTEXT,
    "permessage-deflate; server_max_window_bits=15": LIMITED,
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits=15": LIMITED,
    'permessage-deflate; server_max_window_bits="13"': LIMITED,
    "permessage-deflate; server_max_window_bits=9, permessage-deflate": NO_CONTEXT,
    "x-unknown; a=b, permessage-deflate": NO_CONTEXT,
    # Declined: the tracker's window is larger, or the offer is invalid (RFC 7692, section 7.1).
    "permessage-deflate; server_max_window_bits=9": None,
    "permessage-deflate; server_max_window_bits=8": None,
    "permessage-deflate; server_max_window_bits": None,
    "permessage-deflate; server_max_window_bits=16": None,
    "permessage-deflate; server_max_window_bits=012": None,
    "permessage-deflate; client_max_window_bits=7": None,
    "permessage-deflate; client_max_window_bits=16": None,
    "permessage-deflate; server_no_context_takeover=1": None,
    "permessage-deflate; client_no_context_takeover; client_no_context_takeover": None,
    "permessage-deflate; unknown": None,
    "permessage-deflate; =": None,
}
"""Offers, and the parameters of the response; None if the tracker does not accept the offer."""


@pytest.fixture
async def deflating(share_tracker: Share) -> TrackerProcess:
    """Return a tracker that compresses each reply."""
    return await share_tracker(env=environment("connections", deflate=True, deflate_above=64))


async def negotiated(client: WireClient, offer: str) -> str | None:
    """Do the opening handshake with an offer. Return the extension that the tracker has accepted."""
    client.writer.write(HANDSHAKE + f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode())
    head = (await client.reader.readuntil(b"\r\n\r\n")).decode()
    assert head.startswith("HTTP/1.1 101 ")
    lines = [line for line in head.split("\r\n") if line.startswith("Sec-WebSocket-Extensions: ")]
    return lines[0].partition(": ")[2] if lines else None


async def reply_of(client: WireClient, bits: int) -> dict[str, Any]:
    """Return the next message, which must be compressed on its own, in a window of that size."""
    first, length = await client.reader.readexactly(2)
    assert first == 0xC0 | TEXT
    if length >= 126:
        length = int.from_bytes(await client.reader.readexactly(2 if length == 126 else 8))
    payload = await client.reader.readexactly(length)
    assert not payload.endswith(TAIL)
    decoded = json.loads(zlib.decompressobj(-bits).decompress(payload + TAIL))
    assert isinstance(decoded, dict)
    return decoded


def compressed(payload: bytes, level: int = 6, bits: int = 15, last: bool = False) -> bytes:
    """Return the payload of a compressed message. `last`: its last block says that it is the last one."""
    compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
    data = compressor.compress(payload)
    # Behind a last block, the empty block that was left out begins with a zero byte (RFC 7692, section 7.2.3.5).
    return data + (compressor.flush(zlib.Z_FINISH) + b"\0" if last else compressor.flush(zlib.Z_SYNC_FLUSH)[:-4])


@pytest.mark.parametrize("offer", OFFERS)
async def test_an_offer_of_compression(deflating: TrackerProcess, offer: str) -> None:
    agreed = OFFERS[offer]
    async with wire(deflating, None) as client:
        assert await negotiated(client, offer) == (agreed and f"permessage-deflate; {agreed}")
        # A message need not be compressed in any case.
        client.writer.write(ANNOUNCE)
        if agreed is None:
            assert await received(client) == REPLY
            client.writer.write(frame(TEXT, compressed(message()), rsv=4))
            assert await received(client) == BAD
            return
        bits = 12 if "server_max_window_bits" in agreed else 15
        for _ in range(2):
            assert (await reply_of(client, bits))["info_hash"] == HASH
            client.writer.write(frame(TEXT, compressed(message()), rsv=4))
        await reply_of(client, bits)


@pytest.mark.parametrize("bits", [9, 12, 15])
@pytest.mark.parametrize("level", [0, 1, 9])
async def test_compressed_messages(deflating: TrackerProcess, level: int, bits: int) -> None:
    """Messages of many sizes, whole and in fragments, as text and binary, with any kind of blocks."""
    async with wire(deflating, None) as client:
        await negotiated(client, "permessage-deflate; server_max_window_bits=12")
        for count in (1, 4, 16, 64, 256):
            wanted = [f"{number * number:020}" for number in range(count)]
            scrape = json.dumps({"action": "scrape", "info_hash": wanted}).encode()
            for last in (False, True):
                payload = compressed(scrape, level, bits, last)
                for opcode, size in ((TEXT, len(payload)), (BINARY, len(payload)), (TEXT, 64), (TEXT, 256)):
                    client.writer.write(b"".join(fragments(opcode, payload, size, rsv=4)))
                    assert list((await reply_of(client, 12))["files"]) == wanted


PACKED = compressed(message())


def compression() -> Iterator[Case]:
    first, second = fragments(TEXT, PACKED, 40, rsv=4)
    ping = frame(PING, b"between")
    yield Case(
        "a ping between fragments", [first, ping, second, frame(CLOSE)], [pong(b"between"), "packed", closed(1000)]
    )
    yield Case("RSV1 of a continuation", [first, frame(CONTINUATION, PACKED[40:], rsv=4)], [BAD])
    yield Case("RSV1 of a ping", [frame(PING, rsv=4)], [BAD])
    yield Case("RSV1 of a close frame", [frame(CLOSE, rsv=4)], [BAD])
    for rsv in (1, 2, 3, 5, 6, 7):
        yield Case(f"RSV {rsv} of a text", [frame(TEXT, PACKED, rsv=rsv)], [BAD])
    yield Case("an empty message", [frame(TEXT, b"\0", rsv=4), frame(PING)], [pong()])
    yield Case("an empty payload", [frame(TEXT, b"", rsv=4), frame(PING)], [pong()])
    yield Case("no compressed data", [frame(TEXT, b"\xff" * 9, rsv=4)], [BAD])
    yield Case("the longest message", [frame(TEXT, compressed(message(MAX_SIZE)), rsv=4)], ["packed"])
    yield Case("a longer one", [frame(TEXT, compressed(message(MAX_SIZE) + b" "), rsv=4)], [closed(1009)])
    yield Case("no UTF-8 when it is inflated", [frame(TEXT, compressed(b"\xff"), rsv=4)], [closed(1007)])
    # The second message refers to the first one, although no context is taken over.
    shared = zlib.compressobj(6, zlib.DEFLATED, -15)
    packed = [shared.compress(message()) + shared.flush(zlib.Z_SYNC_FLUSH) for _ in range(2)]
    yield Case("a context", [frame(TEXT, one[:-4], rsv=4) for one in packed], ["packed", BAD])


@pytest.mark.parametrize("case", named(compression()))
async def test_a_case_of_compression(deflating: TrackerProcess, case: Case) -> None:
    async with wire(deflating, None) as client:
        await negotiated(client, "permessage-deflate")
        await deliver(client, case.sent, BY_FRAME)
        for wanted in case.expected:
            if wanted == "packed":
                await reply_of(client, 15)
            else:
                assert await received(client) == wanted
