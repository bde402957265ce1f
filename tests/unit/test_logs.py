"""The log: limits, secrets, and one line per event."""

import asyncio
import io
import json
import logging
import select
import sys
import threading
from typing import Any

import pytest
import structlog

from tests.client import eventually
from tracker import logs
from tracker.logs import (
    BURST,
    MAX_TEXT,
    PERIOD,
    RateLimit,
    _Unbreakable,
    configure,
    describe,
    log_unexpected,
    share_standard_streams,
)

SDP = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n"


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


def test_log_records_of_libraries_take_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    logging.getLogger("asyncio").error("oh", exc_info=ValueError("x"))
    assert json.loads(capsys.readouterr().err)["logger"] == "asyncio"


async def test_suppressed_lines_are_reported_also_if_the_event_does_not_happen_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    limit = RateLimit(clock=lambda: now)
    monkeypatch.setattr(logs, "_rate_limit", limit)
    monkeypatch.setattr(logs, "PERIOD", 0.01)
    configure("info", "json")
    for _ in range(BURST + 7):
        structlog.get_logger().warning("flood", by="a client")
    assert limit.overdue() == []
    now += 0.01
    assert limit.overdue() == [("warning", "flood")]
    capsys.readouterr()
    reporting = asyncio.create_task(logs.report_suppressed())
    await eventually(lambda: limit.overdue() == [])
    reporting.cancel()
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["level"], line["suppressed"]) == ("flood", "warning", 7)


@pytest.mark.parametrize("style", ["text", "json"])
def test_data_from_outside_neither_fills_the_log_nor_moves_a_cursor(
    style: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    configure("info", style)
    structlog.get_logger().info("sent", text="a\x1b[2J\u2028", more="\n" + "b" * 100_000)
    written = capsys.readouterr().err
    assert len(written) < MAX_TEXT + 200
    assert written.endswith("\n")
    assert written[:-1].isprintable()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("x"), "ValueError('x')"),
        (OSError(111, "no answer from ('192.0.2.55', 80)"), "192.0.x.x"),
        (RuntimeError("peer [2001:db8::77]:6881 at 12 o'clock"), "peer [x::x]:6881 at 12 o'clock"),
        (RuntimeError("::ffff:192.0.2.55"), "x::x"),
        (KeyError(SDP), "KeyError('(SDP)"),
        (ValueError(json.dumps({"sdp": SDP})), '{"sdp": "(SDP)'),
        (UnicodeDecodeError("utf-8", SDP.encode() + b"\xff", 9, 10, "invalid start byte"), "invalid start byte"),
    ],
    ids=["plain", "IPv4", "IPv6", "both", "SDP", "SDP in JSON", "bytes"],
)
def test_an_exception_tells_no_secrets(error: BaseException, said: str) -> None:
    described = describe(error)
    assert said in described
    assert not any(secret in described for secret in ("IP4", "2.55", "77]"))


def test_libraries_tell_no_secrets_either(capsys: pytest.CaptureFixture[str]) -> None:
    configure("info", "json")
    logging.getLogger("websockets").error("lost %s", "192.0.2.55", exc_info=ValueError(SDP))
    line = json.loads(capsys.readouterr().err)
    assert (line["text"], line["error"]) == ("lost 192.0.x.x", "ValueError('(SDP)")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_exceptions_that_no_code_can_catch_are_logged(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Careless:
        def __del__(self) -> None:
            raise RuntimeError("at its end")

    # monkeypatch restores them at the end.
    monkeypatch.setattr(sys, "unraisablehook", None)
    monkeypatch.setattr(threading, "excepthook", None)
    configure("info", "json")
    log_unexpected()
    Careless()
    thread = threading.Thread(target=lambda: 1 // 0, name="careless")
    thread.start()
    thread.join()
    unraisable, failed = map(json.loads, capsys.readouterr().err.splitlines())
    assert (unraisable["event"], unraisable["error"]) == ("unraisable_error", "RuntimeError('at its end')")
    assert unraisable["where"].endswith("Careless.__del__")
    assert (failed["event"], failed["thread"]) == ("thread_failed", "careless")
    assert "ZeroDivisionError" in failed["error"]


@pytest.mark.parametrize("style", ["text", "json"])
def test_lines_of_a_worker_name_it_and_fit_a_pipe(
    style: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(logs, "_common", {})
    share_standard_streams(3)
    configure("info", style)
    log = structlog.get_logger()
    log.info("short", text="x" * 100)
    log.info("long", texts=["\N{GRINNING FACE}" * 400] * 20, text="\N{GRINNING FACE}" * 400, other=7)
    log.info("of another", worker=1)
    short, long, other = capsys.readouterr().err.splitlines()
    if style == "json":
        assert json.loads(short)["worker"] == 3
        assert json.loads(other)["worker"] == 1
        assert json.loads(long)["other"] == 7
    else:
        assert "worker=3" in short
        assert "other=7" in long
    assert "x" * 100 in short
    assert len(long.encode()) < select.PIPE_BUF
