"""A stream's messages in order, each once, whatever becomes of the consumers behind it (ADR-17)."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar, cast, overload

import msgspec
import trio

from ..codecs import Decoder, check_decoder
from ..errors import (
    ConsumerDeletedError,
    JetStreamAPIError,
    NatsError,
    NoRespondersError,
    PullError,
    RequestTimeoutError,
)
from ..options import check_count, check_flag
from .api import API
from .channels import Messages, TypedMessages
from .consumer_config import AckPolicy, ConsumerConfig, DeliverPolicy
from .creating import put_consumer
from .delivered import Desk, JetStreamMsg, TypedJetStreamMsg
from .feed import Broken, Feed, Link
from .fetch import Fetch
from .pulls import LARGEST_BATCH
from .terms import ConsumeOptions, Terms, consume_options

__all__ = ["OrderedConsumer"]

_logger = logging.getLogger("trio_nats.jetstream")

T = TypeVar("T")

DEFAULT_BATCH = 100
HEARTBEAT = 5.0
FIRST_WAIT = 0.25
LONGEST_WAIT = 8.0
UNAVAILABLE = 503
GONE = (404, 409, 503)


class OrderedConsumer:
    """Reads a stream in order; made by :meth:`Stream.ordered_consumer`.

    It never skips a message nor hands one out twice: whenever something may have been missed (a
    gap, silence, another connection, a consumer that is gone) a new consumer, in the memory of the
    server, takes its place and goes on behind the last message that was handed out. Nothing is
    acknowledged. :meth:`next`, :meth:`fetch` and :meth:`consume` follow on each other: what one of
    them handed out the others do not. It is for one task at a time; a second one gets
    :exc:`trio.BusyResourceError`.

    Should ``DeliverPolicy.LAST_PER_SUBJECT`` be interrupted before it has come to the present,
    messages that are not the last of their subject may come too, still in order.
    """

    def __init__(self, api: API, stream: str, prefix: str, config: ConsumerConfig) -> None:
        self._api = api
        self._stream = stream
        self._prefix = prefix
        self._config = config
        self._serial = 0
        self._next_seq: int | None = None  # in the stream; `None`: as configured
        self._name: str | None = None  # of the present consumer
        self._consumer_seq = 0  # what it has delivered
        self._started_with: int | None = None
        self._busy = False

    @property
    def stream_name(self) -> str:
        """The name of its stream."""
        return self._stream

    @property
    def name(self) -> str | None:
        """The name of the consumer behind it at the moment, if there is one."""
        return self._name

    @property
    def next_seq(self) -> int | None:
        """The stream's number from which on it goes on; ``None`` if it has not begun."""
        return self._next_seq

    @property
    def started_with(self) -> int | None:
        """How many messages the last consumer behind it had before it when it was created."""
        return self._started_with

    def __repr__(self) -> str:
        return f"<OrderedConsumer {self._prefix!r} of stream {self._stream!r}>"

    # --- the consumers behind it -----------------------------------------------------------------

    async def ensure(self) -> str:
        """The name of a consumer that goes on behind what was handed out.

        :meta private:
        """
        if self._name is None:
            self._serial += 1
            consumer = await put_consumer(self._api, self._stream, "", self._next_config())
            assert consumer.info is not None
            self._name, self._consumer_seq = consumer.name, 0
            self._started_with = consumer.info.num_pending
            last_ones = self._config.deliver_policy == DeliverPolicy.LAST_PER_SUBJECT
            if self._next_seq is None and not last_ones:
                # Even if nothing is handed out: another one must not begin later than this one.
                self._next_seq = consumer.info.delivered.stream_seq + 1
        return self._name

    def _next_config(self) -> ConsumerConfig:
        config = msgspec.structs.replace(
            self._config,
            name=f"{self._prefix}_{self._serial}",
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            num_replicas=1,
        )
        if self._next_seq is not None:
            return msgspec.structs.replace(
                config,
                deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._next_seq,
                opt_start_time=None,
            )
        unfiltered = not config.filter_subject and not config.filter_subjects
        if config.deliver_policy == DeliverPolicy.LAST_PER_SUBJECT and unfiltered:
            return msgspec.structs.replace(config, filter_subject=">")
        return config

    def forget(self) -> None:
        """Have another consumer next time. The present one is deleted, if that can be said.

        :meta private:
        """
        name, self._name = self._name, None
        if name is None:
            return
        nc = self._api.nc
        try:
            # Nobody waits for the answer; without, the server does it when it was not used.
            nc.publish_nowait(
                self._api.subject(f"CONSUMER.DELETE.{self._stream}.{name}"),
                reply=nc.new_inbox(),
            )
        except (NatsError, trio.ClosedResourceError) as error:
            _logger.debug("consumer %r could not be deleted: %s", name, error)

    def follows(self, msg: JetStreamMsg) -> bool | None:
        """Whether it is the next one, which it counts as then; ``None``: it is another one's.

        :meta private:
        """
        try:
            metadata = msg.metadata
        except ValueError as error:
            _logger.debug("%s", error)
            return None
        if metadata.consumer != self._name:
            return None
        if metadata.consumer_seq != self._consumer_seq + 1:
            _logger.info(
                "consumer %r: delivery %d came after %d; going on from %s",
                self._name,
                metadata.consumer_seq,
                self._consumer_seq,
                self._next_seq,
            )
            return False
        self._consumer_seq += 1
        self._next_seq = metadata.stream_seq + 1
        return True

    @contextmanager
    def use(self) -> Generator[None, None, None]:
        """For one at a time.

        :meta private:
        """
        if self._busy:
            raise trio.BusyResourceError(
                "this ordered consumer is in use; make another one for another task"
            )
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    # --- one message, or a number of them --------------------------------------------------------

    @overload
    async def next(self, *, timeout: float | None = None) -> JetStreamMsg: ...
    @overload
    async def next(
        self, *, timeout: float | None = None, codec: Decoder[T]
    ) -> TypedJetStreamMsg[T]: ...
    async def next(
        self, *, timeout: float | None = None, codec: Decoder[T] | None = None
    ) -> JetStreamMsg | TypedJetStreamMsg[T]:
        """The next message; waits for it, ``timeout`` seconds at the most.

        ``timeout`` is that of :meth:`Connection.jetstream` unless given. Raises
        :exc:`RequestTimeoutError`, a :exc:`TimeoutError`, if there is none in time;
        :exc:`StreamNotFoundError` if the stream is gone; and what :meth:`Stream.create_consumer`
        and :meth:`Consumer.next` raise. Cancelled, no message is lost.
        """
        decoder = None if codec is None else check_decoder("codec", codec)
        seconds = self._api.seconds(timeout)
        came = await self._fetch(1, 0, seconds, no_wait=False)
        if not came:
            raise RequestTimeoutError(
                f"stream {self._stream!r} had no next message within {seconds:g} s"
            )
        return came[0] if decoder is None else TypedJetStreamMsg(came[0], decoder)

    @overload
    async def fetch(
        self,
        max_messages: int | None = None,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        no_wait: bool = False,
    ) -> list[JetStreamMsg]: ...
    @overload
    async def fetch(
        self,
        max_messages: int | None = None,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        no_wait: bool = False,
        codec: Decoder[T],
    ) -> list[TypedJetStreamMsg[T]]: ...
    async def fetch(
        self,
        max_messages: int | None = None,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        no_wait: bool = False,
        codec: Decoder[T] | None = None,
    ) -> list[JetStreamMsg] | list[TypedJetStreamMsg[T]]:
        """A list of messages, as :meth:`Consumer.fetch` makes it.

        Where something was missed it may have fewer than there are; the next call goes on. Raises
        what :meth:`next` raises, except that the list is empty if there are none. Cancelled, no
        message is lost.
        """
        check_flag("no_wait", no_wait)
        if max_messages is not None:
            check_count("max_messages", max_messages, 1)
        if max_bytes is not None:
            check_count("max_bytes", max_bytes, 1)
        decoder = None if codec is None else check_decoder("codec", codec)
        came = await self._fetch(
            max_messages or (DEFAULT_BATCH if max_bytes is None else LARGEST_BATCH),
            max_bytes or 0,
            self._api.seconds(timeout),
            no_wait=no_wait,
        )
        return came if decoder is None else [TypedJetStreamMsg(msg, decoder) for msg in came]

    async def _fetch(
        self, batch: int, max_bytes: int, timeout: float, *, no_wait: bool
    ) -> list[JetStreamMsg]:
        with self.use():
            deadline = trio.current_time() + timeout
            waits = 0
            while (left := deadline - trio.current_time()) > 0:
                try:
                    came, sound = await self._fetch_once(batch, max_bytes, left, no_wait=no_wait)
                except BaseException as error:
                    self.forget()
                    if not _passes(error):
                        raise
                    with trio.move_on_at(deadline):
                        await trio.sleep(_pause(waits))
                    waits += 1
                else:
                    if came or sound:
                        return came
            return []

    async def _fetch_once(
        self, batch: int, max_bytes: int, timeout: float, *, no_wait: bool
    ) -> tuple[list[JetStreamMsg], bool]:
        """What came in order, and whether that is all there was."""
        name = await self.ensure()
        fetch = Fetch(
            self._api,
            self._api.subject(f"CONSUMER.MSG.NEXT.{self._stream}.{name}"),
            Desk(self._api.nc, name, acks=False),
            deque(),
            Terms(),
            batch=batch,
            max_bytes=max_bytes,
            timeout=timeout,
            heartbeat=HEARTBEAT if timeout >= 2 * HEARTBEAT else 0.0,
            no_wait=no_wait,
        )
        came = await fetch.run()
        fetch.check_came()
        good: list[JetStreamMsg] = []
        sound = fetch.clean
        for msg in came:
            match self.follows(msg):
                case True:
                    good.append(msg)
                case False:
                    sound = False
                    break
                case None:
                    continue
        if not sound:
            self.forget()
        return good, sound

    # --- all there are ---------------------------------------------------------------------------

    @overload
    def consume(
        self,
        *,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        threshold: int | None = None,
        stop_after: int | None = None,
        expires: float | None = None,
        heartbeat: float | None = None,
    ) -> Messages: ...
    @overload
    def consume(
        self,
        *,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        threshold: int | None = None,
        stop_after: int | None = None,
        expires: float | None = None,
        heartbeat: float | None = None,
        codec: Decoder[T],
    ) -> TypedMessages[T]: ...
    def consume(
        self,
        *,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        threshold: int | None = None,
        stop_after: int | None = None,
        expires: float | None = None,
        heartbeat: float | None = None,
        codec: Decoder[T] | None = None,
    ) -> Messages | TypedMessages[T]:
        """All messages as they come; see :meth:`Consumer.consume`.

        ``heartbeat`` is 5 seconds unless given. One task at a time may receive. Leaving the block
        after a message, the next call goes on behind it.
        """
        options = consume_options(
            None,
            Terms(),
            max_messages=max_messages,
            max_bytes=max_bytes,
            threshold=threshold,
            stop_after=stop_after,
            expires=expires,
            heartbeat=heartbeat,
            default_heartbeat=HEARTBEAT,
        )
        messages = _OrderedMessages(self, self._api, options)
        return messages if codec is None else TypedMessages(messages, check_decoder("codec", codec))


class _OrderedMessages(Messages):
    """Those of one consumer after the other."""

    def __init__(self, owner: OrderedConsumer, api: API, options: ConsumeOptions) -> None:
        super().__init__(repr(owner))
        self._owner = owner
        self._api = api
        self._options = options
        self._left = options.stop_after
        self._feed: Feed | None = None
        self._use = owner.use()
        self._in_use = False
        self._receiving = False

    @property
    def waiting(self) -> int:
        """How many messages have come and were not received yet."""
        return 0 if self._feed is None else self._feed.waiting

    async def receive(self) -> JetStreamMsg:
        """The next message; waits for it. Cancelled, no message is lost."""
        self._check_entered()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this ordered consumer")
        self._receiving = True
        try:
            return await self._next()
        finally:
            self._receiving = False

    async def _next(self) -> JetStreamMsg:
        while self._left is None or self._left > 0:
            feed = self._feed
            if feed is None:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._state == "closed":
                    raise trio.ClosedResourceError("this channel of messages is closed")
                if self._state == "stopping":
                    raise trio.EndOfChannel
                await self._renew()
                continue
            try:
                msg = await feed.receive()
            except Broken:
                await self._discard()
                continue
            match self._owner.follows(msg):
                case True:
                    if self._left is not None:
                        self._left -= 1
                    feed.last_seq = (feed.last_seq or 0) + 1
                    return msg
                case False:
                    await self._discard()
                case None:
                    continue
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    async def _renew(self) -> None:
        """Another consumer, however long that takes."""
        waits = 0
        while self._feed is None and self._state == "open":
            try:
                await self._begin()
            except NatsError as error:
                if not _passes(error):
                    raise
                _logger.warning("%r: %s; trying again", self._owner, error)
                await trio.sleep(_pause(waits))
                waits += 1

    async def _begin(self) -> None:
        name = await self._owner.ensure()
        feed = Feed(
            self._api,
            cast("Link", self._api.nc),
            self._owner.stream_name,
            name,
            Desk(self._api.nc, name, acks=False),
            replace(self._options, stop_after=self._left),
            deque(),
            fragile=True,
        )
        await feed.open()
        if self._state == "open":
            assert self._nursery is not None
            self._nursery.start_soon(feed.keep)
            self._feed = feed
        else:
            await feed.close()

    async def _discard(self) -> None:
        """What this one still has does not follow on what was handed out."""
        feed, self._feed = self._feed, None
        self._owner.forget()
        if feed is not None:
            await feed.close()

    async def _open(self, nursery: trio.Nursery) -> None:
        self._use.__enter__()
        self._in_use = True
        self._owner.forget()  # It may be in the middle of something.
        await self._begin()

    async def _close(self) -> None:
        if self._in_use:
            self._in_use = False
            self._use.__exit__(None, None, None)
            await self._discard()

    def _stop_asking(self) -> None:
        if self._feed is not None:
            self._feed.stop_asking()

    async def _drain(self) -> None:
        if self._feed is not None:
            await self._feed.drain()


def _passes(error: BaseException) -> bool:
    """Whether it is worth another try."""
    if isinstance(error, (ConsumerDeletedError, NoRespondersError, RequestTimeoutError)):
        return True
    if isinstance(error, PullError):
        return error.code in GONE
    return isinstance(error, JetStreamAPIError) and error.code == UNAVAILABLE


def _pause(waits: int) -> float:
    return min(FIRST_WAIT * 2.0**waits, LONGEST_WAIT)
