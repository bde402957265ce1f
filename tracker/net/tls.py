"""The TLS certificate of the port, loaded from files, also after a renewal."""

import ssl
from pathlib import Path
from typing import Final

from cryptography import x509

from tracker.config import ConfigError
from tracker.settings import Tls

_SAID: Final = {
    "KEY_VALUES_MISMATCH": "is not the key of the first certificate in tls.certificate",
    "EE_KEY_TOO_SMALL": "the key is too short; make a new one of at least 2048 bits (RSA) or 256 bits (EC)",
}
"""What OpenSSL's reasons mean."""


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
    # In TLS 1.2, a renegotiation could keep the tracker from writing.
    context.options |= ssl.OP_NO_RENEGOTIATION
    # The WebSocket handshake needs HTTP/1.1.
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(context: ssl.SSLContext, settings: Tls) -> float:
    """Load a certificate and its key; return the end of its validity in Unix time. Raise `ConfigError`."""
    certificate = _path("tls.certificate", settings.certificate)
    key = _path("tls.key", settings.key) if settings.key else None
    try:
        chain = x509.load_pem_x509_certificates(certificate.read_bytes())
    except OSError as error:
        raise ConfigError(f"tls.certificate: {certificate}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"tls.certificate: {certificate}: no certificate in PEM form") from None
    where = f"tls.key: {key}" if key else f"tls.certificate: {certificate}"
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        said = _SAID.get(error.reason or "")
        if said is None:
            without = "no private key in PEM form" + ("" if key else "; name its file in tls.key")
            said = without if "PEM" in str(error) else error.reason or str(error)
        raise ConfigError(f"{where}: {said}") from None
    except OSError as error:
        raise ConfigError(f"{where}: {error.strerror}") from None
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from None
    return chain[0].not_valid_after_utc.timestamp()


def _path(key: str, name: str) -> Path:
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}: {name}: {error}") from None


def _no_password() -> str:
    # Without this, OpenSSL would ask for a passphrase at the terminal.
    raise ValueError("the private key has a passphrase; it must have none")
