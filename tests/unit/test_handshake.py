"""The opening handshake: who gets a WebSocket, and what the others are told."""

from http import HTTPStatus

import pytest

from tracker.handshake import Handshake

HEAD = (
    b"GET /any?x=1 HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
KNOWN = {"first.1", "second.1"}


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def with_headers(*lines: bytes) -> bytes:
    return HEAD[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_the_example_of_the_rfc() -> None:
    handshake = Handshake(HEAD, KNOWN)
    assert handshake.is_valid
    assert handshake.subprotocol is None
    assert status(handshake.response()) == 101
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in handshake.response()
    assert b"Extensions" not in handshake.response()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((b"unknown",), None),
        ((b"unknown, second.1, first.1",), "second.1"),
        ((b"unknown", b"first.1"), "first.1"),
    ],
)
def test_the_first_known_subprotocol_is_chosen(offered: tuple[bytes, ...], chosen: str | None) -> None:
    handshake = Handshake(with_headers(*(b"Sec-WebSocket-Protocol: " + value for value in offered)), KNOWN)
    assert handshake.subprotocol == chosen
    line = f"\r\nSec-WebSocket-Protocol: {chosen}\r\n".encode()
    assert (line in handshake.response()) == (chosen is not None)
    assert (b"Protocol:" in handshake.response()) == (chosen is not None)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (HEAD.replace(b"GET", b"POST"), 405),
        (HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"), 505),
        (HEAD.replace(b"Connection: Upgrade", b"Connection: close"), 426),
        (HEAD.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"), 426),
        (HEAD.replace(b"Version: 13", b"Version: 8"), 400),
        (HEAD.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 400),
        (HEAD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="), 400),
        (with_headers(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (with_headers(b"no header"), 400),
        (with_headers(b"X: " + b"x" * 9000), 400),
        (HEAD.replace(b"/any", b"/" + b"x" * 9000), 400),
        (with_headers(*[b"X: x"] * 200), 400),
        (b"\x00\x01\r\n\r\n", 400),
    ],
)
def test_what_is_no_handshake_is_an_http_error(head: bytes, expected: int) -> None:
    handshake = Handshake(head, KNOWN)
    assert not handshake.is_valid
    assert status(handshake.response()) == expected
    assert b"\r\nConnection: close\r\n" in handshake.response()


def test_a_valid_one_may_be_refused() -> None:
    handshake = Handshake(with_headers(b"Origin: https://example.org"), KNOWN)
    assert handshake.headers.get_all("origin") == ["https://example.org"]
    response = handshake.refusal(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "60"})
    assert status(response) == 503
    assert b"\r\nRetry-After: 60\r\n" in response
    assert b"\r\nConnection: close\r\n" in response
