"""The nodes of the emulated mainline at the wire, beside libtorrent."""

import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode, messages
from extensions.dht.krpc.messages import Contact, Item, Reply
from extensions.dialing import is_public
from tests.private_dht import PrivateDht
from tests.simulation.dht import liars
from tests.simulation.dht.mainline import Conditions, make_mainline
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
from tests.simulation.dht.wire import read_query

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
SALT = b"r0"
TARGET = messages.item_target(PUBLIC, SALT)
INFO_HASH = bytes(range(20))
HOST = ("5.0.0.1", 50000)


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
