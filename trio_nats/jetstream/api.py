"""Requests to the JetStream API: JSON in, JSON or an error out (ADR-1, 7)."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar, cast

import msgspec
import trio

from .._async_with import NeedsAsyncFor
from .._constructors import NoPublicConstructor, construct
from ..connection_base import BaseConnection
from ..errors import ConfigurationError, NoRespondersError, PermissionsViolationError
from ..options import check_seconds
from . import json_codec
from .account import AccountInfo
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
from .features import api_level_error, level_of
from .validation import check_name, check_subject

__all__ = [
    "API",
    "DEFAULT_PREFIX",
    "DEFAULT_TIMEOUT",
    "OrderedMode",
    "Page",
    "PageIterator",
    "api_error",
    "read_answer",
    "select",
]

DEFAULT_PREFIX = "$JS.API"
DEFAULT_EVENT_PREFIX = "$JS.EVENT"
DEFAULT_TIMEOUT = 5.0
MAX_PAGES = 100_000
"""Maximum number of pages, in case a server's listing never ends."""
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
    """A page of a listing."""

    total: int = 0
    """Number of items on all pages."""
    offset: int = 0
    """Number of items before this page."""
    limit: int = 0
    """Maximum number of items on a page."""


MAX_ORDERED_MODES = 1000
"""Maximum number of streams whose :class:`OrderedMode` is kept."""


@dataclass(slots=True)
class OrderedMode:
    """How ordered consumers of a stream receive messages. It depends on the user's permissions."""

    push: bool
    """Whether to try a push consumer."""
    flow_control: bool = True
    """Whether replies to flow control reach the server, as far as is known."""


class API:
    """The JetStream API over a connection."""

    def __init__(
        self,
        nc: BaseConnection,
        inboxes: InboxPool | None = None,
        *,
        domain: str | None = None,
        prefix: str | None = None,
        timeout: float | None = None,
        event_prefix: str | None = None,
    ) -> None:
        if domain is not None and prefix is not None:
            raise ConfigurationError("give domain or prefix, not both")
        self.nc = nc
        self.inboxes: InboxPool = InboxPool(nc) if inboxes is None else inboxes
        self._has_domain = domain is not None
        if domain is not None:
            prefix = f"$JS.{check_name('domain', domain)}.API"
        elif prefix is None:
            prefix = DEFAULT_PREFIX
        self.prefix: str = check_subject("prefix", prefix)
        """The prefix of the subjects of requests."""
        event_prefix = DEFAULT_EVENT_PREFIX if event_prefix is None else event_prefix
        self.event_prefix: str = check_subject("event_prefix", event_prefix)
        """The prefix of the subjects of advisories."""
        self.timeout: float = (
            DEFAULT_TIMEOUT if timeout is None else check_seconds("timeout", timeout)
        )
        """Seconds to wait for an answer, unless a call is given another timeout."""
        self._level: float = 0
        self._ordered_modes: dict[str, OrderedMode] = {}

    def seconds(self, timeout: float | None) -> float:
        """Return ``timeout``, or the default for ``None``."""
        return self.timeout if timeout is None else check_seconds("timeout", timeout)

    def ordered_mode(self, stream: str) -> OrderedMode:
        """Return how ordered consumers of a stream receive messages, as learned by earlier ones."""
        mode = self._ordered_modes.get(stream)
        if mode is None:
            if len(self._ordered_modes) >= MAX_ORDERED_MODES:
                self._ordered_modes.clear()
            push = self.prefix != DEFAULT_PREFIX and not self._has_domain
            mode = self._ordered_modes[stream] = OrderedMode(push)
        return mode

    def subject(self, suffix: str) -> str:
        """Return the subject of a request."""
        return f"{self.prefix}.{suffix}"

    async def request(
        self,
        suffix: str,
        payload: msgspec.Struct | None,
        kind: type[R],
        timeout: float | None = None,
        *,
        features: Sequence[str] = (),
    ) -> R:
        """Send a request and return its answer.

        If cancelled, the request may have been carried out.

        :param suffix: the subject after the prefix.
        :param payload: the request, or ``None`` for an empty one.
        :param kind: the type of the answer.
        :param timeout: seconds to wait for the answer. Default: :attr:`timeout`.
        :param features: the :data:`~.features.FEATURES` that the server must have. Default: none.
        :returns: the answer.
        :raises APILevelError: if the server does not have them.
        :raises JetStreamAPIError: or the subclass for the reason, if the answer is an error.
        :raises JetStreamNotEnabledError: if nobody answers.
        :raises JetStreamError: if the answer is malformed.
        :raises RequestTimeoutError: if no answer comes in time.
        """
        # The filter of a consumer may be the end of the subject, and have wildcards.
        subject = self.nc._literal(self.subject(suffix))
        data = b"" if payload is None else json_codec.encode(payload)
        if features:
            await self.require(*features)
        try:
            msg = await self.nc.request(
                subject,
                data,
                timeout=self.seconds(timeout),
                headers={LEVEL_HEADER: str(level_of(features))} if features else None,
            )
        except NoRespondersError:
            self.not_there(subject)
        try:
            return read_answer(msg.data, kind, subject)
        except (StreamNotFoundError, ConsumerNotFoundError) as error:
            raise described(error, _named(error, suffix)) from None
        except APILevelError as error:
            raise (api_level_error(features) if features else error) from None

    async def require(self, *features: str) -> None:
        """Check that the server has features. This may take a request.

        Servers before 2.12 ignore the level that a request requires, and all servers ignore
        settings and headers that they do not know. Without this check, the features would be
        silently missing.

        If cancelled, nothing changes.

        :param features: some of :data:`~.features.FEATURES`.
        :raises APILevelError: if the server does not have all of them.
        """
        level = level_of(features)
        info = self.nc.server_info
        # The server of another domain, or behind a prefix, may have another version.
        if self.prefix in (DEFAULT_PREFIX, f"$JS.{info.domain}.API"):
            self._level = max(self._level, info.api_lvl)
        if level <= self._level:
            return
        try:
            found = (await self.request("INFO", None, AccountInfo)).api.level
        except PermissionsViolationError:
            self._level = math.inf  # It cannot be known; do not ask again.
            return
        except JetStreamNotEnabledError:
            return  # The request itself fails too, unless only INFO is not imported.
        self._level = max(self._level, found)
        if found < level:
            raise api_level_error(features, found)

    def not_there(self, subject: str) -> NoReturn:
        """Raise the error for a request that nobody answers."""
        raise JetStreamNotEnabledError(
            503,
            ErrorCode.NOT_ENABLED,
            f"nobody answers on {subject!r}: JetStream is not enabled on the server, or the domain "
            f"or prefix {self.prefix!r} is wrong",
        ) from None

    def paged(
        self,
        suffix: str,
        payload: Callable[[int], msgspec.Struct],
        kind: type[P],
        items: Callable[[P], Sequence[T]],
    ) -> PageIterator[T]:
        """Iterate over a listing.

        :param suffix: the subject after the prefix.
        :param payload: returns the request for the page at an offset.
        :param kind: the type of a page.
        :param items: returns the items of a page.
        :returns: an iterator over the items.
        """

        offset = 0

        async def ask() -> tuple[Sequence[T], bool]:
            nonlocal offset
            page = await self.request(suffix, payload(offset), kind)
            found = items(page)
            offset += len(found)
            # An empty page is the end, whatever total the server reports.
            return found, bool(found) and offset < page.total

        return construct(PageIterator, ask)

    def __repr__(self) -> str:
        return f"<API {self.prefix!r}>"


class PageIterator(
    AsyncIterator[T_co],
    NeedsAsyncFor,
    Generic[T_co],
    metaclass=NoPublicConstructor,
    use="a method that returns a listing, such as js.streams()",
):
    """Iterates over a listing, and requests each page when it is needed.

    Returned by listings such as :meth:`JetStream.streams`, for one ``async for``. Items that are
    added or deleted during the iteration may be missing, or come twice. The iteration raises the
    exceptions of the request for a page. If cancelled, you can continue it.
    """

    def __init__(self, ask: Callable[[], Awaitable[tuple[Sequence[T_co], bool]]]) -> None:
        """Call ``ask`` for each page; it returns the items, and whether more pages follow."""
        self._ask = ask
        self._items: deque[T_co] = deque()
        self._pages = 0
        self._more = True

    async def __anext__(self) -> T_co:
        if self._items or not self._more:
            await trio.lowlevel.checkpoint()
        while not self._items and self._more:
            if self._pages >= MAX_PAGES:
                raise JetStreamError(
                    f"the listing must have at most {MAX_PAGES:,} pages, but goes on"
                )
            found, self._more = await self._ask()
            self._pages += 1
            self._items.extend(found)
        if not self._items:
            raise StopAsyncIteration
        return self._items.popleft()


def select(pages: PageIterator[S], pick: Callable[[S], T | None]) -> PageIterator[T]:
    """Iterate over the results of ``pick``, leaving out ``None``. Do not use ``pages`` as well."""

    async def ask() -> tuple[Sequence[T], bool]:
        found, more = await pages._ask()
        return [one for one in map(pick, found) if one is not None], more

    return construct(PageIterator, ask)


def _named(error: JetStreamAPIError, suffix: str) -> str:
    """Return the description of an error, with the name of what was not found."""
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
    """Decode an answer.

    :raises JetStreamAPIError: or the subclass for the reason, if it is an error.
    :raises JetStreamError: if it is malformed.
    """
    try:
        raw = json_codec.decode(data)
        if (error := raw.get("error")) is not None:
            raise api_error(error)
        return json_codec.from_wire(raw, kind)
    except (ValueError, OverflowError, RecursionError) as error:
        raise JetStreamError(
            f"the answer on {subject!r} is not one of JetStream: {error}"
        ) from error


def api_error(raw: object) -> JetStreamAPIError:
    """Return the exception for an error of the API."""
    given = cast("dict[str, object]", raw) if isinstance(raw, dict) else {}
    code, err_code = given.get("code"), given.get("err_code")
    number = err_code if isinstance(err_code, int) else 0
    text = str(given.get("description") or "error without a description")[:MAX_DESCRIPTION]
    kind = _BY_CODE.get(number, JetStreamAPIError)
    return kind(code if isinstance(code, int) else 0, number, text)
