"""What comes with the program, read as Docker and operators read it."""

import json
import re
import shlex
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]


class Dockerfile:
    """A Dockerfile's instructions by stage."""

    def __init__(self, file: Path) -> None:
        self.context = file.parent
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        self.stages: list[list[tuple[str, str]]] = []
        for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
            name, _, rest = line.strip().partition(" ")
            if name == "FROM":
                self.stages.append([])
            if name:
                self.stages[-1].append((name, rest.strip()))

    def all(self, name: str, stage: int = -1) -> list[str]:
        """What all instructions of this name in a stage say; the image is what the last one makes."""
        return [rest for instruction, rest in self.stages[stage] if instruction == name]

    def one(self, name: str) -> str:
        """What the only instruction of this name in the last stage says."""
        (only,) = self.all(name)
        return only

    @property
    def sources(self) -> list[str]:
        """What is copied from the build context, in any stage."""
        copies = [rest for number in range(len(self.stages)) for rest in self.all("COPY", number)]
        return [name for rest in copies if not rest.startswith("--from") for name in rest.split()[:-1]]

    @property
    def command(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        return [*json.loads(self.one("ENTRYPOINT")), *json.loads(self.one("CMD"))]

    @property
    def healthcheck(self) -> list[str]:
        """The command that tells whether the container is well."""
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
        """All of it, merged."""
        loaded: dict[str, Any] = yaml.safe_load(self.file.read_text())
        return loaded

    @property
    def services(self) -> dict[str, dict[str, Any]]:
        """The services by name."""
        services: dict[str, dict[str, Any]] = self.document["services"]
        return services

    @property
    def built(self) -> dict[str, Dockerfile]:
        """Those whose images are made from this repository, with their Dockerfiles."""
        return {
            name: Dockerfile(ROOT / service["build"] / "Dockerfile")
            for name, service in self.services.items()
            if "build" in service
        }

    def published(self, service: str) -> dict[str, tuple[str, int]]:
        """Where the host offers a service's ports."""
        found = {}
        for port in self.services[service]["ports"]:
            address, outside, inside = port.rsplit(":", 2)
            found[inside] = (address, int(outside))
        return found


def keys_of_unit(file: Path) -> dict[str, list[str]]:
    """A systemd unit's settings, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        key, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(key, []).append(value)
    return found
