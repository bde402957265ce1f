"""The emulated mainline: its addresses and routing tables, its network, and a small run."""

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode, messages
from extensions.dialing import is_public
from tests.simulation.clock import VirtualLoop
from tests.simulation.dht.addresses import (
    fitting_addresses,
    fitting_prefix,
    in_one_network,
    number_of,
    tracker_addresses,
)
from tests.simulation.dht.churn import REMEMBERED, Churn
from tests.simulation.dht.mainline import Conditions, Mainline, make_mainline
from tests.simulation.dht.nodes import (
    Silent,
    WithoutTokens,
)
from tests.simulation.dht.population import BITS, FITTING_BITS, Population, prefix_of
from tests.simulation.dht.tables import BUCKET, NEAR, closest_known, table_of
from tests.simulation.dht.wire import pack_address

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
SALT = b"r0"
TARGET = messages.item_target(PUBLIC, SALT)
INFO_HASH = bytes(range(20))
HOST = ("5.0.0.1", 50000)


def simulate(file: Path, *arguments: str, hash_seed: str = "random") -> list[dict[str, Any]]:
    """Run scenarios and return their cases."""
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    done = subprocess.run(
        [sys.executable, "-m", "tests.simulation.dht", *arguments, "--json", str(file)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    cases: list[dict[str, Any]] = json.loads(file.read_text())
    return cases


def test_a_published_tracker_is_found_and_a_run_is_the_same_each_time(tmp_path: Path) -> None:
    seed = str(random.randrange(1 << 32))
    arguments = ("--scenario", "calm", "--only", "dead 20%, fitting 85%", "--nodes", "4000", "--infohashes", "6")
    one, other = (simulate(tmp_path / f"{number}", *arguments, "--seed", seed, hash_seed=number) for number in "12")
    assert one == other
    (case,) = one
    assert case["figures"]["found"] == case["figures"]["of"] == 6
    assert min(case["figures"]["copies"]) >= 4
    assert len(case["digest"]) == 32


# Addresses, ids and tables


@pytest.mark.parametrize(
    ("host", "last", "first"),
    [
        ("124.31.75.21", 1, "5fbfbf"),
        ("21.75.31.124", 86, "5a3ce9"),
        ("65.23.51.170", 22, "a5d432"),
        ("84.124.73.14", 65, "1b0321"),
        ("43.213.53.83", 90, "e56f6c"),
    ],
)
def test_ids_that_fit_an_address(host: str, last: int, first: str) -> None:
    """The vectors of BEP 42."""
    assert fitting_prefix(host, last & 7) == int(first, 16) >> 3


@pytest.fixture(scope="module", params=[4, 6])
def population(request: pytest.FixtureRequest) -> Population:
    return Population(3, 5000, request.param)


class TestPopulation:
    def test_each_node_has_a_global_address_and_is_found_by_it(self, population: Population) -> None:
        addresses = [population.address(number) for number in range(len(population))]
        assert len({host.rpartition("." if population.family == 4 else ":")[0] for host, _ in addresses}) == 5000
        assert all(is_public(host) for host, _ in addresses)
        assert [population.find(address) for address in addresses] == list(range(5000))
        host, port = addresses[5]
        assert population.find((host, port + 1)) is None
        others = {(other, port) for other, _ in addresses} - {*addresses}
        assert not any(population.find(address) for address in others)
        assert all(population.find((host, 50_000)) is None for host in tracker_addresses(1))
        # As the product reads it from a reply.
        assert addresses[5] == (messages.decode(contact_reply(addresses[5])).contacts[0].address)  # type: ignore[union-attr]

    def test_nodes_are_in_the_order_of_their_ids(self, population: Population) -> None:
        ids = [population.node_id(population.number_at(place)) for place in range(len(population))]
        assert ids == sorted(ids)
        assert [prefix_of(node_id) for node_id in ids] == [population.prefix_at(place) for place in range(len(ids))]

    def test_a_share_of_the_ids_fits(self, population: Population) -> None:
        assert 0.82 < sum(population.fits(number) for number in range(2000)) / 2000 < 0.88

    def test_ranges(self, population: Population) -> None:
        assert population.range_of(0, 0) == (0, len(population))
        low, high = population.range_of(1 << 63, 1)
        assert high == len(population)
        assert population.prefix_at(low) >> 63 == 1
        assert population.prefix_at(low - 1) >> 63 == 0

    def test_closest(self, population: Population) -> None:
        ids = {number: population.node_id(number) for number in range(len(population))}
        target = int.from_bytes(TARGET, "big")
        expected = sorted(ids, key=lambda number: int.from_bytes(ids[number], "big") ^ target)[:20]
        assert population.closest(TARGET, 20) == expected

    def test_nodes_come_and_go(self, population: Population) -> None:
        changed = population.copy()
        (given,) = changed.add([(TARGET, None)])
        (placed,) = changed.add([(INFO_HASH, ("9.9.9.9", 9))])
        grown = changed.grow(3)
        assert changed.node_id(given) == TARGET
        assert changed.find(changed.address(given)) == given
        assert changed.find(("9.9.9.9", 9)) == placed
        assert changed.closest(TARGET, 1) == [given]
        assert len(changed) == 5005
        changed.remove(given)
        for number in grown:
            changed.remove(number)
        changed.remove(placed)
        assert changed.closest(TARGET, 5) == population.closest(TARGET, 5)
        assert len(population) == 5000
        assert population.find(("9.9.9.9", 9)) is None


def contact_reply(address: tuple[str, int]) -> bytes:
    name = b"nodes6" if ":" in address[0] else b"nodes"
    return bencode.encode({b"r": {b"id": bytes(20), name: bytes(20) + pack_address(address)}, b"t": b"", b"y": b"r"})


def test_addresses_of_attackers() -> None:
    prefix = prefix_of(TARGET) >> BITS - FITTING_BITS
    chance, found = next((chance, found) for chance in range(8) if (found := fitting_addresses(prefix, chance, 50)))
    assert len({host.rpartition(".")[0] for host, _ in found}) == 50
    assert {fitting_prefix(host, chance) for host, _ in found} == {prefix}
    inside = in_one_network(8, 3)
    assert len({host.rpartition("::")[0] for host, _ in inside}) == 8
    assert len({host.split(":")[:3][2] for host, _ in inside}) == 1
    assert all(is_public(host) and number_of((host, port)) is None for host, port in inside)


@pytest.fixture(scope="module")
def nodes() -> Population:
    return Population(5, 5000)


class TestTables:
    def test_a_node_near_a_target_knows_the_closest_ones(self, nodes: Population) -> None:
        for seed in range(50):
            target = random.Random(seed).randbytes(20)
            owner, *others = nodes.closest(target, BUCKET + 1)
            assert closest_known(nodes, owner, nodes.node_id(owner), target) == others

    def test_a_node_far_away_knows_some_that_are_closer(self, nodes: Population) -> None:
        for seed in range(50):
            target = random.Random(seed).randbytes(20)
            owner = nodes.closest(bytes(255 - byte for byte in target), 1)[0]
            known = closest_known(nodes, owner, nodes.node_id(owner), target)
            assert len(set(known)) == BUCKET
            assert {nodes.node_id(number)[0] >> 7 for number in known} == {target[0] >> 7}
            assert known == closest_known(nodes, owner, nodes.node_id(owner), target)

    def test_walking_from_node_to_node_ends_at_the_closest(self, nodes: Population) -> None:
        for seed in range(20):
            target = random.Random(seed).randbytes(20)
            distance = {one: prefix_of(nodes.node_id(one)) ^ prefix_of(target) for one in range(5000)}
            here, there = -1, seed
            while here < 0 or distance[there] < distance[here]:
                here = there
                known = closest_known(nodes, here, nodes.node_id(here), target)
                there = min(known, key=distance.__getitem__)
            assert here == nodes.closest(target, 1)[0]

    def test_a_table_has_full_buckets_and_all_neighbours(self, nodes: Population) -> None:
        for owner in range(100):
            table = table_of(nodes, owner, nodes.node_id(owner))
            assert len(table) == len(set(table)) < 150
            assert owner not in table
            assert set(nodes.closest(nodes.node_id(owner), NEAR)[1:]) <= {*table}
            first = nodes.node_id(owner)[0] >> 7
            assert sum(nodes.node_id(number)[0] >> 7 != first for number in table) == BUCKET

    def test_replies_have_nodes_of_the_table(self, nodes: Population) -> None:
        for owner in range(100):
            own_id = nodes.node_id(owner)
            table = {*table_of(nodes, owner, own_id)}
            for bits in range(20):
                target = (int.from_bytes(own_id, "big") ^ 1 << 159 - bits).to_bytes(20, "big")
                known = closest_known(nodes, owner, own_id, target)
                assert len(set(known)) == BUCKET
                assert {*known} <= table

    def test_a_small_network_is_known_to_all(self) -> None:
        nodes = Population(1, 12)
        assert sorted(table_of(nodes, 3, nodes.node_id(3))) == [number for number in range(12) if number != 3]
        assert len(closest_known(nodes, 3, nodes.node_id(3), TARGET)) == BUCKET


# The network


class Receiver(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: list[tuple[float, Any, Any]] = []

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((asyncio.get_running_loop().time(), bencode.decode(data), addr))


@pytest.fixture
def loop() -> Iterator[VirtualLoop]:
    loop = VirtualLoop()
    yield loop
    loop.close()


class TestMainline:
    PING = b"d1:ade1:q4:ping1:t1:a1:y1:qe"

    def replies(self, loop: VirtualLoop, network: Mainline, host: str, *numbers: int) -> list[tuple[float, Any, Any]]:
        """Send a ping to nodes, each three times. Return the replies, and the time that each has taken."""

        async def send() -> list[tuple[float, Any, Any]]:
            loop.open_udp = network.open_socket
            transport, receiver = await loop.create_datagram_endpoint(Receiver, (host, 0))
            started = loop.time()
            for number in numbers * 3:
                transport.sendto(self.PING, network.contact(6 if ":" in host else 4, number).address)
            await asyncio.sleep(10.0)
            transport.close()
            return [(when - started, data, address) for when, data, address in receiver.received]

        return loop.run_until_complete(send())

    def live(self, network: Mainline, family: int = 4) -> list[int]:
        return [number for number in range(200) if not network.is_dead(family, number)]

    def test_round_trips(self, loop: VirtualLoop) -> None:
        network = make_mainline(Conditions(nodes=3000, loss=0.0, families=(4, 6)), 1)
        for host in tracker_addresses(1):
            live = self.live(network, 6 if ":" in host else 4)
            assert 130 < len(live) < 185, "a fifth is dead"
            replies = self.replies(loop, network, host, *range(200))
            assert len(replies) == 3 * len(live)
            times = sorted(passed for passed, _, _ in replies)
            assert 0.08 < times[len(times) // 2] < 0.18
            assert times[0] < 0.04
            assert times[-1] > 0.4
            assert {data[b"r"][b"id"] for _, data, _ in replies} == {
                network.contact(6 if ":" in host else 4, number).node_id for number in live
            }

    def test_loss(self, loop: VirtualLoop) -> None:
        network = make_mainline(Conditions(nodes=3000, dead=0.0, loss=0.5), 1)
        assert 200 < len(self.replies(loop, network, "5.0.0.1", *range(200))) < 400

    def test_an_outage_of_one_tracker(self, loop: VirtualLoop) -> None:
        network = make_mainline(Conditions(nodes=3000, loss=0.0), 1)
        network.cut_off.add("5.0.0.1")
        live = self.live(network)
        assert self.replies(loop, network, "5.0.0.1", *live) == []
        assert self.replies(loop, network, "5.0.0.2", *live)
        network.cut_off.clear()
        assert self.replies(loop, network, "5.0.0.1", *live)

    @pytest.mark.parametrize("is_at_first", [True, False])
    def test_an_outage_that_begins_or_ends_on_the_way(self, loop: VirtualLoop, is_at_first: bool) -> None:
        network = make_mainline(Conditions(nodes=3000, loss=0.0), 1)
        hosts = {"5.0.0.1"} if is_at_first else set()
        network.cut_off.update(hosts)
        loop.call_later(0.001, network.cut_off.symmetric_difference_update, {"5.0.0.1"})
        assert self.replies(loop, network, "5.0.0.1", *self.live(network)) == []

    def test_shares_of_kinds(self) -> None:
        conditions = Conditions(nodes=3000, dead=0.0, kinds={Silent: 0.2, WithoutTokens: 0.3})
        network = make_mainline(conditions, 1)
        kinds = [type(network.node(4, number)) for number in range(3000)]
        assert 500 < kinds.count(Silent) < 700
        assert 800 < kinds.count(WithoutTokens) < 1000
        assert len(network.of_kind(4, Silent, 64)) == 64
        assert {type(network.node(4, number)) for number in network.of_kind(4, Silent, 64)} == {Silent}

    def test_added_nodes_are_in_the_tables_of_others(self) -> None:
        network = make_mainline(Conditions(nodes=3000), 1)
        added = network.add_nodes(4, [(TARGET[:8] + bytes([number] * 12), None) for number in range(8)], Silent)
        contacts = {network.contact(4, number) for number in added}
        neighbour = network.populations[4].closest(TARGET, 9)[8]
        assert {*network.node(4, neighbour).surroundings.closest_known(neighbour, TARGET)} == contacts
        assert all(isinstance(network.node(4, number), Silent) for number in added)
        assert not any(network.is_dead(4, number) for number in added)
        assert not {*make_mainline(Conditions(nodes=3000), 1).table(4, TARGET)} & contacts, "each network is a new one"

    def test_a_family_without_network(self, loop: VirtualLoop) -> None:
        loop.open_udp = make_mainline(Conditions(nodes=3000), 1).open_socket
        with pytest.raises(OSError, match="no such address"):
            loop.run_until_complete(loop.create_datagram_endpoint(Receiver, ("2a10::1", 0)))

    def test_churn(self, loop: VirtualLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.simulation.dht.churn.time.monotonic", loop.time)
        network = make_mainline(Conditions(nodes=300, dead=0.0), 1)
        churn = Churn(network, 4, half_life=1200.0)

        async def live() -> None:
            task = asyncio.ensure_future(churn.run())
            await asyncio.sleep(1200.0)
            survivors = [number for number in range(300) if not network.is_dead(4, number)]
            # 150 on average, with a standard deviation of 9.
            assert 100 < len(survivors) < 200
            # Of the dead ones, tables have those of the last minutes.
            # 156 on average, with a standard deviation of 12.5.
            assert 90 < len(network.populations[4]) - 300 < 220
            # They are forgotten with the next replacement.
            old = [key for key, when in network.died.items() if when < loop.time() - REMEMBERED - 60.0]
            assert old
            assert not {number for _, number in old} & {*network.populations[4].closest(TARGET, 1000)}
            task.cancel()
            await asyncio.wait([task])

        loop.run_until_complete(live())
