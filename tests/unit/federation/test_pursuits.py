"""How often trackers are dialed, and when they are given up."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any

from extensions.federation.admission import Admission
from extensions.federation.backoffs import ATTEMPTS, FIRST_ATTEMPTS, FIRST_BACKOFF, FIRST_REFUSED
from extensions.federation.listed import Listed
from extensions.federation.pursuits import MAX_CAUSES, MAX_DIALS, MAX_LISTED_BACKOFF, MAX_NAMED, Pursuits
from extensions.federation.reasons import Ended, EndReason
from extensions.federation.settings import FederationSettings
from extensions.trackers import TrackerEntry
from tests.client import HASH
from tests.unit.federation.links import URL, tracker_id
from tracker.extension import BackgroundTasks

THEM = TrackerEntry(tracker_id(2), 1, URL, bytes(64))
FULL = Ended(EndReason.CLOSED_THERE, "too_many_links")
LASTED = Ended(EndReason.LOST, lasted=1000.0)


def stranger(number: int, expires: int = 1) -> TrackerEntry:
    return TrackerEntry(f"{number:064x}", expires, f"wss://{number}.example", bytes(64))


class FakeMesh:
    """A mesh whose dials end for given reasons, and whose clock advances only in a pause."""

    def __init__(self, *ends: Ended, **settings: Any) -> None:
        chosen = FederationSettings(**settings)
        self.listed = {url: Listed(url) for url in chosen.peers}
        self.admission = Admission(chosen, tracker_id(1), self.listed.values())
        self.max_links = chosen.max_links
        self.tasks = BackgroundTasks(Counter())
        self.links: dict[str, object] = {}
        self.is_closing = False
        self.rooms: list[bool] = []
        self.has_places = True
        self.ends = list(ends)
        self.dialed: list[str] = []
        self.wanted: list[Collection[str]] = []
        self.waited: list[float] = []
        self.now = 1000.0
        self.blocks: asyncio.Future[None] | None = None
        """Dials wait for it."""
        self.results: list[tuple[list[str], EndReason, float]] = []

    def has_room(self, common: bool) -> bool:
        self.rooms.append(common)
        return self.has_places

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator[None]:
        yield

    async def connect(self, url: str, trusted: bool) -> Any:
        self.dialed.append(url)
        if self.blocks:
            await asyncio.shield(self.blocks)
        ended = self.ends.pop(0) if self.ends else Ended(EndReason.NOT_ALLOWED)
        if ended.reason is EndReason.UNREACHABLE:
            return ended
        return ended.text, ended, trusted

    async def serve(
        self, transport: tuple[str, Ended, bool], url: str, expected: str | None = None, wanted: Collection[str] = ()
    ) -> Ended:
        self.wanted.append(wanted)
        self.now += transport[1].lasted or 0.0
        return transport[1]

    async def pause(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds
        self.is_closing |= len(self.waited) > 50
        await asyncio.sleep(0)

    def pursuits(self) -> Pursuits:
        """Return the dials of this mesh, without a random part in backoffs."""
        mesh: Any = self

        def on_result(_: TrackerEntry, causes: list[str], ended: Ended, ready: float) -> None:
            self.results.append((causes, ended.reason, ready - self.now))

        return Pursuits(mesh, False, {HASH, "open"}, on_result, lambda: self.now, lambda _, most: most)

    async def settle(self) -> None:
        """Wait until no tracker is dialed any more."""
        while len(self.tasks):
            await self.tasks.wait(10)


async def test_a_tracker_that_is_not_reached_is_dialed_again_for_some_time() -> None:
    mesh = FakeMesh(*[Ended(EndReason.UNREACHABLE)] * 20)
    pursuits = mesh.pursuits()
    assert pursuits.want(THEM, HASH)
    assert pursuits.want(THEM, "open"), "it is pursued already"
    await mesh.settle()
    assert len(mesh.dialed) == FIRST_ATTEMPTS
    assert mesh.waited == [FIRST_BACKOFF * 2**n for n in range(FIRST_ATTEMPTS - 1)]
    assert mesh.results[0] == ([HASH, "open"], EndReason.UNREACHABLE, FIRST_BACKOFF)
    assert not pursuits.want(THEM, HASH), "its backoff is not over"
    mesh.now = pursuits.ready_at(THEM)
    assert pursuits.want(THEM, HASH)
    await mesh.settle()
    assert len(mesh.dialed) == FIRST_ATTEMPTS + 1
    assert pursuits.pursued == 0


async def test_a_lost_link_is_made_again_with_more_patience() -> None:
    mesh = FakeMesh(LASTED, *[Ended(EndReason.UNREACHABLE)] * 20)
    mesh.pursuits().want(THEM, HASH)
    await mesh.settle()
    assert len(mesh.dialed) == ATTEMPTS
    assert mesh.waited[0] == FIRST_BACKOFF


async def test_a_full_tracker_is_left_to_those_that_want_it() -> None:
    mesh = FakeMesh(FULL, FULL)
    pursuits = mesh.pursuits()
    pursuits.want(THEM, HASH)
    await mesh.settle()
    assert mesh.dialed == [URL]
    assert mesh.results == [([HASH], EndReason.CLOSED_THERE, FIRST_REFUSED)]
    assert pursuits.ready_at(THEM) == mesh.now + FIRST_REFUSED
    mesh.now += FIRST_REFUSED
    assert pursuits.want(THEM, HASH)
    await mesh.settle()
    assert pursuits.ready_at(THEM) == mesh.now + 2 * FIRST_REFUSED


async def test_a_newer_entry_is_dialed_from_then_on() -> None:
    mesh = FakeMesh(Ended(EndReason.UNREACHABLE))
    pursuits = mesh.pursuits()
    new = TrackerEntry(THEM.tracker_id, 2, "wss://new.example.org", bytes(64))
    pursuits.want(THEM)
    pursuits.want(new)
    pursuits.want(THEM)
    await mesh.settle()
    assert mesh.dialed == [new.url] * 2


async def test_trackers_that_are_not_admitted_or_linked_already_are_not_dialed() -> None:
    assert not FakeMesh().pursuits().want(stranger(1).__class__(tracker_id(1), 1, URL, bytes(64)))
    assert not FakeMesh(deny=[THEM.tracker_id]).pursuits().want(THEM)
    assert not FakeMesh(policy="allow").pursuits().want(THEM)
    allowed = FakeMesh(policy="allow", allow=[THEM.tracker_id])
    assert allowed.pursuits().want(THEM)
    await allowed.settle()
    linked = FakeMesh()
    linked.links[THEM.tracker_id] = "link"
    assert not linked.pursuits().want(THEM)
    stopped = FakeMesh()
    stopped.is_closing = True
    assert not stopped.pursuits().want(THEM)
    full = FakeMesh()
    full.has_places = False
    assert not full.pursuits().want(THEM, HASH)
    assert not full.pursuits().want(THEM, "closed")
    assert full.rooms == [True, False]


async def test_a_tracker_that_has_dialed_this_one_meanwhile_is_not_dialed_again() -> None:
    mesh = FakeMesh(*[Ended(EndReason.UNREACHABLE)] * 20)
    mesh.pursuits().want(THEM)
    mesh.links[THEM.tracker_id] = "link"
    await mesh.settle()
    assert mesh.dialed == [], "also if it was still waiting for its turn"


async def test_open_swarms_are_named_some_of_them() -> None:
    mesh = FakeMesh(LASTED)
    pursuits = mesh.pursuits()
    for number in range(2 * MAX_CAUSES):
        pursuits.want(THEM, f"closed {number}" if number else HASH)
    await mesh.settle()
    assert mesh.wanted[0] == [HASH]
    assert len(mesh.results[0][0]) == MAX_CAUSES
    assert MAX_NAMED < MAX_CAUSES


async def test_not_too_many_are_dialed_at_once_and_half_of_the_places_are_for_urgent_dials() -> None:
    mesh = FakeMesh()
    mesh.blocks = asyncio.get_running_loop().create_future()
    pursuits = mesh.pursuits()
    for number in range(100):
        assert pursuits.want(stranger(number), "", urgent=False)
    await asyncio.sleep(0)
    assert len(mesh.dialed) == MAX_DIALS // 2
    assert pursuits.queued == 100 - MAX_DIALS // 2
    for number in range(100, 200):
        pursuits.want(stranger(number), HASH)
    await asyncio.sleep(0)
    assert len(mesh.dialed) == MAX_DIALS
    assert mesh.dialed[-1] == stranger(100 + MAX_DIALS // 2 - 1).url
    mesh.blocks.set_result(None)
    await mesh.settle()
    assert len(mesh.dialed) == 200
    assert pursuits.queued == 0


async def test_trackers_that_do_not_exist_do_not_take_all_places() -> None:
    mesh = FakeMesh(*[Ended(EndReason.UNREACHABLE)] * 1000, max_links=5)
    waits = asyncio.Event()

    async def pause(seconds: float) -> None:
        del seconds
        await waits.wait()

    mesh.pause = pause  # type: ignore[method-assign]
    pursuits = mesh.pursuits()
    for number in range(10):
        assert pursuits.want(stranger(number))
    assert not pursuits.want(stranger(10)), "all of them are being dialed"
    for _ in range(10):
        await asyncio.sleep(0)
    assert pursuits.waiting == 10
    assert pursuits.want(stranger(11))
    assert pursuits.pursued == 10
    await asyncio.sleep(0)
    waits.set()
    await mesh.settle()
    assert mesh.tasks.failures["federation_pursued"] == 0


async def test_a_listed_tracker_is_dialed_for_ever() -> None:
    mesh = FakeMesh(*[Ended(EndReason.UNREACHABLE)] * 100, peers=[URL])
    mesh.pursuits().start()
    await mesh.settle()
    assert len(mesh.dialed) == 51
    assert mesh.waited[0] == 2 * FIRST_BACKOFF
    assert mesh.waited[-1] == MAX_LISTED_BACKOFF
    assert mesh.listed[URL].reason is EndReason.UNREACHABLE


async def test_a_listed_tracker_that_has_dialed_this_one_is_not_down() -> None:
    mesh = FakeMesh(Ended(EndReason.UNREACHABLE), peers=[URL])
    mesh.listed[URL].tracker_id = THEM.tracker_id
    mesh.listed[URL].on_failure(EndReason.UNREACHABLE, "")
    mesh.links[THEM.tracker_id] = "link"
    mesh.pursuits().start()
    await mesh.settle()
    assert mesh.dialed == []
    assert mesh.listed[URL].reason is None
