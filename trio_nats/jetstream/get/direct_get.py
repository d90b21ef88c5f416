"""Direct gets of single messages and of batches (ADR-31)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import trio

from ..._constructors import construct
from ...errors import NoRespondersError, timed_out
from ...message import Msg
from ...options import PendingLimits, ProtocolLimits
from ...replies import Replies
from .. import json_codec
from ..api import API, PageIterator
from ..errors import JetStreamAPIError, JetStreamError, MessageNotFoundError
from ..features import api_level_error
from .stored_message import PENDING, UP_TO, DirectAnswer, MsgRequest, StoredMsg

__all__ = ["Batches", "direct_get", "not_allowed"]

OVERHEAD = 5 * 1024
"""Maximum bytes of the headers that the server adds to each message of a direct get."""
LARGEST = ProtocolLimits().payload
MAX_RESTARTS = 100
EMPTY = "Empty Request"
"""The answer of servers before 2.11 to a request of which they know no field."""
NONE_FOUND = "No Results"
"""What the server says if no subject has a message; otherwise one of them has been removed."""


def not_allowed(stream: str) -> JetStreamError:
    """Return the error for a direct get that nobody answers."""
    return JetStreamError(
        f"stream {stream!r} does not answer direct gets: it does not exist, or was configured "
        "without allow_direct=True"
    )


async def direct_get(api: API, stream: str, request: MsgRequest, seconds: float) -> StoredMsg:
    """Get one message from any replica.

    :raises NoRespondersError: if no replica answers.
    """
    subject, payload = api.subject(f"DIRECT.GET.{stream}"), b""
    if request.last_by_subj and not {"*", ">"} & {*request.last_by_subj.split(".")}:
        # With the subject in the request, permissions can restrict it.
        subject = f"{subject}.{request.last_by_subj}"
    else:
        payload = json_codec.encode(request)
    return DirectAnswer(await api.nc.request(subject, payload, timeout=seconds)).stored()


class Batches:
    """Gets the messages that ``request`` describes, batch by batch."""

    def __init__(
        self, api: API, stream: str, request: MsgRequest, seconds: float, limit: int | None
    ) -> None:
        self._api = api
        self._stream = stream
        self._request = request
        self._seconds = seconds
        self._left = limit

    def paged(self) -> PageIterator[StoredMsg]:
        """Return an iterator for one ``async for``."""
        return construct(PageIterator, self._next)

    async def _next(self) -> tuple[Sequence[StoredMsg], bool]:
        request = self._request
        if self._left is not None and self._left < request.batch:
            request = msgspec.structs.replace(request, batch=self._left)
        found, last, pending = await self._whole(request)
        if self._left is not None:
            self._left -= len(found)
        more = bool(found) and pending > 0
        if more:
            changes: dict[str, object] = {"seq": found[-1].seq + 1, "start_time": None}
            if request.multi_last:
                # Later batches show the stream as it was at the time of the first one.
                moment = request.up_to_seq if last is None else last.number(UP_TO) or 0
                changes |= {"up_to_seq": moment, "up_to_time": None}
            self._request = msgspec.structs.replace(self._request, **changes)
        return found, more and self._left != 0

    async def _whole(self, request: MsgRequest) -> tuple[list[StoredMsg], DirectAnswer | None, int]:
        """Return the messages of a batch, the status that ends it, and how many follow.

        Servers look up the last messages of all subjects first, and end the batch without its usual
        status where one of them has been removed since. What follows it then is not sent.
        """
        for _ in range(MAX_RESTARTS):
            found, last, pending = await self._ask(request)
            if last is not None or not pending:
                return found, last, pending
            if request.up_to_seq and found:
                return found, None, pending  # the next batch does not look it up again
        raise JetStreamError(
            f"stream {self._stream!r}: messages were removed during each of {MAX_RESTARTS} "
            "attempts to get a batch; use a smaller max_messages"
        )

    async def _ask(self, request: MsgRequest) -> tuple[list[StoredMsg], DirectAnswer | None, int]:
        """Request a batch once; the result is that of :meth:`_whole`.

        There is no status if there is no such message, or if the batch breaks off.
        """
        found: list[StoredMsg] = []
        pending = 0
        subject = self._api.subject(f"DIRECT.GET.{self._stream}")
        most = request.batch + 1  # the status at the end counts
        room = request.max_bytes
        async with self._api.nc.request_many(
            subject,
            json_codec.encode(request),
            timeout=self._seconds * most,
            stop_after=most,
            pending_limits=PendingLimits(messages=most, bytes=room + most * OVERHEAD + LARGEST),
        ) as replies:
            while True:
                answer = DirectAnswer(await self._receive(replies))
                status = answer.status
                if status is not None and status.code == 204:
                    if replies.dropped:
                        raise self._too_much()
                    if not request.multi_last:
                        pending = 0  # servers before 2.12 count a message itself
                    # In the last messages of subjects, they count one too few in the status.
                    return found, answer, max(pending, answer.number(PENDING) or 0)
                if room <= 0:
                    raise self._too_much()
                # The server ends a batch with the message that reaches max_bytes.
                room -= max(0, answer.size - OVERHEAD)
                try:
                    found.append(answer.stored())
                except MessageNotFoundError:
                    assert status is not None
                    is_removed = bool(request.multi_last) and status.description != NONE_FOUND
                    return found, None, int(is_removed)
                except JetStreamAPIError as error:
                    raise self._too_old() if error.description == EMPTY else error from None
                told = answer.number(PENDING)
                if told is None:
                    raise self._too_old()
                pending = told

    async def _receive(self, replies: Replies) -> Msg:
        try:
            if replies._queue:  # Entering a cancel scope costs more than everything else.
                return await replies.receive()
            with trio.move_on_after(self._seconds):
                return await replies.receive()
        except NoRespondersError:
            raise not_allowed(self._stream) from None
        except trio.EndOfChannel:
            raise self._too_much() from None
        raise timed_out(
            f"the next message of a batch of stream {self._stream!r} did not come within "
            f"{self._seconds:g} s",
            self._api.nc.disconnected_for,
        )

    def _too_old(self) -> JetStreamError:
        return api_level_error(["get_last_msgs()" if self._request.multi_last else "get_msgs()"])

    def _too_much(self) -> JetStreamError:
        return JetStreamError(
            f"stream {self._stream!r} sent more messages than requested, or took far too long"
        )
