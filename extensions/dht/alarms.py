"""Tells the operator of records that get into trouble, and of those that are well again (sans I/O).

An attack on all infohashes must not flood the log: a minute has a few lines for single infohashes, and one for all
others.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from extensions.dht.records.trouble import Trouble

MAX_LINES: Final = 4
PERIOD: Final = 60.0
"""Lines in so many seconds. One of them says how many infohashes had no line in the last period."""

HINTS: Final = {
    Trouble.BLINDED: "nodes near this record seem to hide it; other nodes and slots are used too",
    Trouble.EMPTIED: "entries that must be in this record are missing; they are written again, and BEP 5 is used too",
    Trouble.LOCKED: "a slot cannot be written until 00:00 UTC; other slots or shards, and BEP 5, are used too",
    Trouble.SPOILT: "the record has invalid contents, which are overwritten; BEP 5 is used too",
    Trouble.CONTESTED: "all writes met newer values; they are repeated ever more rarely",
}
"""The meaning of each trouble. The first one that a record has is told."""


class Alarms:
    """Logs the changes of infohashes between good order and trouble. `monotonic` gives seconds that never go back."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._period_began = -PERIOD
        self._lines = 0
        self._troubled = self._recovered = 0
        """The infohashes that had no line in this period."""
        self._kinds: Counter[Trouble] = Counter()
        self._log = structlog.get_logger().bind(extension="dht")

    def note(self, info_hash: bytes, before: Iterable[Trouble], after: Iterable[Trouble]) -> None:
        """Note the troubles of an infohash (20 bytes) at the visit before the last, and at the last one."""
        before, after = set(before), set(after)
        if bool(before) == bool(after):
            return
        self.flush()
        now = self._monotonic()
        if now - self._period_began >= PERIOD:
            self._period_began, self._lines = now, 0
        if self._lines >= MAX_LINES:
            self._troubled += bool(after)
            self._recovered += not after
            self._kinds.update(after)
            return
        self._lines += 1
        if after:
            self._log.warning(
                "dht_record_troubled", infohash=info_hash.hex(), troubles=_names(after), hint=_hint(after)
            )
        else:
            self._log.info("dht_record_recovered", infohash=info_hash.hex(), troubles=_names(before))

    def flush(self) -> None:
        """Log the infohashes that had no line, once the period is over. It must be called from time to time."""
        if (self._troubled or self._recovered) and self._monotonic() - self._period_began >= PERIOD:
            level = self._log.warning if self._troubled else self._log.info
            kinds = {f"{kind.value}": self._kinds[kind] for kind in Trouble if self._kinds[kind]}
            level("dht_records_troubled", more=self._troubled, recovered=self._recovered, **kinds)
            self._troubled = self._recovered = 0
            self._kinds.clear()
            # This line is the first one of the next period.
            self._period_began, self._lines = self._monotonic(), 1


def _names(troubles: Iterable[Trouble]) -> list[str]:
    return [kind.value for kind in Trouble if kind in troubles]


def _hint(troubles: Iterable[Trouble]) -> str:
    return next(hint for kind, hint in HINTS.items() if kind in troubles)
