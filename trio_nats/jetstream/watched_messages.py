"""The messages of a watcher of a bucket or object store, and when it has caught up.

Theory of operation: a watcher reads from an ordered consumer that begins with the last message of
each subject. While others write, such a message may be replaced before the consumer has read it;
the replacement then comes later, among the changes. So neither the number of messages that the
server counted when it created the consumer, nor the number that it still has ("pending"), proves
that each subject was represented: both also count replacements, and replaced messages are missing.
They only say when it is worth asking.

Either of two checks proves it. If the last sequence number of the stream, requested after a message
was received, is that of the message, then there was nothing more at that moment. Otherwise the
leader lists the subjects that have messages, and each of them must have been received: the entry
that was current, or a later one. Until then the watcher goes on reading. If it has passed all that
was stored when the subjects were listed, those still missing are listed again, because they may
have been removed.

Servers keep a list of the messages to begin with. For each that was removed they wait until
something else happens, such as a new message, before they look at the next one. A watcher that
receives nothing for a while, or that catches up before the end of that list, creates a new
consumer, which has no such list.

If a check fails, the next one is made after a delay, which doubles with each failure. Until then
messages are returned without one.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar

import trio

from .._async_with import NeedsAsyncFor
from .._event_hub import EventChannel
from ..errors import NatsError
from ..events import ConnectionState
from .consumer.message import JetStreamMsg
from .consumer.ordered import OrderedConsumer, OrderedMessages
from .errors import JetStreamError, MessageNotFoundError
from .events import ConsumerEvent
from .stream import ListingError, Stream, current_subjects

__all__ = ["INACTIVE_THRESHOLD", "InitialIterator", "WatchedMessages"]

_logger = logging.getLogger("trio_nats.jetstream")

T = TypeVar("T")

INACTIVE_THRESHOLD = 60.0
"""Seconds until the server deletes an unused consumer, such as one whose deletion was lost.

The ``inactive_threshold`` of watchers and object readers.
"""
FIRST_SILENCE = 0.5
LONGEST_SILENCE = 30.0
BATCH = 64
"""Number of messages to take from the consumer at once."""
MAX_FAILED_LISTINGS = 10
"""How many times the subjects cannot be listed until receiving fails."""
MAX_SINGLE_LISTINGS = 4
"""How many missing subjects are listed one by one."""


class InitialIterator(AsyncIterator[T], NeedsAsyncFor):
    """Iterate until a watcher has caught up.

    It is not an async generator, because you would have to close that.

    :param caught_up: set when the watcher has caught up.
    :param step: returns the next entry, or ``None`` if there is none to hand out.
    """

    def __init__(self, caught_up: trio.Event, step: Callable[[], Awaitable[T | None]]) -> None:
        self._caught_up = caught_up
        self._step = step

    async def __anext__(self) -> T:
        while not self._caught_up.is_set():
            entry = await self._step()
            if entry is not None:
                return entry
        await trio.lowlevel.checkpoint()
        raise StopAsyncIteration


class WatchedMessages:
    """The messages of a watcher, and whether it has caught up.

    :param stream: the stream.
    :param consumer: the ordered consumer.
    :param filters: the subjects that it reads.
    :param since: the sequence number at which it begins; subjects without a later message then do
        not count. 0 if it begins with all subjects.
    :param use: how the watcher is used, for errors; see :class:`NeedsAsyncWith`.
    """

    def __init__(
        self,
        stream: Stream,
        consumer: OrderedConsumer,
        filters: Sequence[str],
        *,
        since: int,
        use: str,
    ) -> None:
        self._stream = stream
        self._consumer = consumer
        self._filters = filters
        self._since = bool(since)
        messages = consumer.consume()
        assert isinstance(messages, OrderedMessages)
        messages._async_with = use
        self._messages = messages
        self.caught_up: trio.Event = trio.Event()
        self._silence = FIRST_SILENCE
        self._longest_wait = 0.0  # the longest time that a message took to arrive
        self._retry_delay = FIRST_SILENCE  # after the next check that fails
        self._next_check = -math.inf  # no check before this time
        self._failed_listings = 0
        self._receiving = False
        self._batch: deque[JetStreamMsg] = deque()  # taken from the consumer, but not yet received
        self._held: JetStreamMsg | None = None  # received, but not yet returned
        self._seen: set[str] = set()  # subjects received, until they are compared with a list
        self._missing: set[str] | None = None  # subjects of the list that were not received yet
        self._position = max(0, since - 1)  # sequence number of the last message received
        self._end = 0  # sequence number up to which to read before asking again
        self._replacements = 0  # how often it restarted because the stream was replaced
        self._may_stall = False  # whether the consumer may wait for messages that were removed

    async def enter(self, *, updates_only: bool) -> None:
        """Start. If cancelled, nothing was started."""
        await self._messages.__aenter__()
        if updates_only:
            self.caught_up.set()
            return
        info = self._consumer.info
        if info is None or info.num_pending:
            return
        try:
            await self._check()
        except BaseException as error:
            await self._messages.__aexit__(type(error), error, error.__traceback__)
            raise

    async def leave(self, error: BaseException | None) -> None:
        """Stop, as ``__aexit__`` does."""
        self._forget()
        of = None if error is None else type(error)
        await self._messages.__aexit__(of, error, None if error is None else error.__traceback__)

    async def aclose(self) -> None:
        """Stop. If cancelled, it has stopped all the same."""
        self._forget()
        await self._messages.aclose()

    def _forget(self) -> None:
        """Drop what was not returned yet."""
        self._held = None
        self._batch.clear()

    def events(self, buffer: int) -> EventChannel[ConsumerEvent]:
        """Listen to the events of the ordered consumer."""
        return self._messages.events(buffer=buffer)

    def check_run(self) -> None:
        """Raise if another thread or another run of Trio uses it."""
        self._messages._check_run()

    async def receive(self) -> JetStreamMsg | None:
        """Return the next message; ``None`` if there was none for a while, before it caught up.

        If cancelled, no message is lost.
        """
        self.check_run()
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this watcher")
        self._receiving = True
        try:
            return await self._next()
        finally:
            self._receiving = False

    async def _next(self) -> JetStreamMsg | None:
        if self.caught_up.is_set() and self._held is None:
            return await self._next_change()
        if self._held is None:
            if self._has_batch():
                await trio.lowlevel.checkpoint_if_cancelled()
            else:
                await self._receive_in_time()
            if self._batch:
                self._held = self._batch.popleft()
                self._saw(self._held)
        if self._held is None:
            # A pending message may have been removed, which the server does not report. The wait
            # doubles because creating a new consumer may take as long.
            self._silence = min(2 * self._silence, LONGEST_SILENCE)
            if await self._check():
                await self._messages.restart()
                self._may_stall = False
        elif self._is_worth_asking(self._held):
            await self._check()
        msg, self._held = self._held, None
        return msg

    def _has_batch(self) -> bool:
        """Whether messages were taken from the consumer, and can still be received."""
        nc = self._messages._api.nc
        if self._batch and nc.state is ConnectionState.CLOSED and nc.failure is None:
            self._batch.clear()  # A subscription also drops its messages then.
        return bool(self._batch)

    async def _receive_in_time(self) -> None:
        """Receive a batch, or give up after a silence."""
        began = trio.current_time()
        with trio.move_on_after(self._silence):
            await self._receive_batch()
            # On a slow link the data of a message is still arriving during a silence.
            self._longest_wait = max(self._longest_wait, trio.current_time() - began)
            self._silence = max(FIRST_SILENCE, min(2 * self._longest_wait, LONGEST_SILENCE))

    async def _next_change(self) -> JetStreamMsg:
        waiting = len(self._batch) + self._messages.waiting
        if self._may_stall and (not waiting or self._position >= self._end):
            if self._position < self._end:
                await self._messages.restart()
            self._may_stall = False
        if self._has_batch():
            await trio.lowlevel.checkpoint_if_cancelled()
        else:
            await self._receive_batch()
        msg = self._batch.popleft()
        self._position = msg.metadata.stream_seq
        return msg

    async def _receive_batch(self) -> None:
        self._batch.extend(await self._messages.receive_batch(BATCH))
        self._note_replacement()  # A batch comes from one stream.

    def _note_replacement(self) -> None:
        """Forget what is known about a stream that was replaced since."""
        replacements = self._messages._owner.replacements
        if replacements != self._replacements:
            self._replacements = replacements
            self._seen.clear()
            self._missing = None
            self._position = self._end = 0
            self._since = self._may_stall = False

    def _saw(self, msg: JetStreamMsg) -> None:
        self._position = max(self._position, msg.metadata.stream_seq)
        if self._missing is None:
            if not self._since:
                self._seen.add(msg.subject)
            return
        self._missing.discard(msg.subject)
        if not self._missing:
            self._mark_caught_up()

    def _mark_caught_up(self) -> None:
        self.caught_up.set()
        self._seen.clear()

    def _is_worth_asking(self, msg: JetStreamMsg) -> bool:
        if self.caught_up.is_set():
            return False
        if self._end:
            return self._position >= self._end
        metadata, info = msg.metadata, self._consumer.info
        return not metadata.pending or (
            info is not None and metadata.consumer_seq >= info.num_pending
        )

    async def _check(self) -> bool:
        """Ask the server whether it has more than was received; return whether it answered.

        :raises JetStreamError: if the subjects could not be listed several times in succession.
        """
        if trio.current_time() < self._next_check:
            return False
        try:
            await self._ask()
        except (NatsError, trio.ClosedResourceError) as error:
            # It is asked again later. If the reason remains, receiving raises it.
            _logger.debug("%s: %s", repr(self._messages), str(error))
            if isinstance(error, ListingError):
                self._failed_listings += 1
                if self._failed_listings >= MAX_FAILED_LISTINGS:
                    raise JetStreamError(str(error)) from error
            self._next_check = trio.current_time() + self._retry_delay
            self._retry_delay = min(2 * self._retry_delay, LONGEST_SILENCE)
            return False
        self._retry_delay, self._failed_listings = FIRST_SILENCE, 0
        return True

    async def _ask(self) -> None:
        self._note_replacement()
        if self._missing is None and (self._since or self._has_wildcards()):
            state = (await self._stream.refresh()).state
            if not state.messages or self._position >= state.last_seq:
                self._mark_caught_up()
                return
            if self._since:
                await self._ask_since(state.last_seq)
                return
        if self._missing is not None and len(self._missing) <= MAX_SINGLE_LISTINGS:
            filters: Sequence[str] = list(self._missing)
        else:
            filters = self._filters
        found: set[str] = set()
        end = 0
        for subject in filters:
            subjects, last = await current_subjects(self._stream, subject)
            # What is no valid key is spelled differently in a list.
            found |= {one for one in subjects if one.isascii() and one.isprintable()}
            end = max(end, last)
        self._missing = found - self._seen if self._missing is None else self._missing & found
        self._seen.clear()
        self._end = max(end, self._position + 1)
        self._may_stall = self._position > 0
        if not self._missing:
            self._mark_caught_up()

    def _has_wildcards(self) -> bool:
        return any(one.endswith(">") or "*" in one for one in self._filters)

    async def _ask_since(self, last: int) -> None:
        """Read up to the last message that was stored when first asked, if it still exists."""
        self._end = self._end or last
        for subject in self._filters if self._position < self._end else ():
            try:
                msg = await self._stream.get_msg(self._position + 1, next_for=subject, direct=False)
            except MessageNotFoundError:
                continue
            if msg.seq <= self._end:
                return
        self._mark_caught_up()
