"""A directory in a DHT of eight nodes with the same contents, which the test controls."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from extensions.dht.cache import Known
from extensions.dht.directory import Directory
from extensions.dht.krpc import messages
from extensions.dht.krpc.client import Found, Stored
from extensions.dht.krpc.messages import Contact, Item
from extensions.dht.krpc.schedule import Job, LookupLimits
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.krpc.traversal import CLOSEST, Candidate, State
from extensions.dht.records.keys import SALTS, WINDOW, day_of, record_key, shard_path, shard_salt
from extensions.dht.records.reports import Bep5Report
from extensions.dht.records.slots import Slot, encode_slot
from extensions.entries import Rejected, sign_entry
from extensions.trackers import TrackerEntry
from tests.client import eventually
from tests.unit.dht.entries import HASH, NOW, URL, identity
from tracker.extension import BackgroundTasks

OWN = identity(100).public_key().public_bytes_raw().hex()
UNLIMITED = LookupLimits(100, 1e9, 1e9)


class Dht:
    """The nodes and their client. `on_get` and `on_put` are called before each request; they may raise or wait."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.items: dict[tuple[bytes, bytes], Item] = {}
        self.scheduler = scheduler
        self.gets = self.puts = 0
        self.asked: list[tuple[bytes, bytes]] = []
        """Public key and salt of each lookup."""
        self.conflicts = 0
        """Writes that meet a newer value of another writer."""
        self.hidden: set[bytes] = set()
        """Salts of slots whose nodes take every value, and return none."""
        self.dense: set[bytes] = set()
        """Salts of slots whose nodes are much nearer than expected."""
        self.copies = CLOSEST
        """Nodes that have a value, of the closest ones. They all answer, and take each value."""
        self.refusals = 0
        """Nodes, of the closest ones, at which each write meets a newer value."""
        self.is_there = True
        self.clock: Callable[[], float] = lambda: NOW
        self.on_get: Callable[[], Any] = lambda: None
        self.on_put: Callable[[], Any] = lambda: None

    async def get(self, public_key: bytes, salt: bytes, job: Job, on_item: Callable[[Item], None]) -> Found:
        async with self.scheduler.turn(job):
            return await self._get(public_key, salt, on_item)

    async def _get(self, public_key: bytes, salt: bytes, on_item: Callable[[Item], None]) -> Found:
        self.gets += 1
        self.asked.append((public_key, salt))
        await asyncio.sleep(0)
        if waits := self.on_get():
            await waits
        if not self.is_there:
            return Found()
        candidates = [
            Candidate(number, Contact(bytes(20), (f"192.0.{number}.1", 1)), State.ANSWERED, b"token")
            for number in range(CLOSEST)
        ]
        if (item := self.items.get((public_key, salt))) and salt not in self.hidden:
            for candidate in candidates[: self.copies]:
                candidate.seq = item.seq
            on_item(item)
        return Found(candidates, CLOSEST, candidates, salt in self.dense)

    async def put(self, found: Found, key: Any, salt: bytes, seq: int, value: bytes) -> Stored:
        self.puts += 1
        await asyncio.sleep(0)
        if waits := self.on_put():
            await waits
        if self.conflicts:
            self.conflicts -= 1
            return Stored(conflicts=CLOSEST)
        if not self.is_there or not found.candidates:
            return Stored(failed=CLOSEST)
        if self.refusals >= CLOSEST:
            return Stored(conflicts=CLOSEST)
        public_key = key.public_key().public_bytes_raw()
        self.items[public_key, salt] = Item(public_key, messages.sign_item(key, salt, seq, value), seq, value)
        return Stored(CLOSEST - self.refusals, self.refusals)

    def has(self, info_hash: bytes = HASH, day: int = day_of(NOW)) -> set[str]:
        """Return the trackers in a record."""
        public_key = record_key(info_hash, day).public_key().public_bytes_raw()
        slot = Slot(SALTS[0])
        for salt in SALTS:
            if item := self.items.get((public_key, salt)):
                slot.add(item.seq, item.value, info_hash, self.clock())
        return {entry.tracker_id for entry in slot.entries}

    async def write(
        self,
        *entries: TrackerEntry,
        info_hash: bytes = HASH,
        day: int = day_of(NOW),
        salt: bytes = SALTS[0],
        depth: int | None = None,
    ) -> None:
        """Store entries in a record, as other trackers do."""
        found = Found([cast(Any, None)])
        await self.put(found, record_key(info_hash, day), salt, 1, encode_slot(list(entries), depth))
        self.puts = 0

    async def fill(self, now: float, depth: int, info_hash: bytes = HASH, ahead: int = 0) -> None:
        """Fill the slots of a record, and shards down to a depth, with entries of other trackers.

        They were signed 600 s before `now`, or `ahead` seconds later. The shards are those on our path, and those that
        a sample reads if all of its random numbers are 1.
        """
        day, own = day_of(now), shard_path(info_hash, OWN)
        everyone = [sign_entry(identity(number), info_hash, URL, now - 600 + ahead) for number in range(101, 256)]
        for index, salt in enumerate(SALTS):
            six = everyone[6 * index : 6 * index + 6]
            await self.write(*six, info_hash=info_hash, day=day, salt=salt, depth=depth if salt == WINDOW else None)
        for bits in {path[:number] for number in range(depth + 1) for path in (own, "0" * depth)}:
            inside = [one for one in everyone[18:] if shard_path(info_hash, one.tracker_id).startswith(bits)]
            count = 1 if len(bits) == depth else 6
            assert len(inside) >= count, "there are too few trackers"
            await self.write(*inside[:count], info_hash=info_hash, day=day, salt=shard_salt(bits))


class SecondPath:
    """A BEP 5 fallback that finds `entries`, or raises `fault`."""

    def __init__(self) -> None:
        self.rejected: Counter[Rejected] = Counter()
        self.entries: list[TrackerEntry] = []
        self.fault: Exception | None = None
        self.finds = self.announces = 0
        self.reports: list[Bep5Report | None] = []
        """The report given to each search."""

    async def find(
        self,
        _hash: bytes,
        _days: list[int],
        _job: Job,
        on_entry: Callable[[TrackerEntry], bool],
        report: Bep5Report | None,
    ) -> None:
        self.finds += 1
        self.reports.append(report)
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        for entry in self.entries:
            on_entry(entry)

    async def announce(self, _hash: bytes, _day: int, _job: Job) -> None:
        self.announces += 1
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault


class Setting:
    """A directory and its clocks."""

    def __init__(
        self,
        known: dict[bytes, Known] | None = None,
        policy: str = "all",
        limit: int = 1000,
        limits: LookupLimits = UNLIMITED,
        # Pauses between attempts take no time, and random factors around 1 are exactly 1.
        uniform: Callable[[float, float], float] = lambda first, last: 0.0 if last < 1 else max(1.0, first),
    ) -> None:
        # Noon: there is no other day to read.
        self.time, self.passed = NOW + 43200.0, 0.0
        self.scheduler = Scheduler(limits, lambda: self.reachable, lambda: self.passed)
        self.dht, self.bep5_fallback = Dht(self.scheduler), SecondPath()
        self.dht.clock = lambda: self.time
        self.reachable = True
        self.directory = Directory(
            cast(Any, self.dht),
            cast(Any, self.bep5_fallback),
            self.scheduler,
            identity(100),
            URL,
            policy,
            (),
            limit,
            known if known is not None else {},
            lambda: self.reachable,
            BackgroundTasks().start,
            lambda: self.time,
            lambda: self.passed,
            uniform,
        )

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.passed += seconds
        self.scheduler.wake()

    async def idle(self) -> None:
        """Wait until nothing is due or under way."""

        def is_idle() -> bool:
            return not self.directory.visits and not self.directory.overdue

        await eventually(is_idle)

    async def pass_by(self, seconds: float, step: float = 30.0) -> None:
        """Let so much time pass in steps, with all visits that become due in it."""
        end = self.passed + seconds
        while self.passed < end:
            self.advance(min(step, end - self.passed))
            await self.idle()

    async def trackers(self, info_hash: bytes = HASH, thorough: bool = False) -> set[str]:
        return {one.entry.tracker_id async for one in self.directory.trackers(info_hash, thorough)}


@asynccontextmanager
async def running(setting: Setting) -> AsyncIterator[Setting]:
    """End the directory's visits afterwards."""
    try:
        yield setting
    finally:
        await setting.directory.close()
        setting.scheduler.close()


def signed(number: int, now: float, info_hash: bytes = HASH, age: float = 0) -> TrackerEntry:
    """Return an entry that tracker `number` signed `age` seconds before now."""
    return sign_entry(identity(number), info_hash, URL, now - age)
