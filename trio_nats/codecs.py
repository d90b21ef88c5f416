"""Codecs encode values as payloads and decode payloads into values.

:class:`JSONCodec` and :class:`MessagePackCodec` use msgspec, and support all its types: its
structs, dataclasses, ``TypedDict``, attrs classes, the built-in types and combinations of these. A
codec of your own is any object with the two methods of :class:`Codec`. To publish only, it needs
only ``encode``; to receive only, it needs only ``decode``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Generic, Protocol, TypeAlias, TypeVar, cast

import msgspec

from .errors import ConfigurationError, DecodeError, EncodeError

__all__ = ["BytesCodec", "Codec", "Decoder", "Encoder", "JSONCodec", "MessagePackCodec"]
__all__ += ["Payload", "TextCodec", "as_bytes", "check_codec", "check_payload", "decode_error"]
__all__ += ["encode", "encoded"]

Payload: TypeAlias = bytes | bytearray | memoryview | str
"""A payload to send: anything bytes-like, or text, which is sent as UTF-8."""

_HINT = "; to send other objects pass a codec, such as codec=JSONCodec(YourType)"

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
T_contra = TypeVar("T_contra", contravariant=True)


class Encoder(Protocol[T_contra]):
    """Encodes values as payloads."""

    def encode(self, value: T_contra, /) -> Payload:
        """Encode a value. An exception becomes an :exc:`EncodeError`.

        :param value: the value to encode.
        :returns: the payload.
        """
        ...


class Decoder(Protocol[T_co]):
    """Decodes payloads into values."""

    def decode(self, data: bytes, /) -> T_co:
        """Decode a payload. An exception becomes a :exc:`DecodeError`.

        :param data: the payload.
        :returns: the value.
        """
        ...


class Codec(Encoder[T], Decoder[T], Protocol[T]):
    """Encodes and decodes."""


class BytesCodec:
    """Passes bytes through unchanged.

    >>> BytesCodec().decode(b"as it is")
    b'as it is'
    """

    def encode(self, value: bytes | bytearray | memoryview, /) -> bytes:
        """Turn a bytes-like object into ``bytes``.

        :param value: any bytes-like object.
        :returns: its bytes.
        :raises TypeError: if it is not bytes-like.
        """
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise TypeError(f"the value must be bytes-like, not {type(value).__name__}")
        return bytes(value)

    def decode(self, data: bytes, /) -> bytes:
        """Return the payload itself.

        :param data: the payload.
        :returns: the payload.
        """
        return data

    def __repr__(self) -> str:
        return "BytesCodec()"


class TextCodec:
    """Text as strict UTF-8.

    >>> TextCodec().decode(TextCodec().encode("grün"))
    'grün'
    """

    def encode(self, value: str, /) -> bytes:
        """Encode a text.

        :param value: the text.
        :returns: the text as UTF-8.
        :raises TypeError: if it is not a ``str``.
        """
        if not isinstance(value, str):
            raise TypeError(f"the value must be a str, not {type(value).__name__}")
        return value.encode()

    def decode(self, data: bytes, /) -> str:
        """Decode a text.

        :param data: the payload.
        :returns: the text.
        :raises UnicodeDecodeError: if it is not valid UTF-8.
        """
        return data.decode()

    def __repr__(self) -> str:
        return "TextCodec()"


class _MsgspecCodec(Generic[T]):
    """A codec of msgspec, in one of its formats."""

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
        """Encode a value.

        :param value: the value to encode.
        :returns: the payload.
        """
        return self._encode(value)

    def decode(self, data: bytes, /) -> T:
        """Decode a payload, and validate the value against the type.

        :param data: the payload.
        :returns: the value.
        """
        return self._decode(data)

    def __repr__(self) -> str:
        name = self._type.__name__ if isinstance(self._type, type) else str(self._type)
        return f"{type(self).__name__}({name})"


class JSONCodec(_MsgspecCodec[T]):
    """JSON, validated against a type.

    >>> JSONCodec(dict[str, int]).encode({"apples": 3})
    b'{"apples":3}'
    >>> JSONCodec(list[int]).decode(b"[1, 2]")
    [1, 2]

    :param type: the type of the values, which may be generic or a union.
    :raises ConfigurationError: if msgspec cannot decode to this type.
    """

    def __init__(self, type: type[T]) -> None:
        super().__init__(type, msgspec.json.Encoder().encode, msgspec.json.Decoder)


class MessagePackCodec(_MsgspecCodec[T]):
    """MessagePack, validated against a type: as :class:`JSONCodec`, but binary and more compact.

    >>> MessagePackCodec(tuple[int, str]).decode(MessagePackCodec(list).encode([1, "a"]))
    (1, 'a')

    :param type: the type of the values, which may be generic or a union.
    :raises ConfigurationError: if msgspec cannot decode to this type.
    """

    def __init__(self, type: type[T]) -> None:
        super().__init__(type, msgspec.msgpack.Encoder().encode, msgspec.msgpack.Decoder)


def encode(codec: Encoder[T], value: T) -> Payload:
    """Return ``value`` encoded by ``codec``.

    :raises EncodeError: if the codec cannot encode it.
    """
    try:
        return codec.encode(value)
    except Exception as error:
        check_codec(codec, "encode")
        raise EncodeError(
            f"{codec!r} cannot encode a value of type {type(value).__name__}: {error}"
        ) from error


def encoded(codec: Encoder[T] | None, payload: Payload | T) -> Payload:
    """Return the payload to send. Without a codec, the overloads ensure that ``payload`` is one."""
    return cast("Payload", payload) if codec is None else encode(codec, cast("T", payload))


def as_bytes(payload: Payload, name: str = "payload") -> bytes:
    """Return a payload as ``bytes``.

    :raises TypeError: if it has another type, which the error calls ``name``.
    """
    if isinstance(payload, str):
        return payload.encode()
    check_payload(name, payload, _HINT)
    return bytes(payload)


def check_payload(name: str, value: object, hint: str = "") -> None:
    """Raise :exc:`TypeError` unless ``value`` can be sent as it is."""
    if not isinstance(value, (bytes, bytearray, memoryview, str)):
        raise TypeError(f"{name} must be bytes-like or str, not {type(value).__name__}{hint}")


def decode_error(codec: Decoder[T], what: str, error: Exception) -> DecodeError:
    """Return the exception to raise after ``codec`` has raised ``error`` decoding ``what``.

    :raises TypeError: if ``codec`` is not a decoder.
    """
    check_codec(codec, "decode")
    return DecodeError(f"{codec!r} cannot decode {what}: {error}")


def check_codec(codec: object, *methods: str) -> None:
    """Raise :exc:`TypeError` unless ``codec`` has these methods and is an instance."""
    kind = f"the class {codec.__name__}" if isinstance(codec, type) else type(codec).__name__
    for method in methods:
        if not callable(getattr(codec, method, None)):
            raise TypeError(
                f"codec must have the method {method}, which {kind} lacks; use JSONCodec(YourType)"
            )
        if isinstance(codec, type) and not isinstance(
            inspect.getattr_static(codec, method), staticmethod | classmethod
        ):
            raise TypeError(
                f"codec must be an instance, not {kind}; pass {codec.__name__}(YourType)"
            )
