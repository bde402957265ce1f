"""What the hub counts, in plain integers."""

from collections import Counter
from dataclasses import dataclass, field

from tracker.reasons import DropReason


@dataclass(slots=True)
class Counters:
    """Running totals, read by the metrics."""

    announces: int = 0
    answers: int = 0
    scrapes: int = 0
    replies: int = 0
    offers_relayed: int = 0
    answers_relayed: int = 0
    offers_handed_over: int = 0
    answers_handed_over: int = 0
    failures: int = 0
    dropped: Counter[DropReason] = field(default_factory=Counter)
