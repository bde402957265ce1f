"""The offers that a tracker has sent to a neighbour (sans I/O; times are seconds on any monotonic clock)."""

from typing import Final

from tracker.extension import ExpiringMap, Offer

ANSWER_TIMEOUT: Final = 120.0
"""Seconds for which answers to an offer are accepted."""

MAX_AWAITED: Final = 50_000
"""Offers whose answers are accepted; the oldest are forgotten first."""

MAX_ANSWERS: Final = 20
"""Answers that are accepted to one offer. Honest receivers send one, or a few."""

REFUSAL_TIMEOUT: Final = 10.0
"""Seconds for which an offer can be refused, and its first answer gives credit."""

MAX_LATE: Final = 200
"""Offers that were not answered in time that are remembered until the next look at them."""

MAX_REFUSABLE: Final = 4 << 20
"""Bytes of SDPs of the offers that can be refused; the oldest are forgotten first."""

OfferKey = tuple[str, str, str]
"""An offer: the infohash and the peer_id and offer_id of its maker."""


class Ledger:
    """The offers sent to one neighbour that can still be refused, and those whose answers are awaited."""

    def __init__(self) -> None:
        self._refusable: ExpiringMap[OfferKey, tuple[Offer, float]] = ExpiringMap(
            REFUSAL_TIMEOUT, MAX_AWAITED, max_cost=MAX_REFUSABLE, cost=_size
        )
        self.late: list[tuple[OfferKey, Offer, float]] = []
        """The last offers that were neither answered nor refused in time, with the times when they were sent."""
        # The number of answers to each offer so far.
        self._awaited: ExpiringMap[OfferKey, int] = ExpiringMap(ANSWER_TIMEOUT, MAX_AWAITED)

    @property
    def refusable(self) -> int:
        """Offers that are kept because they may be refused."""
        return len(self._refusable)

    @property
    def awaited(self) -> int:
        """Offers that are remembered because they may be answered."""
        return len(self._awaited)

    def expire(self, now: float) -> None:
        """Forget the offers for which it is too late, also if no more are entered."""
        self._note_late(now)
        self._refusable.expire(now)
        self._awaited.expire(now)

    def enter(self, key: OfferKey, offer: Offer, now: float) -> None:
        """Record that an offer was sent."""
        self._note_late(now)
        self._refusable.put(key, (offer, now), now)
        self._awaited.put(key, 0, now)

    def take(self, key: OfferKey, now: float) -> tuple[Offer, float] | None:
        """Remove an offer that can still be refused, and return it with the time when it was sent.

        Return None if it was not sent in the last `REFUSAL_TIMEOUT` seconds, or was taken already.
        """
        sent = self._refusable.get(key, now)
        self._refusable.pop(key)
        return sent

    def take_last(self, most: int, now: float) -> list[tuple[OfferKey, Offer, float]]:
        """Remove the offers that can still be refused. Return the last of them, with the times when they were sent."""
        keys = list(self._refusable)[-most:]
        last = [(key, *sent) for key in keys if (sent := self._refusable.get(key, now))]
        self._refusable.clear()
        return last

    def count_answer(self, key: OfferKey, now: float) -> bool:
        """Count an answer to an offer, and return whether it is accepted.

        It is accepted if the offer was sent in the last `ANSWER_TIMEOUT` seconds and has had fewer than `MAX_ANSWERS`
        answers.
        """
        answers = self._awaited.get(key, now)
        if answers is None or answers >= MAX_ANSWERS:
            return False
        self._awaited.replace(key, answers + 1)
        return True

    def _note_late(self, now: float) -> None:
        while (key := next(iter(self._refusable), None)) and self._refusable.get(key, now) is None:
            if sent := self._refusable.pop(key):
                self.late.append((key, *sent))
        del self.late[:-MAX_LATE]


def _size(sent: tuple[Offer, float]) -> int:
    return memoryview(sent[0].description.sdp).nbytes
