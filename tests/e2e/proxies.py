"""nginx, HAProxy and Caddy with their configurations from docs/deploy, on other ports and with other files."""

import asyncio
import getpass
import os
import re
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.certificates import Pair
from tests.client import Json, eventually, raw_client
from tests.conftest import PATIENCE, StartTracker, TrackerProcess, environment, free_port, unavailable
from tests.shipping import ROOT

DEPLOY = ROOT / "docs" / "deploy"
NAME = "tracker.example.org"
HERE, ELSEWHERE, FAR = "127.0.0.1", "127.0.0.2", "127.0.0.3"
"""Addresses of clients. The proxy has the first."""


@dataclass
class Place:
    """The directory, ports and certificate of a proxy, and the ports of the tracker behind it."""

    directory: Path
    pair: Pair
    nodes: tuple[int, int]
    """The ports of two nodes of a tracker. A tracker that is no cluster has the first."""
    port: int
    plain_port: int

    @property
    def tracker_port(self) -> int:
        """The port of the tracker."""
        return self.nodes[0]

    @property
    def socket(self) -> str:
        """The path of the tracker's Unix-domain socket."""
        return str(self.directory / "socket")

    @classmethod
    def new(cls, directory: Path) -> Self:
        """Make a certificate, and find free ports."""
        return cls(directory, Pair(directory), (free_port(), free_port()), free_port(), free_port())

    @property
    def combined(self) -> Path:
        """Write certificate and key into one file, as HAProxy reads them. Return its path."""
        file = self.directory / "combined.pem"
        file.write_bytes(self.pair.certificate.read_bytes() + self.pair.key.read_bytes())
        return file


Replacements = dict[str, str]
"""Texts of a configuration in docs/deploy, each of which must occur there, and their replacements in the tests."""


@dataclass(frozen=True)
class Kind:
    """A program, its configuration file in docs/deploy, and the arguments that precede the path of that file."""

    program: str
    file: str
    arguments: tuple[str, ...]
    adapt: Callable[[Place], Replacements]
    settings: Callable[[Place], dict[str, object]] = lambda _: {}
    """Settings of the tracker's section `server`, besides those in the comments of the configuration file."""


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


def nginx_over_1_0(place: Place) -> Replacements:
    """Speak HTTP/1.0 to the tracker, which was nginx's default for many years."""
    return {**nginx(place), "            proxy_http_version 1.1;\n": ""}


def nginx_real_ip(place: Place) -> Replacements:
    return {
        **nginx(place),
        "            proxy_set_header X-Forwarded-For $remote_addr;\n": "",
        "# proxy_set_header X-Real-IP": "proxy_set_header X-Real-IP",
    }


def nginx_unix(place: Place) -> Replacements:
    return {
        **nginx(place),
        "        server 127.0.0.1:8000;\n": "",
        "# server unix:/run/peerservers/socket;": f"server unix:{place.socket};",
    }


def nginx_path(place: Place) -> Replacements:
    return {**nginx(place), "# location /tracker {\n        location / {": "location /tracker {"}


def nginx_path_removed(place: Place) -> Replacements:
    """Remove the path before requests are forwarded."""
    return {
        **nginx(place),
        "# location /tracker {\n        location / {\n            proxy_pass http://tracker;": "location /tracker/ {\n"
        "            proxy_pass http://tracker/;\n            proxy_set_header X-Forwarded-Prefix /tracker;",
    }


def nginx_stream(place: Place) -> Replacements:
    if not list(Path("/etc/nginx/modules-enabled").glob("*-mod-stream.conf")):
        unavailable("nginx's module stream")
    return {
        "user www-data;": f"user {getpass.getuser()}; daemon off;",
        "/run/nginx.pid": f"{place.directory}/nginx.pid",
        "/var/log/nginx/error.log": f"{place.directory}/error.log",
        "listen [::]:443;": "",
        "listen 443;": f"listen 127.0.0.1:{place.port};",
    }


def haproxy(place: Place) -> Replacements:
    return {
        "    user haproxy\n    group haproxy\n": "",
        "maxconn 100000": "maxconn 100",
        "bind :80\n": f"bind 127.0.0.1:{place.plain_port}\n",
        "bind :443 ": f"bind 127.0.0.1:{place.port} ",
        f"/etc/haproxy/{NAME}.pem": str(place.combined),
    }


def haproxy_v2(place: Place) -> Replacements:
    """Use the `server` line with the PROXY protocol, and set no header."""
    return {
        **haproxy(place),
        "    http-request set-header": "    # http-request set-header",
        "    server tracker 127.0.0.1:8000 check\n": "",
        "    # server tracker 127.0.0.1:8000": "    server tracker 127.0.0.1:8000",
    }


def haproxy_v1(place: Place) -> Replacements:
    return {**haproxy_v2(place), "send-proxy-v2": "send-proxy"}


def haproxy_plain_check(place: Place) -> Replacements:
    """Check the tracker's health with the request `OPTIONS / HTTP/1.0`."""
    return {**haproxy(place), "option httpchk GET /ready": "option httpchk"}


def haproxy_unix(place: Place) -> Replacements:
    return {
        **haproxy(place),
        "    server tracker 127.0.0.1:8000 check\n": "",
        "    # server tracker unix@/run/peerservers/socket": f"    server tracker unix@{place.socket}",
    }


def haproxy_unix_v2(place: Place) -> Replacements:
    return {
        **haproxy_unix(place),
        "    http-request set-header": "    # http-request set-header",
        f"unix@{place.socket} check": f"unix@{place.socket} send-proxy-v2 check check-send-proxy",
    }


def haproxy_path(place: Place) -> Replacements:
    return {
        **haproxy(place),
        "    default_backend tracker\n": "",
        "# use_backend tracker": "use_backend tracker",
    }


def haproxy_tcp(place: Place) -> Replacements:
    return {
        "    user haproxy\n    group haproxy\n": "",
        "maxconn 100000": "maxconn 100",
        "bind :443\n": f"bind 127.0.0.1:{place.port}\n",
        " check ": " check inter 100ms ",
    }


def haproxy_tcp_v1(place: Place) -> Replacements:
    return {**haproxy_tcp(place), "send-proxy-v2": "send-proxy"}


def nodes(place: Place) -> Replacements:
    """Put two nodes on loopback in place of three on other machines."""
    return {f"10.0.0.{number}:8000": f"{HERE}:{port}" for number, port in enumerate(place.nodes, 1)}


def haproxy_cluster(place: Place) -> Replacements:
    return {
        "    user haproxy\n    group haproxy\n": "",
        "maxconn 200000": "maxconn 100",
        "bind :80\n": f"bind 127.0.0.1:{place.plain_port}\n",
        "bind :443 ": f"bind 127.0.0.1:{place.port} ",
        f"/etc/haproxy/{NAME}.pem": str(place.combined),
        "inter 1s": "inter 200ms",
        "    server c 10.0.0.3:8000\n": "",
        **nodes(place),
    }


def nginx_cluster(place: Place) -> Replacements:
    return {**nginx(place), "        server 10.0.0.3:8000 max_fails=1 fail_timeout=5s;\n": "", **nodes(place)}


def caddy(place: Place) -> Replacements:
    options = f"admin off\nhttp_port {place.plain_port}\nhttps_port {place.port}\ndefault_bind 127.0.0.1"
    return {
        f"default_sni {NAME}": f"default_sni localhost\n{options}",
        f"{NAME}, :443 {{": f"localhost, :{place.port} {{\ntls {place.pair.certificate} {place.pair.key}",
    }


def caddy_unix(place: Place) -> Replacements:
    return {
        **caddy(place),
        "\treverse_proxy 127.0.0.1:8000 {\n": "",
        "# reverse_proxy unix//run/peerservers/socket {": f"reverse_proxy unix/{place.socket} {{",
    }


def caddy_path(place: Place) -> Replacements:
    return {
        **caddy(place),
        "\treverse_proxy 127.0.0.1:8000 {\n": "",
        "# reverse_proxy /tracker*": "reverse_proxy /tracker*",
    }


def of_cluster(_: Place) -> dict[str, object]:
    """Let the nodes listen on loopback, and trust the balancer there."""
    return {"host": HERE, "trusted_proxies": [HERE]}


def over_unix(place: Place) -> dict[str, object]:
    """Let the tracker listen on its Unix-domain socket only, and trust no address."""
    return {"host": f"unix:{place.socket}", "trusted_proxies": []}


NGINX = "nginx", "nginx.conf", ("-e", "stderr", "-c")
HAPROXY = "haproxy", "haproxy.cfg", ("-db", "-f")
HAPROXY_TCP = "haproxy", "haproxy-tcp.cfg", ("-db", "-f")
CADDY = "caddy", "Caddyfile", ("run", "--adapter", "caddyfile", "--config")

KINDS = {
    "nginx": Kind(*NGINX, nginx),
    "haproxy": Kind(*HAPROXY, haproxy),
    "haproxy, PROXY v2": Kind(*HAPROXY, haproxy_v2),
    "caddy": Kind(*CADDY, caddy),
}

VARIANTS = {
    "nginx, HTTP 1.0": Kind(*NGINX, nginx_over_1_0),
    "nginx, X-Real-IP": Kind(*NGINX, nginx_real_ip, lambda _: {"client_address_header": "X-Real-IP"}),
    "nginx, unix": Kind(*NGINX, nginx_unix, over_unix),
    "haproxy, PROXY v1": Kind(*HAPROXY, haproxy_v1),
    "haproxy, plain check": Kind(*HAPROXY, haproxy_plain_check),
    "haproxy, unix": Kind(*HAPROXY, haproxy_unix, over_unix),
    "haproxy, unix, PROXY v2": Kind(*HAPROXY, haproxy_unix_v2, over_unix),
    "caddy, unix": Kind(*CADDY, caddy_unix, over_unix),
}
"""Other ways to the tracker: lines that are comments in the configurations, and what many proxies do by default."""

PREFIX: dict[str, object] = {"path_prefix": "/tracker"}

PATHS = {
    "nginx": Kind(*NGINX, nginx_path, lambda _: PREFIX),
    "nginx, removed": Kind(*NGINX, nginx_path_removed),
    "haproxy": Kind(*HAPROXY, haproxy_path, lambda _: PREFIX),
    "caddy": Kind(*CADDY, caddy_path, lambda _: PREFIX),
}
"""The tracker has the path `/tracker` of a site."""

PASSTHROUGH = {
    "haproxy, TCP": Kind(*HAPROXY_TCP, haproxy_tcp),
    "haproxy, TCP, PROXY v1": Kind(*HAPROXY_TCP, haproxy_tcp_v1),
    "nginx, TCP": Kind("nginx", "nginx-stream.conf", ("-e", "stderr", "-c"), nginx_stream),
}
"""The proxy passes TLS on to the tracker, and sends the address of the client before it (PROXY protocol)."""

BALANCERS = {
    "haproxy": Kind("haproxy", "haproxy-cluster.cfg", ("-db", "-f"), haproxy_cluster, of_cluster),
    "nginx": Kind("nginx", "nginx-cluster.conf", ("-e", "stderr", "-c"), nginx_cluster, of_cluster),
}
"""Load balancers in front of two nodes."""


class Proxy:
    """A proxy with a tracker behind it, or with nodes of one."""

    def __init__(self, kind: Kind, place: Place, start_tracker: StartTracker) -> None:
        self.kind = kind
        self.place = place
        self._start_tracker = start_tracker
        self._original = (DEPLOY / kind.file).read_text()
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, also: dict[str, str] | None = None, **limits: Any) -> TrackerProcess:
        """Start a tracker as `start_node` does, and the proxy if it does not run yet."""
        tracker = await self.start_node(0, also, **limits)
        await self.run()
        return tracker

    async def start_node(self, number: int, also: dict[str, str] | None = None, **limits: Any) -> TrackerProcess:
        """Start a node, or the only one.

        It has the settings in the comments of the proxy's configuration, the environment `also`, and `limits`.
        """
        wanted = re.search(r"^#     \[server\]\n(?:#     .*\n)+", self._original, re.MULTILINE)
        assert wanted
        server = tomllib.loads(wanted[0].replace("#     ", ""))["server"] | self.kind.settings(self.place)
        env = {**environment("server", **server), **environment("limits", **limits), **(also or {})}
        return await self._start_tracker(port=self.place.nodes[number], host=server["host"], env=env)

    async def run(self) -> None:
        """Start the proxy, if it does not run yet."""
        if self.process is None:
            self.process = await self._run()

    def _configure(self) -> Path:
        text = self._original
        replacements = self.kind.adapt(self.place)
        for documented, tested in replacements.items():
            assert documented in text, documented
            text = text.replace(documented, tested)
        text = text.replace("127.0.0.1:8000", f"127.0.0.1:{self.place.tracker_port}")
        file = self.place.directory / self.kind.file
        file.write_text(text)
        return file

    async def _run(self) -> asyncio.subprocess.Process:
        program = shutil.which(self.kind.program, path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            unavailable(self.kind.program)
        file = self._configure()
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

        try:
            await eventually(listens, PATIENCE)
        except BaseException:
            process.kill()
            raise
        return process

    async def stop(self) -> None:
        """Stop the proxy."""
        if self.process and self.process.returncode is None:
            self.process.terminate()
            await asyncio.wait_for(self.process.wait(), PATIENCE)

    @property
    def url(self) -> str:
        """The WebSocket URL of the proxy."""
        return f"wss://localhost:{self.place.port}/"

    def client(self, address: str = HERE, **headers: str) -> Any:
        """Return a context manager that connects a raw client from an address."""
        options = {"host": HERE, "local_addr": (address, 0), "additional_headers": headers}
        return raw_client(self.url, **options, **self.place.pair.client())

    async def get(self, path: str, address: str = HERE, plain: bool = False) -> tuple[int, str]:
        """Send an HTTP GET from an address. Return the status, and head and body."""
        port = self.place.plain_port if plain else self.place.port
        tls: Json = {} if plain else self.place.pair.client()
        reader, writer = await asyncio.open_connection(HERE, port, local_addr=(address, 0), **tls)
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answered = (await reader.read()).decode()
        writer.close()
        return int(answered.split()[1]), answered
