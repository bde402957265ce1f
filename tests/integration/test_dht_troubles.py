"""Records in trouble: metrics, lines in the log, and `peerservers lookup --explain`."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from extensions.dht.alarms import HINTS
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.metrics import DhtCollector
from extensions.dht.records.keys import SALTS, announce_hash, day_of, record_key
from extensions.dht.records.trouble import Trouble
from extensions.dht.refresh import REFRESH
from extensions.dht.service import Service
from extensions.entries import LIFETIME
from extensions.trackers import RENDEZVOUS
from tests.client import announce, eventually, raw_client
from tests.conftest import StartTracker, environment
from tests.integration.dht import (
    LOCK,
    RUBBISH,
    Members,
    Vandal,
    client_of,
    client_that_knows,
    members_of,
    published,
    publishes,
)
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id

INFO_HASH = bytes(range(65, 85))
URL = "wss://tracker.example.org"


@pytest.fixture
async def dht() -> AsyncIterator[PrivateDht]:
    # With the tracker's own node, these are eight: all of them store every record, and the attacker reaches them all.
    async with PrivateDht(CLOSEST - 1) as dht:
        yield dht


def metrics(service: Service, name: str) -> dict[str, float]:
    """Return the values of a metric by the value of its label, "" if it has none."""
    return {
        next(iter(sample.labels.values()), ""): sample.value
        for family in DhtCollector(lambda: service).collect()
        for sample in family.samples
        if sample.name == name
    }


async def refresh(members: Members, tracker: Service) -> None:
    """Let a tracker visit its record again."""
    before = tracker.directory.counters.lookups.total()
    members.advance(REFRESH[1])
    await eventually(lambda: tracker.directory.counters.lookups.total() > before and not tracker.directory.visits, 20)


async def test_a_record_in_trouble_is_counted_and_logged_until_it_is_well_again(dht: PrivateDht) -> None:
    async with members_of(dht) as members, client_of(members) as client:
        tracker = await members.start(URL)
        tracker.directory.swarm(INFO_HASH, peers=5, linked=False)
        await published(tracker, INFO_HASH)
        vandal = Vandal(client, INFO_HASH, day_of(members.clock()))
        assert metrics(tracker, "peerservers_dht_troubles_total") == dict.fromkeys(Trouble, 0)
        assert metrics(tracker, "peerservers_dht_troubled_records") == dict.fromkeys(Trouble, 0)
        with capture_logs() as lines:
            await vandal.write(0, RUBBISH)
            await refresh(members, tracker)
            found = tracker.directory.tracked[INFO_HASH].troubles
            assert Trouble.SPOILT in found
            kinds = {kind: float(kind in found) for kind in Trouble}
            assert metrics(tracker, "peerservers_dht_troubles_total") == kinds
            assert metrics(tracker, "peerservers_dht_troubled_records") == kinds
            # It is overwritten, and the next look finds it in order.
            await refresh(members, tracker)
        assert metrics(tracker, "peerservers_dht_troubles_total") == kinds
        assert metrics(tracker, "peerservers_dht_troubled_records") == dict.fromkeys(Trouble, 0)
        told = [line for line in lines if line["event"].startswith("dht_record")]
        names = [kind.value for kind in Trouble if kind in found]
        assert [(line["event"], line["infohash"], line["troubles"]) for line in told] == [
            ("dht_record_troubled", INFO_HASH.hex(), names),
            ("dht_record_recovered", INFO_HASH.hex(), names),
        ]
        assert told[0]["hint"] in HINTS.values()


async def test_metrics_of_the_size_of_the_dht_and_of_our_copies(dht: PrivateDht) -> None:
    async with members_of(dht) as members:
        # An estimate needs eight other nodes that answer.
        tracker, _ = await asyncio.gather(members.start(URL), members.start())
        tracker.directory.swarm(INFO_HASH, peers=5, linked=False)
        await published(tracker, INFO_HASH)

        async def is_measured() -> bool:
            await tracker.client.measure()
            return metrics(tracker, "peerservers_dht_estimated_nodes")["ipv4"] > 0

        await eventually(is_measured, 20)
        sizes = metrics(tracker, "peerservers_dht_estimated_nodes")
        assert (set(sizes), sizes["ipv4"] < 100, sizes["ipv6"]) == ({"ipv4", "ipv6"}, True, 0.0)
        await refresh(members, tracker)
        assert metrics(tracker, "peerservers_dht_copies")[""] > 3
        assert metrics(tracker, "peerservers_dht_refresh_seconds")[""] > REFRESH[0]
        assert metrics(tracker, "peerservers_dht_refusers") == {"": 0.0}
        assert metrics(tracker, "peerservers_dht_stores_failed_total") == {"": 0.0}


async def explain(dht: PrivateDht, info_hash: bytes, *options: str) -> str:
    """Run `peerservers lookup --explain`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tracker", "lookup", "--private", "--listen", "127.0.0.1:0", "--bootstrap", dht.bootstrap[0]),
        *("--explain", *options, info_hash.hex()),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0, (out, err)
    return out.decode()


async def test_the_command_explains_a_record_with_a_locked_and_a_spoilt_slot(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(
        env={
            **environment("server", state_dir=str(tmp_path), public_url=URL),
            **environment("extensions.dht", enabled=True, **dht.settings),
        }
    )
    async with raw_client(tracker.url) as peer, client_that_knows(dht.contacts) as client:
        await peer.send(announce(peer_id(1), INFO_HASH.decode()))
        await publishes(tracker, 2)
        day = day_of(time.time())
        vandal = Vandal(client, INFO_HASH, day)
        entry = await value_of(client, INFO_HASH, day)
        # It moves to r2, because the tracker does not look before an hour has passed.
        for slot, value, seq in ((0, RUBBISH, LOCK), (1, RUBBISH, None), (2, entry, None)):
            assert (await vandal.write(slot, value, seq)).taken > 4
        text, document = await asyncio.gather(explain(dht, INFO_HASH), explain(dht, INFO_HASH, "--json"))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[0] == "URL EXPIRES FOUND IN TRACKER ID"
    assert any(line.startswith("The DHT has ") for line in lines)
    assert any(line.startswith("state locked: ") for line in lines)
    # The tracker's own node may still have the entry.
    assert any(line.startswith("then r1, because r0 is locked") for line in lines)
    assert "then r2, because r1 is spoilt" in lines
    rubbish = f"item {LOCK}, 7 bytes; 0 valid entries, ignored 1 not_bencode"
    assert any(line.startswith("value at ") and line.endswith(rubbish) for line in lines)
    assert any(line.startswith("believed from ") and line.endswith(URL) for line in lines)
    assert sum(line.startswith("* 1") and line.endswith(f" fits item {LOCK}, token") for line in lines) > 4
    assert "BEP 5, because the record is in trouble" in lines
    explanation = json.loads(document)["explanation"]
    assert set(explanation["estimated_nodes"]) == {"ipv4"}
    (visit,) = explanation["visits"]
    assert visit["complete"]
    readings: list[dict[str, Any]] = visit["readings"]
    slots = {one["salt"]: one for one in readings if one["day"] == day}
    assert slots["r0"]["states"][0] == "locked"
    assert [slots[salt]["states"] for salt in ("r1", "r2")] == [["spoilt"], []]
    (believed,) = slots["r2"]["entries"]
    assert (believed["url"], abs(believed["expires"] - time.time() - LIFETIME) < 60) == (URL, True)
    assert slots["r0"]["seq"] == LOCK
    assert all(one["fits"] for one in slots["r0"]["nodes"])
    assert sum(one["seq"] == LOCK for one in slots["r0"]["nodes"]) > 4
    assert [one["target"] for one in visit["bep5"][0]["lookups"] if one["day"] == day] == [
        announce_hash(INFO_HASH, day).hex()
    ]


async def value_of(client: Client, info_hash: bytes, day: int) -> bytes:
    """Return the value in the first slot of a record."""
    values: list[bytes] = []
    public_key = record_key(info_hash, day).public_key().public_bytes_raw()
    await client.get(public_key, SALTS[0], Job(), lambda item: values.append(item.value))
    return values[0]


async def test_the_command_explains_which_hosts_are_named_and_what_they_gave(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(
        env={
            **environment("server", state_dir=str(tmp_path), public_url=URL),
            **environment("extensions.dht", enabled=True, **dht.settings),
        }
    )
    await publishes(tracker, 1)
    async with client_that_knows(dht.contacts) as client:
        # A host that is no tracker.
        announced = announce_hash(RENDEZVOUS, day_of(time.time()))
        found = await client.get_peers(announced, Job(), lambda _node, _peers: None)
        await client.announce(found, announced, 9)
    lines: list[str] = []
    named: list[str] = []

    async def are_named() -> bool:
        text = await explain(dht, RENDEZVOUS)
        lines[:] = [" ".join(line.split()) for line in text.splitlines()]
        named[:] = [line.partition(" nodes ")[2] for line in lines if line.startswith("by ")]
        return len(named) > 1

    # A tracker announces itself a moment after it has published.
    await eventually(are_named, 60)
    assert "then not r1, because r0 can be read, and has room" in lines
    # The tracker announces the port of its public URL.
    assert sorted(line.partition(": ")[0] for line in named) == ["127.0.0.1 port 443", "127.0.0.1 port 9"]
    assert all("Connection refused" in line for line in named)
