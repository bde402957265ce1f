"""The number of workers that the settings ask for."""

import os
from pathlib import Path

import pytest

from tracker.config import ConfigError, load
from tracker.workers.cpus import usable_cpus
from tracker.workers.supervisor import number_of_workers


@pytest.mark.parametrize(
    ("text", "expected"),
    [("max 100000\n", 8), ("150000 100000\n", 2), ("20000 100000\n", 1), ("10000000 100000\n", 8), ("", 8), ("x y", 8)],
)
def test_the_limit_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    limit = tmp_path / "cpu.max"
    limit.write_text(text)
    assert usable_cpus(limit) == expected
    assert usable_cpus(tmp_path / "missing") == 8


def test_the_number_is_that_of_the_setting() -> None:
    assert number_of_workers(load(None, {})) == 1
    assert number_of_workers(load(None, {"server": {"workers": 3}})) == 3
    assert number_of_workers(load(None, {"server": {"workers": "auto"}})) == usable_cpus()


@pytest.mark.parametrize("wrong", [0, -1, 257, "many", 1.5, True])
def test_wrong_numbers(wrong: object) -> None:
    with pytest.raises(ConfigError, match=r"server\.workers"):
        load(None, {"server": {"workers": wrong}})


@pytest.mark.parametrize(("text", "expected"), [("2", 2), ("auto", "auto")])
def test_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, expected: object) -> None:
    monkeypatch.setenv("PEERSERVERS_SERVER__WORKERS", text)
    assert load(None, {}).server.workers == expected


def test_a_system_that_does_not_tell_the_affinity(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cpus(tmp_path / "none") == 6
