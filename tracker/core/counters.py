"""Counters of the hub (sans I/O)."""

from collections import Counter

from tracker.reasons import DropReason


class Counters:
    """Totals since the start, as plain integers. `tracker.metrics` reads them."""

    def __init__(self) -> None:
        self.announces = 0
        self.answers = 0
        self.scrapes = 0
        self.heartbeats = 0
        self.replies = 0
        self.failures = 0
        self.offers_relayed = 0
        self.answers_relayed = 0
        self.offers_handed_over = 0
        self.answers_handed_over = 0
        self.offers_to_nodes = 0
        self.answers_to_nodes = 0
        self.dropped: Counter[DropReason] = Counter()
