"""Trackers that break the promise on purpose, and vandals at the records of the DHT.

All of these trackers publish themselves for the swarms of honest ones, and each has its own way to let offers come to
nothing.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.messages import Item
from extensions.dht.krpc.schedule import Job
from extensions.dht.krpc.scheduler import Scheduler
from extensions.dht.records.keys import SALTS, announce_hash, day_of, record_key
from extensions.dht.records.slots import LOCKED, encode_slot
from extensions.entries import sign_entry
from extensions.federation.extension import Federation
from extensions.federation.link import Link
from extensions.federation.neighbour import Neighbour
from extensions.trackers import TrackerEntry
from tests.simulation.dht.model import Dht, DhtClient
from tests.simulation.network import End, InMemoryChannel
from tests.simulation.peers import Client, PeerConnection
from tests.simulation.tracker import Tracker
from tracker.extension import Offer, from_json
from tracker.protocol.messages import Announce

HANDSHAKE: Final = 3
"""Frames that a tracker must take until its links are open."""

MISLED: Final = 20
MISLEADING_PERIOD: Final = 5.0
"""Trackers that a misleading tracker names in a message, and seconds between two messages for which nobody asked."""

PHANTOMS: Final = 60
"""Peers that a lying tracker claims to have in each swarm."""


class HostileTracker(Tracker):
    """A tracker that claims a peer in each swarm that it is told to serve. The peer answers nothing."""

    is_hostile = True
    phantoms = 1
    """Peers in each swarm."""

    def serve(self, info_hash: str) -> None:
        """Open a swarm, so that the tracker publishes itself for it."""
        for _ in range(self.phantoms):
            announce = Announce(info_hash, f"-PH0001-{random.getrandbits(39):012}", False, False, [])
            self.apply(PeerConnection(Client()), announce)


class Mute(HostileTracker):
    """Accepts connections and says nothing."""

    def accept(self, channel: InMemoryChannel) -> None: ...


class Closing(HostileTracker):
    """Ends each connection at once."""

    def accept(self, channel: InMemoryChannel) -> None:
        channel.end.close_now()


class Deaf(HostileTracker):
    """Reads nothing after the handshake, and keeps the link."""

    def accept(self, channel: InMemoryChannel) -> None:
        channel.end.takes = HANDSHAKE
        super().accept(channel)

    async def connect(self, url: str) -> End:
        end = await super().connect(url)
        end.takes = HANDSHAKE
        return end


class _RefusingFederation(Federation):
    async def start(self) -> None:
        await super().start()
        exchange: Any = self.exchange
        exchange.on_offers = self._refuse

    def _refuse(self, neighbour: Neighbour, info_hash: str, peer_id: str, offers: list[Offer]) -> None:
        neighbour.refuse(info_hash, peer_id, [from_json(offer.offer_id) for offer in offers], False)


class Refusing(HostileTracker):
    """Refuses each offer."""

    federation_type = _RefusingFederation


class Lying(HostileTracker):
    """Claims many peers, and lets all offers to them come to nothing."""

    phantoms = PHANTOMS


class Full(HostileTracker):
    """Has one place for a link."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.settings["max_links"] = 1


class _MisleadingFederation(Federation):
    async def start(self) -> None:
        self._misled: dict[Link, None] = {}
        await super().start()
        self.tracker.repeat_task("mislead", MISLEADING_PERIOD, self._mislead)

    async def _mislead(self) -> None:
        for link in self.links:
            if link not in self._misled:
                self._misled[link] = None
                changed: Any = link
                changed.name_trackers = partial(self._name, link.name_trackers)
            # Without having been asked, too.
            link.name_trackers("", ())

    def _name(self, name: Callable[[str, Sequence[TrackerEntry]], None], info_hash: str, _: object) -> None:
        key = info_hash.encode("latin-1")
        # They lead nowhere, or to other trackers, which have other ids.
        urls = [f"wss://t{random.randrange(2 * MISLED)}.example" for _ in range(MISLED)]
        name(info_hash, [forged(key, url) for url in urls])


class Misleading(HostileTracker):
    """Names trackers that do not exist, or that have other ids, to all neighbours."""

    federation_type = _MisleadingFederation


KINDS: Final[tuple[type[HostileTracker], ...]] = (Lying, Deaf, Mute, Refusing, Closing, Full, Misleading)


class Vandal:
    """Spoils the records of some infohashes, again and again, in different ways."""

    def __init__(self, dht: Dht, infohashes: Sequence[str], period: float) -> None:
        self.attacks = 0
        self._client = DhtClient(dht, Scheduler(monotonic=time.monotonic), "203.0.113.66")
        self._infohashes = [info_hash.encode("latin-1") for info_hash in infohashes]
        self._period = period
        self._ways = (self._lock, self._erase, self._forge, self._write_garbage)

    async def run(self) -> None:
        """Attack one slot of each infohash in each period, until cancelled."""
        while True:
            await asyncio.gather(*(self._attack(info_hash) for info_hash in self._infohashes))

    async def _attack(self, info_hash: bytes) -> None:
        await asyncio.sleep(random.uniform(0, self._period))
        self.attacks += 1
        day = day_of(time.time())
        key, salt = record_key(info_hash, day), random.choice(SALTS)
        seqs = [0]

        def on_item(item: Item) -> None:
            seqs.append(item.seq)

        found = await self._client.get(key.public_key().public_bytes_raw(), salt, Job(), on_item)
        seq, value = random.choice(self._ways)(info_hash, max(seqs))
        await self._client.put(found, key, salt, seq, value, cas=False)
        peers = await self._client.get_peers(announce_hash(info_hash, day), Job(), lambda _node, _peers: None)
        await self._client.announce(peers, announce_hash(info_hash, day), random.randint(1, 65535))

    def _lock(self, _info_hash: bytes, seq: int) -> tuple[int, bytes]:
        return max(seq + 1, LOCKED), encode_slot([])

    def _erase(self, _info_hash: bytes, seq: int) -> tuple[int, bytes]:
        return seq + 1, encode_slot([])

    def _write_garbage(self, _info_hash: bytes, seq: int) -> tuple[int, bytes]:
        return seq + 1, random.randbytes(900)

    def _forge(self, info_hash: bytes, seq: int) -> tuple[int, bytes]:
        """Return entries of trackers that do not exist."""
        return seq + 1, encode_slot([forged(info_hash) for _ in range(5)])


def forged(info_hash: bytes, url: str = "") -> TrackerEntry:
    """Return a valid entry of a tracker that does not exist, by default at a host that does not exist either."""
    key = Ed25519PrivateKey.from_private_bytes(random.randbytes(32))
    return sign_entry(key, info_hash, url or f"wss://x{random.getrandbits(32)}.example", time.time())


def kinds(count: int) -> Iterable[type[HostileTracker]]:
    """Return this many kinds of hostile trackers, each kind as often as the others."""
    return [KINDS[number % len(KINDS)] for number in range(count)]
