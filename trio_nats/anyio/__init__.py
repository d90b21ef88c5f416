"""The NATS client for code written against anyio. Needs the ``anyio`` extra.

>>> import anyio
>>> from trio_nats.anyio import open_nats
>>> async def main():
...     async with open_nats("nats://localhost:4222") as nc:
...         async with nc.subscribe("greet.*") as greetings:
...             await nc.publish("greet.joe", b"hello")
...             print(await greetings.receive())
"""

from __future__ import annotations

import importlib

try:
    importlib.import_module("anyio")
except ModuleNotFoundError as _error:
    if _error.name != "anyio":
        raise
    raise ImportError(
        "trio_nats.anyio needs anyio, which is not installed; run: pip install 'trio-nats[anyio]'",
        name="anyio",
    ) from None

from .._public_modules import set_public_module
from ._connection import Connection
from ._errors import ConnectionLostError, OutboxFullError
from ._open import open_nats
from ._streams import Events, Publisher, Replies, Subscription

__all__ = [
    "Connection",
    "ConnectionLostError",
    "Events",
    "OutboxFullError",
    "Publisher",
    "Replies",
    "Subscription",
    "open_nats",
]

set_public_module(__name__, __all__, globals())
