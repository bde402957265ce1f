"""The events of a link: the messages of the other side, with infohashes in place of names (sans I/O).

Infohashes, peer_ids and offer_ids are ids as `tracker.protocol.ids` describes them. All swarms are open at this
tracker.
"""

from dataclasses import dataclass

from extensions.trackers import TrackerEntry
from tracker.extension import Answer, Offer


@dataclass(frozen=True, slots=True)
class Opened:
    """The other side has proved its tracker id."""

    tracker_id: str


@dataclass(frozen=True, slots=True)
class MayHave:
    """The other side may have these swarms, which are open here. `has_opened`: they have just opened there."""

    info_hashes: list[str]
    has_opened: bool = False


@dataclass(frozen=True, slots=True)
class Interest:
    """The number of peers that the other side now has in a swarm. If both are 0, it wants no offers any more.

    `marks` are those of the seeders and of the leechers, or None if the other side has told only numbers. `is_new`: it
    had told none before. `reply`: it has the numbers of this side.
    """

    info_hash: str
    complete: int
    incomplete: int
    marks: tuple[list[str], list[str]] | None = None
    is_new: bool = False
    reply: bool = False


@dataclass(frozen=True, slots=True)
class Offered:
    """A peer of the other side makes offers to peers of this side."""

    info_hash: str
    peer_id: str
    offers: list[Offer]


@dataclass(frozen=True, slots=True)
class Refused:
    """The other side has given offers of a local peer to no peer."""

    info_hash: str
    peer_id: str
    offer_ids: list[str]
    known: bool = False


@dataclass(frozen=True, slots=True)
class Sought:
    """The other side asks for trackers of a swarm that is open here; of any, if `info_hash` is empty."""

    info_hash: str


@dataclass(frozen=True, slots=True)
class Told:
    """The other side names trackers of a swarm that is open here. If `info_hash` is empty, these are descriptors.

    The signatures have not been checked.
    """

    info_hash: str
    entries: list[TrackerEntry]


Event = Opened | MayHave | Interest | Offered | Refused | Answer | Sought | Told
