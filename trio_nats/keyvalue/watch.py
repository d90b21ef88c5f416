"""Watch a bucket: first its current entries, then every change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar

import trio

from .._async_with import NeedsAsyncWith
from .._constructors import NoPublicConstructor, construct
from .._event_hub import EventChannel
from ..codecs import Decoder
from ..jetstream.consumer.message import JetStreamMsg
from ..jetstream.consumer.ordered import OrderedConsumer
from ..jetstream.errors import StreamNotFoundError
from ..jetstream.events import ConsumerEvent
from ..jetstream.stream import Stream
from ..jetstream.watched_messages import InitialIterator, WatchedMessages
from .entry import Entry
from .errors import BucketNotFoundError

__all__ = ["KeyWatcher", "Plan", "bucket_errors", "bucket_not_found"]

T = TypeVar("T")


@contextmanager
def bucket_errors(bucket: str) -> Generator[None, None, None]:
    """Name the bucket in the error for a stream that does not exist."""
    try:
        yield
    except StreamNotFoundError as error:
        raise bucket_not_found(bucket, error) from None


def bucket_not_found(bucket: str, error: StreamNotFoundError) -> BucketNotFoundError:
    """Return the error that names the bucket."""
    return BucketNotFoundError(
        error.code, error.err_code, f"bucket {bucket!r} does not exist: {error.description}"
    )


class Plan(NamedTuple):
    """The keys to watch, and the options."""

    bucket: str
    prefix: str
    """The prefix of the subjects of the bucket's keys."""
    stream: Stream
    consumer: OrderedConsumer
    filters: Sequence[str]
    """The subjects to watch."""
    resume_from: int = 0
    updates_only: bool = False
    ignore_deletes: bool = False
    meta_only: bool = False


class KeyWatcher(
    trio.abc.ReceiveChannel[Entry[T]],
    NeedsAsyncWith,
    Generic[T],
    metaclass=NoPublicConstructor,
    use="kv.watch()",
):
    """A Trio channel of the entries of a bucket, returned by :meth:`KeyValue.watch`.

    Use it with ``async with``. It delivers the current entries first, then every change::

        async with kv.watch("config.*") as watcher:
            async for entry in watcher.initial():
                ...  # the current entries
            async for entry in watcher:
                ...  # the changes

    Every change is delivered once and in order, also after a reconnect, with two exceptions. If the
    connection is lost before the watcher has caught up, a value that was replaced in the meantime
    may be delivered before its replacement. If several changes of a key are made while the
    connection is lost or you do not receive, only the last ones may be delivered, because the
    bucket keeps only its ``history``.

    Only one task may receive at a time; a second one gets :exc:`trio.BusyResourceError`. The
    channel ends with :exc:`trio.EndOfChannel`, which ends an ``async for``, when the connection is
    drained; with :exc:`BucketNotFoundError` when the bucket is deleted; with
    :exc:`ConnectionLostError` when the connection is lost for good; and with
    :exc:`trio.ClosedResourceError` when the watcher or the connection is closed.
    """

    _async_with = "kv.watch(...) as watcher"

    def __init__(self, plan: Plan, codec: Decoder[T]) -> None:
        self._plan = plan
        self._codec = codec
        self._messages = WatchedMessages(
            plan.stream,
            plan.consumer,
            plan.filters,
            since=plan.resume_from,
            use=self._async_with,
        )
        self._caught_up = self._messages.caught_up

    @trio.lowlevel.enable_ki_protection
    async def __aenter__(self) -> Self:
        """Start watching. If cancelled, nothing was started.

        It also raises what :meth:`Stream.create_consumer` raises.

        :raises BucketNotFoundError: if the bucket does not exist.
        """
        with bucket_errors(self._plan.bucket):
            await self._messages.enter(updates_only=self._plan.updates_only)
        return self

    @trio.lowlevel.enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._messages.leave(exc)

    async def aclose(self) -> None:
        """Stop watching, as leaving the ``async with`` block does. May be called again.

        If cancelled, the watcher is closed all the same.
        """
        await self._messages.aclose()

    def events(self, *, buffer: int = 256) -> EventChannel[ConsumerEvent]:
        """Listen to the events of the consumer that it reads from; see :meth:`Messages.events`.

        :param buffer: number of events that may wait to be received. Default: 256.
        :returns: a channel of events.
        :raises ConfigurationError: if ``buffer`` is less than 1.
        """
        return self._messages.events(buffer)

    # --- receiving -------------------------------------------------------------------------------

    @property
    def is_caught_up(self) -> bool:
        """Whether all entries that were current at the start have been received.

        If one of them was replaced in the meantime, its replacement has been received.

        Becomes true with the last of them, so a loop sees it while it handles that entry.
        """
        return self._caught_up.is_set()

    async def caught_up(self) -> None:
        """Wait until :attr:`is_caught_up` is true, while another task receives.

        If cancelled, nothing is lost.
        """
        self._messages.check_run()
        await self._caught_up.wait()

    def initial(self) -> AsyncIterator[Entry[T]]:
        """Iterate over the current entries: ``async for entry in watcher.initial():``.

        The loop ends when :attr:`is_caught_up` becomes true; later changes stay in the channel. It
        raises what :meth:`receive` raises. If cancelled, no entry is lost, and you can continue
        with another loop.

        :returns: an iterator over the current entries.
        """
        return InitialIterator(self._caught_up, self._step)

    async def receive(self) -> Entry[T]:
        """Wait for the next entry. If cancelled, no entry is lost.

        :returns: the entry.
        :raises trio.EndOfChannel: when the connection is drained.
        :raises trio.ClosedResourceError: if the watcher or the connection is closed.
        :raises trio.BusyResourceError: if another task is receiving.
        :raises BucketNotFoundError: when the bucket is deleted.
        :raises ConnectionLostError: when the connection is lost for good.
        """
        while True:
            entry = await self._step()
            if entry is not None:
                return entry

    async def _step(self) -> Entry[T] | None:
        """Return the next entry; ``None`` if it is filtered out or there was none for a while."""
        try:  # bucket_errors() would take a noticeable part of the time of an entry
            msg = await self._messages.receive()
        except StreamNotFoundError as error:
            raise bucket_not_found(self._plan.bucket, error) from None
        return None if msg is None else self._entry(msg)

    def _entry(self, msg: JetStreamMsg) -> Entry[T] | None:
        plan, metadata, raw = self._plan, msg.metadata, msg.raw
        subject = raw.subject
        if not subject.startswith(plan.prefix):
            return None
        entry = construct(
            Entry,
            bucket=plan.bucket,
            key=subject[len(plan.prefix) :],
            revision=metadata.stream_seq,
            timestamp=metadata.timestamp_ns,
            delta=metadata.pending,
            data=raw.data,
            headers=raw.raw_headers,
            codec=self._codec,
            meta_only=plan.meta_only,
        )
        return None if plan.ignore_deletes and entry.is_deleted else entry

    def __repr__(self) -> str:
        state = "caught up" if self.is_caught_up else "not caught up"
        return f"<KeyWatcher of bucket {self._plan.bucket!r}, {state}>"
