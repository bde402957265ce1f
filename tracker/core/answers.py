"""Relays answers to the peers that made the offers (sans I/O; times are seconds on any monotonic clock)."""

from tracker.core.bits import remote_bit
from tracker.core.choice import Chooser
from tracker.core.counters import Counters
from tracker.core.crossing import Crossings, note_answered
from tracker.core.members import meet_answerer, meet_linked, meet_maker
from tracker.core.observers import Nodes, Observer
from tracker.core.outbox import Outbox
from tracker.core.rooms import is_first_answer
from tracker.core.swarm import Connection, Peer, Swarm
from tracker.protocol.messages import Answer
from tracker.reasons import DropReason


class AnswerRelay:
    """Finds the receivers of answers in the open swarms, at other nodes, or by way of the observer."""

    def __init__(
        self,
        swarms: dict[str, Swarm],
        chooser: Chooser,
        counters: Counters,
        observer: Observer | None,
        crossings: Crossings,
    ) -> None:
        self.nodes: Nodes | None = None
        """The other nodes of the tracker."""
        self._swarms = swarms
        self._chooser = chooser
        self._counters = counters
        self._observer = observer
        self._crossings = crossings

    def relay(self, connection: Connection, answer: Answer, now: float, outbox: Outbox) -> None:
        """Relay the answer of a local peer."""
        counters = self._counters
        counters.answers += 1
        swarm = self._swarms.get(answer.info_hash)
        sender = swarm.peers.get(answer.peer_id) if swarm else None
        if swarm is not None and sender is None:
            # libtorrent of January 2023 answers under another peer_id than it has announced. Only the receiver of an
            # offer knows the offer_id of the answer.
            sender = swarm.peer_on(connection)
        if swarm is None or sender is None or (sender.connection is not connection and sender not in connection.peers):
            counters.dropped[DropReason.NOT_OWNER] += 1
            return
        if sender.connection is connection:
            # anacrolix/torrent does not announce again on a timer: its answers keep it fresh.
            sender.last_seen = now
        note_answered(sender, answer.to_peer_id)
        receiver = swarm.peers.get(answer.to_peer_id)
        is_routed = False
        nodes = self.nodes
        if nodes is not None and (receiver is None or swarm.nodes is not None):
            # A local receiver may have made the offer at another node, and have come here since.
            is_routed = nodes.answer(answer, sender.complete)
        if receiver is not None:
            self._chooser.note_wanted(sender, 1)
            if is_first_answer(receiver, answer):
                sender.meet(receiver.bit, receiver.complete)
                receiver.meet(sender.bit, sender.complete)
            self._give(receiver, answer, now, outbox)
        elif is_routed:
            # The node of the receiver notes that the sender was wanted.
            meet_maker(sender, answer.to_peer_id)
            counters.answers_to_nodes += 1
        elif self._observer and self._observer.answer_unplaced(answer):
            self._chooser.note_wanted(sender, 1)
            sender.meet(remote_bit(answer.to_peer_id), False)
            self._crossings.note_answered(swarm, sender.peer_id, answer.to_peer_id, now)
            counters.answers_handed_over += 1
        else:
            counters.dropped[DropReason.UNKNOWN_RECEIVER] += 1

    def relay_from_node(self, answer: Answer, complete: bool, now: float, outbox: Outbox) -> bool:
        """Relay the answer of a peer at another node, which is a seeder if `complete`; return whether it is wanted.

        The receiver is a local peer, or a peer of another tracker.
        """
        receiver = self._receiver(answer)
        if receiver is not None:
            self._chooser.note_wanted_by(receiver.swarm, complete, 1)
            if is_first_answer(receiver, answer):
                meet_answerer(receiver, answer.peer_id, complete)
            self._give(receiver, answer, now, outbox)
            return True
        if self._observer and self._observer.answer_unplaced(answer):
            self._counters.answers_handed_over += 1
            swarm = self._swarms.get(answer.info_hash)
            if swarm is not None:
                meet_linked(swarm, answer.peer_id, answer.to_peer_id)
                self._crossings.note_answered(swarm, answer.peer_id, answer.to_peer_id, now)
            return True
        self._counters.dropped[DropReason.UNKNOWN_RECEIVER] += 1
        return False

    def relay_from_link(self, answer: Answer, now: float, outbox: Outbox) -> bool:
        """Relay the answer of a peer of another tracker to an own peer; return whether this peer is still known."""
        receiver = self._receiver(answer)
        if receiver is not None:
            receiver.meet(remote_bit(answer.peer_id), False)
            self._give(receiver, answer, now, outbox)
            return True
        if self.nodes is not None and self.nodes.answer(answer, False):
            self._counters.answers_to_nodes += 1
            swarm = self._swarms.get(answer.info_hash)
            if swarm is not None:
                meet_linked(swarm, answer.to_peer_id, answer.peer_id)
            return True
        self._counters.dropped[DropReason.UNKNOWN_RECEIVER] += 1
        return False

    def _receiver(self, answer: Answer) -> Peer | None:
        swarm = self._swarms.get(answer.info_hash)
        return None if swarm is None else swarm.peers.get(answer.to_peer_id)

    def _give(self, receiver: Peer, answer: Answer, now: float, outbox: Outbox) -> None:
        """Send an answer to the peer that made the offer, on the connection that made it."""
        receiver.answered_at = now
        self._counters.answers_relayed += 1
        if receiver.presences is None:
            outbox.answer(receiver.connection, answer)
        else:
            for connection in receiver.presences.makers(answer.id, now):
                outbox.answer(connection, answer)
