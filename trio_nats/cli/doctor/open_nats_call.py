"""Write the line of code that would connect: a call of ``open_nats``."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence

from ...options import StrPath, TLSMode, TLSOptions
from ...servers import Scheme
from .report import Asked

__all__ = ["Call", "given_material", "url_with"]

_WIDTH = 72


def given_material(tls: TLSOptions) -> list[str]:
    """Return the names of the given options that make AUTO require TLS."""
    names = ("ca_file", "ca_data", "cert_file", "bundle_file", "context", "configure")
    return [name for name in names if getattr(tls, name) is not None]


def url_with(
    asked: Asked, *, scheme: Scheme | None = None, host: str | None = None, port: int | None = None
) -> str:
    """Return the URL with these changes, and without credentials."""
    name = asked.host if host is None else host
    name = f"[{name}]" if ":" in name else name
    return f"{scheme or asked.scheme}://{name}:{port or asked.port}"


class Call:
    """A call of ``open_nats`` with the user's options, which findings change one after another.

    Secrets are shown as ``...``.
    """

    def __init__(self, asked: Asked) -> None:
        self._url = asked.url
        self._tls = _tls_arguments(asked.tls)
        self._extra: tuple[str, ...] = ()

    def change(
        self,
        url: str | None = None,
        *,
        extra: Sequence[str] = (),
        drop: Sequence[str] = (),
        mode: TLSMode | None = None,
        ca_file: StrPath | None = None,
        cert_file: StrPath | None = None,
        key_file: StrPath | None = None,
        server_hostname: str | None = None,
    ) -> str:
        """Apply a change, and return the code of the call with all changes so far.

        ``extra`` is the code of further arguments; ``drop`` names TLS options to leave out.
        """
        self._url = url or self._url
        self._extra += tuple(extra)
        given = {
            "mode": mode,
            "ca_file": ca_file,
            "cert_file": cert_file,
            "key_file": key_file,
            "server_hostname": server_hostname,
        }
        for name in drop:
            self._tls.pop(name, None)
        self._tls |= {name: _code(value) for name, value in given.items() if value is not None}
        return str(self)

    def __str__(self) -> str:
        options = [f"{name}={value}" for name, value in self._tls.items()]
        arguments = [_quoted(self._url)]
        if options:
            arguments.append(f"tls=TLSOptions({', '.join(options)})")
        arguments += self._extra
        line = f"open_nats({', '.join(arguments)})"
        if len(line) <= _WIDTH:
            return line
        return _broken("open_nats", [_broken_tls(one, options) for one in arguments])


def _tls_arguments(tls: TLSOptions) -> dict[str, str]:
    """Return the code of each TLS option that was given."""
    written: dict[str, str] = {}
    if tls.mode is not TLSMode.AUTO:
        written["mode"] = f"TLSMode.{tls.mode.name}"
    for name in ("ca_file", "cert_file", "key_file", "bundle_file", "server_hostname"):
        value = getattr(tls, name)
        if value is not None:
            written[name] = _quoted(os.fspath(value))
    for name in ("ca_data", "key_password", "bundle_password", "context", "configure"):
        if getattr(tls, name) is not None:
            written[name] = "..."
    if tls.insecure_skip_verify:
        written["insecure_skip_verify"] = "True"
    if tls.minimum_version is not ssl.TLSVersion.TLSv1_2:
        written["minimum_version"] = f"ssl.TLSVersion.{tls.minimum_version.name}"
    return written


def _code(value: object) -> str:
    return f"TLSMode.{value.name}" if isinstance(value, TLSMode) else _quoted(value)


def _quoted(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'


def _broken(function: str, arguments: Sequence[str]) -> str:
    lines = "".join(f"    {one},\n" for one in arguments)
    return f"{function}(\n{lines})"


def _broken_tls(argument: str, options: Sequence[str]) -> str:
    """Break the TLS options into several lines if they are too long for one."""
    if not argument.startswith("tls=") or len(argument) + 5 <= _WIDTH:
        return argument
    return _broken("tls=TLSOptions", options).replace("\n", "\n    ")
