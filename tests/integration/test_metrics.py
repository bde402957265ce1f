"""Counters are present before the first event, because Prometheus sees no growth in the first sample of a counter."""

from pathlib import Path
from typing import Any

import pytest

from extensions.dht.counters import Looked, Written
from extensions.dht.extension import Dht
from extensions.dht.krpc.client import METHODS
from extensions.dht.records.trouble import Trouble
from extensions.entries import Rejected
from extensions.federation.extension import Federation
from extensions.federation.reasons import OTHER, Dropped, EndReason, Gossip
from tests.client import eventually
from tests.integration.conftest import Running
from tracker.reasons import CloseReason, DropReason, RejectReason

QUIET_DHT = {"listen": "127.0.0.1:0", "bootstrap": [], "private": True}

COUNTERS = {
    "peerservers_connections_closed": CloseReason,
    "peerservers_rejected": RejectReason,
    "peerservers_dropped": DropReason,
    "peerservers_reloads": ("done", "failed"),
    "peerservers_extension_errors": ("dht", "federation"),
    "peerservers_federation_links_opened": ("accepted", "dialed"),
    "peerservers_federation_links_ended": EndReason,
    "peerservers_federation_closed_by_others": (*EndReason, OTHER),
    "peerservers_federation_gossip": Gossip,
    "peerservers_federation_dropped": Dropped,
    "peerservers_dht_queries": METHODS,
    "peerservers_dht_lookups": Looked,
    "peerservers_dht_publications": Written,
    "peerservers_dht_rejected": Rejected,
    "peerservers_dht_troubles": Trouble,
}


async def test_all_counters_are_0_at_the_start(serve: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PEERSERVERS_SERVER__STATE_DIR", str(tmp_path))
    tracker: Running = await serve({"dht": Dht, "federation": Federation}, dht=QUIET_DHT)
    await eventually(lambda: "peerservers_dht_lookups" in _families(tracker))
    there = _families(tracker)
    assert {name: there[name] for name in COUNTERS} == {
        name: dict.fromkeys(values, 0.0) for name, values in COUNTERS.items()
    }
    times = there["peerservers_dht_lookup_seconds"]
    assert times == dict.fromkeys(Looked, 0.0)


def _families(tracker: Running) -> dict[str, dict[str, float]]:
    """Return the values of each counter and histogram with a label, by the value of the label."""
    return {
        family.name: {
            next(iter(sample.labels.values())): sample.value
            for sample in family.samples
            if sample.labels and sample.name.endswith(("_total", "_count"))
        }
        for family in tracker.server.registry.collect()
    }
