"""What the compiled modules raise (sans I/O).

In a room of their own because mypyc before 2.4 never frees the attributes of a compiled exception: whoever sends bad
messages would fill the memory of a tracker that is built with one.
"""

from websockets.frames import CloseCode

from tracker.messages import NO_INFO_HASH
from tracker.reasons import Reason


class ChannelClosed(Exception):
    """No more messages will come, nor can any be sent."""


class FrameError(Exception):
    """What cannot be read any further; `code` is what the closing says of it."""

    def __init__(self, code: CloseCode) -> None:
        super().__init__(code.name)
        self.code = code


class Malformed(Exception):
    """A frame that is answered with a failure.

    `action` and `info_hash` are what could be read of the frame, made safe to echo.
    """

    def __init__(self, reason: Reason, text: str, info_hash: str = NO_INFO_HASH, action: str = "announce") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.info_hash = info_hash
        self.action = action
