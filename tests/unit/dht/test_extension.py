"""The extension at the gateway of a cluster: it may start and stop several times."""

from collections import Counter
from pathlib import Path
from typing import Any

from extensions.dht.extension import Dht
from extensions.trackers import RENDEZVOUS, Sighting
from tests.client import HASH, eventually
from tests.unit.extension.nodes import Bus, Process, node_on
from tests.unit.fakes import peer_id
from tracker.extension import swarm_key

ROOM = "a room"


class FakeSightings:
    def __init__(self) -> None:
        self.listeners: list[Any] = []

    def known(self, key: bytes) -> list[Sighting]:
        return []


class FakeDirectory:
    """Keeps the swarms that it is told of."""

    def __init__(self) -> None:
        self.sightings = FakeSightings()
        self.swarms: dict[bytes, int] = {}
        self.pinned: list[bytes] = []

    def publish(self, key: bytes) -> None:
        self.pinned.append(key)

    def swarm(self, key: bytes, peers: int, _linked: bool) -> None:
        assert peers > 0
        self.swarms[key] = peers

    def swarm_closed(self, key: bytes) -> None:
        self.swarms.pop(key, None)

    async def trackers(self, _key: bytes, _thorough: bool) -> Any:
        for found in ("one", "two"):
            yield found


class FakeService:
    def __init__(self, *_: Any, task_failures: Counter[str] | None = None) -> None:
        self.directory = FakeDirectory()
        self.is_running = False

    async def start(self) -> None:
        self.is_running = True

    async def stop(self) -> None:
        self.is_running = False


class FakeDht(Dht):
    made: list[FakeService]

    def make_service(self, *arguments: Any, **options: Any) -> Any:
        service = FakeService(*arguments, **options)
        self.made.append(service)
        return service


async def test_each_term_of_a_gateway_has_a_service_of_its_own_which_knows_the_open_swarms(
    tmp_path: Path,
) -> None:
    made: list[FakeService] = []
    dht_class: Any = type("Dht", (FakeDht,), {"made": made})
    process = Process(node_on(Bus()), dht_class, server={"state_dir": str(tmp_path), "public_url": "wss://t.example"})
    dht: Any = process.host.extensions["dht"]
    await process.start()
    process.harness.join(peer_id(1))
    room = process.harness.join("a", ROOM)
    # Elsewhere, nothing is found, without waiting.
    assert [found async for found in dht.trackers(HASH)] == []
    assert b"peerservers_dht_reachable" not in exposed(process)
    for _ in range(3):
        process.gateway.move(True)
        await eventually(lambda: dht.service is not None and len(dht.service.directory.swarms) == 2)
        assert made[-1].directory.swarms == {swarm_key(HASH): 1, swarm_key(ROOM): 1}
        assert RENDEZVOUS in made[-1].directory.pinned
        process.gateway.move(False)
        await eventually(lambda: dht.service is None and not made[-1].is_running)
    process.harness.hub.close(room)
    process.gateway.move(True)
    await eventually(lambda: dht.service is not None and dht.service.directory.swarms == {swarm_key(HASH): 1})
    # Its text has been forgotten, in spite of three terms.
    heard: list[str] = []
    dht.on_sighting(lambda info_hash, _: heard.append(info_hash))
    made[-1].directory.sightings.listeners[0](swarm_key(ROOM), None)
    assert heard == [swarm_key(ROOM).decode("latin-1")]
    assert [found async for found in dht.trackers(HASH)] == ["one", "two"]
    await process.stop()


def exposed(process: Process) -> bytes:
    """Return the names of all metrics that have values."""
    return " ".join(sample.name for metric in process.registry.collect() for sample in metric.samples).encode()
