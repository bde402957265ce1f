"""The tracker under test, and how a step ends there if it does not simply work."""

import random
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

from tracker.check.faults import FAULTS, fault
from tracker.check.report import Outcome
from tracker.client import Peer, TrackerClient, connect
from tracker.protocol.client import WEBTORRENT_DEFAULTS
from tracker.protocol.messages import AnnounceReply, Failure, Offer


class Verdict(Exception):
    """The end of a step. The text is the detail in the report."""

    outcome: ClassVar[Outcome]


class Fault(Verdict):
    """The tracker fails the step."""

    outcome = Outcome.FAULT


class Difference(Verdict):
    """The tracker does it in another way, by design."""

    outcome = Outcome.DIFFERS


class Untried(Verdict):
    """The tracker does not let the step find out."""

    outcome = Outcome.UNTRIED


class Site:
    """A tracker. `time_limit` is in seconds, for each message."""

    def __init__(self, url: str, time_limit: float, context: ssl.SSLContext | None) -> None:
        self.url = url
        self.time_limit = time_limit
        self._options: dict[str, Any] = {"ssl": context} if context else {}

    @asynccontextmanager
    async def socket(self) -> AsyncIterator[TrackerClient]:
        """Connect. Raise one of `FAULTS` if that fails."""
        async with connect(self.url, self.time_limit, **self._options) as client:
            yield client

    @asynccontextmanager
    async def peer(self, info_hash: str, peer_id: str) -> AsyncIterator[Peer]:
        """Connect a peer on a socket of its own. Raise `Untried` if that fails."""
        async with AsyncExitStack() as stack:
            try:
                client = await stack.enter_async_context(self.socket())
            except FAULTS as error:
                raise Untried(f"cannot connect again: {fault(error)}") from None
            yield Peer(client, info_hash, peer_id)

    @asynccontextmanager
    async def peers(self, count: int) -> AsyncIterator[list[Peer]]:
        """Connect the peers of a new swarm as `peer` does."""
        info_hash = any_id()
        async with AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(self.peer(info_hash, "-PC0001-" + any_id()[-12:])) for _ in range(count)
            ]


async def announce(peer: Peer, offers: Sequence[Offer] = (), **fields: object) -> AnnounceReply:
    """Announce with webtorrent's fields, where `fields` does not replace them. Raise `Fault` for a failure."""
    defaults = {**WEBTORRENT_DEFAULTS, "numwant": len(offers)} if offers else {**WEBTORRENT_DEFAULTS, "offers": []}
    reply = await peer.announce({**defaults, **fields}, offers)
    if isinstance(reply, Failure):
        raise Fault(f"failure: {reply.text}")
    return reply


def any_id() -> str:
    """Return 20 characters of every kind: controls, quotes, ASCII and the upper half of latin-1."""
    return "".join(chr(random.randrange(256)) for _ in range(16)) + '\0"\\\xff'


def ascii_id(length: int = 20) -> str:
    """Return lower-case letters and digits."""
    return "".join(random.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=length))
