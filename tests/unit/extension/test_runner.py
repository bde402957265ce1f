"""The runner of one extension: its background tasks end with it, and never hold up the tracker."""

import asyncio
import contextlib
from collections import Counter

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from tests.client import HASH, eventually
from tests.unit.fakes import HubHarness, peer_id
from tracker.access.gate import ConnectionGate, SocketBudget
from tracker.access.lists import AccessLists
from tracker.core.swarm import Swarm
from tracker.extension.api import Extension, TrackerHandle
from tracker.extension.runner import ExtensionRunner
from tracker.net.endpoint import Endpoint
from tracker.protocol.messages import Offer
from tracker.settings import Access, Settings


def runner_of(kind: type[Extension], harness: HubHarness | None = None) -> ExtensionRunner:
    harness = harness or HubHarness()
    gate = ConnectionGate(Settings(), AccessLists(Access()), SocketBudget(1, 1))
    endpoint = Endpoint(Settings().connections, gate)
    handle = TrackerHandle("x", Settings(), harness.hub, harness.remote, endpoint, CollectorRegistry())
    runner = ExtensionRunner("x", kind(handle, None), handle, Counter(), harness.hub)
    runner.task = asyncio.get_running_loop().create_task(runner.run())
    return runner


async def test_a_background_task_that_ignores_its_cancellation_does_not_hold_up_the_stop() -> None:
    released = asyncio.Event()

    class Clings(Extension):
        async def start(self) -> None:
            self.tracker.start_task("cling", self.cling())

        async def cling(self) -> None:
            while not released.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await released.wait()

    runner = runner_of(Clings)
    await asyncio.sleep(0)
    with capture_logs() as log:
        await asyncio.wait_for(runner.stop(0.05), 10)
    assert [event["event"] for event in log] == ["extension_stop_timed_out"]
    released.set()
    assert await runner.tracker.stop_tasks(10)


async def test_the_background_tasks_of_an_extension_end_with_it() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Works(Extension):
        async def start(self) -> None:
            tasks.append(self.tracker.start_task("work", asyncio.sleep(3600), endless=True))

    runner = runner_of(Works)
    await asyncio.sleep(0)
    with capture_logs() as log:
        await asyncio.wait_for(runner.stop(10), 10)
    assert (tasks[0].cancelled(), log) == (True, [])


async def test_the_background_tasks_of_an_extension_end_if_its_start_fails() -> None:
    tasks: list[asyncio.Task[None]] = []

    class Fails(Extension):
        async def start(self) -> None:
            tasks.append(self.tracker.start_task("work", asyncio.sleep(3600), endless=True))
            raise RuntimeError("as told")

    runner = runner_of(Fails)
    with capture_logs():
        assert runner.task
        await asyncio.wait_for(runner.task, 10)
    assert tasks[0].cancelled()


async def test_a_swarm_is_closed_before_another_of_its_infohash_opens() -> None:
    """Also if offers of the new swarm wait for the extension, which then hears of that swarm early."""
    heard: list[tuple[str, Swarm]] = []

    class Listens(Extension):
        async def swarm_opened(self, swarm: Swarm) -> None:
            heard.append(("opened", swarm))

        async def swarm_closed(self, swarm: Swarm) -> None:
            heard.append(("closed", swarm))

        async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
            heard.append(("offers", swarm))

    harness = HubHarness()
    runner = runner_of(Listens, harness)
    connection = harness.join(peer_id(1))
    old = harness.hub.swarms[HASH]
    runner.mark(old)
    await eventually(lambda: len(heard) == 1)
    harness.join(peer_id(2), "o" * 20)
    harness.hub.close(connection)
    harness.join(peer_id(1))
    other, new = harness.hub.swarms["o" * 20], harness.hub.swarms[HASH]
    runner.mark(other)
    runner.mark(old, closed=True)
    runner.mark(new)
    runner.post("offers_unplaced", new, new, peer_id(1), [], size=0)
    await eventually(lambda: ("offers", new) in heard)
    assert [event for event in heard if event[1] is not other] == [
        ("opened", old),
        ("closed", old),
        ("opened", new),
        ("offers", new),
    ]
    await runner.stop(10)
