"""Request heads and the opening handshake: h11 and websockets agree, and no response has a line of the client's."""

from collections.abc import Iterator
from http import HTTPStatus

import h11
from websockets.server import ServerProtocol

from tests.fuzz import recorded
from tests.fuzz.target import Target
from tracker.net.deflate import accept_offer
from tracker.net.handshake import OWN_PREFIX, Handshake, asks_for_websocket
from tracker.net.request import InvalidRequest, RequestHead

KNOWN = {"peerservers.federation.1", "echo.2"}
REFUSED = {
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.NOT_IMPLEMENTED,
    HTTPStatus.HTTP_VERSION_NOT_SUPPORTED,
}
RESPONSE = {
    "Sec-WebSocket-Accept",
    "Sec-WebSocket-Extensions",
    "Sec-WebSocket-Protocol",
    "Sec-WebSocket-Version",
    "Upgrade",
    "Connection",
    "Content-Length",
    "Content-Type",
}
"""The fields that a response to a handshake may have."""


def check(data: bytes) -> None:
    """Read a head."""
    head = data + b"\r\n"
    try:
        request = RequestHead(head)
    except InvalidRequest as error:
        assert error.status in REFUSED
        return
    check_request(request, head)
    if asks_for_websocket(request):
        check_handshake(request, head)


def check_request(request: RequestHead, head: bytes) -> None:
    """A valid head is valid for h11, too, with the same fields. Written again, it means the same."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(head)
    theirs = connection.next_event()
    assert isinstance(theirs, h11.Request)
    fields = request.combined()
    assert (theirs.method.decode(), theirs.http_version.decode()) == (request.method, request.version)
    assert {name.decode() for name, _ in theirs.headers} | {"host"} == fields.keys() | {"host"}
    assert request.target.isprintable()
    assert request.target.isascii()
    if request.method != "CONNECT":
        assert request.target[0] == "/" or (request.method, request.target) == ("OPTIONS", "*")
    lines = [f"{name}: {value}" for name in fields for value in request.get_all(name)]
    text = "\r\n".join([f"{request.method} {request.target} HTTP/{request.version}", *lines, "", ""])
    again = RequestHead(text.encode("latin-1"))
    assert (again.method, again.target, again.has_content) == (request.method, request.target, request.has_content)
    assert again.combined() == fields


def check_handshake(request: RequestHead, head: bytes) -> None:
    """The response is well-formed, and a handshake that websockets accepts is accepted."""
    handshake = Handshake(request, KNOWN)
    offer = accept_offer(request.get_all("Sec-WebSocket-Extensions"))
    response = handshake.response(offer)
    lines = response.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")
    names = [line.partition(": ")[0] for line in lines[1:]]
    assert len(set(names)) == len(names)
    assert set(names) <= RESPONSE
    status = HTTPStatus.SWITCHING_PROTOCOLS if handshake.error is None else handshake.error
    assert lines[0] == f"HTTP/1.1 {status.value} {status.phrase}"
    chosen = handshake.subprotocol
    if chosen is not None:
        assert chosen in request.members("Sec-WebSocket-Protocol")
        assert chosen in KNOWN or not chosen.lower().startswith(OWN_PREFIX)
    protocol = ServerProtocol()
    protocol.receive_data(head)
    for event in protocol.events_received():
        if protocol.accept(event).status_code == HTTPStatus.SWITCHING_PROTOCOLS:  # type: ignore[arg-type]
            assert handshake.error is None


def seeds() -> Iterator[bytes]:
    """Yield heads without the final blank line."""
    yield from recorded.heads()
    for target in ("/", "/stats.json?x=%00", "http://t:80/x", "HTTPS://[::1]?q"):
        yield f"GET {target} HTTP/1.1\r\nHost: t\r\nAccept: */*\r\n".encode()
    yield b"GET / HTTP/1.0\r\n"
    yield b"OPTIONS * HTTP/1.1\r\nHost: t\r\n"
    yield b"OPTIONS http://t HTTP/1.1\r\nHost: u\r\n"
    yield b"CONNECT t:443 HTTP/1.1\r\nHost: t:443\r\n"
    yield b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 5, 5\r\nTransfer-Encoding: chunked\r\n"
    handshake = recorded.heads()[0]
    yield handshake + b"Sec-WebSocket-Protocol: a, peerservers.federation.1\r\nSec-WebSocket-Protocol: echo.1, b\r\n"
    yield handshake + b"Content-Length: 0\r\nX: \xff\t \r\n"


TARGET = Target(
    check,
    seeds,
    (
        *(
            b"GET ",
            b"OPTIONS ",
            b"CONNECT ",
            b" HTTP/1.1\r\n",
            b" HTTP/1.0\r\n",
            b" HTTP/2.0\r\n",
            b"\r\n",
            b": ",
            b",",
        ),
        *(b"Host: ", b"Upgrade: ", b"websocket", b"Connection: ", b"keep-alive, Upgrade", b"Content-Length: "),
        *(b"Transfer-Encoding: chunked\r\n", b"Sec-WebSocket-Key: ", b"Sec-WebSocket-Version: 13\r\n"),
        *(b"Sec-WebSocket-Protocol: ", b"Sec-WebSocket-Extensions: ", b"permessage-deflate", b"http://", b"[::1]"),
        *(b"peerservers.", b"echo.2", b"AAAAAAAAAAAAAAAAAAAAAA==", b"%41", b"*"),
    ),
)
