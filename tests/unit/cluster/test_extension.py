"""The extension: hub, node and transport put together; log, table, metrics and questions."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from extensions.cluster.envelope import SINGLE, Sealer
from extensions.cluster.extension import MAX_LINES, ClusterNode
from extensions.cluster.reasons import Refused
from extensions.cluster.settings import ClusterSettings
from extensions.cluster.transport import Bus, InProcess
from tests.client import PATIENCE, announce, answer, eventually, offers
from tests.unit.extension.nodes import Process
from tests.unit.fakes import FakeConnection, peer_id
from tracker.config import ConfigError, validate
from tracker.extension import Channel, Extension, TrackerHandle

P, Q = peer_id(1), peer_id(2)


class LoopBus(Bus):
    """A bus that delivers each message in the next turn of the event loop."""

    def put(self, sender: str, receiver: str, payload: bytes) -> None:
        super().put(sender, receiver, payload)
        asyncio.get_running_loop().call_soon(self.step)


class Once(Extension):
    """Exists once in the cluster."""

    at_gateway = True

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.starts = 0
        tracker.add_table("once", lambda: [{"starts": self.starts}])
        tracker.add_subprotocol("peerservers.once", self.serve)

    async def start(self) -> None:
        self.starts += 1

    async def serve(self, channel: Channel) -> None:
        """Serve nothing."""


class Cluster:
    """Two processes on one bus."""

    def __init__(self, directory: Path) -> None:
        self.bus = LoopBus()
        bus = self.bus

        class Cluster(ClusterNode):
            def connect(self) -> InProcess:
                return bus.transport()

        self.directory = directory
        self.kind = Cluster
        self.processes: list[Process] = []

    async def start(self, *others: type[Extension]) -> Process:
        """Start one more process, whose key is that of the first one."""
        directory = self.directory / str(len(self.processes))
        directory.mkdir()
        if self.processes:
            key = self.directory / "0" / "identity.pem"
            (directory / key.name).write_bytes(key.read_bytes())
        process = Process(self.kind, *others, server={"state_dir": str(directory)})
        process.harness.now = time.monotonic()
        self.processes.append(process)
        await process.start()
        await eventually(lambda: extension_of(process).is_connected)
        return process


def extension_of(process: Process) -> ClusterNode:
    extension = process.host.extensions["cluster"]
    assert isinstance(extension, ClusterNode)
    return extension


def node_id_of(process: Process) -> str:
    node = extension_of(process).node
    assert node
    return node.node_id


def values(process: Process) -> dict[tuple[str, ...], float]:
    """Return the metrics of a process, by name and labels."""
    return {
        (sample.name.removeprefix("peerservers_cluster_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(generate_latest(process.registry).decode())
        for sample in family.samples
    }


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    yield cluster
    await asyncio.gather(*(process.stop() for process in cluster.processes))


async def pair(cluster: Cluster, *others: type[Extension]) -> tuple[Process, Process]:
    one, other = await cluster.start(*others), await cluster.start(*others)
    await eventually(lambda: all(len(extension_of(process).table()) == 2 for process in (one, other)))
    return one, other


async def test_peers_of_two_processes_meet(cluster: Cluster) -> None:
    one, other = await pair(cluster)
    here, there = FakeConnection(), FakeConnection()
    one.harness.send(here, announce(P, offers=offers(2)))
    await eventually(lambda: values(one)["owned_swarms",] + values(other)["owned_swarms",] == 1)
    other.harness.send(there, announce(Q, offers=offers(2, start=10)))
    await eventually(lambda: any("offer" in message for message in here.inbox))
    (offer,) = [message for message in here.take() if "offer" in message]
    one.harness.send(here, answer(P, Q, offer["offer_id"]))
    await eventually(lambda: any("answer" in message for message in there.inbox))
    found = values(one)
    assert found["shared_swarms",] == 1
    assert found["offers_total", "in"] == found["answers_total", "out"] == 1
    assert found["offers_total", "out"] == found["answers_total", "in"] == 0
    assert found["messages_total", "in"] > 2
    assert found["bytes_total", "out"] > 100
    assert (found["nodes",], found["connected",], found["gateway",]) == (2, 1, 0)


async def test_the_table_has_a_row_for_each_node(cluster: Cluster) -> None:
    one, other = await pair(cluster)
    one.harness.join(P)
    await eventually(lambda: [row["peers"] for row in extension_of(other).table()].count(1) == 1)
    await eventually(lambda: any(row["latency_ms"] > 0 for row in extension_of(other).table()))
    row = next(row for row in extension_of(other).table() if row["peers"])
    assert row["node"] == node_id_of(one)[:8]
    assert (row["swarms"], row["connections"], row["gateway"]) == (1, 0, False)
    await eventually(lambda: values(one)["round_trip_seconds_count",] > 0)


async def test_nodes_that_come_and_go_are_logged(cluster: Cluster) -> None:
    with capture_logs() as log:
        one, other = await pair(cluster)
        await other.stop()
        cluster.processes.remove(other)
        await eventually(lambda: len(extension_of(one).table()) == 1)
    events = [(line["event"], line.get("reason")) for line in log]
    assert events.count(("cluster_transport_up", None)) == 2
    assert events.count(("node_joined", None)) == 2
    assert ("node_left", "stopped") in events
    assert values(one)["nodes_left_total", "stopped"] == 1


async def test_refused_messages_are_logged_once_and_counted(cluster: Cluster) -> None:
    one = await cluster.start()
    bad = Sealer("f" * 16, "other", None).seal(SINGLE, bytes.fromhex(node_id_of(one)), 0, 0, [])
    with capture_logs() as log:
        for _ in range(3):
            cluster.bus.nodes[node_id_of(one)].deliver(bad)
    assert [line["event"] for line in log] == ["cluster_message_refused"]
    assert (log[0]["reason"], log[0]["node"]) == ("wrong_name", "f" * 8)
    assert values(one)["refused_total", "wrong_name"] == 3


async def test_senders_that_another_program_invents_do_not_flood_the_log(cluster: Cluster) -> None:
    one = await cluster.start()
    with capture_logs() as log:
        for number in range(10 * MAX_LINES):
            extension_of(one).refused(Refused.WRONG_KEY, f"{number:016x}")
    assert len(log) == MAX_LINES


async def test_a_failure_in_a_message_harms_only_that_message(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = await pair(cluster)

    def fail(*_: Any) -> None:
        raise RuntimeError("as told")

    with capture_logs() as log, monkeypatch.context() as patched:
        patched.setattr(extension_of(one), "refused", fail)
        cluster.bus.nodes[node_id_of(one)].deliver(b"garbage")
    assert [line["event"] for line in log] == ["extension_failed"]
    other.harness.join(P)
    await eventually(lambda: [row["peers"] for row in extension_of(one).table()].count(1) == 1)


async def test_the_transport_may_go_down_and_come_back(cluster: Cluster) -> None:
    one = await cluster.start()
    extension = extension_of(one)
    with capture_logs() as log:
        extension.on_connected(False)
        extension.on_connected(False)
        assert values(one)["connected",] == 0
        extension.on_connected(True)
    assert [line["event"] for line in log] == ["cluster_transport_down", "cluster_transport_up"]


async def test_processes_ask_each_other(cluster: Cluster) -> None:
    one, other = await pair(cluster)
    third = await cluster.start()

    async def reply() -> bytes:
        return b"of another"

    async def fail() -> bytes:
        raise RuntimeError("as told")

    await eventually(lambda: extension_of(one).others(everywhere=True) == 2)
    assert extension_of(one).others(everywhere=False) == 0, "they are no workers of one supervisor"
    extension_of(other).on_ask("kind", reply)
    extension_of(third).on_ask("kind", fail)
    with capture_logs():
        found = await extension_of(one).ask("kind", 0.5, everywhere=True)
    assert found == {extension_of(other).label: b"of another"}
    assert await extension_of(one).ask("kind", 0.5, everywhere=False) == {}
    labels = {extension_of(process).label for process in (one, other, third)}
    assert len(labels) == 3, "they are told apart although all bear the name of this machine"


async def shows_a_start(process: Process) -> None:
    """Wait until the table of a process is that of the gateway."""
    async with asyncio.timeout(PATIENCE):
        while process.host.tables.rows_of("once") != [{"starts": 1}]:
            await asyncio.sleep(0.1)
            await process.host.tables.refresh()


async def test_an_extension_runs_at_the_gateway_only_and_all_nodes_show_its_table(cluster: Cluster) -> None:
    processes = await pair(cluster, Once)

    def starts() -> list[int]:
        onces: list[Any] = [process.host.extensions["once"] for process in processes]
        return sorted(once.starts for once in onces)

    await eventually(lambda: starts() == [0, 1])
    for process in processes:
        await shows_a_start(process)


def test_it_is_on_if_there_are_servers() -> None:
    def section(**values: Any) -> ClusterSettings:
        return validate(ClusterSettings, values, "extensions.cluster")

    assert not section().enabled
    assert section(servers=["nats://127.0.0.1"]).enabled
    assert not section(servers=["nats://127.0.0.1"], enabled=False).enabled
    assert section(enabled=True, name="a-Z_9").name == "a-Z_9"
    for wrong in ({"name": "a.b"}, {"name": ""}, {"label": "x" * 65}, {"label": "a\n"}, {"key": "other"}):
        with pytest.raises(ConfigError):
            section(**wrong)


async def test_without_servers_or_workers_the_tracker_does_not_start(tmp_path: Path) -> None:
    class Cluster(ClusterNode):
        """As it is."""

    process = Process(Cluster, server={"state_dir": str(tmp_path)})
    with pytest.raises(ConfigError, match=r"extensions\.cluster\.servers: needed"):
        await process.host.prepare()
