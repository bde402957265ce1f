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
    """Run the command; return its exit code and its output, which includes errors."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tracker", "check", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode is not None
    return process.returncode, output.decode()


def outcomes(report: str) -> dict[str, str]:
    """Return the outcome of each step, from a report in JSON."""
    results: list[dict[str, Any]] = json.loads(report)["results"]
    return {result["name"]: result["outcome"] for result in results}


async def test_own_tracker_does_everything(tracker: TrackerProcess) -> None:
    code, report = await check(tracker.url, "--json")
    assert code == 0
    assert set(outcomes(report).values()) == {"works"}, report


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
    unusual = {name: outcome for name, outcome in outcomes(report).items() if outcome != "works"}
    assert unusual == {
        "counts a peer without `left` as leecher": "fault",  # It takes null for 0.
        "takes libtorrent's and anacrolix's events": "fault",
        "serves ids of other lengths": "differs",
        "a reconnected peer is reached": "fault",
    }


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


@pytest.mark.parametrize(
    "arguments",
    [
        ("127.0.0.1:1",),
        ("wss://127.0.0.1:1", "--ca", __file__),
        ("wss://127.0.0.1:1", "--ca", "/no/such/file"),
        ("ws://127.0.0.1:1", "--insecure"),
        ("ws://127.0.0.1:1", "--timeout", "0"),
    ],
    ids=lambda arguments: arguments[-1].rpartition("/")[2],
)
async def test_a_mistake_in_the_arguments_is_one_line_and_code_2(arguments: tuple[str, ...]) -> None:
    code, output = await check(*arguments)
    assert code == 2
    assert output.startswith("peerservers: ")
    assert output.count("\n") == 1
