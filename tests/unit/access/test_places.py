"""The places of addresses, by MaxMind DB files."""

from pathlib import Path
from typing import Any

import pytest

from tests.mmdb import write_mmdb
from tracker.access.places import CACHE, Locate, locator
from tracker.config import ConfigError
from tracker.settings import Nearby

ASN = {
    "192.0.2.0/24": {"autonomous_system_number": 64500, "autonomous_system_organization": "One"},
    "198.51.100.0/25": {"autonomous_system_number": 64501},
    "2001:db8::/32": {"autonomous_system_number": 64500},
}
COUNTRIES = {
    "192.0.2.0/25": {"country": {"iso_code": "DE", "names": {"en": "Germany"}}, "city": {"geoname_id": 1}},
    "198.51.100.0/24": {"country": {"iso_code": "FR"}},
    "2001:db8:1::/48": {"country": {"iso_code": "DE"}},
    "203.0.113.0/24": {"continent": {"code": "EU"}},
}
LITE = {"192.0.2.0/24": {"asn": "AS64500", "country": "Germany", "country_code": "DE"}}


def locate_by(*files: Path, **settings: Any) -> Locate:
    return locator(Nearby(databases=[str(file) for file in files], **settings))


def test_without_files_addresses_and_networks_are_known() -> None:
    locate = locate_by()
    one, neighbour, other = map(locate, ("192.0.2.1", "192.0.2.200", "192.0.3.1"))
    assert one[0] != neighbour[0]
    assert one[1] == neighbour[1] != other[1]
    assert one[2:] == ("", "")


def test_the_network_of_an_ipv6_address_has_48_bits() -> None:
    locate = locate_by()
    one, neighbour, other = map(locate, ("2001:db8:1::1", "2001:db8:1:ffff::2", "2001:db8:2::1"))
    assert one[1] == neighbour[1] != other[1]
    assert locate("::1")[1] == locate("::2")[1]


def test_the_autonomous_system_and_the_country(tmp_path: Path) -> None:
    locate = locate_by(write_mmdb(tmp_path / "asn", ASN), write_mmdb(tmp_path / "country", COUNTRIES))
    assert locate("192.0.2.1")[2:] == ("AS64500", "country DE")
    assert locate("192.0.2.129")[2:] == ("AS64500", "")
    assert locate("198.51.100.129")[2:] == ("", "country FR")
    assert locate("2001:db8:1::1")[2:] == ("AS64500", "country DE")
    assert locate("203.0.113.1")[2:] == ("", "")
    assert locate("127.0.0.1") == ("127.0.0.1", "127.0.0.", "", "")


def test_fields_of_another_provider(tmp_path: Path) -> None:
    assert locate_by(write_mmdb(tmp_path / "lite", LITE))("192.0.2.1")[2:] == ("AS64500", "country DE")


def test_no_two_kinds_of_keys_are_equal(tmp_path: Path) -> None:
    locate = locate_by(write_mmdb(tmp_path / "both", {"::/1": {"asn": "1", "country": "1"}}))
    places = [locate(address) for address in ("0.0.0.1", "::1", "::", "0.0.1.1")]
    kinds = [{place[level] for place in places} for level in range(4)]
    assert sum(map(len, kinds)) == len(set().union(*kinds))


def test_a_file_of_ipv4_addresses_only(tmp_path: Path) -> None:
    ipv4 = {network: record for network, record in ASN.items() if ":" not in network}
    locate = locate_by(write_mmdb(tmp_path / "asn", ipv4, ip_version=4))
    assert locate("192.0.2.1")[2] == "AS64500"
    assert locate("2001:db8::1")[2] == ""


def test_a_place_is_looked_up_once(tmp_path: Path) -> None:
    locate = locate_by(write_mmdb(tmp_path / "asn", ASN))
    assert locate("192.0.2.1") is locate("192.0.2.1")
    for number in range(CACHE):
        locate(f"10.0.{number >> 8}.{number & 255}")
    assert locate("192.0.2.1")[2] == "AS64500"


def test_the_file_may_be_overwritten_while_it_is_in_use(tmp_path: Path) -> None:
    """Truncating a file that is mapped into memory would crash the process."""
    file = write_mmdb(tmp_path / "asn", ASN)
    locate = locate_by(file)
    file.write_bytes(b"")
    assert locate("192.0.2.1")[2] == "AS64500"


def test_damaged_records_count_as_unknown(tmp_path: Path) -> None:
    file = write_mmdb(tmp_path / "asn", {"192.0.2.0/24": {"asn": "AS64500"}, "198.51.100.0/24": "no map"})
    content = file.read_bytes()
    assert content.count(b"\x43asn") == 1
    # A pointer out of the file, in place of the key.
    file.write_bytes(content.replace(b"\x43asn", b"\x38\xff\xff\xff"))
    locate = locate_by(file)
    assert locate("192.0.2.1")[2] == ""
    assert locate("198.51.100.1")[2] == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [("missing", "No such file"), ("", "s a directory"), ("text", "no MaxMind DB"), ("half", "no MaxMind DB")],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "text").write_text("AS64500")
    (tmp_path / "half").write_bytes(write_mmdb(tmp_path / "asn", ASN).read_bytes()[:200])
    with pytest.raises(ConfigError, match=text) as caught:
        locate_by(tmp_path / name)
    assert str(caught.value).startswith(f"nearby.databases: {tmp_path / name}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["~nobody-of-this-name/asn", "a\0b"])
def test_a_name_that_no_file_can_have(name: str) -> None:
    with pytest.raises(ConfigError, match=r"nearby\.databases: "):
        locator(Nearby(databases=[name]))
