"""Certificates for tests and benchmarks: an authority of their own, and files as ACME clients write them."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import trustme
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, PrivateFormat
from cryptography.hazmat.primitives.serialization import load_pem_private_key as load_key
from cryptography.x509 import load_pem_x509_certificate as load_certificate


class Pair:
    """A certificate and its key in files in `directory`, and the authority that signed the certificate; all PEM.

    The certificate is for `name`, a DNS name or an IP address.
    """

    def __init__(self, directory: Path, name: str = "localhost", days: int = 30) -> None:
        self.certificate = directory / "fullchain.pem"
        self.key = directory / "privkey.pem"
        self.authority = directory / "authority.pem"
        self.name = name
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(self.authority)
        self.renew(days)

    def renew(self, days: int = 30, write_key: bool = True, passphrase: bytes | None = None) -> None:
        """Write another certificate that ends in so many days, and its key; the key first, as ACME clients do.

        Without `write_key` the key file keeps the old key, which does not fit. With a passphrase the key is encrypted.
        """
        now = datetime.now(UTC).replace(microsecond=0)
        self.expires = now + timedelta(days=days)
        issued = self._authority.issue_cert(self.name, not_before=now - timedelta(days=1), not_after=self.expires)
        key = issued.private_key_pem.bytes()
        if passphrase:
            encryption = BestAvailableEncryption(passphrase)
            key = load_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        if write_key:
            self.key.write_bytes(key)
        [certificate] = (pem.bytes() for pem in issued.cert_chain_pems)
        self.certificate.write_bytes(certificate)
        self.der = load_certificate(certificate).public_bytes(Encoding.DER)
        """The newest certificate, as a TLS client sees it."""

    @property
    def combined(self) -> Path:
        """A file with the key and the certificate."""
        file = self.certificate.with_name("combined.pem")
        file.write_bytes(self.key.read_bytes() + self.certificate.read_bytes())
        return file

    @property
    def env(self) -> dict[str, str]:
        """The environment of a tracker that uses the files."""
        return {"PEERSERVERS_TLS__CERTIFICATE": str(self.certificate), "PEERSERVERS_TLS__KEY": str(self.key)}

    def server_context(self) -> ssl.SSLContext:
        """Return the context of a TLS server that uses the files."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return the context of a TLS client that trusts only the authority."""
        return ssl.create_default_context(cafile=str(self.authority))

    def client(self) -> dict[str, Any]:
        """Return the options with which a client connects."""
        return {"ssl": self.client_context(), "server_hostname": self.name}
