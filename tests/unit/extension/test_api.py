"""The tracker as an extension sees it: an extension that raises harms only itself."""

from typing import NoReturn

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.client import announce, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.extension.api import TrackerHandle
from tracker.net.endpoint import Endpoint
from tracker.settings import Access, Settings

A, B = peer_id(1), peer_id(2)


async def test_parked_offers_are_given_also_if_an_extension_that_hears_of_it_raises() -> None:
    harness = HubHarness()
    gate = ConnectionGate(Settings(), AccessLists(Access()), SocketBudget(1, 1))
    endpoint = Endpoint(Settings().connections, gate)
    heard: list[float] = []

    def fail(seconds: float) -> NoReturn:
        raise RuntimeError(f"as told, after {seconds} s")

    for on_placed in (fail, heard.append):
        handle = TrackerHandle("x", Settings(), harness.hub, harness.remote, endpoint, CollectorRegistry())
        handle.park_offers(on_placed)
    harness.join(A, offers=offers(1))
    harness.now += 2
    newcomer = FakeConnection()
    with capture_logs() as log:
        harness.send(newcomer, announce(B))
    assert [("offer" in message) for message in newcomer.take()] == [False, True]
    assert heard == [2.0]
    assert [(event["event"], event["on"]) for event in log] == [("extension_failed", "on_placed")]
