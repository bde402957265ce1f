"""Logs: one line per event on standard error, as text for people or JSON for machines, and never a flood."""

import logging
import sys
import traceback
from collections.abc import Callable, MutableMapping
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal, TextIO

import structlog

BURST: Final = 20
PERIOD: Final = 10.0
"""Lines with one event's name in so many seconds; what is over is counted in the next line's `suppressed`."""

TRACE: Final = 6
"""How many of the innermost places an unexpected exception went through are logged."""


class RateLimit:
    """A structlog processor that drops an event's lines beyond `BURST` per `PERIOD`."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._windows: dict[str, tuple[float, int]] = {}
        self._suppressed: dict[str, int] = {}

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event["event"])
        now = self._clock()
        start, lines = self._windows.get(name, (now, 0))
        if now - start >= PERIOD:
            start, lines = now, 0
        self._windows[name] = (start, lines + 1)
        if lines >= BURST:
            self._suppressed[name] = self._suppressed.get(name, 0) + 1
            raise structlog.DropEvent
        suppressed = self._suppressed.pop(name, 0)
        if suppressed:
            event["suppressed"] = suppressed
        return event


class _Unbreakable:
    """A stream whose failures (a full disk, a closed pipe) are nobody's problem but the log's."""

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
    """Brings what libraries log (asyncio, websockets) into our own log."""

    def emit(self, record: logging.LogRecord) -> None:
        logger = structlog.get_logger()
        error = record.exc_info[1] if record.exc_info else None
        logger.log(record.levelno, "library", logger=record.name, text=record.getMessage(), error=repr(error))


def _exception_on_one_line(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException):
        frames = traceback.extract_tb(error.__traceback__)[-TRACE:]
        event["error"] = repr(error)
        event["trace"] = " > ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames)
    return event


_rate_limit: Final = RateLimit()
"""One for the process: configuring anew must not open a new allowance."""


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Log from `level` up. May be called again to change either."""
    stream = _Unbreakable(sys.stderr)
    renderer: Any
    if style == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=24)
    structlog.configure(
        processors=[
            _rate_limit,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _exception_on_one_line,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=stream),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
