"""A whole tracker with the DHT, and `peerservers lookup`, in processes of their own."""

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest

from extensions.dht.records import descriptor
from extensions.entries import LIFETIME
from extensions.trackers import RENDEZVOUS
from tests.client import announce, eventually, raw_client
from tests.conftest import StartTracker, environment, free_port
from tests.integration.dht import publishes
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id
from tracker.extension import swarm_key

INFO_HASH = "\x00\x10<>\u00ff" + "h" * 15
HEX = INFO_HASH.encode("latin-1").hex()


class Ended(NamedTuple):
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str


@pytest.fixture
async def dht() -> AsyncIterator[PrivateDht]:
    async with PrivateDht(8) as dht:
        yield dht


def in_dht(dht: PrivateDht, state_dir: Path, url: str = "wss://tracker.example.org", **more: str) -> dict[str, str]:
    """Return the environment of a tracker that is a member of a private DHT."""
    return {
        **environment("server", state_dir=str(state_dir), public_url=url),
        **environment("extensions.dht", **{"enabled": True, **dht.settings, **more}),
    }


async def lookup(dht: PrivateDht, *arguments: str, bootstrap: str = "") -> Ended:
    """Run `peerservers lookup`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tracker", "lookup", "--private", "--listen", "127.0.0.1:0"),
        *("--bootstrap", bootstrap or dht.bootstrap[0], *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    return Ended(process.returncode, out.decode(), err.decode())


async def test_the_command_finds_the_tracker_of_a_peer(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(env=in_dht(dht, tmp_path))
    async with raw_client(tracker.url) as peer:
        await peer.send(announce(peer_id(1), INFO_HASH))
        # The other one is the rendezvous.
        await publishes(tracker, 2)
        magnet = f"magnet:?dn=x&xt=urn:btih:{HEX}&tr=wss%3A%2F%2Fother.example"
        ended, table = await asyncio.gather(lookup(dht, "--json", magnet), lookup(dht, HEX))
        assert ended.code == 0, ended
        result = json.loads(ended.out)
        assert result["infohash"] == HEX
        (found,) = result["trackers"]
        assert found["url"] == "wss://tracker.example.org"
        assert found["found_in"] == "r0"
        assert abs(found["expires"] - time.time() - LIFETIME) < 60
        assert table.code == 0
        head, row = table.out.splitlines()
        assert head.split() == ["URL", "EXPIRES", "FOUND", "IN", "TRACKER", "ID"]
        assert row.split()[0] == "wss://tracker.example.org"
        assert row.split()[-1] == found["id"]
        assert "1 found" in table.err


async def test_the_command_finds_the_tracker_of_a_text_swarm(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(env=in_dht(dht, tmp_path))
    async with raw_client(tracker.url) as peer:
        await peer.send(announce("short", "a room Ω"))
        # The other one is the rendezvous.
        await publishes(tracker, 2)
        ended = await lookup(dht, "--json", '"a room \\u03a9"')
        assert ended.code == 0, ended
        result = json.loads(ended.out)
        assert result["infohash"] == swarm_key("a room Ω").hex()
        assert [found["url"] for found in result["trackers"]] == ["wss://tracker.example.org"]


async def test_the_command_reports_that_it_found_nothing(dht: PrivateDht) -> None:
    ended = await lookup(dht, "ab" * 20)
    assert (ended.code, ended.out) == (1, f"no tracker found for {'ab' * 20}\n")


async def test_the_command_reports_an_unreachable_dht(dht: PrivateDht) -> None:
    ended = await lookup(dht, "--timeout", "2", "ab" * 20, bootstrap="127.0.0.1:9")
    assert (ended.code, ended.out) == (3, "")
    assert "no node of the DHT answers (127.0.0.1:9)" in ended.err


async def test_the_command_rejects_a_text_that_is_no_infohash() -> None:
    ended = await lookup(PrivateDht(0), "--", "ab" * 19, bootstrap="127.0.0.1:9")
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert "not an infohash" in ended.err


async def test_a_descriptor_names_the_tracker_and_its_url(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(env=in_dht(dht, tmp_path))
    await publishes(tracker, 1)
    entry = await descriptor.fetch(("127.0.0.1", tracker.port), time.time())
    assert entry.url == "wss://tracker.example.org"
    status, body = await tracker.get(descriptor.PATH)
    assert status == 200
    assert json.loads(body)["id"] == entry.tracker_id


@pytest.mark.parametrize("without", [{"url": ""}, {"publish": "none"}], ids=["public_url", "publishing"])
async def test_there_is_no_descriptor_without(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path, without: dict[str, str]
) -> None:
    tracker = await start_tracker(env=in_dht(dht, tmp_path, **without))
    await tracker.logged("dht_publishes_nothing")
    assert (await tracker.get(descriptor.PATH))[0] == 404


async def test_a_tracker_that_publishes_nothing_still_looks_for_others(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    public = await start_tracker(env=in_dht(dht, tmp_path / "public"))
    await publishes(public, 1)
    silent = await start_tracker(env=in_dht(dht, tmp_path / "silent", url="wss://silent.example.org", publish="none"))

    async def has_found() -> bool:
        return await silent.metric("peerservers_dht_lookups_total", result="found") >= 1

    await eventually(has_found, 20)
    ended = await lookup(dht, "--json", RENDEZVOUS.hex())
    assert [found["url"] for found in json.loads(ended.out)["trackers"]] == ["wss://tracker.example.org"]


async def test_the_node_is_the_same_after_a_restart(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    port = free_port()
    ids = []
    # Both after a regular stop and after a kill.
    for end in (signal.SIGTERM, signal.SIGKILL, signal.SIGTERM):
        tracker = await start_tracker(env=in_dht(dht, tmp_path, listen=f"127.0.0.1:{port}"))
        await publishes(tracker, 1)
        await eventually((tmp_path / "dht.state").exists)
        ids.append(await ids_at(dht, port))
        await tracker.stop(end)
    assert ids[0] == ids[1] == ids[2]


async def ids_at(dht: PrivateDht, port: int) -> set[bytes]:
    """Wait until nodes of a DHT know the node at a port. Return the ids under which they know it."""

    async def known() -> bool:
        await asyncio.gather(*(node.refresh() for node in dht.nodes))
        return bool(found())

    def found() -> set[bytes]:
        contacts = [contact for node in dht.nodes for contact in node.contacts(4)]
        return {contact.node_id for contact in contacts if contact.address == ("127.0.0.1", port)}

    await eventually(known, 20)
    return found()


async def test_its_metrics_are_there(dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path) -> None:
    tracker = await start_tracker(env=in_dht(dht, tmp_path))
    await publishes(tracker, 1)
    assert await tracker.metric("peerservers_dht_reachable") == 1
    assert await tracker.metric("peerservers_dht_nodes") >= 1
    assert await tracker.metric("peerservers_dht_queries_total", method="put") >= 1
    assert await tracker.metric("peerservers_dht_publications_total", result="stored") == 1

    async def is_looked_up() -> bool:
        return await tracker.metric("peerservers_dht_lookups_total", result="none") == 1

    # It ends after the publication, with the BEP 5 fallback of the rendezvous.
    await eventually(is_looked_up)
    for name in ("queries_in_flight", "stored_items", "node_received_bytes_total", "query_results_total"):
        assert f"peerservers_dht_{name}" in (await tracker.get("/metrics"))[1]


async def test_without_a_directory_for_its_key_the_tracker_still_serves(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    """The default directory cannot be made."""
    (tmp_path / "file").write_text("no directory")
    env = in_dht(dht, tmp_path)
    del env["PEERSERVERS_SERVER__STATE_DIR"]
    tracker = await start_tracker(env=env | {"HOME": str(tmp_path / "file")})
    assert (await tracker.logged("dht_off"))["level"] == "warning"
    async with raw_client(tracker.url) as peer:
        await peer.send(announce(peer_id(1), INFO_HASH))
        assert (await peer.receive())["action"] == "announce"
    assert await tracker.metric("peerservers_dht_reachable") == 0


async def test_invalid_state_files_cost_a_warning(dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path) -> None:
    (tmp_path / "dht.state").write_bytes(os.urandom(100))
    (tmp_path / "dht.sqlite").write_bytes(os.urandom(5000))
    tracker = await start_tracker(env=in_dht(dht, tmp_path))
    assert (await tracker.logged("dht_state_ignored"))["level"] == "warning"
    await publishes(tracker, 1)


async def test_without_a_writable_directory_the_tracker_still_serves(
    dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path
) -> None:
    tracker = await start_tracker(env=in_dht(dht, tmp_path / "state"))
    await publishes(tracker, 1)
    await eventually((tmp_path / "state" / "dht.state").exists)

    def is_removed() -> bool:
        # The tracker may be writing to it at this moment.
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
        return not (tmp_path / "state").exists()

    await eventually(is_removed)
    assert await tracker.stop() == 0
    assert (await tracker.logged("dht_state_not_saved"))["level"] == "warning"


async def test_a_port_that_is_taken_is_a_warning(dht: PrivateDht, start_tracker: StartTracker, tmp_path: Path) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        tracker = await start_tracker(env=in_dht(dht, tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}"))
        async with raw_client(tracker.url) as peer:
            await peer.send(announce(peer_id(1), INFO_HASH))
            assert (await peer.receive())["action"] == "announce"
            await publishes(tracker, 2)
        assert (await tracker.logged("dht_port_taken"))["level"] == "warning"


async def test_wrong_settings_are_one_line(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tracker", "serve", "--port", "0"),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **in_dht(PrivateDht(0), tmp_path, listen="nowhere")},
    )
    _, err = await asyncio.wait_for(process.communicate(), 20)
    complaint = "peerservers: PEERSERVERS_EXTENSIONS__DHT__LISTEN: extensions.dht.listen: not host:port: nowhere\n"
    assert (process.returncode, err.decode()) == (2, complaint)
