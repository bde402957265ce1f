"""Scrapes at nodes that have no peers of the swarm: the counts are those of the whole tracker."""

from typing import Any

import pytest

from extensions.cluster import counts
from extensions.cluster.reasons import Dropped
from tests.client import HASH, Json
from tests.unit.cluster.world import Station, World
from tests.unit.fakes import FakeConnection

SWARMS = [f"swarm {number:014}" for number in range(300)]


def scrape(station: Station, *info_hashes: str) -> FakeConnection:
    """Send a scrape to a node, and return the connection that the reply will come to."""
    connection = FakeConnection()
    station.send(connection, {"action": "scrape", **({"info_hash": list(info_hashes)} if info_hashes else {})})
    return connection


def files_of(connection: FakeConnection) -> Json:
    """Return the counts in the only message that has come."""
    (message,) = connection.take()
    assert message["action"] == "scrape"
    files: Json = message["files"]
    return {info_hash: (counts["complete"], counts["incomplete"]) for info_hash, counts in files.items()}


def join(
    world: World, station: Station, info_hash: str = HASH, peer_id: str = "p" * 20, **fields: Any
) -> FakeConnection:
    connection = FakeConnection()
    world.announce(station, connection, peer_id, info_hash, **fields)
    return connection


def test_a_swarm_of_other_nodes_is_counted_at_every_node() -> None:
    world = World(4)
    join(world, world.stations[0], peer_id="a" * 20, left=0)
    join(world, world.stations[1], peer_id="b" * 20, left=1)
    world.settle()
    asked = [scrape(station, HASH, SWARMS[0]) for station in world.stations]
    world.settle()
    assert [files_of(connection) for connection in asked] == [{HASH: (1, 1), SWARMS[0]: (0, 0)}] * 4


def test_swarms_of_this_node_alone_need_no_other_one() -> None:
    world = World(2)
    join(world, world.stations[0])
    world.settle()
    assert files_of(scrape(world.stations[0], HASH)) == {HASH: (0, 1)}


def test_many_swarms_are_found_by_several_questions() -> None:
    world = World(3, max_scrape=300)
    for number, info_hash in enumerate(SWARMS[:-1]):
        join(world, world.stations[number % 2], info_hash)
    world.settle()
    asked = [scrape(world.stations[2], *SWARMS), scrape(world.stations[2], *SWARMS[100:])]
    world.settle()
    expected = {**dict.fromkeys(SWARMS, (0, 1)), SWARMS[-1]: (0, 0)}
    assert files_of(asked[0]) == expected
    assert files_of(asked[1]) == {info_hash: expected[info_hash] for info_hash in SWARMS[100:]}


def test_a_scrape_of_all_swarms_has_those_of_all_nodes() -> None:
    world = World(3, full_scrape=True)
    join(world, world.stations[0], SWARMS[0])
    join(world, world.stations[1], SWARMS[0], peer_id="b" * 20)
    join(world, world.stations[1], SWARMS[1])
    world.settle()
    asked = [scrape(station) for station in world.stations]
    world.settle()
    assert [files_of(connection) for connection in asked] == [{SWARMS[0]: (0, 2), SWARMS[1]: (0, 1)}] * 3


def test_a_node_that_does_not_answer_delays_the_reply_for_a_second() -> None:
    world = World(3)
    join(world, world.stations[0])
    world.settle()
    for kind in (counts.OWNER, counts.HOLDER):
        world.stations[0].node.parts.questions.on_ask(kind, lambda *_: None)
    asked = [scrape(station, HASH) for station in world.stations[1:]]
    world.settle()
    assert not any(connection.inbox for connection in asked)
    world.pass_time(counts.TIMEOUT + 0.2)
    for connection in asked:
        assert files_of(connection) == {HASH: (0, 0)}


def test_a_node_that_dies_meanwhile_delays_nothing() -> None:
    world = World(3)
    join(world, world.stations[0])
    world.settle()
    dead = world.stations[0]
    asked = [scrape(station, HASH) for station in world.stations[1:]]
    world.kill(dead)
    world.turn()
    for station in world.stations:
        station.node.lost(dead.node_id)
    world.settle()
    for connection in asked:
        assert files_of(connection) == {HASH: (0, 0)}


def test_too_many_swarms_are_not_sought(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_SOUGHT", 2)
    world = World(2)
    station = world.stations[0]
    first, second = scrape(station, *SWARMS[:2]), scrape(station, SWARMS[2])
    assert files_of(second) == {SWARMS[2]: (0, 0)}
    assert station.node.parts.sessions.dropped[Dropped.TOO_MANY_QUESTIONS] == 1
    world.settle()
    assert files_of(first) == dict.fromkeys(SWARMS[:2], (0, 0))


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x01\x02\x03", b"\xa3abc", b"\x91\xa1\xff", b"\x91\x92\xa1a\x01"])
def test_questions_and_answers_of_another_form_are_of_no_use_and_no_harm(data: bytes) -> None:
    world = World(2)
    station, other = world.stations
    for kind in (counts.OWNER, counts.HOLDER):
        answers: list[dict[str, bytes]] = []
        station.node.parts.questions.ask(kind, data, [other.node_id], 1.0, answers.append)
        world.settle()
        assert answers == [{other.node_id: b"\x90"}]
        other.node.parts.questions.on_ask(kind, lambda _, reply: reply(data))
    asked = [scrape(station, info_hash) for info_hash in SWARMS[:8]]
    world.settle()
    assert [files_of(connection) for connection in asked] == [{info_hash: (0, 0)} for info_hash in SWARMS[:8]]
