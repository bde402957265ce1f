"""The explanation of a lookup: text and JSON, for reports of visits that the tests make."""

import json
from typing import Any

import pytest

from extensions.dht.explain import MAX_ROWS, as_json, as_text, reply_of
from extensions.dht.krpc.client import Found
from extensions.dht.krpc.messages import Contact, Item
from extensions.dht.krpc.traversal import Candidate, State
from extensions.dht.records.keys import DAY, shard_path, shard_salt
from extensions.dht.records.reports import Reading, VisitReport
from extensions.dht.records.slots import LOCKED, Slot, encode_slot
from tests.unit.dht.directory import signed
from tests.unit.dht.entries import HASH, NOW, URL, identity

TODAY = NOW // DAY
TARGET = bytes(range(20))
UNKNOWN: dict[int, float | None] = {4: None, 6: None}


def node(number: int, **state: Any) -> Candidate:
    """Return a node that has answered, with a token and without an item, unless `state` says more."""
    contact = Contact(number.to_bytes(20, "big"), (f"192.0.2.{number % 250}", 6881))
    return Candidate(**{"distance": 2**number, "contact": contact, "state": State.ANSWERED, "token": b"token"} | state)


def found(*asked: Candidate, dense: bool = False) -> Found:
    """Return the result of a lookup that has asked these nodes, or eight."""
    nodes = list(asked) or [node(140 + number) for number in range(8)]
    return Found([one for one in nodes if one.state is State.ANSWERED][:8], len(nodes), nodes, dense)


class Visit:
    """A report to which the test adds lookups, and the clock that it has."""

    def __init__(self, is_complete: bool = True) -> None:
        self.now = float(NOW)
        self.report = VisitReport(HASH, is_complete=is_complete)

    def read(
        self, salt: bytes, *values: tuple[int, Any, int], result: Found | None = None, state: Any = None
    ) -> Reading:
        """Add a lookup of a slot whose nodes have these values: sequence number, value, number of nodes."""
        slot = Slot(salt)
        for name, value in (state or {}).items():
            setattr(slot, name, value)
        reading = self.report.begin(TODAY, slot, TARGET, lambda: self.now)
        seen: set[bytes] = set()

        def collect(item: Item) -> None:
            if item.signature not in seen:
                seen.add(item.signature)
                slot.add(item.seq, item.value, HASH, self.now)

        on_item = reading.collecting(collect)
        for number, (seq, value, nodes) in enumerate(values):
            for _ in range(nodes):
                on_item(Item(b"key", bytes([number]), seq, value))
        self.now += 1.5
        reading.end(result or found())
        return reading

    @property
    def text(self) -> str:
        return as_text([self.report], UNKNOWN)

    @property
    def lines(self) -> list[str]:
        """The lines, with single spaces."""
        return [" ".join(line.split()) for line in self.text.splitlines()]

    @property
    def json(self) -> dict[str, Any]:
        """The report as JSON, decoded again."""
        decoded: dict[str, Any] = json.loads(json.dumps(as_json([self.report], UNKNOWN)))["visits"][0]
        return decoded


def entries(*numbers: int) -> bytes:
    return encode_slot([signed(number, NOW) for number in numbers])


def tracker_id(number: int) -> str:
    return identity(number).public_key().public_bytes_raw().hex()


# Slots


def test_a_record_in_good_order() -> None:
    visit = Visit()
    visit.read(b"r0", (7, entries(1, 2), 6), (6, entries(1), 2))
    assert visit.lines[:9] == [
        "The DHT has an unknown number of nodes.",
        "",
        "Slot r0 of 2024-10-04: 8 queries, 8 replies, 1.5 s",
        "target 000102030405060708090a0b0c0d0e0f10111213",
        f"value at 6 nodes: item 7, {len(entries(1, 2))} bytes; 2 valid entries",
        f"value at 2 nodes: item 6, {len(entries(1))} bytes; 1 valid entry",
        *(
            f"believed from {nodes} nodes, until 02:00 UTC, {tracker_id(number)[:16]}, {URL}"
            for number, nodes in sorted([(1, 8), (2, 6)], key=lambda one: tracker_id(one[0]))
        ),
        "then not r1, because r0 can be read, and has room",
    ]
    assert visit.lines[-1] == "BEP 5 was not used: no slot is locked, spoilt, emptied or blinded."
    (reading,) = visit.json["readings"]
    assert {name: reading[name] for name in ("day", "salt", "target", "queries", "seconds", "seq", "states")} == {
        "day": TODAY,
        "salt": "r0",
        "target": TARGET.hex(),
        "queries": 8,
        "seconds": 1.5,
        "seq": 7,
        "states": [],
    }
    assert {one["id"]: one["nodes"] for one in reading["entries"]} == {tracker_id(1): 8, tracker_id(2): 6}


@pytest.mark.parametrize(
    ("values", "state", "expected"),
    [
        ([(LOCKED, entries(1), 8)], {}, ["locked"]),
        ([(1, b"rubbish", 8)], {}, ["spoilt"]),
        ([(LOCKED, b"rubbish", 8)], {}, ["locked", "spoilt"]),
        ([(1, entries(1, 2, 3, 4, 5, 6), 8)], {}, ["full"]),
        ([], {"is_dense": True, "is_doubtful": True}, ["blinded"]),
        ([], {"is_doubtful": True}, ["emptied"]),
    ],
)
def test_the_reason_why_the_next_slot_is_read(values: list[Any], state: dict[str, bool], expected: list[str]) -> None:
    visit = Visit()
    visit.read(b"r0", *values, state=state)
    visit.read(b"r1", (1, entries(1), 8))
    assert f"then r1, because r0 is {' and '.join(expected)}" in visit.lines
    assert "then not r2, because r1 can be read, and has room" in visit.lines
    for name in expected:
        assert sum(line.startswith(f"state {name}: ") for line in visit.lines) == 1
    assert [reading["states"] for reading in visit.json["readings"]] == [expected, []]


def test_nodes_that_are_too_close_to_a_later_slot_are_no_reason_to_go_on() -> None:
    visit = Visit()
    visit.read(b"r0", (LOCKED, entries(1), 8))
    visit.read(b"r1", state={"is_dense": True})
    assert "then not r2, because r1 can be read, and has room" in visit.lines
    assert visit.json["readings"][1]["states"] == ["blinded"]


def test_a_visit_may_read_all_slots_without_a_reason() -> None:
    visit = Visit()
    for salt in (b"r0", b"r1", b"r2"):
        visit.read(salt, (1, entries(1), 8))
    assert [one["next"] for one in visit.json["readings"]] == [
        "r1, as in some visits",
        "r2, as in some visits",
        "no shard, because r0 or r1 has room",
    ]


def test_ignored_parts_are_told_by_reason() -> None:
    forged = encode_slot([signed(1, NOW, info_hash=b"y" * 20), signed(2, NOW, info_hash=b"y" * 20), signed(3, NOW)])
    visit = Visit()
    visit.read(b"r0", (3, forged, 5), (2, 17, 1))
    assert f"value at 5 nodes: item 3, {len(forged)} bytes; 1 valid entry, ignored 2 invalid_signature" in visit.lines
    assert "value at 1 node: item 2, not a string; 0 valid entries, ignored 1 not_a_string" in visit.lines
    assert [one["ignored"] for one in visit.json["readings"][0]["values"]] == [
        {"invalid_signature": 2},
        {"not_a_string": 1},
    ]


def test_a_value_without_any_byte_is_a_string() -> None:
    visit = Visit()
    visit.read(b"r0", (1, b"", 8), (2, b"x", 1))
    assert "value at 8 nodes: item 1, 0 bytes; 0 valid entries, ignored 1 not_bencode" in visit.lines
    assert "value at 1 node: item 2, 1 byte; 0 valid entries, ignored 1 not_bencode" in visit.lines


def test_no_writer_replaces_the_contents_of_a_locked_slot() -> None:
    visit = Visit()
    visit.read(b"r0", (LOCKED, b"rubbish", 8))
    visit.read(b"r1", (1, b"rubbish", 8))
    told = [line for line in visit.lines if line.startswith("state spoilt: ")]
    assert ["next writer" in line for line in told] == [False, True]


def test_of_very_many_values_the_text_has_those_at_most_nodes() -> None:
    """Each node near a record may have a value of its own, with entries of made-up trackers."""
    visit = Visit()
    values = [(number, entries(number), 1) for number in range(1, 41)]
    visit.read(b"r0", (41, entries(41), 7), *values)
    assert sum(line.startswith("value at ") for line in visit.lines) == MAX_ROWS
    assert sum(line.startswith("believed from ") for line in visit.lines) == MAX_ROWS
    assert f"value at 7 nodes: item 41, {len(entries(41))} bytes; 1 valid entry" in visit.lines
    assert f"and {41 - MAX_ROWS} more, at {41 - MAX_ROWS} nodes" in visit.lines
    assert f"and {41 - MAX_ROWS} more" in visit.lines
    (reading,) = visit.json["readings"]
    assert (len(reading["values"]), len(reading["entries"])) == (41, 41)


@pytest.mark.parametrize("is_complete", [True, False])
def test_if_the_time_is_up_before_shards_are_read_nothing_is_said_about_them(is_complete: bool) -> None:
    visit = Visit(is_complete)
    for salt in (b"r0", b"r1", b"r2"):
        visit.read(salt, (LOCKED, entries(1), 8))
    assert ("then no shard, because r0 or r1 has room" in visit.lines) is is_complete


def test_an_empty_slot_differs_from_one_that_no_node_has_answered_for() -> None:
    visit = Visit()
    visit.read(b"r0")
    visit.read(b"r1", result=found(node(140, state=State.FAILED, token=b"")))
    assert "state empty: no node has a valid item" in visit.lines
    assert "state unknown: no node has answered" in visit.lines
    assert "Slot r1 of 2024-10-04: 1 query, 0 replies, 1.5 s" in visit.lines


def test_shards_are_read_after_the_window_of_a_crowded_record() -> None:
    visit = Visit()
    for salt in (b"r0", b"r1", b"r2"):
        visit.read(salt, (1, entries(1, 2, 3, 4, 5, 6), 8))
    salt = shard_salt(shard_path(HASH, tracker_id(1))[:2])
    visit.read(salt, (1, entries(1), 3))
    assert "then shards, because r0 and r1 leave no room" in visit.lines
    assert f"Shard {salt.decode()} of 2024-10-04: 8 queries, 8 replies, 1.5 s" in visit.lines
    assert visit.json["readings"][-1]["next"] == ""


def test_a_lookup_that_has_not_ended() -> None:
    visit = Visit(is_complete=False)
    visit.report.begin(TODAY, Slot(b"r0"), TARGET, lambda: visit.now)
    assert "The time was up before the lookup had ended." in visit.lines
    assert visit.lines[-2:] == ["Slot r0 of 2024-10-04: not ended", f"target {TARGET.hex()}"]
    assert visit.json["complete"] is False
    assert visit.json["readings"][0]["seconds"] is None


# Nodes


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({}, "no item, token"),
        ({"token": b""}, "no item, no token"),
        ({"has_item": True, "seq": 12}, "item 12, token"),
        ({"has_item": True, "seq": 12, "can_store": False}, "item 12, token, refuses"),
        ({"token": b"", "can_store": False}, "no item, no token"),
        ({"has_invalid_item": True}, "invalid_item, token"),
        ({"state": State.FAILED, "code": 204}, "error 204"),
        ({"state": State.FAILED}, "no reply"),
        ({"state": State.SLOW}, "no reply in time"),
        ({"state": State.ASKED}, "no reply in time"),
    ],
)
def test_the_reply_of_a_node(state: dict[str, Any], words: str) -> None:
    assert reply_of(node(140, **state)) == words


def test_nodes_are_shown_with_distance_address_and_fit() -> None:
    visit = Visit()
    far = Contact(bytes(20), ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535))
    visit.read(b"r0", result=found(node(100, fits=False), node(101, state=State.FAILED), node(159, contact=far)))
    assert visit.lines[-5:-2] == [
        "* 100.0 192.0.2.100:6881 - no item, token",
        "101.0 192.0.2.101:6881 fits no reply",
        "* 159.0 [2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535 fits no item, token",
    ]
    nodes = visit.json["readings"][0]["nodes"]
    assert [(one["distance"], one["fits"], one["chosen"], one["answered"]) for one in nodes] == [
        (100.0, False, True, True),
        (101.0, True, False, False),
        (159.0, True, True, True),
    ]


def test_of_very_many_nodes_the_text_has_the_nearest() -> None:
    visit = Visit()
    others = [node(60 + number, state=State.FAILED) for number in range(30)]
    visit.read(b"r0", result=found(*[node(20 + number) for number in range(30)], *others))
    shown = [line for line in visit.lines if "192.0.2." in line]
    assert len(shown) == MAX_ROWS
    assert f"and {60 - MAX_ROWS} more: 6 answered, 30 no reply" in visit.lines
    assert len(visit.json["readings"][0]["nodes"]) == 60


# BEP 5


def test_hosts_are_shown_by_the_number_of_nodes_that_name_them() -> None:
    visit = Visit()
    visit.report.needs_bep5 = True
    bep5 = visit.report.begin_bep5()
    bep5.begin(TODAY, TARGET, lambda: visit.now).end(found())
    for number in range(3):
        named = {(f"198.51.100.{host}", (f"198.51.100.{host}", 80 + host)) for host in (1, number + 1)}
        bep5.note_named((f"192.0.2.{number}", 1), named, refused=2)
    entry = signed(1, NOW, b"")
    request = bep5.request("198.51.100.1", ("198.51.100.1", 443))
    request.fault, request.entry = "", entry
    bep5.request("198.51.100.2", ("198.51.100.2", 80)).fault = "HTTP status 404\n\x1b[31m" + "x" * 100
    bep5.request("198.51.100.2", ("198.51.100.2", 81))
    assert "BEP 5, because the record is in trouble" in visit.lines
    fault = ("HTTP status 404??[31m" + "x" * 100)[:60]
    assert visit.lines[-4:] == [
        "3 hosts named; 6 names of addresses that may get no request:",
        f"by 3 nodes 198.51.100.1 port 443: tracker {URL}",
        f"by 1 node 198.51.100.2 port 80: {fault}; port 81: no answer in time",
        "by 1 node 198.51.100.3 not asked",
    ]
    hosts = visit.json["bep5"][0]["hosts"]
    assert (hosts[0]["addresses"], [one["nodes"] for one in hosts]) == (["198.51.100.1:81"], [3, 1, 1])
    (asked,) = hosts[0]["requests"]
    assert asked == {"address": "198.51.100.1:443", "fault": "", "id": entry.tracker_id, "url": URL}


def test_replies_to_get_peers_tell_of_no_items() -> None:
    visit = Visit()
    bep5 = visit.report.begin_bep5()
    bep5.begin(TODAY, TARGET, lambda: visit.now).end(found(node(150), node(151, token=b""), dense=True))
    assert "* 150.0 192.0.2.150:6881 fits token" in visit.lines
    assert "* 151.0 192.0.2.151:6881 fits no token" in visit.lines
    assert "BEP 5, as in every lookup of this command" in visit.lines
    assert any("2 replies, 0.0 s, denser than by chance" in line for line in visit.lines)
    assert visit.lines[-1] == "0 hosts named"


def test_the_addresses_of_an_ipv6_network_are_one_host() -> None:
    visit = Visit()
    named = [("2001:db8:1:2", (f"2001:db8:1:2::{number}", 80)) for number in range(1, 4)]
    visit.report.begin_bep5().note_named(("192.0.2.1", 1), named, refused=0)
    assert visit.lines[-2:] == ["1 host named:", "by 1 node 2001:db8:1:2::1 and 2 addresses near it not asked"]


# The whole


@pytest.mark.parametrize(
    ("estimates", "line"),
    [
        ({4: 1_234_567.0, 6: 98_765.0}, "The DHT has about 1 200 000 nodes in IPv4 and about 99 000 nodes in IPv6."),
        ({4: 7.6, 6: None}, "The DHT has about 8 nodes in IPv4."),
        ({4: None}, "The DHT has an unknown number of nodes."),
        ({}, "The DHT has an unknown number of nodes."),
    ],
)
def test_the_size_of_the_dht(estimates: dict[int, float | None], line: str) -> None:
    assert as_text([], estimates) == line


def test_the_size_in_json() -> None:
    assert as_json([], {4: 1_234_567.0, 6: None})["estimated_nodes"] == {"ipv4": 1_200_000, "ipv6": None}


def test_lines_fit_a_terminal() -> None:
    visit = Visit()
    far = Contact(bytes(20), ("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", 65535))
    locked: dict[str, Any] = {"has_item": True, "seq": 2**63 - 1, "can_store": False}
    dense = {"is_dense": True, "is_doubtful": True}
    visit.read(b"r0", (2**63 - 1, b"rubbish", 8), (1, entries(1), 1), state=dense, result=found(node(159, **locked)))
    state = {"is_doubtful": True}
    visit.read(b"r1", state=state, result=found(node(158, **locked | {"contact": far, "seq": 12345})))
    visit.report.begin_bep5().begin(TODAY, TARGET, lambda: visit.now).end(found(dense=True))
    assert max(len(line) for line in visit.text.splitlines()) <= 100
