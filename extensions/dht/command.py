"""`peerservers lookup`: find the trackers that serve an infohash."""

import asyncio
import base64
import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs

import click
import uvloop
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht import explain
from extensions.dht.extension import check_libtorrent
from extensions.dht.records.reports import VisitReport
from extensions.dht.settings import DhtSettings
from extensions.trackers import Sighting
from tracker.extension import (
    ExtensionOff,
    config_option,
    configure_logs,
    given,
    load,
    parse_info_hash,
    swarm_key,
    validate,
)

if TYPE_CHECKING:
    from extensions.dht.service import Service

PROGRESS_PERIOD: Final = 0.2
"""Seconds between two updates of the progress line."""

SETTLE: Final = 1.0
"""Seconds to wait, at most, until the routing table is filled."""

MEASURE: Final = 2.0
"""Seconds to wait, at most, for the size of the DHT, without which nothing can be called dense."""

MAX_TIMEOUT: Final = 24 * 3600.0


class Unreachable(Exception):
    """No node of the DHT has answered."""


@dataclass(slots=True)
class _Search:
    """The results of a search."""

    found: list[Sighting] = field(default_factory=list)
    reports: list[VisitReport] | None = None
    """The visits; None if they are not explained."""
    estimates: dict[int, float | None] = field(default_factory=dict)
    """The number of nodes of the DHT, by address family."""


def _seconds(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    # NaN must fail too: every comparison with it is false.
    if not 0 < value <= MAX_TIMEOUT:
        raise click.BadParameter(f"not between 0 and {MAX_TIMEOUT:.0f} seconds")
    return value


@click.command()
@config_option
@click.argument("infohash")
@click.option("--bootstrap", multiple=True, metavar="HOST:PORT", help="Bootstrap node; may be repeated.")
@click.option("--private", is_flag=True, default=None, help="A private DHT, in which nodes may have any address.")
@click.option("--listen", help="UDP address; by default a free port at the configured address.")
@click.option("--timeout", default=30.0, show_default=True, callback=_seconds, help="Seconds to search, at most.")
@click.option("--explain", "explains", is_flag=True, help="Also print where it looked, and which nodes answered.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def lookup(
    config_file: Path | None,
    infohash: str,
    bootstrap: tuple[str, ...],
    private: bool | None,
    listen: str | None,
    timeout: float,
    explains: bool,
    as_json: bool,
) -> None:
    """Find the trackers that serve INFOHASH (hexadecimal, base32 or a magnet link) in the DHT.

    An info_hash of another length than 20 bytes is written as a JSON string, with its quotes: '"name"'.

    docs/dht.md has the words that --explain uses.

    Exits with 0 if there are any, 1 if there are none, and 3 if no node of the DHT can be reached.
    """
    info_hash = parse_infohash(infohash)
    try:
        check_libtorrent()
    except ExtensionOff as error:
        raise click.ClickException(str(error)) from None
    configured = _settings(config_file, {})
    # A running tracker uses the configured port, with its own node id.
    free = ",".join(f"{address.rpartition(':')[0]}:0" for address in configured.addresses)
    chosen = given({"bootstrap": list(bootstrap) or None, "private": private, "listen": listen or free})
    settings = _settings(config_file, chosen)
    configure_logs("error", "text")
    try:
        search = uvloop.run(_search(settings, info_hash, timeout, explains))
    except Unreachable:
        click.echo(f"peerservers: no node of the DHT answers ({', '.join(settings.bootstrap)})", err=True)
        sys.exit(3)
    click.echo(_as_json(info_hash, search) if as_json else _as_text(info_hash, search))
    sys.exit(0 if search.found else 1)


def _settings(config_file: Path | None, options: dict[str, Any]) -> DhtSettings:
    table = load(config_file, {"extensions": {"dht": options}}, {"dht": DhtSettings}).extensions["dht"]
    return validate(DhtSettings, table, "extensions.dht")


def parse_infohash(text: str) -> bytes:
    """Return the 20 bytes of an infohash in hexadecimal or base32, or in a magnet link (BEP 9).

    For an info_hash in quotes, return its swarm's key.

    Raises `click.BadParameter`.
    """
    digits = text.strip()
    if digits.lower().startswith("magnet:"):
        topics = parse_qs(digits.partition("?")[2].partition("#")[0]).get("xt", [])
        digits = next((topic[9:] for topic in topics if topic.lower().startswith("urn:btih:")), "")
    if re.fullmatch("[2-7a-zA-Z]{32}", digits):
        return base64.b32decode(digits.upper())
    try:
        return swarm_key(parse_info_hash(digits))
    except ValueError:
        raise click.BadParameter(
            "not an infohash: 40 hexadecimal or 32 base32 digits, a magnet link with one, or an info_hash in quotes"
        ) from None


async def _search(settings: DhtSettings, info_hash: bytes, max_seconds: float, explains: bool) -> _Search:
    from extensions.dht.service import Service

    service = Service(settings, Ed25519PrivateKey.generate(), "", None)
    search = _Search()
    if explains:
        reports = search.reports = []
        service.directory.observe(reports.append)
    await service.start()
    progress = asyncio.ensure_future(_show_progress(service, search.found))
    try:
        async with asyncio.timeout(max_seconds):
            await service.reachable.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE):
                    await service.settled.wait()
            if explains:
                await _measure(service)
            async for sighting in service.directory.trackers(info_hash, thorough=True):
                search.found.append(sighting)
    except TimeoutError:
        if not service.reachable.is_set():
            raise Unreachable from None
    finally:
        progress.cancel()
        await asyncio.wait([progress])
        families = sorted(service.client.messenger.families)
        search.estimates = {family: service.client.estimates[family].nodes for family in families}
        await service.stop()
    search.found.sort(key=lambda sighting: -sighting.entry.expires)
    return search


async def _measure(service: "Service") -> None:
    """Estimate the size of the DHT, unless that takes long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MEASURE):
            await service.client.measure()


async def _show_progress(service: "Service", found: list[Sighting]) -> None:
    """Update a line on standard error if that is a terminal; otherwise write one line at the end."""
    is_terminal, started = sys.stderr.isatty(), time.monotonic()

    def line() -> str:
        queries = sum(service.client.counters.queries.values())
        return (
            f"{len(found)} found; {service.node.size} nodes known, {queries} asked, {time.monotonic() - started:.1f} s"
        )

    try:
        while True:
            if is_terminal:
                click.echo(f"\r\x1b[Ksearching: {line()}", nl=False, err=True)
            await asyncio.sleep(PROGRESS_PERIOD)
    finally:
        click.echo(f"\r\x1b[K{line()}" if is_terminal else line(), err=True)


def _as_json(info_hash: bytes, search: _Search) -> str:
    trackers = [
        {"id": one.entry.tracker_id, "url": one.entry.url, "expires": one.entry.expires, "found_in": one.where}
        for one in search.found
    ]
    result: dict[str, Any] = {"infohash": info_hash.hex(), "trackers": trackers}
    if search.reports is not None:
        result["explanation"] = explain.as_json(search.reports, search.estimates)
    return json.dumps(result, indent=2)


def _as_text(info_hash: bytes, search: _Search) -> str:
    table = _as_table(info_hash, search.found)
    if search.reports is None:
        return table
    return f"{table}\n\n{explain.as_text(search.reports, search.estimates)}"


def _as_table(info_hash: bytes, found: list[Sighting]) -> str:
    if not found:
        return f"no tracker found for {info_hash.hex()}"
    rows = [("URL", "EXPIRES", "FOUND IN", "TRACKER ID"), *_rows(found)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return "\n".join(
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows
    )


def _rows(found: list[Sighting]) -> Iterator[tuple[str, str, str, str]]:
    for one in found:
        until = datetime.fromtimestamp(one.entry.expires, UTC)
        minutes = max(0, int(one.entry.expires - time.time()) // 60)
        yield one.entry.url, f"{until:%H:%M} UTC, in {minutes} min", one.where, one.entry.tracker_id
