"""Questions that this node asks others, and those that it answers (sans I/O).

All times are seconds on any monotonic clock.
"""

from collections.abc import Callable
from typing import Final

from extensions.cluster.envelope import OVERHEAD
from extensions.cluster.reasons import Dropped
from extensions.cluster.session import Session, Sessions
from extensions.cluster.transport import Transport
from extensions.cluster.wire import Ask, Told, encode

MAX_WAITING: Final = 1000
"""Most questions that wait for an answer."""

MAX_ANSWER: Final = 16 << 20
"""Bytes of the longest answer."""

_WINDOW: Final = 64
"""Numbers below the last one of a node's questions within which one may still come, but not twice."""

Reply = Callable[[bytes], None]
"""To be called once with the answer to a question; later calls do nothing."""

_ROOM: Final = 64
"""Bytes of a message with an answer besides the answer."""


class _Waiting:
    __slots__ = ("answers", "deadline", "done", "nodes")

    def __init__(self, nodes: set[str], deadline: float, done: Callable[[dict[str, bytes]], None]) -> None:
        self.nodes = nodes
        self.deadline = deadline
        self.done = done
        self.answers: dict[str, bytes] = {}


class Questions:
    """Questions in both directions. A question has a kind, and data that only this kind understands."""

    def __init__(self, sessions: Sessions, transport: Transport, clock: Callable[[], float]) -> None:
        self._sessions = sessions
        self._transport = transport
        self._clock = clock
        self._answering: dict[str, Callable[[bytes, Reply], None]] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._next = 0
        self._asked: dict[str, tuple[int, int]] = {}
        """For each node the number of its last question, and a bit for each of the numbers up to it that have come."""

    def on_ask(self, kind: str, answer: Callable[[bytes, Reply], None]) -> None:
        """Answer questions of a kind: `answer` is called with the data, and a function to be called with the answer."""
        self._answering[kind] = answer

    def ask(
        self, kind: str, data: bytes, nodes: list[str], timeout: float, done: Callable[[dict[str, bytes]], None]
    ) -> None:
        """Ask some nodes. `done` is called once, with the answers that came in time, by node."""
        if len(self._waiting) >= MAX_WAITING:
            self._sessions.dropped[Dropped.TOO_MANY_QUESTIONS] += 1
            done({})
            return
        self._next += 1
        number = self._next
        part = encode(Ask(number, kind, data))
        asked: set[str] = set()
        for node_id in nodes:
            session = self._sessions.by_id.get(node_id)
            if session is not None and session.send_single(part):
                asked.add(node_id)
        if not asked:
            done({})
            return
        self._waiting[number] = _Waiting(asked, self._clock() + timeout, done)

    def on_question(self, session: Session, message: Ask) -> None:
        """Answer a question of another node, once: another program may repeat it, and an answer is work."""
        if self._is_repeated(session.node_id, message.number):
            self._sessions.dropped[Dropped.REPEATED] += 1
            return
        answering = self._answering.get(message.kind)
        if answering is None:
            session.send_single(encode(Told(message.number, 0, True, memoryview(b""))))
            return
        number = message.number
        is_open = True

        def reply(answer: bytes) -> None:
            nonlocal is_open
            if is_open and not session.is_over:
                is_open = False
                self._reply(session, number, answer)

        answering(bytes(message.data), reply)

    def on_told(self, session: Session, message: Told) -> None:
        """Take an answer, or a part of one."""
        waiting = self._waiting.get(message.number)
        node_id = session.node_id
        if waiting is None or node_id not in waiting.nodes:
            self._sessions.dropped[Dropped.LATE] += 1
            return
        before = waiting.answers.get(node_id, b"")
        if len(before) != message.offset or len(before) + len(message.data) > MAX_ANSWER:
            # A part is missing.
            waiting.answers.pop(node_id, None)
            waiting.nodes.discard(node_id)
        else:
            waiting.answers[node_id] = before + bytes(message.data)
            if message.last:
                waiting.nodes.discard(node_id)
        self._end_if_complete(message.number, waiting)

    def tick(self, now: float) -> None:
        """End questions whose time is over."""
        if not self._waiting:
            return
        for number, waiting in list(self._waiting.items()):
            if now >= waiting.deadline:
                for node_id in waiting.nodes:
                    waiting.answers.pop(node_id, None)
                waiting.nodes.clear()
                self._end_if_complete(number, waiting)

    def ended(self, session: Session) -> None:
        """Do not wait for a node that is gone."""
        self._asked.pop(session.node_id, None)
        for number, waiting in list(self._waiting.items()):
            if session.node_id in waiting.nodes:
                waiting.answers.pop(session.node_id, None)
                waiting.nodes.discard(session.node_id)
                self._end_if_complete(number, waiting)

    def _is_repeated(self, node_id: str, number: int) -> bool:
        last, come = self._asked.get(node_id, (0, 0))
        if number > last:
            come = (come << min(number - last, _WINDOW)) & ((1 << _WINDOW) - 1)
            self._asked[node_id] = number, come | 1
            return False
        bit = 1 << min(last - number, _WINDOW)
        if bit >> _WINDOW or come & bit:
            return True
        self._asked[node_id] = last, come | bit
        return False

    def _end_if_complete(self, number: int, waiting: _Waiting) -> None:
        if not waiting.nodes:
            del self._waiting[number]
            waiting.done(waiting.answers)

    def _reply(self, session: Session, number: int, answer: bytes) -> None:
        if len(answer) > MAX_ANSWER:
            self._sessions.dropped[Dropped.TOO_LONG] += 1
            answer = b""
        room = self._transport.max_payload - OVERHEAD - _ROOM
        offset = 0
        while True:
            end = min(offset + room, len(answer))
            part = Told(number, offset, end == len(answer), memoryview(answer)[offset:end])
            if not session.send_single(encode(part)):
                self._sessions.dropped[Dropped.NOT_SENT] += 1
                return
            if end == len(answer):
                return
            offset = end
