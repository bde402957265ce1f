"""The code and `docs/dht.md` agree: test vectors and reasons."""

import json
import re
from collections import Counter

import bencodepy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.records import descriptor
from extensions.dht.records.keys import SALTS, announce_hash, day_of, record_key
from extensions.dht.records.slots import decode_slot, encode_slot
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


def test_the_document_has_the_reasons_of_the_code() -> None:
    table = DOCUMENT.read_text(encoding="utf-8").partition("| ignored | reason | meaning |\n")[2].partition("\n\n")[0]
    assert set(re.findall(r"^\|[^|]*\| `(\w+)` \|", table, re.M)) == set(Rejected)
