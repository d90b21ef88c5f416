"""Render settings as the text of a NATS configuration file."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from ..errors import ConfigurationError
from .settings import (
    ConfigValue,
    ServerCluster,
    ServerSettings,
    ServerTLS,
    ServerWebSocket,
    StrPath,
)

__all__ = ["render", "render_settings"]

# "include" is a directive of the language unless it is quoted.
_BARE_KEY = re.compile(r"(?!include\b)[A-Za-z_][A-Za-z0-9_-]*")
# Strings support these escapes and \xHH. Non-ASCII text needs no escapes, and "$" in quotes is not
# a variable.
_ESCAPES = {'"': r"\"", "\\": r"\\", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
_SPECIAL = re.compile(r'["\\\x00-\x1f\x7f]')


def render(config: Mapping[str, ConfigValue]) -> str:
    """Return the text of a configuration, with one top-level key per line.

    :raises ConfigurationError: if the configuration language cannot represent a key or value.
    """
    return "".join(f"{_key(key)}: {_value(value, '')}\n" for key, value in config.items())


def _key(key: str) -> str:
    if _BARE_KEY.fullmatch(key):
        return key
    # There are no escapes in keys, only two kinds of quotes.
    for quote in "\"'":
        if quote not in key and key.isprintable():
            return f"{quote}{key}{quote}"
    raise ConfigurationError(f"a NATS configuration cannot contain the key {key!r}")


def _value(value: ConfigValue, indent: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, str | os.PathLike):
        return _string(os.fspath(value))
    inner = indent + "  "
    if isinstance(value, Mapping):
        lines = [f"{inner}{_key(key)}: {_value(item, inner)}\n" for key, item in value.items()]
        return "{\n" + "".join(lines) + indent + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(_value(item, inner) for item in value) + "]"
    raise TypeError(f"a NATS configuration cannot contain a {type(value).__name__}")


def _number(value: float) -> str:
    if not math.isfinite(value):
        raise ConfigurationError(f"a NATS configuration cannot contain {value}")
    # The language has no exponents, and a number without a point is an integer.
    text = format(Decimal(repr(value)), "f")
    return text if "." in text else f"{text}.0"


def _string(value: str) -> str:
    quoted = _SPECIAL.sub(lambda m: _ESCAPES.get(m[0]) or f"\\x{ord(m[0]):02x}", value)
    return f'"{quoted}"'


# --- settings ------------------------------------------------------------------------------------


def render_settings(
    settings: ServerSettings, *, websocket_port: int | None, cluster_port: int | None
) -> str:
    """Return the configuration file of a server.

    Addresses to listen on and the store directory are given on the command line, which takes
    precedence over the file. So no configuration by the user can change them.
    """
    generated = _generated(settings, websocket_port, cluster_port)
    if isinstance(settings.config, Mapping):
        return render(_merged(generated, settings.config))
    text = render(generated)
    return text if settings.config is None else f"{text}\n{settings.config}\n"


def _generated(
    settings: ServerSettings, websocket_port: int | None, cluster_port: int | None
) -> dict[str, ConfigValue]:
    config: dict[str, ConfigValue] = {}
    if settings.name is not None:
        config["server_name"] = settings.name
    if settings.token is not None:
        config["authorization"] = {"token": settings.token}
    elif settings.user is not None and settings.password is not None:
        config["authorization"] = {"user": settings.user, "password": settings.password}
    if settings.tls is not None:
        config["tls"] = _tls(settings.tls)
        if settings.tls.allow_non_tls:
            config["allow_non_tls"] = True
    if settings.debug:
        config["debug"] = True
    if settings.jetstream:
        config["jetstream"] = {"enabled": True}
    if settings.websocket is not None and websocket_port is not None:
        config["websocket"] = _websocket(settings.websocket, settings.host, websocket_port)
    if settings.cluster is not None and cluster_port is not None:
        config["cluster"] = _cluster(settings.cluster, settings.host, cluster_port)
    return config


def _tls(tls: ServerTLS) -> dict[str, ConfigValue]:
    block: dict[str, ConfigValue] = {
        "cert_file": _absolute(tls.cert_file),
        "key_file": _absolute(tls.key_file),
    }
    if tls.ca_file is not None:
        block["ca_file"] = _absolute(tls.ca_file)
    if tls.verify:
        block["verify"] = True
    if tls.verify_and_map:
        block["verify_and_map"] = True
    if tls.handshake_first:
        block["handshake_first"] = tls.handshake_first
    if tls.timeout is not None:
        block["timeout"] = float(tls.timeout)
    if tls.min_version is not None:
        block["min_version"] = tls.min_version
    return block


def _websocket(websocket: ServerWebSocket, host: str, port: int) -> dict[str, ConfigValue]:
    block: dict[str, ConfigValue] = {"host": host, "port": port}
    if websocket.tls is None:
        block["no_tls"] = True
    else:
        block["tls"] = _tls(websocket.tls)
    if websocket.compression:
        block["compression"] = True
    return block


def _cluster(cluster: ServerCluster, host: str, port: int) -> dict[str, ConfigValue]:
    return {"name": cluster.name, "host": host, "port": port, "routes": list(cluster.routes)}


def _absolute(path: StrPath) -> str:
    # Some options resolve relative paths against the configuration file's directory.
    return os.path.abspath(path)


def _merged(
    base: Mapping[str, ConfigValue], over: Mapping[str, ConfigValue]
) -> dict[str, ConfigValue]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        if isinstance(below, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(below, value)
        else:
            merged[key] = value
    return merged
