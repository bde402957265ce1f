"""docs/deploy/nats-server.conf: a real server accepts it, and the nodes of one tracker can use that server."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.certificates import Pair
from tests.conftest import StartTracker, environment, unavailable
from tests.e2e.nats import DOCUMENTED, Nodes
from tests.nats_server import PROGRAM


def test_the_password_is_a_hash_and_the_nodes_use_the_user_and_the_name() -> None:
    text = DOCUMENTED.read_text()
    assert re.search(r'password: "\$2b\$11\$[./0-9A-Za-z]{53}"', text)
    assert '#     name = "tracker"' in text
    assert "tls://peerservers:PASSWORD@" in text


def test_the_part_about_several_servers(tmp_path: Path) -> None:
    """It is a comment. Without the comment signs, the program accepts it."""
    if PROGRAM is None:
        unavailable("nats-server")
    pair = Pair(tmp_path)
    text, more = DOCUMENTED.read_text().split("# cluster {\n")
    more = "cluster {\n" + re.sub("^# ", "", more, flags=re.MULTILINE)
    text = (text + more).replace("/etc/nats/ca.pem", str(pair.authority)).replace("/var/lib/nats", str(tmp_path))
    for file in (pair.certificate, pair.key):
        text = text.replace(f"/etc/nats/{file.name}", str(file))
    configuration = tmp_path / "nats-server.conf"
    configuration.write_text(text)
    checked = subprocess.run([PROGRAM, "-t", "-c", configuration], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


@pytest.fixture
def nodes(tmp_path: Path) -> Nodes:
    return Nodes(tmp_path, Pair(tmp_path))


async def test_nodes_have_one_key_and_a_tracker_with_another_name_is_refused(
    nodes: Nodes, start_tracker: StartTracker
) -> None:
    await nodes.nats.start()
    try:
        here, there = [await start_tracker(env=nodes.env(number)) for number in range(2)]
        await here.logged("node_joined")
        await there.logged("node_joined")
        assert (nodes.directory / "0" / "identity.pem").read_bytes() == (
            nodes.directory / "1" / "identity.pem"
        ).read_bytes()
        # With a key of its own, this tracker starts, but it may not use the subjects of its name.
        alone = await start_tracker(env={**nodes.env(2), **environment("extensions.cluster", name="other", key="file")})
        assert (await alone.logged("nats_unavailable"))["reason"] == "forbidden"
        assert await alone.metric("peerservers_cluster_connected") == 0
        assert (await alone.get("/ready"))[0] == 200
        assert await here.metric("peerservers_cluster_nodes") == 2
    finally:
        await nodes.nats.stop()
