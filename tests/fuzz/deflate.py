"""permessage-deflate: payloads and offers of the extension.

The first byte of an input says which of the two the rest is.
"""

import zlib
from collections.abc import Iterator

from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import CloseCode
from websockets.headers import parse_extension

from tests.fuzz import recorded
from tests.fuzz.target import Target
from tracker.net.deflate import NAME, Deflate, accept_offer
from tracker.net.errors import FrameError

MAX = 5000


def check(data: bytes) -> None:
    """Inflate a payload, or answer the offer."""
    if data[:1] == b"o":
        check_offer(data[1:].decode("latin-1").split("\n"))
    else:
        check_payload(data[1:])


def check_payload(payload: bytes) -> None:
    """A payload is inflated up to the limit, and compressed again it is the same."""
    deflate = Deflate(0)
    try:
        inflated = deflate.inflate(payload, MAX)
    except FrameError as error:
        assert error.code in (CloseCode.PROTOCOL_ERROR, CloseCode.MESSAGE_TOO_BIG)
        assert not deflate.sizes
        return
    assert len(inflated) <= MAX
    for _ in range(2):
        # The second time, the compressor must not refer to the first one.
        compressed = deflate.compress(inflated)
        assert Deflate(0).inflate(compressed, MAX) == inflated
        assert zlib.decompressobj(-zlib.MAX_WBITS).decompress(compressed + b"\x00\x00\xff\xff") == inflated


def check_offer(fields: list[str]) -> None:
    """An accepted offer is one that was made, and each parameter of the response is allowed."""
    answer = accept_offer(fields)
    if answer is None:
        return
    offered = [parameters for field in fields for name, parameters in parse_extension(field) if name == NAME]
    ((name, parameters),) = parse_extension(answer)
    assert name == NAME
    agreed = dict(parameters)
    assert agreed.keys() >= {"server_no_context_takeover", "client_no_context_takeover"}
    # Without this parameter in the offer, the response must not have it (RFC 7692, section 7.1.2.2).
    assert "client_max_window_bits" not in agreed
    for wanted in map(dict, offered):
        try:
            bits = wanted.get("server_max_window_bits")
            factory = ClientPerMessageDeflateFactory(
                server_no_context_takeover="server_no_context_takeover" in wanted,
                client_no_context_takeover="client_no_context_takeover" in wanted,
                server_max_window_bits=int(bits) if bits else None,
            )
            factory.process_response_params(parameters, [])
        except (InvalidHandshake, ValueError):
            continue
        return
    raise AssertionError(f"none of {offered} is answered by {answer!r}")


def seeds() -> Iterator[bytes]:
    """Yield compressed messages and offers."""
    for level, bits in ((1, 9), (6, 12), (9, 15), (0, 15)):
        compressor = zlib.compressobj(level, zlib.DEFLATED, -bits)
        payload = b"".join(recorded.sent())[: MAX // 2]
        yield b"p" + compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)[:-4]
        yield b"p" + compressor.compress(payload) + compressor.flush(zlib.Z_FINISH)
    bomb = zlib.compressobj(9, zlib.DEFLATED, -15)
    yield b"p" + bomb.compress(bytes(100 * MAX)) + bomb.flush(zlib.Z_SYNC_FLUSH)
    yield b"p"
    yield b"opermessage-deflate; client_max_window_bits"
    yield b"opermessage-deflate; server_max_window_bits=9, permessage-deflate; server_max_window_bits=15"
    yield b"ox-webkit-deflate-frame\npermessage-deflate; server_no_context_takeover; client_max_window_bits=10"
    yield b'opermessage-deflate; server_max_window_bits="12"; client_no_context_takeover'


TARGET = Target(
    check,
    seeds,
    (
        b"permessage-deflate",
        b"server_no_context_takeover",
        b"client_no_context_takeover",
        b"server_max_window_bits",
        b"client_max_window_bits",
        b"; ",
        b", ",
        b"=15",
        b'="9"',
        b"\n",
    ),
)
