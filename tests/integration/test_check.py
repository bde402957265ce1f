"""`check` against small trackers with one oddity each: only the steps that meet it fail, and a choice is no fault."""

import asyncio
import json
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from tests.certificates import Pair
from tests.client import Json
from tests.conftest import StartTracker, TrackerProcess
from tests.integration.small_tracker import SmallTracker, served
from tracker.check import MAX_DETAIL, check, tls_context, tracker_url
from tracker.check.report import Outcome, Report
from tracker.check.steps import STEPS

TIMEOUT = 2.0
"""Seconds that a step waits for a message that does not come."""

LONG = 20.0

ONLY_20_BYTES = "serves ids of other lengths"


async def checked(tracker: SmallTracker, time_limit: float = LONG, **options: Any) -> Report:
    """Check a tracker."""
    async with served(tracker, **options) as url:
        return await check(url, time_limit)


def unusual(report: Report) -> dict[str, tuple[Outcome, str]]:
    """Return outcome and detail of each step that does not simply work."""
    return {r.name: (r.outcome, r.detail) for r in report.results if r.outcome is not Outcome.WORKS}


def faults(report: Report) -> dict[str, str]:
    """Return the detail of each step that the tracker fails."""
    return {name: detail for name, (outcome, detail) in unusual(report).items() if outcome is Outcome.FAULT}


async def test_a_tracker_without_oddities_does_everything_and_numwant_is_always_sent() -> None:
    tracker = SmallTracker()
    report = await checked(tracker)
    assert unusual(report) == {}
    assert report.peers_can_meet
    assert [announce for announce in tracker.announces if not isinstance(announce.get("numwant"), int)] == []


async def test_this_tracker_does_everything(tracker: TrackerProcess) -> None:
    assert unusual(await check(tracker.url, LONG)) == {}


class ClosesAtNonsense(SmallTracker):
    async def send(self, socket: ServerConnection, message: Json) -> None:
        if "failure reason" in message:
            await socket.close(1002, "nonsense")
        else:
            await super().send(socket, message)


async def test_to_close_the_socket_of_nonsense_is_a_choice() -> None:
    report = await checked(ClosesAtNonsense())
    closes = "closes the socket of no JSON, null, an unknown action"
    assert unusual(report) == {"survives bad input": (Outcome.DIFFERS, closes)}
    assert report.peers_can_meet


class FallsAtNonsense(ClosesAtNonsense):
    """All sockets are closed at once, as if the program had crashed and been started again."""

    async def send(self, socket: ServerConnection, message: Json) -> None:
        if "failure reason" in message:
            for swarm in self.swarms.values():
                for other, _ in list(swarm.values()):
                    await other.close(1001, "crashed")
        await super().send(socket, message)


async def test_to_close_other_peers_sockets_is_a_fault() -> None:
    text = "no JSON, for a peer on another socket: the tracker closed the socket (1001 crashed)"
    assert unusual(await checked(FallsAtNonsense())) == {"survives bad input": (Outcome.FAULT, text)}


class ClosesAt(SmallTracker):
    """Closes the socket of an announce or answer that it does not take."""

    def __init__(self, unwelcome: Callable[[Json], bool]) -> None:
        super().__init__()
        self.unwelcome = unwelcome

    async def announce(self, socket: ServerConnection, message: Json) -> None:
        if self.unwelcome(message):
            await socket.close(1002, "odd")
        else:
            await super().announce(socket, message)


class OnePeerASocket(SmallTracker):
    """Closes a socket with a second peer_id, as openwebtorrent-tracker does."""

    def __init__(self) -> None:
        super().__init__()
        self.names: dict[ServerConnection, str] = {}

    async def announce(self, socket: ServerConnection, message: Json) -> None:
        if self.names.setdefault(socket, message["peer_id"]) != message["peer_id"]:
            await socket.close(1002, "second peer_id")
        else:
            await super().announce(socket, message)


async def test_each_socket_has_one_peer_also_for_nonsense() -> None:
    assert unusual(await checked(OnePeerASocket())) == {}


CLOSED = "the tracker closed the socket (1002 odd)"


@pytest.mark.parametrize(
    ("unwelcome", "step", "detail"),
    [
        (
            lambda message: message.get("event") == "paused",
            "takes libtorrent's and anacrolix's events",
            f"'paused': {CLOSED}",
        ),
        (lambda message: len(message.get("offers", [])) == 10, "takes large messages", CLOSED),
        (lambda message: message.get("event") == "stopped", "answers `stopped`", CLOSED),
        (lambda message: message.get("left") is None and "answer" not in message,
         "counts a peer without `left` as leecher", CLOSED),
    ],
    ids=["events", "large", "stopped", "left"],
)  # fmt: skip
async def test_a_closed_socket_fails_only_the_step_that_closed_it(
    unwelcome: Callable[[Json], bool], step: str, detail: str
) -> None:
    assert unusual(await checked(ClosesAt(unwelcome))) == {step: (Outcome.FAULT, detail)}


async def test_to_close_at_an_answer_that_comes_too_late_is_a_fault() -> None:
    class ClosesAtStrayAnswers(ClosesAt):
        def __init__(self) -> None:
            super().__init__(lambda message: message.get("to_peer_id", "") not in self.everyone())

        def everyone(self) -> set[str]:
            return {"", *(name for swarm in self.swarms.values() for name in swarm)}

    expected = {"survives an answer to an unknown peer": (Outcome.FAULT, CLOSED)}
    assert unusual(await checked(ClosesAtStrayAnswers())) == expected


async def test_only_infohashes_are_a_choice() -> None:
    class Strict(ClosesAt):
        def __init__(self) -> None:
            super().__init__(lambda message: len(message["info_hash"]) != 20 and message["info_hash"] != "")

    text = f"only ids of 20 bytes ({CLOSED})"
    assert unusual(await checked(Strict())) == {ONLY_20_BYTES: (Outcome.DIFFERS, text)}


async def test_no_scrapes_no_replies_to_stopped_and_no_counts_are_choices() -> None:
    class Terse(SmallTracker):
        async def scrape(self, socket: ServerConnection, message: Json) -> None:
            pass

        async def reply(self, socket: ServerConnection, message: Json, swarm: dict[str, Any]) -> None:
            if message.get("event") != "stopped":
                await self.send(socket, {"info_hash": message["info_hash"], "interval": 120})

    report = await checked(Terse(), TIMEOUT)
    assert unusual(report) == {
        "answers an announce": (Outcome.DIFFERS, "the reply has no number as complete and incomplete"),
        "counts a peer without `left` as leecher": (Outcome.UNTRIED, "the tracker sends no counts"),
        "scrape": (Outcome.DIFFERS, "no reply within 2 s"),
        "answers `stopped`": (Outcome.DIFFERS, "without a reply, for which clients wait a second at most"),
        "a closed socket leaves the swarm": (Outcome.UNTRIED, "the tracker sends no counts"),
    }
    assert report.peers_can_meet


async def test_a_scrape_without_unknown_swarms_is_a_choice_and_one_without_the_swarm_a_fault() -> None:
    class Scraping(SmallTracker):
        def __init__(self, kept: int) -> None:
            super().__init__()
            self.kept = kept

        async def scrape(self, socket: ServerConnection, message: Json) -> None:
            await super().scrape(socket, {"info_hash": message["info_hash"][: self.kept]})

    leaves_out = Outcome.DIFFERS, "leaves out swarms that it does not know"
    assert unusual(await checked(Scraping(1))) == {"scrape": leaves_out}
    assert unusual(await checked(Scraping(0))) == {"scrape": (Outcome.FAULT, "the swarm is not in the reply")}


async def test_a_lost_peer_and_ghosts_are_faults() -> None:
    class Forgetful(SmallTracker):
        """Keeps the first socket of a peer, and peers whose socket is closed."""

        def join(self, swarm: dict[str, Any], socket: ServerConnection, message: Json) -> None:
            known = swarm.get(message["peer_id"])
            super().join(swarm, known[0] if known else socket, message)

        def forget(self, swarm: dict[str, Any], socket: ServerConnection) -> None:
            pass

    assert unusual(await checked(Forgetful(), TIMEOUT)) == {
        "a reconnected peer is reached": (Outcome.FAULT, "on the new socket: no offer within 2 s"),
        "a closed socket leaves the swarm": (Outcome.FAULT, "still counted after 2 s"),
    }


async def test_a_slow_tracker_works() -> None:
    class Slow(SmallTracker):
        async def send(self, socket: ServerConnection, message: Json) -> None:
            await asyncio.sleep(0.05)
            await super().send(socket, message)

    report = await checked(Slow())
    assert unusual(report) == {}
    [detail] = [result.detail for result in report.results if result.name == "answers an announce"]
    assert float(detail.split()[1]) >= 40


async def test_a_tracker_that_is_full_is_not_blamed_for_later_steps() -> None:
    left = iter(range(2 + 1 + 2 + 2))  # the sockets of the needed steps

    def full(socket: ServerConnection, _: Request) -> Response | None:
        return None if next(left, None) is not None else socket.respond(HTTPStatus.TOO_MANY_REQUESTS, "later\n")

    report = await checked(SmallTracker(), process_request=full)
    untried = Outcome.UNTRIED, "cannot connect again: HTTP 429 Too Many Requests: later"
    assert unusual(report) == {step.name: untried for step in STEPS if not step.needed}
    assert report.peers_can_meet


@pytest.mark.parametrize(
    ("body", "detail"),
    [
        ("\n  go\taway\nnow\n", "HTTP 403 Forbidden: go away"),
        ("<html><head><title>Not\x1b yours</title></head><body>x</body></html>", "HTTP 403 Forbidden: Not? yours"),
        ("<html>\r\n<body><h1>No</h1></body></html>", "HTTP 403 Forbidden: No"),
        ("<title>403 Forbidden</title>", "HTTP 403 Forbidden"),
        ("", "HTTP 403 Forbidden"),
        ("x" * 1000, f"HTTP 403 Forbidden: {'x' * 1000}"[:MAX_DETAIL]),
    ],
)
async def test_the_first_line_of_a_refusal_is_shown(body: str, detail: str) -> None:
    report = await checked(SmallTracker(), process_request=lambda socket, _: socket.respond(HTTPStatus.FORBIDDEN, body))
    assert faults(report) == {"connects": detail}
    assert not report.peers_can_meet
    assert {result.outcome for result in report.results[1:]} == {Outcome.UNTRIED}


async def test_a_redirect_is_a_refusal_as_for_browsers() -> None:
    def redirect(socket: ServerConnection, _: Request) -> Response:
        response = socket.respond(HTTPStatus.MOVED_PERMANENTLY, "")
        response.headers["Location"] = "wss://tracker.example.org/"
        return response

    text = "HTTP 301 Moved Permanently to wss://tracker.example.org/, which browsers do not follow"
    assert faults(await checked(SmallTracker(), process_request=redirect)) == {"connects": text}


async def test_a_subprotocol_that_was_not_offered_is_refused_as_by_browsers() -> None:
    def select(_: ServerConnection, __: Any) -> Subprotocol:
        return Subprotocol("odd")

    def echo(_: ServerConnection, offered: list[Subprotocol]) -> Subprotocol | None:
        return offered[0] if offered else None

    assert list(faults(await checked(SmallTracker(), select_subprotocol=select))) == ["connects"]
    assert unusual(await checked(SmallTracker(), select_subprotocol=echo)) == {}


async def test_a_server_that_never_answers() -> None:
    class Silent(SmallTracker):
        async def received(self, socket: ServerConnection, payload: str | bytes) -> None:
            pass

    assert faults(await checked(Silent(), TIMEOUT)) == {"answers an announce": "no reply within 2 s"}

    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(ignore, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        report = await check(f"ws://{host}:{port}/", TIMEOUT)
    assert list(faults(report)) == ["connects"]


class Changing(SmallTracker):
    """Changes offers, or leaves them out."""

    def __init__(self, change: Callable[[Json], Json]) -> None:
        super().__init__()
        self.change = change

    def offer(self, offer: Json) -> Json:
        return self.change(offer)


@pytest.mark.parametrize(
    "offer", [5, {"type": "offer", "sdp": "changed"}, {"type": "answer", "sdp": "v=0"}, {"type": "offer"}]
)
async def test_a_changed_offer(offer: object) -> None:
    report = await checked(Changing(lambda sent: {**sent, "offer": offer}))
    assert faults(report) == {"relays an offer": "the offer arrives changed"}


async def test_an_offer_that_does_not_come() -> None:
    report = await checked(Changing(lambda _: {}), TIMEOUT)
    assert faults(report) == {"relays an offer": "no offer within 2 s"}
    assert not report.peers_can_meet


async def test_binary_frames() -> None:
    class Binary(SmallTracker):
        async def send(self, socket: ServerConnection, message: Json) -> None:
            await socket.send(json.dumps(message).encode())

    text = "answers in binary frames, which browsers' clients cannot read"
    assert faults(await checked(Binary())) == {"answers an announce": text}


async def test_the_report_is_said_step_by_step() -> None:
    said: list[str] = []
    steps_begun: list[int] = []

    class Watched(SmallTracker):
        async def announce(self, socket: ServerConnection, message: Json) -> None:
            steps_begun.append(sum(text.rstrip() in {step.name for step in STEPS} for text in said))
            await super().announce(socket, message)

    async with served(Watched()) as url:
        report = await check(url, LONG, say=said.append)
    assert steps_begun == sorted(steps_begun)
    assert set(steps_begun) >= {2, 3, len(STEPS)}, "each name is said before its step"
    lines = "".join(said).splitlines()
    assert lines[0] == url
    assert len(lines) == 2 + len(STEPS) + 2
    assert lines[3].split() == ["answers", "an", "announce", "yes", "*", *report.results[1].detail.split()]
    assert lines[-1] == "Peers can meet here. (* is needed for that)"


async def test_a_private_authority(start_tracker: StartTracker, tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    tracker = await start_tracker(env=pair.env)
    url = f"wss://localhost:{tracker.port}/"
    assert faults(await check(url, LONG))["connects"].startswith("certificate: ")
    for context in (tls_context(pair.authority, verify=True), tls_context(None, verify=False)):
        assert unusual(await check(url, LONG, context)) == {}
    wrong_name = await check(f"wss://127.0.0.1:{tracker.port}/", LONG, tls_context(pair.authority, verify=True))
    assert "127.0.0.1" in faults(wrong_name)["connects"]


def test_a_file_without_certificates(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("nothing")
    with pytest.raises(ValueError, match="no certificate in PEM"):
        tls_context(file, verify=True)


async def test_a_unix_domain_socket_with_tls(start_tracker: StartTracker, tmp_path: Path) -> None:
    tracker = await start_tracker(host=f"unix:{tmp_path / 'socket'}", env=Pair(tmp_path).env)
    assert list(faults(await check(tracker.url, LONG))) == ["connects"]
    assert unusual(await check(tracker.url, LONG, tls_context(None, verify=False))) == {}


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("ws://127.0.0.1:8000", "ws://127.0.0.1:8000"),
        ("wss://[::1]/path?a=b", "wss://[::1]/path?a=b"),
        ("HTTP://example.org:80", "ws://example.org:80"),
        ("https://example.org/x", "wss://example.org/x"),
        ("unix:/run/socket", "unix:/run/socket"),
    ],
)
def test_good_urls(text: str, url: str) -> None:
    assert tracker_url(text) == url


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tracker.example.org", "no scheme; did you mean wss://tracker.example.org"),
        ("localhost:8000", "no scheme"),
        ("udp://tracker.example.org:80", "the scheme 'udp'"),
        ("ws://", "host"),
        ("ws://a b/", "space"),
        ("ws://a\x1b/", "control"),
        ("ws://a:99999/", "ort"),
        ("ws://a:x/", "ort"),
        ("ws://[::1/", "IPv6"),
        ("ws://a..b/", "label"),
        ("ws://a/#part", "fragment"),
        ("unix:", "path"),
        ("", "scheme"),
    ],
)
def test_bad_urls(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        tracker_url(text)
