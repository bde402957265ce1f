"""The service in virtual time, with a node and a network that the tests control."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from extensions.dht.krpc.schedule import LookupLimits
from extensions.dht.service import CACHE_FILE, MEASURE_PERIOD, MEASURES, NEIGHBOURS_PERIOD, STATE_FILE
from tests.unit.dht.entries import HASH
from tests.unit.dht.service import ROUND_TRIP, FakeNode, Loop, World, hashes, in_virtual_time, place, running

MINUTE = 60.0
OTHER = b"o" * 20


async def seconds_until(loop: Loop, condition: Callable[[], bool], limit: float = 600.0) -> float:
    """Return the seconds until a condition holds, to a tenth."""
    began = loop.now
    while not condition():
        assert loop.now - began < limit
        await asyncio.sleep(0.1)
    return loop.now - began


def test_a_service_publishes_with_another_node_and_keeps_its_files(tmp_path: Path) -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop, tmp_path)) as world:
            assert (world.node.is_running, world.node.saved) == (True, None)
            world.meet(8)
            world.service.directory.publish(HASH)
            await asyncio.sleep(60)
            assert (world.service.directory.published, loop.puts) == (1, 8)
        assert not world.node.is_running

    in_virtual_time(main)
    assert (tmp_path / STATE_FILE).read_bytes() == b"state"
    assert (tmp_path / CACHE_FILE).exists()


# Outages


@pytest.mark.parametrize("is_busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("nodes", [1, 3, 100])
def test_an_outage_is_noticed_within_a_minute_and_logged_once(nodes: int, is_busy: bool) -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(nodes)
            await asyncio.sleep(10 * MINUTE)
            loop.is_up = False
            if is_busy:
                world.open(hashes(100))
            noticed = await seconds_until(loop, lambda: not world.service.reachable.is_set())
            assert noticed < MINUTE
            await asyncio.sleep(MINUTE - noticed)
            assert [line["event"] for line in log if line["log_level"] != "info"] == ["dht_unreachable"]
            await asyncio.sleep(10 * MINUTE)
            loop.is_up = True
            assert await seconds_until(loop, world.service.reachable.is_set) < 10
        assert [line["event"] for line in log if line["event"].startswith("dht_")] == [
            "dht_unreachable",
            "dht_reachable",
        ]

    with capture_logs() as log:
        in_virtual_time(main)
    assert {line["families"] for line in log if line["event"] == "dht_unreachable"} == {"IPv4"}


def test_an_outage_is_noticed_although_few_nodes_have_ever_answered() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            loop.is_alive = lambda address: address in {place(0), place(1), place(2)}
            world.meet(100)
            await asyncio.sleep(10 * MINUTE)
            assert world.service.reachable.is_set()
            loop.is_up = False
            assert await seconds_until(loop, lambda: not world.service.reachable.is_set()) < MINUTE

    in_virtual_time(main)


@pytest.mark.parametrize("seconds", [3.0, 5.0, 20.0, 150.0, 3600.0])
def test_everything_is_published_within_a_minute_after_an_outage(seconds: float) -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(50)
            await asyncio.sleep(10)
            # Their first visits are under way when the network fails, or begin after that.
            world.open(hashes(20))
            await asyncio.sleep(0.1)
            loop.is_up = False
            await asyncio.sleep(1)
            world.open(hashes(40))
            await asyncio.sleep(seconds - 1)
            if seconds > 180:
                # So does libtorrent.
                world.node.known = []
            loop.is_up = True
            assert await seconds_until(loop, lambda: world.service.directory.published == 40) < MINUTE
            assert not any(tracked.failures for tracked in world.service.directory.tracked.values())
            if seconds > 180:
                assert world.node.added

    in_virtual_time(main)


def test_no_visit_begins_during_an_outage() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(50)
            world.open(hashes(50))
            await asyncio.sleep(MINUTE)
            loop.is_up = False
            await asyncio.sleep(MINUTE)
            sent = len(loop.sent)
            world.open(hashes(200))
            await asyncio.sleep(MINUTE)
            # Only pings, some every few seconds.
            assert len(loop.sent) - sent < 2 * MINUTE

    in_virtual_time(main)


def test_a_network_that_comes_and_goes_causes_no_flood() -> None:
    limits = LookupLimits()

    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(50)
            world.open(hashes(300))
            await asyncio.sleep(5 * MINUTE)
            began, gets, finds = loop.now, loop.gets, loop.finds
            for _ in range(20):
                loop.is_up = False
                await asyncio.sleep(12)
                loop.is_up = True
                await asyncio.sleep(8)
            lookups = (loop.gets - gets) / 8
            assert lookups < limits.burst + limits.rate * (loop.now - began)
            # Those that have not failed are not visited before their time.
            assert loop.finds - finds <= 2 * 8 * (1 + (loop.now - began) // NEIGHBOURS_PERIOD)
            assert loop.gets - gets < 3 * 8 * 300
            await asyncio.sleep(MINUTE)
            assert world.service.directory.published == 300

    in_virtual_time(main)


def test_a_service_stops_during_an_outage() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(50)
            world.open(hashes(50))
            loop.is_up = False
            await asyncio.sleep(10)
            assert not world.service.reachable.is_set()
            began = loop.now
        assert loop.now == began
        loop.is_up = True
        await asyncio.sleep(MINUTE)
        # A reply that comes after the end.
        # The test's own, and that of its time limit.
        assert len(asyncio.all_tasks()) == 2

    in_virtual_time(main)


def test_a_service_stops_at_the_end_of_an_outage() -> None:
    async def main(loop: Loop) -> None:
        world = World(loop)
        await world.service.start()
        # There was no node before, so that the neighbours were never sought.
        await asyncio.sleep(MINUTE)
        close = world.service.directory.close

        async def close_slowly() -> None:
            world.meet(50)
            world.service.client.messenger.on_cut_off(False)
            await asyncio.sleep(ROUND_TRIP / 2)
            await close()

        world.service.directory.close = close_slowly  # type: ignore[method-assign]
        await world.service.stop()
        await asyncio.sleep(MINUTE)
        # The test's own, and that of its time limit.
        assert len(asyncio.all_tasks()) == 2

    in_virtual_time(main)


def test_a_caller_can_wait_for_trackers_during_an_outage() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            world.meet(50)
            await asyncio.sleep(10)
            loop.is_up = False
            await asyncio.sleep(MINUTE)
            began = loop.now
            assert [one async for one in world.service.directory.trackers(HASH)] == []
            assert loop.now - began < MINUTE
            waiting = asyncio.ensure_future(anext(world.service.directory.trackers(OTHER), None))
            await asyncio.sleep(1)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    in_virtual_time(main)


# The nodes from which lookups start


def test_nodes_that_never_answer_are_no_start_of_lookups() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            loop.is_alive = lambda address: address in alive
            world.meet(80)
            await asyncio.sleep(2 * MINUTE)
            assert {contact.address for contact in world.service.client.messenger.confirmed(4)} == alive
            # Otherwise they would be avoided for a while anyway.
            world.service.client.forget_timeouts()
            world.open(hashes(20))
            await asyncio.sleep(10)
            assert world.service.directory.published == 20
            assert loop.asked
            assert loop.asked <= alive

    alive = set(map(place, range(40)))
    in_virtual_time(main)


def test_if_few_nodes_have_answered_lookups_start_from_all() -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop)) as world:
            loop.is_alive = lambda address: address == place(0)
            world.meet(10)
            await asyncio.sleep(MINUTE)
            assert len(world.service.client.messenger.confirmed(4)) == 1
            world.service.directory.publish(HASH)
            await asyncio.sleep(MINUTE)
            assert world.service.directory.is_published(HASH)

    in_virtual_time(main)


def test_the_size_of_the_dht_is_measured_while_it_is_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: Loop) -> None:
        measured: list[float] = []

        async def measure() -> None:
            measured.append(loop.now)
            if len(measured) % 3 == 0:
                raise RuntimeError

        async with running(World(loop)) as world:
            monkeypatch.setattr(world.service.client, "measure", measure)
            await asyncio.sleep(MINUTE)
            assert measured == []
            world.meet(50)
            await asyncio.sleep(MEASURE_PERIOD - 2 * MINUTE)
            assert len(measured) == MEASURES
            loop.is_up = False
            await asyncio.sleep(3 * MEASURE_PERIOD)
            assert len(measured) == MEASURES
            loop.is_up = True
            await asyncio.sleep(3 * MEASURE_PERIOD)
            assert MEASURES + 3 <= len(measured) <= MEASURES + 4

    in_virtual_time(main)


def test_a_node_is_made_of_the_settings() -> None:
    async def main(loop: Loop) -> None:
        world = World(loop, listen="127.0.0.1:0,[::1]:0", bootstrap=["router.example.org:1"])
        assert isinstance(world.node, FakeNode)
        assert world.node.arguments == (["127.0.0.1:0", "[::1]:0"], ["router.example.org:1"], True)

    in_virtual_time(main)


# Several processes of one tracker


def test_a_gateway_takes_the_files_over_when_the_last_one_has_closed_them(tmp_path: Path) -> None:
    async def main(loop: Loop) -> None:
        last, following = World(loop, tmp_path), World(loop, tmp_path)
        await last.service.start()
        last.meet(8)
        last.service.directory.publish(HASH)
        await asyncio.sleep(60)
        assert last.service.directory.is_published(HASH)
        starting = asyncio.ensure_future(following.service.start())
        await asyncio.sleep(1)
        assert not starting.done()
        await last.service.stop()
        await starting
        assert following.node.saved == b"state"
        # It knows the entry, which is of the same tracker.
        following.service.directory.publish(HASH)
        assert following.service.directory.is_published(HASH)
        await following.service.stop()

    in_virtual_time(main)


def test_a_gateway_does_without_files_that_another_process_keeps(tmp_path: Path) -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop, tmp_path)) as hanging:
            hanging.meet(8)
            hanging.service.directory.publish(HASH)
            await asyncio.sleep(60)
            async with running(World(loop, tmp_path)) as following:
                assert following.node.saved is None
                assert not following.service.directory.is_published(HASH)
            assert (tmp_path / STATE_FILE).read_bytes() == b"state"

    with capture_logs() as log:
        in_virtual_time(main)
    assert [line["event"] for line in log if line["log_level"] == "warning"] == ["dht_files_in_use"]


def test_a_start_that_waits_for_files_can_be_stopped(tmp_path: Path) -> None:
    async def main(loop: Loop) -> None:
        async with running(World(loop, tmp_path)):
            following = World(loop, tmp_path)
            starting = asyncio.ensure_future(following.service.start())
            await asyncio.sleep(1)
            starting.cancel()
            began = loop.now
            await following.service.stop()
            assert loop.now - began < 1

    in_virtual_time(main)
