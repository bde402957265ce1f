"""A NATS server with the configuration in docs/deploy, and nodes of one tracker that use it."""

import re
from pathlib import Path

from tests.certificates import Pair
from tests.conftest import environment
from tests.e2e.proxies import DEPLOY
from tests.nats_server import NatsServer

DOCUMENTED = DEPLOY / "nats-server.conf"


class DocumentedServer(NatsServer):
    """A NATS server with the configuration in docs/deploy, and the password PASSWORD."""

    def __init__(self, directory: Path, pair: Pair) -> None:
        super().__init__(directory, {})
        text = DOCUMENTED.read_text()
        for documented, tested in {
            "0.0.0.0:4222": f"127.0.0.1:{self.port}",
            'http: "127.0.0.1:8222"': "",
            "/var/lib/nats": str(directory),
            "/etc/nats/fullchain.pem": str(pair.certificate),
            "/etc/nats/privkey.pem": str(pair.key),
        }.items():
            assert documented in text, documented
            text = text.replace(documented, tested)
        self.text, count = re.subn(r'password: ".*"', 'password: "PASSWORD"', text)
        assert count == 1

    def _write(self) -> None:
        self._file.write_text(self.text)


class Nodes:
    """The environments of nodes of one tracker, and the NATS server between them, which keeps their identity key."""

    def __init__(self, directory: Path, pair: Pair) -> None:
        (directory / "nats").mkdir()
        self.nats = DocumentedServer(directory / "nats", pair)
        self.directory = directory
        self._pair = pair

    def env(self, number: int) -> dict[str, str]:
        """Return the environment of a node."""
        url = f"tls://peerservers:PASSWORD@localhost:{self.nats.port}"
        return {
            **environment("server", state_dir=str(self.directory / str(number))),
            **environment(
                "extensions.cluster", servers=[url], tls_ca=str(self._pair.authority), label=f"node-{number}"
            ),
        }
