"""The address of a client behind proxies: only the parts that trusted proxies wrote themselves count."""

from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracker.access.addresses import networks
from tracker.access.forwarded import client_address, elements_from_right, numeric
from tracker.net.request import MAX_HEAD

TRUSTED = networks(["10.0.0.0/8", "fd00::/8"])
CLIENT = "192.0.2.7"

random_text = st.text(alphabet='fFor=", ;\\[]:.%0123456789abcdef\x00\xe9', max_size=80) | st.text(max_size=40)
addresses = st.ip_addresses().map(str)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("192.0.2.7", CLIENT),
        (" 192.0.2.7:4711 ", CLIENT),
        ("::ffff:192.0.2.7", CLIENT),
        ("[::ffff:192.0.2.7]:80", CLIENT),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:4711", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
        ("0.0.0.0", "0.0.0.0"),
        ("", None),
        ("unknown", None),
        ("_hidden", None),
        ("192.0.2", None),
        ("192.0.2.07", None),
        ("192.0.2.\N{ARABIC-INDIC DIGIT ONE}", None),
        ("[", None),
        ("1" * 5000, None),
    ],
)
def test_addresses_in_their_usual_form(text: str, address: str | None) -> None:
    assert numeric(text) == address


@pytest.mark.parametrize(
    ("forwarded_for", "address"),
    [
        ([], None),
        ([CLIENT], CLIENT),
        (["198.51.100.1, 192.0.2.7"], CLIENT),
        (["198.51.100.1", "192.0.2.7"], CLIENT),
        (["198.51.100.1, 192.0.2.7, 10.0.0.2,10.0.0.3"], CLIENT),
        (["192.0.2.7:4711, fd00::2"], CLIENT),
        (["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        (["192.0.2.7, unknown"], None),
        (["192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2"),
        (["192.0.2.7,"], None),
        ([""], None),
    ],
)
def test_the_rightmost_address_that_is_no_trusted_proxy(forwarded_for: list[str], address: str | None) -> None:
    assert client_address(TRUSTED, forwarded_for, []) == address


@pytest.mark.parametrize(
    ("forwarded", "address"),
    [
        (["for=192.0.2.7"], CLIENT),
        (['For="192.0.2.7:4711";proto=https;by=10.0.0.1'], CLIENT),
        (['proto=https ; for = "[2001:db8::1]:4711"'], "2001:db8::1"),
        (["for=198.51.100.1", "for=192.0.2.7, for=10.0.0.2"], CLIENT),
        (["for=192.0.2.7, for=unknown"], None),
        (["for=192.0.2.7, for=_secret"], None),
        (["for=192.0.2.7, proto=https"], None),
        (["xfor=192.0.2.7"], None),
        # Data of the client must not hide or change the part that the proxy appended.
        (['for=198.51.100.1;x=", for=192.0.2.7'], CLIENT),
        (['for=198.51.100.1;x=", for="[2001:db8::1]"'], "2001:db8::1"),
        (['for=", for="[2001:db8::1]:80";proto=https'], "2001:db8::1"),
        (['for="198.51.100.1\\", for="192.0.2.7"'], CLIENT),
        (['x="for=198.51.100.1, for=198.51.100.2", for=192.0.2.7'], CLIENT),
    ],
)
def test_forwarded(forwarded: list[str], address: str | None) -> None:
    assert client_address(TRUSTED, [], forwarded) == address


def test_x_forwarded_for_takes_precedence_over_forwarded() -> None:
    assert client_address(TRUSTED, [CLIENT], ["for=198.51.100.1"]) == CLIENT


@given(st.lists(random_text), st.lists(random_text))
@example(["[]"], ["for=[]"])
@example([], ['for="[\\'])
def test_random_headers_give_an_address_or_none(forwarded_for: list[str], forwarded: list[str]) -> None:
    for values in ((forwarded_for, forwarded), ([], forwarded)):
        address = client_address(TRUSTED, *values)
        assert address is None or numeric(address) == address


@given(random_text, addresses)
def test_no_data_of_the_client_changes_the_address_that_the_proxy_appends(written: str, client: str) -> None:
    """The proxy appends to the same field line or adds another."""
    expected = client_address(TRUSTED, [client], [])
    node = f'"[{client}]:4711"' if ":" in client else client
    if expected is None or any(ip_address(expected) in network for network in TRUSTED):
        return
    assert client_address(TRUSTED, [f"{written}, {client}"], []) == expected
    assert client_address(TRUSTED, [written, client], []) == expected
    assert client_address(TRUSTED, [], [f"{written}, for={node};proto=https"]) == expected
    assert client_address(TRUSTED, [], [written, f"for={node}"]) == expected


@pytest.mark.parametrize("piece", ['\\"', '"', '",', ";for=", "for=,", ", ", "; ", "[", "10.0.0.1,"])
def test_each_character_of_a_header_is_read_about_once(piece: str) -> None:
    """The test counts the steps of the scanner instead of seconds."""
    text = ('"' + piece * MAX_HEAD)[:MAX_HEAD]
    steps = 0

    class Counted(str):
        def __getitem__(self, key: object) -> str:
            nonlocal steps
            steps += isinstance(key, int)
            return str.__getitem__(self, key)  # type: ignore[index]

    list(elements_from_right(Counted(text)))
    assert steps <= 2 * MAX_HEAD
    assert client_address(TRUSTED, [], [text]) is None
    assert client_address(TRUSTED, [text], []) in (None, "10.0.0.1")
