"""`peerservers cluster`: the nodes of a running tracker, and their load."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import click

from extensions import running
from extensions.running import Json, as_table, moment, printable, rows_of
from tracker.extension import config_option, load, own_statistics

COLUMNS: Final = (
    *("label", "node", "version", "since", "connections", "peers", "swarms"),
    *("latency_ms", "gateway", "connected"),
)
_SUMS: Final = ("connections", "peers")
"""Columns of which the sums are numbers of the whole tracker. A swarm may have peers at several nodes."""


@click.command()
@config_option
@click.argument("url", required=False)
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for the tracker.")
@click.option("--watch", is_flag=True, help=f"Print again every {running.WATCH_PERIOD:g} seconds, until interrupted.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def cluster(config_file: Path | None, url: str | None, timeout: float, watch: bool, as_json: bool) -> None:
    """Show the nodes of a running tracker, and the load of each, as one of them knows them.

    A node is one process of the tracker: a worker, or a process on another machine. URL begins with http://, https://,
    ws:// or wss://, or it is unix: and the path of a Unix-domain socket. By default, it is that of a tracker on this
    machine with these settings (metrics.port, server.port).

    The exit code is 0 if there is another node, otherwise 1.
    """
    if watch and as_json:
        raise click.UsageError("--watch and --json exclude each other")
    is_own = url is None
    address = own_statistics(load(config_file)) if url is None else running.address_of(url)

    def read() -> Json:
        return running.fetch(address, timeout, is_own, _select, "a tracker of a single process, without a cluster")

    shown = read()
    text = json.dumps(shown, indent=2) if as_json else _as_text(shown)
    if watch:
        running.watch(address, text, lambda: _as_text(read()))
    click.echo(text)
    sys.exit(0 if len(shown["cluster"]) > 1 else 1)


def _select(content: Json) -> Json:
    """Return the parts of a tracker's statistics that are shown. Raise `KeyError` if it is no cluster."""
    nodes = rows_of(content["cluster"], COLUMNS)
    if not all(isinstance(node[column], int) for node in nodes for column in _SUMS):
        raise TypeError
    return {"cluster": nodes}


def _as_text(shown: Json) -> str:
    nodes = shown["cluster"]
    sums = {column: sum(node[column] for node in nodes) for column in _SUMS}
    total = dict.fromkeys(COLUMNS, "") | sums | {"label": f"{len(nodes)} nodes"}
    table = as_table(COLUMNS, [*nodes, total] if len(nodes) > 1 else nodes, _cell)
    missing = "has no connection to NATS: nodes on other machines are missing"
    return "\n\n".join([table, *(printable(f"{node['label']} {missing}") for node in nodes if not node["connected"])])


def _cell(column: str, value: Any) -> str:
    with suppress(TypeError, ValueError, OverflowError, OSError):
        if column == "since" and value:
            return moment(value)
        if column in ("gateway", "connected") and value != "":
            return "yes" if value else "-"
        if column == "latency_ms" and not value:
            # The node that was asked has none to itself.
            return "-"
    return printable(str(value)) or "-"
