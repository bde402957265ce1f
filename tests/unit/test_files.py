"""Changes of files are noticed, in whatever way a file changes."""

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client import PATIENCE, eventually
from tracker.files import Watch, look
from tracker.logs import configure


class Watched:
    """A watch that looks all the time, with a count of the changes that it noticed."""

    def __init__(self) -> None:
        self.changes = 0
        self.watch = Watch(self._changed, 0.001)

    def _changed(self) -> None:
        self.changes += 1

    async def sees(self, changes: int) -> None:
        await eventually(lambda: self.changes == changes)


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    one = Watched()
    task = asyncio.ensure_future(one.watch.run())
    yield one
    task.cancel()


async def test_a_file_that_is_written_replaced_removed_and_created(watched: Watched, tmp_path: Path) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    file.write_text("a")
    watched.watch.set_files(look([str(file), "", str(tmp_path / "nothing")]))
    file.write_text("bb")
    await eventually(lambda: watched.changes >= 1)
    watched.watch.set_files(look([str(file)]))
    watched.changes = 0
    other.write_text("cc")
    os.replace(other, file)
    await watched.sees(1)
    file.unlink()
    await watched.sees(2)
    file.touch()
    await watched.sees(3)


async def test_a_symbolic_link_to_another_file(watched: Watched, tmp_path: Path) -> None:
    """As certbot and Kubernetes renew."""
    old, new, link, fresh = (tmp_path / name for name in ("old", "new", "link", "fresh"))
    old.write_text("a")
    new.write_text("a")
    link.symlink_to(old)
    watched.watch.set_files(look([str(link)]))
    fresh.symlink_to(new)
    os.replace(fresh, link)
    await watched.sees(1)


async def test_a_write_while_the_file_is_read_is_noticed(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("half")
    seen = look([str(file)])
    file.write_text("half and half")
    watched.watch.set_files(seen)
    await watched.sees(1)


async def test_a_file_system_that_hangs_does_not_block_the_loop(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = tmp_path / "file", tmp_path / "other"
    hangs, goes_on, looked = threading.Event(), threading.Event(), threading.Event()

    def slow_look(names: list[str]) -> dict[str, object]:
        hangs.set()
        assert goes_on.wait(PATIENCE)
        seen = look(names)
        looked.set()
        return seen

    monkeypatch.setattr("tracker.files.look", slow_look)
    watched.watch.set_files(look([str(file)]))
    file.touch()
    await eventually(hangs.is_set)
    # Other files are watched by now: the result for the old ones is not a change.
    watched.watch.set_files(look([str(other)]))
    goes_on.set()
    await eventually(looked.is_set)
    looked.clear()
    await eventually(looked.is_set)
    assert watched.changes == 0
    other.touch()
    await watched.sees(1)


async def test_the_watch_goes_on_after_looks_that_fail(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line tells of a row of failures."""
    file = tmp_path / "file"
    failures = 0

    def failing_look(_names: list[str]) -> dict[str, object]:
        nonlocal failures
        failures += 1
        raise RuntimeError("can't start new thread")

    watched.watch.set_files(look([str(file)]))
    configure("info", "json")
    with monkeypatch.context() as broken:
        broken.setattr("tracker.files.look", failing_look)
        await eventually(lambda: failures >= 3)
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["error"]) == ("files_not_watched", 'RuntimeError("can\'t start new thread")')
    file.touch()
    await watched.sees(1)


async def test_a_change_whose_handler_fails_is_noticed_again(tmp_path: Path) -> None:
    file = tmp_path / "file"
    calls = 0

    def fail_once() -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("as told")

    watch = Watch(fail_once, 0.001)
    watch.set_files(look([str(file)]))
    file.touch()
    task = asyncio.ensure_future(watch.run())
    await eventually(lambda: calls == 2)
    task.cancel()


@pytest.mark.parametrize("name", ["a\0b", "~a\0b/c", "~no-such-user/x", "\udcff\ud800"])
def test_a_file_that_cannot_be_seen_does_not_hide_the_others(name: str, tmp_path: Path) -> None:
    seen = look([name, "", str(tmp_path)])
    assert seen[name] is None
    assert seen[str(tmp_path)] is not None
    assert len(seen) == 2
