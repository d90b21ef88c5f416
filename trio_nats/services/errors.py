"""The error that services respond with."""

from __future__ import annotations

from .._printable import MAX_TEXT, printable
from ..codecs import check_payload
from ..errors import ConfigurationError, NatsError

__all__ = ["MAX_CODE", "ServiceError"]

MAX_CODE = 999_999_999
"""A code must be safe to parse as a number in any language (ADR-32)."""


class ServiceError(NatsError):
    """An error as the response of a service (ADR-32).

    Raise it in the handler of an endpoint to send it; :func:`check_reply` raises it on the client.
    ``code`` is a number, by convention that of an HTTP status, and 0 if the response has none;
    ``description`` is a text for people; ``data`` is the payload of the response.
    """

    def __init__(self, code: int, description: str, data: bytes = b"") -> None:
        if isinstance(code, bool) or not isinstance(code, int):
            raise TypeError(f"the code of a ServiceError must be a number, not {code!r}")
        if not 0 <= code <= MAX_CODE:
            raise ConfigurationError(
                f"the code of a ServiceError must be a number from 0 to {MAX_CODE}, not {code}"
            )
        if not isinstance(description, str):
            kind = type(description).__name__
            raise TypeError(f"the description of a ServiceError must be a str, not {kind}")
        check_payload("the data of a ServiceError", data)
        super().__init__(code, description, data)
        self.code = code
        self.description = description
        self.data = data

    def __str__(self) -> str:
        return f"{self.code}: {printable(self.description, MAX_TEXT)}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that mark a response as an error. The description is put on one line."""
        text = self.description.encode("utf-8", "replace").decode()
        for separator in "\r\n\0":
            text = text.replace(separator, " ")
        return {"Nats-Service-Error": text, "Nats-Service-Error-Code": str(self.code)}
