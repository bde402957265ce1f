"""Which trackers serve which infohash, in a DHT of one node that does as the test wants."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from extensions.dht import directory as module
from extensions.dht import krpc, record, slots
from extensions.dht.cache import Known, Sighting
from extensions.dht.client import BURST, Found, Stored
from extensions.dht.directory import BUSY, IDLE, Directory
from extensions.dht.krpc import Contact, Item
from extensions.dht.record import LIFETIME, RENDEZVOUS, Entry, Rejected
from extensions.dht.topic import REFRESH, RETRY
from extensions.dht.traversal import Candidate, State
from tests.client import eventually
from tests.unit.entries import HASH, NOW, OTHER_HASH, URL, entry_of, identity

OWN = identity(100).public_key().public_bytes_raw().hex()


class Dht:
    """One node and its client. `on_get` and `on_put` are called before each, and may raise, or wait."""

    def __init__(self) -> None:
        self.items: dict[tuple[bytes, bytes], Item] = {}
        self.queue: list[object] = []
        self.gets = self.puts = 0
        self.conflicts = 0
        """Writings at which somebody else was quicker."""
        self.is_there = True
        self.clock: Callable[[], float] = lambda: NOW
        self.on_get: Callable[[], Any] = lambda: None
        self.on_put: Callable[[], Any] = lambda: None

    async def get(self, public_key: bytes, salt: bytes, _urgency: int, on_item: Callable[[Item], None]) -> Found:
        self.gets += 1
        await asyncio.sleep(0)
        if waits := self.on_get():
            await waits
        if not self.is_there:
            return Found()
        candidate = Candidate(0, Contact(bytes(20), ("192.0.2.1", 1)), State.ANSWERED, b"token")
        if item := self.items.get((public_key, salt)):
            candidate.seq = item.seq
            on_item(item)
        return Found([candidate])

    async def put(self, found: Found, key: Any, salt: bytes, seq: int, value: bytes) -> Stored:
        self.puts += 1
        await asyncio.sleep(0)
        if waits := self.on_put():
            await waits
        if self.conflicts:
            self.conflicts -= 1
            return Stored(conflicts=1)
        if not self.is_there or not found.candidates:
            return Stored(failed=1)
        public_key = key.public_key().public_bytes_raw()
        self.items[public_key, salt] = Item(public_key, krpc.sign_item(key, salt, seq, value), seq, value)
        return Stored(taken=1)

    def has(self, info_hash: bytes = HASH, day: int = record.day_of(NOW)) -> set[str]:
        """The trackers in a record."""
        public_key = record.record_key(info_hash, day).public_key().public_bytes_raw()
        slot = record.Slot(0)
        for salt in record.SALTS:
            if item := self.items.get((public_key, salt)):
                slot.add(item.seq, item.value, info_hash, self.clock())
        return {entry.tracker_id for entry in slot.entries}

    async def write(self, *entries: Entry, info_hash: bytes = HASH, day: int = record.day_of(NOW)) -> None:
        """What others have written to a record."""
        reading = slots.Reading(info_hash, day, [record.Slot(0)], [Found([cast(Any, None)])])
        await slots._put(cast(Any, self), reading, 0, list(entries))
        self.puts = 0


class SecondPath:
    """What is found there, or what goes wrong."""

    def __init__(self) -> None:
        self.rejected: Counter[Rejected] = Counter()
        self.entries: list[Entry] = []
        self.fault: Exception | None = None
        self.finds = 0

    async def find(self, _hash: bytes, _days: list[int], _urgency: int, on_entry: Callable[[Entry], None]) -> None:
        self.finds += 1
        await asyncio.sleep(0)
        if self.fault:
            raise self.fault
        for entry in self.entries:
            on_entry(entry)

    async def announce(self, _hash: bytes, _day: int, _urgency: int) -> None: ...


class Setting:
    """A directory, and the time there."""

    def __init__(self, known: dict[bytes, Known] | None = None, policy: str = "all", limit: int = 1000) -> None:
        # Noon: there is no other day to read.
        self.time, self.passed = NOW + 43200.0, 0.0
        self.dht, self.second_path = Dht(), SecondPath()
        self.dht.clock = lambda: self.time
        self.reachable = True
        self.directory = Directory(
            cast(Any, self.dht),
            cast(Any, self.second_path),
            identity(100),
            URL,
            policy,
            (),
            limit,
            known if known is not None else {},
            lambda: self.reachable,
            lambda: self.time,
            lambda: self.passed,
            # Pauses between attempts take no time; what varies around one varies not at all.
            lambda first, last: 0.0 if last < 1 else max(1.0, first),
        )

    def advance(self, seconds: float) -> None:
        self.time += seconds
        self.passed += seconds
        self.directory.wake()

    async def idle(self) -> None:
        """Wait until nothing is due or under way."""

        def is_idle() -> bool:
            visits = any(topic.visit for topic in self.directory._topics.values())
            return not visits and not self.directory.overdue

        await eventually(is_idle)

    async def trackers(self, info_hash: bytes = HASH, thorough: bool = False) -> set[str]:
        return {one.entry.tracker_id async for one in self.directory.trackers(info_hash, thorough)}


@pytest.fixture
async def setting() -> AsyncIterator[Setting]:
    one = Setting()
    running = asyncio.ensure_future(one.directory.run())
    yield one
    running.cancel()
    await one.directory.close()


def signed(number: int, now: float, info_hash: bytes = HASH, age: float = 0) -> Entry:
    return record.sign_entry(identity(number), info_hash, URL, now - age)


# What goes wrong


async def test_one_who_fails_to_hear_of_a_tracker_spoils_nothing(setting: Setting) -> None:
    told: list[bytes] = []

    def fail(_hash: bytes, _sighting: Sighting) -> None:
        raise KeyError

    setting.directory.on_sighting += [fail, lambda info_hash, _: told.append(info_hash)]
    entry = signed(1, setting.time)
    await setting.dht.write(entry)
    assert await setting.trackers() == {entry.tracker_id}
    assert told == [HASH]
    await setting.idle()


async def test_a_look_that_fails_is_not_tried_again_at_once(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError

    setting.dht.on_get = fail
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert setting.dht.gets == 1
    # And then less and less often.
    for passed, gets in ((RETRY[0] - 1, 1), (1, 2), (RETRY[0], 2), (RETRY[0], 3), (3 * RETRY[0], 3), (RETRY[0], 4)):
        setting.advance(passed)
        await setting.idle()
        assert setting.dht.gets == gets
    setting.dht.on_get = lambda: None
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.dht.has() == {OWN}
    assert setting.directory._topics[HASH].failures == 0


async def test_whoever_listens_to_a_look_that_fails_hears_its_end(setting: Setting) -> None:
    def fail() -> None:
        raise RuntimeError

    setting.dht.on_get = fail
    assert await setting.trackers() == set()
    assert setting.directory._topics == {}


async def test_a_second_path_that_fails_leaves_the_first_alone(setting: Setting) -> None:
    setting.second_path.fault = RuntimeError()
    entry = signed(1, setting.time, RENDEZVOUS)
    await setting.dht.write(entry, info_hash=RENDEZVOUS, day=record.day_of(setting.time))
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    assert setting.dht.has(RENDEZVOUS) == {entry.tracker_id, OWN}
    assert setting.second_path.finds == 1


async def test_ones_own_entry_does_not_wait_for_the_second_path(setting: Setting) -> None:
    never = asyncio.Event()

    async def find(*_: object) -> None:
        await never.wait()

    cast(Any, setting.second_path).find = find
    setting.directory.publish(RENDEZVOUS)
    await eventually(lambda: setting.dht.has(RENDEZVOUS) == {OWN})
    never.set()
    await setting.idle()


async def test_what_is_due_is_looked_at_though_one_look_fails_to_begin(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 0.001)
    start_due, faults = setting.directory._start_due, iter([RuntimeError(), RuntimeError()])

    def fail_twice() -> float:
        for fault in faults:
            raise fault
        return start_due()

    setting.directory._start_due = fail_twice  # type: ignore[method-assign]
    setting.directory.publish(HASH)
    await eventually(lambda: setting.dht.has() == {OWN})


# When something is done


async def test_out_of_reach_nothing_is_begun_and_the_agenda_is_left_for_later() -> None:
    setting = Setting()
    setting.reachable = False
    setting.directory.publish(HASH)
    assert (setting.directory._start_due(), setting.directory.overdue) == (IDLE, 1)
    setting.reachable = True
    setting.dht.queue = [None] * int(BURST)
    assert (setting.directory._start_due(), setting.directory.overdue) == (BUSY, 1)
    setting.dht.queue = []
    setting.directory._start_due()
    assert setting.directory.overdue == 0
    await setting.directory.close()


async def test_what_reached_nobody_is_due_as_soon_as_somebody_can_be_reached(setting: Setting) -> None:
    setting.reachable = setting.dht.is_there = False
    setting.directory.publish(HASH)
    assert await setting.trackers() == set()
    await eventually(lambda: setting.directory.overdue == 1)
    assert setting.directory.tally.publications == {"unreachable": 1}
    setting.reachable = setting.dht.is_there = True
    setting.directory.wake()
    await setting.idle()
    assert setting.dht.has() == {OWN}


async def test_no_more_is_begun_than_there_are_turns_for() -> None:
    setting = Setting()
    for number in range(100):
        setting.directory.publish(bytes([number]) * 20)
    assert setting.directory._start_due() == BUSY
    assert setting.directory.overdue == 100 - BURST
    await setting.directory.close()


@pytest.mark.parametrize("back", [30.0, 1e6])
async def test_a_clock_that_is_set_back_stops_nothing(setting: Setting, back: float) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    gets = setting.dht.gets
    setting.time -= back
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.dht.gets > gets
    # It was signed anew, by the clock as it is now.
    own = setting.directory._topics[HASH].known.own_until
    assert abs(own - setting.time - LIFETIME) < REFRESH[1]


async def test_what_was_looked_up_by_a_clock_ahead_is_looked_up_again() -> None:
    known = Known(NOW + 1e6, 0.0, {})
    setting = Setting({HASH: known})
    await setting.trackers()
    assert (setting.dht.gets, known.looked) == (1, setting.time)


async def test_a_look_of_a_moment_ago_is_not_repeated_even_after_a_restart() -> None:
    setting = Setting()
    setting = Setting({HASH: Known(setting.time - 5, 0.0, {})})
    await setting.trackers()
    assert setting.dht.gets == 0


# What changes while a look is under way


@pytest.mark.parametrize("stage", ["read", "written"])
async def test_what_is_withdrawn_during_its_publication_is_taken_out_again(setting: Setting, stage: str) -> None:
    withdrawn: list[bool] = []

    def withdraw() -> None:
        if not withdrawn:
            withdrawn.append(True)
            setting.directory.withdraw(HASH)

    if stage == "read":
        setting.dht.on_get = withdraw
    else:
        setting.dht.on_put = withdraw
    setting.directory.publish(HASH)
    await setting.idle()
    assert withdrawn
    assert (setting.dht.has(), setting.directory._topics, setting.directory.published) == (set(), {}, 0)


@pytest.mark.parametrize("opens", [True, False])
async def test_what_is_wanted_only_when_it_has_been_read_is_published(setting: Setting, opens: bool) -> None:
    """As when a swarm opens, or is published, while somebody looks its trackers up."""
    await setting.dht.write(signed(1, setting.time))

    def want(_hash: bytes, _sighting: Sighting) -> None:
        if opens:
            setting.directory.swarm(HASH, 5, linked=False)
        else:
            setting.directory.publish(HASH)

    setting.directory.on_sighting.append(want)
    await setting.trackers()
    await eventually(lambda: OWN in setting.dht.has())
    # There was no need to look again.
    await setting.idle()
    assert setting.dht.gets == 1


async def test_what_is_published_while_it_is_taken_out_is_put_in_again(setting: Setting) -> None:
    setting.directory.publish(HASH)
    await setting.idle()
    again: list[bool] = []

    def publish() -> None:
        if not again:
            again.append(True)
            setting.directory.publish(HASH)

    setting.dht.on_put = publish
    setting.directory.withdraw(HASH)
    await setting.idle()
    assert again
    assert (setting.dht.has(), setting.directory.published) == ({OWN}, 1)


async def test_taking_out_is_tried_until_it_is_done(setting: Setting) -> None:
    setting.directory.publish(HASH)
    await setting.idle()
    setting.dht.is_there = False
    setting.directory.withdraw(HASH)
    await setting.idle()
    assert (setting.dht.has(), setting.directory.published) == ({OWN}, 1)
    setting.dht.is_there = True
    setting.dht.conflicts = 2
    setting.advance(RETRY[1])
    await setting.idle()
    assert (setting.dht.has(), setting.directory.published, setting.directory._topics) == (set(), 0, {})


async def test_taking_out_is_given_up_at_last(setting: Setting) -> None:
    setting.directory.publish(HASH)
    await setting.idle()
    setting.dht.is_there = False
    setting.directory.withdraw(HASH)
    for _ in range(10):
        await setting.idle()
        setting.advance(RETRY[1] * 32)
    await setting.idle()
    assert setting.directory._topics == {}


async def test_it_is_taken_out_of_yesterdays_record_too() -> None:
    setting = Setting()
    setting.time = NOW + 60.0
    yesterday = record.day_of(NOW) - 1
    for day in (yesterday, yesterday + 1):
        await setting.dht.write(signed(100, setting.time), signed(1, setting.time), day=day)
    running = asyncio.ensure_future(setting.directory.run())
    setting.directory.publish(HASH)
    await setting.idle()
    setting.directory.withdraw(HASH)
    await setting.idle()
    for day in (yesterday, yesterday + 1):
        assert setting.dht.has(day=day) == {entry_of(1).tracker_id}
    running.cancel()
    await setting.directory.close()


# Who listens


async def test_a_thorough_lookup_that_joins_a_plain_one_takes_the_second_path_too(setting: Setting) -> None:
    setting.second_path.entries = [signed(2, setting.time, b"")]
    plain = asyncio.ensure_future(setting.trackers())
    await asyncio.sleep(0)
    thorough = asyncio.ensure_future(setting.trackers(thorough=True))
    await plain
    assert await thorough == {entry_of(2).tracker_id}


async def test_a_thorough_lookup_that_comes_while_one_is_published_begins_another(setting: Setting) -> None:
    setting.second_path.entries = [signed(2, setting.time, b"")]
    put = asyncio.Event()
    setting.dht.on_put = put.wait
    setting.directory.publish(HASH)
    await eventually(lambda: setting.dht.puts == 1)
    thorough = asyncio.ensure_future(setting.trackers(thorough=True))
    await asyncio.sleep(0.01)
    put.set()
    assert await thorough == {entry_of(2).tracker_id}
    await setting.idle()


async def test_at_the_end_nobody_is_left_listening(setting: Setting) -> None:
    setting.dht.on_get = asyncio.Event().wait
    running = asyncio.ensure_future(setting.trackers())
    await eventually(lambda: setting.dht.gets == 1)
    # This one's look has not even begun.
    setting.dht.on_get = lambda: None
    young = asyncio.ensure_future(setting.trackers(OTHER_HASH))
    await asyncio.sleep(0)
    await setting.directory.close()
    for listener in (running, young):
        assert await asyncio.wait_for(listener, 5) == set()
    gets = setting.dht.gets
    assert await asyncio.wait_for(setting.trackers(b"3" * 20), 5) == set()
    assert setting.dht.gets == gets


# What is remembered


async def test_what_has_ended_is_forgotten_and_does_not_count_as_found(setting: Setting) -> None:
    entry = signed(1, setting.time)
    await setting.dht.write(entry)
    setting.directory.swarm(HASH, 5, linked=False)
    await setting.idle()
    assert setting.directory.tally.lookups == {"found": 1}
    setting.dht.items.clear()
    setting.advance(REFRESH[1])
    await setting.idle()
    assert setting.directory.tally.lookups == {"found": 2}
    setting.advance(LIFETIME)
    await setting.idle()
    assert setting.directory.tally.lookups == {"found": 2, "none": 1}
    assert setting.directory._topics[HASH].known.seen == {}


async def test_so_much_is_remembered_and_waits_to_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    setting = Setting()
    for number in range(5):
        await setting.trackers(bytes([number]) * 20)
    last = [bytes([number]) * 20 for number in (2, 3, 4)]
    assert (list(setting.directory.changed), list(setting.directory._known)) == (last, last)


async def test_so_many_are_published(setting: Setting) -> None:
    for number in range(5):
        setting.directory.swarm(bytes([number]) * 20, 5, linked=False)
    await setting.idle()
    assert setting.directory.published == 5
    setting.directory.swarm_closed(bytes(20))
    assert setting.directory.published == 4
    setting.reachable = False
    setting.advance(LIFETIME)
    assert setting.directory.published == 0


async def test_with_the_policy_none_nothing_is_published_whoever_asks_for_it() -> None:
    setting = Setting(policy="none")
    running = asyncio.ensure_future(setting.directory.run())
    setting.directory.publish(HASH)
    setting.directory.swarm(OTHER_HASH, 5, linked=False)
    await setting.idle()
    assert (setting.dht.gets, setting.dht.puts) == (2, 0)
    running.cancel()
    await setting.directory.close()
