"""An operator of NATS with one account and one user, as `nsc` makes them: keys, JWTs and a file of credentials."""

import base64
import hashlib
import json
import os
import time
from typing import Any

import nkeys


def new_seed(prefix: int) -> bytes:
    """Return the seed of a new key, of a user for example: `nkeys.PREFIX_BYTE_USER`."""
    return bytes(nkeys.encode_seed(os.urandom(32), prefix))


class Operator:
    """An operator, whose server needs only its configuration: the account is preloaded."""

    def __init__(self) -> None:
        self._operator, self._account, self._user = (
            new_seed(prefix)
            for prefix in (nkeys.PREFIX_BYTE_OPERATOR, nkeys.PREFIX_BYTE_ACCOUNT, nkeys.PREFIX_BYTE_USER)
        )

    def server_config(self) -> dict[str, Any]:
        """Return the keys of a server's configuration."""
        unlimited = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
        limits = {**unlimited, "wildcards": True}
        account = _public(self._account)
        return {
            "operator": _jwt(self._operator, _public(self._operator), {"type": "operator", "version": 2}),
            "resolver": "MEMORY",
            "resolver_preload": {
                account: _jwt(self._operator, account, {"type": "account", "version": 2, "limits": limits})
            },
        }

    def credentials(self) -> str:
        """Return the content of the user's file of credentials."""
        unlimited = {"subs": -1, "data": -1, "payload": -1}
        jwt = _jwt(self._account, _public(self._user), {"type": "user", "version": 2, **unlimited})
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            "************************* IMPORTANT *************************\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{self._user.decode()}\n------END USER NKEY SEED------\n"
        )


def _public(seed: bytes) -> str:
    return str(nkeys.from_seed(bytearray(seed)).public_key.decode())


def _jwt(issuer: bytes, subject: str, claims: dict[str, Any]) -> str:
    body = {"iat": int(time.time()), "iss": _public(issuer), "name": "test", "sub": subject, "nats": claims}
    digest = hashlib.new("sha512_256", json.dumps(body).encode()).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    text = ".".join(_encoded(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{_encoded(nkeys.from_seed(bytearray(issuer)).sign(text.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
