"""Generates references and tables in this directory from the code (`make docs`). Tests fail if they are out of date.

They are `configuration.md`, `metrics.md`, the manual page, and tables in `dht.md` and `federation.md`.
"""

import asyncio
import inspect
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
from pydantic.fields import FieldInfo

from extensions import dialing, entries
from extensions.cluster import reasons as cluster_reasons
from extensions.cluster.troubles import Trouble
from extensions.dht.records import descriptor, keys, placing, shards, slots, trouble
from extensions.federation import (
    admission,
    audience,
    backoffs,
    discovery,
    exchange,
    filters,
    ledger,
    limits,
    link,
    mesh,
    neighbour,
    pursuits,
    referrals,
    room,
    routes,
    seeker,
    session,
    term,
    transports,
    wire,
)
from extensions.federation.settings import FederationSettings
from extensions.trackers import MAX_URL
from tracker.cli import cli
from tracker.config import load, toml_value
from tracker.core import crossing, overlap, parked
from tracker.core.rules import Rules
from tracker.core.swarm import SMALL
from tracker.extension.discovery import discover
from tracker.protocol import codec
from tracker.reasons import CloseReason, DropReason, RejectReason
from tracker.server import Server
from tracker.settings import Section, Settings
from tracker.web import merging
from tracker.web.whole import counts_of_workers

HERE = Path(__file__).parent

_CONFIGURATION = """\
# Configuration

`peerservers serve --config FILE` reads a file in [TOML](https://toml.io). `peerservers config` prints such a file with
the default and the description of every key. The command line takes precedence over the environment, the environment
over the file, and the file over the defaults. In the environment, the key `port` of the section `[server]` is
`PEERSERVERS_SERVER__PORT`, and a key of `[extensions.dht]` is `PEERSERVERS_EXTENSIONS__DHT__...`; lists are written as
`a,b` or in JSON. Several secrets are written in JSON, because one may contain a comma.

An unknown key, a wrong type or a contradiction is an error at start. All mistakes are told at once, one line for each,
with the key, its source (file and line, variable or option) and often what was meant. Values that are probably mistakes
are warnings in the log (`settings_doubtful`), and so are variables without `__` whose name is like that of a setting.
All other variables without `__` are ignored, such as those that Kubernetes sets for a Service named `peerservers`.
`peerservers config --check` does the same without a start, and also reads the files that the settings name, such as
certificates and lists. `peerservers config --effective` prints each value with its source.

SIGHUP reloads the settings. These take effect without a restart: `[access]`, `[limits]`, `[log]`, `[tls]` (for new
connections; turning TLS on or off needs a restart), `[nearby]` (for new peers; turning it on or off needs a restart),
`server.trusted_proxies`, `server.client_address_header`, `server.shutdown_timeout` and `server.restart_spread`. If
other keys have changed, the log names them in one line, `restart_needed`. With several workers, SIGUSR2 replaces them
one after the other, which adopts most of these keys, too ([deployment](deploy.md#several-cpus)). The files that
`[access]`, `[tls]` and `[nearby]` name are also reloaded within seconds when they change. If there is a mistake in the
settings or the files, one line in the log says so, and the old settings stay in use.
"""

_METRICS = """\
# Metrics

The tracker serves metrics for [Prometheus](https://prometheus.io) at `/metrics`, on the public port or, with
`metrics.port`, on a separate one. No label contains an infohash, a peer or a client's address. Links to other trackers
are labelled with the first 16 digits of the tracker id; `peerservers_federation_link_info` has the URL to it. The usual
metrics `process_*` and `python_*` are not listed here.

"""

_WORKERS = """\
## Workers

With [several workers](deploy.md#several-cpus), the metrics are those of the machine, whichever worker answers:
counters, histograms and gauges are sums. Of the expiry of the certificate and of `peerservers_extension_up` it is the
least value, `process_start_time_seconds` is that of the supervisor, and a swarm that several workers have counts once
in `peerservers_swarms` (more than 4096 swarms are estimated, with an error of 2 %). The counters of workers that have
ended stay in the sums. `/metrics?of=tracker` has the sums of all processes of the tracker, also on other machines, at
this moment. It is for a look: a counter there falls when a process ends, and Prometheus would take that for a restart
of all.

These are there in addition:
"""

_MANUAL = """\
.\\" Written by docs/generate.py
.TH PEERSERVERS 1 "" Peerservers "User Commands"
.SH NAME
peerservers \\- {summary}
.SH SYNOPSIS
.B peerservers
\\fICOMMAND\\fR [\\fIOPTIONS\\fR] [\\fIARGUMENTS\\fR]
.br
.B peerservers \\-\\-version
.SH OPTIONS
{options}.TP
.B \\-h, \\-\\-help
Show a summary, also of each command.
.SH COMMANDS
{commands}.SH ENVIRONMENT
.TP
.B PEERSERVERS_CONFIG
The configuration file, if there is no option
.BR \\-\\-config .
.TP
.B PEERSERVERS_SECTION__KEY
Any setting. The key
.I port
of the section
.I [server]
is PEERSERVERS_SERVER__PORT. A value here takes precedence over the configuration file.
.TP
.B _PEERSERVERS_COMPLETE
With the value bash_source, zsh_source or fish_source,
.B peerservers
prints the script that lets this shell complete its commands and options.
.SH EXIT STATUS
0 for success, 2 for a mistake in settings or arguments, 130 if interrupted.
Some commands have further codes, as said above.
.SH SEE ALSO
https://github.com/peerservers/peerservers
"""


def configuration() -> str:
    """Return the text of `configuration.md`: every section and key."""
    sections: dict[str, Any] = {
        name: field.annotation for name, field in Settings.model_fields.items() if name != "extensions"
    }
    sections |= {f"extensions.{name}": extension.Settings for name, extension in sorted(discover().items())}
    return "\n".join([_CONFIGURATION, *(_section(name, section) for name, section in sections.items())])


def dht() -> str:
    """Return the text of `dht.md`, with the table of constants as they are in the code."""
    rows = [
        ("LIFETIME", f"{entries.LIFETIME} s", "from the signing of an entry to its expiry"),
        ("SKEW", f"{entries.SKEW} s", "that the clock of another tracker may be ahead"),
        ("MAX_URL", str(MAX_URL), "characters of a URL"),
        ("MAX_ENTRY", str(entries.MAX_ENTRY), "bytes of the longest encoded entry"),
        ("MAX_VALUE", str(slots.MAX_VALUE), "bytes of a slot's value"),
        ("MAX_ENTRIES", str(slots.MAX_ENTRIES), "entries of one value that a reader reads"),
        ("LOCKED", f"2^{slots.LOCKED.bit_length() - 1}", "smallest sequence number of a locked slot"),
        ("MAX_DEPTH", str(keys.MAX_DEPTH), "bits of the longest name of a shard"),
        ("SHALLOW", str(shards.SHALLOW), "depth of shards down to which there are about a hundred trackers"),
        ("REST", f"{placing.REST} s", "after a write to the window, in which no entry there is replaced"),
        ("SETTLED", f"{trouble.SETTLED:.0f} s", "from a write, after which the writer's entry must be there"),
        ("SPREAD", f"{trouble.SPREAD:.0f} s", "from the signing of an entry, after which it must be in the record"),
        ("MAX_AGE", f"{trouble.MAX_AGE:.0f} s", "from the signing of an entry, until which it must be there"),
        ("MAX_OWN_AGE", f"{trouble.MAX_OWN_AGE:.0f} s", "from a write, until which the writer's entry must be there"),
        ("MAX_DESCRIPTOR", str(descriptor.MAX_SIZE), "bytes of a descriptor"),
        ("MAX_RESPONSE", str(descriptor.MAX_RECEIVED), "bytes of an HTTP response with a descriptor"),
        ("DESCRIPTOR_TIMEOUT", f"{descriptor.TIMEOUT:.0f} s", "for fetching a descriptor, including all attempts"),
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
                    "connections": {"deflate": True},
                    "nearby": {"enabled": True},
                    "extensions": {
                        # No server is there: the node is alone, and becomes the gateway.
                        "cluster": {"servers": ["nats://127.0.0.1:1"], "key": "file"},
                        "dht": {"listen": "127.0.0.1:0", "bootstrap": [], "private": True},
                        "federation": {"policy": "allow"},
                        "tokens": {"enabled": True, "secrets": ["only to show metrics"]},
                    },
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
                ("peerservers_cluster_dropped_total", cluster_reasons.Dropped),
                ("peerservers_cluster_nodes_left_total", cluster_reasons.Left),
                ("peerservers_cluster_refused_total", cluster_reasons.Refused),
                ("peerservers_cluster_resyncs_total", cluster_reasons.Resync),
                ("peerservers_cluster_troubles_total", Trouble),
            )
        ),
        "",
        "The reasons of links are in [federation.md](federation.md), those of the DHT in [dht.md](dht.md);",
        "[cluster.md](cluster.md#if-something-is-wrong) has more about those of a cluster.",
        "",
        _WORKERS,
        "| name | meaning |",
        "|---|---|",
        *(f"| `{name}{{{merging.LABEL}}}` | {text} |" for name, text in merging.SERIES.values()),
        *(f"| `{metric.name}` | {metric.documentation} |" for metric in counts_of_workers(2, 2)),
        "| `peerservers_connections_handed_total{direction}` | Connections handed between workers |",
    ]
    return _METRICS + "\n".join(lines) + "\n"


def manual() -> str:
    """Return the text of `man/peerservers.1`, the manual page: every command and option."""
    # A command keeps the help option that it makes for the first context it is in, so it must be the real one's.
    context = click.Context(cli, info_name="peerservers", **cli.context_settings)
    options, commands = "".join(_options(context)), "".join(_commands(context))
    summary = _roff((cli.help or "").rstrip("."))
    return _MANUAL.format(summary=summary, options=options, commands=commands)


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        names, text = parameter.get_help_record(context) or ("", "")
        if text and "--help" not in parameter.opts:
            yield f".TP\n.B {_roff(names)}\n{_roff(text)}\n"


def _commands(group: click.Context) -> Iterator[str]:
    assert isinstance(group.command, click.Group)
    for name in group.command.list_commands(group):
        command = group.command.get_command(group, name)
        assert command
        context = click.Context(command, info_name=name, parent=group)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
        yield f".SS {_roff(usage)}\n"
        yield "\n.PP\n".join(_roff(" ".join(text.split())) for text in paragraphs) + "\n"
        yield from _options(context)
        if isinstance(command, click.Group):
            yield from _commands(context)


def _roff(text: str) -> str:
    # In roff, a backslash begins an escape, a plain hyphen cannot be copied, a dot or quote in front begins a request.
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return rf"\&{text}" if text[:1] in (".", "'") else text


def _section(name: str, section: type[Section]) -> str:
    lines = [f"## `[{name}]`", "", section.__doc__ or "", "", "| key | default | meaning |", "|---|---|---|"]
    lines += [_key(key, field) for key, field in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _key(key: str, field: FieldInfo) -> str:
    default = toml_value(field.get_default(call_default_factory=True))
    text = (field.description or "").replace("|", r"\|").replace("*", r"\*")
    return f"| `{key}` | `{default}` | {text} |"


def federation() -> str:
    """`federation.md` with its two tables of numbers made anew; the rest is written by hand."""
    text = (HERE / "federation.md").read_text(encoding="utf-8")
    for name, table in (("protocol", _protocol_numbers()), ("implementation", _implementation_numbers())):
        head, begin, rest = text.partition(f"<!-- {name} numbers: written by docs/generate.py -->\n")
        _, end, tail = rest.partition("<!-- end -->\n")
        rows = "\n".join(f"| {' | '.join(row)} |" for row in table)
        text = f"{head}{begin}\n{rows}\n\n{end}{tail}"
    return text


def _protocol_numbers() -> list[tuple[str, ...]]:
    rate = "at most {:g} a second, after a burst of {:g}".format
    return [
        ("quantity", "value"),
        ("---", "---"),
        ("subprotocol", f"`{transports.SUBPROTOCOL}`"),
        ("version", f"{wire.VERSION}"),
        ("bytes of a frame", f"at most {wire.MAX_FRAME}"),
        ("bytes after which no message should be added to a frame", f"{wire.SOFT_FRAME}"),
        ("swarms in one `have`, swarms in one `present`", f"at most {wire.MAX_SWARMS}"),
        ("tags in one `opened`", f"at most {wire.MAX_TAGS}"),
        ("swarms in `have`, `present` and `opened` messages", rate(link.SWARMS_PER_SECOND, link.SWARMS_BURST)),
        ("parts of a filter", f"1 to {filters.MAX_PARTS}, a power of two"),
        ("bytes of a part", f"1 to {filters.MAX_BYTES}"),
        ("hash functions", f"{filters.HASHES}"),
        ("bits of a part for each swarm", f"{filters.BITS_PER_TAG}"),
        ("fill: bits of a part that are set", f"at most {filters.MAX_FILL * 100:g} %"),
        ("filters, each part counts for its share", rate(link.FILTERS_PER_SECOND, link.FILTERS_BURST)),
        ("renewal time", f"{audience.RENEW:g} s"),
        ("swarms in `proof`", f"at most {wire.MAX_WANTED}"),
        ("trackers in one `trackers`", f"at most {wire.MAX_TRACKERS}"),
        ("own peers of a swarm whose marks are told", f"at most {wire.MAX_PRESENT}"),
        ("hexadecimal digits of a mark", f"{overlap.MARK_LENGTH}"),
        ("seeders of a swarm, leechers of a swarm", f"at most {wire.MAX_COUNT} each"),
        ("offers in one `offers`, offer_ids in one `refused`", f"at most {wire.MAX_OFFERS}"),
        ("bytes of an SDP in UTF-8", f"at most {codec.MAX_SDP_BYTES}"),
        ("bytes of an SDP as JSON, so that its message fits a frame", f"at most {wire.MAX_FRAME - wire.OVERHEAD}"),
        ("characters of the reason in `bye`", f"at most {wire.MAX_REASON}"),
        ("hexadecimal digits of a tag, of a name", f"{wire.TAG_LENGTH}, {wire.NAME_LENGTH}"),
        ("handshake timeout", f"{link.HANDSHAKE_TIMEOUT:g} s"),
        ("tell period", f"{term.TELL_PERIOD:g} s"),
        ("refusal timeout", f"{ledger.REFUSAL_TIMEOUT:g} s"),
        ("refusals of one offer after which it is placed again", f"{exchange.MAX_REFUSALS}"),
        ("answer timeout", f"{ledger.ANSWER_TIMEOUT:g} s"),
        ("route lifetime", f"{routes.ROUTE_LIFETIME:g} s"),
        ("parking time", f"{parked.LIFETIME:g} s"),
        ("yield time", f"{exchange.YIELD_TO:g} s"),
        ("crossing time", f"{crossing.WINDOW:g} s"),
        ("peers of a swarm up to which offers must not cross", str(SMALL)),
        ("shunning time", f"{admission.SHUN:g} s"),
    ]


def _implementation_numbers() -> list[tuple[str, ...]]:
    settings, rules = FederationSettings(), Rules()
    rate = "{:g} a second, after a burst of {:g}".format
    mib = "{:g} MiB".format
    return [
        ("quantity", "value", "beyond"),
        ("---", "---", "---"),
        (
            f"bytes read from a link; each message counts for its length and {link.MESSAGE_COST} bytes more",
            f"{link.BYTES_PER_SECOND >> 20} MiB a second, after a burst of {link.BYTES_BURST >> 20} MiB",
            "are read later",
        ),
        (
            "time for which links work on messages in one turn",
            f"{limits.TURN * 1000:g} ms",
            "continues in the next turn",
        ),
        (
            "filters of all neighbours",
            f"{mib(session.MAX_FILTERS / 2**20)}; an equal share of one half is kept for each of `max_links`",
            "are ignored; the swarms in them are noticed when they open, or when the other side engages",
        ),
        (
            "swarms in the own filter",
            f"{filters.MAX_TAGS} in each part; it is divided at {filters.TAGS_PER_PART} for each part",
            "are left out",
        ),
        (
            "swarms that have closed, in one part",
            f"{filters.STALE}, and half as many as are open",
            "the part is made anew",
        ),
        ("pause between two messages about swarms that have opened", f"{audience.GATHER:g} s", "are gathered"),
        (
            "swarms of one part that have opened within this time",
            f"{audience.MAX_GATHERED}",
            "are told by the next filter",
        ),
        ("neighbours that may have a swarm", f"{audience.SMALL}", "some are chosen"),
        ("chosen neighbours of such a swarm", f"{audience.ENOUGH}; others are chosen below {audience.FEW}", ""),
        ("neighbours of a swarm", f"{audience.MANY}", "for each new one, another one is given up"),
        ("time until a chosen neighbour of a popular swarm is exchanged for another", f"{audience.EXCHANGE:g} s", ""),
        ("swarms that are told to a neighbour in one turn", f"{audience.MAX_ENGAGED}", "are told in the next turn"),
        (
            "swarms that are told to a neighbour because it may have them",
            f"{rate(neighbour.ENGAGED_PER_SECOND, neighbour.ENGAGED_BURST)}; "
            f"none while more than {mib(link.SLOW / 2**20)} are in the queue of the link",
            "are told later",
        ),
        ("filters that are looked at for these", f"{audience.MAX_LOOKED}", "are looked at in the next turn"),
        ("offers from one link", rate(neighbour.OFFERS_PER_SECOND, neighbour.OFFERS_BURST), "are refused"),
        (
            "offers from all links given to one peer",
            f"{rules.max_foreign_offers} a minute, at most half of them from one tracker",
            "are refused",
        ),
        (
            "links in handshake",
            f"{mesh.MAX_HANDSHAKES}; from one public address (IPv6: one /64) {mesh.MAX_HANDSHAKES_PER_HOST}",
            "are closed",
        ),
        ("open links (`max_links`)", f"{settings.max_links}", "see Room"),
        ("offers remembered so that answers find the way back", f"{routes.MAX_ROUTES}", "the oldest are forgotten"),
        ("offers of a link whose answers are awaited", f"{ledger.MAX_AWAITED}", "the oldest are forgotten"),
        ("answers to one offer", f"{ledger.MAX_ANSWERS}", "are dropped"),
        (
            "offers of a link that can be refused",
            f"{ledger.MAX_AWAITED}, and {mib(ledger.MAX_REFUSABLE / 2**20)} of SDPs",
            "the oldest are forgotten",
        ),
        (
            "credit: peers believed in one swarm of a link",
            f"{exchange.CREDIT}, and {exchange.CREDIT_PER_ANSWER} for each answered offer",
            "are not counted",
        ),
        (
            "time without offers of a peer on a link, after a refusal with `known`",
            f"{exchange.KNOWN_FOR:g} s (any refusal of a tracker without `present`: {exchange.REFUSED_FOR:g} s)",
            "",
        ),
        ("own peers of a swarm for which marks are compared", f"{overlap.MAX_LOCAL}", "all are only counted"),
        ("memory for parked offers", mib(parked.MAX_BYTES / 2**20), "the oldest are dropped"),
        ("messages with offers in the queue of a link", mib(link.MAX_QUEUED_OFFERS / 2**20), "the oldest are dropped"),
        ("other messages in the queue of a link", mib(link.MAX_QUEUED / 2**20), "the link ends: `stuck`"),
        ("time until the other side accepts a frame", f"{limits.STUCK_AFTER:g} s", "the link ends: `stuck`"),
        ("pause between two frames that are not full", f"{link.PACE * 1000:g} ms", ""),
        ("announce interval of lonely peers", f"{rules.lonely_interval} s", ""),
        ("trackers dialed at the same time", f"{pursuits.MAX_DIALS}, and all listed ones", "are dialed later"),
        (
            "known trackers of a swarm up to which all are dialed",
            f"{seeker.ALL}",
            f"{seeker.DEGREE} neighbours suffice",
        ),
        (
            "time until the trackers of a lonely swarm are dialed again",
            f"{', '.join(f'{seconds:g}' for seconds in seeker.LONELY)} s, then always the last",
            "",
        ),
        (
            "links without a common swarm that a tracker dials",
            f"at least {discovery.MIN_ADVANCE}, and 1/{discovery.ADVANCE_SHARE} of `max_links`",
            "only common swarms are a reason to dial",
        ),
        ("time for resolving a name", f"{dialing.TIMEOUT:g} s", "`unreachable`"),
        ("time for connecting", f"{transports.TIMEOUT:g} s", "`unreachable`"),
        ("names of trackers found in the DHT that are resolved at the same time", f"{dialing.MAX_STRANGERS}", "wait"),
        (
            "backoff",
            f"{backoffs.FIRST_BACKOFF:g} s, doubled up to {backoffs.MAX_BACKOFF:g} s "
            f"(listed trackers: {pursuits.MAX_LISTED_BACKOFF:g} s)",
            "",
        ),
        (
            "backoff after `too_many_links` or `idle`",
            f"{backoffs.FIRST_REFUSED:g} s, doubled up to {backoffs.MAX_BACKOFF:g} s",
            "",
        ),
        (
            "attempts (listed trackers: unlimited)",
            f"{backoffs.ATTEMPTS}; {backoffs.FIRST_ATTEMPTS} for a tracker that was never linked",
            "given up until it is found again, or a swarm is lonely",
        ),
        (
            "`seek` for any trackers",
            f"one in {referrals.PERIOD:g} s",
            "none with as many links as are made without a common swarm",
        ),
        (
            f"`seek` for one swarm with fewer neighbours than {referrals.FEW}",
            f"after {referrals.FIRST_ASK:g} s, then after {referrals.PERIOD:g} s, doubled up to "
            f"{referrals.MAX_PERIOD:g} s",
            "",
        ),
        ("`seek` to all neighbours", rate(referrals.ASKS_PER_SECOND, referrals.ASKS_BURST), "are sent later"),
        (
            "answers to `seek` of one neighbour",
            rate(referrals.ANSWERS_PER_SECOND, referrals.ANSWERS_BURST),
            "there is no answer",
        ),
        (
            "trackers learned from one neighbour",
            f"{referrals.CREDIT:g}, and {60 * referrals.CREDIT_PER_SECOND:g} more a minute; those that could be linked "
            "do not count",
            "are ignored",
        ),
        ("trackers named to a tracker for which there is no room", f"{referrals.REFERRED}", ""),
        ("time until the own descriptor is sent again", f"{referrals.OWN_PERIOD:g} s", ""),
        ("age after which a link that ends counts as a success", f"{backoffs.LASTING:g} s", ""),
        ("age below which a second link does not mean that the first is dead", f"{mesh.YOUNG:g} s", ""),
        ("time after which a link counts as unused", f"{room.UNUSED:g} s", "may be replaced"),
        ("time without a common swarm (`idle_timeout`)", f"{settings.idle_timeout:g} s", "see Room"),
    ]


if __name__ == "__main__":
    (HERE / "federation.md").write_text(federation(), encoding="utf-8")
    (HERE / "configuration.md").write_text(configuration())
    (HERE / "dht.md").write_text(dht(), encoding="utf-8")
    (HERE / "metrics.md").write_text(metrics())
    (HERE / "man").mkdir(exist_ok=True)
    (HERE / "man" / "peerservers.1").write_text(manual())
