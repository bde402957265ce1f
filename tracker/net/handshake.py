"""The opening handshake of a WebSocket, the server's side (RFC 6455 section 4.2; sans I/O).

Written out because all of an operator's clients come back at once after a restart: with websockets', a connection would
cost half as much CPU time again. The tests compare the two.
"""

import re
from base64 import b64decode
from binascii import Error
from collections.abc import Container, Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from websockets.utils import accept_key

_NAME: Final = re.compile(r"[-!#$%&'*+.^_`|~0-9a-zA-Z]+")
_FORBIDDEN: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""In a header's value (RFC 9110 section 5.5)."""

_KEY_BYTES: Final = 16
_VERSION: Final = "13"


class Headers:
    """A request's headers, names in any case."""

    __slots__ = ("_values",)

    def __init__(self, lines: list[str]) -> None:
        """Raises `ValueError`."""
        self._values: dict[str, list[str]] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if not colon or not _NAME.fullmatch(name) or _FORBIDDEN.search(value):
                raise ValueError("not a header")
            self._values.setdefault(name.lower(), []).append(value.strip(" \t"))

    def get_all(self, key: str) -> list[str]:
        """All values of a header, in order."""
        return self._values.get(key.lower(), [])

    def words(self, key: str) -> list[str]:
        """The items of a header that is a list, over all its lines."""
        return [word.strip(" \t") for value in self.get_all(key) for word in value.split(",")]


class Handshake:
    """A client's request for a WebSocket; `head` is all of it, with its blank line."""

    __slots__ = ("_key", "error", "headers", "subprotocol")

    def __init__(self, head: bytes, subprotocols: Container[str]) -> None:
        self.headers = Headers([])
        self.subprotocol: str | None = None
        """The first of those offered that is known. Who offers none that is known is a client like any other."""
        self._key = ""
        self.error = self._read(head)
        """What is wrong with it; None if a WebSocket can come of it."""
        if self.error is None:
            offered = self.headers.words("Sec-WebSocket-Protocol")
            self.subprotocol = next((name for name in offered if name in subprotocols), None)

    def response(self) -> bytes:
        """What to answer: 101, or what is wrong."""
        if self.error is not None:
            # Whoever speaks another version must be told which one is spoken here (section 4.4).
            more = {"Sec-WebSocket-Version": _VERSION}
            if self.error is HTTPStatus.UPGRADE_REQUIRED:
                more["Upgrade"] = "websocket"
            return refusal(self.error, more)
        chosen = f"Sec-WebSocket-Protocol: {self.subprotocol}\r\n" if self.subprotocol else ""
        return (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Accept: {accept_key(self._key)}\r\n{chosen}\r\n"
        ).encode()

    def _read(self, head: bytes) -> HTTPStatus | None:
        request, *lines = head.decode("latin-1").split("\r\n")[:-2]
        words = request.split(" ")
        try:
            self.headers = headers = Headers(lines)
        except ValueError:
            return HTTPStatus.BAD_REQUEST
        if len(words) != 3:
            return HTTPStatus.BAD_REQUEST
        if words[2] != "HTTP/1.1":
            return HTTPStatus.HTTP_VERSION_NOT_SUPPORTED
        if words[0] != "GET":
            return HTTPStatus.METHOD_NOT_ALLOWED
        # Firefox sends "keep-alive, Upgrade".
        wants = [word.lower() for word in headers.words("Connection")]
        upgrades = [word.lower() for word in headers.words("Upgrade")]
        if "upgrade" not in wants or upgrades != ["websocket"]:
            return HTTPStatus.UPGRADE_REQUIRED
        keys = headers.get_all("Sec-WebSocket-Key")
        if headers.get_all("Sec-WebSocket-Version") != [_VERSION] or len(keys) != 1 or not _is_key(keys[0]):
            return HTTPStatus.BAD_REQUEST
        self._key = keys[0]
        return None


def refusal(status: HTTPStatus, headers: Mapping[str, str] = MappingProxyType({}), text: str = "") -> bytes:
    """The whole response to who is not served."""
    body = f"{text or f'{status.value} {status.phrase}'}\n"
    lines = {
        "Connection": "close",
        "Content-Type": "text/plain; charset=utf-8",
        "Content-Length": str(len(body)),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status.value} {status.phrase}\r\n{head}\r\n{body}".encode()


def _is_key(key: str) -> bool:
    try:
        return len(b64decode(key, validate=True)) == _KEY_BYTES
    except (Error, ValueError):
        return False
