"""docker-compose.yml without Docker: the same commands in the same environments, as processes on loopback.

The tracker is installed as its Dockerfile says: from a wheel of the files that are copied, not from this working copy.
Names of services and ports of containers are replaced by the loopback address and free ports.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from playwright.async_api import async_playwright, expect

from tests.client import answer, eventually, offers, raw_client
from tests.conftest import environment, free_port, unavailable
from tests.e2e.browser import CHROMIUM_FLAGS
from tests.e2e.demo import TRACKERS as LETTERS
from tests.e2e.demo import DemoPage
from tests.shipping import ROOT, Compose, Dockerfile
from tests.unit.fakes import peer_id

TRACKERS = ("tracker-a", "tracker-b", "tracker-c")
NODES = ("node-1", "node-2", "node-3")
STARTUP = 120.0


class Container:
    """The process of a service, with the commands and the signal of its image."""

    def __init__(
        self,
        directory: Path,
        env: dict[str, str],
        command: list[str],
        healthcheck: list[str],
        stop_signal: str = "SIGTERM",
    ) -> None:
        self.directory = directory
        self.env = env
        self.log = directory / "log"
        self.is_built = False
        """Whether its image is built from this repository."""
        self.command = command
        self.healthcheck = healthcheck
        self.signal = signal.Signals[stop_signal]

    @classmethod
    def of(cls, directory: Path, image: Dockerfile, env: dict[str, str], words: dict[str, str]) -> "Container":
        """Return the container of an image. `words` are replacements for words of its commands."""
        command, healthcheck = ([words.get(word, word) for word in one] for one in (image.command, image.healthcheck))
        container = cls(directory, env, command, healthcheck, image.one("STOPSIGNAL"))
        container.is_built = True
        return container

    async def start(self) -> None:
        """Run ENTRYPOINT and CMD."""
        with self.log.open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command, env=self.env, cwd=self.directory, stdout=log, stderr=log
            )

    async def is_healthy(self) -> bool:
        """Run HEALTHCHECK; return whether it succeeds."""
        assert self.process.returncode is None, self.log.read_text()
        check = await asyncio.create_subprocess_exec(
            *self.healthcheck, env=self.env, cwd=self.directory, stderr=asyncio.subprocess.DEVNULL
        )
        return await check.wait() == 0

    async def stop(self) -> int:
        """Stop it as Docker does. Return the exit code."""
        self.process.send_signal(self.signal)
        return await asyncio.wait_for(self.process.wait(), 15)


class Host:
    """The host of the containers, with a free port for each of their ports."""

    def __init__(self, directory: Path, installed: Path) -> None:
        self.compose = Compose()
        self.directory = directory
        self.installed = installed
        self.images = self.compose.built
        self.ports = {
            (name, port.removesuffix("/udp")): free_port()
            for name, image in self.images.items()
            for port in image.ports
        }
        self.ports |= {("nats", "4222"): free_port(), ("balancer", "8000"): free_port()}

    def here(self, text: str) -> str:
        """Replace names and ports of containers by those on this host."""
        for (name, inside), outside in self.ports.items():
            text = text.replace(f"{name}:{inside}", f"127.0.0.1:{outside}")
        return text

    def tracker(self, name: str) -> Container:
        """Return the container of a tracker."""
        image, directory = self.images[name], self.directory / name
        directory.mkdir()
        given = {**image.environment, **self.compose.services[name]["environment"]}
        volume = image.one("VOLUME")
        env = {
            **{key: self.here(value).replace(volume, str(directory)) for key, value in given.items()},
            **environment("server", host="127.0.0.1", port=self.ports[name, "8000"]),
            **environment("extensions.dht", listen=f"127.0.0.1:{self.ports[name, '6881']}"),
            "PATH": f"{self.installed / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.installed),
        }
        program = str(self.installed / "bin" / "peerservers")
        return Container.of(directory, image, env, {"peerservers": program, "python": sys.executable})

    def demo(self) -> Container:
        """Return the container of the demo page."""
        name, directory = "demo", self.directory / "demo"
        directory.mkdir()
        image = self.images[name]
        for source in image.sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, directory, dirs_exist_ok=True)
            else:
                (directory / Path(source).name).write_text(self.here((ROOT / source).read_text()))
        port = str(self.ports[name, "8080"])
        words = {"python": sys.executable, "8080": port, "/srv": str(directory)}
        words |= {word: word.replace("8080", port) for word in image.healthcheck if "8080" in word}
        container = Container.of(directory, image, dict(os.environ), words)
        container.command += ["--bind", "127.0.0.1"]
        return container

    def nats(self) -> Container:
        """Return the container of the NATS server."""
        directory = self.directory / "nats"
        directory.mkdir()
        port = str(self.ports["nats", "4222"])
        arguments = [word.replace("/data", str(directory)) for word in self.compose.services["nats"]["command"]]
        command = [_program("nats-server"), "--addr", "127.0.0.1", "--port", port, *arguments]
        return Container(directory, dict(os.environ), command, _connects(port))

    def balancer(self) -> Container:
        """Return the container of HAProxy."""
        directory = self.directory / "balancer"
        service = self.compose.services["balancer"]
        source, _, _ = service["volumes"][0].split(":")
        shutil.copytree(ROOT / source, directory)
        file, port = directory / "haproxy.cfg", str(self.ports["balancer", "8000"])
        text = self.here(file.read_text())
        assert "bind :8000\n" in text
        file.write_text(text.replace("bind :8000\n", f"bind 127.0.0.1:{port}\n"))
        command = [_program("haproxy"), "-W", "-db", "-f", str(file)]
        return Container(directory, dict(os.environ), command, _connects(port), service["stop_signal"])

    @property
    def rules(self) -> str:
        """Chromium's rules that map the published ports in docker-compose.yml to those on this host."""
        return ",".join(
            f"MAP localhost:{outside} 127.0.0.1:{self.ports[name, inside]}"
            for name in self.images
            for inside, (_, outside) in self.compose.published(name).items()
        )


def _program(name: str) -> str:
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        unavailable(name)
    assert found
    return found


def _connects(port: str) -> list[str]:
    """Return a health check of an image that has none: a connection can be opened."""
    return [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {port}))"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel from the files that the Dockerfile copies, and install it. Return the directory.

    It is not compiled, because that takes longer than the test, and `build/installed` is.
    """
    directory = tmp_path_factory.mktemp("image")
    context, target = directory / "src", directory / "installed"
    context.mkdir()
    for name in Dockerfile(ROOT / "Dockerfile").sources:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, context)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    wheels = directory / "wheels"
    build = ("wheel", "--no-deps", "--no-build-isolation", "--no-index", f"--wheel-dir={wheels}", context)
    subprocess.run([*pip, *build], env=os.environ | {"CC": "/bin/false"}, check=True)
    subprocess.run([*pip, "install", "--no-deps", "--no-index", f"--target={target}", *wheels.iterdir()], check=True)
    return target


@asynccontextmanager
async def up(host: Host, trackers: tuple[str, ...], others: list[Container]) -> AsyncIterator[dict[str, Container]]:
    """Start services until they are healthy. At the end, those that are built here must stop with code 0."""
    by_name = {name: host.tracker(name) for name in trackers}
    containers = [*others, *by_name.values()]
    try:
        for container in others:
            await container.start()
            await eventually(container.is_healthy, STARTUP)
        await asyncio.gather(*(container.start() for container in by_name.values()))
        for container in by_name.values():
            await eventually(container.is_healthy, STARTUP)
        yield by_name
        built = [container for container in containers if container.is_built]
        codes = await asyncio.gather(*(container.stop() for container in built))
        assert codes == [0] * len(built), [container.log.read_text() for container in built]
        await asyncio.gather(*(container.stop() for container in containers if not container.is_built))
        assert [
            line
            for container in by_name.values()
            for line in container.log.read_text().splitlines()
            if "[error" in line or "Traceback" in line
        ] == []
    finally:
        for container in containers:
            with suppress(ProcessLookupError, AttributeError):
                container.process.kill()


@pytest.fixture
def chromium() -> str:
    """Return the path of the system's Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        unavailable("chromium")
    return executable


@pytest.mark.timeout(900)
async def test_the_demo_page_downloads_from_each_tracker(tmp_path: Path, installed: Path, chromium: str) -> None:
    """A file travels between pages at three trackers, and the page knows the trackers' links."""
    async with AsyncExitStack() as stack:
        host = Host(tmp_path, installed)
        await stack.enter_async_context(up(host, TRACKERS, [host.demo()]))
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=[*CHROMIUM_FLAGS, f"--host-resolver-rules={host.rules}"]
        )
        stack.push_async_callback(browser.close)
        context = await browser.new_context()
        page = await DemoPage.open(context, "http://localhost:8080/")
        pictures = [await page.picture(letter) for letter in LETTERS]
        assert pictures == pictures[:1] * 3
        await page.send("B", "file.bin", b"content")
        for letter in LETTERS:
            assert await page.received(letter, "file.bin") == b"content"
        await expect(page.page.locator("#links")).to_have_text("All trackers are linked")
        assert page.sockets == {f"ws://localhost:{host.compose.published(name)['8000'][1]}" for name in TRACKERS}
        assert page.complaints == []


@pytest.mark.timeout(900)
async def test_the_nodes_of_the_profile_are_one_tracker(tmp_path: Path, installed: Path) -> None:
    """Peers meet through the balancer, whichever nodes they are at, and the command shows all nodes."""
    host = Host(tmp_path, installed)
    async with AsyncExitStack() as stack:
        nodes = await stack.enter_async_context(up(host, NODES, [host.nats(), host.balancer()]))
        url = f"ws://127.0.0.1:{host.ports['balancer', '8000']}"
        shown = await eventually_shown(nodes["node-1"], url)
        assert [line.split()[0] for line in shown] == ["LABEL", *NODES, "3"]
        clients = [await stack.enter_async_context(raw_client(url)) for _ in range(3)]
        for number, client in enumerate(clients):
            await client.announce(peer_id(number), "meeting-------------")
        maker = clients[0]

        async def is_known() -> bool:
            reply = await maker.announce(peer_id(0), "meeting-------------")
            return bool(reply["incomplete"] == 3)

        await eventually(is_known)
        await maker.announce(peer_id(0), "meeting-------------", offers=offers(2))
        for number in (1, 2):
            offer = await clients[number].receive_until(lambda message: "offer" in message)
            await clients[number].send(answer(peer_id(number), peer_id(0), offer["offer_id"], "meeting-------------"))
        answers = [await maker.receive_until(lambda message: "answer" in message) for _ in range(2)]
        assert {message["peer_id"] for message in answers} == {peer_id(1), peer_id(2)}


async def eventually_shown(node: Container, url: str) -> list[str]:
    """Run `peerservers cluster` until it shows all nodes; return its lines."""
    lines: list[str] = []

    async def shows() -> bool:
        process = await asyncio.create_subprocess_exec(
            node.command[0], "cluster", url, env=node.env, stdout=asyncio.subprocess.PIPE
        )
        lines[:] = (await process.communicate())[0].decode().splitlines()
        return len(lines) == len(NODES) + 2

    await eventually(shows, STARTUP)
    return lines
