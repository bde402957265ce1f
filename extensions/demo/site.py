"""Serves the demo page: its files, and the addresses of the trackers as `trackers.json`."""

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler
from json import dumps
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Any, Final

PAGE: Final = Path(__file__).parent / "page"


class _Server(ThreadingTCPServer):
    # HTTPServer would look up the name of its host, and the demo asks no name server.
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore it: browsers close connections at any time."""


class _Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args: Any, trackers: bytes, **kwargs: Any) -> None:
        self._trackers = trackers
        super().__init__(*args, **kwargs)

    def do_GET(self) -> None:
        if self.path != "/trackers.json":
            super().do_GET()
            return
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self._trackers)))
        self.end_headers()
        self.wfile.write(self._trackers)

    def end_headers(self) -> None:
        # Another demo on the same port may be of another version.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: the terminal shows the URLs."""


@contextmanager
def serving(port: int, trackers: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Serve the page on a port of the loopback address, 0 for a free one. Yield its URL. Raises `OSError`."""
    handler = partial(_Handler, directory=os.fspath(PAGE), trackers=dumps(trackers).encode())
    with _Server(("127.0.0.1", port), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
