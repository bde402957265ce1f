"""The links of this tracker: accepting, opening, one link for each pair of trackers, room for new ones."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dialing import is_public, network_of
from extensions.federation import wire
from extensions.federation.admission import Admission
from extensions.federation.events import Opened
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.limits import Budget, Turns
from extensions.federation.link import HANDSHAKE_TIMEOUT, Link, LinkEvent
from extensions.federation.listed import Listed
from extensions.federation.reasons import BROKEN_RULES, Ended, EndReason
from extensions.federation.room import weakest
from extensions.federation.session import MAX_FILTERS, Session
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import Accepted, Dialer, Transport
from extensions.trackers import normal
from tracker.extension import BackgroundTasks, Channel, without_secrets

YOUNG: Final = 1.0
"""Seconds for which a link is not taken for dead when the same side dials again."""

MAX_HANDSHAKES: Final = 50
MAX_HANDSHAKES_PER_HOST: Final = 5
"""Accepted links in handshake at the same time, and those of one public address (IPv6: of one /64). A private address
may be a proxy's and has only the first limit."""

STOP_TIMEOUT: Final = 1.0
"""Seconds in which links may still send `bye`, and close, when the tracker stops."""

NO_ROOM_PERIOD: Final = 1.0
"""Seconds until all links are examined again for one that could give way to a link that this tracker would dial."""

FULL_PERIOD: Final = 600.0
"""Seconds between two lines in the log that say that there is not enough room for links, or for filters."""

Connect = Callable[[str, bool], Awaitable[Transport]]
"""Connects to a URL, which is trusted or not. Raises `LinkError`."""


class Mesh:
    """The links of this tracker.

    `on_event` is called with each event of an open link, first `Opened`; `on_end` once when a link that was open
    has ended; `on_no_room` with each link that is about to end because there is no room for it. `task_failures`
    counts the background tasks that fail, by name. `connect` makes the connections of dialed links, by default
    WebSockets. `swarms` are those that are open here.
    """

    def __init__(
        self,
        settings: FederationSettings,
        key: Ed25519PrivateKey,
        public_url: str,
        on_event: Callable[[Link, LinkEvent], None],
        on_end: Callable[[Link], None],
        on_no_room: Callable[[Link], None],
        task_failures: Counter[str] | None = None,
        connect: Connect | None = None,
        swarms: OwnSwarms | None = None,
    ) -> None:
        self.links: dict[str, Link] = {}
        """The open links by tracker id."""
        self.opened: Counter[str] = Counter()
        """Links that have been opened, by direction: "dialed", "accepted"."""
        self.ended: Counter[EndReason] = Counter()
        self.closed_there: Counter[str] = Counter()
        """Links and attempts that the other side has ended, by its reason, which is an `EndReason` or `OTHER`."""
        self.refused = 0
        """Links that were refused or given up for want of room."""
        self.listed = {url: Listed(url) for url in settings.peers}
        """The listed trackers by URL."""
        self.id = key.public_key().public_bytes_raw().hex()
        self.admission = Admission(settings, self.id, self.listed.values())
        self.max_links = settings.max_links
        self.tasks = BackgroundTasks(task_failures)
        """Those that dial."""
        self._key = key
        self._own_urls = {normal(url) for url in (public_url, *settings.aliases) if url}
        self._has_url = bool(public_url)
        self._idle_timeout = settings.idle_timeout
        self._on_event = on_event
        self._on_end = on_end
        self._on_no_room = on_no_room
        self._handshakes: Counter[str] = Counter()
        """Accepted links in handshake, by network."""
        self._nonces: set[bytes] = set()
        """Those of the links that have not ended, or whose other end may not know yet that it is here."""
        self._has_copy = False
        """Whether another tracker has proved that it has the same key."""
        self._no_room_until = {True: 0.0, False: 0.0}
        self._filters_refused = 0
        self._logged: dict[str, float] = {}
        """When the operator was told of each shortage."""
        self._swarms = OwnSwarms() if swarms is None else swarms
        self._budget = Budget(MAX_FILTERS, settings.max_links)
        self._turns = Turns()
        self._connect = connect or Dialer().connect
        self._dialing: dict[asyncio.Task[Any] | None, None] = {}
        self._running: dict[Link, None] = {}
        """The links that have not ended, also those in handshake."""
        self._accepted: set[asyncio.Task[Any]] = set()
        """Those that serve accepted links."""
        self._closing = asyncio.Event()
        self._log = structlog.get_logger().bind(extension="federation")

    @property
    def handshakes(self) -> int:
        """Accepted links in handshake."""
        return self._handshakes.total()

    @property
    def is_closing(self) -> bool:
        """Whether the tracker stops, and no more links are made."""
        return self._closing.is_set()

    @property
    def is_full(self) -> bool:
        """Whether a new link needs the place of another one."""
        return len(self.links) >= self.max_links

    async def stop(self) -> None:
        """End all links."""
        self._closing.set()
        for task in self._dialing:
            if task:
                task.cancel()
        for link in self._running:
            link.end(EndReason.SHUTDOWN)
        # So that they can send `bye`, also through the connections of another node.
        await asyncio.gather(self.tasks.wait(STOP_TIMEOUT), _ended(self._accepted))
        await self.tasks.stop()

    async def pause(self, seconds: float) -> None:
        """Wait, but not longer than until the tracker stops."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()

    @asynccontextmanager
    async def connecting(self) -> AsyncIterator[None]:
        """Let `stop` cancel the current task until it has a link."""
        task = asyncio.current_task()
        self._dialing[task] = None
        try:
            yield
        finally:
            self._dialing.pop(task, None)

    async def connect(self, url: str, trusted: bool) -> Transport | Ended:
        """Connect to a tracker. Return why that has failed, if it has."""
        try:
            return await self._connect(url, trusted)
        except LinkError as error:
            # Not the exception: its traceback would keep this frame in memory.
            ended = Ended(error.reason, str(error))
        self._count("", url, ended)
        return ended

    async def serve(
        self, transport: Transport, url: str, expected: str | None = None, wanted: Collection[str] = ()
    ) -> Ended:
        """Serve a link that this tracker has dialed, until it ends.

        `expected` is the tracker id that the other side must have; None for a listed URL. `wanted` are infohashes of
        swarms for which the link is made.
        """
        session = Session(
            self._key,
            os.urandom(32),
            url=url,
            expected=expected,
            swarms=self._swarms,
            budget=self._budget,
            own_nonces=self._nonces,
            wanted=list(wanted),
        )
        return await self._run(session, transport, url, "", trusted=expected is None, wanted=wanted)

    async def accept(self, channel: Channel) -> None:
        """Serve a link that another tracker has dialed, until it ends."""
        address = channel.remote_address
        host = network_of(address, 32)
        limit = MAX_HANDSHAKES_PER_HOST if is_public(address) else MAX_HANDSHAKES
        if self.is_closing or self.handshakes >= MAX_HANDSHAKES or self._handshakes[host] >= limit:
            reason = EndReason.SHUTDOWN if self.is_closing else EndReason.TOO_MANY_LINKS
            self.ended[reason] += 1
            # The dialer must know that it may try again later. Nothing waits until it reads this.
            channel.send(wire.encode(wire.Bye(reason.value)))
            return
        session = Session(
            self._key,
            os.urandom(32),
            accepts=self._is_own_url,
            swarms=self._swarms,
            budget=self._budget,
            own_nonces=self._nonces,
        )
        task = asyncio.current_task()
        assert task
        self._accepted.add(task)
        try:
            await self._run(session, Accepted(channel), "", host, trusted=False, wanted=())
        finally:
            self._accepted.discard(task)

    def has_room(self, common: bool) -> bool:
        """Return whether a new link would find a place. `common`: it has a common swarm.

        If there was no place a moment ago, there is none now.
        """
        if not self.is_full:
            return True
        now = time.monotonic()
        if now < self._no_room_until[common]:
            return False
        if self._weakest(common):
            return True
        self._no_room_until[common] = now + NO_ROOM_PERIOD
        return False

    @property
    def shortage(self) -> str:
        """The place that there is not enough of, for people; empty if there is enough of everything."""
        lacks = ["max_links is reached"] if self.is_full else []
        if self._budget.refused:
            lacks.append("no memory for more filters")
        return ", ".join(lacks)

    def end_idle(self) -> None:
        """End links without common swarms, if more than half of all possible links are open; listed ones stay."""
        now = time.monotonic()
        if self._budget.refused > self._filters_refused:
            self._filters_refused = self._budget.refused
            self._log_shortage("filters_full", max_bytes=MAX_FILTERS, refused=self._budget.refused)
        links = list(self.links.values())
        for link in links:
            if link.account.members:
                link.account.last_shared = now
        # A link that is not needed now costs little, and the next common swarm needs no lookup in the DHT.
        if len(links) > self.max_links // 2:
            for link in links:
                is_idle = now - link.account.last_shared > self._idle_timeout
                if is_idle and not self.admission.is_listed(link.tracker_id):
                    link.end(EndReason.IDLE)

    async def _run(
        self, session: Session, transport: Transport, url: str, host: str, trusted: bool, wanted: Collection[str]
    ) -> Ended:
        handshake = Counter([host] if host else [])
        was_open = False

        def on_event(link: Link, event: LinkEvent) -> None:
            nonlocal was_open
            if isinstance(event, Opened):
                self._handshakes -= handshake
                handshake.clear()
                was_open = self._open(link, trusted)
                if not was_open:
                    return
            if self.links.get(link.tracker_id) is link:
                # It may have been replaced and still have messages to read.
                self._on_event(link, event)

        link = Link(session, transport, url, on_event, self._turns, wanted)
        self._handshakes += handshake
        self._running[link] = None
        self._nonces.add(session.nonce)
        ended = Ended(EndReason.SHUTDOWN)
        try:
            error = await link.run()
            ended = Ended(error.reason, str(error), link.age if was_open else None)
            # Its traceback would keep the link in memory.
            del error
        except Exception:
            self._log.exception("link_failed")
            ended = Ended(EndReason.INTERNAL_ERROR)
        finally:
            self._handshakes -= handshake
            self._running.pop(link, None)
            if ended.reason is EndReason.ITSELF:
                # The other end, which is here, too, may not have read the first message yet.
                asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self._nonces.discard, session.nonce)
            else:
                self._nonces.discard(session.nonce)
            session.release()
            if self.links.get(link.tracker_id) is link:
                del self.links[link.tracker_id]
                self._on_end(link)
            self._count(link.tracker_id, url, ended)
            if ended.reason in BROKEN_RULES and session.their_id:
                self.admission.shun(session.their_id, ended.reason, time.monotonic())
            await link.close(ended.reason)
        return ended

    def _open(self, link: Link, trusted: bool) -> bool:
        """Enter a link whose other side has proved its id, unless something forbids it. Return whether it is open."""
        tracker_id = link.tracker_id
        now = time.monotonic()
        if self.is_closing:
            link.end(EndReason.SHUTDOWN)
            return False
        if trusted:
            self.listed[link.url].tracker_id = tracker_id
        if not self.admission.admits(tracker_id, now):
            broken = self.admission.shunned_for(tracker_id, now)
            link.end(EndReason.NOT_ALLOWED, f"shunned because of {broken}" if broken else "")
            return False
        other = self.links.get(tracker_id)
        if other:
            # Tie-breaker. If each side has dialed, both keep the link that the lesser id has dialed. If the same side
            # has dialed twice, the older link is dead.
            if bool(other.url) != bool(link.url) and (self.id < tracker_id) != bool(link.url):
                link.end(EndReason.DUPLICATE)
                return False
            is_same_way = bool(other.url) == bool(link.url)
            if is_same_way and other.age < YOUNG and other.session.rank > link.session.rank:
                # The same side has dialed twice at once, by two URLs. Both ends must keep the same link.
                link.end(EndReason.DUPLICATE)
                return False
            self._evict(other, EndReason.REPLACED)
        elif self.is_full and not self.admission.is_listed(tracker_id):
            weakest = self._weakest(bool(link.wanted))
            self._note_full()
            if weakest is None:
                self._on_no_room(link)
                link.end(EndReason.TOO_MANY_LINKS)
                return False
            self._on_no_room(weakest)
            self._evict(weakest, EndReason.IDLE)
        self.links[tracker_id] = link
        self.opened[link.direction] += 1
        self._log.info("linked", tracker=tracker_id[:16], url=link.url or "-")
        return True

    def _evict(self, link: Link, reason: EndReason) -> None:
        link.end(reason)
        del self.links[link.tracker_id]
        self._on_end(link)

    def _weakest(self, common: bool) -> Link | None:
        links = (link for link in self.links.values() if not self.admission.is_listed(link.tracker_id))
        return weakest(links, time.monotonic(), common)

    def _note_full(self) -> None:
        """Count a link that another one gives way to, or that is refused, and tell the operator now and then."""
        self.refused += 1
        self._log_shortage("links_full", max_links=self.max_links, refused=self.refused)

    def _log_shortage(self, event: str, **numbers: int) -> None:
        now = time.monotonic()
        if now - self._logged.get(event, -FULL_PERIOD) >= FULL_PERIOD:
            self._logged[event] = now
            self._log.warning(event, **numbers)

    def _is_own_url(self, url: str) -> bool:
        return not self._has_url or normal(url) in self._own_urls

    def _count(self, tracker_id: str, url: str, ended: Ended) -> None:
        self.ended[ended.reason] += 1
        if ended.given:
            self.closed_there[ended.given] += 1
        if ended.reason is EndReason.SAME_KEY and not self._has_copy:
            self._has_copy = True
            self._log.error("identity_copied", url=url or "-")
        # Any member of the DHT can publish URLs that lead nowhere. Of listed trackers, `_keep` tells.
        level = self._log.info if tracker_id else self._log.debug
        if ended.reason in BROKEN_RULES:
            level = self._log.warning
        text = without_secrets(ended.text)
        level("link_ended", tracker=tracker_id[:16], url=url or "-", reason=ended.reason.value, text=text)


async def _ended(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Wait until tasks have ended, for `STOP_TIMEOUT` seconds at most."""
    if tasks:
        await asyncio.wait(tasks, timeout=STOP_TIMEOUT)
