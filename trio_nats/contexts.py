"""Read contexts: named connection settings in files, shared with the ``nats`` command (ADR-21).

``~/.config/nats/context/NAME.json`` holds a context, and ``~/.config/nats/context.txt`` the name of
the selected one; ``XDG_CONFIG_HOME`` replaces ``~/.config``. This module only reads them; manage
them with ``nats context``.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from ._blocking import read_small_file
from ._tracebacks import hides_secrets, takes_secrets
from .auth import JWT, Auth, Combined, Credentials, NKey, Token, UserPassword, seed_in
from .errors import ConfigurationError, InvalidSubjectError
from .options import StrPath, TLSMode, TLSOptions, check_instance
from .servers import parse_servers
from .subjects import check_inbox_prefix

__all__ = ["Context", "ContextLike", "list_contexts", "load_context", "selected_context"]

DEFAULT_SERVER = "nats://localhost:4222"

_MAX_FILE = 1024 * 1024
_NAME_FAULT = re.compile(r"[/\\\x00-\x1f\x7f]|\.\.")
# The schemes are listed, so that a path such as C:\ does not count as a reference.
_REFERENCE = re.compile(r"(env|file|nsc|op)://(.*)\Z|(data):(.*)\Z", re.IGNORECASE | re.DOTALL)
# A variable that is not set counts as empty, as in jsm.go.
_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)
_PROGRAMS = {
    "nsc": (
        "nsc, which is not run; write the credentials to a file with `nsc generate creds` and name "
        "it in 'creds'"
    ),
    "op": "1Password's op, which is not run; use env:// or a file",
}


@hides_secrets
@dataclass(frozen=True, kw_only=True, repr=False)
class Context:
    """The settings of one context, as in its file. Its ``repr`` does not show secrets.

    Usually returned by :func:`load_context`, but you can also create one. Paths may begin with
    ``~`` and contain ``$VARIABLES``; relative paths are relative to the working directory, as for
    ``nats``. A secret, or the path of ``creds`` or ``nkey``, may be given as ``env://NAME``,
    ``file://PATH`` or ``data:;base64,...``.

    :raises ConfigurationError: if a value has the wrong type or a URL is not usable.
    """

    name: str = ""
    """Name of the context."""
    path: Path | None = None
    """The file that it was read from."""
    description: str = ""
    """A description for people."""
    url: str = ""
    """Comma-separated URLs. Default: ``nats://localhost:4222``."""
    user: str = ""
    """User name."""
    password: str = ""
    """Password of ``user``."""
    token: str = ""
    """Token."""
    creds: str = ""
    """Path of a credentials file."""
    nkey: str = ""
    """Path of a file with an NKey seed."""
    user_jwt: str = ""
    """A user JWT."""
    user_seed: str = ""
    """The seed of the user that ``user_jwt`` was issued to. Without it, that must be a bearer
    JWT."""
    cert: str = ""
    """Path of the client certificate."""
    key: str = ""
    """Path of the private key of ``cert``."""
    ca: str = ""
    """Path of the certificate authorities to trust."""
    tls_first: bool = False
    """Whether to begin with the TLS handshake, as :attr:`TLSMode.IMPLICIT` does."""
    inbox_prefix: str = ""
    """Prefix of reply subjects."""
    jetstream_domain: str = ""
    """JetStream domain."""
    jetstream_api_prefix: str = ""
    """Prefix of the subjects of the JetStream API. Not used together with a domain."""
    jetstream_event_prefix: str = ""
    """Prefix of the subjects of JetStream events. Not used by this package."""
    nsc: str = ""
    """Reference to an ``nsc`` profile. Not supported, because no program is run: refused unless
    ``url`` and credentials, which take precedence, are given too."""
    socks_proxy: str = ""
    """Not supported: connecting is refused."""
    windows_cert_store: str = ""
    """Not supported: connecting is refused."""
    color_scheme: str = ""
    """Colors of the ``nats`` command line. Not used by this package."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name == "path":
                continue
            if not isinstance(value, type(one.default)):
                expected = "true or false" if one.default is False else "text"
                raise self._fault(f"{one.name!r} must be {expected}, not {type(value).__name__}")
        try:
            parse_servers(self.url or DEFAULT_SERVER)
            if self.inbox_prefix:
                check_inbox_prefix(self.inbox_prefix)
        except (ConfigurationError, InvalidSubjectError) as error:
            raise self._fault(str(error)) from None

    @property
    def servers(self) -> str:
        """The URLs to connect to: ``url`` or its default. They may contain passwords.

        :raises ConfigurationError: if the program ``nsc`` would be needed to read them.
        """
        if self.nsc and not self.url:
            raise self._fault("'nsc' refers to nsc, which is not run; write the servers into 'url'")
        return self.url or DEFAULT_SERVER

    @takes_secrets
    def auth(self) -> Auth | None:
        """Return the credentials of the context, or ``None`` if it has none.

        A token may be combined with another kind, and both are sent.

        :returns: the credentials, or ``None``.
        :raises ConfigurationError: if there is more than one other kind, or if another program
            would be needed to read them.
        :raises CredentialsError: if the credentials are malformed.
        """
        kinds = [kind for kind in _AUTH_KINDS if getattr(self, kind)]
        if len(kinds) > 1 and "token" in kinds:
            # Sent together with the others, as by natscli.
            rest = replace(self, token="").auth()
            assert rest is not None
            return Combined(rest, Token(self._secret("token")))
        if len(kinds) > 1:
            raise self._fault(f"more than one kind of credentials: {', '.join(kinds)}; keep one")
        match kinds:
            case ["user"]:
                return UserPassword(self.user, self._secret("password"))
            case ["token"]:
                return Token(self._secret("token"))
            case ["creds"]:
                if (text := self._reference("creds")) is not None:
                    return Credentials(text=text)
                return Credentials(file=self._path("creds"))
            case ["nkey"]:
                if (text := self._reference("nkey")) is not None:
                    return NKey(seed=seed_in(text, "nkey"))
                return NKey(file=self._path("nkey"))
            case ["user_jwt"]:
                seed = self._secret("user_seed") if self.user_seed else None
                return JWT(self._secret("user_jwt"), seed=seed)
            case _ if self.nsc:
                raise self._fault(f"'nsc' refers to {_PROGRAMS['nsc']}")
            case _:
                return None

    def tls(self) -> TLSOptions | None:
        """Return the TLS options of the context, or ``None`` if it has none.

        :returns: the options, or ``None``.
        :raises ConfigurationError: if it names a Windows certificate store, which is not supported,
            or if options contradict each other.
        """
        if self.windows_cert_store:
            raise self._fault(
                "'windows_cert_store' is not supported; export the certificate to files and name "
                "them in 'cert', 'key' and 'ca'"
            )
        if not (self.cert or self.key or self.ca or self.tls_first):
            return None
        return TLSOptions(
            mode=TLSMode.IMPLICIT if self.tls_first else TLSMode.AUTO,
            ca_file=self._path("ca") if self.ca else None,
            cert_file=self._path("cert") if self.cert else None,
            key_file=self._path("key") if self.key else None,
        )

    def check_supported(self) -> None:
        """Check that connecting needs nothing that is not supported here.

        :raises ConfigurationError: if it does.
        """
        if self.socks_proxy:
            raise self._fault(
                "'socks_proxy' is not supported; connect without a proxy, or use a tunnel"
            )

    def _secret(self, key: str) -> str:
        """Return the value of ``key``, or what it refers to."""
        text = self._reference(key)
        return getattr(self, key) if text is None else text.rstrip("\r\n")

    def _path(self, key: str) -> Path:
        value: str = getattr(self, key)
        found = _REFERENCE.match(value)
        if found and (found[1] or "").lower() == "file":
            value = found[2]
        elif found:
            raise self._fault(
                f"{key!r} must be the path of a file, not a reference to something else"
            )
        return self._expanded(key, value)

    def _expanded(self, key: str, value: str) -> Path:
        try:
            expanded = _VARIABLE.sub(lambda found: os.environ.get(found[1] or found[2], ""), value)
            if not expanded:
                raise self._fault(f"{key!r}: the variables in {value!r} are not set")
            if os.name == "nt":
                expanded = os.path.expandvars(expanded)  # %VARIABLES%
            return Path(expanded).expanduser()
        except RuntimeError:
            raise self._fault(f"{key!r}: cannot tell which home directory '~' is") from None

    def _reference(self, key: str) -> str | None:
        """Return the text that ``key`` refers to, or ``None`` if it is not a reference or names a
        path.
        """
        found = _REFERENCE.match(getattr(self, key))
        if not found:
            return None
        kind, rest = (found[1] or found[3]).lower(), found[2] if found[1] else found[4]
        if kind in _PROGRAMS:
            raise self._fault(f"{key!r} refers to {_PROGRAMS[kind]}")
        if kind == "env":
            value = os.environ.get(rest, "")
            if not value:
                raise self._fault(f"{key!r}: the environment variable {rest!r} is not set")
            return value
        if kind == "data":
            text = _base64_text(rest)
            if text is None:
                raise self._fault(
                    f"{key!r}: inline data must be written as data:;base64,... of UTF-8 text"
                )
            return text
        if key in ("creds", "nkey"):
            return None  # The file is read at every attempt to connect, so it may be rotated.
        path = self._expanded(key, rest)
        try:
            return _read(path, f"{self._label()}{key!r}")
        except FileNotFoundError:
            raise self._fault(f"{key!r}: there is no file {str(path)!r}") from None

    def _label(self) -> str:
        return f"context {self.name!r}: " if self.name else ""

    def _fault(self, text: str) -> ConfigurationError:
        return ConfigurationError(self._label() + text)

    def __repr__(self) -> str:
        servers = ", ".join(str(server) for server in parse_servers(self.url or DEFAULT_SERVER))
        kinds = " and ".join(kind for kind in _AUTH_KINDS if getattr(self, kind)) or "nothing"
        return f"<Context {self.name!r}: {servers}, authenticates with {kinds}>"


ContextLike: TypeAlias = str | os.PathLike[str] | Context
"""A context's name, the path of its file (absolute if a ``str``), or a :class:`Context`."""

_AUTH_KINDS = ("user", "token", "creds", "nkey", "user_jwt")
_KEYS = frozenset(one.name for one in fields(Context)) - {"name", "path"}


def load_context(context: ContextLike | None = None) -> Context:
    """Read a context from its file. Unknown keys are ignored.

    :param context: its name, or the path of its file (absolute if a ``str``). Default: the context
        named by ``NATS_CONTEXT``, else the selected one.
    :returns: the context.
    :raises ConfigurationError: if the context does not exist, cannot be read, or has a value of the
        wrong type.
    :raises TypeError: if ``context`` is neither a ``str``, a path nor a :class:`Context`.
    """
    if context is None:
        context = os.environ.get("NATS_CONTEXT", "").strip() or selected_context()
        if context is None:
            raise ConfigurationError(
                "no context is selected; name one, or select one with `nats context select`"
            )
    if isinstance(context, Context):
        return context
    if isinstance(context, str) and not os.path.isabs(context):
        return _from_file(context, _folder() / "context" / f"{_checked_name(context)}.json")
    if not isinstance(context, str | os.PathLike):
        check_instance("context", context, Context, "a name, a path or a Context")
    path = Path(context)
    return _from_file(path.stem, path)


def list_contexts() -> list[str]:
    """List all contexts. Empty files are left out.

    :returns: their names, sorted.
    :raises ConfigurationError: if the directory of contexts cannot be read.
    """
    try:
        found = [
            entry.stem
            for entry in (_folder() / "context").iterdir()
            if entry.suffix == ".json" and entry.is_file() and entry.stat().st_size
        ]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigurationError(f"cannot list the contexts: {error.strerror}") from error
    return sorted(name for name in found if not _NAME_FAULT.search(name))


def selected_context() -> str | None:
    """Return the name of the selected context, which need not exist."""
    try:
        data = read_small_file(_folder() / "context.txt", _MAX_FILE)
    except OSError:
        return None
    return data.decode("utf-8-sig", "replace").strip() or None


def _folder() -> Path:
    given = os.environ.get("XDG_CONFIG_HOME")
    if given:
        return Path(given) / "nats"
    try:
        return Path.home() / ".config" / "nats"
    except RuntimeError:
        raise ConfigurationError(
            "cannot tell where contexts are: set HOME or XDG_CONFIG_HOME"
        ) from None


def _checked_name(name: str) -> str:
    if not name:
        raise ConfigurationError("the context's name must not be empty")
    if _NAME_FAULT.search(name):
        raise ConfigurationError(
            f"{name!r} is not a valid context name; for a file, pass its absolute path or a Path"
        )
    return name


def _from_file(name: str, path: Path) -> Context:
    label = f"context {name!r}"
    try:
        text = _read(path, label)
    except FileNotFoundError:
        known = ", ".join(list_contexts()) or "none"
        raise ConfigurationError(f"there is no {label} ({path}); known: {known}") from None
    made = _made(name, path, text)
    # Error reporters may print the variables of this frame, so it must not hold secrets.
    del text
    if isinstance(made, str):
        raise ConfigurationError(made)
    return made


def _made(name: str, path: Path, text: str) -> Context | str:
    """Return the context in ``text``, or a description of what is wrong with it."""
    # Nothing is raised here, because the errors of decoders hold the text, secrets included.
    try:
        content = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.MsgspecError, RecursionError):
        return f"context {name!r}: {path} must contain a JSON object"
    known = {key: value for key, value in content.items() if key in _KEYS}
    # Other clients treat null as absent.
    values = {key: value for key, value in known.items() if value is not None}
    try:
        return Context(name=name, path=path, **values)
    except ConfigurationError as error:
        return str(error)


def _base64_text(rest: str) -> str | None:
    header, comma, payload = rest.partition(",")
    if not comma or "base64" not in (part.strip() for part in header.split(";")):
        return None
    try:
        return base64.b64decode(payload, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _read(path: StrPath, label: str) -> str:
    """Read a small text file.

    :raises FileNotFoundError: if it does not exist.
    """
    data = reason = None
    try:
        data = read_small_file(path, _MAX_FILE)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
    if data is None:
        raise ConfigurationError(f"{label}: cannot read {str(path)!r}: {reason}")
    text = _text_of(data)
    del data  # See _from_file.
    if text is None:
        raise ConfigurationError(f"{label}: {str(path)!r} must be a text file in UTF-8")
    return text


def _text_of(data: bytes) -> str | None:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
