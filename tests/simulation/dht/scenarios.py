"""Scenarios of liars near a record, and the costs without any."""

from collections.abc import AsyncIterator, Iterable
from statistics import mean
from typing import Final

from extensions.dht.krpc.messages import Contact
from tests.simulation.dht.addresses import in_one_network
from tests.simulation.dht.cases import (
    LOOKUP_COST,
    PUBLICATION_COST,
    Arguments,
    Case,
    chosen,
    publish_and_find,
)
from tests.simulation.dht.experiment import Experiment, slot_targets
from tests.simulation.dht.liars import POOL, chameleons
from tests.simulation.dht.mainline import Conditions
from tests.simulation.dht.nodes import Kind

SYBILS: Final = (4, 8, 16, 32, 64, 128, 256, 512)
MOST_SYBILS: Final = 128
"""For more of them there is no goal."""

NEARLY_ALL: Final = 29 / 30


async def calm(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """The costs of lookups and publications, by the share of dead nodes and of ids that fit their addresses."""
    for dead, fitting in ((0.0, 0.85), (0.2, 1.0), (0.2, 0.85), (0.2, 0.6), (0.2, 0.3), (0.4, 0.85), (0.6, 0.85)):
        name = f"dead {dead:.0%}, fitting {fitting:.0%}"
        if chosen(arguments, name):
            conditions = Conditions(nodes=arguments.nodes, dead=dead, fitting=fitting)
            case = await publish_and_find(name, conditions, seed, arguments.infohashes or 60)
            case.expect_found(1.0)
            if dead <= 0.2 and fitting >= 0.85:
                case.expect_at_most("queries a lookup", mean(case.figures.lookups), LOOKUP_COST)
                case.expect_at_most("queries a publication", mean(case.figures.publications), PUBLICATION_COST)
            yield case


async def sybils_before(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Nodes next to r0 that store nothing, before the publication."""
    for count in SYBILS:
        name = f"K={count} at r0"
        if chosen(arguments, name):
            yield await _with_sybils(arguments, seed, name, count, (0,), is_before=True)


async def sybils_after(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """The same nodes come after the publication."""
    for count in SYBILS:
        name = f"K={count} at r0"
        if chosen(arguments, name):
            yield await _with_sybils(arguments, seed, name, count, (0,), is_before=False)


async def sybils_all_slots(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Such nodes next to all slots of a record, before and after the publication."""
    for is_before in (True, False):
        for count in SYBILS[1:6]:
            name = f"K={count} at r0, r1, r2 {'before' if is_before else 'after'}"
            if chosen(arguments, name):
                yield await _with_sybils(arguments, seed, name, count, (0, 1, 2), is_before)


async def _with_sybils(
    arguments: Arguments, seed: int, name: str, count: int, slots: Iterable[int], is_before: bool
) -> Case:
    def surround(run: Experiment, info_hashes: list[bytes]) -> None:
        for info_hash in info_hashes:
            targets = slot_targets(info_hash)
            for slot in slots:
                run.add_sybils(targets[slot], count)

    conditions = Conditions(nodes=arguments.nodes)
    changes = {"before" if is_before else "between": surround}
    case = await publish_and_find(name, conditions, seed, arguments.infohashes or 30, **changes)
    if count <= MOST_SYBILS:
        case.expect_found(NEARLY_ALL)
    return case


async def sybils_fitting(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Such nodes next to r0 at addresses that fit their ids (BEP 42), which an attacker hardly has."""
    for count in (4, 8, 16, 64):
        for is_before in (True, False):
            name = f"K={count} that fit {'before' if is_before else 'after'}"
            if chosen(arguments, name):

                def surround(run: Experiment, info_hashes: list[bytes], count: int = count) -> None:
                    for info_hash in info_hashes:
                        run.add_fitting_sybils(slot_targets(info_hash)[0], count)

                conditions = Conditions(nodes=arguments.nodes)
                changes = {"before" if is_before else "between": surround}
                yield await publish_and_find(name, conditions, seed, arguments.infohashes or 30, **changes)


async def sybils_ipv6(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Nodes next to r0 in different /64 networks of one /48, in IPv6."""
    for count in (8, 16, 64):
        name = f"K={count} in one /48"
        if chosen(arguments, name):

            def surround(run: Experiment, info_hashes: list[bytes], count: int = count) -> None:
                for attacker, info_hash in enumerate(info_hashes):
                    run.add_sybils(slot_targets(info_hash)[0], count, in_one_network(count, attacker), family=6)

            conditions = Conditions(nodes=arguments.nodes, families=(6,))
            case = await publish_and_find(name, conditions, seed, arguments.infohashes or 30, before=surround)
            case.expect_found(1.0)
            yield case


async def chameleon_shares(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A share of all nodes claims an id next to each target, and names its kind."""
    for share in (0.001, 0.005, 0.01, 0.02, 0.05, 0.1):
        name = f"{share:.1%} of all nodes"
        if chosen(arguments, name):
            pool: list[Contact] = []
            kind = chameleons(pool)
            conditions = Conditions(nodes=arguments.nodes, kinds={kind: share})

            def fill(run: Experiment, _infohashes: list[bytes], kind: Kind = kind, pool: list[Contact] = pool) -> None:
                pool += [run.network.contact(4, number) for number in run.network.of_kind(4, kind, POOL)]

            case = await publish_and_find(name, conditions, seed, arguments.infohashes or 60, before=fill)
            case.expect_found(58 / 60)
            yield case
