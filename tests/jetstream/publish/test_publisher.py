"""Publishing many messages at a time: order, backpressure, failures, and how it ends."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected, filled, stored
from tests.support.internals import inbox_limits
from tests.support.leaks import all_tasks, no_leaks
from trio_nats import (
    ConfigurationError,
    ConnectionLostError,
    ConnectionState,
    InvalidSubjectError,
    JSONCodec,
    PermissionsViolationError,
    ReconnectPolicy,
    RequestTimeoutError,
    UserPassword,
    open_nats,
)
from trio_nats.jetstream import (
    JetStreamError,
    NoStreamResponseError,
    PendingAck,
    PubAck,
    UnacknowledgedError,
    WrongLastSequenceError,
)
from trio_nats.jetstream.publish.publisher import MAX_ERRORS, MAX_UNCLAIMED
from trio_nats.testing import NatsServer

pytestmark = pytest.mark.nats_server(jetstream=True)


async def unanswered(js) -> None:
    """``u`` is listened to, and not answered."""
    await js.create_stream("U", subjects=["u"], no_ack=True, storage=MEMORY)


@pytest.mark.slow
@pytest.mark.parametrize("max_pending", [1, 2, 7, 256])
async def test_the_order_is_kept(nats_server: NatsServer, max_pending: int) -> None:
    async with connected(nats_server) as (js, nc):
        stream = await filled(js, 0)
        most = 0
        acks = []
        async with js.publisher(max_pending=max_pending) as publisher:
            for number in range(300):
                acks.append(await publisher.publish("s.a", str(number)))
                most = max(most, publisher.pending)
        assert most <= max_pending
        assert most == max_pending or max_pending > 7
        assert [(await ack).seq for ack in acks] == list(range(1, 301))
        assert [int(msg.data) for msg in await stored(stream)] == list(range(300))
        assert nc.stats.subscriptions == 0


async def test_acknowledgements_can_be_awaited_later(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        async with js.publisher() as publisher:
            ack = await publisher.publish("s.a", 1, codec=JSONCodec(int), msg_id="1")
            assert (ack.subject, ack.done) == ("s.a", False)
            assert repr(ack) == "<PendingAck 's.a' pending>"
            assert await ack == PubAck(stream="S", seq=1)
            assert ack.done
            assert "PubAck" in repr(ack)
            again = await publisher.publish("s.a", msg_id="1")
            assert repr(publisher) == "<Publisher 1 of 256 pending>"
        assert await again == PubAck(stream="S", seq=1, duplicate=True)
        assert await again.wait() == await again
        assert await ack == PubAck(stream="S", seq=1)


async def test_many_tasks_may_await_one(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        found: list[int] = []

        async def wait(ack: PendingAck) -> None:
            found.append((await ack).seq)

        await filled(js, 0)
        async with js.publisher() as publisher, trio.open_nursery() as nursery:
            ack = await publisher.publish("s.a")
            for _ in range(3):
                nursery.start_soon(wait, ack)
        assert found == [1, 1, 1]


async def test_a_failure_is_raised_where_it_is_awaited(nats_server: NatsServer) -> None:
    """And only there."""
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        async with js.publisher() as publisher:
            good = await publisher.publish("s.a")
            bad = await publisher.publish("s.a", expect_last_seq=7)
            nowhere = await publisher.publish("other")
            last = await publisher.publish("s.a", expect_last_seq=1)
            with pytest.raises(WrongLastSequenceError):
                await bad
            with pytest.raises(WrongLastSequenceError):  # another time
                await bad
            with pytest.raises(NoStreamResponseError):
                await nowhere
            assert [(await ack).seq for ack in (good, last)] == [1, 2]


async def test_failures_that_were_never_awaited(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await filled(js, 0)
        with pytest.raises(UnacknowledgedError) as caught:
            async with js.publisher() as publisher:
                await publisher.publish("s.a", expect_last_seq=7)
                await publisher.publish("s.a")
                await publisher.publish("other")
                asked = await publisher.publish("s.a", expect_last_seq=8)
                with pytest.raises(WrongLastSequenceError):
                    await asked
        error = caught.value
        assert error.count == 2
        kinds = {type(one) for one in error.errors}
        assert kinds == {WrongLastSequenceError, NoStreamResponseError}
        assert error.__cause__ is error.errors[0]
        assert str(error) == f"2 messages were not acknowledged; first: {error.errors[0]}"
        assert nc.stats.subscriptions == 0


async def test_a_failure_that_a_task_awaits_when_the_block_is_left(nats_server: NatsServer) -> None:
    """It is told to who waits, and not a second time."""
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        told: list[Exception] = []

        async def wait(ack: PendingAck) -> None:
            try:
                await ack
            except WrongLastSequenceError as error:
                told.append(error)

        async with trio.open_nursery() as nursery, js.publisher() as publisher:
            nursery.start_soon(wait, await publisher.publish("s.a", expect_last_seq=7))
            await trio.lowlevel.checkpoint()
        assert len(told) == 1


async def test_a_failure_whose_waiter_was_cancelled(nats_server: NatsServer) -> None:
    """Who waited for it was cancelled: nobody has heard of it."""
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        with pytest.raises(UnacknowledgedError):
            async with js.publisher() as publisher:
                ack = await publisher.publish("s.a", expect_last_seq=7)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await ack


async def test_too_many_failures(nats_server: NatsServer) -> None:
    """It is no use going on; neither are they all kept."""
    async with connected(nats_server) as (js, _):
        published = 0
        with pytest.raises(UnacknowledgedError) as caught:
            async with js.publisher(max_pending=20) as publisher:
                while True:
                    await publisher.publish("other")
                    published += 1
        assert MAX_UNCLAIMED <= caught.value.count <= published <= MAX_UNCLAIMED + 20
        assert len(caught.value.errors) == MAX_ERRORS


async def test_a_missing_acknowledgement(nats_server: NatsServer) -> None:
    """It makes room for others, and is told of."""
    async with connected(nats_server) as (js, _):
        await unanswered(js)
        await filled(js, 0)
        with pytest.raises(UnacknowledgedError) as caught:
            async with js.publisher(max_pending=1, timeout=0.01) as publisher:
                ack = await publisher.publish("u")
                await publisher.publish("u")
                assert ack.done
                with pytest.raises(RequestTimeoutError, match="it may have been stored"):
                    await ack
        assert caught.value.count == 1
        assert isinstance(caught.value.__cause__, RequestTimeoutError)


async def test_timeouts_in_order(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await unanswered(js)
        await filled(js, 0)
        async with js.publisher(timeout=0.5) as publisher:
            acks = []
            for number in range(50):
                acks.append(await publisher.publish("u" if number % 2 else "s.a"))
                await trio.sleep(0.001)
            for number, ack in enumerate(acks):
                if number % 2:
                    with pytest.raises(RequestTimeoutError):
                        await ack
                else:
                    assert (await ack).seq == number // 2 + 1


async def test_backpressure_can_be_cancelled(nats_server: NatsServer) -> None:
    """Nothing is published then, and the room is not lost."""
    async with connected(nats_server) as (js, nc), nc.subscribe("u") as published:
        await unanswered(js)
        stream = await js.stream("U")
        async with js.publisher(max_pending=2, timeout=HANG_TIMEOUT) as publisher:
            for _ in range(2):
                await publisher.publish("u")
            with trio.move_on_after(0.01) as scope:
                await publisher.publish("u")
            assert scope.cancelled_caught
            assert publisher.pending == 2
            assert publisher.max_pending == 2
            # As a stream would.
            await nc.flush()
            assert (await stream.refresh()).state.messages == 2
            for _ in range(2):
                await (await published.receive()).respond(b'{"stream": "U", "seq": 1}')
            third = await publisher.publish("u")
            message = await published.receive()
            await nc.publish(f"{message.reply}x", b'{"stream": "U", "seq": 2}')
            await message.respond(b'{"stream": "U", "seq": 3}')
            assert (await third).seq == 3


async def test_unexpected_acknowledgements_are_ignored(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await filled(js, 0)
        async with js.publisher() as publisher, nc.subscribe("s.a") as published:
            await (await publisher.publish("s.a"))
            inbox = (await published.receive()).reply.rpartition(".")[0]
            for token in ("0", "01", "zz", "99999999999999999999"):
                await nc.publish(f"{inbox}.{token}", b"\xff")
            await nc.flush()
            assert (await (await publisher.publish("s.a"))).seq == 2


async def test_what_comes_to_its_inbox_is_bounded(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        for max_pending, size in ((1, 5_000_000), (10_000, 90_000_000)):
            publisher = js.publisher(max_pending=max_pending)
            messages, in_bytes = inbox_limits(publisher)
            assert 2 * max_pending <= messages <= 2 * max_pending + 1_000
            assert in_bytes < size


@pytest.mark.parametrize("answer", [b"", b"+OK", b'{"error": 5}'])
async def test_another_client_replies(nats_server: NatsServer, answer: bytes) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("other") as sub:
        async with js.publisher() as publisher:
            ack = await publisher.publish("other")
            await (await sub.receive()).respond(answer)
            with pytest.raises(JetStreamError):
                await ack


# --- how it ends ---------------------------------------------------------------------------------


async def test_an_exception_leaves_as_itself(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await unanswered(js)
        async with no_leaks():
            with pytest.raises(ZeroDivisionError) as caught:
                async with js.publisher() as publisher:
                    ack = await publisher.publish("u")
                    raise ZeroDivisionError
            assert caught.value.__context__ is None
        with pytest.raises(trio.ClosedResourceError, match="publisher is closed"):
            await ack
        with pytest.raises(trio.ClosedResourceError, match="publisher is closed"):
            await publisher.publish("u")
        assert nc.stats.subscriptions == 0


async def test_cancelled_while_it_waits_for_the_last_ones(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await unanswered(js)
        async with no_leaks():
            with trio.move_on_after(0.01) as scope:
                async with js.publisher() as publisher:
                    ack = await publisher.publish("u")
            assert scope.cancelled_caught
        assert ack.done
        assert publisher.pending == 0
        assert nc.stats.subscriptions == 0


async def test_an_exception_while_all_is_being_cancelled(nats_server: NatsServer) -> None:
    """It is not replaced by the cancellation."""
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        with pytest.raises(ZeroDivisionError), trio.CancelScope() as scope:
            async with js.publisher() as publisher:
                await publisher.publish("s.a")
                scope.cancel()
                raise ZeroDivisionError


async def test_a_publisher_works_only_inside_its_block(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        publisher = js.publisher()
        with pytest.raises(RuntimeError, match="async with"):
            await publisher.publish("s.a")
        async with publisher:
            pass
        with pytest.raises(trio.ClosedResourceError):
            await publisher.publish("s.a")
        with pytest.raises(RuntimeError, match="only once"):
            await publisher.__aenter__()


async def test_closing_waits_for_acknowledgements(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await filled(js, 0)
        async with js.publisher() as publisher:
            acks = [await publisher.publish("s.a") for _ in range(3)]
            await publisher.aclose()
            assert [ack.done for ack in acks] == [True] * 3
            assert nc.stats.subscriptions == 0
            with pytest.raises(trio.ClosedResourceError, match="publisher is closed"):
                await publisher.publish("s.a")
            await publisher.aclose()
        await publisher.aclose()
        assert [(await ack).seq for ack in acks] == [1, 2, 3]
        with pytest.raises(RuntimeError, match="async with"):
            await js.publisher().aclose()


async def test_closing_raises_failures_once(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        async with js.publisher() as publisher:
            await publisher.publish("s.a", expect_last_seq=7)
            with pytest.raises(UnacknowledgedError):
                await publisher.aclose()
            await publisher.aclose()


async def test_closing_cancelled(nats_server: NatsServer) -> None:
    """It is closed all the same, and what was not acknowledged is told of on leaving."""
    async with connected(nats_server) as (js, nc):
        await unanswered(js)
        with pytest.raises(UnacknowledgedError):
            async with js.publisher() as publisher:
                ack = await publisher.publish("u")
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await publisher.aclose()
                assert scope.cancelled_caught
                assert (ack.done, publisher.pending, nc.stats.subscriptions) == (True, 0, 0)


async def test_closing_ends_the_wait_for_room(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("u") as published:
        await unanswered(js)
        async with js.publisher(max_pending=1, timeout=HANG_TIMEOUT) as publisher:
            ack = await publisher.publish("u")
            async with trio.open_nursery() as nursery:

                async def publish() -> None:
                    with pytest.raises(trio.ClosedResourceError, match="publisher is closed"):
                        await publisher.publish("u")

                nursery.start_soon(publish)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(publisher.aclose)
                await trio.testing.wait_all_tasks_blocked()
                await (await published.receive()).respond(b'{"stream": "U", "seq": 1}')
            assert (await ack).seq == 1


async def test_the_connection_is_lost_for_good(nats_server: NatsServer) -> None:
    """Who waits for room, or for an acknowledgement, hears of it."""
    before = all_tasks()
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, reconnect=ReconnectPolicy(max_attempts=0)) as nc:
            js = nc.jetstream()
            await unanswered(js)
            with pytest.raises(UnacknowledgedError) as caught:
                async with js.publisher(max_pending=2) as publisher:
                    ack = await publisher.publish("u")
                    await publisher.publish("u")
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(nats_server.kill)
                        with pytest.raises(ConnectionLostError):
                            await publisher.publish("u")
                    with pytest.raises(ConnectionLostError):
                        await ack
                    with pytest.raises(ConnectionLostError):
                        await publisher.publish("u")
            assert caught.value.count == 1
            assert isinstance(caught.value.__cause__, ConnectionLostError)
    assert all_tasks() == before


async def test_the_connection_is_closed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await unanswered(js)
        async with js.publisher() as publisher:
            ack = await publisher.publish("u")
            await nc.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await ack
            with pytest.raises(trio.ClosedResourceError):
                await publisher.publish("u")


async def test_the_connection_is_drained(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await unanswered(js)
        async with js.publisher() as publisher:
            ack = await publisher.publish("u")
            await nc.drain()
            with pytest.raises(trio.ClosedResourceError):
                await ack


async def test_a_closed_connection(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc):
        await nc.aclose()
        async with no_leaks():
            with pytest.raises(trio.ClosedResourceError):
                async with js.publisher():
                    raise AssertionError("not reached")


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"max_pending": 0}, ConfigurationError),
        ({"max_pending": "1"}, TypeError),
        ({"timeout": 0}, ConfigurationError),
    ],
)
async def test_publishers_that_cannot_be(nats_server: NatsServer, options, kind) -> None:
    async with connected(nats_server) as (js, _):
        with pytest.raises(kind):
            js.publisher(**options)


async def test_messages_that_cannot_be_published_take_no_space(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, _):
        await filled(js, 0)
        async with js.publisher(max_pending=1) as publisher:
            for _ in range(3):
                with pytest.raises(InvalidSubjectError):
                    await publisher.publish("a b")
            assert (await (await publisher.publish("s.a"))).seq == 1


async def test_closed_while_it_waits_to_be_written(nats_server: NatsServer) -> None:
    """It is told of by the exception, and so not again when the block is left."""
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url, outbox_size=1000) as nc:
            await nc.flush()
            async with nc.jetstream().publisher() as publisher, trio.open_nursery() as nursery:
                await nats_server.stop()
                await nc.wait_for_state(ConnectionState.RECONNECTING)
                await nc.publish("full", b"x" * 1000)
                raised: list[Exception] = []

                async def publish() -> None:
                    try:
                        await publisher.publish("s.a")
                    except trio.ClosedResourceError as error:
                        raised.append(error)

                nursery.start_soon(publish)
                await trio.testing.wait_all_tasks_blocked()
                assert publisher.pending == 1
                with trio.move_on_after(0):
                    await nc.aclose()
            assert len(raised) == 1


@pytest.mark.nats_server(
    jetstream=True,
    config={
        "authorization": {
            "users": [
                {"user": "u", "password": "p", "permissions": {"publish": ["$JS.API.>", "s.>"]}}
            ]
        }
    },
)
async def test_a_subject_that_is_not_permitted(nats_server: NatsServer) -> None:
    """The failure comes at once, and only to the messages of that subject."""
    async with open_nats(nats_server.url, auth=UserPassword("u", "p")) as nc:
        js = nc.jetstream()
        await js.create_stream("S", subjects=["s.>", "denied"], storage=MEMORY)
        with trio.fail_after(HANG_TIMEOUT):
            async with js.publisher(timeout=10 * HANG_TIMEOUT) as publisher:
                first = await publisher.publish("s.a")
                denied = await publisher.publish("denied")
                last = await publisher.publish("s.b")
                with pytest.raises(PermissionsViolationError, match="denied"):
                    await denied
                assert [(await first).seq, (await last).seq] == [1, 2]
