"""Entries that other trackers have passed on, trackers that are not believed, and entries that may be passed on."""

from dataclasses import replace
from typing import Any

import pytest

from extensions.dht.cache import MAX_SEEN
from extensions.entries import LIFETIME, SKEW, Rejected, sign_entry
from extensions.trackers import RENDEZVOUS, Sighting, TrackerEntry
from tests.unit.dht.directory import Setting, running, signed
from tests.unit.dht.entries import HASH, OTHER_HASH, URL, identity


class Told:
    """The sightings that a listener was told of."""

    def __init__(self, setting: Setting) -> None:
        self.all: list[tuple[bytes, Sighting]] = []
        setting.directory.sightings.listeners.append(lambda *told: self.all.append(told))

    def take(self) -> list[tuple[bytes, Sighting]]:
        taken, self.all = self.all, []
        return taken


# Entries that other trackers have passed on


async def test_a_learned_entry_is_told_once_and_known(setting: Setting) -> None:
    told = Told(setting)
    setting.directory.swarm(HASH, 5, linked=False)
    entry = signed(1, setting.time)
    assert setting.directory.learn(HASH, entry)
    assert not setting.directory.learn(HASH, entry)
    assert told.take() == [(HASH, Sighting(entry, "link"))]
    assert [one.entry for one in setting.directory.sightings.known(HASH)] == [entry]
    assert setting.directory.sightings.entries(HASH) == [entry]


async def test_a_newer_entry_is_news(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    old, new = signed(1, setting.time, age=60), signed(1, setting.time)
    assert setting.directory.learn(HASH, old)
    assert setting.directory.learn(HASH, new)
    assert not setting.directory.learn(HASH, old)
    assert setting.directory.sightings.entries(HASH) == [new]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"url": "wss://elsewhere.example.org"}, Rejected.INVALID_SIGNATURE),
        ({"url": "https://tracker.example.org"}, Rejected.INVALID_URL),
        ({"signature": bytes(64)}, Rejected.INVALID_SIGNATURE),
        ({"signature": b""}, Rejected.WRONG_LENGTH),
        ({"tracker_id": "zz"}, Rejected.WRONG_LENGTH),
        ({"tracker_id": identity(1).public_key().public_bytes_raw().hex().upper()}, Rejected.WRONG_LENGTH),
        ({"expires": 0}, Rejected.EXPIRED),
        ({"expires": 2**70}, Rejected.FAR_EXPIRY),
    ],
)
async def test_an_invalid_entry_is_counted_and_not_told(
    setting: Setting, changed: dict[str, Any], reason: Rejected
) -> None:
    told = Told(setting)
    setting.directory.swarm(HASH, 5, linked=False)
    assert not setting.directory.learn(HASH, replace(signed(1, setting.time), **changed))
    assert (setting.directory.counters.rejected, told.take()) == ({reason: 1}, [])
    assert setting.directory.sightings.entries(HASH) == []


async def test_an_entry_for_an_infohash_that_does_not_matter_here_is_ignored(setting: Setting) -> None:
    setting.directory.swarm(OTHER_HASH, 5, linked=False)
    assert not setting.directory.learn(HASH, signed(1, setting.time))
    # Nor does an entry count for another infohash than it was signed for.
    assert not setting.directory.learn(OTHER_HASH, signed(1, setting.time))
    assert setting.directory.sightings.entries(HASH) == setting.directory.sightings.entries(OTHER_HASH) == []


async def test_our_own_entry_is_no_news(setting: Setting) -> None:
    setting.directory.publish(RENDEZVOUS)
    assert not setting.directory.learn(RENDEZVOUS, signed(100, setting.time, b""))


async def test_a_bounded_number_of_trackers_is_remembered(setting: Setting) -> None:
    setting.directory.publish(RENDEZVOUS)
    for number in range(MAX_SEEN + 20):
        assert setting.directory.learn(RENDEZVOUS, signed(number + 101, setting.time + number, b""))
    entries = setting.directory.sightings.entries(RENDEZVOUS)
    assert len(entries) == MAX_SEEN
    assert min(entry.expires for entry in entries) == setting.time + 20 + LIFETIME


# Entries that may be passed on


async def test_entries_of_the_rendezvous_are_descriptors(setting: Setting) -> None:
    entry = signed(1, setting.time, RENDEZVOUS)
    await setting.dht.write(entry, info_hash=RENDEZVOUS)
    setting.directory.publish(RENDEZVOUS)
    await setting.idle()
    assert setting.directory.sightings.entries(RENDEZVOUS) == [entry] == [signed(1, setting.time, b"")]


async def test_of_a_swarm_only_entries_that_name_its_infohash_are_passed_on(setting: Setting) -> None:
    setting.bep5_fallback.entries = [signed(2, setting.time, b"")]
    await setting.dht.write(signed(1, setting.time))
    setting.directory.swarm(HASH, 5, linked=False)
    assert len(await setting.trackers(thorough=True)) == 2
    assert setting.directory.sightings.entries(HASH) == [signed(1, setting.time)]
    await setting.idle()


async def test_entries_that_have_ended_are_not_passed_on(setting: Setting) -> None:
    setting.directory.publish(RENDEZVOUS)
    setting.directory.learn(RENDEZVOUS, signed(1, setting.time, b"", age=60))
    setting.reachable = False
    setting.advance(LIFETIME - 60)
    assert setting.directory.sightings.entries(RENDEZVOUS) == []
    # It may be there nevertheless: trackers of the rendezvous are remembered for a week.
    assert len(setting.directory.sightings.known(RENDEZVOUS)) == 1


async def test_what_a_closed_swarm_has_learned_is_remembered(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    setting.directory.learn(HASH, signed(1, setting.time))
    setting.directory.swarm_closed(HASH)
    assert setting.directory.sightings.entries(HASH) == [signed(1, setting.time)]
    await setting.directory.forget(HASH)
    assert setting.directory.sightings.entries(HASH) == []


# Trackers that are not believed


def elsewhere(setting: Setting, age: float = 0) -> TrackerEntry:
    return sign_entry(identity(1), HASH, "wss://elsewhere.example.org", setting.time - age)


async def test_a_tracker_that_is_not_at_its_url_is_believed_again_when_it_signs_anew(setting: Setting) -> None:
    told = Told(setting)
    setting.directory.swarm(HASH, 5, linked=False)
    setting.directory.swarm(OTHER_HASH, 5, linked=False)
    old = signed(1, setting.time, age=60)
    setting.directory.learn(HASH, old)
    setting.directory.sightings.distrust(old.tracker_id, URL)
    assert not setting.directory.sightings.known(HASH)
    assert not setting.directory.sightings.entries(HASH)
    # The same goes for everything that it signed before, for other infohashes, too.
    assert not setting.directory.learn(HASH, signed(1, setting.time, age=30))
    assert not setting.directory.learn(OTHER_HASH, signed(1, setting.time, OTHER_HASH))
    told.take()
    setting.advance(10)
    new = signed(1, setting.time)
    assert setting.directory.learn(HASH, new)
    assert told.take() == [(HASH, Sighting(new, "link"))]
    assert setting.directory.sightings.entries(HASH) == [new]


async def test_a_distrusted_entry_in_a_record_is_not_told(setting: Setting) -> None:
    told = Told(setting)
    await setting.dht.write(signed(1, setting.time), signed(2, setting.time))
    setting.directory.sightings.distrust(signed(1, setting.time).tracker_id, URL)
    assert await setting.trackers() == {signed(2, setting.time).tracker_id}
    assert len(told.take()) == 1


async def test_other_trackers_and_other_urls_are_still_believed(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    setting.directory.sightings.distrust(signed(1, 0).tracker_id, URL)
    assert setting.directory.learn(HASH, signed(2, setting.time))
    assert setting.directory.learn(HASH, elsewhere(setting))


async def test_distrust_ends_with_the_last_entry_that_it_can_concern(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    setting.directory.sightings.distrust(signed(1, 0).tracker_id, URL)
    setting.reachable = False
    setting.advance(LIFETIME + SKEW)
    assert setting.directory.learn(HASH, signed(1, setting.time))


async def test_after_the_clock_was_set_nobody_is_distrusted() -> None:
    setting = Setting()
    async with running(setting):
        setting.directory.swarm(HASH, 5, linked=False)
        setting.directory.sightings.distrust(signed(1, 0).tracker_id, URL)
        setting.time -= 3600
        assert not setting.directory.learn(HASH, signed(1, setting.time))
        setting.directory.on_clock_set()
        assert setting.directory.learn(HASH, signed(1, setting.time))


async def test_distrusted_trackers_take_bounded_memory(setting: Setting) -> None:
    setting.directory.swarm(HASH, 5, linked=False)
    for number in range(10_001):
        setting.directory.sightings.distrust(f"{number:064x}", URL)
    setting.directory.sightings.distrust(signed(1, 0).tracker_id, URL)
    assert not setting.directory.learn(HASH, signed(1, setting.time))
