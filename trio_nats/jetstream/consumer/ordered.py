"""Ordered consumers: all messages of a stream, in order, without acknowledgements (ADR-17).

Theory of operation: an ordered consumer reads from an ephemeral consumer on the server that has
``AckPolicy.NONE`` and keeps its state in memory. The server numbers the deliveries of a consumer;
a message whose number does not follow on the last one proves that something was lost. Lost messages
may also go unnoticed for a while, so anything that may have lost one counts as a loss: a heartbeat
with a higher number, silence, another connection, a consumer that was deleted.

There is no repair after a loss. The consumer is given up, a new one is created that begins after
the last message that was returned to the user, and messages of the old one are ignored. The names
of consumers are numbered, and a message carries that of its consumer, so the two cannot be mixed
up.

:class:`~.ordered_state.OrderedState` has the position and creates the consumers. ``next`` and
``fetch`` make single pull requests to the present one; ``consume`` has a
:class:`~.pull.PullSubscription` for each, which raises :exc:`~.message_source.Broken` for a loss.

A service import (ADR-19) passes on one reply per request, so a pull request would deliver only one
message. With a custom ``prefix``, push consumers are used instead, if the server sees interest in
the deliver subject (``push_bound``). If flow-control replies do not reach the server, flow control
is switched off. What was learned is kept for each stream, see :class:`~..api.OrderedMode`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime

import trio

from ..._constructors import NoPublicConstructor, construct
from ...errors import NatsError, PermissionsViolationError, RequestTimeoutError, timed_out
from ...options import check_count, check_flag
from ..api import API
from ..events import ConsumerRecreated, RecreateFailed, StreamReplaced
from .config import ConsumerConfig
from .fetch import Fetch
from .info import ConsumerInfo
from .message import AckContext, JetStreamMsg
from .message_channel import Messages
from .message_source import Broken, message_size
from .options import ConsumeOptions, PullOptions, consume_options
from .ordered_state import OrderedState, pause
from .pull import PullSubscription, too_large_error
from .pull_flow_control import LARGEST_BATCH
from .push import PushSubscription

__all__ = ["OrderedConsumer", "OrderedMessages"]


_logger = logging.getLogger("trio_nats.jetstream")


class OrderedMessages(Messages):
    """The messages of an ordered consumer, from one consumer on the server after the other."""

    def __init__(self, owner: OrderedState, options: ConsumeOptions) -> None:
        super().__init__(repr(owner), owner.api.nc._check_run)
        self._owner = owner
        self._api = owner.api
        self._options = options
        self._left = options.stop_after
        self._source: PullSubscription | PushSubscription | None = None
        self._use = owner.use()
        self._replacements = owner.replacements
        self._in_use = False
        self._receiving = False
        # Closing waits until no consumer is being created, so that the next channel meets none.
        self._creating = trio.Lock()
        self._creation = trio.CancelScope()
        self._discard_reason = ""
        self._pull_forbidden = False  # to send a pull request
        self._deleted_unused = 0  # consumers in a row that were deleted before their first message

    @property
    def waiting(self) -> int:
        """Number of messages that have arrived and were not received yet."""
        return 0 if self._source is None else self._source.waiting

    async def receive(self) -> JetStreamMsg:
        """Wait for the next message. If cancelled, no message is lost."""
        self._check_entered()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this ordered consumer")
        self._receiving = True
        try:
            return await self._next()
        except trio.EndOfChannel:
            self._hub.close()
            raise
        finally:
            self._receiving = False

    async def _next(self) -> JetStreamMsg:
        while self._left is None or self._left > 0:
            source = self._source
            if source is None:
                await trio.lowlevel.checkpoint_if_cancelled()
                if self._state == "closed":
                    raise trio.ClosedResourceError("this channel of messages is closed")
                if self._state == "draining":
                    raise trio.EndOfChannel
                await self._create(self._renew)
                continue
            try:
                msg = await source.receive()
            except Broken as error:
                if error.gone and not source.has_delivered:
                    self._deleted_unused += 1
                if isinstance(source, PushSubscription) and source.is_stalled:
                    self._owner.mode.flow_control = False
                    _logger.info("%s: continuing without flow control", repr(self._owner))
                await self._discard(error.reason)
                continue
            except PermissionsViolationError:
                # The user may lack the permission for pull requests, as other clients do not send
                # any for this.
                if self._pull_forbidden or isinstance(source, PushSubscription):
                    raise
                self._pull_forbidden = self._owner.mode.push = True
                _logger.info(
                    "%s: pull requests are not permitted; trying a push consumer",
                    repr(self._owner),
                )
                await self._discard("pull requests are not permitted")
                continue
            match self._owner.follows(msg):
                case True:
                    self._deleted_unused = 0
                    if self._left is not None:
                        self._left -= 1
                    source.last_seq = (source.last_seq or 0) + 1
                    return msg
                case False:
                    await self._discard("a message is missing")
                case None:
                    continue
        await trio.lowlevel.checkpoint()
        raise trio.EndOfChannel

    async def _take_waiting(self, most: int) -> list[JetStreamMsg]:
        source = self._source
        if source is None:
            return []
        if self._left is not None:
            most = min(most, self._left)
        came = await source.take_waiting(most, self._owner.follows)
        if self._left is not None:
            self._left -= len(came)
        source.last_seq = (source.last_seq or 0) + len(came)
        return came

    async def _create(self, create: Callable[[], Awaitable[None]]) -> None:
        """Create a consumer; give up when the channel is closed."""
        async with self._creating:
            with trio.CancelScope() as self._creation:
                if self._state != "closed":
                    await create()

    async def _renew(self) -> None:
        """Create the next consumer, retrying until this succeeds."""
        if self._deleted_unused > 1:
            seconds = pause(self._deleted_unused - 2)
            _logger.warning(
                "%s: consumers are deleted as soon as they are created; trying again in %g s",
                repr(self._owner),
                seconds,
            )
            await trio.sleep(seconds)
        waits = 0
        while self._source is None and self._state == "open":
            try:
                await self._begin()
            except NatsError as error:
                if not self._owner.is_temporary(error):
                    raise
                _logger.warning("%s: %s; trying again", repr(self._owner), str(error))
                seconds = pause(waits)
                self._hub.emit(RecreateFailed(self._owner.stream, error, seconds))
                await trio.sleep(seconds)
                waits += 1
            else:
                self._note_renewed()

    def _note_renewed(self) -> None:
        owner = self._owner
        if self._replacements != owner.replacements:
            self._replacements = owner.replacements
            self._hub.emit(StreamReplaced(owner.stream, owner.replace_reason))
        if self._hub and owner.name is not None:
            reason, next_seq = self._discard_reason, owner.next_seq
            self._hub.emit(ConsumerRecreated(owner.stream, owner.name, reason, next_seq))

    async def _begin(self) -> None:
        if self._owner.mode.push:
            source = await self._push()
            if source is not None:
                await self._use_source(source)
                return
            self._owner.mode.push = False
            _logger.info(
                "%s: the server sees no interest in the deliver subject; sending pull requests",
                repr(self._owner),
            )
        await self._use_source(await self._pull())

    async def _push(self) -> PushSubscription | None:
        """Create a push consumer. Return ``None`` if its messages would not arrive here."""
        owner, nc = self._owner, self._api.nc
        config = ConsumerConfig(
            deliver_subject=nc.new_inbox(),
            flow_control=owner.mode.flow_control,
            idle_heartbeat=HEARTBEAT,
        )
        context = AckContext(nc, owner.stream, owner.next_name, acks=False)
        source = PushSubscription(
            nc, owner.next_name, config, context, deque(), owner.skip_check, fragile=True
        )
        await source.open()
        try:
            name = await owner.ensure(config)
            # It is another one than expected if the position was reset.
            source.belong_to(name, AckContext(nc, owner.stream, name, acks=False))
            if owner.info is not None and owner.info.push_bound:
                return source
            for seconds in PUSH_BOUND_RETRY_DELAYS:  # in a cluster, it may take a moment
                await trio.sleep(seconds)
                suffix = f"CONSUMER.INFO.{owner.stream}.{name}"
                if (await self._api.request(suffix, None, ConsumerInfo)).push_bound:
                    return source
        except BaseException:
            owner.forget()  # It delivers to an inbox that nobody listens to any more.
            await source.close()
            raise
        owner.forget()
        await source.close()
        return None

    async def _pull(self) -> PullSubscription:
        name = await self._owner.ensure()
        source = PullSubscription(
            self._api,
            self._owner.stream,
            name,
            AckContext(self._api.nc, self._owner.stream, name, acks=False),
            replace(self._options, stop_after=self._left),
            deque(),
            fragile=True,
        )
        await source.open()
        return source

    async def _use_source(self, source: PullSubscription | PushSubscription) -> None:
        if self._state == "open":
            assert self._nursery is not None
            source.hub = self._hub
            self._nursery.start_soon(source.keep)
            self._source = source
        else:
            # Closed or drained since: nobody would receive its messages.
            self._owner.forget()
            await source.close()

    async def restart(self) -> None:
        """Continue with a new consumer, after the last message that was returned."""
        await self._discard("it may wait for messages that were removed")

    async def _discard(self, reason: str = "") -> None:
        """Give up the present consumer; its messages do not follow on those returned."""
        self._discard_reason = reason
        source, self._source = self._source, None
        self._owner.forget()
        if source is not None:
            await source.close()

    async def _open(self, nursery: trio.Nursery) -> None:
        self._use.__enter__()
        self._in_use = True
        self._owner.forget()  # An earlier pull request may still be waiting.
        await self._create(self._begin)

    async def _close(self) -> None:
        self._creation.cancel()
        with trio.CancelScope(shield=True):
            async with self._creating:
                if self._in_use:
                    self._in_use = False
                    self._use.__exit__(None, None, None)
                    await self._discard()

    def _stop_asking(self) -> None:
        if self._source is not None:
            self._source.stop_asking()

    async def _drain(self) -> None:
        if self._source is not None:
            await self._source.drain()


DEFAULT_BATCH = 100
PUSH_BOUND_RETRY_DELAYS = (0.05, 0.2)
"""Seconds before the server is asked again whether it knows of the subscription."""
HEARTBEAT = 5.0


class OrderedConsumer(metaclass=NoPublicConstructor, use="stream.ordered_consumer()"):
    """Reads a stream in order; made by :meth:`Stream.ordered_consumer`.

    It never skips a message, nor returns one twice. Whenever something may have been missed (a gap,
    silence, another connection, a consumer that was deleted), a new ephemeral consumer in the
    server's memory continues after the last message that was returned. If the stream was deleted
    and created again, it raises :exc:`StreamNotFoundError` or begins again, depending on
    ``on_stream_replaced`` of :meth:`Stream.ordered_consumer`. Nothing is acknowledged.
    :meth:`next`, :meth:`fetch` and :meth:`consume` share one position. Only one task at a time can
    use it; a second one gets :exc:`trio.BusyResourceError`.

    If ``DeliverPolicy.LAST_PER_SUBJECT`` is interrupted before it has caught up, messages that are
    not the last of their subject may arrive too, still in order.
    """

    def __init__(
        self,
        api: API,
        stream: str,
        prefix: str,
        config: ConsumerConfig,
        created: datetime | None = None,
        *,
        restart: bool = False,
    ) -> None:
        self._api = api
        self._consumers = OrderedState(api, stream, prefix, config, created, restart=restart)

    @property
    def stream_name(self) -> str:
        """The name of the stream."""
        return self._consumers.stream

    @property
    def name(self) -> str | None:
        """The name of the present consumer on the server, or ``None``."""
        return self._consumers.name

    @property
    def info(self) -> ConsumerInfo | None:
        """Configuration and state of that consumer when it was created."""
        return self._consumers.info

    @property
    def next_seq(self) -> int | None:
        """The sequence number from which it continues; ``None`` if it has not begun."""
        return self._consumers.next_seq

    def __repr__(self) -> str:
        return repr(self._consumers)

    # --- one message, or several -----------------------------------------------------------------

    async def next(self, *, timeout: float | None = None) -> JetStreamMsg:
        """Wait for the next message. If cancelled, no message is lost.

        With a ``prefix``, each call creates a push consumer that sends all it has, so use
        :meth:`consume` there. Also raises the exceptions of :meth:`Stream.create_consumer` and
        :meth:`Consumer.next`.

        :param timeout: seconds to wait. Default: the timeout of :meth:`Connection.jetstream`.
        :returns: the message.
        :raises RequestTimeoutError: if no message arrived within ``timeout``.
        :raises StreamNotFoundError: if the stream does not exist.
        """
        seconds = self._api.seconds(timeout)
        came = await self._fetch(1, 0, seconds, no_wait=False)
        if not came:
            raise self._no_message(seconds)
        return came[0]

    async def fetch(
        self,
        max_messages: int | None = None,
        *,
        max_bytes: int | None = None,
        timeout: float | None = None,
        no_wait: bool = False,
    ) -> list[JetStreamMsg]:
        """Receive several messages, as :meth:`Consumer.fetch` does.

        If messages were lost on the way, the list may be shorter, and the next call continues. It
        is empty if the server has no messages. If cancelled, no message is lost. With a ``prefix``,
        each call creates a push consumer that sends all it has, so use :meth:`consume` there.

        :param max_messages: maximum number of messages. Default: 100, or any number with
            ``max_bytes``.
        :param max_bytes: maximum size of all messages in bytes. Default: no limit.
        :param timeout: seconds to wait. Default: the timeout of :meth:`Connection.jetstream`.
        :param no_wait: return what is available at the moment. Default: false.
        :returns: the messages.
        :raises ConfigurationError: if an argument is invalid.
        :raises RequestTimeoutError: if no message arrived, and there is no connection.
        :raises StreamNotFoundError: if the stream does not exist.
        """
        check_flag("no_wait", no_wait)
        if max_messages is not None:
            check_count("max_messages", max_messages, 1)
        if max_bytes is not None:
            check_count("max_bytes", max_bytes, 1)
        seconds = self._api.seconds(timeout)
        came = await self._fetch(
            max_messages or (DEFAULT_BATCH if max_bytes is None else LARGEST_BATCH),
            max_bytes or 0,
            seconds,
            no_wait=no_wait,
        )
        if not came and self._api.nc.disconnected_for is not None:
            raise self._no_message(seconds)
        return came

    def _no_message(self, seconds: float) -> RequestTimeoutError:
        return timed_out(
            f"stream {self.stream_name!r} had no further message within {seconds:g} s",
            self._api.nc.disconnected_for,
        )

    async def _fetch(
        self, batch: int, max_bytes: int, timeout: float, *, no_wait: bool
    ) -> list[JetStreamMsg]:
        if self._consumers.mode.push:
            return await self._fetch_pushed(batch, max_bytes, timeout, no_wait=no_wait)
        with self._consumers.use():
            deadline = trio.current_time() + timeout
            waits = 0
            while trio.current_time() < deadline:
                try:
                    came, sound = await self._fetch_once(
                        batch, max_bytes, deadline, no_wait=no_wait
                    )
                except BaseException as error:
                    self._consumers.forget()
                    if not self._consumers.is_temporary(error):
                        raise
                    with trio.move_on_at(deadline):
                        await trio.sleep(pause(waits))
                    waits += 1
                else:
                    if came or sound:
                        return came
            return []

    async def _fetch_pushed(
        self, batch: int, max_bytes: int, timeout: float, *, no_wait: bool
    ) -> list[JetStreamMsg]:
        """Receive from a push consumer that exists for the duration of the call."""
        owner = self._consumers
        first: int | None = None  # sequence number of the first message of this call
        came: list[JetStreamMsg] = []
        size = 0
        try:
            with trio.move_on_after(timeout):
                async with self.consume(stop_after=batch) as messages:
                    if no_wait and owner.info is not None and not owner.info.num_pending:
                        return []
                    async for msg in messages:
                        if first is None:
                            first = msg.metadata.stream_seq
                        size += message_size(msg.raw)
                        if max_bytes and size > max_bytes:
                            owner.next_seq = msg.metadata.stream_seq  # for the next call
                            break
                        came.append(msg)
                        if no_wait and not msg.metadata.pending:
                            break
        except BaseException:
            # The next call returns these messages, unless another task has continued since.
            if first is not None and not owner.is_busy:
                owner.next_seq = first
            raise
        if size and not came:
            raise too_large_error(self._api.nc, owner.prefix, max_bytes)
        return came

    async def _fetch_once(
        self, batch: int, max_bytes: int, deadline: float, *, no_wait: bool
    ) -> tuple[list[JetStreamMsg], bool]:
        """Return the messages that arrived in order, and whether nothing was lost."""
        if self._consumers.name is None:
            with trio.move_on_at(deadline):
                await self._consumers.ensure()
        name, left = self._consumers.name, deadline - trio.current_time()
        if name is None or left <= 0:
            return [], False
        fetch = Fetch(
            self._api,
            self._api.subject(f"CONSUMER.MSG.NEXT.{self.stream_name}.{name}"),
            AckContext(self._api.nc, self.stream_name, name, acks=False),
            None,
            PullOptions(),
            batch=batch,
            max_bytes=max_bytes,
            timeout=left,
            heartbeat=HEARTBEAT if left >= 2 * HEARTBEAT else 0.0,
            no_wait=no_wait,
        )
        came = await fetch.run()
        fetch.check_came()
        good: list[JetStreamMsg] = []
        sound = fetch.clean
        for msg in came:
            match self._consumers.follows(msg):
                case True:
                    good.append(msg)
                case False:
                    sound = False
                    break
                case None:
                    continue
        if not sound:
            self._consumers.forget()
        return good, sound

    # --- all messages ----------------------------------------------------------------------------

    def consume(
        self,
        *,
        max_messages: int | None = None,
        max_bytes: int | None = None,
        threshold: int | None = None,
        stop_after: int | None = None,
        expires: float | None = None,
        heartbeat: float | None = None,
    ) -> Messages:
        """Receive all messages as they arrive; see :meth:`Consumer.consume`.

        One task at a time may receive. After the block the next call continues with the message
        after the last one received. The parameters are those of :meth:`Consumer.consume`;
        ``heartbeat`` is 5 by default.
        """
        options = consume_options(
            None,
            PullOptions(),
            max_messages=max_messages,
            max_bytes=max_bytes,
            threshold=threshold,
            stop_after=stop_after,
            expires=expires,
            heartbeat=heartbeat,
            default_heartbeat=HEARTBEAT,
        )
        return construct(OrderedMessages, self._consumers, options)
