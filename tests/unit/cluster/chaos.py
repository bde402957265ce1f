"""Random events on a cluster whose network does harm, and what must be true once the network is calm."""

from collections import Counter

from tests.client import announce, answer, offers
from tests.unit.cluster.world import Station, World
from tests.unit.fakes import FakeConnection, peer_id
from tracker.core.swarm import RemoteMember, Swarm

HASHES = ["a" * 20, "b" * 20, "\xff" * 20, "a text id"]

CALM = 70.0
"""Seconds after which all that was lost has been told again: asking again takes up to half a minute."""


class Chaos:
    """A world in which random things happen."""

    def __init__(self, world: World, peers: int = 8, is_crowded: bool = False) -> None:
        self.world = world
        self.random = world.random
        self.peers = peers
        self.is_crowded = is_crowded
        """Whether there are so many clients that nodes tell of them by number. Then each has a peer_id of its own."""
        self.connections: list[tuple[Station, FakeConnection]] = []
        self.numbers: dict[FakeConnection, int] = {}
        self.given: Counter[str] = Counter()
        """How often each offer was given to a peer."""
        self.makers: dict[str, tuple[str, FakeConnection]] = {}
        self.offered: list[tuple[Station, FakeConnection, str, str]] = []
        """Offers that were given to a peer: its connection and node, infohash, offer_id."""
        self.linked: dict[Swarm, RemoteMember] = {}
        """The linked peers of swarms at the gateway."""
        self.next_offer = 0
        self.names: set[tuple[int, str]] = set()
        """The connections, and the peer_ids that they have announced. Several, at any nodes, may announce the same."""

    def step(self) -> None:
        """Do something at random."""
        name = self.random.choice(
            ["announces"] * 6 + ["stops", "closes", "answers", "turns", "delivers", "delivers", "links"]
        )
        getattr(self, name)()
        self.unlink()
        self.collect()

    def harm(self) -> None:
        """Change what the network, or the cluster, does."""
        name = self.random.choice(
            ["loses", "cuts", "mends", "kills", "bears", "loses_connection", "stands_still", "waits", "waits"]
        )
        getattr(self, name)()
        self.unlink()
        self.collect()

    # Clients

    def announces(self) -> None:
        world, chance = self.world, self.random
        if not self.connections or chance.random() < (0.8 if self.is_crowded else 0.3):
            self.connections.append((chance.choice(world.stations), FakeConnection()))
        station, connection = chance.choice(self.connections)
        info_hash = chance.choice(HASHES[:1] if self.is_crowded else HASHES)
        count = chance.choice([0, 0, 1, 3])
        made = offers(count, start=self.next_offer)
        self.next_offer += count
        who = peer_id(
            self.numbers.setdefault(connection, len(self.numbers)) if self.is_crowded else chance.randrange(self.peers)
        )
        self.names.add((id(connection), who))
        for offer in made:
            self.makers[offer["offer_id"]] = (who, connection)
        left, event = chance.choice([(0, None), (1, None), (1, None), (0, "completed")])
        station.send(connection, announce(who, info_hash, left=left, event=event, offers=made, numwant=5))

    def stops(self) -> None:
        if self.connections:
            station, connection = self.random.choice(self.connections)
            if connection.peers:
                peer = self.random.choice(sorted(connection.peers, key=lambda one: one.peer_id))
                station.send(connection, announce(peer.peer_id, peer.swarm.info_hash, event="stopped"))

    def closes(self) -> None:
        if self.connections:
            station, connection = self.connections.pop(self.random.randrange(len(self.connections)))
            station.hub.close(connection)

    def answers(self) -> None:
        if self.offered:
            station, connection, info_hash, offer_id = self.offered.pop(self.random.randrange(len(self.offered)))
            mine = [peer for peer in connection.peers if peer.swarm.info_hash == info_hash]
            if mine:
                station.send(connection, answer(mine[0].peer_id, self.makers[offer_id][0], offer_id, info_hash))

    def links(self) -> None:
        """Change the numbers of linked peers of a swarm at the gateway, if there is one."""
        gateways = [station for station in self.world.stations if station.node.parts.gateway.is_here]
        info_hash = self.random.choice(HASHES)
        if gateways and info_hash in gateways[0].hub.swarms:
            gateway = gateways[0]
            swarm = gateway.hub.swarms[info_hash]
            member = self.linked.get(swarm) or gateway.remote.add_remote(info_hash, "a link")
            assert member is not None
            self.linked[swarm] = member
            gateway.remote.set_remote(member, self.random.randrange(2), self.random.randrange(3))

    def unlink(self, everywhere: bool = False) -> None:
        """End the links of nodes that are not the gateway any more, or of all."""
        for station in self.world.stations:
            if everywhere or not station.node.parts.gateway.is_here:
                for swarm in list(station.hub.swarms.values()):
                    for member in list(swarm.remotes):
                        station.remote.set_remote(member, 0, 0)

    def check_links(self) -> None:
        """Check that all nodes count the same linked peers."""
        for info_hash in HASHES:
            swarms = [station.hub.swarms.get(info_hash) for station in self.world.stations]
            sizes = {swarm.complete + swarm.incomplete for swarm in swarms if swarm is not None}
            assert len(sizes) <= 1, sizes

    def collect(self) -> None:
        """Read what the clients have received."""
        for station, connection in self.connections:
            for message in connection.take():
                if "offer" in message:
                    offer_id = message["offer_id"]
                    self.given[offer_id] += 1
                    assert message["peer_id"] == self.makers[offer_id][0]
                    self.offered.append((station, connection, message["info_hash"], offer_id))
                elif "answer" in message:
                    assert (id(connection), self.makers[message["offer_id"]][0]) in self.names

    # The network

    def turns(self) -> None:
        for station in self.world.stations:
            if self.random.random() < 0.7:
                station.turn()

    def delivers(self) -> None:
        for _ in range(self.random.randrange(6)):
            self.world.bus.step()

    def loses(self) -> None:
        bus = self.world.bus
        bus.loss = self.random.choice([0, 0.05, 0.5])
        bus.doubling = self.random.choice([0, 0.2])
        bus.reordering = self.random.choice([0, 0.3])

    def cuts(self) -> None:
        if len(self.world.stations) > 1:
            one, other = self.random.sample(self.world.stations, 2)
            self.world.bus.cut(one.node_id, other.node_id)

    def mends(self) -> None:
        self.world.bus.mend()

    def kills(self) -> None:
        if len(self.world.stations) > 2:
            station = self.random.choice(self.world.stations)
            self.connections = [(at, connection) for at, connection in self.connections if at is not station]
            self.offered = [one for one in self.offered if one[0] is not station]
            (self.world.kill if self.random.random() < 0.5 else self.world.stop)(station)

    def bears(self) -> None:
        if len(self.world.stations) < 5:
            self.world.bear()

    def loses_connection(self) -> None:
        if len(self.world.stations) > 1:
            one, other = self.random.sample(self.world.stations, 2)
            one.transport.lose(other.node_id)

    def stands_still(self) -> None:
        """Stop one process for a while, as by a signal."""
        station = self.random.choice(self.world.stations)
        self.world.still.add(station)
        self.world.pass_time(self.random.choice([0.5, 2.0, 6.0]), settles=False)
        self.world.still.discard(station)

    def waits(self) -> None:
        seconds = self.random.choice([0.1, 0.3, 1.0, 4.0])
        self.world.pass_time(seconds, settles=self.random.random() < 0.5)

    # Afterwards

    def calm(self) -> None:
        """Let the network be calm for long enough."""
        bus = self.world.bus
        bus.loss = bus.doubling = bus.reordering = 0.0
        bus.mend()
        for _ in range(round(CALM)):
            self.world.pass_time(1)
            self.unlink()
        self.check_links()
        self.unlink(everywhere=True)
        self.world.pass_time(1)
        self.collect()

    def check(self) -> None:
        """Check that all nodes agree about everything."""
        stations = self.world.stations
        self.world.check()
        for station in stations:
            parts = station.node.parts
            others = {other.node_id for other in stations if other is not station}
            assert parts.members.others.keys() == parts.sessions.by_id.keys() == others
            assert len(parts.work) == 0
            for session in parts.sessions.by_id.values():
                assert not session.must_begin
                assert not session.has_missed
                assert not session.jobs
                assert not session.control_bytes + session.traffic_bytes
        gateways = [station for station in stations if station.node.parts.gateway.is_here]
        assert len(gateways) == self.world.is_capable
        for station in stations:
            at = station.node.parts.telling.gateway
            assert (at.node_id if at else None) == (
                gateways[0].node_id if gateways and gateways[0] is not station else None
            )
        for info_hash in HASHES:
            self.check_swarm(info_hash, gateways)
        for offer_id, times in self.given.items():
            assert times == 1, f"{offer_id} was given {times} times"

    def check_swarm(self, info_hash: str, gateways: list[Station]) -> None:
        """Check that all nodes agree about one swarm."""
        world = self.world
        local: dict[str, dict[str, bool]] = {}
        for station in world.stations:
            swarm = station.hub.swarms.get(info_hash)
            if swarm is not None and swarm.peers:
                local[station.node_id] = {peer.peer_id: peer.complete for peer in swarm.peers.values()}
        everyone = set().union(*local.values())
        for station in world.stations:
            parts = station.node.parts
            swarm = station.hub.swarms.get(info_hash)
            shared = parts.shared.by_key.get(info_hash)
            assert parts.directory_of(info_hash) == (
                local.keys() if parts.owners.ring.owner(info_hash) == station.node_id else set()
            )
            if station.node_id not in local and not (station in gateways and local):
                assert swarm is None
                assert shared is None
                continue
            assert swarm is not None
            others = local.keys() - {station.node_id}
            shares = {share.session.node_id: share for share in shared.shares} if shared else {}
            assert shares.keys() == others
            assert swarm.complete + swarm.incomplete == len(everyone)
            for node_id, share in shares.items():
                assert share.is_told == (station.node_id in local)
                known = {member.peer_id: member.complete > 0 for member in share.peers or ()}
                assert known.items() <= local[node_id].items()
                rest = Counter(complete for one, complete in local[node_id].items() if one not in known)
                assert (share.seeders.complete if share.seeders else 0) == rest[True]
                assert (share.leechers.incomplete if share.leechers else 0) == rest[False]
