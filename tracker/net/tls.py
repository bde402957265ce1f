"""The certificate of the port: loaded, and loaded again when it was renewed."""

import ssl
from pathlib import Path

from cryptography import x509

from tracker.config import ConfigError
from tracker.settings import Tls


class Certificate:
    """What the port proves its name with, read from files. Raises `ConfigError` if it cannot be used."""

    def __init__(self, settings: Tls) -> None:
        self.context = _new_context()
        """For connections from now on."""
        self.expires = _load(self.context, settings)
        """When it is valid no more, seconds of Unix time."""

    def replace(self, renewed: "Certificate") -> None:
        """Use another from now on. Open connections keep the old context, into which half a pair never gets."""
        self.context, self.expires = renewed.context, renewed.expires


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A WebSocket's handshake is HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, settings: Tls) -> float:
    """Load a pair; when its certificate expires."""
    certificate = Path(settings.certificate)
    key = Path(settings.key) if settings.key else None
    try:
        certificate = certificate.expanduser()
        key = key.expanduser() if key else None
        context.load_cert_chain(certificate, key, password=_no_password)
        return x509.load_pem_x509_certificates(certificate.read_bytes())[0].not_valid_after_utc.timestamp()
    except ssl.SSLError as error:
        raise ConfigError(f"tls: {certificate}: {error.reason or error}") from None
    except OSError as error:
        # It does not say which of the two.
        name = key if key and not _is_readable(key) else certificate
        raise ConfigError(f"tls: {name}: {error.strerror}") from None
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"tls: {certificate}: {error}") from None


def _is_readable(path: Path) -> bool:
    try:
        with path.open("rb"):
            return True
    except OSError:
        return False


def _no_password() -> str:
    # Without this, OpenSSL would ask for one at the terminal.
    raise ValueError("the private key has a passphrase; it must have none")
