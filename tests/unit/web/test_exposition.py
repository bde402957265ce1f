"""`/metrics`: formats, compression, turns for other tasks, and fields that Prometheus's own library cannot read."""

import asyncio
import gzip
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from tracker.net.routes import Request, Response
from tracker.web import exposition as module
from tracker.web.exposition import exposition, form_for

OPENMETRICS = "application/openmetrics-text"
PROMETHEUS = (
    f"{OPENMETRICS};version=1.0.0;escaping=allow-utf-8;q=0.6,{OPENMETRICS};version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
"""The field `Accept` of Prometheus 3."""


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    """Return metrics of all kinds."""
    registry = CollectorRegistry()
    for number in range(20):
        family = Counter(f"c{number}", 'A "counter"\nof \\ things', ["label"], registry=registry)
        family.labels('a "quoted" \\ \n é').inc(number)
        Gauge(f"g{number}", "A gauge", registry=registry).set(0.1)
        Histogram(f"h{number}", "A histogram", registry=registry).observe(0.2)
    return registry


def as_text(registry: CollectorRegistry, is_openmetrics: bool) -> bytes:
    """Return all metrics as Prometheus's own library encodes them."""
    generate: Any = generate_openmetrics if is_openmetrics else generate_latest
    text: bytes = generate(registry)
    return text


async def get(registry: CollectorRegistry, **headers: str) -> Response:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return await exposition(list(registry.collect()), form_for(Request("/metrics", "", fields)))


@pytest.mark.parametrize(
    ("accept", "is_openmetrics"),
    [
        ("", False),
        ("*/*", False),
        ("text/plain", False),
        ("text/html, */*", False),
        (PROMETHEUS, True),
        (OPENMETRICS, True),
        (f"{OPENMETRICS};version=0.0.1", True),
        (f"text/plain;version=0.0.4;q=0.6,{OPENMETRICS};version=1.0.0;q=0.5", False),
        (f"{OPENMETRICS};q=0", False),
        # prometheus_client raises exceptions for these.
        (f"{OPENMETRICS};version=", True),
        (f"{OPENMETRICS};version=x", True),
        (f"{OPENMETRICS};version=1.{'9' * 5000}", True),
        (f"{OPENMETRICS};version=9.9", True),
        ("text/plain;version=", False),
        ("text/plain;version=1..0", False),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
async def test_all_metrics_in_an_accepted_format(
    registry: CollectorRegistry, accept: str, is_openmetrics: bool, compressed: bool
) -> None:
    response = await get(registry, accept=accept, accept_encoding="gzip" if compressed else "")
    assert response.content_type.startswith(OPENMETRICS if is_openmetrics else "text/plain; version=0.0.4")
    assert ("content-encoding" in response.headers) is compressed
    body = gzip.decompress(response.body) if compressed else response.body
    assert body == as_text(registry, is_openmetrics)


@given(st.text("qv=;,/.*0123456789aeginopstrx-\xe9 ", max_size=60).map((OPENMETRICS + ";version=").__add__))
def test_any_accept_has_a_response(registry: CollectorRegistry, accept: str) -> None:
    response = asyncio.run(get(registry, accept=accept))
    assert response.body == as_text(registry, response.content_type.startswith(OPENMETRICS))


async def test_other_tasks_have_turns_in_between(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)
    turns = 0
    task = asyncio.create_task(get(registry))
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    # One for each metric.
    assert turns > 60


async def test_all_values_are_of_one_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", 0.0)
    registry = CollectorRegistry()
    gauges = [Gauge(f"g{number}", "The same", registry=registry) for number in range(20)]
    task = asyncio.create_task(get(registry))
    value = 0
    while not task.done():
        value += 1
        for gauge in gauges:
            gauge.set(value)
        await asyncio.sleep(0)
    lines = (line for line in (await task).body.decode().splitlines() if not line.startswith("#"))
    assert len({line.split()[1] for line in lines}) == 1
