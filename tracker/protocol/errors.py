"""The error that a client's request raises (sans I/O).

It has a plain module because mypyc before 2.4 never frees the attributes of a compiled exception: bad messages would
fill the memory of a tracker that such a version compiled.
"""

from tracker.protocol.messages import NO_INFO_HASH
from tracker.reasons import DropReason


class RequestError(Exception):
    """A request that the tracker answers with a failure.

    `text` is the `failure reason`. `action` and `info_hash` are those of the request if they are valid, so that they
    are safe to echo. `interval` is the number of seconds until the client should announce again; 0 if the request was
    no announce.
    """

    def __init__(self, reason: DropReason, text: str, info_hash: str = NO_INFO_HASH, action: str = "announce") -> None:
        super().__init__(text)
        self.reason = reason
        self.text = text
        self.info_hash = info_hash
        self.action = action
        self.interval = 0
