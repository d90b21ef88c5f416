"""Build the ``ssl.SSLContext`` of one attempt from the current contents of the files.

Reading files and loading the system's certificates blocks, so it runs in a worker thread; see
:func:`load_client_tls`.
"""

from __future__ import annotations

import logging
import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from .._blocking import check_regular_file, read_small_file, run_in_thread
from ..errors import TLSConfigurationError
from ..options import StrPath, TLSOptions
from .tls_info import MAX_FILE, client_certificate_expiry

__all__ = ["ClientTLS", "load_client_tls"]

logger = logging.getLogger("trio_nats.tls")

# Set explicitly, because Python 3.13 has changed the defaults. VERIFY_X509_STRICT is left out: it
# refuses many private authorities for missing extensions. PARTIAL_CHAIN trusts an intermediate
# authority that the user names explicitly.
_VERIFY_FLAGS = (
    ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
)


@dataclass(frozen=True, slots=True)
class ClientTLS:
    """The TLS context of an attempt, and when its client certificate expires."""

    context: ssl.SSLContext
    expires: datetime | None
    """When the client certificate expires, or ``None`` if unknown."""


async def load_client_tls(options: TLSOptions) -> ClientTLS:
    """Build the TLS context that ``options`` describe.

    If cancelled, the thread finishes in the background.

    :raises TLSConfigurationError: if a file cannot be read, has the wrong contents, or does not
        match another file.
    """
    files = (options.ca_file, options.cert_file, options.key_file, options.bundle_file)
    given = tuple(file for file in files if file is not None)
    return await run_in_thread(_build, options, files=given)


def _build(options: TLSOptions) -> ClientTLS:
    context = options.context
    expires = None
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = options.minimum_version
        context.verify_flags = _VERIFY_FLAGS
        if ssl.HAS_NEVER_CHECK_COMMON_NAME:
            context.hostname_checks_common_name = False  # RFC 9525
        _load_authorities(context, options)
        if options.cert_file is not None:
            _load_client_certificate(context, options)
            expires = client_certificate_expiry(options.cert_file)
        elif options.bundle_file is not None:
            expires = _load_bundle(context, options)
        if options.insecure_skip_verify:
            logger.warning(
                "insecure_skip_verify: accepting any certificate; anyone on the network path "
                "can read and change everything"
            )
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
    if options.configure is not None:
        options.configure(context)
    return ClientTLS(context, expires)


def _load_authorities(context: ssl.SSLContext, options: TLSOptions) -> None:
    if options.ca_file is None and options.ca_data is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        return
    if options.ca_file is not None:
        _check_readable("ca_file", options.ca_file)
        try:
            context.load_verify_locations(cafile=os.fspath(options.ca_file))
        except (ssl.SSLError, OSError):
            raise TLSConfigurationError(
                f"ca_file {str(options.ca_file)!r} holds no certificate in PEM form"
            ) from None
    if options.ca_data is not None:
        try:
            context.load_verify_locations(cadata=options.ca_data)
        except (ssl.SSLError, ValueError, TypeError):
            raise TLSConfigurationError(
                "ca_data holds no certificate (PEM text, or DER bytes)"
            ) from None


def _load_client_certificate(context: ssl.SSLContext, options: TLSOptions) -> None:
    assert options.cert_file is not None
    _check_readable("cert_file", options.cert_file)
    if options.key_file is not None:
        _check_readable("key_file", options.key_file)
    certificate = f"cert_file {str(options.cert_file)!r}"
    key_file = options.cert_file if options.key_file is None else options.key_file
    try:
        context.load_cert_chain(
            os.fspath(options.cert_file),
            os.fspath(key_file),
            password=_Password(options.key_password, key_file),
        )
    except TLSConfigurationError:
        raise
    except (ssl.SSLError, OSError, ValueError) as error:
        raise TLSConfigurationError(
            f"{certificate}: {_certificate_fault(error, options)}"
        ) from None


def _certificate_fault(error: Exception, options: TLSOptions) -> str:
    """Return the reason, read from the files, because OpenSSL says little more than "PEM lib"."""
    assert options.cert_file is not None
    key_file = options.cert_file if options.key_file is None else options.key_file
    reason = getattr(error, "reason", None) or ""
    if reason.endswith(("_TOO_SMALL", "_TOO_WEAK")):
        return _refused(reason)
    if reason == "KEY_VALUES_MISMATCH":
        return f"the private key in {str(key_file)!r} belongs to another certificate"
    if b"-----BEGIN CERTIFICATE-----" not in read_small_file(options.cert_file, MAX_FILE):
        return "it holds no certificate in PEM form"
    if b"PRIVATE KEY-----" not in read_small_file(key_file, MAX_FILE):
        if options.key_file is None:
            return "it holds no private key; pass key_file too"
        return f"key_file {str(key_file)!r} holds no private key in PEM form"
    if options.key_password is not None:
        return f"the private key in {str(key_file)!r} cannot be read; check key_password"
    return "the certificate or key is damaged"


def _refused(reason: str) -> str:
    return f"OpenSSL does not accept it ({reason})"


class _Password:
    """Passes the password to OpenSSL, which would otherwise prompt on the terminal and block."""

    def __init__(self, password: str | None, key_file: StrPath) -> None:
        self._password = password
        self._key_file = key_file

    def __call__(self) -> str:
        if self._password is None:
            raise TLSConfigurationError(
                f"the private key in {str(self._key_file)!r} is encrypted; pass key_password"
            )
        return self._password


def _load_bundle(context: ssl.SSLContext, options: TLSOptions) -> datetime:
    assert options.bundle_file is not None
    try:
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.serialization import pkcs12
    except ImportError:
        raise TLSConfigurationError(
            "bundle_file needs the 'pkcs12' extra: pip install 'trio-nats[pkcs12]'"
        ) from None
    _check_readable("bundle_file", options.bundle_file)
    # While an error may be raised, no variable must hold a secret: error reporters print variables.
    try:
        bundle = pkcs12.load_pkcs12(
            read_small_file(options.bundle_file, MAX_FILE),
            None if options.bundle_password is None else options.bundle_password.encode(),
        )
    except ValueError:
        raise TLSConfigurationError(
            f"bundle_file {str(options.bundle_file)!r} cannot be opened: it is not PKCS#12, "
            "or bundle_password is wrong or missing"
        ) from None
    if bundle.key is None or bundle.cert is None:
        raise TLSConfigurationError(
            f"bundle_file {str(options.bundle_file)!r} lacks a certificate or its private key"
        )
    # The ssl module reads keys only from files. So write the key to a file that no other user may
    # open, encrypted with a password that exists only in this function.
    file_password = secrets.token_hex(32)
    pem = bundle.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(file_password.encode()),
    )
    for entry in (bundle.cert, *bundle.additional_certs):
        pem += entry.certificate.public_bytes(serialization.Encoding.PEM)
    with tempfile.TemporaryDirectory(prefix="trio-nats-") as folder:
        file = Path(folder, "bundle.pem")
        file.touch(mode=0o600)
        file.write_bytes(pem)
        fault = None
        try:
            context.load_cert_chain(file, password=file_password)
        except ssl.SSLError as error:
            fault = error.reason or str(error)
    del file_password, pem
    if fault is not None:
        raise TLSConfigurationError(f"bundle_file {str(options.bundle_file)!r}: {_refused(fault)}")
    return bundle.cert.certificate.not_valid_after_utc


def _check_readable(option: str, file: StrPath) -> None:
    try:
        check_regular_file(file, MAX_FILE)
    except OSError as error:
        reason = error.strerror or str(error)
        raise TLSConfigurationError(f"cannot read {option} {str(file)!r}: {reason}") from error
