"""Offers for nearby peers first, with the addresses of clients behind a trusted proxy."""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.client import RawClient, offers, raw_client
from tests.conftest import HASTY, StartTracker, TrackerProcess, environment, replace
from tests.integration.test_life import assert_one_line, peerservers
from tests.mmdb import write_mmdb
from tests.unit.fakes import peer_id

METRIC = "peerservers_offers_placed_total"
ROUNDS = 40
NEAR, FAR = 6, 20

ONE = {"10.1.0.0/16": {"autonomous_system_number": 64501}}
BOTH = {**ONE, "10.2.0.0/16": {"autonomous_system_number": 64502}}
COUNTRIES = {"10.2.0.0/16": {"country": {"iso_code": "DE"}}, "10.3.0.0/16": {"country": {"iso_code": "DE"}}}


class Swarm:
    """Clients of a tracker that believes their X-Forwarded-For."""

    def __init__(self, tracker: TrackerProcess, stack: AsyncExitStack) -> None:
        self._tracker = tracker
        self._stack = stack
        self._count = 0

    async def join(self, address: str) -> tuple[str, RawClient]:
        """Connect from an address, and join the swarm; return the peer_id and the client."""
        headers = {"X-Forwarded-For": address}
        client = await self._stack.enter_async_context(raw_client(self._tracker.url, additional_headers=headers))
        self._count += 1
        peer = peer_id(self._count)
        await client.announce(peer)
        return peer, client

    async def near(self, address: str, nearness: str) -> float:
        """Return the share of offers from an address that go to peers of this nearness."""
        peer, client = await self.join(address)

        async def count(**labels: str) -> float:
            return await self._tracker.metric(METRIC, **labels)

        kinds = "address", "network", "asn", "country", "other"
        before = [await count(nearness=kind) for kind in kinds]
        for number in range(ROUNDS):
            await client.announce(peer, offers=offers(5, start=5 * number))
        grown = {kind: await count(nearness=kind) - old for kind, old in zip(kinds, before, strict=True)}
        assert sum(grown.values()) == ROUNDS * 5
        return grown[nearness] / (ROUNDS * 5)


def settings(*databases: Path) -> dict[str, str]:
    names = [str(file) for file in databases]
    return {
        **environment("nearby", enabled=True, databases=names, random_share=0.05),
        **environment("server", trusted_proxies=["127.0.0.0/8"]),
    }


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def test_the_nearest_peers_receive_most_offers(
    start_tracker: StartTracker, stack: AsyncExitStack, tmp_path: Path
) -> None:
    databases = write_mmdb(tmp_path / "asn", BOTH), write_mmdb(tmp_path / "country", COUNTRIES)
    swarm = Swarm(await start_tracker(env=settings(*databases)), stack)
    near = [(await swarm.join(f"10.1.{number}.1"))[1] for number in range(NEAR)]
    far = [(await swarm.join(f"10.2.{number}.1"))[1] for number in range(FAR)]
    # All but a twentieth of the offers; and near ones may be among those as well.
    assert await swarm.near("10.1.99.1", "asn") > 0.85
    received = [sum(["offer" in message for message in await _messages(client)]) for client in (*near, *far)]
    assert sum(received) == ROUNDS * 5
    assert sum(received[:NEAR]) > 0.85 * sum(received)
    assert min(received[:NEAR]) > 0
    assert await swarm.near("10.3.99.1", "country") > 0.85
    assert await swarm.near("10.4.99.1", "other") == 1
    for number in range(NEAR):
        await swarm.join("10.4.4.4" if number % 2 else f"10.4.4.{number}")
    assert await swarm.near("10.4.4.9", "network") > 0.85
    for _ in range(NEAR):
        await swarm.join("2001:db8::1")
    assert await swarm.near("2001:db8::1", "address") > 0.85
    assert await swarm.near("2001:db8:0:1::1", "network") > 0.85


async def test_without_the_option_all_peers_are_equal(start_tracker: StartTracker, stack: AsyncExitStack) -> None:
    tracker = await start_tracker(env=environment("server", trusted_proxies=["127.0.0.0/8"]))
    swarm = Swarm(tracker, stack)
    near = [(await swarm.join("10.1.1.1"))[1] for _ in range(NEAR)]
    for number in range(FAR):
        await swarm.join(f"10.2.{number}.1")
    peer, client = await swarm.join("10.1.1.1")
    for number in range(ROUNDS):
        await client.announce(peer, offers=offers(5, start=5 * number))
    received = [sum(["offer" in message for message in await _messages(client)]) for client in near]
    assert sum(received) < 0.5 * ROUNDS * 5
    assert METRIC not in (await tracker.get("/metrics"))[1]


async def test_changed_files_hold_for_new_peers(
    start_tracker: StartTracker, stack: AsyncExitStack, tmp_path: Path
) -> None:
    file = write_mmdb(tmp_path / "asn", ONE)
    tracker = await start_tracker(env=settings(file), program=HASTY)
    swarm = Swarm(tracker, stack)
    for number in range(FAR):
        await swarm.join(f"10.2.{number}.1")
    assert await swarm.near("10.2.99.1", "asn") == 0
    replace(file, b"half a file")
    failed = await tracker.logged("reload_failed")
    assert f"nearby.databases: {file}: no MaxMind DB" in failed["error"]
    tracker.log.remove(failed)
    replace(file, write_mmdb(tmp_path / "both", BOTH).read_bytes())
    await tracker.logged("files_reloaded")
    for number in range(NEAR):
        await swarm.join(f"10.2.{number}.2")
    assert await swarm.near("10.2.98.2", "asn") > 0.85


async def test_turning_it_on_or_off_needs_a_restart(start_tracker: StartTracker, tmp_path: Path) -> None:
    config = tmp_path / "settings.toml"
    config.write_text("[nearby]\nenabled = true\n")
    tracker = await start_tracker("--config", str(config))
    for text, keys in (("enabled = false", ["nearby.enabled"]), ("enabled = true\nrandom_share = 0.5", None)):
        tracker.log.clear()
        config.write_text(f"[nearby]\n{text}\n")
        tracker.tell(signal.SIGHUP)
        await tracker.logged("reloaded")
        assert [line["keys"] for line in tracker.log if line["event"] == "restart_needed"] == ([keys] if keys else [])


def test_a_file_that_cannot_be_used_is_an_error_at_start(tmp_path: Path) -> None:
    missing, broken = tmp_path / "missing", tmp_path / "broken"
    broken.write_text("AS64500")
    for file, text in ((missing, "No such file"), (broken, "no MaxMind DB")):
        done = peerservers("serve", "--port", "0", **settings(file))
        assert_one_line(done, f"nearby.databases: {file}: {text}")


async def _messages(client: RawClient) -> list[dict[str, object]]:
    """Return the messages that have arrived, after a ping, which no earlier message follows."""
    await client.ping()
    return await client.received()
