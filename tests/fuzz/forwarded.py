"""The client's address in the fields of a trusted proxy's request: only the proxy decides about it.

The lines of an input are the values of `X-Forwarded-For`, or if they begin with a blank, of `Forwarded`.
"""

from collections.abc import Iterator
from contextlib import suppress
from ipaddress import ip_address, ip_network

from tests.fuzz.target import Target
from tracker.access.forwarded import InvalidAddress, client_address, elements_from_right, named_address, numeric

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))
CLIENT = "192.0.2.7"


def check(data: bytes) -> None:
    """Read fields."""
    lines = data.decode("latin-1").split("\n")
    forwarded_for = [line for line in lines if not line.startswith(" ")]
    forwarded = [line[1:] for line in lines if line.startswith(" ")]
    for values in (forwarded_for, []):
        address = client_address(TRUSTED, values, forwarded)
        assert address is None or usual(address)
    # Whatever the client has written, the address that the proxy has appended is the client's.
    assert client_address(TRUSTED, [*forwarded_for, CLIENT], forwarded) == CLIENT
    assert client_address(TRUSTED, [",".join([*forwarded_for, f"{CLIENT}, 10.1.2.3"])], forwarded) == CLIENT
    assert client_address(TRUSTED, [], [*forwarded, f'for="{CLIENT}:80";proto=https']) == CLIENT
    with suppress(InvalidAddress):
        address = named_address(forwarded_for)
        assert address is None or usual(address)
    text = ",".join(forwarded)
    assert ",".join(reversed(list(elements_from_right(text)))) == text


def usual(address: str) -> bool:
    """Return whether an address is in its usual form."""
    parsed = ip_address(address)
    return str(parsed) == address == numeric(address)


def seeds() -> Iterator[bytes]:
    """Yield values as proxies write them."""
    yield b"192.0.2.7, 10.0.0.1\n203.0.113.5:80"
    yield b"[2001:db8::1]:4711, fd00::1\nunknown"
    yield b"::ffff:192.0.2.7, ::1%eth0\n 1.2.3.4"
    yield b' for=192.0.2.43;proto=http;by=203.0.113.43, for="[2001:db8:cafe::17]:4711"'
    yield b' For="_hidden, \\"for=1.2.3.4", for=unknown\n for=10.0.0.1'
    yield b"\n\n , ,"


TARGET = Target(
    check,
    seeds,
    (
        b"for=",
        b'for="',
        b";",
        b", ",
        b'"',
        b'\\"',
        b"10.0.0.1",
        b"192.0.2.7",
        b"::1",
        b"[",
        b"]:80",
        b"%",
        b"\n ",
        b":",
    ),
    runs=2000,
)
