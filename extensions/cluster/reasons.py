"""Why messages between nodes are refused, parts of them dropped, and nodes gone: used by metrics, logs and tests."""

from enum import StrEnum


class Refused(StrEnum):
    """Why a message of a node, or of another program, was refused as a whole."""

    GARBAGE = "garbage"
    OTHER_VERSION = "other_version"
    WRONG_NAME = "wrong_name"
    WRONG_KEY = "wrong_key"
    OTHER_NODE = "other_node"
    """It is for another node."""
    OTHER_TRACKER = "other_tracker"
    UNKNOWN_NODE = "unknown_node"
    """No heartbeat of its sender has arrived yet."""
    TOO_MANY_NODES = "too_many_nodes"
    FLOOD = "flood"
    DUPLICATE = "duplicate"
    """It has arrived before, or after a later one, or comes from this node."""


class Dropped(StrEnum):
    """Why a part of a message was dropped, on its way in or out."""

    INVALID = "invalid"
    """An offer, an answer or an id that no client may send."""
    UNKNOWN_SWARM = "unknown_swarm"
    NO_RECEIVER = "no_receiver"
    NO_ROUTE = "no_route"
    """Its node is gone."""
    SLOW_NODE = "slow_node"
    NOT_SENT = "not_sent"
    TOO_LONG = "too_long"
    TOO_MANY_STREAMS = "too_many_streams"
    LATE = "late"
    """An answer to a question that nothing waits for any more."""
    TOO_MANY_QUESTIONS = "too_many_questions"
    REPEATED = "repeated"
    """A question that has come before."""


class Resync(StrEnum):
    """Why a node tells another one all its state again."""

    GAP = "gap"
    """The other node has missed a message."""
    SLOW_NODE = "slow_node"
    """Too much waited for the other node."""
    NOT_SENT = "not_sent"
    """The transport could not take a message."""
    FORGOTTEN = "forgotten"
    """The other node had taken this one for gone."""


class Left(StrEnum):
    """Why a node is no longer a member."""

    STOPPED = "stopped"
    SILENT = "silent"
    LOST = "lost"
    """Its connection has ended."""
