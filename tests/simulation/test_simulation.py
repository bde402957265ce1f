"""The promise in a small world, with new random numbers each time; and the simulation itself.

A simulation needs a process of its own, in which the clocks are replaced before the product is imported.
"""

import asyncio
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pytest

from extensions.dht.krpc.messages import Contact, Item
from tests.simulation.clock import START, VirtualLoop
from tests.simulation.dht.model import ITEM_LIFETIME, PEER_LIFETIME, UPLOAD_BURST, UPLOAD_RATE, StoringNode
from tests.simulation.errors import Stalled
from tests.simulation.measures import Components, Sample, extent
from tests.simulation.report import chosen

ROOT = Path(__file__).parents[2]
TARGET = b"target"


def simulate(file: Path, *arguments: str, hash_seed: str = "random") -> dict[str, Any]:
    """Run one scenario and return its figures. Fail with the command that repeats the run if a goal was missed."""
    command = ["-m", "tests.simulation", *arguments]
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    done = subprocess.run(
        [sys.executable, *command, "--json", str(file)],
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": hash_seed},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    repeat = f"python {' '.join(command)}\n{done.stdout}{done.stderr}"
    assert done.returncode == 0, repeat
    assert done.stderr == "", repeat
    (run,) = json.loads(file.read_text())
    assert not any(run["failures"].values()), repeat
    figures: dict[str, Any] = run
    return figures


@pytest.mark.parametrize("trackers", [8, 12])
def test_all_meet_in_spite_of_restarts_and_a_partition(tmp_path: Path, trackers: int) -> None:
    seed = str(random.randrange(1 << 32))
    run = simulate(tmp_path / "run.json", "--scenario", "life", "--trackers", str(trackers), "--seed", seed)
    assert len(run["goals"]) == 4
    assert run["restarts"] == 3
    assert run["samples"][-1]["met"] == run["samples"][-1]["peers"] > 0


@pytest.mark.parametrize("scenario", ["full", "one-place"])
def test_a_lonely_swarm_finds_a_place_at_full_trackers(tmp_path: Path, scenario: str) -> None:
    simulate(tmp_path / "run.json", "--scenario", scenario, "--seed", str(random.randrange(1 << 32)))


def test_a_run_is_the_same_each_time(tmp_path: Path) -> None:
    """Also the order of sets, which depends on addresses and on hashes, must not change it."""
    arguments = ("--scenario", "small-swarms", "--trackers", "8", "--infohashes", "30", "--seconds", "60")
    faults = ("--restarts", "2", "--churn", "1", "--loss", "0.02")
    one, other = (
        simulate(tmp_path / f"{seed}.json", *arguments, *faults, "--seed", "7", hash_seed=seed) for seed in ("1", "2")
    )
    assert one["samples"] == other["samples"]
    assert one["digest"] == other["digest"]


class TestTime:
    def test_waiting_takes_no_time(self) -> None:
        loop = VirtualLoop()
        try:
            loop.run_until_complete(asyncio.sleep(3600.0))
            assert loop.time() == START + 3600.0
        finally:
            loop.close()

    def test_waiting_for_nothing_is_an_error(self) -> None:
        loop = VirtualLoop()
        forever = loop.create_future()
        try:
            with pytest.raises(Stalled):
                loop.run_until_complete(forever)
        finally:
            loop.close()

    def test_a_thread_is_no_thread(self) -> None:
        loop = VirtualLoop()
        try:
            assert loop.run_until_complete(loop.run_in_executor(None, sum, (1, 2))) == 3
            with pytest.raises(ZeroDivisionError):
                loop.run_until_complete(loop.run_in_executor(None, divmod, 1, 0))
        finally:
            loop.close()


class TestStoringNode:
    def node(self, rate: float = 0.0) -> StoringNode:
        return StoringNode(Contact(bytes(20), ("192.0.2.1", 6881)), rate)

    def item(self, seq: int, value: bytes = b"value") -> Item:
        return Item(bytes(32), bytes(64), seq, value)

    def test_a_newer_version_replaces_the_one_that_its_writer_has_read(self) -> None:
        node = self.node()
        assert node.put(TARGET, self.item(1), 0, 0.0) == 0
        assert node.put(TARGET, self.item(2), 0, 0.0) == 301, "it has a version that the writer has not read"
        assert node.put(TARGET, self.item(2), 1, 0.0) == 0
        assert node.put(TARGET, self.item(1), 2, 0.0) == 302, "this version is older"
        assert node.put(TARGET, self.item(3), None, 0.0) == 0, "a vandal does not say what it has read"
        item = node.get(TARGET, 1.0)
        assert item
        assert item.seq == 3
        assert node.get(b"another target", 1.0) is None

    def test_items_expire(self) -> None:
        node = self.node()
        node.put(TARGET, self.item(5), 0, 1.0)
        assert node.get(TARGET, ITEM_LIFETIME)
        assert node.get(TARGET, ITEM_LIFETIME + 2) is None
        assert node.put(TARGET, self.item(1), 0, ITEM_LIFETIME + 2) == 0

    def test_the_same_version_prolongs_the_life_of_an_item(self) -> None:
        node = self.node()
        node.put(TARGET, self.item(1, b"first"), None, 0.0)
        assert node.put(TARGET, self.item(1, b"other"), None, ITEM_LIFETIME) == 0
        item = node.get(TARGET, ITEM_LIFETIME + 1)
        assert item
        assert item.value == b"first"

    def test_announced_peers_expire(self) -> None:
        node = self.node()
        node.announce(TARGET, ("192.0.2.1", 443), 0.0)
        assert node.get_peers(TARGET, 1.0) == [("192.0.2.1", 443)]
        assert node.get_peers(b"another infohash", 1.0) == []
        assert node.get_peers(TARGET, PEER_LIFETIME) == []

    def test_a_node_answers_no_more_than_its_rate_allows(self) -> None:
        node = self.node(UPLOAD_RATE)
        node.put(TARGET, self.item(1, bytes(1000)), 0, 0.0)
        answered = 0
        for tenth in range(1000):
            now = tenth / 10
            while node.may_send(now):
                node.get(TARGET, now)
                answered += 1
        assert UPLOAD_RATE * 99 < node.bytes_sent < UPLOAD_BURST + UPLOAD_RATE * 101
        assert node.gets == answered
        assert node.dropped == 1000


def test_the_document_has_each_scenario_and_each_file() -> None:
    text = (ROOT / "docs" / "simulation.md").read_text()
    names = []
    for file in ("scenarios.py", "dht/command.py"):
        names += re.findall(
            r'^    "([a-z0-9-]+)": [a-z0-9_.]+,$', (ROOT / "tests/simulation" / file).read_text(), re.MULTILINE
        )
    assert re.findall(r"^\| `([a-z0-9-]+)` \|", text, re.MULTILINE) == names != []
    directory = ROOT / "tests" / "simulation"
    files = {path.relative_to(directory).as_posix() for path in directory.rglob("*.py") if path.name[0] != "_"}
    documented = set(re.findall(r"`((?:dht/)?[a-z0-9_]+\.py)`", text))
    assert documented == {name for name in files if not name.startswith("test_")} - {"errors.py"}


def test_components() -> None:
    parts = Components("abcde")
    parts.join("a", "b")
    parts.join("c", "d")
    parts.join("b", "a")
    assert parts.number == 3
    assert parts.largest == 2
    parts.join("d", "a")
    assert parts.number == 2
    assert parts.largest == 4


def test_extent() -> None:
    assert extent([3, 1, 2, 10]) == (1, 2.5, 10)
    assert extent([]) == (0, 0, 0)


@pytest.mark.parametrize("count", [1, 2, 14, 15, 100, 1000])
def test_the_table_has_some_samples(count: int) -> None:
    empty = Sample(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, (0, 0, 0), (0, 0, 0), 0, 0, 0, 0, 0)
    samples = [Sample(number, *astuple(empty)[1:]) for number in range(count)]
    some = chosen(samples)
    assert len(some) == min(count, len(some)) <= 14
    assert some[0] is samples[0]
    assert some[-1] is samples[-1]
    assert [one.seconds for one in some] == sorted({one.seconds for one in some})
