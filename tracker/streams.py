"""Standard output and standard error that never block: a thread writes the text."""

import io
import os
import select
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

MAX_QUEUED: Final = 1 << 20
"""Bytes that wait for the reader. Lines beyond are dropped."""

CHUNK: Final = 1 << 16
"""Bytes that are written at once, if so many wait."""

_NEWLINE: Final = b"\n"


class QueuedStream(io.TextIOBase):
    """A text stream that a thread writes to a file descriptor, in order.

    Only the thread waits for a reader that hangs, a paused terminal or a slow disk. Lines that find no room in the
    queue, or that cannot be written (closed pipe, full disk), are dropped and counted. As soon as text can be written
    again, a notice stands in their place.

    Args:
        descriptor: The file descriptor to write to.
        notice: Return the line that says how many lines were dropped, with its end. It must not write to the stream.
        max_queued: Most bytes that wait.

    Attributes:
        chunk: Most bytes that are written at once. Only a longer line is divided.
    """

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int, notice: Callable[[int], str], max_queued: int = MAX_QUEUED) -> None:
        self._descriptor = descriptor
        self._notice = notice
        self._max_queued = max_queued
        self.chunk = CHUNK
        self._queue: SimpleQueue[bytes | int | threading.Event] = SimpleQueue()
        """Text, the number of lines that were dropped before the next text, and events to set."""
        # Reentrant, because a finalizer may log while its thread holds the lock.
        self._lock = threading.RLock()
        self._line = b""
        """The beginning of a line that is not complete."""
        self._queued = 0
        """Bytes in the queue, and in the hands of the thread."""
        self._refused = 0
        """Lines that found no room in the queue."""
        self._unreported = 0
        """Those of them that the thread has not been told of."""
        self._thread: threading.Thread | None = None
        # From here on only the thread's own.
        self._failed = 0
        """Lines that could not be written."""
        self._missing = 0
        """Dropped lines that no notice has reported yet."""
        self._works = True
        """Whether the last attempt to write succeeded."""
        self._is_torn = False
        """Whether the last line is incomplete, because a write failed."""
        self._last = _NEWLINE
        """The byte that was written last."""

    @property
    def dropped(self) -> int:
        """Lines that were dropped."""
        return self._refused + self._failed

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def write(self, text: str, /) -> int:
        data = text.encode(self.encoding, self.errors)
        with self._lock:
            if self._line or not data.endswith(_NEWLINE):
                # Either a whole line finds room or nothing of it: `print` writes a line in two parts.
                lines, end, self._line = (self._line + data).rpartition(_NEWLINE)
                data = lines + end
            self._put(data)
        if len(self._line) > self._max_queued:
            self.flush()
        return len(text)

    def flush(self) -> None:
        """Queue a line without its end, too. Do not wait until it is written: see `drain`."""
        with self._lock:
            data, self._line = self._line, b""
            self._put(data)

    def drain(self, timeout: float) -> bool:
        """Wait until all text was written or dropped, for at most `timeout` seconds. Return whether it was."""
        self.flush()
        if self._thread is None:
            return True
        is_done = threading.Event()
        self._queue.put(is_done)
        return is_done.wait(timeout)

    def _put(self, data: bytes) -> None:
        if not data:
            return
        if self._queued + len(data) > self._max_queued:
            lines = data.count(_NEWLINE)
            self._refused += lines
            self._unreported += lines
        elif self._can_queue():
            if self._unreported:
                self._queue.put(self._unreported)
                self._unreported = 0
            self._queued += len(data)
            self._queue.put(data)
        else:
            self._write(data)

    def _can_queue(self) -> bool:
        """Start the thread at the first text. Return whether there is one."""
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="standard stream", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                # The system has no room for a thread. The log may be about to say so.
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            item = self._queue.get()
            parts: list[bytes] = []
            size = 0
            while isinstance(item, bytes):
                parts.append(item)
                size += len(item)
                if size >= CHUNK:
                    break
                try:
                    item = self._queue.get_nowait()
                except Empty:
                    break
            self._write(b"".join(parts))
            with self._lock:
                self._queued -= size
                if not self._queued:
                    # Perhaps no text follows that would bring this number.
                    self._missing += self._unreported
                    self._unreported = 0
            if isinstance(item, int):
                self._missing += item
            elif self._missing and not self._queued and self._works:
                self._write(b"")
            if isinstance(item, threading.Event):
                item.set()

    def _write(self, data: bytes) -> None:
        """Write text, however long it takes, behind the notice of the missing lines. Drop the rest if that fails."""
        head = _NEWLINE if self._is_torn or (self._missing and self._last != _NEWLINE) else b""
        if self._missing:
            head += self._notice(self._missing).encode(self.encoding, self.errors)
        rest = memoryview(head + data)
        try:
            while rest:
                sent = self._write_some(rest)
                if sent:
                    self._last = bytes(rest[sent - 1 : sent])
                    rest = rest[sent:]
        except OSError:
            self._works = False
            self._is_torn |= self._last != _NEWLINE
            if len(rest) <= len(data):
                self._missing = 0
            lines = bytes(rest[-len(data) :]).count(_NEWLINE) if data else 0
            self._failed += lines
            self._missing += lines
        else:
            self._works = True
            self._is_torn = False
            self._missing = 0

    def _whole_lines(self, data: memoryview) -> memoryview:
        """Return as many whole lines as fit into a chunk, or a chunk of a longer line."""
        if len(data) <= self.chunk:
            return data
        part = data[: self.chunk]
        return part[: bytes(part).rfind(_NEWLINE) + 1] or part

    def _write_some(self, data: memoryview) -> int:
        try:
            return os.write(self._descriptor, self._whole_lines(data))
        except BlockingIOError:
            # Another program that has the same terminal or pipe has put it into non-blocking mode.
            writable = select.poll()
            writable.register(self._descriptor, select.POLLOUT)
            writable.poll()
            return 0
