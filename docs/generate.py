"""Generates `configuration.md` and `metrics.md` from the code (`make docs`). A test fails if they are out of date."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic.fields import FieldInfo

from extensions.dht.records import descriptor, entry, slots
from extensions.trackers import MAX_URL
from tracker.config import load, toml_value
from tracker.extension.discovery import discover
from tracker.reasons import CloseReason, DropReason, RejectReason
from tracker.server import Server
from tracker.settings import Section, Settings

HERE = Path(__file__).parent

_CONFIGURATION = """\
# Configuration

`peerservers serve --config FILE` reads a file in [TOML](https://toml.io). `peerservers config` prints such a file with
the default and the description of every key. The command line takes precedence over the environment, the environment
over the file, and the file over the defaults. In the environment, the key `port` of the section `[server]` is
`PEERSERVERS_SERVER__PORT`, and a key of `[extensions.dht]` is `PEERSERVERS_EXTENSIONS__DHT__...`; lists are written as
JSON. An unknown key, a wrong type or a contradiction is an error at start that names the key.

SIGHUP reloads the settings. These take effect without a restart: `[access]`, `[limits]`, `[log]`, `[tls]` (for new
connections; turning TLS on or off needs a restart), `server.trusted_proxies` and `server.shutdown_timeout`. If other
keys have changed, the log names them in one line, `restart_needed`. The files that `[access]` and `[tls]` name are also
reloaded within seconds when they change. If there is a mistake in the settings or the files, one line in the log says
so, and the old settings stay in use.
"""

_METRICS = """\
# Metrics

The tracker serves metrics for [Prometheus](https://prometheus.io) at `/metrics`, on the public port or, with
`metrics.port`, on a separate one. No label contains an infohash, a peer or an address. Links to other trackers are
labelled with the first 16 digits of the tracker id. The usual metrics `process_*` and `python_*` are not listed here.

"""


def configuration() -> str:
    """Return the text of `configuration.md`: every section and key."""
    sections: dict[str, Any] = {
        name: field.annotation for name, field in Settings.model_fields.items() if name != "extensions"
    }
    sections |= {f"extensions.{name}": extension.Settings for name, extension in sorted(discover().items())}
    return "\n".join([_CONFIGURATION, *(_section(name, section) for name, section in sections.items())])


def dht() -> str:
    """`dht.md`, with the table of constants as they are in the code."""
    rows = [
        ("LIFETIME", f"{entry.LIFETIME} s", "from the signing of an entry to its end"),
        ("SKEW", f"{entry.SKEW} s", "by which the clock of another tracker may be ahead"),
        ("MAX_URL", str(MAX_URL), "characters of a URL"),
        ("MAX_ENTRY", str(entry.MAX_ENTRY), "bytes of the longest encoded entry"),
        ("MAX_VALUE", str(slots.MAX_VALUE), "bytes of a slot's value"),
        ("MAX_ENTRIES", str(slots.MAX_ENTRIES), "entries of a value that are read"),
        ("LOCKED", f"2^{slots.LOCKED.bit_length() - 1}", "least sequence number of a locked slot"),
        ("MAX_DESCRIPTOR", str(descriptor.MAX_SIZE), "bytes of a descriptor"),
        ("MAX_RESPONSE", str(descriptor.MAX_RECEIVED), "bytes of an HTTP response with a descriptor"),
        ("DESCRIPTOR_TIMEOUT", f"{descriptor.TIMEOUT:.0f} s", "in which a descriptor is fetched, over all attempts"),
    ]
    table = "\n".join(["| | | |", "|---|---|---|", *(f"| `{name}` | {value} | {text} |" for name, value, text in rows)])
    text = (HERE / "dht.md").read_text(encoding="utf-8")
    begin, end = "<!-- constants: written by docs/generate.py -->\n\n", "\n\n<!-- end -->"
    before, _, rest = text.partition(begin)
    return before + begin + table + end + rest.partition(end)[2]


def metrics() -> str:
    """Return the text of `metrics.md`: every metric of the tracker and of the extensions in this repository."""
    return asyncio.run(_metrics())


async def _metrics() -> str:
    with TemporaryDirectory() as state_dir:
        server = Server(
            load(
                None,
                {
                    "server": {"host": "127.0.0.1", "port": 0, "state_dir": state_dir},
                    "extensions": {"dht": {"listen": "127.0.0.1:0", "bootstrap": [], "private": True}},
                },
            ),
            discover(),
        )
        await server.start()
        # Most metrics of the DHT appear when it has started.
        while not any(family.name == "peerservers_dht_published" for family in server.registry.collect()):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        families = sorted(server.registry.collect(), key=lambda family: family.name)
        await server.stop()
    lines = ["| name | type | labels | meaning |", "|---|---|---|---|"]
    for family in families:
        if not family.name.startswith("peerservers_"):
            continue
        labels = dict.fromkeys(getattr(family, "_labelnames", ()))
        for sample in family.samples:
            labels |= dict.fromkeys(sample.labels)
        labels.pop("le", None)
        name = f"{family.name}_total" if family.type == "counter" else family.name
        lines.append(f"| `{name}` | {family.type} | {', '.join(labels)} | {family.documentation} |")
    lines += [
        "| `peerservers_certificate_expiry_timestamp_seconds` | gauge |  | With `tls.certificate`: the expiry of the"
        " certificate, in Unix time |",
        "",
        "These are the values of `reason`. All of them are present from the start:",
        "",
        *(
            f"* `{name}`: {', '.join(f'`{reason}`' for reason in reasons)}"
            for name, reasons in (
                ("peerservers_connections_closed_total", CloseReason),
                ("peerservers_dropped_total", DropReason),
                ("peerservers_rejected_total", RejectReason),
            )
        ),
        "",
        "The reasons of links are in [federation.md](federation.md), those of the DHT in [dht.md](dht.md).",
    ]
    return _METRICS + "\n".join(lines) + "\n"


def _section(name: str, section: type[Section]) -> str:
    lines = [f"## `[{name}]`", "", section.__doc__ or "", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [_key(key, field) for key, field in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _key(key: str, field: FieldInfo) -> str:
    default = toml_value(field.get_default(call_default_factory=True))
    text = (field.description or "").replace("|", r"\|").replace("*", r"\*")
    return f"| `{key}` | `{default}` | {text} |"


if __name__ == "__main__":
    (HERE / "configuration.md").write_text(configuration())
    (HERE / "dht.md").write_text(dht(), encoding="utf-8")
    (HERE / "metrics.md").write_text(metrics())
