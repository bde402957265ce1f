"""The time in which two peers that the tracker knows meet: from the announce with an offer to the answer."""

import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from benchmarks.measure import latency
from benchmarks.suite import Figures
from tracker.client import Peer, connect
from tracker.protocol.codec import make_offer
from tracker.protocol.messages import AnnounceReply, RelayedAnswer, RelayedOffer

PAIRS: Final = 20
ROUNDS: Final = 50
"""Meetings of each pair, one after the other."""

PATIENCE: Final = 10.0
OFFERS: Final = 2
"""Offers of an announce. A peer that announces with a single one is not introduced to the same peer again at once."""

FIELDS: Final = {"numwant": OFFERS, "left": 1}
SDP: Final = "v=0\r\n" * 100


async def meetings(ports: Sequence[int]) -> Figures:
    """Let pairs of peers meet, each pair in a swarm of its own: one at the first port, the other one at the last."""
    seconds: list[float] = []
    for number in range(PAIRS):
        async with AsyncExitStack() as stack:
            info_hash = f"pair {number:015}"
            one, other = [
                Peer(await stack.enter_async_context(connect(f"ws://127.0.0.1:{port}/", PATIENCE)), info_hash, peer_id)
                for port, peer_id in ((ports[0], "a" * 20), (ports[-1], "b" * 20))
            ]
            await _know_each_other((one, other))
            seconds += [await _meet(one, other, meeting) for meeting in range(ROUNDS)]
    return latency(seconds)


async def _know_each_other(peers: Sequence[Peer]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        replies = [await peer.announce(FIELDS) for peer in peers]
        if all(isinstance(reply, AnnounceReply) and reply.incomplete == len(peers) for reply in replies):
            return
        if time.monotonic() > deadline:
            raise TimeoutError("two peers of a swarm do not count each other")


async def _meet(one: Peer, other: Peer, meeting: int) -> float:
    """Return the seconds of one meeting."""
    offer_ids = [f"{meeting:010}{number:010}" for number in range(OFFERS)]
    began = time.perf_counter()
    await one.send(FIELDS, [make_offer(offer_id, SDP) for offer_id in offer_ids])
    offer = await other.client.expect(RelayedOffer, lambda message: message.offer.id in offer_ids)
    await other.answer(offer.peer_id, offer.offer.id, SDP)
    await one.client.expect(RelayedAnswer)
    return time.perf_counter() - began
