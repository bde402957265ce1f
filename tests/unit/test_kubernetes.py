"""The manifests in deploy/kubernetes are valid, and agree with the image and the program."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from extensions.dht.settings import DhtSettings
from tests.shipping import ROOT, Dockerfile
from tracker.config import load
from tracker.settings import Settings

DIRECTORY = ROOT / "deploy" / "kubernetes"
IMAGE = Dockerfile(ROOT / "Dockerfile")
Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Return all objects, in the order of the kustomization."""
    names = yaml.safe_load((DIRECTORY / "kustomization.yaml").read_text())["resources"]
    assert {path.name for path in DIRECTORY.iterdir()} == {*names, "kustomization.yaml"}
    return [document for name in names for document in yaml.safe_load_all((DIRECTORY / name).read_text())]


MANIFESTS = {f"{manifest['kind']} {manifest['metadata']['name']}": manifest for manifest in manifests()}


@pytest.fixture
def pod() -> Manifest:
    spec: Manifest = MANIFESTS["StatefulSet peerservers"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture
def container(pod: Manifest) -> Manifest:
    (only,) = pod["containers"]
    assert isinstance(only, dict)
    return only


@pytest.mark.parametrize("manifest", MANIFESTS.values(), ids=MANIFESTS)
@pytest.mark.parametrize("version", ["1.27", "1.33"])
def test_the_schema_of_kubernetes(manifest: Manifest, version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_schema_finds_a_wrong_field() -> None:
    wrong = {**MANIFESTS["Service peerservers"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_selectors_find_the_pod() -> None:
    stateful = MANIFESTS["StatefulSet peerservers"]["spec"]
    labels = stateful["template"]["metadata"]["labels"]
    services = [manifest["spec"]["selector"] for name, manifest in MANIFESTS.items() if name.startswith("Service ")]
    assert len(services) == 2
    assert all(selector == labels for selector in services)
    for selecting in (stateful, MANIFESTS["PodDisruptionBudget peerservers"]["spec"]):
        assert selecting["selector"]["matchLabels"] == labels


def test_ports(container: Manifest) -> None:
    ports = {
        port["name"]: f"{port['containerPort']}/{port.get('protocol', 'TCP').lower()}" for port in container["ports"]
    }
    assert {ports["web"].removesuffix("/tcp"), ports["dht"]} == IMAGE.ports
    assert ports["dht"] == f"{DhtSettings().addresses[0].rpartition(':')[2]}/udp"
    for name in ("Service peerservers", "Service peerservers-dht"):
        for port in MANIFESTS[name]["spec"]["ports"]:
            assert ports[port["targetPort"]].endswith(port.get("protocol", "TCP").lower())
    backend = MANIFESTS["Ingress peerservers"]["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    served = MANIFESTS[f"Service {backend['name']}"]["spec"]["ports"]
    assert backend["port"]["name"] in {port["name"] for port in served}
    annotations = MANIFESTS["StatefulSet peerservers"]["spec"]["template"]["metadata"]["annotations"]
    assert f"{annotations['prometheus.io/port']}/tcp" == ports["metrics"]


def test_the_user_and_the_volume_are_those_of_the_image(pod: Manifest, container: Manifest) -> None:
    context = pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == IMAGE.one("USER")
    assert context["fsGroup"] == context["runAsGroup"]
    (claim,) = MANIFESTS["StatefulSet peerservers"]["spec"]["volumeClaimTemplates"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounted[claim["metadata"]["name"]] == IMAGE.one("VOLUME")
    assert pod["terminationGracePeriodSeconds"] > Settings().server.shutdown_timeout
    assert container["args"][0] == IMAGE.command[1]


def test_the_settings_are_settings(container: Manifest, tmp_path: Path) -> None:
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    path = Path(container["args"][container["args"].index("--config") + 1])
    assert str(path.parent) == mounted["configuration"]
    (tmp_path / path.name).write_text(MANIFESTS["ConfigMap peerservers"]["data"][path.name])
    settings = load(tmp_path / path.name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert (settings.server.port, settings.metrics.port) == (ports["web"], ports["metrics"])
    host = MANIFESTS["Ingress peerservers"]["spec"]["rules"][0]["host"]
    assert settings.server.public_url == f"wss://{host}"


def test_probes_ask_for_pages_that_are_there(container: Manifest) -> None:
    probes = {name: container[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["path"] for probe in probes.values()} == {"/health", "/ready"}
    assert probes["readinessProbe"]["path"] == "/ready"
    assert {probe["port"] for probe in probes.values()} == {"web"}
