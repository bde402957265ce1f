"""Reads the statistics of a running tracker, and prints them as tables: for the commands of extensions."""

import json
import socket
import ssl
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException
from typing import Any, Final, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, build_opener

import click

from tracker.extension import as_http

T = TypeVar("T")
Json = dict[str, Any]

WATCH_PERIOD: Final = 2.0
"""Seconds between two updates of `watch`."""


def address_of(url: str) -> str:
    """Return where to ask for the statistics of a tracker, by the URL that an operator has given.

    Raises:
        click.BadParameter: the URL has another scheme than those of a tracker.
    """
    address = as_http(url if "://" in url or url.startswith("unix:") else f"http://{url}")
    if not address.startswith(("http://", "https://", "unix:")):
        raise click.BadParameter("must start with http://, https://, ws://, wss:// or unix:")
    return address.rstrip("/")


def fetch(address: str, timeout: float, is_own: bool, select: Callable[[Json], T], without: str) -> T:
    """Return a part of a tracker's statistics.

    Args:
        address: As `address_of` returns it.
        timeout: Seconds to wait for the tracker.
        is_own: The tracker is on this machine: it may have any certificate, and no proxy leads to it.
        select: Returns the part. It raises `KeyError` if the tracker does not have the extension, and `ValueError`,
            `TypeError` or `AttributeError` if these are no statistics of a tracker.
        without: The message about a tracker without the extension.

    Raises:
        click.ClickException: the tracker cannot be reached, or does not have the extension, or is no tracker.
    """
    try:
        return select(json.loads(_read(address, timeout, is_own)))
    except KeyError:
        raise click.ClickException(f"{address}: {without}") from None
    except HTTPError as error:
        hint = "; if metrics.port is set, the statistics are there" if error.code == 404 else ""
        raise click.ClickException(f"{address}: HTTP {error.code} {printable(error.reason)}{hint}") from None
    except URLError as error:
        raise click.ClickException(f"{address}: {error.reason}") from None
    except (OSError, ValueError, TypeError, AttributeError, HTTPException) as error:
        text = " ".join(str(error).split())
        raise click.ClickException(f"{address}: no tracker of ours{text and f': {text}'}") from None


def rows_of(table: Any, columns: Iterable[str]) -> list[Json]:
    """Return the rows of a table.

    Raises:
        ValueError: it is no table, or a row lacks one of the columns.
    """
    if not isinstance(table, list) or not all(isinstance(row, dict) and row.keys() >= set(columns) for row in table):
        raise ValueError
    return table


def watch(address: str, text: str, update: Callable[[], str]) -> None:
    """Print a text, and every `WATCH_PERIOD` seconds the one that `update` returns, until interrupted.

    If `update` raises `click.ClickException`, its message is printed instead.
    """
    while True:
        click.clear()
        click.echo(f"{address}  {datetime.now(UTC):%H:%M:%S} UTC\n\n{text}\n")
        time.sleep(WATCH_PERIOD)
        try:
            text = update()
        except click.ClickException as error:
            text = error.format_message()


def as_table(columns: tuple[str, ...], rows: list[Json], cell: Callable[[str, Any], str]) -> str:
    """Return rows in aligned columns under their names. `cell` returns the text for a column's value."""
    table = [[column.replace("_", " ").upper() for column in columns]]
    table += [[cell(column, row[column]) for column in columns] for row in rows]
    widths = [max(map(len, cells)) for cells in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True)).rstrip() for cells in table
    )


def moment(seconds: float) -> str:
    """Return a Unix time in words, to the minute.

    Raises:
        TypeError, ValueError, OverflowError, OSError: it is no time.
    """
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def printable(text: str) -> str:
    """Return a text of another machine for a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


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
