"""The messages of real clients in `tests/frames`, as seeds: shortened, and each form once."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

FRAMES = Path(__file__).parent.parent / "frames"
MAX_OFFERS = 3
"""Offers that are left in an announce. More of them would only make the fuzzer slower."""

SDP = "v=0\r\n"


@cache
def rows() -> tuple[dict[str, Any], ...]:
    """Return all recorded messages and handshakes."""
    return tuple(
        json.loads(line) for path in sorted(FRAMES.glob("*.jsonl")) for line in path.read_text("utf-8").splitlines()
    )


def sent() -> list[bytes]:
    """Return the messages of clients."""
    return _messages("send")


def received() -> list[bytes]:
    """Return the messages of trackers."""
    return _messages("recv")


def heads() -> list[bytes]:
    """Return the heads of opening handshakes, without the final blank line."""
    found = {}
    for row in rows():
        if row["dir"] == "handshake-request":
            lines = ["GET / HTTP/1.1", *(f"{name}: {value}" for name, value in row["headers"].items())]
            found[tuple(sorted(row["headers"]))] = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    return list(found.values())


def _messages(direction: str) -> list[bytes]:
    found: dict[object, bytes] = {}
    for row in rows():
        if row["dir"] == direction and isinstance(row.get("json"), dict):
            message = _shortened(row["json"])
            found.setdefault((*sorted(message), str(message.get("event"))), _encoded(message))
    return list(found.values())


def _shortened(value: Any) -> Any:
    match value:
        case dict():
            return {key: SDP if key == "sdp" else _shortened(item) for key, item in value.items()}
        case list():
            return [_shortened(item) for item in value[:MAX_OFFERS]]
        case _:
            return value


def _encoded(message: object) -> bytes:
    return json.dumps(message, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def variants(payload: bytes) -> Iterator[bytes]:
    """Yield a message as it is, and with its ids as text ids and escaped."""
    yield payload
    yield json.dumps(json.loads(payload)).encode()
