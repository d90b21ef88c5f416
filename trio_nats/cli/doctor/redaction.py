"""Make texts from peers and errors safe to show: printable, bounded, without secrets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar
from urllib.parse import quote

import msgspec

from ..._printable import printable
from ..._transport.tls_info import CertificateInfo
from ...auth import Answer
from ...server_info import ServerInfo
from ...servers import Server

__all__ = ["Redaction"]

_LONGEST = 600
# Shorter secrets occur in ordinary words, and removing them there would reveal them.
_SHORTEST_SECRET = 4

_Text = TypeVar("_Text", str, "str | None")


class Redaction:
    """Hides known secrets in all texts, because a hostile server could send them back."""

    def __init__(self, secrets: Iterable[str | None] = ()) -> None:
        self._secrets = set[str]()
        self.add(secrets)

    def add(self, secrets: Iterable[str | None]) -> None:
        """Hide these secrets too."""
        for secret in secrets:
            if secret is not None and len(secret) >= _SHORTEST_SECRET:
                self._secrets |= {secret, quote(secret, safe="")}

    def add_server(self, server: Server) -> None:
        """Hide the secrets in a server's URL."""
        query = server.path.partition("?")[2]
        self.add((server.password, server.token, query))

    def add_answer(self, answer: Answer) -> None:
        """Hide the secrets of credentials."""
        self.add((answer.password, answer.token, answer.jwt))

    def __call__(self, text: object) -> str:
        """Return ``text`` as it may be shown."""
        shown = str(text)
        for secret in sorted(self._secrets, key=len, reverse=True):
            shown = shown.replace(secret, "***")
        return printable(shown, _LONGEST)

    def about(self, server: Server, error: Exception) -> str:
        """Return an error's text with the server's URL replaced by "the server"."""
        return self(str(error).replace(server.url, "the server"))

    def info(self, info: ServerInfo) -> ServerInfo:
        """Return INFO with all texts safe to show."""
        texts: dict[str, object] = {}
        for name in info.__struct_fields__:
            value = getattr(info, name)
            if isinstance(value, str):
                texts[name] = self(value)
            elif isinstance(value, tuple):
                texts[name] = tuple(self(item) for item in value)
        return msgspec.structs.replace(info, **texts)

    def certificate(self, certificate: CertificateInfo) -> CertificateInfo:
        """Return a certificate with all texts safe to show."""
        return CertificateInfo(
            subject=self(certificate.subject),
            issuer=self(certificate.issuer),
            subject_alt_names=tuple(map(self, certificate.subject_alt_names)),
            not_before=certificate.not_before,
            not_after=certificate.not_after,
            sha256=certificate.sha256,
        )
