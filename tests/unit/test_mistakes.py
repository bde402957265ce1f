"""Mistakes in settings: all at once, each on a line with its source, and with a suggestion."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from tracker.config import ConfigError, load, read
from tracker.extension import ExtensionSettings
from tracker.mistakes import both
from tracker.settings import Section
from tracker.sources import Sources


class Example(ExtensionSettings):
    """An example."""

    peers: list[str] = Field([], description="URLs to ask.")
    limit: int = Field(5, ge=1, description="Limit of URLs.")
    secrets: list[str] = Field([], repr=False, description="Secrets.")


EXAMPLE: dict[str, type[Section]] = {"example": Example}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "x.toml"


def mistakes(file: Path | None = None, **options: dict[str, Any]) -> list[str]:
    """Return the mistakes in a file, the environment and the command line, with the file's name shortened."""
    with pytest.raises(ConfigError) as caught:
        load(file, options, EXAMPLE)
    return [mistake.replace(str(file), "x.toml") for mistake in caught.value.mistakes]


def warnings(file: Path | None = None) -> list[str]:
    found = read(Sources(file, {}), EXAMPLE).warnings
    return [warning.replace(str(file), "x.toml") for warning in found]


def test_all_at_once_in_the_order_of_the_file_each_with_its_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERSERVERS_LIMITS__BURST", "many")
    monkeypatch.setenv("PEERSERVERS_SERVER__TRUSTED_PROXIES", "[1")
    file.write_text(
        '[log]\nformat = "xml"\n\n# A comment.\n[server]\nprot = 1\nport = 70000\n[extensions.example]\nlimit = 0\n'
    )
    assert mistakes(file, log={"level": "loud"}) == [
        "PEERSERVERS_SERVER__TRUSTED_PROXIES: server.trusted_proxies: "
        'must be a list as a,b or in JSON, as ["a", "b"], not [1',
        "x.toml, line 2: log.format: must be 'text' or 'json', not 'xml'",
        "x.toml, line 6: server.prot: unknown key; did you mean server.port?",
        "x.toml, line 7: server.port: must be at most 65535, not 70000",
        "x.toml, line 9: extensions.example.limit: must be at least 1, not 0",
        "PEERSERVERS_LIMITS__BURST: limits.burst: must be a number, not 'many'",
        "--log-level: log.level: must be 'debug', 'info', 'warning' or 'error', not 'loud'",
    ]


@pytest.mark.parametrize(
    ("toml", "mistake"),
    [
        ("[server", "line 1: expected ']' at the end of a table declaration"),
        ("[log]\nlevel = 'info'\n\nlevel = 'debug'", "line 4: cannot overwrite a value"),
        ("[log]\n[server]\nport = 1\n[log]", "line 4: cannot declare ('log',) twice"),
        ("[log]\nlevel = [\n'a',\n", "line 2: "),
        ("[log]\nlevel = '''\n\n", "line 2: "),
        ("\n\n\udcff", "line 3: not text in UTF-8"),
        ("[sever]\nport = 1", "line 1: sever: unknown section; did you mean server?"),
        ("[example]\nlimit = 1", "line 1: example: unknown section; did you mean extensions.example?"),
        (
            "[server]\nannounce_interval = 60",
            "line 2: server.announce_interval: unknown key; did you mean tracker.announce_interval?",
        ),
        ("[server]\nlimit = 1", "line 2: server.limit: unknown key; did you mean extensions.example.limit?"),
        ("[server]\nqwertz = 1", "line 2: server.qwertz: unknown key"),
        ("server = 5", "line 1: server: must be a table, not 5"),
        ("extensions = 5", "line 1: extensions: must be a table, not 5"),
        ("[extensions]\nexample = 5", "line 2: extensions.example: must be a table, not 5"),
        ("[server]\nport = '8000'", "line 2: server.port: must be a whole number, not '8000'"),
        ("[server]\nport = true", "line 2: server.port: must be a whole number, not true"),
        ("[server]\nhost = 5", "line 2: server.host: must be text or a list, not 5"),
        ("[server]\nswarm_counts = 1", "line 2: server.swarm_counts: must be true or false, not 1"),
        ("server.shutdown_timeout = nan", "line 1: server.shutdown_timeout: must be at least 0, not nan"),
        (
            "[access]\nallow_origins = [\n'https://a.example',\n5]",
            "line 2: access.allow_origins: each member must be text, not 5",
        ),
        ("[tls]\nkey = 'x'", "line 2: tls.key: tls.certificate must be set with tls.key"),
        ("[metrics]\nport = 8000", "line 2: metrics.port: is server.port, too"),
    ],
)
def test_a_mistake_in_the_file(file: Path, toml: str, mistake: str) -> None:
    file.write_bytes(toml.encode(errors="surrogateescape"))
    (only,) = mistakes(file)
    assert only.startswith(f"x.toml, {mistake}")


def test_a_mistake_after_texts_and_lists_of_several_lines(file: Path) -> None:
    file.write_text(
        """# [server]
[extensions.example]
peers = [
    # "z = 1"
    "a = 1", 'b',

    "[tls]",
]
[page]
contact = \'\'\'
[server]
port = 1
\'\'\'

[ server ] # a comment
"port" = "x"
"""
    )
    wrong = [mistake for mistake in mistakes(file) if "server" in mistake]
    assert wrong == ["x.toml, line 16: server.port: must be a whole number, not 'x'"]


def test_a_long_list_is_read_in_linear_time(file: Path) -> None:
    """Otherwise, this would take hours."""
    members = "\n".join(f'"{number:040}",' for number in range(20_000))
    file.write_text(f"[extensions.example]\npeers = [\n{members}\n]\nlimit = 0\nlimit = 1\n")
    assert mistakes(file) == ["x.toml, line 20005: cannot overwrite a value"]
    file.write_text(file.read_text().replace("limit = 1", ""))
    assert mistakes(file) == ["x.toml, line 20004: extensions.example.limit: must be at least 1, not 0"]


@pytest.mark.parametrize("name", ["PEERSERVERS_SERVER__PUBLIC_URL", "PEERSERVERS_EXTENSIONS__EXAMPLE__PEERS"])
def test_a_variable_that_is_not_text(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "\udcff")
    (mistake,) = mistakes()
    assert mistake.startswith(f"{name}: ")
    assert mistake.endswith(": must be text in UTF-8")


def test_a_value_with_control_characters_begins_no_line(file: Path) -> None:
    file.write_text('[server]\ntrusted_proxies = ["a\\nb\\u001b[2J"]\n')
    assert mistakes(file) == [r"x.toml, line 2: server.trusted_proxies: not an address or network: a\nb\x1b[2J"]


def test_two_contradictions_are_told_at_once(file: Path) -> None:
    file.write_text("[connections]\nsend_buffer = 70000\n[tls]\nkey = 'x'\n")
    assert [mistake.partition(": ")[0] for mistake in mistakes(file)] == ["x.toml, line 2", "x.toml, line 4"]


def test_metrics_may_have_the_same_port_at_another_address(file: Path) -> None:
    file.write_text("[server]\nhost = '192.0.2.1'\n[metrics]\nport = 8000\n")
    assert load(file).metrics.port == 8000


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("127.0.0.1,10.0.0.0/8", ["127.0.0.1", "10.0.0.0/8"]),
        (" 127.0.0.1 , ::1 ", ["127.0.0.1", "::1"]),
        ("127.0.0.1", ["127.0.0.1"]),
        ('["127.0.0.1", "::1"]', ["127.0.0.1", "::1"]),
        ("", []),
    ],
)
def test_a_list_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, value: list[str]) -> None:
    monkeypatch.setenv("PEERSERVERS_SERVER__TRUSTED_PROXIES", text)
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE__PEERS", text)
    configuration = read(Sources(None, {}), EXAMPLE)
    assert configuration.settings.server.trusted_proxies == value
    assert configuration.settings.extensions["example"]["peers"] == value


@pytest.mark.parametrize(
    ("text", "hosts"),
    [("::1", ["::1"]), ("::1,127.0.0.1", ["::1", "127.0.0.1"]), ('["::1"]', ["::1"]), ("unix:/run/a,b", [])],
)
def test_hosts_in_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, hosts: list[str]) -> None:
    monkeypatch.setenv("PEERSERVERS_SERVER__HOST", text)
    assert load().server.hosts == hosts


def test_a_section_in_one_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[extensions.example]\nlimit = 3\npeers = ['a']\n")
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE", '{"peers": ["b"]}')
    assert load(file, {}, EXAMPLE).extensions["example"] == {"limit": 3, "peers": ["b"]}
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE", "peers")
    assert mistakes(file) == ["PEERSERVERS_EXTENSIONS__EXAMPLE: extensions.example: must be a table, not 'peers'"]


def test_no_secret_is_shown_and_none_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE__SECRETS", '["hunter2"')
    assert "hunter2" not in str(mistakes())
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__EXAMPLE__SECRETS", "hunter2,x")
    (mistake,) = mistakes()
    assert mistake.endswith("extensions.example.secrets: must be a list")


def test_the_path_of_a_missing_file_has_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "missing.toml"
    assert mistakes(file) == ["--config: x.toml: No such file or directory"]
    monkeypatch.setenv("PEERSERVERS_CONFIG", str(file))
    assert mistakes(file) == ["PEERSERVERS_CONFIG: x.toml: No such file or directory"]


SERVICE_LINKS = {
    "{}_SERVICE_HOST": "10.0.0.1",
    "{}_SERVICE_PORT": "8000",
    "{}_SERVICE_PORT_HTTP": "8000",
    "{}_SERVICE_PORT_A__B": "8000",
    "{}_PORT": "tcp://10.0.0.1:8000",
    "{}_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "{}_PORT_8000_TCP_PROTO": "tcp",
    "{}_PORT_8000_TCP_PORT": "8000",
    "{}_PORT_8000_TCP_ADDR": "10.0.0.1",
    "{}_PORT_6881_UDP": "udp://10.0.0.1:6881",
    "{}_PORT_6881_UDP_ADDR": "10.0.0.1",
}
"""Variables that Kubernetes sets in every container of a namespace, by the name of a Service."""


@pytest.mark.parametrize("service", ["PEERSERVERS", "PEERSERVERS_SERVER", "PEERSERVERS_TRACKER_METRICS"])
def test_service_links_of_kubernetes_are_ignored(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    for name, value in SERVICE_LINKS.items():
        monkeypatch.setenv(name.format(service), value)
    assert warnings() == []
    assert load().server.port == 8000


@pytest.mark.parametrize("name", ["PEERSERVERS_FOO", "PEERSERVERS_IMAGE_TAG", "PEERSERVERS_", "PEERSERVERS__"])
def test_other_variables_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "1")
    assert warnings() == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PEERSERVERS_SERVER_PORT", "PEERSERVERS_SERVER__PORT"),
        ("PEERSERVERS_PORT", "PEERSERVERS_SERVER__PORT"),
        ("PEERSERVERS_PUBLIC_URL", "PEERSERVERS_SERVER__PUBLIC_URL"),
        ("PEERSERVERS_SERVER_PUBLIC_URI", "PEERSERVERS_SERVER__PUBLIC_URL"),
        ("PEERSERVERS_EXTENSIONS_EXAMPLE_LIMIT", "PEERSERVERS_EXTENSIONS__EXAMPLE__LIMIT"),
        ("PEERSERVERS_CONFIG_", "PEERSERVERS_CONFIG"),
        ("PEERSERVERS_CONF", "PEERSERVERS_CONFIG"),
        ("PEERSERVERS_LOG", "PEERSERVERS_LOG__LEVEL"),
    ],
)
def test_a_near_miss_is_a_warning(monkeypatch: pytest.MonkeyPatch, name: str, meant: str) -> None:
    monkeypatch.setenv(name, "9000")
    assert warnings() == [f"{name}: ignored; did you mean {meant}?"]
    assert load().server.port == 8000


def test_a_key_with_the_name_of_a_service_link(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEERSERVERS_EXTENSIONS__OTHER__SERVICE_HOST", "a")
    assert load().extensions == {"other": {"service_host": "a"}}


def test_doubtful_values_are_warnings(file: Path) -> None:
    file.write_text("[tracker]\n\nlonely_interval = 300\n")
    (warning,) = warnings(file)
    assert warning.startswith("x.toml, line 3: tracker.lonely_interval: ")


def test_mistakes_of_two_steps_are_told_at_once() -> None:
    def fail(text: str) -> None:
        raise ConfigError(text)

    with pytest.raises(ConfigError) as caught:
        both(lambda: fail("a"), lambda: fail("b"))
    assert caught.value.mistakes == ("a", "b")
    with pytest.raises(ConfigError, match=r"^b$"):
        both(lambda: 1, lambda: fail("b"))
    assert both(lambda: 1, lambda: "b") == (1, "b")
