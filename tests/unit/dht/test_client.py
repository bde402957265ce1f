"""The client: it checks items, its lookups wait for a turn, and it can be closed."""

import asyncio
from contextlib import AsyncExitStack
from typing import cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc import bencode, messages
from extensions.dht.krpc.client import Client
from extensions.dht.krpc.messages import Address, Contact, Item
from extensions.dht.krpc.schedule import Job, LookupLimits
from tests.client import eventually

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()


class Node(asyncio.DatagramProtocol):
    """A node that answers each query with the same item."""

    def __init__(self, signature: bytes) -> None:
        self._body = {b"id": b"n" * 20, b"k": PUBLIC_KEY, b"seq": 1, b"sig": signature, b"token": b"t", b"v": b"value"}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)
        self.contact = Contact(b"n" * 20, transport.get_extra_info("sockname"))

    def datagram_received(self, data: bytes, address: Address) -> None:
        transaction = bencode.decode(data)[b"t"]
        self.transport.sendto(bencode.encode({b"r": self._body, b"t": transaction, b"y": b"r"}), address)


async def started(client: Client) -> Client:
    await client.start(["127.0.0.1"])
    return client


@pytest.mark.parametrize("is_forged", [True, False])
async def test_an_item_that_its_key_has_not_signed_is_counted_and_ignored(is_forged: bool) -> None:
    signature = bytes(64) if is_forged else messages.sign_item(KEY, b"r0", 1, b"value")
    loop = asyncio.get_running_loop()
    _, node = await loop.create_datagram_endpoint(lambda: Node(signature), ("127.0.0.1", 0))
    client = await started(Client(lambda _family: [node.contact], private=True))
    items: list[Item] = []
    found = await client.get(PUBLIC_KEY, b"r0", Job(), items.append)
    assert [candidate.seq for candidate in found.candidates] == [0 if is_forged else 1]
    assert ([item.value for item in items], client.counters.invalid_items) == (
        ([], 1) if is_forged else ([b"value"], 0)
    )
    client.close()
    node.transport.close()


async def test_lookups_wait_for_a_turn() -> None:
    client = await started(Client(lambda _family: [], private=True))
    async with AsyncExitStack() as stack:
        for _ in range(LookupLimits().parallel):
            await stack.enter_async_context(client.scheduler.turn(Job()))
        lookup = asyncio.ensure_future(client.find_nodes(bytes(20)))
        await eventually(lambda: client.scheduler.lookups_waiting == 1)
        assert not lookup.done()
    await lookup
    assert client.scheduler.running == 0
    client.close()


async def test_a_client_that_is_closed_refuses() -> None:
    client = await started(Client(lambda _family: [], private=True))
    found = await client.find_nodes(bytes(20))
    client.close()
    assert client.is_closed
    for call in (client.find_nodes(bytes(20)), client.announce(found, bytes(20), 80)):
        with pytest.raises(asyncio.CancelledError):
            await call
