"""Queries and their replies, by a clock that the test sets."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from extensions.dht.krpc import bencode
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address, Contact, Reply
from extensions.dht.krpc.messenger import MAX_IN_FLIGHT, OUTAGE, SHUN, TIMEOUT, Messenger

PLACE = ("127.0.0.1", 6881)


class Loop:
    """As much of an event loop as a messenger needs."""

    def __init__(self) -> None:
        self.now = 100.0
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

    def cancel(self) -> None: ...

    def pass_time(self, seconds: float) -> None:
        end = self.now + seconds
        while self._timers and self._timers[0][0] <= end:
            when, _, callback = heappop(self._timers)
            self.now = max(self.now, when)
            # A loop logs it.
            with suppress(LookupError):
                callback()
        self.now = end


class Network:
    """A messenger's socket, and its loop. Nodes answer at once if they are `alive`."""

    def __init__(self, node_rate: int = 1000) -> None:
        self.loop = Loop()
        self.alive: set[Address] = set()
        self.sent: list[tuple[float, Address]] = []
        self.messenger = Messenger(private=True, node_rate=node_rate)
        self.messenger._loop = cast(Any, self.loop)
        self.messenger._sockets[4] = cast(Any, self)

    def sendto(self, data: bytes, address: Address) -> None:
        self.sent.append((self.loop.now, address))
        if address in self.alive:
            transaction = bencode.decode(data)[b"t"]
            reply = bencode.encode({b"r": {b"id": b"n" * 20}, b"t": transaction, b"y": b"r"})
            self.loop.call_later(0.01, lambda: self.messenger._received(reply, address))

    def ask(self, asker: "Asker", *addresses: Address) -> None:
        for address in addresses:
            self.messenger.ask(asker, Contact(b"n" * 20, address), "ping", {})


class Asker:
    """Notes what it hears."""

    def __init__(self, fault: type[Exception] | None = None) -> None:
        self.heard: list[str] = []
        self._fault = fault

    def replied(self, contact: Contact, reply: Reply) -> None:
        self.heard.append("replied")

    def refused(self, contact: Contact, code: int) -> None:
        self.heard.append("refused")

    def late(self, contact: Contact) -> None: ...

    def silent(self, contact: Contact) -> None:
        self.heard.append("silent")
        if self._fault:
            raise self._fault


def places(number: int) -> list[Address]:
    return [("127.0.0.1", 1000 + one) for one in range(number)]


def usable(network: Network, addresses: list[Address]) -> int:
    return sum(network.messenger.is_usable(address) for address in addresses)


# Silent nodes


def test_a_silent_node_is_shunned_for_a_while() -> None:
    network, asker = Network(), Asker()
    network.alive = {PLACE}
    dead = places(3)
    network.ask(asker, PLACE, *dead)
    network.loop.pass_time(TIMEOUT + 0.2)
    assert (asker.heard, usable(network, dead), usable(network, [PLACE])) == (["replied", *["silent"] * 3], 0, 1)
    network.loop.pass_time(SHUN)
    assert usable(network, dead) == 3


def test_while_nobody_answers_nobody_is_shunned() -> None:
    network, asker = Network(), Asker()
    early, later = places(20)[:10], places(20)[10:]
    network.ask(asker, *early)
    network.loop.pass_time(OUTAGE)
    assert usable(network, early) == 0
    network.ask(asker, *later)
    network.loop.pass_time(TIMEOUT + 0.2)
    assert (usable(network, early), usable(network, later)) == (0, 10)
    # As soon as one answers the others are asked again, too.
    network.alive = {later[0]}
    network.ask(asker, later[0])
    network.loop.pass_time(0.1)
    assert usable(network, early) == 10


def test_a_rest_is_no_outage() -> None:
    network, asker = Network(), Asker()
    network.alive = {PLACE}
    dead = places(2)
    network.ask(asker, PLACE, dead[0])
    network.loop.pass_time(TIMEOUT + 10)
    network.ask(asker, PLACE, dead[1])
    network.loop.pass_time(TIMEOUT + 10)
    assert usable(network, dead) == 0


# What goes wrong in those who ask


def test_one_who_fails_to_hear_does_not_keep_the_others_waiting() -> None:
    network, failing, asker = Network(), Asker(LookupError), Asker()
    network.ask(failing, *places(3))
    network.ask(asker, PLACE)
    network.loop.pass_time(TIMEOUT + 1)
    assert (failing.heard, asker.heard, network.messenger.in_flight) == (["silent"] * 3, ["silent"], 0)


# Pace


@pytest.mark.parametrize("alive", [True, False])
def test_a_query_that_had_to_wait_keeps_the_pace_all_the_same(alive: bool) -> None:
    network, asker = Network(node_rate=2), Asker()
    network.alive = {PLACE} if alive else set()
    # As many others that are in flight first.
    network.ask(asker, *places(MAX_IN_FLIGHT))
    network.ask(asker, *[PLACE] * 10)
    network.loop.pass_time(60)
    assert len(asker.heard) == MAX_IN_FLIGHT + 10
    times = [when for when, address in network.sent if address == PLACE]
    assert len(times) == 10
    assert all(later - earlier >= 1.0 for earlier, later in zip(times, times[2:], strict=False))


def test_those_who_wait_for_one_node_do_not_hold_up_the_others() -> None:
    network, asker = Network(node_rate=1), Asker()
    network.ask(asker, *[PLACE] * (MAX_IN_FLIGHT + 20))
    network.ask(asker, *places(MAX_IN_FLIGHT - 1))
    assert len(network.sent) == MAX_IN_FLIGHT


async def test_a_family_without_a_socket_is_told() -> None:
    messenger = Messenger(private=True)
    with capture_logs() as logs:
        await messenger.start(["127.0.0.1", "2001:db8::1"])
    assert messenger.families == [4]
    assert [(line["event"], line["host"]) for line in logs] == [("dht_no_socket", "2001:db8::1")]
    messenger.close()
    with pytest.raises(OSError, match=r".+"):
        await Messenger(private=True).start(["192.0.2.1"])


# Turns


async def test_a_lookup_that_is_cancelled_while_it_waits_costs_no_turn() -> None:
    client = Client(lambda _family: [], private=True)
    await client.start(["127.0.0.1"])
    client.queue.running = 8
    waiting = [asyncio.ensure_future(client.find_nodes(bytes(20))) for _ in range(5)]
    await asyncio.sleep(0)
    assert len(client.queue) == 5
    tokens = client.queue._tokens
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)
    assert len(client.queue) == 0
    client.queue.running = 0
    client._give_turns()
    assert (client.queue.running, client.queue._tokens >= tokens) == (0, True)
    client.close()


async def test_a_client_that_is_closed_refuses() -> None:
    client = Client(lambda _family: [], private=True)
    await client.start(["127.0.0.1"])
    found = await client.find_nodes(bytes(20))
    client.close()
    for call in (client.find_nodes(bytes(20)), client.announce(found, bytes(20), 80)):
        with pytest.raises(asyncio.CancelledError):
            await call
