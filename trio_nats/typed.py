"""Messages with values in them: what comes out where ``codec=`` went in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Generic, Self, TypeVar, cast, overload

import trio

from .codecs import Decoder, Encoder, encode
from .errors import DecodeError
from .headers import Headers, HeadersLike
from .message import Msg
from .replies import Replies
from .subscription import Batches, Subscription

__all__ = ["Decoded", "TypedMsg", "TypedReplies", "TypedSubscription"]

T = TypeVar("T")
P = TypeVar("P")

_UNDECODED = object()


class Decoded(Generic[T]):
    """What a message with a value in it is, whatever kind of message.

    It is decoded when :attr:`value` is asked for the first time. So a message that cannot be
    decoded comes out like any other, with all it has, and ends neither the loop nor the
    subscription.
    """

    __slots__ = ("_codec", "_value")

    def __init__(self, codec: Decoder[T]) -> None:
        self._codec: Decoder[T] = codec
        self._value: object = _UNDECODED

    @property
    def value(self) -> T:
        """The value. Raises :exc:`DecodeError` if the data is none the codec can read."""
        if self._value is _UNDECODED:
            try:
                self._value = self._codec.decode(self.data)
            except Exception as error:
                raise DecodeError(
                    f"{self._codec!r} cannot decode the message on {self.subject!r}: {error}"
                ) from error
        return cast("T", self._value)

    @property
    def data(self) -> bytes:
        """The payload as it came."""
        raise NotImplementedError

    @property
    def subject(self) -> str:
        """The subject it was published to."""
        raise NotImplementedError


class TypedMsg(Decoded[T]):
    """A message as it arrived, and the value in it, which is decoded when it is asked for."""

    __slots__ = ("raw",)

    def __init__(self, raw: Msg, codec: Decoder[T]) -> None:
        super().__init__(codec)
        self.raw: Msg = raw
        """The message itself."""

    @property
    def data(self) -> bytes:
        """The payload as it came."""
        return self.raw.data

    @property
    def subject(self) -> str:
        """The subject it was published to."""
        return self.raw.subject

    @property
    def reply(self) -> str | None:
        """The subject to answer to, if the sender wants an answer."""
        return self.raw.reply

    @property
    def headers(self) -> Headers:
        """The headers; empty when the message came without."""
        return self.raw.headers

    @overload
    async def respond(self, value: T, *, headers: HeadersLike | None = None) -> bool: ...
    @overload
    async def respond(
        self, value: P, *, codec: Encoder[P], headers: HeadersLike | None = None
    ) -> bool: ...
    async def respond(
        self,
        value: T | P,
        *,
        codec: Encoder[P] | None = None,
        headers: HeadersLike | None = None,
    ) -> bool:
        """Answer with a value, encoded by ``codec``: unless given, the one the message came by.

        Returns whether an answer was sent, see :meth:`Msg.respond`. Raises :exc:`EncodeError`, and
        what that one raises. If cancelled, it has sent all of the answer or none.
        """
        encoder = cast("Encoder[T | P]", self._codec if codec is None else codec)
        return await self.raw.respond(encode(encoder, value), headers=headers)

    def __repr__(self) -> str:
        return f"TypedMsg({self.raw!r}, {self._codec!r})"


class TypedReplies(trio.abc.ReceiveChannel[TypedMsg[T]]):
    """:class:`Replies` with values, made by :meth:`Connection.request_many` with a codec."""

    def __init__(self, raw: Replies, codec: Decoder[T]) -> None:
        self.raw: Replies = raw
        """The channel of raw messages that it takes from."""
        self._codec = codec

    async def __aenter__(self) -> Self:
        """See :meth:`Replies.__aenter__`."""
        await self.raw.__aenter__()
        return self

    async def aclose(self) -> None:
        """See :meth:`Replies.aclose`."""
        await self.raw.aclose()

    async def receive(self) -> TypedMsg[T]:
        """See :meth:`Replies.receive`."""
        return TypedMsg(await self.raw.receive(), self._codec)

    def __repr__(self) -> str:
        return f"<TypedReplies {self._codec!r} of {self.raw!r}>"


class TypedSubscription(trio.abc.ReceiveChannel[TypedMsg[T]]):
    """A :class:`Subscription` with values, made by :meth:`Connection.subscribe` with a codec."""

    def __init__(self, raw: Subscription, codec: Decoder[T]) -> None:
        self.raw: Subscription = raw
        """The subscription that it takes its messages from; ask it for everything else."""
        self._codec = codec

    async def __aenter__(self) -> Self:
        """See :meth:`Subscription.__aenter__`."""
        await self.raw.__aenter__()
        return self

    async def aclose(self) -> None:
        """See :meth:`Subscription.aclose`."""
        await self.raw.aclose()

    async def drain(self, timeout: float | None = None) -> None:
        """See :meth:`Subscription.drain`."""
        await self.raw.drain(timeout)

    async def receive(self) -> TypedMsg[T]:
        """See :meth:`Subscription.receive`."""
        return TypedMsg(await self.raw.receive(), self._codec)

    def receive_nowait(self) -> TypedMsg[T]:
        """See :meth:`Subscription.receive_nowait`."""
        return TypedMsg(self.raw.receive_nowait(), self._codec)

    async def receive_batch(self, max_messages: int | None = None) -> list[TypedMsg[T]]:
        """See :meth:`Subscription.receive_batch`."""
        batch = await self.raw.receive_batch(max_messages)
        return [TypedMsg(msg, self._codec) for msg in batch]

    def iter_batches(self, max_messages: int | None = None) -> AsyncIterator[list[TypedMsg[T]]]:
        """See :meth:`Subscription.iter_batches`."""
        return Batches(self.receive_batch, max_messages)

    def __repr__(self) -> str:
        return f"<TypedSubscription {self._codec!r} of {self.raw!r}>"
