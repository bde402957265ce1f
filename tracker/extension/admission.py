"""Asks the extensions whether a peer may join a swarm (`Extension.admit`), without holding up other messages."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from time import monotonic
from typing import Any, Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Gauge, Histogram

from tracker.core.hub import Hub
from tracker.core.outbox import Outbox
from tracker.core.pending import PendingJoin
from tracker.net.request import RequestHead
from tracker.net.routes import Request
from tracker.protocol.fields import other_fields
from tracker.protocol.ids import swarm_key
from tracker.reasons import DropReason

MAX_QUESTIONS: Final = 100
"""Joins that the extensions are asked about at a time. Others wait in a queue that serves clients in turn."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A peer's request to join a swarm."""

    info_hash: str
    """20 bytes as latin-1 text, or a text id, as everywhere in this interface."""
    peer_id: str
    """20 bytes as latin-1 text, or in a text swarm any id; the client chose it."""
    address: str
    """Numeric IP address of the client. Behind a proxy that is not trusted, it is the proxy's address."""
    handshake: Request = field(default_factory=lambda: Request("", "", {}))
    """The path, query and headers of the request with which the client opened its WebSocket."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """The announce's other fields, as the client sent them: `event`, `left`, `numwant`, `uploaded`, or its own."""

    @property
    def info_hash_hex(self) -> str:
        """40 hexadecimal digits in lower case: the infohash as in a magnet link, or the key of a text swarm."""
        return swarm_key(self.info_hash).hex()

    @property
    def origin(self) -> str | None:
        """The origin of the page (RFC 6454), or None: only browsers send one."""
        return self.handshake.headers.get("origin")


@dataclass(frozen=True, slots=True)
class Admitted:
    """A verdict that does not last: the peer may join, and its next announce after that time needs another verdict."""

    seconds: float


class Refusal(NamedTuple):
    """The reason why a peer may not join; its client gets the text."""

    reason: DropReason
    text: str


FAILED: Final = Refusal(DropReason.ADMISSION_FAILED, "admission failed, try again later")
TIMED_OUT: Final = Refusal(DropReason.ADMISSION_TIMEOUT, "admission took too long, try again later")

_VERDICTS: Final = {
    None: "admitted",
    DropReason.ADMISSION_DENIED: "denied",
    DropReason.ADMISSION_FAILED: "failed",
    DropReason.ADMISSION_TIMEOUT: "timeout",
}
_WITHDRAWN: Final = "withdrawn"


class AdmissionPolicy(Protocol):
    """Decides whether a peer may join: an extension that overrides `admit`."""

    async def admit(self, request: Admission) -> Refusal | Admitted | None:
        """Return None if the peer may join for as long as it stays."""


@dataclass(slots=True, eq=False)
class _Question:
    """A pending join as the extensions see it."""

    client: object
    """As `PendingJoin.client`."""
    timer: asyncio.TimerHandle
    since: float
    task: asyncio.Task[None] | None = None
    """None while the question is in the queue."""


class Admissions:
    """Puts each pending join to all policies, one after the other; the first refusal decides.

    Without policies, peers join without a verdict.
    """

    def __init__(
        self,
        hub: Hub,
        outbox: Outbox,
        policies: Sequence[AdmissionPolicy],
        timeout: float,
        registry: CollectorRegistry,
    ) -> None:
        self.timeout = timeout
        """Seconds from the announce to a refusal, if there is no verdict by then."""
        self._hub = hub
        self._outbox = outbox
        self._policies = policies
        self._questions: dict[PendingJoin, _Question] = {}
        # The questions not asked yet, by client; the next client comes first. A dict, because any question may end.
        self._queue: OrderedDict[object, dict[PendingJoin, None]] = OrderedDict()
        self._asked = 0
        self._stopped = False
        self._seconds = Histogram(
            "peerservers_admission_seconds",
            "Time that peers waited for admission to a swarm",
            ["verdict"],
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        for verdict in (*_VERDICTS.values(), _WITHDRAWN):
            self._seconds.labels(verdict)
        waiting = Gauge("peerservers_admissions_waiting", "Peers that wait for admission", registry=registry)
        waiting.set_function(lambda: len(hub.pending))
        if policies:
            hub.pending.require(self._ask, self._withdraw)

    def stop(self) -> None:
        """Ask no more questions. Joins that are pending stay so until their connections close."""
        self._stopped = True
        for question in self._questions.values():
            question.timer.cancel()
            if question.task:
                question.task.cancel()
        self._questions.clear()
        self._queue.clear()

    def _ask(self, join: PendingJoin) -> None:
        if self._stopped:
            return
        # A timer, because an extension that ignores its cancellation would outlive a timeout within the task.
        timer = asyncio.get_running_loop().call_later(self.timeout, self._decide, join, TIMED_OUT)
        self._questions[join] = _Question(join.client, timer, monotonic())
        self._queue.setdefault(join.client, {})[join] = None
        self._start_questions()

    def _start_questions(self) -> None:
        while self._queue and self._asked < MAX_QUESTIONS:
            client, joins = self._queue.popitem(last=False)
            join = next(iter(joins))
            del joins[join]
            if joins:
                self._queue[client] = joins
            self._asked += 1
            task = asyncio.get_running_loop().create_task(self._put_to_policies(join))
            task.add_done_callback(self._on_done)
            self._questions[join].task = task

    def _on_done(self, _: asyncio.Task[None]) -> None:
        self._asked -= 1
        self._start_questions()

    async def _put_to_policies(self, join: PendingJoin) -> None:
        request = _request(join)
        until = inf
        for policy in self._policies:
            verdict = await policy.admit(request)
            if isinstance(verdict, Refusal):
                self._decide(join, verdict)
                return
            if verdict:
                until = min(until, monotonic() + verdict.seconds)
        self._decide(join, None, until)

    def _decide(self, join: PendingJoin, refusal: Refusal | None, until: float = inf) -> None:
        if not self._end(join, _VERDICTS[refusal.reason if refusal else None]):
            return
        if refusal:
            self._hub.reject(join, refusal.reason, refusal.text, monotonic(), self._outbox)
        else:
            self._hub.admit(join, monotonic(), self._outbox, until)

    def _withdraw(self, join: PendingJoin) -> None:
        self._end(join, _WITHDRAWN)

    def _end(self, join: PendingJoin, verdict: str) -> bool:
        """End a question; return whether it was still open."""
        question = self._questions.pop(join, None)
        if question is None:
            return False
        question.timer.cancel()
        if question.task is None:
            joins = self._queue[question.client]
            del joins[join]
            if not joins:
                del self._queue[question.client]
        elif question.task is not asyncio.current_task():
            question.task.cancel()
        self._seconds.labels(verdict).observe(monotonic() - question.since)
        return True


def _request(join: PendingJoin) -> Admission:
    """Return the question as the extensions get it. Its announce is the first of those that wait."""
    fields = other_fields(join.announces[0].payload)
    head = join.connection.handshake
    if not head:
        return Admission(join.info_hash, join.peer_id, join.connection.address, fields=fields)
    request = RequestHead(head)
    path, _, query = request.target.partition("?")
    handshake = Request(path, query, request.combined())
    return Admission(join.info_hash, join.peer_id, join.connection.address, handshake, fields)
