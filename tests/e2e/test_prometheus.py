"""Every query of the dashboards and every alert rule, with a real Prometheus that scrapes real, busy trackers."""

import asyncio
import os
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from extensions.cluster import reasons as cluster_reasons
from extensions.cluster.troubles import Trouble
from extensions.federation.reasons import Dropped, EndReason
from tests.client import Json, eventually
from tests.conftest import free_port
from tests.e2e.activity import Activity, trackers
from tests.e2e.prometheus import (
    ALERTS,
    Prometheus,
    Shown,
    Target,
    configuration,
    metrics_in,
    program,
    promtool,
    running,
    targets,
)
from tracker.reasons import CloseReason, DropReason, RejectReason

TIMEOUT = 90.0
"""Seconds within which every panel must show something."""

QUIET = {
    "tracker: Restarts": "no tracker restarts in this test",
    "tracker: Offers by nearness": "no swarm here has more than 16 peers",
    "tracker: Extensions off": "the extensions of these trackers work",
    "tracker: Garbage left": "only a bug in an extension module leaves any",
    "tracker: Log lines lost": "the readers of these logs are quick",
    "tracker: Resyncs": "no message between these nodes is lost",
    "tracker: Resyncs by reason": "no message between these nodes is lost",
    "tracker: Waiting for other nodes": "both nodes are quick",
    "tracker: Links through other nodes": "no tracker links with the one of two nodes",
    "tracker: Drops between nodes by reason": "both nodes are quick, and clients stay for the answers",
    "tracker: Refused messages of nodes by reason": "no other program can write to the sockets of workers",
    "tracker: Nodes gone by reason": "no node ends",
    "tracker: Troubles of connections by reason": "no node ends",
    "federation: Time in the queue": "two trackers with a few swarms have no queue",
    "federation: Trackers that are not linked": "both trackers are linked",
    "federation: Links closed by others by reason": "neither tracker ends its link",
    "federation: Items ignored by reason": "no node puts invalid items into this DHT",
    "federation: Records in trouble": "no node attacks a record of this DHT",
    "federation: Size of the DHT": "an estimate needs eight nodes that answer",
    "federation: Nodes that refuse to store": "all nodes of this DHT store",
}
"""Panels that show nothing but zero here, and the reason."""

PROVOKED = {
    "tracker: Rejects by reason": {"address_connections", "origin_denied", "too_many_connections"},
    "tracker: Drops by reason": {
        "infohash_denied",
        "too_many_announces",
        "too_many_offers",
        "unknown_action",
        "unplaced_offer",
    },
    "tracker: Closes by reason": {"client_closed", "connection_lost", "garbage"},
    "federation: Link ends by reason": {"lost"},
    "federation: Drops by reason": {"unknown_swarm"},
}
"""Reasons of which panels must show some."""

FIRING = {
    "PeerserversFull",
    "PeerserversExtensionError",
    "PeerserversReloadFailed",
    "PeerserversCertificateExpires",
}
"""The alerts that the activity causes."""

NOT_SHOWN: frozenset[str] = frozenset()
"""Metrics that are on no dashboard."""


class Watched(NamedTuple):
    """The Prometheus, and the best that panels have shown while the trackers were busy."""

    prometheus: Prometheus
    shown: dict[Target, Shown]
    """By query, the result with the highest rank."""
    reasons: dict[str, set[str]]
    """By panel, the reasons with a value above zero."""

    async def update(self, target: Target) -> None:
        """Run a query, unless it has already shown all that it must."""
        reasons = self.reasons[target.place]
        best = self.shown.get(target)
        if best and best.rank == 3 and reasons >= PROVOKED.get(target.place, set()):
            return
        shown = await self.prometheus.show(target)
        reasons.update(labels["reason"] for labels, value in shown.real if "reason" in labels and value > 0)
        if not best or shown.rank >= best.rank:
            self.shown[target] = shown

    def is_complete(self) -> bool:
        """Return whether all panels have shown all that they must."""
        has_reasons = all(self.reasons[panel] >= expected for panel, expected in PROVOKED.items())
        return bool(self.shown) and has_reasons and not self.without_value() and not self.only_zero()

    def without_value(self) -> set[Target]:
        """Return the queries that have returned nothing, or only their fallback to 0."""
        return {target for target, one in self.shown.items() if not one.real}

    def only_zero(self) -> set[str]:
        """Return the panels that have shown nothing but zero, without those that may."""
        moved = {target.place for target, one in self.shown.items() if one.rank == 3}
        return {target.place for target in self.shown} - moved - QUIET.keys()


async def watch(prometheus: Prometheus) -> Watched:
    """Run all queries until all panels have shown all that they must, or the timeout has passed."""
    watched = Watched(prometheus, {}, {target.place: set() for target in targets()})
    with suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT):
            while not watched.is_complete():
                for target in targets():
                    await watched.update(target)
                await asyncio.sleep(0.2)
    return watched


def write_report(path: Path, shown: dict[Target, Shown]) -> None:
    """Write the values that each panel showed."""
    lines = []
    for target, (samples, real) in shown.items():
        values = "; ".join(f"{_legend(target, labels)} = {value:.4g}" for labels, value in samples)
        note = "" if real else "  [fallback only]" if samples else "  [NOTHING]"
        lines.append(f"{target.dashboard} | {target.panel} | {values}{note}\n")
    path.write_text("".join(lines))


def _legend(target: Target, labels: Json) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: str(labels.get(match[1], "")), target.legend)


@pytest.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A Prometheus whose trackers are busy, and the results of all queries."""
    program("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    async with trackers(directory) as busy:
        config = configuration(directory, [busy.here, busy.there, busy.narrow], busy.cluster, busy.tls, port)
        promtool("check", "config", config)
        async with running(config, port) as prometheus:
            activity = asyncio.create_task(Activity(busy).run())
            watching = asyncio.create_task(watch(prometheus))
            await asyncio.wait((activity, watching), return_when=asyncio.FIRST_COMPLETED)
            if activity.done():
                watching.cancel()
                await activity
            watched = await watching
            if "PANELS" in os.environ:
                write_report(Path(os.environ["PANELS"]), watched.shown)
            yield watched
            activity.cancel()
            with suppress(asyncio.CancelledError):
                await activity


async def test_all_trackers_are_scraped(watched: Watched) -> None:
    up = await watched.prometheus.query('up{job=~"peerservers.*"}')
    assert [value for _, value in up] == [1.0] * 5


def test_every_panel_shows_a_value(watched: Watched) -> None:
    assert watched.without_value() == set()
    assert watched.only_zero() == set()


async def test_panels_show_every_reason_and_the_provoked_ones_grow(watched: Watched) -> None:
    shown: dict[str, set[str]] = {}
    for target, one in watched.shown.items():
        shown.setdefault(target.place, set()).update(labels["reason"] for labels, _ in one.real if "reason" in labels)
    assert shown["tracker: Rejects by reason"] == set(RejectReason)
    assert shown["tracker: Drops by reason"] == set(DropReason)
    assert shown["tracker: Closes by reason"] == set(CloseReason)
    assert shown["federation: Link ends by reason"] == set(EndReason)
    assert shown["federation: Drops by reason"] == set(Dropped)
    assert shown["tracker: Drops between nodes by reason"] == set(cluster_reasons.Dropped)
    assert shown["tracker: Refused messages of nodes by reason"] == set(cluster_reasons.Refused)
    assert shown["tracker: Resyncs by reason"] == set(cluster_reasons.Resync)
    assert shown["tracker: Nodes gone by reason"] == set(cluster_reasons.Left)
    assert shown["tracker: Troubles of connections by reason"] == set(Trouble)
    missing = {panel: expected - watched.reasons[panel] for panel, expected in PROVOKED.items()}
    assert not any(missing.values()), missing
    rejected = await watched.prometheus.query('peerservers_rejected_total{job=~"peerservers.*"} > 0')
    assert {labels["reason"] for labels, _ in rejected} == PROVOKED["tracker: Rejects by reason"]


async def test_dashboards_and_rules_use_only_existing_metrics_and_dashboards_show_them_all(watched: Watched) -> None:
    existing = await watched.prometheus.metrics()
    on_dashboards = {name for target in targets() for name in metrics_in(target.expr)}
    in_rules = {name for rule in await watched.prometheus.rules() for name in metrics_in(rule["query"])}
    assert on_dashboards - existing == set()
    assert in_rules - existing == set()
    assert {name for name in existing if name.startswith("peerservers_")} - on_dashboards == NOT_SHOWN


async def test_every_rule_is_evaluated_and_the_provoked_alerts_fire(watched: Watched) -> None:
    rules = await watched.prometheus.rules()
    assert len(rules) == len(re.findall(r"^ +- alert:", ALERTS.read_text(), re.MULTILINE))
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []

    async def fire() -> bool:
        return await watched.prometheus.firing() == FIRING

    await eventually(fire)
