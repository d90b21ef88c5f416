"""Entering, stopping and failing of a service."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.connection.helpers import fill, scripted
from tests.services.helpers import (
    HANG_TIMEOUT,
    NO_RECONNECT,
    QUICK,
    Gate,
    adder,
    ask,
    error_of,
    reverse,
    running,
)
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import (
    ConnectionLostError,
    Msg,
    NoRespondersError,
    PermissionsViolationError,
    events,
    open_nats,
)
from trio_nats.services import Service, ServiceRequest
from trio_nats.testing import NatsServer


async def waiting_service(service: Service, client: object = None, **options: object) -> Gate:
    gate = Gate()
    await service.add_endpoint("gate", gate, **options)  # type: ignore[call-overload]
    await service.nc.flush()
    return gate


# --- entering ------------------------------------------------------------------------------------


async def test_a_service_is_entered_once(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            service = adder(nc)
            assert "not entered" in repr(service)
            async with service:
                assert "running" in repr(service)
                with pytest.raises(RuntimeError, match="only once; add it again"):
                    async with service:
                        pass
            assert (service.stopping, service.stopped) == (True, True)
            assert repr(service) == f"<Service 'adder' 1.2.3 {service.id} stopped>"
            with pytest.raises(RuntimeError, match="only once"):
                async with service:
                    pass


async def test_endpoints_before_and_after_entering(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc, open_nats(nats_server.url) as client:
            service = adder(nc)
            await service.add_endpoint("before", reverse)
            async with service:
                await service.add_endpoint("after", reverse)
                service.group("group").endpoint("decorated")(reverse)
                await trio.testing.wait_all_tasks_blocked()
                await nc.flush()
                for subject in ("before", "after", "group.decorated"):
                    assert (await client.request(subject, b"ab")).data == b"ba"


async def test_endpoints_added_while_entering(nats_server: NatsServer) -> None:
    """Other tasks add them, some before and some after subscribing has begun."""
    names = [f"e{number}" for number in range(40)]
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc, trio.open_nursery() as nursery:
            service = adder(nc)

            async def add(name: str, turns: int) -> None:
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await service.add_endpoint(name, reverse)

            for turns, name in enumerate(names):
                nursery.start_soon(add, name, turns // 8)
            async with service:
                await trio.testing.wait_all_tasks_blocked()
                await nc.flush()
                for name in names:
                    assert (await nc.request(name, b"ab")).data == b"ba"


async def test_nothing_is_left_behind(nats_server: NatsServer) -> None:
    async with no_leaks(), open_nats(nats_server.url) as nc:
        await nc.flush()
        before = all_tasks()
        async with adder(nc) as service:
            await service.add_endpoint("reverse", reverse)
            assert nc.stats.subscriptions == 10
            await nc.request("reverse")
        assert all_tasks() == before
        assert nc.stats.subscriptions == 0


async def test_entering_with_a_closed_connection(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        await nc.aclose()
        service = adder(nc)
        service.endpoint("reverse")(reverse)
        with pytest.raises(trio.ClosedResourceError):
            async with service:
                pass


async def test_several_services_on_one_connection(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            async with adder(nc), nc.add_service("other", version="0.1.0") as other:
                async with nc.request_many("$SRV.PING", stop_after=2) as replies:
                    assert len([msg async for msg in replies]) == 2
                assert (await ask(nc, "PING", "other"))["id"] == other.id


# --- an orderly end ------------------------------------------------------------------------------


async def test_leaving_finishes_what_has_arrived(nats_server: NatsServer) -> None:
    replies: list[bytes] = []

    async def request(number: int) -> None:
        replies.append((await client.request("gate", b"%d" % number)).data)

    async with open_nats(nats_server.url) as client, trio.open_nursery() as nursery:
        async with running(nats_server) as (service, _):
            gate = await waiting_service(service, concurrency=2)
            for number in range(5):
                nursery.start_soon(request, number)
            await gate.arrivals(2)
            await client.flush()
            await service.nc.flush()
            service.stop()
            # It gets no more requests once the server has processed the UNSUB.
            await trio.testing.wait_all_tasks_blocked()
            await service.nc.flush()
            with pytest.raises(NoRespondersError):
                await client.request("gate")
            with pytest.raises(NoRespondersError):
                await client.request("$SRV.PING")
            assert "stopping" in repr(service)
            assert not service.stopped
            gate.open()
            await service.wait_stopped()
    assert sorted(replies) == [b"done: %d" % number for number in range(5)]


async def test_a_handler_may_stop_the_service(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client):

        async def stop(request: ServiceRequest) -> bytes:
            service.stop()
            service.stop()
            return b"stopping"

        await service.add_endpoint("stop", stop)
        await service.nc.flush()
        assert (await client.request("stop")).data == b"stopping"
        await service.wait_stopped()
        await service.wait_stopped()


async def test_aclose_waits_for_what_is_under_way(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, client), trio.open_nursery() as nursery:
        gate = await waiting_service(service, concurrency=1)
        nursery.start_soon(client.request, "gate")
        await gate.arrivals(1)
        with trio.move_on_after(0) as scope:
            await service.aclose()
        assert scope.cancelled_caught
        assert service.stopping
        assert not service.stopped
        nursery.start_soon(service.aclose)
        await trio.testing.wait_all_tasks_blocked()
        gate.open()
        await service.aclose()
        assert service.stopped
        await service.aclose()


async def test_a_service_that_was_not_entered_does_not_stop(nats_server: NatsServer) -> None:
    """Waiting for it would take for ever."""
    async with open_nats(nats_server.url) as nc:
        service = nc.add_service("text", version="1.0.0")
        with (
            trio.fail_after(HANG_TIMEOUT),
            pytest.raises(RuntimeError, match="has not been entered"),
        ):
            await service.wait_stopped()


async def test_aclose_of_a_service_that_was_not_entered(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        service = adder(nc)
        await service.aclose()
        assert service.stopping


async def test_requests_left_after_close_timeout_get_an_error(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The running one, which is cancelled, and those that have not been started."""
    replies: list[Msg] = []

    async def request(client: object, data: bytes) -> None:
        replies.append(await client.request("gate", data))  # type: ignore[attr-defined]

    async with open_nats(nats_server.url) as client, trio.open_nursery() as nursery:
        async with running(nats_server, close_timeout=0.05) as (service, _):
            gate = await waiting_service(service, concurrency=1)
            nursery.start_soon(request, client, b"0")
            await gate.arrivals(1)
            nursery.start_soon(request, client, b"1")
            nursery.start_soon(request, client, b"2")
            await trio.testing.wait_all_tasks_blocked()
            await client.publish("gate", b"no reply wanted")
            await client.flush()
            await service.nc.flush()
    assert [error_of(reply) for reply in replies] == [("503", "the service has stopped", b"")] * 3
    assert (gate.waiting, gate.cancelled, gate.finished) == ([b"0"], [b"0"], [])
    assert "service 'adder': requests were still pending after 0.05 s" in caplog.text


@pytest.mark.parametrize(("tasks", "failing"), [(2, False), (2, True), (1, True)])
async def test_what_a_cancelled_handler_raises_does_not_matter(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, tasks: int, failing: bool
) -> None:
    """Such as groups of a nursery, or errors while it cleans up."""
    arrived = [trio.Event() for _ in range(tasks)]
    replies: list[Msg] = []

    async def work(number: int) -> None:
        try:
            arrived[number].set()
            await trio.sleep_forever()
        finally:
            if failing and number == 0:
                raise ValueError("cleaning up")

    async def handler(request: ServiceRequest) -> None:
        if tasks == 1:
            await work(0)
        async with trio.open_nursery() as inner:
            for number in range(tasks):
                inner.start_soon(work, number)

    async def request() -> None:
        replies.append(await client.request("work"))

    async with open_nats(nats_server.url) as client, trio.open_nursery() as nursery:
        async with running(nats_server, close_timeout=0.05) as (service, _):
            await service.add_endpoint("work", handler)
            await service.nc.flush()
            nursery.start_soon(request)
            for event in arrived:
                await event.wait()
    assert [error_of(reply)[0] for reply in replies] == ["503"]
    assert ("the handler of a request failed" in caplog.text) == failing


async def test_adding_to_a_service_that_is_stopping(nats_server: NatsServer) -> None:
    async with running(nats_server) as (service, _):
        service.stop()
        with pytest.raises(trio.ClosedResourceError, match="'adder' is stopping"):
            await service.add_endpoint("late", reverse)
        with pytest.raises(trio.ClosedResourceError, match="'adder' is stopping"):
            service.endpoint("late")(reverse)
        await service.wait_stopped()
        assert len(service.endpoints) == 1


async def test_stopping_right_after_adding_an_endpoint(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        service = adder(nc)
        async with service:
            service.endpoint("reverse")(reverse)
            service.stop()
        assert nc.stats.subscriptions == 0


async def test_two_instances_share_the_work(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc, open_nats(nats_server.url) as client:
            async with adder(nc) as one, adder(nc) as other, adder(nc) as all_of_it:
                for service in (one, other):
                    await service.add_endpoint("count", reverse)
                gate = Gate()
                listener = await all_of_it.add_endpoint("count", gate, queue=None)
                await nc.flush()
                for _ in range(100):
                    await client.request("count")
                counts = [s.stats().endpoints[0].num_requests for s in (one, other)]
                assert sum(counts) == 100
                assert min(counts) > 0
                await client.flush()
                await nc.flush()
                await trio.testing.wait_all_tasks_blocked()
                assert listener.under_way == listener.concurrency
                all_of_it.stop()
                # The other one takes over.
                one.stop()
                await one.wait_stopped()
                for _ in range(10):
                    await client.request("count")
                assert other.stats().endpoints[0].num_requests == counts[1] + 10
                gate.open()


# --- other ends ----------------------------------------------------------------------------------


class Oops(Exception):
    pass


async def test_an_exception_of_the_body_ends_all_at_once(nats_server: NatsServer) -> None:
    async with no_leaks(), open_nats(nats_server.url) as nc, open_nats(nats_server.url) as client:
        with trio.fail_after(HANG_TIMEOUT) as limit:
            with pytest.raises(Oops) as caught:
                async with adder(nc, close_timeout=1000) as service:
                    gate = await waiting_service(service)
                    await client.publish("gate")
                    await gate.arrivals(1)
                    raise Oops
        assert not limit.cancel_called
        assert caught.value.__cause__ is None
        assert gate.cancelled == [b""]
        assert nc.stats.subscriptions == 0
        await nc.flush()


async def test_an_exception_wins_over_a_cancellation(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(Oops):
            with trio.CancelScope() as scope:
                async with adder(nc):
                    scope.cancel()
                    try:
                        await trio.sleep_forever()
                    finally:
                        raise Oops
        await nc.flush()


async def test_adding_to_a_service_that_is_being_cancelled(nats_server: NatsServer) -> None:
    async with open_nats(nats_server.url) as nc:
        with trio.fail_after(HANG_TIMEOUT), trio.CancelScope() as scope:
            async with adder(nc) as service:
                try:
                    scope.cancel()
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True), pytest.raises(trio.ClosedResourceError):
                        while True:
                            await service.add_endpoint("reverse", reverse)
        assert nc.stats.subscriptions == 0


async def test_an_exception_group_of_the_body_propagates_unchanged(nats_server: NatsServer) -> None:
    group = ExceptionGroup("", [Oops(), Oops()])
    async with open_nats(nats_server.url) as nc:
        with pytest.raises(ExceptionGroup) as caught:
            async with adder(nc):
                raise group
        assert caught.value is group


async def test_cancelling_ends_all_at_once(nats_server: NatsServer) -> None:
    async with no_leaks(), open_nats(nats_server.url) as nc:
        with trio.fail_after(HANG_TIMEOUT) as limit, trio.CancelScope() as scope:
            async with adder(nc, close_timeout=1000) as service:
                gate = await waiting_service(service)
                await nc.publish("gate")
                await gate.arrivals(1)
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert not limit.cancel_called
        assert gate.cancelled == [b""]
        assert nc.stats.subscriptions == 0


async def test_cancelling_while_it_finishes(nats_server: NatsServer) -> None:
    """The block had ended normally, and was waiting for running requests."""
    async with no_leaks(), open_nats(nats_server.url) as nc:
        with trio.fail_after(HANG_TIMEOUT), trio.CancelScope() as scope:
            async with adder(nc, close_timeout=1000) as service, trio.open_nursery() as nursery:
                gate = await waiting_service(service)
                await nc.publish("gate")
                await gate.arrivals(1)
                nursery.cancel_scope.cancel()
                scope.deadline = trio.current_time() + 0.05
            raise AssertionError
        assert scope.cancelled_caught
        assert gate.cancelled == [b""]


@pytest.mark.parametrize("waiting", [True, False])
async def test_a_forbidden_endpoint_ends_the_block(waiting: bool) -> None:
    config = """
    authorization { users = [
        {user: server, password: x, permissions: {subscribe: {deny: "forbidden"}}} ] }
    """
    with trio.fail_after(HANG_TIMEOUT):
        async with NatsServer(config=config) as server:
            async with open_nats(server.url.replace("//", "//server:x@")) as nc:
                service = adder(nc)
                with pytest.raises(PermissionsViolationError) as caught:
                    async with service:
                        await service.add_endpoint("forbidden", reverse)
                        if waiting:
                            await service.wait_stopped()
                        else:
                            await trio.sleep_forever()
                assert caught.value.subject == "forbidden"
                with pytest.raises(PermissionsViolationError):
                    await service.wait_stopped()
                await nc.flush()
                assert nc.stats.subscriptions == 0


async def test_a_lost_connection_ends_the_block(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=NO_RECONNECT) as nc:
            with pytest.raises(ConnectionLostError):
                async with adder(nc):
                    await nats_server.stop()
                    await trio.sleep_forever()


async def test_an_exception_of_the_body_takes_precedence_over_a_lost_connection(
    nats_server: NatsServer,
) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=NO_RECONNECT) as nc:
            with pytest.raises(Oops):
                async with adder(nc) as service:
                    try:
                        await nats_server.stop()
                        await service.wait_stopped()
                    finally:
                        raise Oops


@pytest.mark.parametrize("drain", [True, False])
async def test_closing_or_draining_the_connection_stops_the_service(
    nats_server: NatsServer, drain: bool
) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            async with adder(nc) as service:
                await service.add_endpoint("reverse", reverse)
                await (nc.drain() if drain else nc.aclose())
                await service.wait_stopped()
            assert nc.state == "closed"


async def test_closing_the_connection_during_a_handler(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "trio_nats.services")
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            async with adder(nc) as service:
                gate = await waiting_service(service)
                await nc.publish("gate", b"x", reply="nobody")
                await gate.arrivals(1)
                await nc.aclose()
                gate.open()
            assert gate.finished == [b"x"]
    assert "endpoint 'gate': no connection to send the response on" in caplog.text


# --- reconnecting --------------------------------------------------------------------------------


async def test_reconnecting(nats_server: NatsServer) -> None:
    with trio.fail_after(HANG_TIMEOUT):
        async with (
            open_nats(nats_server.url, reconnect=QUICK) as nc,
            open_nats(nats_server.url, reconnect=QUICK) as client,
        ):
            async with adder(nc) as service, nc.events() as happening, client.events() as also:
                await service.add_endpoint("reverse", reverse)
                await nc.flush()
                await client.request("reverse")
                await nats_server.restart()
                for channel in (happening, also):
                    async for event in channel:
                        if isinstance(event, events.Reconnected):
                            break
                await nc.flush()
                assert (await client.request("reverse", b"ab")).data == b"ba"
                assert (await ask(client, "STATS"))["endpoints"][0]["num_requests"] == 2


async def test_stopping_without_a_server(nats_server: NatsServer) -> None:
    """It does not wait and raises no error."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=QUICK, close_timeout=0) as nc:
            async with adder(nc, close_timeout=1000) as service, nc.events() as happening:
                await service.add_endpoint("reverse", reverse)
                await nats_server.stop()
                async for event in happening:
                    if isinstance(event, events.Disconnected):
                        break
            assert service.stopped


async def test_responses_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    """The outbox is full, because the server does not read."""
    caplog.set_level(logging.DEBUG, "trio_nats.services")
    async with scripted(outbox_size=500_000) as (nc, peer):
        async with adder(nc, close_timeout=0) as service:
            gate = await waiting_service_without_flush(service)
            sid = await sid_of(peer, b"gate")
            await peer.send(b"MSG gate %b inbox.x 1\r\nx\r\n" % sid)
            await gate.arrivals(1)
            await fill(nc, 500_000)
        assert gate.cancelled == [b"x"]
    assert "error 503 could not be sent" in caplog.text


async def waiting_service_without_flush(service: Service) -> Gate:
    gate = Gate()
    await service.add_endpoint("gate", gate)
    return gate


async def sid_of(peer: object, subject: bytes) -> bytes:
    while True:
        line: bytes = await peer.expect_line()  # type: ignore[attr-defined]
        if line.startswith(b"SUB " + subject + b" "):
            return line.split()[-1]
