"""Stopping single endpoints and groups while their service runs."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.services.helpers import (
    HANG_TIMEOUT,
    QUICK,
    Gate,
    adder,
    ask,
    error_of,
    reverse,
    running,
)
from tests.support.checkpoints import Operation, cancel_at_each_checkpoint
from tests.support.leaks import all_tasks
from trio_nats import Connection, ConnectionState, Msg, NoRespondersError, events, open_nats
from trio_nats.services import Endpoint, Service, ServiceRequest
from trio_nats.testing import NatsServer


async def has_responders(nc: Connection, subject: str) -> bool:
    try:
        await nc.request(subject, b"ab")
    except NoRespondersError:
        return False
    return True


async def names(client: Connection) -> list[str]:
    """Return the endpoints that discovery shows."""
    info = [one["name"] for one in (await ask(client, "INFO"))["endpoints"]]
    assert [one["name"] for one in (await ask(client, "STATS"))["endpoints"]] == info
    return info


async def settled(service: Service) -> None:
    """Wait until the server has processed an UNSUB of the service."""
    await trio.testing.wait_all_tasks_blocked()
    await service.nc.flush()


async def test_stopping_one_endpoint(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        before = service.nc.stats.subscriptions
        endpoint = await service.add_endpoint("other", reverse)
        await service.nc.flush()
        assert await names(client) == ["reverse", "other"]
        assert service.endpoints == (service.endpoints[0], endpoint)
        assert (endpoint.stopping, endpoint.stopped) == (False, False)
        tasks = all_tasks()
        await endpoint.aclose()
        assert (endpoint.stopping, endpoint.stopped) == (True, True)
        assert "stopped" in repr(endpoint)
        assert [one.name for one in service.endpoints] == await names(client) == ["reverse"]
        assert not await has_responders(client, "other")
        assert await has_responders(client, "reverse")
        assert service.nc.stats.subscriptions == before
        await trio.testing.wait_all_tasks_blocked()
        assert len(tasks - all_tasks()) == 2  # the endpoint and its worker
        # Repeated, it is harmless, and the name is free again.
        endpoint.stop()
        await endpoint.aclose()
        await service.add_endpoint("other", reverse)
        await service.nc.flush()
        assert await has_responders(client, "other")


async def test_it_responds_to_requests_that_have_arrived(nats_server: NatsServer) -> None:
    replies: list[bytes] = []

    async def request(number: int) -> None:
        replies.append((await client.request("gate", b"%d" % number)).data)

    async with running(nats_server) as (service, client):
        async with trio.open_nursery() as nursery:
            gate = Gate()
            endpoint = await service.add_endpoint("gate", gate, concurrency=2)
            await service.nc.flush()
            for number in range(5):
                nursery.start_soon(request, number)
            await gate.arrivals(2)
            await client.flush()
            await service.nc.flush()
            endpoint.stop()
            assert (endpoint.stopping, endpoint.stopped) == (True, False)
            assert "stopping" in repr(endpoint)
            await settled(service)
            assert await names(client) == ["reverse"]
            assert not await has_responders(client, "gate")
            assert await has_responders(client, "reverse")
            gate.open()
            await endpoint.aclose()
        # The last response may not have been written yet when the endpoint has stopped.
        assert sorted(replies) == [b"done: %d" % number for number in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize("end", ["endpoint", "group", "service", "leave", "drain"])
async def test_no_request_is_lost_while_another_instance_takes_over(
    nats_server: NatsServer, end: str
) -> None:
    count = 2000
    taken = 0
    enough, over = trio.Event(), trio.Event()

    async def handle(request: ServiceRequest) -> bytes:
        nonlocal taken
        taken += 1
        if taken == count // 10:
            enough.set()
        await trio.lowlevel.checkpoint()
        return request.data

    async def publish(nursery: trio.Nursery) -> None:
        for number in range(count):
            await client.publish("work", b"%d" % number, reply="replies")
            await trio.lowlevel.checkpoint()

    async def serve(nc: Connection, *, task_status: trio.TaskStatus[Service]) -> None:
        async with adder(nc) as service:
            await service.group("", queue="q").add_endpoint("work", handle)
            await nc.flush()
            task_status.started(service)
            await (enough if end == "leave" else over).wait()

    async with running(nats_server) as (other, client), open_nats(nats_server.url) as nc:
        await other.add_endpoint("work", reverse)
        await other.nc.flush()
        async with client.subscribe("replies") as replies, trio.open_nursery() as nursery:
            service = await nursery.start(serve, nc)
            nursery.start_soon(publish, nursery)
            await enough.wait()
            match end:
                case "endpoint":
                    await service.endpoints[0].aclose()
                case "group":
                    await service.group("").aclose()
                case "service":
                    await service.aclose()
                case "drain":
                    await nc.drain()
            found = {(await replies.receive()).data for _ in range(count)}
            assert len(found | {one[::-1] for one in found}) >= count
            assert count // 10 <= taken < count
            over.set()


@pytest.mark.slow
async def test_replacing_an_endpoint_again_and_again(nats_server: NatsServer) -> None:
    """Each request is handled once: a new one is subscribed before an old one stops."""
    handled: list[bytes] = []
    published = 0

    async def handle(request: ServiceRequest) -> bytes:
        handled.append(request.data)
        await trio.lowlevel.checkpoint()
        return request.data

    async def publish() -> None:
        nonlocal published
        while not over.is_set():
            await client.publish("work", b"%d" % published, reply="replies")
            published += 1
            await trio.lowlevel.checkpoint()

    over = trio.Event()
    async with running(nats_server) as (service, client), client.subscribe("replies") as replies:
        old = await service.add_endpoint("work", handle)
        await service.nc.flush()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            for _ in range(50):
                new = await service.add_endpoint("work", handle)
                await service.nc.flush()
                await old.aclose()
                old = new
            over.set()
        responses = [await replies.receive() for _ in range(published)]
        assert [msg for msg in responses if msg.raw_headers is not None] == []  # no errors
        found = sorted(int(msg.data) for msg in responses)
        assert found == [*range(published)] == sorted(map(int, handled))
        await client.flush()
        with pytest.raises(trio.WouldBlock):
            replies.receive_nowait()
        assert service.nc.stats.subscriptions == 11


async def test_a_handler_may_stop_its_endpoint(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):

        @service.endpoint("once")
        async def once(request: ServiceRequest) -> bytes:
            service.endpoints[1].stop()
            return b"once"

        (_, endpoint) = service.endpoints
        await settled(service)
        assert (await client.request("once")).data == b"once"
        await endpoint.aclose()
        assert not await has_responders(client, "once")
        assert await has_responders(client, "reverse")


async def test_requests_left_after_close_timeout_get_an_error(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The running one, which is cancelled, and those that have not been started."""
    replies: list[Msg] = []

    async def request() -> None:
        replies.append(await client.request("gate"))

    async with running(nats_server, close_timeout=0.05) as (service, client):
        gate, other = Gate(), Gate()
        endpoint = await service.add_endpoint("gate", gate, concurrency=1)
        await service.add_endpoint("other", other)
        await service.nc.flush()
        await client.publish("other")
        await other.arrivals(1)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(request)
            await gate.arrivals(1)
            await client.flush()
            await service.nc.flush()
            await endpoint.aclose()
        assert [error_of(one) for one in replies] == [("503", "the endpoint has stopped", b"")] * 3
        assert (len(gate.cancelled), gate.finished) == (1, [])
        assert "endpoint 'gate': requests were still pending after 0.05 s" in caplog.text
        # The rest of the service goes on.
        assert not service.stopping
        assert other.cancelled == []
        other.open()
        assert await has_responders(client, "reverse")


async def test_endpoints_with_the_same_name_and_subject(nats_server: NatsServer) -> None:
    """Those with the same queue group share the requests; one that is stopped leaves the others."""
    counts = [0, 0, 0]

    def counter(number: int) -> object:
        async def handle(request: ServiceRequest) -> None:
            counts[number] += 1
            if number < 2:
                await request.respond(b"%d" % number)

        return handle

    async with running(nats_server) as (service, client):
        for number, queue in enumerate(["q", "q", None]):
            await service.add_endpoint("same", counter(number), queue=queue)  # type: ignore[arg-type]
        await service.nc.flush()
        assert await names(client) == ["reverse", "same", "same", "same"]
        for _ in range(100):
            await client.request("same")
        await trio.testing.wait_all_tasks_blocked()
        assert (counts[0] + counts[1], counts[2]) == (100, 100)
        assert min(counts) > 0
        await service.endpoints[1].aclose()
        counts[:] = [0, 0, 0]
        for _ in range(10):
            assert (await client.request("same")).data == b"1"
        await trio.testing.wait_all_tasks_blocked()
        assert counts == [0, 10, 10]
        assert await names(client) == ["reverse", "same", "same"]


# --- groups --------------------------------------------------------------------------------------


async def test_stopping_a_group(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        math = service.group("math")
        for group in (math, math.group("v2"), service.group("mathematics"), service):
            await group.add_endpoint("sum", reverse)
        await service.add_endpoint("outside", reverse, subject="math.outside")
        await service.nc.flush()
        # A group is its prefix.
        assert service.group("math").endpoints == math.endpoints == service.endpoints[1:3]
        assert math.group("v2").endpoints == service.endpoints[2:3]
        assert service.group("").endpoints == service.endpoints
        stopped = math.endpoints
        await service.group("math").aclose()
        assert [one.stopped for one in stopped] == [True, True]
        assert math.endpoints == ()
        assert [one["subject"] for one in (await ask(client, "INFO"))["endpoints"]] == [
            "reverse",
            "mathematics.sum",
            "sum",
            "math.outside",
        ]
        for subject in ("math.sum", "math.v2.sum"):
            assert not await has_responders(client, subject)
        await math.aclose()
        await math.add_endpoint("sum", reverse)
        await service.nc.flush()
        assert await has_responders(client, "math.sum")


async def test_closing_a_group_again_waits_as_well(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        gate = Gate()
        group = service.group("group")
        endpoint = await group.add_endpoint("gate", gate)
        await service.nc.flush()
        await client.publish("group.gate")
        await gate.arrivals(1)
        for _ in range(2):
            with trio.move_on_after(0) as scope:
                await group.aclose()
            assert scope.cancelled_caught
            assert group.endpoints == ()
        gate.open()
        await group.aclose()
        assert endpoint.stopped


# --- at other times ------------------------------------------------------------------------------


async def test_stopping_before_the_service_is_entered(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        service = adder(nc)
        endpoint = await service.add_endpoint("early", reverse)
        kept = await service.add_endpoint("kept", reverse)
        await endpoint.aclose()
        assert (endpoint.stopped, service.endpoints) == (True, (kept,))
        async with service:
            await nc.flush()
            assert not await has_responders(nc, "early")
            assert await has_responders(nc, "kept")


async def test_entering_a_service_that_was_stopped(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        service = adder(nc)
        endpoint = await service.add_endpoint("early", reverse)
        service.stop()
        async with service:
            await service.wait_stopped()
            assert (endpoint.stopped, service.endpoints) == (True, (endpoint,))
        assert nc.stats.subscriptions == 0


async def test_stopping_while_the_service_is_entered(nats_server: NatsServer) -> None:
    """Before, during and after it is subscribed."""
    async with open_nats(nats_server.url) as nc:
        for turns in range(8):
            service = adder(nc)
            doomed = [await service.add_endpoint(f"e{number}", reverse) for number in range(3)]

            done = trio.Event()

            async def stop(turns: int, doomed: list[Endpoint], done: trio.Event) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                for endpoint in doomed:
                    await endpoint.aclose()
                done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(stop, turns, doomed, done)
                async with service:
                    await done.wait()
                    await nc.flush()
                    assert service.endpoints == ()
                    assert all(endpoint.stopped for endpoint in doomed)
                    assert nc.stats.subscriptions == 9
                    for number in range(3):
                        assert not await has_responders(nc, f"e{number}")


async def test_stopping_right_after_adding_with_the_decorator(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        service.endpoint("brief")(reverse)
        endpoint = service.endpoints[1]
        await endpoint.aclose()
        assert await names(client) == ["reverse"]
        assert service.nc.stats.subscriptions == 10
        assert not service.stopping


async def test_stopping_an_endpoint_of_a_stopped_service(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, _):
        (endpoint,) = service.endpoints
        await service.aclose()
        assert (endpoint.stopping, endpoint.stopped) == (True, True)
        assert service.endpoints == (endpoint,)
        await endpoint.aclose()
        assert service.endpoints == ()


async def test_a_stopping_service_stops_an_endpoint_that_is_stopping(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(nats_server, close_timeout=0.05) as (service, client):
        gate = Gate()
        endpoint = await service.add_endpoint("gate", gate)
        await service.nc.flush()
        await client.publish("gate")
        await gate.arrivals(1)
        endpoint.stop()
        await service.aclose()
        assert endpoint.stopped
        assert len(gate.cancelled) == 1


async def test_a_stopped_endpoint_is_not_restored(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            open_nats(nats_server.url, reconnect=QUICK) as nc,
            adder(nc) as service,
            nc.events() as happening,
        ):
            kept = await service.add_endpoint("kept", reverse)
            doomed = await service.add_endpoint("doomed", reverse)
            lost = await service.add_endpoint("lost", reverse)
            await nc.flush()
            await doomed.aclose()
            await nats_server.stop()
            async for event in happening:
                if isinstance(event, events.Disconnected):
                    break
            await lost.aclose()  # waits for no server
            await nats_server.start()
            async for event in happening:
                if isinstance(event, events.Reconnected):
                    break
            await nc.flush()
            assert service.endpoints == (kept,)
            assert await has_responders(nc, "kept")
            for subject in ("doomed", "lost"):
                assert not await has_responders(nc, subject)


@pytest.mark.slow
async def test_cancelling_at_each_checkpoint(nats_server: NatsServer) -> None:
    """The endpoint stops all the same, and the request that it has is responded to."""
    async with running(nats_server) as (service, client), trio.open_nursery() as nursery:
        group = service.group("group")
        tasks = all_tasks()
        endpoints: list[Endpoint] = []
        replies: list[bytes] = []

        async def request() -> None:
            replies.append((await client.request("group.gate", b"x")).data)

        async def make() -> Operation:
            gate = Gate()
            endpoints.append(await group.add_endpoint("gate", gate))
            await service.nc.flush()
            nursery.start_soon(request)
            await gate.arrivals(1)
            gate.open()
            return group.aclose

        async def check() -> None:
            if len(endpoints) == 1:  # cancelled before it began
                endpoints[0].stop()
            assert all(endpoint.stopping for endpoint in endpoints)
            for endpoint in endpoints:
                await endpoint.aclose()
            assert await names(client) == ["reverse"]
            assert not await has_responders(client, "group.gate")
            assert service.nc.stats.subscriptions == 10
            assert len(replies) == len(endpoints)
            assert all_tasks() == tasks

        assert await cancel_at_each_checkpoint(make, check) >= 2
        assert set(replies) == {b"done: x"}


# --- ends that do not wait -----------------------------------------------------------------------


@pytest.mark.parametrize("end", ["cancel", "raise"])
async def test_requests_left_by_a_cancelled_service_get_an_error(
    nats_server: NatsServer, end: str
) -> None:
    """Those that have arrived, so clients need not wait until their time is over."""
    replies: list[Msg] = []

    async def request() -> None:
        replies.append(await client.request("gate"))

    async with (
        open_nats(nats_server.url) as nc,
        open_nats(nats_server.url) as client,
        trio.open_nursery() as nursery,
    ):
        gate = Gate()
        try:
            with trio.CancelScope() as scope:
                async with adder(nc) as service:
                    await service.add_endpoint("gate", gate, concurrency=1)
                    await nc.flush()
                    for _ in range(3):
                        nursery.start_soon(request)
                    await gate.arrivals(1)
                    await client.flush()
                    await nc.flush()
                    if end == "raise":
                        raise KeyError
                    scope.cancel()
                    await trio.sleep_forever()
        except KeyError:
            assert end == "raise"
        assert nc.stats.subscriptions == 0
    assert [error_of(one) for one in replies] == [("503", "the service has stopped", b"")] * 3


# --- draining the connection ---------------------------------------------------------------------


@pytest.mark.parametrize("stop_first", [True, False])
async def test_draining_the_connection_waits_for_handlers(
    nats_server: NatsServer, stop_first: bool
) -> None:
    replies: list[bytes] = []

    async def request(number: int) -> None:
        replies.append((await client.request("gate", b"%d" % number)).data)

    async with (
        open_nats(nats_server.url) as nc,
        open_nats(nats_server.url) as client,
        adder(nc) as service,
        trio.open_nursery() as nursery,
    ):
        gate = Gate()
        endpoint = await service.add_endpoint("gate", gate, concurrency=2)
        await nc.flush()
        for number in range(5):
            nursery.start_soon(request, number)
        await gate.arrivals(2)
        await client.flush()
        await nc.flush()
        if stop_first:
            endpoint.stop()
        nursery.start_soon(nc.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert nc.state is ConnectionState.DRAINING
        gate.open()
        await service.wait_stopped()
        await client.flush()
        while len(replies) < 5:
            await trio.lowlevel.checkpoint()
        assert sorted(replies) == [b"done: %d" % number for number in range(5)]


async def test_draining_the_connection_is_bounded(nats_server: NatsServer) -> None:
    """By ``close_timeout``, if a handler does not end."""
    async with running(nats_server, close_timeout=0.05) as (service, client):
        gate = Gate()
        await service.add_endpoint("gate", gate)
        await service.nc.flush()
        async with trio.open_nursery() as nursery:
            replies: list[Msg] = []

            async def request() -> None:
                replies.append(await client.request("gate"))

            nursery.start_soon(request)
            await gate.arrivals(1)
            await service.nc.drain()
            assert service.nc.state is ConnectionState.CLOSED
        assert error_of(replies[0])[0] == "503"


@pytest.mark.parametrize("child", [True, False])
async def test_a_handler_that_drains_the_connection_does_not_wait_for_itself(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, child: bool
) -> None:
    caplog.set_level(logging.WARNING, "trio_nats.services")

    async def drain(request: ServiceRequest) -> bytes:
        if child:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(service.nc.drain)
        else:
            await service.nc.drain()
        return b"drained"

    async with running(nats_server, close_timeout=1000) as (service, client):
        await service.add_endpoint("drain", drain)
        await service.nc.flush()
        assert (await client.request("drain")).data == b"drained"
        await service.wait_stopped()
    assert not caplog.records


async def test_handlers_that_drain_do_not_wait_for_each_other(nats_server: NatsServer) -> None:
    waiting = 0
    drained: list[str] = []
    both = trio.Event()

    async def drain(request: ServiceRequest) -> bytes:
        nonlocal waiting
        waiting += 1
        if waiting == 2:
            both.set()
        await both.wait()
        await service.nc.drain()
        drained.append(request.subject)
        return b"drained"

    async with running(nats_server, close_timeout=1000) as (service, client):
        for name in ("one", "two"):
            await service.add_endpoint(name, drain)
        await service.nc.flush()
        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(client.request, name)
        assert sorted(drained) == ["one", "two"]


async def test_discovery_requests_are_responded_to_while_draining(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):
        for verb in ("PING", "INFO", "STATS"):
            await client.publish(f"$SRV.{verb}", reply="replies")
        async with client.subscribe("replies") as replies:
            await client.flush()
            for _ in range(50):
                await client.publish("$SRV.INFO", reply="replies")
            await client.flush()
            await service.nc.drain()
            assert len([await replies.receive() for _ in range(50)]) == 50
