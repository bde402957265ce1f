"""The extension: its background tasks."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from extensions.federation import term as module
from extensions.federation.command import LINKING_COLUMNS
from extensions.federation.extension import Federation
from extensions.federation.settings import FederationSettings
from tests.client import PATIENCE, eventually
from tests.unit.extension.nodes import Bus, Process, node_on
from tests.unit.fakes import HubHarness, peer_id
from tracker.config import load
from tracker.extension import Extension
from tracker.extension.api import TrackerHandle


class Endpoint:
    """Accepts the registration of the subprotocol."""

    def add_subprotocol(self, name: str, make: object) -> None:
        pass


@pytest.fixture
def failures() -> Counter[str]:
    """Background tasks that have failed, by name."""
    return Counter()


@pytest.fixture
async def federation(
    failures: Counter[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Federation]:
    harness, endpoint = HubHarness(), Endpoint()
    stand_in: Any = endpoint
    settings = load(None, {"server": {"state_dir": str(tmp_path)}})
    handle = TrackerHandle(
        "federation", settings, harness.hub, harness.remote, stand_in, CollectorRegistry(), task_failures=failures
    )
    monkeypatch.setattr(module, "TELL_PERIOD", 0.01)
    federation = Federation(handle, FederationSettings())
    await federation.prepare()
    # From now on clients are served, though the extension has not started yet.
    assert harness.hub.offers.parked.enabled
    await federation.start()
    yield federation
    await federation.stop()


async def test_an_error_while_changes_are_told_is_logged_and_counted_and_telling_goes_on(
    federation: Federation, failures: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = asyncio.Event()

    async def fail_once() -> None:
        if failures.total():
            told.set()
        else:
            raise RuntimeError("counts are wrong")

    monkeypatch.setattr(federation.exchange, "tell_changes", fail_once)
    with capture_logs() as logs:
        await asyncio.wait_for(told.wait(), PATIENCE)
    (failed,) = logs
    assert (failed["event"], failed["task"]) == ("background_task_failed", "federation_tell")
    assert failures["federation_tell"] == 1


async def test_stopping_ends_all_tasks_and_is_no_failure(federation: Federation, failures: Counter[str]) -> None:
    before = asyncio.all_tasks()
    await federation.stop()
    ending = {task for task in before if task.get_name().startswith("federation")}
    assert ending
    await asyncio.wait(ending, timeout=10)
    assert all(task.done() for task in ending)
    assert failures.total() == 0


async def test_the_state_of_linking_is_one_row(federation: Federation) -> None:
    (row,) = federation.linking()
    assert tuple(row) == LINKING_COLUMNS
    assert row == {**dict.fromkeys(LINKING_COLUMNS, 0), "max_links": 1000, "shortage": ""}


class Finder(Extension):
    """In place of the extension `dht`: it finds nothing."""

    at_gateway = True

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.started = asyncio.Event()
        self.started.set()
        self.service = object()
        self.listeners: list[object] = []

    def on_sighting(self, tell: object) -> None:
        self.listeners.append(tell)

    def stop_telling(self, tell: object) -> None:
        self.listeners.remove(tell)

    def known(self, _info_hash: str) -> list[object]:
        return []

    entries = known

    def own_descriptor(self) -> None:
        """Publish nothing."""


async def test_each_term_at_the_gateway_begins_anew_and_leaves_nothing(tmp_path: Path) -> None:
    finder: Any = type("Dht", (Finder,), {})
    process = Process(node_on(Bus()), finder, Federation, server={"state_dir": str(tmp_path)})
    own: Any = process.host.extensions["federation"]
    found: Any = process.host.extensions["dht"]
    await process.start()
    connection = process.harness.join(peer_id(1))
    process.harness.join(peer_id(2), "other" * 4)
    # Nodes that are not the gateway park offers, too.
    assert process.harness.hub.offers.parked.enabled
    assert (own.mesh, own.links, own.table(), own.linking()) == (None, [], [], [])
    meshes = []
    for swarms in (2, 2, 1):
        process.gateway.move(True)
        await eventually(lambda: own.mesh is not None and len(found.listeners) == 1)
        await eventually(lambda: open_in(own) == len(process.harness.hub.swarms))
        assert open_in(own) == swarms
        meshes.append(own.mesh)
        process.gateway.move(False)
        await eventually(lambda: own.mesh is None)
        assert (found.listeners, own.links, meshes[-1].is_closing) == ([], [], True)
        if connection.peers and len(meshes) == 2:
            process.harness.hub.close(connection)
    assert len(set(map(id, meshes))) == 3
    await process.stop()


def open_in(federation: Federation) -> int:
    """Return the number of swarms of which neighbours would learn."""
    assert federation.exchange
    return sum(federation.exchange.has(swarm) for swarm in federation.tracker.swarms.values())
