"""Records as they are read and written: snapshots, and the calls of the client."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import messages
from extensions.dht.krpc.client import Client, Found, Stored
from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.records import record
from extensions.dht.records.keys import SALTS, day_of, record_key
from extensions.dht.records.record import RecordSnapshot
from extensions.dht.records.slots import LOCKED, Slot, encode_slot
from extensions.entries import Rejected
from extensions.trackers import TrackerEntry
from tests.unit.dht.entries import FULL, HASH, NOW, SECOND, entry_of, identity, slot_of

DAY = day_of(NOW)


def test_a_healthy_record_is_not_in_trouble() -> None:
    assert not RecordSnapshot(HASH, DAY, []).is_troubled
    assert not RecordSnapshot(HASH, DAY, [Slot(0)]).is_troubled
    assert not RecordSnapshot(HASH, DAY, [slot_of(0, FULL), slot_of(1, SECOND), slot_of(2, FULL[:5])]).is_troubled


@pytest.mark.parametrize("bad", [Slot(1, LOCKED), Slot(1, 1, has_faults=True)], ids=["locked", "spoilt"])
def test_a_record_with_an_unusable_slot_is_in_trouble(bad: Slot) -> None:
    assert RecordSnapshot(HASH, DAY, [slot_of(0, FULL), bad, Slot(2)]).is_troubled


def test_a_record_of_full_slots_is_in_trouble() -> None:
    assert RecordSnapshot(HASH, DAY, [slot_of(index, FULL) for index in range(3)]).is_troubled
    # The third slot was not read, and may have room.
    assert not RecordSnapshot(HASH, DAY, [slot_of(index, FULL) for index in range(2)]).is_troubled


def test_a_snapshot_has_the_last_entry_of_each_tracker() -> None:
    newer = replace(FULL[3], expires=NOW + 9000)
    assert RecordSnapshot(HASH, DAY, [slot_of(0, FULL), slot_of(1, [newer])]).entries == [newer, *FULL[:3], *FULL[4:]]


class Store:
    """Replaces a client: one node for each slot."""

    def __init__(self, *values: bytes, seq: int = 1) -> None:
        self.items: dict[bytes, list[Item]] = {salt: [] for salt in SALTS}
        self.key = record_key(HASH, DAY)
        self.asked: list[bytes] = []
        for salt, value in zip(SALTS, values, strict=False):
            self.add(salt, seq, value)

    def add(self, salt: bytes, seq: int, value: bytes) -> None:
        signature = messages.sign_item(self.key, salt, seq, value)
        self.items[salt].append(Item(self.key.public_key().public_bytes_raw(), signature, seq, value))

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        assert public_key == self.key.public_key().public_bytes_raw()
        self.asked.append(salt)
        for item in self.items[salt]:
            # Most nodes send the same item.
            on_item(item)
            on_item(item)
        return Found()

    async def put(self, found: Found, key: Ed25519PrivateKey, salt: bytes, seq: int, value: bytes) -> Stored:
        assert key is self.key
        self.items[salt] = []
        self.add(salt, seq, value)
        return Stored(taken=1)

    async def read(
        self, now: float = NOW
    ) -> tuple[RecordSnapshot, dict[Rejected, int], list[tuple[TrackerEntry, str]]]:
        """Return the snapshot, the reasons for ignored parts, and the entries that `on_entry` was called with."""
        rejected: Counter[Rejected] = Counter()
        reported: list[tuple[TrackerEntry, str]] = []
        snapshot = await record.read(
            self.client, HASH, DAY, Job(), lambda: now, rejected, lambda entry, where: reported.append((entry, where))
        )
        return snapshot, dict(rejected), reported

    @property
    def client(self) -> Client:
        return cast(Client, self)


async def test_an_empty_record_is_read_and_written() -> None:
    store = Store()
    snapshot, rejected, reported = await store.read()
    assert (store.asked, snapshot.entries, rejected, reported) == ([b"r0"], [], {}, [])
    assert await record.write(store.client, snapshot, entry_of(1)) == Stored(taken=1)
    assert [item.seq for item in store.items[b"r0"]] == [1]
    assert (await store.read())[2] == [(entry_of(1), "r0")]


async def test_each_entry_is_reported_once_with_its_slot() -> None:
    six = [entry_of(number) for number in range(1, 7)]
    store = Store(encode_slot(six), encode_slot([entry_of(7)]))
    store.add(b"r0", 2, encode_slot(six[1:]))
    snapshot, rejected, reported = await store.read()
    assert store.asked == [b"r0", b"r1"]
    assert sorted(reported, key=lambda one: int(one[0].tracker_id, 16)) == sorted(
        [*((entry, "r0") for entry in six), (entry_of(7), "r1")], key=lambda one: int(one[0].tracker_id, 16)
    )
    assert (rejected, snapshot.slots[0].seq) == ({}, 2)


async def test_a_record_full_of_other_entries_is_read_to_the_end_and_is_in_trouble() -> None:
    store = Store(*(encode_slot([entry_of(10 * slot + n) for n in range(6)]) for slot in range(3)))
    snapshot, _, reported = await store.read()
    assert (store.asked, len(reported), snapshot.is_troubled) == ([*SALTS], 18, True)
    # It still is in trouble when all of them have ended.
    assert (await store.read(NOW + 7200))[0].is_troubled


async def test_a_locked_record_is_not_written() -> None:
    store = Store(b"x", b"x", b"x", seq=LOCKED)
    snapshot, rejected, _ = await store.read()
    assert (snapshot.is_troubled, rejected) == (True, {Rejected.NOT_BENCODE: 3})
    assert await record.write(store.client, snapshot, entry_of(1)) is None
    assert all(item.seq == LOCKED for items in store.items.values() for item in items)


async def test_an_entry_is_erased_from_every_slot() -> None:
    six = [entry_of(number) for number in range(1, 7)]
    store = Store(encode_slot(six), encode_slot([entry_of(1, 60), entry_of(7)]))
    own = identity(1).public_key().public_bytes_raw().hex()
    await record.erase(store.client, (await store.read())[0], own)
    assert [item.seq for items in store.items.values() for item in items] == [2, 2]
    assert own not in {entry.tracker_id for entry in (await store.read())[0].entries}
