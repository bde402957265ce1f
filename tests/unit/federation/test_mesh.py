"""Frames of a dialed WebSocket."""

from typing import Any

import pytest

from extensions.federation.handshake import LinkError
from extensions.federation.reasons import EndReason
from extensions.federation.transports import Dialed


class Socket:
    """Has received something."""

    def __init__(self, frame: object) -> None:
        self._frame = frame

    async def recv(self) -> object:
        return self._frame


async def test_frames_are_text() -> None:
    text: Any = Socket("ü")
    assert await Dialed(text).receive() == "ü".encode()
    binary: Any = Socket(b"{}")
    with pytest.raises(LinkError) as caught:
        await Dialed(binary).receive()
    assert caught.value.reason is EndReason.INVALID_MESSAGE
