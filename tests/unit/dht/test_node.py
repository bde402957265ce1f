"""The addresses of a node, and the names of bootstrap nodes."""

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from extensions.dht import node as module
from extensions.dht.node import Node, families_of


def test_loopback_and_link_local_addresses_reach_only_a_private_dht() -> None:
    addresses = [("127.0.0.1", 1), ("::1", 1), ("fe80::1%lo", 1)]
    assert (families_of(addresses, False), families_of(addresses, True)) == (set(), {4, 6})
    assert families_of([*addresses, ("192.0.2.1", 1)], False) == {4}
    assert families_of([*addresses, ("2001:db8::1", 1)], False) == {6}
    assert families_of([], True) == set()


class Names:
    """Resolves every name to `addresses`, or to nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] = []
        monkeypatch.setattr(module, "lookup", self.lookup)

    def lookup(self, _host: str) -> asyncio.Future[list[str]]:
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        if self.addresses:
            answer.set_result(self.addresses)
        else:
            answer.set_exception(OSError(-2, "Name or service not known"))
        return answer


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


async def joined(node: Node, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the nodes that are added."""
    added: list[Any] = []
    monkeypatch.setattr(node, "add", added.append)
    node.join()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return added


@pytest.mark.parametrize(
    ("listen", "addresses", "expected"),
    [
        (["0.0.0.0:1"], [], {"192.0.2.7"}),
        (["[::]:1"], [], {"2001:db8::7"}),
        (["0.0.0.0:1", "[::]:1"], [], {"192.0.2.7", "2001:db8::7"}),
        (["0.0.0.0:1", "[::]:1"], [("192.0.2.1", 1), ("::1", 1)], {"192.0.2.7"}),
        (["0.0.0.0:1", "[::]:1"], [("127.0.0.1", 1), ("2001:db8::1", 1)], {"2001:db8::7"}),
    ],
)
async def test_bootstrap_addresses_of_other_families_are_left_out(
    names: Names,
    monkeypatch: pytest.MonkeyPatch,
    listen: list[str],
    addresses: list[tuple[str, int]],
    expected: set[str],
) -> None:
    names.addresses = ["192.0.2.7", "2001:db8::7"]
    node = Node(listen, ["router.example:7"], False)
    node.addresses = addresses
    assert {host for host, _ in await joined(node, monkeypatch)} == expected
    await node.close()


async def test_a_bootstrap_name_that_is_unknown_is_logged_once_until_it_is_known(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = Node(["0.0.0.0:1"], ["router.example:7"], False)
    with capture_logs() as log:
        for expected in (1, 1):
            assert await joined(node, monkeypatch) == []
            assert len(log) == expected
        names.addresses = ["192.0.2.7"]
        assert await joined(node, monkeypatch) == [("192.0.2.7", 7)]
        names.addresses = []
        await joined(node, monkeypatch)
    assert [(line["event"], line["name"]) for line in log] == [("dht_bootstrap_unknown", "router.example")] * 2
    await node.close()
