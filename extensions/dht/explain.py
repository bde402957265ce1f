"""The explanation of `peerservers lookup --explain`, as text for a terminal and as JSON.

The words are those of `docs/dht.md`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from math import floor, log2, log10
from typing import Any, Final

from extensions.dht.krpc.messages import Address
from extensions.dht.krpc.traversal import Candidate, State
from extensions.dht.records.keys import DAY, SALTS
from extensions.dht.records.reports import Bep5Report, HostRequest, Lookup, NamedHost, Reading, Value, VisitReport
from extensions.dht.records.slots import Slot
from extensions.entries import Rejected

MAX_ROWS: Final = 24
"""Nodes, hosts, values or trackers of one lookup in the text: the nearest nodes, the hosts and values of most nodes,
and the latest entries. JSON has all."""

FAMILIES: Final = {4: "ipv4", 6: "ipv6"}

_STATES: Final = {
    "locked": "locked: no write can follow its sequence number, until the key changes at 00:00 UTC",
    "spoilt": "spoilt: it has invalid contents only, which the next writer replaces",
    "full": "full: a writer may have found no room here",
    "emptied": "emptied: an entry that must be here is missing",
    "blinded": "blinded: the nearest nodes are much closer than by chance; they may hide the record",
}

_SPOILT_FOR_EVER: Final = "spoilt: it has invalid contents only"
"""No writer can replace the contents of a locked slot."""


def as_json(reports: Iterable[VisitReport], estimates: Mapping[int, float | None]) -> dict[str, Any]:
    """Return the explanation of visits as objects for JSON.

    `estimates` gives the number of nodes of the DHT by address family (4 or 6), None where it is unknown.
    """
    return {
        "estimated_nodes": {FAMILIES[family]: _rounded(number) for family, number in estimates.items()},
        "visits": [
            {
                "complete": report.is_complete,
                "readings": [_reading(report, reading) for reading in report.readings],
                "bep5": [_bep5(bep5) for bep5 in report.bep5],
            }
            for report in reports
        ],
    }


def as_text(reports: Iterable[VisitReport], estimates: Mapping[int, float | None]) -> str:
    """Return the explanation of visits as lines of about 100 columns, for the same arguments."""
    lines = [f"The DHT has {_sizes(estimates)}."]
    for report in reports:
        lines += [] if report.is_complete else ["", "The time was up before the lookup had ended."]
        for reading in report.readings:
            lines += ["", *_reading_lines(report, reading)]
        for bep5 in report.bep5:
            lines += ["", *_bep5_lines(report, bep5)]
        if not report.bep5 and report.is_complete:
            lines += ["", "BEP 5 was not used: no slot is locked, spoilt, emptied or blinded."]
    return "\n".join(lines)


def states(slot: Slot) -> list[str]:
    """Return the states of a slot that matter to readers, in the words of `docs/dht.md`."""
    found = {
        "locked": slot.is_locked,
        "spoilt": slot.is_spoilt,
        "full": slot.is_full,
        "emptied": slot.is_doubtful and not slot.is_blinded,
        "blinded": slot.is_blinded,
    }
    return [name for name, is_so in found.items() if is_so]


def reply_of(candidate: Candidate) -> str:
    """Return the reply of a node that was asked, in words."""
    if candidate.state in (State.ASKED, State.SLOW):
        return "no reply in time"
    if candidate.state is not State.ANSWERED:
        return f"error {candidate.code}" if candidate.code else "no reply"
    item = f"item {candidate.seq}" if candidate.has_item else "no item"
    if candidate.has_invalid_item:
        item = f"{Rejected.INVALID_ITEM.value}"
    token = "token" if candidate.token else "no token"
    # A node that refuses to store still gives tokens.
    refuses = ", refuses" if candidate.token and not candidate.can_store else ""
    return f"{item}, {token}{refuses}"


# Slots and shards


def _reading(report: VisitReport, reading: Reading) -> dict[str, Any]:
    slot = reading.slot
    return {
        "day": reading.day,
        "salt": slot.salt.decode(),
        **_lookup(reading),
        "seq": max(0, slot.seq),
        "states": states(slot),
        "next": _next(report, reading),
        "values": [
            {
                "seq": value.seq,
                "size": value.size,
                "nodes": value.nodes,
                "entries": len(value.entries),
                "ignored": {reason.value: number for reason, number in value.ignored.items()},
            }
            for value in _by_nodes(reading)
        ],
        "entries": [
            {"id": one.tracker_id, "url": one.url, "expires": one.expires, "nodes": reading.nodes_with(one.tracker_id)}
            for one in slot.entries
        ],
    }


def _reading_lines(report: VisitReport, reading: Reading) -> Iterator[str]:
    slot, kind = reading.slot, "slot" if reading.slot.salt in SALTS else "shard"
    yield f"{kind.capitalize()} {slot.salt.decode()} of {_date(reading.day)}: {_cost(reading)}"
    yield f"  target    {reading.target.hex()}"
    if reading.seconds is None:
        return
    if not reading.found.candidates:
        yield "  state     unknown: no node has answered"
    elif not reading.values:
        yield "  state     empty: no node has a valid item"
    for state in states(slot):
        yield f"  state     {_SPOILT_FOR_EVER if slot.is_locked and state == 'spoilt' else _STATES[state]}"
    values = _by_nodes(reading)
    for value in values[:MAX_ROWS]:
        size = "not a string" if Rejected.NOT_A_STRING in value.ignored else _count(value.size, "byte")
        yield f"  value     at {_count(value.nodes, 'node')}: item {value.seq}, {size}; {_contents(value)}"
    if len(values) > MAX_ROWS:
        nodes = _count(sum(value.nodes for value in values[MAX_ROWS:]), "node")
        yield f"            and {len(values) - MAX_ROWS} more, at {nodes}"
    for entry in slot.entries[:MAX_ROWS]:
        until = f"{datetime.fromtimestamp(entry.expires, UTC):%H:%M} UTC"
        nodes = _count(reading.nodes_with(entry.tracker_id), "node")
        yield f"  believed  from {nodes}, until {until}, {entry.tracker_id[:16]}, {entry.url}"
    if len(slot.entries) > MAX_ROWS:
        yield f"            and {len(slot.entries) - MAX_ROWS} more"
    if after := _next(report, reading):
        yield f"  then      {after}"
    yield from _node_lines(reading)


def _next(report: VisitReport, reading: Reading) -> str:
    """Return why the next slot was read, or was not; empty for shards."""
    slot, salt = reading.slot, reading.slot.salt
    if salt not in SALTS or reading.seconds is None:
        return ""
    if salt == SALTS[-1]:
        if any(one.day == reading.day and one.slot.salt not in SALTS for one in report.readings):
            return "shards, because r0 and r1 leave no room"
        return "no shard, because r0 or r1 has room" if report.is_complete else ""
    following, goes_on = SALTS[SALTS.index(salt) + 1], slot.continues or slot.is_doubtful
    if any(one.day == reading.day and one.slot.salt == following for one in report.readings):
        reason = f"because {salt.decode()} is {' and '.join(states(slot))}" if goes_on else "as in some visits"
        return f"{following.decode()}, {reason}"
    return "" if goes_on else f"not {following.decode()}, because {salt.decode()} can be read, and has room"


def _by_nodes(reading: Reading) -> list[Value]:
    return sorted(reading.values.values(), key=lambda value: -value.nodes)


def _contents(value: Value) -> str:
    ignored = ", ".join(f"{number} {reason.value}" for reason, number in sorted(value.ignored.items()))
    valid = _count(len(value.entries), "valid entry", "valid entries")
    return f"{valid}, ignored {ignored}" if ignored else valid


# BEP 5


def _bep5(bep5: Bep5Report) -> dict[str, Any]:
    return {
        "lookups": [{"day": one.day, **_lookup(one)} for one in bep5.lookups],
        "refused": bep5.refused,
        "hosts": [
            {
                "addresses": [_address(address) for address in sorted(named.addresses)],
                "nodes": len(named.nodes),
                "requests": [
                    {
                        "address": _address(request.address),
                        "fault": request.fault,
                        "id": request.entry.tracker_id if request.entry else None,
                        "url": request.entry.url if request.entry else None,
                    }
                    for request in _requests(bep5, host)
                ],
            }
            for host, named in _by_votes(bep5)
        ],
    }


def _bep5_lines(report: VisitReport, bep5: Bep5Report) -> Iterator[str]:
    reason = "because the record is in trouble" if report.needs_bep5 else "as in every lookup of this command"
    yield f"BEP 5, {reason}"
    for lookup in bep5.lookups:
        yield f"  Hosts that nodes name for {_date(lookup.day)}: {_cost(lookup)}"
        yield f"  target    {lookup.target.hex()}"
        yield from _node_lines(lookup)
    hosts = _by_votes(bep5)
    refused = f"; {_count(bep5.refused, 'name')} of addresses that may get no request" if bep5.refused else ""
    yield f"  {_count(len(hosts), 'host')} named{refused}{':' if hosts else ''}"
    for host, named in hosts[:MAX_ROWS]:
        requests = [f"port {one.address[1]}: {_result(one)}" for one in _requests(bep5, host)]
        yield f"    by {_count(len(named.nodes), 'node'):9} {_name(named):24} {'; '.join(requests) or 'not asked'}"
    if len(hosts) > MAX_ROWS:
        yield f"    and {len(hosts) - MAX_ROWS} more"


def _requests(bep5: Bep5Report, host: str) -> list[HostRequest]:
    return [request for request in bep5.requests if request.host == host]


def _result(request: HostRequest) -> str:
    if request.entry:
        return f"tracker {request.entry.url}"
    # A fault may quote the host.
    return "".join(character if character.isprintable() else "?" for character in request.fault)[:60]


def _by_votes(bep5: Bep5Report) -> list[tuple[str, NamedHost]]:
    return sorted(bep5.named.items(), key=lambda named: (-len(named[1].nodes), not _requests(bep5, named[0])))


def _name(named: NamedHost) -> str:
    first, *others = sorted(named.addresses)
    if any(host != first[0] for host, _ in others):
        return f"{first[0]} and {_count(len(others), 'address', 'addresses')} near it"
    return first[0]


# Nodes


def _lookup(lookup: Lookup) -> dict[str, Any]:
    """Return the parts that lookups of slots and of peers have in common."""
    return {
        "target": lookup.target.hex(),
        "queries": lookup.found.queries,
        "seconds": None if lookup.seconds is None else round(lookup.seconds, 3),
        "dense": lookup.found.is_dense,
        "nodes": [
            {
                "id": node.contact.node_id.hex(),
                "address": _address(node.contact.address),
                "distance": _distance(node),
                "fits": node.fits,
                "chosen": is_chosen,
                "answered": node.state is State.ANSWERED,
                "token": bool(node.token),
                "refuses": bool(node.token) and not node.can_store,
                "seq": node.seq if node.has_item else None,
                "invalid_item": node.has_invalid_item,
                "error": node.code or None,
            }
            for node, is_chosen in _nodes(lookup)
        ],
    }


def _nodes(lookup: Lookup) -> list[tuple[Candidate, bool]]:
    """Return the nodes that were asked, nearest first, and whether each is one of those that hold the values."""
    chosen = {one.contact.address for one in lookup.found.candidates}
    asked = lookup.found.asked or lookup.found.candidates
    return [(one, one.contact.address in chosen) for one in asked]


def _node_lines(lookup: Lookup) -> Iterator[str]:
    nodes = _nodes(lookup)
    if not nodes:
        return
    yield "  nodes     log2 of the distance, address, id by BEP 42, reply; * if values are stored there"
    is_record = isinstance(lookup, Reading)
    width = max(len(_address(node.contact.address)) for node, _ in nodes[:MAX_ROWS])
    for node, is_chosen in nodes[:MAX_ROWS]:
        fits = "fits" if node.fits else "-"
        yield (
            f"  {'*' if is_chosen else ' '} {_distance(node):7.1f}  {_address(node.contact.address):{width}} {fits:5} "
            f"{reply_of(node) if is_record else _peers_reply_of(node)}"
        )
    others = Counter("answered" if one.state is State.ANSWERED else reply_of(one) for one, _ in nodes[MAX_ROWS:])
    if others:
        yield f"            and {others.total()} more: {', '.join(f'{n} {reply}' for reply, n in others.items())}"


def _peers_reply_of(candidate: Candidate) -> str:
    """Return the reply of a node to `get_peers`, in words: an item is no part of it."""
    return reply_of(candidate).removeprefix("no item, ")


# Words and numbers


def _distance(node: Candidate) -> float:
    return round(log2(node.distance), 1) if node.distance else 0.0


def _address(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _cost(lookup: Lookup) -> str:
    if lookup.seconds is None:
        return "not ended"
    dense = ", denser than by chance" if lookup.found.is_dense and not isinstance(lookup, Reading) else ""
    answered = sum(one.state is State.ANSWERED for one, _ in _nodes(lookup))
    return f"{_count(lookup.found.queries, 'query', 'queries')}, {answered} replies, {lookup.seconds:.1f} s{dense}"


def _date(day: int) -> str:
    return f"{datetime.fromtimestamp(day * DAY, UTC):%Y-%m-%d}"


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _rounded(number: float | None) -> int | None:
    """Return an estimate with two significant digits."""
    return None if not number else round(round(number, 1 - floor(log10(number))))


def _sizes(estimates: Mapping[int, float | None]) -> str:
    sizes = [
        f"about {number:,} nodes in IPv{family}".replace(",", " ")
        for family, estimate in estimates.items()
        if (number := _rounded(estimate)) is not None
    ]
    return " and ".join(sizes) or "an unknown number of nodes"
