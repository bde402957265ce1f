"""The page, the statistics and the metrics of several workers on one port."""

import os
import signal
from contextlib import AsyncExitStack

from prometheus_client.parser import text_string_to_metric_families

from tests.client import RawClient, eventually, raw_client
from tests.conftest import TrackerProcess
from tests.integration.workers import StartWorkers, workers_of
from tests.unit.fakes import peer_id

PEERS = 20


async def connected(stack: AsyncExitStack, tracker: TrackerProcess) -> list[RawClient]:
    """Return clients with a peer each, ten seeders and ten leechers, on both workers."""
    clients = []
    for number in range(PEERS):
        client = await stack.enter_async_context(raw_client(tracker.url))
        await client.announce(peer_id(number), left=number % 2)
        clients.append(client)
    return clients


async def samples(tracker: TrackerProcess, query: str = "") -> dict[str, float]:
    """Return the samples of the metrics by name and labels, and check that each is there once."""
    text = (await tracker.get(f"/metrics{query}"))[1]
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = " ".join([sample.name, *(f"{name}={value}" for name, value in sorted(sample.labels.items()))])
            assert key not in found
            found[key] = sample.value
    return found


async def test_metrics_of_all_workers(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    await workers_of(tracker)
    async with AsyncExitStack() as stack:
        await connected(stack, tracker)
        for query, label in (("", "{}"), ("?of=tracker", "here/{}")):
            found = await samples(tracker, query)
            assert found["peerservers_connections"] == PEERS
            assert found["peerservers_peers role=seeder"] == PEERS // 2
            assert found["peerservers_peers role=leecher"] == PEERS // 2
            assert found["peerservers_requests_total type=announce"] == PEERS
            each = [found[f"peerservers_worker_connections worker={label.format(index)}"] for index in range(2)]
            assert sum(each) == PEERS
            assert all(each)
            memory = [found[f"peerservers_worker_memory_bytes worker={label.format(index)}"] for index in range(2)]
            assert sum(memory) == found["process_resident_memory_bytes"]
            assert (found["peerservers_workers"], found["peerservers_workers_missing"]) == (2, 0)
        await eventually(lambda: one_swarm(tracker))


async def one_swarm(tracker: TrackerProcess) -> bool:
    """Return whether the swarm on both workers counts once; statistics may be some seconds old."""
    return (await samples(tracker))["peerservers_swarms"] == 1


async def test_statistics_and_page_of_all_workers(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    await workers_of(tracker)
    async with AsyncExitStack() as stack:
        await connected(stack, tracker)

        async def all_counted() -> bool:
            stats = await tracker.stats()
            return bool(stats["peersAll"] == PEERS)

        await eventually(all_counted)
        for _ in range(10):
            stats = await tracker.stats()
            assert (stats["torrents"], stats["peersAll"], stats["peersSeederOnly"]) == (1, PEERS, PEERS // 2)
            assert f"Connected Peers: {PEERS}<" in (await tracker.get("/stats"))[1]
        page = (await tracker.get("/live"))[1]
        assert f">{PEERS}<" in page.replace("\n", "").replace(" ", "")


async def test_counters_do_not_fall_when_a_worker_is_replaced(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    first, _ = await workers_of(tracker)
    async with AsyncExitStack() as stack:
        for client in await connected(stack, tracker):
            client.socket.transport.abort()
        before = await samples(tracker)
        assert before["peerservers_requests_total type=announce"] == PEERS
        os.kill(first["pid"], signal.SIGKILL)
        (await tracker.logged("worker_ended"))["level"] = "expected"
        await check_counters(tracker, before)
        await tracker.logged("worker_started")
        await check_counters(tracker, before)
        tracker.tell(signal.SIGUSR2)
        await tracker.logged("restarted")
        await check_counters(tracker, before)
        after = await samples(tracker)
        assert after["peerservers_requests_total type=announce"] == PEERS
        assert after["process_start_time_seconds"] == before["process_start_time_seconds"]


async def check_counters(tracker: TrackerProcess, before: dict[str, float]) -> None:
    """Check that no counter is smaller than before, whichever worker answers."""
    for _ in range(8):
        now = await samples(tracker)
        fallen = {
            name: (value, now.get(name))
            for name, value in before.items()
            if name.split()[0].endswith(("_total", "_bucket", "_count", "_sum"))
            and "worker=" not in name
            and now.get(name, 0) < value
        }
        assert fallen == {}
        before.update({name: value for name, value in now.items() if name in before})


async def test_a_worker_that_does_not_answer_is_missing(start_workers: StartWorkers) -> None:
    tracker = await start_workers()
    first, _ = await workers_of(tracker)
    async with AsyncExitStack() as stack:
        await connected(stack, tracker)
        before = await samples(tracker)
        os.kill(first["pid"], signal.SIGSTOP)
        await tracker.logged("worker_slow")
        found = await samples(tracker)
        assert (found["peerservers_workers"], found["peerservers_workers_missing"]) == (2, 1)
        connections = "peerservers_worker_connections worker=1"
        assert found["peerservers_connections"] == before[connections] == found[connections]
        announces = "peerservers_requests_total type=announce"
        assert found[announces] == before[announces] == PEERS
        os.kill(first["pid"], signal.SIGCONT)
        await eventually(lambda: none_is_missing(tracker))


async def none_is_missing(tracker: TrackerProcess) -> bool:
    return (await samples(tracker))["peerservers_workers_missing"] == 0
