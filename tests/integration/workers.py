"""Trackers with several workers."""

import json
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from tests.client import eventually
from tests.conftest import TrackerProcess, environment
from tests.integration import joined
from tests.integration.friend import install

StartWorkers = Callable[..., Awaitable[TrackerProcess]]


def with_joined(directory: Path, **settings: object) -> dict[str, str]:
    """Return the environment of a tracker that has the extension `joined`, with some settings, and no cluster."""
    shutil.copy(joined.__file__, directory)
    install(directory, "joined", "joined:Joined")
    path = [str(directory), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        "PYTHONPATH": os.pathsep.join(path),
        **environment("extensions.cluster", enabled=False),
        **environment("extensions.joined", **settings),
        **environment("server", state_dir=str(directory / "state"), restart_spread=0.3, group_swarms=False),
    }


async def worker_of(tracker: TrackerProcess) -> dict[str, Any]:
    """Return what the worker that serves a request says about itself."""
    status, body = await tracker.get("/worker")
    assert status == 200
    told: dict[str, Any] = json.loads(body)
    return told


async def workers_of(tracker: TrackerProcess, count: int = 2) -> list[dict[str, Any]]:
    """Return what each worker says about itself."""
    found: dict[int, dict[str, Any]] = {}

    async def all_found() -> bool:
        told = await worker_of(tracker)
        found[told["index"]] = told
        return len(found) == count

    await eventually(all_found)
    return [found[index] for index in range(count)]


def processes_of(tracker: TrackerProcess) -> list[Any]:
    """Return the processes of the workers (psutil)."""
    found: list[Any] = psutil.Process(tracker.process.pid).children()
    return found
