"""Records of the DHT: the values of slots, and descriptors. Any party can write any bytes to both.

The first byte of an input says what the rest is: `v` a slot's value, `b` any bencoded value in its place, `d` a
descriptor. A second byte chooses the slot or the shard.
"""

from collections import Counter
from collections.abc import Iterator
from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode
from extensions.dht.records import descriptor
from extensions.dht.records.descriptor import DescriptorError
from extensions.dht.records.keys import DAY, MAX_DEPTH, SALTS, shard_path, shard_salt
from extensions.dht.records.slots import MAX_ENTRIES, MAX_VALUE, Slot, decode_slot, encode_slot, fits
from extensions.entries import LIFETIME, SKEW, Rejected, check_entry, sign_entry, to_fields
from extensions.trackers import TrackerEntry, is_url, normal
from tests.fuzz.target import Target

HASH = bytes(range(20))
NOW = 20_000 * DAY
URLS = ("wss://tracker.example.org", "ws://[2001:db8::1]:8000/announce?x=1")


@cache
def entry(number: int, info_hash: bytes = HASH) -> TrackerEntry:
    """Return a valid entry of a tracker."""
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
    return sign_entry(key, info_hash, URLS[number % 2], NOW - number)


def check(data: bytes) -> None:
    """Read the input as its first byte says."""
    kind, rest = data[:1], data[1:]
    if kind == b"d":
        check_descriptor(rest)
    elif rest:
        salt = (*SALTS, shard_salt(shard_path(HASH, entry(1).tracker_id)[:3]))[rest[0] % 4]
        value: object = rest[1:]
        if kind == b"b":
            try:
                value = bencode.decode(rest[1:])
            except ValueError:
                return
        check_value(value, salt)


def check_value(value: object, salt: bytes) -> None:
    """Only valid entries are taken, and written again they are read again."""
    rejected: Counter[Rejected] = Counter()
    entries, depth = decode_slot(value, salt, HASH, NOW, rejected)
    assert len(entries) <= MAX_ENTRIES
    assert len({one.tracker_id for one in entries}) == len(entries)
    for one in entries:
        assert check_entry(one, HASH, NOW) is None
        check_fields(one)
    assert depth is None or 0 <= depth <= MAX_DEPTH
    slot = Slot(salt)
    assert slot.add(7, value, HASH, NOW) == rejected
    assert slot.add(6, value, HASH, NOW) == rejected
    assert slot.entries == entries, "the same value twice changes nothing"
    assert slot.seq == 7
    assert slot.continues in (True, False)
    assert slot.written <= NOW + SKEW
    assert slot.has_room(entry(2)) == fits([*slot.beside(entry(2)), entry(2)])
    if fits(entries, depth):
        # Bytes that are rejected are left out, and the rest is canonical.
        again: Counter[Rejected] = Counter()
        written = encode_slot(entries, depth)
        assert len(written) <= MAX_VALUE
        assert decode_slot(written, salt, HASH, NOW, again) == (entries, depth)
        assert not again


def check_fields(one: TrackerEntry) -> None:
    """A valid entry has a URL that can be dialed and logged."""
    assert is_url(one.url)
    assert one.url.isascii()
    assert one.url.isprintable()
    assert normal(normal(one.url)) == normal(one.url)
    assert NOW < one.expires <= NOW + LIFETIME + SKEW


def check_descriptor(body: bytes) -> None:
    """A descriptor is valid, or refused. Written again, it is the same."""
    try:
        one = descriptor.read(body, NOW)
    except DescriptorError as error:
        assert error.reason in Rejected
        return
    check_fields(one)
    assert descriptor.read(descriptor.write(one), NOW) == one


def seeds() -> Iterator[bytes]:
    """Yield values with valid entries, and descriptors."""
    for count in (0, 1, 3):
        entries = [entry(number) for number in range(1, count + 1)]
        for place in range(4):
            yield b"v" + bytes([place]) + encode_slot(entries, place or None)
    yield b"v\x00" + bencode.encode({b"e": [to_fields(entry(1))] * 4, b"v": 1})
    yield b"v\x00" + bencode.encode({b"e": [[b"", 1, b"", b""], 5, []], b"v": 1, b"x": {}})
    yield b"b\x00" + bencode.encode([1, {b"e": []}])
    yield b"b\x00" + bencode.encode(encode_slot([entry(1)]))
    for number in (1, 2):
        yield b"d" + descriptor.write(entry(number, b""))
    yield b'd{"id":"","url":5,"expires":1e999,"signature":"\\ud800"}'


TARGET = Target(
    check,
    seeds,
    (
        *(b"1:el", b"1:vi1e", b"1:di3e", b"l32:", b"64:", b"25:wss://tracker.example.org", b"ws://", b"i0e", b"e"),
        *(b'"id":', b'"url":', b'"expires":', b'"signature":', b"null", b"1e999", b"\\ud800", b"NaN", b"{", b"["),
    ),
    runs=3000,
)
