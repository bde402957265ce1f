"""Records in the DHT are compatible with npm's bittorrent-dht and an implementation of `docs/dht.md` in JavaScript."""

import json
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.client import Client, Found
from extensions.dht.krpc.messages import CAS_MISMATCH, SEQ_TOO_OLD, Address, Contact, Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.traversal import CLOSEST
from extensions.dht.records.keys import SALTS, announce_hash, day_of, record_key, shard_path, shard_salt
from extensions.dht.records.placing import REST, with_own
from extensions.dht.records.slots import LOCKED, Slot, encode_slot
from extensions.entries import Rejected, sign_entry
from extensions.trackers import TrackerEntry
from tests.e2e.node import Json, NodeScript, node_script
from tests.private_dht import PrivateDht
from tests.vectors import read_vectors

HASH = bytes(range(3, 23))
OURS = Ed25519PrivateKey.from_private_bytes(b"\2" * 32)
OUR_URL = "wss://ours.example.org/announce"
THEIR_SEED = "03" * 32
THEIR_ID = Ed25519PrivateKey.from_private_bytes(b"\3" * 32).public_key().public_bytes_raw().hex()
THEIR_URL = "wss://theirs.example.org"


@dataclass
class Network:
    """A private DHT with our client and the script's. The time stands still."""

    script: NodeScript
    client: Client
    now: int

    @property
    def day(self) -> int:
        """The current day."""
        return day_of(self.now)

    @property
    def when(self) -> Json:
        """The infohash, the day and the time as arguments of the script."""
        return {"infoHash": HASH.hex(), "day": self.day, "now": self.now}

    async def ask_script(self, command: str, answer: str, **fields: object) -> Json:
        """Send a command to the script and return its answer."""
        await self.script.send(command, **fields)
        return await self.script.event(lambda event: event["event"] == answer)

    async def read(self) -> tuple[list[Slot], list[Found], Counter[Rejected]]:
        """Read the record. Return the slots, the nodes that store them, and the reasons for ignored parts."""
        slots: list[Slot] = []
        found: list[Found] = []
        rejected: Counter[Rejected] = Counter()
        public_key = record_key(HASH, self.day).public_key().public_bytes_raw()
        for salt in SALTS:
            items: list[Item] = []
            found.append(await self.client.get(public_key, salt, Job(), items.append))
            slots.append(Slot(salt))
            for item in {item.signature: item for item in items}.values():
                rejected += slots[-1].add(item.seq, item.value, HASH, self.now)
            if not slots[-1].continues:
                break
        return slots, found, rejected

    async def write(self) -> tuple[int, int]:
        """Write our entry to the record. Return the slot and its new sequence number."""
        slots, found, _ = await self.read()
        own = sign_entry(OURS, HASH, OUR_URL, self.now)
        index = next(index for index, slot in enumerate(slots) if slot.has_room(own))
        entries = with_own(slots, index, own)
        seq = max(0, slots[index].seq) + 1
        key = record_key(HASH, self.day)
        stored = await self.client.put(found[index], key, SALTS[index], seq, encode_slot(entries))
        assert (stored.taken, stored.conflicts, stored.failed) == (CLOSEST, 0, 0)
        return index, seq


@pytest.fixture(params=["libtorrent", "npm"])
async def network(request: pytest.FixtureRequest) -> AsyncIterator[Network]:
    """A network of ten nodes of libtorrent, or of eight of npm's."""
    async with AsyncExitStack() as stack:
        script = await stack.enter_async_context(node_script("dht.mjs"))
        if request.param == "libtorrent":
            dht = await stack.enter_async_context(PrivateDht(10))
            contacts = dht.contacts()
            await script.send("start", count=0, bootstrap=dht.bootstrap)
            await script.event(lambda event: event["event"] == "started")
        else:
            await script.send("start", count=8)
            started = await script.event(lambda event: event["event"] == "started")
            contacts = [
                Contact(bytes.fromhex(node["id"]), (node["host"], node["port"])) for node in started["contacts"]
            ]
        client = Client(lambda family: contacts if family == 4 else [], private=True, node_rate=1000)
        await client.start(["127.0.0.1"])
        stack.callback(client.close)
        yield Network(script, client, int(time.time()))
        assert script.complaints == []


def shown(entries: list[TrackerEntry]) -> set[tuple[str, str, int]]:
    """Return id, URL and end of verified entries."""
    return {(entry.tracker_id, entry.url, entry.expires) for entry in entries}


def shown_by_script(answer: Json) -> set[tuple[str, str, int]]:
    """Return id, URL and end of the entries that the script read."""
    return {(entry["id"], entry["url"], entry["expires"]) for slot in answer["slots"] for entry in slot["entries"]}


async def test_both_sides_read_the_entries_of_both(network: Network) -> None:
    theirs = (THEIR_ID, THEIR_URL, network.now + 7200)
    ours = (OURS.public_key().public_bytes_raw().hex(), OUR_URL, network.now + 7200)

    written = await network.ask_script("write", "written", seed=THEIR_SEED, url=THEIR_URL, **network.when)
    assert (written["slot"], written["seq"], written.get("code")) == (0, 1, None)
    assert written["nodes"] >= CLOSEST
    slots, _, rejected = await network.read()
    assert ([slot.seq for slot in slots], shown(slots[0].entries), rejected) == ([1], {theirs}, Counter())

    assert await network.write() == (0, 2)
    read = await network.ask_script("read", "read", **network.when)
    assert [slot["seq"] for slot in read["slots"]] == [2]
    assert [slot["rejected"] for slot in read["slots"]] == [[]]
    assert shown_by_script(read) == {theirs, ours}

    written = await network.ask_script("write", "written", seed="04" * 32, url="ws://192.0.2.1:8000/", **network.when)
    assert (written["slot"], written["seq"], written.get("code")) == (0, 3, None)
    slots, _, rejected = await network.read()
    assert ([slot.seq for slot in slots], rejected) == ([3], Counter())
    assert {theirs, ours} < shown(slots[0].entries)
    assert len(slots[0].entries) == 3


async def test_both_sides_go_on_after_a_locked_slot(network: Network) -> None:
    put = await network.ask_script(
        "put", "put", slot=0, seq=LOCKED, value=b"rubbish".hex(), infoHash=HASH.hex(), day=network.day
    )
    assert put.get("code") is None
    assert await network.write() == (1, 1)
    read = await network.ask_script("read", "read", **network.when)
    assert [slot["seq"] for slot in read["slots"]] == [LOCKED, 1]
    assert read["slots"][0]["rejected"] == ["not_bencode"]
    assert [url for _, url, _ in shown_by_script(read)] == [OUR_URL]

    written = await network.ask_script("write", "written", seed=THEIR_SEED, url=THEIR_URL, **network.when)
    assert (written["slot"], written["seq"], written.get("code")) == (1, 2, None)
    slots, _, rejected = await network.read()
    assert [slot.seq for slot in slots] == [LOCKED, 2]
    assert {entry.url for slot in slots for entry in slot.entries} == {OUR_URL, THEIR_URL}
    assert rejected == Counter({Rejected.NOT_BENCODE: 1})


@pytest.mark.parametrize("writer", ["ours", "theirs"])
async def test_entries_of_later_slots_are_carried_over(network: Network, writer: str) -> None:
    first, *others = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(10, 17)]
    stays = sign_entry(first, HASH, "wss://stays.example.org", network.now)
    ends = [sign_entry(key, HASH, "wss://ends.example.org", network.now - 7190) for key in others]
    for slot, entries in enumerate((ends, [stays])):
        value = encode_slot(entries).hex()
        put = await network.ask_script(
            "put", "put", slot=slot, seq=1, value=value, infoHash=HASH.hex(), day=network.day
        )
        assert put.get("code") is None
    network.now += 60
    read = await network.ask_script("read", "read", **network.when)
    assert [len(slot["entries"]) for slot in read["slots"]] == [0, 1]
    slots, _, _ = await network.read()
    assert [len(slot.entries) for slot in slots] == [0, 1]

    if writer == "ours":
        assert await network.write() == (0, 2)
    else:
        written = await network.ask_script("write", "written", seed=THEIR_SEED, url=THEIR_URL, **network.when)
        assert (written["slot"], written["seq"], written.get("code")) == (0, 2, None)
    read = await network.ask_script("read", "read", **network.when)
    assert [len(slot["entries"]) for slot in read["slots"]] == [2]
    slots, _, rejected = await network.read()
    assert [{entry.url for entry in slot.entries} for slot in slots] == [
        {stays.url, OUR_URL if writer == "ours" else THEIR_URL}
    ]
    assert rejected == Counter()


async def test_a_shard_is_read_by_both_sides(network: Network) -> None:
    own = sign_entry(OURS, HASH, OUR_URL, network.now)
    bits = shard_path(HASH, own.tracker_id)[:4]
    wrong = "".join("10"[int(bit)] for bit in bits)
    item = {"infoHash": HASH.hex(), "day": network.day, "seq": 1, "value": encode_slot([own]).hex()}
    for place, entries, rejected in ((bits, [own], []), (wrong, [], ["wrong_shard"])):
        put = await network.ask_script("put", "put", bits=place, **item)
        assert put.get("code") is None
        read = await network.ask_script("readShard", "shard", bits=place, **network.when)
        assert (read["seq"], len(read["entries"]), read["rejected"]) == (1, len(entries), rejected)
        slot = Slot(shard_salt(place))
        items: list[Item] = []
        public_key = record_key(HASH, network.day).public_key().public_bytes_raw()
        await network.client.get(public_key, slot.salt, Job(), items.append)
        reasons = slot.add(items[0].seq, items[0].value, HASH, network.now)
        assert (slot.entries, [*reasons.elements()]) == (entries, rejected)


async def test_the_window_of_a_crowded_record_rests_and_is_then_taken(network: Network) -> None:
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(10, 28)]
    entries = [sign_entry(key, HASH, "wss://crowded.example.org", network.now) for key in keys]
    for slot in range(3):
        value = encode_slot(entries[6 * slot : 6 * slot + 6], 0 if slot == 2 else None).hex()
        put = await network.ask_script(
            "put", "put", slot=slot, seq=1, value=value, infoHash=HASH.hex(), day=network.day
        )
        assert put.get("code") is None
    written = await network.ask_script("write", "written", seed=THEIR_SEED, url=THEIR_URL, **network.when)
    assert written["slot"] is None
    network.now += REST
    written = await network.ask_script("write", "written", seed=THEIR_SEED, url=THEIR_URL, **network.when)
    assert (written["slot"], written["seq"], written.get("code")) == (2, 2, None)
    slots, _, rejected = await network.read()
    assert [len(slot.entries) for slot in slots] == [6, 6, 6]
    assert THEIR_URL in {entry.url for entry in slots[2].entries}
    assert rejected == Counter()


async def test_conflicts_are_reported(network: Network) -> None:
    item = {"slot": 0, "infoHash": HASH.hex(), "day": network.day}
    value = encode_slot([sign_entry(OURS, HASH, OUR_URL, network.now)])
    put = await network.ask_script("put", "put", seq=1, value=value.hex(), **item)
    assert put.get("code") is None
    slots, found, _ = await network.read()
    assert [slot.seq for slot in slots] == [1]

    wrong = await network.ask_script("put", "put", seq=2, cas=5, value=value.hex(), **item)
    assert wrong.get("code") == CAS_MISMATCH
    late = await network.ask_script("put", "put", seq=0, value=value.hex(), **item)
    assert late.get("code") == SEQ_TOO_OLD

    # The script writes between our read and our write.
    put = await network.ask_script("put", "put", seq=2, cas=1, value=value.hex(), **item)
    assert put.get("code") is None
    key = record_key(HASH, network.day)
    stored = await network.client.put(found[0], key, b"r0", 2, encode_slot([]))
    # The script's client is a node too, and stores nothing at itself.
    assert stored.conflicts >= CLOSEST - 1
    assert stored.failed == 0
    assert await network.write() == (0, 3)


async def test_both_sides_find_the_announcements_of_both(network: Network) -> None:
    announced = announce_hash(HASH, network.day)
    peers: set[Address] = set()
    found = await network.client.get_peers(announced, Job(), lambda _node, named: peers.update(named))
    assert peers == set()
    stored = await network.client.announce(found, announced, 7001)
    assert (stored.taken, stored.conflicts, stored.failed) == (CLOSEST, 0, 0)
    answer = await network.ask_script("lookUp", "found", hash=announced.hex())
    assert answer["peers"] == ["127.0.0.1:7001"]

    said = await network.ask_script("announce", "announced", hash=announced.hex(), port=7002)
    assert said.get("code") is None
    await network.client.get_peers(announced, Job(), lambda _node, named: peers.update(named))
    assert peers == {("127.0.0.1", 7001), ("127.0.0.1", 7002)}


async def test_the_script_computes_the_vectors_of_the_document() -> None:
    vectors = read_vectors()
    given = {name: vectors.named[name] for name in ("infohash", "time", "tracker_seed", "url")}
    given |= {name: vectors.named[name] for name in ("text_info_hash", "unicode_info_hash")}
    async with node_script("dht.mjs") as script:
        await script.send(
            "vectors",
            urls=[url for url, _ in vectors.urls],
            values=[value.hex() for _, value in vectors.values],
            **given,
        )
        answer = await script.event(lambda event: event["event"] == "vectors")
    computed = {**answer["computed"], "descriptor": json.loads(answer["computed"]["descriptor"])}
    assert {**computed, **given} == {**vectors.named, "descriptor": json.loads(vectors.named["descriptor"])}
    assert answer["placing"] == vectors.placing
    assert list(zip([url for url, _ in vectors.urls], answer["urls"], strict=True)) == vectors.urls
    assert answer["values"] == [[] if reason == "none" else [reason] for reason, _ in vectors.values]
