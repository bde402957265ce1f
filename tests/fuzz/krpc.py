"""Datagrams of DHT nodes: decoded or ignored, and no answer is longer than its query."""

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode, messages
from extensions.dht.krpc.messages import MAX_NODES, MAX_PEERS, MAX_TOKEN, Address, Failure, Question, Reply
from tests.fuzz.target import Target

ID = bytes(range(20))
KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()
ITEM = {b"k": PUBLIC_KEY, b"seq": 4, b"sig": messages.sign_item(KEY, b"r0", 4, b"value"), b"v": b"value"}


def check(data: bytes) -> None:
    """Decode a datagram."""
    check_bencode(data)
    messages.transaction_of(data)
    message = messages.decode(data)
    if isinstance(message, Question):
        # Otherwise, others could be flooded with answers to forged queries.
        answer = messages.refusal(message.transaction)
        assert len(answer) <= len(data)
        assert isinstance(messages.decode(answer), Failure)
    elif isinstance(message, Failure):
        assert type(message.code) is int
    elif isinstance(message, Reply):
        check_reply(message)


def check_reply(reply: Reply) -> None:
    """All fields are bounded, and an item's signature can be checked."""
    assert len(reply.node_id) == 20
    assert len(reply.contacts) <= 2 * MAX_NODES
    assert len(reply.peers) <= MAX_PEERS
    assert len(reply.token) <= MAX_TOKEN
    assert all(len(contact.node_id) == 20 and is_address(contact.address) for contact in reply.contacts)
    assert all(map(is_address, reply.peers))
    if reply.item is not None:
        valid = messages.is_valid(reply.item, PUBLIC_KEY, b"r0")
        if valid:
            assert reply.item.value == b"value", "a forged item"


def is_address(address: Address) -> bool:
    """Return whether an address is numeric and its port fits."""
    return str(ip_address(address[0])) == address[0] and 0 <= address[1] < 1 << 16


def check_bencode(data: bytes) -> None:
    """A decoded value is encoded canonically, and then decoded to the same."""
    with suppress(ValueError):
        value = bencode.decode(data)
        encoded = bencode.encode(value)
        assert bencode.decode(encoded) == value
        assert bencode.encode(bencode.decode(encoded)) == encoded


def seeds() -> Iterator[bytes]:
    """Yield replies, errors and queries."""
    four, six = bytes([127, 0, 0, 1, 4, 210]), bytes(15) + b"\x01\x04\xd2"
    for body in (
        {},
        {b"nodes": (ID + four) * 3, b"token": b"t" * 8},
        {b"nodes6": (ID + six) * 2, b"values": [four, six]},
        ITEM,
        {**ITEM, b"seq": -1, b"v": [b"value", {b"a": 1}]},
    ):
        yield bencode.encode({b"t": b"abcd", b"y": b"r", b"r": {b"id": ID, **body}, b"ip": four, b"v": b"LT\x01\x02"})
    yield bencode.encode({b"t": b"abcd", b"y": b"e", b"e": [201, b"error"]})
    yield bencode.encode({b"t": b"abcd", b"y": b"e", b"e": []})
    yield messages.query("get", {b"id": ID, b"target": ID}, b"abcd")
    yield messages.query("ping", {b"id": ID}, b"t" * MAX_TOKEN)
    yield b"d1:q4:ping1:t4:abcd1:y1:qe"
    yield b"d1:t300:" + b"t" * 300 + b"1:y1:qe"
    yield b"d1:ai1e-6:" + b"l" * 100


TARGET = Target(
    check,
    seeds,
    (
        *(
            b"1:t4:abcd",
            b"1:y1:r",
            b"1:y1:e",
            b"1:y1:q",
            b"1:rd",
            b"2:id20:",
            b"5:nodes26:",
            b"6:nodes638:",
            b"5:token8:",
        ),
        *(
            b"6:valuesl",
            b"1:k32:",
            b"3:seqi4e",
            b"3:sig64:",
            b"1:v5:value",
            b"1:eli201e",
            b"i-1e",
            b"i0e",
            b"0:",
            b"le",
        ),
        *(b"de", b"-1:", b"99999:", b"i-0e", b"i00e", b"1_0:", b" 1:"),
    ),
    runs=6000,
)
