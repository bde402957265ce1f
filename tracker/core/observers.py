"""The interfaces to those that the hub tells of its swarms: extensions, the log, and the other nodes (sans I/O).

This module is not compiled with mypyc, because a class that is not compiled cannot inherit from a compiled protocol.
"""

from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from tracker.core.swarm import Connection, NodeMember, Peer, RemoteMember, Swarm
from tracker.protocol.errors import RequestError
from tracker.protocol.messages import Answer, Offer

Counts: TypeAlias = tuple[int, int, int, int]
"""The numbers of seeders and leechers in a swarm, and those of its own seeders and leechers."""

NO_PEERS: Final[Counts] = (0, 0, 0, 0)


class Observer(Protocol):
    """Is notified of swarms, and of offers and answers that leave the tracker. The extensions implement it.

    Its methods return at once and do not raise.
    """

    def swarm_opened(self, swarm: Swarm) -> None: ...
    def swarm_changed(self, swarm: Swarm) -> None: ...
    def swarm_closed(self, swarm: Swarm) -> None: ...
    def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None: ...
    def offers_unplaced(self, swarm: Swarm, peer: Peer, offers: list[Offer]) -> None: ...
    def answer_unplaced(self, answer: Answer) -> bool:
        """Take an answer to a peer that is not here; return whether an extension wants it."""

    def offers_returned(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> bool:
        """Take back offers of a remote peer, which were given to other nodes; return whether an extension wants them.

        No peer there could be given them.
        """


class Trace(Protocol):
    """Is told what happens to single peers, for the log. Its methods return at once and do not raise."""

    def joined(self, peer: Peer) -> None: ...
    def left(self, peer: Peer) -> None: ...
    def failed(self, connection: Connection, error: RequestError) -> None: ...


class Nodes(Protocol):
    """The other nodes of this tracker, as the hub sees them. An extension implements it; see `tracker.core.nodes`.

    Its methods return at once and do not raise. Offers and answers may point into the frame that they came in, which
    is used again later: encode or copy them before the method returns.
    """

    def opened(self, swarm: Swarm) -> None:
        """Take notice of the first local peer of a swarm. `joined` with this peer follows."""

    def closed(self, swarm: Swarm) -> None:
        """Take notice that the last local peer has left a swarm. `left` with this peer came before.

        The members of other nodes have left the swarm, unless it is held.
        """

    def joined(self, peer: Peer, needs_offers: bool) -> None:
        """Take notice of a new local peer.

        `needs_offers`: it makes none itself now and is not expected to make some in the next seconds, so that other
        nodes give it parked offers: `NodePeers.give_parked`. Its own offers, if it makes some, come after this call.
        """

    def left(self, peer: Peer) -> None:
        """Take notice that a local peer has left its swarm."""

    def completed(self, peer: Peer) -> None:
        """Take notice that a local leecher has become a seeder."""

    def offers(self, member: NodeMember, peer_id: str, offers: list[Offer], flags: int) -> None:
        """Send a peer's offers to the node of a member, for as many peers behind this member.

        The other node calls `NodePeers.deliver`, or for a member of the kind LINKED `deliver_linked`, with the same
        `flags`. At the gateway, the peer may be a linked one.
        """

    def offers_to_each(self, members: list[NodeMember], peer_id: str, offers: list[Offer], flags: int) -> None:
        """Send a peer's offers to members of the kind PEER at one node: the first offer to the first one, and so on.

        One message for all is cheaper. The other node calls `NodePeers.deliver_to_each`.
        """
        for member, offer in zip(members, offers, strict=True):
            self.offers(member, peer_id, [offer], flags)

    def answer(self, answer: Answer, complete: bool) -> bool:
        """Send an answer to all nodes from which offers of its receiver came of late; return whether there are any.

        `complete`: the peer that answers is a seeder. The other nodes call `NodePeers.deliver_answer`.
        """

    def newcomers(self, swarm: Swarm, count: int) -> None:
        """Tell all nodes, at the gateway, that new peers behind links make no offers: they may place parked ones.

        The other nodes call `NodePeers.give_parked` with their member of the kind LINKED.
        """

    def linked(self, swarm: Swarm) -> None:
        """Take notice, at the gateway, that the numbers of linked peers may have changed: `members.linked_counts`.

        The other nodes set the numbers of their member of the kind LINKED.
        """

    def returned(self, swarm: Swarm, peer_id: str, offers: list[Offer], age: float, flags: int) -> bool:
        """Send offers of a peer of another node back to this node, at the gateway, because no link takes them.

        They were made `age` seconds ago. Return whether it is known from which node offers of this peer came of late.
        The other node calls `NodePeers.place_again` with its member of the kind LINKED.
        """

    def counts(self, info_hashes: list[str] | None, done: Callable[[dict[str, Counts]], None]) -> None:
        """Find the counts of swarms that are not open here, or of all swarms of other nodes if None.

        `done` is called once, at once or later, with those that were found. It does not raise.
        """
        ...
