"""Requests to endpoints: replies, errors, and misbehaving handlers."""

from __future__ import annotations

import contextvars
import logging
from typing import Any

import pytest
import trio
import trio.testing

from tests.services.helpers import HANG_TIMEOUT, Gate, adder, error_of, running
from trio_nats import (
    BytesCodec,
    DecodeError,
    JSONCodec,
    Msg,
    RequestTimeoutError,
    TextCodec,
    open_nats,
)
from trio_nats.services import (
    Service,
    ServiceError,
    ServiceRequest,
    check_reply,
    service_error,
)
from trio_nats.testing import NatsServer

SECRET = "s3cr3t-w0rd"


async def settled(service: Service) -> None:
    """Wait until no request is running, because statistics are updated after the reply."""
    await trio.testing.wait_all_tasks_blocked()
    assert [endpoint.under_way for endpoint in service.endpoints if endpoint.under_way] == []


# --- responses -----------------------------------------------------------------------------------


async def test_the_return_value_is_the_reply(nats_server: NatsServer) -> None:
    async with running(nats_server) as (_, client):
        reply = await client.request("reverse", b"abc")
        assert reply.data == b"cba"
        assert reply.raw_headers is None


async def test_a_request_has_the_fields_of_the_message(nats_server: NatsServer) -> None:
    seen: list[ServiceRequest] = []

    async def note(request: ServiceRequest) -> str:
        seen.append(request)
        return "grün"

    async with running(nats_server) as (service, client):
        await service.add_endpoint("note", note, subject="note.*.>")
        await service.nc.flush()
        reply = await client.request("note.a.b.c", b"x", headers={"Color": ["red", "blue"]})
        assert reply.data.decode() == "grün"
        (request,) = seen
        assert request.subject == "note.a.b.c"
        assert request.data == b"x"
        assert request.headers.get_all("Color") == ["red", "blue"]
        assert request.reply is not None
        assert request.raw.reply == request.reply
        assert "note.a.b.c" in repr(request)


async def test_responding_with_headers(nats_server: NatsServer) -> None:
    async def respond(request: ServiceRequest) -> None:
        await request.respond(b"x", headers={"A": "b"})

    async with running(nats_server) as (service, client):
        await service.add_endpoint("respond", respond)
        await service.nc.flush()
        reply = await client.request("respond")
        assert (reply.data, reply.headers.pairs()) == (b"x", [("A", "b")])


async def test_responding_more_than_once(nats_server: NatsServer) -> None:
    async def count(request: ServiceRequest) -> bytes:
        await request.respond(b"1")
        await request.respond(b"2")
        return b"3"

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("count", count)
        await service.nc.flush()
        async with client.request_many("count", stop_after=3) as replies:
            assert [msg.data async for msg in replies] == [b"1", b"2", b"3"]
        # One reply is enough for others.
        assert (await client.request("count")).data == b"1"
        assert (await client.request("count")).data == b"1"
        await settled(service)
        assert endpoint.stats().num_requests == 3
        assert endpoint.stats().num_errors == 0


async def test_never_responding(nats_server: NatsServer) -> None:
    """The handler may have forwarded the request, so no reply is sent."""
    keeper, kept = trio.open_memory_channel[ServiceRequest](10)

    async def keep(request: ServiceRequest) -> None:
        keeper.send_nowait(request)

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("keep", keep)
        await service.nc.flush()
        with pytest.raises(RequestTimeoutError):
            await client.request("keep", timeout=0.05)
        async with client.request_many("keep", stop_after=1) as replies:
            await kept.receive()
            request = await kept.receive()
            await settled(service)
            await request.respond(b"late")
            assert (await replies.receive()).data == b"late"
        assert endpoint.stats().num_errors == 0


async def test_requests_without_reply(nats_server: NatsServer) -> None:
    """They are handled like others, and their replies are dropped."""
    seer, seen = trio.open_memory_channel[bytes](10)

    async def respond_always(request: ServiceRequest) -> bytes:
        assert request.reply is None
        await request.respond(b"x")
        await request.respond_error(400, "no")
        seer.send_nowait(request.data)
        if request.data == b"2":
            raise ServiceError(500, "no")
        return b"y"

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("any", respond_always)
        await service.nc.flush()
        for data in (b"1", b"2", b"3"):
            await client.publish("any", data)
        assert {await seen.receive() for _ in range(3)} == {b"1", b"2", b"3"}
        await settled(service)
        assert endpoint.stats().num_requests == 3
        assert endpoint.stats().num_errors == 3


# --- errors --------------------------------------------------------------------------------------


async def fail(service: Service, client: Any, error: BaseException | None, **options: Any) -> Msg:
    async def failing(request: ServiceRequest) -> bytes | None:
        if error is not None:
            raise error
        return None

    await service.add_endpoint("fail", failing)
    await service.nc.flush()
    reply: Msg = await client.request("fail", **options)
    await settled(service)
    return reply


async def test_the_response_to_an_exception_is_its_type_alone(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(nats_server) as (service, client):
        reply = await fail(service, client, ValueError(SECRET))
        assert error_of(reply) == ("500", "ValueError", b"")
        assert SECRET not in repr(reply)
        # The service goes on.
        assert error_of(await client.request("fail")) == ("500", "ValueError", b"")
        assert (await client.request("reverse", b"ab")).data == b"ba"
        await settled(service)
        stats = service.stats().endpoints[1]
        assert (stats.num_requests, stats.num_errors) == (2, 2)
        assert stats.last_error == "500:ValueError"
    record = caplog.records[0]
    assert (record.name, record.levelno) == ("trio_nats.services", logging.ERROR)
    assert record.exc_info is not None
    assert record.exc_info[0] is ValueError


async def test_a_service_error_is_sent_as_it_is(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(nats_server) as (service, client):
        reply = await fail(service, client, ServiceError(404, "no such\nuser", b"{}"))
        assert error_of(reply) == ("404", "no such user", b"{}")
        assert service.endpoints[1].stats().last_error == "404:no such user"
        with pytest.raises(ServiceError) as caught:
            check_reply(reply)
        assert (caught.value.code, caught.value.description) == (404, "no such user")
        assert caught.value.data == b"{}"
    assert not caplog.records


async def test_a_service_error_out_of_a_nursery(nats_server: NatsServer) -> None:
    async def child() -> None:
        raise ServiceError(409, "conflict")

    async def handler(request: ServiceRequest) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(child)

    async with running(nats_server) as (service, client):
        await service.add_endpoint("fail", handler)
        await service.nc.flush()
        assert error_of(await client.request("fail")) == ("409", "conflict", b"")


async def test_several_exceptions_at_once(nats_server: NatsServer) -> None:
    group = ExceptionGroup(SECRET, [ServiceError(409, "one"), ServiceError(410, "other")])
    async with running(nats_server) as (service, client):
        assert error_of(await fail(service, client, group)) == ("500", "ExceptionGroup", b"")


async def test_responding_with_an_error(nats_server: NatsServer) -> None:
    async def handler(request: ServiceRequest) -> None:
        await request.respond_error(
            429, "too many", b"later", headers={"Retry-After": "5", "Nats-Service-Error": "mine"}
        )

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("fail", handler)
        await service.nc.flush()
        reply = await client.request("fail")
        assert error_of(reply) == ("429", "too many", b"later")
        assert reply.headers["Retry-After"] == "5"
        await settled(service)
        assert (endpoint.stats().num_errors, endpoint.stats().last_error) == (1, "429:too many")


async def test_an_error_that_is_too_large(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(nats_server) as (service, client):
        large = ServiceError(400, "x" * 3000, bytes(2 * 1024 * 1024))
        reply = await fail(service, client, large)
        assert error_of(reply) == ("500", "MaxPayloadError", b"")
        assert service.endpoints[1].stats().last_error == "400:" + "x" * 1024
    assert "could not be sent" in caplog.text


async def test_a_response_that_cannot_be_sent(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def large(request: ServiceRequest) -> bytes:
        return bytes(2 * 1024 * 1024)

    async def wrong(request: ServiceRequest) -> Any:
        return 3

    async def injected(request: ServiceRequest) -> None:
        await request.respond(b"", headers={"A": "b\r\nC: d"})

    async with running(nats_server) as (service, client):
        for handler, expected in (
            (large, "MaxPayloadError"),
            (wrong, "TypeError"),
            (injected, "InvalidHeaderError"),
        ):
            await service.add_endpoint("bad", handler, subject=expected)
            await service.nc.flush()
            assert error_of(await client.request(expected)) == ("500", expected, b"")
    assert "not int; to send other objects, await request.respond(value, codec=...)" in caplog.text


async def test_a_handler_that_is_not_async(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    def plain(request: ServiceRequest) -> Any:
        return b"x"

    async with running(nats_server) as (service, client):
        await service.add_endpoint("plain", plain)
        await service.nc.flush()
        assert error_of(await client.request("plain")) == ("500", "TypeError", b"")
    assert "the handler of endpoint 'plain' must be async; it returned bytes" in caplog.text


async def test_a_reply_subject_that_nobody_can_publish_to(nats_server: NatsServer) -> None:
    """A client must not be able to stop the service."""
    async with running(nats_server) as (service, _):
        stream = await trio.open_tcp_stream("127.0.0.1", nats_server.port)
        async with stream:
            await stream.send_all(b"CONNECT {}\r\nPUB reverse a.*.>> 1\r\nx\r\nPING\r\n")
            received = b""
            while b"PONG" not in received:
                received += await stream.receive_some()
        async with open_nats(nats_server.url) as nc:
            assert (await nc.request("reverse", b"ab")).data == b"ba"
        assert not service.stopping


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_base_exceptions_of_a_handler_propagate(
    nats_server: NatsServer, error: type[BaseException]
) -> None:
    async def handler(request: ServiceRequest) -> None:
        raise error

    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            with pytest.raises(error):
                async with adder(nc) as service:
                    await service.add_endpoint("stop", handler)
                    await nc.publish("stop")
                    await trio.sleep_forever()
            assert service.stopped
            await nc.flush()


async def test_reading_errors_of_others() -> None:
    def reply(**headers: str) -> Msg:
        return Msg.new("x", b"y", headers={k.replace("_", "-"): v for k, v in headers.items()})

    assert service_error(Msg.new("x")) is None
    for code, number in (("7", 7), (" 07 ", 7), ("x", 0), ("-1", 0), ("9" * 99, 0), ("²", 0)):
        error = service_error(reply(Nats_Service_Error="no", Nats_Service_Error_Code=code))
        assert error is not None
        assert (error.code, error.description, error.data) == (number, "no", b"y")
    for headers in ({"Nats_Service_Error": ""}, {"Nats_Service_Error_Code": "0"}):
        with pytest.raises(ServiceError, match="0: "):
            check_reply(reply(**headers))


# --- values --------------------------------------------------------------------------------------


async def test_values(nats_server: NatsServer) -> None:
    numbers, number = JSONCodec(list[int]), JSONCodec(int)

    async def add(request: ServiceRequest) -> None:
        values = request.decode(numbers)
        await request.respond(sum(values), codec=number, headers={"count": str(len(values))})

    async def twice(request: ServiceRequest) -> str:
        await request.respond([1], codec=numbers)
        await request.respond_error(400, "enough")
        return request.decode(TextCodec()) * 2

    async with running(nats_server) as (service, client):
        await service.add_endpoint("sum", add)
        await service.add_endpoint("twice", twice)
        await service.nc.flush()
        reply = check_reply(await client.request("sum", [1, 2], codec=numbers))
        assert (reply.decode(number), reply.headers["count"]) == (3, "2")
        async with client.request_many("twice", "ab", stop_after=3) as replies:
            assert [msg.data async for msg in replies] == [b"[1]", b"", b"abab"]


@pytest.mark.parametrize("nested", [False, True])
async def test_the_response_to_an_undecodable_request_is_400(
    nats_server: NatsServer, caplog: pytest.LogCaptureFixture, nested: bool
) -> None:
    async def add(request: ServiceRequest) -> None:
        if nested:
            async with trio.open_nursery():
                request.decode(JSONCodec(list[int]))
        request.decode(JSONCodec(list[int]))

    async with running(nats_server) as (service, client):
        await service.add_endpoint("sum", add)
        await service.nc.flush()
        reply = await client.request("sum", b'["x"]')
        assert error_of(reply) == ("400", "the request cannot be decoded", b"")
    (record,) = caplog.records
    assert record.exc_info is None
    assert "JSONCodec(list[int]) cannot decode the message on 'sum'" in record.getMessage()


async def test_a_handler_may_respond_to_an_undecodable_request_itself(
    nats_server: NatsServer,
) -> None:
    async def handler(request: ServiceRequest) -> str:
        try:
            return str(request.decode(JSONCodec(int)))
        except DecodeError:
            return request.decode(TextCodec())

    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("any", handler)
        await service.nc.flush()
        assert (await client.request("any", b"text")).data == b"text"
        await settled(service)
        assert endpoint.stats().num_errors == 0


async def test_a_decode_error_of_the_handler_itself_is_a_500(
    nats_server: NatsServer,
) -> None:
    async def handler(request: ServiceRequest) -> bytes:
        request.decode(BytesCodec())
        reply = await service.nc.request("reverse", b"x")
        return b"%d" % reply.decode(JSONCodec(int))

    async with running(nats_server) as (service, client):
        await service.add_endpoint("number", handler)
        await service.nc.flush()
        assert error_of(await client.request("number")) == ("500", "DecodeError", b"")


async def test_values_that_cannot_be_encoded(nats_server: NatsServer) -> None:
    async def handler(request: ServiceRequest) -> None:
        value: Any = object()
        await request.respond(value, codec=TextCodec())

    async with running(nats_server) as (service, client):
        await service.add_endpoint("text", handler)
        await service.nc.flush()
        assert error_of(await client.request("text")) == ("500", "EncodeError", b"")


# --- concurrency ---------------------------------------------------------------------------------


async def test_at_most_concurrency_requests_are_handled_at_a_time(nats_server: NatsServer) -> None:
    gate = Gate()
    async with running(nats_server) as (service, client):
        endpoint = await service.add_endpoint("gate", gate, concurrency=3)
        await service.nc.flush()
        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(client.request, "gate", b"%d" % number)
            await gate.arrivals(3)
            await service.nc.flush()
            await trio.testing.wait_all_tasks_blocked()
            assert (endpoint.under_way, len(gate.waiting)) == (3, 3)
            # Others do not wait for it.
            assert (await client.request("reverse", b"ab")).data == b"ba"
            gate.open()
        assert sorted(gate.finished) == [b"0", b"1", b"2", b"3", b"4"]
        await settled(service)


async def test_one_at_a_time_is_in_order(nats_server: NatsServer) -> None:
    seen: list[bytes] = []

    async def note(request: ServiceRequest) -> bytes:
        await trio.lowlevel.checkpoint()
        seen.append(request.data)
        return b""

    async with running(nats_server) as (service, client):
        await service.add_endpoint("note", note, concurrency=1)
        await service.nc.flush()
        for number in range(100):
            await client.publish("note", b"%d" % number)
        await client.request("note", b"100")
        assert seen == [b"%d" % number for number in range(101)]


async def test_a_hanging_handler_does_not_block_others(nats_server: NatsServer) -> None:
    async def handler(request: ServiceRequest) -> bytes:
        if request.data == b"hang":
            await trio.sleep_forever()
        return b"ok"

    async with running(nats_server, close_timeout=0) as (service, client):
        await service.add_endpoint("maybe", handler, concurrency=2)
        await service.nc.flush()
        await client.publish("maybe", b"hang")
        assert (await client.request("maybe")).data == b"ok"
        assert (await client.request("maybe")).data == b"ok"


async def test_each_request_has_context_variables_of_its_own(nats_server: NatsServer) -> None:
    variable: contextvars.ContextVar[bytes] = contextvars.ContextVar("variable", default=b"")
    found: list[bytes] = []

    async def handler(request: ServiceRequest) -> bytes:
        found.append(variable.get())
        variable.set(request.data)
        return b""

    async with running(nats_server) as (service, client):
        await service.add_endpoint("context", handler, concurrency=1)
        await service.nc.flush()
        for _ in range(3):
            await client.request("context", b"x")
    assert found == [b"", b"", b""]
