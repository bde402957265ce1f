"""The opening handshake: valid ones open a WebSocket, all others get an HTTP error."""

from collections.abc import Sequence
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from tracker.net.handshake import Handshake, asks_for_websocket
from tracker.net.request import InvalidRequest, RequestHead
from tracker.net.response import refusal

HEAD = (
    b"GET /any?x=1 HTTP/1.1\r\nHost: t\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
KNOWN = {"first.1", "second.1"}


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def handshake_of(head: bytes) -> Handshake:
    return Handshake(RequestHead(head), KNOWN)


def with_headers(*lines: bytes) -> bytes:
    return HEAD[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def test_the_example_of_the_rfc() -> None:
    handshake = handshake_of(HEAD)
    assert handshake.error is None
    assert handshake.subprotocol is None
    assert status(handshake.response()) == 101
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in handshake.response()
    assert b"Extensions" not in handshake.response()


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ((b"unknown, second.1, first.1",), "second.1"),
        ((b"unknown", b"first.1"), "first.1"),
        ((b"unknown, other",), "unknown"),
        ((b",, unknown", b"other"), "unknown"),
        ((b"webrtc.1.2",), "webrtc.1.2"),
        ((b"firsts",), "firsts"),
        # Subprotocols of extensions that are not here, or of another version of one that is.
        ((b"peerservers.federation.1",), None),
        ((b"PEERSERVERS.federation.9, peerservers.",), None),
        ((b"first.2, FIRST.1, First, first",), None),
        ((b"peerservers.federation.1, first.2, unknown",), "unknown"),
        # No tokens.
        ((b"a b, \xe9, x=y, (z), unknown",), "unknown"),
        ((b"a b",), None),
        ((b"",), None),
        ((b", ,",), None),
    ],
)
def test_a_known_subprotocol_is_chosen_or_the_first_that_no_extension_may_mean(
    offered: tuple[bytes, ...], chosen: str | None
) -> None:
    handshake = handshake_of(with_headers(*(b"Sec-WebSocket-Protocol: " + value for value in offered)))
    assert handshake.subprotocol == chosen
    line = f"\r\nSec-WebSocket-Protocol: {chosen}\r\n".encode()
    assert (line in handshake.response()) == (chosen is not None)
    assert (b"Protocol:" in handshake.response()) == (chosen is not None)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (HEAD.replace(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b""), 426),
        (HEAD.replace(b"Connection: Upgrade", b"Connection: close"), 426),
        (HEAD.replace(b"Upgrade: websocket", b"Upgrade: websocket, h2c"), 426),
        (HEAD.replace(b"Version: 13", b"Version: 8"), 400),
        (HEAD.replace(b"Sec-WebSocket-Version: 13\r\n", b""), 400),
        (HEAD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="), 400),
        (with_headers(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="), 400),
        (with_headers(b"Content-Length: 50"), 400),
        (with_headers(b"Transfer-Encoding: chunked"), 400),
    ],
)
def test_an_invalid_handshake_is_an_http_error(head: bytes, expected: int) -> None:
    handshake = handshake_of(head)
    assert handshake.error is not None
    assert status(handshake.response()) == expected
    assert b"\r\nConnection: close" in handshake.response()
    assert b"\r\nSec-WebSocket-Version: 13\r\n" in handshake.response()


def test_a_handshake_that_a_proxy_has_spoilt_says_so() -> None:
    head = HEAD.replace(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Connection: close\r\n")
    assert asks_for_websocket(RequestHead(head))
    response = handshake_of(head).response()
    assert b"\r\nUpgrade: websocket\r\n" in response
    assert b"\r\nConnection: close, Upgrade\r\n" in response
    assert b"proxy must forward" in response


def test_http_1_0_opens_a_websocket() -> None:
    """nginx sends it to the tracker by default; no Host is needed there."""
    handshake = handshake_of(HEAD.replace(b"HTTP/1.1\r\nHost: t", b"HTTP/1.0"))
    assert handshake.error is None
    assert status(handshake.response()) == 101


@pytest.mark.parametrize(
    ("value", "asks"),
    [(b"websocket", True), (b"WebSocket", True), (b"h2c, websocket", True), (b"websocket/13", True), (b"h2c", False)],
)
def test_requests_that_ask_for_a_websocket(value: bytes, asks: bool) -> None:
    """An invalid handshake asks for one too, so that its error can name the mistake."""
    head = HEAD.replace(b"Upgrade: websocket", b"Upgrade: " + value).replace(b"Sec-WebSocket-Key", b"X")
    assert asks_for_websocket(RequestHead(head)) is asks


@pytest.mark.parametrize("method", [b"HEAD", b"OPTIONS", b"POST"])
def test_only_get_asks_for_a_websocket(method: bytes) -> None:
    assert not asks_for_websocket(RequestHead(HEAD.replace(b"GET", method)))


def test_a_refusal_gives_the_status_and_when_to_retry() -> None:
    response = refusal(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "60"})
    assert status(response) == 503
    assert b"\r\nRetry-After: 60\r\n" in response
    assert b"\r\nConnection: close\r\n" in response
    assert response.endswith(b"\r\n\r\n503 Service Unavailable\n")


LINES = st.sampled_from(
    [
        b"Host: t",
        b"Upgrade: websocket",
        b"upgrade: WebSocket",
        b"Upgrade: h2c",
        b"Connection: Upgrade",
        b"CONNECTION: keep-alive , upgrade",
        b"Connection: close",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Version: 8",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ",
        b"Sec-WebSocket-Key: c2hvcnQ=",
        b"Sec-WebSocket-Protocol: unknown, first.1",
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Transfer-Encoding: chunked",
        b"Bad name: x",
        b"no colon",
        b": no name",
        b"X: \x00",
    ]
)
GOOD = [line for line in HEAD.split(b"\r\n")[1:] if line]


def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """Choose as the tracker does, of the subprotocols in these tests."""
    return next(iter([*(name for name in offered if name in KNOWN), *offered]), None)


@given(
    st.sampled_from([b"GET / HTTP/1.1"] * 5 + [b"POST / HTTP/1.1", b"GET /", b"GET  / HTTP/1.1"]),
    st.permutations(GOOD),
    st.lists(LINES, max_size=2),
    st.integers(0, 12),
)
def test_it_accepts_the_same_handshakes_as_websockets(
    request_line: bytes, good: list[bytes], more: list[bytes], left_out: int
) -> None:
    lines = [line for number, line in enumerate(good) if number != left_out] + more
    head = b"\r\n".join([request_line, *lines, b"", b""])
    theirs = ServerProtocol(select_subprotocol=select)
    theirs.receive_data(head)
    events = theirs.events_received()
    response = theirs.accept(events[0]) if events else None  # type: ignore[arg-type]
    accepted = response is not None and response.status_code == 101
    try:
        ours = handshake_of(head)
    except InvalidRequest:
        # websockets does not look at Host.
        assert not accepted or lines.count(b"Host: t") != 1
        return
    if not request_line.startswith(b"GET "):
        # `asks_for_websocket` keeps other methods from the handshake.
        assert not accepted
        return
    assert (ours.error is None) == accepted
    if response is not None and accepted:
        accept = response.headers["Sec-WebSocket-Accept"]
        assert f"\r\nSec-WebSocket-Accept: {accept}\r\n".encode() in ours.response()
        assert ours.subprotocol == theirs.subprotocol
