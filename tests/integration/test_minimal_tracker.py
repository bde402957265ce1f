"""A tracker that was written from docs/federation.md alone, linked with this one."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from extensions.identity import load_or_create, tracker_id
from tests.client import HASH, PATIENCE, Json, RawClient, announce, answer, eventually, offers, raw_client
from tests.conftest import TrackerProcess, environment, free_port
from tests.federated import counted
from tests.minimal_tracker import Client, Link, LinkEnd, Swarm, Tracker, same_url

DOCUMENT = Path(__file__).parents[2] / "docs" / "federation.md"

SIDES = ("real", "minimal")

_numbers = itertools.count()


def new_hash() -> str:
    """Return an infohash that no other test uses."""
    return f"h{next(_numbers):019}"


def peer(number: int) -> str:
    """Return a peer_id."""
    return f"-XX0000-{number:012}"


async def answer_next(answerer: RawClient, peer_id: str, offerer: RawClient) -> None:
    """Answer the next offer that one client receives, and wait until the other has the answer."""
    offer = await answerer.receive_until(lambda message: "offer" in message)
    sdp = f"answer to {offer['offer']['sdp']}"
    await answerer.send(answer(peer_id, offer["peer_id"], offer["offer_id"], offer["info_hash"], sdp))
    received = await offerer.receive_until(lambda message: "answer" in message)
    assert received == {
        "action": "announce",
        "info_hash": offer["info_hash"],
        "peer_id": peer_id,
        "offer_id": offer["offer_id"],
        "answer": {"type": "answer", "sdp": sdp},
    }


@dataclass
class Pair:
    """A tracker in its own process, and a minimal one. There is a link between them."""

    real: TrackerProcess
    minimal: Tracker
    minimal_url: str
    real_id: str

    @property
    def urls(self) -> dict[str, str]:
        """The URLs for clients."""
        return {"real": self.real.url, "minimal": self.minimal_url}

    async def stop(self) -> None:
        """Stop the real tracker. It must have no complaint."""
        assert await self.real.stop() == 0
        assert self.real.complaints() == []

    async def linked(self) -> None:
        """Wait until each has exactly one open link, the same one."""

        async def is_so() -> bool:
            there = [link["tracker"] for link in (await self.real.stats())["federation"]]
            here = [link.id.hex() for link in self.minimal.links if link.state == "open"]
            return there == [self.minimal.id.hex()] and here == [self.real_id]

        await eventually(is_so)

    async def refused(self) -> int:
        """Return how many offers the minimal tracker has refused."""
        (link,) = (await self.real.stats())["federation"]
        return int(link["refused"])

    async def has_refused(self, count: int) -> bool:
        """Return whether it is this number."""
        return await self.refused() == count

    async def open(self, *hashes: str) -> None:
        """Wait until swarms are open at the minimal tracker."""
        await eventually(lambda: self.minimal.swarms.keys() >= set(hashes))

    async def separate(self, info_hash: str) -> None:
        """Wait until a swarm is not common any more for the minimal tracker."""
        links = self.minimal.links
        await eventually(lambda: all(swarm.info_hash != info_hash for link in links for swarm in link.numbers))

    @asynccontextmanager
    async def dialing(self) -> AsyncIterator[None]:
        """Let the minimal tracker dial the real one."""
        task = asyncio.create_task(self.minimal.dial(self.real.url))
        await self.linked()
        yield
        task.cancel()
        await asyncio.wait([task])

    @asynccontextmanager
    async def clients(self) -> AsyncIterator[tuple[RawClient, RawClient]]:
        """Yield a client of the real tracker, and one of the minimal one."""
        async with raw_client(self.real.url) as one, raw_client(self.minimal_url) as other:
            yield one, other


def seed_with(order: Callable[[bytes], bool]) -> bytes:
    """Return a seed of a tracker id with a certain order."""
    return next(seed for seed in iter(lambda: os.urandom(32), b"") if order(Tracker(seed).id))


@asynccontextmanager
async def pair_of(directory: Path, dialers: tuple[str, ...], lesser: str) -> AsyncIterator[Pair]:
    """Start both. The dialers know the URL of the other; `lesser` has the lesser id."""
    real_port = free_port()
    real_url = f"ws://127.0.0.1:{real_port}"
    real_id = tracker_id(load_or_create(directory))
    seed = seed_with(lambda id: (id.hex() < real_id) == (lesser == "minimal"))
    port = free_port()
    minimal_url = f"ws://127.0.0.1:{port}"
    minimal = Tracker(seed, peers=[real_url] if "minimal" in dialers else [])
    async with AsyncExitStack() as stack:
        port = free_port()
        minimal_url = f"ws://127.0.0.1:{port}"
        if "real" in dialers:
            await stack.enter_async_context(minimal.serving(port=port))
        real = await start_real(directory, real_port, [minimal_url] if "real" in dialers else [])
        pair = Pair(real, minimal, minimal_url, real_id)
        stack.push_async_callback(pair.stop)
        if "real" not in dialers:
            await stack.enter_async_context(minimal.serving(port=port))
        if dialers:
            await pair.linked()
        yield pair


async def start_real(directory: Path, port: int, peers: list[str]) -> TrackerProcess:
    """Start a tracker that has no DHT."""
    env = {
        **environment("server", state_dir=str(directory), public_url=f"ws://127.0.0.1:{port}"),
        **environment("extensions.federation", enabled=True, peers=peers),
    }
    return await TrackerProcess.start(port=port, env=env)


@pytest.fixture(scope="module", params=itertools.product(SIDES, SIDES), ids=lambda p: f"{p[0]} dials, {p[1]} is lesser")
async def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """Yield linked trackers, for all roles and orders of their ids."""
    dialer, lesser = request.param
    async with pair_of(tmp_path_factory.mktemp("real"), (dialer,), lesser) as pair:
        yield pair


class TestSwarms:
    async def test_lonely_peers_meet(self, pair: Pair) -> None:
        hashes = {first: new_hash() for first in SIDES}
        async with pair.clients() as (real, minimal):
            await real.announce(peer(1), hashes["real"], offers=offers(3))
            for info_hash in hashes.values():
                await minimal.send(announce(peer(2), info_hash, offers=offers(3, start=3)))
            await pair.open(*hashes.values())
            await real.announce(peer(1), hashes["minimal"], offers=offers(3))
            # Only the real tracker keeps offers.
            for _ in hashes:
                await answer_next(minimal, peer(2), real)

    async def test_offers_are_placed_in_both_directions(self, pair: Pair) -> None:
        info_hash = new_hash()
        async with pair.clients() as (real, minimal):
            await real.announce(peer(1), info_hash)
            await minimal.announce(peer(2), info_hash)
            await counted(pair.real, info_hash, complete=0, incomplete=2)
            await minimal.announce(peer(2), info_hash, offers=offers(3))
            await answer_next(real, peer(1), minimal)
            await real.announce(peer(1), info_hash, offers=offers(3, start=3))
            await answer_next(minimal, peer(2), real)
            # One offer for each receiver, and none comes back.
            assert await real.nothing_came()
            assert await minimal.nothing_came()

    async def test_a_swarm_closes_and_opens_again(self, pair: Pair) -> None:
        hashes = {side: new_hash() for side in SIDES}
        async with pair.clients() as (real, minimal):
            sides = {"real": (real, peer(1)), "minimal": (minimal, peer(2))}
            for side, info_hash in hashes.items():
                await minimal.announce(peer(2), info_hash)
                await real.announce(peer(1), info_hash)
                await counted(pair.real, info_hash, complete=0, incomplete=2)
                client, peer_id = sides[side]
                await client.announce(peer_id, info_hash, event="stopped")
                await pair.separate(info_hash)
                await counted(pair.real, info_hash, complete=0, incomplete=1 if side == "minimal" else 0)
            for info_hash in hashes.values():
                await minimal.announce(peer(2), info_hash)
            for info_hash in hashes.values():
                await real.announce(peer(1), info_hash, offers=offers(1))
            for info_hash in hashes.values():
                await answer_next(minimal, peer(2), real)
                await counted(pair.real, info_hash, complete=0, incomplete=2)

    async def test_a_seeder_makes_its_offers_after_it_has_joined(self, pair: Pair) -> None:
        """It receives no offer in the meantime: two offers that cross make both connections fail."""
        info_hash = new_hash()
        refused = await pair.refused()
        async with pair.clients() as (real, minimal):
            await real.announce(peer(1), info_hash, offers=offers(1))
            await minimal.announce(peer(2), info_hash, event="completed", left=0)
            await counted(pair.real, info_hash, complete=1, incomplete=1)
            if pair.real_id < pair.minimal.id.hex():
                # The tracker with the greater id waits for a second before it sends kept offers.
                await eventually(lambda: pair.has_refused(refused + 1))
            assert await minimal.nothing_came()
            await minimal.announce(peer(2), info_hash, offers=offers(1, start=1))
            await answer_next(real, peer(1), minimal)
            assert await minimal.nothing_came()


@pytest.fixture(scope="module")
async def both_dial(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """Yield trackers that dial each other."""
    async with pair_of(tmp_path_factory.mktemp("real"), SIDES, "minimal") as pair:
        yield pair


async def test_peers_meet_in_text_swarms(both_dial: Pair) -> None:
    rooms = [f"{new_hash()}{text}" for text in ("!", "/Räume 日本語", "\u0101" * 44)]
    async with both_dial.clients() as (real, minimal):
        for room in rooms:
            await minimal.announce("lonely", room)
        for room in rooms:
            await real.announce("\U0001f331", room, offers=offers(1))
        for _ in rooms:
            await answer_next(minimal, "lonely", real)


async def test_numbers_add_up(both_dial: Pair) -> None:
    info_hash = new_hash()
    async with both_dial.clients() as (real, minimal):
        await real.announce(peer(1), info_hash, left=0)
        await minimal.announce(peer(2), info_hash, left=0)
        await counted(both_dial.real, info_hash, complete=2, incomplete=0)
        for number in range(3, 9):
            await minimal.announce(peer(number), info_hash)
        await real.announce(peer(9), info_hash)
        await counted(both_dial.real, info_hash, complete=2, incomplete=7)

        async def is_told() -> bool:
            reply = await minimal.announce(peer(2), info_hash)
            return (reply["complete"], reply["incomplete"]) == (2, 7)

        await eventually(is_told)


async def test_receivers_of_offers_of_one_announce_are_distinct(both_dial: Pair) -> None:
    info_hash = new_hash()
    async with both_dial.clients() as (real, minimal):
        for number in range(4):
            await real.announce(peer(number), info_hash)
        await minimal.announce(peer(9), info_hash)
        await counted(both_dial.real, info_hash, complete=0, incomplete=5)
        await minimal.announce(peer(9), info_hash, offers=offers(10))
        got = [await real.receive_until(lambda message: "offer" in message) for _ in range(4)]
        assert len({offer["offer_id"] for offer in got}) == 4
        assert await real.nothing_came()


@pytest.mark.parametrize("lesser", SIDES)
async def test_swarms_that_are_open_before_the_link(tmp_path: Path, lesser: str) -> None:
    hashes = [new_hash() for _ in range(10)]
    async with pair_of(tmp_path, (), lesser) as pair, pair.clients() as (real, minimal):
        for number, info_hash in enumerate(hashes):
            await real.announce(peer(1), info_hash, offers=offers(2, start=number))
            await minimal.announce(peer(2), info_hash, offers=offers(2, start=number))
        async with pair.dialing():
            for _ in hashes:
                await answer_next(minimal, peer(2), real)
            for info_hash in hashes:
                await counted(pair.real, info_hash, complete=0, incomplete=2)


@pytest.mark.parametrize("dialer", SIDES)
async def test_a_link_is_made_again(tmp_path: Path, dialer: str) -> None:
    info_hash = new_hash()
    async with pair_of(tmp_path, (dialer,), "real") as pair, pair.clients() as (real, minimal):
        await real.announce(peer(1), info_hash, offers=offers(1))
        await minimal.announce(peer(2), info_hash)
        await answer_next(minimal, peer(2), real)
        end_links(pair.minimal)
        await counted(pair.real, info_hash, complete=0, incomplete=1)
        await pair.linked()
        await counted(pair.real, info_hash, complete=0, incomplete=2)
        await minimal.announce(peer(2), info_hash, offers=offers(2))
        await answer_next(real, peer(1), minimal)


async def test_the_real_tracker_starts_again(tmp_path: Path) -> None:
    async with pair_of(tmp_path, ("minimal",), "real") as pair, raw_client(pair.minimal_url) as minimal:
        await minimal.announce(peer(2))
        async with raw_client(pair.real.url) as real:
            await real.announce(peer(1), offers=offers(1))
            await answer_next(minimal, peer(2), real)
            assert (await minimal.announce(peer(2)))["incomplete"] == 2
        await pair.real.stop()
        await eventually(lambda: not pair.minimal.links)
        assert (await minimal.announce(peer(2)))["incomplete"] == 1
        pair.real = await start_real(tmp_path, pair.real.port, [])
        async with raw_client(pair.real.url) as real:
            await real.announce(peer(1), offers=offers(1))
            await answer_next(minimal, peer(2), real)


@pytest.mark.parametrize("lesser", SIDES)
async def test_the_link_that_the_lesser_has_dialed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lesser: str
) -> None:
    ended = asyncio.Event()
    end = Link.end

    def record_end(link: Link, reason: str) -> None:
        end(link, reason)
        ended.set()

    monkeypatch.setattr(Link, "end", record_end)
    async with pair_of(tmp_path, ("real",), lesser) as pair, pair.clients() as (real, minimal):
        await real.announce(peer(1))
        (first,) = pair.minimal.links
        async with pair.dialing():
            await asyncio.wait_for(ended.wait(), PATIENCE)
            await pair.linked()
            (link,) = pair.minimal.links
            assert (link is first) == (lesser == "real")
            await minimal.announce(peer(2))
            await counted(pair.real, HASH, complete=0, incomplete=2)
            await minimal.announce(peer(2), offers=offers(2))
            await answer_next(real, peer(1), minimal)


async def test_two_minimal_trackers() -> None:
    async with Tracker(os.urandom(32)).serving() as port:
        url = f"ws://127.0.0.1:{port}"
        other = Tracker(os.urandom(32), peers=[url])
        async with raw_client(url) as one, other.serving() as other_port:
            await one.announce(peer(1))
            async with raw_client(f"ws://127.0.0.1:{other_port}") as two:
                await two.announce(peer(2))
                await eventually(lambda: any(link.numbers for link in other.links))
                await two.announce(peer(2), offers=offers(2))
                await answer_next(one, peer(1), two)
                await one.announce(peer(1), offers=offers(2))
                await answer_next(two, peer(2), one)


def end_links(tracker: Tracker) -> None:
    """End the links of the minimal tracker."""
    for link in tracker.links:
        link.end("shutdown")
        link.stop()


class Vectors:
    """The section "Test vectors" of the document."""

    def __init__(self) -> None:
        section = DOCUMENT.read_text(encoding="utf-8").partition("\n## Test vectors\n")[2]
        named, frames, dialogue, urls = [block.strip("\n").splitlines() for block in section.split("```")[1::2]]
        self.named = dict(line.split(": ", 1) for line in named)
        self.frames = [(line.partition(" ")[2].replace("⏎", "\n"), line.startswith("valid ")) for line in frames]
        self.dialogue = [(line[0], line[2:]) for line in dialogue]
        self.urls = [line.split(" ") for line in urls]

    def bytes(self, name: str) -> bytes:
        return bytes.fromhex(self.named[name])


VECTORS = Vectors()


class Fixture:
    """A link of the vectors, seen from one side. `sent` are the messages of this side."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
        other = {"dialer": "listener", "listener": "dialer"}[side]
        monkeypatch.setattr("tests.minimal_tracker.os.urandom", lambda _: VECTORS.bytes(f"{side}_nonce"))
        self.sent: list[Json] = []
        self.tracker = Tracker(VECTORS.bytes(f"{side}_seed"), [VECTORS.named["url"]])
        self.link = Link(self.tracker, self.sent.append, VECTORS.named["url"] if side == "dialer" else None)
        self.tracker.links.add(self.link)
        self.handshake = [VECTORS.named[f"{other}_hello"], VECTORS.named[f"{other}_proof"]]
        self.to_client: list[Json] = []
        self.client = Client(self.tracker, self.to_client.append)

    def join(self, info_hash: str, peer_id: str) -> None:
        self.client.receive(json.dumps(announce(peer_id, info_hash)))

    def open(self) -> None:
        for frame in self.handshake:
            self.link.receive(frame)
        assert self.link.state == "open"


INFO_HASH = VECTORS.bytes("infohash").decode("latin-1")


class TestVectors:
    """The minimal tracker keeps to the vectors of the document."""

    @pytest.mark.parametrize("side", ["dialer", "listener"])
    def test_handshake_and_names(self, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
        there = Fixture(monkeypatch, side)
        there.open()
        other = "listener" if side == "dialer" else "dialer"
        expected = [json.loads(VECTORS.named[f"{side}_{kind}"]) for kind in ("hello", "proof")]
        # This tracker has no feature, and names no swarms in its proof.
        kept = [{key: message[key] for key in message if key not in ("features", "swarms")} for message in expected]
        assert there.sent[:2] == kept
        assert there.link.transcript == VECTORS.bytes("transcript")
        assert there.link.secret == VECTORS.bytes("secret")
        swarm, text_swarm = Swarm(INFO_HASH), Swarm(VECTORS.named["text_info_hash"])
        assert (swarm.tag, text_swarm.tag) == (VECTORS.named["tag"], VECTORS.named["text_tag"])
        assert text_swarm.bytes == b"text" + VECTORS.bytes("text_key")
        assert there.link.name(swarm) == VECTORS.named[f"{side}_name"]
        assert there.link.name(swarm, there.link.id) == VECTORS.named[f"{other}_name"]
        dialer_id = VECTORS.bytes("dialer_id")
        assert there.link.name(text_swarm, dialer_id) == VECTORS.named["text_dialer_name"]

    @pytest.mark.parametrize(("frame", "valid"), VECTORS.frames)
    async def test_frames(self, monkeypatch: pytest.MonkeyPatch, frame: str, valid: bool) -> None:
        there = Fixture(monkeypatch, "listener")
        there.join(INFO_HASH, peer(1))
        if '"hello"' not in frame:
            there.open()
        reason = ""
        try:
            there.link.receive(frame)
        except LinkEnd as end:
            reason = str(end)
        assert reason == ("closed_there" if valid and '"bye"' in frame else "" if valid else "invalid_message")

    async def test_dialogue(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The minimal tracker is the listener."""
        there = Fixture(monkeypatch, "listener")
        there.join(INFO_HASH, peer(2))
        for sign, frame in VECTORS.dialogue:
            message = json.loads(frame)
            if sign == ">":
                there.link.receive(frame)
            elif message["type"] == "answer":
                (offer,) = [message for message in there.to_client if "offer" in message]
                assert offer["peer_id"] == message["to_peer_id"]
                there.client.receive(json.dumps(answer(peer(2), offer["peer_id"], offer["offer_id"], INFO_HASH)))
            elif message["type"] == "bye":
                there.link.end(message["reason"])
        expected = [json.loads(frame) for sign, frame in VECTORS.dialogue if sign == "<"]
        own = [message for message in there.sent if message["type"] != "opened"]
        for message in (*expected, *own):
            message.pop("features", None)
            message.pop("bits", None)  # Its filter is empty.
        assert own == expected

    def test_all_open_swarms_are_named_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A filter of zeros makes room for further tags."""
        monkeypatch.setattr("tests.minimal_tracker.ROOM", 100)
        there = Fixture(monkeypatch, "listener")
        there.open()
        there.join(INFO_HASH, peer(1))
        for number in range(100):
            info_hash = f"{number:020}"
            there.join(info_hash, peer(1))
            there.client.receive(json.dumps(announce(peer(1), info_hash, event="stopped")))
        (position,) = [at for at, message in enumerate(there.sent) if message["type"] == "filter" and at > 2]
        opened = there.sent[position + 1]
        assert VECTORS.named["tag"] in opened["tags"]

    @pytest.mark.parametrize(("relation", "one", "other"), VECTORS.urls)
    def test_the_same_url(self, relation: str, one: str, other: str) -> None:
        assert same_url(one, other) == same_url(other, one) == (relation == "same")
