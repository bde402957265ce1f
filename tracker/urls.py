"""The URLs of a running tracker: from its settings, or from another of its URLs."""

from tracker.checks import WILDCARDS
from tracker.settings import Settings


def own_url(settings: Settings) -> str:
    """Return the public URL of a tracker with these settings, or else its WebSocket URL on this machine."""
    return settings.server.public_url or as_websocket(_own_address(settings))


def own_statistics(settings: Settings) -> str:
    """Return the URL on this machine, without a path, at which a tracker with these settings serves its statistics."""
    metrics = settings.metrics
    return url_at("http", metrics.host, metrics.port) if metrics.port else _own_address(settings)


def as_http(url: str) -> str:
    """Return the http:// or https:// URL for a ws:// or wss:// URL; other texts are returned as they are."""
    return f"http{url[2:]}" if url.startswith(("ws://", "wss://")) else url


def as_websocket(url: str) -> str:
    """Return the ws:// or wss:// URL for an http:// or https:// URL; other texts are returned as they are."""
    return f"ws{url[4:]}" if url.startswith(("http://", "https://")) else url


def _own_address(settings: Settings) -> str:
    server = settings.server
    if not server.hosts:
        return f"unix:{server.unix_sockets[0]}"
    return url_at("https" if settings.tls.certificate else "http", server.hosts[0], server.port)


def url_at(scheme: str, host: str, port: int) -> str:
    """Return the URL, without a path, at which this machine reaches an address of its own."""
    host = WILDCARDS.get(host, host)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"
