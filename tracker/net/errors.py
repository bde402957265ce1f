"""Exceptions that the compiled modules raise (sans I/O).

This module is not compiled: mypyc before 2.4 never frees the attributes of a compiled exception, so that a client could
fill the memory with invalid messages.
"""

from websockets.frames import CloseCode


class ChannelClosed(Exception):
    """The channel is closed: it neither receives nor sends any more messages."""


class FrameError(Exception):
    """An invalid frame, behind which nothing can be read. `code` is for the close frame (RFC 6455, section 7.4)."""

    def __init__(self, code: CloseCode) -> None:
        super().__init__(code.name)
        self.code = code
