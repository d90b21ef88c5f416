"""Asking JetStream: requests with JSON in, JSON or an error out (ADR-1, 7)."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Generic, NoReturn, TypeVar, cast

import msgspec
import trio

from .._constructors import NoPublicConstructor, construct
from ..connection_base import BaseConnection
from ..errors import ConfigurationError, NoRespondersError
from ..options import check_seconds
from . import json_codec
from .consumer.inboxes import InboxPool
from .errors import (
    APILevelError,
    ConsumerNameInUseError,
    ConsumerNotFoundError,
    ErrorCode,
    JetStreamAPIError,
    JetStreamError,
    JetStreamNotEnabledError,
    JetStreamNotEnabledForAccountError,
    MessageNotFoundError,
    StreamMismatchError,
    StreamNameInUseError,
    StreamNotFoundError,
    WrongLastMsgIdError,
    WrongLastSequenceError,
    described,
)
from .validation import check_name, check_subject

__all__ = [
    "API",
    "DEFAULT_PREFIX",
    "DEFAULT_TIMEOUT",
    "Page",
    "PageIterator",
    "api_error",
    "read_answer",
    "select",
]

DEFAULT_PREFIX = "$JS.API"
DEFAULT_TIMEOUT = 5.0
MAX_PAGES = 100_000
"""The most pages to ask for: a server whose listing never ends is not followed."""
MAX_DESCRIPTION = 2_000

LEVEL_HEADER = "Nats-Required-Api-Level"

R = TypeVar("R", bound=msgspec.Struct)
S = TypeVar("S")
T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
P = TypeVar("P", bound="Page")

_BY_CODE: dict[int, type[JetStreamAPIError]] = {
    ErrorCode.CONSUMER_NAME_IN_USE: ConsumerNameInUseError,
    ErrorCode.CONSUMER_NOT_FOUND: ConsumerNotFoundError,
    ErrorCode.MESSAGE_NOT_FOUND: MessageNotFoundError,
    ErrorCode.NOT_ENABLED_FOR_ACCOUNT: JetStreamNotEnabledForAccountError,
    ErrorCode.SEQUENCE_NOT_FOUND: MessageNotFoundError,
    ErrorCode.STREAM_NAME_IN_USE: StreamNameInUseError,
    ErrorCode.STREAM_NOT_FOUND: StreamNotFoundError,
    ErrorCode.STREAM_MISMATCH: StreamMismatchError,
    ErrorCode.WRONG_LAST_MSG_ID: WrongLastMsgIdError,
    ErrorCode.WRONG_LAST_SEQUENCE: WrongLastSequenceError,
    ErrorCode.NOT_ENABLED: JetStreamNotEnabledError,
    ErrorCode.CONSUMER_STILL_ACTIVE: ConsumerNameInUseError,
    ErrorCode.CONSUMER_ALREADY_EXISTS: ConsumerNameInUseError,
    ErrorCode.CONSUMER_DOES_NOT_EXIST: ConsumerNotFoundError,
    ErrorCode.WRONG_LAST_SEQUENCE_UNKNOWN: WrongLastSequenceError,
    ErrorCode.REQUIRED_API_LEVEL: APILevelError,
}


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some of the things that there are."""

    total: int = 0
    """How many there are."""
    offset: int = 0
    """How many come before these."""
    limit: int = 0
    """The most items of a page."""


class API:
    """JetStream's API, as seen by a connection."""

    def __init__(
        self,
        nc: BaseConnection,
        inboxes: InboxPool | None = None,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
    ) -> None:
        if domain is not None and prefix is not None:
            raise ConfigurationError("domain and prefix both say where JetStream is; give one")
        self.nc = nc
        self.inboxes: InboxPool = InboxPool(nc) if inboxes is None else inboxes
        if domain is not None:
            prefix = f"$JS.{check_name('domain', domain)}.API"
        elif prefix is None:
            prefix = DEFAULT_PREFIX
        self.prefix: str = check_subject("prefix", prefix)
        """What the subjects of requests begin with."""
        self.timeout: float = (
            DEFAULT_TIMEOUT if timeout is None else check_seconds("timeout", timeout)
        )
        """Seconds that an answer may take, unless a call says otherwise."""

    def seconds(self, timeout: float | None) -> float:
        """``timeout``, or the one for all calls."""
        return self.timeout if timeout is None else check_seconds("timeout", timeout)

    def subject(self, suffix: str) -> str:
        """Where to ask."""
        return f"{self.prefix}.{suffix}"

    async def request(
        self,
        suffix: str,
        payload: msgspec.Struct | None,
        kind: type[R],
        timeout: float | None = None,
        *,
        level: int = 0,
    ) -> R:
        """Ask at ``prefix.suffix`` and wait at most ``timeout`` seconds for the answer.

        ``level`` is the API level that the server has to have (ADR-44); 0 does not ask for any.

        Raises :exc:`JetStreamAPIError`, or the subclass for it, when the answer is an error, and
        :exc:`JetStreamError` when it is none that can be understood;
        :exc:`JetStreamNotEnabledError` when nobody answers there; :exc:`RequestTimeoutError` when
        there is none in time; and what :meth:`Connection.request` raises else. If cancelled, the
        request may have been heard all the same.
        """
        subject = self.subject(suffix)
        try:
            msg = await self.nc.request(
                subject,
                b"" if payload is None else json_codec.encode(payload),
                timeout=self.seconds(timeout),
                headers={LEVEL_HEADER: str(level)} if level else None,
            )
        except NoRespondersError:
            self.not_there(subject)
        try:
            return read_answer(msg.data, kind, subject)
        except (StreamNotFoundError, ConsumerNotFoundError) as error:
            raise described(error, _named(error, suffix)) from None

    def not_there(self, subject: str) -> NoReturn:
        """Nobody is subscribed to what JetStream would be."""
        raise JetStreamNotEnabledError(
            503,
            ErrorCode.NOT_ENABLED,
            f"nobody answers at {subject!r}: JetStream is not enabled on the server, or not in "
            f"reach by the prefix {self.prefix!r}",
        ) from None

    def paged(
        self,
        suffix: str,
        payload: Callable[[int], msgspec.Struct],
        kind: type[P],
        items: Callable[[P], Sequence[T]],
    ) -> PageIterator[T]:
        """All that ``items`` finds in the pages; ``payload`` asks for those after an offset."""

        offset = 0

        async def ask() -> tuple[Sequence[T], bool]:
            nonlocal offset
            page = await self.request(suffix, payload(offset), kind)
            found = items(page)
            offset += len(found)
            # An empty page is the end, whatever the server counts.
            return found, bool(found) and offset < page.total

        return construct(PageIterator, ask)

    def __repr__(self) -> str:
        return f"<API {self.prefix!r}>"


class PageIterator(
    AsyncIterator[T_co],
    Generic[T_co],
    metaclass=NoPublicConstructor,
    use="a method that returns a listing, such as js.streams()",
):
    """Iterates over a listing, and requests each page when it is needed.

    Listings such as :meth:`JetStream.streams` return it, for one ``async for``. What is added or
    deleted during the iteration may be missing, or come twice. The iteration raises what the
    request for a page raises. If cancelled, you can go on with it.
    """

    def __init__(self, ask: Callable[[], Awaitable[tuple[Sequence[T_co], bool]]]) -> None:
        """``ask`` returns what the next page has, and whether more come after that."""
        self._ask = ask
        self._items: deque[T_co] = deque()
        self._pages = 0
        self._more = True

    async def __anext__(self) -> T_co:
        if self._items or not self._more:
            await trio.lowlevel.checkpoint()
        while not self._items and self._more:
            if self._pages >= MAX_PAGES:
                raise JetStreamError(f"no end after {MAX_PAGES:,} pages")
            found, self._more = await self._ask()
            self._pages += 1
            self._items.extend(found)
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()


def select(pages: PageIterator[S], pick: Callable[[S], T | None]) -> PageIterator[T]:
    """Iterate over what ``pick`` returns, without ``None``; takes the place of ``pages``."""

    async def ask() -> tuple[Sequence[T], bool]:
        found, more = await pages._ask()
        return [one for one in map(pick, found) if one is not None], more

    return construct(PageIterator, ask)


def _named(error: JetStreamAPIError, suffix: str) -> str:
    """The description of an error, with the name of what was not found."""
    match suffix.split("."):
        case ["CONSUMER", _, stream, consumer, *_] if isinstance(error, ConsumerNotFoundError):
            return f"consumer {consumer!r} of stream {stream!r} not found"
        case ["CONSUMER", _, stream, *_]:
            return f"stream {stream!r} not found"
        case ["STREAM", verb, *_, stream] if verb != "CREATE":
            return f"stream {stream!r} not found"
        case _:
            return error.description


def read_answer(data: bytes, kind: type[R], subject: str) -> R:
    """What an answer says. Raises the error that it is."""
    try:
        raw = json_codec.decode(data)
        if (error := raw.get("error")) is not None:
            raise api_error(error)
        return json_codec.from_wire(raw, kind)
    except (ValueError, OverflowError, RecursionError) as error:
        raise JetStreamError(
            f"the answer at {subject!r} is none of JetStream's: {error}"
        ) from error


def api_error(raw: object) -> JetStreamAPIError:
    """The exception for an ``error`` of the API."""
    given = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    code, err_code = given.get("code"), given.get("err_code")
    number = err_code if isinstance(err_code, int) else 0
    text = str(given.get("description") or "error without a description")[:MAX_DESCRIPTION]
    kind = _BY_CODE.get(number, JetStreamAPIError)
    return kind(code if isinstance(code, int) else 0, number, text)
