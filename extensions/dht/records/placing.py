"""The choice of what to write to a slot (sans I/O). `docs/dht.md` specifies it.

No write removes a valid entry of another tracker, except in the window: the last slot of a record. Each tracker that
writes there has an entry in a shard as well, so that it loses nothing when the next one takes its place. Another
exception are removals from a slot of which nodes have different values, with too many entries for one value.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from extensions.dht.records.slots import Slot, fits
from extensions.entries import LIFETIME, merge
from extensions.trackers import TrackerEntry

REST: Final = 3
"""Seconds for which an entry in the window is not replaced, so that any number of writers write it once in that time.
"""


def with_own(slots: Sequence[Slot], index: int, own: TrackerEntry) -> list[TrackerEntry]:
    """Return the entries to write to a slot that has room for `own`.

    They are followed by the entries of later slots, as far as they fit, because readers stop at a slot with room.
    """
    return carry_over(slots, index, [*slots[index].beside(own), own])


def fitting(
    entries: Iterable[TrackerEntry], depth: int | None = None, own: TrackerEntry | None = None
) -> list[TrackerEntry]:
    """Return as many of the entries, from the first on, as a slot can hold; with `own`, if given, after them.

    If nodes have different values, the entries of all of them together may be too many: thousands, if attackers run
    many nodes. Therefore, the choice begins with the first one.
    """
    kept, last = list[TrackerEntry](), [own] if own else []
    for entry in entries:
        if not fits([*kept, entry, *last], depth):
            break
        kept.append(entry)
    return [*kept, *last]


def carry_over(slots: Sequence[Slot], index: int, entries: list[TrackerEntry]) -> list[TrackerEntry]:
    """Return `entries`, to be written to a slot, and with them the entries of later slots as far as they fit."""
    kept = list(entries)
    for entry in merge(entry for later in slots[index + 1 :] if not later.is_locked for entry in later.entries):
        if entry.tracker_id not in {one.tracker_id for one in kept} and fits([*kept, entry]):
            kept.append(entry)
    return kept


def with_own_in_window(slot: Slot, own: TrackerEntry, depth: int, now: float) -> list[TrackerEntry] | None:
    """Return the entries to write to the window with `own` and the depth of shards, or None if it rests.

    If there is no room, the entries that end first make room. It rests if another tracker has signed its entry in the
    last `REST` seconds. An entry that was signed in the future does not count: its tracker's clock is ahead.
    """
    others = slot.beside(own)
    if slot.is_locked:
        return None
    if not fits([*others, own], depth) and any(abs(now - (entry.expires - LIFETIME)) < REST for entry in others):
        return None
    return fitting(others, depth, own)
