"""The identity key of a cluster in a key-value bucket of NATS (JetStream): the first node puts it there.

The bucket is `peerservers_NAME`, its key is `identity`, and the value is a private key in PEM form: all users of the
NATS account can read it. Each node keeps the key in its state directory, and starts with that copy while NATS is away.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from nats.errors import Error
from nats.js import JetStreamContext
from nats.js.errors import (
    APIError,
    BucketNotFoundError,
    KeyNotFoundError,
    KeyWrongLastSequenceError,
    ServiceUnavailableError,
)
from nats.js.kv import KeyValue

from extensions.cluster.nats_connection import Connection, NatsError, connect_any
from extensions.cluster.nats_options import SECTION, NatsOptions
from extensions.cluster.troubles import Trouble
from extensions.identity import KEY_FILE, keep_key, load_key, parse_key, to_pem, tracker_id
from tracker.extension import ConfigError, TrackerHandle

FETCH_TIMEOUT: Final = 1.6
"""Seconds to fetch the key. The tracker waits for no more than two seconds for its extensions to prepare."""
ENTRY: Final = "identity"
MAX_VALUE: Final = 4096
REPLICAS: Final = 3
"""Copies of the bucket, if so many servers can be found for them. Otherwise there is one."""
_NO_REPLICAS: Final = (10005, 10023, 10074)
"""Errors of JetStream: no suitable servers, too few resources, not a cluster."""
_NAME_IN_USE: Final = 10058
_TEMPORARY: Final = 10008
"""Error of JetStream: the system is temporarily unavailable."""


class SharedKey:
    """Fetches the key of a cluster for a tracker, once.

    Args:
        options: Servers and credentials.
        name: The name of the cluster.
        timeout: Seconds for all of it.
    """

    def __init__(self, tracker: TrackerHandle, options: NatsOptions, name: str, timeout: float = FETCH_TIMEOUT) -> None:
        self._tracker = tracker
        self._options = options
        self._bucket = bucket_of(name)
        self._timeout = timeout
        self._fetching: asyncio.Task[None] | None = None

    async def fetch(self) -> None:
        """Keep the key of the cluster in the state directory. All calls wait for the same result.

        If NATS does not answer, a key that is there already is used.

        Raises:
            ConfigError: if the state directory has another key than the cluster; if JetStream cannot keep keys; if
                there is no key and NATS does not answer.
            ExtensionOff: as `TrackerHandle.use_state`.
        """
        if self._fetching is None:
            self._fetching = asyncio.get_running_loop().create_task(self._fetch(), name="cluster_key")
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        own = await self._tracker.use_state(load_key)
        try:
            async with asyncio.timeout(self._timeout):
                shared = await self._exchange(own)
        except (NatsError, TimeoutError) as error:
            text = str(error) or "no answer in time"
            if own is None:
                raise ConfigError(
                    f"{SECTION}.key: this node has no key yet, and NATS cannot be asked for it: {text}"
                ) from None
            self._tracker.log.warning("cluster_key_not_checked", error=text)
            return
        kept = await self._tracker.use_state(partial(keep_key, key=shared))
        if tracker_id(kept) != tracker_id(shared):
            file = self._tracker.settings.server.state_dir / KEY_FILE
            raise ConfigError(
                f"{SECTION}.key: {file} has the key of {tracker_id(kept)[:8]}, but the cluster is "
                f"{tracker_id(shared)[:8]}; remove the file to take over the key of the cluster"
            )

    async def _exchange(self, own: Ed25519PrivateKey | None) -> Ed25519PrivateKey:
        connection = await connect_any(self._options, "peerservers key")
        asking = asyncio.ensure_future(shared_key(connection, self._bucket, own, self._timeout))
        end = asyncio.ensure_future(connection.ended.wait())
        try:
            await asyncio.wait([asking, end], return_when=asyncio.FIRST_COMPLETED)
            if asking.done():
                return asking.result()
            raise connection.end or NatsError(Trouble.LOST, "closed")
        finally:
            asking.cancel()
            end.cancel()
            await asyncio.gather(asking, end, return_exceptions=True)
            await connection.close()


def bucket_of(name: str) -> str:
    """Return the name of the bucket of a cluster."""
    return f"peerservers_{name}"


async def shared_key(
    connection: Connection, bucket: str, own: Ed25519PrivateKey | None, patience: float
) -> Ed25519PrivateKey:
    """Return the key in a bucket. If there is none, put `own` or a new one there: of several nodes, one succeeds.

    Args:
        patience: Seconds for each request.

    Raises:
        ConfigError: if JetStream cannot keep keys, or the value is no key.
        NatsError: if NATS does not answer, or objects.
    """
    try:
        entries = await _bucket(connection.jetstream(patience), bucket)
        value = await _value(entries)
        if value is None:
            # Another node may be faster.
            with suppress(KeyWrongLastSequenceError):
                await entries.create(ENTRY, to_pem(own or Ed25519PrivateKey.generate()))
            value = await _value(entries)
    except APIError as error:
        if error.err_code == _TEMPORARY:
            raise NatsError(Trouble.UNREACHABLE, f"JetStream: {error.description}") from None
        if isinstance(error, ServiceUnavailableError) and not error.description:
            # No part of the server answers such requests.
            raise ConfigError(f"{SECTION}.key: JetStream is off at the NATS server, which is to keep the key") from None
        raise ConfigError(f"{SECTION}.key: JetStream cannot keep the key: {error.description}") from None
    except Error as error:
        raise connection.end or NatsError(Trouble.UNREACHABLE, str(error).removeprefix("nats: ")) from None
    if value is None:
        raise NatsError(Trouble.LOST, f"the key was removed from the bucket {bucket}")
    return parse_key(value, f"{SECTION}.key: {ENTRY} in the bucket {bucket}")


async def _value(entries: KeyValue) -> bytes | None:
    try:
        return (await entries.get(ENTRY)).value
    except KeyNotFoundError:
        return None


async def _bucket(jetstream: JetStreamContext, name: str) -> KeyValue:
    """Return a bucket, which is made if there is none."""
    try:
        return await jetstream.key_value(name)
    except BucketNotFoundError:
        pass
    settings: dict[str, Any] = {"bucket": name, "description": "Identity of a tracker", "max_value_size": MAX_VALUE}
    try:
        return await jetstream.create_key_value(**settings, replicas=REPLICAS)
    except APIError as error:
        if error.err_code == _NAME_IN_USE:
            return await jetstream.key_value(name)
        if error.err_code not in _NO_REPLICAS:
            raise
    try:
        return await jetstream.create_key_value(**settings)
    except APIError as error:
        if error.err_code != _NAME_IN_USE:
            raise
        return await jetstream.key_value(name)
