"""nats-py as one of the clients; see helpers.py."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import nats
import nats.errors
from nats.aio.client import Client
from nats.js import api, errors
from nats.micro import ServiceConfig, add_service
from nats.micro.request import Request, ServiceError
from nats.micro.service import ServiceInfo, ServicePing, ServiceStats


class Operations:
    """The operations that tests can request, by name."""

    def __init__(self, nc: Client) -> None:
        self.nc, self.js = nc, nc.jetstream()
        self.watched: dict[str, list[Any]] = {}
        self.watchers: dict[str, Any] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.changed = asyncio.Condition()

    # --- watching --------------------------------------------------------------------------------

    def follow(self, name: str, watcher: Any, describe: Any) -> None:
        found: list[Any] = []

        async def run() -> None:
            async for one in watcher:
                if one is not None:  # the end of the current entries
                    found.append(describe(one))
                    async with self.changed:
                        self.changed.notify_all()

        self.watched[name], self.watchers[name] = found, watcher
        self.tasks[name] = asyncio.create_task(run())

    async def watched_until(self, name: str, wanted: dict[str, Any]) -> list[Any]:
        async with self.changed:
            await self.changed.wait_for(
                lambda: any(wanted.items() <= one.items() for one in self.watched[name])
            )
        await self.watchers.pop(name).stop()
        self.tasks.pop(name).cancel()
        return self.watched.pop(name)

    # --- keys and values -------------------------------------------------------------------------

    async def kv_create_bucket(self, bucket: str, **options: Any) -> dict[str, Any]:
        renamed = {"marker_ttl": "limit_marker_ttl"}
        options = {renamed.get(name, name): value for name, value in options.items()}
        await self.js.create_key_value(bucket=bucket, **options)
        return await self.kv_settings(bucket)

    async def kv_settings(self, bucket: str) -> dict[str, Any]:
        status = await (await self.js.key_value(bucket)).status()
        config = status.stream_info.config
        return {
            "history": status.history,
            "ttl": status.ttl or 0,
            "marker_ttl": status.marker_ttl or 0,
            "description": config.description or "",
            "max_bytes": config.max_bytes,
            "memory": config.storage == api.StorageType.MEMORY,
        }

    async def kv_put(self, bucket: str, key: str, value: str) -> int:
        return await (await self.js.key_value(bucket)).put(key, value.encode())

    async def kv_create(
        self, bucket: str, key: str, value: str, *, ttl: float | None = None
    ) -> int | None:
        kv = await self.js.key_value(bucket)
        try:
            return await kv.create(key, value.encode(), msg_ttl=ttl)
        except errors.KeyWrongLastSequenceError:
            return None

    async def kv_update(self, bucket: str, key: str, value: str, revision: int) -> int | None:
        kv = await self.js.key_value(bucket)
        try:
            return await kv.update(key, value.encode(), revision)
        except errors.KeyWrongLastSequenceError:
            return None

    async def kv_get(
        self, bucket: str, key: str, *, revision: int | None = None
    ) -> dict[str, Any] | None:
        kv = await self.js.key_value(bucket)
        try:
            return entry_dict(await kv.get(key, revision))
        except errors.KeyNotFoundError:
            return None

    async def kv_delete(self, bucket: str, key: str) -> None:
        await (await self.js.key_value(bucket)).delete(key)

    async def kv_purge(self, bucket: str, key: str, *, ttl: float | None = None) -> None:
        await (await self.js.key_value(bucket)).purge(key, msg_ttl=ttl)

    async def kv_history(self, bucket: str, key: str) -> list[dict[str, Any]]:
        kv = await self.js.key_value(bucket)
        return [entry_dict(entry) for entry in await until_found(lambda: kv.history(key))]

    async def kv_keys(self, bucket: str) -> list[str]:
        return sorted(await until_found((await self.js.key_value(bucket)).keys))

    async def kv_watch(self, name: str, bucket: str, keys: str = ">", **options: bool) -> None:
        kv = await self.js.key_value(bucket)
        self.follow(name, await kv.watch(keys, **options), entry_dict)

    async def kv_write_many(self, bucket: str, writer: str, count: int) -> None:
        kv = await self.js.key_value(bucket)
        for number in range(count):
            key = f"shared.{number % 5}"
            if number % 7 == 6:
                await kv.delete(key)
            else:
                await kv.put(key, f"{writer} {number}".encode())

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
        if chunk is not None:
            meta["options"] = api.ObjectMetaOptions(max_chunk_size=chunk)
        await store.put(name, content(size), api.ObjectMeta(**meta))

    async def obj_get(self, bucket: str, name: str) -> list[Any] | None:
        store = await self.js.object_store(bucket)
        try:
            data = (await store.get(name)).data or b""
        except errors.ObjectNotFoundError:
            return None
        return [len(data), hashlib.sha256(data).hexdigest()]

    async def obj_info(self, bucket: str, name: str) -> dict[str, Any] | None:
        store = await self.js.object_store(bucket)
        try:
            return info_dict(await store.get_info(name, show_deleted=True))
        except errors.ObjectNotFoundError:
            return None

    async def obj_list(self, bucket: str) -> list[str]:
        store = await self.js.object_store(bucket)
        try:
            return sorted(info.name for info in await store.list(ignore_deletes=True))
        except errors.NotFoundError:
            return []

    async def obj_delete(self, bucket: str, name: str) -> None:
        await (await self.js.object_store(bucket)).delete(name)

    async def obj_update(self, bucket: str, name: str, new: str, description: str) -> None:
        store = await self.js.object_store(bucket)
        info = await store.get_info(name)
        meta = api.ObjectMeta(name=new, description=description, headers=info.headers)
        await store.update_meta(name, meta)

    async def obj_watch(self, name: str, bucket: str) -> None:
        store = await self.js.object_store(bucket)
        self.follow(name, await store.watch(), watched_dict)

    async def obj_write_many(self, bucket: str, count: int) -> None:
        store = await self.js.object_store(bucket)
        for number in range(count):
            name = str(number % 3)
            if number % 7 == 6:
                with contextlib.suppress(errors.ObjectNotFoundError):
                    await store.delete(name)
            else:
                await store.put(name, content(number))

    # --- streams ---------------------------------------------------------------------------------

    async def js_publish(
        self, subject: str, data: str, *, headers: dict[str, str] | None = None, **expect: Any
    ) -> dict[str, Any]:
        named = {
            "msg_id": api.Header.MSG_ID,
            "expect_stream": api.Header.EXPECTED_STREAM,
            "expect_last_seq": api.Header.EXPECTED_LAST_SEQUENCE,
            "expect_last_subject_seq": api.Header.EXPECTED_LAST_SUBJECT_SEQUENCE,
            "expect_last_msg_id": api.Header.EXPECTED_LAST_MSG_ID,
        }
        sent = {**(headers or {}), **{named[name]: str(of) for name, of in expect.items()}}
        try:
            ack = await self.js.publish(subject, data.encode(), headers=sent or None)
        except errors.APIError as error:
            return {"err_code": error.err_code}
        return {"stream": ack.stream, "seq": ack.seq, "duplicate": bool(ack.duplicate)}

    async def js_consume(
        self, stream: str, consumer: str, count: int, reply: str = "ack"
    ) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        sub = await self.js.pull_subscribe("", consumer, stream)
        while len(found) < count:
            for msg in await sub.fetch(count - len(found)):
                metadata = msg.metadata
                found.append(
                    {
                        "subject": msg.subject,
                        "data": msg.data.decode(),
                        "headers": dict(msg.headers or {}),
                        "seq": metadata.sequence.stream,
                        "consumer_seq": metadata.sequence.consumer,
                        "delivered": metadata.num_delivered,
                        "pending": metadata.num_pending,
                    }
                )
                await (msg.nak() if reply == "nak" else msg.ack_sync())
        await sub.unsubscribe()
        return found

    # --- services --------------------------------------------------------------------------------

    async def svc_start(self, name: str, **options: Any) -> str:
        self.service = await add_service(self.nc, ServiceConfig(name=name, **options))
        group = self.service.add_group(name=f"{name}-group")

        async def echo(request: Request) -> None:
            await request.respond(request.data, headers={"Seen-By": "nats_py"})

        async def fail(request: Request) -> None:
            raise ServiceError("418", "I am a teapot")

        async def crash(request: Request) -> None:
            raise ValueError("secret")

        await group.add_endpoint(name="echo", handler=echo, metadata={"kind": "loud"})
        await group.add_endpoint(name="fail", handler=fail, queue_group="other")
        await group.add_endpoint(name="crash", handler=crash)
        await self.nc.flush()
        return self.service.id

    async def svc_stop(self) -> None:
        await self.service.stop()

    async def asked(self, verb: str, name: str) -> Any:
        """The first answer; nats-py has a service, but nothing that looks for them."""
        return json.loads((await self.nc.request(f"$SRV.{verb}.{name}")).data)

    async def svc_ping(self, name: str) -> list[str]:
        return [ServicePing.from_dict(await self.asked("PING", name)).id]

    async def svc_info(self, name: str) -> dict[str, Any]:
        answer = await self.asked("INFO", name)
        for endpoint in answer["endpoints"]:
            endpoint["metadata"] = endpoint.get("metadata") or {}
        info = ServiceInfo.from_dict(answer)
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
        answer = await self.asked("STATS", name)
        for endpoint in answer["endpoints"]:
            # It cannot do without these, which other clients leave out.
            endpoint.update({"data": None, "last_error": "", **endpoint})
        stats = ServiceStats.from_dict(answer)
        return [
            [one.name, one.subject, one.queue_group, one.num_requests, one.num_errors]
            for one in stats.endpoints
        ]

    async def svc_call(self, subject: str, data: str) -> dict[str, Any]:
        reply = await self.nc.request(subject, data.encode())
        headers = reply.headers or {}
        error = None
        if "Nats-Service-Error-Code" in headers:
            error = [int(headers["Nats-Service-Error-Code"]), headers["Nats-Service-Error"]]
        return {"data": reply.data.decode(), "seen_by": headers.get("Seen-By"), "error": error}


async def until_found(read: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
    """Read keys or entries, which are there.

    nats-py sometimes finds none: if the server's answer that nothing is pending overtakes what it
    has already delivered.
    """
    while True:
        with contextlib.suppress(errors.NoKeysError):
            return await read()


def content(size: int) -> bytes:
    pattern = bytes(range(256)) * 4 + b"x"
    return (pattern * (size // len(pattern) + 1))[:size]


def entry_dict(entry: Any) -> dict[str, Any]:
    return {
        "key": entry.key,
        "operation": entry.operation or "PUT",
        "value": (entry.value or b"").decode(),
        "revision": entry.revision,
    }


def info_dict(info: api.ObjectInfo) -> dict[str, Any]:
    options = info.options or api.ObjectMetaOptions()
    return {
        "bucket": info.bucket,
        "name": info.name,
        "description": info.description or "",
        "headers": {
            name: values if isinstance(values, str) else values[0]
            for name, values in (info.headers or {}).items()
        },
        "size": info.size or 0,
        "chunks": info.chunks or 0,
        "chunk_size": options.max_chunk_size,
        "deleted": bool(info.deleted),
        "link": None if options.link is None else [options.link.bucket, options.link.name],
    }


def watched_dict(info: api.ObjectInfo) -> dict[str, Any]:
    return {"key": info.name, "size": info.size or 0, "deleted": bool(info.deleted)}


async def main(url: str) -> None:
    nc = await nats.connect(url)
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
    await nc.close()


asyncio.run(main(sys.argv[1]))
