"""The second path's other half: what a tracker says of itself at `/.well-known/peerservers`.

BEP 5 yields nothing but an address and a port, from nodes that may lie. What is fetched there is believed for its
signature alone: so TLS needs no certificate, and plain HTTP will do.
"""

import asyncio
import json
import ssl
from typing import Final

import h11
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from extensions.dht.krpc.messages import Address
from extensions.dht.records.record import Entry, Rejected, check_entry, sign_entry

PATH: Final = "/.well-known/peerservers"
MAX_SIZE: Final = 4096
"""Bytes of a descriptor."""

MAX_RECEIVED: Final = 2 * MAX_SIZE
"""Bytes of an answer, with its head."""

TIMEOUT: Final = 5.0
"""Seconds that fetching one may take, in all."""

_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Made once, and without the system's certificates: loading them takes longer than all the rest."""
_TLS.check_hostname = False
_TLS.verify_mode = ssl.CERT_NONE


class DescriptorError(Exception):
    """There is no descriptor to be had. `reason` says why, if one was had and is not valid."""

    def __init__(self, text: str, reason: Rejected = Rejected.INVALID_DESCRIPTOR) -> None:
        super().__init__(text)
        self.reason = reason


def write(key: Ed25519PrivateKey, url: str, now: float) -> bytes:
    """Our own: JSON. It is an entry for no infohash."""
    entry = sign_entry(key, b"", url, now)
    table = {"id": entry.tracker_id, "url": entry.url, "expires": entry.expires, "signature": entry.signature.hex()}
    return json.dumps(table).encode()


def read(body: bytes, now: float) -> Entry:
    """Somebody's. Raises `DescriptorError`."""
    try:
        table = json.loads(body)
        entry = Entry(
            bytes.fromhex(table["id"]).hex(), table["expires"], table["url"], bytes.fromhex(table["signature"])
        )
        if type(entry.expires) is not int or type(entry.url) is not str:
            raise TypeError
        fault = check_entry(entry, b"", now)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise DescriptorError("not a descriptor") from None
    if fault:
        raise DescriptorError(fault.value, fault)
    return entry


async def fetch(address: Address, now: float) -> Entry:
    """The descriptor of a tracker. Whether that address may be asked is for the caller to say.

    Raises `DescriptorError`.
    """
    failure: DescriptorError | None = None
    try:
        async with asyncio.timeout(TIMEOUT):
            for tls in (True, False) if address[1] == 443 else (False, True):
                try:
                    return read(await _get(address, tls), now)
                except DescriptorError as error:
                    failure = failure or error
                except (OSError, h11.ProtocolError) as error:
                    failure = failure or DescriptorError(str(error) or type(error).__name__)
    except TimeoutError:
        failure = failure or DescriptorError("no answer")
    assert failure
    raise failure


async def _get(address: Address, tls: bool) -> bytes:
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
                # What is there already is read without a pause: others on the loop get theirs all the same.
                await asyncio.sleep(0)
                data = await reader.read(1024)
                received += len(data)
                if received > MAX_RECEIVED:
                    raise DescriptorError("too long")
                http.receive_data(data)
            elif isinstance(event, h11.Response):
                # A redirect would be an order to fetch something else.
                if event.status_code != 200:
                    raise DescriptorError(f"HTTP status {event.status_code}")
            elif isinstance(event, h11.Data):
                body += event.data
                if len(body) > MAX_SIZE:
                    raise DescriptorError("too long")
            elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
                return body
            else:
                # Above all interim answers, of which there may be any number.
                raise DescriptorError("not a plain answer")
    finally:
        writer.transport.abort()
