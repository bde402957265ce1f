"""`peerservers check` as a process, against this tracker, npm's, and servers that are not trackers."""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection, serve

from tests.conftest import TrackerProcess, free_port
from tests.e2e.node import node_script


async def check(*arguments: str) -> tuple[int, str]:
    """Run the command; return its exit code and its output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tracker", "check", *arguments), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, output.decode()


def works(report: str) -> dict[str, bool | None]:
    """Return by step whether it works, from a report in JSON."""
    results: list[dict[str, Any]] = json.loads(report)["results"]
    return {result["name"]: result["works"] for result in results}


async def test_own_tracker_does_everything(tracker: TrackerProcess) -> None:
    code, report = await check(tracker.url, "--json")
    assert code == 0
    assert all(works(report).values()), report


async def test_an_http_url_is_that_of_a_tracker_too(tracker: TrackerProcess) -> None:
    code, report = await check(f"http://127.0.0.1:{tracker.port}", "--json")
    assert (code, json.loads(report)["url"]) == (0, tracker.url.rstrip("/"))


async def test_by_default_it_is_the_tracker_of_the_settings(tracker: TrackerProcess, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f"[server]\nport = {tracker.port}\n")
    code, report = await check("--config", str(file), "--json")
    assert (code, json.loads(report)["url"]) == (0, tracker.url.rstrip("/"))


async def test_npm_tracker() -> None:
    async with node_script("server.mjs") as script:
        port = (await script.event(lambda event: event["event"] == "listening"))["port"]
        code, report = await check(f"ws://127.0.0.1:{port}", "--json", "--timeout", "3")
        assert script.complaints == []
    assert code == 0
    found = works(report)
    assert found["relays an offer"]
    assert found["relays an answer"]
    assert not found["counts a peer without `left` as leecher"], "it takes null for 0"


async def test_echo_server_is_no_tracker() -> None:
    async def echo(socket: ServerConnection) -> None:
        async for message in socket:
            await socket.send(message)

    async with serve(echo, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        code, report = await check(f"ws://{host}:{port}", "--timeout", "1")
    assert code == 1
    assert "Peers cannot meet here." in report


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["table", "json"])
async def test_nobody_listens(options: tuple[str, ...]) -> None:
    code, report = await check(f"ws://127.0.0.1:{free_port()}", *options)
    assert code == 1
    assert "onnect" in report
