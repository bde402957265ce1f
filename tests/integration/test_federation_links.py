"""Linked trackers: which links exist, how long they last, and how operators see them."""

import asyncio
import json
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from extensions.federation import term as term_module
from extensions.federation import wire
from extensions.federation.transports import SUBPROTOCOL
from extensions.identity import load_or_create, tracker_id
from tests.client import HASH, PATIENCE, RawClient, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess, free_port
from tests.integration.conftest import Federate
from tests.integration.hostile import (
    LINKS,
    A,
    B,
    C,
    HostileLink,
    at_least,
    ended,
    equals,
    federated,
    hostile_tracker,
    link_to,
    refusal,
    want,
)
from tests.integration.test_federation_command import run
from tests.integration.wire import HANDSHAKE
from tests.integration.wire import wire as wire_to


class Trackers:
    """Trackers by name, each with a key and a port of its own from the beginning."""

    def __init__(self, start_tracker: StartTracker, directory: Path) -> None:
        self._start = start_tracker
        self._directory = directory
        self._ports: dict[str, int] = {}

    def key(self, name: str) -> Any:
        return load_or_create(self._directory / name)

    def id(self, name: str) -> str:
        return tracker_id(self.key(name))

    def url(self, name: str) -> str:
        return f"ws://127.0.0.1:{self._ports.setdefault(name, free_port())}"

    async def start(self, name: str, env: dict[str, str] | None = None, **settings: Any) -> TrackerProcess:
        """Start one, with settings of the extension."""
        url = self.url(name)
        settings = federated(self._directory / name, **{"public_url": url, **settings})
        return await self._start(port=self._ports[name], env={**settings, **(env or {})})


@pytest.fixture
def trackers(start_tracker: StartTracker, tmp_path: Path) -> Trackers:
    return Trackers(start_tracker, tmp_path)


LISTED_UP = "peerservers_federation_listed_up"


async def has_links(tracker: TrackerProcess, number: int) -> None:
    """Wait until a tracker has so many links."""
    await eventually(lambda: equals(tracker.metric(LINKS), number))


async def is_refused(tracker: TrackerProcess, reason: str) -> None:
    """Wait until a link has ended for a reason, or was not made."""
    await eventually(lambda: at_least(ended(tracker, reason), 1))


async def has_peers(client: RawClient, peer_id: str, number: int, info_hash: str = HASH) -> None:
    """Wait until a peer's swarm has so many leechers."""

    async def has() -> bool:
        return bool((await client.announce(peer_id, info_hash))["incomplete"] == number)

    await eventually(has)


async def test_both_dial_at_once_and_keep_the_same_link(federate: Federate) -> None:
    for number in range(20):
        pair = [await federate(f"{name}{number}", allow_private_addresses=True) for name in ("a", "b")]
        async with raw_client(pair[0].url) as a, raw_client(pair[1].url) as b:
            await a.announce(A)
            await b.announce(B)
            meshes = [tracker.extension("federation").mesh for tracker in pair]
            for tracker, there, other in zip(pair, reversed(pair), reversed(meshes), strict=True):
                want(tracker, other.id, there.url)

            def settled(meshes: list[Any] = meshes) -> bool:
                links = [link for mesh in meshes for link in mesh.links.values()]
                # One each, of which one was dialed, and nothing left that is still being dialed.
                return sorted(bool(link.url) for link in links) == [False, True] and not any(
                    mesh.handshakes for mesh in meshes
                )

            await eventually(settled)
            await has_peers(a, A, 2)
            await has_peers(b, B, 2)
            await a.announce(A, offers=offers(1))
            assert (await b.receive_until(lambda message: "offer" in message))["peer_id"] == A
            assert [len(mesh.links) for mesh in meshes] == [1, 1]


async def test_three_trackers_that_list_each_other(trackers: Trackers) -> None:
    names = ("a", "b", "c")
    # Itself is among them too, as in a list that all of an operator's trackers share.
    every = [trackers.url(name) for name in names]
    a, b, c = await asyncio.gather(*(trackers.start(name, peers=every) for name in names))
    async with raw_client(a.url) as at_a, raw_client(b.url) as at_b, raw_client(c.url) as at_c:
        for tracker in (a, b, c):
            await has_links(tracker, 2)
            await is_refused(tracker, "itself")
        for client, peer in ((at_a, A), (at_b, B), (at_c, C)):
            await client.announce(peer)
        for client, peer in ((at_a, A), (at_b, B), (at_c, C)):
            await has_peers(client, peer, 3)
        await at_a.announce(A, offers=offers(2))
        for client in (at_b, at_c):
            assert (await client.receive_until(lambda message: "offer" in message))["peer_id"] == A
        assert {link["tracker"] for link in (await a.stats())["federation"]} == {trackers.id("b"), trackers.id("c")}
    for tracker in (a, b, c):
        assert await tracker.metric(LINKS) == 2
        # An accepted link has the listed URL as its name, and the tracker itself is not down.
        others = {url for url in every if url not in tracker.url}
        await eventually(partial(is_named, tracker, others))
        up = [line for line in (await tracker.get("/metrics"))[1].splitlines() if line.startswith(LISTED_UP + "{")]
        assert sorted(up) == sorted(f'{LISTED_UP}{{url="{url}"}} 1.0' for url in others)


async def is_named(tracker: TrackerProcess, urls: set[str]) -> bool:
    """Return whether the linked trackers have these URLs as their names, and all listed trackers are linked."""
    stats = await tracker.stats()
    return {link["url"] for link in stats["federation"]} == urls and not stats["unlinked"]


async def test_a_listed_tracker_that_is_down_is_shown_until_it_comes(trackers: Trackers) -> None:
    url = trackers.url("b")
    a = await trackers.start("a", peers=[url])
    await a.logged("listed_tracker_down")
    (row,) = (await a.stats())["unlinked"]
    assert (row["url"], row["state"], row["reason"]) == (url, "down", "unreachable: Connection refused")
    page = (await a.get("/"))[1]
    assert url in page
    assert "unreachable: Connection refused" in page
    assert await a.metric(LISTED_UP, url=url) == 0
    assert f'{LISTED_UP}{{url="{url}"}} 0.0' in (await a.get("/metrics"))[1]
    code, out, _ = await run("federation", a.url)
    assert (code, out.splitlines()[:3]) == (1, ["no links", "", "listed, but not linked:"])
    assert out.splitlines()[4].split()[:2] == [url, "down"]
    assert out.endswith("unreachable: Connection refused\n")
    b = await trackers.start("b")
    await eventually(lambda: equals(a.metric(LISTED_UP, url=url), 1), 20)
    assert (await a.stats())["unlinked"] == []
    await b.stop(signal.SIGKILL)
    await eventually(lambda: equals(a.metric(LISTED_UP, url=url), 0), 20)
    (row,) = (await a.stats())["unlinked"]
    assert (row["url"], row["tracker"]) == (url, trackers.id("b")), "its id is known now"
    code, out, _ = await run("federation", "--json", a.url)
    assert (code, [one["url"] for one in json.loads(out)["unlinked"]]) == (1, [url])


async def test_a_listed_tracker_that_breaks_a_rule_is_shown_with_the_rule(trackers: Trackers) -> None:
    async def break_it(link: HostileLink) -> None:
        await link.shake()
        await link.send(b'{"type":"dance"}')
        await link.ended()

    async with hostile_tracker(break_it) as url:
        a = await trackers.start("a", peers=[url])

        async def is_shunned() -> bool:
            return [row["reason"] for row in (await a.stats())["unlinked"]] == [
                "not_allowed: shunned because of invalid_message"
            ]

        await eventually(is_shunned, 20)
        assert (await a.logged("listed_tracker_down"))["reason"] == "invalid_message"


async def test_counts_from_a_link_are_not_told_over_another(trackers: Trackers) -> None:
    b = await trackers.start("b")
    a, c = [await trackers.start(name, peers=[trackers.url("b")]) for name in ("a", "c")]
    await has_links(b, 2)
    async with raw_client(a.url) as at_a, raw_client(b.url) as at_b, raw_client(c.url) as at_c:
        for client, peer in ((at_a, A), (at_b, B), (at_c, C)):
            await client.announce(peer)
        await has_peers(at_b, B, 3)
        await has_peers(at_a, A, 2)
        await has_peers(at_c, C, 2)


async def test_a_listed_tracker_is_linked_once_it_comes(trackers: Trackers) -> None:
    a = await trackers.start("a", peers=[trackers.url("b")])
    await eventually(lambda: at_least(ended(a, "unreachable"), 1))
    await trackers.start("b")
    await eventually(lambda: equals(a.metric(LINKS), 1), 20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_listed_tracker_is_linked_again_when_it_comes_back(trackers: Trackers, number: signal.Signals) -> None:
    b = await trackers.start("b")
    a = await trackers.start("a", peers=[trackers.url("b")])
    async with raw_client(a.url) as at_a:
        await at_a.announce(A)
        async with raw_client(b.url) as at_b:
            await at_b.announce(B)
            await has_peers(at_a, A, 2)
            await b.stop(number)
            # Those behind a tracker go with it.
            await has_peers(at_a, A, 1)
            await has_links(a, 0)
        b = await trackers.start("b")
        async with raw_client(b.url) as at_b:
            await at_b.announce(B)
            await eventually(lambda: equals(a.metric(LINKS), 1), 20)
            await has_peers(at_a, A, 2)


async def test_which_trackers_are_linked(trackers: Trackers) -> None:
    for name in ("friend", "stranger", "foe"):
        trackers.key(name)
    closed = await trackers.start(
        "closed", policy="allow", allow=[trackers.id("friend"), trackers.id("foe")], deny=[trackers.id("foe")]
    )
    assert await refusal(closed.url, trackers.key("stranger")) == "not_allowed"
    assert await refusal(closed.url, trackers.key("foe")) == "not_allowed"
    assert await ended(closed, "not_allowed") == 2
    async with link_to(closed.url, trackers.key("friend")):
        await has_links(closed, 1)
    # Listed trackers are trusted, unless they are denied as well.
    listing = await trackers.start("listing", policy="allow", peers=[trackers.url("stranger")])
    await trackers.start("stranger", deny=[trackers.id("foe")])
    await eventually(lambda: equals(listing.metric(LINKS), 1), 20)
    denied = await trackers.start("foe", peers=[trackers.url("stranger")])
    await eventually(lambda: at_least(ended(denied, "closed_there"), 1))
    assert await denied.metric(LINKS) == 0


async def test_the_urls_of_a_tracker(trackers: Trackers) -> None:
    port = trackers.url("a").rpartition(":")[2]
    alias = f"ws://127.0.0.1:{port}/tracker"
    a = await trackers.start("a", public_url=f"ws://LOCALHOST:{port}/", aliases=[alias])
    for url in (f"ws://localhost:{port}", f"{alias}/", alias):
        async with link_to(a.url, named=url):
            await has_links(a, 1)
        await has_links(a, 0)
    for url in (f"ws://127.0.0.1:{port}", f"wss://localhost:{port}", f"ws://localhost:{port}/x", "ws://[", "?"):
        async with link_to(a.url, named=url, shake=False) as link:
            await link.send(link.session.start())
            assert await link.ended() == "wrong_url", url
    # By two names it is still one tracker.
    b = await trackers.start("b", peers=[f"ws://localhost:{port}", alias])

    async def is_one() -> bool:
        return await ended(b, "replaced") + await ended(b, "duplicate") + await ended(b, "closed_there") >= 1

    await eventually(is_one)
    await has_links(a, 1)
    await has_links(b, 1)


async def test_no_more_links_than_allowed_but_the_listed(trackers: Trackers) -> None:
    a = await trackers.start("a", max_links=1, peers=[trackers.url("b")])
    async with raw_client(a.url) as client, link_to(a.url) as link:
        await client.announce(A)
        await link.send(link.have((HASH, 0, 1)))
        await has_peers(client, A, 2)
        assert await refusal(a.url, trackers.key("c")) == "too_many_links"
        await trackers.start("b")
        await eventually(lambda: equals(a.metric(LINKS), 2), 20)
        await has_peers(client, A, 2)


async def test_links_without_common_swarms_end_while_others_stay(
    federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(term_module, "TELL_PERIOD", 0.05)
    tracker = await federate(max_links=3, idle_timeout=0.2)
    async with raw_client(tracker.url) as client, link_to(tracker.url) as useful:
        await client.announce(A)
        await useful.send(useful.have((HASH, 0, 1)))
        await has_peers(client, A, 2)
        async with link_to(tracker.url) as idle:
            assert await idle.ended() == "idle"
        # The last may stay: there is room enough.
        await useful.send(useful.have((HASH, 0, 0)))
        await has_peers(client, A, 1)
        for number in range(3):
            async with raw_client(tracker.url) as other:
                await other.announce(A, f"{number:020}")
                tag = useful.name(f"{number:020}")[: wire.TAG_LENGTH]
                await useful.until(wire.Opened, lambda opened, tag=tag: tag in opened.tags)  # type: ignore[misc]
        await useful.is_there()


async def test_links_in_pages_commands_and_metrics(trackers: Trackers) -> None:
    a = await trackers.start("a")
    b = await trackers.start("b", peers=[trackers.url("a")])
    web = f"http://127.0.0.1:{b.port}"
    await has_links(b, 1)
    async with raw_client(a.url) as at_a, raw_client(b.url) as at_b:
        await at_a.announce(A)
        await at_b.announce(B)
        await has_peers(at_b, B, 2)
        await at_b.announce(B, offers=offers(1))
        await at_a.receive_until(lambda message: "offer" in message)
        (row,) = (await b.stats())["federation"]
        assert (row["tracker"], row["url"], row["direction"]) == (trackers.id("a"), trackers.url("a"), "dialed")
        assert (row["shared_swarms"], row["offers_out"]) == (1, 1)
        (there,) = (await a.stats())["federation"]
        assert (there["tracker"], there["url"], there["direction"]) == (trackers.id("b"), "", "accepted")
        assert (there["shared_swarms"], there["offers_in"]) == (1, 1)
        page = (await b.get("/"))[1]
        assert trackers.id("a") in page
        assert trackers.url("a") in page
        code, out, _ = await run("federation", web)
        head, line = out.splitlines()
        assert (code, head.split()[:2]) == (0, ["TRACKER", "URL"])
        assert line.split()[:2] == [trackers.id("a")[:16], trackers.url("a")]
        for other_form in (f"127.0.0.1:{b.port}/", b.url):
            assert (await run("federation", other_form))[:2] == (0, out)
        assert trackers.id("a") in (await run("federation", "--wide", web))[1].split()
        code, out, _ = await run("federation", "--json", f"http://127.0.0.1:{a.port}")
        assert code == 0
        assert json.loads(out)["federation"][0]["tracker"] == trackers.id("b")
        for tracker, direction in ((a, "accepted"), (b, "dialed")):
            assert await tracker.metric("peerservers_federation_links_opened_total", direction=direction) == 1
        traffic = {"tracker": trackers.id("a")[:16], "type": "offers_out"}
        assert await b.metric("peerservers_federation_messages_total", **traffic) == 1
        assert await b.metric("peerservers_federation_shared_swarms", tracker=traffic["tracker"]) == 1
        named = {"direction": "dialed", "tracker": trackers.id("a")[:16], "url": trackers.url("a")}
        assert await b.metric("peerservers_federation_link_info", **named) == 1
        nameless = {"direction": "accepted", "tracker": trackers.id("b")[:16], "url": ""}
        assert await a.metric("peerservers_federation_link_info", **nameless) == 1
    a.tell(signal.SIGTERM)
    await has_links(b, 0)
    code, out, _ = await run("federation", web)
    assert (code, out.partition("\n")[0]) == (1, "no links")
    assert trackers.id("a") not in (await b.get("/"))[1]


async def test_a_tracker_that_stops_says_goodbye(trackers: Trackers) -> None:
    reasons: asyncio.Queue[str] = asyncio.Queue()

    async def stay(link: HostileLink) -> None:
        await link.shake()
        reasons.put_nowait("open")
        reasons.put_nowait(await link.ended())

    async with hostile_tracker(stay) as url:
        a = await trackers.start("a", peers=[url])
        assert await asyncio.wait_for(reasons.get(), PATIENCE) == "open"
        # That a link has ended before must change nothing.
        async with link_to(a.url):
            pass
        await has_links(a, 1)
        async with link_to(a.url) as accepted:
            a.tell(signal.SIGTERM)
            assert await accepted.ended() == "shutdown"
        assert await asyncio.wait_for(reasons.get(), PATIENCE) == "shutdown"


async def test_a_tracker_that_does_not_federate(trackers: Trackers, tracker: TrackerProcess) -> None:
    async with connect(tracker.url, subprotocols=[SUBPROTOCOL]) as socket:
        assert socket.subprotocol is None
    a = await trackers.start("a", peers=[tracker.url])
    await eventually(lambda: at_least(ended(a, "refused"), 1))
    assert await a.metric(LINKS) == 0


async def test_a_limit_of_clients_that_is_too_low_for_trackers_is_one_line(trackers: Trackers) -> None:
    with pytest.raises(AssertionError, match="at least 262144 are needed"):
        await trackers.start("a", env={"PEERSERVERS_CONNECTIONS__MAX_MESSAGE_SIZE": "8192"})


async def test_a_stop_waits_for_a_silent_tracker_no_longer_than_for_a_client(trackers: Trackers) -> None:
    """The last message to it has been sent, so its socket is cut while a client may still answer the close frame."""
    tracker = await trackers.start("a")
    link = HANDSHAKE + f"Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n".encode()
    async with wire_to(tracker) as client, wire_to(tracker, link) as silent:
        assert (await silent.receive())[0] == 1
        tracker.tell(signal.SIGTERM)
        assert b'"shutdown"' in (await silent.receive())[1]
        await silent.gone()
        assert await client.close_code() == 1001
        assert not client.reader.at_eof()
        client.writer.transport.abort()
        assert await tracker.stop() == 0
    assert tracker.log[-1]["event"] == "stopped"
