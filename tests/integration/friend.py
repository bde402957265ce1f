"""An example extension."""

import asyncio
import json
from pathlib import Path
from typing import Any

from prometheus_client import Counter
from pydantic import Field

from tests.unit.fakes import peer_id
from tracker.extension import (
    Admission,
    Answer,
    Channel,
    Extension,
    ExtensionSettings,
    Offer,
    RemoteMember,
    Request,
    Response,
    Swarm,
    TrackerHandle,
    from_json,
    make_answer,
    make_offer,
)

FRIEND = peer_id(99)


class Friend(Extension):
    """Adds a remote leecher to every swarm. It answers every offer, and makes two offers of its own."""

    class Settings(ExtensionSettings):
        """A friend in every swarm."""

        sdp: str = Field("friendly", description="What the friend says.")

    def __init__(self, tracker: TrackerHandle, settings: Any) -> None:
        super().__init__(tracker, settings)
        self.members: dict[str, RemoteMember] = {}
        self.events: list[str] = []
        self.answers: asyncio.Queue[Answer] = asyncio.Queue()
        self.unplaced: asyncio.Queue[tuple[str, list[Offer]]] = asyncio.Queue()
        self.greeted = Counter("peerservers_friend_greeted", "Offers made", registry=tracker.registry)
        tracker.add_route("/friend", self.route)
        tracker.add_subprotocol("echo.1", self.echo)

    async def start(self) -> None:
        self.events.append("start")

    async def stop(self) -> None:
        self.events.append("stop")

    async def swarm_opened(self, swarm: Swarm) -> None:
        self.events.append("opened")
        member = self.tracker.add_remote(swarm.info_hash, "friend")
        if member:
            self.members[swarm.info_hash] = member
            self.tracker.set_remote(member, 0, 1)

    async def swarm_changed(self, swarm: Swarm) -> None:
        self.events.append(f"{len(swarm.seeders)}+{len(swarm.leechers)}")

    async def swarm_closed(self, swarm: Swarm) -> None:
        self.events.append("closed")
        del self.members[swarm.info_hash]

    async def offers_placed(self, member: RemoteMember, peer_id: str, offers: list[Offer]) -> None:
        assert member.owner == "friend"
        for offer in offers:
            sdp = self.settings.sdp + from_json(offer.description.sdp)
            offer_id = from_json(offer.offer_id)
            assert self.tracker.deliver_answer(make_answer(member.swarm.info_hash, FRIEND, peer_id, offer_id, sdp))
        left_over = self.tracker.deliver_offers(member.swarm.info_hash, FRIEND, [make_offer("f" * 20, "from afar")] * 2)
        self.greeted.inc(2 - len(left_over))

    async def offers_unplaced(self, swarm: Swarm, peer_id: str, offers: list[Offer]) -> None:
        self.unplaced.put_nowait((peer_id, offers))

    async def answer_unplaced(self, answer: Answer) -> None:
        self.answers.put_nowait(answer)

    async def route(self, request: Request) -> Response:
        return Response(json.dumps([request.path, request.query, len(self.tracker.swarms)]).encode())

    async def echo(self, channel: Channel) -> None:
        channel.send(channel.remote_address.encode())
        while True:
            payload, is_text = await channel.receive()
            if payload == b"bye":
                return
            if payload == b"crash":
                raise RuntimeError("as told")
            channel.send(payload, is_text)


class Gatekeeper(Extension):
    """Admits every peer, after a delay."""

    async def admit(self, request: Admission) -> None:
        await asyncio.sleep(0.3)


def install(directory: Path, name: str, target: str) -> None:
    """Make an entry point as an installed package has it."""
    info = directory / f"{name}-1.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[peerservers.extensions]\n{name} = {target}\n")
