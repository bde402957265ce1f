"""Runs the extensions, and keeps them from harming the tracker and each other."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Final

import structlog
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tracker.config import ConfigError
from tracker.core.hub import Hub
from tracker.core.nodes import NodePeers
from tracker.core.outbox import Outbox
from tracker.core.remote import RemotePeers
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.extension.admission import Admissions
from tracker.extension.api import Extension, TrackerHandle
from tracker.extension.discovery import sections, sections_of_worker
from tracker.extension.files import FileReaders
from tracker.extension.gateway import Gateway
from tracker.extension.runner import ExtensionRunner
from tracker.extension.state import StateDirectory
from tracker.extension.terms import STOP_TIMEOUT, Terms
from tracker.net.endpoint import Endpoint
from tracker.protocol.messages import Answer, Offer
from tracker.settings import Settings
from tracker.web.gather import Others
from tracker.web.stats import Tables
from tracker.worker import Worker

PREPARE_TIMEOUT: Final = 2.0
"""Seconds that the first peers wait for extensions to check whether they can run."""


class ExtensionHost:
    """All enabled extensions; the hub's `Observer`.

    Raises:
        ConfigError: if an extension's section is wrong.
    """

    def __init__(
        self, classes: Mapping[str, type[Extension]], settings: Settings, worker: Worker | None = None
    ) -> None:
        self.errors: Counter[str] = Counter()
        """Exceptions that each extension raised."""
        self.task_failures: Counter[str] = Counter()
        """Background tasks that failed, by name."""
        self.tables = Tables()
        """The tables of the extensions on the page and in the statistics."""
        self.others = Others()
        """The other processes of the tracker, which an extension may add."""
        self.files = FileReaders()
        """The files of the extensions, which are read again when they change."""
        self._settings = settings
        self._classes = classes
        found = sections(classes, settings)
        if worker is not None:
            found = sections_of_worker(classes, found)
        self._sections = {name: section for name, section in found.items() if section.enabled}
        self._runners: list[ExtensionRunner] = []
        self._extensions: dict[str, Extension] = {}
        self.admissions: Admissions | None = None
        self._gateway = Gateway(self.tables, settings.connections.max_message_size)
        self._terms: list[Terms] = []
        self._worker = worker
        self._state = StateDirectory(settings, is_locked=worker is not None)

    @property
    def is_empty(self) -> bool:
        """Whether no extension is enabled."""
        return not self._sections

    @property
    def extensions(self) -> Mapping[str, Extension]:
        """The extensions by name, once `load` has made them."""
        return self._extensions

    def load(self, hub: Hub, outbox: Outbox, endpoint: Endpoint, registry: CollectorRegistry) -> None:
        """Make every enabled extension.

        Raises:
            ConfigError: if any of them cannot be made, with the mistakes of all.
        """
        remote = RemotePeers(hub, outbox)
        nodes = NodePeers(hub, outbox)
        self.tables.refresh = self._gateway.refresh
        mistakes: list[str] = []
        made: dict[str, tuple[Extension, TrackerHandle]] = {}
        up = Gauge(
            "peerservers_extension_up",
            "0 for an enabled extension that is off, because of its surroundings or a failed start",
            ["extension"],
            registry=registry,
        )
        for name, section in self._sections.items():
            own_registry = CollectorRegistry()
            tracker = TrackerHandle(
                name,
                self._settings,
                hub,
                remote,
                endpoint,
                own_registry,
                self._extensions,
                self.tables,
                self.task_failures,
                self.files,
                self._sections.keys(),
                self._state,
                nodes,
                self._gateway,
                self._classes[name].at_gateway,
                self._worker,
                self.others,
            )
            try:
                extension = self._classes[name](tracker, section)
            except ConfigError as error:
                mistakes += error.mistakes
                continue
            except Exception as error:
                raise ConfigError(f"extensions.{name}: cannot be loaded: {error!r}") from error
            self._extensions[name] = extension
            up.labels(name).set_function(partial(self._is_up, name))
            self.errors[name] = 0
            registry.register(_GuardedCollector(own_registry, name, self.errors))
            made[name] = extension, tracker
        if mistakes:
            raise ConfigError(*mistakes)
        for name, (extension, tracker) in made.items():
            by_terms = extension.at_gateway and self._gateway.is_clustered
            self._runners.append(ExtensionRunner(name, extension, tracker, self.errors, hub, by_terms))
        policies = [runner for runner in self._runners if runner.wants("admit")]
        self.admissions = Admissions(hub, outbox, policies, self._settings.access.admission_timeout, registry)

    def _is_up(self, name: str) -> bool:
        return name not in self.tables.off

    def change(self, settings: Settings) -> None:
        """Adopt the settings that can change while the tracker runs."""
        if self.admissions:
            self.admissions.timeout = settings.access.admission_timeout

    async def prepare(self) -> None:
        """Let all extensions check whether they can run.

        Raises:
            ConfigError: if the tracker must not start.
        """
        if not self._runners:
            return
        done, late = await asyncio.wait([runner.prepare() for runner in self._runners], timeout=PREPARE_TIMEOUT)
        errors = [error for task in done if isinstance(error := task.exception(), ConfigError)]
        if errors:
            for task in late:
                task.cancel()
            # Several extensions may find the same mistake.
            raise ConfigError(*dict.fromkeys(mistake for error in errors for mistake in error.mistakes))
        if self._worker is not None:
            self._check_joined()

    def _check_joined(self) -> None:
        """Raise `ConfigError` if this worker would be a tracker of its own, without the extension that joins it."""
        for runner in self._runners:
            if self._classes[runner.name].wanted_by_workers and not runner.is_active:
                reason = self.tables.off.get(runner.name, "it has failed")
                raise ConfigError(f"server.workers: the extension {runner.name} is off: {reason}")

    def start(self) -> None:
        """Start all extensions in the background. In a cluster, those `at_gateway` wait until this node is it."""
        for runner in self._runners:
            if runner.by_terms:
                self._terms.append(Terms(runner, self._gateway))
            else:
                runner.start()

    async def stop(self, deadline: float) -> None:
        """Stop all extensions at once; abandon those that do not stop by `deadline` (monotonic seconds)."""
        if self.admissions:
            self.admissions.stop()
        timeout = max(0.0, min(deadline - monotonic(), STOP_TIMEOUT))
        # Those at the gateway first: they take leave of others, perhaps through the connections of other nodes.
        await asyncio.gather(*(terms.stop(timeout / 2) for terms in self._terms))
        timeout = max(0.0, min(deadline - monotonic(), STOP_TIMEOUT))
        await asyncio.gather(*(runner.stop(timeout) for runner in self._runners if not runner.by_terms))
        self._gateway.close()
        self._state.close()

    def swarm_opened(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.mark(swarm)

    def swarm_changed(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.mark(swarm)

    def swarm_closed(self, swarm: Swarm) -> None:
        for runner in self._runners:
            runner.tracker.forget(swarm)
            runner.mark(swarm, closed=True)

    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        for runner in self._runners:
            if runner.tracker.owns(member) and runner.wants("offers_placed"):
                kept = [offer.detached() for offer in offers]
                runner.post("offers_placed", member.swarm, member, peer_id, kept, size=_size(offers))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        for runner in self._runners:
            if runner.wants("offers_unplaced"):
                kept = [offer.detached() for offer in offers]
                runner.post("offers_unplaced", swarm, swarm, peer.peer_id, kept, size=_size(offers))

    def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> bool:
        is_wanted = False
        for runner in self._runners:
            if runner.wants("offers_returned"):
                is_wanted = True
                kept = [offer.detached() for offer in offers]
                runner.post("offers_returned", swarm, swarm, peer_id, kept, size=_size(offers))
        return is_wanted

    def answer_unplaced(self, answer: Answer) -> bool:
        kept: Answer | None = None
        for runner in self._runners:
            if runner.wants("answer_unplaced"):
                kept = kept or answer.detached()
                runner.post("answer_unplaced", None, kept, size=kept.size)
        return kept is not None


class _GuardedCollector(Collector):
    """The metrics of an extension. If they fail, the tracker's own metrics are still served."""

    def __init__(self, registry: CollectorRegistry, name: str, errors: Counter[str]) -> None:
        self._registry = registry
        self._name = name
        self._errors = errors

    def collect(self) -> Iterable[Metric]:
        try:
            return list(self._registry.collect())
        except Exception:
            self._errors[self._name] += 1
            structlog.get_logger().exception("extension_failed", extension=self._name, on="metrics")
            return []


def _size(offers: list[Offer]) -> int:
    return sum(offer.size for offer in offers)
