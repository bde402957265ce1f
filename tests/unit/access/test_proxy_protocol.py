"""The header of the PROXY protocol, versions 1 and 2, to the byte."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

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

CLIENT = "192.0.2.7"
LONGEST_ADDRESS = ":".join(["ffff"] * 8)


def header(command: int, family: int, body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return SIGNATURE_V2 + bytes([command, family]) + size.to_bytes(2, "big") + body


def tcp4(address: str = CLIENT) -> bytes:
    return header(0x21, 0x11, ip_address(address).packed + bytes([10, 0, 0, 1, 1, 2, 3, 4]))


def test_a_header_gives_the_address_of_the_client() -> None:
    assert proxy_header(tcp4() + b"GET /") == (CLIENT, len(tcp4()))
    six = header(0x21, 0x21, ip_address("2001:db8::1").packed + bytes(20))
    assert proxy_header(six) == ("2001:db8::1", len(six))
    mapped = header(0x21, 0x21, ip_address("::ffff:192.0.2.7").packed + bytes(20))
    assert proxy_header(mapped) == (CLIENT, len(mapped))


def test_a_header_with_additional_fields() -> None:
    """TLV fields, such as the requested host name, or padding."""
    more = header(0x21, 0x11, ip_address(CLIENT).packed + bytes(8) + b"\x04\x00\x03abc")
    assert proxy_header(more) == (CLIENT, len(more))


def test_no_address_for_a_connection_of_the_proxy_itself_or_a_client_without_ip() -> None:
    local = header(0x20, 0x00, b"")
    assert proxy_header(local) == (None, 16)
    assert proxy_header(header(0x20, 0x11, b"abc")) == (None, 19)
    assert proxy_header(header(0x21, 0x31, bytes(216))) == (None, 232)
    assert proxy_header(header(0x21, 0x00, b"")) == (None, 16)


def test_a_header_in_pieces() -> None:
    whole = tcp4()
    assert [proxy_header(whole[:size]) for size in range(len(whole))] == [None] * len(whole)


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n\x00\r\nQUIT\r" + bytes(4),
        header(0x11, 0x11, bytes(12)),
        header(0x22, 0x11, bytes(12)),
        header(0x21, 0x11, bytes(11)),
        header(0x21, 0x21, bytes(35)),
        header(0x21, 0x11, b"", length=0xFFFF),
    ],
    ids=["signature", "version", "command", "short 4", "short 6", "long"],
)
def test_data_that_is_no_proxy_header(data: bytes) -> None:
    with pytest.raises(ProxyError):
        proxy_header(data)


@given(st.binary(max_size=300), st.booleans())
def test_random_data_raises_nothing_but_a_proxy_error(data: bytes, signed: bool) -> None:
    if signed:
        data = SIGNATURE_V2 + data
    try:
        result = proxy_header(data)
    except ProxyError:
        return
    if result is not None:
        address, length = result
        assert 16 <= length <= len(data)
        assert address is None or numeric(address) == address


LINES = {
    b"PROXY TCP4 192.0.2.7 10.0.0.1 56324 443\r\n": CLIENT,
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": "255.255.255.255",
    b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n": "0.0.0.0",
    b"PROXY TCP6 2001:DB8::7 ::1 1 2\r\n": "2001:db8::7",
    b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:10.0.0.1 1 2\r\n": CLIENT,
    f"PROXY TCP6 {LONGEST_ADDRESS} {LONGEST_ADDRESS} 65535 65535\r\n".encode(): LONGEST_ADDRESS,
    b"PROXY UNKNOWN\r\n": None,
    b"PROXY UNKNOWN \r\n": None,
    b"PROXY UNKNOWN \xff \r \n\x00 192.0.2.7\r\n": None,
    f"PROXY UNKNOWN {LONGEST_ADDRESS} {LONGEST_ADDRESS} 65535 65535\r\n".encode(): None,
}
"""Lines of version 1 with the address that each gives. The last one has the most bytes of the specification."""


def test_the_longest_line() -> None:
    assert max(map(len, LINES)) == MAX_V1 == 107
    assert proxy_header(b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n") == (None, 107)
    assert proxy_header(b"PROXY UNKNOWN " + b"x" * 92) is None
    for end in (b"\r\n", b"\r", b"x", b"x" * 5000):
        with pytest.raises(ProxyError):
            proxy_header(b"PROXY UNKNOWN " + b"x" * 92 + end)


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", b"PROXY UNKNOWN\r\n", bytes(5000)])
@pytest.mark.parametrize("line", LINES)
def test_a_line_gives_the_address_of_the_client(line: bytes, behind: bytes) -> None:
    assert proxy_header(line + behind) == (LINES[line], len(line))
    assert [proxy_header(line[:size]) for size in range(len(line))] == [None] * len(line)


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY \r\n",
        b"PROXY  TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4  192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 \r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 2\n\r\n",
        b"PROXY TCP4 192.0.2.7\t10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.07 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2 10.0.0.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 proxy 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 ::1 1 2\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 65536 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 01 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 +1 2\r\n",
        b"PROXY TCP4 192.0.2.7 10.0.0.1 1 \xb2\r\n",
        b"PROXY TCP6 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        b"PROXY TCP6 fe80::1 ::1%1 1 2\r\n",
        b"PROXY TCP6 [::1] ::1 1 2\r\n",
        b"PROXY TCP6 2001:db8::1::2 ::1 1 2\r\n",
        b"PROXY TCP 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY UDP4 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY tcp4 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY / HTTP/1.1\r\nHost: t\r\n\r\n",
        b"proxy TCP4 192.0.2.7 10.0.0.1 1 2\r\n",
        b"PROXY\tTCP4 192.0.2.7 10.0.0.1 1 2\r\n",
    ],
)
def test_a_line_that_is_no_header(line: bytes) -> None:
    with pytest.raises(ProxyError):
        proxy_header(line)


@pytest.mark.parametrize("signature", [SIGNATURE_V1, SIGNATURE_V2])
def test_a_signature_in_pieces(signature: bytes) -> None:
    assert all(may_be_header(signature[:size]) for size in range(len(signature) + 1))
    assert may_be_header(signature + b"x")


@pytest.mark.parametrize(
    "data", [b"POST / HTTP/1.1", b"PUT", b"PROPFIND /", b"PROXYING /", b"GET /", b"\x16", b"\r\nGET"]
)
def test_data_that_is_not_even_the_start_of_a_header(data: bytes) -> None:
    assert not may_be_header(data)


@given(
    st.sampled_from([b"", SIGNATURE_V1, b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", SIGNATURE_V2]),
    st.binary(max_size=150) | st.text("0123456789abcdef:. \r\n%", max_size=150).map(str.encode),
    st.sampled_from([b"", b" 1 2\r\n", b"\r\n"]),
)
def test_any_data_is_a_header_an_incomplete_one_or_an_error(start: bytes, data: bytes, end: bytes) -> None:
    """An incomplete header ends within its limit, and the bytes behind a whole one do not change it."""
    whole = start + data + end
    try:
        result = proxy_header(whole)
    except ProxyError:
        return
    if result is None:
        assert len(whole) < (MAX_V1 if whole[:1] == b"P" else MAX_V2)
        return
    address, size = result
    assert size <= len(whole)
    assert address is None or numeric(address) == address
    assert proxy_header(whole[:size]) == proxy_header(whole + b"\r\n") == result
    assert all(proxy_header(whole[:shorter]) is None for shorter in range(size))
