"""Settings from files, the environment and the command line."""

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from tracker.access.addresses import AddressLimits
from tracker.config import ConfigError, default_toml, load
from tracker.extension import ExtensionSettings
from tracker.extension.api import Extension
from tracker.extension.discovery import sections
from tracker.settings import Limits, Settings, Tls, needs_restart


class Example(Extension):
    class Settings(ExtensionSettings):
        """An example."""

        peers: list[str] = Field([], description="URLs to ask.")
        limit: int = Field(5, ge=1, description="Limit of URLs.")


def test_lists_and_numbers_of_an_extension_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE__PEERS", '["a", "b"]')
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE__LIMIT", "7")
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE__ENABLED", "false")
    section: Any = sections({"example": Example}, load())["example"]
    assert (section.peers, section.limit, section.enabled) == (["a", "b"], 7, False)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("limit = 0", "extensions.example.limit"),
        ("nope = 1", "extensions.example.nope: unknown key"),
        ("peers = 5", "extensions.example.peers"),
        ("enabled = 5", "extensions.example.enabled"),
    ],
)
def test_mistakes_in_an_extensions_section(tmp_path: Path, table: str, text: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(f"[extensions.example]\n{table}\n")
    with pytest.raises(ConfigError, match=text):
        sections({"example": Example}, load(file))


def test_a_section_may_disable_an_extension_that_is_not_installed(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_text("[extensions.dht]\nenabled = false\nlisten = '0.0.0.0:6881'\n")
    assert sections({}, load(file)) == {}


def test_the_printed_configuration_has_the_extensions_sections() -> None:
    text = default_toml({"example": Example.Settings})
    assert "[extensions.example]" in text
    assert "# Limit of URLs.\nlimit = 5" in text


def test_the_limits_of_an_address() -> None:
    limits = {
        "connections_per_address": 1,
        "peers_per_address": 6,
        "announces_per_second": 2.5,
        "offers_per_second": 3.5,
        "bytes_per_second": 4.5,
        "burst": 4.5,
    }
    settings = Limits.model_validate({**limits, "max_connections": 5, "exempt": ["192.0.2.7", "2001:db8::/32"]})
    exempt = (ip_network("192.0.2.7/32"), ip_network("2001:db8::/32"))
    assert AddressLimits.from_settings(settings) == AddressLimits(
        connections_per_address=1,
        peers_per_address=6,
        announces_per_second=2.5,
        offers_per_second=3.5,
        bytes_per_second=4.5,
        burst=4.5,
        exempt=exempt,
    )


def test_hosts() -> None:
    assert load().server.hosts == ["0.0.0.0"]
    assert load(None, {"server": {"host": ["::1", "127.0.0.1"]}}).server.hosts == ["::1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("given", "prefix"), [("", ""), ("/", ""), ("/tracker/", "/tracker"), ("/a/b%20c", "/a/b%20c")]
)
def test_a_path_prefix(given: str, prefix: str) -> None:
    assert load(None, {"server": {"path_prefix": given}}).server.path_prefix == prefix


@pytest.mark.parametrize(
    "given", ["tracker", "//tracker", "/a//b", "/a b", "/a?b", "/a#b", "/%zz", "https://t/a", "/a,b"]
)
def test_an_invalid_path_prefix(given: str) -> None:
    with pytest.raises(ConfigError, match=r"server\.path_prefix.*must be a path"):
        load(None, {"server": {"path_prefix": given}})


def test_keys_that_need_a_restart() -> None:
    running = Settings.model_validate({"server": {"port": 1}, "extensions": {"dht": {"listen": "x", "routers": []}}})
    fresh = Settings.model_validate(
        {
            "server": {"port": 2, "host": ["::1", "::2"], "trusted_proxies": ["::1"], "shutdown_timeout": 1},
            "tls": {"certificate": "a", "key": "b"},
            "access": {"deny_infohashes": "c"},
            "limits": {"max_connections": 1},
            "log": {"level": "debug"},
            "connections": {"handshake_timeout": 1},
            "nearby": {"enabled": True, "databases": ["d"], "random_share": 0.5},
            "extensions": {"dht": {"listen": "y", "routers": []}, "federation": {"enabled": False}},
        }
    )
    assert needs_restart(running, running) == []
    keys = {
        "server.host",
        "server.port",
        "connections.handshake_timeout",
        "nearby.enabled",
        "extensions.dht.listen",
        "extensions.federation.enabled",
        "tls.certificate",
    }
    assert set(needs_restart(running, fresh)) == keys
    assert set(needs_restart(fresh, running)) == keys
    # A renewed certificate in another file needs no restart.
    renewed = fresh.model_copy(update={"tls": Tls(certificate="d")})
    assert needs_restart(fresh, renewed) == []
