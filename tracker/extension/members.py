"""The swarms as one extension sees them: its remote members, and offers and answers of remote peers."""

from collections.abc import Callable, Collection, Mapping
from time import monotonic
from typing import Any

import structlog

from tracker.core.hub import Hub
from tracker.core.remote import RemotePeers
from tracker.core.swarm import RemoteMember, Swarm
from tracker.protocol.ids import is_any_id, is_id
from tracker.protocol.messages import Answer, Offer


class Members:
    """The part of `TrackerHandle` that is about swarms."""

    def __init__(self, name: str, hub: Hub, remote: RemotePeers, clock: Callable[[], float] = monotonic) -> None:
        self.log = structlog.get_logger().bind(extension=name)
        self._hub = hub
        self._remote = remote
        self._clock = clock
        self._members: dict[Swarm, set[RemoteMember]] = {}

    @property
    def swarms(self) -> Mapping[str, Swarm]:
        """The open swarms by info_hash, with those that are held without local peers. Read only."""
        return self._hub.swarms

    @property
    def local_counts(self) -> tuple[int, int, int]:
        """The numbers of swarms with local peers, and of local seeders and leechers in all of them."""
        hub = self._hub
        return len(hub.swarms) - hub.empty, hub.seeders, hub.leechers

    def add_remote(self, info_hash: str, owner: Any) -> RemoteMember | None:
        """Return a new remote member of a swarm, which counts no peers until `set_remote`; None if there is no swarm.

        `owner` is an object of the extension; the member has it as its attribute.
        """
        member = self._remote.add_remote(info_hash, owner)
        if member:
            self._members.setdefault(member.swarm, set()).add(member)
        return member

    def set_remote(self, member: RemoteMember, complete: int, incomplete: int) -> None:
        """Set the numbers of seeders and leechers behind a remote member.

        If the member was removed or its swarm has closed, do nothing.

        Raises:
            ValueError: if a number is negative.
        """
        if self.owns(member):
            self._remote.set_remote(member, complete, incomplete)

    def set_remote_peers(
        self,
        member: RemoteMember,
        seeders: Collection[str],
        leechers: Collection[str],
        ranks: tuple[str, str] | None = None,
    ) -> list[str]:
        """Set the peers behind a remote member by their marks, instead of their numbers; return those of the newcomers.

        `marks_of` computes marks; at most a few dozen are useful. Peers that are local, too, or behind several members,
        count once, and are introduced once to each other. Newcomers are peers that were neither here nor behind any
        member before. `ranks` are given if the marks may keep offers from other members: two texts that order this
        member's tracker and this one, in the same way at all trackers.
        """
        return self._remote.set_remote_peers(member, seeders, leechers, ranks) if self.owns(member) else []

    def members_with(self, swarm: Swarm, peer_id: str) -> list[RemoteMember]:
        """Return this extension's remote members with a rank that a remote peer of a swarm is behind."""
        return [member for member in swarm.overlap.members_with(peer_id) if self.owns(member)] if swarm.overlap else []

    def keep_apart(self, member: RemoteMember, peer_id: str, seconds: float) -> None:
        """Place no offers of a local peer on a remote member for some time, because it is present there, too."""
        self._remote.keep_apart(member, peer_id, seconds, self._clock())

    def remove_remote(self, member: RemoteMember) -> None:
        """Remove a remote member from its swarm."""
        self.set_remote(member, 0, 0)
        self._members.get(member.swarm, set()).discard(member)

    def owns(self, member: RemoteMember) -> bool:
        """Return whether this extension added a remote member."""
        return member in self._members.get(member.swarm, ())

    def deliver_offers(
        self,
        info_hash: str,
        peer_id: str,
        offers: list[Offer],
        owner: Any = None,
        member: RemoteMember | None = None,
    ) -> list[Offer]:
        """Give a remote peer's offers to as many distinct local peers; return the offers that found none.

        `owner` is the origin of the offers, if there are several origins: from one origin, a peer is given at most half
        of `tracker.max_foreign_offers`. `member` is the remote member with the peer, if its peers are known by their
        marks. `make_offer` makes an offer of text.

        Raises:
            ValueError: if `peer_id` is not an id of the swarm.
        """
        if not (is_id(peer_id) if is_id(info_hash) else is_any_id(peer_id)):
            raise ValueError("peer_id must be 20 latin-1 characters, or in a text swarm 1 to 64 characters")
        return self._remote.deliver_offers(info_hash, peer_id, offers, self._clock(), owner, member)

    def deliver_answer(self, answer: Answer) -> bool:
        """Give a remote peer's answer to the local peer that made the offer; return whether that peer is still here.

        `make_answer` makes an answer of text.
        """
        return self._remote.deliver_answer(answer, self._clock())

    @property
    def parked_offers(self) -> int:
        """Number of offers that are parked until a receiver comes."""
        return self._hub.offers.parked.count(self._clock())

    def park_offers(self, on_placed: Callable[[float], None]) -> None:
        """Park offers that find no receiver, from now on; peers that are alone announce more often.

        `on_placed` gets the seconds that a parked offer waited for its receiver. Each extension has its own.
        """

        def guarded(seconds: float) -> None:
            try:
                on_placed(seconds)
            except Exception:
                # The hub calls it while it serves a client, which would lose its connection.
                self.log.exception("extension_failed", on="on_placed")

        self._hub.offers.parked.enable(guarded)

    def place_parked(self, member: RemoteMember, newcomers: Collection[str], owner: Any = None) -> None:
        """Place the parked offers of a swarm on new peers behind a remote member, one of each peer's on each.

        `newcomers` are the marks of these peers, or `UNKNOWN` for each peer of which only the number is known. If a
        peer was given offers from `owner` meanwhile (as in `deliver_offers`), it places as many fewer.
        """
        if self.owns(member):
            self._remote.place_parked(member, newcomers, self._clock(), owner)

    def place_again(
        self, info_hash: str, peer_id: str, offers: list[Offer], refused: RemoteMember | None, age: float
    ) -> None:
        """Place a local peer's offers, made `age` seconds ago, on other members than the one that refused them."""
        self._remote.place_again(info_hash, peer_id, offers, refused, age, self._clock())

    def release(self) -> None:
        """Remove all remote members, because the extension has ended."""
        for members in self._members.values():
            for member in members:
                self._remote.set_remote(member, 0, 0)
        self._members.clear()

    def forget(self, swarm: Swarm) -> None:
        """Remove the remote members of a swarm that has closed.

        Otherwise the swarm and its members would keep each other in memory, and with them all that belongs to the
        members' owners, until the garbage collector visits all objects: in a quiet tracker, that takes hours.
        """
        for member in self._members.pop(swarm, ()):
            swarm.set_remote(member, 0, 0)
        swarm.overlap = None
