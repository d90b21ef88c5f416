"""Real NATS servers for tests: as a context manager, as a cluster, and as pytest fixtures.

>>> from trio_nats.testing import NatsServer
>>> async with NatsServer(jetstream=True) as server:
...     async with open_nats(server.url) as nc:
...         ...

With trio-nats installed, pytest offers the fixtures ``nats_server``, ``nats_server_factory`` and
``nats_cluster``; see :mod:`trio_nats.testing.plugin`. If you do not have the server itself, ``pip
install 'trio-nats[server]'`` installs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from .._public_modules import set_public_module

__all__ = [
    "ConfigValue",
    "NatsCluster",
    "NatsServer",
    "NatsServerFactory",
    "ServerBinaryNotFoundError",
    "ServerCluster",
    "ServerOptions",
    "ServerReloadError",
    "ServerSettings",
    "ServerSignalError",
    "ServerStartError",
    "ServerTLS",
    "ServerWaitError",
    "ServerWebSocket",
    "StrPath",
    "find_server_binary",
]

if TYPE_CHECKING:
    from ._system import find_server_binary
    from .cluster import NatsCluster
    from .errors import (
        ServerBinaryNotFoundError,
        ServerReloadError,
        ServerSignalError,
        ServerStartError,
        ServerWaitError,
    )
    from .plugin import NatsServerFactory
    from .server import NatsServer
    from .settings import (
        ConfigValue,
        ServerCluster,
        ServerOptions,
        ServerSettings,
        ServerTLS,
        ServerWebSocket,
        StrPath,
    )

_MODULES = {
    "NatsCluster": "cluster",
    "NatsServer": "server",
    "NatsServerFactory": "plugin",
    "ServerBinaryNotFoundError": "errors",
    "ServerReloadError": "errors",
    "ServerSignalError": "errors",
    "ServerStartError": "errors",
    "ServerWaitError": "errors",
    "find_server_binary": "_system",
}


def __getattr__(name: str) -> object:
    # Every run of pytest in the environment imports this package, because it contains the plugin.
    # Everything else is imported on first use.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULES.get(name, 'settings')}", __name__)
    value: object = getattr(module, name)
    globals()[name] = value
    set_public_module(__name__, [name], globals())
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
