"""Data of TLS connections comes through one buffer, and the end leaves no reference."""

import asyncio
import weakref

import pytest

from tracker.net.tls_reader import TlsReader, share_tls_buffer


class Recorder(asyncio.Protocol):
    """Keeps all calls."""

    def __init__(self) -> None:
        self.calls: list[object] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append(transport)

    def data_received(self, data: bytes) -> None:
        self.calls.append(data)

    def eof_received(self) -> bool | None:
        self.calls.append("eof")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append(("lost", error))

    def pause_writing(self) -> None:
        self.calls.append("pause")

    def resume_writing(self) -> None:
        self.calls.append("resume")


def put(reader: TlsReader, data: bytes) -> None:
    """Let data arrive, as uvloop does."""
    reader.get_buffer(len(data) + 256)[: len(data)] = data
    reader.buffer_updated(len(data))


def test_everything_reaches_the_present_protocol() -> None:
    first, second = Recorder(), Recorder()
    reader = TlsReader(first)
    transport, error = asyncio.BaseTransport(), OSError()
    reader.connection_made(transport)
    put(reader, b"a request")
    reader.protocol = second
    put(reader, b"a message")
    put(reader, b"more")
    reader.pause_writing()
    reader.resume_writing()
    assert reader.eof_received() is True
    reader.connection_lost(error)
    assert first.calls == [transport, b"a request"]
    assert second.calls == [b"a message", b"more", "pause", "resume", "eof", ("lost", error)]


@pytest.mark.parametrize("is_tls", [False, True])
def test_only_a_transport_of_tls_gets_a_reader(is_tls: bool) -> None:
    class Transport(asyncio.Transport):
        def __init__(self, protocol: asyncio.BaseProtocol) -> None:
            super().__init__({"ssl_object": object()} if is_tls else {})
            self.protocol = protocol

        def get_protocol(self) -> asyncio.BaseProtocol:
            return self.protocol

        def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
            self.protocol = protocol

    recorder = Recorder()
    transport = Transport(recorder)
    share_tls_buffer(transport)
    reader = transport.protocol
    assert isinstance(reader, TlsReader) is is_tls
    if isinstance(reader, TlsReader):
        put(reader, b"by uvloop")
        reader.data_received(b"by asyncio")
        assert recorder.calls == [b"by uvloop", b"by asyncio"]


def test_connections_do_not_mix_and_their_end_is_forgotten() -> None:
    protocols = [Recorder(), Recorder()]
    readers = [TlsReader(protocol) for protocol in protocols]
    for number, reader in enumerate(readers):
        put(reader, b"%d" % number * 10)
    put(readers[0], b"short")
    assert [protocol.calls for protocol in protocols] == [[b"0" * 10, b"short"], [b"1" * 10]]
    readers[0].connection_lost(None)
    put(readers[0], b"late")
    readers[0].connection_lost(None)
    assert readers[0].eof_received() is None
    gone = weakref.ref(protocols[0])
    del protocols
    assert gone() is None
