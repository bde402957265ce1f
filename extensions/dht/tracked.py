"""An infohash that matters now, and when its record is to be looked at next (sans I/O)."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from extensions.dht.cache import Known
from extensions.dht.records.entry import LIFETIME
from extensions.trackers import RENDEZVOUS, Sighting

REFRESH: Final = (50 * 60.0, 70 * 60.0)
"""Seconds between two publications of an entry, drawn anew each time."""

FRESH: Final = 80 * 60
"""Seconds that an entry of ours must still have for it to be left as it is."""

LONELY: Final = (10.0, 60.0, 300.0, 600.0, 1200.0, 1800.0)
"""Seconds from a look to the next while a swarm's peers are alone; the last of them from then on."""

HOPEFUL: Final = 2
"""Looks for peers that are alone that are as urgent as the first."""

READ_BACK: Final = (30.0, 90.0)
"""Seconds from a publication to the check of it, when others write to that record too."""

ANNOUNCE: Final = (20 * 60.0, 30 * 60.0)
"""Seconds between two announcements on the second path: nodes forget them after three quarters of an hour."""

RETRY: Final = (60.0, 180.0)
"""Seconds until what failed is tried again; twice as many after each further failure."""

MAX_DOUBLINGS: Final = 5

ASKED, OPENED, REFRESHED, REPEATED = range(4)
"""How urgent a look is: somebody waits, a swarm has opened, an entry of ours ends, peers are still alone."""


@dataclass(slots=True)
class Topic:
    """An infohash that matters now: a swarm is open, or an extension wants it published, or looks it up."""

    info_hash: bytes
    known: Known
    looked: float
    """When it was last looked up, by a clock that cannot be set back."""
    peers: int = 0
    """Of its swarm here; 0 if none is open."""
    linked: bool = False
    """Whether its peers have been put in touch with others elsewhere."""
    pinned: bool = False
    """Whether to publish it, swarm or no swarm."""
    withdrawn: bool = False
    """Whether our entry is to be taken out of its record, and may still be in it."""
    looks: int = 0
    """Looks that left its peers alone."""
    failures: int = 0
    """Looks since the last one at which all went well."""
    again: bool = False
    """Whether something has happened that the look under way does not heed."""
    thorough: bool = False
    """Whether the second path is to be taken too."""
    visit: asyncio.Task[None] | None = None
    """The look under way."""
    listening: set[asyncio.Queue[Sighting | None]] = field(default_factory=set)

    @property
    def is_lonely(self) -> bool:
        """Whether the peers of its swarm know nobody, or at the rendezvous we do not."""
        if self.peers:
            return self.peers < 2 and not self.linked
        return self.info_hash == RENDEZVOUS and not self.known.seen

    @property
    def is_kept(self) -> bool:
        """Whether its record is looked at from time to time."""
        return bool(self.peers or self.pinned or self.withdrawn)

    @property
    def is_needed(self) -> bool:
        """Whether there is a reason to keep it."""
        return bool(self.is_kept or self.visit or self.listening)


def next_look(
    topic: Topic,
    is_wanted: bool,
    look_again: tuple[float, float] | None,
    own_left: float,
    now: float,
    uniform: Callable[[float, float], float],
) -> tuple[float, int]:
    """When to look at a topic next, and how urgent that is.

    `own_left` are the seconds that our entry still has, if there is one, and `is_wanted` says whether there should be.
    `look_again` is the time from now that the last look has asked for.
    """
    due, urgency = topic.looked + uniform(*REFRESH), REPEATED
    if is_wanted:
        urgency = REFRESHED
        # More than it may have means that the clock has been set back.
        if FRESH < own_left <= LIFETIME:
            due = now + own_left - LIFETIME + uniform(*REFRESH)
        else:
            look_again = look_again or RETRY
    elif topic.withdrawn:
        urgency = REFRESHED
        look_again = look_again or RETRY
    patience = 2.0 ** min(MAX_DOUBLINGS, max(0, topic.failures - 1))
    if look_again:
        due = min(due, now + uniform(*look_again) * patience)
    if topic.is_lonely:
        again = topic.looked + LONELY[min(max(0, topic.looks - 1), len(LONELY) - 1)] * uniform(0.8, 1.2) * patience
        if again < due:
            # What is due for two reasons is as urgent as the more urgent of them.
            due, urgency = again, min(urgency, OPENED if topic.looks <= HOPEFUL else REPEATED)
    return max(now, due), urgency
