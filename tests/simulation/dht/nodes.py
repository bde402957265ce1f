"""Emulated nodes that do as libtorrent does, and honest nodes that do less."""

import hashlib
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from extensions.dht.krpc import bencode
from extensions.dht.krpc.messages import Contact, Item, is_valid, item_target
from tests.simulation.dht import wire
from tests.simulation.dht.model import StoringNode
from tests.simulation.dht.wire import Query

MAX_VALUE: Final = 1000
MAX_SALT: Final = 64
"""Bytes of an encoded item and of a salt (BEP 44)."""

SECRET_LIFETIME: Final = 300.0
"""Seconds after which a node makes tokens with another secret. It accepts those of the last two secrets (BEP 5)."""

Answer = tuple[float, bytes]
"""A datagram, and the seconds after which a node sends it."""


class Surroundings(Protocol):
    """The network as a node sees it."""

    def closest_known(self, number: int, target: bytes) -> list[Contact]:
        """Return the contacts closest to a target that the node has in its table."""
        ...


class EmulatedNode:
    """A node of mainline, as libtorrent is one: it routes and stores."""

    def __init__(self, surroundings: Surroundings, number: int, contact: Contact) -> None:
        self.number = number
        self.contact = contact
        self.surroundings = surroundings
        self._store: StoringNode | None = None

    @property
    def store(self) -> StoringNode:
        """The items and peers that are stored here."""
        if self._store is None:
            self._store = StoringNode(self.contact, 0.0)
        return self._store

    @property
    def is_empty(self) -> bool:
        """Whether nothing was ever stored here."""
        return self._store is None

    def answer(self, query: Query) -> Iterable[Answer]:
        """Return the datagrams that answer a query."""
        reply = self.reply(query)
        return [] if reply is None else [(0.0, reply)]

    def reply(self, query: Query) -> bytes | None:
        """Return the reply to a query, or the error message; None if there is no answer."""
        match query.method:
            case "ping":
                return self.write(query, {})
            case "find_node":
                return self.find_node(query)
            case "get":
                return self.get(query)
            case "put":
                return self.put(query)
            case "get_peers":
                return self.get_peers(query)
            case "announce_peer":
                return self.announce_peer(query)
            case _:
                # As libtorrent does, so that future queries find their way.
                return self.find_node(query) if query.target else self.refuse(query, wire.PROTOCOL)

    def find_node(self, query: Query) -> bytes | None:
        """Answer `find_node`."""
        return self.write(query, self.nodes(query)) if query.target else self.refuse(query, wire.PROTOCOL)

    def get(self, query: Query) -> bytes | None:
        """Answer `get` (BEP 44)."""
        if not query.target:
            return self.refuse(query, wire.PROTOCOL)
        item = None if self.is_empty else self.store.get(query.target, time.monotonic())
        return self.write(query, {**self.nodes(query), b"token": self.token(query), **item_fields(item)})

    def put(self, query: Query) -> bytes | None:
        """Answer `put` of a mutable item (BEP 44)."""
        arguments = query.arguments
        item, cas, salt = _item(arguments), arguments.get(b"cas"), arguments.get(b"salt", b"")
        if item is None or not isinstance(salt, bytes) or not isinstance(cas, int | None):
            return self.refuse(query, wire.PROTOCOL)
        if len(bencode.encode(item.value)) > MAX_VALUE:
            return self.refuse(query, wire.TOO_BIG)
        if len(salt) > MAX_SALT:
            return self.refuse(query, wire.SALT_TOO_BIG)
        target = item_target(item.public_key, salt)
        if not self.accepts(arguments.get(b"token"), query.source[0], target) or item.seq < 0:
            return self.refuse(query, wire.PROTOCOL)
        if not is_valid(item, item.public_key, salt):
            return self.refuse(query, wire.BAD_SIGNATURE)
        code = self.store.put(target, item, cas, time.monotonic())
        return self.refuse(query, code) if code else self.write(query, {})

    def get_peers(self, query: Query) -> bytes | None:
        """Answer `get_peers` (BEP 5)."""
        if not query.target:
            return self.refuse(query, wire.PROTOCOL)
        peers = [] if self.is_empty else self.store.get_peers(query.target, time.monotonic())
        values = {b"values": [wire.pack_address(peer) for peer in peers]} if peers else {}
        return self.write(query, {**self.nodes(query), b"token": self.token(query), **values})

    def announce_peer(self, query: Query) -> bytes | None:
        """Answer `announce_peer` (BEP 5)."""
        port = query.arguments.get(b"port")
        if not query.target or not isinstance(port, int) or not 0 < port < 65536:
            return self.refuse(query, wire.PROTOCOL)
        if not self.accepts(query.arguments.get(b"token"), query.source[0], query.target):
            return self.refuse(query, wire.PROTOCOL)
        self.store.announce(query.target, (query.source[0], port), time.monotonic())
        return self.write(query, {})

    def nodes(self, query: Query) -> dict[bytes, Any]:
        """Return the part of a reply that names other nodes."""
        contacts = self.contacts(query)
        is_ipv6 = ":" in self.contact.address[0]
        return {b"nodes6" if is_ipv6 else b"nodes": wire.pack_contacts(contacts)}

    def contacts(self, query: Query) -> Iterable[Contact]:
        """Return the nodes that a reply names."""
        return self.surroundings.closest_known(self.number, query.target)

    def claimed_id(self, _query: Query) -> bytes:
        """Return the id that a reply gives as that of this node."""
        return self.contact.node_id

    def write(self, query: Query, values: dict[bytes, Any]) -> bytes:
        """Encode a reply."""
        return wire.write_reply(query.transaction, self.claimed_id(query), values)

    def refuse(self, query: Query, code: int) -> bytes:
        """Encode an error message."""
        return wire.write_error(query.transaction, code, "refused")

    def token(self, query: Query) -> bytes:
        """Return the token that allows the source of a query to store at its target (BEP 5)."""
        return self._token(query.source[0], query.target, time.monotonic() // SECRET_LIFETIME)

    def accepts(self, token: object, host: str, target: bytes) -> bool:
        """Return whether a token is valid for a host and target."""
        now = time.monotonic() // SECRET_LIFETIME
        return token in (self._token(host, target, now), self._token(host, target, now - 1))

    def _token(self, host: str, target: bytes, secret: float) -> bytes:
        made_of = b"%d %d %s " % (self.number, secret, host.encode()) + target
        return hashlib.blake2b(made_of, digest_size=4).digest()


Kind = Callable[[Surroundings, int, Contact], EmulatedNode]
"""Makes a node of some kind from its surroundings, its number, and its contact."""


class Silent(EmulatedNode):
    """Answers nothing."""

    def answer(self, query: Query) -> Iterable[Answer]:
        return []


class WithoutItems(EmulatedNode):
    """A node without BEP 44, which does not know the methods `get` and `put`."""

    def get(self, query: Query) -> bytes | None:
        return self.refuse(query, wire.UNKNOWN_METHOD)

    def put(self, query: Query) -> bytes | None:
        return self.refuse(query, wire.UNKNOWN_METHOD)


class SilentToItems(EmulatedNode):
    """A node that ignores methods that it does not know, among them `get` and `put`, as jech/dht does."""

    def get(self, query: Query) -> bytes | None:
        return None

    def put(self, query: Query) -> bytes | None:
        return None


class WithoutTokens(EmulatedNode):
    """A node that takes `get` for `find_node`, as libtorrent before BEP 44."""

    def get(self, query: Query) -> bytes | None:
        return self.find_node(query)

    def put(self, query: Query) -> bytes | None:
        return self.refuse(query, wire.UNKNOWN_METHOD)


class Late(EmulatedNode):
    """Answers some seconds late."""

    delay = 1.0

    def answer(self, query: Query) -> Iterable[Answer]:
        return [(wait + self.delay, reply) for wait, reply in super().answer(query)]


def refusing(code: int) -> type[EmulatedNode]:
    """Return a kind of node that gives tokens and refuses each put with an error."""

    class Refusing(EmulatedNode):
        def put(self, query: Query) -> bytes | None:
            return self.refuse(query, code)

    return Refusing


def late_by(seconds: float) -> type[EmulatedNode]:
    """Return a kind of node that answers late."""
    return type("Late", (Late,), {"delay": seconds})


def _item(arguments: dict[bytes, Any]) -> Item | None:
    match arguments:
        case {b"k": bytes(public_key), b"sig": bytes(signature), b"seq": int(seq), b"v": value} if (
            len(public_key) == 32 and len(signature) == 64
        ):
            return Item(public_key, signature, seq, value)
        case _:
            return None


def item_fields(item: Item | None) -> dict[bytes, Any]:
    """Return the part of a reply that contains an item (BEP 44)."""
    if item is None:
        return {}
    return {b"k": item.public_key, b"sig": item.signature, b"seq": item.seq, b"v": item.value}
