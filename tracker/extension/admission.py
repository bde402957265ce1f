"""Asks the extensions whether a peer may join a swarm (`Extension.admit`), while everything else goes on."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Final, NamedTuple, Protocol

from prometheus_client import CollectorRegistry, Gauge, Histogram

from tracker.core.hub import Hub, Outgoing
from tracker.core.pending import PendingJoin, PendingJoins
from tracker.reasons import DropReason

AT_ONCE: Final = 100
"""Joins that the extensions are asked about at a time; the others wait for their turn, one of each client."""


@dataclass(frozen=True, slots=True)
class Admission:
    """A peer asks to join a swarm."""

    info_hash: str
    """20 bytes as latin-1 text, as everywhere here."""
    peer_id: str
    """20 bytes as latin-1 text; the client has chosen it."""
    address: str
    """Numeric IP address of the client; of one behind a proxy that is not trusted, the proxy's."""

    @property
    def info_hash_hex(self) -> str:
        """The infohash as in a magnet link: 40 hexadecimal digits, lower case."""
        return self.info_hash.encode("latin-1").hex()


class Refusal(NamedTuple):
    """Why a peer may not join; its client is told the text."""

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
    """An extension that has a say."""

    async def admit(self, request: Admission) -> Refusal | None: ...


@dataclass(slots=True, eq=False)
class _Question:
    client: object
    """Whose it is, as `PendingJoin.client`."""
    timer: asyncio.TimerHandle
    since: float
    task: asyncio.Task[None] | None = None
    """None until it is its turn."""


class Admissions:
    """Every join that waits is a question to all judges, one after the other; the first refusal decides."""

    def __init__(self, hub: Hub, send: Callable[[Outgoing], None], timeout: float, registry: CollectorRegistry) -> None:
        self.timeout = timeout
        """Seconds from the announce to a refusal, if there is no verdict yet."""
        self._hub = hub
        self._send = send
        self._judges: Sequence[AdmissionPolicy] = ()
        self._questions: dict[PendingJoin, _Question] = {}
        # Those not begun, by client; the client whose turn is next comes first. A dict, since any of them may leave.
        self._queue: OrderedDict[object, dict[PendingJoin, None]] = OrderedDict()
        self._at_work = 0
        self._stopped = False
        self._seconds = Histogram(
            "peerservers_admission_seconds",
            "How long peers waited for leave to join a swarm",
            ["verdict"],
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
            registry=registry,
        )
        for verdict in (*_VERDICTS.values(), _WITHDRAWN):
            self._seconds.labels(verdict)
        waiting = Gauge("peerservers_admissions_waiting", "Peers that wait for leave to join", registry=registry)
        waiting.set_function(lambda: hub.lobby.waiting if hub.lobby else 0)

    def begin(self, judges: Sequence[AdmissionPolicy]) -> None:
        """Let nobody join any more whom not all of these admit."""
        self._judges = judges
        self._hub.lobby = PendingJoins(self._ask, self._forget)

    def stop(self) -> None:
        """Ask no more. Who waits, waits until its connection is closed."""
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
        # Not a timeout in the task: an extension that does not heed its cancellation would not end with it.
        timer = asyncio.get_running_loop().call_later(self.timeout, self._decide, join, TIMED_OUT)
        self._questions[join] = _Question(join.client, timer, monotonic())
        self._queue.setdefault(join.client, {})[join] = None
        self._begin_some()

    def _begin_some(self) -> None:
        while self._queue and self._at_work < AT_ONCE:
            client, joins = self._queue.popitem(last=False)
            join = next(iter(joins))
            del joins[join]
            if joins:
                self._queue[client] = joins
            self._at_work += 1
            task = asyncio.get_running_loop().create_task(self._judge(join))
            task.add_done_callback(self._end_one)
            self._questions[join].task = task

    def _end_one(self, _: asyncio.Task[None]) -> None:
        self._at_work -= 1
        self._begin_some()

    async def _judge(self, join: PendingJoin) -> None:
        request = Admission(join.info_hash, join.peer_id, join.connection.address)
        refusal = None
        for judge in self._judges:
            refusal = await judge.admit(request)
            if refusal:
                break
        self._decide(join, refusal)

    def _decide(self, join: PendingJoin, refusal: Refusal | None) -> None:
        if not self._end(join, _VERDICTS[refusal.reason if refusal else None]):
            return
        if refusal:
            self._send(self._hub.refused(join, *refusal))
        else:
            self._send(self._hub.admitted(join, monotonic()))

    def _forget(self, join: PendingJoin) -> None:
        self._end(join, _WITHDRAWN)

    def _end(self, join: PendingJoin, verdict: str) -> bool:
        """A question has its answer; whether it was still open."""
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
