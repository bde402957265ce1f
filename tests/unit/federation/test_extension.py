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
from tests.client import PATIENCE
from tests.unit.fakes import HubHarness
from tracker.config import load
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
