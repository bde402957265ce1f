"""Descriptors: the signed JSON document at `/.well-known/peerservers` that names a tracker's id and URL.

The BEP 5 fallback yields only addresses and ports, from nodes that may lie. A descriptor is trusted for its signature
alone. So TLS needs no valid certificate, and plain HTTP is enough.
"""

import asyncio
import json
import ssl
from typing import Final

import h11

from extensions.dht.krpc.messages import Address
from extensions.entries import Rejected, check_entry
from extensions.trackers import TrackerEntry

PATH: Final = "/.well-known/peerservers"
MAX_SIZE: Final = 4096
"""Bytes of a descriptor."""

MAX_RECEIVED: Final = 2 * MAX_SIZE
"""Bytes of a response, with its head."""

TIMEOUT: Final = 5.0
"""Seconds that fetching a descriptor may take, over all attempts."""

_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once, and without the system's certificates: loading them takes longer than everything else."""
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


class DescriptorError(Exception):
    """A descriptor cannot be fetched, or is invalid for `reason`."""

    def __init__(self, text: str, reason: Rejected = Rejected.INVALID_DESCRIPTOR) -> None:
        super().__init__(text)
        self.reason = reason


def write(entry: TrackerEntry) -> bytes:
    """Return our own entry for the empty infohash as JSON."""
    table = {"id": entry.tracker_id, "url": entry.url, "expires": entry.expires, "signature": entry.signature.hex()}
    return json.dumps(table).encode()


def read(body: bytes, now: float) -> TrackerEntry:
    """Return the valid entry of another tracker's descriptor. Raises `DescriptorError`."""
    try:
        table = json.loads(body)
        entry = TrackerEntry(_bytes(table["id"]).hex(), table["expires"], table["url"], _bytes(table["signature"]))
        if type(entry.expires) is not int or type(entry.url) is not str:
            raise TypeError
        fault = check_entry(entry, b"", now)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DescriptorError("not a descriptor") from None
    if fault:
        raise DescriptorError(fault.value, fault)
    return entry


def _bytes(digits: str) -> bytes:
    """Return the bytes of lower-case hexadecimal digits. Raises `ValueError` for anything else."""
    data = bytes.fromhex(digits)
    if data.hex() != digits:
        raise ValueError(f"not lower-case digits: {digits}")
    return data


async def fetch(address: Address, now: float) -> TrackerEntry:
    """Fetch the descriptor of a tracker, over HTTP and TLS, and return its valid entry.

    The caller checks that requests may go to this address. Raises `DescriptorError`.
    """
    failure: DescriptorError | None = None
    try:
        async with asyncio.timeout(TIMEOUT):
            for tls in (True, False) if address[1] == 443 else (False, True):
                try:
                    return read(await fetch_body(address, tls), now)
                except DescriptorError as error:
                    failure = failure or error
                except (OSError, h11.ProtocolError) as error:
                    failure = failure or DescriptorError(str(error) or type(error).__name__)
    except TimeoutError:
        failure = failure or DescriptorError("no answer")
    assert failure
    raise failure


async def fetch_body(address: Address, tls: bool) -> bytes:
    """Send one request and return the body of the response.

    Raises `DescriptorError` for a response that is too long or is not a plain 200, `h11.ProtocolError` for a malformed
    one, and `OSError` if the connection or the TLS handshake fails.
    """
    host, port = address
    reader, writer = await asyncio.open_connection(host, port, ssl=_TLS if tls else None, limit=MAX_SIZE)
    try:
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_SIZE)
        name = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        request = h11.Request(method="GET", target=PATH, headers=[("host", name), ("connection", "close")])
        writer.write((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
        received, body = 0, b""
        while True:
            event = http.next_event()
            if event is h11.NEED_DATA:
                # Reading buffered data never suspends, so other tasks of the loop would not run.
                await asyncio.sleep(0)
                data = await reader.read(1024)
                received += len(data)
                if received > MAX_RECEIVED:
                    raise DescriptorError("too long")
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                # A redirect would let the host choose another target for our request.
                if event.status_code != 200:
                    raise DescriptorError(f"HTTP status {event.status_code}")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_SIZE:
                    raise DescriptorError("too long")
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return body
            else:
                # Mostly interim responses (1xx): a host may send any number of them.
                raise DescriptorError("not a plain answer")
    finally:
        writer.transport.abort()
