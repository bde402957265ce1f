"""The directory: how urgent visits are, and those that an outage has made fail."""

import asyncio

from extensions.dht.krpc.schedule import Priority
from tests.client import eventually
from tests.unit.dht.directory import OWN, Setting, running
from tests.unit.dht.entries import HASH

# Swarms that enter or leave the publish set


def priority_of(setting: Setting, info_hash: bytes) -> Priority:
    return setting.directory.tracked[info_hash].next_visit.priority


async def test_the_first_visit_is_as_urgent_as_the_swarm_is_to_be_published() -> None:
    one, other, third = (bytes([number]) * 20 for number in range(3))
    setting = Setting(limit=1)
    setting.reachable = False
    async with running(setting):
        setting.directory.swarm(one, 1, linked=False)
        assert priority_of(setting, one) == Priority.OPENED
        setting.directory.swarm(other, 1, linked=False)
        assert [priority_of(setting, each) for each in (one, other)] == [Priority.UNPUBLISHED, Priority.OPENED]
        due = setting.directory.tracked[one].next_visit.due
        setting.advance(5)
        setting.directory.swarm(one, 10, linked=False)
        assert [priority_of(setting, each) for each in (one, other)] == [Priority.OPENED, Priority.UNPUBLISHED]
        assert setting.directory.tracked[one].next_visit.due == due
        # A linked one leaves room in the order, whether it is published or not.
        setting.directory.swarm(third, 10, linked=True)
        assert [priority_of(setting, each) for each in (one, third)] == [Priority.UNPUBLISHED, Priority.LINKED]
        setting.directory.swarm_closed(third)
        assert [priority_of(setting, each) for each in (one, other)] == [Priority.OPENED, Priority.UNPUBLISHED]


async def test_a_swarm_that_was_looked_up_is_refreshed_only_while_it_is_to_be_published() -> None:
    one, other = (bytes([number]) * 20 for number in range(2))
    setting = Setting(limit=1)
    async with running(setting):
        setting.directory.swarm(one, 4, linked=False)
        await setting.idle()
        assert (setting.dht.has(one), priority_of(setting, one)) == ({OWN}, Priority.REFRESHED)
        setting.directory.swarm(other, 4, linked=False)
        await setting.idle()
        assert setting.dht.has(other) == {OWN}
        assert [priority_of(setting, each) for each in (one, other)] == [Priority.REPEATED, Priority.REFRESHED]
        # It has grown, and is published again at once.
        setting.advance(60)
        setting.directory.swarm(one, 40, linked=False)
        assert setting.directory.tracked[one].next_visit.due == setting.passed
        await setting.idle()
        assert (setting.dht.has(one), priority_of(setting, one)) == ({OWN}, Priority.REFRESHED)


# Outages


async def test_after_an_outage_exactly_the_visits_that_failed_in_it_are_repeated() -> None:
    hashes = [bytes([number]) * 20 for number in range(4)]
    setting = Setting()
    async with running(setting):
        setting.directory.swarm(hashes[0], 2, linked=False)
        await setting.idle()
        setting.dht.is_there = False
        setting.directory.swarm(hashes[1], 2, linked=False)
        await setting.idle()
        setting.advance(10)
        # It fails before the outage, which begins now.
        began = setting.passed
        setting.directory.swarm(hashes[2], 2, linked=False)
        await setting.idle()
        # From now on it is known that no node can be reached.
        setting.reachable = False
        setting.directory.swarm(hashes[3], 2, linked=False)
        failures = [setting.directory.tracked[one].failures for one in hashes]
        assert failures == [0, 1, 1, 0]
        gets, setting.dht.is_there, setting.reachable = setting.dht.gets, True, True
        setting.directory.on_outage_ended(began)
        setting.scheduler.wake()
        await setting.idle()
        assert [bool(setting.dht.has(one)) for one in hashes] == [True, False, True, True]
        assert [setting.directory.tracked[one].failures for one in hashes] == [0, 1, 0, 0]
        assert setting.dht.gets == gets + 2
        # Another outage changes nothing for them.
        setting.directory.on_outage_ended(setting.passed - 1)
        await setting.idle()
        assert setting.dht.gets == gets + 2


async def test_a_visit_that_fails_at_the_end_of_an_outage_is_repeated_at_once() -> None:
    setting, proceed = Setting(), asyncio.Event()

    async def wait() -> None:
        if setting.dht.gets > 1:
            setting.dht.is_there = True
        await proceed.wait()

    async with running(setting):
        setting.dht.is_there = False
        setting.dht.on_get = wait
        setting.directory.swarm(HASH, 2, linked=False)
        await eventually(lambda: setting.dht.gets == 1)
        setting.directory.on_outage_ended(0.0)
        proceed.set()
        await setting.idle()
        assert (setting.dht.has(), setting.dht.gets) == ({OWN}, 2)
        assert setting.directory.tracked[HASH].failures == 0
