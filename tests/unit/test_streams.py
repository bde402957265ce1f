"""Standard streams that a thread writes: order, drops and their notice, streams that break."""

import contextlib
import os
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import PATIENCE
from tracker.streams import MAX_QUEUED, QueuedStream

PIPE = 4096
"""The least capacity of a pipe (Linux), in bytes."""


class Pipe:
    """A pipe of the least capacity."""

    def __init__(self) -> None:
        fcntl = pytest.importorskip("fcntl")
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, PIPE)

    def read(self, size: int) -> str:
        """Return exactly `size` bytes."""
        data = b""
        while len(data) < size:
            data += os.read(self.reader, size - len(data))
        return data.decode()

    def read_until(self, end: str) -> str:
        """Return the text up to and with `end`."""
        data = b""
        while not data.endswith(end.encode()):
            data += os.read(self.reader, 1)
        return data.decode()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    for descriptor in (pipe.reader, pipe.writer):
        with contextlib.suppress(OSError):
            os.close(descriptor)


def notice(lines: int) -> str:
    return f"({lines} lost)\n"


def line(number: int) -> str:
    """Return a line of 100 bytes."""
    return f"{number:099}\n"


def test_text_arrives_in_order(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice)
    print("a", 1, end="", file=stream)
    print("é\udcff", file=stream)
    for number in range(30):
        stream.write(line(number))
    assert pipe.read_until("\n") == "a 1é\\udcff\n"
    assert pipe.read(3000) == "".join(map(line, range(30)))
    assert stream.drain(PATIENCE)
    assert stream.dropped == 0


def test_a_reader_that_hangs_blocks_only_the_thread(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice, max_queued=10_000)
    for number in range(1000):
        stream.write(line(number))
    assert not stream.drain(0)
    # The pipe, and at most as much in the queue.
    kept = 1000 - stream.dropped
    assert 100 <= kept <= 100 + PIPE // 100
    assert pipe.read(100 * kept) == "".join(map(line, range(kept)))
    # No further line is needed for the notice.
    assert pipe.read_until("\n") == notice(1000 - kept)
    stream.write("as ever\n")
    assert pipe.read_until("\n") == "as ever\n"
    assert stream.drain(PATIENCE)


def test_the_notice_stands_where_lines_are_missing(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice, max_queued=8000)
    written = 0
    while not stream.dropped:
        stream.write(line(written))
        written += 1
    stream.write(line(written))
    # Room for one more, while the thread still has more than fits the pipe.
    text = pipe.read(4200)
    while not text.endswith("later\n"):
        before = stream.dropped
        stream.write("later\n")
        if stream.dropped == before:
            text += pipe.read_until("later\n")
    lost = stream.dropped
    assert text == "".join(map(line, range(written - 1))) + notice(lost) + "later\n"


def test_a_full_disk_and_a_torn_line(tmp_path: Path) -> None:
    """A limit of the file's size gives the same: a part of a line is written, and then nothing."""
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    file = tmp_path / "log"
    with file.open("wb") as opened:
        stream = QueuedStream(opened.fileno(), notice)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (250, limits[1]))
            for number in range(5):
                stream.write(line(number))
                assert stream.drain(PATIENCE)
            assert stream.dropped == 3
            assert file.read_text() == line(0) + line(1) + line(2)[:50]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        stream.write(line(5))
        assert stream.drain(PATIENCE)
    assert file.read_text() == line(0) + line(1) + line(2)[:50] + "\n" + notice(3) + line(5)
    assert stream.dropped == 3


def test_a_reader_that_is_gone(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice)
    os.close(pipe.reader)
    for number in range(3):
        stream.write(line(number))
    assert stream.drain(PATIENCE)
    assert stream.dropped == 3


def test_a_descriptor_that_is_closed() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    stream = QueuedStream(writer, notice)
    stream.write("x\n")
    assert stream.drain(PATIENCE)
    assert stream.dropped == 1


def test_another_program_may_have_set_the_pipe_to_non_blocking_mode(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    stream = QueuedStream(pipe.writer, notice)
    text = "".join(map(line, range(200)))
    stream.write(text)
    assert pipe.read(len(text)) == text
    assert stream.drain(PATIENCE)
    assert stream.dropped == 0


def test_without_room_for_a_thread_text_is_written_at_once(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    stream = QueuedStream(pipe.writer, notice)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        stream.write("first\n")
        assert stream.drain(0)
    assert pipe.read(6) == "first\n"
    stream.write("second\n")
    assert pipe.read(7) == "second\n"


def test_a_line_that_is_written_in_parts_is_kept_or_dropped_as_a_whole(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice, max_queued=PIPE)
    for _ in range(100):
        print("a", "b" * 997, file=stream)
    kept = 100 - stream.dropped
    assert pipe.read(1000 * kept) == ("a " + "b" * 997 + "\n") * kept
    assert pipe.read_until("\n") == notice(100 - kept)
    stream.write("without an end")
    stream.flush()
    assert pipe.read(14) == "without an end"
    stream.write("x" * (2 * PIPE))
    stream.write("and its end\nnext")
    assert stream.drain(PATIENCE)
    assert pipe.read_until("next") == "and its end\nnext"


def test_it_is_a_stream_for_others(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice)
    assert (stream.isatty(), stream.fileno(), stream.writable()) == (False, pipe.writer, True)
    stream.flush()
    assert stream.write("") == 0


def test_a_finalizer_may_write_while_its_thread_holds_the_lock(pipe: Pipe) -> None:
    """The garbage collector can run at any moment, also in `write`."""
    stream = QueuedStream(pipe.writer, notice)

    class Long(bytes):
        def count(self, *_: object) -> int:
            stream.write("inner\n")
            return 1

    class Outer(str):
        def encode(self, *_: str) -> bytes:
            return Long(b"x" * MAX_QUEUED + b"\n")

    stream.write(Outer())
    stream.write("outer\n")
    text = "inner\n" + notice(1) + "outer\n"
    assert pipe.read(len(text)) == text


def test_lines_of_several_writers_do_not_mix(pipe: Pipe) -> None:
    streams = [QueuedStream(pipe.writer, notice) for _ in range(2)]
    for stream in streams:
        stream.chunk = select.PIPE_BUF
    for number in range(2000):
        for stream in streams:
            stream.write(line(number))
    lines = pipe.read(2 * 2000 * 100).splitlines(keepends=True)
    assert sorted(lines) == sorted([line(number) for number in range(2000)] * 2)
    assert [stream.drain(PATIENCE) for stream in streams] == [True, True]


def test_a_line_that_is_longer_than_a_chunk(pipe: Pipe) -> None:
    stream = QueuedStream(pipe.writer, notice)
    stream.chunk = 1000
    text = "x" * 2500 + "\n"
    stream.write(text)
    stream.write("y\n")
    assert pipe.read(len(text) + 2) == text + "y\n"
