"""Headers of the PROXY protocol: a header is read from as many bytes as it has, and from no fewer."""

from collections.abc import Iterator
from ipaddress import ip_address

from tests.fuzz.target import Target
from tracker.access.forwarded import numeric
from tracker.access.proxy_protocol import (
    MAX_V1,
    MAX_V2,
    SIGNATURE_V1,
    SIGNATURE_V2,
    ProxyError,
    may_be_header,
    proxy_header,
)

Outcome = tuple[str | None, int] | str | None
INVALID = "invalid"


def check(data: bytes) -> None:
    """Read the start of a connection, as more and more of it arrives."""
    whole = outcome(data)
    settled: Outcome = None
    for size in range(len(data) + 1):
        settled = outcome(data[:size])
        if settled is not None:
            break
    assert settled == whole, "pieces"
    if whole == INVALID:
        return
    assert may_be_header(data)
    if whole is None:
        assert len(data) < MAX_V2
        return
    assert isinstance(whole, tuple)
    address, length = whole
    assert length == size, "the header is read when its last byte has come"
    assert length <= (MAX_V1 if data[:1] == SIGNATURE_V1[:1] else MAX_V2)
    if address is not None:
        assert data[0] == SIGNATURE_V2[0] or b"%" not in data[:length], "an address of one machine only"
        assert numeric(address) == address == str(ip_address(address))


def outcome(data: bytes) -> Outcome:
    """Return the result, or that there was an error."""
    try:
        return proxy_header(data)
    except ProxyError:
        return INVALID


def seeds() -> Iterator[bytes]:
    """Yield headers of both versions, with data behind them."""
    for line in (
        b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443",
        b"PROXY TCP6 2001:DB8::7 ::1 1 65535",
        b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 0 2",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2",
        b"PROXY UNKNOWN anything",
        b"PROXY UNKNOWN " + b"x" * 91,
    ):
        yield line + b"\r\nGET / HTTP/1.1\r\n"
    for command, family, body in (
        (0x21, 0x11, bytes(range(12))),
        (0x21, 0x21, bytes(range(36)) + b"\x04\x00\x03abc"),
        (0x20, 0x00, b""),
        (0x21, 0x31, bytes(216)),
        (0x21, 0x12, bytes(12)),
    ):
        yield SIGNATURE_V2 + bytes([command, family]) + len(body).to_bytes(2) + body + b"\x16\x03\x01"


TARGET = Target(
    check,
    seeds,
    (SIGNATURE_V1, SIGNATURE_V2, b"TCP4 ", b"TCP6 ", b"UNKNOWN", b"\r\n", b"::ffff:", b"10.0.0.1", b" 65536", b"%1"),
    max_size=400,
    runs=5000,
)
