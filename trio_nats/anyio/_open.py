"""``open_nats`` for anyio."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, ParamSpec, TypeVar, TypeVarTuple, cast

import trio

import trio_nats
from trio_nats import JWT, Auth, AuthCallback, AuthLike, Combined, NKey, Server
from trio_nats._tracebacks import takes_secrets
from trio_nats.auth import is_callback
from trio_nats.connect import NotEntered

from .._constructors import construct
from ._asyncio import AsyncioHost
from ._backend import Host, TrioHost
from ._connection import Connection
from ._errors import TRIO_ERRORS, translated

__all__ = ["open_nats"]

_P = ParamSpec("_P")
_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


def _with_parameters_of(
    original: Callable[_P, object],
) -> Callable[[Callable[..., _T]], Callable[_P, _T]]:
    """Copy the parameters of another function, and their documentation, to a function."""

    def give(function: Callable[..., _T]) -> Callable[_P, _T]:
        parameters = inspect.signature(original).parameters.values()
        returns = inspect.signature(function).return_annotation
        signature = inspect.Signature(list(parameters), return_annotation=returns)
        function.__signature__ = signature  # type: ignore[attr-defined]  # what inspect looks for
        about = inspect.cleandoc(original.__doc__ or "").partition("\n:param ")
        function.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n\n" + "".join(about[1:])
        return function

    return give


@_with_parameters_of(trio_nats.open_nats)
@takes_secrets
def open_nats(*args: Any, **options: Any) -> AbstractAsyncContextManager[Connection]:
    """Connect to NATS from code written for anyio, for the duration of an ``async with`` block.

    Leaving the block normally closes the connection in an orderly way. Leaving it by an exception
    closes it at once, and the exception propagates unchanged. If cancelled while connecting,
    nothing stays open.

    On anyio's Trio backend the connection is used directly. On the asyncio backend Trio runs inside
    the asyncio loop, see :doc:`anyio`; ``auth`` callables, and the ``sign`` of a
    :class:`~trio_nats.JWT` or :class:`~trio_nats.NKey`, are then called in an asyncio task. The
    loop must not be closed before the block is left.

    The parameters are those of :func:`trio_nats.open_nats`.
    """
    callbacks = _Callbacks()
    if options.get("auth") is not None:
        options["auth"] = callbacks.adapt(options["auth"])
    return _Open(trio_nats.open_nats(*args, **options), callbacks)


class _Open(NotEntered[Connection]):
    """The context manager around a connection of either backend."""

    def __init__(
        self,
        manager: AbstractAsyncContextManager[trio_nats.Connection],
        callbacks: _Callbacks,
    ) -> None:
        self._manager = manager
        self._callbacks = callbacks
        self._host: Host | None = None

    async def __aenter__(self) -> Connection:
        if self._host is not None:
            raise RuntimeError("open_nats() can be entered only once; call it again")
        self._host = self._callbacks.host = host = _detect_host()
        try:
            connection = await host.open(self._manager)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__
        return construct(Connection, host, connection)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._host is not None
        try:
            await self._host.close(exc_type, exc, traceback)
        except TRIO_ERRORS as error:
            raise translated(error) from error.__cause__


def _detect_host() -> Host:
    # In this order, because asyncio code inside trio-asyncio runs in tasks of both.
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is not None:
        return AsyncioHost()
    if trio.lowlevel.in_trio_task():
        return TrioHost()
    raise RuntimeError("trio_nats.anyio works in tasks of asyncio and of Trio; this is neither")


class _Callbacks:
    """Makes Trio call a user's callables in the user's event loop."""

    host: Host

    def adapt(self, auth: AuthLike) -> AuthLike:
        """Return ``auth`` with its callables replaced. Anything else is returned unchanged."""
        if isinstance(auth, Auth):
            return self._adapt(auth)
        return self._wrap_callback(auth) if is_callback(auth) else auth

    def _wrap_callback(self, callback: AuthCallback) -> AuthCallback:
        async def ask(server: Server) -> Auth | None:
            answer = await self.host.call_back(callback, server)
            return self._adapt(answer)

        return ask

    def _adapt(self, auth: _T) -> _T:
        if isinstance(auth, Combined):
            return cast("_T", Combined(*map(self._adapt, auth.parts)))
        if not isinstance(auth, JWT | NKey) or auth.sign is None:
            return auth
        given = auth.sign

        async def sign(nonce: bytes) -> bytes:
            return await self.host.call_back(given, nonce)

        return cast("_T", dataclasses.replace(auth, sign=sign))
