"""The tracker's own key pair (Ed25519, RFC 8032). Its public key, 32 bytes, is the tracker id."""

import contextlib
import os
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

from tracker.extension import ConfigError, config_option, given, load

KEY_FILE: Final = "identity.pem"


class IdentityError(ConfigError):
    """The key cannot be read or made. The text is one line that names the file."""


def load_or_create(state_dir: Path) -> Ed25519PrivateKey:
    """The key in `state_dir`, made on first use with mode 0600. Raises `IdentityError`."""
    file = state_dir / KEY_FILE
    try:
        file = state_dir.expanduser() / KEY_FILE
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not file.exists():
            _create(file)
        key = load_pem_private_key(file.read_bytes(), password=None)
    except OSError as error:
        raise IdentityError(f"{error.filename or file}: {error.strerror}") from None
    except RuntimeError:
        raise IdentityError(f"{state_dir}: no such home directory") from None
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise IdentityError(f"{file}: not a private key in PEM form") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise IdentityError(f"{file}: not an Ed25519 key")
    return key


def tracker_id(key: Ed25519PrivateKey) -> str:
    """The public key as 64 hexadecimal digits."""
    return key.public_key().public_bytes_raw().hex()


def _create(file: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    # Written beside and linked into place: a full disk leaves no half a key, and of two starts at once one key wins.
    draft = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
    finally:
        draft.unlink(missing_ok=True)


@click.command()
@config_option
@click.option("--state-dir", type=click.Path(file_okay=False), help="Directory of the identity key.")
def identity(config_file: Path | None, state_dir: str | None) -> None:
    """Print this tracker's public key, its id among trackers; made on first use."""
    settings = load(config_file, {"server": given({"state_dir": state_dir})})
    click.echo(tracker_id(load_or_create(settings.server.state_dir)))
