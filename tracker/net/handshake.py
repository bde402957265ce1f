"""The opening handshake of a WebSocket, the server's side (RFC 6455, section 4.2; sans I/O).

Not the one of `websockets`, with which a connection would cost half as much CPU time again: after a restart, all
clients of a tracker connect again at once. The tests compare the two.
"""

from base64 import b64decode
from binascii import Error
from collections.abc import Container
from http import HTTPStatus
from typing import Final

from websockets.utils import accept_key

from tracker.net.request import RequestHead
from tracker.net.response import refusal

_KEY_BYTES: Final = 16
_VERSION: Final = "13"


def asks_for_websocket(request: RequestHead) -> bool:
    """Return whether a request names the protocol `websocket` in `Upgrade`, even in a handshake that is invalid."""
    protocols = request.get_all("Upgrade")
    return bool(protocols) and "websocket" in ",".join(protocols).lower()


class Handshake:
    """The handshake of a client that asks for a WebSocket.

    Attributes:
        error: The status of the response if the handshake is invalid, or None if the WebSocket can open.
        subprotocol: The first offered subprotocol that is in `subprotocols`, or None. A client that offers only other
            subprotocols is served like one that offers none.
    """

    __slots__ = ("_key", "error", "subprotocol")

    def __init__(self, request: RequestHead, subprotocols: Container[str]) -> None:
        self._key = ""
        self.subprotocol: str | None = None
        self.error = self._check(request)
        if self.error is None:
            offered = request.members("Sec-WebSocket-Protocol")
            self.subprotocol = next((name for name in offered if name in subprotocols), None)

    def response(self, extensions: str | None = None) -> bytes:
        """Return the whole response: 101, with the extensions in use (RFC 6455, section 9.1), or the error."""
        if self.error is not None:
            # A client of another version must be told the version that is spoken here (section 4.4).
            more = {"Sec-WebSocket-Version": _VERSION}
            if self.error is HTTPStatus.UPGRADE_REQUIRED:
                more["Upgrade"] = "websocket"
            return refusal(self.error, more)
        chosen = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        if extensions:
            chosen += f"Sec-WebSocket-Extensions: {extensions}\r\n"
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(self._key)}\r\n{chosen}\r\n"
        ).encode()

    def _check(self, request: RequestHead) -> HTTPStatus | None:
        if request.version == "1.0":
            return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        if request.method != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED
        # Firefox sends "keep-alive, Upgrade".
        options = map(str.lower, request.members("Connection"))
        protocols = request.members("Upgrade")
        if "upgrade" not in options or len(protocols) != 1 or protocols[0].lower() != "websocket":
            return HTTPStatus.UPGRADE_REQUIRED
        if request.has_content:
            # It would be read as frames.
            return HTTPStatus.BAD_REQUEST
        keys = request.get_all("Sec-WebSocket-Key")
        if request.get_all("Sec-WebSocket-Version") != [_VERSION] or len(keys) != 1 or not _is_key(keys[0]):
            return HTTPStatus.BAD_REQUEST
        self._key = keys[0]
        return None


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == _KEY_BYTES
    except (Error, ValueError):
        return False
