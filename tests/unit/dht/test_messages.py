"""Messages to nodes and from them: they are encoded and decoded, and hostile ones do no harm."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

import bencodepy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.dht.krpc import messages
from extensions.dht.krpc.messages import (
    MAX_DATAGRAM,
    MAX_NODES,
    MAX_PEERS,
    MAX_TOKEN,
    Contact,
    Failure,
    Item,
    Question,
    Reply,
)

ID = bytes(range(20))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()

reproducible = settings(derandomize=True)


def message(**fields: object) -> bytes:
    data: bytes = bencodepy.encode({key.encode(): value for key, value in fields.items()})
    return data


def reply(**body: object) -> Reply:
    """Decode a reply with this body."""
    decoded = messages.decode(message(t=b"ab", y=b"r", r={b"id": ID, **{key.encode(): body[key] for key in body}}))
    assert isinstance(decoded, Reply)
    assert (decoded.transaction, decoded.node_id) == (b"ab", ID)
    return decoded


def pack(contacts: list[Contact]) -> bytes:
    """Encode contacts in compact form (BEP 5, BEP 32): 26 bytes each in IPv4, 38 in IPv6."""
    return b"".join(
        contact.node_id + ip_address(host).packed + port.to_bytes(2, "big")
        for contact in contacts
        for host, port in [contact.address]
    )


def each(*values: Any) -> tuple[Any, ...]:
    return values


# Messages


@pytest.mark.parametrize("transaction", [b"abcd", b"1:t4", b"\0\0\0\0"])
def test_the_transaction_of_an_answer_is_seen_without_decoding(transaction: bytes) -> None:
    for fields in ({"y": b"r", "r": {b"id": ID, b"token": b"1:t4:0000"}, "v": b"LT\1\2"}, {"y": b"e", "e": [203, b""]}):
        assert messages.transaction_of(message(t=transaction, **fields)) == transaction
    assert len(messages.transaction_of(b"")) < 4


def test_a_query_is_marked_as_read_only() -> None:
    data = messages.query("get", {b"id": ID, b"target": b"t" * 20}, b"ab")
    assert data == b"d1:ad2:id20:%b6:target20:%be1:q3:get2:roi1e1:t2:ab1:v4:PS\0\1%be" % (ID, b"t" * 20, b"1:y1:q")
    assert messages.decode(data) == Question(b"ab")


def test_the_refusal_of_a_query_is_an_error_message() -> None:
    assert messages.refusal(b"ab") == b"d1:eli204e9:read-onlye1:t2:ab1:y1:ee"
    assert messages.decode(messages.refusal(b"ab")) == Failure(b"ab", messages.ERROR_METHOD)


def test_a_refusal_is_shorter_than_the_query() -> None:
    for length in range(MAX_TOKEN + 1):
        transaction = b"t" * length
        shortest = message(a={b"id": ID}, q=b"", t=transaction, y=b"q")
        assert messages.decode(shortest) == Question(transaction)
        assert len(messages.refusal(transaction)) < len(shortest)
    assert messages.decode(message(a={b"id": ID}, q=b"", t=b"t" * (MAX_TOKEN + 1), y=b"q")) is None


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"q": b"ping"},
        {"a": {b"id": ID}},
        {"a": {b"id": ID}, "q": 5},
        {"a": {b"id": ID[1:]}, "q": b"ping"},
        {"a": {b"id": 5}, "q": b"ping"},
        {"a": {}, "q": b"ping"},
        {"a": [b"id"], "q": b"ping"},
    ],
)
def test_a_query_without_its_parts_gets_no_answer(fields: dict[str, Any]) -> None:
    # Otherwise, forged senders would get more bytes from us than the attacker has sent.
    assert messages.decode(message(t=b"ab", y=b"q", **fields)) is None


def test_a_bare_reply() -> None:
    assert reply() == Reply(b"ab", ID)


def test_a_full_reply() -> None:
    near = [Contact(b"4" * 20, ("192.0.2.1", 6881)), Contact(b"5" * 20, ("198.51.100.255", 65535))]
    far = [Contact(b"6" * 20, ("2001:db8::1", 1))]
    assert reply(
        nodes=pack(near),
        nodes6=pack(far),
        token=b"token",
        k=b"k" * 32,
        sig=b"s" * 64,
        seq=7,
        v=[b"any", {b"value": 1}],
        values=[b"\xcb\0\x71\1\0\x50", bytes.fromhex("20010db8000000000000000000000002") + b"\1\2"],
    ) == Reply(
        b"ab",
        ID,
        (*near, *far),
        b"token",
        Item(b"k" * 32, b"s" * 64, 7, [b"any", {b"value": 1}]),
        (("203.0.113.1", 80), ("2001:db8::2", 258)),
    )


def test_the_first_of_many_nodes_are_read() -> None:
    many = [Contact(b"4" * 20, (f"192.0.2.{number}", 6881)) for number in range(140)]
    assert reply(nodes=pack(many)).contacts == tuple(many[:MAX_NODES])


ITEM: dict[str, Any] = {"k": b"k", "sig": b"s", "seq": 1, "v": b"v"}
ILL_FORMED: list[dict[str, Any]] = [
    *({"nodes": nodes} for nodes in each(b"n" * 25, b"n" * 27, b"n" * 38, 5, [b"n" * 26], {})),
    *({"nodes6": nodes} for nodes in each(b"n" * 26, b"n" * 37, 5, [b"n" * 38], {})),
    *({"token": token} for token in each(b"t" * (MAX_TOKEN + 1), 5, [b"t"], {})),
    *({"values": values} for values in each(b"123456", 5, {}, [5, b"", b"12345", b"1234567", [b"123456"], b"n" * 26])),
    *({key: ITEM[key] for key in ITEM if key != missing} for missing in ITEM),
    *({**ITEM, key: []} for key in ("k", "sig", "seq")),
    {**ITEM, "seq": b"1"},
]


@pytest.mark.parametrize("body", ILL_FORMED)
def test_ill_formed_parts_are_left_out(body: dict[str, Any]) -> None:
    assert reply(**body) == Reply(b"ab", ID)


def test_well_formed_parts_beside_ill_formed_ones_are_kept() -> None:
    contact = Contact(b"4" * 20, ("192.0.2.1", 6881))
    understood = reply(nodes=pack([contact]), nodes6=5, token=b"t", seq=1, values=[5, b"\xcb\0\x71\1\0\x50"])
    assert understood == Reply(b"ab", ID, (contact,), b"t", None, (("203.0.113.1", 80),))


def test_a_limited_number_of_peers_count() -> None:
    values = [bytes([9, 9, number >> 8, number & 255, 1, 1]) for number in range(300)]
    assert len(reply(values=values).peers) == MAX_PEERS


def test_an_error() -> None:
    assert messages.decode(b"d1:eli301e7:too bade1:t1:a1:y1:ee") == Failure(b"a", messages.CAS_MISMATCH)
    assert messages.decode(b"d1:eli302ee1:t1:a1:y1:ee") == Failure(b"a", messages.SEQ_TOO_OLD)


def test_an_error_message_of_libtorrent_is_no_reply() -> None:
    data = message(e=[302, b"less"], ip=b"\x7f\0\0\1\1\1", r={b"id": ID, b"token": b"t"}, t=b"ab", v=b"LT", y=b"e")
    assert messages.decode(data) == Failure(b"ab", 302)


@pytest.mark.parametrize("error", [[], [b"301"], [[301]], 301, b"301", {}, None])
def test_an_error_without_a_code(error: object) -> None:
    fields = {} if error is None else {"e": error}
    assert messages.decode(message(t=b"ab", y=b"e", **fields)) == Failure(b"ab", 0)


JUNK: list[bytes] = [
    *(b"", b"x", b"5:hello", b"le", b"i5e", b"de", b"d", b"d1:t2:ab1:y1:re", b"d1:t2:ab1:y1:qe5"),
    *(letter * MAX_DATAGRAM for letter in (b"l", b"d", b"i", b"1", b":", b"\0")),
    (b"d0:" * MAX_DATAGRAM)[:MAX_DATAGRAM],
    *(message(t=b"ab", **fields) for fields in each({"y": b"x"}, {"y": 5}, {"y": []}, {}, {"r": {b"id": ID}})),
    *(message(t=t, y=b"r", r={b"id": ID}) for t in each(5, [], {})),
    message(y=b"r", r={b"id": ID}),
    *(
        message(t=b"ab", y=b"r", r=body)
        for body in each(5, [], b"", {}, {b"id": 5}, {b"id": ID[1:]}, {b"id": ID + b"x"})
    ),
    message(t=b"ab", y=b"r", r={b"id": ID, b"v": bytes(MAX_DATAGRAM)}),
]


@pytest.mark.parametrize("data", JUNK, ids=lambda data: repr(data[:40]))
def test_invalid_data_is_no_message(data: bytes) -> None:
    assert messages.decode(data) is None


objects = st.recursive(
    st.integers() | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=3), inner, max_size=4),
)
bodies = st.fixed_dictionaries(
    {b"id": st.just(ID) | objects},
    optional=dict.fromkeys((b"nodes", b"nodes6", b"token", b"values", b"k", b"sig", b"seq", b"v"), objects),
)
envelopes = st.fixed_dictionaries(
    {b"t": st.binary(max_size=4) | objects, b"y": st.sampled_from([b"r", b"e", b"q"]) | objects},
    optional={b"r": bodies | objects, b"e": objects, b"a": objects, b"q": objects},
)


@given(st.binary(max_size=MAX_DATAGRAM + 9) | (objects | envelopes).map(bencodepy.encode))
@settings(reproducible, max_examples=300)
def test_any_data_can_be_decoded(data: bytes) -> None:
    decoded = messages.decode(data)
    if isinstance(decoded, Reply):
        assert len(decoded.node_id) == 20
        assert len(decoded.token) <= MAX_TOKEN
        for host, port in [*decoded.peers, *(contact.address for contact in decoded.contacts)]:
            assert str(IPv6Address(host) if ":" in host else IPv4Address(host)) == host
            assert 0 <= port < 2**16
        assert not decoded.item or not messages.is_valid(decoded.item, PUBLIC_KEY, b"r0")


addresses = st.tuples(st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str), st.integers(0, 2**16 - 1))
contacts = st.builds(Contact, st.binary(min_size=20, max_size=20), addresses)


@given(st.lists(contacts, max_size=20))
@reproducible
def test_packed_contacts_are_decoded_again(some: list[Contact]) -> None:
    near = [contact for contact in some if ":" not in contact.address[0]]
    far = [contact for contact in some if ":" in contact.address[0]]
    assert pack(some) == b"".join(pack([contact]) for contact in some)
    assert (len(pack(near)), len(pack(far))) == (26 * len(near), 38 * len(far))
    assert reply(nodes=pack(near), nodes6=pack(far)).contacts == (*near, *far)


# Mutable items

# BEP 44's test vectors 1 and 2.
BEP_KEY = bytes.fromhex("77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548")
VECTORS = [
    (
        b"",
        "4a533d47ec9c7d95b1ad75f576cffc641853b750",
        "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff"
        "1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
    ),
    (
        b"foobar",
        "411eba73b6f087ca51a3795d9c8c938d365e32c1",
        "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d"
        "df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
    ),
]


@pytest.mark.parametrize(("salt", "target", "signature"), VECTORS, ids=["without salt", "with salt"])
def test_published_examples_of_mutable_items(salt: bytes, target: str, signature: str) -> None:
    item = Item(BEP_KEY, bytes.fromhex(signature), 1, b"Hello World!")
    assert messages.item_target(BEP_KEY, salt).hex() == target
    assert messages.is_valid(item, BEP_KEY, salt)
    assert not messages.is_valid(item, BEP_KEY, salt + b"x")
    assert not messages.is_valid(Item(BEP_KEY, item.signature, 2, item.value), BEP_KEY, salt)
    assert not messages.is_valid(Item(BEP_KEY, item.signature, 1, b"Hello World?"), BEP_KEY, salt)


@given(st.binary(max_size=64), st.integers(0, 2**63 - 1), objects)
@reproducible
def test_a_signed_item_is_valid(salt: bytes, seq: int, value: object) -> None:
    item = Item(PUBLIC_KEY, messages.sign_item(KEY, salt, seq, value), seq, value)
    assert messages.is_valid(item, PUBLIC_KEY, salt)
    assert not messages.is_valid(item, BEP_KEY, salt)


@pytest.mark.parametrize(("multiple", "is_accepted"), [(1, True), (8, False)])
def test_a_signature_with_a_larger_number_is_valid_as_for_libtorrent(multiple: int, is_accepted: bool) -> None:
    signature = messages.sign_item(KEY, b"r0", 1, b"value")
    order = 2**252 + 27742317777372353535851937790883648493
    larger = int.from_bytes(signature[32:], "little") + multiple * order
    item = Item(PUBLIC_KEY, signature[:32] + larger.to_bytes(32, "little"), 1, b"value")
    assert messages.is_valid(item, PUBLIC_KEY, b"r0") is is_accepted
    assert not messages.is_valid(item, PUBLIC_KEY, b"r1")


@pytest.mark.parametrize(
    "changed",
    [{"seq": -1}, {"public_key": BEP_KEY}, {"public_key": b""}, {"signature": b""}, {"signature": bytes(64)}],
)
def test_an_unsound_item_is_not_valid(changed: dict[str, Any]) -> None:
    fields = {"public_key": PUBLIC_KEY, "seq": 1, "value": b"v", **changed}
    signature = messages.sign_item(KEY, b"", fields["seq"], b"v")
    assert not messages.is_valid(Item(**{"signature": signature, **fields}), PUBLIC_KEY, b"")


def test_an_item_of_an_invalid_key_is_not_valid() -> None:
    assert not messages.is_valid(Item(b"\xff" * 32, bytes(64), 1, b"v"), b"\xff" * 32, b"")
    assert not messages.is_valid(Item(b"short", bytes(64), 1, b"v"), b"short", b"")
