"""Publishers and consumers of the JetStream soak, and the checks of their messages."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence

import trio

from tests.reliability.jetstream_soak.report import Report
from tests.reliability.soak import opened, sealed
from trio_nats import NatsError
from trio_nats.jetstream import (
    AtomicBatch,
    Consumer,
    JetStream,
    JetStreamMsg,
    Messages,
    NoStreamResponseError,
    PubAck,
    Stream,
)

__all__ = [
    "STREAM",
    "Consumed",
    "PublishedMessages",
    "consume",
    "consume_in_order",
    "fetch",
    "publish_batches",
    "publish_one_by_one",
    "publish_pipelined",
    "read",
]

STREAM = "SOAK"
TIMEOUT = 2.0
RETRY = 0.1
GIVEN_UP = 0.03
"""The share of single messages that are not published again when their outcome is unknown."""


# --- publishing ---------------------------------------------------------------------------------


class PublishedMessages:
    """The outcome of each published message."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.acknowledged: dict[str, int] = {}
        self.unknown: set[str] = set()
        self.unknown_batches: list[list[str]] = []
        self.started = 0

    def payload(self, name: str, dice: random.Random) -> bytes:
        self.started += 1
        return sealed(f"{name} {'x' * dice.randrange(200)}")

    def note(self, name: str, ack: PubAck) -> None:
        self.acknowledged[name] = ack.seq
        if ack.duplicate:
            self._report.counts["messages: acknowledged as duplicates"] += 1
        if ack.stream != STREAM:
            self._report.violation(f"{name} was stored in {ack.stream}")

    def verify(self, stored: Mapping[int, str]) -> None:
        """Compare what was acknowledged with all that is stored."""
        report, copies = self._report, Counter(stored.values())
        for name, seq in self.acknowledged.items():
            if copies[name] != 1:
                report.violation(f"{name} was acknowledged at {seq}, but is stored {copies[name]}x")
            elif stored.get(seq) != name:
                report.violation(f"{name} was acknowledged at {seq}, where {stored.get(seq)} is")
        for name in copies.keys() - self.acknowledged.keys():
            if name not in self.unknown:
                report.violation(f"{name} is stored, but was not published")
            elif copies[name] > 1:
                report.violation(f"{name}, whose outcome is unknown, is stored {copies[name]}x")
        for batch in self.unknown_batches:
            if 0 < sum(copies[name] for name in batch) < len(batch):
                report.violation(f"of the atomic batch {batch}, only a part is stored")
        report.counts["messages: acknowledged, and stored exactly once"] = sum(
            copies[name] == 1 for name in self.acknowledged
        )
        report.counts["messages: outcome unknown"] = len(self.unknown)
        report.counts["messages: outcome unknown, stored once"] = len(self.unknown & copies.keys())


def read(msg: JetStreamMsg | bytes) -> str | None:
    """Return the name of a message, unless it is damaged."""
    text = opened(msg if isinstance(msg, bytes) else msg.data)
    return None if text is None else text.partition(" ")[0]


async def publish_one_by_one(
    js: JetStream,
    who: str,
    published: PublishedMessages,
    report: Report,
    stop: trio.Event,
    pause: float,
    began: trio.Event,
) -> None:
    began.set()
    dice = random.Random(who)
    while not stop.is_set():
        name = f"{who}-{published.started}"
        await _publish(js, who, name, published.payload(name, dice), published, report, dice)
        await trio.sleep(pause)


async def _publish(
    js: JetStream,
    who: str,
    name: str,
    payload: bytes,
    published: PublishedMessages,
    report: Report,
    dice: random.Random | None = None,
) -> None:
    """Publish a message until it is acknowledged; give a few up whose outcome is unknown."""
    while True:
        try:
            ack = await js.publish(f"soak.{who}", payload, msg_id=name, timeout=TIMEOUT)
        except NatsError as error:
            report.error("publish", error)
            unknown = not isinstance(error, NoStreamResponseError)
            if unknown and dice is not None and dice.random() < GIVEN_UP:
                published.unknown.add(name)
                return
            await trio.sleep(RETRY)
        else:
            published.note(name, ack)
            return


async def publish_pipelined(
    js: JetStream,
    who: str,
    published: PublishedMessages,
    report: Report,
    stop: trio.Event,
    batch: int,
    pause: float,
    began: trio.Event,
) -> None:
    began.set()
    dice = random.Random(who)
    while not stop.is_set():
        failed: dict[str, bytes] = {}
        acks = []
        async with js.publisher(max_pending=100, timeout=TIMEOUT) as publisher:
            for _ in range(batch):
                name = f"{who}-{published.started}"
                payload = published.payload(name, dice)
                ack = await publisher.publish(f"soak.{who}", payload, msg_id=name)
                acks.append((name, payload, ack))
            for name, payload, ack in acks:
                try:
                    published.note(name, await ack)
                except NatsError as error:
                    report.error("publisher", error)
                    failed[name] = payload
        for name, payload in failed.items():
            await _publish(js, who, name, payload, published, report)
        await trio.sleep(pause)


async def publish_batches(
    js: JetStream,
    who: str,
    published: PublishedMessages,
    report: Report,
    stop: trio.Event,
    pause: float,
    began: trio.Event,
) -> None:
    """Publish atomic batches, each of them once."""
    began.set()
    dice = random.Random(who)
    while not stop.is_set():
        batch, names = js.atomic_batch(timeout=TIMEOUT), list[str]()
        try:
            for _ in range(dice.randrange(2, 8)):
                names.append(f"{who}-{published.started}")
                await batch.add(f"soak.{who}", published.payload(names[-1], dice))
        except NatsError as error:
            report.error("add to batch", error)
        else:
            await _commit(batch, names, published, report)
        await trio.sleep(pause)


async def _commit(
    batch: AtomicBatch, names: list[str], published: PublishedMessages, report: Report
) -> None:
    try:
        ack = await batch.commit()
    except NatsError as error:
        report.error("commit batch", error)
        published.unknown.update(names)
        published.unknown_batches.append(names)
    else:
        report.counts["messages: batches acknowledged"] += 1
        first = ack.seq - len(names) + 1
        published.acknowledged.update(zip(names, range(first, ack.seq + 1), strict=True))


# --- consuming ----------------------------------------------------------------------------------


class Consumed:
    """What one consumer has received."""

    def __init__(self, who: str, report: Report, *, ordered: bool = False) -> None:
        self.who, self.ordered = who, ordered
        self._report = report
        self.names: dict[int, str] = {}
        self.deliveries = 0
        self.last = 0

    def note(self, msg: JetStreamMsg) -> None:
        name, seq = read(msg), msg.metadata.stream_seq
        self.deliveries += 1
        if name is None:
            self._report.violation(f"{self.who} received a damaged message {seq}")
        elif self.names.setdefault(seq, name) != name:
            self._report.violation(f"{self.who} received {self.names[seq]} and {name} as {seq}")
        if self.ordered and seq <= self.last:
            self._report.violation(f"{self.who} received {seq} after {self.last}")
        self.last = max(self.last, seq)

    def verify(self, stored: Mapping[int, str]) -> None:
        missing = stored.keys() - self.names.keys()
        if missing:
            self._report.violation(
                f"{self.who} never received {len(missing)}: {sorted(missing)[:5]}"
            )
        other = [seq for seq, name in self.names.items() if stored.get(seq) != name]
        if other:
            self._report.violation(
                f"{self.who} received {len(other)} that are not stored so: {sorted(other)[:5]}"
            )
        counts = self._report.counts
        counts[f"consumer {self.who}: received"] = len(self.names)
        if not self.ordered:
            counts[f"consumer {self.who}: received again"] = self.deliveries - len(self.names)


async def consume(
    consumer: Consumer,
    consumed: Consumed,
    report: Report,
    stop: trio.Event,
    leave: bool,
    began: trio.Event,
) -> None:
    """Consume and acknowledge; now and then leave, and come back."""
    dice = random.Random(consumed.who)
    most = 300 if consumed.who == "pull" else None
    while True:
        seconds = dice.uniform(2, 15) if leave and not stop.is_set() else math.inf
        with trio.move_on_after(seconds):
            async with (
                consumer.consume(max_messages=most) as messages,
                trio.open_nursery() as nursery,
            ):
                began.set()
                for _ in range(2):
                    nursery.start_soon(_work, messages, consumed, report, dice)
        report.counts[f"consumer {consumed.who}: left and came back"] += 1


async def _work(
    messages: Messages, consumed: Consumed, report: Report, dice: random.Random
) -> None:
    async for msg in messages:
        consumed.note(msg)
        try:
            if dice.random() < 0.02:
                await msg.double_ack(timeout=1)
            else:
                await msg.ack()
        except NatsError as error:
            report.error("acknowledge", error)


async def fetch(consumer: Consumer, consumed: Consumed, report: Report, began: trio.Event) -> None:
    """Fetch and acknowledge."""
    began.set()
    dice = random.Random(consumed.who)
    while True:
        try:
            if dice.random() < 0.2:
                msgs = [await consumer.next(timeout=1)]
            else:
                msgs = await consumer.fetch(dice.randrange(1, 400), timeout=1)
            for msg in msgs:
                consumed.note(msg)
                await msg.ack()
        except NatsError as error:
            report.error("fetch", error)
            await trio.sleep(RETRY)


async def consume_in_order(
    stream: Stream, consumed: Consumed, subjects: Sequence[str], threshold: float, began: trio.Event
) -> None:
    """Read in order, from the beginning or from where an earlier call failed to begin."""
    consumer = stream.ordered_consumer(filter_subjects=subjects, inactive_threshold=threshold)
    async with consumer.consume() as messages:
        began.set()
        async for msg in messages:
            consumed.note(msg)
