"""Kinds of credentials, and the fields of CONNECT that each of them provides.

Each kind checks its arguments when it is created, reads its files again at every attempt to
connect, and never shows a secret in its ``repr`` or in an error. Follows ADR-14 (credentials files)
and the server's NKey and JWT authentication.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import os
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeGuard

import msgspec

from ._blocking import read_small_file, run_in_thread
from ._tracebacks import hides_secrets, without_frames
from .errors import CredentialsError
from .options import StrPath, check_instance, type_name
from .servers import Server

__all__ = [
    "JWT",
    "Auth",
    "AuthCallback",
    "AuthLike",
    "Combined",
    "Credentials",
    "NKey",
    "Sign",
    "Token",
    "UserPassword",
    "prepare",
    "prepare_auth",
]

Sign: TypeAlias = Callable[[bytes], bytes | Awaitable[bytes]]
"""Signs a nonce of the server with the user's Ed25519 key; returns the 64 raw bytes of the
signature."""

_MAX_FILE = 1024 * 1024
# Possessive quantifiers keep matching linear for any text. A marker must follow white space,
# because base64url contains dashes.
_MARKER = re.compile(r"(?<![^\s\ufeff])-{3,}+\s*+(?:BEGIN\s++(?P<label>[A-Z ]++)\s*+-{3,}+|END\b)")
_JWT_SHAPE = re.compile(r"[\w-]+=*\.[\w-]+=*\.[\w-]*=*", re.ASCII)
# Text that cannot be the path of a file: several lines, a seed, a JWT.
_NO_PATH = re.compile(r".*[\r\n]|.*-----BEGIN |S[A-Z2-7]{40,}\Z|eyJ[\w-]+\.eyJ[\w-]+\.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Answer:
    """The credentials for one CONNECT."""

    method: str = "none"
    user: str | None = None
    password: str | None = None
    token: str | None = None
    jwt: str | None = None
    nkey: str | None = None
    sign: Sign | None = None

    @property
    def replayable(self) -> bool:
        """Whether someone who reads CONNECT on the network could log in with it."""
        if self.password is not None or self.token is not None:
            return True
        # The server does not require a signature for a bearer JWT, so sending one does not help.
        return self.jwt is not None and (self.sign is None or _claims(self.jwt).nats.bearer_token)

    @property
    def must_sign(self) -> bool:
        """Whether the server requires a signature. It does not for a bearer JWT."""
        if self.jwt is not None and _claims(self.jwt).nats.bearer_token:
            return False
        return self.sign is not None

    async def connect_fields(self, nonce: str | None) -> dict[str, str]:
        """Return the fields of CONNECT, including a signature of ``nonce`` if there is a key.

        :raises CredentialsError: if signing fails.
        """
        signature = None
        if self.sign is not None and nonce:
            signature = await self._signature(self.sign, nonce)
        fields = {
            "user": self.user,
            "pass": self.password,
            "auth_token": self.token,
            "jwt": self.jwt,
            "nkey": self.nkey,
            "sig": signature,
        }
        return {name: value for name, value in fields.items() if value is not None}

    async def _signature(self, sign: Sign, nonce: str) -> str:
        try:
            result = sign(nonce.encode())
            signature = await result if inspect.isawaitable(result) else result
        except Exception as error:
            raise CredentialsError(
                f"signing the server's nonce failed: the sign callable raised "
                f"{type(error).__name__}"
            ) from error
        if isinstance(signature, bytes) and len(signature) == 64:
            return base64.urlsafe_b64encode(signature).rstrip(b"=").decode()
        del result, signature  # They may be the seed, and error reporters print variables.
        raise CredentialsError("the sign callable must return the 64 bytes of the signature")

    def refusal_hint(self) -> str:
        """Return, for an error text, what was sent and why a server might refuse it."""
        if self.method == "none":
            return "no credentials were sent"
        if self.jwt is not None:
            claims = _claims(self.jwt)
            expires = claims.exp
            if expires and expires < time.time():
                # Some negative times have no date.
                when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(expires, 0)))
                return f"the user JWT expired at {when}"
            if self.sign is None and not claims.nats.bearer_token:
                return "sent: JWT without a signature, though it is no bearer JWT"
        return f"sent: {self.method}"


class Auth(ABC):
    """One way to authenticate. Use one of the subclasses."""

    __slots__ = ()

    @abstractmethod
    async def _prepare(self) -> Answer:
        """Read the files, if any.

        :raises CredentialsError: if the credentials cannot be used.
        """


@hides_secrets
@dataclass(frozen=True, slots=True)
class UserPassword(Auth):
    """A user name and a password.

    :param user: the user name.
    :param password: the password; may be empty.
    :raises CredentialsError: if either is not valid text.
    """

    user: str
    password: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_text("UserPassword.user", self.user)
        _check_text("UserPassword.password", self.password, empty=True)

    async def _prepare(self) -> Answer:
        return Answer(method="user and password", user=self.user, password=self.password)


@hides_secrets
@dataclass(frozen=True, slots=True)
class Token(Auth):
    """A single secret token.

    :param token: the token.
    :raises CredentialsError: if it is empty or not valid text.
    """

    token: str = field(repr=False)

    def __post_init__(self) -> None:
        _check_text("Token.token", self.token)

    async def _prepare(self) -> Answer:
        return Answer(method="token", token=self.token)


@hides_secrets
@dataclass(frozen=True, slots=True, kw_only=True)
class NKey(Auth):
    """An NKey user. The client signs the server's challenge; the seed never leaves the process.

    Pass ``seed`` or ``file``, and the public key is derived from it. To keep the seed in a vault,
    pass ``public_key`` and ``sign`` instead.

    :param seed: the user's seed (``SU...``).
    :param file: the path of a file that holds the seed, read at every attempt to connect.
    :param public_key: the user's public key (``U...``), together with ``sign``.
    :param sign: a callable, synchronous or not, that signs the nonce and returns 64 bytes.
    :raises CredentialsError: if not exactly one of ``seed``, ``file`` and ``sign`` is given, or if
        a key is malformed.
    """

    seed: str | None = field(default=None, repr=False)
    file: StrPath | None = None
    public_key: str | None = None
    sign: Sign | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _exactly_one("NKey", seed=self.seed, file=self.file, sign=self.sign)
        _check_file("NKey.file", self.file, instead="seed=")
        if self.seed is not None:
            public_key(_check_text("NKey.seed", self.seed).strip())
        if (self.sign is None) != (self.public_key is None):
            raise CredentialsError("NKey.public_key and NKey.sign must be given together")
        _check_sign("NKey.sign", self.sign)
        if self.public_key is not None:
            _check_public_key(_check_text("NKey.public_key", self.public_key).strip())

    async def _prepare(self) -> Answer:
        if self.public_key is not None:
            return Answer(method="NKey", nkey=self.public_key.strip(), sign=self.sign)
        seed = self.seed if self.file is None else seed_in(await _read(self.file), self.file)
        assert seed is not None
        seed = seed.strip()
        return Answer(method="NKey", nkey=public_key(seed), sign=_signer(seed))


@hides_secrets
@dataclass(frozen=True, slots=True)
class JWT(Auth):
    """A user JWT, with the seed of the user that it was issued to.

    To keep the seed in a vault, pass ``sign`` instead. Without either, the JWT must be a bearer
    JWT, which anyone who sees it can use.

    :param jwt: the encoded JWT.
    :param seed: the user's seed (``SU...``).
    :param sign: a callable, synchronous or not, that signs the nonce and returns 64 bytes.
    :raises CredentialsError: if the JWT or the seed is malformed, or if they do not belong
        together.
    """

    jwt: str = field(repr=False)
    seed: str | None = field(default=None, kw_only=True, repr=False)
    sign: Sign | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        jwt = _check_text("JWT.jwt", self.jwt).strip()
        if self.seed is not None and self.sign is not None:
            raise CredentialsError("JWT must be given a seed or a sign callable, not both")
        _check_sign("JWT.sign", self.sign)
        if self.seed is None:
            _claims(jwt)
        else:
            _check_pair(jwt, _check_text("JWT.seed", self.seed).strip())

    async def _prepare(self) -> Answer:
        sign = self.sign if self.seed is None else _signer(self.seed.strip())
        method = "JWT" if sign is not None else "bearer JWT"
        return Answer(method=method, jwt=self.jwt.strip(), sign=sign)


@hides_secrets
@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials(Auth):
    """A user JWT and its seed as in a ``.creds`` file (ADR-14).

    :param file: the path of the file, read at every attempt to connect.
    :param text: the content of such a file, instead of ``file``.
    :raises CredentialsError: if not exactly one of them is given, or if ``text`` is malformed.
    """

    file: StrPath | None = None
    text: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        _exactly_one("Credentials", file=self.file, text=self.text)
        _check_file("Credentials.file", self.file, instead="text=")
        if self.text is not None:
            _parse_credentials(_check_text("Credentials.text", self.text), "the credentials text")

    async def _prepare(self) -> Answer:
        if self.file is None:
            jwt, seed = _parse_credentials(self.text or "", "the credentials text")
        else:
            text = await _read(self.file)
            jwt, seed = _parse_credentials(text, f"credentials file {str(self.file)!r}")
        sign = None if seed is None else _signer(seed)
        return Answer(method="credentials (JWT)", jwt=jwt, sign=sign)


@dataclass(frozen=True, slots=True, init=False)
class Combined(Auth):
    """Several credentials at once: ``Combined(Credentials(file="user.creds"), Token("t"))``.

    A server with an auth callout passes all of them to the callout service.

    :param parts: at most one of :class:`NKey`, :class:`JWT` and :class:`Credentials`, one
        :class:`UserPassword` and one :class:`Token`.
    :raises CredentialsError: if there are none, or two of a kind.
    :raises TypeError: if a part is not an :class:`Auth`.
    """

    parts: tuple[Auth, ...]

    def __init__(self, *parts: Auth) -> None:
        for part in parts:
            check_instance("each part of Combined", part, Auth, "an Auth such as UserPassword")
            if type(part) not in _GROUPS:
                raise CredentialsError(
                    "Combined takes UserPassword, Token, NKey, JWT and Credentials, "
                    f"not {type(part).__name__}"
                )
        if len({_GROUPS[type(part)] for part in parts}) != len(parts) or not parts:
            raise CredentialsError(
                "Combined takes at least one of these: one of NKey, JWT and Credentials; "
                "one UserPassword; one Token"
            )
        object.__setattr__(self, "parts", parts)

    async def _prepare(self) -> Answer:
        answers = [await part._prepare() for part in self.parts]
        fields: dict[str, Any] = {}
        for name in ("user", "password", "token", "jwt", "nkey", "sign"):
            given = (getattr(answer, name) for answer in answers)
            fields[name] = next((value for value in given if value is not None), None)
        return Answer(method=" and ".join(answer.method for answer in answers), **fields)


_GROUPS: dict[type[Auth], str] = {
    UserPassword: "password",
    Token: "token",
    NKey: "key",
    JWT: "key",
    Credentials: "key",
}

AuthCallback: TypeAlias = Callable[[Server], Auth | Awaitable[Auth | None] | None]
"""Called at every attempt to connect with the :class:`Server`. Returns the credentials, or ``None``
for none. A synchronous callback must not block."""

AuthLike: TypeAlias = Auth | AuthCallback
"""The types that ``auth=`` accepts."""


def is_callback(auth: object) -> TypeGuard[AuthCallback]:
    """Return whether ``auth`` is a callback. A subclass of :class:`Auth` is not one."""
    return callable(auth) and not (isinstance(auth, type) and issubclass(auth, Auth))


async def prepare_auth(auth: AuthLike | None, server: Server) -> Answer:
    """Return the credentials for one attempt to connect to ``server``.

    ``auth`` takes precedence over credentials in the URL.

    :raises CredentialsError: if they cannot be used.
    """
    chosen = auth if isinstance(auth, Auth) else None
    if auth is not None and chosen is None:
        chosen = await _ask(auth, server)
    elif server.token is not None:
        chosen = chosen or Token(server.token)
    elif server.user is not None:
        chosen = chosen or UserPassword(server.user, server.password or "")
    return Answer() if chosen is None else await prepare(chosen)


async def prepare(auth: Auth) -> Answer:
    """Read and check credentials. Errors are raised without the frames that have secrets."""
    try:
        return await auth._prepare()
    except CredentialsError as error:
        raised = without_frames(error)
    raise raised


async def _ask(callback: Auth | AuthCallback, server: Server) -> Auth | None:
    assert not isinstance(callback, Auth)
    try:
        result = callback(server)
        answer = await result if inspect.isawaitable(result) else result
    except Exception as error:
        raise CredentialsError(f"the auth callback raised {type(error).__name__}") from error
    if answer is None or isinstance(answer, Auth):
        return answer
    kind = type_name(answer)
    del answer, result  # They may be the password, and error reporters print variables.
    raise CredentialsError(
        f"the auth callback returned {kind}; return an Auth such as "
        "UserPassword, Token, NKey, JWT or Credentials, or None"
    )


# --- reading -------------------------------------------------------------------------------------


async def _read(file: StrPath) -> str:
    fault = text = None
    try:
        data = await run_in_thread(read_small_file, file, _MAX_FILE, files=(file,))
    except OSError as error:
        fault = error.strerror or str(error)
    except ValueError as error:
        # A name that no file can have, such as one with a null character.
        fault = str(error)
    else:
        text = _decoded(data)
    if text is None:
        raise CredentialsError(
            f"{str(file)!r} must be a text file in UTF-8"
            if fault is None
            else f"cannot read {str(file)!r}: {fault}",
            unreadable=fault is not None,
        )
    return text


def _decoded(data: bytes) -> str | None:
    # A UnicodeDecodeError contains the whole text. If another error were raised while handling it,
    # it would become the context of that error. So return None instead.
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None


def _parse_credentials(text: str, what: str) -> tuple[str, str | None]:
    """Return the JWT and the seed of a creds file, whatever its line ends and spacing."""
    if len(text) > _MAX_FILE:
        raise CredentialsError(f"{what} must not be larger than 1 MiB")
    jwt = seed = None
    for label, value in _sections(text):
        if label.endswith("JWT"):
            jwt = jwt or value
        elif label.endswith("SEED"):
            seed = seed or value
    if jwt is None:
        raise CredentialsError(f"{what} has no '-----BEGIN NATS USER JWT-----' section")
    if seed is None:
        if not _claims(jwt).nats.bearer_token:
            raise CredentialsError(f"{what} has no '-----BEGIN USER NKEY SEED-----' section")
    else:
        _check_pair(jwt, seed)
    return jwt, seed


def _sections(text: str) -> Iterator[tuple[str, str]]:
    """Yield the label and the content of each complete section."""
    label, start = None, 0
    for marker in _MARKER.finditer(text):
        if label is not None and marker["label"] is None:
            yield label, "".join(text[start : marker.start()].split())
        label, start = marker["label"], marker.end()
        label = label and label.strip()


def seed_in(text: str, file: StrPath) -> str:
    for line in text.split():
        if line.startswith("S") and len(line) > 40:
            public_key(line)
            return line
    raise CredentialsError(f"no NKey seed (SU...) found in {str(file)!r}")


# --- keys ----------------------------------------------------------------------------------------

_KINDS = {
    "A": "an account",
    "C": "a cluster",
    "N": "a server",
    "O": "an operator",
    "X": "a curve",
}


def public_key(seed: str) -> str:
    """Return the public key (``U...``) of a user seed.

    :raises CredentialsError: if the seed is malformed; the error does not quote it.
    """
    # Imported here, because it loads libsodium, which connections without NKeys do not need.
    import nkeys

    raw = _decode_seed(seed)
    if nkeys.crc16(raw[:-2]).to_bytes(2, "little") != raw[-2:]:
        raise CredentialsError("the NKey seed's checksum is wrong; it was mistyped or cut short")
    kind = seed[1]
    if kind != "U":
        raise CredentialsError(
            f"the NKey seed must be that of a user (SU...), but this is "
            f"{_KINDS.get(kind, 'an unknown kind of')} seed (S{kind}...)"
        )
    if raw[1] & 0x38:
        # The bits of the kind that the letter does not show.
        raise CredentialsError("the NKey seed must be that of a user; this is of an unknown kind")
    return str(nkeys.from_seed(seed.encode()).public_key.decode())


def _check_public_key(key: str) -> None:
    import nkeys

    if len(key) == 56 and key.startswith("U") and key.isascii():
        try:
            raw = base64.b32decode(key)
        except binascii.Error:
            raw = b""
        if raw and nkeys.crc16(raw[:-2]).to_bytes(2, "little") == raw[-2:]:
            return
    # It may be the seed, by mistake.
    raise CredentialsError(
        "NKey.public_key must be the public key of a user: 56 characters, beginning with 'U'"
    )


def _decode_seed(seed: str) -> bytes:
    """Return the bytes of a seed: two of the prefix, 32 of the key, two of the checksum."""
    fault = "an NKey seed has 58 characters and begins with 'SU'"
    if len(seed) != 58 or not seed.isascii():
        raise CredentialsError(f"the NKey seed has {len(seed)} characters; {fault}")
    if not seed.startswith("S"):
        raise CredentialsError(f"this is not an NKey seed (is it a public key?); {fault}")
    try:
        return base64.b32decode(seed + "=" * (-len(seed) % 8))
    except binascii.Error:
        raise CredentialsError(
            "the NKey seed must have the letters A-Z and digits 2-7 only"
        ) from None


def _signer(seed: str) -> Sign:
    public_key(seed)

    def sign(nonce: bytes) -> bytes:
        import nkeys

        return bytes(nkeys.from_seed(seed.encode()).sign(nonce))

    return sign


class _Nats(msgspec.Struct):
    bearer_token: bool = False


class _Claims(msgspec.Struct):
    sub: str = ""
    exp: int = 0
    nats: _Nats = msgspec.field(default_factory=_Nats)


def _claims(jwt: str) -> _Claims:
    """Return the claims that the client needs. Only the server verifies the JWT's signature."""
    if _JWT_SHAPE.fullmatch(jwt):
        part = jwt.split(".")[1]
        try:
            body = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
            return msgspec.json.decode(body, type=_Claims)
        except (ValueError, msgspec.DecodeError, RecursionError):
            pass
    raise CredentialsError("the user JWT must be a JWT: three base64 parts joined by dots")


def _check_pair(jwt: str, seed: str) -> None:
    key, subject = public_key(seed), _claims(jwt).sub
    if subject != key:
        raise CredentialsError(
            f"the seed is that of {key}, but the JWT was issued to {subject[:64] or 'nobody'}"
        )


# --- checking arguments --------------------------------------------------------------------------


def _check_text(name: str, value: object, *, empty: bool = False) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    if not _encodable(value):
        raise CredentialsError(f"{name} must be valid Unicode text")
    if not value.strip() and not empty:
        raise CredentialsError(f"{name} must not be empty")
    return value


def _encodable(text: str) -> bool:
    # See _decoded.
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _check_sign(name: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be a callable, not {type(value).__name__}")


def _check_file(name: str, value: object, *, instead: str) -> None:
    if value is None:
        return
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{name} must be a path, not {type(value).__name__}")
    if _NO_PATH.match(str(value).strip()):
        # Errors and repr show paths, but must not show this.
        raise CredentialsError(
            f"{name} must be a path, but this is the content of a file; pass it as {instead}"
        )


def _exactly_one(kind: str, **given: object) -> None:
    if sum(value is not None for value in given.values()) != 1:
        raise CredentialsError(f"{kind} must be given exactly one of {', '.join(given)}")
