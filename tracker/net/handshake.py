"""The opening handshake of a WebSocket, the server's side (RFC 6455, section 4.2; sans I/O).

Not the one of `websockets`, with which a connection would cost half as much CPU time again: after a restart, all
clients of a tracker connect again at once. The tests compare the two.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Collection
from http import HTTPStatus
from typing import Final

from websockets.utils import accept_key

from tracker.net.request import RequestHead
from tracker.net.response import refusal

_KEY_BYTES: Final = 16
_VERSION: Final = "13"
_TOKEN: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")

OWN_PREFIX: Final = "peerservers."
"""The start of the names of this project's own subprotocols, in lower case."""


_INCOMPLETE: Final = (
    'This is a WebSocket handshake without "Upgrade: websocket" or "Connection: Upgrade". '
    "A reverse proxy must forward both fields."
)


def asks_for_websocket(request: RequestHead) -> bool:
    """Return whether a request is a WebSocket handshake, even an invalid one, so that its error can name the mistake.

    It is a GET request with the protocol `websocket` in `Upgrade`. Reverse proxies remove this field by default, so a
    request with a `Sec-WebSocket-Key` is a handshake, too.
    """
    if request.method != "GET":
        return False
    protocols = request.get_all("Upgrade")
    if protocols and "websocket" in ",".join(protocols).lower():
        return True
    return bool(request.get_all("Sec-WebSocket-Key"))


class Handshake:
    """The handshake of a GET request that asks for a WebSocket.

    HTTP/1.0 is served, too, although a server should ignore its `Upgrade` (RFC 9110, section 7.8). nginx sends HTTP/1.0
    to the tracker unless its configuration says otherwise, and switches protocols at the response 101 all the same.

    Attributes:
        error: The status of the response if the handshake is invalid, or None if the WebSocket can open.
        subprotocol: The chosen subprotocol (`choose_subprotocol`), or None.
    """

    __slots__ = ("_key", "error", "subprotocol")

    def __init__(self, request: RequestHead, subprotocols: Collection[str]) -> None:
        self._key = ""
        self.subprotocol: str | None = None
        self.error = self._check(request)
        if self.error is None:
            offered = request.members("Sec-WebSocket-Protocol")
            if offered:
                self.subprotocol = choose_subprotocol(offered, subprotocols)

    def response(self, extensions: str | None = None) -> bytes:
        """Return the whole response: 101, with the extensions in use (RFC 6455, section 9.1), or the error."""
        if self.error is not None:
            # A client of another version must be told the version that is spoken here (section 4.4).
            more = {"Sec-WebSocket-Version": _VERSION}
            if self.error is HTTPStatus.UPGRADE_REQUIRED:
                # A sender of `Upgrade` names it in `Connection` (RFC 9110, section 7.8).
                more |= {"Upgrade": "websocket", "Connection": "close, Upgrade"}
                return refusal(self.error, more, _INCOMPLETE)
            return refusal(self.error, more)
        chosen = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        if extensions:
            chosen += f"Sec-WebSocket-Extensions: {extensions}\r\n"
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(self._key)}\r\n{chosen}\r\n"
        ).encode()

    def _check(self, request: RequestHead) -> HTTPStatus | None:
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


def choose_subprotocol(offered: list[str], known: Collection[str]) -> str | None:
    """Return the first offered subprotocol that is in `known`, or else the first one that no extension may mean.

    Browsers fail a connection if the response chooses none of the offered subprotocols, and other trackers choose the
    first one. A client that offers only subprotocols of extensions that are not here must notice this, so they are not
    chosen: names that begin with `peerservers.`, and names that differ from a known one only in case or behind the last
    dot, where the version is. The result is None if nothing else is offered.
    """
    for name in offered:
        if name in known:
            return name
    families = {_family(name) for name in known}
    for name in offered:
        if _TOKEN.fullmatch(name) and not name.lower().startswith(OWN_PREFIX) and _family(name) not in families:
            return name
    return None


def _family(name: str) -> str:
    family, dot, _ = name.lower().rpartition(".")
    return family if dot else name.lower()


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == _KEY_BYTES
    except (Error, ValueError):
        return False
