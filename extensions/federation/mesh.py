"""The links of this tracker: dialing, accepting, one link for each pair of trackers, backoff, shunning."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import nullcontext, suppress
from typing import Any, Final

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dialing import is_public, network_of
from extensions.federation.events import Opened
from extensions.federation.filters import OwnSwarms
from extensions.federation.handshake import LinkError
from extensions.federation.limits import Budget, Turns
from extensions.federation.link import Link, LinkEvent
from extensions.federation.listed import Listed
from extensions.federation.reasons import BROKEN_RULES, WORTH_A_RETRY, EndReason
from extensions.federation.session import MAX_FILTERS, Session
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import Accepted, Dialer, Transport
from extensions.trackers import normal
from tracker.extension import BackgroundTasks, Channel, ExpiringMap, without_secrets

FIRST_BACKOFF: Final = 1.0
MAX_BACKOFF: Final = 300.0
"""Seconds until a tracker that was not reached is dialed again: doubled after each attempt, up to the second number."""

MAX_LISTED_BACKOFF: Final = 60.0
"""The same maximum for a listed tracker."""

ATTEMPTS: Final = 8
"""Dials of a tracker that is not reached. After these it is dialed only if the DHT names it again."""

YOUNG: Final = 1.0
"""Seconds for which a link is not taken for dead when the same side dials again."""

LASTING: Final = 60.0
"""Seconds after which a link that ends does not count as a failed attempt."""

TRIAL: Final = 120.0
"""Seconds after which a link without an answer to any offer may be replaced, though it claims common swarms."""

SHUN: Final = 600.0
"""Seconds for which a tracker that has broken a rule is neither dialed nor accepted."""

MAX_DIALS: Final = 8
"""Trackers that are dialed at the same time; listed ones do not count."""

MAX_HANDSHAKES: Final = 50
MAX_HANDSHAKES_PER_HOST: Final = 5
"""Accepted links in handshake at the same time, and those of one public address (IPv6: of one /64). A private address
may be a proxy's and has only the first limit."""

STOP_TIMEOUT: Final = 2.0
"""Seconds in which links may still send `bye` when the tracker stops."""

MAX_REMEMBERED: Final = 2000
"""Trackers for which shunning, and the end of a backoff, are remembered."""

Connect = Callable[[str, bool], Awaitable[Transport]]
"""Connects to a URL, which is trusted or not. Raises `LinkError`."""


class Mesh:
    """The links of this tracker.

    `on_event` is called with each event of an open link, first `Opened`; `on_end` once when a link that was open has
    ended. `task_failures` counts the background tasks that fail, by name. `connect` makes the connections of dialed
    links, by default WebSockets. `swarms` are those that are open here.
    """

    def __init__(
        self,
        settings: FederationSettings,
        key: Ed25519PrivateKey,
        public_url: str,
        on_event: Callable[[Link, LinkEvent], None],
        on_end: Callable[[Link], None],
        task_failures: Counter[str] | None = None,
        connect: Connect | None = None,
        swarms: OwnSwarms | None = None,
    ) -> None:
        self.links: dict[str, Link] = {}
        """The open links by tracker id."""
        self.opened: Counter[str] = Counter()
        """Links that have been opened, by direction: "dialed", "accepted"."""
        self.ended: Counter[EndReason] = Counter()
        self.listed = {url: Listed(url) for url in settings.peers}
        """The listed trackers by URL."""
        self.id = key.public_key().public_bytes_raw().hex()
        self.tasks = BackgroundTasks(task_failures)
        """One for each tracker that is listed or pursued."""
        self._settings = settings
        self._key = key
        self._own_urls = {normal(url) for url in (public_url, *settings.aliases) if url}
        self._has_url = bool(public_url)
        self._on_event = on_event
        self._on_end = on_end
        self._pursued: dict[str, str] = {}
        """The URLs of the trackers that `want` has begun to link with, by tracker id."""
        self._backoffs: dict[str, float] = {}
        """The times until which pursued trackers are not dialed again, by tracker id."""
        self._shunned: ExpiringMap[str, EndReason] = ExpiringMap(SHUN, MAX_REMEMBERED)
        self._handshakes: Counter[str] = Counter()
        """Accepted links in handshake, by network."""
        self._nonces: set[bytes] = set()
        """Those of the links that have not ended."""
        self._has_copy = False
        """Whether another tracker has proved that it has the same key."""
        self._swarms = OwnSwarms() if swarms is None else swarms
        self._budget = Budget(MAX_FILTERS, settings.max_links)
        self._turns = Turns()
        self._gate = asyncio.Semaphore(MAX_DIALS)
        self._connect = connect or Dialer().connect
        self._dialing: dict[asyncio.Task[Any] | None, None] = {}
        self._closing = asyncio.Event()
        self._log = structlog.get_logger().bind(extension="federation")

    @property
    def pursued(self) -> int:
        """Trackers that `want` has begun to link with, and has not given up."""
        return len(self._pursued)

    @property
    def handshakes(self) -> int:
        """Accepted links in handshake."""
        return self._handshakes.total()

    def start(self) -> None:
        """Begin to dial the listed trackers."""
        for listed in self.listed.values():
            self.tasks.start("federation_listed", self._keep(listed))

    async def stop(self) -> None:
        """End all links."""
        self._closing.set()
        for task in self._dialing:
            if task:
                task.cancel()
        for link in list(self.links.values()):
            link.end(EndReason.SHUTDOWN)
        # So that they can send `bye`.
        await self.tasks.wait(STOP_TIMEOUT)
        await self.tasks.stop()

    def want(self, tracker_id: str, url: str) -> bool:
        """Begin to link with a tracker that the DHT has named, unless something forbids it. Return whether it begins.

        If the tracker is not reached, or the link is lost, it is dialed again for some time.
        """
        if tracker_id in self._pursued:
            self._pursued[tracker_id] = url
            return False
        if (
            self._closing.is_set()
            or tracker_id in self.links
            or not self._admits(tracker_id)
            or len(self._pursued) >= 2 * self._settings.max_links
            or (len(self.links) >= self._settings.max_links and not self._useless())
            or self._backoffs.get(tracker_id, 0.0) > time.monotonic()
        ):
            return False
        self._pursued[tracker_id] = url
        self.tasks.start("federation_pursued", self._pursue(tracker_id))
        return True

    async def accept(self, channel: Channel) -> None:
        """Serve a link that another tracker has dialed, until it ends."""
        address = channel.remote_address
        host = network_of(address, 32)
        limit = MAX_HANDSHAKES_PER_HOST if is_public(address) else MAX_HANDSHAKES
        if self._closing.is_set() or self.handshakes >= MAX_HANDSHAKES or self._handshakes[host] >= limit:
            self.ended[EndReason.TOO_MANY_LINKS] += 1
            return
        session = Session(
            self._key,
            os.urandom(32),
            accepts=self._is_own_url,
            swarms=self._swarms,
            budget=self._budget,
            own_nonces=self._nonces,
        )
        await self._run(session, Accepted(channel), "", host, trusted=False)

    def is_listed(self, tracker_id: str) -> bool:
        """Return whether a tracker was reached at a listed URL."""
        return bool(self.url_of(tracker_id))

    def url_of(self, tracker_id: str) -> str:
        """Return the listed URL at which a tracker was reached, or an empty text."""
        return next((one.url for one in self.listed.values() if one.tracker_id == tracker_id), "")

    def end_idle(self) -> None:
        """End links without common swarms, if more than half of all possible links are open; listed ones stay."""
        now = time.monotonic()
        links = list(self.links.values())
        for link in links:
            if link.account.members:
                link.account.last_shared = now
        # A link that is not needed now costs little, and the next common swarm needs no lookup in the DHT.
        if len(links) > self._settings.max_links // 2:
            for link in links:
                if now - link.account.last_shared > self._settings.idle_timeout and not self.is_listed(link.tracker_id):
                    link.end(EndReason.IDLE)

    async def _keep(self, listed: Listed) -> None:
        """Keep a link with a listed tracker until this tracker stops."""
        backoff = FIRST_BACKOFF
        while not self._closing.is_set():
            if listed.tracker_id in self.links:
                # The other side has dialed.
                listed.on_success()
                backoff = FIRST_BACKOFF
            else:
                started = time.monotonic()
                listed.next_try = 0.0
                error = await self._dial(listed.url, None, trusted=True)
                reason, text = error.reason, str(error)
                # Its traceback would keep the link in memory until the next attempt has ended.
                del error
                has_lasted = time.monotonic() - started > LASTING
                # The text is the reason of the other side, if that has closed.
                has_another = not {reason, text}.isdisjoint((EndReason.DUPLICATE, EndReason.REPLACED))
                if has_lasted or has_another:
                    listed.on_success()
                    backoff = FIRST_BACKOFF
                else:
                    backoff = min(MAX_LISTED_BACKOFF, backoff * 2)
                    if listed.on_failure(reason, text) and not self._closing.is_set():
                        text = without_secrets(text)
                        self._log.warning("listed_tracker_down", url=listed.url, reason=reason.value, text=text)
                listed.next_try = time.time() + backoff
            await self._pause(backoff)

    async def _pursue(self, tracker_id: str) -> None:
        """Link with a tracker, and again when the link is lost, until all attempts are used up."""
        backoff, attempts = FIRST_BACKOFF, ATTEMPTS
        try:
            while attempts and not self._closing.is_set():
                started = time.monotonic()
                trusted = self._settings.allow_private_addresses
                error = await self._dial(self._pursued[tracker_id], tracker_id, trusted)
                # A tracker that stops may be restarted soon. Its other reasons for `bye` will not have changed.
                stops = error.reason is EndReason.CLOSED_THERE and str(error) == EndReason.SHUTDOWN.value
                if error.reason not in WORTH_A_RETRY and not stops:
                    break
                # Its traceback would keep the link in memory until the next attempt has ended.
                del error
                if time.monotonic() - started > LASTING:
                    backoff, attempts = FIRST_BACKOFF, ATTEMPTS
                await self._pause(backoff)
                backoff, attempts = min(MAX_BACKOFF, backoff * 2), attempts - 1
                if tracker_id in self.links or not self._admits(tracker_id):
                    break
        finally:
            del self._pursued[tracker_id]
            self._backoffs[tracker_id] = time.monotonic() + backoff
            if len(self._backoffs) > MAX_REMEMBERED:
                del self._backoffs[next(iter(self._backoffs))]

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):
                await self._closing.wait()

    async def _dial(self, url: str, expected: str | None, trusted: bool) -> LinkError:
        task = asyncio.current_task()
        self._dialing[task] = None
        try:
            # Only trackers that the DHT has named wait for each other. A listed tracker never waits for them.
            async with self._gate if expected else nullcontext():
                transport = await self._connect(url, trusted)
        except LinkError as error:
            self._ended("", url, error)
            return error
        finally:
            self._dialing.pop(task, None)
        session = Session(
            self._key,
            os.urandom(32),
            url=url,
            expected=expected,
            swarms=self._swarms,
            budget=self._budget,
            own_nonces=self._nonces,
        )
        return await self._run(session, transport, url, "", trusted=expected is None)

    async def _run(self, session: Session, transport: Transport, url: str, host: str, trusted: bool) -> LinkError:
        handshake = Counter([host] if host else [])

        def on_event(link: Link, event: LinkEvent) -> None:
            if isinstance(event, Opened):
                self._handshakes -= handshake
                handshake.clear()
                if not self._open(link, trusted):
                    return
            if self.links.get(link.tracker_id) is link:
                # It may have been replaced and still have messages to read.
                self._on_event(link, event)

        link = Link(session, transport, url, on_event, self._turns)
        self._handshakes += handshake
        self._nonces.add(session.nonce)
        error = LinkError(EndReason.SHUTDOWN)
        try:
            error = await link.run()
        except Exception:
            self._log.exception("link_failed")
            error = LinkError(EndReason.INTERNAL_ERROR)
        finally:
            self._handshakes -= handshake
            self._nonces.discard(session.nonce)
            session.release()
            if self.links.get(link.tracker_id) is link:
                del self.links[link.tracker_id]
                self._on_end(link)
            self._ended(link.tracker_id, url, error)
            if error.reason in BROKEN_RULES and session.their_id:
                self._shunned.put(session.their_id, error.reason, time.monotonic())
            await link.close(error.reason)
        return error

    def _open(self, link: Link, trusted: bool) -> bool:
        """Enter a link whose other side has proved its id, unless something forbids it. Return whether it is open."""
        tracker_id = link.tracker_id
        if trusted:
            self.listed[link.url].tracker_id = tracker_id
        if not self._admits(tracker_id):
            broken = self._shunned.get(tracker_id, time.monotonic())
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
            other.end(EndReason.REPLACED)
            del self.links[tracker_id]
            self._on_end(other)
        elif not (len(self.links) < self._settings.max_links or self.is_listed(tracker_id) or self._make_room()):
            link.end(EndReason.TOO_MANY_LINKS)
            return False
        self.links[tracker_id] = link
        self.opened[link.direction] += 1
        self._log.info("linked", tracker=tracker_id[:16], url=link.url or "-")
        return True

    def _make_room(self) -> bool:
        """End the least useful link, and return whether there was one: free ids must not keep other trackers out."""
        useless = self._useless()
        if not useless:
            return False
        worst = min(useless, key=lambda link: (bool(link.account.members), link.account.last_shared, -link.age))
        worst.end(EndReason.IDLE)
        del self.links[worst.tracker_id]
        self._on_end(worst)
        return True

    def _useless(self) -> list[Link]:
        """Return the links without common swarms, and those over which no offer was answered for `TRIAL` seconds."""
        return [
            link
            for link in self.links.values()
            if not self.is_listed(link.tracker_id)
            and (not link.account.members or (not link.account.answered and link.age > TRIAL))
        ]

    def _admits(self, tracker_id: str) -> bool:
        settings = self._settings
        if tracker_id == self.id or tracker_id in settings.deny:
            return False
        if self._shunned.get(tracker_id, time.monotonic()):
            return False
        return settings.policy == "open" or tracker_id in settings.allow or self.is_listed(tracker_id)

    def _is_own_url(self, url: str) -> bool:
        return not self._has_url or normal(url) in self._own_urls

    def _ended(self, tracker_id: str, url: str, error: LinkError) -> None:
        self.ended[error.reason] += 1
        if error.reason is EndReason.SAME_KEY and not self._has_copy:
            self._has_copy = True
            self._log.error("identity_copied", url=url or "-")
        # Any member of the DHT can publish URLs that lead nowhere. Of listed trackers, `_keep` tells.
        level = self._log.info if tracker_id else self._log.debug
        if error.reason in BROKEN_RULES:
            level = self._log.warning
        text = without_secrets(str(error))
        level("link_ended", tracker=tracker_id[:16], url=url or "-", reason=error.reason.value, text=text)
