"""Images, docker-compose.yml, the systemd unit and docs/deploy.md agree with the program.

tests/e2e runs them: test_compose.py, test_proxy.py, test_systemd.py.
"""

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest

from extensions.cluster.settings import ClusterSettings
from extensions.demo.site import PAGE
from extensions.dht.settings import DhtSettings
from tests.conftest import WEB, unavailable
from tests.shipping import ROOT, Compose, Dockerfile, keys_of_unit
from tracker.config import load
from tracker.extension.discovery import discover, sections
from tracker.settings import Settings

DEPLOY = ROOT / "docs" / "deploy.md"
CLUSTER = ROOT / "docs" / "cluster.md"
UNIT = ROOT / "docs" / "systemd" / "peerservers.service"
# The schema of the Compose Specification, (c) its authors, Apache License 2.0.
SCHEMA = ROOT / "tests" / "data" / "compose-spec.json"

EXPOSURE = 20
"""Maximum exposure of the unit according to `systemd-analyze security`, in tenths; without hardening it is 96."""

TRACKERS = ("tracker-a", "tracker-b", "tracker-c")
NODES = ("node-1", "node-2", "node-3")
IMAGES = {"tracker": Dockerfile(ROOT / "Dockerfile"), "demo": Dockerfile(ROOT / "demo" / "Dockerfile")}


@pytest.fixture
def compose() -> Compose:
    return Compose()


@pytest.mark.parametrize("image", IMAGES.values(), ids=IMAGES)
class TestImages:
    def test_copied_files_exist(self, image: Dockerfile) -> None:
        assert image.sources
        assert [name for name in image.sources if not (ROOT / name).exists()] == []

    def test_the_user_is_not_root(self, image: Dockerfile) -> None:
        user, _, group = image.one("USER").partition(":")
        assert int(user) >= 1000
        assert int(group) >= 1000

    def test_commands_do_not_run_in_a_shell(self, image: Dockerfile) -> None:
        """A shell would not forward the signal. Docker runs a command in a shell unless it is written as JSON."""
        assert image.command
        assert image.healthcheck
        assert image.one("STOPSIGNAL") in ("SIGTERM", "SIGINT")

    def test_only_the_last_stage_is_shipped(self, image: Dockerfile) -> None:
        *stages, last = (image.all("FROM", number)[0] for number in range(len(image.stages)))
        assert all(stage.endswith(" AS build") for stage in stages)
        assert last == "python:3.12-slim"


def test_the_image_is_the_tracker_with_its_defaults() -> None:
    image = IMAGES["tracker"]
    settings = Settings()
    udp = DhtSettings().addresses[0].rpartition(":")[2]
    assert image.ports == {str(settings.server.port), f"{udp}/udp"}
    assert image.environment["PEERSERVERS_SERVER__STATE_DIR"] == image.one("VOLUME")
    assert image.command == ["peerservers", "serve"]


def test_docker_gets_the_copied_files() -> None:
    """It gets no other files: keys, logs and environments must not go to a Docker engine on another machine."""
    first, *lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert first == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {name for image in IMAGES.values() for name in image.sources}
    assert allowed == copied - {name for name in copied if any(str(parent) in allowed for parent in Path(name).parents)}


def test_compose_files_schema(compose: Compose) -> None:
    """If Docker Compose is installed, it also reads the file, for which it needs no engine."""
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft7Validator(schema).validate(compose.document)
    docker = shutil.which("docker")
    if docker and not subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode:
        subprocess.run([docker, "compose", "--file", Compose.file, "config", "--quiet"], check=True)


def test_mounted_directories_exist(compose: Compose) -> None:
    volumes = [volume.split(":") for service in compose.services.values() for volume in service.get("volumes", [])]
    assert {source for source, *_ in volumes if source[0] != "."} == set(compose.document["volumes"])
    mounted = [volume for volume in volumes if volume[0][0] == "."]
    assert all((ROOT / source).is_dir() and mode == ["ro"] for source, _, *mode in mounted)
    balancer = compose.services["balancer"]["volumes"][0].split(":")
    mounted.remove(balancer)
    assert [path.name for path in (ROOT / balancer[0]).iterdir()] == ["haproxy.cfg"]
    said = dict(re.findall(r"`(\w+)/` \| `(/\S+)/`", (ROOT / "grafana" / "README.md").read_text()))
    assert {source.removeprefix("./grafana/"): target for source, target, _ in mounted} == said


def test_ports_are_published_on_loopback_only(compose: Compose) -> None:
    published = [port for name in compose.services for port in compose.published(name).values()]
    assert {address for address, _ in published} == {"127.0.0.1"}
    assert len(set(published)) == len(published)


def test_the_trackers_share_an_image_that_is_built_once(compose: Compose) -> None:
    first, *others = [compose.services[name] for name in (*TRACKERS, *NODES)]
    assert {tracker["image"] for tracker in others} == {first["image"]}
    assert ("build" in first, first["pull_policy"]) == (True, "build")
    assert all(("build" in tracker, tracker["pull_policy"]) == (False, "never") for tracker in others)


def test_logs_and_open_files_are_limited(compose: Compose) -> None:
    assert all(
        service["logging"]["options"].keys() == {"max-size", "max-file"} for service in compose.services.values()
    )
    (unit,) = keys_of_unit(UNIT)["LimitNOFILE"]
    assert {compose.services[name]["ulimits"]["nofile"] for name in (*TRACKERS, *NODES)} == {int(unit)}


def test_images_of_others_have_a_version(compose: Compose) -> None:
    built = compose.built.keys()
    others = [service["image"] for name, service in compose.services.items() if name not in built]
    assert len(others) == 4
    assert all(re.fullmatch(r"[\w/]+:v?\d+\.\d+\.\d+(@sha256:[0-9a-f]{64})?", image) for image in others)


def test_the_trackers_differ_only_in_their_names(compose: Compose) -> None:
    for name in TRACKERS:
        service = compose.services[name]
        others = [other for other in TRACKERS if other != name]
        settings = service["environment"]
        assert settings["PEERSERVERS_SERVER__PUBLIC_URL"] == f"ws://{name}:8000"
        assert json.loads(settings["PEERSERVERS_EXTENSIONS__DHT__BOOTSTRAP"]) == [f"{other}:6881" for other in others]
        assert service["volumes"] == [f"{name}:{IMAGES['tracker'].one('VOLUME')}"]
        assert int(service["stop_grace_period"].removesuffix("s")) > Settings().server.shutdown_timeout


def test_the_trackers_settings_are_settings(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in {**IMAGES["tracker"].environment, **compose.services["tracker-a"]["environment"]}.items():
        monkeypatch.setenv(key, value)
    settings = load()
    assert set(sections(discover(settings), settings)) == {"cluster", "dht", "federation", "tokens"}
    assert settings.extensions["dht"]["private"]


class TestComposeProfile:
    """The profile `cluster` in docker-compose.yml: a tracker of three nodes behind a balancer."""

    def test_only_its_services_have_a_profile(self, compose: Compose) -> None:
        profiles = {name: service.get("profiles") for name, service in compose.services.items()}
        cluster = {name for name, profile in profiles.items() if profile == ["cluster"]}
        assert cluster == {*NODES, "nats", "balancer"}
        assert all(profiles[name] is None for name in profiles.keys() - cluster)

    def test_the_nodes_differ_only_in_their_names(self, compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in NODES:
            service = compose.services[name]
            assert service["volumes"] == [f"{name}:{IMAGES['tracker'].one('VOLUME')}"]
            given = dict(service["environment"])
            assert given.pop("PEERSERVERS_EXTENSIONS__CLUSTER__LABEL") == name
            others = {**compose.services[NODES[0]]["environment"], **given}
            assert others == compose.services[NODES[0]]["environment"]
        for key, value in {**IMAGES["tracker"].environment, **compose.services[NODES[0]]["environment"]}.items():
            monkeypatch.setenv(key, value)
        settings = load()
        cluster = sections(discover(settings), settings)["cluster"]
        assert isinstance(cluster, ClusterSettings)
        assert (cluster.enabled, cluster.servers, cluster.key) == (True, ["nats://nats:4222"], "nats")
        assert "--jetstream" in compose.services["nats"]["command"]
        assert settings.server.public_url == f"ws://balancer:{settings.server.port}"

    def test_the_balancer_knows_all_nodes(self, compose: Compose) -> None:
        text = (ROOT / "deploy" / "compose" / "haproxy.cfg").read_text()
        assert re.findall(r"^    server (\S+) (\S+)$", text, re.MULTILINE) == [(name, f"{name}:8000") for name in NODES]
        assert "    bind :8000\n" in text
        assert compose.published("balancer").keys() == {"8000"}

    def test_prometheus_scrapes_all_nodes(self) -> None:
        text = (ROOT / "grafana" / "prometheus" / "prometheus.yml").read_text()
        assert f"names: [{', '.join(NODES)}]\n" in text


def test_prometheus_scrapes_all_trackers() -> None:
    configuration = (ROOT / "grafana" / "prometheus" / "prometheus.yml").read_text()
    assert set(re.findall(r"tracker-\w+:\d+", configuration)) == {f"{name}:8000" for name in TRACKERS}


def test_the_demo_has_the_tested_client() -> None:
    """The page contains webtorrent as npm has it, in the version that the tests with webtorrent use."""
    tested = WEB / "node_modules" / "webtorrent"
    if not tested.exists():
        unavailable("npm's clients for pages")
    assert (PAGE / "webtorrent.min.js").read_bytes() == (tested / "dist" / "webtorrent.min.js").read_bytes()
    assert (PAGE / "webtorrent.LICENSE").read_bytes() == (tested / "LICENSE").read_bytes()


def test_the_demo_shows_the_trackers(compose: Compose) -> None:
    shown = json.loads((ROOT / "demo" / "trackers.json").read_text())
    assert shown == [
        {
            "name": name[-1].upper(),
            "url": f"ws://localhost:{compose.published(name)['8000'][1]}",
            "public_url": compose.services[name]["environment"]["PEERSERVERS_SERVER__PUBLIC_URL"],
        }
        for name in TRACKERS
    ]


def test_the_unit(tmp_path: Path) -> None:
    """Systemd accepts the unit, and finds it hardened."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        unavailable("systemd-analyze")
    assert analyze
    unit = tmp_path / UNIT.name
    # systemd looks for the program.
    text = UNIT.read_text().replace("/opt/peerservers/bin/peerservers", "/bin/true")
    version = subprocess.run([analyze, "--version"], capture_output=True, text=True, check=True).stdout.split()[1]
    if int(version) < 253:
        text = text.replace("Type=notify-reload\n", "")
    unit.write_text(text)
    verified = subprocess.run([analyze, "verify", "--man=no", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    limit = f"--threshold={EXPOSURE}"
    rated = subprocess.run(
        [analyze, "security", "--offline=true", limit, unit], capture_output=True, text=True, check=False
    )
    assert rated.returncode == 0, rated.stdout


def test_the_unit_fits_the_program() -> None:
    unit = keys_of_unit(UNIT)
    assert unit["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert unit["Type"] == ["notify", "notify-reload"]
    (check,), (start,) = unit["ExecStartPre"], unit["ExecStart"]
    assert check.replace("config --check", "serve") == start
    assert int(unit["TimeoutStopSec"][0]) > Settings().server.shutdown_timeout
    assert unit["Environment"] == [f"PEERSERVERS_SERVER__STATE_DIR=/var/lib/{unit['StateDirectory'][0]}"]
    assert "@privileged" in unit["SystemCallFilter"][1]


def test_links_of_the_guides_for_operators() -> None:
    """The targets of their links exist, and they link all files."""
    links = [link for guide in (DEPLOY, CLUSTER) for link in re.findall(r"\]\((?!https?:)([^)#]+)", guide.read_text())]
    assert [link for link in links if not (DEPLOY.parent / link).exists()] == []
    for file in sorted((DEPLOY.parent / "deploy").iterdir()):
        assert f"deploy/{file.name}" in links


@pytest.mark.parametrize("guide", [DEPLOY, CLUSTER], ids=lambda guide: guide.name)
def test_the_examples_in_the_guides_for_operators_are_valid_settings(guide: Path) -> None:
    examples = [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", guide.read_text(), re.DOTALL)]
    assert examples
    for example in examples:
        settings = Settings.model_validate(example)
        sections(discover(settings), settings)


@pytest.mark.parametrize("guide", [DEPLOY, CLUSTER], ids=lambda guide: guide.name)
def test_the_guides_for_operators_name_existing_metrics_and_events(guide: Path) -> None:
    """The metrics and the log events that they name exist."""
    text = guide.read_text()
    known = (ROOT / "docs" / "metrics.md").read_text()
    metrics = set(re.findall(r"`(peerservers_\w+)", text))
    assert metrics
    assert [name for name in metrics if f"`{name}`" not in known] == []
    sources = "".join(file.read_text() for part in ("tracker", "extensions") for file in (ROOT / part).rglob("*.py"))
    rows = re.findall(r"^\| log (.*?) \|", text, re.MULTILINE)
    events = [name for row in rows for name in re.findall(r"`(\w+)`", row.partition(" with ")[0])]
    assert len(events) >= len(rows) > 0
    # An extension that cannot run logs its name.
    events = [name for name in events if name.removesuffix("_off") not in discover()]
    assert [name for name in events if f'"{name}"' not in sources] == []


def test_the_guide_to_clusters_names_existing_events_reasons_and_settings() -> None:
    text = CLUSTER.read_text()
    named = set(re.findall(r"`((?!peerservers_)[a-z]+(?:_[a-z]+)+)`", text))
    assert len(named) > 20
    sources = "".join(file.read_text() for part in ("tracker", "extensions") for file in (ROOT / part).rglob("*.py"))
    ours = {name for name in named if f'"{name}"' in sources or re.search(rf"^    {name}: ", sources, re.MULTILINE)}
    proxies = "".join(
        (ROOT / "docs" / "deploy" / name).read_text() for name in ("haproxy-cluster.cfg", "nginx-cluster.conf")
    )
    assert [name for name in named - ours if name not in proxies] == []
