"""Finds the counts of swarms in which only other nodes have peers, for scrapes (sans I/O).

The owner of an infohash knows the nodes that have the swarm, so it is asked. If it has no peers of this swarm itself,
it asks one of them. All scrapes of one turn of the event loop are one question to each owner.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from extensions.cluster.owners import Owners
from extensions.cluster.questions import Questions, Reply
from extensions.cluster.reasons import Dropped
from extensions.cluster.session import Sessions
from extensions.cluster.wire import MAX_KEYS, Id, Number
from tracker.extension import Counts, Swarm

TIMEOUT: Final = 1.0
"""Seconds to wait for other nodes. Swarms of which none has told by then have no peers."""

MAX_SOUGHT: Final = 10_000
"""Swarms whose counts are sought at the same time."""

OWNER: Final = "counts"
HOLDER: Final = "counts_here"
ALL: Final = "all_counts"
"""The kinds of questions: to the owner of some infohashes, to a node that has the swarms, and for all its swarms."""

_encode = msgspec.msgpack.Encoder().encode
_decode_keys = msgspec.msgpack.Decoder(Annotated[list[Id], Meta(max_length=MAX_KEYS)]).decode
_decode_rows = msgspec.msgpack.Decoder(list[tuple[Id, Number, Number, Number, Number]]).decode

_Found = dict[str, Counts]


class _Search:
    """One scrape that waits for the counts of some swarms."""

    __slots__ = ("done", "found", "missing")

    def __init__(self, missing: int, done: Callable[[_Found], None]) -> None:
        self.missing = missing
        self.done = done
        self.found: _Found = {}

    def step(self, key: str, counts: Counts | None) -> None:
        if counts is not None:
            self.found[key] = counts
        self.missing -= 1
        if not self.missing:
            self.done(self.found)


class CountFinder:
    """Asks other nodes for counts, and answers their questions. `wake` makes the node call `flush` soon."""

    def __init__(
        self,
        node_id: str,
        owners: Owners,
        swarms: Mapping[str, Swarm],
        sessions: Sessions,
        questions: Questions,
        wake: Callable[[], None],
    ) -> None:
        self._node_id: Final = node_id
        self._owners = owners
        self._swarms = swarms
        self._sessions = sessions
        self._questions = questions
        self._wake = wake
        self._searches: dict[str, list[_Search]] = {}
        """The scrapes that wait for the counts of each swarm."""
        self._new: list[str] = []
        """Those swarms among them that no node has been asked for yet."""
        questions.on_ask(OWNER, self._on_owner)
        questions.on_ask(HOLDER, self._on_holder)
        questions.on_ask(ALL, self._on_all)

    def find(self, keys: list[str] | None, done: Callable[[_Found], None]) -> None:
        """Call `done` once with the counts of those swarms that other nodes have; of all their swarms if None."""
        if keys is None:
            self._questions.ask(ALL, b"", list(self._sessions.by_id), TIMEOUT, lambda told: done(_merged(told)))
            return
        if len(self._searches) + len(keys) > MAX_SOUGHT:
            self._sessions.dropped[Dropped.TOO_MANY_QUESTIONS] += 1
            done({})
            return
        search = _Search(len(keys), done)
        for key in keys:
            waiting = self._searches.get(key)
            if waiting is None:
                self._searches[key] = [search]
                self._new.append(key)
            else:
                waiting.append(search)
        self._wake()

    def flush(self) -> None:
        """Ask for the swarms of this turn."""
        if not self._new:
            return
        new, self._new = self._new, []
        for owner, keys in _grouped(new, self._owners.ring.owner):
            done = partial(self._on_found, keys)
            if owner == self._node_id:
                self._resolve(keys, done)
            else:
                self._ask(OWNER, owner, keys, done)

    def _on_found(self, keys: list[str], found: _Found) -> None:
        for key in keys:
            for search in self._searches.pop(key):
                search.step(key, found.get(key))

    def _resolve(self, keys: list[str], done: Callable[[_Found], None]) -> None:
        """Find swarms, as the owner of their infohashes, here and at their holders."""
        found = self._here(keys)
        groups = [
            group for group in _grouped([key for key in keys if key not in found], self._holder) if group[0] != ""
        ]
        if not groups:
            done(found)
            return
        missing = len(groups)

        def step(more: _Found) -> None:
            nonlocal missing
            found.update(more)
            missing -= 1
            if not missing:
                done(found)

        for holder, sought in groups:
            self._ask(HOLDER, holder, sought, step)

    def _holder(self, key: str) -> str:
        """Return another node that has a swarm; empty if none has it."""
        for node_id in self._owners.directory.holders(key):
            if node_id in self._sessions.by_id:
                return node_id
        return ""

    def _ask(self, kind: str, node_id: str, keys: list[str], done: Callable[[_Found], None]) -> None:
        self._questions.ask(kind, _encode(keys), [node_id], TIMEOUT, lambda told: done(_merged(told)))

    def _here(self, keys: list[str]) -> _Found:
        found: _Found = {}
        for key in keys:
            swarm = self._swarms.get(key)
            if swarm is not None:
                found[key] = swarm.counts
        return found

    # Questions of other nodes

    def _on_owner(self, data: bytes, reply: Reply) -> None:
        self._resolve(_keys_in(data), lambda found: reply(_rows(found)))

    def _on_holder(self, data: bytes, reply: Reply) -> None:
        reply(_rows(self._here(_keys_in(data))))

    def _on_all(self, _data: bytes, reply: Reply) -> None:
        reply(_rows({key: swarm.counts for key, swarm in self._swarms.items() if swarm.peers}))


def _grouped(keys: list[str], node_of: Callable[[str], str]) -> list[tuple[str, list[str]]]:
    """Return keys by the node of each, at most `MAX_KEYS` in a group."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(node_of(key), []).append(key)
    return [
        (node_id, group[start : start + MAX_KEYS])
        for node_id, group in groups.items()
        for start in range(0, len(group), MAX_KEYS)
    ]


def _rows(found: _Found) -> bytes:
    return _encode([(key, *counts) for key, counts in found.items()])


def _keys_in(data: bytes) -> list[str]:
    try:
        keys: list[str] = _decode_keys(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []
    return keys


def _merged(told: dict[str, bytes]) -> _Found:
    """Return the counts in the answers of some nodes, each of which knows the peers of all."""
    found: _Found = {}
    for answer in told.values():
        try:
            found.update({key: (a, b, c, d) for key, a, b, c, d in _decode_rows(answer)})
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return found
