"""Why a link was not made, or has ended, and what was dropped on one: metrics, logs and tests use these words."""

from enum import StrEnum


class Fault(StrEnum):
    """Why a link ended, or never began."""

    # Rules that were broken; whoever does is shunned for a while.
    INVALID_MESSAGE = "invalid_message"
    OUT_OF_TURN = "out_of_turn"
    WRONG_VERSION = "wrong_version"
    WRONG_URL = "wrong_url"
    WRONG_ID = "wrong_id"
    INVALID_PROOF = "invalid_proof"
    FLOOD = "flood"

    # Nobody's fault, or ours.
    ITSELF = "itself"
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
        Fault.INVALID_MESSAGE,
        Fault.OUT_OF_TURN,
        Fault.WRONG_VERSION,
        Fault.WRONG_URL,
        Fault.WRONG_ID,
        Fault.INVALID_PROOF,
        Fault.FLOOD,
    }
)


WORTH_A_RETRY = frozenset({Fault.UNREACHABLE, Fault.HANDSHAKE_TIMEOUT, Fault.LOST, Fault.STUCK})
"""After which a tracker that is still wanted is dialed again."""


class Dropped(StrEnum):
    """Why something that came over a link, or should have gone over one, was left out."""

    UNKNOWN_SWARM = "unknown_swarm"
    TOO_FAST = "too_fast"
    TOO_LONG = "too_long"
    TOO_MANY_SWARMS = "too_many_swarms"
    NOT_ASKED_FOR = "not_asked_for"
    SLOW_LINK = "slow_link"
    LINK_GONE = "link_gone"
