"""Calls of streams, consumers and their messages."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from tests.cancellation.stage import MEMORY, Call, Group, Stage, Step, failing, nothing
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


async def with_streams(stage: Stage) -> None:
    stage.stream = await filled(stage.js, 6)


async def without_x(stage: Stage) -> None:
    if "X" in await stage.state():
        await stage.witness.delete_stream("X")


async def with_x(stage: Stage) -> None:
    await stage.witness.create_or_update_stream("X", subjects=["x"], storage=MEMORY)


async def refill(stage: Stage) -> None:
    """Store the messages again, with the same numbers."""
    await stage.witness.delete_stream("S")
    await filled(stage.witness, 6)


async def with_new_x(stage: Stage) -> None:
    await without_x(stage)
    await with_x(stage)
    stage.it = await stage.js.stream("X")


def refused(names: str, call: Callable[[Stage], Awaitable[object]], before: Step = nothing) -> Call:
    """Return a call for clusters, which a single server refuses."""

    async def run(stage: Stage) -> None:
        with contextlib.suppress(JetStreamAPIError):
            await call(stage)

    return Call(names, run, before)


async def list_streams(stage: Stage) -> None:
    assert [info.config.name async for info in stage.js.streams()] == ["S"]


async def list_stream_names(stage: Stage) -> None:
    assert [name async for name in stage.js.stream_names(subject="s.0")] == ["S"]


async def list_subjects(stage: Stage) -> None:
    assert len([pair async for pair in stage.stream.subjects()]) == 3


async def get_msgs(stage: Stage) -> None:
    """In several batches; the iterator goes on where it was cancelled."""
    if stage.it is None:
        stage.it = stage.stream.get_msgs(max_messages=2)
    async for msg in stage.it:
        stage.got.append(msg.seq)
    assert stage.got == [1, 2, 3, 4, 5, 6]


async def begin_again(stage: Stage) -> None:
    stage.it = None


async def get_last_msgs(stage: Stage) -> None:
    msgs = stage.stream.get_last_msgs(["s.0", "s.1"], max_messages=1)
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
            done=(StreamNotFoundError,),
            changes=True,
        ),
        Call("Stream.refresh", lambda s: s.stream.refresh()),
        Call("Stream.subjects", list_subjects),
        Call("Stream.get_msg", lambda s: s.stream.get_msg(2)),
        Call("Stream.get_msg", lambda s: s.stream.get_msg(2, direct=False)),
        Call("Stream.get_msgs", get_msgs, before=begin_again),
        Call("Stream.get_last_msgs", get_last_msgs),
        Call("Stream.seal", lambda s: s.it.seal(), before=with_new_x, changes=True),
        refused("Stream.step_down", lambda s: s.stream.step_down()),
        refused("Stream.remove_peer", lambda s: s.stream.remove_peer("p")),
        refused("Stream.evacuate_peer", lambda s: s.stream.evacuate_peer("p")),
        refused("Stream.cancel_move", lambda s: s.stream.cancel_move()),
        Call("Stream.purge", lambda s: s.stream.purge(subject="s.1"), before=refill, changes=True),
        Call(
            "Stream.delete_msg",
            lambda s: s.stream.delete_msg(3),
            before=refill,
            done=(JetStreamAPIError,),
            changes=True,
        ),
    ),
)


# --- publishing -----------------------------------------------------------------------------------


async def with_a_target(stage: Stage) -> None:
    stage.stream = await filled(stage.js, 0, allow_atomic=True, allow_batched=True)


async def empty(stage: Stage) -> None:
    """Messages are stored again only if they bear another id."""
    stage.number += 1
    await stage.stream.purge()


async def publish(stage: Stage) -> None:
    await stage.js.publish("s.a", b"x", msg_id=f"{stage.number}")


async def publish_many(stage: Stage) -> None:
    async with stage.js.publisher(max_pending=2) as publisher:
        acks = [
            await publisher.publish("s.a", f"{n}", msg_id=f"{stage.number}-{n}") for n in range(5)
        ]
        await acks[0]
        await acks[4].wait()


async def publish_and_close(stage: Stage) -> None:
    try:
        async with stage.js.publisher() as publisher:
            await publisher.publish("s.a", b"x", msg_id=f"{stage.number}")
            await publisher.aclose()
    except UnacknowledgedError:
        pass  # aclose() was cancelled


async def nothing_out_of_order(stage: Stage) -> None:
    """What is stored of five messages is the beginning."""
    await stage.nc.flush()
    stored = [int(msg.data) async for msg in stage.stream.get_msgs()]
    assert stored == list(range(len(stored)))


async def batch(stage: Stage) -> None:
    batch = stage.js.atomic_batch()
    for n in range(4):
        await batch.add("s.a", f"{n}", msg_id=f"{stage.number}-{n}")
    assert (await batch.commit()).count == 4


async def fast_batch(stage: Stage) -> None:
    async with stage.js.fast_batch(ack_every=2, max_pending_acks=1) as batch:
        for n in range(5):
            await batch.add("s.a", f"{n}", msg_id=f"{stage.number}-{n}")
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
            whole=False,
            needs_cleanup=True,
        ),
        failing(
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
            done=(JetStreamAPIError,),  # its messages are duplicates
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
            whole=False,
            needs_cleanup=True,
        ),
        failing(
            "FastBatch.__aexit__",
            lambda s: s.js.fast_batch(),
            lambda batch: batch.add("s.a"),
            before=empty,
            idempotent=False,
        ),
    ),
)


# --- consumers ------------------------------------------------------------------------------------


async def with_messages(stage: Stage) -> None:
    stage.stream = await filled(stage.js, 6)


async def without_consumers(stage: Stage) -> None:
    stream = await stage.witness.stream("S")
    async for name in stream.consumer_names():
        await stream.delete_consumer(name)


async def with_consumer(stage: Stage) -> None:
    """A consumer that has delivered nothing yet; what is lost stays so for an hour."""
    await without_consumers(stage)
    stage.consumer = await stage.stream.create_consumer(
        "c", durable_name="c", ack_wait=stage.ack_wait
    )


async def with_single_deliveries(stage: Stage) -> None:
    """A consumer that delivers nothing twice."""
    await without_consumers(stage)
    stage.consumer = await stage.stream.create_consumer(
        "c", durable_name="c", ack_wait=stage.ack_wait, max_deliver=1
    )


async def with_push_consumer(stage: Stage) -> None:
    """Messages on their way when the subscription ends are delivered again after ``ack_wait``."""
    await without_consumers(stage)
    stage.consumer = await stage.stream.create_consumer(
        "c",
        durable_name="c",
        ack_wait=1,
        deliver_subject="here",
        idle_heartbeat=5,
        flow_control=True,
    )


async def with_pinned_consumer(stage: Stage) -> None:
    await without_consumers(stage)
    stage.consumer = await stage.stream.create_consumer(
        "c",
        durable_name="c",
        priority_groups=["g"],
        priority_policy=PriorityPolicy.PINNED_CLIENT,
        priority_timeout=60,
    )


async def with_ordered_consumer(stage: Stage) -> None:
    await without_consumers(stage)
    stage.it = stage.stream.ordered_consumer()


async def with_message(stage: Stage) -> None:
    await with_consumer(stage)
    stage.it = await stage.consumer.next()


async def answered_or_not(stage: Stage) -> None:
    assert stage.it.answered == stage.completed


async def list_consumers(stage: Stage) -> None:
    assert [info.name async for info in stage.stream.consumers()] == ["c"]


async def list_consumer_names(stage: Stage) -> None:
    assert [name async for name in stage.stream.consumer_names()] == ["c"]


async def no_pull_waits(stage: Stage) -> None:
    """Pull requests are gone, and so are messages that nobody has received."""
    await stage.nc.flush()
    info = await stage.consumer.refresh()
    while info.num_waiting and not stage.has_outages:
        info = await stage.consumer.refresh()


async def receive(stage: Stage, messages: Messages) -> None:
    msg = await messages.receive()
    stage.got.append(msg.metadata.stream_seq)
    await msg.ack()


async def receive_rest(stage: Stage, messages: Messages) -> None:
    """Together with what earlier calls have received, it is everything."""
    while len({*stage.got}) < 6:
        await receive(stage, messages)


async def fetch(stage: Stage) -> None:
    while len({*stage.got}) < 6:
        msgs = await stage.consumer.fetch(6 - len({*stage.got}), timeout=HANG_TIMEOUT)
        stage.got += [msg.metadata.stream_seq for msg in msgs]
        for msg in msgs:
            await msg.ack()


async def next_six(stage: Stage) -> None:
    while len({*stage.got}) < 6:
        msg = await stage.consumer.next(timeout=HANG_TIMEOUT)
        stage.got.append(msg.metadata.stream_seq)
        await msg.ack()


async def consume(stage: Stage) -> None:
    async with stage.consumer.consume() as messages:
        await receive_rest(stage, messages)


async def consume_on_demand(stage: Stage) -> None:
    async with stage.consumer.consume(prefetch=False) as messages:
        await receive_rest(stage, messages)


async def consume_with_events(stage: Stage) -> None:
    async with stage.consumer.consume() as messages, messages.events():
        await receive_rest(stage, messages)


async def listen_to_stream(stage: Stage) -> None:
    async with stage.stream.advisories() as advisories:
        await stage.consumer.resume()
        await stage.consumer.pause(LATER)
        await advisories.receive()


async def listen_to_consumer(stage: Stage) -> None:
    async with stage.consumer.advisories() as advisories:
        await stage.consumer.resume()
        await stage.consumer.pause(LATER)
        await advisories.receive()


async def consume_and_close(stage: Stage) -> None:
    async with stage.consumer.consume() as messages:
        if not stage.got:
            await receive(stage, messages)
        await messages.aclose()
    async with stage.consumer.consume() as messages:
        await receive_rest(stage, messages)


async def consume_and_drain(stage: Stage) -> None:
    async with stage.consumer.consume() as messages:
        if not stage.got:
            await receive(stage, messages)
        await messages.drain()
        async for msg in messages:
            stage.got.append(msg.metadata.stream_seq)
            await msg.ack()
    async with stage.consumer.consume() as messages:
        await receive_rest(stage, messages)


async def ordered_fetch(stage: Stage) -> None:
    while len(stage.got) < 6:
        stage.got += [msg.metadata.stream_seq for msg in await stage.it.fetch(3)]
    assert stage.got == [1, 2, 3, 4, 5, 6]


async def ordered_next(stage: Stage) -> None:
    while len(stage.got) < 6:
        stage.got.append((await stage.it.next()).metadata.stream_seq)
    assert stage.got == [1, 2, 3, 4, 5, 6]


async def ordered_consume(stage: Stage) -> None:
    async with stage.it.consume() as messages:
        while len(stage.got) < 6:
            stage.got.append((await messages.receive()).metadata.stream_seq)
    assert stage.got == [1, 2, 3, 4, 5, 6]


async def ordered_iterate(stage: Stage) -> None:
    if len(stage.got) < 6:
        async with stage.it.consume(stop_after=6 - len(stage.got)) as messages:
            async for msg in messages:
                stage.got.append(msg.metadata.stream_seq)
    assert stage.got == [1, 2, 3, 4, 5, 6]


async def at_most_one_consumer(stage: Stage) -> None:
    """It is kept for the next call, unless the call was cancelled."""
    await stage.nc.flush()
    name = stage.it.name
    while {one async for one in stage.stream.consumer_names()} != {name} - {None}:
        pass


async def expires(stage: Stage) -> None:
    """Nobody knows the name of the consumer, so the server has to delete it."""
    await stage.nc.flush()
    async for info in stage.stream.consumers():
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
            done=(ConsumerNotFoundError,),
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
            done=(ConsumerNotFoundError,),
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
            "OrderedConsumer.consume",
            ordered_iterate,
            before=with_ordered_consumer,
            needs_cleanup=True,
        ),
        failing(
            "Messages.__aexit__",
            lambda s: s.consumer.consume(),
            lambda messages: messages.receive(),
            before=with_consumer,
            check=no_pull_waits,
        ),
        failing(
            "Messages.__aexit__",
            lambda s: s.it.consume(),
            lambda messages: messages.receive(),
            before=with_ordered_consumer,
        ),
        *(
            Call(
                f"JetStreamMsg.{name}",
                lambda s, name=name: getattr(s.it, name)(),
                before=with_message,
                check=answered_or_not,
                done=(AckError,),
            )
            for name in ("ack", "double_ack", "nak", "term")
        ),
        Call("JetStreamMsg.in_progress", lambda s: s.it.in_progress(), before=with_message),
    ),
)
