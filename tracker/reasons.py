"""Why the tracker dropped, closed or rejected something.

One vocabulary for the `reason` label of the metrics, for the logs and for the tests.
"""

from enum import StrEnum


class DropReason(StrEnum):
    """Why a message, a part of one, or a peer was dropped."""

    # Requests over a limit of an address. Announces are served without their offers, and scrapes in full.
    TOO_MANY_ANNOUNCES = "too_many_announces"
    TOO_MANY_BYTES = "too_many_bytes"

    # Messages answered with a failure.
    INVALID_JSON = "invalid_json"
    UNKNOWN_ACTION = "unknown_action"
    INVALID_INFO_HASH = "invalid_info_hash"
    INVALID_PEER_ID = "invalid_peer_id"
    INVALID_ANSWER = "invalid_answer"
    FULL_SCRAPE = "full_scrape"
    TOO_MANY_SWARMS = "too_many_swarms"
    PEER_ID_IN_USE = "peer_id_in_use"
    INFO_HASH_DENIED = "infohash_denied"
    ADMISSION_DENIED = "admission_denied"
    ADMISSION_FAILED = "admission_failed"
    ADMISSION_TIMEOUT = "admission_timeout"
    ADMISSION_QUEUE_FULL = "admission_queue_full"

    # Parts of a message, and messages to others.
    INVALID_OFFER = "invalid_offer"
    SURPLUS_OFFER = "surplus_offer"
    TOO_MANY_OFFERS = "too_many_offers"
    UNPLACED_OFFER = "unplaced_offer"
    FEW_PEERS = "few_peers"
    INVALID_SCRAPE = "invalid_scrape"
    SURPLUS_SCRAPE = "surplus_scrape"
    NOT_OWNER = "not_owner"
    UNKNOWN_RECEIVER = "unknown_receiver"
    SLOW_RECEIVER = "slow_receiver"
    EXTENSION_QUEUE_FULL = "extension_queue_full"

    # Peers that left without `stopped`, and connections that gave their peer to another one because they are silent.
    SILENT_PEER = "silent_peer"
    ADMISSION_ENDED = "admission_ended"
    TAKEN_OVER = "taken_over"


class RejectReason(StrEnum):
    """Why a connection was rejected with an HTTP status."""

    TOO_MANY_CONNECTIONS = "too_many_connections"
    ADDRESS_CONNECTIONS = "address_connections"
    CONNECTION_RATE = "connection_rate"
    PAGE_RATE = "page_rate"
    CLIENT_ADDRESS = "client_address"
    ORIGIN_DENIED = "origin_denied"
    SHUTDOWN = "shutdown"


class CloseReason(StrEnum):
    """Why a connection ended."""

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
    RESTART = "restart"
    CLOSED_BY_EXTENSION = "closed_by_extension"
    INTERNAL_ERROR = "internal_error"
