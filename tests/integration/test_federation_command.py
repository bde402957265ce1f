"""`peerservers federation`, and the settings: an operator's mistakes, and others' nonsense."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from extensions.federation.extension import Federation
from tests.conftest import ALONE, TrackerProcess, free_port
from tests.integration.hostile import federated
from tests.integration.test_life import assert_one_line, peerservers
from tracker.config import ConfigError, load
from tracker.extension.discovery import sections


async def run(*arguments: str) -> tuple[int, str, str]:
    """Run the command beside the tests' event loop, which may have to answer it: exit code, output, errors."""
    done = await asyncio.to_thread(peerservers, *arguments)
    return done.returncode, done.stdout, done.stderr


@asynccontextmanager
async def answers_with(answer: bytes) -> AsyncIterator[str]:
    """Yields the URL of a server that sends this as its reply."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


BODY = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"


async def says_so_in_one_line(answer: bytes) -> None:
    async with answers_with(answer) as url:
        code, out, err = await run("federation", url)
    assert (code, out, err.count("\n")) == (2, "", 1), (answer, err)
    assert err.startswith(f"peerservers: {url}: "), answer


async def test_the_command_meets_something_else() -> None:
    answers = [
        b"",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
        BODY + b"\r\n<html>",
        BODY + b"\r\n[]",
        BODY + b'\r\n{"federation": {}}',
        BODY + b'\r\n{"federation": 1}',
        BODY + b"\r\n\xff\xff",
    ]
    await asyncio.gather(*map(says_so_in_one_line, answers))


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        BODY + b"Content-Length: 100\r\n\r\n{}",
        BODY + b'\r\n{"federation": [{}]}',
        BODY + b'\r\n{"federation": [1]}',
    ],
    ids=["not HTTP", "cut short", "no columns", "no rows"],
)
async def test_the_command_meets_something_stranger(answer: bytes) -> None:
    await says_so_in_one_line(answer)


async def test_the_command_finds_no_federation(tracker: TrackerProcess) -> None:
    cases = {
        f"http://127.0.0.1:{tracker.port}": "a tracker without federation",
        f"http://127.0.0.1:{free_port()}": "refused",
        "ws://127.0.0.1:1": "http://",
        "http://[": "http://[",
        "": "",
    }
    done = await asyncio.gather(*(asyncio.to_thread(peerservers, "federation", url) for url in cases))
    for one, text in zip(done, cases.values(), strict=True):
        assert_one_line(one, text)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("policy", "closed"),
        ("allow", ["x"]),
        ("deny", ["A" * 64]),
        ("peers", ["http://127.0.0.1"]),
        ("peers", ["wss://user@tracker.example"]),
        ("peers", "ws://127.0.0.1"),
        ("aliases", ["tracker.example"]),
        ("max_links", 0),
        ("idle_timeout", -1),
        ("allow_private_addresses", "perhaps"),
        ("friends", []),
    ],
)
def test_wrong_settings_are_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"^extensions\.federation\.{key}[.: ]") as error:
        sections({"federation": Federation}, load(None, {"extensions": {"federation": {key: value}}}))
    assert "\n" not in str(error.value)


def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    done = peerservers("serve", "--port", "0", **{**ALONE, **federated(tmp_path, peers=["tracker.example"])})
    assert_one_line(done, "extensions.federation.peers", "tracker.example")
