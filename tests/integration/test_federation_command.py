"""`peerservers federation`, and the settings: an operator's mistakes, and others' nonsense."""

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from extensions.federation.command import LINK_COLUMNS, LINKING_COLUMNS, UNLINKED_COLUMNS
from extensions.federation.extension import Federation
from tests.certificates import Pair
from tests.conftest import ALONE, PATIENCE, StartTracker, TrackerProcess, environment, free_port
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
        "ftp://127.0.0.1:1": "http://",
        "ws://127.0.0.1:1": "refused",
        "unix:/nowhere/socket": "No such file",
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


# The tracker of the settings


async def test_without_a_url_the_command_asks_the_tracker_of_the_settings(
    start_tracker: StartTracker, tmp_path: Path
) -> None:
    port, metrics_port, socket = free_port(), free_port(), str(tmp_path / "socket")
    cases = [
        {**ALONE, **environment("server", host="127.0.0.1", port=port)},
        {**ALONE, **environment("server", host=f"unix:{socket}")},
        {**ALONE, **environment("server", host=f"unix:{socket}"), **environment("metrics", port=metrics_port)},
    ]
    for env in cases:
        settings = {**env, **federated(tmp_path / "state")}
        arguments = {"host": f"unix:{socket}"} if "unix:" in env["PEERSERVERS_SERVER__HOST"] else {"port": port}
        tracker = await start_tracker(env=settings, **arguments)
        done = await asyncio.to_thread(peerservers, "federation", **settings, http_proxy="http://127.0.0.1:1")
        assert (done.returncode, done.stdout, done.stderr) == (1, "no links\n", ""), env
        await tracker.stop()


async def test_the_command_reads_the_configuration_file(start_tracker: StartTracker, tmp_path: Path) -> None:
    pair = Pair(tmp_path, "tracker.example.org")
    tracker = await start_tracker(env={**federated(tmp_path), **pair.env})
    file = tmp_path / "config.toml"
    tls = "\n".join(f"{key.rpartition('__')[2].lower()} = {value!r}" for key, value in pair.env.items())
    file.write_text(f"[server]\nport = {tracker.port}\n[tls]\n{tls}\n")
    assert (await run("federation", "--config", str(file)))[:2] == (1, "no links\n")
    # A URL that is given needs a certificate for its name.
    done = await asyncio.to_thread(peerservers, "federation", f"wss://127.0.0.1:{tracker.port}")
    assert_one_line(done, "CERTIFICATE_VERIFY_FAILED")


async def test_statistics_on_another_port(start_tracker: StartTracker, tmp_path: Path) -> None:
    port = free_port()
    tracker = await start_tracker(env={**federated(tmp_path), **environment("metrics", port=port)})
    done = await asyncio.to_thread(peerservers, "federation", tracker.url)
    assert_one_line(done, "HTTP 404", "metrics.port")
    assert (await run("federation", f"ws://127.0.0.1:{port}"))[:2] == (1, "no links\n")


async def test_watching(start_tracker: StartTracker, tmp_path: Path) -> None:
    """It goes on while the tracker is restarted, until it is interrupted."""
    tracker = await start_tracker(env=federated(tmp_path))
    command = [sys.executable, "-m", "tracker", "federation", "--watch", tracker.url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout

    async def shows(text: bytes) -> None:
        assert process.stdout
        async with asyncio.timeout(PATIENCE):
            while text not in await process.stdout.readline():
                pass

    await shows(b"no links")
    await shows(b"no links")
    await tracker.stop()
    await shows(b"refused")
    await start_tracker(port=tracker.port, env=federated(tmp_path, peers=["ws://127.0.0.1:1"]))
    await shows(b"listed, but not linked")
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 130
    done = await asyncio.to_thread(peerservers, "federation", "--watch", "--json", tracker.url)
    assert_one_line(done, "--watch", "--json")


async def test_a_hostile_tracker_cannot_write_to_the_terminal() -> None:
    evil = "\x1b[2J"
    link = {**dict.fromkeys(LINK_COLUMNS, evil), "since": 1e300}
    off = {
        "federation": [link],
        "unlinked": [dict.fromkeys(UNLINKED_COLUMNS, evil)],
        "linking": [dict.fromkeys(LINKING_COLUMNS, evil)],
        "extensionsOff": {evil: evil},
    }
    async with answers_with(BODY + b"\r\n" + json.dumps(off).encode()) as url:
        code, out, err = await run("federation", url)
        assert (code, err) == (0, "")
        assert "\x1b" not in out
        assert "the extension ?[2J is off: ?[2J" in out
        assert "known trackers not linked: ?[2J" in out


async def test_trackers_without_a_link_and_a_lack_of_room_are_shown() -> None:
    row = {"links": 3, "max_links": 3, "known_not_linked": 7, "dials_queued": 0, "dials_in_backoff": 2}
    stats = {"federation": [], "linking": [{**row, "shortage": "max_links is reached"}]}
    async with answers_with(BODY + b"\r\n" + json.dumps(stats).encode()) as url:
        code, out, _ = await run("federation", url)
    line = "known trackers not linked: 7; dials in backoff: 2; 3 links: max_links is reached"
    assert (code, out) == (1, f"no links\n\n{line}\n")


async def test_an_extension_that_is_off_is_shown(start_tracker: StartTracker, tmp_path: Path) -> None:
    """Its default directory cannot be made."""
    (tmp_path / "home").touch()
    env = federated(tmp_path)
    del env["PEERSERVERS_SERVER__STATE_DIR"]
    tracker = await start_tracker(env={**env, "HOME": str(tmp_path / "home")})
    await tracker.logged("federation_off")
    sentence = "the extension federation is off: the state directory cannot be used"
    assert (await run("federation", tracker.url))[:2] == (1, f"no links\n\n{sentence}\n")
    assert sentence in (await tracker.get("/"))[1].replace("The extension", "the extension")
    assert await tracker.metric("peerservers_extension_up", extension="federation") == 0
    assert 'peerservers_extension_up{extension="federation"} 0.0' in (await tracker.get("/metrics"))[1]
    stats = await tracker.stats()
    assert (stats["federation"], stats["unlinked"]) == ([], [])
    assert stats["extensionsOff"] == {"federation": "the state directory cannot be used"}
