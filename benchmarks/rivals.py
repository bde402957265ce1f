"""Start another tracker that is installed here: python -m benchmarks.rivals NAME PORT DIRECTORY.

Its settings are its defaults. A configuration file goes to the directory. With CERTIFICATE and KEY in the environment,
the tracker speaks TLS. WORKERS is the number of aquatic's workers of each kind.
"""

import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key


class Place(NamedTuple):
    """The port of a tracker, the directory for its files, and its certificate and key if it speaks TLS."""

    port: int
    directory: Path
    certificate: str | None
    key: str | None


def aquatic_ws(place: Place) -> list[str]:
    """Return the arguments of aquatic (crate `aquatic_ws`)."""
    workers = os.environ.get("WORKERS")
    lines = [f"{kind}_workers = {workers}" for kind in ("socket", "swarm") if workers]
    lines += ["[network]", f'address = "127.0.0.1:{place.port}"']
    if place.certificate and place.key:
        # It takes no other keys than those in PKCS #8.
        key = load_pem_private_key(Path(place.key).read_bytes(), None)
        file = place.directory / "aquatic.pem"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        lines += [
            "enable_tls = true",
            f'tls_certificate_path = "{place.certificate}"',
            f'tls_private_key_path = "{file}"',
        ]
    file = place.directory / "aquatic.toml"
    file.write_text("\n".join(lines) + "\n")
    return ["-c", str(file)]


def wt_tracker(place: Place) -> list[str]:
    """Return the arguments of Novage's wt-tracker."""
    server = {"host": "127.0.0.1", "port": place.port}
    if place.certificate:
        server |= {"cert_file_name": place.certificate, "key_file_name": place.key}
    file = place.directory / "wt-tracker.json"
    file.write_text(json.dumps({"servers": [{"server": server}]}))
    return [str(file)]


def openwebtorrent_tracker(place: Place) -> list[str]:
    """Return the arguments of OpenWebTorrent's tracker, which speaks only TLS, and listens on all addresses."""
    return ["--port", str(place.port), "--ssl-cert", str(place.certificate), "--ssl-key", str(place.key)]


RIVALS: Final[dict[str, Callable[[Place], list[str]]]] = {
    "aquatic_ws": aquatic_ws,
    "wt-tracker": wt_tracker,
    "openwebtorrent-tracker": openwebtorrent_tracker,
}
"""The arguments of each tracker, by the name of its program."""

TLS_ONLY: Final = ("openwebtorrent-tracker",)


def installed() -> dict[str, str]:
    """Return the command lines of the trackers whose programs are in PATH."""
    return {
        name: f"{shlex.quote(sys.executable)} -m benchmarks.rivals {name} {{port}} {{directory}}"
        for name in RIVALS
        if shutil.which(name)
    }


def main() -> None:
    """Become the tracker."""
    name, port, directory = sys.argv[1:]
    place = Place(int(port), Path(directory), os.environ.get("CERTIFICATE"), os.environ.get("KEY"))
    os.execvp(name, [name, *RIVALS[name](place)])


if __name__ == "__main__":
    main()
