"""A vandal: it knows infohashes, and so it can write to their records."""

import time
from collections.abc import Iterable
from itertools import product

from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.records.keys import day_of, record_key, shard_salt
from extensions.dht.records.slots import LOCKED, encode_slot
from tests.simulation.dht.trackers import EmulatedTracker


async def overwrite(vandal: EmulatedTracker, info_hash: bytes, salts: Iterable[bytes], *, locks: bool = False) -> None:
    """Replace slots and shards of a record by empty ones; if it `locks`, so that no honest writer writes after it."""
    key = record_key(info_hash, day_of(time.time()))
    public_key, client = key.public_key().public_bytes_raw(), vandal.service.client
    for salt in salts:
        items: list[Item] = []
        found = await client.get(public_key, salt, Job(), items.append)
        seq = max([2 * LOCKED if locks else 1, *(item.seq + 1 for item in items)])
        await client.put(found, key, salt, seq, encode_slot([]))


def upper_shards(depth: int) -> list[bytes]:
    """Return the salts of all shards down to a depth."""
    return [shard_salt("".join(bits)) for level in range(depth + 1) for bits in product("01", repeat=level)]
