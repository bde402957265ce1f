"""The first swarm of a client, by the bytes of its first message."""

import json

import pytest
from websockets.frames import Frame, Opcode

from tests.client import announce
from tests.unit.fakes import peer_id
from tracker.net.handover import MAX_DATA, first_info_hash

ANNOUNCE = json.dumps(announce(peer_id(1), "i" * 20))


def masked(text: str, opcode: Opcode = Opcode.TEXT, fin: bool = True) -> bytes:
    """Return a client's frame."""
    return Frame(opcode, text.encode(), fin=fin).serialize(mask=True)


def test_the_first_swarm_of_a_client() -> None:
    whole = masked(ANNOUNCE)
    assert first_info_hash(whole) == "i" * 20
    assert first_info_hash(whole + b"more") == "i" * 20
    assert all(first_info_hash(whole[:size]) is None for size in range(len(whole)))
    long = masked(json.dumps({"offers": "x" * 40_000, "info_hash": "\xff" * 20}))
    assert first_info_hash(long) == "\xff" * 20
    assert first_info_hash(long[:-1]) is None


@pytest.mark.parametrize(
    "data",
    [
        masked("no JSON"),
        masked("[]"),
        masked('{"info_hash": ["a"]}'),
        masked('{"action": "scrape"}'),
        masked(""),
        masked('{"x": ' + "[" * 50_000),
        masked(ANNOUNCE, Opcode.BINARY),
        masked("ping", Opcode.PING),
        masked(ANNOUNCE, fin=False),
        b"\xc1" + masked(ANNOUNCE)[1:],
        Frame(Opcode.TEXT, ANNOUNCE.encode()).serialize(mask=False),
        masked("x" * (MAX_DATA + 1)),
        b"\x81\xff" + b"\xff" * 8,
        b"\x00",
        b"\x88\x80",
    ],
    ids=range(15),
)
def test_other_messages_decide_nothing(data: bytes) -> None:
    assert first_info_hash(data) == ""
