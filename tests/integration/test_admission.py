"""Extensions that are asked who may join: over real sockets, at their own pace, and when they fail."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from tests.client import HASH, PATIENCE, Json, announce, eventually, offers, raw_client
from tests.integration.conftest import Running
from tests.unit.fakes import peer_id
from tracker.config import load
from tracker.extension import admission
from tracker.extension.admission import Admission, Admitted
from tracker.extension.api import Extension, TrackerHandle
from tracker.peers import PeerSocket

A, B = peer_id(1), peer_id(2)
OTHER = "i" * 20
Decide = Callable[[Admission], Awaitable[Any]]


async def admits(_request: Admission) -> None:
    """Everybody may come in."""


async def stalls(_request: Admission) -> None:
    """Never comes back."""
    await asyncio.Event().wait()


async def insists(_request: Admission) -> None:
    """Never comes back, whoever cancels it."""
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            if _closing.is_set():
                raise


_closing = asyncio.Event()


@pytest.fixture(autouse=True)
def _is_over() -> Iterator[None]:
    """What insists does so until the test is over."""
    _closing.clear()
    yield
    _closing.set()


async def raises(_request: Admission) -> None:
    """Fails."""
    raise RuntimeError("as told")


async def is_cancelled(_request: Admission) -> None:
    """Lets the cancellation of something it awaits escape."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.cancel()
    await future


async def ends_at_no_time(_request: Admission) -> Admitted:
    """The seconds are no number."""
    return Admitted("soon")  # type: ignore[arg-type]


async def ends_never_known(_request: Admission) -> Admitted:
    """Every comparison with it is false."""
    return Admitted(float("nan"))


async def is_a_predicate(_request: Admission) -> bool:
    """What somebody might write who has not read on."""
    return True


async def cannot_be_sent(_request: Admission) -> str:
    """No valid Unicode."""
    return "\ud800"


BROKEN: list[Decide] = [raises, is_cancelled, is_a_predicate, cannot_be_sent, ends_at_no_time, ends_never_known]


class Doorkeeper(Extension):
    """Decides as a test tells it."""

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.requests: list[Admission] = []
        self.decide: Decide = admits

    async def admit(self, request: Admission) -> str | None:
        self.requests.append(request)
        verdict: str | None = await self.decide(request)
        return verdict


def keeper(tracker: Running, decide: Decide, name: str = "doorkeeper") -> Doorkeeper:
    """The extension, told how to decide."""
    extension: Doorkeeper = tracker.extension(name)
    extension.decide = decide
    return extension


def only(*welcome: str) -> Decide:
    """Admits these peers."""

    async def decide(request: Admission) -> str | None:
        return None if request.peer_id in welcome else "members only"

    return decide


def refusal(text: str, info_hash: str = HASH) -> Json:
    return {"action": "announce", "info_hash": info_hash, "failure reason": text, "interval": 120}


def dropped(tracker: Running) -> dict[str, int]:
    return {reason.value: number for reason, number in tracker.server.hub.counters.dropped.items() if number}


def sample(tracker: Running, name: str, **labels: str) -> float:
    return tracker.server.registry.get_sample_value(name, labels) or 0.0


def verdicts(tracker: Running) -> dict[str, float]:
    """How many of each there were."""
    kinds = ("admitted", "denied", "failed", "timeout", "withdrawn")
    counted = {kind: sample(tracker, "peerservers_admission_seconds_count", verdict=kind) for kind in kinds}
    return {kind: number for kind, number in counted.items() if number}


async def test_while_one_waits_everything_else_goes_on_and_then_nothing_is_lost(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    opened = asyncio.Event()

    async def decide(request: Admission) -> None:
        if request.peer_id == A and request.info_hash == HASH:
            await opened.wait()

    door = keeper(tracker, decide)
    async with raw_client(tracker.url) as a, raw_client(tracker.url) as b:
        await b.announce(B)
        await a.send(announce(A, offers=offers(1)))
        assert (await a.announce(A, OTHER))["info_hash"] == OTHER, "the same socket"
        assert (await b.announce(B))["incomplete"] == 1, "another socket"
        assert sample(tracker, "peerservers_admissions_waiting") == 1
        await a.send(announce(A, offers=offers(1, start=1)))
        assert await a.nothing_came()
        opened.set()
        assert [(await a.receive())["incomplete"] for _ in range(2)] == [2, 2]
        assert [(await b.receive())["offer_id"] for _ in range(2)] == [f"{n:020}" for n in range(2)]
        assert (await a.announce(A))["incomplete"] == 2
    assert [(request.peer_id, request.info_hash) for request in door.requests] == [(B, HASH), (A, HASH), (A, OTHER)]
    assert verdicts(tracker) == {"admitted": 3}
    assert sample(tracker, "peerservers_admissions_waiting") == 0


async def test_who_is_refused_is_told_why_and_keeps_its_socket(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    door = keeper(tracker, only(A))
    async with raw_client(tracker.url) as a:
        for _ in range(20):
            assert await a.announce(B, offers=offers(2)) == refusal("members only")
        assert (await a.announce(A))["incomplete"] == 1
    assert len(door.requests) == 21, "who was refused is asked about again"
    assert (dropped(tracker)["admission_denied"], verdicts(tracker)) == (20, {"denied": 20, "admitted": 1})


async def test_what_is_asked(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    door = keeper(tracker, admits)
    info_hash = "\x00\xff" + "h" * 18
    async with raw_client(tracker.url) as a:
        await a.announce(A, info_hash)
    (request,) = door.requests
    assert (request.info_hash, request.peer_id, request.address) == (info_hash, A, "127.0.0.1")
    assert request.info_hash_hex == "00ff" + "68" * 18


async def test_the_request_that_opened_the_connection_is_shown(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    door = keeper(tracker, admits)
    headers = [("Cookie", "a=1"), ("X-Many", "1"), ("X-Many", "2")]
    url = f"{tracker.url}some%20path/announce?token=%2e&x"
    async with raw_client(url, additional_headers=headers, origin="https://site.example") as a:
        await a.announce(A)
        await a.announce(A, OTHER)
    first, second = door.requests
    assert first.handshake == second.handshake
    assert (first.handshake.path, first.handshake.query) == ("/some%20path/announce", "token=%2e&x")
    shown = first.handshake.headers
    assert (shown["cookie"], shown["x-many"], shown["upgrade"]) == ("a=1", "1, 2", "websocket")
    assert first.origin == "https://site.example"


async def test_a_program_has_no_origin(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    door = keeper(tracker, admits)
    async with raw_client(tracker.url) as a:
        await a.announce(A)
    (request,) = door.requests
    assert (request.origin, request.handshake.path, request.handshake.query) == (None, "/", "")


async def test_the_other_fields_of_the_announce_are_shown(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    door = keeper(tracker, admits)
    async with raw_client(tracker.url) as a:
        await a.announce(A, event="started", left=None, uploaded=7, user={"id": [1, "ä"]}, offers=offers(3))
        await a.send({"action": "announce", "info_hash": OTHER, "peer_id": A})
        await a.receive()
    first, second = door.requests
    assert {name: first.fields[name] for name in ("event", "left", "uploaded", "user")} == {
        "event": "started",
        "left": None,
        "uploaded": 7,
        "user": {"id": [1, "ä"]},
    }
    assert first.fields.keys().isdisjoint(("action", "info_hash", "peer_id", "offers"))
    assert second.fields == {}


async def test_while_no_extension_decides_no_connection_keeps_its_request(serve: Any) -> None:
    def kept(tracker: Running) -> list[bytes]:
        return [socket.handshake for socket in tracker.server.endpoint.websockets if isinstance(socket, PeerSocket)]

    without, decided = await serve({"without": Extension}), await serve({"doorkeeper": Doorkeeper})
    async with raw_client(without.url), raw_client(decided.url):
        assert kept(without) == [b""]
        (head,) = kept(decided)
        assert head.startswith(b"GET / HTTP/1.1\r\n")


async def test_an_admission_may_end(serve: Any) -> None:
    tracker = await serve({"first": Doorkeeper, "second": Doorkeeper})

    def lasts(seconds: float) -> Decide:
        async def decide(_request: Admission) -> Admitted:
            return Admitted(seconds)

        return decide

    first = keeper(tracker, lasts(1000), "first")
    second = keeper(tracker, lasts(0), "second")
    async with raw_client(tracker.url) as a:
        for _ in range(3):
            assert (await a.announce(A))["incomplete"] == 1
        assert len(first.requests) == len(second.requests) == 3, "the shortest counts"
        keeper(tracker, admits, "second")
        for _ in range(3):
            assert (await a.announce(A))["incomplete"] == 1
        assert len(second.requests) == 4
        keeper(tracker, lasts(0), "second")
        assert (await a.announce(B))["incomplete"] == 2
        keeper(tracker, only(A), "second")
        assert await a.announce(B) == refusal("members only")
        assert (await a.announce(A))["incomplete"] == 1
    assert dropped(tracker)["admission_ended"] == 1


async def test_behind_a_trusted_proxy_the_address_is_the_clients(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper}, settings={"server": {"trusted_proxies": ["127.0.0.1"]}})
    door = keeper(tracker, admits)
    async with raw_client(tracker.url, additional_headers={"X-Forwarded-For": "2001:db8::7"}) as a:
        await a.announce(A)
    assert [request.address for request in door.requests] == ["2001:db8::7"]


async def test_every_extension_that_filters_must_admit(serve: Any) -> None:
    tracker = await serve({"first": Doorkeeper, "second": Doorkeeper, "without": Extension})
    keeper(tracker, only(A, B), "first")
    second = keeper(tracker, only(A, "c" * 20), "second")
    async with raw_client(tracker.url) as a:
        assert "interval" in await a.announce(A)
        assert await a.announce(B) == refusal("members only")
        assert await a.announce("c" * 20) == refusal("members only")
    assert [request.peer_id for request in second.requests] == [A, B], "the first refusal decides"


async def test_an_empty_text_refuses_too(serve: Any) -> None:
    async def says_nothing(_request: Admission) -> str:
        return ""

    tracker = await serve({"doorkeeper": Doorkeeper})
    keeper(tracker, says_nothing)
    async with raw_client(tracker.url) as a:
        assert await a.announce(A) == refusal("not admitted")


@pytest.mark.parametrize("decide", BROKEN)
async def test_one_that_fails_lets_nobody_in(serve: Any, decide: Decide) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    keeper(tracker, decide)
    async with raw_client(tracker.url) as a:
        assert await a.announce(A, offers=offers(1)) == refusal("admission failed, try again later")
        keeper(tracker, admits)
        assert "interval" in await a.announce(A), "and is asked again"
    assert dropped(tracker)["admission_failed"] == 1
    assert tracker.server.extensions.errors == {"doorkeeper": 1}
    assert verdicts(tracker) == {"failed": 1, "admitted": 1}


@pytest.mark.parametrize("decide", [stalls, insists])
async def test_one_that_takes_too_long_lets_nobody_in(serve: Any, decide: Decide) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper}, settings={"access": {"admission_timeout": 0.05}})
    keeper(tracker, decide)
    async with raw_client(tracker.url) as a:
        assert await a.announce(A) == refusal("admission took too long, try again later")
        keeper(tracker, admits)
        assert "interval" in await a.announce(A)
    assert dropped(tracker)["admission_timeout"] == 1
    assert verdicts(tracker) == {"timeout": 1, "admitted": 1}


async def test_the_time_it_may_take_can_be_changed(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper}, settings={"access": {"admission_timeout": 1000}})
    keeper(tracker, stalls)
    await tracker.server.reload(load(None, {"access": {"admission_timeout": 0.05}}))
    async with raw_client(tracker.url) as a:
        assert await a.announce(A) == refusal("admission took too long, try again later")


async def test_one_that_failed_to_start_lets_nobody_in(serve: Any) -> None:
    class FailsToStart(Doorkeeper):
        async def start(self) -> None:
            raise RuntimeError("as told")

    tracker = await serve({"doorkeeper": FailsToStart})
    door = keeper(tracker, admits)
    async with raw_client(tracker.url) as a:
        for _ in range(2):
            assert await a.announce(A) == refusal("admission failed, try again later")
    assert door.requests == []
    assert tracker.server.extensions.errors == {"doorkeeper": 1}


async def test_while_one_starts_peers_wait(serve: Any) -> None:
    started = asyncio.Event()

    class Starting(Doorkeeper):
        async def start(self) -> None:
            await started.wait()

    tracker = await serve({"doorkeeper": Starting})
    door = keeper(tracker, admits)
    async with raw_client(tracker.url) as a:
        await a.send(announce(A))
        assert await a.nothing_came()
        assert door.requests == []
        started.set()
        assert (await a.receive())["incomplete"] == 1


async def test_one_that_never_starts_lets_nobody_in(serve: Any) -> None:
    class NeverStarts(Doorkeeper):
        async def start(self) -> None:
            await asyncio.Event().wait()

    tracker = await serve({"doorkeeper": NeverStarts}, settings={"access": {"admission_timeout": 0.05}})
    async with raw_client(tracker.url) as a:
        assert await a.announce(A) == refusal("admission took too long, try again later")


async def test_many_are_asked_about_at_once_but_not_all(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_QUESTIONS", 20)
    tracker = await serve({"doorkeeper": Doorkeeper})
    opened = asyncio.Event()
    asked = most = 0

    async def decide(_request: Admission) -> None:
        nonlocal asked, most
        asked += 1
        most = max(most, asked)
        await opened.wait()
        asked -= 1

    keeper(tracker, decide)
    async with raw_client(tracker.url) as a:
        for n in range(50):
            await a.send(announce(peer_id(n)))
        await eventually(lambda: asked == 20)
        assert await a.nothing_came()
        assert sample(tracker, "peerservers_admissions_waiting") == 50
        opened.set()
        assert [(await a.receive())["incomplete"] for _ in range(50)] == list(range(1, 51)), "in the order they came"
    assert most == 20


async def test_who_asks_for_much_does_not_keep_others_waiting(serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "MAX_QUESTIONS", 1)
    tracker = await serve({"doorkeeper": Doorkeeper})
    order: list[str] = []
    turn = asyncio.Semaphore(0)

    async def decide(request: Admission) -> None:
        order.append(request.peer_id)
        await turn.acquire()

    keeper(tracker, decide)
    async with raw_client(tracker.url) as greedy, raw_client(tracker.url) as leaves, raw_client(tracker.url) as modest:
        for n in range(20):
            await greedy.send(announce(peer_id(n)))
        await eventually(lambda: sample(tracker, "peerservers_admissions_waiting") == 20)
        await leaves.send(announce(peer_id(98)))
        await modest.send(announce(peer_id(99)))
        await eventually(lambda: sample(tracker, "peerservers_admissions_waiting") == 22)
        assert (await leaves.announce(peer_id(98), event="stopped"))["incomplete"] == 0
        for _ in range(3):
            turn.release()
        assert (await modest.receive())["incomplete"] == 3
        assert order[:3] == [peer_id(0), peer_id(1), peer_id(99)]
        for _ in range(18):
            turn.release()
        for _ in range(20):
            assert "incomplete" in await greedy.receive()
    assert len(order) == 21, "who had left is not asked about"


async def test_clients_may_leave_after_the_end(serve: Any) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    keeper(tracker, stalls)
    async with raw_client(tracker.url) as a:
        await a.send(announce(A))
        await eventually(lambda: sample(tracker, "peerservers_admissions_waiting") == 1)
        tracker.server.extensions.admissions.stop()
        await a.socket.close()
        await eventually(lambda: sample(tracker, "peerservers_admissions_waiting") == 0)


@pytest.mark.parametrize("stops", [True, False])
async def test_who_leaves_is_not_asked_about_any_longer(serve: Any, stops: bool) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    cancelled = asyncio.Event()

    async def decide(_request: Admission) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    door = keeper(tracker, decide)
    async with raw_client(tracker.url) as a:
        await a.send(announce(A, offers=offers(1)))
        await eventually(lambda: len(door.requests) == 1)
        if stops:
            assert (await a.announce(A, event="stopped"))["incomplete"] == 0
            assert await a.nothing_came()
    await asyncio.wait_for(cancelled.wait(), PATIENCE)
    assert verdicts(tracker) == {"withdrawn": 1}
    assert tracker.server.extensions.errors.total() == 0
    assert tracker.server.hub.swarms == {}


@pytest.mark.parametrize("decide", [stalls, insists])
async def test_the_tracker_stops_while_peers_wait(serve: Any, decide: Decide) -> None:
    tracker = await serve({"doorkeeper": Doorkeeper})
    door = keeper(tracker, decide)
    async with raw_client(tracker.url) as a:
        await a.send(announce(A))
        await eventually(lambda: len(door.requests) == 1)
        await asyncio.wait_for(tracker.server.stop(), PATIENCE)
        assert (await a.closed())[0] == 1001
    assert tracker.server.hub.counters.failures == 0


async def test_a_stopped_extension_is_asked_no_more(serve: Any) -> None:
    events: list[str] = []

    class Closing(Doorkeeper):
        async def stop(self) -> None:
            events.append("stopped")

    async def decide(_request: Admission) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    tracker = await serve({"doorkeeper": Closing})
    door = keeper(tracker, decide)
    async with raw_client(tracker.url) as a:
        await a.send(announce(A))
        await eventually(lambda: len(door.requests) == 1)
        await tracker.server.extensions.stop(PATIENCE)
        assert events == ["cancelled", "stopped"]
        await a.send(announce(B))
        assert await a.nothing_came()
        assert len(door.requests) == 1


async def test_who_does_not_filter_costs_nothing(serve: Any) -> None:
    tracker = await serve({"without": Extension})
    assert not tracker.server.hub.pending.required
    async with raw_client(tracker.url) as a:
        assert (await a.announce(A))["incomplete"] == 1
