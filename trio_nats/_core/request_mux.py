"""Receive the replies to all requests through one wildcard subscription.

The last token of a reply's subject is the key of the slot that waits for it. A slot is removed when
its request ends, even if that is cancelled, so late replies find no slot and are dropped.
"""

from __future__ import annotations

import math
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Generator
from heapq import heapify, heappop, heappush
from typing import Protocol, TypeVar
from weakref import WeakSet

import outcome
import trio
from trio.lowlevel import current_task, reschedule

from .._subject_tokens import random_tokens
from ..errors import (
    NoRespondersError,
    PermissionsViolationError,
    RequestTimeoutError,
    fresh,
    timed_out,
)
from ..message import Msg
from .pending import PendingQueue
from .router import Router

__all__ = ["ReplySlot", "RequestMux", "Slot", "is_no_responders", "new_inbox", "no_reply"]

R = TypeVar("R")

_MAX_STALE = 1000


def new_inbox(prefix: str) -> str:
    """Return a unique subject below ``prefix`` that cannot be guessed."""
    return f"{prefix}.{secrets.token_urlsafe(16)}"


class Slot(Protocol):
    """Waits for the replies to one request."""

    @property
    def subject(self) -> str:
        """The subject of the request."""
        ...

    def _push(self, msg: Msg) -> None: ...
    def _end(self, error: Exception) -> None: ...


class ReplySlot(outcome.Outcome[Msg]):
    """Waits for a single reply, on behalf of the task that creates it.

    The task is rescheduled with the slot itself as outcome, because creating an
    :class:`outcome.Value` would take longer than everything else here.
    """

    __slots__ = ("_reply", "_task", "subject")

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._task: trio.lowlevel.Task | None = current_task()

    def _push(self, msg: Msg) -> None:
        """Wake the task with the reply."""
        if msg.raw_headers is not None and is_no_responders(msg):
            self._end(NoRespondersError(self.subject))
            return
        task, self._task = self._task, None
        if task is not None:
            self._reply = msg
            reschedule(task, self)

    def unwrap(self) -> Msg:
        """Return the reply."""
        return self._reply

    def send(self, gen: Generator[R, Msg, object]) -> R:
        """Send the reply into a generator."""
        return gen.send(self._reply)

    async def asend(self, agen: AsyncGenerator[R, Msg]) -> R:
        """Send the reply into an async generator."""
        return await agen.asend(self._reply)

    def _end(self, error: Exception) -> None:
        """Wake the task with an error."""
        task, self._task = self._task, None
        if task is not None:
            reschedule(task, outcome.Error(error))

    def abort(self, _: trio.lowlevel.RaiseCancelT) -> trio.lowlevel.Abort:
        """Abort function for ``wait_task_rescheduled``.

        Call that before another task can run, because a reply reschedules the task.
        """
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED


def is_no_responders(msg: Msg) -> bool:
    """Return whether a message is the server's status 503: nobody is subscribed.

    It has one header line or none. A publisher may have written the same status line into a stored
    message, but that one arrives with several lines about where it is stored.
    """
    raw = msg.raw_headers
    return (
        raw is not None
        and raw.startswith(b"NATS/1.0 503")
        and not msg.data
        and raw.count(b"\r\n") <= 3
    )


def no_reply(subject: str, seconds: float, disconnected_for: float | None) -> RequestTimeoutError:
    """Return the error for a request that has timed out."""
    return timed_out(f"no reply from {subject!r} within {seconds:g} s", disconnected_for)


class RequestMux:
    """The :class:`~.router.Sink` that passes replies to the slots of a connection.

    It subscribes at the first request, so a connection that makes no requests needs no permission
    to subscribe to its inbox.
    """

    _raw_queue: bytes | None = None
    _remaining: int | None = None

    def __init__(
        self,
        router: Router,
        inbox_prefix: str,
        disconnected_for: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._router = router
        self._disconnected_for = disconnected_for
        self._prefix = new_inbox(inbox_prefix).encode() + b"."
        self._skip = len(self._prefix)
        self._tokens: list[bytes] = []
        self._sid: bytes | None = None
        self.slots: dict[bytes, Slot] = {}
        self._by_subject: dict[str, list[bytes]] | None = None
        self.queues: WeakSet[PendingQueue] = WeakSet()
        """The reply queues of :meth:`Connection.request_many`, including ended ones."""
        # One timer for all requests, because a cancel scope for each would take 7 us. A due token
        # that is not in `slots` belongs to a request that has ended.
        self._due: list[tuple[float, bytes, float]] = []
        self._max_due = _MAX_STALE
        self._alarm = trio.CancelScope()
        self._raw_subject: bytes = self._prefix + b"*"

    @property
    def pending(self) -> tuple[int, int]:
        """See :class:`~.router.Sink`."""
        waiting = [queue.pending for queue in self.queues]
        return sum(messages for messages, _ in waiting), sum(size for _, size in waiting)

    def new_token(self) -> tuple[bytes, bytes]:
        """Return a token for a new slot, and its reply subject.

        Tokens are random, so responders cannot guess those of other requests.
        """
        if not self._tokens:
            self._tokens = random_tokens()
        token = self._tokens.pop()
        return token, self._prefix + token

    def open(self, token: bytes, slot: Slot) -> None:
        """Add a slot. Remove it with :meth:`close`."""
        if self._sid is None:
            self._sid = self._router.add(self)
        self.slots[token] = slot
        self._by_subject = None

    def expire(self, token: bytes, deadline: float, seconds: float) -> None:
        """End a slot with :exc:`RequestTimeoutError` at ``deadline``, unless it is closed by then.

        :param seconds: the timeout, for the error's text.
        """
        due = self._due
        heappush(due, (deadline, token, seconds))
        if due[0][1] is token:
            self._alarm.deadline = deadline
        if len(due) > self._max_due:
            self._due = [entry for entry in due if entry[1] in self.slots]
            heapify(self._due)
            self._max_due = 2 * len(self._due) + _MAX_STALE

    async def run_timer(self) -> None:
        """Run the timer that ends expired slots, until cancelled."""
        while True:
            while self._due and self._due[0][1] not in self.slots:
                heappop(self._due)
            with trio.CancelScope() as self._alarm:
                self._alarm.deadline = self._due[0][0] if self._due else math.inf
                await trio.sleep_forever()
            now = trio.current_time()
            while self._due and self._due[0][0] <= now:
                _, token, seconds = heappop(self._due)
                slot = self.slots.pop(token, None)
                if slot is not None:
                    slot._end(no_reply(slot.subject, seconds, self._disconnected_for()))

    def _wake_waiters(self) -> None:
        """See :class:`~.router.Sink`. No task ever waits."""

    def _end_stalls(self) -> None:
        """See :class:`~.router.Sink`. There are no limits."""

    def _waits_for(self, task: trio.lowlevel.Task) -> bool:
        """See :class:`~.router.Sink`. No replies are queued here."""
        return False

    @property
    def _has_helpers(self) -> bool:
        """See :class:`~.router.Sink`."""
        return False

    def _is_empty(self) -> bool:
        """See :class:`~.router.Sink`. No replies are queued here."""
        return True

    def _is_handled_by(self, task: trio.lowlevel.Task) -> bool:
        """See :class:`~.router.Sink`."""
        return False

    async def _wait_empty(self) -> None:
        """See :class:`~.router.Sink`. No replies are queued here."""
        await trio.lowlevel.checkpoint()

    async def _wait_handled(self) -> None:
        """See :class:`~.router.Sink`."""
        await trio.lowlevel.checkpoint()

    def close(self, token: bytes) -> None:
        """Remove a slot. Replies that arrive later are dropped."""
        self.slots.pop(token, None)

    def _push(self, msg: Msg) -> None:
        """Pass a reply to its slot."""
        slot = self.slots.get(msg.raw_subject[self._skip :])
        if slot is not None:
            slot._push(msg)

    def _push_burst(self, messages: list[Msg], size: int) -> None:
        """Pass several replies to their slots."""
        find, skip = self.slots.get, self._skip
        for msg in messages:
            slot = find(msg.raw_subject[skip:])
            if slot is not None:
                slot._push(msg)

    def _end(self, error: Exception) -> None:
        """End all requests, because the subscription has ended. The next one subscribes again."""
        self._sid = None
        self.fail(error)

    def fail(self, error: Exception) -> None:
        """End all pending requests with ``error``, but keep the subscription."""
        slots, self.slots = self.slots, {}
        for slot in slots.values():
            slot._end(fresh(error))

    def is_request(self, head: bytes) -> bool:
        """Return whether a message that begins with ``head`` is one of these requests."""
        return head.split(b" ", 3)[2].startswith(self._prefix)

    def reject(self, reply: bytes, error: Exception) -> None:
        """End the request with this reply subject, if any, because it will not be sent."""
        if reply.startswith(self._prefix):
            slot = self.slots.pop(reply[self._skip :], None)
            if slot is not None:
                slot._end(error)

    def deny(self, error: PermissionsViolationError) -> bool:
        """End the requests whose subject or reply subject the server does not permit.

        :returns: whether there are any.
        """
        reply = error.subject.encode("utf-8", "replace")
        if reply.startswith(self._prefix):
            denied = [reply[self._skip :]]
        else:
            denied = self._tokens_by_subject().pop(error.subject, [])
        slots = [self.slots.pop(token) for token in denied if token in self.slots]
        for slot in slots:
            slot._end(fresh(error))
        return bool(slots)

    def _tokens_by_subject(self) -> dict[str, list[bytes]]:
        """Return the tokens of pending requests, and of some that have ended, by subject.

        The table is built on demand and reused until the next request. Errors are rare, and many
        come at once, so keeping it up to date with each request would cost more.
        """
        found = self._by_subject
        if found is None:
            found = self._by_subject = defaultdict(list)
            for token, slot in self.slots.items():
                found[slot.subject].append(token)
        return found
