"""Answers scrapes, also of swarms that only other nodes of this tracker have (sans I/O)."""

from collections.abc import Callable

from tracker.core.counters import Counters
from tracker.core.observers import NO_PEERS, Counts, Nodes
from tracker.core.outbox import Outbox
from tracker.core.rules import Rules
from tracker.core.swarm import Connection, Swarm
from tracker.protocol.errors import RequestError
from tracker.protocol.ids import is_id
from tracker.protocol.messages import NO_INFO_HASH, Scrape
from tracker.reasons import DropReason


class Scrapes:
    """The counts of the swarms that are open here, or at other nodes."""

    def __init__(self, swarms: dict[str, Swarm], rules: Rules, counters: Counters) -> None:
        self.nodes: Nodes | None = None
        """The other nodes of the tracker."""
        self._swarms = swarms
        self._rules = rules
        self._counters = counters

    def reply(self, connection: Connection, message: Scrape, outbox: Outbox) -> None:
        """Reply to a scrape, possibly later.

        Raises:
            RequestError: for a scrape of all swarms, unless the rules allow it.
        """
        counters = self._counters
        counters.scrapes += 1
        wanted = message.info_hashes
        if wanted is None:
            if not self._rules.full_scrape:
                raise RequestError(DropReason.FULL_SCRAPE, "full scrape is not available", NO_INFO_HASH, "scrape")
        else:
            surplus = message.surplus + max(0, len(wanted) - self._rules.max_scrape)
            if surplus:
                counters.dropped[DropReason.SURPLUS_SCRAPE] += surplus
                wanted = wanted[: self._rules.max_scrape]
        if message.invalid:
            counters.dropped[DropReason.INVALID_SCRAPE] += message.invalid

        def send(found: dict[str, Counts]) -> None:
            # Unknown swarms are in the reply, with 0: bittorrent-tracker's client would wait forever for missing ones.
            # A client that asks for all has joined no text swarm, and may not bear a text id.
            names = wanted if wanted is not None else [info_hash for info_hash in found if is_id(info_hash)]
            counters.replies += 1
            outbox.scrape(connection, [(name, *found.get(name, NO_PEERS)[:2]) for name in names])

        self.find(wanted, send)

    def find(self, info_hashes: list[str] | None, done: Callable[[dict[str, Counts]], None]) -> None:
        """Call `done` with the counts of those swarms that are open at any node; of all swarms if None.

        It is called at once, unless other nodes must be asked: then within a second or so.
        """
        here = self.counts_here(info_hashes)
        nodes = self.nodes
        if nodes is None:
            done(here)
        elif info_hashes is None:
            nodes.counts(None, lambda found: done({**found, **here}))
        elif len(here) < len(info_hashes):
            missing = [info_hash for info_hash in info_hashes if info_hash not in here]
            nodes.counts(missing, lambda found: done({**found, **here}))
        else:
            done(here)

    def counts_here(self, info_hashes: list[str] | None) -> dict[str, Counts]:
        """Return the counts of those swarms that are open here; of all that are if None."""
        swarms = self._swarms
        found: dict[str, Counts] = {}
        for info_hash in swarms if info_hashes is None else info_hashes:
            swarm = swarms.get(info_hash)
            if swarm is not None:
                found[info_hash] = swarm.counts
        return found
