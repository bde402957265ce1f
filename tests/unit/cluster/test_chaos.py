"""Whatever the network does, and whichever nodes die: when it is calm again, all nodes agree about every swarm."""

import pytest

from tests.unit.cluster.chaos import Chaos
from tests.unit.cluster.world import World


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("kind", ["", "gateway", "crowded"])
def test_nodes_agree_when_the_network_is_calm(seed: int, kind: str) -> None:
    world = World(2 + seed % 4, seed=seed, is_capable=kind == "gateway", needs_mac=seed % 2 == 0)
    chaos = Chaos(world, is_crowded=kind == "crowded")
    for _ in range(30):
        for _ in range(world.random.randrange(60 if chaos.is_crowded else 12)):
            chaos.step()
        chaos.harm()
        world.check()
    chaos.calm()
    chaos.check()
