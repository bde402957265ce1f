"""Stores at nodes that refuse, lie, or are silent; and lookups that such nodes cannot hold up."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from typing import Any, Final, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode, messages
from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import CAS_MISMATCH, ERROR_METHOD, Address, Contact, Reply
from extensions.dht.krpc.messenger import Messenger, QueryListener
from extensions.dht.krpc.refusers import Refusers
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.stores import MAX_REPLACED, TOKEN_LASTS, Search, Store
from extensions.dht.krpc.traversal import CLOSEST, Candidate, Goal, State, Traversal
from extensions.dht.krpc.walks import Walk
from tests.unit.dht.test_traversal import anyone

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()
SALT = b"r0"
TARGET = messages.item_target(PUBLIC_KEY, SALT)


class Node(asyncio.DatagramProtocol):
    """A node at a distance from the target. Its behaviour can be set."""

    def __init__(self, dht: "Dht", distance: int) -> None:
        self.distance = distance
        self.node_id = (int.from_bytes(TARGET, "big") ^ distance).to_bytes(20, "big")
        self.seq, self.value, self.signature = 0, b"", b""
        self.token: bytes = b"token"
        self.refuses: dict[str, int] = {}
        """The error code of each method that it refuses."""
        self.asked: list[str] = []
        """The methods of the queries that have come."""
        self._dht = dht

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.contact = Contact(self.node_id, transport.get_extra_info("sockname"))

    def store(self, seq: int, value: bytes, signature: bytes | None = None) -> None:
        self.seq, self.value = seq, value
        self.signature = signature or messages.sign_item(KEY, SALT, seq, value)

    def datagram_received(self, data: bytes, address: Address) -> None:
        query = bencode.decode(data)
        method, arguments = query[b"q"].decode(), query[b"a"]
        self.asked.append(method)
        code = self.refuses.get(method)
        if method == "put" and code is None and arguments[b"cas"] != self.seq:
            code = CAS_MISMATCH
        if code:
            self._send({b"e": [code, b""], b"y": b"e"}, query, address)
            return
        body: dict[bytes, Any] = {b"id": self.node_id}
        if method == "put":
            self.store(arguments[b"seq"], arguments[b"v"], arguments[b"sig"])
        else:
            body[b"nodes"] = self._dht.nodes_for(self)
            body |= {b"token": self.token} if self.token and method != "find_node" else {}
        if method == "get" and self.seq:
            body |= {b"k": PUBLIC_KEY, b"seq": self.seq, b"sig": self.signature, b"v": self.value}
        self._send({b"r": body, b"y": b"r"}, query, address)

    def _send(self, message: dict[bytes, Any], query: dict[bytes, Any], address: Address) -> None:
        self.transport.sendto(bencode.encode({**message, b"t": query[b"t"]}), address)


class Dht:
    """Nodes at the distances 1, 2, 3... from the target, and a client."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.known = 4
        """The client knows so many of the farthest nodes."""
        self.client = Client(lambda _family: [node.contact for node in self.nodes[-self.known :]], True, 1000)

    @classmethod
    @asynccontextmanager
    async def start(cls, size: int) -> AsyncIterator["Dht"]:
        dht = cls()
        await dht.client.start(["127.0.0.1"])
        for number in range(1, size + 1):
            node = Node(dht, number)
            dht.nodes.append(node)
            await asyncio.get_running_loop().create_datagram_endpoint(lambda: dht.nodes[-1], ("127.0.0.1", 0))
        try:
            yield dht
        finally:
            dht.client.close()
            for node in dht.nodes:
                node.transport.close()

    def nodes_for(self, node: Node) -> bytes:
        """Return the eight nodes nearer to the target than this one, in compact form."""
        before = self.nodes[max(0, node.distance - 9) : node.distance - 1]
        return b"".join(
            one.node_id + IPv4Address(one.contact.address[0]).packed + one.contact.address[1].to_bytes(2, "big")
            for one in before
        )

    async def look(self) -> Found:
        return await self.client.get(PUBLIC_KEY, SALT, Job(), lambda _: None)

    async def put(self, found: Found, seq: int = 1) -> Stored:
        return await self.client.put(found, KEY, SALT, seq, b"value %d" % seq)

    def having(self, seq: int) -> list[int]:
        return [node.distance for node in self.nodes if node.seq == seq]


def distances(found: Found) -> list[int]:
    return [candidate.distance for candidate in found.candidates]


async def test_nodes_that_refuse_a_put_are_replaced_and_remembered() -> None:
    async with Dht.start(30) as dht:
        for node in dht.nodes[:3]:
            node.refuses = {"put": 203}
        found = await dht.look()
        assert distances(found) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert await dht.put(found) == Stored(taken=8, failed=3)
        assert dht.having(1) == [4, 5, 6, 7, 8, 9, 10, 11]
        again = await dht.look()
        assert distances(again) == [4, 5, 6, 7, 8, 9, 10, 11]
        # They are asked nevertheless, because they may have items.
        assert {1, 2, 3} <= {candidate.distance for candidate in again.asked}
        assert await dht.put(again, 2) == Stored(taken=8)
        assert all(node.asked.count("put") == 1 for node in dht.nodes[:3])


async def test_if_most_nodes_refuse_puts_eight_that_do_not_are_found() -> None:
    async with Dht.start(60) as dht:
        for node in dht.nodes:
            if node.distance % 4:
                node.refuses = {"put": 205}
        assert (await dht.put(await dht.look())).taken == CLOSEST
        assert dht.having(1) == [4, 8, 12, 16, 20, 24, 28, 32]


async def test_if_all_nodes_refuse_puts_a_store_ends() -> None:
    async with Dht.start(80) as dht:
        for node in dht.nodes:
            node.refuses = {"put": 203}
        stored = await dht.put(await dht.look())
        assert stored == Stored(failed=CLOSEST + MAX_REPLACED)


async def test_nodes_that_refuse_puts_may_take_announcements() -> None:
    async with Dht.start(20) as dht:
        for node in dht.nodes[:8]:
            node.refuses = {"put": ERROR_METHOD}
        await dht.put(await dht.look())
        found = await dht.client.get_peers(TARGET, Job(), lambda _node, _peers: None)
        assert distances(found) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert (await dht.client.announce(found, TARGET, 80)).taken == CLOSEST


async def test_where_no_others_are_left_a_node_that_has_refused_is_asked_again() -> None:
    async with Dht.start(3) as dht:
        for node in dht.nodes:
            node.refuses = {"put": 203}
        assert await dht.put(await dht.look()) == Stored(failed=3)
        for node in dht.nodes:
            node.refuses = {}
        assert await dht.put(await dht.look()) == Stored(taken=3)


async def test_nodes_that_refuse_announcements_may_take_puts() -> None:
    async with Dht.start(20) as dht:
        for node in dht.nodes[:8]:
            node.refuses = {"announce_peer": 203}
        found = await dht.client.get_peers(TARGET, Job(), lambda _node, _peers: None)
        assert await dht.client.announce(found, TARGET, 80) == Stored(taken=8, failed=8)
        assert distances(await dht.look()) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_node_that_invents_conflicts_is_found_out() -> None:
    async with Dht.start(30) as dht:
        for node in dht.nodes[:8]:
            node.refuses = {"put": CAS_MISMATCH}
        found = await dht.look()
        assert distances(found) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert await dht.put(found) == Stored(conflicts=8)
        assert distances(await dht.look()) == [9, 10, 11, 12, 13, 14, 15, 16]


async def test_nodes_at_which_another_writer_was_first_are_no_liars() -> None:
    async with Dht.start(20) as dht:
        for seq in range(1, 6):
            found = await dht.look()
            for node in dht.nodes[:8]:
                node.store(seq, b"another")
            assert await dht.put(found, seq) == Stored(conflicts=8)
        assert distances(await dht.look()) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_nodes_with_an_item_that_only_we_take_for_invalid_are_no_liars() -> None:
    # Implementations verify signatures differently, and anyone who knows the infohash can sign.
    async with Dht.start(20) as dht:
        for node in dht.nodes[:8]:
            node.store(7, b"value", bytes(64))
        for _ in range(4):
            assert await dht.put(await dht.look()) == Stored(conflicts=8)
        assert distances(await dht.look()) == [1, 2, 3, 4, 5, 6, 7, 8]


async def test_a_put_never_replaces_an_item_that_was_not_read() -> None:
    async with Dht.start(30) as dht:
        dht.nodes[0].refuses = {"put": 203}
        dht.nodes[1].store(3, b"read")
        dht.nodes[8].store(3, b"of another writer")
        found = await dht.look()
        assert distances(found) == [1, 2, 3, 4, 5, 6, 7, 8]
        stored = await dht.put(found, 4)
        assert stored == Stored(taken=7, conflicts=1, failed=1)
        assert dht.nodes[8].value == b"of another writer"


async def test_an_item_that_was_read_elsewhere_is_replaced() -> None:
    async with Dht.start(30) as dht:
        dht.nodes[0].refuses = {"put": 203}
        for node in (dht.nodes[1], dht.nodes[8]):
            node.store(3, b"read")
        assert await dht.put(await dht.look(), 4) == Stored(taken=8, failed=1)
        assert dht.nodes[8].seq == 4


async def test_nodes_that_do_not_know_a_method_lead_on() -> None:
    async with Dht.start(60) as dht:
        for node in dht.nodes[12:]:
            node.refuses = {"get": ERROR_METHOD}
        found = await dht.look()
        assert distances(found) == [1, 2, 3, 4, 5, 6, 7, 8]
        assert found.queries == sum(len(node.asked) for node in dht.nodes)
        strange = [candidate for candidate in found.asked if candidate.distance > 12]
        assert {(one.state, one.code, one.can_store) for one in strange} == {(State.ANSWERED, ERROR_METHOD, False)}


async def test_nodes_without_tokens_lead_on_and_their_items_are_read() -> None:
    async with Dht.start(60) as dht:
        for node in dht.nodes:
            if node.distance % 5:
                node.token = b""
        dht.nodes[0].store(1, b"value")
        items: list[messages.Item] = []
        found = await dht.client.get(PUBLIC_KEY, SALT, Job(), items.append)
        assert distances(found) == [5, 10, 15, 20, 25, 30, 35, 40]
        assert [item.value for item in items] == [b"value"]
        [first] = [candidate for candidate in found.asked if candidate.distance == 1]
        assert (first.has_item, first.seq, first.can_store) == (True, 1, False)


async def test_the_size_is_measured() -> None:
    async with Dht.start(20) as dht:
        dht.known = 20
        assert {family: estimate.nodes for family, estimate in dht.client.estimates.items()} == {4: None, 6: None}
        await dht.client.measure()
        assert dht.client.estimates[4].nodes
        assert dht.client.estimates[6].nodes is None


async def test_nodes_that_crowd_round_the_target_are_reported() -> None:
    async with Dht.start(20) as dht:
        assert not (await dht.look()).is_dense
        source: Final = [number.to_bytes(20, "big") for number in range(0, 2**160, 2**160 // 1000)]
        dht.client.estimates[4].note(bytes(20), source)
        # These nodes are at the distances 1 to 20.
        assert (await dht.look()).is_dense


async def test_lookups_reach_as_far_as_the_estimate_says() -> None:
    async with Dht.start(30) as dht:
        dht.client.estimates[4].note(bytes(20), [number.to_bytes(20, "big") for number in range(5, 13)])
        assert distances(await dht.look()) == [*range(1, 13)]


async def test_lookups_find_the_closest_nodes_with_fitting_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    def fits_if_even(node_id: bytes, _host: str) -> bool:
        return (node_id[19] ^ TARGET[19]) % 2 == 0

    monkeypatch.setattr("extensions.dht.krpc.traversal.fits", fits_if_even)
    async with Dht.start(30) as dht:
        assert distances(await dht.look()) == [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16]
        assert len((await dht.client.find_nodes(TARGET)).candidates) == CLOSEST


# Without sockets


class Wire:
    """Replaces the messenger: queries are kept."""

    def __init__(self) -> None:
        self.node_id = b"i" * 20
        self.sent: list[tuple[QueryListener, Contact, str, dict[bytes, Any]]] = []

    def query(self, listener: QueryListener, contact: Contact, method: str, arguments: dict[bytes, Any]) -> None:
        self.sent.append((listener, contact, method, arguments))


def contacts(number: int) -> list[Contact]:
    spot = int.from_bytes(TARGET, "big")
    return [Contact((spot ^ one).to_bytes(20, "big"), (f"10.0.{one}.1", 1)) for one in range(1, number + 1)]


def walk(wire: Wire, start: list[Contact], goal: Goal) -> Walk:
    traversal = Traversal(TARGET, start, anyone, goal=goal)
    return Walk(cast(Messenger, wire), traversal, TARGET, "get", {b"target": TARGET}, lambda _candidate, _reply: None)


async def test_late_nodes_are_asked_for_others_only_while_most_are_late() -> None:
    for late, expected in ((4, 0), (12, 8)):
        wire = Wire()
        under_way = walk(wire, contacts(12), Goal(needs_token=True))
        running = asyncio.ensure_future(under_way.run())
        await asyncio.sleep(0)
        answered = 0
        while answered < len(wire.sent) and answered < 30:
            listener, contact, method, _ = wire.sent[answered]
            answered += 1
            if method == "get" and contact in contacts(late):
                listener.on_slow(contact)
            else:
                listener.on_reply(contact, Reply(b"", contact.node_id, (), b"token" if method == "get" else b""))
        repeated = [contact for _, contact, method, _ in wire.sent if method == "find_node"]
        # The first four do not suffice for a judgement.
        assert len(repeated) == expected
        await running


@pytest.mark.parametrize("method", ["get", "find_node"])
async def test_find_node_is_not_repeated(method: str) -> None:
    wire = Wire()
    under_way = Walk(
        cast(Messenger, wire), Traversal(TARGET, contacts(1), anyone), TARGET, method, {}, lambda _one, _reply: None
    )
    running = asyncio.ensure_future(under_way.run())
    await asyncio.sleep(0)
    [(listener, contact, _, _)] = wire.sent
    listener.on_error(contact, ERROR_METHOD)
    assert [sent[2] for sent in wire.sent[1:]] == (["find_node"] if method == "get" else [])
    if method == "get":
        wire.sent[1][0].on_timeout(contact)
    await running


async def test_detours_are_sent_and_their_nodes_are_asked() -> None:
    wire = Wire()
    under_way = walk(wire, contacts(8), Goal(True, True, reach=1000))
    running = asyncio.ensure_future(under_way.run())
    await asyncio.sleep(0)
    other = Contact(TARGET, ("10.9.9.9", 1))
    handled = 0
    while handled < len(wire.sent):
        listener, contact, method, _ = wire.sent[handled]
        handled += 1
        if method == "find_node" and handled % 2:
            listener.on_slow(contact)
            listener.on_timeout(contact)
        else:
            named = (other,) if method == "find_node" else ()
            listener.on_reply(contact, Reply(b"", contact.node_id, named, b"token"))
    await running
    assert [sent[1] for sent in wire.sent].count(other) == 1
    assert len({sent[3][b"target"] for sent in wire.sent if sent[2] == "find_node"}) == 4
    assert under_way.traversal.queries == len(wire.sent)


async def test_a_walk_stays_in_its_address_family() -> None:
    wire = Wire()
    spot = int.from_bytes(TARGET, "big")
    six = [Contact((spot ^ one).to_bytes(20, "big"), (f"2001:db8:{one}::1", 1)) for one in (100, 1)]
    under_way = walk(wire, six[:1], Goal())
    running = asyncio.ensure_future(under_way.run())
    await asyncio.sleep(0)
    [(listener, contact, _, _)] = wire.sent
    # A reply may name nodes of both (BEP 32), those of IPv4 first.
    listener.on_reply(contact, Reply(b"", contact.node_id, (*contacts(8), six[1])))
    assert [sent[1] for sent in wire.sent] == six
    listener, contact, _, _ = wire.sent[1]
    listener.on_reply(contact, Reply(b"", contact.node_id))
    await running


async def test_two_callers_may_wait_for_one_walk() -> None:
    wire = Wire()
    under_way = walk(wire, contacts(1), Goal())
    first, second = (asyncio.ensure_future(under_way.run()) for _ in range(2))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.sleep(0)
    [(listener, contact, _, _)] = wire.sent
    listener.on_reply(contact, Reply(b"", contact.node_id))
    await first


async def test_a_fault_ends_a_walk() -> None:
    # Otherwise, the lookup would keep its turn for ever.
    class Faulty(Wire):
        def query(self, *query: Any) -> None:
            if self.sent:
                raise OverflowError
            super().query(*query)

    wire = Faulty()
    under_way = walk(wire, contacts(1), Goal())
    running = asyncio.ensure_future(under_way.run())
    await asyncio.sleep(0)
    [(listener, contact, _, _)] = wire.sent
    listener.on_reply(contact, Reply(b"", contact.node_id, tuple(contacts(8))))
    with pytest.raises(OverflowError):
        await running


async def test_a_walk_without_a_caller_sends_nothing_more() -> None:
    wire = Wire()
    under_way = walk(wire, contacts(1), Goal())
    running = asyncio.ensure_future(under_way.run())
    await asyncio.sleep(0)
    running.cancel()
    await asyncio.sleep(0)
    [(listener, contact, _, _)] = wire.sent
    listener.on_reply(contact, Reply(b"", contact.node_id, tuple(contacts(8))))
    assert len(wire.sent) == 1


@pytest.mark.parametrize("age", [0.0, TOKEN_LASTS])
async def test_a_refusal_long_after_the_lookup_does_not_count(age: float) -> None:
    # The node's token may have expired.
    wire, refusers = Wire(), Refusers()
    [contact] = contacts(1)
    now = asyncio.get_running_loop().time()
    search = Search([walk(wire, [], Goal())], now - age, {})
    store = Store(cast(Messenger, wire), refusers, search, "put", {}, True)
    running = asyncio.ensure_future(store.run([Candidate(1, contact, State.ANSWERED, b"token")]))
    await asyncio.sleep(0)
    store.on_error(contact, 203)
    assert await running == Stored(failed=1)
    assert refusers.refuses("put", contact.address, now) == (not age)


async def test_a_node_that_does_not_answer_a_put_is_replaced_but_not_remembered() -> None:
    wire, refusers = Wire(), Refusers()
    first, second = contacts(2)
    now = asyncio.get_running_loop().time()
    goal = Goal(needs_token=True)
    under_way = walk(wire, [first], goal)
    found = asyncio.ensure_future(under_way.run())
    await asyncio.sleep(0)
    under_way.on_reply(first, Reply(b"", first.node_id, (), b"token"))
    await found
    under_way.traversal.add([second])
    store = Store(cast(Messenger, wire), refusers, Search([under_way], now, {}), "put", {}, True)
    running = asyncio.ensure_future(store.run(under_way.traversal.closest()))
    await asyncio.sleep(0)
    store.on_timeout(first)
    for _ in range(5):
        await asyncio.sleep(0)
    under_way.on_reply(second, Reply(b"", second.node_id, (), b"token"))
    for _ in range(5):
        await asyncio.sleep(0)
    assert [(contact, method) for _, contact, method, _ in wire.sent][-1] == (second, "put")
    store.on_reply(second, Reply(b"", second.node_id))
    assert await running == Stored(taken=1, failed=1)
    assert not refusers.refuses("put", first.address, now)
