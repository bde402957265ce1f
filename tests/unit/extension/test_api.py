"""The tracker as an extension sees it: an extension that raises harms only itself."""

import weakref
from typing import NoReturn

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.client import HASH, announce, offers
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.extension import Admission, make_offer, swarm_key
from tracker.extension.api import TrackerHandle
from tracker.net.endpoint import Endpoint
from tracker.settings import Access, Settings

A, B = peer_id(1), peer_id(2)


def handle_of(harness: HubHarness) -> TrackerHandle:
    gate = ConnectionGate(Settings(), AccessLists(Access()), SocketBudget(1, 1))
    endpoint = Endpoint(Settings().connections, gate)
    return TrackerHandle("x", Settings(), harness.hub, harness.remote, endpoint, CollectorRegistry())


def test_a_request_for_admission_always_has_40_hexadecimal_digits() -> None:
    assert Admission("\xff" * 20, A, "192.0.2.1").info_hash_hex == "ff" * 20
    assert Admission("a room Ω", "short", "192.0.2.1").info_hash_hex == swarm_key("a room Ω").hex()


async def test_offers_of_a_remote_peer_have_an_id_of_the_swarm() -> None:
    harness = HubHarness()
    handle = handle_of(harness)
    local = {info_hash: harness.join(B, info_hash) for info_hash in (HASH, "a room")}
    for info_hash, bad in ((HASH, "short"), (HASH, "n" * 21), ("a room", ""), ("a room", "n" * 65)):
        with pytest.raises(ValueError, match="peer_id must be"):
            handle.deliver_offers(info_hash, bad, [make_offer("o" * 20, "v=0")])
    assert handle.deliver_offers("a room", "Ω", [make_offer("o", "v=0", "a room")]) == []
    (offer,) = local["a room"].take()
    assert (offer["peer_id"], offer["offer_id"]) == ("Ω", "o")
    assert local[HASH].take() == []


async def test_a_swarm_that_closes_lets_go_of_the_owners_of_its_remote_members() -> None:
    class Owner: ...

    harness = HubHarness()
    handle = handle_of(harness)
    harness.join(A)
    swarm = harness.hub.swarms[HASH]
    owner = weakref.ref(made := Owner())
    member = handle.add_remote(HASH, made)
    assert member
    handle.set_remote(member, 1, 2)
    del made, member
    assert owner()
    handle.forget(swarm)
    # No garbage collector is needed for that.
    assert owner() is None
    assert (swarm.remotes, swarm.complete) == ([], 0)


async def test_parked_offers_are_given_also_if_an_extension_that_hears_of_it_raises() -> None:
    harness = HubHarness()
    heard: list[float] = []

    def fail(seconds: float) -> NoReturn:
        raise RuntimeError(f"as told, after {seconds} s")

    for on_placed in (fail, heard.append):
        handle_of(harness).park_offers(on_placed)
    harness.join(A, offers=offers(1))
    harness.now += 2
    newcomer = FakeConnection()
    with capture_logs() as log:
        harness.send(newcomer, announce(B))
    assert [("offer" in message) for message in newcomer.take()] == [False, True]
    assert heard == [2.0]
    assert [(event["event"], event["on"]) for event in log] == [("extension_failed", "on_placed")]
