"""What a service answers when it cannot do what it was asked for."""

from __future__ import annotations

from .._printable import MAX_TEXT, printable
from ..errors import ConfigurationError, NatsError

__all__ = [
    "ServiceError",
]


class ServiceError(NatsError):
    """A service's answer that says why there is no other (ADR-32).

    Raise it in the handler of an endpoint to send it; :func:`check_reply` raises it where it
    arrives. ``code`` is a number, by custom one of HTTP's, and 0 where what arrived was none;
    ``description`` is for people; ``data`` is the payload that came, or goes, with it.
    """

    def __init__(self, code: int, description: str, data: bytes = b"") -> None:
        if isinstance(code, bool) or not isinstance(code, int) or code < 0:
            raise ConfigurationError(f"the code of a ServiceError must be a number, not {code!r}")
        if not isinstance(description, str):
            kind = type(description).__name__
            raise ConfigurationError(f"the description of a ServiceError must be a str, not {kind}")
        super().__init__(code, description, data)
        self.code = code
        self.description = description
        self.data = data

    def __str__(self) -> str:
        return f"{self.code}: {printable(self.description, MAX_TEXT)}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers that an answer is known to be an error by; the description in one line."""
        text = self.description.encode("utf-8", "replace").decode()
        for separator in "\r\n\0":
            text = text.replace(separator, " ")
        return {"Nats-Service-Error": text, "Nats-Service-Error-Code": str(self.code)}
