"""A bucket's changes as they happen, after what is there already."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import trio

from .._constructors import NoPublicConstructor, construct
from ..codecs import Decoder
from ..errors import NatsError
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.consumer.messages import Messages
from ..jetstream.consumer.ordered import OrderedConsumer
from ..jetstream.errors import StreamNotFoundError
from ..jetstream.stream import Stream
from .entry import Entry
from .errors import BucketNotFoundError

__all__ = ["KeyWatcher", "Plan", "bucket_errors"]

T = TypeVar("T")

FIRST_SILENCE = 0.5
LONGEST_SILENCE = 30.0


@contextmanager
def bucket_errors(bucket: str) -> Generator[None, None, None]:
    """Speak of the bucket where the stream is gone."""
    try:
        yield
    except StreamNotFoundError as error:
        raise BucketNotFoundError(
            error.code, error.err_code, f"there is no bucket {bucket!r}: {error.description}"
        ) from None


class Plan(NamedTuple):
    """What to watch, and how."""

    bucket: str
    prefix: str
    """What the subjects of its keys begin with."""
    stream: Stream
    consumer: OrderedConsumer
    updates_only: bool = False
    ignore_deletes: bool = False
    meta_only: bool = False


class KeyWatcher(
    trio.abc.ReceiveChannel[Entry[T]], Generic[T], metaclass=NoPublicConstructor, use="kv.watch()"
):
    """What is in a bucket and what happens to it; made by :meth:`KeyValue.watch`.

    A Trio channel, for ``async with``. What is there already comes first; either loop over that
    alone, or see by :attr:`is_caught_up` when it has come::

        async with kv.watch("config.*") as watch:
            async for entry in watch.initial():
                ...  # what is there
            async for entry in watch:
                ...  # what happens from now on

    Each change comes once and in order, whatever happens to the connection. If it is
    lost before all that is there has come, values that have been replaced may come too, before
    those that replaced them. Changes that follow on each other while the connection is lost, or
    nobody receives, may come as the last one only, for the bucket keeps no more than its history.

    It is for one task at a time; a second one gets :exc:`trio.BusyResourceError`. It ends with
    :exc:`trio.EndOfChannel`, which ends an ``async for``, when the connection is drained; with
    :exc:`BucketNotFoundError` when the bucket was deleted; with :exc:`ConnectionLostError` when
    the connection is gone for good; and with :exc:`trio.ClosedResourceError` when this end or the
    connection was closed.
    """

    def __init__(self, plan: Plan, codec: Decoder[T]) -> None:
        self._plan = plan
        self._codec = codec
        self._messages: Messages = plan.consumer.consume()
        self._caught_up = trio.Event()
        self._silence = FIRST_SILENCE
        self._seen = ("", 0)  # the consumer and its last delivery

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Begin to watch. If cancelled, nothing has happened.

        Raises :exc:`BucketNotFoundError` if the bucket is gone, and what
        :meth:`Stream.create_consumer` raises.
        """
        with bucket_errors(self._plan.bucket):
            await self._messages.__aenter__()
        info = self._plan.consumer.info
        if self._plan.updates_only or (info is not None and not info.num_pending):
            self._caught_up.set()
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._messages.__aexit__(exc_type, exc, traceback)

    async def aclose(self) -> None:
        """End it. Done even if cancelled, or repeated. Leaving the block does the same."""
        await self._messages.aclose()

    # --- receiving -------------------------------------------------------------------------------

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was there when it began has been received.

        It becomes true with the last entry of those: a loop sees it while it has that one.
        """
        return self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Wait until :attr:`is_caught_up`, while another task receives. Can be cancelled."""
        self._messages._check_run()
        await self._caught_up.wait()

    def initial(self) -> AsyncIterator[Entry[T]]:
        """What is there, for an ``async for`` that ends then; what comes after is left for others.

        Raises what :meth:`receive` raises. If cancelled, no entry is lost, and the next one goes
        on.
        """
        return _Initial(self)

    async def receive(self) -> Entry[T]:
        """The next entry; waits for it. If cancelled, none is lost."""
        while True:
            entry = await self._step()
            if entry is not None:
                return entry

    async def _step(self) -> Entry[T] | None:
        """The next entry; ``None``: one that was not asked for, or nothing after all."""
        with bucket_errors(self._plan.bucket):
            msg = await self._next()
        return None if msg is None else self._entry(msg)

    async def _next(self) -> JetStreamMsg | None:
        if self._caught_up.is_set():
            return await self._messages.receive()
        with trio.move_on_after(self._silence):
            return await self._messages.receive()
        # A pending message may have expired, and the server does not say so. Longer and
        # longer, for making a new consumer may take that long.
        self._silence = min(2 * self._silence, LONGEST_SILENCE)
        if await self._is_all():
            self._caught_up.set()
        return None

    async def _is_all(self) -> bool:
        name = self._plan.consumer.name
        if name is not None:
            with trio.move_on_after(FIRST_SILENCE):
                try:
                    info = (await self._plan.stream.consumer(name)).info
                except NatsError:
                    return False  # `receive` is the one to find out
                consumer, delivery = self._seen
                seen = delivery if consumer == name else 0
                assert info is not None
                return info.num_pending == 0 and info.delivered.consumer_seq <= seen
        return False

    def _entry(self, msg: JetStreamMsg) -> Entry[T] | None:
        plan, metadata = self._plan, msg.metadata
        self._silence = FIRST_SILENCE
        self._seen = metadata.consumer, metadata.consumer_seq
        info = plan.consumer.info
        if not metadata.pending or (info is not None and metadata.consumer_seq >= info.num_pending):
            self._caught_up.set()
        if not msg.subject.startswith(plan.prefix):
            return None
        entry = construct(
            Entry,
            bucket=plan.bucket,
            key=msg.subject[len(plan.prefix) :],
            revision=metadata.stream_seq,
            timestamp=metadata.timestamp,
            delta=metadata.pending,
            data=msg.data,
            headers=msg.headers,
            codec=self._codec,
            meta_only=plan.meta_only,
        )
        return None if plan.ignore_deletes and entry.is_deleted else entry

    def __repr__(self) -> str:
        state = "caught up" if self.is_caught_up else "not caught up"
        return f"<KeyWatcher of bucket {self._plan.bucket!r}, {state}>"


class _Initial(AsyncIterator[Entry[T]]):
    """Not an async generator, which somebody would have to close."""

    def __init__(self, watch: KeyWatcher[T]) -> None:
        self._watch = watch

    async def __anext__(self) -> Entry[T]:
        while not self._watch.is_caught_up:
            entry = await self._watch._step()
            if entry is not None:
                return entry
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration
