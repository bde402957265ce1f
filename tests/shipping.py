"""Dockerfiles, docker-compose.yml and systemd units, read as Docker and systemd read them."""

import json
import re
import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


class Dockerfile:
    """The instructions of a Dockerfile by stage."""

    def __init__(self, file: Path) -> None:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        self.stages: list[list[tuple[str, str]]] = []
        for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
            name, _, rest = line.strip().partition(" ")
            if name == "FROM":
                self.stages.append([])
            if name:
                self.stages[-1].append((name, rest.strip()))

    def all(self, name: str, stage: int = -1) -> list[str]:
        """Return the arguments of all instructions of this name in a stage, by default the last: the image."""
        return [rest for instruction, rest in self.stages[stage] if instruction == name]

    def one(self, name: str) -> str:
        """Return the arguments of the only instruction of this name in the last stage."""
        (only,) = self.all(name)
        return only

    @property
    def sources(self) -> list[str]:
        """The files and directories that any stage copies from the build context, which is the repository."""
        copies = [rest for number in range(len(self.stages)) for rest in self.all("COPY", number)]
        return [name for rest in copies if not rest.startswith("--from") for name in rest.split()[:-1]]

    @property
    def command(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        return [*json.loads(self.one("ENTRYPOINT")), *json.loads(self.one("CMD"))]

    @property
    def healthcheck(self) -> list[str]:
        """The command of HEALTHCHECK."""
        command: list[str] = json.loads(self.one("HEALTHCHECK").partition("CMD ")[2])
        return command

    @property
    def environment(self) -> dict[str, str]:
        """ENV."""
        return dict(word.split("=", 1) for rest in self.all("ENV") for word in shlex.split(rest))

    @property
    def ports(self) -> set[str]:
        """EXPOSE."""
        return {port for rest in self.all("EXPOSE") for port in rest.split()}


class Compose:
    """docker-compose.yml."""

    file = ROOT / "docker-compose.yml"

    @cached_property
    def document(self) -> dict[str, Any]:
        """The whole file, with YAML's anchors resolved."""
        loaded: dict[str, Any] = yaml.safe_load(self.file.read_text())
        return loaded

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The services by name."""
        services: dict[str, dict[str, Any]] = self.document["services"]
        return services

    @property
    def built(self) -> dict[str, Dockerfile]:
        """The Dockerfiles of the services whose images are built from this repository, by them or for another one."""
        builds = {service.get("image"): service["build"] for service in self.services.values() if "build" in service}
        found = {}
        for name, service in self.services.items():
            build = service.get("build") or builds.get(service.get("image"))
            if build:
                found[name] = Dockerfile(ROOT / (build["dockerfile"] if isinstance(build, dict) else "Dockerfile"))
        return found

    def published(self, service: str) -> dict[str, tuple[str, int]]:
        """Return the address and port on the host for each published port of a service."""
        found = {}
        for port in self.services[service].get("ports", []):
            address, outside, inside = port.rsplit(":", 2)
            found[inside] = (address, int(outside))
        return found


def keys_of_unit(file: Path) -> dict[str, list[str]]:
    """Return the settings of a systemd unit, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found
