"""The ledger of a link: offers that may be refused, offers whose answers are awaited."""

import pytest

from extensions.federation import ledger as module
from extensions.federation.ledger import ANSWER_TIMEOUT, MAX_ANSWERS, REFUSAL_TIMEOUT, Ledger, OfferKey
from tests.client import HASH
from tests.unit.federation.links import A, B, some_offers

FIRST, SECOND = (some_offers(1, start=start)[0] for start in range(2))


def key(number: int, peer: str = A) -> OfferKey:
    """Return the key of an offer in the one swarm of these tests."""
    return HASH, peer, f"{number:020}"


def test_an_offer_is_taken_once_with_the_time_when_it_was_sent() -> None:
    ledger = Ledger()
    ledger.enter(key(0), FIRST, 10)
    assert ledger.take(key(0), 11) == (FIRST, 10)
    assert ledger.take(key(0), 11) is None
    assert ledger.take(key(0, B), 11) is None


def test_an_offer_can_be_refused_for_a_time_though_no_other_is_sent() -> None:
    ledger = Ledger()
    for number in range(2):
        ledger.enter(key(number), FIRST, 10)
    assert ledger.take(key(0), 10 + REFUSAL_TIMEOUT - 0.001) == (FIRST, 10)
    assert ledger.take(key(1), 10 + REFUSAL_TIMEOUT) is None


def test_an_offer_that_is_sent_again_can_be_refused_again() -> None:
    ledger = Ledger()
    ledger.enter(key(0), FIRST, 10)
    ledger.enter(key(0), SECOND, 10 + REFUSAL_TIMEOUT)
    assert ledger.take(key(0), 11 + REFUSAL_TIMEOUT) == (SECOND, 10 + REFUSAL_TIMEOUT)


def test_old_offers_are_forgotten_when_others_are_sent() -> None:
    ledger = Ledger()
    ledger.enter(key(0), FIRST, 10)
    ledger.enter(key(1), FIRST, 10 + REFUSAL_TIMEOUT)
    assert (ledger.refusable, ledger.awaited) == (1, 2)
    ledger.enter(key(2), FIRST, 10 + REFUSAL_TIMEOUT + ANSWER_TIMEOUT)
    assert (ledger.refusable, ledger.awaited) == (1, 1)


def test_offers_are_bounded_in_size_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_REFUSABLE", 10_000)
    monkeypatch.setattr(module, "MAX_AWAITED", 100)
    ledger = Ledger()
    for number, offer in enumerate(some_offers(200, "x" * 998)):
        ledger.enter(key(number), offer, 10)
    assert (ledger.refusable, ledger.awaited) == (10, 100)
    assert ledger.take(key(190), 10)
    assert not ledger.take(key(189), 10)
    for number, offer in enumerate(some_offers(200, "")):
        ledger.enter(key(number), offer, 10)
    assert ledger.refusable == 100


def test_an_offer_may_have_some_answers() -> None:
    ledger = Ledger()
    ledger.enter(key(0), FIRST, 10)
    assert all(ledger.count_answer(key(0), 11) for _ in range(MAX_ANSWERS))
    assert not ledger.count_answer(key(0), 11)
    assert not ledger.count_answer(key(1), 11), "it was not sent"
    assert not ledger.count_answer(key(0, B), 11), "it is another peer's"


def test_answers_are_accepted_for_a_time() -> None:
    ledger = Ledger()
    ledger.enter(key(0), FIRST, 10)
    assert ledger.count_answer(key(0), 10 + ANSWER_TIMEOUT - 0.001)
    assert not ledger.count_answer(key(0), 10 + ANSWER_TIMEOUT)
