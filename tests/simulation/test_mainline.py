"""The emulated mainline: its nodes at the wire, its routing tables, and a small run."""

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode, messages
from extensions.dht.krpc.messages import Contact, Item, Reply
from extensions.dialing import is_public
from tests.private_dht import PrivateDht
from tests.simulation.clock import VirtualLoop
from tests.simulation.dht import liars
from tests.simulation.dht.addresses import (
    crc32c,
    fitting_addresses,
    fitting_prefix,
    in_one_network,
    number_of,
    tracker_addresses,
)
from tests.simulation.dht.churn import REMEMBERED, Churn
from tests.simulation.dht.mainline import Conditions, Mainline, make_mainline
from tests.simulation.dht.nodes import (
    SECRET_LIFETIME,
    EmulatedNode,
    Kind,
    Silent,
    SilentToItems,
    WithoutItems,
    WithoutTokens,
    late_by,
    refusing,
)
from tests.simulation.dht.population import BITS, FITTING_BITS, Population, prefix_of
from tests.simulation.dht.tables import BUCKET, NEAR, closest_known, table_of
from tests.simulation.dht.wire import pack_address, read_query

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


# The wire


class Table:
    """The surroundings of a single node, which knows no other one, or these."""

    def __init__(self, *contacts: Contact) -> None:
        self.contacts = list(contacts)

    def closest_known(self, _number: int, _target: bytes) -> list[Contact]:
        return self.contacts


def make(kind: Kind = EmulatedNode, *contacts: Contact) -> EmulatedNode:
    return kind(Table(*contacts), 7, Contact(b"n" * 20, ("1.2.3.4", 6881)))


def ask(node: EmulatedNode, method: bytes, arguments: dict[bytes, Any], host: tuple[str, int] = HOST) -> Any:
    """Send one query and return the only answer, decoded; None without an answer."""
    data = bencode.encode({b"a": {b"id": b"x" * 20, **arguments}, b"q": method, b"t": b"ab", b"y": b"q"})
    query = read_query(data, host)
    assert query
    answers = list(node.answer(query))
    assert len(answers) <= 1
    return bencode.decode(answers[0][1]) if answers else None


def put_arguments(token: bytes, seq: int, value: Any = b"value", salt: bytes = SALT, **others: Any) -> dict[bytes, Any]:
    arguments = {b"k": PUBLIC, b"salt": salt, b"seq": seq, b"v": value, b"token": token}
    signature = messages.sign_item(KEY, salt, seq, value)
    return {b"sig": signature, **arguments, **{name.encode(): other for name, other in others.items()}}


Ask = Callable[[bytes, dict[bytes, Any]], Awaitable[Any]]


async def conversation(send: Ask) -> list[tuple[str, object]]:
    """Send one query after the other, and return of each answer what must be the same at all nodes."""
    told: list[tuple[str, object]] = []

    async def query(text: str, method: bytes, arguments: dict[bytes, Any]) -> dict[bytes, Any]:
        answer = await send(method, arguments)
        reply: dict[bytes, Any] = answer.get(b"r", {})
        if answer[b"y"] == b"e":
            told.append((text, answer[b"e"][0]))
        else:
            # libtorrent also tells the port that it sees.
            told.append((text, [sorted(reply.keys() - {b"p"}), reply.get(b"seq"), reply.get(b"v")]))
        return reply

    token = (await query("get", b"get", {b"target": TARGET}))[b"token"]
    for text, arguments in {
        "bad token": put_arguments(b"bad!", 1),
        "token of another target": put_arguments(token, 1, salt=b"r1"),
        "bad signature": put_arguments(token, 1, sig=bytes(64)),
        "too long": put_arguments(token, 1, bytes(997)),
        "negative": put_arguments(token, -1),
        "long salt": put_arguments(token, 1, salt=bytes(65)),
        "first, whatever it expects": put_arguments(token, 3, cas=17),
        "same version": put_arguments(token, 3, b"other"),
        "stale": put_arguments(token, 4, cas=0),
        "older": put_arguments(token, 2),
        "older and stale": put_arguments(token, 2, cas=2),
        "newer": put_arguments(token, 4, b"newer", cas=3),
    }.items():
        await query(text, b"put", arguments)
        await query(f"get after {text}", b"get", {b"target": TARGET})
    token = (await query("get_peers", b"get_peers", {b"info_hash": INFO_HASH}))[b"token"]
    announced = {b"info_hash": INFO_HASH, b"port": 443}
    await query("announce with a bad token", b"announce_peer", {**announced, b"token": b"bad!"})
    await query("announce a bad port", b"announce_peer", {**announced, b"token": token, b"port": 80_000})
    await query("announce", b"announce_peer", {**announced, b"token": token})
    told.append(("port", (await query("peers", b"get_peers", {b"info_hash": INFO_HASH}))[b"values"][0][-2:]))
    for method in (b"ping", b"find_node", b"get", b"get_peers", b"announce_peer", b"unknown"):
        await query(f"{method.decode()} without arguments", method, {})
    await query("unknown method with a target", b"unknown", {b"target": TARGET})
    return told


async def test_a_node_answers_as_libtorrent_does() -> None:
    node = make()

    async def ask_emulated(method: bytes, arguments: dict[bytes, Any]) -> Any:
        return ask(node, method, arguments)

    async with PrivateDht(1) as dht:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
            # libtorrent answers in a thread of its own.
            udp.settimeout(20.0)
            udp.connect(dht.addresses[0])

            async def ask_real(method: bytes, arguments: dict[bytes, Any]) -> Any:
                data = bencode.encode({b"a": {b"id": b"x" * 20, **arguments}, b"q": method, b"t": b"ab", b"y": b"q"})
                udp.send(data)
                return bencode.decode(udp.recv(4096))

            assert await conversation(ask_emulated) == await conversation(ask_real)


class TestNodes:
    def token(self, node: EmulatedNode, host: tuple[str, int] = HOST) -> bytes:
        token: bytes = ask(node, b"get", {b"target": TARGET}, host)[b"r"][b"token"]
        return token

    def test_a_token_is_valid_for_its_host_and_for_some_minutes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        node, now = make(), [1000.0 * SECRET_LIFETIME]
        monkeypatch.setattr("tests.simulation.dht.nodes.time.monotonic", lambda: now[0])
        token = self.token(node)
        assert ask(node, b"put", put_arguments(token, 1), ("5.0.0.2", 50000))[b"e"][0] == 203
        assert ask(make(), b"put", put_arguments(token, 1), ("5.0.0.2", 50000))[b"e"][0] == 203
        now[0] += SECRET_LIFETIME
        assert ask(node, b"put", put_arguments(token, 1))[b"y"] == b"r"
        now[0] += SECRET_LIFETIME
        assert ask(node, b"put", put_arguments(token, 2))[b"e"][0] == 203

    def test_contacts_are_those_of_its_table(self) -> None:
        known = Contact(b"k" * 20, ("1.1.1.1", 5))
        for method, name in ((b"find_node", b"target"), (b"get", b"target"), (b"get_peers", b"info_hash")):
            reply = messages.decode(bencode.encode(ask(make(EmulatedNode, known), method, {name: TARGET})))
            assert isinstance(reply, Reply)
            assert reply.contacts == (known,)

    def test_ipv6_contacts_are_in_a_field_of_their_own(self) -> None:
        known = Contact(b"k" * 20, ("2a00:0:0:1::1", 5))
        node = EmulatedNode(Table(known), 1, Contact(b"n" * 20, ("2a00::1", 6881)))
        answer = ask(node, b"get", {b"target": TARGET})
        assert b"nodes" not in answer[b"r"]
        reply = messages.decode(bencode.encode(answer))
        assert isinstance(reply, Reply)
        assert reply.contacts == (known,)

    def test_silence(self) -> None:
        assert ask(make(Silent), b"ping", {}) is None

    def test_a_node_without_items(self) -> None:
        assert ask(make(WithoutItems), b"get", {b"target": TARGET})[b"e"][0] == 204
        assert ask(make(WithoutItems), b"put", put_arguments(b"", 1))[b"e"][0] == 204
        assert b"token" in ask(make(WithoutItems), b"get_peers", {b"info_hash": TARGET})[b"r"]

    def test_a_node_that_is_silent_to_items(self) -> None:
        assert ask(make(SilentToItems), b"get", {b"target": TARGET}) is None
        assert ask(make(SilentToItems), b"put", put_arguments(b"", 1)) is None
        assert b"nodes" in ask(make(SilentToItems), b"find_node", {b"target": TARGET})[b"r"]

    def test_a_node_without_tokens(self) -> None:
        assert ask(make(WithoutTokens), b"get", {b"target": TARGET})[b"r"].keys() == {b"id", b"nodes"}

    def test_a_late_node(self) -> None:
        query = read_query(b"d1:ade1:q4:ping1:t1:a1:y1:qe", HOST)
        assert query
        assert [wait for wait, _ in make(late_by(1.5)).answer(query)] == [1.5]

    @pytest.mark.parametrize("code", [203, 301])
    def test_a_node_that_refuses(self, code: int) -> None:
        node = make(refusing(code))
        assert ask(node, b"put", put_arguments(self.token(node), 1))[b"e"][0] == code


class TestLiars:
    def test_sybils_accept_and_store_nothing(self) -> None:
        group = [Contact(bytes([number]) * 20, (f"1.1.{number}.1", 6881)) for number in range(30)]
        node = make(liars.sybils(group))
        reply = messages.decode(bencode.encode(ask(node, b"get", {b"target": TARGET})))
        assert isinstance(reply, Reply)
        assert len(set(reply.contacts) & set(group)) == liars.NAMED
        assert ask(node, b"put", put_arguments(reply.token, 1))[b"y"] == b"r"
        assert b"v" not in ask(node, b"get", {b"target": TARGET})[b"r"]
        assert node.is_empty

    def test_chameleons_have_an_id_next_to_each_target(self) -> None:
        pool = [Contact(bytes([number]) * 20, (f"1.1.{number}.1", 6881)) for number in range(5)]
        node = make(liars.chameleons(pool))
        for target in (TARGET, INFO_HASH):
            reply = messages.decode(bencode.encode(ask(node, b"get", {b"target": target})))
            assert isinstance(reply, Reply)
            ids = {reply.node_id, *(contact.node_id for contact in reply.contacts)}
            assert len(ids) == 6
            assert {node_id[:8] for node_id in ids} == {target[:8]}
            # The same id again, because an id that changes is no use.
            assert ask(node, b"get", {b"target": target})[b"r"][b"id"] == reply.node_id
        other = liars.chameleons(pool)(Table(), 8, pool[3])
        assert ask(other, b"get", {b"target": INFO_HASH})[b"r"][b"id"] in ids

    def test_hosts_without_tracker(self) -> None:
        reply = messages.decode(
            bencode.encode(ask(make(liars.NamesHostsWithoutTracker), b"get_peers", {b"info_hash": TARGET}))
        )
        assert isinstance(reply, Reply)
        assert len(set(reply.peers)) == liars.NO_TRACKERS
        assert all(is_public(host) for host, _ in reply.peers)

    @pytest.mark.parametrize(("kind", "count"), [(liars.NamesNobody, 20), (liars.NamesTooMany, 145)])
    def test_contacts_with_nobody_there(self, kind: Kind, count: int) -> None:
        network = make_mainline(Conditions(nodes=3000), 1)
        message = ask(make(kind), b"get", {b"target": TARGET})
        assert len(message[b"r"][b"nodes"]) == 26 * count
        reply = messages.decode(bencode.encode(message))
        assert isinstance(reply, Reply)
        assert all(contact.node_id[:6] == TARGET[:6] for contact in reply.contacts)
        assert all(is_public(contact.address[0]) for contact in reply.contacts)
        assert all(network.populations[4].find(contact.address) is None for contact in reply.contacts)

    def test_ids(self) -> None:
        assert ask(make(liars.ClaimsTarget), b"get", {b"target": TARGET})[b"r"][b"id"] == TARGET
        node = make(liars.ClaimsAnyId)
        assert len({ask(node, b"ping", {})[b"r"][b"id"] for _ in range(5)}) == 5

    def test_garbage_hides_no_reply(self) -> None:
        query = read_query(bencode.encode({b"a": {b"target": TARGET}, b"q": b"get", b"t": b"ab", b"y": b"q"}), HOST)
        assert query
        decoded = [messages.decode(data) for _, data in make(liars.SendsGarbage).answer(query)]
        replies = [one for one in decoded if isinstance(one, Reply) and one.transaction == b"ab"]
        assert len(replies) == 1
        assert replies[0].item
        assert not messages.is_valid(replies[0].item, PUBLIC, SALT)
        assert None in decoded

    def test_a_node_with_given_items(self) -> None:
        item = Item(PUBLIC, messages.sign_item(KEY, SALT, 1 << 62, b""), 1 << 62, b"")
        node = make(liars.holding({TARGET: item}))
        reply = messages.decode(bencode.encode(ask(node, b"get", {b"target": TARGET})))
        assert isinstance(reply, Reply)
        assert reply.item == item
        assert messages.is_valid(item, PUBLIC, SALT)
        assert b"v" not in ask(node, b"get", {b"target": INFO_HASH})[b"r"]
        node = make(liars.holding({TARGET: item}, [HOST[0]]))
        assert b"v" in ask(node, b"get", {b"target": TARGET})[b"r"]
        assert b"v" not in ask(node, b"get", {b"target": TARGET}, ("5.0.0.2", 50000))[b"r"]


# Addresses, ids and tables


def test_crc32c() -> None:
    assert crc32c(b"123456789") == 0xE3069283


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
            assert 110 < len(survivors) < 190
            # Of the dead ones, tables have those of the last minutes.
            assert 80 < len(network.populations[4]) - 300 < 170
            # They are forgotten with the next replacement.
            old = [key for key, when in network.died.items() if when < loop.time() - REMEMBERED - 60.0]
            assert old
            assert not {number for _, number in old} & {*network.populations[4].closest(TARGET, 1000)}
            task.cancel()

        loop.run_until_complete(live())
