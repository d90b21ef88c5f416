"""Batches that are stored at the pace of the stream."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.jetstream.helpers import HANG_TIMEOUT, MEMORY, connected, filled
from trio_nats import (
    ConfigurationError,
    InvalidSubjectError,
    JSONCodec,
    Msg,
    OutboxFullError,
    PermissionsViolationError,
    ReconnectPolicy,
    RequestTimeoutError,
    UserPassword,
    open_nats,
)
from trio_nats.jetstream import (
    APILevelError,
    DiscardPolicy,
    FastBatch,
    FastBatchError,
    JetStream,
    JetStreamAPIError,
    JetStreamError,
    NoStreamResponseError,
    StorageType,
    Stream,
    WrongLastSequenceError,
)
from trio_nats.testing import NatsServer

pytestmark = [pytest.mark.nats_server(jetstream=True), pytest.mark.requires_server("2.14")]


@asynccontextmanager
async def batching(
    server: NatsServer, reconnect: ReconnectPolicy | None = None, **options: Any
) -> AsyncIterator[tuple[JetStream, Stream]]:
    async with connected(server, reconnect=reconnect or ReconnectPolicy()) as (js, _):
        yield js, await filled(js, 0, **{"allow_batched": True, **options})


async def stored(stream: Stream) -> list[bytes]:
    return [msg.data async for msg in stream.get_msgs()]


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"ack_every": 1, "max_pending_acks": 1}, {"ack_every": 7}])
@pytest.mark.parametrize("allow_gaps", [False, True])
@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 1234])
async def test_all_messages_are_stored_in_order(
    nats_server: NatsServer, count: int, allow_gaps: bool, options: dict[str, Any]
) -> None:
    async with batching(nats_server) as (js, stream):
        async with js.fast_batch(allow_gaps=allow_gaps, **options) as batch:
            for number in range(count):
                assert await batch.add(f"s.{number}", number, codec=JSONCodec(int)) == number + 1
            assert len(batch) == count
            assert batch.ack is None
        assert batch.ack is not None
        assert (batch.ack.stream, batch.ack.seq, batch.ack.count) == ("S", count, count)
        assert (batch.ack.batch, batch.acked) == (batch.id, count)
        assert await stored(stream) == [b"%d" % number for number in range(count)]
        with pytest.raises(JetStreamError, match="has been committed"):
            await batch.add("s.x")


async def test_a_batch_never_runs_further_ahead_than_allowed(nats_server: NatsServer) -> None:
    async with (
        batching(nats_server) as (js, _),
        js.fast_batch(ack_every=10, max_pending_acks=2) as batch,
    ):
        for number in range(1, 500):
            await batch.add("s.a")
            assert number - batch.acked <= 20
        assert batch.acked > 400


async def test_commit_returns_the_acknowledgement(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, _), js.fast_batch() as batch:
        with pytest.raises(ConfigurationError, match="must have messages"):
            await batch.commit()
        await batch.add("s.a", headers={"A": "b"}, msg_id="one")
        await batch.add("s.a", msg_id="one")
        ack = await batch.commit()
        assert (ack.seq, ack.count) == (1, 2)
        with pytest.raises(JetStreamError, match="has been committed; make another"):
            await batch.commit()


async def test_an_empty_batch_sends_nothing(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, stream):
        async with js.fast_batch() as batch:
            pass
        assert batch.ack is None
        assert (await stream.refresh()).state.messages == 0
        with pytest.raises(JetStreamError, match="has been left"):
            await batch.add("s.a")


@pytest.mark.parametrize("before", [0, 1, 5])
async def test_a_refused_message_ends_the_batch(nats_server: NatsServer, before: int) -> None:
    async with batching(nats_server) as (js, stream):
        async with js.fast_batch() as batch:
            for _ in range(before):
                await batch.add("s.a")
            await batch.add("s.a", expect_last_seq=99)
            with pytest.raises((FastBatchError, WrongLastSequenceError)) as caught:
                for _ in range(300):
                    await batch.add("s.b")
            if before:
                assert isinstance(caught.value, FastBatchError)
                assert (caught.value.stored, caught.value.number) == (before, before + 1)
                assert isinstance(caught.value.__cause__, WrongLastSequenceError)
                assert f"message {before + 1} was refused: " in str(caught.value)
            assert batch.acked == before
        # Raised once; leaving the block does not raise it again.
        assert (await stream.refresh()).state.messages == before


async def test_a_refusal_that_nobody_has_seen_is_raised_by_leaving(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, _):
        with pytest.raises(FastBatchError) as caught:
            async with js.fast_batch() as batch:
                await batch.add("s.a")
                await batch.add("s.a", expect_last_seq=99)
        assert caught.value.stored == 1
        assert batch.ack is None


async def test_with_gaps_allowed_refusals_are_counted(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, stream):
        async with js.fast_batch(allow_gaps=True) as batch:
            for number in range(300):
                await batch.add("s.a", str(number), expect_last_seq=999 if number % 2 else None)
        assert batch.ack is not None
        assert (batch.ack.count, batch.refused, batch.lost) == (300, 150, 0)
        assert len(batch.errors) == 100
        assert isinstance(batch.errors[0], WrongLastSequenceError)
        assert (await stream.refresh()).state.messages == 150


async def test_a_gap_ends_the_batch(nats_server: NatsServer) -> None:
    """The second message goes to a subscriber instead of the stream."""
    async with connected(nats_server) as (js, nc), nc.subscribe("plain"):
        stream = await filled(js, 0, allow_batched=True)
        async with js.fast_batch() as batch:
            await batch.add("s.a", "1")
            await batch.add("plain", "2")
            with pytest.raises(
                FastBatchError, match="1 message is stored; message 2 was lost"
            ) as caught:
                for _ in range(300):
                    await batch.add("s.b")
            assert (caught.value.stored, caught.value.number) == (1, None)
        assert await stored(stream) == [b"1"]


async def test_a_gap_is_counted_where_it_is_allowed(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("plain") as sub:
        stream = await filled(js, 0, allow_batched=True)
        async with js.fast_batch(allow_gaps=True) as batch:
            for subject in ("s.a", "plain", "plain", "s.b"):
                await batch.add(subject)
            reply = (await sub.receive()).reply
            # These are not believed: they are about messages that were not sent.
            await nc.publish(reply, json.dumps({"type": "gap", "last_seq": 2, "seq": 50}))
            await nc.publish(reply, json.dumps({"type": "ack", "seq": 10**18, "msgs": 10**9}))
            await nc.publish(reply, b"[[[")
            await nc.flush()
        assert batch.ack is not None
        assert (batch.lost, batch.acked, batch.ack.count) == (2, 4, 4)
        assert (await stream.refresh()).state.messages == 2


async def test_a_stream_that_does_not_allow_it(nats_server: NatsServer) -> None:
    async with batching(nats_server, allow_batched=False) as (js, stream):
        with pytest.raises(JetStreamAPIError, match="batch publish is disabled"):
            async with js.fast_batch() as batch:
                await batch.add("s.a")
        async with js.fast_batch() as batch:
            await batch.add("s.a")
            with pytest.raises(JetStreamAPIError, match="batch publish is disabled"):
                await batch.add("s.b")
            with pytest.raises(JetStreamError, match="has failed"):
                await batch.add("s.b")
        with pytest.raises(NoStreamResponseError, match="'other'"):
            async with js.fast_batch() as batch:
                await batch.add("other")
        assert (await stream.refresh()).state.messages == 0


async def respond(sub: Any, answer: bytes) -> Msg:
    msg: Msg = await sub.receive()
    await msg.respond(answer)
    return msg


async def test_a_server_that_does_not_know_batches(nats_server: NatsServer) -> None:
    """Behind a server that does, in another domain or account."""
    async with connected(nats_server) as (js, nc), nc.subscribe("old") as sub:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(respond, sub, b'{"stream": "S", "seq": 1}')
            with pytest.raises(APILevelError, match="first message, to 'old', was stored by"):
                async with js.fast_batch() as batch:
                    await batch.add("old")


async def test_nobody_answers(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("silent"):
        with pytest.raises(RequestTimeoutError, match=r"within 0\.02 s; its first 0 messages"):
            async with js.fast_batch(timeout=0.02) as batch:
                await batch.add("silent")


async def test_an_acknowledgement_that_was_lost_is_requested_again(nats_server: NatsServer) -> None:
    """A ping asks for it; until then, the batch is full."""
    async with connected(nats_server) as (js, nc), nc.subscribe("slow") as sub:
        async with trio.open_nursery() as nursery:

            async def answer_pings_only() -> None:
                await respond(sub, b'{"type": "ack", "seq": 0, "msgs": 1}')
                async for msg in sub:
                    *_, number, operation, _ = (msg.reply or "").split(".")
                    if operation == "4":
                        pings.append(number)
                        await msg.respond(
                            b'{"type": "ack", "seq": %s, "msgs": 1}' % number.encode()
                        )
                    elif operation == "3":
                        assert number == "4"
                        answer = {"stream": "S", "seq": 9, "batch": batch.id, "count": 3}
                        await msg.respond(json.dumps(answer))
                        return

            pings: list[str] = []
            async with js.fast_batch(timeout=5, max_pending_acks=2, ack_every=1) as batch:
                nursery.start_soon(answer_pings_only)
                for _ in range(3):
                    await batch.add("slow")
        assert batch.ack is not None
        assert (batch.ack.seq, batch.acked) == (9, 3)
        assert pings[0] == "2"


@pytest.mark.nats_server(config={"jetstream": {"limits": {"batch": {"timeout": "2s"}}}})
async def test_pings_keep_a_batch_from_being_abandoned(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, stream), connected(nats_server) as (_, other):
        async with other.subscribe("s.a") as sub, js.fast_batch(timeout=3) as batch:
            await other.flush()
            await batch.add("s.a", "1")
            await sub.receive()
            for _ in range(5):  # one every 0.6 seconds
                ping = await sub.receive()
                assert ping.reply is not None
                assert ping.reply.endswith(".1.4.$FI")
            await batch.add("s.a", "2")
        assert await stored(stream) == [b"1", b"2"]


async def test_invalid_messages(nats_server: NatsServer) -> None:
    """Found at the call, and the batch goes on without them."""
    async with batching(nats_server) as (js, _):
        with pytest.raises(RuntimeError, match="has not been entered; use it as 'async with"):
            await js.fast_batch().add("s.a")
        for options in ({"ack_every": 0}, {"max_pending_acks": 0}, {"timeout": 0}):
            with pytest.raises(ConfigurationError):
                js.fast_batch(**options)
        with pytest.raises(ConfigurationError, match="at most 10,000"):
            js.fast_batch(ack_every=20_000)
        with pytest.raises(TypeError):
            js.fast_batch(allow_gaps="no")  # type: ignore[arg-type]
        async with js.fast_batch() as batch:
            await batch.add("s.a")
            for subject in ("a b", "s.*", ""):
                with pytest.raises(InvalidSubjectError):
                    await batch.add(subject)
            with pytest.raises(TypeError):
                await batch.add("s.a", 5)  # type: ignore[call-overload]
            assert len(batch) == 1
        assert batch.ack is not None
        assert repr(batch) == f"<FastBatch {batch.id} of 1 messages, has been committed>"


async def test_one_task_at_a_time(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("silent"), js.fast_batch() as batch:
        await batch.add("silent")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.commit)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await batch.add("silent")
            nursery.cancel_scope.cancel()


async def test_an_exception_leaves_the_rest(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, _):
        holder: list[FastBatch] = []
        with pytest.raises(KeyError):
            async with js.fast_batch() as batch:
                holder.append(batch)
                await batch.add("s.a")
                raise KeyError
        assert holder[0].ack is None


@pytest.mark.nats_server(
    config={"jetstream": {"limits": {"batch": {"max_inflight_per_stream": 1}}}}
)
async def test_a_batch_that_was_left_takes_no_room_in_the_stream(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, stream):
        for _ in range(3):
            with pytest.raises(KeyError):
                async with js.fast_batch() as batch:
                    await batch.add("s.a")
                    await batch.add("s.a")  # waits for the first reply
                    raise KeyError
        async with js.fast_batch() as batch:
            await batch.add("s.a")
        assert len(await stored(stream)) == 7


@pytest.mark.slow
async def test_many_batches_at_once_each_keep_their_order(nats_server: NatsServer) -> None:
    async with batching(nats_server) as (js, stream):

        async def fill(name: str) -> None:
            async with js.fast_batch() as batch:
                for number in range(200):
                    await batch.add(f"s.{name}", str(number))
            assert batch.ack is not None

        async with trio.open_nursery() as nursery:
            for name in "abcdefgh":
                nursery.start_soon(fill, name)
        for name in "abcdefgh":
            found = [msg.data async for msg in stream.get_msgs(next_for=f"s.{name}")]
            assert found == [b"%d" % number for number in range(200)]
        assert (await stream.refresh()).config.storage == MEMORY


@pytest.mark.parametrize(
    ("options", "refused", "count"),
    [
        ({}, {"expect_last_seq": 999}, 0),
        ({"max_msgs": 3, "discard": DiscardPolicy.NEW}, {}, 3),
    ],
)
async def test_with_gaps_allowed_nothing_but_refusals_is_no_end(
    nats_server: NatsServer, options: dict[str, Any], refused: dict[str, Any], count: int
) -> None:
    """The stream acknowledges none of them."""
    async with batching(nats_server, **options) as (js, stream):
        async with js.fast_batch(allow_gaps=True, ack_every=4, max_pending_acks=2) as batch:
            for _ in range(30):
                await batch.add("s.a", **refused)
        assert batch.ack is not None
        assert (batch.ack.count, batch.refused) == (30, 30 - count)
        assert (await stream.refresh()).state.messages == count


async def test_refusals_that_were_lost_do_not_block_it(nats_server: NatsServer) -> None:
    """With gaps allowed, the answer to a ping shows that all messages before it were handled."""
    async with connected(nats_server) as (js, nc), nc.subscribe("slow") as sub:
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                async for msg in sub:
                    operation = (msg.reply or "").split(".")[-2]
                    if operation in ("0", "4"):
                        await msg.respond(b'{"type": "ack", "seq": 0, "msgs": 1}')
                    elif operation == "3":
                        answer = {"stream": "S", "seq": 0, "batch": batch.id, "count": 3}
                        await msg.respond(json.dumps(answer))

            async with js.fast_batch(
                allow_gaps=True, timeout=1, max_pending_acks=1, ack_every=1
            ) as batch:
                nursery.start_soon(answer)
                for _ in range(3):
                    await batch.add("slow")
            nursery.cancel_scope.cancel()
        assert batch.ack is not None


async def test_a_commit_that_was_lost_is_repeated(nats_server: NatsServer) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("slow") as sub:
        async with trio.open_nursery() as nursery:

            async def lose_a_commit() -> None:
                commits = 0
                async for msg in sub:
                    *_, number, operation, _ = (msg.reply or "").split(".")
                    commits += operation == "3"
                    if commits == 2:
                        assert number == "2"
                        answer = {"stream": "S", "seq": 9, "batch": batch.id, "count": 1}
                        await msg.respond(json.dumps(answer))
                    elif operation != "3":
                        await msg.respond(b'{"type": "ack", "seq": 0, "msgs": 1}')

            async with js.fast_batch(timeout=1) as batch:
                nursery.start_soon(lose_a_commit)
                await batch.add("slow")
            nursery.cancel_scope.cancel()
        assert batch.ack is not None


@pytest.mark.parametrize("commit", [False, True])
async def test_answers_without_progress_are_not_waited_for(
    nats_server: NatsServer, commit: bool
) -> None:
    async with connected(nats_server) as (js, nc), nc.subscribe("stuck") as sub:
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                async for msg in sub:
                    await msg.respond(b'{"type": "ack", "seq": 0, "msgs": 1}')

            nursery.start_soon(answer)
            with pytest.raises(RequestTimeoutError, match="not acknowledged within"):
                async with js.fast_batch(timeout=0.5, max_pending_acks=1) as batch:
                    await batch.add("stuck")
                    if not commit:
                        await batch.add("stuck")
            nursery.cancel_scope.cancel()


async def test_a_program_that_is_busy_for_long(nats_server: NatsServer) -> None:
    """Nothing is read and no ping is sent all the while, which is not the stream's silence."""
    async with batching(nats_server) as (js, stream):
        async with js.fast_batch(timeout=0.4) as batch:
            await batch.add("s.a")
            await batch.add("s.a")  # waits for the first reply
            time.sleep(0.7)  # noqa: ASYNC251
            await trio.testing.wait_all_tasks_blocked()
            await batch.add("s.a")
        assert len(await stored(stream)) == 3


async def test_the_subject_without_a_stream_is_named(nats_server: NatsServer) -> None:
    """It need not be that of the last message."""
    async with batching(nats_server) as (js, _):
        with pytest.raises(NoStreamResponseError, match="'other'"):
            async with js.fast_batch() as batch:
                for subject in ("s.a", "other", "s.b", "s.c"):
                    await batch.add(subject)


async def test_a_last_message_that_goes_elsewhere(nats_server: NatsServer) -> None:
    """The commit goes to the stream nevertheless."""
    async with connected(nats_server) as (js, nc), nc.subscribe("plain"):
        stream = await filled(js, 0, allow_batched=True)
        async with js.fast_batch(allow_gaps=True) as batch:
            await batch.add("s.a", "1")
            await batch.add("plain", "2")
        assert batch.ack is not None
        assert (batch.ack.count, batch.lost) == (2, 1)
        assert await stored(stream) == [b"1"]


async def test_errors_about_messages_that_were_not_sent(nats_server: NatsServer) -> None:
    """Forged; the batch goes on."""
    async with (
        batching(nats_server) as (js, _),
        connected(nats_server) as (_, other),
        other.subscribe("s.a") as sub,
    ):
        await other.flush()
        async with js.fast_batch() as batch:
            await batch.add("s.a")
            reply = (await sub.receive()).reply
            for seq in (-1, 0, 2, 10**4000):
                await js.connection.publish(reply, b'{"type": "err", "seq": %d}' % seq)
            await js.connection.flush()
        assert batch.ack is not None
        assert batch.refused == 0


async def test_a_server_that_was_restarted_has_forgotten_the_batch(nats_server: NatsServer) -> None:
    async with batching(
        nats_server, storage=StorageType.FILE, reconnect=ReconnectPolicy(wait=0.01)
    ) as (js, _):
        # Or the server is there, and the stream is not yet.
        expected = (FastBatchError, JetStreamAPIError, NoStreamResponseError)
        with pytest.raises(expected, match=r"forgotten|ID unknown|no stream"):
            async with js.fast_batch(ack_every=1, max_pending_acks=1) as batch:
                await batch.add("s.a")
                await batch.add("s.a")
                await nats_server.restart()
                await batch.add("s.a")
        assert batch.lost == 0
        assert batch.ack is None


async def test_a_first_message_that_was_stored_is_not_lost(nats_server: NatsServer) -> None:
    """A server that has forgotten the batch takes a ping for the beginning of another."""
    async with connected(nats_server) as (js, nc), nc.subscribe("s") as sub:
        with pytest.raises(FastBatchError, match="the server has forgotten the batch"):
            async with js.fast_batch() as batch:
                await batch.add("s")
                msg = await respond(sub, b'{"type": "ack", "seq": 0, "msgs": 1}')
                await msg.respond(b'{"type": "gap", "last_seq": 1, "seq": 2}')
                await nc.flush()
        assert batch.lost == 0


async def test_a_ping_that_finds_no_room_harms_nobody(nats_server: NatsServer) -> None:
    async with connected(
        nats_server, when_outbox_full="raise", outbox_size=100_000, close_timeout=0.01
    ) as (js, nc):
        async with nc.subscribe("slow") as sub:
            with pytest.raises(RequestTimeoutError, match="not acknowledged within"):
                async with js.fast_batch(timeout=0.2, max_pending_acks=1, ack_every=1) as batch:
                    await batch.add("slow")
                    await respond(sub, b'{"type": "ack", "seq": 1, "msgs": 1}')
                    await batch.add("slow")  # waits for the answer to the first one
                    await nats_server.stop()
                    with pytest.raises(OutboxFullError):
                        while True:
                            await nc.publish("x", bytes(1000))
                    await batch.add("slow")


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
    async with open_nats(nats_server.url, auth=UserPassword("u", "p")) as nc:
        js = nc.jetstream()
        stream = await js.create_stream(
            "S",
            subjects=["s.>", "denied"],
            storage=MEMORY,
            allow_batched=True,
            allow_direct=True,
        )
        with (
            trio.fail_after(HANG_TIMEOUT),
            pytest.raises(PermissionsViolationError, match="denied"),
        ):
            async with js.fast_batch(timeout=10 * HANG_TIMEOUT) as batch:
                await batch.add("denied")
                await batch.add("s.a")
        # Once the batch has begun, the stream tells how many are stored.
        with trio.fail_after(HANG_TIMEOUT), pytest.raises(FastBatchError) as caught:
            async with js.fast_batch(timeout=10 * HANG_TIMEOUT) as batch:
                await batch.add("s.a", b"1")
                await batch.add("denied")
                await batch.add("s.a", b"2")
        assert caught.value.stored == 1
        assert await stored(stream) == [b"1"]
