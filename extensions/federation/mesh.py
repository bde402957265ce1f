"""Which trackers to be linked with: dialing, accepting, one link for each pair, backoff, shunning."""

import asyncio
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import nullcontext, suppress
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from websockets.asyncio.client import ClientConnection

from extensions.dialing import ForbiddenAddress, Resolver, is_public, network_of
from extensions.federation.limits import Room, Turns
from extensions.federation.link import Accepted, Link, Transport
from extensions.federation.reasons import BROKEN_RULES, WORTH_A_RETRY, Fault
from extensions.federation.session import Event, LinkError, Opened, Session
from extensions.federation.settings import FederationSettings
from extensions.federation.transports import Dialed, dial
from tracker.extension import Channel, without_secrets

FIRST_WAIT: Final = 1.0
MAX_WAIT: Final = 300.0
"""Seconds until a tracker that could not be reached is dialed again: twice as many each time, up to the second."""

MAX_LISTED_WAIT: Final = 60.0
"""The same for one that is always to be linked."""

ATTEMPTS: Final = 8
"""Dials of a tracker that cannot be reached, until somebody names it again."""

YOUNG: Final = 1.0
"""Seconds for which a link is not taken for dead because there is another."""

LASTING: Final = 60.0
"""Seconds after which a link was no failure."""

TRIAL: Final = 120.0
"""Seconds after which a link that claims common swarms, but over which no offer was answered, may have to make room."""

SHUN: Final = 600.0
"""Seconds for which nothing is wanted of a tracker that has broken the rules."""

MAX_DIALS: Final = 8
"""Dials at a time."""

MAX_HANDSHAKES: Final = 50
MAX_HANDSHAKES_PER_HOST: Final = 5
"""Links accepted and not yet open, at a time, and of them those of one address (in IPv6, a /64); a proxy may have
as many as all."""

STOP_TIMEOUT: Final = 2.0
MAX_NAMES: Final = 500_000
"""Swarms that all links together may have us remember, some 200 bytes each."""

MAX_REMEMBERED: Final = 2000


class Mesh:
    """All links of this tracker. `on_event` hears what comes over them; `on_end` that one which was open has ended."""

    def __init__(
        self,
        settings: FederationSettings,
        key: Ed25519PrivateKey,
        public_url: str,
        on_event: Callable[[Link, Event], None],
        on_end: Callable[[Link], None],
    ) -> None:
        self.links: dict[str, Link] = {}
        """The open ones, by tracker id."""
        self.opened: Counter[str] = Counter()
        """By direction: "dialed", "accepted"."""
        self.ended: Counter[Fault] = Counter()
        self.id = key.public_key().public_bytes_raw().hex()
        self._settings = settings
        self._key = key
        self._own_urls = {normal(url) for url in (public_url, *settings.aliases) if url}
        self._has_url = bool(public_url)
        self._on_event = on_event
        self._on_end = on_end
        self._pursued: dict[str, str] = {}
        """The URLs of those that strangers have named, by id, while a link is had or tried."""
        self._not_before: dict[str, float] = {}
        self._shunned: dict[str, float] = {}
        self._trusted: dict[str, str] = {}
        """The ids of the trackers that are always linked, by the URL that led to each."""
        self._handshakes: Counter[str] = Counter()
        self._room = Room(MAX_NAMES)
        self._turns = Turns()
        self._gate = asyncio.Semaphore(MAX_DIALS)
        self._resolver = Resolver()
        self._tasks: set[asyncio.Task[None]] = set()
        self._dialing: set[asyncio.Task[Any] | None] = set()
        self._closing = asyncio.Event()
        self._log = structlog.get_logger().bind(extension="federation")

    def start(self) -> None:
        """Begin to dial the trackers that are always to be linked."""
        for url in self._settings.peers:
            self._spawn(self._keep(url))

    async def stop(self) -> None:
        """End all links."""
        self._closing.set()
        for task in self._dialing:
            if task:
                task.cancel()
        for link in list(self.links.values()):
            link.end(Fault.SHUTDOWN)
        if self._tasks:
            # They say good-bye.
            await asyncio.wait(self._tasks, timeout=STOP_TIMEOUT)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def want(self, tracker_id: str, url: str) -> bool:
        """Have a link with a tracker that somebody has named, if nothing speaks against it; whether it is dialed now.

        It is dialed again and again for a while, if it cannot be reached, or the link is lost.
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
            or self._not_before.get(tracker_id, 0.0) > time.monotonic()
        ):
            return False
        self._pursued[tracker_id] = url
        self._spawn(self._pursue(tracker_id))
        return True

    async def accept(self, channel: Channel) -> None:
        """Serve a link that another tracker has dialed."""
        address = channel.remote_address
        host = network_of(address, 32)
        limit = MAX_HANDSHAKES_PER_HOST if is_public(address) else MAX_HANDSHAKES
        if self._closing.is_set() or self._handshakes.total() >= MAX_HANDSHAKES or self._handshakes[host] >= limit:
            self.ended[Fault.TOO_MANY_LINKS] += 1
            return
        session = Session(self._key, os.urandom(32), accepts=self._is_own_url, room=self._room)
        await self._run(session, Accepted(channel), "", host, trusted=False)

    def is_listed(self, link: Link) -> bool:
        """Whether a link is one that is always kept."""
        return link.tracker_id in self._trusted.values()

    async def _keep(self, url: str) -> None:
        """Keep a link with a trusted tracker, for ever."""
        wait = FIRST_WAIT
        while not self._closing.is_set():
            if self._trusted.get(url) not in self.links:
                started = time.monotonic()
                error = await self._dial(url, None, trusted=True)
                lasted = time.monotonic() - started > LASTING or error.fault in (Fault.DUPLICATE, Fault.REPLACED)
                wait = FIRST_WAIT if lasted else min(MAX_LISTED_WAIT, wait * 2)
            await self._pause(wait)

    async def _pursue(self, tracker_id: str) -> None:
        """Link with a tracker, and again if the link is lost, until that seems in vain."""
        wait, left = FIRST_WAIT, ATTEMPTS
        try:
            while left and not self._closing.is_set():
                started = time.monotonic()
                trusted = self._settings.allow_private_addresses
                error = await self._dial(self._pursued[tracker_id], tracker_id, trusted)
                # Who closes because it stops may be back soon; any other reason it gives is as good later.
                is_away = error.fault is Fault.CLOSED_THERE and str(error) == Fault.SHUTDOWN.value
                if error.fault not in WORTH_A_RETRY and not is_away:
                    break
                if time.monotonic() - started > LASTING:
                    wait, left = FIRST_WAIT, ATTEMPTS
                await self._pause(wait)
                wait, left = min(MAX_WAIT, wait * 2), left - 1
                if tracker_id in self.links or not self._admits(tracker_id):
                    break
        finally:
            del self._pursued[tracker_id]
            self._rest(tracker_id, wait)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):
                await self._closing.wait()

    async def _dial(self, url: str, expected: str | None, trusted: bool) -> LinkError:
        task = asyncio.current_task()
        self._dialing.add(task)
        try:
            # Strangers wait in line; those that are listed must not wait for them.
            async with self._gate if expected else nullcontext():
                socket = await self._connect(url, trusted)
        except LinkError as error:
            self._ended("", url, error)
            return error
        finally:
            self._dialing.discard(task)
        session = Session(self._key, os.urandom(32), url=url, expected=expected, room=self._room)
        return await self._run(session, Dialed(socket), url, "", trusted=expected is None)

    async def _connect(self, url: str, trusted: bool) -> ClientConnection:
        try:
            target = await self._resolver.resolve(url, trusted)
        except ForbiddenAddress:
            raise LinkError(Fault.FORBIDDEN_ADDRESS) from None
        except OSError as error:
            raise LinkError(Fault.UNREACHABLE, str(error)) from None
        return await dial(target)

    async def _run(self, session: Session, transport: Transport, url: str, host: str, trusted: bool) -> LinkError:
        handshake = Counter([host] if host else [])

        def on_event(link: Link, event: Event) -> None:
            if isinstance(event, Opened):
                self._handshakes -= handshake
                handshake.clear()
                if not self._open(link, trusted):
                    return
            self._on_event(link, event)

        link = Link(session, transport, url, on_event, self._turns)
        self._handshakes += handshake
        error = LinkError(Fault.SHUTDOWN)
        try:
            error = await link.run()
        except Exception:
            self._log.exception("link_failed")
            error = LinkError(Fault.INTERNAL_ERROR)
        finally:
            self._handshakes -= handshake
            session.release()
            if self.links.get(link.tracker_id) is link:
                del self.links[link.tracker_id]
                self._on_end(link)
            self._ended(link.tracker_id, url, error)
            if error.fault in BROKEN_RULES and session.their_id:
                self._shunned[session.their_id] = time.monotonic() + SHUN
                _trim(self._shunned)
            await link.close(error.fault)
        return error

    def _open(self, link: Link, trusted: bool) -> bool:
        """Take in a link whose other end has proved its id, unless something speaks against it."""
        tracker_id = link.tracker_id
        if trusted:
            self._trusted[link.url] = tracker_id
        if not self._admits(tracker_id):
            link.end(Fault.NOT_ALLOWED)
            return False
        other = self.links.get(tracker_id)
        if other:
            # Both may have dialed at once: then both keep the one that the lesser id has dialed. If the same side has
            # dialed twice, its old one is dead, or as good as dead.
            if bool(other.url) != bool(link.url) and (self.id < tracker_id) != bool(link.url):
                link.end(Fault.DUPLICATE)
                return False
            is_same_way = bool(other.url) == bool(link.url)
            if is_same_way and time.time() - other.since < YOUNG and other.session.rank > link.session.rank:
                # Dialed twice at once, by two URLs: the two ends must not each keep another.
                link.end(Fault.DUPLICATE)
                return False
            other.end(Fault.REPLACED)
            del self.links[tracker_id]
            self._on_end(other)
        elif len(self.links) >= self._settings.max_links and not self.is_listed(link) and not self._make_room():
            link.end(Fault.TOO_MANY_LINKS)
            return False
        self.links[tracker_id] = link
        self.opened[link.direction] += 1
        self._log.info("linked", tracker=tracker_id[:16], url=link.url or "-")
        return True

    def _make_room(self) -> bool:
        """Whether a link that is of no use could be ended: ids cost nothing, and must not keep others out."""
        useless = self._useless()
        if not useless:
            return False
        worst = min(useless, key=lambda link: (bool(link.members), link.last_shared, link.since))
        worst.end(Fault.IDLE)
        del self.links[worst.tracker_id]
        self._on_end(worst)
        return True

    def _useless(self) -> list[Link]:
        """Links without common swarms; and those over which nobody was answered in a while, whatever they claim."""
        since = time.time() - TRIAL
        return [
            link
            for link in self.links.values()
            if not self.is_listed(link) and (not link.members or (not link.answered and link.since < since))
        ]

    def _admits(self, tracker_id: str) -> bool:
        settings = self._settings
        if tracker_id == self.id or tracker_id in settings.deny:
            return False
        if self._shunned.get(tracker_id, 0.0) > time.monotonic():
            return False
        return settings.policy == "open" or tracker_id in settings.allow or tracker_id in self._trusted.values()

    def _is_own_url(self, url: str) -> bool:
        return not self._has_url or normal(url) in self._own_urls

    def _rest(self, tracker_id: str, seconds: float) -> None:
        self._not_before[tracker_id] = time.monotonic() + seconds
        _trim(self._not_before)

    def _ended(self, tracker_id: str, url: str, error: LinkError) -> None:
        self.ended[error.fault] += 1
        if error.fault in BROKEN_RULES:
            level = self._log.warning
        elif tracker_id or url in self._settings.peers:
            level = self._log.info
        else:
            # Anybody can name trackers that are not there.
            level = self._log.debug
        text = without_secrets(str(error))
        level("link_ended", tracker=tracker_id[:16], url=url or "-", reason=error.fault.value, text=text)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def normal(url: str) -> str:
    """A URL in the one form by which two of the same are told."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme == "wss" else 80)
    except ValueError:
        return url
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.hostname}:{port}{parts.path.rstrip('/')}{query}"


def _trim(table: dict[str, float]) -> None:
    if len(table) > MAX_REMEMBERED:
        del table[next(iter(table))]
