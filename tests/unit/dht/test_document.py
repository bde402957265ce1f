"""The code and `docs/dht.md` agree: test vectors and reasons."""

import json
import re
from collections import Counter

import bencodepy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.krpc.node_ids import fits
from extensions.dht.records import descriptor
from extensions.dht.records.keys import (
    MAX_DEPTH,
    SALTS,
    announce_hash,
    day_of,
    record_key,
    shard_path,
    shard_salt,
)
from extensions.dht.records.placing import with_own
from extensions.dht.records.slots import Slot, decode_slot, encode_slot
from extensions.entries import Rejected, sign_entry
from extensions.trackers import RENDEZVOUS, is_url
from tests.vectors import DOCUMENT, read_vectors

VECTORS = read_vectors()
NAMED = VECTORS.named
HASH = bytes.fromhex(NAMED["infohash"])
NOW = int(NAMED["time"])
DAY = int(NAMED["day"])
TRACKER = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(NAMED["tracker_seed"]))


def public(key: Ed25519PrivateKey) -> bytes:
    """Return the public key of a key pair."""
    return key.public_key().public_bytes_raw()


def test_keys() -> None:
    key = record_key(HASH, DAY)
    assert day_of(NOW) == DAY
    assert key.private_bytes_raw().hex() == NAMED["record_seed"]
    assert public(key).hex() == NAMED["record_key"]
    assert [messages.item_target(public(key), salt).hex() for salt in SALTS] == [
        NAMED["target_r0"],
        NAMED["target_r1"],
        NAMED["target_r2"],
    ]
    assert announce_hash(HASH, DAY).hex() == NAMED["announce_hash"]
    assert RENDEZVOUS.hex() == NAMED["rendezvous"]


def test_an_entry() -> None:
    entry = sign_entry(TRACKER, HASH, NAMED["url"], NOW)
    assert (entry.tracker_id, entry.expires) == (NAMED["tracker_id"], int(NAMED["expires"]))
    assert entry.signature.hex() == NAMED["signature"]
    assert TRACKER.sign(bytes.fromhex(NAMED["message"])) == entry.signature, "the document has another message"
    encoded = bencodepy.encode([bytes.fromhex(entry.tracker_id), entry.expires, entry.url, entry.signature])
    assert encoded.hex() == NAMED["entry"]


def test_a_slot() -> None:
    entry = sign_entry(TRACKER, HASH, NAMED["url"], NOW)
    value = encode_slot([entry])
    assert value.hex() == NAMED["value"]
    rejected: Counter[Rejected] = Counter()
    assert decode_slot(value, b"r0", HASH, NOW, rejected) == ([entry], None)
    assert not rejected


def test_a_signed_item() -> None:
    key = record_key(HASH, DAY)
    signature = messages.sign_item(key, b"r0", 1, bytes.fromhex(NAMED["value"]))
    assert signature.hex() == NAMED["item_signature"]
    assert key.sign(bytes.fromhex(NAMED["item_message"])) == signature, "the document has another message"
    item = messages.Item(public(key), signature, 1, bytes.fromhex(NAMED["value"]))
    assert messages.is_valid(item, public(key), b"r0")


def test_a_locked_item() -> None:
    key, value = record_key(HASH, DAY), bytes.fromhex(NAMED["value"])
    signature = messages.sign_item(key, b"r0", 2**63 - 1, value)
    assert signature.hex() == NAMED["locked_signature"]
    assert key.sign(bytes.fromhex(NAMED["locked_message"])) == signature, "the document has another message"
    item = messages.Item(public(key), signature, 2**63 - 1, value)
    assert messages.is_valid(item, public(key), b"r0")
    slot = Slot(b"r0")
    slot.add(item.seq, item.value, HASH, NOW)
    assert slot.is_locked
    assert len(slot.entries) == 1


def test_a_shard() -> None:
    path = shard_path(HASH, NAMED["tracker_id"])
    assert path == NAMED["path"]
    assert len(path) == MAX_DEPTH
    target = messages.item_target(public(record_key(HASH, DAY)), shard_salt(path[:3]))
    assert target.hex() == NAMED["target_shard"]


@pytest.mark.parametrize(("name", "depth"), [("value_of_three", None), ("value_with_depth", 10)])
def test_values_of_several_trackers(name: str, depth: int | None) -> None:
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (11, 12, 13)]
    entries = [sign_entry(key, HASH, NAMED["url"], NOW + 60 * age) for age, key in enumerate(keys)]
    value = encode_slot(entries, depth)
    assert value.hex() == NAMED[name]
    rejected: Counter[Rejected] = Counter()
    # The latest come first.
    assert decode_slot(value, b"r2", HASH, NOW, rejected) == (entries[::-1], depth)
    assert not rejected


def test_the_example_of_placing() -> None:
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(21, 28)]
    ages = [0, 60, 120, 180, 240, 300, 600]
    entries = [sign_entry(key, HASH, NAMED["url"], NOW + age) for key, age in zip(keys, ages, strict=True)]
    values = {salt: bytes.fromhex(VECTORS.placing[f"placing_{salt.decode()}"]) for salt in SALTS[:2]}
    assert values == {b"r0": encode_slot(entries[:6]), b"r1": encode_slot(entries[6:])}
    now = int(VECTORS.placing["placing_time"])
    slots = [Slot(salt) for salt in values]
    for slot in slots:
        assert set(slot.add(1, values[slot.salt], HASH, now)) <= {Rejected.EXPIRED}
    own = sign_entry(keys[1], HASH, NAMED["url"], now)
    assert [slot.continues for slot in slots] == [True, False]
    assert slots[0].has_room(own)
    value = encode_slot(with_own(slots, 0, own))
    assert value.hex() == VECTORS.placing["placing_value"]
    rejected: Counter[Rejected] = Counter()
    placed, _ = decode_slot(value, b"r0", HASH, now, rejected)
    assert {entry.tracker_id for entry in placed} == {entry.tracker_id for entry in entries[1:]}


def test_a_descriptor() -> None:
    own = descriptor.write(sign_entry(TRACKER, b"", NAMED["url"], NOW))
    assert json.loads(own) == json.loads(NAMED["descriptor"])
    entry = descriptor.read(NAMED["descriptor"].encode(), NOW)
    assert entry == sign_entry(TRACKER, b"", NAMED["url"], NOW)
    assert TRACKER.sign(bytes.fromhex(NAMED["descriptor_message"])) == entry.signature


@pytest.mark.parametrize(("url", "valid"), VECTORS.urls)
def test_urls(url: str, valid: bool) -> None:
    assert is_url(url) == valid


@pytest.mark.parametrize(("reason", "value"), VECTORS.values)
def test_values(reason: str, value: bytes) -> None:
    rejected: Counter[Rejected] = Counter()
    decode_slot(value, b"r0", HASH, NOW, rejected)
    assert [str(found) for found in rejected.elements()] == ([] if reason == "none" else [reason])


@pytest.mark.parametrize(("host", "last", "first"), VECTORS.node_ids)
def test_node_ids(host: str, last: int, first: bytes) -> None:
    node_id = first + bytes(16) + bytes([last])
    assert fits(node_id, host)
    assert not fits(bytes([first[0], first[1], first[2] ^ 8]) + node_id[3:], host)


def test_the_document_has_the_reasons_of_the_code() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("| ignored | reason | meaning |\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\|[^|]*\| `(\w+)` \|", table, re.M)) == set(Rejected)
