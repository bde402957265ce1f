"""`/metrics`, in the text formats of Prometheus."""

import asyncio
from collections.abc import Iterable, Iterator
from time import monotonic
from typing import Final, NamedTuple

from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from tracker.net.routes import Request, Response
from tracker.web.negotiation import Gzip, accepts_gzip, quality

OPENMETRICS: Final = "application/openmetrics-text"

_TEXT: Final = choose_encoder("")
_OPENMETRICS: Final = choose_encoder(f"{OPENMETRICS}; version=1.0.0")
# `choose_encoder` parses versions, and raises an exception for some. It never sees a client's field.

_OPENMETRICS_END: Final = b"# EOF\n"

SLICE: Final = 0.001
"""Seconds of encoding without a turn for other tasks."""


class _One(Collector):
    """A registry with a single metric."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


class Form(NamedTuple):
    """A form of the metrics: OpenMetrics or the older text format, compressed or not."""

    is_openmetrics: bool
    is_compressed: bool


def form_for(request: Request) -> Form:
    """Return the best form that the client accepts."""
    accept = request.headers.get("accept", "")
    openmetrics = quality(accept, OPENMETRICS)
    is_openmetrics = openmetrics > 0 and openmetrics >= quality(accept, "text/plain")
    return Form(is_openmetrics, accepts_gzip(request.headers.get("accept-encoding", "")))


async def exposition(metrics: Iterable[Metric], form: Form) -> Response:
    """Return metrics in a form.

    Encoding takes several milliseconds, so other tasks have turns in between.
    """
    encode, content_type = _OPENMETRICS if form.is_openmetrics else _TEXT
    gzip = Gzip() if form.is_compressed else None
    pieces = []
    started = monotonic()
    for metric in metrics:
        piece = encode(_One(metric)).removesuffix(_OPENMETRICS_END)
        pieces.append(gzip.add(piece) if gzip else piece)
        if monotonic() - started > SLICE:
            await asyncio.sleep(0)
            started = monotonic()
    if form.is_openmetrics:
        pieces.append(gzip.add(_OPENMETRICS_END) if gzip else _OPENMETRICS_END)
    headers = {"vary": "accept, accept-encoding"}
    if gzip:
        pieces.append(gzip.end())
        headers["content-encoding"] = "gzip"
    return Response(b"".join(pieces), content_type, headers=headers)
