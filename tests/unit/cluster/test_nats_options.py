"""The settings of the connection to NATS."""

from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from extensions.cluster.nats_options import NatsOptions, NatsSettings, Secrets, Server, neighbours, parse_server

SECRET = "p/a:s@s w%rd"
QUOTED = "p%2Fa%3As%40s%20w%25rd"


@pytest.mark.parametrize(
    ("url", "server", "name"),
    [
        ("nats://10.0.0.1:4333", Server("10.0.0.1", 4333, False, "10.0.0.1"), "10.0.0.1:4333"),
        (
            "nats://nats.example.net",
            Server("nats.example.net", 4222, False, "nats.example.net"),
            "nats.example.net:4222",
        ),
        ("tls://n/", Server("n", 4222, True, "n"), "n:4222"),
        ("n", Server("n", 4222, False, "n"), "n:4222"),
        ("n:1", Server("n", 1, False, "n"), "n:1"),
        ("nats://[::1]:5", Server("::1", 5, False, "::1"), "[::1]:5"),
        (f"nats://me:{QUOTED}@n", Server("n", 4222, False, "n", user="me", password=SECRET), "n:4222"),
        (f"me:{QUOTED}@n:5", Server("n", 5, False, "n", user="me", password=SECRET), "n:5"),
        (f"tls://{QUOTED}@n", Server("n", 4222, True, "n", token=SECRET), "n:4222"),
        ("nats://me:@n", Server("n", 4222, False, "n", user="me"), "n:4222"),
    ],
)
def test_urls_of_servers(url: str, server: Server, name: str) -> None:
    assert parse_server(url) == server
    assert server.name == name
    assert SECRET not in repr(server)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nats://",
        "ws://n",
        "http://n",
        "nats://n:port",
        "nats://n:99999",
        "nats://n/path",
        "nats://n?query",
        "nats://n#fragment",
        "nats://[::1",
        # A password that is not percent-encoded.
        f"nats://me:{SECRET}@n",
    ],
)
def test_other_urls_are_mistakes_that_are_not_shown(url: str) -> None:
    with pytest.raises(ValidationError) as error:
        NatsSettings(servers=["nats://right", url])
    [mistake] = error.value.errors()
    assert mistake["msg"] == (
        "Value error, not a URL nats://HOST:PORT or tls://HOST:PORT; a password in it must be percent-encoded"
    )


def test_one_server_may_be_text() -> None:
    assert NatsSettings.model_validate({"servers": "nats://n"}).servers == ["nats://n"]


def test_a_key_needs_a_certificate() -> None:
    with pytest.raises(ValidationError, match="needs tls_certificate"):
        NatsSettings(tls_key="key.pem")


def test_secrets_are_not_in_the_representation() -> None:
    settings = NatsSettings(servers=[f"nats://me:{QUOTED}@n"], password=SECRET, token=SECRET)
    assert QUOTED not in repr(settings)
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    ("url", "settings", "login"),
    [
        ("nats://n", {}, {}),
        ("nats://n", {"user": "me", "password": "x"}, {"user": "me", "password": "x"}),
        ("nats://n", {"token": "x"}, {"token": "x"}),
        # Those of the URL go first.
        ("nats://you:y@n", {"user": "me", "password": "x"}, {"user": "you", "password": "y"}),
        ("nats://y@n", {"token": "x"}, {"token": "y"}),
    ],
)
def test_logins(url: str, settings: dict[str, str], login: dict[str, str]) -> None:
    options = NatsOptions(NatsSettings.model_validate({"servers": [url], **settings}))
    secrets = options.read_files()
    assert options.login(options.servers[0], secrets) == login


def test_logins_with_keys() -> None:
    options = NatsOptions(NatsSettings(servers=["nats://n"]))
    tls = options.read_files().tls
    assert options.login(options.servers[0], Secrets(tls, seed="SEED")) == {"nkeys_seed_str": "SEED"}
    login = options.login(options.servers[0], Secrets(tls, credentials="JWT"))
    assert list(login) == ["user_credentials"]
    assert login["user_credentials"].data == "JWT"


def test_servers_that_a_server_names() -> None:
    """They have its credentials, and addresses have its name in their certificate."""
    server = parse_server("tls://me:x@nats.example.net")
    named = [
        urlsplit(url)
        for url in ("tls://10.0.0.2:4333", "tls://[2001:db8::1]", "tls://other.example.net:4222", "tls://")
    ]
    found = list(neighbours(server, named))
    assert [(one.name, one.tls_name) for one in found] == [
        ("10.0.0.2:4333", "nats.example.net"),
        ("[2001:db8::1]:4222", "nats.example.net"),
        ("other.example.net:4222", "other.example.net"),
    ]
    assert {(one.user, one.password, one.is_tls) for one in found} == {("me", "x", True)}
