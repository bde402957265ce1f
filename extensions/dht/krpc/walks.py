"""Traversals under way: their queries are sent, and the replies passed on."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from extensions.dht.krpc import messages
from extensions.dht.krpc.messages import Contact, Reply
from extensions.dht.krpc.messenger import Messenger
from extensions.dht.krpc.sockets import family_of
from extensions.dht.krpc.traversal import Candidate, Traversal


class Walk:
    """A traversal of one address family for `target`, with queries of one method.

    `on_reply` is called with each reply, also shortly after the end.
    """

    def __init__(
        self,
        messenger: Messenger,
        traversal: Traversal,
        target: bytes,
        method: str,
        arguments: dict[bytes, Any],
        on_reply: Callable[[Candidate, Reply], None],
    ) -> None:
        self.traversal = traversal
        self.target = target
        self._done: asyncio.Future[None] | None = None
        self._messenger = messenger
        self._method = method
        self._arguments = arguments
        self._on_reply = on_reply
        self._router = _Router(self)

    async def run(self) -> None:
        """Send queries until the goal of the traversal is reached, also once more if it is no longer."""
        if self._done and not self._done.done():
            await asyncio.wait([self._done])
            return
        done = self._done = asyncio.get_running_loop().create_future()
        self.go_on()
        await done

    def go_on(self) -> None:
        """Send the queries that may be sent now."""
        if self._done is None or self._done.done():
            return
        try:
            while contact := self.traversal.next():
                self._messenger.query(self, contact, self._method, self._arguments)
            for contact, target in self.traversal.detours():
                self._messenger.query(_Scout(self), contact, "find_node", {b"target": target})
            if self.traversal.is_done:
                self._done.set_result(None)
        except Exception as error:
            # The caller raises it. Otherwise, the lookup would never end, and keep its turn.
            self._done.set_exception(error)

    def others(self, contact: Contact, reply: Reply) -> list[Contact]:
        """Return the nodes that the reply of a node names in its own address family (a reply may have both, BEP 32).

        We are left out: some nodes have taken this client for a node.
        """
        family = family_of(contact.address[0])
        return [
            other
            for other in reply.contacts
            if family_of(other.address[0]) == family and other.node_id != self._messenger.node_id
        ]

    def on_reply(self, contact: Contact, reply: Reply) -> None:
        sender = Contact(reply.node_id, contact.address)
        try:
            candidate = self.traversal.answered(sender, self.others(contact, reply), reply.token)
            if candidate:
                self._on_reply(candidate, reply)
        finally:
            self.go_on()

    def on_error(self, contact: Contact, code: int) -> None:
        # It knows other nodes nevertheless.
        if code != messages.ERROR_METHOD or not self._ask_again(contact, code):
            self.traversal.failed(contact.address, code)
        self.go_on()

    def on_slow(self, contact: Contact) -> None:
        self.traversal.slow(contact.address)
        if self.traversal.is_mostly_late:
            # Perhaps these nodes ignore this method, and would otherwise leave the lookup without a way.
            self._ask_again(contact)
        self.go_on()

    def on_timeout(self, contact: Contact) -> None:
        self.traversal.failed(contact.address)
        self.go_on()

    def _ask_again(self, contact: Contact, code: int = 0) -> bool:
        if self._method == "find_node" or not self.traversal.ask_again(contact.address, code):
            return False
        self._messenger.query(self._router, contact, "find_node", {b"target": self.target})
        return True


class _Router:
    """Receives the replies of nodes that are asked a second time, for other nodes only."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    def on_reply(self, contact: Contact, reply: Reply) -> None:
        sender = Contact(reply.node_id, contact.address)
        self._walk.traversal.routed(sender, self._walk.others(contact, reply))
        self._walk.go_on()

    def on_error(self, contact: Contact, _code: int) -> None:
        self.on_timeout(contact)

    def on_slow(self, contact: Contact) -> None:
        self._walk.traversal.slow(contact.address)
        self._walk.go_on()

    def on_timeout(self, contact: Contact) -> None:
        self._walk.traversal.not_routed(contact.address)
        self._walk.go_on()


class _Scout:
    """Receives the reply of one detour."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._is_late = False

    def on_reply(self, contact: Contact, reply: Reply) -> None:
        self._end(self._walk.others(contact, reply))

    def on_error(self, _contact: Contact, _code: int) -> None:
        self._end()

    def on_slow(self, _contact: Contact) -> None:
        self._end()
        self._is_late = True

    def on_timeout(self, _contact: Contact) -> None:
        self._end()

    def _end(self, contacts: Iterable[Contact] = ()) -> None:
        self._walk.traversal.scouted(contacts, self._is_late)
        self._walk.go_on()
