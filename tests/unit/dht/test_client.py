from typing import Any

import pytest

from extensions.dht.krpc.client import Client, Found
from extensions.dht.krpc.messages import Contact, Item, Reply
from extensions.dht.krpc.traversal import Candidate


async def test_an_item_that_its_key_has_not_signed_is_counted_and_not_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client(lambda _: [], private=True)
    key = b"k" * 32

    async def look_up(*arguments: Any) -> Found:
        on_reply = arguments[-1]
        for item in (Item(key, b"s" * 64, 1, b"forged"), None):
            on_reply(Candidate(0, Contact(bytes(20), ("127.0.0.1", 1))), Reply(b"t", bytes(20), item=item))
        return Found()

    monkeypatch.setattr(client, "_look_up", look_up)
    heard: list[Item] = []
    await client.get(key, b"r0", 0, heard.append)
    assert (heard, client.tally.invalid_items) == ([], 1)
