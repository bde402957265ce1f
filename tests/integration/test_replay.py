"""Replay sessions recorded from real clients: each client receives every message that the recorded tracker sent it.

`tests/frames/*.jsonl` holds webtorrent 2.8 and trystero 0.25 in Chromium with npm's bittorrent-tracker, and go2rtc
1.9.14 with this tracker. The tracker draws the receivers of offers at random. So the answer to an offer is sent by the
peer that receives the offer now.
"""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.client import RawClient, raw_client
from tests.conftest import TrackerProcess
from tracker.protocol.ids import is_any_id, is_id

FRAMES = Path(__file__).parent.parent / "frames"
Row = dict[str, Any]
Key = tuple[str, Any]


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
    """Return whether all clients of its swarm take a message: in a binary one webtorrent, trystero and libtorrent."""
    if message["action"] != "announce" or "failure reason" in message:
        return False
    is_fit = is_id if is_id(message["info_hash"]) else is_any_id
    if kind(message) == "reply":
        return all(type(message[key]) is int for key in ("interval", "complete", "incomplete"))
    description = message[kind(message)]
    ids = is_fit(message["peer_id"]) and is_fit(message["offer_id"])
    return ids and description["type"] == kind(message) and isinstance(description["sdp"], str)


class Replay:
    """One recorded run against this tracker. A socket is known by its client's name and its number."""

    def __init__(self, tracker: TrackerProcess, stack: AsyncExitStack) -> None:
        self.tracker = tracker
        self.stack = stack
        self.sockets: dict[Key, RawClient] = {}
        self.got: dict[Key, list[Row]] = {}
        self.offered_to: dict[str, Key] = {}
        """By offer_id, the socket that received the offer."""
        self.peer_of: dict[tuple[Key, str], str] = {}

    async def settle(self, sender: Key | None) -> None:
        """Receive everything that the tracker has sent until now."""
        # The sender comes first: once its pong is there, the tracker has also relayed its offers to the other sockets.
        for key in sorted(self.sockets, key=lambda key: key != sender):
            client = self.sockets[key]
            if client.socket.close_code is not None:
                continue
            # The pong arrives behind every earlier message.
            await client.ping()
            for message in await client.received():
                self.got[key].append(message)
                if kind(message) == "offer":
                    self.offered_to[message["offer_id"]] = key

    async def play(self, row: Row) -> None:
        key: Key = (row["client"], row.get("sock"))
        sender: Key | None = key
        if row["dir"] == "open":
            self.sockets[key] = await self.stack.enter_async_context(raw_client(self.tracker.url))
            self.got[key] = []
        elif row["dir"] == "send":
            message = row["json"]
            if "answer" in message:
                sender = await self.answer(message)
            else:
                self.peer_of[key, message["info_hash"]] = message["peer_id"]
                await self.sockets[key].send_text(row["raw"])
        elif row["dir"] == "close":
            await self.sockets[key].socket.close()
        await self.settle(sender)

    async def answer(self, message: Row) -> Key | None:
        """Answer from the peer that received the offer, if it is still connected; return its socket's key."""
        key = self.offered_to.get(message["offer_id"])
        if key and self.sockets[key].socket.close_code is None:
            own = {**message, "peer_id": self.peer_of[key, message["info_hash"]]}
            await self.sockets[key].send(own)
        return key


@pytest.mark.parametrize("rows", list(sessions()))
async def test_a_recorded_session(tracker: TrackerProcess, rows: list[Row]) -> None:
    if any(row["run"] == "tracker-restart" for row in rows):
        # Its second socket is the same client after a reconnect; test_life restarts the tracker itself.
        rows = [row for row in rows if row["dir"] != "close"]
    async with AsyncExitStack() as stack:
        replay = Replay(tracker, stack)
        for row in rows:
            await replay.play(row)

    recorded: dict[Key, list[Row]] = {key: [] for key in replay.got}
    announced: dict[Key, Counter[str]] = {key: Counter() for key in replay.got}
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
    for relayed in ("offer", "answer"):
        wanted = Counter(m["offer_id"] for messages in recorded.values() for m in messages if kind(m) == relayed)
        served = Counter(m["offer_id"] for messages in replay.got.values() for m in messages if kind(m) == relayed)
        missing = wanted - served
        assert not missing, f"{relayed}s that the recorded tracker delivered and ours did not"
        sdps = {
            m["offer_id"]: m[relayed]["sdp"] for messages in recorded.values() for m in messages if kind(m) == relayed
        }
        for messages in replay.got.values():
            for message in messages:
                if kind(message) == relayed and message["offer_id"] in sdps:
                    assert message[relayed]["sdp"] == sdps[message["offer_id"]]
