"""Logs do not flood."""

import io
import json
import logging
from typing import Any

import pytest
import structlog

from tracker.logs import BURST, PERIOD, RateLimit, _Unbreakable, configure


def test_lines_of_one_event_are_limited_and_the_rest_counted() -> None:
    now = 0.0
    limit = RateLimit(clock=lambda: now)

    def line(event: str = "x") -> Any:
        return limit(None, "info", {"event": event})

    for _ in range(BURST):
        assert "suppressed" not in line()
    for _ in range(7):
        with pytest.raises(structlog.DropEvent):
            line()
    line("another event is not concerned")
    now += PERIOD
    assert line()["suppressed"] == 7
    assert "suppressed" not in line()


def test_a_broken_stream_is_no_error() -> None:
    closed = io.StringIO()
    closed.close()
    stream = _Unbreakable(closed)
    stream.write("x")
    stream.flush()


@pytest.mark.parametrize("style", ["text", "json"])
def test_an_exception_takes_one_line_that_says_where(style: Any, capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", style)
    try:
        raise RuntimeError("two\nlines")
    except RuntimeError:
        structlog.get_logger().exception("failed")
    structlog.get_logger().debug("not at this level")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "test_logs.py:" in written
    assert "not at this level" not in written


def test_what_libraries_log_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    logging.getLogger("asyncio").error("oh", exc_info=ValueError("x"))
    assert json.loads(capsys.readouterr().err)["logger"] == "asyncio"
