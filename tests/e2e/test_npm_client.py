"""The client of npm's bittorrent-tracker, the base of webtorrent and most other clients, in its own processes."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from extensions.tokens.token import make_token
from tests.conftest import StartTracker, TrackerProcess, environment
from tests.e2e.node import PATIENCE, Json, NodeScript, node_script
from tests.integration.friend import install

StartScript = Callable[[], Awaitable[NodeScript]]

# With control characters, quotes and the upper half of latin-1, as in many infohashes.
HASH = bytes(range(0, 256, 13)).hex()
UNKNOWN_HASH = bytes(range(255, 0, -13)).hex()


@pytest.fixture
async def start_script() -> AsyncIterator[StartScript]:
    """Start processes for clients."""
    async with AsyncExitStack() as stack:
        yield lambda: stack.enter_async_context(node_script("client.mjs"))


class NpmClient:
    """One client in the process of a script."""

    def __init__(self, script: NodeScript, name: str) -> None:
        self.script = script
        self.name = name
        self.peer_id = random.randbytes(20).hex()

    @classmethod
    async def create(
        cls, script: NodeScript, tracker: TrackerProcess, name: str, info_hash: str = HASH, **options: Any
    ) -> "NpmClient":
        """Create a client that has not announced yet."""
        client = cls(script, name)
        chosen = {"announce": tracker.url, "infoHash": info_hash, "peerId": client.peer_id, **options}
        await script.send("create", name=name, **chosen)
        return client

    async def call(self, method: str, **options: Any) -> None:
        """Call a method of the client."""
        await self.script.send("call", name=self.name, method=method, options=options)

    async def announce(self, method: str, **options: Any) -> tuple[int, int]:
        """Call a method that announces. Return the counts in the tracker's reply."""
        await self.call(method, **options)
        return await self.update()

    async def update(self) -> tuple[int, int]:
        """Return the counts in the tracker's next reply."""
        return counts(await self.event("update"))

    async def updated(self, complete: int, incomplete: int) -> None:
        """Wait until a reply of the tracker has these counts."""
        while await self.update() != (complete, incomplete):
            pass

    async def event(self, event: str) -> Json:
        """Return the client's next event of that name."""
        return await self.script.event(lambda found: (found["event"], found.get("name")) == (event, self.name))

    async def destroy(self) -> None:
        """Destroy the client, and wait until that is done."""
        await self.script.send("destroy", name=self.name)
        await self.event("destroyed")


def counts(answer: Json) -> tuple[int, int]:
    """Return seeders and leechers, from a reply of the tracker."""
    return answer["complete"], answer["incomplete"]


async def test_life_of_a_leecher(tracker: TrackerProcess, start_script: StartScript) -> None:
    seeding, leeching = await start_script(), await start_script()
    seeder = await NpmClient.create(seeding, tracker, "seeder")
    leecher = await NpmClient.create(leeching, tracker, "leecher")

    assert await seeder.announce("start", left=0) == (1, 0)
    assert await leecher.announce("start", left=1000) == (1, 1)
    assert await leecher.announce("update", left=500) == (1, 1)
    assert await leecher.announce("complete", left=0) == (2, 0)
    assert await leecher.announce("update", left=0) == (2, 0)
    assert await leecher.announce("stop", left=0) == (1, 0)
    await leecher.destroy()
    assert await seeder.announce("update", left=0) == (1, 0)
    await seeder.destroy()
    assert (seeding.complaints, leeching.complaints) == ([], [])


@pytest.mark.parametrize("left", [{}, {"left": None}, {"left": 1.5}], ids=["absent", "null", "fraction"])
async def test_a_client_without_a_valid_left_is_a_leecher(
    tracker: TrackerProcess, start_script: StartScript, left: dict[str, Any]
) -> None:
    script = await start_script()
    client = await NpmClient.create(script, tracker, "client")
    assert await client.announce("start", **left) == (0, 1)
    assert await client.announce("update", **left) == (0, 1)
    assert script.complaints == []


async def test_scrape(tracker: TrackerProcess, start_script: StartScript) -> None:
    script = await start_script()
    client = await NpmClient.create(script, tracker, "client")
    await client.announce("start", left=0)

    await client.call("scrape")
    answer = await client.event("scrape")
    assert (answer["infoHash"], counts(answer)) == (HASH, (1, 0))

    await client.call("scrape", infoHash=[HASH, UNKNOWN_HASH])
    answers = [await client.event("scrape"), await client.event("scrape")]
    assert {answer["infoHash"]: counts(answer) for answer in answers} == {HASH: (1, 0), UNKNOWN_HASH: (0, 0)}
    assert script.complaints == []


async def test_scrape_without_a_client(tracker: TrackerProcess, start_script: StartScript) -> None:
    announcing, scraping = await start_script(), await start_script()
    await (await NpmClient.create(announcing, tracker, "client")).announce("start", left=10)

    async def scrape(wanted: str | list[str]) -> Any:
        await scraping.send("scrapeOnce", announce=tracker.url, infoHash=wanted)
        answer = await scraping.event(lambda event: event["event"] == "scraped")
        assert "error" not in answer
        return answer["result"]

    assert counts(await scrape(HASH)) == (0, 1)
    assert counts(await scrape(UNKNOWN_HASH)) == (0, 0)
    both = await scrape([HASH, UNKNOWN_HASH])
    assert {info_hash: counts(answer) for info_hash, answer in both.items()} == {HASH: (0, 1), UNKNOWN_HASH: (0, 0)}


async def test_two_clients_on_one_socket(tracker: TrackerProcess, start_script: StartScript) -> None:
    """All clients of a process share a socket, so each one also sees the replies to the others."""
    script, watching = await start_script(), await start_script()
    watcher = await NpmClient.create(watching, tracker, "watcher")
    first, second = [await NpmClient.create(script, tracker, name) for name in ("first", "second")]
    assert await watcher.announce("start", left=10) == (0, 1)

    await first.call("start", left=0)
    await second.updated(1, 1)
    await second.call("start", left=10)
    await first.updated(1, 2)
    assert await tracker.metric("peerservers_connections") == 2, "one for each process"
    assert await watcher.announce("update", left=10) == (1, 2)

    await first.call("stop", left=0)
    await second.updated(0, 2)
    await first.destroy()
    assert await watcher.announce("update", left=10) == (0, 2)

    await second.destroy()
    await announce_until(watcher, 0, 1)
    assert (script.complaints, watching.complaints) == ([], [])


async def test_two_clients_whose_socket_closes(tracker: TrackerProcess, start_script: StartScript) -> None:
    script, watching = await start_script(), await start_script()
    watcher = await NpmClient.create(watching, tracker, "watcher")
    assert await watcher.announce("start", left=10) == (0, 1)
    clients = [await NpmClient.create(script, tracker, name) for name in ("first", "second")]
    for client in clients:
        await client.call("start", left=0)
    await announce_until(watcher, 2, 1)

    await clients[0].destroy()
    assert await watcher.announce("update", left=10) == (2, 1), "the socket is open, and no client has sent `stopped`"
    await clients[1].destroy()
    await announce_until(watcher, 0, 1)
    assert (script.complaints, watching.complaints) == ([], [])


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_clients_come_back_to_a_restarted_tracker(
    start_tracker: StartTracker, start_script: StartScript, end: signal.Signals
) -> None:
    tracker = await start_tracker()
    scripts = await start_script(), await start_script()
    # `always` is in the announces that the client sends by itself, too.
    seeder = await NpmClient.create(scripts[0], tracker, "seeder", always={"left": 0})
    leecher = await NpmClient.create(scripts[1], tracker, "leecher", always={"left": 10})
    assert await seeder.announce("start") == (1, 0)
    assert await leecher.announce("start") == (1, 1)

    tracker.tell(end)
    await tracker.stop()
    await start_tracker(port=tracker.port)
    await asyncio.gather(seeder.update(), leecher.update())
    assert await seeder.announce("update") == (1, 1)
    complaints = scripts[0].complaints + scripts[1].complaints
    assert all(complaint.startswith("Error connecting to") for complaint in complaints), complaints


async def test_two_processes_connect(tracker: TrackerProcess, start_script: StartScript) -> None:
    scripts = await start_script(), await start_script()
    waiting = await NpmClient.create(scripts[0], tracker, "waiting")
    newcomer = await NpmClient.create(scripts[1], tracker, "newcomer")
    await waiting.announce("start", left=0)
    await newcomer.announce("start", left=10)
    for receiver, sender in ((waiting, newcomer), (newcomer, waiting)):
        message = await receiver.event("message")
        assert (message["text"], message["peerId"]) == (f"from {sender.name}", sender.peer_id)
    assert [script.complaints for script in scripts] == [[], []]


async def test_a_process_with_many_torrents_over_the_limits_of_its_address(
    start_tracker: StartTracker, start_script: StartScript
) -> None:
    limits = environment("limits", announces_per_second=2, connections_per_address=10, exempt=[])
    tracker = await start_tracker(env=limits)
    seeding, leeching = await start_script(), await start_script()
    seeders = [await NpmClient.create(seeding, tracker, f"seeder {n}", f"{n:040x}") for n in range(1, 301)]
    for seeder in seeders:
        # Without offers: each would take a connection of the process.
        await seeder.call("start", left=0, numwant=0)
    waiting = {seeder.name for seeder in seeders}
    while waiting:
        reply = await seeding.event(lambda event: event["event"] == "update")
        assert counts(reply) == (1, 0)
        waiting.discard(reply["name"])
    assert await tracker.metric("peerservers_dropped_total", reason="too_many_announces") > 0

    leecher = await NpmClient.create(leeching, tracker, "leecher", f"{300:040x}")
    assert await leecher.announce("start", left=10) == (1, 1)
    assert await tracker.metric("peerservers_connections") == 2
    assert await tracker.metric("peerservers_connections_closed_total", reason="garbage") == 0
    assert (seeding.complaints, leeching.complaints) == ([], [])


async def test_a_client_that_is_not_admitted_is_warned_and_keeps_its_socket(
    start_tracker: StartTracker, start_script: StartScript, tmp_path: Path
) -> None:
    (tmp_path / "knock.py").write_text(
        "from tracker.extension import Extension\n"
        "class Knock(Extension):\n"
        "    known = set()\n"
        "    async def admit(self, request):\n"
        "        if request.peer_id not in self.known:\n"
        "            self.known.add(request.peer_id)\n"
        "            return 'knock twice'\n"
    )
    install(tmp_path, "knock", "knock:Knock")
    tracker = await start_tracker(env={"PYTHONPATH": str(tmp_path)})
    script = await start_script()
    client = await NpmClient.create(script, tracker, "client")
    await client.call("start", left=0)
    assert (await client.event("warning"))["text"] == "knock twice"
    assert await client.announce("update", left=0) == (1, 0)
    assert script.complaints == ["knock twice"]
    assert await tracker.metric("peerservers_connections") == 1
    for reason in ("client_closed", "connection_lost"):
        assert await tracker.metric("peerservers_connections_closed_total", reason=reason) == 0, "it has never left"


async def test_clients_with_a_token_connect_and_one_without_is_told_why(
    start_tracker: StartTracker, start_script: StartScript
) -> None:
    secret = "a secret of an operator"
    tracker = await start_tracker(env=environment("extensions.tokens", enabled=True, secrets=[secret]))
    expires = int(time.time()) + 3600
    scripts = [await start_script() for _ in range(4)]
    in_path = tracker.url + make_token(secret, expires, HASH)
    in_query = f"{tracker.url}announce?token={make_token(secret, expires)}"
    first = await NpmClient.create(scripts[0], tracker, "first", announce=in_path)
    second = await NpmClient.create(scripts[1], tracker, "second", announce=in_query)
    without = await NpmClient.create(scripts[2], tracker, "without")
    # A page may give it by `getAnnounceOpts`, whose fields the client puts into each of its announces.
    in_field = await NpmClient.create(scripts[3], tracker, "field", always={"token": make_token(secret, expires)})

    await without.call("start", left=10)
    assert (await without.event("warning"))["text"] == "token missing: this tracker is private"
    assert await first.announce("start", left=0) == (1, 0)
    assert await second.announce("start", left=10) == (1, 1)
    for receiver, sender in ((first, second), (second, first)):
        assert (await receiver.event("message"))["text"] == f"from {sender.name}"
    assert await in_field.announce("update", left=10) == (1, 2)
    assert [script.complaints for script in scripts] == [[], [], ["token missing: this tracker is private"], []]
    assert await tracker.metric("peerservers_tokens_total", result="valid") == 3


async def announce_until(client: NpmClient, complete: int, incomplete: int) -> None:
    """Announce until the tracker replies with these counts: it may learn late that a socket is closed."""
    async with asyncio.timeout(PATIENCE):
        while await client.announce("update", left=10, numwant=0) != (complete, incomplete):
            pass
