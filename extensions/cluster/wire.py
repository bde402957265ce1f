"""The messages between nodes (sans I/O).

An envelope (`extensions.cluster.envelope`) contains a MessagePack array of messages. Each message is an array that
begins with its type.

msgspec's structs cannot be compiled with mypyc, so this module is not compiled.
"""

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct

from extensions.cluster.envelope import HEADER_LENGTH
from extensions.cluster.errors import RefusedError
from extensions.cluster.reasons import Refused

MAX_KEYS: Final = 200
"""Most infohashes in one message."""

MAX_ROSTER: Final = 64
"""Most peers in one roster."""

MAX_JOINED: Final = 200
"""Most ids of new peers in a roster that are not told one by one."""

MAX_RECEIVERS: Final = 100
"""Most peers that get an offer by one message."""

MAX_SWARM: Final = 1 << 40
"""The largest number of peers that is believed."""

Id = Annotated[str, Meta(min_length=1, max_length=64)]
"""An info_hash or a peer_id. MessagePack's decoder accepts only valid UTF-8."""

NodeId = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Number = Annotated[int, Meta(ge=0, le=MAX_SWARM)]
Serial = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Size = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]
Text = Annotated[str, Meta(max_length=256)]

OPENED: Final = 3
CLOSED: Final = 4
MOVED: Final = 5
SHARES: Final = 6
ROSTER: Final = 7
OFFERS: Final = 11
RETURNED: Final = 12
ANSWER: Final = 13
OFFERS_TO_EACH: Final = 15
CHUNK: Final = 14
"""The types of frequent messages, which are written as tuples, without a struct."""


class Begin(Struct, array_like=True, tag=1, gc=False):
    """An epoch begins: earlier statements of the sender are void as soon as `Done` follows.

    `seen` is the receiver's epoch that the sender knows; 0 if it knows nothing of the receiver. `again`: there was an
    epoch before, of which statements may be lost, also those that only reply to the receiver's.
    """

    seen: Serial
    again: bool


class Done(Struct, array_like=True, tag=2, gc=False):
    """The sender has told everything that it has to tell in this epoch so far."""


class Opened(Struct, array_like=True, tag=OPENED, gc=False):
    """The sender has peers in these swarms; the receiver owns their infohashes."""

    keys: Annotated[list[Id], Meta(max_length=MAX_KEYS)]


class Closed(Struct, array_like=True, tag=CLOSED, gc=False):
    """The sender has no more peers in these swarms."""

    keys: Annotated[list[Id], Meta(max_length=MAX_KEYS)]


class Moved(Struct, array_like=True, tag=MOVED, gc=False):
    """The receiver no longer owns these infohashes."""

    keys: Annotated[list[Id], Meta(max_length=MAX_KEYS)]


class Shares(Struct, array_like=True, tag=SHARES, gc=False):
    """These nodes have peers in a swarm, too. `newcomer`: the receiver has opened it later than they."""

    key: Id
    nodes: Annotated[list[NodeId], Meta(max_length=1024)]
    newcomer: bool


class Roster(Struct, array_like=True, tag=ROSTER, gc=False):
    """The sender's peers in a swarm, completely: one by one those of a role with few, by number the others.

    `share` is OLDER or NEWCOMER in the first message about a swarm, which asks for the receiver's peers, and one of
    these with HEARD if the sender has been told of them already. It is PLAIN in all other messages. `peers` are those
    that are told one by one, with their flags COMPLETE and NEEDS_OFFERS; `seeders` and `leechers` are the numbers of
    the others. `joined` are the ids of those among the latter that have joined since the last message. As many of them
    as `needy_seeders` and `needy_leechers` need offers.
    """

    key: Id
    share: Annotated[int, Meta(ge=0, le=7)]
    peers: Annotated[list[tuple[Id, int]], Meta(max_length=MAX_ROSTER)]
    seeders: Number = 0
    leechers: Number = 0
    joined: Annotated[list[Id], Meta(max_length=MAX_JOINED)] = []
    needy_seeders: Number = 0
    needy_leechers: Number = 0


class Linked(Struct, array_like=True, tag=9, gc=False):
    """The numbers of peers in a swarm at other trackers, which are reached through the sender, the gateway."""

    key: Id
    complete: Number
    incomplete: Number


class Newcomers(Struct, array_like=True, tag=10, gc=False):
    """Some peers at other trackers have come, for which parked offers may be placed."""

    key: Id
    count: Number


class Offers(Struct, array_like=True, tag=OFFERS, gc=False):
    """Offers of a peer for peers of the receiver: `kind`, and `receiver` of the kind PEER, say for which.

    `texts` has the raw strings of each, offer_id and SDP, one after the other, and `sizes` their lengths.
    """

    key: Id
    peer_id: Id
    kind: Annotated[int, Meta(ge=0, le=3)]
    receiver: Annotated[str, Meta(max_length=64)]
    flags: Annotated[int, Meta(ge=0, le=255)]
    sizes: list[Size]
    texts: bytes


class OffersToEach(Struct, array_like=True, tag=OFFERS_TO_EACH, gc=False):
    """Offers of a peer, in order, for some peers of the receiver. `sizes` and `texts` are as in `Offers`."""

    key: Id
    peer_id: Id
    receivers: Annotated[list[Id], Meta(max_length=MAX_RECEIVERS)]
    flags: Annotated[int, Meta(ge=0, le=255)]
    sizes: list[Size]
    texts: bytes


class Returned(Struct, array_like=True, tag=RETURNED, gc=False):
    """Offers that found no receiver, back to the node that they came from, with `kind` and `receiver` as they came.

    They were made `age` seconds ago, as far as the sender knows.
    """

    key: Id
    peer_id: Id
    kind: Annotated[int, Meta(ge=0, le=3)]
    receiver: Annotated[str, Meta(max_length=64)]
    flags: Annotated[int, Meta(ge=0, le=255)]
    sizes: list[Size]
    texts: bytes
    age: Annotated[float, Meta(ge=0, le=3600)]


class Answered(Struct, array_like=True, tag=ANSWER, gc=False):
    """An answer to an offer that came from the receiver. `complete`: its peer is a seeder.

    `texts` has the raw strings offer_id and SDP; the first one has `size` bytes.
    """

    key: Id
    peer_id: Id
    to_peer_id: Id
    complete: bool
    size: Size
    texts: bytes


class Chunk(Struct, array_like=True, tag=CHUNK, gc=False):
    """A part of a byte stream. `end` is END with the last part, which may be empty."""

    stream: Serial
    number: Serial
    end: bool
    data: memoryview


class Heartbeat(Struct, array_like=True, tag=20, gc=False):
    """The sender lives. `flags` are CAPABLE and GATEWAY. `age` is the number of seconds since its start.

    `started` is the time of its start by its own clock, in Unix seconds. Nodes with the same `group` are workers of one
    supervisor, unless it is empty.
    """

    label: Text
    group: Text
    version: Text
    tracker_id: Text
    started: Number
    age: Number
    connections: Number
    swarms: Number
    seeders: Number
    leechers: Number
    flags: Annotated[int, Meta(ge=0, le=255)]


class Bye(Struct, array_like=True, tag=21, gc=False):
    """The sender stops."""


class AskAgain(Struct, array_like=True, tag=22, gc=False):
    """The sender has missed a message of this epoch: the receiver should begin a new one."""

    epoch: Serial


class Tick(Struct, array_like=True, tag=23, gc=False):
    """The envelope has the number of the last message in the sender's sequence."""


class Ping(Struct, array_like=True, tag=24, gc=False):
    """Asks for a `Pong` with the same number."""

    number: Serial


class Pong(Struct, array_like=True, tag=25, gc=False):
    """The reply to a ping."""

    number: Serial


class Ask(Struct, array_like=True, tag=26, gc=False):
    """A question: asks for `Told` with the same number."""

    number: Serial
    kind: Text
    data: bytes


class Told(Struct, array_like=True, tag=27, gc=False):
    """The answer to a question, or a part of it, which begins at `offset`."""

    number: Serial
    offset: Serial
    last: bool
    data: memoryview


Message = (
    Begin
    | Done
    | Opened
    | Closed
    | Moved
    | Shares
    | Roster
    | Linked
    | Newcomers
    | Offers
    | OffersToEach
    | Returned
    | Answered
    | Chunk
    | Heartbeat
    | Bye
    | AskAgain
    | Tick
    | Ping
    | Pong
    | Ask
    | Told
)

PLAIN: Final = 0
OLDER: Final = 1
NEWCOMER: Final = 2
HEARD: Final = 4
"""The values of `share`: the sender has opened the swarm earlier than the receiver; later; it knows the receiver's."""

COMPLETE: Final = 1
NEEDS_OFFERS: Final = 2
"""The flags of a peer in a roster."""

CAPABLE: Final = 1
GATEWAY: Final = 2
"""The flags of a heartbeat: the node can be the gateway; it is the gateway, and wants to hear of all swarms."""

encode = msgspec.msgpack.Encoder().encode
"""Encodes one message: a struct, or a tuple of its type and fields."""

_decode_message = msgspec.msgpack.Decoder(Message).decode
_decode_messages = msgspec.msgpack.Decoder(list[Message]).decode
_BAD: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError)


def messages_in(payload: bytes) -> list[Any]:
    """Return the messages of an envelope.

    Raises:
        RefusedError: if there is anything else in it.
    """
    try:
        return _decode_messages(memoryview(payload)[HEADER_LENGTH:])
    except _BAD:
        raise RefusedError(Refused.GARBAGE) from None


def message_in(part: bytes) -> Any:
    """Return a message that this node has encoded."""
    return _decode_message(part)
