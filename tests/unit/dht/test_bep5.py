"""Whom one asks for a descriptor, of all those that anyone may have announced."""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest

from extensions.dht.krpc.client import Found
from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.schedule import Job
from extensions.dht.records import bep5
from extensions.dht.records.bep5 import MAX_FETCHES, MAX_HOSTS, MAX_WAITING, PARALLEL, REMEMBER, SecondPath
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.record import Entry, Rejected
from tests.unit.dht.entries import NOW, unsigned

CROWD = [("8.8.4.4", port) for port in range(1, 401)]
HONEST = [(f"9.{number}.9.9", 443) for number in range(1, 6)]


class Announced:
    """A client that finds these addresses, and the hosts there. Those in `trackers` are."""

    def __init__(self, *addresses: Address, private: bool = False) -> None:
        self.addresses = list(addresses)
        self.trackers: dict[Address, Entry] = {}
        self.asked: list[Address] = []
        self.open = asyncio.Event()
        self.open.set()
        self.time, self.passed = float(NOW), 0.0
        self.path = SecondPath(
            cast(Any, self), self.fetch, 80, private, lambda: self.time, lambda: self.passed, Counter[Rejected]()
        )

    async def get_peers(self, _hash: bytes, _job: Job, on_peer: Callable[[Address], None]) -> Found:
        for address in self.addresses:
            on_peer(address)
        return Found()

    async def fetch(self, address: Address, _now: float) -> Entry:
        self.asked.append(address)
        await self.open.wait()
        if address not in self.trackers:
            raise DescriptorError("nothing")
        return self.trackers[address]

    async def find(self, info_hash: bytes = b"x" * 20) -> list[Entry]:
        entries: list[Entry] = []
        await self.path.find(info_hash, [1], Job(), entries.append)
        return entries


async def test_one_host_counts_once_however_many_ports_it_announces() -> None:
    announced = Announced(*CROWD, *HONEST)
    await announced.find()
    assert sorted(host for host, _ in announced.asked) == sorted(["8.8.4.4", *(host for host, _ in HONEST)])


async def test_one_customer_counts_once_however_many_addresses_it_has_in_ipv6() -> None:
    announced = Announced(*((f"2001:470:1:2::{number:x}", 443) for number in range(1, 100)), *HONEST)
    await announced.find()
    assert len(announced.asked) == 1 + len(HONEST)


async def test_a_host_is_asked_once_in_ten_minutes_whatever_the_port() -> None:
    announced = Announced(("9.9.9.9", 80))
    announced.trackers = {("9.9.9.9", 80): unsigned(1)}
    for port in (80, 81, 82):
        announced.addresses = [("9.9.9.9", port)]
        assert await announced.find() == [unsigned(1)]
    assert announced.asked == [("9.9.9.9", 80)]
    announced.passed += REMEMBER
    assert await announced.find() == []
    assert announced.asked == [("9.9.9.9", 80), ("9.9.9.9", 82)]


async def test_a_clock_that_is_set_back_keeps_nobody_from_being_asked_again() -> None:
    announced = Announced(("9.9.9.9", 80))
    await announced.find()
    announced.time -= 1e6
    announced.passed += REMEMBER
    await announced.find()
    assert len(announced.asked) == 2


async def test_in_a_private_dht_each_address_is_a_host() -> None:
    announced = Announced(("127.0.0.1", 1), ("127.0.0.1", 2), private=True)
    await announced.find()
    assert len(announced.asked) == 2


async def test_so_many_hosts_are_collected_and_few_of_them_asked() -> None:
    announced = Announced(*((f"9.{n >> 8}.{n & 255}.1", 80) for n in range(MAX_HOSTS * 2)))
    await announced.find()
    assert len(set(announced.asked)) == len(announced.asked) == MAX_FETCHES
    assert all(int(host.split(".")[1]) * 256 + int(host.split(".")[2]) < MAX_HOSTS for host, _ in announced.asked)


@pytest.mark.parametrize("address", [("127.0.0.1", 80), ("10.0.0.1", 80), ("9.9.9.9", 0), ("::1", 80)])
async def test_others_machines_are_left_alone(address: Address) -> None:
    announced = Announced(address)
    await announced.find()
    assert announced.asked == []


async def test_hosts_that_do_not_answer_hold_nobody_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bep5, "PATIENCE", 0.05)
    announced = Announced(*HONEST)
    announced.open.clear()
    assert await announced.find() == []
    announced.open.set()
    announced.trackers = dict.fromkeys(HONEST, unsigned(1))
    assert await announced.find() == [unsigned(1)] * len(HONEST)


async def test_where_too_many_wait_no_more_are_asked() -> None:
    announced = Announced()
    announced.open.clear()
    lookups = []
    for number in range(20):
        announced.addresses = [(f"9.{number}.{host}.1", 80) for host in range(MAX_FETCHES)]
        lookups.append(asyncio.ensure_future(announced.find()))
        await asyncio.sleep(0)
    announced.open.set()
    await asyncio.gather(*lookups)
    assert len(announced.asked) == PARALLEL + MAX_WAITING


async def test_what_another_lookup_asks_meanwhile_is_not_asked_again() -> None:
    announced = Announced(*HONEST)
    announced.open.clear()
    announced.trackers = dict.fromkeys(HONEST, unsigned(1))
    lookups = [asyncio.ensure_future(announced.find()) for _ in range(3)]
    await asyncio.sleep(0)
    announced.open.set()
    for found in await asyncio.gather(*lookups):
        assert found == [unsigned(1)] * len(HONEST)
    # Those that were under way at the same moment both are.
    assert len(announced.asked) < 3 * len(HONEST)
