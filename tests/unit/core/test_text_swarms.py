"""Swarms with an info_hash that is no infohash: their peers meet, and no other client sees their ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client import HASH, announce, answer
from tests.unit.fakes import FakeConnection, HubHarness, peer_id
from tracker.protocol.ids import is_any_id, is_id, swarm_key

A, B = peer_id(1), peer_id(2)
GO2RTC = "qtvbW5gt20J0YO5db0P8wNpxeqyuBKH/7DkAseNyZqk="


def test_the_peers_of_a_text_swarm_meet() -> None:
    """With the fields of go2rtc, which has neither `event` nor `left`."""
    harness = HubHarness()
    camera, viewer = FakeConnection(), FakeConnection()
    joins = {"action": "announce", "info_hash": GO2RTC, "peer_id": "0qz3k8n1x7c5v9b2", "offers": [], "numwant": 10}
    (reply,) = harness.send(camera, joins)
    assert (reply["info_hash"], reply["complete"], reply["incomplete"]) == (GO2RTC, 0, 1)
    camera.take()
    made = [{"offer_id": "d1k2j3h4g5f6", "offer": {"type": "offer", "sdp": "ZW5jcnlwdGVk"}}]
    harness.send(viewer, {**joins, "peer_id": "m4n5b6v7c8x9z0a1", "offers": made, "numwant": 1})
    (offer,) = camera.take()
    assert (offer["info_hash"], offer["peer_id"]) == (GO2RTC, "m4n5b6v7c8x9z0a1")
    assert {"offer_id": offer["offer_id"], "offer": offer["offer"]} == made[0]
    viewer.take()
    given = answer("0qz3k8n1x7c5v9b2", "m4n5b6v7c8x9z0a1", "d1k2j3h4g5f6", GO2RTC, "YW5zd2Vy")
    assert harness.send(camera, given) == []
    (got,) = viewer.take()
    assert (got["peer_id"], got["offer_id"], got["answer"]["sdp"]) == ("0qz3k8n1x7c5v9b2", "d1k2j3h4g5f6", "YW5zd2Vy")
    assert harness.counts(GO2RTC) == (0, 2)
    harness.hub.close(camera)
    harness.hub.close(viewer)
    assert harness.hub.swarms == {}


HEX = "3f786850e387550fdab836ed7e6dc881de23001b"


@pytest.mark.parametrize(
    ("info_hash", "offering", "answering", "offer_id"),
    [
        (HEX, HEX[::-1], HEX[1:] + "0", "off_k3j5x9q2p"),
        (HEX, "-KD0001-a1b2c3d4e5f6", "-KD0001-f6e5d4c3b2a1", "5f0c1f4e-8a53-4f0e-9a0c-0d1f3f6a7b8c"),
        ("chompnet", "\ufffd\ufffdA\ufffd7\ufffd", "\ufffd\x01\ufffdz", "alskdjlawid"),
    ],
    ids=["all ids in hexadecimal", "hexadecimal infohash and uuid", "random bytes as text of Go"],
)
def test_other_applications_meet(info_hash: str, offering: str, answering: str, offer_id: str) -> None:
    """The forms are those of applications that use trackers to exchange offers, found in public repositories."""
    harness = HubHarness()
    answerer = harness.join(answering, info_hash)
    made = [{"offer_id": offer_id, "offer": {"type": "offer", "sdp": "v=0"}}]
    offerer = harness.join(offering, info_hash, offers=made, numwant=10)
    (offer,) = answerer.take()
    assert (offer["peer_id"], offer["offer_id"]) == (offering, offer_id)
    harness.send(answerer, answer(answering, offer["peer_id"], offer["offer_id"], info_hash))
    (got,) = offerer.take()
    assert (got["info_hash"], got["peer_id"], got["offer_id"]) == (info_hash, answering, offer_id)


def test_a_text_swarm_is_not_the_swarm_of_its_key() -> None:
    harness = HubHarness()
    harness.join(A, GO2RTC)
    key = swarm_key(GO2RTC).decode("latin-1")
    harness.join(B, key)
    assert harness.counts(GO2RTC) == harness.counts(key) == (0, 1)


swarms = st.sampled_from([HASH, "\xff" * 20, GO2RTC, "x", "\u0100" * 20, "n" * 64])
some_ids = st.sampled_from([A, B, "\xe9" * 20, "short", "\u0100" * 20, "\U0001f600", "n" * 64])


@given(st.lists(st.tuples(swarms, some_ids, some_ids, some_ids, st.booleans()), max_size=30))
def test_no_peer_of_a_binary_swarm_is_sent_any_id_but_binary_ones(steps: list[tuple[str, str, str, str, bool]]) -> None:
    """libtorrent closes its socket otherwise."""
    harness = HubHarness()
    harness.hub.offers.parked.enable(lambda _: None)
    asked: dict[FakeConnection, set[str]] = {}
    for info_hash, sender, other, offer_id, answers in steps:
        connection = next((one for one, known in asked.items() if (info_hash + sender) in known), FakeConnection())
        asked.setdefault(connection, set()).add(info_hash + sender)
        made = [{"offer_id": offer_id, "offer": {"type": "offer", "sdp": "v=0"}}]
        message = announce(sender, info_hash, offers=made, numwant=1)
        harness.send(connection, answer(sender, other, offer_id, info_hash) if answers else message)
    for connection in asked:
        for message in connection.take():
            ids = [message[name] for name in ("peer_id", "offer_id") if name in message]
            assert all(map(is_any_id, ids))
            assert all(map(is_id, ids)) or not is_id(message["info_hash"])
