"""An operator, an account and its users, made on the spot: what a server needs to check JWTs."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from typing import Any

import nkeys

from trio_nats.testing import NatsServer

__all__ = ["Operator"]


class _Key:
    def __init__(self, prefix: int) -> None:
        self.seed = nkeys.encode_seed(secrets.token_bytes(32), prefix)
        self._pair = nkeys.from_seed(self.seed)
        self.public = self._pair.public_key.decode()

    def issue(self, subject: str, name: str, nats: dict[str, Any], expires: int | None) -> str:
        claims: dict[str, Any] = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            "name": name,
            "nats": {"version": 2, **nats},
        }
        if expires is not None:
            claims["exp"] = expires
        digest = hashlib.sha512(json.dumps(claims).encode()).digest()[:32]
        claims["jti"] = base64.b32encode(digest).decode().rstrip("=")
        header = {"typ": "JWT", "alg": "ed25519-nkey"}
        text = f"{_encoded(header)}.{_encoded(claims)}"
        signature = self._pair.sign(text.encode())
        return f"{text}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def _encoded(value: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


class Operator:
    """Runs servers with one account, and issues credentials for it."""

    def __init__(self) -> None:
        self._operator = _Key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = _Key(nkeys.PREFIX_BYTE_ACCOUNT)

    def server(self) -> NatsServer:
        """A server that trusts this operator."""
        operator, account = self._operator, self._account
        unlimited = dict.fromkeys(
            ["subs", "data", "payload", "imports", "exports", "conn", "leaf"], -1
        )
        limits = {"type": "account", "limits": {**unlimited, "wildcards": True}}
        operator_jwt = operator.issue(operator.public, "o", {"type": "operator"}, None)
        account_jwt = operator.issue(account.public, "a", limits, None)
        config = {
            "operator": operator_jwt,
            "resolver": "MEMORY",
            "resolver_preload": {account.public: account_jwt},
        }
        return NatsServer(config=config)

    def credentials(self, name: str, *, expires: int | None = None) -> str:
        """The text of a creds file for a user called ``name``."""
        user = _Key(nkeys.PREFIX_BYTE_USER)
        nats = {"type": "user", "subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {}}
        jwt = self._account.issue(user.public, name, nats, expires)
        return (
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n"
            "------END USER NKEY SEED------\n"
        )
