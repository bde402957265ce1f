"""`peerservers cluster`: the nodes of a tracker, an operator's mistakes, and programs that are no tracker."""

import asyncio
import json
from typing import Any

import pytest

from tests.conftest import TrackerProcess, free_port
from tests.integration.test_federation_command import BODY, answers_with
from tests.integration.test_life import assert_one_line, peerservers

HERE = {
    "label": "one-0",
    "node": "01234567",
    "version": "1.2.3",
    "since": 1_800_000_000,
    "connections": 1200,
    "peers": 504,
    "swarms": 30,
    "latency_ms": 0.0,
    "gateway": True,
    "connected": True,
}
THERE = HERE | {"label": "two\x1b[31m", "node": "fedcba98", "gateway": False, "connections": 34, "latency_ms": 1.23}


async def cluster(*arguments: str, nodes: Any) -> tuple[int, str, str]:
    """Run the command against a server with these statistics: exit code, output, errors."""
    async with answers_with(BODY + b"\r\n" + json.dumps({"cluster": nodes}).encode()) as url:
        done = await asyncio.to_thread(peerservers, "cluster", url, *arguments)
    return done.returncode, done.stdout, done.stderr


async def test_it_shows_all_nodes_and_the_sums_of_the_tracker() -> None:
    code, out, err = await cluster(nodes=[HERE, THERE])
    assert (code, err) == (0, "")
    assert [" ".join(line.split()) for line in out.splitlines()] == [
        "LABEL NODE VERSION SINCE CONNECTIONS PEERS SWARMS LATENCY MS GATEWAY CONNECTED",
        "one-0 01234567 1.2.3 2027-01-15 08:00 UTC 1200 504 30 - yes yes",
        "two?[31m fedcba98 1.2.3 2027-01-15 08:00 UTC 34 504 30 1.23 - yes",
        "2 nodes - - - 1234 1008 - - - -",
    ]


async def test_a_node_that_is_alone_has_an_exit_code_of_its_own() -> None:
    code, out, _ = await cluster(nodes=[HERE])
    assert (code, len(out.splitlines())) == (1, 2)
    code, out, _ = await cluster(nodes=[HERE | {"connected": False}])
    assert (code, out.splitlines()[-1]) == (1, "one-0 has no connection to NATS: nodes on other machines are missing")


async def test_json() -> None:
    code, out, _ = await cluster("--json", nodes=[HERE, THERE | {"more": 1}])
    assert (code, json.loads(out)) == (0, {"cluster": [HERE, THERE | {"more": 1}]})


@pytest.mark.parametrize(
    "nodes", [None, 1, [{}], [{**HERE, "connections": "many"}]], ids=["null", "no rows", "no columns", "no number"]
)
async def test_something_else_in_the_place_of_the_nodes(nodes: Any) -> None:
    code, out, err = await cluster(nodes=nodes)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("peerservers: ")
    assert "no tracker of ours" in err


async def test_a_tracker_without_a_cluster_and_none_at_all(tracker: TrackerProcess) -> None:
    cases = {
        f"http://127.0.0.1:{tracker.port}": "without a cluster",
        f"http://127.0.0.1:{free_port()}": "refused",
        "ftp://127.0.0.1:1": "http://",
    }
    done = await asyncio.gather(*(asyncio.to_thread(peerservers, "cluster", url) for url in cases))
    for one, text in zip(done, cases.values(), strict=True):
        assert_one_line(one, text)
