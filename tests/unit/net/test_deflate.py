"""permessage-deflate: what is agreed with each client, and messages of and for websockets' implementation."""

import random
import zlib
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import CloseCode, Frame, Opcode
from websockets.headers import build_extension, parse_extension

from tests.unit.net.test_frames import read, sent
from tracker.net.deflate import Deflate, accept_offer
from tracker.net.errors import FrameError
from tracker.net.frames import BINARY, COMPRESSED, CONTINUATION, PING, TEXT, FrameReader, frame

AGREED = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
MAX = 70_000

messages = st.binary(max_size=2000) | st.builds(
    lambda part, times: part * times, st.binary(max_size=20), st.integers(0, 999)
)


def new_reader(deflate: Deflate | None = None) -> FrameReader:
    reader = FrameReader(MAX)
    reader.deflate = deflate or Deflate(1)
    return reader


def client() -> PerMessageDeflate:
    """A client that has agreed to compress each message by itself."""
    return PerMessageDeflate(
        remote_no_context_takeover=True,
        local_no_context_takeover=True,
        remote_max_window_bits=15,
        local_max_window_bits=15,
    )


def compressed(payload: bytes, compressing: PerMessageDeflate | None = None) -> bytes:
    """Return a payload as a client compresses it."""
    return bytes((compressing or client()).encode(Frame(Opcode.TEXT, payload)).data)


def sent_compressed(opcode: int, data: bytes, fin: bool = True) -> bytes:
    """Return the first frame of a compressed message."""
    written = sent(opcode, data, fin)
    return bytes((written[0] | COMPRESSED,)) + written[1:]


def refused(data: bytes, reader: FrameReader) -> CloseCode:
    with pytest.raises(FrameError) as caught:
        read(data, reader=reader)
    return caught.value.code


@pytest.mark.parametrize(
    ("offers", "response"),
    [
        # Chromium and npm's ws; Firefox; Python's websockets; Safari of old.
        (["permessage-deflate; client_max_window_bits"], AGREED),
        (["permessage-deflate"], AGREED),
        (
            ["permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"],
            f"{AGREED}; server_max_window_bits=12",
        ),
        (["x-webkit-deflate-frame"], None),
        ([], None),
        ([""], None),
        (["permessage-deflate; server_no_context_takeover; client_no_context_takeover"], AGREED),
        (['permessage-deflate; server_max_window_bits="15"'], f"{AGREED}; server_max_window_bits=12"),
        # An offer that cannot be accepted, alone and before another one.
        (["permessage-deflate; server_max_window_bits=10"], None),
        (["permessage-deflate; server_max_window_bits=10, permessage-deflate"], AGREED),
        (["permessage-bzip2", "permessage-deflate"], AGREED),
        (["permessage-deflate; unknown"], None),
        (["permessage-deflate; server_max_window_bits"], None),
        (["permessage-deflate; server_max_window_bits=012"], None),
        (["permessage-deflate; client_max_window_bits=16"], None),
        (["permessage-deflate; client_max_window_bits=7"], None),
        (["permessage-deflate; server_no_context_takeover=1"], None),
        (["permessage-deflate; client_max_window_bits; client_max_window_bits"], None),
        # Malformed.
        (["permessage-deflate;"], None),
        (["permessage-deflate; =1"], None),
        (["\xff"], None),
        # So long that parsing them would cost too much.
        (["permessage-deflate", *["a"] * 16], AGREED),
        (["permessage-deflate", *["a"] * 17], None),
        (["permessage-deflate" + ";a" * 17 + ",permessage-deflate"], None),
        (["permessage-deflate", "a" * 1024], None),
    ],
)
def test_the_response_to_an_offer(offers: list[str], response: str | None) -> None:
    assert accept_offer(offers) == response


@pytest.mark.parametrize("server_bits", [None, 12, 13, 15])
@pytest.mark.parametrize("client_bits", [None, True, 9, 15])
@pytest.mark.parametrize("no_context", [False, True])
def test_websockets_clients_agree(server_bits: int | None, client_bits: int | bool | None, no_context: bool) -> None:
    factory = ClientPerMessageDeflateFactory(no_context, no_context, server_bits, client_bits)
    response = accept_offer([build_extension([(factory.name, factory.get_request_params())])])
    assert response
    ((_, parameters),) = parse_extension(response)
    agreed = factory.process_response_params(parameters, [])
    assert agreed.remote_no_context_takeover
    assert agreed.local_no_context_takeover


@given(st.lists(st.tuples(messages, st.integers(0, 500)), max_size=6))
def test_messages_of_a_client_are_inflated(sending: list[tuple[bytes, int]]) -> None:
    compressing, reader = client(), new_reader()
    for payload, cut in sending:
        data = compressed(payload, compressing)
        assert read(sent_compressed(TEXT, data), reader=reader) == [(TEXT, payload)]
        written = sent_compressed(BINARY, data[:cut], fin=False) + sent(PING, b"x") + sent(CONTINUATION, data[cut:])
        assert read(written, reader=reader) == [(PING, b"x"), (BINARY, payload)], "in two fragments"
        assert read(sent(TEXT, payload), reader=reader) == [(TEXT, payload)], "a client need not compress"
    assert reader.deflate
    assert reader.deflate.sizes["received", "inflated"] == 2 * sum(len(payload) for payload, _ in sending)


@given(st.lists(messages, max_size=6))
def test_a_client_inflates_messages_whichever_clients_had_those_before(payloads: list[bytes]) -> None:
    deflate = Deflate(1)
    for payload in payloads:
        data = deflate.compress(payload)
        received = client().decode(Frame(Opcode.TEXT, data, rsv1=True))
        assert bytes(received.data) == payload
        # The window that was agreed.
        assert zlib.decompressobj(-12).decompress(data + b"\x00\x00\xff\xff") == payload
    assert deflate.sizes["sent", "inflated"] == sum(map(len, payloads))


def test_a_compressed_frame_has_the_bit_of_its_extension() -> None:
    written = frame(TEXT | COMPRESSED, Deflate(1).compress(b"x" * 1000))
    assert written[0] == 0xC1
    assert len(written) < 30


def test_the_examples_of_rfc_7692() -> None:
    """Section 7.2.3: one block, two blocks, no compression, and a block with BFINAL."""
    for payload in (
        bytes.fromhex("f248cdc9c90700"),
        bytes.fromhex("f248050000 00ffff cac9c90700".replace(" ", "")),
        bytes.fromhex("000500faff48656c6c6f00"),
        bytes.fromhex("f348cdc9c9070000"),
    ):
        assert Deflate(1).inflate(payload, MAX) == b"Hello"


@pytest.mark.parametrize("size", [MAX, MAX + 1, 100 * MAX])
def test_a_message_that_is_too_long_when_inflated(size: int) -> None:
    data = sent_compressed(TEXT, compressed(bytes(size)))
    assert len(data) < MAX // 2
    if size > MAX:
        assert refused(data, new_reader()) == CloseCode.MESSAGE_TOO_BIG
    else:
        assert read(data, reader=new_reader()) == [(TEXT, bytes(size))]


@given(st.binary(max_size=100))
def test_any_bytes_are_inflated_or_refused(data: bytes) -> None:
    with suppress(FrameError):
        assert len(Deflate(1).inflate(data, 1000)) <= 1000


def test_data_that_is_not_compressed_is_refused() -> None:
    data = sent_compressed(TEXT, b"\xff" * 20)
    assert refused(data, new_reader()) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("first", [0xC9, 0xA1, 0x91, 0xF1, 0xE1])
def test_no_other_reserved_bit_and_no_compressed_control_frame(first: int) -> None:
    assert refused(bytes((first, 0x80, 0, 0, 0, 0)), new_reader()) == CloseCode.PROTOCOL_ERROR


def test_only_the_first_frame_of_a_message_says_that_it_is_compressed() -> None:
    start = sent(TEXT, b"a", fin=False)
    assert refused(start + bytes((0xC0 | CONTINUATION, 0x80, 0, 0, 0, 0)), new_reader()) == CloseCode.PROTOCOL_ERROR


def test_without_the_extension_there_are_no_compressed_messages() -> None:
    data = sent_compressed(TEXT, compressed(b"x" * 100))
    assert refused(data, FrameReader(MAX)) == CloseCode.PROTOCOL_ERROR


# Eight blocks, each with a code of its own and nothing in it.
EMPTY_BLOCKS = bytes.fromhex("04c0810800000000207feb43001c880000000000f2b73e") * 4


def test_a_message_that_is_compressed_from_nothing_is_refused_early() -> None:
    assert Deflate(1).inflate(EMPTY_BLOCKS, MAX) == b""
    assert refused(sent_compressed(TEXT, EMPTY_BLOCKS * 500), new_reader()) == CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("size", [4000, 5000, 50_000, MAX - 100])
def test_a_message_that_cannot_be_compressed_is_taken(size: int) -> None:
    payload = random.Random(1).randbytes(size)
    assert read(sent_compressed(BINARY, compressed(payload)), reader=new_reader()) == [(BINARY, payload)]
