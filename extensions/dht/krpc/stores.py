"""Stores under way: a value is sent to several nodes; nodes that do not take it are replaced by others."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from extensions.dht.krpc import messages
from extensions.dht.krpc.messages import Contact, Reply
from extensions.dht.krpc.messenger import Messenger
from extensions.dht.krpc.refusers import Refusers
from extensions.dht.krpc.traversal import Candidate
from extensions.dht.krpc.walks import Walk

MAX_REPLACED: Final = 40
"""Nodes of one store that are replaced, at most: if four of five refuse, 32 have refused before eight have stored."""

TOKEN_LASTS: Final = 60.0
"""Seconds after a lookup for which a refusal counts. Later, an honest node may refuse because its token has expired."""


@dataclass(slots=True)
class Stored:
    """The result of a store: the nodes that stored the value, that had a newer one, and that failed."""

    taken: int = 0
    conflicts: int = 0
    failed: int = 0


@dataclass(slots=True)
class Search:
    """The traversals of a lookup, which a store may continue."""

    walks: list[Walk]
    ended: float
    """When the lookup ended, on the loop's clock."""
    items: dict[messages.Address, bytes]
    """By node, the signature of its valid item."""


class Store:
    """One store. It waits for slow nodes too, since a reader may find them alive.

    With `cas`, each node replaces only the version that it had in the lookup (BEP 44).
    """

    def __init__(
        self,
        messenger: Messenger,
        refusers: Refusers,
        search: Search | None,
        method: str,
        arguments: dict[bytes, Any],
        cas: bool,
    ) -> None:
        self._messenger = messenger
        self._refusers = refusers
        self._search = search
        self._method = method
        self._arguments = arguments
        self._cas = cas
        self._stored = Stored()
        self._sent: dict[messages.Address, Candidate] = {}
        self._failed: list[Candidate] = []
        self._waiting = 0
        self._done: asyncio.Future[None] | None = None
        self._known = set(search.items.values()) if search else set()

    async def run(self, candidates: Iterable[Candidate]) -> Stored:
        """Store at these nodes, as far as they have given tokens, and at others in place of those that fail."""
        chosen, replaced = [candidate for candidate in candidates if candidate.token], 0
        while chosen:
            await self._send(chosen)
            chosen = []
            if self._failed and replaced < MAX_REPLACED:
                chosen = (await self._others())[: MAX_REPLACED - replaced]
                replaced += len(chosen)
        return self._stored

    def on_reply(self, _contact: Contact, _reply: Reply) -> None:
        self._stored.taken += 1
        self._count()

    def on_error(self, contact: Contact, code: int) -> None:
        candidate, now = self._sent[contact.address], asyncio.get_running_loop().time()
        candidate.code = code
        if self._cas and code in (messages.CAS_MISMATCH, messages.SEQ_TOO_OLD):
            self._stored.conflicts += 1
            if self._search:
                target = self._search.walks[0].target
                self._refusers.on_conflict(target, contact.address, candidate.seq, now)
        else:
            if self._search and now - self._search.ended < TOKEN_LASTS:
                self._refusers.on_refusal(self._method, contact.address, now)
            self._fail(candidate)
        self._count()

    def on_slow(self, contact: Contact) -> None: ...

    def on_timeout(self, contact: Contact) -> None:
        self._fail(self._sent[contact.address])
        self._count()

    async def _send(self, candidates: list[Candidate]) -> None:
        done = self._done = asyncio.get_running_loop().create_future()
        self._failed = []
        self._waiting = len(candidates)
        for candidate in candidates:
            self._sent[candidate.contact.address] = candidate
            own = {**self._arguments, b"token": candidate.token}
            if self._cas:
                # Also if the node had nothing: otherwise it accepts the first values of two writers, and keeps one.
                own[b"cas"] = candidate.seq
            self._messenger.query(self, candidate.contact, self._method, own)
        await done

    async def _others(self) -> list[Candidate]:
        """Return the next closest nodes, found by continuing the lookup if necessary."""
        if self._search is None:
            return []
        await asyncio.gather(*(walk.run() for walk in self._search.walks))
        chosen = []
        for walk in self._search.walks:
            for candidate in walk.traversal.closest():
                if candidate.contact.address in self._sent or not candidate.token:
                    continue
                if self._cas and self._search.items.get(candidate.contact.address, b"") not in {b"", *self._known}:
                    # The value does not contain the entries of this item, because it was made before.
                    self._sent[candidate.contact.address] = candidate
                    self._stored.conflicts += 1
                else:
                    chosen.append(candidate)
        return chosen

    def _fail(self, candidate: Candidate) -> None:
        self._stored.failed += 1
        candidate.can_store = False
        self._failed.append(candidate)

    def _count(self) -> None:
        self._waiting -= 1
        if not self._waiting and self._done and not self._done.done():
            self._done.set_result(None)
