"""Codecs: payloads as values of a type.

Give a codec as ``codec=`` where you send, and to :meth:`Msg.decode` where you receive.
:class:`JSONCodec` and :class:`MessagePackCodec` use msgspec, and so take whatever msgspec knows:
its structs, dataclasses, ``TypedDict``, attrs classes, the built-in types and combinations of
these. A codec of your own is any object with the two methods of :class:`Codec`; an
:class:`Encoder` is enough to send, a :class:`Decoder` to receive.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

import msgspec

from .errors import ConfigurationError, DecodeError, EncodeError

__all__ = ["BytesCodec", "Codec", "Decoder", "Encoder", "JSONCodec", "MessagePackCodec"]
__all__ += ["Payload", "TextCodec", "check_codec", "decode_error", "encode", "encoded"]

Payload: TypeAlias = bytes | bytearray | memoryview | str
"""What may be sent as a message's data: anything bytes-like, or text, which is sent as UTF-8."""

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Encoder(Protocol[T_contra]):
    """Makes payloads of values."""

    def encode(self, value: T_contra, /) -> Payload:
        """The payload. What it raises comes out of ``publish`` as an :exc:`EncodeError`."""
        ...


class Decoder(Protocol[T_co]):
    """Makes values of payloads."""

    def decode(self, data: bytes, /) -> T_co:
        """The value. What it raises comes out of ``msg.decode`` as a :exc:`DecodeError`."""
        ...


class Codec(Encoder[T], Decoder[T], Protocol[T]):
    """Both ways."""


class BytesCodec:
    """Payloads as they are.

    >>> BytesCodec().decode(b"as it is")
    b'as it is'
    """

    def encode(self, value: bytes | bytearray | memoryview, /) -> bytes:
        """Anything bytes-like."""
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"expected bytes-like, got {type(value).__name__}")
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        """The payload itself."""
        return data

    def __repr__(self) -> str:
        return "BytesCodec()"


class TextCodec:
    """Text as UTF-8, of which every byte has to be valid.

    >>> TextCodec().decode(TextCodec().encode("grün"))
    'grün'
    """

    def encode(self, value: str, /) -> bytes:
        """UTF-8."""
        if not isinstance(value, str):
            raise TypeError(f"expected str, got {type(value).__name__}")
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        """Of UTF-8."""
        return data.decode()

    def __repr__(self) -> str:
        return "TextCodec()"


class _MsgspecCodec(Generic[T]):
    """msgspec's work, in whichever format."""

    def __init__(
        self,
        type: type[T],
        encode: Callable[[T], bytes],
        make_decoder: Callable[[type[T]], Decoder[T]],
    ) -> None:
        self._type = type
        self._encode = encode
        try:
            self._decode = make_decoder(type).decode
        except TypeError as error:
            raise ConfigurationError(f"{self!r}: {error}") from error

    def encode(self, value: T, /) -> bytes:
        """The value in this format."""
        return self._encode(value)

    def decode(self, data: bytes, /) -> T:
        """A value of the type."""
        return self._decode(data)

    def __repr__(self) -> str:
        name = self._type.__name__ if isinstance(self._type, type) else str(self._type)
        return f"{type(self).__name__}({name})"


class JSONCodec(_MsgspecCodec[T]):
    """JSON, checked against a type.

    >>> JSONCodec(dict[str, int]).encode({"apples": 3})
    b'{"apples":3}'
    >>> JSONCodec(list[int]).decode(b"[1, 2]")
    [1, 2]

    Raises :exc:`ConfigurationError` for a type that msgspec cannot decode to.
    """

    def __init__(self, type: type[T]) -> None:
        super().__init__(type, msgspec.json.Encoder().encode, msgspec.json.Decoder)


class MessagePackCodec(_MsgspecCodec[T]):
    """MessagePack, checked against a type: as :class:`JSONCodec`, shorter and for machines only.

    >>> MessagePackCodec(tuple[int, str]).decode(MessagePackCodec(list).encode([1, "a"]))
    (1, 'a')
    """

    def __init__(self, type: type[T]) -> None:
        super().__init__(type, msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder)


def encode(codec: Encoder[T], value: T) -> Payload:
    """The payload that ``codec`` makes of ``value``. Raises :exc:`EncodeError`."""
    try:
        return codec.encode(value)
    except Exception as error:
        check_codec(codec, "encode")
        raise EncodeError(
            f"{codec!r} cannot encode a value of type {type(value).__name__}: {error}"
        ) from error


def encoded(codec: Encoder[T] | None, payload: Payload | T) -> Payload:
    """What to send; the overloads see to it that without a codec ``payload`` is one."""
    return cast("Payload", payload) if codec is None else encode(codec, cast("T", payload))


def decode_error(codec: Decoder[T], what: str, error: Exception) -> DecodeError:
    """What to raise where ``codec`` has raised ``error``, unable to decode ``what``.

    Raises :exc:`ConfigurationError` if ``codec`` is no decoder.
    """
    check_codec(codec, "decode")
    return DecodeError(f"{codec!r} cannot decode {what}: {error}")


def check_codec(codec: object, *methods: str) -> None:
    """Raise :exc:`ConfigurationError` unless ``codec`` has these methods and is an instance."""
    kind = f"the class {codec.__name__}" if isinstance(codec, type) else type(codec).__name__
    for method in methods:
        if not callable(getattr(codec, method, None)):
            raise ConfigurationError(
                f"codec has no {method} method: {kind}; use JSONCodec(YourType) or the like"
            )
        if isinstance(codec, type) and not isinstance(
            inspect.getattr_static(codec, method), staticmethod | classmethod
        ):
            raise ConfigurationError(
                f"codec is {kind}, not an instance of it; make one, {codec.__name__}(YourType) say"
            )
