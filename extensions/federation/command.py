"""`peerservers federation`: the links of a running tracker."""

import json
import sys
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import click

_COLUMNS = (
    "tracker",
    "url",
    "since",
    "shared_swarms",
    "offers_in",
    "offers_out",
    "answers_in",
    "answers_out",
    "refused",
    "dropped",
)


@click.command()
@click.argument("url", default="http://127.0.0.1:8000")
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the tracker.")
@click.option("--json", "as_json", is_flag=True, help="Print the links as JSON.")
def federation(url: str, timeout: float, as_json: bool) -> None:
    """Show the links of the tracker at URL (http or https) to other trackers.

    The exit code is 0 if there are any, otherwise 1.
    """
    links = _links(url, timeout)
    if as_json:
        click.echo(json.dumps(links, indent=2))
    elif links:
        click.echo(_as_table(links))
    else:
        click.echo("no links")
    sys.exit(0 if links else 1)


def _links(url: str, timeout: float) -> list[dict[str, Any]]:
    address = url if "://" in url else f"http://{url}"
    if not address.startswith(("http://", "https://")):
        raise click.BadParameter("must start with http:// or https://")
    try:
        with urlopen(Request(f"{address.rstrip('/')}/stats.json"), timeout=timeout) as response:
            links = json.load(response)["federation"]
    except KeyError:
        raise click.ClickException(f"{url}: a tracker without federation") from None
    except URLError as error:
        raise click.ClickException(f"{url}: {error.reason}") from None
    except (OSError, ValueError, TypeError, HTTPException) as error:
        raise click.ClickException(f"{url}: no tracker of ours: {' '.join(str(error).split())}") from None
    if not isinstance(links, list) or not all(
        isinstance(link, dict) and link.keys() >= set(_COLUMNS) for link in links
    ):
        raise click.ClickException(f"{url}: no tracker of ours")
    return links


def _as_table(links: list[dict[str, Any]]) -> str:
    rows = [[column.replace("_", " ").upper() for column in _COLUMNS]]
    for link in links:
        shown = {
            **link,
            "tracker": link["tracker"][:16],
            "url": link["url"] or "(dialed us)",
            "since": f"{datetime.fromtimestamp(link['since'], UTC):%Y-%m-%d %H:%M} UTC",
        }
        rows.append([str(shown[column]) for column in _COLUMNS])
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
