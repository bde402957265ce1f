"""The handshake: only trackers that prove their ids open a link."""

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extensions.federation import wire
from extensions.federation.events import Opened
from extensions.federation.handshake import LinkError
from extensions.federation.reasons import BROKEN_RULES, EndReason
from extensions.federation.session import Session, State
from tests.unit.federation.links import (
    A,
    an_answer,
    dialing,
    give,
    key,
    linked,
    listening,
    shake_hands,
    some_offers,
    tracker_id,
    transcript,
)


def reason_of(session: Session, *frames: bytes) -> EndReason:
    """Return the reason why the last of these frames ends a session."""
    *before, last = frames
    for frame in before:
        session.receive(frame)
    with pytest.raises(LinkError) as caught:
        session.receive(last)
    return caught.value.reason


def hello(number: int = 1, url: str = "wss://tracker.example.org", **changes: object) -> bytes:
    """A first message with changes."""
    return json.dumps(json.loads(dialing(number, url).start()) | changes).encode()


def test_both_ends_learn_the_id_of_the_other() -> None:
    dialer, listener = dialing(1, expected=tracker_id(2)), listening(2)
    shake_hands(dialer, listener)
    assert (dialer.tracker_id, listener.tracker_id) == (tracker_id(2), tracker_id(1))
    assert dialer.state is listener.state is State.OPEN


def test_no_id_is_known_before_the_proof() -> None:
    listener = listening()
    listener.receive(dialing().start())
    assert (listener.tracker_id, listener.their_id, listener.state) == ("", "", State.PROOF)
    assert dialing(expected=tracker_id(2)).their_id == tracker_id(2), "the tracker that was dialed is shunned"


def test_all_of_the_handshake_may_come_in_one_frame() -> None:
    dialer, listener = dialing(), listening()
    _, (proof,) = dialer.receive(listener.start())
    events, (reply,) = listener.receive(dialer.start() + b"\n" + proof)
    assert events == [Opened(tracker_id(1))]
    assert give(dialer, [reply]) == [Opened(tracker_id(2))]


def test_a_tracker_that_was_not_dialed_as_itself_refuses() -> None:
    assert reason_of(listening(), dialing(url="wss://other.example.org").start()) is EndReason.WRONG_URL


def test_a_tracker_that_is_not_the_one_expected_is_refused() -> None:
    assert reason_of(dialing(expected=tracker_id(3)), listening(2).start()) is EndReason.WRONG_ID


def test_a_tracker_that_claims_the_id_of_another_is_refused() -> None:
    dialer, pretender = dialing(1, expected=tracker_id(2)), listening(3)
    pretended = json.loads(pretender.start()) | {"id": tracker_id(2)}
    dialer.receive(json.dumps(pretended).encode())
    _, (proof,) = pretender.receive(dialer.start())
    assert reason_of(dialer, proof) is EndReason.INVALID_PROOF


@pytest.mark.parametrize("of", ["dialer", "listener"])
def test_a_recorded_handshake_cannot_be_played_again(of: str) -> None:
    said_by_dialer_1, said_by_dialer_2, said_by_listener_1, said_by_listener_2 = shake_hands(dialing(), listening())
    if of == "dialer":
        assert reason_of(listening(nonce=50), said_by_dialer_1, said_by_dialer_2) is EndReason.INVALID_PROOF
    else:
        assert reason_of(dialing(nonce=50), said_by_listener_1, said_by_listener_2) is EndReason.INVALID_PROOF


def test_a_recorded_hello_is_not_enough_for_a_new_proof() -> None:
    recorded = dialing(nonce=10)
    listener = listening(nonce=50)
    listener.receive(recorded.start())
    other = listening(nonce=51)
    _, (proof,) = recorded.receive(other.start())
    assert reason_of(listener, proof) is EndReason.INVALID_PROOF, "it was made for another listener's nonce"


@pytest.mark.parametrize("make", [dialing, listening])
def test_its_own_hello_is_not_another_tracker(make: Callable[[], Session]) -> None:
    session = make()
    reflected = json.loads(session.start()) | {"url": "wss://tracker.example.org"}
    assert reason_of(session, json.dumps(reflected).encode()) is EndReason.ITSELF


def test_a_tracker_that_dials_itself_hears_so() -> None:
    own_nonces: set[bytes] = set()
    listener = Session(key(1), bytes(32), accepts=lambda _: True, own_nonces=own_nonces)
    dialer = dialing(1)
    own_nonces.add(dialer.nonce)
    assert reason_of(listener, dialer.start()) is EndReason.ITSELF
    assert EndReason.ITSELF not in BROKEN_RULES


def test_another_tracker_with_the_same_key_must_prove_it() -> None:
    dialer, listener = dialing(1), listening(1)
    _, (dialers_proof,) = dialer.receive(listener.start())
    _, (listeners_proof,) = listener.receive(dialer.start())
    assert reason_of(listener, dialers_proof) is reason_of(dialer, listeners_proof) is EndReason.SAME_KEY
    assert (dialer.tracker_id, listener.tracker_id) == ("", "")
    claimed = json.loads(dialing(2).start()) | {"id": tracker_id(1)}
    pretender, listener = dialing(2), listening(1)
    _, (proof,) = pretender.receive(listener.start())
    assert reason_of(listener, json.dumps(claimed).encode(), proof) is EndReason.INVALID_PROOF
    assert EndReason.SAME_KEY not in BROKEN_RULES


@pytest.mark.parametrize("side", [0, 1])
def test_its_own_proof_is_not_the_others(side: int) -> None:
    ends = dialing(), listening()
    _, (own,) = ends[side].receive(ends[1 - side].start())
    assert reason_of(ends[side], own) is EndReason.INVALID_PROOF


def test_the_same_nonce_back_is_not_a_nonce() -> None:
    assert reason_of(listening(nonce=10), dialing(nonce=10).start()) is EndReason.INVALID_PROOF
    assert reason_of(dialing(nonce=10), listening(nonce=10).start()) is EndReason.INVALID_PROOF


def test_a_proof_is_good_for_one_of_two_handshakes_only() -> None:
    first, second = (dialing(nonce=10), listening(nonce=11)), (dialing(nonce=20), listening(nonce=21))
    proofs = []
    for dialer, listener in (first, second):
        dialer_proof = dialer.receive(listener.start())[1][0]
        proofs.append((dialer_proof, listener.receive(dialer.start())[1][0]))
    assert reason_of(first[1], proofs[1][0]) is EndReason.INVALID_PROOF
    assert reason_of(first[0], proofs[1][1]) is EndReason.INVALID_PROOF


def test_a_proof_contains_the_role_of_its_maker() -> None:
    dialer, listener = dialing(), listening()
    dialer.receive(listener.start())
    listener.receive(dialer.start())
    signed = b"dialer " + transcript(dialer.start(), listener.start())
    assert reason_of(dialer, wire.encode(wire.Proof(key(2).sign(signed).hex()))) is EndReason.INVALID_PROOF


def test_a_relay_between_two_trackers_is_dialed_by_its_own_url() -> None:
    # The dialer knows the URL of the relay only. The relay passes all messages on to the listener.
    dialer, listener = dialing(1, url="wss://between.example.org"), listening(2)
    assert reason_of(listener, dialer.start()) is EndReason.WRONG_URL


def test_a_relay_cannot_replace_the_url() -> None:
    dialer, listener = dialing(1, url="wss://between.example.org"), listening(2)
    changed = json.loads(dialer.start()) | {"url": "wss://tracker.example.org"}
    _, (listener_proof,) = listener.receive(json.dumps(changed).encode())
    _, (dialer_proof,) = dialer.receive(listener.start())
    assert reason_of(listener, dialer_proof) is EndReason.INVALID_PROOF
    assert reason_of(dialer, listener_proof) is EndReason.INVALID_PROOF


@pytest.mark.parametrize(
    "later",
    [
        b'{"type":"have","swarms":[]}',
        b'{"type":"present","swarms":[]}',
        b'{"type":"filter","part":0,"parts":1,"bits":"AAAA"}',
        b'{"type":"opened","tags":""}',
        b'{"type":"seek","swarm":""}',
        b'{"type":"trackers","swarm":"","trackers":[]}',
        b'{"type":"refused","swarm":"x","peer_id":"%b","offer_ids":[]}' % A.encode(),
        wire.encode_offers(b"x", A, some_offers(1)),
        wire.encode_answer(b"x", an_answer()),
    ],
)
def test_nothing_else_is_heard_before_the_proof(later: bytes) -> None:
    greeting = dialing().start()
    assert reason_of(listening(), later) is EndReason.OUT_OF_TURN
    assert reason_of(listening(), greeting, later) is EndReason.OUT_OF_TURN
    assert reason_of(listening(), greeting + b"\n" + later) is EndReason.OUT_OF_TURN


def test_a_proof_needs_a_hello_and_each_comes_once() -> None:
    dialer, listener = dialing(), listening()
    first, proof, _, _ = shake_hands(dialer, listener)
    assert reason_of(listening(), proof) is EndReason.OUT_OF_TURN
    assert reason_of(listening(), first, first) is EndReason.OUT_OF_TURN
    assert reason_of(listener, first) is EndReason.OUT_OF_TURN
    assert reason_of(listener, proof) is EndReason.OUT_OF_TURN


@pytest.mark.parametrize("version", [0, 2, -1, 10**30])
def test_another_version_is_refused(version: int) -> None:
    assert reason_of(listening(), hello(version=version)) is EndReason.WRONG_VERSION


@pytest.mark.parametrize("fields", [{}, {"id": 5, "nonce": [], "url": {}}, {"keys": ["later"], "nonce": None}])
def test_of_another_version_nothing_but_the_version_is_read(fields: dict[str, object]) -> None:
    later = json.dumps({"type": "hello", "version": 2, **fields}).encode()
    assert reason_of(listening(), later) is EndReason.WRONG_VERSION
    assert reason_of(dialing(), later) is EndReason.WRONG_VERSION
    first = json.dumps({"type": "hello", "version": 1, **fields}).encode()
    assert reason_of(listening(), first) is EndReason.INVALID_MESSAGE


@pytest.mark.parametrize("version", ["2", 2.5, None, True, []])
def test_a_version_that_is_no_integer_is_invalid(version: object) -> None:
    invalid = json.dumps({"type": "hello", "version": version}).encode()
    assert reason_of(listening(), invalid) is EndReason.INVALID_MESSAGE


@pytest.mark.parametrize("field", ["id", "nonce"])
@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: text[:-2],
        lambda text: text + "00",
        lambda _: "",
        lambda text: "g" + text[1:],
        lambda text: text[:2] + " " + text[2:],
        lambda text: "é" + text[1:],
        lambda text: "0x" + text[2:],
    ],
)
def test_numbers_are_lower_case_hexadecimal_of_the_right_length(field: str, change: Callable[[str], str]) -> None:
    good = json.loads(hello()) | {"nonce": "ab" * 32}
    wrong = json.dumps(good | {field: change(good[field])}).encode()
    assert reason_of(listening(), wrong) is EndReason.INVALID_MESSAGE


@pytest.mark.parametrize("change", [str.upper, lambda text: text[:-2], lambda _: "zz" * 64, lambda _: ""])
def test_a_signature_of_another_form_is_none(change: Callable[[str], str]) -> None:
    dialer, listener = dialing(), listening()
    listener.receive(dialer.start())
    _, (proof,) = dialer.receive(listener.start())
    signature = change(json.loads(proof)["signature"])
    wrong = json.dumps({"type": "proof", "signature": signature}).encode()
    assert reason_of(listener, wrong) in (EndReason.INVALID_MESSAGE, EndReason.INVALID_PROOF)


def test_an_id_that_is_no_key_proves_nothing() -> None:
    listener = listening()
    listener.receive(hello(id="ff" * 32))
    assert reason_of(listener, wire.encode(wire.Proof("00" * 64))) is EndReason.INVALID_PROOF


def test_rubbish_ends_a_link_at_any_time() -> None:
    assert reason_of(listening(), b"x") is EndReason.INVALID_MESSAGE
    assert reason_of(linked()[0], b"") is EndReason.INVALID_MESSAGE


@pytest.mark.parametrize(
    "frame", [b'{"failure reason":"invalid action"}', b"[]", b"welcome", b"\xff", b'{"type":7}', b""]
)
def test_what_a_tracker_without_federation_says_breaks_no_rule(frame: bytes) -> None:
    """Some servers choose any subprotocol. Only the first message of the listener can tell."""
    assert reason_of(dialing(expected=tracker_id(2)), frame) is EndReason.REFUSED
    assert EndReason.REFUSED not in BROKEN_RULES
    assert reason_of(dialing(), listening().start(), frame) is EndReason.INVALID_MESSAGE
    assert reason_of(listening(), frame) is EndReason.INVALID_MESSAGE, "a dialer knows what it dials"


@pytest.mark.parametrize("frame", [b'{"type":"hello"}', b'{"type":"dance"}', b'{"type":"bye","reason":7}'])
def test_a_message_with_a_type_is_one_of_a_tracker_with_federation(frame: bytes) -> None:
    assert reason_of(dialing(), frame) is EndReason.INVALID_MESSAGE


@given(st.lists(st.one_of(st.binary(max_size=50), st.sampled_from(shake_hands(dialing(), listening()))), max_size=6))
def test_only_a_true_handshake_opens(frames: list[bytes]) -> None:
    session = listening(nonce=99)
    try:
        for frame in frames:
            session.receive(frame)
    except LinkError:
        pass
    assert session.state is not State.OPEN
    assert session.tracker_id == ""


def test_bye_ends_a_link_with_the_others_reason() -> None:
    for session in (listening(), linked()[0]):
        with pytest.raises(LinkError, match="shutdown") as caught:
            session.receive(listening().bye(EndReason.SHUTDOWN))
        assert caught.value.reason is EndReason.CLOSED_THERE


@pytest.mark.parametrize("reason", list(EndReason))
def test_every_reason_fits_a_bye(reason: EndReason) -> None:
    assert wire.decode(listening().bye(reason)) == [wire.Bye(reason.value)]
