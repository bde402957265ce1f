"""The addresses that strangers' URLs may lead to, and the threads that their names occupy."""

import asyncio
import gc
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from extensions.dialing import ForbiddenAddress, Resolver, Target, is_public, lookup, network_of
from tests.client import PATIENCE, eventually

PUBLIC = "192.0.32.8"


@pytest.mark.parametrize(
    "host", ["1.1.1.1", "8.8.8.8", "193.0.6.139", "2606:4700::1111", "2a00:1450:4001::1", "2001:470:1:2::3"]
)
def test_hosts_of_the_public_network(host: str) -> None:
    assert is_public(host)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250"),
        *("240.0.0.1", "255.255.255.255"),
        *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12:3456::1", "ff02::1", "ff0e::1", "2001:db8::1"),
        # IPv4 in IPv6: mapped, compatible, 6to4, Teredo, NAT64.
        *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::127.0.0.1", "::8.8.8.8", "2002:7f00:1::1", "2002:808:808::1"),
        *("2001:0:808:808::1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::a00:1"),
        # Not assigned.
        *("4000::1", "8000::1", "100::1", "1fff::1", "5f00::1"),
        # Some parsers take these for addresses.
        *(
            "",
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0177.0.0.1",
            "1.1.1.1:80",
            "[2606:4700::1111]",
            "1.1.1.1 ",
        ),
    ],
)
def test_all_others(host: str) -> None:
    assert not is_public(host)


def test_networks() -> None:
    assert network_of("192.0.2.1", 24) == network_of("192.0.2.255", 24) != network_of("192.0.3.1", 24)
    assert network_of("192.0.2.1", 32) != network_of("192.0.2.2", 32)
    assert (
        network_of("2001:470:1:2::1", 32) == network_of("2001:470:1:2:ffff::", 24) != network_of("2001:470:1:3::", 24)
    )


class NameServer:
    """Answers for `socket.getaddrinfo`: names that contain "stuck" get no answer until `answer` is set."""

    def __init__(self) -> None:
        self.names = {"mixed.example": ["127.0.0.1", "::1", PUBLIC], "public.example": [PUBLIC, "2606:4700::1"]}
        self.answer = threading.Event()
        self.asked: list[str] = []
        self.waiting = 0

    def getaddrinfo(self, host: str, port: object, **_: object) -> list[Any]:
        self.asked.append(host)
        if "stuck" in host:
            self.waiting += 1
            self.answer.wait(60)
            self.waiting -= 1
        if host not in self.names:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.names[host]]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[NameServer]:
    server = NameServer()
    monkeypatch.setattr(socket, "getaddrinfo", server.getaddrinfo)
    yield server
    server.answer.set()


async def test_a_name_is_resolved_once_and_a_public_address_is_chosen(server: NameServer) -> None:
    resolver = Resolver()
    assert await resolver.resolve("wss://mixed.example/x", False) == Target("wss://mixed.example/x", PUBLIC, 443)
    assert (await resolver.resolve("wss://public.example:8443", False)).port == 8443
    assert server.asked == ["mixed.example", "public.example"]


async def test_a_trusted_url_may_be_ws_and_lead_to_any_address_and_port(server: NameServer) -> None:
    assert await Resolver().resolve("ws://mixed.example:25/", True) == Target("ws://mixed.example:25/", "127.0.0.1", 25)
    assert (await Resolver().resolve("ws://10.0.0.1", True)).port == 80
    assert server.asked == ["mixed.example"]


@pytest.mark.parametrize(
    "url",
    [
        *(f"wss://user:secret@{PUBLIC}", f"wss://user@{PUBLIC}", f"wss://@{PUBLIC}/"),
        *(f"ws://{PUBLIC}", f"wss://{PUBLIC}:25", f"wss://{PUBLIC}:x", "wss://[", "wss:///x", "wss://127.0.0.1"),
    ],
)
async def test_a_forbidden_url_is_not_resolved(server: NameServer, url: str) -> None:
    with pytest.raises(ForbiddenAddress):
        await Resolver().resolve(url, False)
    assert server.asked == []


@pytest.mark.parametrize("name", ["nowhere.example", "x" * 70 + ".example"])
async def test_a_name_that_cannot_be_resolved_is_an_os_error(server: NameServer, name: str) -> None:
    with pytest.raises(OSError, match="no such name"):
        await Resolver().resolve(f"wss://{name}", False)
    assert server.asked == [name]


async def test_names_without_an_answer_do_not_keep_a_trusted_name_waiting(server: NameServer) -> None:
    resolver = Resolver(max_strangers=4)
    strangers = [asyncio.ensure_future(resolver.resolve(f"wss://stuck{n}.example", False)) for n in range(20)]
    await eventually(lambda: server.waiting == 4)
    trusted = resolver.resolve("wss://public.example", True)
    assert (await asyncio.wait_for(trusted, PATIENCE)).address == PUBLIC
    assert await asyncio.wait_for(lookup("public.example"), PATIENCE) == server.names["public.example"]
    # Requests that are cancelled still occupy their threads, and no further threads start.
    for task in strangers[:4]:
        task.cancel()
    await asyncio.wait(strangers[:4])
    assert (await asyncio.wait_for(resolver.resolve("wss://public.example", True), PATIENCE)).address == PUBLIC
    assert server.waiting == 4
    server.answer.set()
    results = await asyncio.gather(*strangers[4:], return_exceptions=True)
    assert all(isinstance(result, OSError) for result in results)
    assert len([name for name in server.asked if "stuck" in name]) == 20


async def test_a_numeric_address_does_not_wait_for_names_without_an_answer(server: NameServer) -> None:
    resolver = Resolver(max_strangers=1)
    stuck = asyncio.ensure_future(resolver.resolve("wss://stuck.example", False))
    await eventually(lambda: server.waiting == 1)
    for host in (PUBLIC, "[2606:4700::1]"):
        target = await asyncio.wait_for(resolver.resolve(f"wss://{host}", False), PATIENCE)
        assert target.address == host.strip("[]")
    stuck.cancel()


async def test_if_no_thread_can_be_started_a_name_is_not_resolved_and_occupies_no_place(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver(max_strangers=1)

    def fail(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as without_threads:
        without_threads.setattr(threading.Thread, "start", fail)
        for trusted in (False, True):
            with pytest.raises(OSError, match="can't start new thread"):
                await resolver.resolve("wss://public.example", trusted)
    target = await asyncio.wait_for(resolver.resolve("wss://public.example", False), PATIENCE)
    assert target.address == PUBLIC
    assert server.asked == ["public.example"]


async def test_requests_for_the_same_name_share_one_thread(server: NameServer) -> None:
    resolver = Resolver(max_strangers=1)
    server.names["stuck.example"] = [PUBLIC]
    tasks = [asyncio.ensure_future(resolver.resolve("wss://stuck.example", trusted)) for trusted in (False, True) * 5]
    await eventually(lambda: server.waiting == 1)
    server.answer.set()
    assert {target.address for target in await asyncio.gather(*tasks)} == {PUBLIC}
    assert server.asked == ["stuck.example"]
    assert (await asyncio.wait_for(resolver.resolve("wss://public.example", False), PATIENCE)).address == PUBLIC


async def test_a_name_is_given_up_after_a_time(server: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extensions.dialing.TIMEOUT", 0.01)
    errors: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    with pytest.raises(TimeoutError):
        await Resolver().resolve("wss://stuck.example", True)
    assert server.waiting == 1
    server.answer.set()
    await eventually(lambda: server.waiting == 0)
    await asyncio.sleep(0.01)
    gc.collect()
    asyncio.get_running_loop().set_exception_handler(None)
    assert errors == [], "an error that comes too late is ignored"
