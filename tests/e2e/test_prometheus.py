"""Dashboards and alert rules, asked of a real Prometheus that scrapes real trackers.

Two are linked, one has narrow limits and a bad extension, one does TLS; peers, strangers and neighbours of all kinds
keep them busy, so that the panels show what has really happened.
"""

import asyncio
import json
import math
import os
import random
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from websockets.exceptions import ConnectionClosed

from extensions.federation.reasons import Dropped, EndReason
from tests.client import HASH, Json, RawClient, answer, eventually, offers, raw_client
from tests.conftest import TrackerProcess, environment, free_port, unavailable
from tests.federated import federation
from tests.integration.friend import install
from tests.integration.hostile import HostileLink, link_to
from tests.integration.wire import HANDSHAKE
from tests.private_dht import PrivateDht
from tests.unit.fakes import peer_id
from tracker.reasons import CloseReason, DropReason, RejectReason

GRAFANA = Path(__file__).parents[2] / "grafana"
CONFIG = GRAFANA / "prometheus" / "prometheus.yml"
ALERTS = GRAFANA / "prometheus" / "alerts.yml"
ALERTS_TEST = GRAFANA / "prometheus" / "alerts_test.yml"

PATIENCE = 90.0
"""Seconds until every panel must have shown something."""

TLS_JOB = """
  - job_name: peerservers-tls
    scheme: https
    tls_config:
      insecure_skip_verify: true
    static_configs:
      - targets: ["{}"]
"""

VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "5m",
    '"$job"': '"(peerservers|peerservers-tls)"',
    '"$instance"': '".+"',
}

FALLBACK = re.compile(r" or (on\(\) label_replace\()?vector\(0\)(, \"\w+\", \"none\", \"\", \"\"\))?$")

QUIET = {
    ("tracker", "Restarts"): "no tracker is started again here",
    ("tracker", "Garbage left"): "only a fault in an extension module leaves any",
    ("federation", "Time in the queue"): "two trackers with a few swarms have no queue",
    ("federation", "Items ignored by reason"): "nobody puts what is invalid into this DHT",
}
"""Panels (dashboard, title) that show nothing but zero here, and why."""

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
"""Reasons that panels must show some of."""

FIRING = {
    "PeerserversFull",
    "PeerserversExtensionError",
    "PeerserversReloadFailed",
    "PeerserversCertificateExpires",
}
"""The alerts for which there is cause."""

NOT_SHOWN: frozenset[str] = frozenset()
"""Metrics that are on no dashboard."""

NAME = re.compile(r"\b(?:peerservers|process|python)_\w+")
PART = re.compile(r"_(?:bucket|sum|count|created)$")

ADDRESS_LIMIT, LIMIT = 2, 4
EVIL = "https://evil.example"
DENIED = "denied--------------"
LONELY = "lonely--------------"
VAIN = "vain----------------"
HOST = peer_id(0)


class Target(NamedTuple):
    """One query of a panel."""

    dashboard: str
    panel: str
    ref_id: str
    legend: str
    expr: str


def targets() -> list[Target]:
    """All queries of all dashboards."""
    return [
        Target(path.stem, panel["title"], target["refId"], target["legendFormat"], target["expr"])
        for path in sorted((GRAFANA / "dashboards").glob("*.json"))
        for panel in json.loads(path.read_text())["panels"]
        for target in panel.get("targets", [])
    ]


class Prometheus:
    """A Prometheus, by its HTTP interface."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"

    async def get(self, path: str, **parameters: str) -> Any:
        """What its interface says. Raises `HTTPError` if it has an objection."""

        def get() -> Any:
            with urlopen(f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as response:
                return json.load(response)["data"]

        return await asyncio.to_thread(get)

    async def query(self, expr: str) -> list[tuple[Json, float]]:
        """The labels and values of an expression; those that are not a number are none."""
        result = (await self.get("query", query=expr))["result"]
        samples = [(sample["metric"], float(sample["value"][1])) for sample in result]
        return [(labels, value) for labels, value in samples if not math.isnan(value)]

    async def names(self) -> set[str]:
        """The metrics that trackers have."""
        found: list[str] = await self.get("label/__name__/values", **{"match[]": '{job=~"peerservers.*"}'})
        return {PART.sub("", name) for name in found}

    async def is_ready(self) -> bool:
        """Whether it answers."""
        with suppress(OSError):
            await self.get("status/buildinfo")
            return True
        return False


class Shown(NamedTuple):
    """What a query has returned: with its fallback, and without."""

    all: list[tuple[Json, float]]
    real: list[tuple[Json, float]]

    @property
    def rank(self) -> int:
        """How good that is."""
        if any(value for _, value in self.real):
            return 3
        return 2 if self.real else 1 if self.all else 0


class Watched(NamedTuple):
    """The Prometheus, and what panels have shown while trackers were busy."""

    prometheus: Prometheus
    shown: dict[Target, Shown]
    """The best that each of their queries has returned."""
    reasons: dict[str, set[str]]
    """By panel, those that it has shown more of than none."""


def program(name: str) -> str:
    """One of Prometheus's programs."""
    found = shutil.which(name)
    if found is None:
        unavailable("prometheus")
    assert found
    return found


def promtool(*arguments: object) -> None:
    """Run promtool, which must not complain."""
    ended = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def configuration(directory: Path, trackers: list[TrackerProcess], tls: TrackerProcess, port: int) -> Path:
    """The configuration that is shipped, of these trackers, and fast."""
    text = CONFIG.read_text()
    changes = {
        "15s": "1s",
        "alerts.yml": str(ALERTS),
        "localhost:9090": f"127.0.0.1:{port}",
        **{f"tracker-{letter}:8000": f"127.0.0.1:{one.port}" for letter, one in zip("abc", trackers, strict=True)},
    }
    for old, new in changes.items():
        assert old in text, f"{CONFIG} has no {old}"
        text = text.replace(old, new)
    path = directory / "prometheus.yml"
    path.write_text(text + TLS_JOB.format(f"127.0.0.1:{tls.port}"))
    return path


@asynccontextmanager
async def running(config: Path, port: int) -> AsyncIterator[Prometheus]:
    """A Prometheus with a configuration."""
    arguments = (
        f"--config.file={config}",
        f"--storage.tsdb.path={config.parent / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    process = await asyncio.create_subprocess_exec(
        program("prometheus"), *arguments, stderr=asyncio.subprocess.DEVNULL, cwd=config.parent
    )
    try:
        prometheus = Prometheus(port)
        await eventually(prometheus.is_ready, 30)
        yield prometheus
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 20)


def self_signed(directory: Path) -> dict[str, str]:
    """Settings of TLS with a certificate that ends tomorrow."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "certificate.pem").write_bytes(certificate.public_bytes(pem))
    (directory / "key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return {"certificate": str(directory / "certificate.pem"), "key": str(directory / "key.pem")}


async def start_narrow(directory: Path, denied: Path) -> TrackerProcess:
    """A tracker with limits that a few clients reach, and an extension that fails at everything."""
    install(directory, "raises", "tests.integration.test_bad_extensions:Raises")
    await asyncio.to_thread(denied.write_text, DENIED.encode().hex() + "\n")
    return await TrackerProcess.start(
        env={
            "PYTHONPATH": str(directory),
            **environment("access", deny_infohashes=str(denied), deny_origins=[EVIL]),
            **environment(
                "limits",
                max_connections=LIMIT,
                connections_per_address=ADDRESS_LIMIT,
                announces_per_second=2,
                offers_per_second=2,
                burst=2,
                # Prometheus comes from there.
                exempt=["127.0.0.1"],
            ),
            # Who stays must not be closed for what it does all the time.
            **environment("connections", max_invalid=1_000_000),
            **environment("extensions.raises", enabled=True),
        }
    )


class Bustle:
    """What goes on at trackers."""

    def __init__(
        self,
        here: TrackerProcess,
        there: TrackerProcess,
        narrow: TrackerProcess,
        tls: TrackerProcess,
        denied: Path,
        dht: PrivateDht,
    ) -> None:
        self.here, self.there, self.narrow, self.tls, self.denied, self.dht = here, there, narrow, tls, denied, dht
        self.numbers = iter(range(100, 1_000_000))

    async def run(self) -> None:
        """Go on until cancelled."""
        async with AsyncExitStack() as stack:
            for number, (tracker, swarm) in enumerate(
                [(self.here, LONELY), (self.here, HASH), (self.there, HASH), (self.narrow, HASH)]
            ):
                peer = await stack.enter_async_context(raw_client(tracker.url))
                await peer.announce(peer_id(number), swarm, left=number % 2)
            link = await stack.enter_async_context(link_to(self.here.url))
            await link.send(link.have((LONELY, 0, 1)))
            vain = await stack.enter_async_context(raw_client(self.here.url))
            held = [await stack.enter_async_context(_from(self.narrow, 2)) for _ in range(ADDRESS_LIMIT)]
            parts = (
                self.meet,
                lambda: self.wait_in_vain(vain),
                self.ask_for_admission,
                self.talk_rubbish,
                lambda: self.be_rude(link),
                self.vanish,
                lambda: self.want_too_much(held[0]),
                self.be_refused,
                self.reload,
                self.lose_a_node,
                self.mistype,
            )
            await asyncio.gather(*(self._repeat(part) for part in parts))

    async def _repeat(self, part: Callable[[], Awaitable[None]]) -> None:
        while True:
            await part()
            await asyncio.sleep(random.uniform(0.3, 0.6))

    async def meet(self) -> None:
        """A peer waits with its offers, until another comes to the other tracker and answers."""
        number = next(self.numbers)
        swarm, seeder, leecher = f"swarm {number:014}", peer_id(number), peer_id(-number)
        async with raw_client(self.here.url) as waiting, raw_client(self.there.url) as coming:
            await waiting.announce(seeder, swarm, left=0, offers=offers(5, start=number * 10))
            await coming.announce(leecher, swarm)
            offer = await coming.receive_until(lambda message: "offer" in message)
            await coming.send(answer(leecher, seeder, offer["offer_id"], swarm))
            await waiting.receive_until(lambda message: "answer" in message)
            await coming.announce(leecher, swarm, offers=offers(5, start=number * 10 + 5))
            await waiting.receive_until(lambda message: "offer" in message)
            await waiting.send({"action": "scrape", "info_hash": swarm})
            await waiting.receive_until(lambda message: "files" in message)

    async def wait_in_vain(self, client: RawClient) -> None:
        """A peer to whom nobody comes: at every moment some of its offers wait."""
        await client.announce(peer_id(9), VAIN, offers=offers(2, start=next(self.numbers) * 10))

    async def ask_for_admission(self) -> None:
        """A peer joins where somebody has to think about it."""
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        async with raw_client(self.tls.url.replace("ws:", "wss:"), ssl=trusting) as client:
            await client.announce(peer_id(8))

    async def talk_rubbish(self) -> None:
        """A client is closed for that."""
        async with raw_client(self.here.url) as client:
            with suppress(ConnectionClosed):
                while True:
                    await client.socket.send('{"action": "dance"}')
                    await client.receive()

    async def be_rude(self, link: HostileLink) -> None:
        """A neighbour offers what nobody asked for, and a peer its own offers."""
        ids = [f"{next(self.numbers):020}" for _ in range(3)]
        await link.send(link.offers("u" * 20, peer_id(7), ids), link.offers(LONELY, HOST, ids))

    async def vanish(self) -> None:
        """A neighbour leaves without a word."""
        async with link_to(self.here.url) as link:
            link.socket.transport.abort()

    async def want_too_much(self, client: RawClient) -> None:
        """More than one address may use, and what nobody may have."""
        # One at a time: what an address may use is soon used up, and the first would leave nothing to the others.
        match random.choice(("denied", "announces", "offers")):
            case "denied":
                await client.announce(peer_id(2), DENIED)
            case "announces":
                for _ in range(5):
                    await client.announce(peer_id(2), offers=offers(2))
            case "offers":
                for _ in range(5):
                    await client.send(answer(peer_id(2), peer_id(3), offers(1)[0]["offer_id"], HASH))

    async def be_refused(self) -> None:
        """By each limit, and for a page's origin."""
        await self._refused(429, 2)
        await self._refused(403, 3, f"Origin: {EVIL}\r\n".encode())
        async with _from(self.narrow, 3):
            await self._refused(503, 4)

    async def _refused(self, status: int, host: int, more: bytes = b"") -> None:
        reader, writer = await asyncio.open_connection(
            self.narrow.host, self.narrow.port, local_addr=(f"127.0.0.{host}", 0)
        )
        # Who is refused at the door may find it shut before having asked.
        with suppress(ConnectionError):
            writer.write(HANDSHAKE + more + b"\r\n")
            assert (await reader.readline()).split()[1:2] == [str(status).encode()]
        writer.close()

    async def reload(self) -> None:
        """An operator has changed something."""
        self.there.tell(signal.SIGHUP)

    async def lose_a_node(self) -> None:
        """A node of the DHT is not there any more, while others still name it."""
        if len(self.dht.nodes) > 4:
            await self.dht.kill(1)
        await asyncio.sleep(5)

    async def mistype(self) -> None:
        """An operator spoils a list, and mends it."""
        for text in ("nonsense", DENIED.encode().hex()):
            await asyncio.to_thread(self.denied.write_text, text + "\n")
            self.narrow.tell(signal.SIGHUP)
            await asyncio.sleep(1)


def _from(tracker: TrackerProcess, host: int) -> AbstractAsyncContextManager[RawClient]:
    return raw_client(tracker.url, local_addr=(f"127.0.0.{host}", 0))


async def show(prometheus: Prometheus, target: Target) -> Shown:
    """What a panel's query returns now."""
    expr = target.expr
    for variable, value in VARIABLES.items():
        expr = expr.replace(variable, value)
    assert "$" not in expr, expr
    shown, real = await asyncio.gather(prometheus.query(expr), prometheus.query(FALLBACK.sub("", expr)))
    assert not any(labels.get("instance") == prometheus.address for labels, _ in shown), "of no tracker"
    return Shown(shown, real)


async def watch(prometheus: Prometheus) -> Watched:
    """Look at all panels until all have shown what they must."""
    watched = Watched(prometheus, {}, {f"{target.dashboard}: {target.panel}": set() for target in targets()})
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            while not (watched.shown and has_all(watched)):
                for target in targets():
                    await look(watched, target)
                await asyncio.sleep(0.2)
    return watched


async def look(watched: Watched, target: Target) -> None:
    """Look at what a query returns now, if it could be more than has been seen."""
    reasons = watched.reasons[f"{target.dashboard}: {target.panel}"]
    best = watched.shown.get(target)
    if best and best.rank == 3 and reasons >= PROVOKED.get(f"{target.dashboard}: {target.panel}", set()):
        return
    shown = await show(watched.prometheus, target)
    reasons.update(labels["reason"] for labels, value in shown.real if "reason" in labels and value > 0)
    if not best or shown.rank >= best.rank:
        watched.shown[target] = shown


def has_all(watched: Watched) -> bool:
    """Whether nothing is missing any more."""
    is_seen = all(watched.reasons[panel] >= expected for panel, expected in PROVOKED.items())
    return is_seen and not lacking(watched.shown) | at_rest(watched.shown)


def lacking(shown: dict[Target, Shown]) -> set[Target]:
    """Queries that have returned no more than their fallback, if that."""
    return {target for target, one in shown.items() if not one.real}


def at_rest(shown: dict[Target, Shown]) -> set[tuple[str, str]]:
    """Panels that have shown nothing but zero, and not for a reason."""
    moved = {(target.dashboard, target.panel) for target, one in shown.items() if one.rank == 3}
    return {(target.dashboard, target.panel) for target in shown} - moved - QUIET.keys()


def write_report(shown: dict[Target, Shown]) -> None:
    """What each panel showed, for people."""
    lines = []
    for target, (samples, real) in shown.items():
        values = "; ".join(f"{_legend(target, labels)} = {value:.4g}" for labels, value in samples)
        note = "" if real else "  [fallback only]" if samples else "  [NOTHING]"
        lines.append(f"{target.dashboard} | {target.panel} | {values}{note}\n")
    Path(os.environ["PANELS"]).write_text("".join(lines))


def _legend(target: Target, labels: Json) -> str:
    return re.sub(r"{{(\w+)}}", lambda match: str(labels.get(match[1], "")), target.legend)


@pytest.fixture(scope="module")
async def watched(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Watched]:
    """A Prometheus that has seen much happen."""
    program("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    port = free_port()
    async with federation(directory) as trackers:
        here, there = await trackers.start_linked(2)
        denied = directory / "denied"
        narrow = await start_narrow(directory, denied)
        (directory / "door").mkdir()
        install(directory / "door", "door", "tests.integration.friend:ConnectionGate")
        tls = await TrackerProcess.start(
            env={"PYTHONPATH": str(directory / "door"), **environment("tls", **self_signed(directory))}
        )
        config = configuration(directory, [here, there, narrow], tls, port)
        promtool("check", "config", config)
        try:
            async with running(config, port) as prometheus:
                bustle = asyncio.create_task(Bustle(here, there, narrow, tls, denied, trackers.dht).run())
                looking = asyncio.create_task(watch(prometheus))
                await asyncio.wait((bustle, looking), return_when=asyncio.FIRST_COMPLETED)
                if bustle.done():
                    looking.cancel()
                    await bustle
                watched = await looking
                if "PANELS" in os.environ:
                    write_report(watched.shown)
                yield watched
                bustle.cancel()
                with suppress(asyncio.CancelledError):
                    await bustle
        finally:
            codes = [await tracker.stop() for tracker in (narrow, tls)]
        assert codes == [0, 0]
        assert tls.complaints() == []
        assert {line["event"] for line in narrow.complaints()} <= {"extension_failed", "reload_failed"}


async def test_all_trackers_are_scraped(watched: Watched) -> None:
    up = await watched.prometheus.query('up{job=~"peerservers.*"}')
    assert [value for _, value in up] == [1.0] * 4


def test_every_panel_shows_something(watched: Watched) -> None:
    assert lacking(watched.shown) == set()
    assert at_rest(watched.shown) == set()


async def test_every_reason_is_shown_and_these_were_provoked(watched: Watched) -> None:
    shown: dict[str, set[str]] = {}
    for target, one in watched.shown.items():
        shown.setdefault(f"{target.dashboard}: {target.panel}", set()).update(
            labels["reason"] for labels, _ in one.real if "reason" in labels
        )
    assert shown["tracker: Rejects by reason"] == set(RejectReason)
    assert shown["tracker: Drops by reason"] == set(DropReason)
    assert shown["tracker: Closes by reason"] == set(CloseReason)
    assert shown["federation: Link ends by reason"] == set(EndReason)
    assert shown["federation: Drops by reason"] == set(Dropped)
    missing = {panel: expected - watched.reasons[panel] for panel, expected in PROVOKED.items()}
    assert not any(missing.values()), missing
    rejected = await watched.prometheus.query('peerservers_rejected_total{job=~"peerservers.*"} > 0')
    assert {labels["reason"] for labels, _ in rejected} == PROVOKED["tracker: Rejects by reason"]


async def test_dashboards_and_rules_know_the_metrics_and_show_them_all(watched: Watched) -> None:
    there = await watched.prometheus.names()
    on_dashboards = {PART.sub("", name) for target in targets() for name in NAME.findall(target.expr)}
    groups = (await watched.prometheus.get("rules"))["groups"]
    in_rules = {
        PART.sub("", name) for group in groups for rule in group["rules"] for name in NAME.findall(rule["query"])
    }
    assert on_dashboards - there == set()
    assert in_rules - there == set()
    assert {name for name in there if name.startswith("peerservers_")} - on_dashboards == NOT_SHOWN


async def test_every_rule_is_evaluated_and_some_fire(watched: Watched) -> None:
    groups = (await watched.prometheus.get("rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(re.findall(r"^ +- alert:", ALERTS.read_text(), re.MULTILINE))
    assert [(rule["name"], rule.get("lastError")) for rule in rules if rule["health"] != "ok"] == []

    async def fire() -> bool:
        alerts = (await watched.prometheus.get("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"} == FIRING

    await eventually(fire)


def test_the_configuration_is_valid() -> None:
    promtool("check", "config", CONFIG)
    promtool("check", "rules", ALERTS)


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", ALERTS_TEST)
