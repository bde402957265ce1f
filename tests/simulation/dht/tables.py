"""The routing tables of emulated nodes (Kademlia, section 2.2 of its paper), made when they are needed.

A table follows from the ids of all nodes and the number of its owner, so that no table is kept. The owner knows all
nodes near itself, and of each part of the id space that is farther away `BUCKET` ones.
"""

from typing import Final

from tests.simulation.dht.population import BITS, Population, prefix_of

BUCKET: Final = 8
"""Nodes of a bucket, and contacts of a reply."""

NEAR: Final = 2 * BUCKET
"""Nodes with the owner's first bits, of which it knows all: at least so many, if there are."""


def closest_known(population: Population, owner: int, owner_id: bytes, target: bytes) -> list[int]:
    """Return the numbers of the nodes closest to a target in the table of a node, `BUCKET` at most."""
    own, prefix = prefix_of(owner_id), prefix_of(target)
    common = BITS - (own ^ prefix).bit_length()
    near_bits = _near_bits(population, own)
    if common >= near_bits:
        low, high = population.range_of(prefix, near_bits)
        by_distance = sorted(range(low, high), key=lambda place: population.prefix_at(place) ^ prefix)
        numbers = [population.number_at(place) for place in by_distance[: BUCKET + 1]]
        return [number for number in numbers if number != owner][:BUCKET]
    low, high = population.range_of(prefix, common + 1)
    if high - low > BUCKET:
        return _sample(population, owner, common, low, high)
    # The bucket has few nodes, so that the closest ones are in others, too.
    table = table_of(population, owner, owner_id)
    return sorted(table, key=lambda number: prefix_of(population.node_id(number)) ^ prefix)[:BUCKET]


def table_of(population: Population, owner: int, owner_id: bytes) -> list[int]:
    """Return the numbers of all nodes in the table of a node."""
    own = prefix_of(owner_id)
    near_bits = _near_bits(population, own)
    low, high = population.range_of(own, near_bits)
    numbers = [population.number_at(place) for place in range(low, high)]
    for bits in range(near_bits - 1, -1, -1):
        # The other half of the nodes that have the same first bits.
        low, high = population.range_of(own ^ 1 << BITS - bits - 1, bits + 1)
        if high - low > BUCKET:
            numbers += _sample(population, owner, bits, low, high)
        else:
            numbers += [population.number_at(place) for place in range(low, high)]
    return [number for number in numbers if number != owner]


def _near_bits(population: Population, own: int) -> int:
    """Return how many first bits those nodes have in common with the owner of which it knows all."""
    bits = max(0, (len(population) // NEAR).bit_length() - 1)
    low, high = population.range_of(own, bits)
    while high - low < NEAR and bits:
        bits -= 1
        low, high = population.range_of(own, bits)
    while high - low > 2 * NEAR and bits < BITS:
        inner = population.range_of(own, bits + 1)
        if inner[1] - inner[0] < NEAR:
            break
        bits += 1
        low, high = inner
    return bits


def _sample(population: Population, owner: int, bucket: int, low: int, high: int) -> list[int]:
    """Return some nodes of a bucket: with few changes of the order, mostly the same each time."""
    size, draw = high - low, 0
    chosen: dict[int, None] = {}
    while len(chosen) < BUCKET:
        # Hashes of numbers do not depend on the process.
        mixed = (hash((owner, bucket, draw)) * 0x9E3779B97F4A7C15 ^ 0x5851F42D4C957F2D) & (1 << 64) - 1
        chosen[low + (mixed * size >> 64)] = None
        draw += 1
    return [population.number_at(place) for place in chosen]
