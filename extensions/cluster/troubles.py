"""Why a transport has refused or lost a connection, or could not carry a message: used by metrics, logs and tests."""

from enum import StrEnum


class Trouble(StrEnum):
    """Trouble of a transport between nodes."""

    OTHER_USER = "other_user"
    """The process at the other end of a Unix-domain socket belongs to another user."""
    NOT_A_NODE = "not_a_node"
    """The other end has not introduced itself as the node that was expected."""
    INVALID_LENGTH = "invalid_length"
    """The length of a message is zero, or above the limit."""
    REPLACED = "replaced"
    """The node has connected again before the end of its connection was seen."""
    UNREACHABLE = "unreachable"
    """A connection could not be made."""
    BUFFER_FULL = "buffer_full"
    """A broadcast was not sent to a node that reads too slowly."""
    TOO_LONG = "too_long"
    """A message that came over NATS is longer than a node's may be."""
    REFUSED = "refused"
    """A NATS server does not accept the credentials, or cannot be given any."""
    FORBIDDEN = "forbidden"
    """The user of a NATS server may not use the subjects of the cluster."""
    LOST = "lost"
    """A connection to a NATS server has ended."""
    STUCK = "stuck"
    """A NATS server has not answered a ping."""
