"""Nothing of a link that is gone stays in memory, also without the garbage collector."""

import pytest

from extensions.federation import pursuits
from extensions.federation.ledger import Ledger
from extensions.federation.link import Link
from extensions.federation.neighbour import Account
from extensions.federation.session import Session
from extensions.federation.transports import Accepted, Dialed
from tests.client import eventually, offers, raw_client
from tests.federated import Wire
from tests.integration.conftest import Federate
from tests.integration.objects import alive
from tests.unit.fakes import peer_id
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.extension.channel import SocketChannel
from tracker.peers import PeerSocket

KINDS = (Link, Session, Account, Ledger, Accepted, Dialed, SocketChannel, PeerSocket, Swarm, Peer, RemoteMember)
SWARMS = [f"{number:020}" for number in range(10)]
FLAPS = 8


@pytest.mark.usefixtures("no_collector")
async def test_a_neighbour_that_comes_and_goes(federate: Federate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pursuits, "FIRST_BACKOFF", 0.1)
    monkeypatch.setattr(pursuits, "MAX_LISTED_BACKOFF", 0.1)
    before = alive(*KINDS)
    there = await federate("there")
    async with Wire(there.server.addresses[0][1]) as wire:
        here = await federate("here", peers=[wire.url])
        ends = [tracker.extension("federation") for tracker in (here, there)]

        def are_linked() -> bool:
            return all(end.links and len(end.links[0].account.members) == len(SWARMS) for end in ends)

        for _ in range(FLAPS):
            async with raw_client(here.url) as a, raw_client(there.url) as b:
                for info_hash in SWARMS:
                    await a.announce(peer_id(1), info_hash, offers=offers(2))
                    await b.announce(peer_id(2), info_hash, offers=offers(2))
                await eventually(are_linked)
                # Some swarms close before the link ends, and the others after it.
                for info_hash in SWARMS[: len(SWARMS) // 2]:
                    await a.announce(peer_id(1), info_hash, event="stopped")
                wire.cut()
                await eventually(lambda: not any(end.links for end in ends))
            await eventually(lambda: alive(*KINDS) == before)
            wire.mend()
    assert all(end.mesh.opened.total() >= FLAPS for end in ends)
