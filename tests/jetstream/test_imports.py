"""JetStream of another account, imported as ADR-19 tells, and users with few permissions."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.permissions import permissions, quoted
from trio_nats import UserPassword, open_nats
from trio_nats.events import ServerError
from trio_nats.jetstream import AckPolicy, DeliverPolicy, JetStream
from trio_nats.jetstream.advisories import ConsumerActionAdvisory, StreamActionAdvisory
from trio_nats.keyvalue import KeyExistsError
from trio_nats.objectstore import DamagedObjectError
from trio_nats.testing import NatsServer

ACCOUNTS = """
jetstream: enabled
accounts: {{
    A: {{
        users: [ {{user: a, password: a}} ]
        jetstream: enabled
        exports: [
            {{service: '$JS.API.>' {response} }}
            {{service: '$KV.>'}}
            {{stream: 'forI.>' }}
        ]
    }},
    I: {{
        users: [ {{user: i, password: i}} ]
        imports: [
            {{service: {{account: A, subject: '$JS.API.>'}}, to: 'fromA.>' }}
            {{service: {{account: A, subject: '$KV.>'}}, to: 'fromA.$KV.>' }}
            {{stream: {{ subject: 'forI.>', account: 'A' }} }}
        ]
    }}
}}
"""


@asynccontextmanager
async def imported(response: str = "", inbox: str = "forI") -> AsyncIterator[list[JetStream]]:
    """JetStream of the account that has it, and of the one that imports it."""
    config = ACCOUNTS.format(response=response)
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(config=config) as server,
            open_nats(server.url, auth=UserPassword("a", "a")) as a,
            open_nats(server.url, auth=UserPassword("i", "i"), inbox_prefix=inbox) as i,
        ):
            yield [a.jetstream(), i.jetstream(prefix="fromA")]


# The second cannot be pushed to, because inboxes are not imported, but it has all answers.
@pytest.mark.parametrize(("response", "inbox"), [("", "forI"), (", response: stream", "_INBOX")])
async def test_stores_are_read_through_an_import(response: str, inbox: str) -> None:
    async with imported(response, inbox) as (here, there):
        kv = await here.create_key_value("B", storage=MEMORY, history=2)
        for number in range(30):
            await kv.put(f"k{number}", str(number))
        store = await here.create_object_store("O", storage=MEMORY)
        await store.put("o", bytes(5_000_000))  # more than is sent without flow control
        other = await there.key_value("B")
        assert len(await other.keys()) == 30
        assert len(await other.history("k3")) == 1
        async with other.watch() as watcher:
            assert len([entry async for entry in watcher.initial()]) == 30
            await other.put("k5", b"new")
            assert (await watcher.receive()).value == b"new"
        async with (await there.object_store("O")).get("o") as reader:
            assert len(await reader.read_all()) == 5_000_000
        for name in ("KV_B", "OBJ_O"):
            stream = await here.stream(name)
            await trio.testing.wait_all_tasks_blocked()
            while [one async for one in stream.consumer_names()]:
                await trio.lowlevel.checkpoint()


async def test_an_ordered_consumer_through_an_import() -> None:
    async with imported() as (here, there):
        await here.create_stream("S", subjects=["s"], storage=MEMORY)
        for number in range(10):
            await here.publish("s", str(number))
        ordered = (await there.stream("S")).ordered_consumer()
        assert (await ordered.next()).data == b"0"
        assert [msg.data for msg in await ordered.fetch(3)] == [b"1", b"2", b"3"]
        size = len("s4") + 100
        assert [msg.data for msg in await ordered.fetch(max_bytes=size, no_wait=True)] == [b"4"]
        with trio.move_on_after(0):
            await ordered.fetch(3)
        assert len(await ordered.fetch(no_wait=True)) == 5
        assert await ordered.fetch(no_wait=True) == []
        await here.publish("s", "10")
        async with ordered.consume() as messages:
            assert (await messages.receive()).data == b"10"
            assert ordered.name is not None
            await (await here.stream("S")).delete_consumer(ordered.name)


async def test_a_cancelled_fetch_through_an_import_loses_nothing() -> None:
    async with imported() as (here, there):
        await here.create_stream("S", subjects=["s"], storage=MEMORY)
        await here.publish("s", "old")
        ordered = (await there.stream("S")).ordered_consumer(deliver_policy=DeliverPolicy.NEW)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ordered.fetch, 2)
            while ordered.info is None:
                await trio.lowlevel.checkpoint()
            await here.publish("s", "new")
            while ordered.next_seq != 3:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert [msg.data for msg in await ordered.fetch(1)] == [b"new"]


async def test_a_refused_fetch_through_an_import_moves_nobody_back() -> None:
    async with imported() as (here, there):
        await here.create_stream("S", subjects=["s"], storage=MEMORY)
        for number in range(10):
            await here.publish("s", str(number))
        ordered = (await there.stream("S")).ordered_consumer()

        async def fetch() -> None:
            with pytest.raises(trio.BusyResourceError):
                await ordered.fetch(1)

        async with ordered.consume() as messages:
            while messages.waiting < 10:
                await trio.lowlevel.checkpoint()
            for number in range(10):
                async with trio.open_nursery() as nursery:
                    for _ in range(10):
                        nursery.start_soon(fetch)
                    await trio.lowlevel.checkpoint()  # let them begin
                    assert (await messages.receive()).data == b"%d" % number
                assert ordered.next_seq == number + 2


async def test_a_stream_that_may_not_be_pulled_from_changes_nothing_for_others() -> None:
    config = """
    authorization { users: [ {user: u, password: u, permissions: {
        publish: {deny: ["$JS.API.CONSUMER.MSG.NEXT.A.>"]} }} ] }
    """
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(jetstream=True, config=config) as server,
            open_nats(server.url, auth=UserPassword("u", "u")) as nc,
        ):
            js = nc.jetstream()
            pushed: dict[str, bool] = {}
            for name in ("A", "B"):
                stream = await js.create_stream(name, subjects=[name], storage=MEMORY)
                await js.publish(name, name)
                ordered = stream.ordered_consumer()
                async with ordered.consume() as messages:
                    assert (await messages.receive()).data == name.encode()
                    assert ordered.info is not None
                    pushed[name] = bool(ordered.info.config.deliver_subject)
            assert pushed == {"A": True, "B": False}


async def test_cancelled_through_an_import_nothing_is_left_behind() -> None:
    async with imported() as (here, there):
        kv = await here.create_key_value("B", storage=MEMORY)
        await kv.put("k", b"v")
        other = await there.key_value("B")
        stream = await here.stream("KV_B")
        nc = there.connection
        found: list[str] = []

        async def make() -> Operation:
            async def operation() -> None:
                found[:] = await other.keys()

            return operation

        async def check() -> None:
            assert nc.stats.subscriptions == 0
            await nc.flush()
            while [one async for one in stream.consumer_names()]:
                await trio.lowlevel.checkpoint()

        assert await cancel_at_each_checkpoint(make, check) >= 3
        assert found == ["k"]


# --- permissions ---------------------------------------------------------------------------------


ROWS = permissions("JetStream and its stores")


async def publish(js: JetStream) -> None:
    await js.publish("orders.new", b"x")


async def get_message(js: JetStream) -> None:
    assert (await (await js.stream("S")).get_msg(1)).data == b"1"


async def get_message_of_leader(js: JetStream) -> None:
    assert (await (await js.stream("S")).get_msg(1, direct=False)).data == b"1"


async def pull(js: JetStream) -> None:
    assert (await (await js.stream("S")).consumer("c")).name == "c"
    consumer = (await js.stream("S")).bind_consumer("c")
    await (await consumer.next()).double_ack()
    assert len(await consumer.fetch(1)) == 1
    async with consumer.consume() as messages:
        await (await messages.receive()).ack()


async def push(js: JetStream) -> None:
    consumer = await (await js.stream("S")).consumer("p")
    async with consumer.consume() as messages:
        await (await messages.receive()).double_ack()


async def advisories_of_stream(js: JetStream) -> None:
    async with (await js.stream("S")).advisories() as advisories:
        missing = {StreamActionAdvisory, ConsumerActionAdvisory}
        while missing:
            missing.discard(type(await advisories.receive()))


async def advisories_of_consumer(js: JetStream) -> None:
    consumer = (await js.stream("S")).bind_consumer("c")
    async with consumer.advisories() as advisories:
        assert isinstance(await advisories.receive(), ConsumerActionAdvisory)


async def ordered(js: JetStream) -> None:
    consumer = (await js.stream("S")).ordered_consumer(filter_subjects=["orders.*"])
    assert len(await consumer.fetch(4)) == 4
    async with consumer.consume() as messages:
        assert (await messages.receive()).data == b"5"


async def ordered_push(js: JetStream) -> None:
    consumer = (await js.stream("S")).ordered_consumer(filter_subjects=["orders.*"])
    async with consumer.consume() as messages:
        for number in range(1, 6):
            assert (await messages.receive()).data == b"%d" % number


async def read_keys(js: JetStream) -> None:
    assert (await (await js.key_value("B")).get("k")).value == b"v"


async def watch_keys(js: JetStream) -> None:
    kv = await js.key_value("B")
    assert await kv.keys() == ["k", "z"]
    assert len(await kv.history("k")) == 1
    async with kv.watch("k") as watcher:
        assert (await watcher.receive()).value == b"v"


async def write_keys(js: JetStream) -> None:
    kv = await js.key_value("B")
    await kv.put("l", b"x")
    await kv.delete("l")


async def resume_watch(js: JetStream) -> None:
    kv = await js.key_value("B")
    async with kv.watch("k", resume_from=1) as watcher:
        assert [entry.value async for entry in watcher.initial()] == [b"v"]


async def create_keys(js: JetStream) -> None:
    kv = await js.key_value("B")
    await kv.create("new", b"x")
    with pytest.raises(KeyExistsError):
        await kv.create("k", b"x")
    await kv.delete("k")
    await kv.create("k", b"x")


async def purge_deletes(js: JetStream) -> None:
    kv = await js.key_value("B")
    assert await kv.purge_deletes(older_than=0) == 1


async def list_objects(js: JetStream) -> None:
    store = await js.object_store("O")
    assert [info.name for info in await store.list()] == ["o", "incomplete"]
    async with store.watch() as watcher:
        assert (await watcher.receive()).name == "o"


async def get_object(js: JetStream) -> None:
    store = await js.object_store("O")
    async with store.get("o") as reader:
        assert await reader.read_all() == b"object"
    async with store.get("incomplete") as reader:
        with pytest.raises(DamagedObjectError):
            await reader.read_all()


async def put_object(js: JetStream) -> None:
    store = await js.object_store("O")
    await store.put("p", b"1")
    await store.put("p", b"2")
    await store.delete("p")


USES: dict[str, Callable[[JetStream], Awaitable[None]]] = {
    "publish": publish,
    "get a message": get_message,
    "get a message, without allow_direct": get_message_of_leader,
    "pull consumer": pull,
    "push consumer": push,
    "advisories of a stream": advisories_of_stream,
    "advisories of a consumer": advisories_of_consumer,
    "ordered consumer": ordered,
    "ordered consumer, without pull requests": ordered_push,
    "read a key": read_keys,
    "keys, history, watch": watch_keys,
    "watch with resume_from": resume_watch,
    "write a key": write_keys,
    "create a key": create_keys,
    "remove deleted keys (purge_deletes)": purge_deletes,
    "list, watch objects": list_objects,
    "get an object": get_object,
    "put, delete an object": put_object,
}


def test_each_line_of_the_table_is_tried() -> None:
    assert list(ROWS) == list(USES)


@pytest.mark.parametrize("name", USES)
async def test_the_permissions_of_the_table_are_enough(name: str) -> None:
    allowed, subscribed = ROWS[name]

    config = f"""
    authorization {{ users: [
        {{user: a, password: a}}
        {{user: u, password: u, permissions: {{
            publish: [{quoted(allowed)}], subscribe: [{quoted(subscribed)}] }} }}
    ] }}
    """
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            NatsServer(jetstream=True, config=config) as server,
            open_nats(server.url, auth=UserPassword("a", "a")) as admin,
        ):
            js = admin.jetstream()
            stream = await js.create_stream(
                "S", subjects=["orders.*"], storage=MEMORY, allow_direct=True
            )
            for number in range(1, 6):
                await js.publish("orders.new", str(number))
            await stream.create_consumer("c", durable_name="c")
            await stream.create_consumer(
                "p",
                durable_name="p",
                deliver_subject="deliver.p",
                idle_heartbeat=5.0,
                flow_control=True,
                ack_policy=AckPolicy.EXPLICIT,
            )
            kv = await js.create_key_value("B", storage=MEMORY)
            for key in ("k", "z"):
                await kv.put(key, b"v")
            await kv.delete("gone")
            store = await js.create_object_store("O", storage=MEMORY)
            await store.put("o", b"object")
            nuid = (await store.put("incomplete", b"object")).nuid
            await (await js.stream("OBJ_O")).purge(subject=f"$O.O.C.{nuid}")
            forbidden: list[str] = []
            async with (
                open_nats(server.url, auth=UserPassword("u", "u")) as nc,
                nc.events() as events,
                trio.open_nursery() as nursery,
            ):

                @nursery.start_soon
                async def note() -> None:
                    async for event in events:
                        if isinstance(event, ServerError):
                            forbidden.append(str(event.error))

                if name.startswith("advisories"):

                    @nursery.start_soon
                    async def change() -> None:
                        while True:
                            await stream.delete_consumer("c")
                            await stream.create_consumer("c", durable_name="c")
                            await js.update_stream(stream.info.config)

                await USES[name](nc.jetstream())
                await nc.flush()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            if name == "ordered consumer, without pull requests":
                forbidden = [one for one in forbidden if "CONSUMER.MSG.NEXT" not in one]
            assert forbidden == []
