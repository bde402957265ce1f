"""The URLs that trackers may have, and the rendezvous."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extensions.trackers import MAX_URL, RENDEZVOUS, is_url


def test_the_rendezvous() -> None:
    assert RENDEZVOUS.hex() == "1c11dfefb99e844c1a81cdf3895a10bedfc761d0"


LONG = "wss://a/".ljust(MAX_URL, "a")
GOOD = """
    wss://a ws://a wss://a:1 wss://a.example.org:443/b?c=%20d&e=~f wss://[2001:db8::1]:65535/ ws://192.0.2.1:8000
    wss://a?b wss://a/?b?c wss://a_b.-/ wss://A:00080 wss://a/!$%&()*+,./:;=?[]^_{|}~- wss://[::1]?a wss://[a] wss://[.]
"""
BAD = """
    wss wss: wss:// wss:/// wss://:443 wss://?a wss:a //a http://a https://a ftp://a WSS://a Wss://a data:wss://a
    wss://user@a wss://user:word@a wss://@a wss://:@a wss://a/@ wss://a# wss://a/#b wss://# wss://a\\b wss://a/<b>
    wss://a: wss://a:/ wss://a:0 wss://a:00 wss://a:65536 wss://a:70000 wss://a:000443 wss://a:-1 wss://a:b wss://a:+80
    wss://a:8:9 wss://a:８０ wss://a:80a wss://é wss://a/é wss://a/\ufffd wss://а wss://a\u2044b wss://a%20 wss://a,b
    wss://a&b/ wss://a!/ wss://a;b wss://a=b wss://[::1 wss://::1] wss://[] wss://[g] wss://[fe80::1%eth0] wss://[[a]]
    wss://[::1].example.org/ wss://a[::1]/ wss://[::1]a:80/ wss://[::1]: wss://a/" wss://a/' wss://a/`
"""
BLANKS = ["", *(f"wss://a{character}" for character in " \n\r\t\0\x7f\x1b"), " wss://a", "wss://\ta", "wss://a b/"]


@pytest.mark.parametrize("url", [*GOOD.split(), LONG])
def test_valid_urls(url: str) -> None:
    assert is_url(url)


@pytest.mark.parametrize("url", [*BAD.split(), *BLANKS, LONG + "a", "wss://a/\n", LONG[:-1] + "\n"])
def test_invalid_urls(url: str) -> None:
    assert not is_url(url)


@given(st.text(max_size=MAX_URL) | st.text("wsW:/[]@?#.a0-9%é\n ", max_size=20).map("wss://".__add__))
@settings(derandomize=True, max_examples=300)
def test_a_valid_url_can_be_split(text: str) -> None:
    # Text in brackets may be no address: connecting fails then.
    if is_url(text) and "//[" not in text:
        parts = urlsplit(text)
        assert text.isascii()
        assert text.isprintable()
        assert parts.scheme in ("ws", "wss")
        assert parts.hostname
        assert (parts.username, parts.password, parts.fragment) == (None, None, "")
        assert parts.port is None or parts.port > 0
