"""Files that change are noticed, whatever the way."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.client import PATIENCE, eventually
from tracker.files import Watch, look


class Watched:
    """A watch that looks all the time, and how often it has seen something."""

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


async def test_written_replaced_removed_and_made(watched: Watched, tmp_path: Path) -> None:
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


async def test_what_is_written_while_it_is_read_is_noticed(watched: Watched, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("half")
    seen = look([str(file)])
    file.write_text("half and half")
    watched.watch.set_files(seen)
    await watched.sees(1)


async def test_a_file_system_that_hangs_holds_up_nobody(
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
    # There are others to watch meanwhile: what is seen of the old ones is no news.
    watched.watch.set_files(look([str(other)]))
    goes_on.set()
    await eventually(looked.is_set)
    looked.clear()
    await eventually(looked.is_set)
    assert watched.changes == 0
    other.touch()
    await watched.sees(1)


def test_names_that_none_can_have() -> None:
    assert look(["a\0b", "~no-such-user/x", ""]) == {"a\0b": None, "~no-such-user/x": None}
