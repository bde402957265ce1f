"""The identity key of a cluster, kept by real NATS servers with JetStream."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.cluster.key import ENTRY, SharedKey, bucket_of, shared_key
from extensions.cluster.nats_connection import connect_any
from extensions.cluster.nats_options import NatsOptions, NatsSettings
from extensions.identity import KEY_FILE, keep_key, load_key, to_pem, tracker_id
from tests.client import PATIENCE, eventually
from tests.nats_server import NatsServer, NatsServers
from tracker.extension import ConfigError, Settings, aside
from tracker.extension.state import StateDirectory


class Log:
    """Keeps the lines of a log."""

    def __init__(self) -> None:
        self.warnings: list[tuple[str, str]] = []

    def warning(self, event: str, error: str) -> None:
        self.warnings.append((event, error))


class KeyNode:
    """A node that fetches the key, as `SharedKey` sees it: a tracker with a state directory of its own."""

    def __init__(self, directory: Path, *servers: NatsServer, patience: float = PATIENCE, **settings: Any) -> None:
        self.directory = directory
        self.settings = Settings.model_validate({"server": {"state_dir": directory}})
        self.log = Log()
        self._state = StateDirectory(self.settings)
        options = NatsOptions(NatsSettings(servers=[server.url for server in servers], **settings))
        tracker: Any = self
        self._key = SharedKey(tracker, options, "test", patience)

    async def use_state(self, read: Callable[[Path], Any]) -> Any:
        return await aside(self._state.use, read)

    async def fetch(self) -> str:
        """Fetch the key; return the id of the tracker."""
        try:
            await self._key.fetch()
        finally:
            self._state.close()
        key = load_key(self.directory)
        assert key
        return tracker_id(key)

    async def mistake(self) -> str:
        """Try to fetch the key; return the text of the mistake."""
        with pytest.raises(ConfigError) as error:
            await self.fetch()
        return str(error.value)


@pytest.fixture
async def servers() -> AsyncIterator[NatsServers]:
    async with NatsServers() as servers:
        yield servers


async def start_with_jetstream(servers: NatsServers, **config: Any) -> NatsServer:
    server = servers.make(**config)
    server.enable_jetstream()
    await server.start()
    return server


async def put(server: NatsServer, value: bytes) -> None:
    """Put a value in place of the key."""
    client = await nats.connect(server.url)
    await (await client.jetstream().key_value(bucket_of("test"))).put(ENTRY, value)
    await client.close()


async def test_of_several_nodes_one_makes_the_key(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    nodes = [KeyNode(tmp_path / str(number), server) for number in range(6)]
    ids = await asyncio.gather(*(node.fetch() for node in nodes))
    assert len(set(ids)) == 1
    assert len({(tmp_path / str(number) / KEY_FILE).read_bytes() for number in range(6)}) == 1
    # A node that comes later, also after a restart of the server.
    await server.stop(signal.SIGKILL)
    await server.start()
    assert await KeyNode(tmp_path / "later", server).fetch() == ids[0]
    assert nodes[0].log.warnings == []


class LateKey:
    """The key of a node that finds no key of the cluster, and then waits until another node has put one there."""

    def __init__(self, other: Callable[[], object]) -> None:
        self._key = Ed25519PrivateKey.generate()
        self._other = other

    def private_bytes(self, *arguments: Any) -> bytes:
        thread = threading.Thread(target=self._other)
        thread.start()
        thread.join()
        return self._key.private_bytes(*arguments)


async def test_a_node_does_not_replace_the_key_of_another_one(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    connection = await connect_any(NatsOptions(NatsSettings(servers=[server.url])), "test")
    late: Any = LateKey(lambda: asyncio.run(KeyNode(tmp_path, server).fetch()))
    key = await shared_key(connection, bucket_of("test"), late, PATIENCE)
    await connection.close()
    assert tracker_id(key) == load_id(tmp_path)


async def test_extensions_of_one_node_fetch_it_once(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    node = KeyNode(tmp_path, server)
    ids = await asyncio.gather(*(node.fetch() for _ in range(3)))
    assert len(set(ids)) == 1


async def test_the_key_of_the_first_node_becomes_that_of_the_cluster(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    key = keep_key(tmp_path / "first", Ed25519PrivateKey.generate())
    assert await KeyNode(tmp_path / "first", server).fetch() == tracker_id(key)
    assert await KeyNode(tmp_path / "second", server).fetch() == tracker_id(key)
    # Again with the same key.
    assert await KeyNode(tmp_path / "second", server).fetch() == tracker_id(key)


async def test_a_node_with_another_key_does_not_start(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    first = await KeyNode(tmp_path / "first", server).fetch()
    other = tracker_id(keep_key(tmp_path / "other", Ed25519PrivateKey.generate()))
    assert await KeyNode(tmp_path / "other", server).mistake() == (
        f"extensions.cluster.key: {tmp_path / 'other' / KEY_FILE} has the key of {other[:8]}, but the cluster is "
        f"{first[:8]}; remove the file to take over the key of the cluster"
    )
    (tmp_path / "other" / KEY_FILE).unlink()
    assert await KeyNode(tmp_path / "other", server).fetch() == first


async def test_nats_is_away(servers: NatsServers, tmp_path: Path) -> None:
    server = servers.make()
    assert await KeyNode(tmp_path, server).mistake() == (
        "extensions.cluster.key: this node has no key yet, and NATS cannot be asked for it: "
        f"127.0.0.1:{server.port}: connection refused"
    )
    key = keep_key(tmp_path, Ed25519PrivateKey.generate())
    node = KeyNode(tmp_path, server)
    assert await node.fetch() == tracker_id(key)
    assert node.log.warnings == [("cluster_key_not_checked", f"127.0.0.1:{server.port}: connection refused")]


async def test_nats_hangs(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    server.tell(signal.SIGSTOP)
    assert "cannot be asked for it: no answer in time" in await KeyNode(tmp_path, server, patience=0.1).mistake()


async def test_any_of_the_servers_will_do(servers: NatsServers, tmp_path: Path) -> None:
    away, server = servers.make(), await start_with_jetstream(servers)
    await KeyNode(tmp_path, away, server).fetch()


async def test_jetstream_is_off(servers: NatsServers, tmp_path: Path) -> None:
    server = await servers.start()
    # A mistake, also for a node that has a key.
    keep_key(tmp_path, Ed25519PrivateKey.generate())
    assert await KeyNode(tmp_path, server).mistake() == (
        "extensions.cluster.key: JetStream is off at the NATS server, which is to keep the key"
    )


async def test_jetstream_is_off_for_the_account(servers: NatsServers, tmp_path: Path) -> None:
    users = [{"user": "me", "password": "secret"}]
    server = await start_with_jetstream(servers, accounts={"A": {"users": users}})
    text = await KeyNode(tmp_path, server, user="me", password="secret").mistake()
    assert text.startswith("extensions.cluster.key: JetStream ")
    assert "not enabled" in text or "is off" in text


async def test_the_user_may_not_use_jetstream(servers: NatsServers, tmp_path: Path) -> None:
    user = {"user": "me", "password": "secret", "permissions": {"publish": {"deny": ["$JS.>", "$KV.>"]}}}
    server = await start_with_jetstream(servers, authorization={"users": [user]})
    text = await KeyNode(tmp_path, server, user="me", password="secret").mistake()
    assert 'permissions violation for publish to "$js.api.' in text
    assert await KeyNode(tmp_path, server, user="me", password="wrong").mistake() == (
        "extensions.cluster.key: this node has no key yet, and NATS cannot be asked for it: "
        f"127.0.0.1:{server.port}: Authorization Violation"
    )


async def test_the_value_is_no_key(servers: NatsServers, tmp_path: Path) -> None:
    server = await start_with_jetstream(servers)
    await KeyNode(tmp_path / "first", server).fetch()
    await put(server, b"not a key")
    assert await KeyNode(tmp_path / "second", server).mistake() == (
        "extensions.cluster.key: identity in the bucket peerservers_test: not a private key in PEM form"
    )
    await put(server, to_pem(Ed25519PrivateKey.generate()))
    assert "remove the file" in await KeyNode(tmp_path / "first", server).mistake()


async def test_a_cluster_of_servers_keeps_copies(servers: NatsServers, tmp_path: Path) -> None:
    """One of three servers is killed, and the key is still there."""
    cluster: list[NatsServer] = []
    for number in range(3):
        server = servers.make(cluster=[servers.make() if not cluster else cluster[0]])
        server.config["server_name"] = f"n{number}"
        server.enable_jetstream()
        cluster.append(server)
    for server in cluster:
        server.config["cluster"]["routes"] = [f"nats://127.0.0.1:{other.route}" for other in cluster]
    await asyncio.gather(*(server.start() for server in cluster))

    async def is_fetched(directory: Path) -> bool:
        """Return whether a node has got the key: not before the servers have chosen a leader."""
        try:
            await KeyNode(directory, *cluster, patience=3).fetch()
        except ConfigError:
            return False
        return True

    client = await nats.connect(cluster[1].url)
    jetstream = client.jetstream()

    async def has_copies() -> bool:
        """Fetch the key, again and again until the servers know each other well enough to make three copies."""
        if not await is_fetched(tmp_path / "first"):
            return False
        stream = f"KV_{bucket_of('test')}"
        try:
            if (await jetstream.stream_info(stream)).config.num_replicas == 3:
                return True
            await jetstream.delete_stream(stream)
        except nats.errors.Error:
            return False
        (tmp_path / "first" / KEY_FILE).unlink()
        return False

    await eventually(has_copies)
    await client.close()
    await cluster[0].stop(signal.SIGKILL)
    await eventually(lambda: is_fetched(tmp_path / "second"))
    assert load_id(tmp_path / "second") == load_id(tmp_path / "first")


def load_id(directory: Path) -> str:
    key = load_key(directory)
    assert key
    return tracker_id(key)
