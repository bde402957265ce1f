"""Which trackers are dialed, and how often; and frames of a dialed WebSocket."""

from types import SimpleNamespace
from typing import Any

import pytest

from extensions.federation import mesh as module
from extensions.federation.handshake import LinkError
from extensions.federation.link import Link
from extensions.federation.mesh import ATTEMPTS, FIRST_BACKOFF, LASTING, MAX_BACKOFF, Mesh
from extensions.federation.reasons import BROKEN_RULES, WORTH_A_RETRY, EndReason
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import Dialed
from tests.unit.federation.links import URL, dialing, key, tracker_id

THEM = tracker_id(2)


class Dialing(Mesh):
    """A mesh whose dials end for given reasons, and whose clock advances only in a pause or while a link lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *reasons: EndReason, **settings: Any) -> None:
        super().__init__(FederationSettings(**settings), key(1), URL, lambda *_: None, lambda _: None)
        self.reasons = list(reasons)
        self.lasts = 0.0
        self.text = ""
        self.dialed: list[str] = []
        self.waited: list[float] = []
        self.now = 1000.0
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: self.now))

    async def wanted(self, url: str = URL, wanted_id: str = THEM) -> bool:
        """Want a tracker, and wait until it is not dialed any more."""
        wanted = self.want(wanted_id, url)
        while len(self.tasks):
            await self.tasks.wait(10)
        return wanted

    async def _dial(self, url: str, expected: str | None, trusted: bool) -> LinkError:
        del trusted
        assert expected == THEM
        self.dialed.append(url)
        self.now += self.lasts
        return LinkError(self.reasons.pop(0) if self.reasons else EndReason.NOT_ALLOWED, self.text)

    async def _pause(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.now += seconds


async def test_a_tracker_that_is_not_reached_is_dialed_again_for_some_time(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Dialing(monkeypatch, *[EndReason.UNREACHABLE] * 20)
    assert await mesh.wanted()
    assert len(mesh.dialed) == ATTEMPTS
    assert mesh.waited == [min(MAX_BACKOFF, FIRST_BACKOFF * 2**n) for n in range(ATTEMPTS)]
    assert not await mesh.wanted(), "its backoff is not over"
    mesh.now += MAX_BACKOFF
    assert await mesh.wanted(), "and is dialed again when it is found again"
    assert len(mesh.dialed) == 2 * ATTEMPTS


@pytest.mark.parametrize("reason", list(EndReason))
async def test_a_tracker_is_dialed_again_only_for_some_reasons(
    monkeypatch: pytest.MonkeyPatch, reason: EndReason
) -> None:
    mesh = Dialing(monkeypatch, reason)
    await mesh.wanted()
    assert len(mesh.dialed) == 1 + (reason in WORTH_A_RETRY)
    assert not WORTH_A_RETRY & BROKEN_RULES


async def test_a_tracker_that_stops_is_dialed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for text, again in (
        (EndReason.SHUTDOWN.value, True),
        (EndReason.IDLE.value, False),
        (EndReason.NOT_ALLOWED.value, False),
    ):
        mesh = Dialing(monkeypatch, EndReason.CLOSED_THERE)
        mesh.text = text
        await mesh.wanted()
        assert len(mesh.dialed) == 1 + again


async def test_a_link_that_has_lasted_counts_as_a_success(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Dialing(monkeypatch, *[EndReason.LOST] * 20)
    mesh.lasts = LASTING + 1
    await mesh.wanted()
    assert len(mesh.dialed) == 21
    assert set(mesh.waited) == {FIRST_BACKOFF}


async def test_a_new_url_is_dialed_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Dialing(monkeypatch, EndReason.UNREACHABLE)
    assert mesh.want(THEM, URL)
    assert not await mesh.wanted("wss://new.example.org"), "it is being dialed already"
    assert mesh.dialed == ["wss://new.example.org"] * 2


async def test_trackers_that_are_not_admitted_or_linked_already_are_not_dialed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not await Dialing(monkeypatch).wanted(wanted_id=tracker_id(1))
    assert not await Dialing(monkeypatch, deny=[THEM]).wanted()
    assert not await Dialing(monkeypatch, policy="allow").wanted()
    assert await Dialing(monkeypatch, policy="allow", allow=[THEM]).wanted()
    linked = Dialing(monkeypatch)
    linked.links[THEM] = a_link()
    assert not await linked.wanted()
    stopped = Dialing(monkeypatch)
    await stopped.stop()
    assert not await stopped.wanted()


async def test_a_tracker_that_has_dialed_this_one_meanwhile_is_not_dialed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mesh = Dialing(monkeypatch, *[EndReason.UNREACHABLE] * 20)
    mesh.want(THEM, URL)
    mesh.links[THEM] = a_link()
    await mesh.wanted()
    assert len(mesh.dialed) == 1


# Transports and links


class Socket:
    """Has received something."""

    def __init__(self, frame: object) -> None:
        self._frame = frame

    async def recv(self) -> object:
        return self._frame


async def test_frames_are_text() -> None:
    text: Any = Socket("ü")
    assert await Dialed(text).receive() == "ü".encode()
    binary: Any = Socket(b"{}")
    with pytest.raises(LinkError) as caught:
        await Dialed(binary).receive()
    assert caught.value.reason is EndReason.INVALID_MESSAGE


def a_link() -> Link:
    """A link without a transport."""
    nothing: Any = None
    return Link(dialing(), nothing, URL, lambda *_: None)
