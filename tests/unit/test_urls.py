"""The URLs of a running tracker."""

from typing import Any

import pytest

from tracker.config import load
from tracker.urls import as_http, as_websocket, own_statistics, own_url

TLS = {"certificate": "c", "key": "k"}


@pytest.mark.parametrize(
    ("settings", "url", "statistics"),
    [
        ({}, "ws://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ({"server": {"host": "::", "port": 9000}}, "ws://[::1]:9000", "http://[::1]:9000"),
        ({"server": {"host": "10.0.0.7"}, "tls": TLS}, "wss://10.0.0.7:8000", "https://10.0.0.7:8000"),
        ({"metrics": {"port": 9100}}, "ws://127.0.0.1:8000", "http://127.0.0.1:9100"),
        ({"metrics": {"port": 9100, "host": "0.0.0.0"}, "tls": TLS}, "wss://127.0.0.1:8000", "http://127.0.0.1:9100"),
        ({"server": {"public_url": "wss://t.example/x"}}, "wss://t.example/x", "http://127.0.0.1:8000"),
        ({"server": {"host": "unix:/run/s"}}, "unix:/run/s", "unix:/run/s"),
        ({"server": {"host": ["unix:/run/s", "127.0.0.2"]}}, "ws://127.0.0.2:8000", "http://127.0.0.2:8000"),
        ({"server": {"host": "unix:/run/s"}, "metrics": {"port": 9100}}, "unix:/run/s", "http://127.0.0.1:9100"),
    ],
)
def test_the_urls_of_a_tracker_by_its_settings(settings: dict[str, Any], url: str, statistics: str) -> None:
    loaded = load(None, settings)
    assert (own_url(loaded), own_statistics(loaded)) == (url, statistics)


@pytest.mark.parametrize("rest", ["t.example", "t.example:8000/a?b=ws://c"])
def test_both_forms_of_a_url(rest: str) -> None:
    for web, socket in (("http", "ws"), ("https", "wss")):
        assert as_http(f"{socket}://{rest}") == as_http(f"{web}://{rest}") == f"{web}://{rest}"
        assert as_websocket(f"{socket}://{rest}") == as_websocket(f"{web}://{rest}") == f"{socket}://{rest}"


@pytest.mark.parametrize("text", ["unix:/run/ws://x", "ftp://t.example", "wssx://t", "https:/t", ""])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert as_http(text) == as_websocket(text) == text
