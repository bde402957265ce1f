"""Fetching descriptors, also from hostile hosts."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from extensions.dht.krpc.messages import Address
from extensions.dht.records import descriptor
from extensions.dht.records.descriptor import MAX_RECEIVED, DescriptorError
from extensions.entries import sign_entry
from tests.unit.dht.entries import NOW, URL, identity

OWN = descriptor.write(sign_entry(identity(1), b"", URL, NOW))


@asynccontextmanager
async def host(*answer: bytes, ends: bool = True) -> AsyncIterator[Address]:
    """Run a host that sends this response to any request. Unless it `ends`, it repeats the last part forever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(1000)
            for part in answer:
                writer.write(part)
                await writer.drain()
            while not ends:
                writer.write(answer[-1])
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        address: Address = server.sockets[0].getsockname()
        yield address
    finally:
        server.close()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""])
    return head.encode() + body


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


@pytest.mark.parametrize(
    "answer",
    [
        response(OWN, "200 OK", f"content-length: {len(OWN)}"),
        response(OWN),
        response(chunked(OWN, 7), "200 OK", "transfer-encoding: chunked"),
    ],
    ids=["content-length", "to the end", "chunked"],
)
async def test_a_descriptor_is_fetched(answer: bytes) -> None:
    async with host(answer) as address:
        assert await descriptor.fetch(address, NOW) == descriptor.read(OWN, NOW)


@pytest.mark.parametrize(
    ("answer", "ends"),
    [
        ((response(b"", "100 Continue") * 1000,), False),
        ((response(b"", "103 Early Hints", *["a: b"] * 300),), False),
        ((response(b"", "100 Continue") + response(OWN),), True),
        ((response(chunked(b"x" * 2000, 1), "200 OK", "transfer-encoding: chunked"),), True),
        ((response(b"", "200 OK", "transfer-encoding: chunked"), b"1\r\nx\r\n" * 1000), False),
        ((response(b"", "200 OK"), b"x" * 1000), False),
        ((response(b"", "200 OK", *[f"a{n}: {'b' * 70}" for n in range(MAX_RECEIVED // 70)]),), True),
        ((response(OWN, "404 Not Found"),), True),
        ((response(b"", "301 Moved", "location: /"),), True),
        ((response(b"", "101 Switching Protocols"),), True),
        ((b"SSH-2.0-OpenSSH\r\n",), True),
        ((b"\0" * 1000,), False),
        ((b"",), True),
    ],
)
async def test_any_other_response_is_rejected_after_a_few_bytes(answer: tuple[bytes, ...], ends: bool) -> None:
    received = 0
    read = asyncio.StreamReader.read

    async def count(self: asyncio.StreamReader, number: int = -1) -> bytes:
        nonlocal received
        data = await read(self, number)
        received += len(data)
        return data

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio.StreamReader, "read", count)
        async with host(*answer, ends=ends) as address:
            with pytest.raises(DescriptorError):
                await descriptor.fetch(address, NOW)
    # With TLS and without.
    assert received <= 2 * (MAX_RECEIVED + 1024)


async def test_other_tasks_run_while_a_response_is_read() -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with host(response(chunked(b"x" * 1500, 1), "200 OK", "transfer-encoding: chunked")) as address:
        task = asyncio.ensure_future(count())
        before = turns
        with pytest.raises(DescriptorError):
            await descriptor.fetch_body(address, tls=False)
        assert turns - before >= MAX_RECEIVED // 1024 - 1
        task.cancel()


async def test_the_certificates_of_the_system_are_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssl, "create_default_context", None)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", None)
    async with host(b"no TLS") as address:
        with pytest.raises(ssl.SSLError):
            await descriptor.fetch_body(address, tls=True)
