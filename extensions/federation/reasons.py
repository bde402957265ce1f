"""Why a link was not made or has ended, and why something was dropped: used by metrics, logs and tests."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NO_FEDERATION: Final = "a tracker without federation"
"""What the other side is if the reason is `REFUSED`."""


class EndReason(StrEnum):
    """Why a link ended, or was not made."""

    # The other tracker has broken a rule. It is shunned for a while.
    INVALID_MESSAGE = "invalid_message"
    OUT_OF_TURN = "out_of_turn"
    WRONG_VERSION = "wrong_version"
    WRONG_URL = "wrong_url"
    INVALID_PROOF = "invalid_proof"
    FLOOD = "flood"

    # No rule was broken, at least not by the other tracker.
    WRONG_ID = "wrong_id"
    ITSELF = "itself"
    SAME_KEY = "same_key"
    NOT_ALLOWED = "not_allowed"
    DUPLICATE = "duplicate"
    TOO_MANY_LINKS = "too_many_links"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"
    FORBIDDEN_ADDRESS = "forbidden_address"
    LOST = "lost"
    CLOSED_THERE = "closed_there"
    REPLACED = "replaced"
    STUCK = "stuck"
    IDLE = "idle"
    SHUTDOWN = "shutdown"
    INTERNAL_ERROR = "internal_error"


BROKEN_RULES = frozenset(
    {
        EndReason.INVALID_MESSAGE,
        EndReason.OUT_OF_TURN,
        EndReason.WRONG_VERSION,
        EndReason.WRONG_URL,
        EndReason.INVALID_PROOF,
        EndReason.FLOOD,
    }
)
"""The reasons for which a tracker is shunned."""

WORTH_A_RETRY = frozenset({EndReason.UNREACHABLE, EndReason.HANDSHAKE_TIMEOUT, EndReason.LOST, EndReason.STUCK})
"""The reasons after which a tracker is dialed again, if the link is still wanted."""


OTHER: Final = "other"
"""Stands for a reason in `bye` that this implementation does not know."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of a link, or of an attempt to make one."""

    reason: EndReason
    text: str = ""
    """For people. If the other side has sent `bye`, its reason."""
    lasted: float | None = None
    """Seconds that the link lasted; None if it was never open."""

    @property
    def given(self) -> str:
        """The reason that the other side has given in `bye`; empty if it sent none."""
        if self.reason is not EndReason.CLOSED_THERE:
            return ""
        return self.text if self.text in _REASONS else OTHER


_REASONS: Final = frozenset(reason.value for reason in EndReason)


class Gossip(StrEnum):
    """What became of messages about other trackers."""

    SEEK_IN = "seek_in"
    SEEK_OUT = "seek_out"
    TRACKERS_IN = "trackers_in"
    TRACKERS_OUT = "trackers_out"
    LEARNED = "learned"
    TOO_FAST = "too_fast"
    NOT_ASKED_FOR = "not_asked_for"
    NO_CREDIT = "no_credit"


class Dropped(StrEnum):
    """Why a part of a message that came over a link, or was meant for one, was dropped."""

    UNKNOWN_SWARM = "unknown_swarm"
    TOO_FAST = "too_fast"
    TOO_LONG = "too_long"
    TOO_MANY_SWARMS = "too_many_swarms"
    NOT_ASKED_FOR = "not_asked_for"
    SLOW_LINK = "slow_link"
    LINK_GONE = "link_gone"
