"""What the compiled modules raise (sans I/O).

In a room of their own because mypyc before 2.4 never frees the attributes of a compiled exception: whoever sends bad
messages would fill the memory of a tracker that is built with one.
"""

from websockets.frames import CloseCode


class ChannelClosed(Exception):
    """No more messages will come, nor can any be sent."""


class FrameError(Exception):
    """What cannot be read any further; `code` is what the closing says of it."""

    def __init__(self, code: CloseCode) -> None:
        super().__init__(code.name)
        self.code = code
