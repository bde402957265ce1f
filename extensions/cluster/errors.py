"""The exception for messages that are refused. Compiled modules raise it."""

from extensions.cluster.reasons import Refused


class RefusedError(Exception):
    """An envelope cannot be used. `sender` is empty if it is not known."""

    def __init__(self, reason: Refused, sender: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.sender = sender
