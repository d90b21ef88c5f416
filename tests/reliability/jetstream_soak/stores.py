"""Key-value and object stores, and services, under the JetStream soak."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from itertools import pairwise

import trio

from tests.reliability.jetstream_soak.report import Report
from trio_nats import Connection, NatsError
from trio_nats.jetstream import JetStream, NoStreamResponseError, WrongLastSequenceError
from trio_nats.keyvalue import KeyNotFoundError, KeyValue
from trio_nats.objectstore import (
    DamagedObjectError,
    ObjectChangedError,
    ObjectNotFoundError,
    ObjectStore,
)
from trio_nats.services import ServiceError, ServiceRequest, check_reply

__all__ = [
    "BUCKET",
    "OBJECTS",
    "Counters",
    "Objects",
    "Watched",
    "ask",
    "increment",
    "list_keys",
    "put_objects",
    "read_objects",
    "serve",
    "watch_keys",
    "watch_objects",
]

BUCKET = "counters"
KEYS = [f"counter.{number}" for number in range(4)]
OBJECTS = "objects"
RETRY = 0.1


# --- counters -----------------------------------------------------------------------------------


class Counters:
    """Increments by key: those that were confirmed, and those whose outcome is unknown."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.confirmed: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.lost_races = 0
        self.complete = trio.Event()
        """Set when all keys have a value."""

    async def verify(self, js: JetStream) -> dict[str, tuple[int, int]]:
        """Check the counters, and return the value and revision of each."""
        report, actual = self._report, {}
        kv = await js.key_value(BUCKET)
        for key in KEYS:
            history = await kv.history(key)
            numbers = [int(entry.value) for entry in history]
            if any(after != before + 1 for before, after in pairwise(numbers)):
                report.violation(f"the history of {key} is {numbers}")
            confirmed, unknown = self.confirmed[key], self.unknown[key]
            if not confirmed <= numbers[-1] <= confirmed + unknown:
                report.violation(
                    f"{key} is {numbers[-1]} after {confirmed} confirmed increments and "
                    f"{unknown} whose outcome is unknown"
                )
            actual[key] = (numbers[-1], history[-1].revision)
        report.counts["counters: increments confirmed"] = self.confirmed.total()
        report.counts["counters: increments with an unknown outcome"] = self.unknown.total()
        report.counts["counters: increments that lost a race"] = self.lost_races
        report.counts["counters: sum"] = sum(value for value, _ in actual.values())
        return actual


async def increment(
    kv: KeyValue[bytes],
    who: str,
    counters: Counters,
    report: Report,
    stop: trio.Event,
    pause: float,
    began: trio.Event,
) -> None:
    """Increment all counters, by compare-and-set."""
    began.set()
    dice = random.Random(who)
    while not stop.is_set() or not counters.complete.is_set():
        key = dice.choice(KEYS)
        try:
            entry = await kv.get(key)
            value, revision = int(entry.value), entry.revision
        except KeyNotFoundError:
            value, revision = 0, 0
        except NatsError as error:
            report.error("key-value get", error)
            await trio.sleep(RETRY)
            continue
        text = str(value + 1)
        try:
            if revision:
                await kv.update(key, text, revision)
            else:
                await kv.create(key, text)
        except WrongLastSequenceError:
            counters.lost_races += 1
        except NoStreamResponseError as error:
            report.error("key-value update", error)
        except NatsError as error:
            report.error("key-value update", error)
            counters.unknown[key] += 1
        else:
            counters.confirmed[key] += 1
            if len(counters.confirmed) == len(KEYS):
                counters.complete.set()
        await trio.sleep(pause)


class Watched:
    """The last value and revision of each key that a watcher has seen."""

    def __init__(self, who: str) -> None:
        self.who = who
        self.values: dict[str, tuple[int, int]] = {}


async def watch_keys(
    kv: KeyValue[bytes], watched: Watched, report: Report, began: trio.Event
) -> None:
    """Follow all counters."""
    async with kv.watch() as watcher:
        began.set()
        async for entry in watcher:
            value, before = int(entry.value), watched.values.get(entry.key, (0, 0))
            report.counts["watchers: changes"] += 1
            if value <= before[0] or entry.revision <= before[1]:
                report.violation(
                    f"{watched.who} saw {entry.key} change from {before} to "
                    f"{(value, entry.revision)}"
                )
            if value > before[0] + 1:
                report.counts["watchers: changes that followed on one not seen"] += 1
            watched.values[entry.key] = (value, entry.revision)


async def list_keys(
    kv: KeyValue[bytes], counters: Counters, report: Report, stop: trio.Event, began: trio.Event
) -> None:
    """List the keys. All of them have a value, so none may be missing."""
    began.set()
    await counters.complete.wait()
    while not stop.is_set():
        try:
            keys = await kv.keys()
        except NatsError as error:
            report.error("keys", error)
        else:
            report.counts["keys: lists, all complete"] += 1
            if sorted(keys) != KEYS:
                report.violation(f"keys() returned {keys}")
        await trio.sleep(RETRY)


# --- objects ------------------------------------------------------------------------------------


def contents(name: str, version: int) -> bytes:
    """Return the content of a version of an object."""
    dice = random.Random(f"{name}/{version}")
    size = dice.choice((0, 100, 100_000, 300_000))
    return f"{name}/{version}/".encode() + dice.randbytes(size)


class Objects:
    """The outcome of each write of an object. Version 0 means that it does not exist."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.possible: defaultdict[str, set[int]] = defaultdict(lambda: {0})
        """The versions that an object may have now."""
        self.started: Counter[str] = Counter()

    def check(self, name: str, data: bytes, *, final: bool) -> None:
        given = data.split(b"/", 2)
        version = int(given[1]) if len(given) == 3 and given[1].isdigit() else -1
        if data != contents(name, version):
            self._report.violation(f"{name} is not whole: {data[:40]!r}, {len(data)} bytes")
        elif version > self.started[name] or (final and version not in self.possible[name]):
            self._report.violation(
                f"{name} has version {version}, not one of {self.possible[name]}"
            )

    async def verify(self, js: JetStream) -> dict[str, str]:
        """Check the objects, and return the NUID of each that exists."""
        actual, report = {}, self._report
        store = await js.object_store(OBJECTS)
        for name in self.started:
            try:
                data = await store.get_bytes(name)
                actual[name] = (await store.info(name)).nuid
            except ObjectNotFoundError:
                if 0 not in self.possible[name]:
                    report.violation(f"{name} is absent, not one of {self.possible[name]}")
            except DamagedObjectError as error:
                report.violation(f"{name}: {error}")
            else:
                self.check(name, data, final=True)
        return actual


async def put_objects(
    store: ObjectStore,
    who: str,
    objects: Objects,
    report: Report,
    stop: trio.Event,
    pause: float,
    began: trio.Event,
) -> None:
    """Put and delete objects that nobody else writes."""
    began.set()
    dice = random.Random(who)
    while not stop.is_set():
        name = f"{who}.{dice.randrange(3)}"
        possible, version = objects.possible[name], 0
        may_be_absent = 0 in possible
        if dice.random() < 0.8 or possible == {0}:
            version = objects.started[name] = objects.started[name] + 1
        possible.add(version)
        try:
            if version:
                await store.put(name, contents(name, version))
            else:
                await store.delete(name)
        except ObjectNotFoundError as error:  # only delete raises it
            if not may_be_absent:
                report.violation(f"delete: {error}")
            objects.possible[name] = {0}
        except NatsError as error:
            report.error("put" if version else "delete", error)
            report.counts["objects: outcome unknown"] += 1
        else:
            objects.possible[name] = {version}
            report.counts["objects: put" if version else "objects: deleted"] += 1
        await trio.sleep(pause)


async def read_objects(
    store: ObjectStore,
    who: str,
    objects: Objects,
    report: Report,
    stop: trio.Event,
    pause: float,
    began: trio.Event,
) -> None:
    """Read objects: each is whole, absent, or was replaced on the way."""
    began.set()
    dice = random.Random(who)
    while not stop.is_set():
        await trio.sleep(pause)
        if not objects.started:
            continue
        name = dice.choice(sorted(objects.started))
        try:
            data = await store.get_bytes(name)
        except (ObjectNotFoundError, ObjectChangedError) as error:
            report.counts[f"objects: not read, {type(error).__name__}"] += 1
        except DamagedObjectError as error:
            report.violation(f"{name}: {type(error).__name__}: {error}")
        except NatsError as error:
            report.error("get", error)
        else:
            objects.check(name, data, final=False)
            report.counts["objects: read whole"] += 1


async def watch_objects(store: ObjectStore, known: dict[str, str], began: trio.Event) -> None:
    """Follow all objects."""
    async with store.watch() as watcher:
        began.set()
        async for info in watcher:
            if info.deleted:
                known.pop(info.name, None)
            else:
                known[info.name] = info.nuid


async def unused_chunks(js: JetStream, actual: dict[str, str]) -> int:
    """Count chunks that belong to no object."""
    stream = await js.stream(f"OBJ_{OBJECTS}")
    return sum(
        [
            count
            async for subject, count in stream.subjects(f"$O.{OBJECTS}.C.>")
            if subject.rpartition(".")[2] not in actual.values()
        ]
    )


# --- services -----------------------------------------------------------------------------------


async def serve(nc: Connection, who: str, began: trio.Event) -> None:
    """Respond to each request with its own data."""
    began.set()
    dice = random.Random(who)
    async with nc.add_service("echo", version="1.0.0") as service:

        async def echo(request: ServiceRequest) -> bytes:
            await trio.sleep(dice.choice((0, 0, 0.01)))
            return request.data

        await service.add_endpoint("echo", echo)
        await service.wait_stopped()


async def ask(
    nc: Connection, who: str, report: Report, stop: trio.Event, pause: float, began: trio.Event
) -> None:
    """Send requests; each must get its own response, or an error."""
    began.set()
    number = 0
    while not stop.is_set():
        number += 1
        question = f"{who} {number}".encode()
        try:
            reply = check_reply(await nc.request("echo", question, timeout=1))
        except (NatsError, ServiceError) as error:
            report.error("request", error)
        else:
            report.counts["requests: answered"] += 1
            if reply.data != question:
                report.violation(f"{question!r} was answered by {reply.data!r}")
        await trio.sleep(pause)
