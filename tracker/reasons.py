"""Every reason for which something is dropped, refused or closed.

One vocabulary for the `reason` label of the metrics, for the logs and for the tests.
"""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why a frame, a part of one, or a connection was not served."""

    # Frames answered with a failure.
    INVALID_JSON = "invalid_json"
    UNKNOWN_ACTION = "unknown_action"
    INVALID_INFO_HASH = "invalid_info_hash"
    INVALID_PEER_ID = "invalid_peer_id"
    INVALID_ANSWER = "invalid_answer"
    FULL_SCRAPE = "full_scrape"
    TOO_MANY_SWARMS = "too_many_swarms"
    TOO_MANY_ANNOUNCES = "too_many_announces"
    TOO_MANY_OFFERS = "too_many_offers"
    INFO_HASH_DENIED = "infohash_denied"
    ADMISSION_DENIED = "admission_denied"
    ADMISSION_FAILED = "admission_failed"
    ADMISSION_TIMEOUT = "admission_timeout"
    ADMISSION_QUEUE_FULL = "admission_queue_full"

    # Connections refused with an HTTP status.
    TOO_MANY_CONNECTIONS = "too_many_connections"
    ADDRESS_CONNECTIONS = "address_connections"
    ORIGIN_DENIED = "origin_denied"

    # Parts of a frame, or messages to others, that were left out.
    INVALID_OFFER = "invalid_offer"
    SURPLUS_OFFER = "surplus_offer"
    UNPLACED_OFFER = "unplaced_offer"
    INVALID_SCRAPE = "invalid_scrape"
    SURPLUS_SCRAPE = "surplus_scrape"
    NOT_OWNER = "not_owner"
    UNKNOWN_RECEIVER = "unknown_receiver"
    SLOW_RECEIVER = "slow_receiver"
    EXTENSION_QUEUE_FULL = "extension_queue_full"

    # Peers that left without saying so.
    SILENT_PEER = "silent_peer"
    TAKEN_OVER = "taken_over"

    # Connections that ended.
    CLIENT_CLOSED = "client_closed"
    CONNECTION_LOST = "connection_lost"
    PING_TIMEOUT = "ping_timeout"
    STUCK_RECEIVER = "stuck_receiver"
    HANDSHAKE_TIMEOUT = "handshake_timeout"
    HANDSHAKE_INVALID = "handshake_invalid"
    TLS_FAILED = "tls_failed"
    PROTOCOL_ERROR = "protocol_error"
    INVALID_UTF8 = "invalid_utf8"
    GARBAGE = "garbage"
    TOO_BIG = "too_big"
    SHUTDOWN = "shutdown"
    CLOSED_BY_EXTENSION = "closed_by_extension"
    INTERNAL_ERROR = "internal_error"


REJECTED: Final = frozenset(
    {Reason.TOO_MANY_CONNECTIONS, Reason.ADDRESS_CONNECTIONS, Reason.ORIGIN_DENIED, Reason.SHUTDOWN}
)
"""For which a connection is refused with an HTTP status."""

CLOSED: Final = frozenset(
    {
        Reason.CLIENT_CLOSED,
        Reason.CONNECTION_LOST,
        Reason.PING_TIMEOUT,
        Reason.STUCK_RECEIVER,
        Reason.HANDSHAKE_TIMEOUT,
        Reason.HANDSHAKE_INVALID,
        Reason.TLS_FAILED,
        Reason.PROTOCOL_ERROR,
        Reason.INVALID_UTF8,
        Reason.GARBAGE,
        Reason.TOO_BIG,
        Reason.SHUTDOWN,
        Reason.CLOSED_BY_EXTENSION,
        Reason.INTERNAL_ERROR,
    }
)
"""For which a connection ends."""

DROPPED: Final = frozenset(Reason) - REJECTED - CLOSED
"""For which a message, a part of one, or a peer is dropped."""
