"""What a worker inherits, and the link between it and the supervisor."""

import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.client import eventually
from tracker.worker import VARIABLE, ControlLink, Inherited, Worker, make_link, take_inherited
from tracker.workers.directory import RuntimeDirectory


def test_a_worker_takes_what_it_inherits_once() -> None:
    read, write = os.pipe()
    worker = Worker(1, 2, 5, Path("/run/x"))
    inherited = Inherited(worker, read, -1, ((write,), (read,)), (read,), ())
    environment: dict[str, str] = {}
    inherited.put(environment)
    os.set_inheritable(read, True)
    assert take_inherited(environment) == inherited
    assert not os.get_inheritable(read)
    assert environment == {}
    assert take_inherited(environment) is None
    assert inherited.descriptors == [read, read, write, read]
    for descriptor in (read, write):
        os.close(descriptor)


def test_the_variable_is_no_setting() -> None:
    assert "__" not in VARIABLE


class End:
    """An end of a link."""

    def __init__(self, end: socket.socket) -> None:
        self.received: list[Mapping[str, Any]] = []
        self.lost = 0
        self.link = ControlLink(end, self.received.append, self._on_lost)

    def _on_lost(self) -> None:
        self.lost += 1


async def test_messages_arrive_whole_and_in_order() -> None:
    one, other = map(End, make_link())
    for number in range(100):
        assert one.link.send("adopt", place=number)
    await eventually(lambda: len(other.received) == 100)
    assert other.received == [{"kind": "adopt", "place": number} for number in range(100)]
    assert (one.lost, other.lost) == (0, 0)
    one.link.close()
    await eventually(lambda: other.lost == 1)
    assert not other.link.send("beat")
    other.link.close()


async def test_a_process_that_does_not_read_blocks_no_sender() -> None:
    raw, end = make_link()
    link = End(end)
    sent = 0
    while link.link.send("ready", facts={"urls": "x" * 1000}):
        sent += 1
    assert sent > 0
    # Messages are whole or missing.
    raw.setblocking(False)
    assert [len(raw.recv(1 << 16)) for _ in range(sent)] == [len(raw_ready())] * sent
    link.link.close()
    raw.close()


def raw_ready() -> bytes:
    return json.dumps({"kind": "ready", "facts": {"urls": "x" * 1000}}).encode()


def test_the_directory_is_private_and_has_a_short_path(monkeypatch: pytest.MonkeyPatch) -> None:
    with TemporaryDirectory() as name:
        check_directory(Path(name), monkeypatch)


def check_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path / 'missing'}:{tmp_path}")
    found = [RuntimeDirectory()]
    assert found[0].path.parent == tmp_path
    deep = tmp_path / ("x" * 90)
    deep.mkdir()
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(deep))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    found.append(RuntimeDirectory())
    assert found[1].path.parent == tmp_path
    assert list(deep.iterdir()) == []
    assert {directory.path.stat().st_mode & 0o777 for directory in found} == {0o700}
    # A killed process has left its directory, with a socket in it.
    left = tmp_path / "peerservers-workers-left"
    left.mkdir()
    (left / "1.sock").touch()
    other = tmp_path / "peerservers-other"
    other.mkdir()
    found.append(RuntimeDirectory())
    assert not left.exists()
    assert other.exists()
    assert all(directory.path.exists() for directory in found)
    for directory in found:
        directory.close()
    assert sorted(tmp_path.iterdir()) == sorted([other, deep])


def test_a_new_directory_that_another_tracker_took_for_a_stale_one(monkeypatch: pytest.MonkeyPatch) -> None:
    make = tempfile.mkdtemp
    removed: list[str] = []

    def make_and_remove_once(prefix: str, dir: str) -> str:
        made = make(prefix=prefix, dir=dir)
        if not removed:
            removed.append(made)
            os.rmdir(made)
        return made

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_remove_once)
    directory = RuntimeDirectory()
    assert removed
    assert directory.path.exists()
    directory.close()
