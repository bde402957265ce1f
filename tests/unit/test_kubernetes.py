"""The manifests in deploy/kubernetes and kubernetes-cluster are valid, and agree with the image and the program."""

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from extensions.dht.settings import DhtSettings
from extensions.identity import KEY_FILE
from tests.conftest import unavailable
from tests.nats_server import PROGRAM
from tests.shipping import ROOT, Dockerfile
from tracker.config import load
from tracker.extension.discovery import discover, sections
from tracker.settings import Settings

SINGLE = "kubernetes"
CLUSTER = "kubernetes-cluster"
IMAGE = Dockerfile(ROOT / "Dockerfile")
Manifest = dict[str, Any]


def manifests(directory: str) -> dict[str, Manifest]:
    """Return all objects by kind and name, in the order of the kustomization."""
    path = ROOT / "deploy" / directory
    names = yaml.safe_load((path / "kustomization.yaml").read_text())["resources"]
    assert {file.name for file in path.iterdir()} == {*names, "kustomization.yaml"}
    found = [document for name in names for document in yaml.safe_load_all((path / name).read_text())]
    return {f"{manifest['kind']} {manifest['metadata']['name']}": manifest for manifest in found}


ALL = {directory: manifests(directory) for directory in (SINGLE, CLUSTER)}
both = pytest.mark.parametrize("objects", ALL.values(), ids=ALL)


def pod(objects: dict[str, Manifest], name: str = "peerservers") -> Manifest:
    spec: Manifest = objects[f"StatefulSet {name}"]["spec"]["template"]["spec"]
    return spec


def container(objects: dict[str, Manifest], name: str = "peerservers") -> Manifest:
    (only,) = pod(objects, name)["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize(
    "manifest",
    [manifest for objects in ALL.values() for manifest in objects.values()],
    ids=[f"{directory} {name}" for directory, objects in ALL.items() for name in objects],
)
@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_the_schema_of_kubernetes(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_finds_a_wrong_field() -> None:
    wrong = {**ALL[SINGLE]["Service peerservers"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


@both
def test_selectors_find_the_pods(objects: dict[str, Manifest]) -> None:
    labels = {}
    for name in [name.partition(" ")[2] for name in objects if name.startswith("StatefulSet ")]:
        stateful = objects[f"StatefulSet {name}"]["spec"]
        labels[name] = stateful["template"]["metadata"]["labels"]
        budget = objects[f"PodDisruptionBudget {name}"]["spec"]
        assert stateful["selector"]["matchLabels"] == budget["selector"]["matchLabels"] == labels[name]
        assert f"Service {stateful['serviceName']}" in objects
    services = [manifest["spec"]["selector"] for name, manifest in objects.items() if name.startswith("Service ")]
    assert all(selector in labels.values() for selector in services)
    assert all(selector in services for selector in labels.values())


@both
def test_ports(objects: dict[str, Manifest]) -> None:
    for name, manifest in objects.items():
        if name.startswith("Service "):
            label = manifest["spec"]["selector"]["app.kubernetes.io/name"]
            ports = ports_of(container(objects, label))
            for port in manifest["spec"]["ports"]:
                assert ports[port["targetPort"]].endswith(port.get("protocol", "TCP").lower())
    ports = ports_of(container(objects))
    assert ports["web"].removesuffix("/tcp") in IMAGE.ports
    backend = objects["Ingress peerservers"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    served = objects[f"Service {backend['name']}"]["spec"]["ports"]
    assert backend["port"]["name"] in {port["name"] for port in served}
    annotations = objects["StatefulSet peerservers"]["spec"]["template"]["metadata"]["annotations"]
    assert f"{annotations['prometheus.io/port']}/tcp" == ports["metrics"]


def ports_of(container: Manifest) -> dict[str, str]:
    return {
        port["name"]: f"{port['containerPort']}/{port.get('protocol', 'TCP').lower()}" for port in container["ports"]
    }


def test_the_port_of_the_dht() -> None:
    ports = ports_of(container(ALL[SINGLE]))
    assert ports["dht"] in IMAGE.ports
    assert ports["dht"] == f"{DhtSettings().addresses[0].rpartition(':')[2]}/udp"


@both
def test_the_user_and_the_volume_are_those_of_the_image(objects: dict[str, Manifest]) -> None:
    spec = pod(objects)
    context = spec["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == IMAGE.one("USER")
    assert context["fsGroup"] == context["runAsGroup"]
    stateful = objects["StatefulSet peerservers"]["spec"]
    volumes = {volume["name"] for volume in spec["volumes"]}
    volumes |= {claim["metadata"]["name"] for claim in stateful.get("volumeClaimTemplates", ())}
    mounted = {mount["name"]: mount["mountPath"] for mount in container(objects)["volumeMounts"]}
    assert volumes == mounted.keys()
    assert mounted["state"] == IMAGE.one("VOLUME")
    assert spec["terminationGracePeriodSeconds"] > Settings().server.shutdown_timeout
    assert container(objects)["args"][0] == IMAGE.command[1]


@both
def test_the_settings_are_settings(
    objects: dict[str, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = container(objects)
    mounted = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
    path = Path(only["args"][only["args"].index("--config") + 1])
    assert str(path.parent) == mounted["configuration"]
    (tmp_path / path.name).write_text(objects["ConfigMap peerservers"]["data"][path.name])
    for variable in only.get("env", ()):
        monkeypatch.setenv(variable["name"], "secret")
    settings = load(tmp_path / path.name)
    found = sections(discover(settings), settings)
    ports = {port["name"]: port["containerPort"] for port in only["ports"]}
    assert (settings.server.port, settings.metrics.port) == (ports["web"], ports["metrics"])
    host = objects["Ingress peerservers"]["spec"]["rules"][0]["host"]
    assert settings.server.public_url == f"wss://{host}"
    assert found["cluster"].enabled is (objects is ALL[CLUSTER])


@both
def test_probes_ask_for_pages_that_are_there(objects: dict[str, Manifest]) -> None:
    only = container(objects)
    probes = {name: only[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} == {"/health", "/ready"}
    assert probes["readinessProbe"]["path"] == "/ready"
    assert {probe["port"] for probe in probes.values()} == {"web"}


class TestCluster:
    """The manifests of a tracker of several nodes."""

    objects = ALL[CLUSTER]

    def test_all_nodes_have_the_key_of_one_secret(self) -> None:
        (mount,) = [mount for mount in container(self.objects)["volumeMounts"] if mount["name"] == "secret"]
        assert mount["mountPath"] == f"{IMAGE.one('VOLUME')}/{KEY_FILE}"
        (volume,) = [volume for volume in pod(self.objects)["volumes"] if volume["name"] == "secret"]
        assert volume["secret"]["items"] == [{"key": KEY_FILE, "path": mount["subPath"]}]
        described = (ROOT / "deploy" / CLUSTER / "kustomization.yaml").read_text()
        assert f"create secret generic {volume['secret']['secretName']} " in described
        for name in ("peerservers", "peerservers-nats"):
            for variable in container(self.objects, name)["env"]:
                reference = variable["valueFrom"].get("secretKeyRef")
                if reference:
                    assert reference["name"] == volume["secret"]["secretName"]
                    assert f"--from-literal={reference['key']}=" in described

    def test_the_nats_servers_accept_the_nodes_and_know_each_other(self, tmp_path: Path) -> None:
        """The real program checks the configuration. A server has the name of its pod."""
        only = container(self.objects, "peerservers-nats")
        configuration = self.objects["ConfigMap peerservers-nats"]["data"]
        (name,) = configuration
        mounted = {mount["name"]: mount["mountPath"] for mount in only["volumeMounts"]}
        assert only["args"] == ["--config", f"{mounted['configuration']}/{name}"]
        text = configuration[name]
        settings = self.objects["ConfigMap peerservers"]["data"]["peerservers.toml"]
        assert 'name = "tracker"' in settings
        # These servers keep no key.
        assert 'key = "file"' in settings
        assert "jetstream" not in text
        assert text.count('["peerservers.tracker.>"]') == 2
        assert 'user = "peerservers"' in settings
        assert 'user: "peerservers"' in text
        ports = ports_of(only)
        assert f'"nats://peerservers-nats:{ports["client"].removesuffix("/tcp")}"' in settings
        stateful = self.objects["StatefulSet peerservers-nats"]["spec"]
        for number in range(stateful["replicas"]):
            host = f"peerservers-nats-{number}.{stateful['serviceName']}"
            assert f'"nats://{host}:{ports["route"].removesuffix("/tcp")}"' in text
        for rule in self.objects["NetworkPolicy peerservers-nats"]["spec"]["ingress"]:
            assert all(port["port"] in ports for port in rule["ports"])
        if PROGRAM is None:
            unavailable("nats-server")
        (tmp_path / name).write_text(text)
        env = {"NATS_PASSWORD": "p123", "POD_NAME": "peerservers-nats-0"}
        assert env.keys() == {variable["name"] for variable in only["env"]}
        checked = subprocess.run(
            [PROGRAM, "-t", "-c", tmp_path / name], env=env, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr
