"""Whatever the network does, and whichever nodes die: when it is calm again, all nodes agree about every swarm."""

import pytest

from tests.unit.cluster.chaos import Chaos
from tests.unit.cluster.world import World


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("is_capable", [False, True], ids=["", "gateway"])
def test_nodes_agree_when_the_network_is_calm(seed: int, is_capable: bool) -> None:
    world = World(2 + seed % 4, seed=seed, is_capable=is_capable)
    chaos = Chaos(world)
    for _ in range(30):
        for _ in range(world.random.randrange(12)):
            chaos.step()
        chaos.harm()
        world.check()
    chaos.calm()
    chaos.check()
