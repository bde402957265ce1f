"""What the modules compute is what `docs/dht.md` says."""

import json
from collections import Counter

import bencodepy
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.records import descriptor
from extensions.dht.records.entry import LIFETIME, MAX_ENTRY, SKEW, Rejected, sign_entry
from extensions.dht.records.keys import SALTS, announce_hash, day_of, record_key
from extensions.dht.records.slots import LOCKED, MAX_ENTRIES, MAX_VALUE, decode_slot, encode_slot
from extensions.trackers import MAX_URL, RENDEZVOUS, is_url
from tests.vectors import DOCUMENT, read_vectors

VECTORS = read_vectors()
NAMED = VECTORS.named
HASH = bytes.fromhex(NAMED["infohash"])
NOW = int(NAMED["time"])
DAY = int(NAMED["day"])
TRACKER = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(NAMED["tracker_seed"]))


def public(key: Ed25519PrivateKey) -> bytes:
    """A key's public half."""
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
    assert TRACKER.sign(bytes.fromhex(NAMED["message"])) == entry.signature, "it is that message that is signed"
    encoded = bencodepy.encode([bytes.fromhex(entry.tracker_id), entry.expires, entry.url, entry.signature])
    assert encoded.hex() == NAMED["entry"]


def test_a_slot() -> None:
    entry = sign_entry(TRACKER, HASH, NAMED["url"], NOW)
    value = encode_slot([entry])
    assert value.hex() == NAMED["value"]
    rejected: Counter[Rejected] = Counter()
    assert decode_slot(value, HASH, NOW, rejected) == [entry]
    assert not rejected


def test_a_signed_item() -> None:
    key = record_key(HASH, DAY)
    signature = messages.sign_item(key, b"r0", 1, bytes.fromhex(NAMED["value"]))
    assert signature.hex() == NAMED["item_signature"]
    assert key.sign(bytes.fromhex(NAMED["item_message"])) == signature, "it is that message that is signed"
    item = messages.Item(public(key), signature, 1, bytes.fromhex(NAMED["value"]))
    assert messages.is_valid(item, public(key), b"r0")


def test_a_descriptor() -> None:
    own = descriptor.write(TRACKER, NAMED["url"], NOW)
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
    decode_slot(value, HASH, NOW, rejected)
    assert [str(found) for found in rejected.elements()] == ([] if reason == "none" else [reason])


def test_every_reason_is_in_the_document() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [reason for reason in Rejected if f"`{reason}`" not in text] == []


@pytest.mark.parametrize(
    "number",
    [
        f"more than {MAX_VALUE - MAX_ENTRY} bytes",
        f"longest entry counts as {MAX_ENTRY} bytes",
        f"at most {MAX_VALUE} bytes",
        f"at most {MAX_URL} bytes",
        f"after the {MAX_ENTRIES}th",
        f"more than {LIFETIME} + {SKEW} from now",
        f"2^{LOCKED.bit_length() - 1} or more",
        f"at most {descriptor.MAX_SIZE} bytes",
    ],
)
def test_numbers_are_those_of_the_document(number: str) -> None:
    assert number in " ".join(DOCUMENT.read_text(encoding="utf-8").split())
