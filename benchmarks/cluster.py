"""A tracker of several nodes, compared with one process: the CPU time of all its processes for a message.

All processes of the tracker share one core. `nats_us` is the CPU time that nats-server takes for a message of the load;
the other figures are without it.

`each swarm at one`: nothing crosses. `swarms at both`: half of the offers and of the answers do.
"""

import shutil
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final
from urllib.request import urlopen

import uvloop

from benchmarks.links import until
from benchmarks.load import Shape
from benchmarks.measure import under_load
from benchmarks.servers import OURS, Running, ServerFailed, running
from benchmarks.storm import AT_A_TIME, under_storm
from benchmarks.suite import Figures, Measure, Result, Suite
from benchmarks.warm import meetings
from extensions.identity import load_or_create

AQUATIC: Final = "aquatic_ws"
NATS: Final = "nats-server"
NODES: Final = 2
SATURATED: Final = Shape(400)
MANY: Final = Shape(10_000, rate=800.0)
"""The load under which the memory of a connection is measured."""

WARM: Final = "a meeting of two known peers"


@dataclass(frozen=True)
class Nodes:
    """One tracker of several processes, each with its own port, and the nats-server between them."""

    name: str
    nodes: list[Running]
    nats: Running

    @property
    def port(self) -> int:
        """The port of the first node."""
        return self.nodes[0].port

    @property
    def ports(self) -> list[int]:
        """The port of each node."""
        return [node.port for node in self.nodes]

    def cpu(self) -> tuple[float, float]:
        """Return the seconds of (user, system) time of all nodes."""
        user, system = zip(*(node.cpu() for node in self.nodes), strict=True)
        return sum(user), sum(system)

    def busiest_thread(self) -> tuple[float, float]:
        """Return the seconds that the busiest thread of all nodes has run, and has been ready without its core."""
        return max(node.busiest_thread() for node in self.nodes)

    def resident(self) -> float:
        """Return the resident memory of all nodes in KiB."""
        return sum(node.resident() for node in self.nodes)

    def socket_memory(self) -> float | None:
        """Return the KiB of the sockets' buffers in the kernel."""
        parts = [node.socket_memory() for node in self.nodes]
        return None if None in parts else sum(part or 0.0 for part in parts)

    def collections(self, since: float) -> list[float] | None:
        """Return the seconds of each garbage collection since a Unix time."""
        return [pause for node in self.nodes for pause in node.collections(since) or ()]


def cluster(suite: Suite) -> Iterator[Result]:
    """Two workers, and two nodes with NATS, beside one process and aquatic_ws."""
    workers = {"PEERSERVERS_SERVER__WORKERS": str(NODES), "WORKERS": str(NODES)}
    apart = {**workers, "PEERSERVERS_SERVER__GROUP_SWARMS": "false"}

    kinds: list[tuple[str, dict[str, str], tuple[str, ...]]] = [
        ("1 process", {}, (OURS, AQUATIC)),
        (f"{NODES} workers, each swarm at one", workers, (OURS, AQUATIC)),
        (f"{NODES} workers, swarms at both", apart, (OURS,)),
    ]

    def relay(shape: Shape) -> Measure:
        async def measure(server: Running) -> Figures:
            await until(lambda: server.name != OURS or _sees_all(server.port))
            return await under_load(server, shape, suite.seconds, suite.warm_up)

        return measure

    measures: list[tuple[str, Measure]] = [
        ("saturated", relay(SATURATED)),
        (f"{MANY.sockets} sockets", relay(MANY)),
        (f"handshakes, {AT_A_TIME} at a time", lambda server: under_storm(suite, server)),
    ]
    for case, measure in measures:
        for kind, environment, names in kinds:
            yield from suite.each("cluster", f"{case}, {kind}", measure, environment, names)
    for kind, environment, _ in (kinds[0], kinds[2]):
        yield from suite.each("cluster", f"{WARM}, {kind}", _meetings, environment, (OURS,))
    if not shutil.which(NATS):
        print(f"{NATS} is not in PATH: nodes with NATS are left out")
        return
    over_nats: list[tuple[str, Callable[[Nodes], Awaitable[Figures]]]] = [
        (f"{case}, {NODES} nodes with NATS, {name}", _load_of(suite, shape, is_apart))
        for case, shape in (("saturated", SATURATED), (f"{MANY.sockets} sockets", MANY))
        for name, is_apart in (("each swarm at one", False), ("swarms at both", True))
    ]
    over_nats.append((f"{WARM}, {NODES} nodes with NATS", lambda nodes: meetings(nodes.ports)))
    for case, measure_nodes in over_nats:
        remarks: list[str] = []
        figures: Figures = {}
        try:
            figures = _over_nats(suite, measure_nodes)
        except (ServerFailed, OSError, TimeoutError) as error:
            remarks = [f"failed: {str(error) or type(error).__name__}"]
        yield Result("cluster", case, OURS, figures, remarks)


async def _meetings(server: Running) -> Figures:
    await until(lambda: _sees_all(server.port))
    return await meetings([server.port])


def _over_nats(suite: Suite, measure: Callable[[Nodes], Awaitable[Figures]]) -> Figures:
    """Measure nodes with NATS that know each other."""
    with _nodes(suite) as nodes:

        async def measured() -> Figures:
            await until(lambda: all(_sees_all(port) for port in nodes.ports))
            return await measure(nodes)

        return uvloop.run(measured())


def _load_of(suite: Suite, shape: Shape, apart: bool) -> Callable[[Nodes], Awaitable[Figures]]:
    """Return a measure of nodes under a load. The peers of a swarm are on all of them if `apart`, otherwise on one."""

    def node_of(number: int) -> int:
        return number if apart else number // shape.swarm_size

    async def measure(nodes: Nodes) -> Figures:
        ports = nodes.ports
        before = sum(nodes.nats.cpu())
        figures = await under_load(
            nodes, shape, suite.seconds, suite.warm_up, port_of=lambda number: ports[node_of(number) % len(ports)]
        )
        # Of the whole run: the time before and after the measured part has the same shares.
        spent = sum(nodes.nats.cpu()) - before
        return {**figures, "nats_cpu": spent / (suite.seconds + suite.warm_up)}

    return measure


@contextmanager
def _nodes(suite: Suite) -> Iterator[Nodes]:
    with TemporaryDirectory() as directory, ExitStack() as ending:
        nats = ending.enter_context(
            running(NATS, NATS + " -a 127.0.0.1 -p {port} -l {directory}/log", suite.server_core)
        )
        # All nodes have the same key.
        template = Path(directory, "key")
        load_or_create(template)
        nodes = []
        for number in range(NODES):
            place = Path(directory, str(number))
            shutil.copytree(template, place)
            environment = {
                "PEERSERVERS_SERVER__STATE_DIR": str(place),
                "PEERSERVERS_EXTENSIONS__CLUSTER__KEY": "file",
                "PEERSERVERS_EXTENSIONS__CLUSTER__SERVERS": f'["nats://127.0.0.1:{nats.port}"]',
            }
            nodes.append(ending.enter_context(running(OURS, suite.commands[OURS], suite.server_core, environment)))
        yield Nodes(OURS, nodes, nats)


def _sees_all(port: int) -> bool:
    """Return whether a node knows all nodes, or is the only one."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text: str = response.read().decode()
    return "\npeerservers_cluster_nodes " not in text or f"\npeerservers_cluster_nodes {float(NODES)}\n" in text
