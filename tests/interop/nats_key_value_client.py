"""nats-key-value, with nats-jetstream and nats-core, as one of the clients; see helpers.py.

It needs Python 3.13. It has no object store and no services.
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import nats.client
import nats.jetstream
from nats.key_value import (
    KeyValueConfig,
    KeyValueEntry,
    KeyWatcher,
    create_key_value,
    key_value,
)
from nats.key_value.errors import KeyExistsError, KeyNotFoundError


class Operations:
    """The operations that tests can request, by name."""

    def __init__(self, nc: nats.client.Client) -> None:
        self.js = nats.jetstream.new(nc)
        self.watched: dict[str, list[dict[str, Any]]] = {}
        self.watchers: dict[str, KeyWatcher] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.changed = asyncio.Condition()

    async def watched_until(self, name: str, wanted: dict[str, Any]) -> list[dict[str, Any]]:
        async with self.changed:
            await self.changed.wait_for(
                lambda: any(wanted.items() <= one.items() for one in self.watched[name])
            )
        self.tasks.pop(name).cancel()
        await self.watchers.pop(name).stop()
        return self.watched.pop(name)

    async def kv_create_bucket(self, bucket: str, **options: Any) -> dict[str, Any]:
        if "ttl" in options:
            options["ttl"] = timedelta(seconds=options["ttl"])
        if "marker_ttl" in options:
            options["limit_marker_ttl"] = timedelta(seconds=options.pop("marker_ttl"))
        await create_key_value(self.js, KeyValueConfig(bucket=bucket, **options))
        return await self.kv_settings(bucket)

    async def kv_settings(self, bucket: str) -> dict[str, Any]:
        status = await (await key_value(self.js, bucket)).status()
        config = status.stream_info.config
        return {
            "history": status.history,
            "ttl": seconds(status.ttl),
            "marker_ttl": seconds(status.limit_marker_ttl),
            "description": config.description or "",
            "max_bytes": -1 if config.max_bytes is None else config.max_bytes,
            "memory": config.storage == "memory",
        }

    async def kv_put(self, bucket: str, key: str, value: str) -> int:
        return await (await key_value(self.js, bucket)).put(key, value.encode())

    async def kv_create(
        self, bucket: str, key: str, value: str, *, ttl: float | None = None
    ) -> int | None:
        kv = await key_value(self.js, bucket)
        lifetime = None if ttl is None else timedelta(seconds=ttl)
        try:
            return await kv.create(key, value.encode(), ttl=lifetime)
        except KeyExistsError:
            return None

    async def kv_update(self, bucket: str, key: str, value: str, revision: int) -> int | None:
        try:
            return await (await key_value(self.js, bucket)).update(key, value.encode(), revision)
        except KeyExistsError:
            return None

    async def kv_get(
        self, bucket: str, key: str, *, revision: int | None = None
    ) -> dict[str, Any] | None:
        try:
            return entry_dict(await (await key_value(self.js, bucket)).get(key, revision=revision))
        except KeyNotFoundError:
            return None

    async def kv_delete(self, bucket: str, key: str) -> None:
        await (await key_value(self.js, bucket)).delete(key)

    async def kv_purge(self, bucket: str, key: str, *, ttl: float | None = None) -> None:
        lifetime = None if ttl is None else timedelta(seconds=ttl)
        await (await key_value(self.js, bucket)).purge(key, ttl=lifetime)

    async def kv_history(self, bucket: str, key: str) -> list[dict[str, Any]]:
        kv = await key_value(self.js, bucket)
        return [entry_dict(entry) async for entry in await kv.history(key)]

    async def kv_keys(self, bucket: str) -> list[str]:
        kv = await key_value(self.js, bucket)
        return sorted([key async for key in await kv.keys()])

    async def kv_watch(self, name: str, bucket: str, keys: str = ">", **options: Any) -> None:
        if "resume_from" in options:
            options["resume_from_revision"] = options.pop("resume_from")
        watcher = await (await key_value(self.js, bucket)).watch(keys, **options)
        found: list[dict[str, Any]] = []

        async def run() -> None:
            async for entry in watcher:
                found.append(entry_dict(entry))
                async with self.changed:
                    self.changed.notify_all()

        self.watched[name], self.watchers[name] = found, watcher
        self.tasks[name] = asyncio.create_task(run())

    async def kv_write_many(self, bucket: str, writer: str, count: int) -> None:
        for number in range(count):
            key = f"shared.{number % 5}"
            if number % 7 == 6:
                await self.kv_delete(bucket, key)
            else:
                await self.kv_put(bucket, key, f"{writer} {number}")

    async def kv_count(self, bucket: str, key: str, times: int) -> None:
        while times:
            entry = await self.kv_get(bucket, key)
            if entry is None:
                revision = await self.kv_create(bucket, key, "1")
            else:
                value = str(int(entry["value"]) + 1)
                revision = await self.kv_update(bucket, key, value, entry["revision"])
            times -= revision is not None

    async def kv_claim(self, bucket: str, key: str, times: int) -> None:
        while times:
            if await self.kv_create(bucket, key, "claimed") is not None:
                await self.kv_delete(bucket, key)
                times -= 1


def seconds(time: timedelta | None) -> float:
    return time.total_seconds() if time else 0


def entry_dict(entry: KeyValueEntry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "operation": entry.operation.value,
        "value": entry.value.decode(),
        "revision": entry.revision,
    }


async def main(url: str) -> None:
    async with await nats.client.connect(url) as nc:
        operations = Operations(nc)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            request = json.loads(line)
            try:
                operation = getattr(operations, request["op"])
                reply = {"result": await operation(*request["args"], **request["options"])}
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply), flush=True)


asyncio.run(main(sys.argv[1]))
