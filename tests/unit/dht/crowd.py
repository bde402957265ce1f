"""A record that very many trackers use, in virtual time: the product's own choices of places, on modelled nodes."""

import asyncio
import random
import selectors
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass, field
from functools import wraps
from hashlib import sha256
from typing import Any, Final, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.client import Stored
from extensions.dht.krpc.schedule import Job
from extensions.dht.publisher import Published, Publisher
from extensions.dht.records.keys import DAY, SALTS, WINDOW, day_of, shard_path, shard_salt
from extensions.dht.records.record import Record, sample
from extensions.dht.records.shards import SHALLOW, ShardMemory
from extensions.dht.records.slots import LOCKED, Slot, encode_slot
from extensions.dht.refresh import REFRESH
from extensions.dht.tracked import MAX_DOUBLINGS
from extensions.entries import LIFETIME, merge
from extensions.trackers import TrackerEntry

HASH: Final = bytes(range(20))
URL: Final = "wss://tracker.example.org"
MIDNIGHT: Final = 20000 * DAY

READ_TIME: Final = (0.3, 1.2)
WRITE_TIME: Final = (0.1, 0.4)
"""Seconds that a lookup and a store take. Of two trackers that read, and then write, one meets a conflict."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jumps(self))

    def time(self) -> float:
        return self.now


class _Jumps(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._loop.now += timeout or 0.0
        return super().select(0)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(main)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Have a test run in virtual time."""

    @wraps(test)
    def wrapped(*arguments: object, **named: object) -> None:
        run(test(*arguments, **named))

    return wrapped


@dataclass(frozen=True)
class Value:
    """The value of a slot or shard; without a `seq` there is none."""

    seq: int = -1
    entries: list[TrackerEntry] = field(default_factory=list)
    depth: int | None = None

    @property
    def size(self) -> int:
        return len(encode_slot(self.entries, self.depth)) if self.seq >= 0 else 0


EMPTY: Final = Value()


class Crowd:
    """The trackers of one infohash, and the nodes that store its records. `start` is a Unix time."""

    def __init__(self, seed: int = 1, start: float = MIDNIGHT + 12 * 3600) -> None:
        self.seed = seed
        self.start = start
        self.random = random.Random(seed)
        self.values: dict[tuple[int, bytes], Value] = {}
        """By day and salt."""
        self.reads: Counter[tuple[int, bytes]] = Counter()
        """By hour since the start and salt; so are the writes and those of them that met a conflict."""
        self.writes: Counter[tuple[int, bytes]] = Counter()
        self.conflicts: Counter[tuple[int, bytes]] = Counter()
        self.lookups: list[tuple[float, int]] = []
        """When each visit began (seconds since the start), and the lookups that it made."""
        self.counts_from = 0.0
        self.sampled: Counter[str] = Counter()
        """How often samples have held each tracker, since `counts_from` (seconds since the start)."""
        self.bep5_reads: Counter[int] = Counter()
        """Visits that would also use BEP 5 if this were the rendezvous, by hour."""
        self.trackers: list[CrowdTracker] = []
        self._began = asyncio.get_running_loop().time()
        self._added = self._made_up = 0

    @property
    def passed(self) -> float:
        """Seconds since the start."""
        return asyncio.get_running_loop().time() - self._began

    @property
    def hour(self) -> int:
        """Whole hours since the start."""
        return int(self.passed // 3600)

    @property
    def today(self) -> int:
        return day_of(self.clock())

    def clock(self) -> float:
        return self.start + self.passed

    def value(self, salt: bytes, day: int | None = None) -> Value:
        """Return the value of a slot or shard, by default of today's record."""
        return self.values.get((self.today if day is None else day, salt), EMPTY)

    def entries_in(self, salt: bytes, day: int | None = None) -> list[TrackerEntry]:
        """Return the valid entries of a slot or shard, by default of today's record."""
        return [entry for entry in self.value(salt, day).entries if entry.expires > self.clock()]

    def living(self, day: int | None = None) -> set[str]:
        """Return the trackers with a valid entry that nobody may replace: one in the window does not count."""
        return {
            entry.tracker_id
            for (of_day, salt) in self.values
            if salt != WINDOW and day in (None, of_day)
            for entry in self.entries_in(salt, of_day)
        }

    def depths(self) -> dict[int, int]:
        """Return the numbers of valid entries in today's shards, by depth."""
        counts: Counter[int] = Counter()
        for day, salt in self.values:
            if day == self.today and salt not in SALTS and self.entries_in(salt):
                counts[len(salt) - 1] += len(self.entries_in(salt))
        return dict(sorted(counts.items()))

    def add(self, number: int, joins: Callable[[], float] = lambda: 0.0) -> "list[CrowdTracker]":
        """Add trackers that join so many seconds after the start."""
        self._added += number
        added = [CrowdTracker(self, count, joins()) for count in range(self._added - number, self._added)]
        self.trackers += added
        return added

    async def live(self, until: float) -> None:
        """Let all trackers live until so many seconds after the start."""
        for tracker in self.trackers:
            tracker.start()
        await asyncio.sleep(until - self.passed)
        for tracker in self.trackers:
            if tracker.task and tracker.task.done():
                tracker.task.result()

    async def stop(self, trackers: "Iterable[CrowdTracker] | None" = None) -> None:
        """End some trackers, by default all, without a word to the others."""
        ending = set(self.trackers if trackers is None else trackers)
        tasks = [tracker.task for tracker in ending if tracker.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.trackers = [tracker for tracker in self.trackers if tracker not in ending]

    def lookups_between(self, begin: float, end: float) -> list[int]:
        """Return the lookups of each visit that began in a period (seconds since the start)."""
        return [count for when, count in self.lookups if begin <= when < end]

    def most(self, counts: Counter[tuple[int, bytes]], hour: int, shards: bool = False) -> int:
        """Return the highest count of an hour, by slot; or by shard."""
        return max(
            (number for (of, salt), number in counts.items() if of == hour and shards == (salt not in SALTS)), default=0
        )

    def lock(self, salt: bytes) -> None:
        """Let an attacker lock a slot or shard of today's record."""
        self.values[self.today, salt] = Value(LOCKED)

    def fill(self, salt: bytes, age: float = 600.0, count: int = 6) -> list[TrackerEntry]:
        """Fill a slot or shard of today's record with entries of made-up trackers, signed so many seconds ago."""
        self._made_up += count
        numbers = range(self._made_up - count, self._made_up)
        expires = int(self.clock() - age) + LIFETIME
        entries = [TrackerEntry(f"{number:064x}", expires, URL, bytes(64)) for number in numbers]
        self.values[self.today, salt] = Value(self.value(salt).seq + 1, entries)
        return entries


class CrowdRecord(Record):
    """A record at the modelled nodes, all of which have the same values."""

    def __init__(self, crowd: Crowd, day: int, on_entry: Callable[[TrackerEntry, str], object]) -> None:
        super().__init__(cast(Any, None), HASH, day, Job(), crowd.clock, Counter(), on_entry)
        self.asked: list[bytes] = []
        """The salts of all slots and shards that were read."""
        self._crowd = crowd
        self._tell = on_entry

    async def read(self, salt: bytes) -> Slot:
        crowd = self._crowd
        self.asked.append(salt)
        self.has_reached = True
        crowd.reads[crowd.hour, salt] += 1
        await asyncio.sleep(crowd.random.uniform(*READ_TIME))
        value = crowd.value(salt, self.day)
        slot = Slot(salt, value.seq, crowd.entries_in(salt, self.day), value.size, depth=value.depth)
        for entry in slot.entries:
            self._tell(entry, salt.decode())
        return slot

    async def write(self, slot: Slot, entries: Sequence[TrackerEntry], depth: int | None = None) -> Stored:
        crowd = self._crowd
        await asyncio.sleep(crowd.random.uniform(*WRITE_TIME))
        crowd.writes[crowd.hour, slot.salt] += 1
        if crowd.value(slot.salt, self.day).seq != slot.seq:
            crowd.conflicts[crowd.hour, slot.salt] += 1
            return Stored(conflicts=8)
        value = Value(max(0, slot.seq) + 1, merge(entries), depth)
        assert value.size
        crowd.values[self.day, slot.salt] = value
        return Stored(taken=8)


class CrowdTracker:
    """One tracker. It visits the record as `Visits` does, but without BEP 5 and the record of yesterday."""

    def __init__(self, crowd: Crowd, number: int, joins: float) -> None:
        self.memory = ShardMemory()
        self.found: dict[str, str] = {}
        """The trackers that the last visit has found, and the slot or shard of each."""
        self.until = 0.0
        """When its entry ends."""
        self.gap = 0.0
        """Seconds without a valid entry since its first publication."""
        self.failures = 0
        """Visits that found no place for its entry, since the last one that did."""
        self.task: asyncio.Task[None] | None = None
        self._crowd = crowd
        self._joins = joins
        key = Ed25519PrivateKey.from_private_bytes(sha256(b"%d %d" % (crowd.seed, number)).digest())
        self.publisher = Publisher(key, URL, crowd.clock, crowd.random.uniform)

    @property
    def tracker_id(self) -> str:
        return self.publisher.tracker_id

    def shard(self, depth: int) -> bytes:
        """Return the salt of a shard on its path."""
        return shard_salt(shard_path(HASH, self.tracker_id)[:depth])

    @property
    def announces(self) -> bool:
        """Whether it would announce by BEP 5 if this were the rendezvous."""
        return self.memory.own_depth is None or self.memory.own_depth <= SHALLOW

    def start(self) -> None:
        """Begin to live, if it has not begun."""
        self.task = self.task or asyncio.ensure_future(self._live())

    async def visit(self) -> Published:
        """Visit the record once."""
        crowd, began, self.found = self._crowd, self._crowd.passed, {}
        record, shards = (
            CrowdRecord(crowd, crowd.today, self._on_entry),
            CrowdRecord(crowd, crowd.today, self._on_sampled),
        )
        if not self.memory.skips_slots(crowd.random.uniform):
            await record.read_slots()
            self.memory.note_slots(record.window)
        async with asyncio.TaskGroup() as together:
            if record.is_crowded or not record.slots:
                together.create_task(self._sample(shards))
            published = await self.publisher.publish(record, self.memory)
        crowd.lookups.append((began, len(record.asked) + len(shards.asked)))
        crowd.bep5_reads[crowd.hour] += not self.memory.is_large
        if self.until and published.until:
            self.gap += max(0.0, crowd.clock() - self.until)
        self.until = max(self.until, published.until)
        self.failures = self.failures + 1 if published.has_failed else 0
        return published

    async def _live(self) -> None:
        crowd = self._crowd
        await asyncio.sleep(self._joins)
        while True:
            published = await self.visit()
            wait = self.until - crowd.clock() - LIFETIME + crowd.random.uniform(*REFRESH)
            if published.look_again:
                backoff = 2.0 ** min(MAX_DOUBLINGS, max(0, self.failures - 1))
                wait = min(wait, crowd.random.uniform(*published.look_again) * backoff)
            await asyncio.sleep(max(1.0, wait))

    async def _sample(self, shards: CrowdRecord) -> None:
        self.memory.depth = await sample(shards, self.memory.depth or 0, self._crowd.random.uniform)

    def _on_entry(self, entry: TrackerEntry, where: str) -> None:
        self.found[entry.tracker_id] = where

    def _on_sampled(self, entry: TrackerEntry, where: str) -> None:
        self._on_entry(entry, where)
        if self._crowd.passed >= self._crowd.counts_from:
            self._crowd.sampled[entry.tracker_id] += 1
