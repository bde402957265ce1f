"""The signs that a record cannot be trusted: unusable slots, and slots without entries that must be there (sans I/O).

`docs/dht.md` specifies them (rules B1 and R4). A tracker that sees them also uses other slots and the BEP 5 fallback.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from extensions.dht.records.keys import SALTS, day_of
from extensions.dht.records.slots import Slot
from extensions.entries import LIFETIME, check_entry
from extensions.trackers import Sighting

SETTLED: Final = 60.0
"""Seconds after which our own entry must be where it was written."""

SPREAD: Final = 120.0
"""Seconds after which an entry that another tracker has signed must be in the record."""

MAX_AGE: Final = 70 * 60.0
"""Seconds since the signing of another tracker's entry until which it must be in the record: it is renewed by then."""

MAX_OWN_AGE: Final = 80 * 60.0
"""The same for our own entry. Its renewal may have to wait for its turn."""


class Trouble(StrEnum):
    """A reason not to rely on a record."""

    LOCKED = "locked"  # the sequence number of a slot leaves no room for writes
    SPOILT = "spoilt"  # a slot has invalid contents only
    EMPTIED = "emptied"  # nodes have answered, and none has an entry that must be there
    BLINDED = "blinded"  # the nodes nearest to an empty slot are so close that they must have chosen their ids
    CONTESTED = "contested"  # all writes to a slot met newer values


@dataclass(frozen=True, slots=True)
class Expected:
    """The entries that must be in a record at this moment.

    `own_id` is our tracker id, and `own` are the salts of the slots in which our entry must be. `has_others` tells
    whether the record must have an entry of another tracker; it is called only if the first slot has none.
    """

    own_id: str = ""
    own: frozenset[bytes] = frozenset()
    has_others: Callable[[], bool] = lambda: False

    def troubles(self, slot: Slot) -> set[Trouble]:
        """Return the reasons for which a slot that was just read is doubtful. Without any answer, there are none."""
        found: set[Trouble] = set()
        if not slot.answers:
            return found
        if slot.is_blinded:
            found.add(Trouble.BLINDED)
        if slot.is_locked:
            # Since it was locked, no entry can be here. It leads to the next slot anyway.
            return found
        is_own_missing = slot.salt in self.own and slot.entry_of(self.own_id) is None
        # From a slot with more entries than fit a value, a writer may have removed ours by rights.
        if (is_own_missing and not slot.is_crowded) or (
            slot.salt == SALTS[0] and not slot.entries and self.has_others()
        ):
            found.add(Trouble.EMPTIED)
        return found


NOTHING: Final = Expected()


def has_expected(seen: Iterable[Sighting], info_hash: bytes, day: int, now: float, max_age: float = MAX_AGE) -> bool:
    """Return whether a day's record of an infohash must have an entry of one of the trackers seen.

    Older entries than `max_age` (seconds) do not count, because a newer one may be elsewhere in the record.
    Descriptors do not count, because they are signed for the rendezvous. Neither do entries that were found in shards:
    the slots of such a record may be empty.
    """
    for sighting in seen:
        entry, signed = sighting.entry, sighting.entry.expires - LIFETIME
        if (
            SPREAD <= now - signed <= max_age
            and day_of(signed) == day
            and not sighting.where.startswith("s")
            and check_entry(entry, info_hash, now) is None
        ):
            return True
    return False
