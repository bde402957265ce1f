"""The tracker's own key pair (Ed25519, RFC 8032). The public key, 32 bytes, is the tracker id."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Final

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


def load_or_create(state_dir: Path) -> Ed25519PrivateKey:
    """Return the key in `state_dir`; create it on first use, with mode 0600. Raises `IdentityError`."""
    file = state_dir / KEY_FILE
    try:
        file = state_dir.expanduser() / KEY_FILE
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _create(file)
        pem = file.read_bytes()
    except OSError as error:
        raise IdentityError(f"{error.filename or file}: {error.strerror}") from None
    except RuntimeError:
        raise IdentityError(f"{state_dir}: no such home directory") from None
    except ValueError as error:
        raise IdentityError(f"{str(state_dir)!r}: not a path: {error}") from None
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise IdentityError(f"{file}: the key is encrypted; it must have no password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise IdentityError(f"{file}: not a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{file}: not an Ed25519 key")
    return key


async def own_key(tracker: TrackerHandle) -> Ed25519PrivateKey:
    """Return the tracker's key, and show its id. For an extension's `prepare`; raises as `TrackerHandle.use_state`."""
    key = await tracker.use_state(load_or_create)
    tracker.show_id(tracker_id(key))
    return key


def tracker_id(key: Ed25519PrivateKey) -> str:
    """Return the public key as 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def _create(file: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
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
