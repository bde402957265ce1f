"""`peerservers federation`: the links of a running tracker."""

import json
import socket
import ssl
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import click

from tracker.extension import as_http, config_option, load, own_statistics

WATCH_PERIOD: Final = 2.0
"""Seconds between two updates of `--watch`."""

LINK_COLUMNS: Final = (
    *("tracker", "url", "direction", "since", "shared_swarms"),
    *("offers_in", "offers_out", "answers_in", "answers_out", "refused", "dropped"),
)
UNLINKED_COLUMNS: Final = ("url", "state", "since", "next_try", "reason")
LINKING_COLUMNS: Final = ("links", "max_links", "known_not_linked", "dials_queued", "dials_in_backoff", "shortage")
_SHORT: Final = 16
"""Digits of a tracker id that are shown, as in the log and in the metrics."""

Json = dict[str, Any]


@click.command()
@config_option
@click.argument("url", required=False)
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the tracker.")
@click.option("--wide", is_flag=True, help="Print whole tracker ids.")
@click.option("--watch", is_flag=True, help=f"Print again every {WATCH_PERIOD:g} seconds, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def federation(
    config_file: Path | None, url: str | None, timeout: float, wide: bool, watch: bool, as_json: bool
) -> None:
    """Show the links of a running tracker to other trackers, and the listed trackers without a link.

    URL begins with http://, https://, ws:// or wss://, or it is unix: and the path of a Unix-domain socket. By default,
    it is that of a tracker on this machine with these settings (metrics.port, server.port).

    The exit code is 0 if there are links, otherwise 1.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    is_own = url is None
    address = own_statistics(load(config_file)) if url is None else _address(url)
    shown = _fetch(address, timeout, is_own)
    text = json.dumps(shown, indent=2) if as_json else _as_text(shown, wide)
    while watch:
        click.clear()
        click.echo(f"{address}  {datetime.now(UTC):%H:%M:%S} UTC\n\n{text}\n")
        time.sleep(WATCH_PERIOD)
        try:
            text = _as_text(_fetch(address, timeout, is_own), wide)
        except click.ClickException as error:
            text = error.format_message()
    click.echo(text)
    sys.exit(0 if shown["federation"] else 1)


def _address(url: str) -> str:
    """Return where to ask for the statistics of a tracker. Raises `click.BadParameter`."""
    address = as_http(url if "://" in url or url.startswith("unix:") else f"http://{url}")
    if not address.startswith(("http://", "https://", "unix:")):
        raise click.BadParameter("must start with http://, https://, ws://, wss:// or unix:")
    return address.rstrip("/")


def _fetch(address: str, timeout: float, is_own: bool) -> Json:
    """Return the parts of a tracker's statistics that are shown. Raises `click.ClickException`."""
    try:
        content = json.loads(_read(address, timeout, is_own))
        shown = {
            "federation": content["federation"],
            # Older versions do not tell these.
            "unlinked": content.get("unlinked", []),
            "linking": content.get("linking", []),
            "extensionsOff": content.get("extensionsOff", {}),
        }
    except KeyError:
        raise click.ClickException(f"{address}: a tracker without federation") from None
    except HTTPError as error:
        hint = "; if metrics.port is set, the statistics are there" if error.code == 404 else ""
        raise click.ClickException(f"{address}: HTTP {error.code} {_printable(error.reason)}{hint}") from None
    except URLError as error:
        raise click.ClickException(f"{address}: {error.reason}") from None
    except (OSError, ValueError, TypeError, AttributeError, HTTPException) as error:
        raise click.ClickException(f"{address}: no tracker of ours: {' '.join(str(error).split())}") from None
    if not (
        _are_rows(shown["federation"], LINK_COLUMNS)
        and _are_rows(shown["unlinked"], UNLINKED_COLUMNS)
        and _are_rows(shown["linking"], LINKING_COLUMNS)
        and isinstance(shown["extensionsOff"], dict)
    ):
        raise click.ClickException(f"{address}: no tracker of ours")
    return shown


def _read(address: str, timeout: float, is_own: bool) -> bytes:
    if address.startswith("unix:"):
        connection = HTTPConnection("localhost", timeout=timeout)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(timeout)
        try:
            connection.sock.connect(address.removeprefix("unix:"))
        except OSError as error:
            raise URLError(error) from None
        connection.request("GET", "/stats.json")
        return connection.getresponse().read()
    handlers: list[Any] = []
    if is_own:
        # The certificate is that of the public name, and a proxy cannot connect to this machine.
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        handlers = [ProxyHandler({}), HTTPSHandler(context=context)]
    with build_opener(*handlers).open(f"{address}/stats.json", timeout=timeout) as response:
        content: bytes = response.read()
        return content


def _are_rows(rows: Any, columns: Iterable[str]) -> bool:
    return isinstance(rows, list) and all(isinstance(row, dict) and row.keys() >= set(columns) for row in rows)


def _as_text(shown: Json, wide: bool) -> str:
    links = shown["federation"]
    if not wide:
        links = [{**link, "tracker": str(link["tracker"])[:_SHORT]} for link in links]
    parts = [_as_table(LINK_COLUMNS, links) if links else "no links"]
    if shown["unlinked"]:
        parts.append(f"listed, but not linked:\n{_as_table(UNLINKED_COLUMNS, shown['unlinked'])}")
    parts += [line for row in shown["linking"] if (line := _as_line(row))]
    parts += [_printable(f"the extension {name} is off: {reason}") for name, reason in shown["extensionsOff"].items()]
    return "\n\n".join(parts)


def _as_line(row: Json) -> str:
    """Return a line about the trackers that are not linked; empty if there are none."""
    texts = {
        "known trackers not linked": row["known_not_linked"],
        "dials queued": row["dials_queued"],
        "dials in backoff": row["dials_in_backoff"],
    }
    parts = [f"{name}: {number}" for name, number in texts.items() if number]
    if row["shortage"]:
        parts.append(f"{row['links']} links: {row['shortage']}")
    return _printable("; ".join(parts))


def _as_table(columns: tuple[str, ...], rows: list[Json]) -> str:
    table = [[column.replace("_", " ").upper() for column in columns]]
    table += [[_cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    )


def _cell(column: str, value: Any) -> str:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        if column == "since":
            return f"{datetime.fromtimestamp(value, UTC):%Y-%m-%d %H:%M} UTC"
        if column == "next_try":
            left = int(value - time.time())
            return f"in {left} s" if left > 0 else "now"
    return _printable(str(value)) or "-"


def _printable(text: str) -> str:
    """Return a text of another tracker for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
