"""Every rule of how the tracker serves: lenient in, strict out, and who belongs to whom."""

import json
import random
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import HASH, Json, announce, answer, offers, soon
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.core.swarm import Peer, RemoteMember, Swarm
from tracker.protocol import codec
from tracker.protocol.ids import is_any_id
from tracker.protocol.messages import Answer, Offer
from tracker.reasons import DropReason

A, B, C = peer_id(1), peer_id(2), peer_id(3)


def dropped(harness: HubHarness) -> dict[DropReason, int]:
    return {reason: number for reason, number in harness.hub.counters.dropped.items() if number}


def test_the_announcer_is_answered_first_then_the_offers_go_out() -> None:
    harness = HubHarness()
    harness.join(B)
    order: list[Json] = []
    harness.outbox.on_put = order.append
    harness.send(FakeConnection(), announce(A, offers=offers(1)))
    first, second = order
    assert first.pop("interval") in soon(30)
    assert first == {"action": "announce", "complete": 0, "incomplete": 2, "info_hash": HASH}
    assert second["offer_id"] == offers(1)[0]["offer_id"]


def test_an_offer_goes_to_the_other_and_the_answer_comes_back() -> None:
    harness = HubHarness()
    b = harness.join(B)
    a = harness.join(A, offers=offers(3))
    (offer,) = b.take()
    assert (offer["peer_id"], offer["info_hash"], offer["action"]) == (A, HASH, "announce")
    assert harness.send(b, answer(B, A, offer["offer_id"])) == []
    assert a.take() == [
        {
            "action": "announce",
            "info_hash": HASH,
            "peer_id": B,
            "offer_id": offer["offer_id"],
            "answer": {"type": "answer", "sdp": "v=0\r\n"},
        }
    ]
    assert dropped(harness) == {DropReason.UNPLACED_OFFER: 2}


@pytest.mark.parametrize("event", [None, "", "empty", "update", "paused", "<regular>", "started"])
def test_an_update_from_an_unknown_peer_joins_it(event: str | None) -> None:
    harness = HubHarness()
    harness.join(A, event=event)
    assert harness.counts() == (0, 1)


def test_left_decides_who_is_a_seeder_and_a_seeder_stays_one_until_it_stops() -> None:
    harness = HubHarness()
    a = harness.join(A, left=5)
    assert harness.counts() == (0, 1)
    harness.send(a, announce(A, left=0))
    assert harness.counts() == (1, 0)
    harness.send(a, announce(A, left=5))
    assert harness.counts() == (1, 0)
    harness.send(a, announce(A, left=0, event="stopped"))
    harness.send(a, announce(A, left=5))
    assert harness.counts() == (0, 1)


@pytest.mark.parametrize("known", [False, True])
def test_completed_means_seeder_also_from_an_unknown_peer(known: bool) -> None:
    harness = HubHarness()
    a = harness.join(A) if known else FakeConnection()
    (reply,) = harness.send(a, announce(A, left=7, event="completed"))
    assert (reply["complete"], reply["incomplete"]) == (1, 0)


def test_stopped_is_answered_and_the_empty_swarm_is_freed_at_once() -> None:
    harness = HubHarness()
    a = harness.join(A, left=0)
    (reply,) = harness.send(a, announce(A, event="stopped"))
    assert reply == {"action": "announce", "interval": 120, "complete": 0, "incomplete": 0, "info_hash": HASH}
    assert harness.hub.swarms == {}
    assert a.peers == set()
    a.take()
    assert len(harness.send(a, announce(A, event="stopped"))) == 1, "again, as an unknown peer"
    assert harness.hub.swarms == {}


def test_an_answer_gets_no_reply_and_to_an_unknown_peer_it_is_dropped_and_counted() -> None:
    harness = HubHarness()
    a = harness.join(A)
    assert harness.send(a, answer(A, B, "o" * 20)) == []
    assert dropped(harness) == {DropReason.UNKNOWN_RECEIVER: 1}


def test_an_answer_in_an_unknown_swarm_opens_none() -> None:
    harness = HubHarness()
    assert harness.send(FakeConnection(), answer(A, B, "o" * 20)) == []
    assert harness.hub.swarms == {}


def test_several_answers_to_one_offer_and_repeated_offer_ids() -> None:
    harness = HubHarness()
    b, c = harness.join(B), harness.join(C)
    a = harness.join(A, offers=offers(2))
    for _ in range(3):
        harness.send(a, announce(A, offers=offers(2)))
    a.take()
    assert [len(peer.take()) for peer in (b, c)] == [4, 4]
    for connection, who in ((b, B), (c, C), (b, B)):
        harness.send(connection, answer(who, A, "0" * 20))
    assert [message["peer_id"] for message in a.take()] == [B, C, B]


def test_only_the_owning_socket_may_answer_or_stop_for_a_peer_id() -> None:
    harness = HubHarness()
    a, b = harness.join(A), harness.join(B)
    harness.send(b, answer(A, B, "o" * 20))
    assert b.take() == []
    (reply,) = harness.send(b, announce(A, event="stopped"))
    assert reply["incomplete"] == 2
    assert harness.counts() == (0, 2)
    assert dropped(harness) == {DropReason.NOT_OWNER: 2}
    harness.send(a, answer(A, B, "o" * 20))
    assert len(b.take()) == 2


def test_a_new_socket_takes_a_peer_over_and_the_late_close_of_the_old_one_leaves_it() -> None:
    harness = HubHarness()
    old, b = harness.join(A, left=0), harness.join(B)
    new = harness.join(A, left=0)
    harness.send(b, announce(B, offers=offers(2)))
    assert [len(c.take()) for c in (old, new)] == [0, 1]
    harness.hub.close(old)
    harness.hub.check_invariants()
    assert harness.counts() == (1, 1)
    harness.send(old, announce(A, event="stopped"))
    assert harness.counts() == (1, 1)
    harness.hub.close(new)
    assert harness.counts() == (0, 1)


def test_several_peer_ids_and_many_swarms_on_one_socket() -> None:
    harness = HubHarness()
    both = FakeConnection()
    other = "i" * 20
    for info_hash in (HASH, other):
        for who in (A, B):
            harness.send(both, announce(who, info_hash, offers=offers(1)))
    offered = [message for message in both.take() if "offer" in message]
    assert [(message["info_hash"], message["peer_id"]) for message in offered] == [(HASH, B), (other, B)]
    assert harness.counts() == harness.counts(other) == (0, 2)
    harness.send(both, announce(A, event="stopped"))
    assert (harness.counts(), harness.counts(other)) == ((0, 1), (0, 2))
    harness.hub.close(both)
    harness.hub.check_invariants()
    assert harness.hub.swarms == {}


def test_offers_never_go_to_the_senders_own_peer_id() -> None:
    harness = HubHarness()
    a = harness.join(A)
    harness.send(a, announce(A, offers=offers(5)))
    assert [message for message in a.take() if "offer" in message] == []


def test_a_silent_peer_of_a_live_socket_is_kept_for_a_long_time_and_answers_keep_it() -> None:
    harness = HubHarness(peer_timeout=3600)
    harness.join(A)
    b = harness.join(B)
    harness.now += 1201
    harness.expire()
    assert harness.counts() == (0, 2), "20 minutes at least"
    harness.now += 2000
    harness.send(b, answer(B, A, "o" * 20))
    harness.now += 2000
    harness.expire()
    assert set(harness.hub.swarms[HASH].peers) == {B}
    assert dropped(harness) == {DropReason.SILENT_PEER: 1}


def test_fresher_peers_are_preferred_for_offers() -> None:
    harness = HubHarness()
    silent = [harness.join(peer_id(100 + n)) for n in range(5)]
    harness.now += 1200
    fresh = [harness.join(peer_id(200 + n)) for n in range(5)]
    harness.join(A, offers=offers(5))
    assert [len(c.take()) for c in fresh] == [1] * 5
    assert [len(c.take()) for c in silent] == [0] * 5


def test_scrape_answers_every_swarm_asked_for() -> None:
    harness = HubHarness()
    harness.join(A, left=0)
    unknown = "u" * 20
    (reply,) = harness.send(FakeConnection(), {"action": "scrape", "info_hash": [HASH, unknown]})
    assert reply == {
        "action": "scrape",
        "files": {
            HASH: {"complete": 1, "incomplete": 0, "downloaded": 1},
            unknown: {"complete": 0, "incomplete": 0, "downloaded": 0},
        },
    }
    assert unknown not in harness.hub.swarms


@pytest.mark.parametrize("wrong", [5, {}, True, "", "n" * 65, [None], []])
def test_a_scrape_of_the_wrong_type_gets_empty_files(wrong: object) -> None:
    connection = FakeConnection()
    sent = HubHarness().send(connection, {"action": "scrape", "info_hash": wrong})
    assert sent == [{"action": "scrape", "files": {}}]


def test_the_scraped_list_is_capped() -> None:
    harness = HubHarness(max_scrape=3)
    (reply,) = harness.send(FakeConnection(), {"action": "scrape", "info_hash": [f"{n:020}" for n in range(5)]})
    assert list(reply["files"]) == [f"{n:020}" for n in range(3)]
    assert dropped(harness) == {DropReason.SURPLUS_SCRAPE: 2}


def test_a_full_scrape_is_off_unless_configured() -> None:
    (failure,) = HubHarness().send(FakeConnection(), {"action": "scrape"})
    assert set(failure) == {"action", "info_hash", "failure reason"}
    assert failure["action"] == "scrape"
    harness = HubHarness(full_scrape=True)
    harness.join(A)
    harness.join(B, "i" * 20, left=0)
    harness.join(C, "a text swarm")  # its id would be one that the client may not bear
    (reply,) = harness.send(FakeConnection(), {"action": "scrape"})
    assert {key: entry["complete"] for key, entry in reply["files"].items()} == {HASH: 0, "i" * 20: 1}


def test_a_failure_always_carries_action_info_hash_and_reason_and_counts_against_the_socket() -> None:
    harness = HubHarness()
    connection = FakeConnection()
    harness.send(connection, b"{")
    harness.send(connection, announce("short"))
    garbage, short = connection.take()
    assert garbage == {"action": "announce", "info_hash": "\0" * 20, "failure reason": "invalid message"}
    assert short == {"action": "announce", "info_hash": HASH, "failure reason": "invalid peer_id", "interval": 120}
    harness.send(connection, announce(A))
    assert dropped(harness) == {DropReason.INVALID_JSON: 1, DropReason.INVALID_PEER_ID: 1}


def test_a_bad_offer_is_counted_and_the_rest_of_the_announce_served() -> None:
    harness = HubHarness()
    b = harness.join(B)
    harness.join(A, offers=[None, *offers(1), {"offer_id": 5}])
    assert len(b.take()) == 1
    assert dropped(harness) == {DropReason.INVALID_OFFER: 2}


def test_a_socket_may_announce_only_so_many_peers() -> None:
    harness = HubHarness(max_swarms_per_connection=2)
    a = FakeConnection()
    for n in range(2):
        harness.send(a, announce(A, f"{n:020}"))
    a.take()
    (failure,) = harness.send(a, announce(A, "i" * 20))
    assert failure["failure reason"] == "too many swarms"
    assert set(harness.hub.swarms) == {f"{n:020}" for n in range(2)}
    harness.join(B, "i" * 20)
    (failure, _) = harness.send(a, announce(B, "i" * 20))[-1], None
    assert "failure reason" in failure, "nor by taking peers over"


def test_offers_are_spread_evenly_over_a_large_swarm() -> None:
    harness = HubHarness()
    others = [harness.join(peer_id(100 + n)) for n in range(40)]
    a = harness.join(A)
    for _ in range(1000):
        harness.send(a, announce(A, offers=offers(5)))
    got = [len(c.take()) for c in others]
    assert sum(got) == 5000
    assert min(got) > 70
    assert max(got) < 190


class Recorder:
    """An observer that writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def swarm_opened(self, swarm: Swarm) -> None:
        self.events.append(("opened", swarm.info_hash))

    def swarm_changed(self, swarm: Swarm) -> None:
        self.events.append(("changed", len(swarm.seeders), len(swarm.leechers)))

    def swarm_closed(self, swarm: Swarm) -> None:
        self.events.append(("closed", swarm.info_hash))

    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        self.events.append(("placed", member.owner, peer_id, [codec.from_json(o.offer_id) for o in offers]))

    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None:
        self.events.append(("unplaced", swarm.info_hash, peer.peer_id, len(offers)))

    def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> bool:
        self.events.append(("returned", swarm.info_hash, peer_id, len(offers)))
        return True

    def answer_unplaced(self, answer: Answer) -> bool:
        self.events.append(("answer", answer.info_hash, answer.to_peer_id))
        return True

    def take(self) -> list[tuple[Any, ...]]:
        taken, self.events = self.events, []
        return taken


def test_the_observer_hears_of_swarms_and_of_what_found_nobody() -> None:
    recorder = Recorder()
    harness = HubHarness(recorder)
    a = harness.join(A, offers=offers(2))
    assert recorder.take() == [("opened", HASH), ("changed", 0, 1), ("unplaced", HASH, A, 2)]
    harness.send(a, announce(A, left=0))
    harness.send(a, announce(A, left=0))
    assert recorder.take() == [("changed", 1, 0)]
    harness.send(a, answer(A, C, "o" * 20))
    assert recorder.take() == [("answer", HASH, C)]
    b = harness.join(B)
    harness.hub.close(a)
    harness.send(b, announce(B, event="stopped"))
    assert recorder.take() == [("changed", 1, 1), ("changed", 0, 1), ("closed", HASH)]


def test_remote_members_get_the_offers_of_one_announce_together_and_count_as_peers() -> None:
    recorder = Recorder()
    harness = HubHarness(recorder)
    assert harness.remote.add_remote(HASH, "link") is None, "no such swarm here"
    a = harness.join(A)
    member = harness.remote.add_remote(HASH, "link")
    assert member
    harness.remote.set_remote(member, 1, 2)
    harness.hub.check_invariants()
    assert harness.counts() == (1, 3)
    recorder.take()
    harness.send(a, announce(A, offers=offers(5)))
    assert recorder.take() == [
        ("placed", "link", A, [f"{n:020}" for n in range(3)]),
        ("unplaced", HASH, A, 2),
    ]
    harness.hub.close(a)
    harness.remote.set_remote(member, 5, 5)
    harness.hub.check_invariants()
    assert harness.hub.swarms == {}, "the swarm is gone and stays so"


def test_remote_offers_and_answers_reach_local_peers() -> None:
    harness = HubHarness()
    a, b = harness.join(A), harness.join(B)
    remote = [codec.make_offer(f"{n:020}", "v=0") for n in range(3)]
    assert harness.remote.deliver_offers(HASH, C, remote, harness.now) == remote[2:]
    assert [[message["peer_id"] for message in peer.take()] for peer in (a, b)] == [[C], [C]]
    assert harness.remote.deliver_offers(HASH, A, remote, harness.now) == remote, "A is here, and makes its offers here"
    assert harness.remote.deliver_offers("u" * 20, C, remote, harness.now) == remote

    assert harness.remote.deliver_answer(codec.make_answer(HASH, C, A, "o" * 20, "v=0"), harness.now)
    assert [message["answer"] for message in a.take()] == [{"type": "answer", "sdp": "v=0"}]
    assert not harness.remote.deliver_answer(codec.make_answer(HASH, C, "u" * 20, "o" * 20, "v=0"), harness.now)
    assert not harness.remote.deliver_answer(codec.make_answer("u" * 20, C, A, "o" * 20, "v=0"), harness.now)
    assert b.take() == []


def test_a_peer_that_has_left_is_forgotten_with_its_connection() -> None:
    """The counts of remote offers given to a peer must not keep its connection in memory."""
    harness = HubHarness()
    a = harness.join(A)
    peer = harness.hub.swarms[HASH].peers[A]
    harness.remote.deliver_offers(HASH, C, [codec.make_offer("o" * 20, "v=0")], harness.now)
    assert len(a.take()) == 1
    harness.hub.close(a)
    # One reference is this function's, one is the argument of `getrefcount`.
    assert sys.getrefcount(peer) == 2


def test_a_peer_that_has_left_is_forgotten_before_the_hub_has_looked_at_it() -> None:
    """A round over all peers takes a minute, and it must not keep the connections that end meanwhile."""
    harness = HubHarness()
    connections = {peer_id(n): harness.join(peer_id(n)) for n in range(10)}
    for _ in range(2):  # the first call starts a round
        harness.hub.expire(harness.now, 1)
    last = harness.hub.swarms[HASH].peers[peer_id(9)]
    harness.hub.close(connections.pop(peer_id(9)))
    # One reference is this function's, one is the argument of `getrefcount`.
    assert sys.getrefcount(last) == 2
    harness.now += harness.hub.rules.peer_timeout + 1
    for _ in range(20):
        harness.hub.expire(harness.now, 1)
    assert harness.hub.swarms == {}
    assert dropped(harness) == {DropReason.SILENT_PEER: 9}


@given(st.lists(st.binary(max_size=60), max_size=10), st.integers(0, 2**32))
def test_mutated_frames_never_raise_and_never_break_an_invariant(noise: list[bytes], seed: int) -> None:
    harness = HubHarness()
    connection = harness.join(A)
    harness.join(B)
    frame = json.dumps(announce(A, offers=offers(2))).encode()
    source = random.Random(seed)
    for piece in noise:
        at = source.randrange(len(frame))
        payload = frame[:at] + piece + frame[at + source.randrange(len(piece) + 1) :]
        try:
            for message in harness.send(connection, payload):
                assert is_any_id(message["info_hash"])
            connection.take()
        except UnicodeDecodeError:
            continue
        harness.hub.check_invariants()
