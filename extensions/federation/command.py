"""`peerservers federation`: the links of a running tracker."""

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from extensions import running
from extensions.running import Json, as_table, moment, printable, rows_of
from tracker.extension import config_option, load, own_statistics

LINK_COLUMNS: Final = (
    *("tracker", "url", "direction", "since", "shared_swarms"),
    *("offers_in", "offers_out", "answers_in", "answers_out", "refused", "dropped"),
)
UNLINKED_COLUMNS: Final = ("url", "state", "since", "next_try", "reason")
LINKING_COLUMNS: Final = ("links", "max_links", "known_not_linked", "dials_queued", "dials_in_backoff", "shortage")
_SHORT: Final = 16
"""Digits of a tracker id that are shown, as in the log and in the metrics."""


@click.command()
@config_option
@click.argument("url", required=False)
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the tracker.")
@click.option("--wide", is_flag=True, help="Print whole tracker ids.")
@click.option("--watch", is_flag=True, help=f"Print again every {running.WATCH_PERIOD:g} seconds, until interrupted.")
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
    address = own_statistics(load(config_file)) if url is None else running.address_of(url)

    def read() -> Json:
        return running.fetch(address, timeout, is_own, _select, "a tracker without federation")

    shown = read()
    text = json.dumps(shown, indent=2) if as_json else _as_text(shown, wide)
    if watch:
        running.watch(address, text, lambda: _as_text(read(), wide))
    click.echo(text)
    sys.exit(0 if shown["federation"] else 1)


def _select(content: Json) -> Json:
    """Return the parts of a tracker's statistics that are shown. Raise `KeyError` if it has no federation."""
    shown = {
        "federation": rows_of(content["federation"], LINK_COLUMNS),
        # Older versions do not tell these.
        "unlinked": rows_of(content.get("unlinked", []), UNLINKED_COLUMNS),
        "linking": rows_of(content.get("linking", []), LINKING_COLUMNS),
        "extensionsOff": content.get("extensionsOff", {}),
    }
    if not isinstance(shown["extensionsOff"], dict):
        raise TypeError
    return shown


def _as_text(shown: Json, wide: bool) -> str:
    links = shown["federation"]
    if not wide:
        links = [{**link, "tracker": str(link["tracker"])[:_SHORT]} for link in links]
    parts = [as_table(LINK_COLUMNS, links, _cell) if links else "no links"]
    if shown["unlinked"]:
        parts.append(f"listed, but not linked:\n{as_table(UNLINKED_COLUMNS, shown['unlinked'], _cell)}")
    parts += [line for row in shown["linking"] if (line := _as_line(row))]
    parts += [printable(f"the extension {name} is off: {reason}") for name, reason in shown["extensionsOff"].items()]
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
    return printable("; ".join(parts))


def _cell(column: str, value: Any) -> str:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        if column == "since":
            return moment(value)
        if column == "next_try":
            left = int(value - time.time())
            return f"in {left} s" if left > 0 else "now"
    return printable(str(value)) or "-"
