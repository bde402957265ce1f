"""Which neighbours are told of which swarms: filters, numbers, and the bounded number of neighbours of each swarm.

A neighbour learns from filters and tags which swarms may be open here. The numbers of a swarm go only to neighbours
that may have it. If such a neighbour tells its own numbers, the swarm is *common*. All times are seconds on a monotonic
clock.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import islice
from math import inf
from typing import Final

from extensions.federation import wire
from extensions.federation.filters import OwnSwarms, Part
from extensions.federation.neighbour import Neighbour
from extensions.federation.presence import State, counts_of, marks_in, state_of
from tracker.extension import Swarm

SMALL: Final = 16
"""If no more neighbours than this may have a swarm, all of them are told its numbers."""

FEW: Final = 6
ENOUGH: Final = 8
MANY: Final = 24
"""Otherwise so many neighbours (`ENOUGH`) are chosen. With less than `FEW` of these left, others are chosen as well.
Above `MANY` common neighbours, one that has not been chosen is given up for each new one. With such bounds, as those of
gossipsub, a random graph is connected; and neighbours that come by themselves cannot take all places."""

EXCHANGE: Final = 300.0
"""Seconds until a chosen neighbour is exchanged for another one, in swarms with more than `SMALL` neighbours."""

GATHER: Final = 1.0
"""Seconds from one message about newly opened swarms to the next."""

MAX_GATHERED: Final = 100
"""With more newly opened swarms than this in one part of the filter, neighbours wait for the next filter instead."""

RENEW: Final = 20.0
"""Seconds from one renewal of changed parts of the filter to the next."""

MAX_ENGAGED: Final = 100
"""Swarms of which a neighbour is told until other tasks of the event loop may run."""

MAX_LOOKED: Final = 2000
"""Filters that are looked at for such swarms, which takes some milliseconds."""

CallLater = Callable[[float, Callable[[], None]], object]
"""Calls a function after some seconds."""

Sample = Callable[[Sequence[Neighbour], int], list[Neighbour]]
"""Draws some of a sequence at random, each at most once: `random.sample`."""


class Audience:
    """The neighbours, and the parts of the state of `swarms` that each of them is told.

    `give_up` is called to end the exchange for a swarm with a neighbour. It must call `end_common`.
    """

    def __init__(
        self,
        swarms: OwnSwarms,
        give_up: Callable[[Neighbour, str], None],
        sample: Sample,
        monotonic: Callable[[], float],
        call_later: CallLater,
    ) -> None:
        self.neighbours: dict[Neighbour, None] = {}
        self.open: dict[str, Swarm] = {}
        """The swarms of which neighbours know, by infohash. The tracker itself may be a moment ahead."""
        self._swarms = swarms
        self._give_up = give_up
        self._sample = sample
        self._monotonic = monotonic
        self._call_later = call_later
        self._told: dict[str, dict[Neighbour, None]] = {}
        """The neighbours that were told the numbers of a swarm, by infohash."""
        self._common: dict[str, dict[Neighbour, None]] = {}
        """The neighbours for which a swarm is common, by infohash."""
        self._chosen: dict[str, dict[Neighbour, None]] = {}
        """The neighbours that this tracker has told first, by infohash."""
        self._thin: set[str] = set()
        """Infohashes of swarms that may have too few neighbours: they have lost one, or were told to some in vain."""
        self._asked: set[str] = set()
        """Infohashes of swarms for which others have been chosen since the last `tell_changes`, but not all."""
        self._exchanges: dict[str, float] = {}
        """When a chosen neighbour is exchanged for another one, by infohash."""
        self._dirty: dict[Swarm, None] = {}
        self._just_told: dict[Swarm, State] = {}
        """The state that neighbours were told when a swarm opened, until the next `tell_changes`."""
        self._opened: list[int] = []
        """Tags of swarms that have opened since neighbours were last told of such."""
        self._gathered = -inf
        """When they were last told."""
        self._is_gathering = False
        self._renewed = -inf
        """When parts of the filter were last sent anew."""

    def degree(self, info_hash: str) -> int:
        """Return the number of neighbours for which a swarm is common."""
        return len(self._common.get(info_hash, ()))

    def common(self, info_hash: str) -> list[Neighbour]:
        """Return the neighbours for which a swarm is common."""
        return list(self._common.get(info_hash, ()))

    def candidates(self, info_hash: str) -> int:
        """Return the number of neighbours that may have a swarm."""
        tag = self._swarms.tag_of(info_hash)
        return sum(neighbour.may_have(tag) for neighbour in self.neighbours)

    def add(self, neighbour: Neighbour) -> None:
        """Begin to tell a neighbour of swarms."""
        self.neighbours[neighbour] = None
        parts = self._swarms.parts
        neighbour.show(_encode(number, parts) for number in range(len(parts)))

    def remove(self, neighbour: Neighbour) -> None:
        """Forget a neighbour."""
        self.neighbours.pop(neighbour, None)
        for info_hash in list(neighbour.account.told) + list(neighbour.account.members):
            self.end_common(neighbour, info_hash)
        neighbour.account.may_have.clear()
        neighbour.account.owed.clear()

    # Swarms that open, change and close

    def swarm_opened(self, swarm: Swarm) -> None:
        """Tell neighbours that may have a swarm at once, and the others of its tag soon."""
        info_hash = swarm.info_hash
        self.open[info_hash] = swarm
        self._just_told[swarm] = state_of(swarm)
        tag = self._swarms.add(info_hash)
        if info_hash not in self._swarms:
            return
        self._engage(swarm, [neighbour for neighbour in self.neighbours if neighbour.may_have(tag)])
        self._opened.append(tag)
        if not self._is_gathering:
            wait = self._gathered + GATHER - self._monotonic()
            if wait <= 0:
                self._tell_opened()
            else:
                self._is_gathering = True
                self._call_later(wait, self._tell_opened)

    def swarm_changed(self, swarm: Swarm) -> None:
        """Have `tell_changes` tell the peers of a swarm, unless it has just opened with the same ones."""
        if swarm not in self._just_told or self._just_told[swarm] != state_of(swarm):
            self._just_told.pop(swarm, None)
            self._dirty[swarm] = None

    def swarm_closed(self, swarm: Swarm) -> None:
        """Tell at once the neighbours that were told of a swarm, which must be the one in `open`."""
        info_hash = swarm.info_hash
        self._dirty.pop(swarm, None)
        self._just_told.pop(swarm, None)
        del self.open[info_hash]
        for neighbour in self.neighbours:
            if info_hash in neighbour.account.told:
                neighbour.leave_swarm(info_hash)
            neighbour.forget_swarm(info_hash)
            self.end_common(neighbour, info_hash)
        self._thin.discard(info_hash)
        self._asked.discard(info_hash)
        self._swarms.remove(info_hash)

    async def tell_changes(self) -> None:
        """Tell neighbours of the changes since the last call, renew filters, and find neighbours for thin swarms."""
        dirty = list(self._dirty)
        self._dirty.clear()
        self._just_told.clear()
        news: dict[Neighbour, list[Swarm]] = {}
        for swarm in dirty:
            # Also those that have not told their own numbers yet: their reply does not ask for newer ones.
            for neighbour in self._told.get(swarm.info_hash, ()):
                news.setdefault(neighbour, []).append(swarm)
        for neighbour, swarms in news.items():
            # The state of this moment, because later neighbours may have been told a newer one meanwhile.
            told = neighbour.account.told
            self._tell(neighbour, [one for one in swarms if one.info_hash in told and self._is_open(one)], False)
            await asyncio.sleep(0)
        # Those that were chosen a moment ago get the time of a period to reply.
        thin, self._thin, self._asked = self._thin, self._asked, set()
        for info_hash in sorted(thin):
            self._widen(info_hash)
            await asyncio.sleep(0)
        await self._exchange_neighbours()
        await self._engage_more()
        await self._renew()

    # Neighbours that have the same swarms

    def on_may_have(self, neighbour: Neighbour, info_hashes: Sequence[str], has_opened: bool = False) -> None:
        """Note that a neighbour may have some of the open swarms. `engage` tells it of them.

        `has_opened`: they have just opened there.
        """
        for info_hash in info_hashes if has_opened else ():
            if info_hash in neighbour.account.told and neighbour not in self._common.get(info_hash, ()):
                # It has ignored these numbers, because the swarm was closed there.
                self.end_common(neighbour, info_hash)
        neighbour.account.may_have.update(dict.fromkeys(info_hashes))

    def engage(self, neighbour: Neighbour) -> None:
        """Tell a neighbour the numbers of swarms that it may have: of `MAX_ENGAGED`, so that others have a turn.

        If it is told too many, or is slow, the rest is told in later periods.
        """
        account = neighbour.account
        waiting = account.may_have
        chosen = []
        looked = 0
        now = self._monotonic()
        for info_hash in list(islice(waiting, MAX_ENGAGED)):
            if looked > MAX_LOOKED:
                break
            swarm = self.open.get(info_hash)
            if swarm is not None and info_hash not in account.told:
                told = len(self._told.get(info_hash, ()))
                if ENOUGH <= told < SMALL:
                    looked += len(self.neighbours)
                if told < ENOUGH or (told < SMALL and self.candidates(info_hash) <= SMALL):
                    if neighbour.is_slow or not account.engaging.try_take(1, now):
                        break
                    chosen.append(swarm)
                else:
                    self._asked.add(info_hash)
            del waiting[info_hash]
        if chosen:
            self._choose(neighbour, chosen)

    def reply(self, neighbour: Neighbour) -> None:
        """Tell a neighbour the numbers that it is owed: of `MAX_ENGAGED` swarms, so that others have a turn."""
        owed = neighbour.account.owed
        swarms = []
        for info_hash in list(islice(owed, MAX_ENGAGED)):
            del owed[info_hash]
            swarms.append(self.open[info_hash])
        if swarms:
            self._tell(neighbour, swarms, True)

    def begin_common(self, neighbour: Neighbour, info_hash: str, reply: bool) -> None:
        """Note that a neighbour has told its numbers of an open swarm. If necessary, it is owed those of this tracker.

        `reply`: it has these already. If the swarm has too many neighbours now, one is given up.
        """
        common = self._common.setdefault(info_hash, {})
        common[neighbour] = None
        if not (reply and info_hash in neighbour.account.told):
            self._note_told(neighbour, info_hash)
            neighbour.account.owed[info_hash] = None
        if len(common) > SMALL:
            self._exchanges.setdefault(info_hash, self._monotonic() + EXCHANGE)
        if len(common) > MANY:
            chosen = self._chosen.get(info_hash, {})
            others = [one for one in common if one is not neighbour and one not in chosen]
            self._give_up((self._sample(others, 1) if others else [neighbour])[0], info_hash)

    def end_common(self, neighbour: Neighbour, info_hash: str) -> None:
        """Note that a neighbour does not exchange offers of a swarm any more."""
        neighbour.account.told.discard(info_hash)
        neighbour.account.owed.pop(info_hash, None)
        for table in (self._told, self._common, self._chosen):
            if info_hash in table:
                table[info_hash].pop(neighbour, None)
                if not table[info_hash]:
                    del table[info_hash]
        if info_hash in self.open:
            self._thin.add(info_hash)

    def _is_open(self, swarm: Swarm) -> bool:
        return self.open.get(swarm.info_hash) is swarm

    def _widen(self, info_hash: str) -> None:
        """Choose others, if few of the chosen neighbours are left."""
        swarm = self.open.get(info_hash)
        if swarm and len(self._chosen_common(info_hash)) < FEW:
            self._engage(swarm, self._others(info_hash))

    async def _exchange_neighbours(self) -> None:
        """In popular swarms, choose another neighbour in place of one, so that groups of trackers do not stay apart."""
        now = self._monotonic()
        for info_hash in [one for one, due in self._exchanges.items() if due <= now]:
            self._exchanges.pop(info_hash, None)
            swarm = self.open.get(info_hash)
            if swarm is None or self.degree(info_hash) <= SMALL:
                continue
            self._exchanges[info_hash] = now + EXCHANGE
            chosen, others = self._chosen_common(info_hash), self._others(info_hash)
            if chosen and others:
                self._give_up(self._sample(chosen, 1)[0], info_hash)
                self._choose(self._sample(others, 1)[0], [swarm])
            await asyncio.sleep(0)

    def _chosen_common(self, info_hash: str) -> list[Neighbour]:
        common = self._common.get(info_hash, {})
        return [one for one in self._chosen.get(info_hash, ()) if one in common]

    def _others(self, info_hash: str) -> list[Neighbour]:
        """Return the neighbours that may have a swarm and were not told of it."""
        tag = self._swarms.tag_of(info_hash)
        return [one for one in self.neighbours if info_hash not in one.account.told and one.may_have(tag)]

    def _engage(self, swarm: Swarm, others: list[Neighbour]) -> None:
        if len(others) > SMALL:
            # A filter may be wrong, and a hostile neighbour does not reply.
            self._asked.add(swarm.info_hash)
            others = self._sample(others, ENOUGH)
        for neighbour in others:
            self._choose(neighbour, [swarm])

    def _choose(self, neighbour: Neighbour, swarms: list[Swarm]) -> None:
        for swarm in swarms:
            self._chosen.setdefault(swarm.info_hash, {})[neighbour] = None
        self._tell(neighbour, swarms, False)

    def _tell(self, neighbour: Neighbour, swarms: list[Swarm], reply: bool) -> None:
        """Tell a neighbour of the peers in open swarms: by marks if it understands these and the peers are few."""
        counts = []
        present = []
        for swarm in swarms:
            info_hash = swarm.info_hash
            if swarm in self._just_told and self._just_told[swarm] != state_of(swarm):
                # Neighbours know different peers now: tell them at the next opportunity, even if they change back.
                del self._just_told[swarm]
            self._note_told(neighbour, info_hash)
            marks = marks_in(swarm) if neighbour.knows_marks else None
            if marks is not None:
                present.append((info_hash, *marks))
            else:
                counts.append((info_hash, *counts_of(swarm)))
        if counts:
            neighbour.tell(counts, reply)
        if present:
            neighbour.tell_present(present, reply)

    def _note_told(self, neighbour: Neighbour, info_hash: str) -> None:
        neighbour.account.told.add(info_hash)
        self._told.setdefault(info_hash, {})[neighbour] = None

    async def _engage_more(self) -> None:
        """Tell neighbours of the swarms that could not be told before."""
        for neighbour in list(self.neighbours):
            left = -1
            while len(neighbour.account.may_have) not in (0, left):
                left = len(neighbour.account.may_have)
                self.engage(neighbour)
                await asyncio.sleep(0)

    # Filters

    def _tell_opened(self) -> None:
        """Tell all neighbours of the swarms that have opened, or have those parts of the filter renewed."""
        self._is_gathering = False
        self._gathered = self._monotonic()
        tags, self._opened = self._opened, []
        by_part: dict[Part, list[int]] = {}
        for tag in tags:
            by_part.setdefault(self._swarms.part(tag), []).append(tag)
        told: list[int] = []
        for part, some in by_part.items():
            if len(some) <= MAX_GATHERED:
                told += some
            else:
                part.is_due = True
        for start in range(0, len(told), wire.MAX_TAGS):
            some = told[start : start + wire.MAX_TAGS]
            message = wire.encode(wire.Opened("".join(f"{tag:0{wire.TAG_LENGTH}x}" for tag in some)))
            for neighbour in self.neighbours:
                neighbour.show([message])

    async def _renew(self) -> None:
        now = self._monotonic()
        if now - self._renewed < RENEW:
            return
        self._renewed = now
        parts = self._swarms.parts
        for number, part in enumerate(parts):
            if parts is not self._swarms.parts:
                # It is divided in another way now. Those parts have their turn the next time.
                return
            if part.is_stale:
                part.rebuild()
            if part.is_due:
                part.is_due = False
                message = _encode(number, parts)
                for neighbour in self.neighbours:
                    neighbour.show([message])
                await asyncio.sleep(0)


def _encode(number: int, parts: Sequence[Part]) -> bytes:
    return wire.encode(wire.Filter(number, len(parts), bytes(parts[number].bits)))
