"""The benchmarks' load on trackers that reply to answers or lose messages, and the arguments of other trackers."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from websockets.asyncio.server import ServerConnection

from benchmarks.rivals import RIVALS, installed
from tests.certificates import Pair
from tests.client import Json
from tests.integration.small_tracker import SmallTracker, served

pytest.importorskip("picows", reason="`make bench` installs it")

from benchmarks.load import Load, Shape
from benchmarks.measure import warm
from benchmarks.servers import Running

SHAPE = Shape(8, offers=3, swarm_size=8)


class RepliesToAnswers(SmallTracker):
    """Replies to answers, too, as aquatic does."""

    async def announce(self, socket: ServerConnection, message: Json) -> None:
        await super().announce(socket, dict(message))
        if "answer" in message:
            await self.reply(socket, message, self.swarms[message["info_hash"]])


@pytest.mark.parametrize("kind", [SmallTracker, RepliesToAnswers])
async def test_only_replies_to_announces_count(kind: type[SmallTracker]) -> None:
    tracker = kind()
    async with served(tracker) as url:
        port = urlsplit(url).port
        assert port
        replies_to_answers = await warm(Running("small", port, None, Path()))  # type: ignore[arg-type]
        assert replies_to_answers is (kind is RepliesToAnswers)
        tracker.announces.clear()
        load = Load(SHAPE, replies_to_answers)
        await load.connect(port)
        await load.join()
        await load.start()
        await load.run(0.2)
        await load.stop()
        rounds = len(tracker.announces) - SHAPE.sockets
        assert rounds >= SHAPE.sockets
        assert len(load.latencies) == len(tracker.announces)
        # A reply to the announce without offers; then a reply, and an answer to and an offer for each offer.
        assert load.received == SHAPE.sockets + rounds * (1 + 2 * SHAPE.offers)
        assert (load.lost, load.unexpected, load.closed) == (0, 0, 0)
        await load.disconnect()


async def test_a_peer_whose_messages_are_lost_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.load._LOST_ROUND", 0.1)

    class Losing(SmallTracker):
        async def send(self, socket: ServerConnection, message: Json) -> None:
            if "offer" not in message or not str(message["peer_id"]).endswith("0"):
                await super().send(socket, message)

    tracker = Losing()
    async with served(tracker) as url:
        load = Load(SHAPE)
        await load.connect(urlsplit(url).port or 0)
        await load.join()
        await load.start()
        before = sum(announce["peer_id"].endswith("0") for announce in tracker.announces)
        await load.run(2.5)
        after = sum(announce["peer_id"].endswith("0") for announce in tracker.announces)
        assert after > before
        assert load.lost >= SHAPE.offers
        await load.disconnect()


FAKE = """#!/bin/sh
echo "$0" "$@"
for file; do test -f "$file" && cat "$file"; done
exit 0
"""


@pytest.mark.parametrize("tls", [False, True])
def test_rivals_are_started_where_their_programs_are(
    tls: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setattr("shutil.which", lambda name: str(tmp_path / name) if (tmp_path / name).exists() else None)
    assert installed() == {}
    for name in RIVALS:
        (tmp_path / name).write_text(FAKE)
        (tmp_path / name).chmod(0o755)
    assert list(installed()) == list(RIVALS)
    pair = Pair(tmp_path)
    certificate, key = str(pair.certificate), str(pair.key)
    env = {**os.environ, **({"CERTIFICATE": certificate, "KEY": key} if tls else {})}

    def started(name: str) -> list[str]:
        command = [sys.executable, "-m", "benchmarks.rivals", name, "8123", str(tmp_path)]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    command, *lines = started("aquatic_ws")
    assert command.endswith(f" -c {tmp_path}/aquatic.toml")
    network = {"address": "127.0.0.1:8123"}
    converted = str(tmp_path / "aquatic.pem")
    secured = {"enable_tls": True, "tls_certificate_path": certificate, "tls_private_key_path": converted}
    assert tomllib.loads("\n".join(lines)) == {"network": network | (secured if tls else {})}
    assert not tls or Path(converted).read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")

    _, *lines = started("wt-tracker")
    files = {"cert_file_name": certificate, "key_file_name": key} if tls else {}
    assert json.loads("".join(lines)) == {"servers": [{"server": {"host": "127.0.0.1", "port": 8123, **files}}]}

    if tls:
        command, *_ = started("openwebtorrent-tracker")
        assert command.endswith(f" --port 8123 --ssl-cert {certificate} --ssl-key {key}")
