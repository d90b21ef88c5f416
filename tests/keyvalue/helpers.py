"""What the tests of this room share."""

from __future__ import annotations

from typing import Any

from tests.jetstream.helpers import MEMORY
from trio_nats.jetstream import JetStream
from trio_nats.keyvalue import Entry, KeyValue, KeyWatcher

__all__ = ["brief", "bucket", "initial"]


async def bucket(js: JetStream, name: str = "B", **options: Any) -> KeyValue[bytes]:
    """A bucket in memory."""
    return await js.create_key_value(name, **{"storage": MEMORY, **options})


def brief(entry: Entry[bytes]) -> tuple[str, str, int]:
    """What a test wants to know: the key, the value or what happened, and the revision."""
    return (
        entry.key,
        str(entry.operation) if entry.is_deleted else entry.value.decode(),
        entry.revision,
    )


async def initial(watch: KeyWatcher[bytes]) -> list[tuple[str, str, int]]:
    return [brief(entry) async for entry in watch.initial()]
