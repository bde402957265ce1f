"""Queries and their replies, with a clock that the test sets."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from extensions.dht.krpc import bencode
from extensions.dht.krpc.messages import Address, Contact, Reply
from extensions.dht.krpc.messenger import (
    AVOID,
    MAX_AVOID,
    MAX_IN_FLIGHT,
    MAX_TRIES,
    MEMORY,
    TIMEOUT,
    UNSOLICITED,
    Messenger,
)
from extensions.dht.krpc.reception import LOST

PLACE = ("127.0.0.1", 6881)


class Loop:
    """The parts of an event loop that a messenger needs."""

    def __init__(self) -> None:
        self.now = 100.0
        self.transport: object = None
        self.receiver = asyncio.DatagramProtocol()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        self._number += 1
        heappush(self._timers, (when, self._number, callback))
        return cast(asyncio.TimerHandle, self)

    def call_later(self, delay: float, callback: Callable[[], None]) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback)

    async def create_datagram_endpoint(
        self, protocol: Callable[[], asyncio.DatagramProtocol], **_: object
    ) -> tuple[asyncio.DatagramTransport, asyncio.DatagramProtocol]:
        self.receiver = protocol()
        return cast(asyncio.DatagramTransport, self.transport), self.receiver

    def cancel(self) -> None: ...

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, callback = heappop(self._timers)
            self.now = max(self.now, when)
            # A real loop logs the exception.
            with suppress(LookupError):
                callback()
        self.now = end


class Network:
    """A messenger with its socket and its loop. Nodes answer at once if they are `alive`."""

    def __init__(self, node_rate: int = 1000) -> None:
        self.loop = Loop()
        self.loop.transport = self
        self.alive: set[Address] = set()
        self.sent: list[tuple[float, Address]] = []
        self.data: list[bytes] = []
        self.messenger = Messenger(True, node_rate, cast(Any, self.loop))

    @classmethod
    async def start(cls, node_rate: int = 1000) -> "Network":
        network = cls(node_rate)
        await network.messenger.start(["127.0.0.1"])
        return network

    def sendto(self, data: bytes, address: Address) -> None:
        self.sent.append((self.loop.now, address))
        self.data.append(data)
        if address in self.alive:
            transaction = bencode.decode(data)[b"t"]
            reply = bencode.encode({b"r": {b"id": b"n" * 20}, b"t": transaction, b"y": b"r"})
            self.loop.call_later(0.01, lambda: self.loop.receiver.datagram_received(reply, address))

    def query(self, listener: "Listener", *addresses: Address) -> None:
        for address in addresses:
            self.messenger.query(listener, Contact(b"n" * 20, address), "ping", {})


class Listener:
    """Records its calls."""

    def __init__(self, fault: type[Exception] | None = None) -> None:
        self.calls: list[str] = []
        self._fault = fault

    def on_reply(self, contact: Contact, reply: Reply) -> None:
        self.calls.append("reply")

    def on_error(self, contact: Contact, code: int) -> None:
        self.calls.append("error")

    def on_slow(self, contact: Contact) -> None: ...

    def on_timeout(self, contact: Contact) -> None:
        self.calls.append("timeout")
        if self._fault:
            raise self._fault


def places(number: int) -> list[Address]:
    return [("127.0.0.1", 1000 + one) for one in range(number)]


def usable(network: Network, addresses: list[Address]) -> int:
    return sum(network.messenger.is_usable(address) for address in addresses)


# Nodes that do not answer


async def test_a_node_is_avoided_for_a_while_after_a_timeout() -> None:
    network, listener = await Network.start(), Listener()
    network.alive = {PLACE}
    dead = places(3)
    network.query(listener, PLACE, *dead)
    network.loop.pass_time(TIMEOUT + 0.2)
    assert (listener.calls, usable(network, dead), usable(network, [PLACE])) == (["reply", *["timeout"] * 3], 0, 1)
    network.loop.pass_time(AVOID)
    assert usable(network, dead) == 3


async def test_while_no_node_answers_none_is_avoided() -> None:
    network, listener = await Network.start(), Listener()
    told: list[bool] = []
    network.messenger.on_cut_off = told.append
    early, later = places(20)[:10], places(20)[10:]
    network.alive = {*early, *later}
    network.query(listener, *early, *later)
    network.loop.pass_time(0.1)
    network.alive = set()
    network.query(listener, *early[: LOST - 1])
    network.loop.pass_time(TIMEOUT + 0.2)
    assert (usable(network, early[: LOST - 1]), network.messenger.is_cut_off, told) == (0, False, [])
    network.query(listener, *later)
    network.loop.pass_time(TIMEOUT + 0.2)
    assert (usable(network, later), network.messenger.is_cut_off, told) == (10, True, [True])
    # As soon as one answers, the others are queried again, too.
    network.alive = {later[0]}
    network.query(listener, later[0])
    network.loop.pass_time(0.1)
    assert (usable(network, early), network.messenger.is_cut_off, told) == (10, False, [True, False])


async def test_dead_nodes_are_no_outage() -> None:
    network, listener = await Network.start(), Listener()
    network.alive = {PLACE}
    network.query(listener, PLACE)
    network.loop.pass_time(1)
    network.query(listener, *places(100))
    network.loop.pass_time(10)
    assert (network.messenger.is_cut_off, usable(network, places(100))) == (False, 0)


async def test_an_address_family_that_is_cut_off_costs_nothing_while_the_other_works() -> None:
    network, listener = await Network.start(), Listener()
    await network.messenger.start(["::1"])
    four, six = [("127.0.0.1", number) for number in range(1, 11)], [("::1", number) for number in range(1, 11)]
    network.alive = {*four, *six}
    network.query(listener, *four, *six)
    network.loop.pass_time(1)
    network.alive = set(four)
    network.query(listener, *six)
    network.loop.pass_time(5)
    reception = network.messenger.reception(6)
    assert (reception.is_cut_off, network.messenger.is_cut_off, usable(network, six)) == (True, False, 0)
    # A ping finds out when it is over.
    network.alive = {*four, *six}
    network.messenger.ping(Contact(b"n" * 20, six[0]))
    network.loop.pass_time(1)
    assert (reception.is_cut_off, usable(network, six), usable(network, four)) == (False, 10, 10)
    # Both families together are an outage, in which none is avoided.
    network.alive = set()
    network.query(listener, *four, *six)
    network.loop.pass_time(5)
    assert network.messenger.is_cut_off
    network.query(listener, *four, *six)
    network.loop.pass_time(5)
    network.alive = {four[0]}
    network.query(listener, four[0])
    network.loop.pass_time(1)
    assert (network.messenger.is_cut_off, usable(network, four), usable(network, six)) == (False, 10, 0)


async def test_a_node_may_be_queried_later_though_it_is_avoided_now() -> None:
    network, listener = await Network.start(), Listener()
    network.query(listener, PLACE)
    network.loop.pass_time(3)
    messenger = network.messenger
    assert (messenger.is_usable(PLACE), messenger.is_allowed(PLACE)) == (False, True)
    assert not any(messenger.is_allowed(address) for address in (("127.0.0.1", 0), ("::1", 6881)))
    public = Messenger(False, 1000, cast(Any, network.loop))
    await public.start(["127.0.0.1"])
    assert [public.is_allowed(address) for address in (("192.168.0.2", 1), ("8.8.8.8", 1))] == [False, True]


async def test_the_nodes_that_have_answered_are_known_until_they_miss_a_query() -> None:
    network, listener = await Network.start(), Listener()
    network.alive = {PLACE, *places(3)}
    network.query(listener, *places(3), PLACE)
    network.loop.pass_time(1)
    assert [contact.address for contact in network.messenger.confirmed(4)] == [PLACE, *places(3)[::-1]]
    assert network.messenger.confirmed(6) == []
    network.alive = {PLACE}
    network.query(listener, places(1)[0])
    network.loop.pass_time(3)
    assert not network.messenger.has_answered(places(1)[0])
    assert [contact.address for contact in network.messenger.confirmed(4)] == [PLACE, *places(3)[:0:-1]]


async def test_each_further_timeout_of_a_node_quadruples_the_time_until_that_is_forgotten() -> None:
    network, listener = await Network.start(), Listener()
    network.alive = {PLACE}
    (dead,) = places(1)

    async def avoided() -> float:
        """Let the node time out, and return the seconds for which it is avoided then."""
        network.query(listener, PLACE, dead)
        network.loop.pass_time(TIMEOUT + 0.2)
        assert not network.messenger.is_usable(dead)
        seconds = 0
        while not network.messenger.is_usable(dead):
            seconds += 1
            network.loop.pass_time(1)
        return seconds

    for expected in (AVOID, 4 * AVOID, MAX_AVOID, MAX_AVOID):
        assert await avoided() == pytest.approx(expected, abs=1.5)
    network.loop.pass_time(MEMORY)
    assert await avoided() == pytest.approx(AVOID, abs=1.5)


async def test_timeouts_can_be_forgotten() -> None:
    network, listener = await Network.start(), Listener()
    network.alive = {PLACE}
    network.query(listener, PLACE, *places(3))
    network.loop.pass_time(TIMEOUT + 0.2)
    assert usable(network, places(3)) == 0
    network.messenger.forget_timeouts()
    assert usable(network, places(3)) == 3


async def test_a_flood_of_datagrams_that_answer_no_query_is_not_decoded() -> None:
    network = await Network.start()
    for _ in range(2):
        before = network.messenger.counters.garbage
        for _ in range(10 * UNSOLICITED):
            network.loop.receiver.datagram_received(b"garbage", PLACE)
        assert network.messenger.counters.garbage - before == UNSOLICITED
        network.loop.pass_time(1)


@pytest.mark.parametrize("answer", ["foreign", "malformed"])
async def test_a_flood_from_a_node_that_was_queried_is_not_decoded(answer: str) -> None:
    network, listener = await Network.start(), Listener()
    network.query(listener, PLACE)
    receive, [query] = network.loop.receiver.datagram_received, network.data
    transaction = bencode.decode(query)[b"t"]
    body = {b"t": transaction, b"y": b"r"} if answer == "malformed" else {b"t": b"0000", b"r": {b"id": b"n" * 20}}
    for _ in range(10 * UNSOLICITED):
        receive(bencode.encode({b"y": b"r", **body}), PLACE)
    assert network.messenger.counters.garbage <= UNSOLICITED + MAX_TRIES
    # The reply to a query is decoded, even if others have sent a flood under this node's address.
    network.query(listener, PLACE)
    transaction = bencode.decode(network.data[1])[b"t"]
    receive(bencode.encode({b"r": {b"id": b"n" * 20}, b"t": transaction, b"y": b"r"}), PLACE)
    assert listener.calls == ["reply"]


async def test_a_pause_is_no_outage() -> None:
    network, listener = await Network.start(), Listener()
    network.alive = {PLACE}
    dead = places(2)
    network.query(listener, PLACE, dead[0])
    network.loop.pass_time(TIMEOUT + 10)
    network.query(listener, PLACE, dead[1])
    network.loop.pass_time(TIMEOUT + 10)
    assert usable(network, dead) == 0


# Listeners that raise


async def test_a_listener_that_raises_does_not_keep_the_others_waiting() -> None:
    network, failing, listener = await Network.start(), Listener(LookupError), Listener()
    network.query(failing, *places(3))
    network.query(listener, PLACE)
    network.loop.pass_time(TIMEOUT + 1)
    assert (failing.calls, listener.calls, network.messenger.in_flight) == (["timeout"] * 3, ["timeout"], 0)


# Pace


@pytest.mark.parametrize("alive", [True, False])
async def test_a_query_that_had_to_wait_keeps_the_pace(alive: bool) -> None:
    network, listener = await Network.start(2), Listener()
    network.alive = {PLACE} if alive else set()
    # Others use up the queries in flight first.
    network.query(listener, *places(MAX_IN_FLIGHT))
    network.query(listener, *[PLACE] * 10)
    network.loop.pass_time(60)
    assert len(listener.calls) == MAX_IN_FLIGHT + 10
    times = [when for when, address in network.sent if address == PLACE]
    assert len(times) == 10
    assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[2:], strict=False))


async def test_queries_that_wait_for_one_node_do_not_delay_the_others() -> None:
    network, listener = await Network.start(1), Listener()
    network.query(listener, *[PLACE] * (MAX_IN_FLIGHT + 20))
    network.query(listener, *places(MAX_IN_FLIGHT - 1))
    assert len(network.sent) == MAX_IN_FLIGHT


async def test_an_address_family_without_a_socket_is_logged() -> None:
    messenger = Messenger(private=True)
    with capture_logs() as logs:
        await messenger.start(["127.0.0.1", "2001:db8::1"])
    assert messenger.families == [4]
    assert [(line["event"], line["host"]) for line in logs] == [("dht_no_socket", "2001:db8::1")]
    messenger.close()
    with pytest.raises(OSError, match=r".+"):
        await Messenger(private=True).start(["192.0.2.1"])
