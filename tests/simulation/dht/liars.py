"""Emulated nodes that lie, each in one way."""

import hashlib
import random
from collections.abc import Container, Iterable, Mapping
from typing import Any, Final

from extensions.dht.krpc.messages import Contact, Item
from tests.simulation.dht import wire
from tests.simulation.dht.addresses import MAX_IPV4, ipv4_address, ipv6_address
from tests.simulation.dht.nodes import Answer, EmulatedNode, Kind, item_fields
from tests.simulation.dht.wire import Query

NAMED: Final = 20
"""Contacts that a liar names in a reply."""

POOL: Final = 64
"""Chameleons that chameleons name."""

NO_TRACKERS: Final = 100
"""Addresses in a reply of a node that names hosts without a tracker."""


class _Accomplice(EmulatedNode):
    """Gives tokens, accepts all that is stored, and stores nothing."""

    def get(self, query: Query) -> bytes | None:
        return self.write(query, {**self.nodes(query), b"token": b"good"})

    def get_peers(self, query: Query) -> bytes | None:
        return self.get(query)

    def put(self, query: Query) -> bytes | None:
        return self.write(query, {})

    def announce_peer(self, query: Query) -> bytes | None:
        return self.write(query, {})


def sybils(group: list[Contact]) -> Kind:
    """Return nodes that name each other: the contacts of `group`."""

    class Sybil(_Accomplice):
        def contacts(self, query: Query) -> Iterable[Contact]:
            return random.sample(group, min(NAMED, len(group)))

    return Sybil


def chameleons(pool: list[Contact]) -> Kind:
    """Return nodes that claim an id next to each target, and name those of `pool` with such ids, too."""

    class Chameleon(_Accomplice):
        def claimed_id(self, query: Query) -> bytes:
            return _next_to(query.target, self.contact) if query.target else self.contact.node_id

        def contacts(self, query: Query) -> Iterable[Contact]:
            named = random.sample(pool, min(NAMED, len(pool)))
            return [Contact(_next_to(query.target, one), one.address) for one in named]

    return Chameleon


class NamesHostsWithoutTracker(EmulatedNode):
    """Answers `get_peers` with addresses of hosts that run no tracker."""

    def get_peers(self, query: Query) -> bytes | None:
        values = [wire.pack_address(ipv4_address(random.randrange(MAX_IPV4), 1)) for _ in range(NO_TRACKERS)]
        return self.write(query, {**self.nodes(query), b"token": b"good", b"values": values})


class NamesNobody(EmulatedNode):
    """Names nodes near the target at addresses where no node is."""

    named = NAMED

    def contacts(self, query: Query) -> Iterable[Contact]:
        make = ipv6_address if ":" in self.contact.address[0] else ipv4_address
        # No node has the last octet 255.
        return [
            Contact(query.target[:6] + random.randbytes(14), make(random.randrange(MAX_IPV4), 255))
            for _ in range(self.named)
        ]


class NamesTooMany(NamesNobody):
    """Names so many of them that the reply hardly fits into a datagram."""

    named = 145


class ClaimsAnyId(EmulatedNode):
    """Gives another id each time."""

    def claimed_id(self, _query: Query) -> bytes:
        return random.randbytes(20)


class ClaimsTarget(EmulatedNode):
    """Gives the target as its id."""

    def claimed_id(self, query: Query) -> bytes:
        return query.target or self.contact.node_id


class SendsGarbage(EmulatedNode):
    """Sends datagrams that answer no query before the reply, and items with invalid signatures in it."""

    def answer(self, query: Query) -> Iterable[Answer]:
        yield from ((0.0, data) for data in self._garbage(query))
        yield from super().answer(query)

    def get(self, query: Query) -> bytes | None:
        forged = {b"k": random.randbytes(32), b"sig": random.randbytes(64), b"seq": 1 << 51, b"v": b"forged"}
        return self.write(query, {**self.nodes(query), b"token": self.token(query), **forged})

    def _garbage(self, query: Query) -> Iterable[bytes]:
        yield from (wire.write_reply(random.randbytes(4), self.contact.node_id, {}) for _ in range(20))
        yield bytes(60_000)
        yield b"d" * 1000
        yield b"l" * 500 + b"e" * 500
        yield b"d1:rd2:id-6:"
        yield wire.write_reply(query.transaction, b"short", {})
        yield wire.write_reply(query.transaction, self.contact.node_id, {b"token": bytes(200), b"nodes": b"odd"})[:-1]


def holding(items: Mapping[bytes, Item], shown_to: Container[str] | None = None) -> Kind:
    """Return nodes that answer `get` with given items by target, as if these had been stored there.

    They show them to these hosts only, or to all.
    """

    class Holding(EmulatedNode):
        def get(self, query: Query) -> bytes | None:
            item = items.get(query.target)
            if item is None or (shown_to is not None and query.source[0] not in shown_to):
                return super().get(query)
            return self.write(query, {**self.nodes(query), b"token": self.token(query), **item_fields(item)})

    return Holding


def _next_to(target: bytes, contact: Contact) -> bytes:
    """Return the id that a chameleon claims for a target: the same each time."""
    made_of: Any = contact.node_id + target
    return target[:8] + hashlib.blake2b(made_of, digest_size=12).digest()
