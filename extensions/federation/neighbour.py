"""Another tracker that serves some of the same swarms, as the exchange sees it, and its state in the exchange."""

from collections import Counter
from collections.abc import Iterable
from typing import Final, Protocol

from extensions.federation.ledger import Ledger
from extensions.federation.reasons import Dropped
from tracker.extension import Answer, Offer, RemoteMember, TokenBucket

OFFERS_PER_SECOND: Final = 1000.0
OFFERS_BURST: Final = 5000.0
"""The token bucket for the offers of one neighbour. Offers beyond it are refused."""

ENGAGED_PER_SECOND: Final = 2000.0
ENGAGED_BURST: Final = 50_000.0
"""The token bucket for swarms whose numbers one neighbour is told because it may have them. With as many replies to its
own, that is well below the rate at which it would end the link."""

MAX_MET: Final = 256
"""Pairs of peers that have met over one neighbour that are remembered. A neighbour with more of them is used anyway."""


class Account:
    """The state of one neighbour in the exchange."""

    def __init__(self, now: float) -> None:
        self.members: dict[str, RemoteMember] = {}
        """Its remote members by infohash: one for each swarm in which it has peers and this tracker has, too."""
        self.last_shared = now
        """When `members` was last seen not to be empty."""
        self.last_used = now
        """When two peers last met over it that had not met over it before; at first, when it was opened."""
        self._met: set[int] = set()
        """Hashes of the pairs of peers that have met over it."""
        self.ledger = Ledger()
        self.answered = 0
        """The offers sent to it that were answered while they could still be refused."""
        self.offering = TokenBucket(OFFERS_PER_SECOND, OFFERS_BURST, now)
        self.grown: dict[RemoteMember, list[str]] = {}
        """The marks of newcomers behind each remote member for which no parked offers have been placed yet."""
        self.withheld: dict[RemoteMember, list[str]] = {}
        """The marks of newcomers for which none are placed before the neighbour has answered an offer."""
        self.engaging = TokenBucket(ENGAGED_PER_SECOND, ENGAGED_BURST, now)
        self.told: set[str] = set()
        """Infohashes of the open swarms whose numbers it was told, unless it has said since that it wants no offers."""
        self.owed: dict[str, None] = {}
        """Those of them whose numbers it is told at the end of this frame, in reply to its own."""
        self.may_have: dict[str, None] = {}
        """Infohashes of open swarms that it may have, too, and that have not been looked at since it told so."""
        self.counters: Counter[str] = Counter()
        self.dropped: Counter[Dropped] = Counter()

    def on_answer(self, info_hash: str, local: str, remote: str, now: float) -> None:
        """Note an answer of a local peer to a remote one, or the other way round, given their peer_ids.

        In a small swarm, peers make offers to each other all the time. Only new pairs are a use of the neighbour.
        """
        pair = hash((info_hash, local, remote))
        if pair not in self._met:
            if len(self._met) >= MAX_MET:
                self._met.clear()
            self._met.add(pair)
            self.last_used = now

    @property
    def backlog(self) -> int:
        """Swarms for which work is left that messages of the neighbour have caused."""
        return len(self.grown) + len(self.owed) + len(self.may_have)


class Neighbour(Protocol):
    """Another tracker, as the exchange uses it. Implementations inherit from this class."""

    account: Account

    @property
    def tracker_id(self) -> str:
        """Its tracker id, 64 hexadecimal digits."""
        ...

    @property
    def knows_marks(self) -> bool:
        """Whether it tells, and understands, which peers it has in common swarms."""
        ...

    @property
    def is_slow(self) -> bool:
        """Whether many messages to it have not been sent yet."""
        return False

    def may_have(self, tag: int) -> bool:
        """Return whether it may have a swarm (`filters`). It seldom has none then, and always has none otherwise."""
        ...

    def show(self, messages: Iterable[bytes]) -> None:
        """Send it messages about the swarms that are open here: filters, or the tags of newly opened ones."""
        ...

    def leave_swarm(self, info_hash: str) -> None:
        """Tell it at once that no more offers of a swarm are wanted, and forget the numbers that it has told."""
        ...

    def forget_swarm(self, info_hash: str) -> None:
        """Forget a swarm that closes here."""
        ...

    def tell(self, counts: Iterable[tuple[str, int, int]], reply: bool) -> None:
        """Tell it the number of seeders and leechers in swarms: (infohash, seeders, leechers).

        `reply`: it has told its own numbers of these swarms.
        """
        ...

    def tell_present(self, swarms: Iterable[tuple[str, list[str], list[str]]], reply: bool) -> None:
        """Tell it which peers are in swarms: (infohash, marks of the seeders, marks of the leechers)."""
        ...

    def counts(self, info_hash: str) -> tuple[int, int]:
        """Return the number of seeders and leechers that it has told for a swarm that is open here."""
        ...

    def offer(self, info_hash: str, peer_id: str, offers: list[Offer]) -> list[Offer]:
        """Send it offers of a local peer, and return those that were sent. The others are too long for it."""
        ...

    def refuse(self, info_hash: str, peer_id: str, offer_ids: list[str], known: bool) -> None:
        """Return offers that it sent and that no local peer was given.

        `known`: this tracker gets offers of the same peer otherwise, and needs none from this neighbour.
        """
        ...

    def answer(self, answer: Answer) -> None:
        """Send it a local peer's answer to an offer that came from it."""
        ...
