"""The exceptions of a step that a tracker fails, in words."""

import re
import ssl
from typing import Final

import websockets
from websockets.http11 import Response

from tracker.client import BinaryFrameError
from tracker.protocol.client import MessageError

FAULTS: Final = (MessageError, OSError, TimeoutError, websockets.WebSocketException)

_TITLE: Final = re.compile(r"<title[^>]*>([^<]*)", re.IGNORECASE)
_TAG: Final = re.compile(r"<[^>]*>")


def fault(error: BaseException) -> str:
    """Return one line that tells how the tracker has failed; `error` is one of `FAULTS`."""
    if isinstance(error, BinaryFrameError):
        return "answers in binary frames, which browsers' clients cannot read"
    if isinstance(error, websockets.ConnectionClosed):
        close = f"{error.rcvd.code} {error.rcvd.reason}".strip() if error.rcvd else "no close frame"
        return f"the tracker closed the socket ({close})"
    if isinstance(error, websockets.InvalidStatus):
        return _refusal(error.response)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate: {error.verify_message}"
    return _one_line(str(error)) or type(error).__name__


def _refusal(response: Response) -> str:
    """Return the status of a response that opens no WebSocket, and the title or first line of its body."""
    status = f"HTTP {response.status_code} {response.reason_phrase}".rstrip()
    location = next(iter(response.headers.get_all("Location")), None)
    if location is not None:
        return f"{status} to {location}, which browsers do not follow"
    body = bytes(response.body or b"").decode(errors="replace")
    title = _TITLE.search(body)
    lines = (_one_line(line) for line in (title[1] if title else _TAG.sub("\n", body)).splitlines())
    first = next(filter(None, lines), "")
    return status if first in status else f"{status}: {first}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
