"""The server's side of TLS, against OpenSSL's client, without sockets."""

import asyncio
import ctypes
import ssl
import weakref
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.certificates import Pair
from tracker.net.tls import Certificate
from tracker.net.tls_transport import VAIN, TlsTransport
from tracker.settings import Tls

MAPS = Path("/proc/self/maps")
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Socket(asyncio.Transport):
    """The event loop's transport of a socket."""

    def __init__(self) -> None:
        super().__init__({"socket": "a socket"})
        self.sent = b""
        self.calls: list[object] = []

    def write(self, data: bytes) -> None:  # type: ignore[override]
        assert not self.is_closing()
        self.sent += data

    def close(self) -> None:
        self.calls.append("close")

    def abort(self) -> None:
        self.calls.append("abort")

    def is_closing(self) -> bool:
        return "close" in self.calls or "abort" in self.calls

    def pause_reading(self) -> None:
        self.calls.append("pause")

    def resume_reading(self) -> None:
        self.calls.append("resume")

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.calls.append((high, low))

    def get_write_buffer_size(self) -> int:
        return 7


class Reader(asyncio.Protocol):
    """Keeps all calls, and all data together."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.data = b""
        self.reads = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.calls.append("made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self.reads += 1

    def eof_received(self) -> None:
        self.calls.append("eof")

    def connection_lost(self, error: Exception | None) -> None:
        self.calls.append(("lost", type(error)))

    def pause_writing(self) -> None:
        self.calls.append("full")

    def resume_writing(self) -> None:
        self.calls.append("drained")


class Connection:
    """A server and a client. `cut` chooses the sizes of the pieces in which the client's bytes arrive."""

    def __init__(self, pair: Pair, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3, cut: Random | None = None) -> None:
        certificate = Certificate(Tls(certificate=str(pair.certificate), key=str(pair.key)))
        self.reader, self.socket = Reader(), Socket()
        self.server = TlsTransport(self.reader, certificate.context)
        self.server.connection_made(self.socket)
        context = pair.client_context()
        context.minimum_version = context.maximum_version = version
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self.incoming, self.outgoing, server_hostname=pair.name)
        self.cut = cut

    def exchange(self) -> None:
        """Let all bytes that were sent arrive."""
        data = self.outgoing.read()
        while data and not self.socket.is_closing():
            size = self.cut.choice((1, 5, 100, 5000, len(data))) if self.cut else len(data)
            self.server.data_received(data[:size])
            data = data[size:]
        sent, self.socket.sent = self.socket.sent, b""
        self.incoming.write(sent)

    def open(self) -> None:
        """Do the handshake."""
        while True:
            try:
                self.client.do_handshake()
            except ssl.SSLWantReadError:
                self.exchange()
            else:
                self.exchange()
                return

    def received(self) -> bytes:
        """Return the data that the client receives. Raises `ssl.SSLZeroReturnError` for the closure alert alone."""
        self.exchange()
        data = b""
        try:
            while part := self.client.read(1 << 20):
                data += part
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            if not data:
                raise
        return data

    def says_goodbye(self) -> bool:
        """Return whether the client has got the closure alert."""
        try:
            return self.received() == b""
        except ssl.SSLZeroReturnError:
            return True


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(Path(tmp_path_factory.mktemp("tls")), "127.0.0.1")


@pytest.fixture(params=VERSIONS)
def connection(pair: Pair, request: pytest.FixtureRequest) -> Iterator[Connection]:
    made = Connection(pair, request.param)
    made.open()
    yield made
    made.server.connection_lost(None)


def test_both_sides_read_the_data_of_the_other(connection: Connection) -> None:
    assert connection.reader.calls == ["made"]
    connection.client.write(b"ping")
    connection.exchange()
    assert connection.reader.data == b"ping"
    connection.server.write(b"pong")
    assert connection.received() == b"pong"


@given(seed=st.integers(0), version=st.sampled_from(VERSIONS), sizes=st.lists(st.integers(1, 60_000), max_size=5))
def test_data_of_any_size_arrives_in_any_pieces(
    pair: Pair, seed: int, version: ssl.TLSVersion, sizes: list[int]
) -> None:
    random = Random(seed)
    connection = Connection(pair, version, random)
    connection.open()
    expected = b""
    for size in sizes:
        data = random.randbytes(size)
        connection.client.write(data)
        connection.server.write(data)
        assert connection.received() == data
        expected += data
    assert connection.reader.data == expected


def test_the_records_of_one_read_are_passed_on_together(connection: Connection) -> None:
    for number in range(50):
        connection.client.write(b"%d " % number * 100)
    connection.exchange()
    assert connection.reader.data.split()[::100] == [b"%d" % number for number in range(50)]
    assert connection.reader.reads == 1


def test_data_behind_the_handshake_is_not_left(pair: Pair) -> None:
    connection = Connection(pair)
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.do_handshake()
    connection.exchange()
    connection.client.do_handshake()
    connection.client.write(b"at once")
    connection.exchange()
    assert connection.reader.data == b"at once"


def test_another_protocol_reads_from_now_on(connection: Connection) -> None:
    other = Reader()
    connection.server.set_protocol(other)
    connection.client.write(b"more")
    connection.exchange()
    connection.server.pause_writing()
    connection.server.resume_writing()
    connection.server.connection_lost(ConnectionResetError())
    assert (other.data, other.calls) == (b"more", ["full", "drained", ("lost", ConnectionResetError)])
    assert connection.reader.calls == ["made"]


def test_closing_sends_all_data_and_the_alert_and_waits_for_no_answer(connection: Connection) -> None:
    connection.server.write(b"the end" * 10_000)
    connection.server.close()
    connection.server.close()
    connection.server.write(b"too late")
    assert connection.socket.calls == ["close"]
    assert connection.server.is_closing()
    assert connection.received() == b"the end" * 10_000
    assert connection.says_goodbye()


def test_the_other_sides_alert_ends_the_connection(connection: Connection) -> None:
    connection.client.write(b"bye")
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.unwrap()
    connection.exchange()
    assert (connection.reader.data, connection.reader.calls) == (b"bye", ["made", "eof"])
    assert connection.socket.calls == ["close"]
    # It has its answer.
    connection.client.unwrap()


def test_data_can_be_sent_when_the_other_side_sends_no_more(connection: Connection) -> None:
    connection.reader.eof_received = lambda: True  # type: ignore[assignment, method-assign, return-value]
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.unwrap()
    connection.exchange()
    assert connection.server.eof_received()
    # What follows the alert is neither kept nor counted.
    for _ in range(2 * VAIN):
        connection.server.data_received(b"\x17\x03\x03\x00\x01x")
    assert connection.socket.calls == []
    connection.server.write(b"last words")
    connection.server.close()
    assert connection.received() == b"last words"
    assert connection.says_goodbye()


def test_the_reader_that_has_taken_over_is_told_of_the_end(connection: Connection) -> None:
    other = Reader()
    connection.reader.data_received = lambda _: connection.server.set_protocol(other)  # type: ignore[method-assign, assignment]
    connection.client.write(b"a request")
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.unwrap()
    connection.exchange()
    assert (connection.reader.calls, other.calls) == (["made"], ["eof"])


def test_an_end_without_the_alert_is_no_end_of_the_data(connection: Connection) -> None:
    assert not connection.server.eof_received()
    assert connection.reader.calls == ["made"]


def test_a_broken_record_is_answered_with_an_alert(connection: Connection) -> None:
    connection.client.write(b"whole")
    whole = connection.outgoing.read()
    connection.client.write(b"broken")
    broken = bytearray(connection.outgoing.read())
    broken[-1] ^= 1
    connection.server.data_received(whole + broken)
    connection.server.write(b"too late")
    assert connection.reader.data == b"whole"
    assert connection.socket.calls == ["close"]
    with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac"):
        connection.received()
    connection.server.connection_lost(None)
    assert connection.reader.calls == ["made", ("lost", ssl.SSLError)]


def key_updates(connection: Connection, count: int) -> None:
    """Let the client send key updates that ask for answers."""
    library = ctypes.CDLL(next(line.split()[-1] for line in MAPS.read_text().splitlines() if "libssl" in line))
    library.SSL_key_update.argtypes = [ctypes.c_void_p, ctypes.c_int]
    # Python's `ssl` has no key updates. The pointer comes behind the object's head and one reference.
    pointer = ctypes.c_void_p.from_address(id(connection.client._sslobj) + 24).value  # type: ignore[attr-defined]  # noqa: SLF001
    for _ in range(count):
        assert library.SSL_key_update(pointer, 1) == 1
        connection.client.do_handshake()


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells where OpenSSL is")
def test_key_updates_are_answered_and_a_flood_of_them_ends_the_connection(pair: Pair) -> None:
    connection = Connection(pair)
    connection.open()
    key_updates(connection, VAIN // 2)
    connection.client.write(b"under a new key")
    connection.exchange()
    assert connection.reader.data == b"under a new key"
    connection.server.write(b"and so am I")
    assert connection.received() == b"and so am I"
    key_updates(connection, 10 * VAIN)
    data = connection.outgoing.read()
    # In pieces, of which none has a whole header.
    for start in range(0, len(data), 3):
        if not connection.socket.calls:
            connection.server.data_received(data[start : start + 3])
    assert connection.socket.calls == ["close"]
    connection.server.connection_lost(None)
    assert connection.reader.calls == ["made", ("lost", ssl.SSLError)]


def test_many_records_with_data_are_no_flood(connection: Connection) -> None:
    connection.cut = Random(1)
    for number in range(20 * VAIN):
        connection.client.write(b"%d " % number)
    connection.exchange()
    assert len(connection.reader.data.split()) == 20 * VAIN
    assert connection.socket.calls == []


@pytest.mark.parametrize(
    "data",
    [b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"GET / HTTP/1.1\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"],
    ids=["another message", "HTTP", "an alert"],
)
def test_a_failed_handshake_is_the_reason_of_the_end(pair: Pair, data: bytes) -> None:
    connection = Connection(pair)
    connection.server.data_received(data)
    assert connection.socket.calls == ["close"]
    connection.server.connection_lost(None)
    assert connection.reader.calls == ["made", ("lost", ssl.SSLError)]


@pytest.mark.parametrize("is_kind", [True, False])
def test_a_connection_without_a_handshake_closes(pair: Pair, is_kind: bool) -> None:
    connection = Connection(pair)
    connection.server.data_received(b"\x16\x03\x01\x02\x00\x01")
    (connection.server.close if is_kind else connection.server.abort)()
    assert connection.socket.calls == ["close" if is_kind else "abort"]
    assert connection.socket.sent == b""
    connection.server.connection_lost(None)
    assert connection.reader.calls == ["made", ("lost", type(None))]


@given(st.binary(max_size=300))
def test_any_first_bytes_are_a_handshake_or_an_error(pair: Pair, data: bytes) -> None:
    connection = Connection(pair)
    connection.server.data_received(data)
    connection.server.data_received(b"\x16\x03\x01" + data) if not connection.socket.is_closing() else None
    assert connection.reader.data == b""


def test_a_clients_renegotiation_is_refused(pair: Pair) -> None:
    context = Certificate(Tls(certificate=str(pair.certificate), key=str(pair.key))).context
    assert context.options & ssl.OP_NO_RENEGOTIATION


def test_the_rest_of_a_transport_is_that_of_the_socket(connection: Connection) -> None:
    server = connection.server
    server.set_write_buffer_limits(high=10)
    server.pause_reading()
    server.resume_reading()
    assert connection.socket.calls == [(10, None), "pause", "resume"]
    assert server.get_write_buffer_size() == 7
    assert server.get_extra_info("socket") == "a socket"
    assert server.get_extra_info("nothing", 1) == 1
    assert isinstance(server.get_extra_info("ssl_object"), ssl.SSLObject)
    assert not server.can_write_eof()


def test_an_ended_connection_takes_all_calls_and_is_forgotten(connection: Connection) -> None:
    server = connection.server
    server.connection_lost(None)
    server.connection_lost(None)
    server.write(b"late")
    server.close()
    server.abort()
    server.pause_reading()
    server.resume_reading()
    server.set_write_buffer_limits(high=10)
    server.pause_writing()
    server.resume_writing()
    assert server.is_closing()
    assert server.get_write_buffer_size() == 0
    assert server.get_extra_info("socket") is None
    assert connection.socket.calls == []
    assert connection.reader.calls == ["made", ("lost", type(None))]
    gone = [weakref.ref(cast(Any, one)) for one in (connection.reader, connection.socket)]
    del connection.reader, connection.socket
    assert [one() for one in gone] == [None, None]
