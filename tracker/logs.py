"""Logs: one line per event on standard error, as text for people or JSON for programs, with a limit per event."""

import asyncio
import atexit
import logging
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable, MutableMapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal, TextIO, cast

import structlog

from tracker.streams import QueuedStream

BURST: Final = 20
"""Limit of lines with the same event name in `PERIOD` seconds. The next line counts the others in `suppressed`."""

PERIOD: Final = 10.0

TRACE: Final = 6
"""Number of innermost stack frames that are logged of an unexpected exception."""

MAX_TEXT: Final = 500
"""Characters of one value, because some values come from other machines."""

DRAIN_TIMEOUT: Final = 1.0
"""Seconds at the exit until log lines are given up, because their reader does not read."""

_SDP = re.compile(r"v=0\s*(?:[\r\n]|\\+[rn]).*", re.DOTALL)
_IPV4 = re.compile(r"\b(\d{1,3}\.\d{1,3})\.\d{1,3}\.\d{1,3}\b")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)


class RateLimit:
    """A structlog processor that drops an event's lines beyond `BURST` per `PERIOD`."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}
        self._suppressed: dict[str, int] = {}
        self._methods: dict[str, str] = {}

    def overdue(self) -> list[tuple[str, str]]:
        """Return the events with a count of suppressed lines that may be logged again, as (logger method, event)."""
        now = self._clock()
        return [(self._methods[name], name) for name in self._suppressed if now - self._windows[name][0] >= PERIOD]

    def __call__(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event["event"])
        now = self._clock()
        start, lines = self._windows.get(name, (now, 0))
        if now - start >= PERIOD:
            start, lines = now, 0
        self._windows[name] = (start, lines + 1)
        if lines >= BURST:
            self._suppressed[name] = self._suppressed.get(name, 0) + 1
            self._methods[name] = method
            raise structlog.DropEvent
        suppressed = self._suppressed.pop(name, 0)
        if suppressed:
            event["suppressed"] = suppressed
        return event


class _Unbreakable:
    """A stream that ignores its failures (a full disk, a closed pipe), so that only log lines are lost."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except (OSError, ValueError):
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            return


class _Forward(logging.Handler):
    """Passes log records of libraries (asyncio, websockets) to structlog."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        error = record.exc_info[1] if record.exc_info else None
        text = without_secrets(record.getMessage())
        logger.log(record.levelno, "library", logger=record.name, text=text, exc_info=error)


def _exception_on_one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-TRACE:]
        event["error"] = describe(error)
        event["trace"] = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return event


def _bounded_and_printable(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if isinstance(value, str):
            # Characters that are not printable could end the line, or move the cursor of a terminal.
            text = value if value.isprintable() else repr(value)[1:-1]
            event[key] = text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}..."
    return event


def _with_worker(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    if _common.get("worker") is not None:
        event.setdefault("worker", _common["worker"])
    return event


class _Fitting:
    """A renderer of lines of less than `limit` bytes: it cuts the values of longer ones."""

    def __init__(self, renderer: structlog.typing.Processor, limit: int) -> None:
        self._renderer = renderer
        self._limit = limit

    def __call__(self, logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        longest = MAX_TEXT
        # The renderers change their argument.
        text = str(self._renderer(logger, method, dict(event)))
        while len(text.encode(errors="backslashreplace")) >= self._limit and longest:
            longest //= 2
            event = {key: _cut(value, longest) for key, value in event.items()}
            text = str(self._renderer(logger, method, dict(event)))
        return text


def _cut(value: Any, longest: int) -> Any:
    text = str(value)
    return value if len(text) <= longest else f"{text[:longest]}..."


def describe(error: BaseException) -> str:
    """Return an exception as text without secrets."""
    if isinstance(error, UnicodeError):
        # Its own text contains all of the input.
        return f"{type(error).__name__}({getattr(error, 'reason', '')!r})"
    return without_secrets(repr(error))


def without_secrets(text: str) -> str:
    """Return a text without session descriptions (SDP), and with at most half of each IP address."""
    return _IPV6.sub("x::x", _IPV4.sub(r"\1.x.x", _SDP.sub("(SDP)", text)))


def log_unexpected() -> None:
    """Log the exceptions that Python itself would write to standard error.

    These are exceptions in finalizers, and those that end a thread.
    """

    def on_unraisable(unraisable: Any) -> None:
        where = getattr(unraisable.object, "__qualname__", type(unraisable.object).__name__)
        structlog.get_logger().error("unraisable_error", where=where, exc_info=unraisable.exc_value)

    def on_thread_failed(failed: threading.ExceptHookArgs) -> None:
        name = failed.thread.name if failed.thread else ""
        structlog.get_logger().error("thread_failed", thread=name, exc_info=failed.exc_value)

    sys.unraisablehook = on_unraisable
    threading.excepthook = on_thread_failed


async def report_suppressed() -> None:
    """Log the number of suppressed lines of each event that has not happened since, until cancelled."""
    while True:
        await asyncio.sleep(PERIOD)
        for method, name in _rate_limit.overdue():
            getattr(structlog.get_logger(), method)(name)


def queue_standard_streams() -> None:
    """Let a thread write everything that is written to standard output and standard error from now on.

    So no reader of theirs can block the event loop. At the exit, both are drained for at most `DRAIN_TIMEOUT` seconds.
    """
    sys.stdout, sys.stderr = (cast(TextIO, _queued(descriptor)) for descriptor in (1, 2))
    atexit.register(drain_standard_streams)


def drain_standard_streams() -> None:
    """Wait until all text was written, for at most `DRAIN_TIMEOUT` seconds. `os._exit` does not do so by itself."""
    deadline = monotonic() + DRAIN_TIMEOUT
    for stream in _queued_streams:
        stream.drain(max(0.0, deadline - monotonic()))


def lines_dropped() -> int:
    """Return the lines that this process could not write, because their reader was gone or too slow."""
    return sum(stream.dropped for stream in _queued_streams)


def share_standard_streams(worker: int | None = None) -> None:
    """Prepare for lines of several processes on the same standard streams. `worker` is the number of this one.

    Every line is written at once, as are up to `PIPE_BUF` bytes to a pipe (pipe(7)), so that lines do not mix. The
    values of longer lines are cut.
    """
    _common["worker"] = worker
    for stream in _queued_streams:
        stream.chunk = select.PIPE_BUF


def _queued(descriptor: int) -> QueuedStream:
    stream = QueuedStream(descriptor, _dropped_notice)
    _queued_streams.append(stream)
    return stream


def _dropped_notice(lines: int) -> str:
    event: Any = {"event": "lines_dropped", "lines": lines}
    for process in structlog.get_config()["processors"]:
        if process is not _rate_limit:
            event = process(None, "warning", event)
    return f"{event}\n"


_queued_streams: Final[list[QueuedStream]] = []
"""Those of the process."""

_common: Final[dict[str, int | None]] = {}
"""The number of this worker, or None for the supervisor, if other processes write to the same standard streams."""

_rate_limit: Final = RateLimit()
"""One for the process, so that calling `configure` again does not reset the limits."""


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Log events of at least `level`. May be called again to change the level or the style."""
    stream = _Unbreakable(sys.stderr)
    renderer: structlog.typing.Processor
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    if _common:
        renderer = _Fitting(renderer, select.PIPE_BUF)
    structlog.configure(
        processors=[
            _rate_limit,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _with_worker,
            _exception_on_one_line,
            _bounded_and_printable,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
