"""Names, versions, subjects, queue groups and the rest: what is refused, and how it is said."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

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
from trio_nats.services import ServiceRequest
from trio_nats.services.schemas import check_name, check_version
from trio_nats.testing import NatsServer


@pytest.fixture
async def nc(nats_server: NatsServer) -> AsyncIterator[Connection]:
    with trio.fail_after(HANG_TIMEOUT):
        async with open_nats(nats_server.url) as nc:
            yield nc


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": ""}, "service name '' is not allowed: use letters, digits"),
        ({"name": "a.b"}, "service name 'a.b' is not allowed"),
        ({"name": "a\n"}, r"service name 'a\\n'"),
        ({"name": "ä"}, r"service name '\\xe4'"),
        ({"name": None}, "the service's name must be a str, not NoneType"),
        ({"version": "1.0"}, "version must be a semantic version .*, not '1.0'"),
        ({"version": "v1.0.0"}, "must be a semantic version"),
        ({"version": "1.0.0\n"}, "must be a semantic version"),
        ({"version": 1}, "the version must be a str, not int"),
        ({"description": b"x"}, "the description must be a str, not bytes"),
        ({"description": "\ud800"}, "the description must be valid Unicode"),
        ({"metadata": ["a"]}, "metadata must be a mapping, not list"),
        ({"metadata": {"a": 1}}, "metadata 'a': keys and values must be str"),
        ({"metadata": {1: "a"}}, "metadata 1: keys and values must be str"),
        ({"metadata": {"": "a"}}, "must not be empty"),
        ({"metadata": {"a": "\ud800"}}, "must be valid Unicode"),
        ({"metadata": {"a": "x" * 131072}}, "at most 131,072 bytes, not 131,073"),
        ({"queue": ""}, "the queue group's name must not be empty; for no queue group use None"),
        ({"queue": "a b"}, "queue group 'a b' is not allowed"),
        ({"queue": 1}, "queue group must be a str, not int"),
        ({"stats_handler": 1}, "stats_handler must be a callable, not int"),
        ({"stats_handler": reverse}, "stats_handler must be an ordinary function"),
        ({"close_timeout": -1}, "close_timeout must be zero or more"),
    ],
)
async def test_services(nc: Connection, options: dict[str, Any], text: str) -> None:
    arguments: dict[str, Any] = {"name": "adder", "version": "1.0.0"} | options
    with pytest.raises((ConfigurationError, InvalidSubjectError, TypeError), match=text):
        nc.add_service(**arguments)


async def generator(request: ServiceRequest) -> AsyncIterator[bytes]:
    yield b""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": "a.b"}, "endpoint name 'a.b' is not allowed: .*dots belong in the subject"),
        ({"name": 1}, "the endpoint's name must be a str, not int"),
        ({"handler": None}, "handler must be an async function"),
        ({"handler": 1}, "handler must be a callable, not int"),
        ({"handler": generator}, "handler must be an async function that returns"),
        ({"subject": ""}, "subject '' is not allowed: it is empty"),
        ({"subject": "a..b"}, "subject 'a..b' is not allowed"),
        ({"subject": ">.a"}, "subject '>.a' is not allowed"),
        ({"subject": 1}, "subject must be a str, not int"),
        ({"subject": "$SRV.PING"}, r"'\$SRV.PING' is reserved: \$SRV is for"),
        ({"queue": ""}, "for no queue group use None"),
        ({"queue": "*"}, r"queue group '\*'"),
        ({"metadata": {"a": None}}, "metadata 'a'"),
        ({"concurrency": 0}, "concurrency must be at least 1"),
        ({"pending_limits": 1}, "pending_limits must be a PendingLimits"),
    ],
)
async def test_endpoints(nc: Connection, options: dict[str, Any], text: str) -> None:
    service = adder(nc)
    arguments: dict[str, Any] = {"name": "reverse", "handler": reverse} | options
    with pytest.raises((ConfigurationError, InvalidSubjectError, TypeError), match=text):
        await service.add_endpoint(**arguments)
    name, handler = arguments.pop("name"), arguments.pop("handler")
    with pytest.raises((ConfigurationError, InvalidSubjectError, TypeError), match=text):
        service.endpoint(name, **arguments)(handler)
    assert service.endpoints == ()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (None, "subject must be a str, not NoneType"),
        ("a.", "has an empty token"),
        ("a.>", "group name 'a.>' must not contain '>'"),
        ("$SRV", r"'\$SRV' is reserved: \$SRV is for"),
    ],
)
async def test_groups(nc: Connection, name: Any, text: str) -> None:
    with pytest.raises((ConfigurationError, InvalidSubjectError, TypeError), match=text):
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
    # $SRV is a word like others where it is not the first.
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


# The one that semver.org suggests.
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
