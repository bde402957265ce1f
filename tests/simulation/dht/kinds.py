"""Scenarios of nodes that do less than libtorrent, and of nodes that disturb lookups on the way."""

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from statistics import mean
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.messages import Item, item_target, sign_item
from extensions.dht.records.keys import SALTS, day_of, record_key
from extensions.dht.records.slots import encode_slot
from extensions.entries import sign_entry
from tests.simulation.dht import liars
from tests.simulation.dht.addresses import tracker_addresses
from tests.simulation.dht.cases import Arguments, Case, chosen, publish_and_find
from tests.simulation.dht.experiment import FIRST_TRACKER, Experiment, slot_targets
from tests.simulation.dht.mainline import Conditions
from tests.simulation.dht.nodes import Kind, Silent, SilentToItems, WithoutItems, WithoutTokens, late_by, refusing

ALL_COPIES: Final = 7
"""Copies of a record, in the mean, at least, if enough nodes store at all."""


async def no_tokens(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A share of all nodes takes `get` for `find_node`, and gives no token."""
    async for case in _shares(arguments, seed, "no token", WithoutTokens, {0.5: 1.0, 0.8: 1.0, 0.95: None}, ALL_COPIES):
        yield case


async def refusals(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A share of all nodes gives tokens and refuses each put."""
    for code in (203, 205, 301, 302):
        kind = refusing(code)
        copies = ALL_COPIES if code < 300 else 0
        # A reader does not know who refuses, and stops at the eight nearest nodes with tokens.
        async for case in _shares(arguments, seed, str(code), kind, {0.5: 0.95, 0.8: 0.7, 0.95: None}, copies):
            yield case


async def no_items(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A share of all nodes answers `get` with error 204."""
    async for case in _shares(arguments, seed, "204", WithoutItems, {0.5: 1.0, 0.8: 1.0, 0.95: None}):
        yield case


async def silent_to_items(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A share of all nodes ignores `get`."""
    async for case in _shares(arguments, seed, "silent", SilentToItems, {0.5: 1.0, 0.8: 1.0, 0.95: None}):
        yield case


async def mixed(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """15 % silent to `get`, 15 % without tokens, 5 % that refuse puts, 5 % with error 204; also with Sybils."""
    kinds: dict[Kind, float] = {SilentToItems: 0.15, WithoutTokens: 0.15, refusing(203): 0.05, WithoutItems: 0.05}
    conditions = Conditions(nodes=arguments.nodes, kinds=kinds)
    for count in (0, 32):
        name = f"mixed, K={count} at r0" if count else "mixed"
        if chosen(arguments, name):

            def surround(run: Experiment, info_hashes: list[bytes], count: int = count) -> None:
                for info_hash in info_hashes:
                    run.add_sybils(slot_targets(info_hash)[0], count)

            case = await publish_and_find(name, conditions, seed, arguments.infohashes or 40, before=surround)
            case.expect_found(0.95 if count else 1.0)
            case.expect_at_least("copies", mean(case.figures.copies), ALL_COPIES)
            yield case


async def locks_on_the_way(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """A share of all nodes answers `get` with a signed item after which no honest writer writes."""
    for share in (0.02, 0.1, 0.3):
        name = f"{share:.0%} of all nodes"
        if chosen(arguments, name):
            items: dict[bytes, Item] = {}

            def sign(_run: Experiment, info_hashes: list[bytes], items: dict[bytes, Item] = items) -> None:
                for info_hash in info_hashes:
                    items.update(_locks(info_hash))

            conditions = Conditions(nodes=arguments.nodes, kinds={liars.holding(items): share})
            case = await publish_and_find(name, conditions, seed, arguments.infohashes or 20, before=sign)
            case.expect_found(0.75)
            yield case


async def shown_to_writers(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Nodes next to r0 show an item that locks or fills the slot to the writer only, and else do as others do."""
    writers = tracker_addresses(FIRST_TRACKER)
    for text, make in {"lock": _locks, "fill": _full}.items():
        for count in (1, 2, 4, 8):
            name = f"{count} next to r0 {text}"
            if chosen(arguments, name):

                def sign(
                    run: Experiment,
                    info_hashes: list[bytes],
                    count: int = count,
                    make: Callable[[bytes], dict[bytes, Item]] = make,
                ) -> None:
                    for info_hash in info_hashes:
                        run.add_next_to(slot_targets(info_hash)[0], count, liars.holding(make(info_hash), writers))

                conditions = Conditions(nodes=arguments.nodes)
                yield await publish_and_find(name, conditions, seed, arguments.infohashes or 30, before=sign)


def _locks(info_hash: bytes) -> dict[bytes, Item]:
    """Return items that lock the slots of a record, by their targets."""
    return _items(info_hash, 1 << 62, b"")


def _full(info_hash: bytes) -> dict[bytes, Item]:
    """Return items that fill the slots of a record with valid entries of trackers that do not exist."""
    keys = [Ed25519PrivateKey.from_private_bytes(random.randbytes(32)) for _ in range(4)]
    entries = [sign_entry(key, info_hash, "wss://nowhere.example/" + "x" * 100, time.time()) for key in keys]
    return _items(info_hash, 5, encode_slot(entries))


def _items(info_hash: bytes, seq: int, value: bytes) -> dict[bytes, Item]:
    key = record_key(info_hash, day_of(time.time()))
    public_key = key.public_key().public_bytes_raw()
    return {
        item_target(public_key, salt): Item(public_key, sign_item(key, salt, seq, value), seq, value) for salt in SALTS
    }


async def disturbed(arguments: Arguments, seed: int) -> AsyncIterator[Case]:
    """Nodes with made-up contacts, false ids, garbage, and late replies."""
    kinds: dict[str, tuple[Kind, tuple[float, ...]]] = {
        "names nobody": (liars.NamesNobody, (0.02, 0.1, 0.25, 0.5)),
        "145 contacts": (liars.NamesTooMany, (0.1,)),
        "any id": (liars.ClaimsAnyId, (0.1,)),
        "target as id": (liars.ClaimsTarget, (0.1,)),
        "garbage": (liars.SendsGarbage, (0.1, 0.5)),
        "0.5 s late": (late_by(0.5), (0.5,)),
        "1 s late": (late_by(1.0), (0.5, 0.8)),
        "1.9 s late": (late_by(1.9), (0.5,)),
        "3 s late": (late_by(3.0), (0.5,)),
        "dead": (Silent, (0.3,)),
    }
    for text, (kind, shares) in kinds.items():
        least = {share: 0.8 if (kind, share) == (liars.NamesNobody, 0.5) else 0.95 for share in shares}
        async for case in _shares(arguments, seed, text, kind, least):
            yield case


async def _shares(
    arguments: Arguments,
    seed: int,
    text: str,
    kind: Kind,
    found: Mapping[float, float | None],
    copies: float = 0.0,
) -> AsyncIterator[Case]:
    """Yield a case for each share of a kind of nodes, which are found to this share."""
    for share, least in found.items():
        name = f"{text}: {share:.0%}"
        if chosen(arguments, name):
            conditions = Conditions(nodes=arguments.nodes, kinds={kind: share})
            case = await publish_and_find(name, conditions, seed, arguments.infohashes or 40)
            if least is not None:
                case.expect_found(least)
                if copies:
                    case.expect_at_least("copies", mean(case.figures.copies), copies)
            yield case
