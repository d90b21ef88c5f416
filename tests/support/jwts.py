"""Create operators, accounts, users and auth callouts for tests of JWT authentication.

An :class:`Operator` has the configuration of a server that trusts it, and issues users::

    operator = Operator()
    async with NatsServer(config=operator.config) as server:
        user = operator.user("alice")
        user.jwt, user.seed, user.creds       # the credentials of the user
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import nkeys

__all__ = [
    "BCRYPT_HASH",
    "BCRYPT_PASSWORD",
    "CALLOUT_PASSWORD",
    "CALLOUT_USER",
    "Callout",
    "Key",
    "Operator",
    "User",
    "claims_of",
    "creds_text",
    "encode_part",
]

BCRYPT_PASSWORD: Final = "wohl-behütet"
BCRYPT_HASH: Final = "$2b$04$5nJ9Q9Az1hT8HiZxCb/0heOe4ViUfty5hyop6lpVgJrcTJJe3IdAi"
"""The hash of :data:`BCRYPT_PASSWORD` for a server's configuration."""

CALLOUT_USER: Final = "callout"
CALLOUT_PASSWORD: Final = "callout-password"
"""The credentials of the service that answers a :class:`Callout`."""


class Key:
    """A new key pair: ``Key("user")``, ``"account"`` or ``"operator"``."""

    _PREFIXES: Final = {
        "user": nkeys.PREFIX_BYTE_USER,
        "account": nkeys.PREFIX_BYTE_ACCOUNT,
        "operator": nkeys.PREFIX_BYTE_OPERATOR,
    }

    def __init__(self, kind: str = "user") -> None:
        seed = nkeys.encode_seed(secrets.token_bytes(32), self._PREFIXES[kind])
        self._pair = nkeys.from_seed(seed)
        self.seed: str = seed.decode()
        self.public: str = self._pair.public_key.decode()

    def sign(self, data: bytes) -> bytes:
        """Return the 64 bytes of the signature."""
        return bytes(self._pair.sign(data))

    def issue(self, subject: str, nats: Mapping[str, Any], **claims: Any) -> str:
        """Return a JWT signed by this key. Claims that are ``None`` are left out."""
        body = {
            "iat": int(time.time()),
            "iss": self.public,
            "sub": subject,
            **claims,
            "nats": {"version": 2, **nats},
        }
        body = {name: value for name, value in body.items() if value is not None}
        digest = hashlib.sha512(json.dumps(body).encode()).digest()[:32]
        body["jti"] = base64.b32encode(digest).decode().rstrip("=")
        text = f"{encode_part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{encode_part(body)}"
        return f"{text}.{_base64(self.sign(text.encode()))}"


@dataclass(frozen=True)
class User:
    """A user's JWT and the key it was issued to."""

    jwt: str
    key: Key

    @property
    def seed(self) -> str:
        return self.key.seed

    @property
    def creds(self) -> str:
        """The text of a ``.creds`` file."""
        return creds_text(self.jwt, self.seed)


class Operator:
    """Issues users of one account; ``config`` makes a server trust them.

    ``limits`` are the account's: ``payload=1000``, ``subs=10``.
    """

    def __init__(self, **limits: int) -> None:
        self.key = Key("operator")
        self.account = Key("account")
        system = Key("account")
        accounts = {
            self.account.public: self._account(self.account, limits),
            system.public: self._account(system, {}),
        }
        preload = "".join(f'  {public}: "{jwt}"\n' for public, jwt in accounts.items())
        operator = self.key.issue(
            self.key.public, {"type": "operator", "system_account": system.public}, name="operator"
        )
        self.config = (
            f'operator: "{operator}"\n'
            f"system_account: {system.public}\n"
            "resolver: MEMORY\n"
            f"resolver_preload {{\n{preload}}}\n"
        )
        """The text of a server's configuration."""

    def _account(self, key: Key, limits: Mapping[str, int]) -> str:
        names = ("subs", "data", "payload", "imports", "exports", "conn", "leaf")
        claims = {
            "type": "account",
            "limits": {**dict.fromkeys(names, -1), "wildcards": True, **limits},
        }
        return self.key.issue(key.public, claims, name="account")

    def user(
        self,
        name: str = "user",
        *,
        expires: int | None = None,
        bearer: bool = False,
        permissions: Mapping[str, Any] | None = None,
        issuer: Key | None = None,
    ) -> User:
        """Create a user. ``expires`` is a Unix time; ``issuer`` defaults to the account's key."""
        key = Key("user")
        nats = _user_claims(permissions) | ({"bearer_token": True} if bearer else {})
        return User((issuer or self.account).issue(key.public, nats, name=name, exp=expires), key)


class Callout:
    """An auth callout (ADR-26) of a server in configuration mode."""

    def __init__(self) -> None:
        self.issuer = Key("account")
        self.config = (
            "accounts {\n"
            f"  AUTH {{ users [{{ user: {CALLOUT_USER}, password: {CALLOUT_PASSWORD} }}] }}\n"
            "  APP {}\n"
            "}\n"
            "authorization { auth_callout {\n"
            f"  issuer: {self.issuer.public}, auth_users: [{CALLOUT_USER}], account: AUTH\n"
            "} }\n"
        )

    def response(self, request: bytes, *, error: str | None = None) -> str:
        """Return the response to ``$SYS.REQ.USER.AUTH``: a user of APP, or ``error``."""
        nats = claims_of(request.decode())["nats"]
        user = nats["user_nkey"]
        answer: dict[str, Any] = {"type": "authorization_response"}
        if error is None:
            answer["jwt"] = self.issuer.issue(user, _user_claims(None), name="let in", aud="APP")
        else:
            answer["error"] = error
        return self.issuer.issue(user, answer, aud=nats["server_id"]["id"])

    @staticmethod
    def credentials(request: bytes) -> dict[str, Any]:
        """Return the client's CONNECT options, as the server passes them on."""
        return dict(claims_of(request.decode())["nats"]["connect_opts"])


def creds_text(jwt: str, seed: str) -> str:
    """Return a ``.creds`` file as the NATS tools write it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
        "************************* IMPORTANT *************************\n"
        "NKEY Seed printed below can be used to sign and prove identity.\n"
        "NKEYs are sensitive and should be treated as secrets.\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n"
        "*************************************************************\n"
    )


def claims_of(jwt: str) -> dict[str, Any]:
    """Return the body of a JWT without verifying it."""
    body = jwt.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))))


def encode_part(value: object) -> str:
    """Encode one part of a JWT."""
    return _base64(json.dumps(value).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _user_claims(permissions: Mapping[str, Any] | None) -> dict[str, Any]:
    allowed = permissions or {"pub": {}, "sub": {}}
    return {"type": "user", "subs": -1, "data": -1, "payload": -1, **allowed}
