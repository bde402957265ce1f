"""The tracker's own HTTP routes."""

import json
from html import escape
from http import HTTPStatus
from string import Template
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from tracker import __version__
from tracker.endpoint import Endpoint
from tracker.http import Request, Response, Route, plain
from tracker.hub import Hub
from tracker.stats import Statistics, StatisticsCache, Tables

HTML: Final = "text/html; charset=utf-8"

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>WebTorrent tracker</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
code { background: #f0f0f0; border-radius: .25rem; padding: .15rem .35rem; overflow-wrap: anywhere; }
td { padding-right: 2rem; } td + td { text-align: right; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; } th { text-align: left; font-weight: 600; padding-right: 1rem; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } code { background: #333; }
a { color: #8cf; } }
</style>
<h1>WebTorrent tracker</h1>
<p>This is a tracker for <a href="https://webtorrent.io">WebTorrent</a> and other browser peer-to-peer programs.
It lets peers find each other; what they exchange does not pass through it. To use it, add this URL to a torrent or
to your program's list of trackers:</p>
<p><code>$url</code></p>
<table>
<tr><td>Connections<td>$connections
<tr><td>Swarms<td>$swarms
<tr><td>Seeders<td>$seeders
<tr><td>Leechers<td>$leechers
</table>
$tables
<p><a href="stats">Statistics</a> · <a href="stats.json">as JSON</a> · <a href="metrics">metrics</a> ·
Peerservers $version</p>
""")


class Pages:
    """`/`, `/stats`, `/stats.json`, `/metrics`, `/health` and `/ready`."""

    def __init__(
        self, hub: Hub, endpoint: Endpoint, registry: CollectorRegistry, public_url: str, tables: Tables
    ) -> None:
        self._hub = hub
        self._endpoint = endpoint
        self._registry = registry
        self._public_url = public_url
        self._tables = tables
        self._statistics = StatisticsCache(hub)

    def routes(self) -> dict[str, Route]:
        """What is served where."""
        return {
            "/": self._index,
            "/stats": self._stats,
            "/stats.json": self._stats_json,
            "/metrics": self._metrics,
            "/health": self._health,
            "/ready": self._ready,
        }

    async def _index(self, request: Request) -> Response:
        scheme = "wss" if request.headers.get("x-forwarded-proto") == "https" else "ws"
        url = self._public_url or f"{scheme}://{request.headers.get('host', 'localhost')}"
        page = _PAGE.substitute(
            url=escape(url),
            connections=len(self._endpoint.websockets),
            swarms=len(self._hub.swarms),
            seeders=self._hub.seeders,
            leechers=self._hub.leechers,
            tables="".join(_table(name, rows()) for name, rows in self._tables.items()),
            version=escape(__version__),
        )
        return Response(page.encode(), HTML, headers={"content-security-policy": "default-src 'self' 'unsafe-inline'"})

    async def _stats(self, request: Request) -> Response:
        if request.headers.get("accept") == "application/json":
            return await self._stats_json(request)
        return Response(_stats_page(await self._statistics.get()).encode(), HTML)

    async def _stats_json(self, _request: Request) -> Response:
        tables = {name: rows() for name, rows in self._tables.items()}
        body = json.dumps({**(await self._statistics.get()).as_json(), **tables}).encode()
        # Pages of other sites read these figures, as they do other trackers'.
        return Response(body, "application/json", headers={"access-control-allow-origin": "*"})

    async def _metrics(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(self._registry), content_type)

    async def _health(self, _request: Request) -> Response:
        return plain(HTTPStatus.OK)

    async def _ready(self, _request: Request) -> Response:
        return plain(HTTPStatus.OK if self._endpoint.accepting else HTTPStatus.SERVICE_UNAVAILABLE)


def _table(name: str, rows: list[dict[str, Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(column.replace('_', ' '))}" for column in rows[0])
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}' for cell in row.values())}\n" for row in rows)
    return f"<h2>{escape(name.capitalize())}</h2>\n<div class=wide><table>\n<tr>{head}\n{lines}</table></div>\n"


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
