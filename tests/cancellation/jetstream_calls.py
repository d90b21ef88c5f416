"""Calls of streams, consumers and their messages."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from tests.cancellation.environment import (
    MEMORY,
    Action,
    Call,
    Environment,
    Group,
    failing_block,
    no_action,
)
from tests.jetstream.helpers import HANG_TIMEOUT, filled
from trio_nats.jetstream import (
    AckError,
    ConsumerNotFoundError,
    JetStreamAPIError,
    Messages,
    PriorityPolicy,
    StreamNotFoundError,
    UnacknowledgedError,
)

__all__ = ["CONSUMERS", "PUBLISHING", "STREAMS"]

LATER = datetime.now(UTC) + timedelta(days=1)


# --- streams --------------------------------------------------------------------------------------


async def with_streams(env: Environment) -> None:
    env.stream = await filled(env.js, 6)


async def without_x(env: Environment) -> None:
    if "X" in await env.state():
        await env.observer.delete_stream("X")


async def with_x(env: Environment) -> None:
    await env.observer.create_or_update_stream("X", subjects=["x"], storage=MEMORY)


async def refill(env: Environment) -> None:
    """Store the messages again, with the same numbers."""
    await env.observer.delete_stream("S")
    await filled(env.observer, 6)


async def with_new_x(env: Environment) -> None:
    await without_x(env)
    await with_x(env)
    env.target = await env.js.stream("X")


def refused(
    names: str, call: Callable[[Environment], Awaitable[object]], before: Action = no_action
) -> Call:
    """Return a call for clusters, which a single server refuses."""

    async def run(env: Environment) -> None:
        with contextlib.suppress(JetStreamAPIError):
            await call(env)

    return Call(names, run, before)


async def list_streams(env: Environment) -> None:
    assert [info.config.name async for info in env.js.streams()] == ["S"]


async def list_stream_names(env: Environment) -> None:
    assert [name async for name in env.js.stream_names(subject="s.0")] == ["S"]


async def list_subjects(env: Environment) -> None:
    assert len([pair async for pair in env.stream.subjects()]) == 3


async def get_msgs(env: Environment) -> None:
    """In several batches; the iterator goes on where it was cancelled."""
    if env.target is None:
        env.target = env.stream.get_msgs(max_messages=2)
    async for msg in env.target:
        env.received.append(msg.seq)
    assert env.received == [1, 2, 3, 4, 5, 6]


async def begin_again(env: Environment) -> None:
    env.target = None


async def get_last_msgs(env: Environment) -> None:
    msgs = env.stream.get_last_msgs(["s.0", "s.1"], max_messages=1)
    assert [msg.seq async for msg in msgs] == [4, 5]


STREAMS = Group(
    with_streams,
    (
        Call("JetStream.account_info", lambda s: s.js.account_info()),
        Call("JetStream.stream", lambda s: s.js.stream("S")),
        Call("JetStream.stream_by_subject", lambda s: s.js.stream_by_subject("s.1")),
        Call("JetStream.stream_name_by_subject", lambda s: s.js.stream_name_by_subject("s.1")),
        Call("JetStream.streams PageIterator.__anext__", list_streams),
        Call("JetStream.stream_names", list_stream_names),
        Call(
            "JetStream.create_stream",
            lambda s: s.js.create_stream("X", subjects=["x"], storage=MEMORY),
            before=without_x,
            changes=True,
        ),
        Call(
            "JetStream.create_or_update_stream",
            lambda s: s.js.create_or_update_stream("X", subjects=["x"], storage=MEMORY),
            before=without_x,
            changes=True,
        ),
        Call(
            "JetStream.update_stream",
            lambda s: s.js.update_stream("X", subjects=["x", "y"], storage=MEMORY),
            before=with_x,
            changes=True,
        ),
        Call(
            "JetStream.delete_stream",
            lambda s: s.js.delete_stream("X"),
            before=with_x,
            repeat_errors=(StreamNotFoundError,),
            changes=True,
        ),
        Call("Stream.refresh", lambda s: s.stream.refresh()),
        Call("Stream.subjects", list_subjects),
        Call("Stream.get_msg", lambda s: s.stream.get_msg(2)),
        Call("Stream.get_msg", lambda s: s.stream.get_msg(2, direct=False)),
        Call("Stream.get_msgs", get_msgs, before=begin_again),
        Call("Stream.get_last_msgs", get_last_msgs),
        Call("Stream.seal", lambda s: s.target.seal(), before=with_new_x, changes=True),
        refused("Stream.step_down", lambda s: s.stream.step_down()),
        refused("Stream.remove_peer", lambda s: s.stream.remove_peer("p")),
        refused("Stream.evacuate_peer", lambda s: s.stream.evacuate_peer("p")),
        refused("Stream.cancel_move", lambda s: s.stream.cancel_move()),
        Call("Stream.purge", lambda s: s.stream.purge(subject="s.1"), before=refill, changes=True),
        Call(
            "Stream.delete_msg",
            lambda s: s.stream.delete_msg(3),
            before=refill,
            repeat_errors=(JetStreamAPIError,),
            changes=True,
        ),
    ),
)


# --- publishing -----------------------------------------------------------------------------------


async def with_a_target(env: Environment) -> None:
    env.stream = await filled(env.js, 0, allow_atomic=True, allow_batched=True)


async def empty(env: Environment) -> None:
    """Messages are stored again only if they bear another id."""
    env.number += 1
    await env.stream.purge()


async def publish(env: Environment) -> None:
    await env.js.publish("s.a", b"x", msg_id=f"{env.number}")


async def publish_many(env: Environment) -> None:
    async with env.js.publisher(max_pending=2) as publisher:
        acks = [
            await publisher.publish("s.a", f"{n}", msg_id=f"{env.number}-{n}") for n in range(5)
        ]
        await acks[0]
        await acks[4].wait()


async def publish_and_close(env: Environment) -> None:
    try:
        async with env.js.publisher() as publisher:
            await publisher.publish("s.a", b"x", msg_id=f"{env.number}")
            await publisher.aclose()
    except UnacknowledgedError:
        pass  # aclose() was cancelled


async def nothing_out_of_order(env: Environment) -> None:
    """What is stored of five messages is the beginning."""
    await env.nc.flush()
    stored = [int(msg.data) async for msg in env.stream.get_msgs()]
    assert stored == list(range(len(stored)))


async def batch(env: Environment) -> None:
    batch = env.js.atomic_batch()
    for n in range(4):
        await batch.add("s.a", f"{n}", msg_id=f"{env.number}-{n}")
    assert (await batch.commit()).count == 4


async def fast_batch(env: Environment) -> None:
    async with env.js.fast_batch(ack_every=2, max_pending_acks=1) as batch:
        for n in range(5):
            await batch.add("s.a", f"{n}", msg_id=f"{env.number}-{n}")
        assert (await batch.commit()).count == 5


PUBLISHING = Group(
    with_a_target,
    (
        Call("JetStream.publish", publish, before=empty, changes=True),
        Call(
            "JetStream.publisher Publisher.__aenter__ Publisher.__aexit__ Publisher.publish "
            "PendingAck.wait PendingAck.__await__",
            publish_many,
            before=empty,
            check=nothing_out_of_order,
            changes=True,
            atomic=False,
            needs_cleanup=True,
        ),
        failing_block(
            "Publisher.__aexit__",
            lambda s: s.js.publisher(),
            lambda publisher: publisher.publish("s.a"),
            before=empty,
            idempotent=False,
        ),
        Call("Publisher.aclose", publish_and_close, before=empty, changes=True, needs_cleanup=True),
        Call(
            "AtomicBatch.add AtomicBatch.commit",
            batch,
            before=empty,
            repeat_errors=(JetStreamAPIError,),  # its messages are duplicates
            changes=True,
            needs_cleanup=True,
        ),
        Call(
            "JetStream.fast_batch FastBatch.__aenter__ FastBatch.__aexit__ FastBatch.add "
            "FastBatch.commit",
            fast_batch,
            before=empty,
            check=nothing_out_of_order,
            changes=True,
            atomic=False,
            needs_cleanup=True,
        ),
        failing_block(
            "FastBatch.__aexit__",
            lambda s: s.js.fast_batch(),
            lambda batch: batch.add("s.a"),
            before=empty,
            idempotent=False,
        ),
    ),
)


# --- consumers ------------------------------------------------------------------------------------


async def with_messages(env: Environment) -> None:
    env.stream = await filled(env.js, 6)


async def without_consumers(env: Environment) -> None:
    stream = await env.observer.stream("S")
    async for name in stream.consumer_names():
        await stream.delete_consumer(name)


async def with_consumer(env: Environment) -> None:
    """A consumer that has delivered nothing yet; what is lost stays so for an hour."""
    await without_consumers(env)
    env.consumer = await env.stream.create_consumer("c", durable_name="c", ack_wait=env.ack_wait)


async def with_single_deliveries(env: Environment) -> None:
    """A consumer that delivers nothing twice."""
    await without_consumers(env)
    env.consumer = await env.stream.create_consumer(
        "c", durable_name="c", ack_wait=env.ack_wait, max_deliver=1
    )


async def with_push_consumer(env: Environment) -> None:
    """Messages on their way when the subscription ends are delivered again after ``ack_wait``."""
    await without_consumers(env)
    env.consumer = await env.stream.create_consumer(
        "c",
        durable_name="c",
        ack_wait=1,
        deliver_subject="here",
        idle_heartbeat=5,
        flow_control=True,
    )


async def with_pinned_consumer(env: Environment) -> None:
    await without_consumers(env)
    env.consumer = await env.stream.create_consumer(
        "c",
        durable_name="c",
        priority_groups=["g"],
        priority_policy=PriorityPolicy.PINNED_CLIENT,
        priority_timeout=60,
    )


async def with_ordered_consumer(env: Environment) -> None:
    await without_consumers(env)
    env.target = env.stream.ordered_consumer()


async def with_message(env: Environment) -> None:
    await with_consumer(env)
    env.target = await env.consumer.next()


async def answered_or_not(env: Environment) -> None:
    assert env.target.answered == env.completed


async def list_consumers(env: Environment) -> None:
    assert [info.name async for info in env.stream.consumers()] == ["c"]


async def list_consumer_names(env: Environment) -> None:
    assert [name async for name in env.stream.consumer_names()] == ["c"]


async def no_pull_waits(env: Environment) -> None:
    """Pull requests are gone, and so are messages that nobody has received."""
    await env.nc.flush()
    info = await env.consumer.refresh()
    while info.num_waiting and not env.has_outages:
        info = await env.consumer.refresh()


async def receive(env: Environment, messages: Messages) -> None:
    msg = await messages.receive()
    env.received.append(msg.metadata.stream_seq)
    await msg.ack()


async def receive_rest(env: Environment, messages: Messages) -> None:
    """Together with what earlier calls have received, it is everything."""
    while len({*env.received}) < 6:
        await receive(env, messages)


async def fetch(env: Environment) -> None:
    while len({*env.received}) < 6:
        msgs = await env.consumer.fetch(6 - len({*env.received}), timeout=HANG_TIMEOUT)
        env.received += [msg.metadata.stream_seq for msg in msgs]
        for msg in msgs:
            await msg.ack()


async def next_six(env: Environment) -> None:
    while len({*env.received}) < 6:
        msg = await env.consumer.next(timeout=HANG_TIMEOUT)
        env.received.append(msg.metadata.stream_seq)
        await msg.ack()


async def consume(env: Environment) -> None:
    async with env.consumer.consume() as messages:
        await receive_rest(env, messages)


async def consume_batches(env: Environment) -> None:
    async with env.consumer.consume() as messages:
        batches = messages.iter_batches(2)
        while len({*env.received}) < 6:
            batch = await anext(batches)
            env.received += [msg.metadata.stream_seq for msg in batch]
            for msg in batch:
                await msg.ack()


async def consume_on_demand(env: Environment) -> None:
    async with env.consumer.consume(prefetch=False) as messages:
        await receive_rest(env, messages)


async def consume_with_events(env: Environment) -> None:
    async with env.consumer.consume() as messages, messages.events():
        await receive_rest(env, messages)


async def listen_to_stream(env: Environment) -> None:
    async with env.stream.advisories() as advisories:
        await env.consumer.resume()
        await env.consumer.pause(LATER)
        await advisories.receive()


async def listen_to_consumer(env: Environment) -> None:
    async with env.consumer.advisories() as advisories:
        await env.consumer.resume()
        await env.consumer.pause(LATER)
        await advisories.receive()


async def consume_and_close(env: Environment) -> None:
    async with env.consumer.consume() as messages:
        if not env.received:
            await receive(env, messages)
        await messages.aclose()
    async with env.consumer.consume() as messages:
        await receive_rest(env, messages)


async def consume_and_drain(env: Environment) -> None:
    async with env.consumer.consume() as messages:
        if not env.received:
            await receive(env, messages)
        await messages.drain()
        async for msg in messages:
            env.received.append(msg.metadata.stream_seq)
            await msg.ack()
    async with env.consumer.consume() as messages:
        await receive_rest(env, messages)


async def ordered_fetch(env: Environment) -> None:
    while len(env.received) < 6:
        env.received += [msg.metadata.stream_seq for msg in await env.target.fetch(3)]
    assert env.received == [1, 2, 3, 4, 5, 6]


async def ordered_next(env: Environment) -> None:
    while len(env.received) < 6:
        env.received.append((await env.target.next()).metadata.stream_seq)
    assert env.received == [1, 2, 3, 4, 5, 6]


async def ordered_consume(env: Environment) -> None:
    async with env.target.consume() as messages:
        while len(env.received) < 6:
            env.received.append((await messages.receive()).metadata.stream_seq)
    assert env.received == [1, 2, 3, 4, 5, 6]


async def ordered_batches(env: Environment) -> None:
    async with env.target.consume() as messages:
        while len(env.received) < 6:
            batch = await messages.receive_batch(4)
            env.received += [msg.metadata.stream_seq for msg in batch]
    assert env.received == [1, 2, 3, 4, 5, 6]


async def ordered_iterate(env: Environment) -> None:
    if len(env.received) < 6:
        async with env.target.consume(stop_after=6 - len(env.received)) as messages:
            async for msg in messages:
                env.received.append(msg.metadata.stream_seq)
    assert env.received == [1, 2, 3, 4, 5, 6]


async def at_most_one_consumer(env: Environment) -> None:
    """It is kept for the next call, unless the call was cancelled."""
    await env.nc.flush()
    name = env.target.name
    while {one async for one in env.stream.consumer_names()} != {name} - {None}:
        pass


async def expires(env: Environment) -> None:
    """Nobody knows the name of the consumer, so the server has to delete it."""
    await env.nc.flush()
    async for info in env.stream.consumers():
        assert info.config.inactive_threshold == 5


CONSUMERS = Group(
    with_messages,
    (
        Call(
            "Stream.create_consumer",
            lambda s: s.stream.create_consumer("c"),
            before=without_consumers,
            changes=True,
        ),
        Call(
            "Stream.create_consumer",
            lambda s: s.stream.create_consumer(),
            before=without_consumers,
            check=expires,
            idempotent=False,
        ),
        Call(
            "Stream.create_or_update_consumer",
            lambda s: s.stream.create_or_update_consumer("c", description="x"),
            before=without_consumers,
            changes=True,
        ),
        Call(
            "Stream.update_consumer",
            lambda s: s.stream.update_consumer("c", durable_name="c", description="x"),
            before=with_consumer,
        ),
        Call("Stream.consumer", lambda s: s.stream.consumer("c"), before=with_consumer),
        Call("Stream.consumers", list_consumers, before=with_consumer),
        Call("Stream.consumer_names", list_consumer_names, before=with_consumer),
        Call(
            "Stream.delete_consumer",
            lambda s: s.stream.delete_consumer("c"),
            before=with_consumer,
            repeat_errors=(ConsumerNotFoundError,),
            changes=True,
        ),
        Call(
            "Stream.pause_consumer",
            lambda s: s.stream.pause_consumer("c", LATER),
            before=with_consumer,
        ),
        Call("Stream.resume_consumer", lambda s: s.stream.resume_consumer("c"), with_consumer),
        Call(
            "Stream.unpin_consumer",
            lambda s: s.stream.unpin_consumer("c", "g"),
            before=with_pinned_consumer,
        ),
        Call("Consumer.refresh", lambda s: s.consumer.refresh(), before=with_consumer),
        Call(
            "Consumer.delete",
            lambda s: s.consumer.delete(),
            before=with_consumer,
            repeat_errors=(ConsumerNotFoundError,),
            changes=True,
        ),
        Call("Consumer.pause", lambda s: s.consumer.pause(LATER), before=with_consumer),
        Call("Consumer.resume", lambda s: s.consumer.resume(), before=with_consumer),
        Call("Consumer.reset", lambda s: s.consumer.reset(1), before=with_consumer),
        refused("Consumer.step_down", lambda s: s.consumer.step_down(), with_consumer),
        Call("Consumer.unpin", lambda s: s.consumer.unpin("g"), before=with_pinned_consumer),
        Call(
            "Consumer.fetch", fetch, before=with_consumer, check=no_pull_waits, needs_cleanup=True
        ),
        Call(
            "Consumer.fetch",
            fetch,
            before=with_single_deliveries,
            check=no_pull_waits,
            needs_cleanup=True,
            survives_outages=False,
        ),
        Call(
            "Consumer.next",
            next_six,
            before=with_consumer,
            check=no_pull_waits,
            needs_cleanup=True,
        ),
        Call(
            "Consumer.consume Messages.__aenter__ Messages.__aexit__ Messages.receive",
            consume,
            before=with_consumer,
            check=no_pull_waits,
            needs_cleanup=True,
        ),
        Call(
            "Consumer.consume",
            consume_on_demand,
            before=with_single_deliveries,
            check=no_pull_waits,
            needs_cleanup=True,
            survives_outages=False,
        ),
        Call("Consumer.consume", consume, before=with_push_consumer, needs_cleanup=True),
        Call(
            "Messages.receive_batch Messages.iter_batches",
            consume_batches,
            before=with_consumer,
            check=no_pull_waits,
            needs_cleanup=True,
        ),
        Call(
            "Messages.receive_batch",
            consume_batches,
            before=with_push_consumer,
            needs_cleanup=True,
        ),
        Call(
            "Messages.events",
            consume_with_events,
            before=with_consumer,
            check=no_pull_waits,
            needs_cleanup=True,
        ),
        Call(
            "Stream.advisories AdvisoryListener.__aenter__ AdvisoryListener.__aexit__",
            listen_to_stream,
            before=with_consumer,
        ),
        Call("Consumer.advisories", listen_to_consumer, before=with_consumer),
        Call(
            "Messages.aclose",
            consume_and_close,
            before=with_consumer,
            check=no_pull_waits,
            needs_cleanup=True,
        ),
        Call(
            "Messages.drain Messages.__anext__",
            consume_and_drain,
            before=with_consumer,
            check=no_pull_waits,
            needs_cleanup=True,
        ),
        Call(
            "OrderedConsumer.fetch",
            ordered_fetch,
            before=with_ordered_consumer,
            check=at_most_one_consumer,
            idempotent=False,
            needs_cleanup=True,
        ),
        Call(
            "OrderedConsumer.next",
            ordered_next,
            before=with_ordered_consumer,
            check=at_most_one_consumer,
            idempotent=False,
            needs_cleanup=True,
        ),
        Call(
            "OrderedConsumer.consume",
            ordered_consume,
            before=with_ordered_consumer,
            needs_cleanup=True,
        ),
        Call(
            "Messages.receive_batch",
            ordered_batches,
            before=with_ordered_consumer,
            needs_cleanup=True,
        ),
        Call(
            "OrderedConsumer.consume",
            ordered_iterate,
            before=with_ordered_consumer,
            needs_cleanup=True,
        ),
        failing_block(
            "Messages.__aexit__",
            lambda s: s.consumer.consume(),
            lambda messages: messages.receive(),
            before=with_consumer,
            check=no_pull_waits,
        ),
        failing_block(
            "Messages.__aexit__",
            lambda s: s.target.consume(),
            lambda messages: messages.receive(),
            before=with_ordered_consumer,
        ),
        *(
            Call(
                f"JetStreamMsg.{name}",
                lambda s, name=name: getattr(s.target, name)(),
                before=with_message,
                check=answered_or_not,
                repeat_errors=(AckError,),
            )
            for name in ("ack", "double_ack", "nak", "term")
        ),
        Call("JetStreamMsg.in_progress", lambda s: s.target.in_progress(), before=with_message),
    ),
)
