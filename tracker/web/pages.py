"""The tracker's own HTTP routes: the page, the statistics, the metrics and the health checks."""

import base64
import hashlib
import json
import re
import time
from collections.abc import Mapping
from functools import partial
from html import escape
from http import HTTPStatus
from math import isfinite
from time import monotonic
from typing import Any, Final
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tracker import __version__
from tracker.core.hub import Hub
from tracker.net.endpoint import Endpoint
from tracker.net.routes import Request, Response, Routes, plain
from tracker.settings import Page
from tracker.web.announces import is_announce, refuse_announce
from tracker.web.exposition import Form, exposition, form_for
from tracker.web.linkmap import HEIGHT, WIDTH, link_map, name_of, short
from tracker.web.negotiation import accepts_gzip, gzipped
from tracker.web.renderings import Pace, Renderings
from tracker.web.stats import OFF, Rows, Statistics, Tables
from tracker.web.swarms import START, swarm_counts
from tracker.web.whole import Numbers, Whole

HTML: Final = "text/html; charset=utf-8"

DOCUMENTS: Final = "https://github.com/peerservers/peerservers/tree/main/docs"

_EVERYWHERE: Final = "of=tracker"
"""The query of /metrics that asks for the sum of all processes, also those on other machines."""

MAX_AGE: Final = 1.0
"""Seconds for which the parts of the page are reused."""

MAX_FORMS: Final = 8
"""Forms of one rendering of the page that are kept, compressed: one for each URL that clients use. They choose it."""

_URL, _MAGNET, _BASE, _DATA_BASE = (f"\0{name}\0" for name in ("url", "magnet", "base", "data"))
"""Stand for the parts of the page that depend on the URL. They are in no text of HTML."""

_HOST = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")

_LINK_COLUMNS: Final = ("tracker", "url", "direction")

_PARTS: Final = ("status", "off", "numbers", "linkmap", "links", "unlinked", "tables", "about")
"""The macros in `parts.html`, which are also the ids of the elements that they make."""

_VIEW_BOX: Final = f"{-WIDTH // 2} {-HEIGHT // 2} {WIDTH} {HEIGHT}"

_loader: Final = PackageLoader("tracker.web")
_templates: Final = Environment(
    loader=_loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_STYLE: Final = _loader.get_source(_templates, "page.css")[0]
_SCRIPT: Final = _loader.get_source(_templates, "page.js")[0]
_ICON: Final = _loader.get_source(_templates, "icon.svg")[0]


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_HEADERS: Final = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(_SCRIPT)}",
            f"style-src {_hash(_STYLE)}",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "referrer-policy": "no-referrer",
    # The page has current figures, and a URL that depends on the headers of the request.
    "cache-control": "no-store",
}


class Pages:
    """`/` with its `/live`, `/stats`, `/stats.json`, `/metrics`, `/health`, `/ready` and `/swarms/`.

    `whole` has the figures of all processes. `tls`: the public port speaks TLS. `statistics`: the statistics and the
    metrics are on the same port as the page, which then links to them. `swarm_counts`: the counts of each swarm are
    public.
    """

    def __init__(
        self,
        hub: Hub,
        endpoint: Endpoint,
        public_url: str,
        tables: Tables,
        page: Page,
        whole: Whole,
        *,
        tls: bool = False,
        statistics: bool = True,
        swarm_counts: bool = False,
    ) -> None:
        self._hub = hub
        self._endpoint = endpoint
        self._public_url = public_url
        self._tables = tables
        self._tls = tls
        self._has_statistics = statistics
        self._has_swarm_counts = swarm_counts
        self._page = page
        self._whole = whole
        self._started = monotonic()
        self._rendered = Renderings(Pace(), self._render, MAX_AGE)
        pace = Pace()
        self._rendered_stats = Renderings(pace, self._render_stats)
        self._rendered_json = Renderings(pace, self._render_json)
        self._metrics_pace = Pace()
        self._rendered_metrics: dict[tuple[bool, Form], Renderings[Response]] = {}

    def add_page(self, routes: Routes) -> None:
        """Serve the page and all others that are always on the public port."""
        routes.add("/", self._index)
        routes.add("/live", self._live)
        routes.add("/favicon.ico", self._favicon, is_constant=True)
        routes.add("/robots.txt", self._robots, is_constant=True)
        routes.add_matching("announce", is_announce, refuse_announce, public=True, is_constant=True)
        if self._has_swarm_counts:
            routes.add_matching("swarms", lambda path, _: path.startswith(START), self._swarm, public=True)

    def add_health(self, routes: Routes) -> None:
        """Serve the health checks of load balancers, which are on every port."""
        routes.add("/health", self._health, is_constant=True)
        routes.add("/ready", self._ready, is_constant=True)

    def add_statistics(self, routes: Routes) -> None:
        """Serve the statistics and the metrics, which may be on a separate port."""
        # Pages of other sites may read the statistics, as they may with bittorrent-tracker.
        routes.add("/stats", self._stats, public=True)
        routes.add("/stats.json", self._stats_json, public=True)
        routes.add("/metrics", self._metrics)

    async def _index(self, request: Request) -> Response:
        url = self._public_url or url_from(request.headers, self._tls) + request.prefix
        return (await self._rendered.get()).whole(url, request.prefix).response(request)

    async def _live(self, request: Request) -> Response:
        """Return the changing parts of the page, for its script."""
        return (await self._rendered.get()).live.response(request)

    async def _favicon(self, _request: Request) -> Response:
        return Response(_ICON.encode(), "image/svg+xml", headers={"cache-control": "max-age=86400"})

    async def _robots(self, _request: Request) -> Response:
        # The page itself may be found. Its changing parts and the statistics are of no use to a search engine.
        return Response(b"User-agent: *\nDisallow: /live\nDisallow: /stats\nDisallow: /metrics\nDisallow: /swarms/\n")

    async def _render(self) -> "Rendered":
        await self._tables.refresh()
        changing = parts(self._shown(await self._whole.numbers()))
        page = _templates.get_template("index.html").render(
            url=_URL,
            magnet=_MAGNET,
            base=_BASE,
            data_base=_DATA_BASE,
            is_guess=not self._public_url,
            name=self._page.name or "WebTorrent tracker",
            contact=self._page.contact,
            contact_url=contact_url(self._page.contact),
            tracker_id=self._tables.tracker_id,
            documents=DOCUMENTS,
            parts=changing,
            statistics=self._has_statistics,
            style=Markup(_STYLE),
            script=Markup(_SCRIPT),
        )
        return Rendered("".join(changing.values()), page)

    def _shown(self, numbers: Numbers) -> dict[str, Any]:
        tables = self._tables.read()
        drawn = self._tables.names_of_links()
        rows = [row for name in drawn for row in tables[name]]
        return {
            "accepting": self._endpoint.accepting,
            "seeders": numbers.seeders,
            "leechers": numbers.leechers,
            "swarms": numbers.swarms,
            "connections": numbers.connections,
            "federates": bool(drawn),
            "links": [row for row in rows if not row.get("state")],
            "unlinked": [row for row in rows if row.get("state")],
            "off": sorted(self._tables.all_off.items()),
            "tables": {name: rows for name, rows in tables.items() if name not in drawn},
            "version": __version__,
            "uptime": duration(monotonic() - self._started),
        }

    async def _stats(self, request: Request) -> Response:
        is_json = request.headers.get("accept") == "application/json"
        return await (self._rendered_json if is_json else self._rendered_stats).get()

    async def _stats_json(self, _request: Request) -> Response:
        return await self._rendered_json.get()

    async def _render_stats(self) -> Response:
        page = _stats_page(await self._whole.statistics()).encode()
        return Response(page, HTML, headers={"content-security-policy": "default-src 'none'"})

    async def _render_json(self) -> Response:
        await self._tables.refresh()
        statistics = (await self._whole.statistics()).as_json()
        content = {**statistics, **self._tables.read(), OFF: self._tables.all_off}
        body = json.dumps(content, default=str).encode()
        return Response(body, "application/json")

    async def _metrics(self, request: Request) -> Response:
        asked = _EVERYWHERE in request.query.split("&"), form_for(request)
        if asked not in self._rendered_metrics:
            render = partial(self._render_metrics, *asked)
            self._rendered_metrics[asked] = Renderings(self._metrics_pace, render)
        return await self._rendered_metrics[asked].get()

    async def _render_metrics(self, everywhere: bool, form: Form) -> Response:
        return await exposition(await self._whole.metrics(everywhere), form)

    async def _swarm(self, request: Request) -> Response:
        return await swarm_counts(self._hub.scrapes, request)

    async def _health(self, _request: Request) -> Response:
        return plain(HTTPStatus.OK)

    async def _ready(self, _request: Request) -> Response:
        return plain(HTTPStatus.OK if self._endpoint.accepting else HTTPStatus.SERVICE_UNAVAILABLE)


class _Body:
    """The bytes of a page. `is_kept`: they serve several requests, so it is worth while to compress them."""

    def __init__(self, text: str, is_kept: bool = True) -> None:
        self._plain = text.encode()
        self._is_kept = is_kept
        self._gzipped = b""

    def response(self, request: Request) -> Response:
        """Return the response, compressed if the client takes gzip."""
        # A hundred links are 100 KB without compression, every few seconds.
        if self._is_kept and accepts_gzip(request.headers.get("accept-encoding", "")):
            self._gzipped = self._gzipped or gzipped(self._plain)
            return Response(self._gzipped, HTML, headers={**_HEADERS, "content-encoding": "gzip"})
        return Response(self._plain, HTML, headers=_HEADERS)


class Rendered:
    """One rendering of the page. `live` has its changing parts, and `page` is all of it, for any URL."""

    def __init__(self, live: str, page: str) -> None:
        self.live = _Body(live)
        self._page = page
        self._forms: dict[tuple[str, str], _Body] = {}

    def whole(self, url: str, prefix: str) -> _Body:
        """Return the page of a tracker that the client sees at a URL, with its pages below a path prefix."""
        if (url, prefix) in self._forms:
            return self._forms[url, prefix]
        # Without a slash at its end, the path of the page would not be the base of relative links.
        base = escape(f"{prefix}/" if prefix else "")
        data_base = f' data-base="{base}"' if base else ""
        page = self._page.replace(_URL, escape(url)).replace(_MAGNET, escape(f"&tr={quote(url, safe='')}"))
        body = _Body(page.replace(_BASE, base).replace(_DATA_BASE, data_base), len(self._forms) < MAX_FORMS)
        if len(self._forms) < MAX_FORMS:
            self._forms[url, prefix] = body
        return body


def parts(shown: Mapping[str, Any]) -> dict[str, Markup]:
    """Return the changing parts of the page by name. Each is one element, with the name as its id."""
    links: Rows = shown["links"]
    now = time.time()
    columns = list(dict.fromkeys(column for link in links for column in link if column not in _LINK_COLUMNS))
    page = {
        **shown,
        "map": link_map([*links, *shown["unlinked"]]),
        "view_box": _VIEW_BOX,
        "swarms_short": short(shown["swarms"]),
        "tables": {
            name: [{column: _cell(column, cell, now) for column, cell in row.items()} for row in rows]
            for name, rows in shown["tables"].items()
        },
        "columns": [column.replace("_", " ") for column in columns],
        "links": [
            {
                "key": link.get("tracker") or name_of(link),
                "name": name_of(link),
                "url": link.get("url", ""),
                "tracker": link.get("tracker", ""),
                "direction": link.get("direction", ""),
                "kind": link["direction"] if link.get("direction") in ("dialed", "accepted") else "other",
                "cells": [_cell(column, link.get(column, ""), now) for column in columns],
            }
            for link in sorted(links, key=name_of)
        ],
        "unlinked": [
            {
                "key": link.get("url") or link.get("tracker") or name_of(link),
                "name": name_of(link),
                "url": link.get("url", ""),
                "state": link["state"],
                "since": _cell("since", link.get("since", ""), now),
                "reason": link.get("reason", ""),
                "next_try": next_try(link.get("next_try", 0), now),
            }
            for link in sorted(shown["unlinked"], key=name_of)
        ],
    }
    macros = _templates.get_template("parts.html").module
    return {name: Markup(getattr(macros, name)(page).strip()) for name in _PARTS}


def _cell(column: str, value: Any, now: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and isfinite(value):
        return f"{duration(now - value)} ago" if column == "since" else f"{value:,}"
    return str(value)


def next_try(when: Any, now: float) -> str:
    """Return a time in the near future as text."""
    left = when - now if isinstance(when, int | float) and isfinite(when) else 0
    return f"in {duration(left)}" if left >= 1 else "now"


def duration(seconds: float) -> str:
    """Return a length of time as text, in its two largest units."""
    minutes, rest = divmod(max(int(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min" if minutes else f"{rest} s"


def contact_url(contact: str) -> str:
    """Return the link for an e-mail address or a URL; it is empty for any other text."""
    if contact.startswith(("https://", "http://", "mailto:")):
        return contact
    return f"mailto:{contact}" if re.fullmatch(r"[^@\s]+@[^@\s]+", contact) else ""


def url_from(headers: Mapping[str, str], tls: bool) -> str:
    """Return the WebSocket URL of this tracker that the client used, according to the headers of its request."""
    host = headers.get("host", "")
    # Behind several proxies, the first value is the scheme of the outermost one, which clients use.
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()
    encrypted = scheme in ("https", "wss") if scheme in ("http", "https", "ws", "wss") else tls
    return f"{'wss' if encrypted else 'ws'}://{host if _HOST.fullmatch(host) else 'localhost'}"


def _stats_page(stats: Statistics) -> str:
    clients = "".join(
        f"<li><strong>{escape(name)}</strong> {escape(version)} : {number}</li>\n"
        for name, versions in sorted(stats.clients.items())
        for version, number in sorted(versions.items())
    )
    return (
        f"<!doctype html><title>Statistics</title>\n"
        f"<h1>{stats.torrents} torrents ({stats.torrents} active)</h1>\n"
        f"<h2>Connected Peers: {stats.peers_all}</h2>\n"
        f"<h3>Peers Seeding Only: {stats.peers_seeder_only}</h3>\n"
        f"<h3>Peers Leeching Only: {stats.peers_leecher_only}</h3>\n"
        f"<h3>Peers Seeding &amp; Leeching: {stats.peers_seeder_and_leecher}</h3>\n"
        f"<h3>IPv4 Peers: {stats.peers_ipv4}</h3>\n"
        f"<h3>IPv6 Peers: {stats.peers_ipv6}</h3>\n"
        f"<h3>Clients:</h3>\n<ul>\n{clients}</ul>\n"
    )
