"""Records as they are read and written: slots, shards, and the calls of the client."""

from collections import Counter
from collections.abc import Callable
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import Contact, Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.traversal import Candidate
from extensions.dht.records.keys import SALTS, day_of, record_key, shard_path, shard_salt
from extensions.dht.records.record import Record, sample
from extensions.dht.records.shards import SAMPLES
from extensions.dht.records.slots import LOCKED, encode_slot
from extensions.dht.records.trouble import NOTHING, Expected
from extensions.entries import Rejected
from extensions.trackers import TrackerEntry
from tests.unit.dht.entries import HASH, NOW, entry_of, identity

DAY = day_of(NOW)
SIX = [entry_of(number) for number in range(1, 7)]


class Store:
    """Replaces a client: one node for each slot."""

    def __init__(self, *values: bytes, seq: int = 1) -> None:
        self.items: dict[bytes, list[Item]] = {}
        self.key = record_key(HASH, DAY)
        self.asked: list[bytes] = []
        self.rejected: Counter[Rejected] = Counter()
        self.reported: list[tuple[TrackerEntry, str]] = []
        self.now: float = NOW
        self.seqs: list[int] = []
        """The sequence numbers that the closest nodes have."""
        for salt, value in zip(SALTS, values, strict=False):
            self.add(salt, seq, value)

    def add(self, salt: bytes, seq: int, value: bytes) -> None:
        signature = messages.sign_item(self.key, salt, seq, value)
        item = Item(self.key.public_key().public_bytes_raw(), signature, seq, value)
        self.items.setdefault(salt, []).append(item)

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        assert public_key == self.key.public_key().public_bytes_raw()
        self.asked.append(salt)
        for item in self.items.get(salt, ()):
            # Most nodes send the same item.
            on_item(item)
            on_item(item)
        return Found([Candidate(1, Contact(bytes(20), ("192.0.2.1", 1)), seq=seq) for seq in self.seqs])

    async def put(self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes) -> Stored:
        assert key is self.key
        self.items[salt] = []
        self.add(salt, seq, value)
        return Stored(taken=1)

    def record(self, expected: Expected = NOTHING) -> Record:
        return Record(
            cast(Client, self),
            HASH,
            DAY,
            Job(),
            lambda: self.now,
            self.rejected,
            lambda entry, where: self.reported.append((entry, where)),
            expected,
        )

    async def read(self) -> Record:
        """Return a record whose slots were just read."""
        record = self.record()
        await record.read_slots()
        return record


async def test_an_empty_record_is_read_and_written() -> None:
    store = Store()
    record = await store.read()
    assert (store.asked, [slot.entries for slot in record.slots], store.reported) == ([b"r0"], [[]], [])
    assert (record.is_crowded, record.window, record.needs_bep5) == (False, None, False)
    assert await record.write(record.slots[0], [entry_of(1)]) == Stored(taken=1)
    assert [item.seq for item in store.items[b"r0"]] == [1]
    await store.read()
    assert store.reported == [(entry_of(1), "r0")]


@pytest.mark.parametrize(("seqs", "next_seq"), [([LOCKED, 0, 0], 1), ([LOCKED, 4, 3], 5)])
async def test_a_lock_at_few_nodes_is_none(seqs: list[int], next_seq: int) -> None:
    store = Store(encode_slot(SIX[:1]), seq=LOCKED)
    store.seqs = seqs
    record = await store.read()
    assert (store.asked, record.slots[0].is_locked, record.needs_bep5) == ([b"r0"], False, False)
    assert record.slots[0].entries == SIX[:1]
    await record.write(record.slots[0], SIX[:2])
    assert [item.seq for item in store.items[b"r0"]] == [next_seq]


async def test_a_lock_at_most_nodes_leads_to_the_next_slot() -> None:
    store = Store(encode_slot(SIX[:1]), seq=LOCKED)
    store.seqs = [LOCKED, LOCKED, 4]
    record = await store.read()
    assert (store.asked, record.slots[0].is_locked, record.needs_bep5) == ([b"r0", b"r1"], True, True)


async def test_each_entry_is_reported_once_with_its_slot() -> None:
    store = Store(encode_slot(SIX), encode_slot([entry_of(7)]))
    store.add(b"r0", 2, encode_slot(SIX[1:]))
    record = await store.read()
    assert store.asked == [b"r0", b"r1"]
    assert sorted(store.reported, key=lambda one: int(one[0].tracker_id, 16)) == sorted(
        [*((entry, "r0") for entry in SIX), (entry_of(7), "r1")], key=lambda one: int(one[0].tracker_id, 16)
    )
    assert (store.rejected, record.slots[0].seq) == ({}, 2)


async def test_copies_of_our_entry_count_whatever_else_a_node_has_got_since() -> None:
    """A newer value at a single node, which any party can write, must not look like the loss of seven copies."""
    own, older = entry_of(1), entry_of(1, age=600)
    store = Store()
    for seq, entries in ((1, [entry_of(2)]), (2, [older]), (3, [own]), (4, [entry_of(2), own]), (5, [entry_of(2)])):
        store.add(b"r0", seq, encode_slot(entries))
    store.add(b"r0", 6, b"rubbish")
    store.seqs = [1, 2, 3, 3, 3, 4, 5, 6, 0]
    record = store.record(Expected(own.tracker_id))
    assert (await record.read(b"r0")).copies == 4
    assert (await store.record(Expected(entry_of(9).tracker_id)).read(b"r0")).copies == 0


async def test_behind_two_full_slots_a_record_is_crowded() -> None:
    store = Store(*(encode_slot([entry_of(10 * slot + n) for n in range(6)]) for slot in range(3)))
    record = await store.read()
    assert (store.asked, len(store.reported), record.is_crowded) == ([*SALTS], 18, True)
    assert record.window is record.slots[2]
    # That is no trouble: there are shards.
    assert not record.needs_bep5
    # It remains so when all of them have ended.
    store.now += 7200
    assert (await store.read()).is_crowded


@pytest.mark.parametrize(("value", "seq"), [(b"rubbish", 1), (encode_slot([]), LOCKED)], ids=["spoilt", "locked"])
@pytest.mark.parametrize("index", range(3))
async def test_a_record_with_an_unusable_slot_is_in_trouble(value: bytes, seq: int, index: int) -> None:
    store = Store(*(encode_slot([entry_of(10 * slot + n) for n in range(6)]) for slot in range(index)))
    store.add(SALTS[index], seq, value)
    record = await store.read()
    assert (record.needs_bep5, record.is_crowded) == (True, index > 0)


async def test_a_slot_can_be_read_again_and_the_next_one_for_the_first_time() -> None:
    store = Store(encode_slot(SIX[:2]))
    record = await store.read()
    store.add(b"r0", 2, encode_slot(SIX))
    store.add(b"r1", 1, encode_slot([entry_of(7)]))
    assert len((await record.read_again(0)).entries) == 6
    assert (await record.read_again(1)).entries == [entry_of(7)]
    assert [slot.salt for slot in record.slots] == [b"r0", b"r1"]


async def test_a_shard_is_read_and_written_like_a_slot() -> None:
    store = Store()
    path = shard_path(HASH, entry_of(1).tracker_id)
    record = store.record()
    shard = await record.read_shard(path[:5])
    assert (shard.salt, shard.entries) == (shard_salt(path[:5]), [])
    await record.write(shard, [entry_of(1)])
    assert (await store.record().read_shard(path[:5])).entries == [entry_of(1)]
    assert store.reported == [(entry_of(1), f"s{path[:5]}")]


async def test_the_window_tells_the_depth_of_shards() -> None:
    store = Store(encode_slot(SIX), encode_slot(SIX), encode_slot([], 9))
    record = await store.read()
    assert record.window
    assert record.window.depth == 9


# Samples of shards


async def sampled(store: Store, depth: int, *numbers: float) -> tuple[int | None, list[str]]:
    """Return the depth that a sample has found, and the shards that it has read."""
    rest = iter(numbers)
    found = await sample(store.record(), depth, lambda _first, _last: next(rest, 0.0))
    return found, [salt.decode() for salt in store.asked]


def on_path(bits: str, count: int) -> list[TrackerEntry]:
    """Return entries of as many trackers whose path begins with these bits."""
    found: list[TrackerEntry] = []
    number = 1
    while len(found) < count:
        if shard_path(HASH, identity(number).public_key().public_bytes_raw().hex()).startswith(bits):
            found.append(entry_of(number))
        number += 1
    return found


async def test_one_shard_where_the_tree_ends_and_one_above_are_read() -> None:
    store = Store()
    store.add(b"s111", 1, encode_slot(on_path("111", 2)))
    # All random numbers are 0, so that all bits are 1.
    assert await sampled(store, 3) == (3, ["s111", "s11"])


async def test_below_a_full_shard_the_sample_goes_deeper() -> None:
    store = Store()
    store.add(b"s1", 1, encode_slot(on_path("1", 6)))
    store.add(b"s11", 1, encode_slot(on_path("11", 1)))
    assert await sampled(store, 1) == (2, ["s1", "s11", "s1"])


async def test_above_an_empty_shard_the_sample_goes_up() -> None:
    store = Store()
    store.add(b"s11", 1, encode_slot(on_path("11", 1)))
    assert await sampled(store, 3) == (2, ["s111", "s11", "s1"])
    store.asked.clear()
    store.add(b"s", 1, encode_slot(on_path("", 6)))
    assert (await sampled(store, 1))[0] == 1


async def test_without_any_entry_nothing_is_known_about_the_depth() -> None:
    assert await sampled(Store(), 20) == (None, ["s" + "1" * depth for depth in (20, 19, 17, 13)])
    assert await sampled(Store(), 0) == (None, ["s"])


async def test_an_attacker_cannot_make_a_sample_long() -> None:
    store = Store()
    for depth in range(21):
        store.add(b"s" + b"1" * depth, LOCKED, b"rubbish")
    assert (await sampled(store, 3))[0] is None
    assert len(store.asked) == SAMPLES + 1


async def test_if_the_root_is_the_whole_tree_it_is_read_once() -> None:
    store = Store()
    store.add(b"s", 1, encode_slot(SIX[:3]))
    assert await sampled(store, 0) == (0, ["s"])
