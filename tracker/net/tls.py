"""The TLS certificate of the port, loaded from files, also after a renewal."""

import ssl
from pathlib import Path

from cryptography import x509

from tracker.config import ConfigError
from tracker.settings import Tls


class Certificate:
    """A certificate and its private key.

    Attributes:
        context: The context for new connections.
        expires: The end of the certificate's validity, in seconds of Unix time.
    """

    def __init__(self, settings: Tls) -> None:
        """Read the files. Raise `ConfigError` if they cannot be used."""
        self.context = _new_context()
        self.expires = _load(self.context, settings)

    def replace(self, renewed: "Certificate") -> None:
        """Use another certificate for new connections.

        Each certificate has a context of its own, so that none ever holds a certificate with the key of another.
        """
        self.context, self.expires = renewed.context, renewed.expires


def _new_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # The WebSocket handshake needs HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, settings: Tls) -> float:
    """Load a certificate and its key; return the end of its validity in Unix time. Raise `ConfigError`."""
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
        # The error does not name the file.
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
    # Without this, OpenSSL would ask for a passphrase at the terminal.
    raise ValueError("the private key has a passphrase; it must have none")
