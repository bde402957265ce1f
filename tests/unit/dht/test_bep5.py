"""The BEP 5 fallback: the hosts that a lookup requests descriptors from, of all those that were announced."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from extensions.dht.krpc.client import Found
from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.bep5 import (
    MAX_FETCHES,
    MAX_WAITING,
    PARALLEL,
    REMEMBER,
    ROUNDS,
    TIMEOUT,
    TOKENS,
    Bep5Fallback,
)
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.keys import announce_hash
from extensions.dht.records.reports import Bep5Report
from extensions.entries import Rejected
from extensions.trackers import RENDEZVOUS, TrackerEntry
from tests.unit.dht.entries import NOW, unsigned

CROWD = [("8.8.4.4", port) for port in range(1, 401)]
HONEST = [(f"9.{number}.9.9", 443) for number in range(1, 6)]


class Announced:
    """Replaces the client and the network: lookups find these addresses; those in `trackers` serve descriptors."""

    def __init__(self, *addresses: Address, private: bool = False, timeout: float = TIMEOUT) -> None:
        self.addresses = list(addresses)
        self.liars: list[list[Address]] = []
        """What further nodes name."""
        self.lookups = 0
        self.trackers: dict[Address, TrackerEntry] = {}
        self.requested: list[Address] = []
        self.announcements: list[tuple[bytes, int]] = []
        self.failure = Rejected.INVALID_DESCRIPTOR
        self.open = asyncio.Event()
        self.open.set()
        self.time, self.passed = float(NOW), 0.0
        self.rejected: Counter[Rejected] = Counter()
        self.fallback = Bep5Fallback(
            cast(Any, self),
            self.fetch,
            80,
            private,
            lambda: self.time,
            lambda: self.passed,
            self.rejected,
            timeout=timeout,
        )

    async def get_peers(
        self, _hash: bytes, _job: Job, on_peers: Callable[[Address, tuple[Address, ...]], None]
    ) -> Found:
        self.lookups += 1
        on_peers(("192.0.2.1", 6881), tuple(self.addresses))
        for number, named in enumerate(self.liars, 2):
            on_peers((f"192.0.2.{number}", 6881), tuple(named))
        return Found()

    async def announce(self, _found: Found, announced: bytes, port: int) -> None:
        self.announcements.append((announced, port))

    async def fetch(self, address: Address, _now: float) -> TrackerEntry:
        self.requested.append(address)
        await self.open.wait()
        if address not in self.trackers:
            raise DescriptorError("nothing", self.failure)
        return self.trackers[address]

    async def find(
        self, info_hash: bytes = b"x" * 20, own_id: str = "", report: Bep5Report | None = None
    ) -> list[TrackerEntry]:
        """Return all entries found. Those of `own_id` are our own."""
        entries: list[TrackerEntry] = []

        def on_entry(entry: TrackerEntry) -> bool:
            entries.append(entry)
            return entry.tracker_id != own_id

        await self.fallback.find(info_hash, [1], Job(), on_entry, report)
        return entries


async def test_a_host_gets_one_request_however_many_ports_it_announces() -> None:
    announced = Announced(*CROWD, *HONEST)
    await announced.find()
    assert sorted(host for host, _ in announced.requested) == sorted(["8.8.4.4", *(host for host, _ in HONEST)])


async def test_an_ipv6_network_gets_one_request_however_many_of_its_addresses_are_announced() -> None:
    announced = Announced(*((f"2001:470:1:2::{number:x}", 443) for number in range(1, 100)), *HONEST)
    await announced.find()
    assert len(announced.requested) == 1 + len(HONEST)


async def test_a_host_gets_one_request_in_ten_minutes_whatever_the_port() -> None:
    announced = Announced(("9.9.9.9", 80))
    announced.trackers = {("9.9.9.9", 80): unsigned(1)}
    for port in (80, 81, 82):
        announced.addresses = [("9.9.9.9", port)]
        assert await announced.find() == [unsigned(1)]
    assert announced.requested == [("9.9.9.9", 80)]
    announced.passed += REMEMBER
    assert await announced.find() == []
    assert announced.requested == [("9.9.9.9", 80), ("9.9.9.9", 82)]


async def test_a_clock_that_is_set_back_does_not_prevent_the_next_request() -> None:
    announced = Announced(("9.9.9.9", 80))
    await announced.find()
    announced.time -= 1e6
    announced.passed += REMEMBER
    await announced.find()
    assert len(announced.requested) == 2


async def test_in_a_private_dht_each_address_and_port_is_a_host() -> None:
    announced = Announced(("127.0.0.1", 1), ("127.0.0.1", 2), private=True)
    await announced.find()
    assert len(announced.requested) == 2


def hosts(count: int, network: int = 9) -> list[Address]:
    return [(f"{network}.{number >> 8}.{number & 255}.1", 80) for number in range(count)]


async def test_few_hosts_get_a_request_however_many_are_named() -> None:
    announced = Announced(*hosts(1000))
    await announced.find()
    assert len(set(announced.requested)) == len(announced.requested) == ROUNDS * MAX_FETCHES


async def test_other_hosts_get_requests_only_if_no_other_tracker_was_found() -> None:
    for own_id, rounds in (("", 1), (unsigned(1).tracker_id, ROUNDS)):
        announced = Announced(*hosts(1000))
        announced.trackers = dict.fromkeys(announced.addresses, unsigned(1))
        await announced.find(own_id=own_id)
        assert len(announced.requested) == rounds * MAX_FETCHES


async def test_a_host_without_a_descriptor_leaves_its_place_to_others_for_ten_minutes() -> None:
    announced = Announced(*hosts(4 * MAX_FETCHES))
    for _ in range(2):
        await announced.find()
    assert len(set(announced.requested)) == len(announced.requested) == 4 * MAX_FETCHES


@pytest.mark.parametrize("liars", [1, 5, 7])
async def test_liars_that_name_a_hundred_hosts_each_do_not_hide_those_of_other_nodes(liars: int) -> None:
    announced = Announced(*HONEST[:1])
    announced.trackers = {HONEST[0]: unsigned(1)}
    # They agree on what they name, so that each of these hosts has more votes.
    announced.liars = [hosts(100, 11)] * liars
    assert await announced.find() == [unsigned(1)]


async def test_hosts_that_several_nodes_name_come_first() -> None:
    announced = Announced(*HONEST)
    announced.liars = [[*hosts(30, 20 + number), *HONEST] for number in range(30)]
    announced.trackers = dict.fromkeys(HONEST, unsigned(1))
    found = await announced.find()
    assert len(found) >= MAX_FETCHES // 2
    assert len(announced.requested) == MAX_FETCHES


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("10.0.0.1", 80), ("9.9.9.9", 0), ("::1", 80)])
async def test_addresses_that_are_not_global_get_no_request(address: Address) -> None:
    announced = Announced(address)
    await announced.find()
    assert announced.requested == []


async def test_a_lookup_waits_for_silent_hosts_until_its_timeout() -> None:
    announced = Announced(*HONEST, timeout=0.05)
    announced.open.clear()
    assert await announced.find() == []
    announced.open.set()
    announced.trackers = dict.fromkeys(HONEST, unsigned(1))
    assert await announced.find() == [unsigned(1)] * len(HONEST)


async def attack(announced: Announced) -> list[asyncio.Task[list[TrackerEntry]]]:
    """Begin so many lookups, with hosts that do not answer before `open`, that some requests find no place."""
    announced.open.clear()
    lookups = []
    for number in range(20):
        announced.addresses = [(f"9.{number}.{host}.1", 80) for host in range(MAX_FETCHES)]
        lookups.append(asyncio.ensure_future(announced.find()))
        await asyncio.sleep(0)
    return lookups


async def test_requests_beyond_the_waiting_ones_are_dropped() -> None:
    announced = Announced()
    lookups = await attack(announced)
    announced.open.set()
    await asyncio.gather(*lookups)
    assert len(announced.requested) == PARALLEL + MAX_WAITING


async def test_the_rendezvous_has_turns_of_its_own_while_many_infohashes_are_attacked() -> None:
    announced = Announced()
    lookups = await attack(announced)
    announced.addresses = HONEST[:1]
    lookups.append(asyncio.ensure_future(announced.find(RENDEZVOUS)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert HONEST[0] in announced.requested
    announced.open.set()
    await asyncio.gather(*lookups)


async def test_lookups_share_the_result_of_a_request_that_another_one_has_made_meanwhile() -> None:
    announced = Announced(*HONEST)
    announced.open.clear()
    announced.trackers = dict.fromkeys(HONEST, unsigned(1))
    lookups = [asyncio.ensure_future(announced.find()) for _ in range(3)]
    await asyncio.sleep(0)
    announced.open.set()
    for found in await asyncio.gather(*lookups):
        assert found == [unsigned(1)] * len(HONEST)
    # Requests that run at the same time are not shared.
    assert len(announced.requested) < 3 * len(HONEST)


async def test_invalid_descriptors_are_counted_by_reason() -> None:
    announced = Announced(*HONEST)
    announced.failure = Rejected.EXPIRED
    assert await announced.find() == []
    assert announced.rejected == {Rejected.EXPIRED: len(HONEST)}


async def test_the_port_of_our_descriptor_is_announced_under_the_days_hash() -> None:
    announced = Announced()
    await announced.fallback.announce(b"x" * 20, 1, Job())
    assert announced.announcements == [(announce_hash(b"x" * 20, 1), 80)]


async def test_an_announcement_after_a_search_needs_no_lookup_while_tokens_are_valid() -> None:
    announced = Announced()
    await announced.find()
    await announced.fallback.announce(b"x" * 20, 1, Job())
    assert announced.lookups == 1
    await announced.fallback.announce(b"x" * 20, 2, Job())
    announced.passed += TOKENS
    await announced.fallback.announce(b"x" * 20, 1, Job())
    assert (announced.lookups, len(announced.announcements)) == (3, 3)


# Reports


async def test_a_report_has_the_nodes_that_name_each_host_and_the_results_of_requests() -> None:
    announced = Announced(HONEST[0], ("10.0.0.1", 80), ("9.9.9.9", 0))
    announced.liars = [[HONEST[0], HONEST[1], (HONEST[1][0], 80)]]
    announced.trackers = {HONEST[0]: unsigned(1)}
    report = Bep5Report()
    assert await announced.find(report=report) == [unsigned(1)]
    (lookup,) = report.lookups
    assert (lookup.day, lookup.target, lookup.seconds) == (1, announce_hash(b"x" * 20, 1), 0.0)
    nodes = [("192.0.2.1", 6881), ("192.0.2.2", 6881)]
    first, second = report.named.values()
    assert (first.addresses, sorted(first.nodes)) == ({HONEST[0]}, nodes)
    assert (second.addresses, sorted(second.nodes)) == ({HONEST[1], (HONEST[1][0], 80)}, nodes[1:])
    assert report.refused == 2
    results = {one.host: (one.fault, one.entry) for one in report.requests}
    assert results == dict(zip(report.named, [("", unsigned(1)), ("nothing", None)], strict=True))


async def test_a_report_has_the_requests_that_are_not_answered_in_time() -> None:
    announced = Announced(HONEST[0], timeout=0.01)
    announced.open.clear()
    report = Bep5Report()
    await announced.find(report=report)
    assert [(one.address, one.fault, one.entry) for one in report.requests] == [(HONEST[0], "no answer in time", None)]
