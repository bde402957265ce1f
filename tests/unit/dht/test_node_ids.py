"""Node ids that fit their address (BEP 42)."""

from binascii import unhexlify

import pytest

from extensions.dht.krpc.node_ids import crc32c, fits


@pytest.mark.parametrize(("data", "checksum"), [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)])
def test_the_checksum_is_that_of_rfc_3720(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def ids(prefix: str, last: int) -> bytes:
    return unhexlify(prefix) + bytes(16) + bytes([last])


def test_the_first_21_bits_and_the_last_three_count() -> None:
    host = "124.31.75.21"
    assert fits(ids("5fbfbf", 1), host)
    assert fits(ids("5fbfb8", 1), host)
    assert fits(ids("5fbfbf", 0xF9), host)
    assert not fits(ids("5fbfb7", 1), host)
    assert not fits(ids("5fbfbf", 2), host)
    assert not fits(ids("5fbfbf", 1), "124.31.75.22")


def test_an_ipv6_address_counts_up_to_its_64th_bit() -> None:
    # 2001:470:1:2, masked with 0103:070f:1f3f:7fff, with 5 in its first three bits.
    prefix = crc32c(bytes.fromhex("a001040000010002")).to_bytes(4, "big")[:3]
    assert fits(prefix + bytes(16) + b"\x05", "2001:470:1:2::1")
    assert fits(prefix + bytes(16) + b"\x0d", "2001:470:1:2:ffff::")
    assert not fits(prefix + bytes(16) + b"\x05", "2001:470:1:3::1")


@pytest.mark.parametrize("host", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fe80::1", "fe80::1%eth0"])
def test_any_id_fits_a_local_address(host: str) -> None:
    assert fits(bytes(20), host)
    assert fits(b"\xff" * 20, host)
