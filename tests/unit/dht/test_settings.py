"""The section `[extensions.dht]`: addresses, nodes and infohashes."""

import pytest
from pydantic import ValidationError

from extensions.dht.settings import DhtSettings
from tracker.config import ConfigError, validate
from tracker.settings import Settings


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:6881", "[::]:6881", "127.0.0.1:0, [2001:db8::1]:65535", "[fe80::1%lo]:6881"]
)
def test_addresses_to_listen_on(listen: str) -> None:
    assert len(DhtSettings(listen=listen).hosts) == listen.count(",") + 1


def test_all_addresses_of_a_family_have_one_text() -> None:
    # The client tells by it that its socket must be for IPv6 only, and that a failure is no reason for a warning.
    assert DhtSettings(listen="[0::0]:6881,[0:0:0:0:0:0:0:0]:6882, 0.0.0.0:6881").hosts == ["::", "::", "0.0.0.0"]


@pytest.mark.parametrize(
    "listen",
    [
        *("", "6881", ":6881", "0.0.0.0", "0.0.0.0:", "0.0.0.0:65536", "0.0.0.0:x", "0.0.0.0:6881,", "0.0.0.0:-1"),
        *("localhost:6881", "tracker.example.org:6881", "*:6881", "::1:6881", "[127.0.0.1]:6881", "[::1:6881", "1.1:1"),
    ],
)
def test_an_invalid_listen_address_is_rejected(listen: str) -> None:
    with pytest.raises(ValidationError):
        DhtSettings(listen=listen)


@pytest.mark.parametrize("name", ["router.example.org:6881", "192.0.2.1:1", "[2001:db8::1]:65535"])
def test_bootstrap_nodes(name: str) -> None:
    assert DhtSettings(bootstrap=[name]).bootstrap == [name]


@pytest.mark.parametrize("name", ["", "router.example.org", "router.example.org:0", "router.example.org:65536", "a:b"])
def test_an_invalid_bootstrap_node_is_rejected(name: str) -> None:
    with pytest.raises(ValidationError):
        DhtSettings(bootstrap=[name])


def test_listed_infohashes_and_text() -> None:
    listed = ["aB" * 20, '"name"', '"\\u00fc #"']
    assert DhtSettings(listed=listed).listed == listed


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("listen", "nowhere", "listen: not host:port: nowhere"),
        ("listen", "localhost:1", "listen: not an IPv4 address, nor an IPv6 address in brackets: localhost"),
        ("bootstrap", ["a:b"], "bootstrap: not host:port: a:b"),
        ("bootstrap", ["a:0"], "bootstrap: not a node's port: a:0"),
        ("publish", "some", "publish: must be 'all', 'listed' or 'none', not 'some'"),
        ("listed", ["12"], 'listed: neither 40 hexadecimal digits nor an info_hash in quotes, as in "name": 12'),
    ],
)
def test_an_invalid_setting_is_an_error_of_one_line(key: str, value: object, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        validate(DhtSettings, {key: value}, "extensions.dht")
    assert str(raised.value) == f"extensions.dht.{complaint}"


@pytest.mark.parametrize(
    ("url", "settings", "complaint"),
    [
        ("", {}, ""),
        ("wss://tracker.example.org", {}, ""),
        ("wss://192.0.32.7", {}, ""),
        ("ws://tracker.example.org", {}, "server.public_url: other trackers use only wss://"),
        ("wss://10.0.0.7:8000", {}, "server.public_url: has a private address"),
        ("wss://[fd00::1]/", {}, "server.public_url: has a private address"),
        ("wss://localhost", {}, "server.public_url: has a private address"),
        ("wss://tracker.lan", {}, "server.public_url: has a private address"),
        ("wss://[", {}, ""),
        ("wss://10.0.0.7", {"private": True}, ""),
        ("wss://10.0.0.7", {"publish": "none"}, ""),
        ("wss://10.0.0.7", {"enabled": False}, ""),
        ("wss://tracker.example.org", {"publish": "listed"}, "extensions.dht.listed: is empty"),
        ("wss://tracker.example.org", {"publish": "listed", "listed": ["ab" * 20]}, ""),
    ],
)
def test_doubtful_settings(url: str, settings: dict[str, object], complaint: str) -> None:
    tracker = Settings.model_validate({"server": {"public_url": url}})
    doubts = list(DhtSettings.model_validate(settings).doubts(tracker))
    assert len(doubts) == bool(complaint)
    assert all(doubt.startswith(complaint) for doubt in doubts)
