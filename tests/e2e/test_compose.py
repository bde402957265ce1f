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

from tests.client import eventually
from tests.conftest import environment, free_port, unavailable
from tests.e2e.browser import CHROMIUM_FLAGS
from tests.e2e.demo import TRACKERS as LETTERS
from tests.e2e.demo import DemoPage
from tests.shipping import ROOT, Compose, Dockerfile

TRACKERS = ("tracker-a", "tracker-b", "tracker-c")
STARTUP = 60.0


class Container:
    """The process of a service. `words` are replacements for words of the commands in its image."""

    def __init__(self, directory: Path, image: Dockerfile, env: dict[str, str], words: dict[str, str]) -> None:
        self.directory = directory
        self.env = env
        self.log = directory / "log"
        self.command = [words.get(word, word) for word in image.command]
        self.healthcheck = [words.get(word, word) for word in image.healthcheck]
        self.signal = signal.Signals[image.one("STOPSIGNAL")]

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
        return Container(directory, image, env, {"peerservers": program, "python": sys.executable})

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
        container = Container(directory, image, dict(os.environ), words)
        container.command += ["--bind", "127.0.0.1"]
        return container

    @property
    def rules(self) -> str:
        """Chromium's rules that map the published ports in docker-compose.yml to those on this host."""
        return ",".join(
            f"MAP localhost:{outside} 127.0.0.1:{self.ports[name, inside]}"
            for name in self.images
            for inside, (_, outside) in self.compose.published(name).items()
        )


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
async def up(directory: Path, installed: Path) -> AsyncIterator[Host]:
    """Start all services that are built here, until they are healthy. At the end, each must stop with code 0."""
    host = Host(directory, installed)
    containers = [*(host.tracker(name) for name in TRACKERS), host.demo()]
    try:
        await asyncio.gather(*(container.start() for container in containers))
        for container in containers:
            await eventually(container.is_healthy, STARTUP)
        yield host
        codes = await asyncio.gather(*(container.stop() for container in containers))
        assert codes == [0] * len(containers), [container.log.read_text() for container in containers]
        assert [
            line
            for name in TRACKERS
            for line in (directory / name / "log").read_text().splitlines()
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
        host = await stack.enter_async_context(up(tmp_path, installed))
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
