"""The service in virtual time, with a node and a network that the tests control."""

import asyncio
from pathlib import Path

from extensions.dht.service import CACHE_FILE, STATE_FILE
from tests.unit.dht.entries import HASH
from tests.unit.dht.service import Loop, World, in_virtual_time


def test_a_service_publishes_with_another_node_and_keeps_its_files(tmp_path: Path) -> None:
    async def main(loop: Loop) -> None:
        world = World(loop, tmp_path)
        await world.service.start()
        assert (world.node.is_running, world.node.saved) == (True, None)
        world.meet(8)
        world.service.directory.publish(HASH)
        await asyncio.sleep(60)
        assert (world.service.directory.published, loop.puts) == (1, 8)
        await world.service.stop()
        assert not world.node.is_running

    in_virtual_time(main)
    assert (tmp_path / STATE_FILE).read_bytes() == b"state"
    assert (tmp_path / CACHE_FILE).exists()
