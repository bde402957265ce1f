"""Whom strangers may have us connect to, whatever they call it."""

import pytest

from extensions.dialing import is_public, network_of


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
        # Not given out to anybody.
        *("4000::1", "8000::1", "100::1", "1fff::1", "5f00::1"),
        # What some parsers take for an address.
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
