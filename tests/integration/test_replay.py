"""Sessions recorded from real clients, replayed: each gets whatever the recorded tracker sent it.

`tests/frames/*.jsonl` holds webtorrent 2.8 and trystero 0.25 in Chromium with npm's bittorrent-tracker. Which peer an
offer goes to is chance, so where there was a choice an answer is remade for the peer that got the offer now.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.client import RawClient, raw_client
from tests.conftest import TrackerProcess
from tracker.protocol.codec import is_id

FRAMES = Path(__file__).parent.parent / "frames"
Row = dict[str, Any]


def sessions() -> Iterator[Any]:
    for file in sorted(FRAMES.glob("*.jsonl")):
        runs: dict[str, list[Row]] = {}
        for line in file.read_text().splitlines():
            row = json.loads(line)
            runs.setdefault(row["run"], []).append(row)
        for name, rows in runs.items():
            yield pytest.param(rows, id=f"{file.stem}-{name}")


def kind(message: Row) -> str:
    for name in ("offer", "answer", "files"):
        if name in message:
            return name
    return "reply"


def acceptable(message: Row) -> bool:
    """What webtorrent's, trystero's and libtorrent's clients all take (they disconnect on what they do not)."""
    if message["action"] != "announce" or not is_id(message["info_hash"]) or "failure reason" in message:
        return False
    if kind(message) == "reply":
        return all(type(message[key]) is int for key in ("interval", "complete", "incomplete"))
    description = message[kind(message)]
    ids = is_id(message["peer_id"]) and is_id(message["offer_id"])
    return ids and description["type"] == kind(message) and isinstance(description["sdp"], str)


class Replay:
    """One recorded run against our tracker."""

    def __init__(self, tracker: TrackerProcess, stack: AsyncExitStack) -> None:
        self.tracker = tracker
        self.stack = stack
        self.sockets: dict[tuple[str, Any], RawClient] = {}
        self.got: dict[tuple[str, Any], list[Row]] = {}
        self.offered_to: dict[str, tuple[str, Any]] = {}
        """Which socket an offer was given to, by offer_id."""
        self.peer_of: dict[tuple[tuple[str, Any], str], str] = {}

    async def settle(self) -> None:
        """Take in everything that was sent until now."""
        for key, client in self.sockets.items():
            if client.socket.close_code is not None:
                continue
            await asyncio.wait_for(await client.socket.ping(), 10)
            # The pong was sent behind every message, and they are queued in order.
            while len(client.socket.recv_messages.frames):
                message = await client.receive()
                self.got[key].append(message)
                if kind(message) == "offer":
                    self.offered_to[message["offer_id"]] = key

    async def play(self, row: Row) -> None:
        key = (row["client"], row.get("sock"))
        if row["dir"] == "open":
            self.sockets[key] = await self.stack.enter_async_context(raw_client(self.tracker.url))
            self.got[key] = []
        elif row["dir"] == "send":
            message = row["json"]
            if "answer" in message:
                await self.answer(message)
            else:
                self.peer_of[key, message["info_hash"]] = message["peer_id"]
                await self.sockets[key].socket.send(row["raw"])
        elif row["dir"] == "close":
            await self.sockets[key].socket.close()
        await self.settle()

    async def answer(self, message: Row) -> None:
        """Answer from the peer that was given the offer, if it is still there."""
        key = self.offered_to.get(message["offer_id"])
        if key and self.sockets[key].socket.close_code is None:
            own = {**message, "peer_id": self.peer_of[key, message["info_hash"]]}
            await self.sockets[key].send(own)


@pytest.mark.parametrize("rows", list(sessions()))
async def test_a_recorded_session(tracker: TrackerProcess, rows: list[Row]) -> None:
    if any(row["run"] == "tracker-restart" for row in rows):
        # The second socket is the reconnected one of the same client; the tracker's own end is in test_life.
        rows = [row for row in rows if row["dir"] != "close"]
    async with AsyncExitStack() as stack:
        replay = Replay(tracker, stack)
        for row in rows:
            await replay.play(row)

    recorded: dict[tuple[str, Any], list[Row]] = {key: [] for key in replay.got}
    announced: dict[tuple[str, Any], Counter[str]] = {key: Counter() for key in replay.got}
    for row in rows:
        if row["dir"] == "recv":
            recorded[row["client"], row["sock"]].append(row["json"])
        elif row["dir"] == "send" and "answer" not in row["json"]:
            announced[row["client"], row["sock"]][row["json"]["info_hash"]] += 1
    assert all(acceptable(message) for messages in replay.got.values() for message in messages)
    for key, messages in recorded.items():
        replies = Counter(message["info_hash"] for message in replay.got[key] if kind(message) == "reply")
        assert replies == announced[key], "every announce is answered, once"
        assert not Counter(message["info_hash"] for message in messages if kind(message) == "reply") - replies
    for what in ("offer", "answer"):
        wanted = Counter(m["offer_id"] for messages in recorded.values() for m in messages if kind(m) == what)
        served = Counter(m["offer_id"] for messages in replay.got.values() for m in messages if kind(m) == what)
        missing = wanted - served
        assert not missing, f"{what}s that the recorded tracker delivered and ours did not"
        sdps = {m["offer_id"]: m[what]["sdp"] for messages in recorded.values() for m in messages if kind(m) == what}
        for messages in replay.got.values():
            for message in messages:
                if kind(message) == what and message["offer_id"] in sdps:
                    assert message[what]["sdp"] == sdps[message["offer_id"]]
