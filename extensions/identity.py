"""The tracker's own key pair (Ed25519, RFC 8032). The public key, 32 bytes, is the tracker id."""

import contextlib
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from tracker.extension import ConfigError, TrackerHandle, config_option, given, load

KEY_FILE: Final = "identity.pem"


class IdentityError(ConfigError):
    """The key cannot be read or created. The text is one line that names the file."""


@runtime_checkable
class KeySource(Protocol):
    """An extension that gets the tracker's key from elsewhere."""

    async def fetch_key(self) -> None:
        """Keep the key in the state directory, unless it is there. Raises as `TrackerHandle.use_state`."""
        ...


def load_or_create(state_dir: Path) -> Ed25519PrivateKey:
    """Return the key in `state_dir`; create it on first use, with mode 0600. Raises `IdentityError`."""
    return load_key(state_dir) or keep_key(state_dir, Ed25519PrivateKey.generate())


def load_key(state_dir: Path) -> Ed25519PrivateKey | None:
    """Return the key in `state_dir`, or None if there is none. Raises `IdentityError`."""
    with _mistakes(state_dir) as file:
        if not file.exists():
            return None
        return parse_key(file.read_bytes(), str(file))


def keep_key(state_dir: Path, key: Ed25519PrivateKey) -> Ed25519PrivateKey:
    """Keep a key in `state_dir`, with mode 0600. If there is one already, return that one. Raises `IdentityError`."""
    with _mistakes(state_dir) as file:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _create(file, to_pem(key))
        return parse_key(file.read_bytes(), str(file))


def parse_key(pem: bytes, where: str) -> Ed25519PrivateKey:
    """Return a key in PEM form. Raises `IdentityError`; its text has `where` the key is from."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise IdentityError(f"{where}: the key is encrypted; it must have no password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError(f"{where}: not a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{where}: not an Ed25519 key")
    return key


def to_pem(key: Ed25519PrivateKey) -> bytes:
    """Return a key in PEM form, without a password."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def own_key(tracker: TrackerHandle) -> Ed25519PrivateKey:
    """Return the tracker's key, and show its id. For an extension's `prepare`; raises as `TrackerHandle.use_state`.

    If the extension `cluster` is a `KeySource`, it fetches the key first.
    """
    source: object = tracker.extension("cluster")
    if isinstance(source, KeySource):
        await source.fetch_key()
    key = await tracker.use_state(load_or_create)
    tracker.show_id(tracker_id(key))
    return key


def tracker_id(key: Ed25519PrivateKey) -> str:
    """Return the public key as 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


@contextlib.contextmanager
def _mistakes(state_dir: Path) -> Generator[Path, None, None]:
    """Yield the path of the key's file. Turn errors of the file system into `IdentityError`."""
    file = state_dir / KEY_FILE
    try:
        file = state_dir.expanduser() / KEY_FILE
        yield file
    except OSError as error:
        raise IdentityError(f"{error.filename or file}: {error.strerror}") from None
    except RuntimeError:
        raise IdentityError(f"{state_dir}: no such home directory") from None
    except ValueError as error:
        raise IdentityError(f"{str(state_dir)!r}: not a path: {error}") from None


def _create(file: Path, pem: bytes) -> None:
    try:
        # Written to a draft that is then linked to its name: a full disk leaves no truncated key, and if two processes
        # start at once, both use the key that was linked first.
        descriptor, draft = tempfile.mkstemp(prefix=f"{file.name}.", dir=file.parent)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(pem)
                stream.flush()
                os.fsync(stream.fileno())
            with contextlib.suppress(FileExistsError):
                os.link(draft, file)
        finally:
            os.unlink(draft)
    except OSError as error:
        raise IdentityError(f"{file}: cannot be created: {error.strerror}") from None


@click.command()
@config_option
@click.option("--state-dir", type=click.Path(file_okay=False), help="Directory of the identity key.")
def identity(config_file: Path | None, state_dir: str | None) -> None:
    """Print this tracker's id, which is its public key. The key is created on first use."""
    settings = load(config_file, {"server": given({"state_dir": state_dir})})
    click.echo(tracker_id(load_or_create(settings.server.state_dir)))
