"""Temporary certificates. Needs trustme, which the ``demo`` extra installs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme

from trio_nats.testing import ServerTLS

__all__ = ["Certificates"]


@dataclass(frozen=True)
class Certificates:
    """The files of a temporary certificate authority and of a certificate it signed."""

    ca_file: Path
    cert_file: Path
    key_file: Path

    @classmethod
    def make(cls, folder: Path, *names: str) -> Certificates:
        """Issue a certificate for the loopback names and ``names``."""
        ca = trustme.CA()
        issued = ca.issue_cert(*dict.fromkeys(("localhost", "127.0.0.1", "::1", *names)))
        made = cls(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")
        ca.cert_pem.write_to_path(made.ca_file)
        issued.private_key_pem.write_to_path(made.key_file)
        for blob in issued.cert_chain_pems:
            blob.write_to_path(made.cert_file, append=True)
        return made

    def server(self, **settings: bool | str) -> ServerTLS:
        """Return the settings of a server's ``tls`` block."""
        allow_non_tls = settings.get("allow_non_tls") is True
        return ServerTLS(
            cert_file=self.cert_file,
            key_file=self.key_file,
            allow_non_tls=allow_non_tls,
            handshake_first=settings.get("handshake_first", False),
        )
