"""trio_nats as one of the clients; see helpers.py."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import trio

from trio_nats import Connection, open_nats
from trio_nats.headers import Headers
from trio_nats.jetstream import AckPolicy, JetStreamAPIError, StorageType, WrongLastSequenceError
from trio_nats.keyvalue import Entry, KeyExistsError, KeyNotFoundError
from trio_nats.objectstore import ObjectInfo, ObjectMeta, ObjectNotFoundError
from trio_nats.services import Service, ServiceError, ServiceRequest, service_error


class Operations:
    """The operations that tests can request, by name."""

    def __init__(self, nc: Connection, nursery: trio.Nursery) -> None:
        self.nc, self.js, self.nursery = nc, nc.jetstream(), nursery
        self.watched: dict[str, list[Any]] = {}
        self.stopping: dict[str, trio.CancelScope] = {}
        self.changed = trio.Condition()

    # --- watching --------------------------------------------------------------------------------

    async def follow(self, name: str, watcher: Any, describe: Any) -> None:
        found: list[Any] = []

        async def run(*, task_status: trio.TaskStatus) -> None:
            with trio.CancelScope() as scope:
                async with watcher:
                    self.stopping[name] = scope
                    self.watched[name] = found
                    task_status.started()
                    async for one in watcher:
                        found.append(describe(one))
                        async with self.changed:
                            self.changed.notify_all()

        await self.nursery.start(run)

    async def watched_until(self, name: str, wanted: dict[str, Any]) -> list[Any]:
        """Wait until something like ``wanted`` was seen, and return all that was seen."""
        async with self.changed:
            while not any(wanted.items() <= one.items() for one in self.watched[name]):
                await self.changed.wait()
        self.stopping.pop(name).cancel()
        return self.watched.pop(name)

    # --- keys and values -------------------------------------------------------------------------

    async def kv_create_bucket(self, bucket: str, **options: Any) -> dict[str, Any]:
        renamed = {"marker_ttl": "limit_marker_ttl"}
        options = {renamed.get(name, name): value for name, value in options.items()}
        await self.js.create_key_value(bucket, **options)
        return await self.kv_settings(bucket)

    async def kv_settings(self, bucket: str) -> dict[str, Any]:
        status = await (await self.js.key_value(bucket)).status()
        config = status.config
        return {
            "history": config.history,
            "ttl": config.ttl,
            "marker_ttl": config.limit_marker_ttl,
            "description": config.description,
            "max_bytes": config.max_bytes,
            "memory": config.storage is StorageType.MEMORY,
        }

    async def kv_put(self, bucket: str, key: str, value: str) -> int:
        return await (await self.js.key_value(bucket)).put(key, value)

    async def kv_create(
        self, bucket: str, key: str, value: str, *, ttl: float | None = None
    ) -> int | None:
        try:
            return await (await self.js.key_value(bucket)).create(key, value, ttl=ttl)
        except KeyExistsError:
            return None

    async def kv_update(self, bucket: str, key: str, value: str, revision: int) -> int | None:
        try:
            return await (await self.js.key_value(bucket)).update(key, value, revision)
        except WrongLastSequenceError:
            return None

    async def kv_get(
        self, bucket: str, key: str, *, revision: int | None = None
    ) -> dict[str, Any] | None:
        try:
            entry = await (await self.js.key_value(bucket)).get(key, revision=revision)
        except KeyNotFoundError:
            return None
        return entry_dict(entry)

    async def kv_delete(self, bucket: str, key: str) -> None:
        await (await self.js.key_value(bucket)).delete(key)

    async def kv_purge(self, bucket: str, key: str, *, ttl: float | None = None) -> None:
        await (await self.js.key_value(bucket)).purge(key, ttl=ttl)

    async def kv_history(self, bucket: str, key: str) -> list[dict[str, Any]]:
        kv = await self.js.key_value(bucket)
        return [entry_dict(entry) for entry in await kv.history(key)]

    async def kv_keys(self, bucket: str) -> list[str]:
        return sorted(await (await self.js.key_value(bucket)).keys())

    async def kv_watch(self, name: str, bucket: str, keys: str = ">", **options: bool) -> None:
        kv = await self.js.key_value(bucket)
        await self.follow(name, kv.watch(keys, **options), entry_dict)

    async def kv_write_many(self, bucket: str, writer: str, count: int) -> None:
        kv = await self.js.key_value(bucket)
        for number in range(count):
            key = f"shared.{number % 5}"
            if number % 7 == 6:
                await kv.delete(key)
            else:
                await kv.put(key, f"{writer} {number}")

    async def kv_count(self, bucket: str, key: str, times: int) -> None:
        """Increment a number again and again, while others do the same."""
        while times:
            entry = await self.kv_get(bucket, key)
            if entry is None:
                revision = await self.kv_create(bucket, key, "1")
            else:
                value = str(int(entry["value"]) + 1)
                revision = await self.kv_update(bucket, key, value, entry["revision"])
            times -= revision is not None

    async def kv_claim(self, bucket: str, key: str, times: int) -> None:
        """Create and delete a key again and again, while others do the same."""
        while times:
            if await self.kv_create(bucket, key, "claimed") is not None:
                await self.kv_delete(bucket, key)
                times -= 1

    # --- objects ---------------------------------------------------------------------------------

    async def obj_create_bucket(self, bucket: str, **options: Any) -> None:
        await self.js.create_object_store(bucket, **options)

    async def obj_put(
        self, bucket: str, name: str, size: int, *, chunk: int | None = None, **meta: Any
    ) -> None:
        store = await self.js.object_store(bucket)
        await store.put(ObjectMeta(name, chunk_size=chunk, **meta), content(size))

    async def obj_get(self, bucket: str, name: str) -> list[Any] | None:
        digest, size = hashlib.sha256(), 0
        store = await self.js.object_store(bucket)
        try:
            async with store.get(name) as reader:
                async for chunk in reader:
                    digest.update(chunk)
                    size += len(chunk)
        except ObjectNotFoundError:
            return None
        return [size, digest.hexdigest()]

    async def obj_info(self, bucket: str, name: str) -> dict[str, Any] | None:
        store = await self.js.object_store(bucket)
        try:
            return info_dict(await store.info(name, show_deleted=True))
        except ObjectNotFoundError:
            return None

    async def obj_list(self, bucket: str) -> list[str]:
        return sorted(info.name for info in await (await self.js.object_store(bucket)).list())

    async def obj_delete(self, bucket: str, name: str) -> None:
        await (await self.js.object_store(bucket)).delete(name)

    async def obj_update(self, bucket: str, name: str, new: str, description: str) -> None:
        store = await self.js.object_store(bucket)
        info = await store.info(name)
        meta = ObjectMeta(new, description, headers=info.headers, metadata=info.metadata)
        await store.update_meta(name, meta)

    async def obj_link(self, bucket: str, name: str, target_bucket: str, target: str) -> None:
        info = await (await self.js.object_store(target_bucket)).info(target)
        await (await self.js.object_store(bucket)).add_link(name, info)

    async def obj_link_bucket(self, bucket: str, name: str, target: str) -> None:
        store = await self.js.object_store(bucket)
        await store.add_bucket_link(name, await self.js.object_store(target))

    async def obj_watch(self, name: str, bucket: str) -> None:
        store = await self.js.object_store(bucket)
        await self.follow(name, store.watch(), watched_dict)

    async def obj_write_many(self, bucket: str, count: int) -> None:
        store = await self.js.object_store(bucket)
        for number in range(count):
            name = str(number % 3)
            if number % 7 == 6:
                with contextlib.suppress(ObjectNotFoundError):
                    await store.delete(name)
            else:
                await store.put(name, content(number))

    # --- streams ---------------------------------------------------------------------------------

    async def js_publish(
        self, subject: str, data: str, *, headers: dict[str, str] | None = None, **expect: Any
    ) -> dict[str, Any]:
        try:
            ack = await self.js.publish(subject, data, headers=headers or {}, **expect)
        except JetStreamAPIError as error:
            return {"err_code": error.err_code}
        return {"stream": ack.stream, "seq": ack.seq, "duplicate": ack.duplicate}

    async def js_consume(
        self, stream: str, consumer: str, count: int, reply: str = "ack"
    ) -> list[dict[str, Any]]:
        found = []
        durable = await (await self.js.stream(stream)).create_or_update_consumer(
            consumer, ack_policy=AckPolicy.EXPLICIT
        )
        while len(found) < count:
            for msg in await durable.fetch(count - len(found)):
                found.append(
                    {
                        "subject": msg.subject,
                        "data": msg.data.decode(),
                        "headers": headers_dict(msg.headers),
                        "seq": msg.metadata.stream_seq,
                        "consumer_seq": msg.metadata.consumer_seq,
                        "delivered": msg.metadata.delivered,
                        "pending": msg.metadata.pending,
                    }
                )
                await (msg.nak() if reply == "nak" else msg.double_ack())
        return found

    # --- services --------------------------------------------------------------------------------

    async def svc_start(self, name: str, **options: Any) -> str:
        service = self.nc.add_service(name, **options)
        group = service.group(f"{name}-group")

        async def echo(request: ServiceRequest) -> None:
            await request.respond(request.data, headers={"Seen-By": "trio_nats"})

        async def fail(request: ServiceRequest) -> bytes:
            raise ServiceError(418, "I am a teapot", b"short and stout")

        async def crash(request: ServiceRequest) -> bytes:
            raise ValueError("secret")

        await group.add_endpoint("echo", echo, metadata={"kind": "loud"})
        await group.add_endpoint("fail", fail, queue="other")
        await group.add_endpoint("crash", crash)

        async def run(*, task_status: trio.TaskStatus[Service]) -> None:
            async with service:
                await self.nc.flush()
                task_status.started(service)
                await service.wait_stopped()

        self.service: Service = await self.nursery.start(run)
        return self.service.id

    async def svc_stop(self) -> None:
        self.service.stop()
        await self.service.wait_stopped()

    async def svc_ping(self, name: str) -> list[str]:
        return sorted(found.id for found in await self.nc.services().ping(name))

    async def svc_info(self, name: str) -> dict[str, Any]:
        (info,) = await self.nc.services().info(name)
        return {
            "name": info.name,
            "id": info.id,
            "version": info.version,
            "description": info.description,
            "metadata": info.metadata,
            "endpoints": [
                [one.name, one.subject, one.queue_group, one.metadata] for one in info.endpoints
            ],
        }

    async def svc_stats(self, name: str) -> list[list[Any]]:
        (stats,) = await self.nc.services().stats(name)
        return [
            [one.name, one.subject, one.queue_group, one.num_requests, one.num_errors]
            for one in stats.endpoints
        ]

    async def svc_call(self, subject: str, data: str) -> dict[str, Any]:
        reply = await self.nc.request(subject, data)
        error = service_error(reply)
        return {
            "data": reply.data.decode(),
            "seen_by": reply.headers.get("Seen-By"),
            "error": None if error is None else [error.code, error.description],
        }


def content(size: int) -> bytes:
    pattern = bytes(range(256)) * 4 + b"x"
    return (pattern * (size // len(pattern) + 1))[:size]


def headers_dict(headers: Headers) -> dict[str, str]:
    return {name: headers[name] for name in headers}


def entry_dict(entry: Entry[bytes]) -> dict[str, Any]:
    return {
        "key": entry.key,
        "operation": str(entry.operation),
        "value": entry.data.decode(),
        "revision": entry.revision,
    }


def info_dict(info: ObjectInfo) -> dict[str, Any]:
    return {
        "bucket": info.bucket,
        "name": info.name,
        "description": info.description,
        "headers": headers_dict(info.headers),
        "metadata": dict(info.metadata),
        "size": info.size,
        "chunks": info.chunks,
        "chunk_size": info.chunk_size,
        "deleted": info.deleted,
        "link": None if info.link is None else [info.link.bucket, info.link.name],
    }


def watched_dict(info: ObjectInfo) -> dict[str, Any]:
    return {"key": info.name, "size": info.size, "deleted": info.deleted}


async def lines() -> AsyncIterator[str]:
    async for line in trio.wrap_file(sys.stdin):
        yield line


async def main(url: str) -> None:
    async with open_nats(url) as nc, trio.open_nursery() as nursery:
        operations = Operations(nc, nursery)
        async for line in lines():
            request = json.loads(line)
            try:
                operation = getattr(operations, request["op"])
                reply = {"result": await operation(*request["args"], **request["options"])}
            except Exception as error:
                reply = {"error": f"{type(error).__name__}: {error}"}
            print(json.dumps(reply), flush=True)
        nursery.cancel_scope.cancel()


trio.run(main, sys.argv[1])
