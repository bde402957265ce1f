"""The numbers of another node's messages: whether one is missing, or comes late or twice (sans I/O).

All times are seconds on any monotonic clock.
"""

from typing import Final

from extensions.cluster.directory import Holder

ASK_AGAIN: Final = 1.0
MAX_ASK_AGAIN: Final = 30.0
"""Seconds until a node that has missed something asks again; the delay doubles if that happens often."""

CALM: Final = 60.0
"""Seconds without a missing message after which this delay is short again."""

MAX_OLD: Final = 16
"""Epochs whose statements count until one is told completely."""

FRESH: Final = 0
AGAIN: Final = 1
LATE: Final = 2
GAP: Final = 3
"""The results of `Session.accept`: the next message; the first of a new epoch; an old one; one after a missing one."""


class Numbers:
    """The numbers of the messages of another node. `Session` derives from it."""

    def __init__(self, node_id: str) -> None:
        self.node_id: Final = node_id
        self.heard_epoch = 0
        self.heard_seq = 0
        self.holder = Holder(node_id)
        """The other node as a holder of swarms, by its statements in this epoch."""
        self.old_holders: list[Holder] = []
        """The same by its statements in epochs before, until all is told again."""
        self.has_missed = False
        """Whether a message of this epoch is missing, so that a new one must begin."""
        self._ask_at = 0.0
        self._ask_after = ASK_AGAIN
        self._calm_from = 0.0

    def accept(self, epoch: int, seq: int, now: float) -> int:
        """Return the meaning of the number of a message: FRESH, AGAIN, LATE or GAP. A LATE one must not be applied."""
        if epoch == self.heard_epoch:
            if seq == self.heard_seq + 1:
                self.heard_seq = seq
                return FRESH
            if seq <= self.heard_seq:
                return LATE
            self.heard_seq = seq
            self.miss(now)
            return GAP
        if epoch < self.heard_epoch:
            return LATE
        self._hear_anew(epoch, seq)
        if seq == 1:
            self.has_missed = False
            return AGAIN
        self.miss(now)
        return GAP

    def accept_tick(self, epoch: int, seq: int, now: float) -> bool:
        """Compare the numbers in a `Tick` with the last message. Return False if a message is missing."""
        if epoch > self.heard_epoch:
            self._hear_anew(epoch, seq)
        elif epoch < self.heard_epoch or seq <= self.heard_seq:
            return True
        self.heard_seq = seq
        self.miss(now)
        return False

    def miss(self, now: float) -> None:
        """Note that a message of this epoch is missing, and ask for a new epoch."""
        if not self.has_missed:
            self.has_missed = True
            if now >= self._calm_from:
                self._ask_after = ASK_AGAIN
                self._ask_at = now
            else:
                self._ask_at = now + self._ask_after
        self._calm_from = now + CALM

    def must_ask(self, now: float) -> bool:
        """Return whether to ask for a new epoch now."""
        if not self.has_missed or now < self._ask_at:
            return False
        self._ask_at = now + self._ask_after
        self._ask_after = min(2 * self._ask_after, MAX_ASK_AGAIN)
        return True

    def _hear_anew(self, epoch: int, seq: int) -> None:
        self.heard_epoch, self.heard_seq = epoch, seq
        self.old_holders.append(self.holder)
        if len(self.old_holders) > MAX_OLD:
            # The first one may be complete, the others are not.
            self.old_holders.pop(1).is_alive = False
        self.holder = Holder(self.node_id)
