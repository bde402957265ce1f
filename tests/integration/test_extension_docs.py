"""What docs/extensions.md shows is run as it stands there."""

import asyncio
import re
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.client import HASH, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment
from tests.integration.friend import install
from tests.unit.fakes import peer_id
from tracker.core import pending
from tracker.extension import admission

DOCUMENT = Path(__file__).parents[2] / "docs" / "extensions.md"
OTHER = "\xff" * 20


def blocks(language: str) -> list[str]:
    """The document's code in that language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def examples(tmp_path: Path) -> dict[str, str]:
    """Every example, installed by its entry point; the environment of a tracker that has them."""
    points = [tomllib.loads(block)["project"]["entry-points"]["peerservers.extensions"] for block in blocks("toml")]
    sources = blocks("python")
    assert len(points) == len(sources) == 2
    for point, source in zip(points, sources, strict=True):
        ((name, target),) = point.items()
        (tmp_path / target.partition(":")[0]).with_suffix(".py").write_text(source)
        install(tmp_path, name, target)
    return {"PYTHONPATH": str(tmp_path)}


class Service:
    """The HTTP service that the example asks: it knows one swarm, and fails for those that it is told to fail for."""

    def __init__(self) -> None:
        self.asked: list[dict[str, list[str]]] = []
        self.status = {HASH.encode().hex(): 200}
        self.port = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        url = urlsplit(head.split()[1].decode())
        assert url.path == "/admit"
        self.asked.append(parse_qs(url.query))
        status = self.status.get(self.asked[-1]["info_hash"][0], 403)
        writer.write(f"HTTP/1.0 {status} as told\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    """A running one."""
    service = Service()
    server = await asyncio.start_server(service.answer, "127.0.0.1")
    service.port = server.sockets[0].getsockname()[1]
    yield service
    server.close()


async def refused(tracker: TrackerProcess, info_hash: str) -> str | None:
    """Why a peer may not join."""
    async with raw_client(tracker.url) as client:
        reply = await client.announce(peer_id(1), info_hash)
        assert (reply["action"], reply["info_hash"]) == ("announce", info_hash)
        return reply.get("failure reason")


def test_the_limits_of_admission_are_as_it_says() -> None:
    text = " ".join(DOCUMENT.read_text().split())
    assert f"up to {admission.MAX_QUESTIONS} peers at a time" in text
    assert f"{pending.MAX_BYTES >> 20} MiB in all and {pending.MAX_BYTES_OF_ONE >> 20} MiB of one address" in text
    assert f"{pending.OVERHEAD >> 10} KiB for each announce" in text


async def test_the_first_example_greets(start_tracker: StartTracker, examples: dict[str, str]) -> None:
    tracker = await start_tracker(env=examples | environment("extensions.greeter", text="good day"))
    assert await tracker.get("/greet") == (200, "good day")


async def test_the_example_of_admission_asks_its_service(
    start_tracker: StartTracker, examples: dict[str, str], service: Service
) -> None:
    tracker = await start_tracker(env=examples | environment("extensions.members", port=service.port))
    assert await refused(tracker, HASH) is None
    assert await refused(tracker, OTHER) == "members only"
    assert service.asked == [
        {"info_hash": [info_hash.encode("latin-1").hex()], "address": ["127.0.0.1"]} for info_hash in (HASH, OTHER)
    ]
    assert await tracker.metric("peerservers_dropped_total", reason="admission_denied") == 1


async def test_the_example_lets_nobody_in_if_its_service_fails(examples: dict[str, str], service: Service) -> None:
    tracker = await TrackerProcess.start(env=examples | environment("extensions.members", port=service.port))
    try:
        service.status[HASH.encode().hex()] = 500
        assert await refused(tracker, HASH) == "admission failed, try again later"
        assert await tracker.metric("peerservers_extension_errors_total", extension="members") == 1
    finally:
        assert await tracker.stop() == 0
    (complaint,) = tracker.complaints()
    assert (complaint["event"], complaint["extension"], complaint["on"]) == ("extension_failed", "members", "admit")
