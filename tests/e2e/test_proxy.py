"""The tracker behind nginx, HAProxy and Caddy, as docs/deploy has them; only ports and files are others here."""

import asyncio
import getpass
import json
import os
import re
import shutil
import ssl
import tomllib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest
from playwright.async_api import Browser
from websockets.exceptions import InvalidHandshake, InvalidStatus

from tests.certificates import Pair
from tests.client import Json, announce, answer, eventually, offers, raw_client
from tests.conftest import StartTracker, TrackerProcess, environment, free_port, unavailable
from tests.e2e.browser import Page
from tests.e2e.lt import Torrent
from tests.e2e.test_webtorrent import downloaded, leech, seed
from tests.shipping import ROOT
from tests.unit.fakes import peer_id

DEPLOY = ROOT / "docs" / "deploy"
NAME = "tracker.example.org"
A, B = peer_id(1), peer_id(2)
HERE, ELSEWHERE, FAR = "127.0.0.1", "127.0.0.2", "127.0.0.3"
"""Addresses that clients have. The proxy has the first."""


@dataclass
class Place:
    """Where a proxy is to run: its directory, ports, certificate, and the tracker behind it."""

    directory: Path
    pair: Pair
    tracker_port: int
    port: int
    plain_port: int

    @classmethod
    def new(cls, directory: Path) -> Self:
        return cls(directory, Pair(directory), free_port(), free_port(), free_port())


Replacements = dict[str, str]
"""What is not as in docs/deploy, and what is here instead; all of it must be there."""


@dataclass(frozen=True)
class Kind:
    """A program, its configuration, and how it is started with it."""

    program: str
    file: str
    arguments: tuple[str, ...]
    adapt: Callable[[Place], Replacements]


def nginx(place: Place) -> Replacements:
    temporary = "".join(
        f"{name}_temp_path {place.directory / name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return {
        "user www-data;": f"user {getpass.getuser()}; daemon off;",
        "/run/nginx.pid": f"{place.directory}/nginx.pid",
        "/var/log/nginx/error.log": f"{place.directory}/error.log",
        "http {": f"http {{ {temporary}",
        "listen [::]:80;": "",
        "listen [::]:443 ssl default_server;": "",
        "listen 80;": f"listen 127.0.0.1:{place.plain_port};",
        "listen 443 ssl default_server;": f"listen 127.0.0.1:{place.port} ssl default_server;",
        "/var/www/html": str(place.directory),
        f"/etc/letsencrypt/live/{NAME}/fullchain.pem": str(place.pair.certificate),
        f"/etc/letsencrypt/live/{NAME}/privkey.pem": str(place.pair.key),
    }


def haproxy(place: Place) -> Replacements:
    return {
        "    user haproxy\n    group haproxy\n": "",
        "maxconn 100000": "maxconn 100",
        "bind :80\n": f"bind 127.0.0.1:{place.plain_port}\n",
        "bind :443 ": f"bind 127.0.0.1:{place.port} ",
        f"/etc/haproxy/{NAME}.pem": str(place.pair.combined),
    }


def haproxy_v2(place: Place) -> Replacements:
    """The other line instead of the one, and no header."""
    return {
        **haproxy(place),
        "    http-request set-header": "    # http-request set-header",
        "    server tracker 127.0.0.1:8000 check\n": "",
        "    # server tracker": "    server tracker",
    }


def haproxy_tcp(place: Place) -> Replacements:
    return {
        "    user haproxy\n    group haproxy\n": "",
        "maxconn 100000": "maxconn 100",
        "bind :443\n": f"bind 127.0.0.1:{place.port}\n",
        " check ": " check inter 100ms ",
    }


def caddy(place: Place) -> Replacements:
    options = f"admin off\nhttp_port {place.plain_port}\nhttps_port {place.port}\ndefault_bind 127.0.0.1"
    return {
        f"default_sni {NAME}": f"default_sni localhost\n{options}",
        f"{NAME}, :443 {{": f"localhost, :{place.port} {{\ntls {place.pair.certificate} {place.pair.key}",
    }


KINDS = {
    "nginx": Kind("nginx", "nginx.conf", ("-e", "stderr", "-c"), nginx),
    "haproxy": Kind("haproxy", "haproxy.cfg", ("-db", "-f"), haproxy),
    "haproxy, PROXY v2": Kind("haproxy", "haproxy.cfg", ("-db", "-f"), haproxy_v2),
    "caddy": Kind("caddy", "Caddyfile", ("run", "--adapter", "caddyfile", "--config"), caddy),
}

PASSTHROUGH = Kind("haproxy", "haproxy-tcp.cfg", ("-db", "-f"), haproxy_tcp)
"""The tracker does TLS, and the proxy tells it before that whose connection it is."""


class Proxy:
    """One that runs, with a tracker behind it."""

    def __init__(self, kind: Kind, place: Place, start_tracker: StartTracker) -> None:
        self.kind = kind
        self.place = place
        self._start_tracker = start_tracker
        self._original = (DEPLOY / kind.file).read_text()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, also: dict[str, str] | None = None, **limits: Any) -> TrackerProcess:
        """Start a tracker with the settings that the proxy's configuration asks for, and what else is given; and the
        proxy, if it does not run.
        """
        wanted = re.search(r"^#     \[server\]\n(?:#     .*\n)+", self._original, re.MULTILINE)
        assert wanted
        server = tomllib.loads(wanted[0].replace("#     ", ""))["server"]
        env = {**environment("server", **server), **environment("limits", **limits), **(also or {})}
        tracker = await self._start_tracker(port=self.place.tracker_port, host=server["host"], env=env)
        if self.process is None:
            self.process = await self._run()
        return tracker

    async def _run(self) -> asyncio.subprocess.Process:
        program = shutil.which(self.kind.program, path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            unavailable(self.kind.program)
        assert program
        text = self._original
        for there, here in {
            **self.kind.adapt(self.place),
            "127.0.0.1:8000": f"127.0.0.1:{self.place.tracker_port}",
        }.items():
            assert there in text, there
            text = text.replace(there, here)
        file = self.place.directory / self.kind.file
        file.write_text(text)
        home = {name: str(self.place.directory) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
        with (self.place.directory / "log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                program, *self.kind.arguments, file, env={**os.environ, **home}, stdout=log, stderr=log
            )

        async def listens() -> bool:
            assert process.returncode is None, (self.place.directory / "log").read_text()
            try:
                _, writer = await asyncio.open_connection(HERE, self.place.port)
            except OSError:
                return False
            writer.close()
            return True

        await eventually(listens)
        return process

    async def stop(self) -> None:
        """End the proxy."""
        if self.process and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), 20)

    @property
    def url(self) -> str:
        """Its WebSocket URL."""
        return f"wss://localhost:{self.place.port}/"

    def client(self, address: str = HERE, **headers: str) -> Any:
        """A client that connects from an address; a context manager, and a raw client in it."""
        options = {"host": HERE, "local_addr": (address, 0), "additional_headers": headers}
        return raw_client(self.url, **options, **self.place.pair.client())

    async def get(self, path: str, address: str = HERE, plain: bool = False) -> tuple[int, str]:
        """An HTTP GET: status, head and body."""
        port = self.place.plain_port if plain else self.place.port
        tls: Json = {} if plain else self.place.pair.client()
        reader, writer = await asyncio.open_connection(HERE, port, local_addr=(address, 0), **tls)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answered = (await reader.read()).decode()
        writer.close()
        return int(answered.split()[1]), answered


@pytest.fixture(params=list(KINDS.values()), ids=list(KINDS))
async def proxy(request: pytest.FixtureRequest, tmp_path: Path, start_tracker: StartTracker) -> AsyncIterator[Proxy]:
    """Each of them; it and the tracker are yet to be started."""
    proxy = Proxy(request.param, Place.new(tmp_path), start_tracker)
    yield proxy
    await proxy.stop()
    complaints = re.findall(r".*\[(?:crit|emerg)\].*|.*\[ALERT\].* config.*", (tmp_path / "log").read_text())
    assert complaints == []


async def refusal(client: Any) -> int:
    """The status with which a client is refused."""
    with pytest.raises(InvalidStatus) as caught:
        await client.__aenter__()
    status: int = caught.value.response.status_code
    return status


async def test_pages_exchange_a_file(proxy: Proxy, browser: Browser, site: str) -> None:
    """Two tabs that know only the proxy's wss:// URL."""
    await proxy.start()
    torrent = Torrent("file", os.urandom(300_000), proxy.url)
    async with AsyncExitStack() as stack:
        pages = []
        for _ in range(2):
            context = await stack.enter_async_context(await browser.new_context(ignore_https_errors=True))
            pages.append(await Page.open(context, f"{site}/webtorrent.html"))
        seeder, leecher = pages
        await seed(seeder, torrent)
        await leech(leecher, torrent)
        assert await downloaded(leecher, torrent) == torrent.content
        assert [page.sockets for page in pages] == [[proxy.url]] * 2
        assert [page.errors for page in pages] == [[], []]


async def test_pages_over_http(proxy: Proxy) -> None:
    """The tracker's own pages are there, but its figures are not for everybody; plain HTTP leads to TLS."""
    await proxy.start()
    for path in ("/", "/health", "/ready"):
        assert (await proxy.get(path, ELSEWHERE))[0] == 200
    for path in ("/metrics", "/stats", "/stats.json"):
        assert [(await proxy.get(path, address))[0] for address in (HERE, ELSEWHERE)] == [200, 403]
    status, answered = await proxy.get("/x", plain=True)
    assert status in (301, 308)
    assert "location: https://localhost" in answered.lower()


async def test_the_tracker_answers_to_its_address_too(proxy: Proxy) -> None:
    """Who has found no more in the DHT asks there for its descriptor: without a name, and trusting no certificate."""
    await proxy.start()
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.open_connection(HERE, proxy.place.port, ssl=context)
    writer.write(f"GET /health HTTP/1.1\r\nHost: {HERE}:{proxy.place.port}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert (head.split()[1], body.strip()) == (b"200", b"200 OK")


async def test_the_tracker_sees_who_a_client_is(proxy: Proxy) -> None:
    """One connection each, whoever else comes through the same proxy; what a client says of itself is no help."""
    tracker = await proxy.start(connections_per_address=1, exempt=[])
    async with proxy.client(ELSEWHERE) as first, proxy.client(FAR) as second:
        assert await refusal(proxy.client(ELSEWHERE)) == 429
        for name, value in (("X-Forwarded-For", "192.0.2.1"), ("Forwarded", "for=192.0.2.1")):
            assert await refusal(proxy.client(ELSEWHERE, **{name: value})) == 429
        await first.announce(A)
        await second.announce(B)
        assert await tracker.metric("peerservers_rejected_total", reason="address_connections") == 3


async def test_large_messages_pass_and_slow_ones(proxy: Proxy) -> None:
    """As long as the tracker takes them, and in pieces between which something else passes."""
    await proxy.start()
    async with proxy.client() as first, proxy.client() as second:
        await first.announce(A)
        sdp = "v=0\r\n" + "x" * 40_000
        message = announce(B, offers=offers(5, sdp))

        async def pieces() -> AsyncIterator[str]:
            text = json.dumps(message)
            assert len(text) > 200_000
            for start in range(0, len(text), 20_000):
                yield text[start : start + 20_000]
                await asyncio.wait_for(await second.socket.ping(), 10)

        await second.socket.send(pieces())
        assert "interval" in await second.receive()
        offered = await first.receive()
        assert offered["offer"]["sdp"] == sdp
        await first.send(answer(A, B, offered["offer_id"], sdp=sdp))
        assert (await second.receive())["answer"]["sdp"] == sdp


async def test_the_end_is_announced(proxy: Proxy) -> None:
    """Clients learn that the tracker goes away and not that something broke; its next start needs nobody's help."""
    tracker = await proxy.start()
    async with proxy.client() as client:
        await client.announce(A)
        assert await tracker.stop() == 0
        assert (await client.closed())[0] == 1001
    assert await refusal(proxy.client()) in (502, 503)
    await proxy.start()

    async def is_back() -> bool:
        try:
            async with proxy.client() as client:
                return "interval" in await client.announce(A)
        except (InvalidHandshake, OSError):
            return False

    await eventually(is_back)


async def test_trackers_link_through_it(
    proxy: Proxy, start_tracker: StartTracker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Another tracker reaches this one by its public URL, as clients do, and trusts its certificate."""

    def federated(**settings: object) -> dict[str, str]:
        state = str(tmp_path_factory.mktemp("state"))
        return {
            **environment("server", state_dir=state),
            **environment("extensions.federation", enabled=True, **settings),
        }

    here = await proxy.start({**federated(), **environment("server", public_url=proxy.url)})
    trust = {"SSL_CERT_FILE": str(proxy.place.pair.authority)}
    there = await start_tracker(env={**federated(peers=[proxy.url]), **trust})
    await there.logged("linked")
    async with proxy.client() as first, raw_client(there.url) as second:
        await first.announce(A)
        await second.announce(B, offers=offers(1))
        offered = await first.receive()
        assert offered["peer_id"] == B
        await first.send(answer(A, B, offered["offer_id"]))
        assert (await second.receive_until(lambda message: "answer" in message))["peer_id"] == A
        assert len((await here.stats())["federation"]) == 1


@pytest.mark.parametrize("proxy", [PASSTHROUGH], ids=["haproxy, TCP"], indirect=True)
async def test_tls_that_passes_through(proxy: Proxy) -> None:
    """Clients see the tracker's certificate, and the tracker who they are, without having done TLS for too many."""
    tracker = await proxy.start(
        {**proxy.place.pair.env, **environment("metrics", port=(metrics := free_port()))},
        connections_per_address=1,
        exempt=[],
    )

    async def has(metric: str) -> bool:
        reader, writer = await asyncio.open_connection(HERE, metrics)
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        return f"\n{metric}\n" in text

    async with proxy.client(ELSEWHERE) as first, proxy.client(FAR) as second:
        with pytest.raises(ConnectionError):
            await proxy.client(ELSEWHERE).__aenter__()
        assert await has('peerservers_rejected_total{reason="address_connections"} 1.0')
        await first.announce(A)
        await second.announce(B, offers=offers(1))
        offered = await first.receive()
        await first.send(answer(A, B, offered["offer_id"]))
        assert (await second.receive_until(lambda message: "answer" in message))["peer_id"] == A
        # A page would be one connection more.
        assert (await proxy.get("/health", HERE))[0] == 200
        assert await tracker.stop() == 0
        assert (await first.closed())[0] == 1001
    # The proxy's own question whether it is up is understood, too.
    log = proxy.place.directory / "log"
    await eventually(lambda: "Server tracker/tracker is DOWN" in log.read_text())
    await proxy.start(proxy.place.pair.env)
    await eventually(lambda: "Server tracker/tracker is UP" in log.read_text())
    assert (await proxy.get("/ready"))[0] == 200


@pytest.mark.parametrize("proxy", [KINDS["nginx"]], ids=["nginx"], indirect=True)
async def test_certbot_can_show_that_the_name_is_ours(proxy: Proxy) -> None:
    """Over plain HTTP, while all else leads to TLS."""
    await proxy.start()
    directory = proxy.place.directory / ".well-known" / "acme-challenge"
    directory.mkdir(parents=True)
    (directory / "token").write_text("it is ours")
    status, answered = await proxy.get("/.well-known/acme-challenge/token", plain=True)
    assert (status, answered.partition("\r\n\r\n")[2]) == (200, "it is ours")
