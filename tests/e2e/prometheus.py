"""Runs a real Prometheus with the configuration that is shipped, and asks it the queries of the dashboards."""

import asyncio
import json
import math
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import urlopen

from grafana.model import flatten
from tests.client import Json, eventually
from tests.conftest import TrackerProcess, unavailable

GRAFANA = Path(__file__).parents[2] / "grafana"
CONFIG = GRAFANA / "prometheus" / "prometheus.yml"
ALERTS = GRAFANA / "prometheus" / "alerts.yml"
ALERTS_TEST = GRAFANA / "prometheus" / "alerts_test.yml"

_TLS_JOB = """
  - job_name: peerservers-tls
    scheme: https
    tls_config:
      insecure_skip_verify: true
    static_configs:
      - targets: ["{}"]
"""

_VARIABLES = {
    "$__rate_interval": "10s",
    "$__range": "5m",
    '"$job"': '"(peerservers|peerservers-cluster|peerservers-tls)"',
    '"$instance"': '".+"',
}

_FALLBACK = re.compile(r" or (on\(\) label_replace\()?vector\(0\)(, \"\w+\", \"none\", \"\", \"\"\))?$")

_METRIC = re.compile(r"\b(?:peerservers|process|python)_\w+")
_SUFFIX = re.compile(r"_(?:bucket|sum|count|created)$")


class Target(NamedTuple):
    """One query of a panel."""

    dashboard: str
    panel: str
    ref_id: str
    legend: str
    expr: str

    @property
    def place(self) -> str:
        """The dashboard and the panel."""
        return f"{self.dashboard}: {self.panel}"


class Shown(NamedTuple):
    """The samples that a query returned, and those that it returned without its fallback to 0."""

    all: list[tuple[Json, float]]
    real: list[tuple[Json, float]]

    @property
    def rank(self) -> int:
        """3 with a value that is not 0, 2 with a value of the metric, 1 with the fallback only, 0 without any value."""
        if any(value for _, value in self.real):
            return 3
        return 2 if self.real else 1 if self.all else 0


class Prometheus:
    """The HTTP interface of a Prometheus."""

    def __init__(self, port: int) -> None:
        self.address = f"127.0.0.1:{port}"

    async def get(self, path: str, **parameters: str) -> Any:
        """Return the data of a reply.

        Raises:
            HTTPError: Prometheus rejects the request.
        """

        def get() -> Any:
            with urlopen(f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}", timeout=10) as response:
                return json.load(response)["data"]

        return await asyncio.to_thread(get)

    async def query(self, expr: str) -> list[tuple[Json, float]]:
        """Return the labels and values of an expression, without those that are not a number."""
        result = (await self.get("query", query=expr))["result"]
        samples = [(sample["metric"], float(sample["value"][1])) for sample in result]
        return [(labels, value) for labels, value in samples if not math.isnan(value)]

    async def show(self, target: Target) -> Shown:
        """Return the samples that a panel shows now."""
        expr = target.expr
        for variable, value in _VARIABLES.items():
            expr = expr.replace(variable, value)
        assert "$" not in expr, expr
        shown, real = await asyncio.gather(self.query(expr), self.query(_FALLBACK.sub("", expr)))
        assert not any(labels.get("instance") == self.address for labels, _ in shown), "a panel shows Prometheus itself"
        return Shown(shown, real)

    async def metrics(self) -> set[str]:
        """Return the names of the metrics that the trackers have."""
        found: list[str] = await self.get("label/__name__/values", **{"match[]": '{job=~"peerservers.*"}'})
        return {_SUFFIX.sub("", name) for name in found}

    async def rules(self) -> list[Json]:
        """Return the alert rules and their state."""
        return [rule for group in (await self.get("rules"))["groups"] for rule in group["rules"]]

    async def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        alerts = (await self.get("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def is_ready(self) -> bool:
        """Return whether Prometheus replies."""
        with suppress(OSError):
            await self.get("status/buildinfo")
            return True
        return False


def targets() -> list[Target]:
    """Return the queries of all dashboards."""
    return [
        Target(path.stem, panel["title"], target["refId"], target["legendFormat"], target["expr"])
        for path in sorted((GRAFANA / "dashboards").glob("*.json"))
        for panel in flatten(json.loads(path.read_text())["panels"])
        for target in panel.get("targets", [])
    ]


def metrics_in(expr: str) -> set[str]:
    """Return the names of the metrics in an expression, without the suffixes of histograms."""
    return {_SUFFIX.sub("", name) for name in _METRIC.findall(expr)}


def program(name: str) -> str:
    """Return the path of a program of Prometheus; skip the test if it is not installed."""
    found = shutil.which(name)
    if found is None:
        unavailable("prometheus")
    assert found
    return found


def promtool(*arguments: object) -> None:
    """Run promtool, which must find no error."""
    ended = subprocess.run([program("promtool"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


_NODES = """\
    dns_sd_configs:
      - names: [node-1, node-2, node-3]
        type: A
        port: 8000
"""


def configuration(
    directory: Path, trackers: list[TrackerProcess], cluster: TrackerProcess, tls: TrackerProcess, port: int
) -> Path:
    """Write the configuration that is shipped, with these trackers and an interval of 1 s; return its path."""
    text = CONFIG.read_text()
    changes = {
        "15s": "1s",
        "alerts.yml": str(ALERTS),
        "localhost:9090": f"127.0.0.1:{port}",
        _NODES: f"    static_configs:\n      - targets: ['127.0.0.1:{cluster.port}']\n",
        **{f"tracker-{letter}:8000": f"127.0.0.1:{one.port}" for letter, one in zip("abc", trackers, strict=True)},
    }
    for old, new in changes.items():
        assert old in text, f"{CONFIG} has no {old}"
        text = text.replace(old, new)
    path = directory / "prometheus.yml"
    path.write_text(text + _TLS_JOB.format(f"127.0.0.1:{tls.port}"))
    return path


@asynccontextmanager
async def running(config: Path, port: int) -> AsyncIterator[Prometheus]:
    """Run a Prometheus with a configuration, which keeps its data beside it."""
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
