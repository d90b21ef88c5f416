"""Invalid names, versions, subjects, queue groups and other arguments, and their errors."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Awaitable
from functools import partial, wraps
from typing import Any
from unittest.mock import Mock

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.services.helpers import HANG_TIMEOUT, adder, reverse
from trio_nats import (
    ConfigurationError,
    Connection,
    InvalidSubjectError,
    open_nats,
)
from trio_nats.services import Handler, ServiceRequest
from trio_nats.services.schemas import check_name, check_version
from trio_nats.testing import NatsServer


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Connection]:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            yield nc


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        ({"name": ""}, ConfigurationError, "service name '' is not allowed: it must have letters"),
        ({"name": "a.b"}, ConfigurationError, "service name 'a.b' is not allowed"),
        ({"name": "a\n"}, ConfigurationError, r"service name 'a\\n'"),
        ({"name": "ä"}, ConfigurationError, r"service name '\\xe4'"),
        ({"name": None}, TypeError, "the service's name must be a str, not NoneType"),
        ({"version": "1.0"}, ConfigurationError, "must be a semantic version .*, not '1.0'"),
        ({"version": "v1.0.0"}, ConfigurationError, "version must be a semantic version"),
        ({"version": "1.0.0\n"}, ConfigurationError, "version must be a semantic version"),
        ({"version": 1}, TypeError, "the version must be a str, not int"),
        ({"description": b"x"}, TypeError, "the description must be a str, not bytes"),
        (
            {"description": "\ud800"},
            ConfigurationError,
            r"the description must be valid Unicode text, not '\\ud800'",
        ),
        ({"metadata": ["a"]}, TypeError, "metadata must be a mapping, not list"),
        ({"metadata": {"a": 1}}, TypeError, "metadata must map str to str, not 'a' to 1"),
        ({"metadata": {1: "a"}}, TypeError, "metadata must map str to str, not 1 to 'a'"),
        (
            {"metadata": {"": "a"}},
            ConfigurationError,
            "keys of metadata must not be empty, as that of 'a' is",
        ),
        (
            {"metadata": {"a": "\ud800"}},
            ConfigurationError,
            r"metadata must be valid Unicode text, not '\\ud800'",
        ),
        (
            {"metadata": {"a": "x" * 131072}},
            ConfigurationError,
            "at most 131,072 bytes, not 131,073",
        ),
        (
            {"queue": ""},
            ConfigurationError,
            "the queue group's name must not be empty; for no queue group use None",
        ),
        ({"queue": "a b"}, InvalidSubjectError, "queue group 'a b' is not allowed"),
        ({"queue": 1}, TypeError, "queue group must be a str, not int"),
        ({"stats_handler": 1}, TypeError, "stats_handler must be a callable, not int"),
        ({"stats_handler": reverse}, TypeError, "stats_handler must be an ordinary function"),
        ({"close_timeout": -1}, ConfigurationError, "close_timeout must be zero or more"),
    ],
)
async def test_services(
    nc: Connection, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    arguments: dict[str, Any] = {"name": "adder", "version": "1.0.0"} | options
    with pytest.raises(kind, match=text):
        nc.add_service(**arguments)


async def generator(request: ServiceRequest) -> AsyncIterator[bytes]:
    yield b""


def plain(request: ServiceRequest) -> bytes:
    return b""


class Handlers:
    def plain(self, request: ServiceRequest):  # type: ignore[no-untyped-def]  # on purpose
        return b""


async def test_an_endpoint_needs_a_name(nc: Connection) -> None:
    """Without parentheses the handler would be taken for the name, and never called."""
    service = adder(nc)
    endpoint: Any = service.endpoint
    with pytest.raises(TypeError, match=r'needs a name, such as @service.endpoint\("reverse"\)'):
        endpoint(reverse)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kind", "text"),
    [
        (
            {"name": "a.b"},
            ConfigurationError,
            "endpoint name 'a.b' is not allowed: .*dots belong in the subject",
        ),
        ({"name": 1}, TypeError, "the endpoint's name must be a str, not int"),
        ({"handler": None}, TypeError, "handler must be an async function .* not NoneType"),
        ({"handler": 1}, TypeError, "handler must be an async function .* not int"),
        (
            {"handler": generator},
            TypeError,
            r"handler must be an async function that returns .* async generator generator\(\)",
        ),
        (
            {"handler": plain},
            TypeError,
            r"handler must be an async .* the plain function plain\(\); write 'async def'",
        ),
        ({"handler": partial(partial(plain))}, TypeError, r"the plain function plain\(\)"),
        ({"handler": Handlers().plain}, TypeError, r"the plain function plain\(\)"),
        ({"subject": ""}, InvalidSubjectError, "subject '' is not allowed: it is empty"),
        ({"subject": "a..b"}, InvalidSubjectError, "subject 'a..b' is not allowed"),
        ({"subject": ">.a"}, InvalidSubjectError, "subject '>.a' is not allowed"),
        ({"subject": 1}, TypeError, "subject must be a str, not int"),
        (
            {"subject": "$SRV.PING"},
            ConfigurationError,
            r"subject '\$SRV.PING' is reserved: \$SRV is for",
        ),
        ({"queue": ""}, ConfigurationError, "for no queue group use None"),
        ({"queue": "*"}, InvalidSubjectError, r"queue group '\*'"),
        ({"metadata": {"a": None}}, TypeError, "metadata must map str to str, not 'a' to None"),
        ({"concurrency": 0}, ConfigurationError, "concurrency must be at least 1"),
        ({"pending_limits": 1}, TypeError, "pending_limits must be a PendingLimits"),
    ],
)
async def test_endpoints(
    nc: Connection, options: dict[str, Any], kind: type[Exception], text: str
) -> None:
    service = adder(nc)
    arguments: dict[str, Any] = {"name": "reverse", "handler": reverse} | options
    with pytest.raises(kind, match=text):
        await service.add_endpoint(**arguments)
    name, handler = arguments.pop("name"), arguments.pop("handler")
    with pytest.raises(kind, match=text):
        service.endpoint(name, **arguments)(handler)
    assert service.endpoints == ()


def decorated(handler: Handler) -> Handler:
    def inner(request):  # type: ignore[no-untyped-def]  # on purpose
        return handler(request)

    return inner


def delegating(request: ServiceRequest) -> Awaitable[bytes]:
    return reverse(request)


class AsyncHandlers:
    async def __call__(self, request: ServiceRequest) -> bytes:
        return b""

    async def method(self, request: ServiceRequest) -> bytes:
        return b""

    @staticmethod
    async def static(request: ServiceRequest) -> bytes:
        return b""


@pytest.mark.parametrize(
    "handler",
    [
        partial(reverse),
        partial(partial(AsyncHandlers().method)),
        AsyncHandlers(),
        AsyncHandlers().method,
        AsyncHandlers.static,
        lambda request: reverse(request),
        decorated(reverse),
        wraps(reverse)(decorated(reverse)),
        delegating,
        Mock(),
        partial(AsyncHandlers()),
    ],
)
async def test_handlers_that_are_or_may_be_async(nc: Connection, handler: Any) -> None:
    await adder(nc).add_endpoint("reverse", handler)


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        (None, TypeError, "the group's name must be a str, not NoneType"),
        ("a.", InvalidSubjectError, "has an empty token"),
        ("a.>", ConfigurationError, "group name 'a.>' must not contain '>'"),
        ("$SRV", ConfigurationError, r"subject '\$SRV' is reserved: \$SRV is for"),
    ],
)
async def test_groups(nc: Connection, name: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        adder(nc).group(name)
    with pytest.raises(ConfigurationError, match="use None"):
        adder(nc).group("a", queue="")


async def test_groups_make_subjects_and_queue_groups(nc: Connection) -> None:
    service = adder(nc, queue="mine")
    math = service.group("math", queue="workers")
    inner = math.group("inner.*", queue=None)
    same = math.group("")
    for group in (service, math, inner, same, inner.group("x")):
        group.endpoint("plain")(reverse)
        group.endpoint("special", subject="s.>", queue="other")(reverse)
    found = [(one.name, one.subject, one.queue) for one in service.endpoints]
    assert found == [
        ("plain", "plain", "mine"),
        ("special", "s.>", "other"),
        ("plain", "math.plain", "workers"),
        ("special", "math.s.>", "other"),
        ("plain", "math.inner.*.plain", None),
        ("special", "math.inner.*.s.>", "other"),
        ("plain", "math.plain", "workers"),
        ("special", "math.s.>", "other"),
        ("plain", "math.inner.*.x.plain", None),
        ("special", "math.inner.*.x.s.>", "other"),
    ]
    assert (math.prefix, math.queue, inner.queue, service.prefix) == ("math", "workers", None, "")
    assert repr(math) == "<ServiceGroup 'math'>"
    # $SRV is an ordinary token unless it is the first.
    math.endpoint("odd", subject="$SRV.x")(reverse)


async def test_defaults(nc: Connection) -> None:
    service = adder(nc)
    service.endpoint("reverse")(reverse)
    (endpoint,) = service.endpoints
    assert repr(endpoint) == "<Endpoint 'reverse' on 'reverse', queue='q', 0 under way>"
    assert (endpoint.queue, endpoint.concurrency, dict(endpoint.metadata)) == ("q", 16, {})
    assert (service.description, dict(service.metadata), service.queue) == ("", {}, "q")


async def test_metadata_cannot_be_changed(nc: Connection) -> None:
    given = {"a": "b"}
    service = adder(nc, metadata=given)
    endpoint = await service.add_endpoint("reverse", reverse, metadata=given)
    given["a"] = "c"
    service.info().metadata["a"] = "d"
    service.info().endpoints[0].metadata["a"] = "d"
    for metadata in (service.metadata, endpoint.metadata, service.info().metadata):
        assert metadata == {"a": "b"}
    with pytest.raises(TypeError):
        service.metadata["a"] = "c"  # type: ignore[index]  # on purpose


async def test_the_decorator_leaves_the_handler_as_it_is(nc: Connection) -> None:
    assert adder(nc).endpoint("reverse")(reverse) is reverse


@given(st.text(max_size=6))
def test_names(name: str) -> None:
    allowed = bool(name) and all(c.isascii() and (c.isalnum() or c in "-_") for c in name)
    if allowed:
        assert check_name("service", name) == name
    else:
        with pytest.raises(ConfigurationError):
            check_name("service", name)


# The regular expression that semver.org suggests.
SEMVER = re.compile(
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(?:-((?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
    r"(?:\.(?:0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*))*))?(?:\+([0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*))?\Z",
    re.ASCII,
)


@pytest.mark.slow
@given(
    st.from_regex(SEMVER)
    | st.from_regex(r"\A[0-9]{1,2}\.[0-9]\.[0-9](-[0a-c1.-]*)?(\+[0a.-]*)?\Z", fullmatch=True)
    | st.text(max_size=8)
)
def test_versions(version: str) -> None:
    if SEMVER.match(version):
        assert check_version(version) == version
    else:
        with pytest.raises(ConfigurationError):
            check_version(version)
