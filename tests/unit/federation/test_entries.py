"""The known entries of other trackers, with the extension `dht` and without it."""

import asyncio
from typing import Any

import pytest

from extensions.entries import LIFETIME, sign_entry
from extensions.federation.entries import MAX_ENTRIES, MAX_INFOHASHES, Entries
from extensions.trackers import RENDEZVOUS_TEXT, Sighting, TrackerEntry
from tests.client import HASH
from tests.unit.federation.links import key, tracker_id
from tracker.extension import swarm_key

NOW = 1_800_000_000.0
TEXT = "a text swarm"


def signed(number: int, info_hash: str = HASH, ago: float = 0.0) -> TrackerEntry:
    """Return the entry of a tracker, made some seconds ago. An empty infohash gives its descriptor."""
    return sign_entry(key(number), swarm_key(info_hash) if info_hash else b"", f"wss://{number}.example", NOW - ago)


class Clocks:
    """Both clocks of a table."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clocks:
    return Clocks()


@pytest.fixture
def entries(clock: Clocks) -> Entries:
    return Entries(None, tracker_id(1), clock, clock)


@pytest.mark.parametrize("info_hash", [HASH, TEXT, ""])
def test_valid_entries_are_known_until_they_end(entries: Entries, clock: Clocks, info_hash: str) -> None:
    told: list[tuple[str, Sighting]] = []
    entries.on_sighting(lambda *sighting: told.append(sighting))
    assert entries.learn(info_hash, signed(2, info_hash))
    assert not entries.learn(info_hash, signed(2, info_hash)), "it is known"
    assert not entries.learn(info_hash, signed(2, info_hash, ago=60)), "it is older"
    assert told == [(info_hash or RENDEZVOUS_TEXT, Sighting(signed(2, info_hash), "link"))]
    assert entries.entries(info_hash) == [signed(2, info_hash)]
    assert entries.known(info_hash or RENDEZVOUS_TEXT) == [told[0][1]]
    clock.now += 60
    assert entries.learn(info_hash, signed(2, info_hash, ago=-60))
    assert len(entries.entries(info_hash)) == 1
    clock.now += LIFETIME
    assert entries.entries(info_hash) == []


@pytest.mark.parametrize(
    "entry",
    [
        signed(2, TEXT),
        signed(2, ""),
        signed(1),
        signed(2, ago=LIFETIME + 1),
        TrackerEntry(tracker_id(2), signed(2).expires, "wss://other.example", signed(2).signature),
        TrackerEntry(tracker_id(3), signed(2).expires, signed(2).url, signed(2).signature),
        TrackerEntry("", signed(2).expires, signed(2).url, b""),
    ],
    ids=["another swarm", "a descriptor", "our own", "ended", "another URL", "another tracker", "no id"],
)
def test_other_entries_are_not_learned(entries: Entries, entry: TrackerEntry) -> None:
    assert not entries.learn(HASH, entry)
    assert entries.known(HASH) == []


def test_a_url_that_leads_to_another_tracker_is_not_believed_until_a_newer_entry_comes(
    entries: Entries, clock: Clocks
) -> None:
    entries.learn(HASH, signed(2))
    entries.distrust(tracker_id(2), signed(2).url)
    assert entries.known(HASH) == []
    assert not entries.learn("", signed(2, "")), "it was signed before"
    clock.now += 10
    assert entries.learn(HASH, signed(2, ago=-10))
    assert entries.entries(HASH) == [signed(2, ago=-10)]


def test_memory_is_bounded(entries: Entries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extensions.federation.entries.check_entry", lambda *_: None)
    for number in range(2 * MAX_ENTRIES):
        entries.learn(HASH, TrackerEntry(f"{number:064x}", int(NOW) + 1 + number, "wss://a.example", bytes(64)))
    known = [int(entry.tracker_id, 16) for entry in entries.entries(HASH)]
    assert known == list(range(MAX_ENTRIES, 2 * MAX_ENTRIES)), "those that end last"
    for number in range(MAX_INFOHASHES):
        entries.learn(f"{number:020}", TrackerEntry(f"{7:064x}", int(NOW) + 1, "wss://a.example", bytes(64)))
    assert entries.entries(HASH) == []


def test_nothing_is_published_without_the_dht(entries: Entries) -> None:
    assert entries.own_descriptor() is None


class FakeFinder:
    """The extension `dht`."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.service: object = object()
        self.calls: list[Any] = []

    def on_sighting(self, tell: Any) -> None:
        self.calls.append(tell)

    def stop_telling(self, tell: Any) -> None:
        self.calls.remove(tell)

    def learn(self, info_hash: str, entry: TrackerEntry) -> bool:
        self.calls.append((info_hash, entry))
        return True

    def known(self, info_hash: str) -> list[Sighting]:
        return [Sighting(signed(5, info_hash), "r0")]

    def entries(self, info_hash: str) -> list[TrackerEntry]:
        return [signed(5, info_hash)]

    def own_descriptor(self) -> TrackerEntry | None:
        return signed(1, "")

    def distrust(self, tracker_id: str, url: str) -> None:
        self.calls.append((tracker_id, url))


def test_the_dht_knows_everything_if_there_is_one(clock: Clocks) -> None:
    finder = FakeFinder()
    entries = Entries(finder, tracker_id(1), clock, clock)
    tell: Any = print
    entries.on_sighting(tell)
    assert entries.learn(HASH, signed(2))
    entries.distrust("x", "y")
    assert finder.calls == [tell, (HASH, signed(2)), ("x", "y")]
    assert entries.known(HASH) == finder.known(HASH)
    assert entries.entries(HASH) == [signed(5)]
    assert entries.own_descriptor() == signed(1, "")
    entries.stop_telling(tell)
    assert tell not in finder.calls
    # It may be enabled and not run, because libtorrent has no wheel for this machine.
    finder.service = None
    assert entries.own_descriptor() is None
    assert entries.learn(HASH, signed(2))
    assert entries.entries(HASH) == [signed(2)]
