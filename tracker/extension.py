"""Extensions: what they may do, how they are found, started and kept from harming the tracker.

A third party's extension is a class derived from `Extension`, named by an entry point of the group
`peerservers.extensions`. Its name there is the name of its section, `[extensions.NAME]`.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import entry_points
from time import monotonic
from typing import Any, ClassVar, Final

import structlog
from prometheus_client import CollectorRegistry
from pydantic import Field

from tracker.channel import Channel
from tracker.config import ConfigError, Section, Settings, validate
from tracker.endpoint import Endpoint
from tracker.http import Route
from tracker.hub import Hub
from tracker.protocol import Answer, Offer
from tracker.reasons import Reason
from tracker.swarm import Peer, RemoteMember, Swarm

GROUP: Final = "peerservers.extensions"

STOP_TIMEOUT: Final = 5.0
"""Seconds that an extension gets to stop."""

MAX_EVENTS: Final = 10_000
MAX_EVENT_BYTES: Final = 16 << 20
"""What may wait for a slow extension; what comes on top is dropped."""


class ExtensionSettings(Section):
    """An extension's section; derive from it for more keys."""

    enabled: bool = Field(True, description="Whether the extension is started.")


class Extension:
    """Base class. Override what is needed; events that are not overridden cost nothing.

    Events come one after the other, a moment after the tracker has served its own peers. They share its event loop
    and so must not block it; but one that raises, or awaits for long, harms only its own extension.
    """

    Settings: ClassVar[type[ExtensionSettings]] = ExtensionSettings

    def __init__(self, tracker: "TrackerHandle", settings: Any) -> None:
        """Register routes, subprotocols and metrics here. `settings` is a `Settings` of this class."""
        self.tracker = tracker
        self.settings = settings

    async def start(self) -> None:
        """Called once, when the tracker serves already."""

    async def stop(self) -> None:
        """Called once, within `STOP_TIMEOUT`; not if `start` failed."""

    async def swarm_opened(self, swarm: Swarm) -> None:
        """A swarm has its first local peer."""

    async def swarm_changed(self, swarm: Swarm) -> None:
        """The local peers of a swarm have changed in number or kind; several changes may come as one."""

    async def swarm_closed(self, swarm: Swarm) -> None:
        """A swarm has lost its last local peer; its remote members are gone with it."""

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        """Offers of a local peer were placed on peers behind a remote member of this extension, one on each."""

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        """Offers of a local peer found nobody."""

    async def answer_unplaced(self, answer: Answer) -> None:
        """A local peer has answered a peer that is not here."""


class TrackerHandle:
    """What an extension may do to the tracker it runs in."""

    def __init__(self, name: str, settings: Settings, hub: Hub, endpoint: Endpoint, registry: CollectorRegistry):
        self.settings = settings
        self.registry = registry
        """For the extension's own metrics; their names start with `peerservers_`."""
        self.log = structlog.get_logger().bind(extension=name)
        self._hub = hub
        self._endpoint = endpoint
        self._members: dict[Swarm, set[RemoteMember]] = {}

    @property
    def swarms(self) -> Mapping[str, Swarm]:
        """The open swarms by info_hash, to read."""
        return self._hub.swarms

    def add_remote(self, info_hash: str, owner: Any) -> RemoteMember | None:
        """A remote member for an open swarm, counting nobody until `set_remote`; None if the swarm is not open."""
        member = self._hub.add_remote(info_hash, owner)
        if member:
            self._members.setdefault(member.swarm, set()).add(member)
        return member

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Say how many seeders and leechers are behind a remote member. Raises `ValueError` if negative."""
        self._hub.set_remote(member, complete, incomplete)

    def remove_remote(self, member: RemoteMember) -> None:
        """A remote member is no more."""
        self._members.get(member.swarm, set()).discard(member)
        self._hub.set_remote(member, 0, 0)

    def owns(self, member: RemoteMember) -> bool:
        """Whether a remote member was added here."""
        return member in self._members.get(member.swarm, ())

    def deliver_offers(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        """Give a foreign peer's offers to as many distinct local peers; the offers left over.

        Raises `ValueError` if `peer_id` is no id. `tracker.protocol.offer` makes an offer of text.
        """
        out, rest = self._hub.deliver_offers(info_hash, peer_id, offers, monotonic())
        self._endpoint.send(out)
        return rest

    def deliver_answer(self, answer: Answer) -> bool:
        """Give a foreign peer's answer to the local peer that made the offer; whether that is still here.

        `tracker.protocol.answer` makes an answer of text.
        """
        out = self._hub.deliver_answer(answer)
        self._endpoint.send(out)
        return bool(out)

    def add_route(self, path: str, route: Route) -> None:
        """Serve an HTTP path on the public port. Raises `ValueError` if it is taken."""
        self._endpoint.add_route(path, route)

    def add_subprotocol(self, name: str, handler: Callable[[Channel], Awaitable[None]]) -> None:
        """Serve a WebSocket subprotocol on the public port, any path. Raises `ValueError` if it is taken."""
        self._endpoint.add_subprotocol(name, lambda: Channel(self._endpoint, handler))

    def release(self) -> None:
        """Remove all remote members."""
        for members in self._members.values():
            for member in members:
                self._hub.set_remote(member, 0, 0)
        self._members.clear()

    def forget(self, swarm: Swarm) -> None:
        """A swarm has closed: its remote members went with it."""
        self._members.pop(swarm, None)


class ExtensionHost:
    """Runs the extensions; the hub's observer."""

    def __init__(self) -> None:
        self.errors: Counter[str] = Counter()
        self._runners: list[_Runner] = []

    @property
    def names(self) -> list[str]:
        """The extensions that are enabled."""
        return [runner.name for runner in self._runners]

    def load(
        self,
        classes: Mapping[str, type[Extension]],
        settings: Settings,
        hub: Hub,
        endpoint: Endpoint,
        registry: CollectorRegistry,
    ) -> None:
        """Make every enabled extension. Raises `ConfigError`."""
        for name, section in sections(classes, settings).items():
            if not section.enabled:
                continue
            tracker = TrackerHandle(name, settings, hub, endpoint, registry)
            try:
                extension = classes[name](tracker, section)
            except ConfigError:
                raise
            except Exception as error:
                raise ConfigError(f"extensions.{name}: cannot be loaded: {error!r}") from error
            self._runners.append(_Runner(name, extension, self.errors, hub))
        if self._runners:
            hub.observer = self

    def start(self) -> None:
        """Start all at once, in the background."""
        for runner in self._runners:
            runner.task = asyncio.get_running_loop().create_task(runner.run())

    async def stop(self) -> None:
        """Stop all at once; returns in little more than `STOP_TIMEOUT` even if one does not."""
        await asyncio.gather(*(runner.stop() for runner in self._runners))

    def swarm_opened(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.post("swarm_opened", swarm)

    def swarm_changed(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.post_change(swarm)

    def swarm_closed(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.extension.tracker.forget(swarm)
            runner.post("swarm_closed", swarm)

    def offers_placed(self, member: RemoteMember, peer: Peer, offers: list[Offer]) -> None:
        for runner in self._runners:
            if runner.extension.tracker.owns(member):
                runner.post("offers_placed", member, peer.peer_id, _detach(offers), size=_size(offers))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        for runner in self._runners:
            runner.post("offers_unplaced", swarm, peer.peer_id, _detach(offers), size=_size(offers))

    def answer_unplaced(self, swarm: Swarm, answer: Answer) -> None:  # noqa: ARG002
        for runner in self._runners:
            kept = Answer(
                answer.info_hash, answer.peer_id, answer.to_peer_id, answer.sdp.copy(), answer.offer_id.copy()
            )
            runner.post("answer_unplaced", kept, size=memoryview(answer.sdp).nbytes)


class _Runner:
    """One extension: its task and the events that wait for it."""

    def __init__(self, name: str, extension: Extension, errors: Counter[str], hub: Hub) -> None:
        self.name = name
        self.extension = extension
        self.task: asyncio.Task[None] | None = None
        self._errors = errors
        self._hub = hub
        self._log = structlog.get_logger().bind(extension=name)
        self._events: deque[tuple[str, tuple[Any, ...], int]] = deque()
        self._bytes = 0
        self._changed: set[Swarm] = set()
        self._posted = asyncio.Event()
        self._failed = False
        base = vars(Extension)
        self._wanted = {key for key in base if getattr(type(extension), key) is not base[key]}

    def post(self, event: str, *arguments: Any, size: int = 0) -> None:
        """Queue an event, unless the extension does not care, has failed, or is too far behind."""
        if event not in self._wanted or self._failed:
            return
        if len(self._events) >= MAX_EVENTS or self._bytes + size > MAX_EVENT_BYTES:
            self._hub.tally.dropped[Reason.EXTENSION_QUEUE_FULL] += 1
            return
        self._events.append((event, arguments, size))
        self._bytes += size
        self._posted.set()

    def post_change(self, swarm: Swarm) -> None:
        """Queue `swarm_changed`, unless one is waiting already."""
        if swarm not in self._changed:
            waiting = len(self._events)
            self.post("swarm_changed", swarm)
            if len(self._events) > waiting:
                self._changed.add(swarm)

    async def run(self) -> None:
        """Start the extension and hand it its events, until cancelled."""
        try:
            await self.extension.start()
        except Exception as error:
            self._failed = True
            self._errors[self.name] += 1
            self._events.clear()
            self.extension.tracker.release()
            self._log.error("extension_start_failed", error=repr(error))
            return
        while True:
            await self._posted.wait()
            self._posted.clear()
            while self._events:
                event, arguments, size = self._events.popleft()
                self._bytes -= size
                if event == "swarm_changed":
                    self._changed.discard(arguments[0])
                try:
                    await getattr(self.extension, event)(*arguments)
                except Exception:
                    self._errors[self.name] += 1
                    self._log.exception("extension_failed", on=event)
                # A long queue must not keep the tracker's own peers waiting.
                await asyncio.sleep(0)

    async def stop(self) -> None:
        """Stop handing out events and stop the extension."""
        if self.task is None or self._failed:
            return
        self.task.cancel()
        await asyncio.wait([self.task], timeout=STOP_TIMEOUT)
        try:
            await asyncio.wait_for(self.extension.stop(), STOP_TIMEOUT)
        except TimeoutError:
            self._log.error("extension_stop_timed_out", seconds=STOP_TIMEOUT)
        except Exception as error:
            self._errors[self.name] += 1
            self._log.error("extension_stop_failed", error=repr(error))
        self.extension.tracker.release()


def discover() -> dict[str, type[Extension]]:
    """The installed extensions by name. Raises `ConfigError` for one that cannot be imported."""
    found: dict[str, type[Extension]] = {}
    for point in entry_points(group=GROUP):
        try:
            loaded = point.load()
        except Exception as error:
            raise ConfigError(f"extensions.{point.name}: cannot be loaded: {error!r}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Extension)):
            raise ConfigError(f"extensions.{point.name}: {point.value} is not an Extension")
        found[point.name] = loaded
    return found


def sections(classes: Mapping[str, type[Extension]], settings: Settings) -> dict[str, ExtensionSettings]:
    """Every installed extension's settings. Raises `ConfigError`, also for a section that belongs to no extension.

    A section that only disables an extension is welcome whether or not that is installed.
    """
    for name, table in settings.extensions.items():
        if name not in classes and validate_enabled(name, table):
            raise ConfigError(f"extensions.{name}: no such extension is installed")
    return {
        name: validate(extension.Settings, settings.extensions.get(name, {}), f"extensions.{name}")
        for name, extension in classes.items()
    }


def validate_enabled(name: str, table: Mapping[str, Any]) -> bool:
    """Whether a section enables its extension, whatever other keys it has."""
    chosen = {"enabled": table["enabled"]} if "enabled" in table else {}
    return validate(ExtensionSettings, chosen, f"extensions.{name}").enabled


def _detach(offers: list[Offer]) -> list[Offer]:
    # Tokens point into the whole frame, which would stay in memory as long as they wait.
    return [
        Offer(type(offer.description)("offer", offer.description.sdp.copy()), offer.offer_id.copy()) for offer in offers
    ]


def _size(offers: list[Offer]) -> int:
    return sum(memoryview(offer.description.sdp).nbytes for offer in offers)
