"""The groups of options check themselves, say what is wrong, and show no secrets."""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from trio_nats.errors import ConfigurationError, TLSConfigurationError, TLSError
from trio_nats.options import (
    PendingLimits,
    ProtocolLimits,
    ReconnectPolicy,
    TLSMode,
    TLSOptions,
    check_choice,
    check_count,
    check_seconds,
)


def refused(make: Callable[..., object], **options: Any) -> str:
    return error_text(ConfigurationError, make, options)


def wrong_type(make: Callable[..., object], **options: Any) -> str:
    return error_text(TypeError, make, options)


def error_text(kind: type[Exception], make: Callable[..., object], options: dict[str, Any]) -> str:
    with pytest.raises(kind) as caught:
        make(**options)
    assert caught.value.__cause__ is None
    return str(caught.value)


def tls_refused(**options: Any) -> str:
    with pytest.raises(TLSConfigurationError) as caught:
        TLSOptions(**options)
    assert isinstance(caught.value, TLSError)
    assert isinstance(caught.value, ConfigurationError)
    assert caught.value.__cause__ is None
    return str(caught.value)


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


# --- TLS modes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", TLSMode)
def test_modes_may_be_given_as_strings(mode: TLSMode) -> None:
    options = TLSOptions(mode=mode.value)  # type: ignore[arg-type]
    assert options.mode is mode
    assert options == TLSOptions(mode=mode)
    assert str(mode) == f"{mode}" == mode.name


def test_the_modes() -> None:
    names = ["AUTO", "PREFER", "REQUIRE", "IMPLICIT", "DISABLE"]
    assert [mode.name for mode in TLSMode] == names
    assert TLSOptions().mode is TLSMode.AUTO


@pytest.mark.parametrize("mode", ["required", "", "none", "tls", None, True, 1, [], {}])
def test_unknown_mode(mode: object) -> None:
    of_a_string = isinstance(mode, str)
    text = tls_refused(mode=mode) if of_a_string else wrong_type(TLSOptions, mode=mode)
    assert text == (
        f"unknown TLS mode {mode!r}; use a TLSMode or one of "
        "'auto', 'prefer', 'require', 'implicit', 'disable'"
    )


# --- TLS options ---------------------------------------------------------------------------------


def test_defaults() -> None:
    options = TLSOptions()
    given = {field.name: getattr(options, field.name) for field in fields(options)}
    assert given.pop("mode") is TLSMode.AUTO
    assert given.pop("insecure_skip_verify") is False
    assert given.pop("minimum_version") is ssl.TLSVersion.TLSv1_2
    assert given.pop("unverified_servers") == "dialled_name"
    assert set(given.values()) == {None}


@pytest.mark.parametrize(
    "options",
    [
        {"ca_file": "ca.pem", "cert_file": "c.pem", "key_file": "k.pem", "key_password": "x"},
        {"cert_file": "both.pem"},
        {"cert_file": "both.pem", "key_password": "x"},
        {"ca_file": Path("ca.pem"), "ca_data": "pem"},
        {"ca_data": b"der"},
        {"bundle_file": "b.p12"},
        {"bundle_file": "b.p12", "bundle_password": "x", "ca_file": "ca.pem"},
        {"server_hostname": "h", "insecure_skip_verify": True},
        {"minimum_version": ssl.TLSVersion.TLSv1_3},
        {"configure": print},
    ],
)
@pytest.mark.parametrize("mode", TLSMode)
def test_options_that_can_be_combined(mode: TLSMode, options: dict[str, Any]) -> None:
    made = TLSOptions(mode=mode, **options)
    for name, value in options.items():
        assert getattr(made, name) == value


@pytest.mark.parametrize("mode", TLSMode)
def test_options_that_can_be_combined_with_a_context(mode: TLSMode) -> None:
    ready = context()
    options = TLSOptions(mode=mode, context=ready, server_hostname="h", configure=print)
    assert options.context is ready
    assert TLSOptions(context=ready, minimum_version=ssl.TLSVersion.TLSv1_2).context is ready


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"key_file": "k"}, "key_file is given without cert_file"),
        ({"key_file": "k", "bundle_file": "b"}, "key_file is given without cert_file"),
        ({"key_file": "k", "key_password": "p"}, "key_file is given without cert_file"),
        ({"key_password": "p"}, "key_password is given without cert_file;"),
        ({"key_password": ""}, "key_password is given without cert_file;"),
        ({"bundle_file": "b", "key_password": "p"}, "key_password is given without cert_file"),
        ({"cert_file": "c", "bundle_file": "b"}, "cert_file and bundle_file both hold"),
        ({"bundle_password": "p"}, "bundle_password is given without bundle_file"),
        (
            {"cert_file": "c", "bundle_password": "p"},
            "bundle_password is given without bundle_file",
        ),
        ({"server_hostname": ""}, "server_hostname must not be empty"),
        ({"unverified_servers": "all"}, "unverified_servers must be one of"),
    ],
)
def test_contradictions(options: dict[str, Any], fault: str) -> None:
    assert fault in tls_refused(**options)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        (
            {"minimum_version": "TLSv1.2"},
            "minimum_version must be an ssl.TLSVersion, not 'TLSv1.2'",
        ),
        ({"minimum_version": 771}, "minimum_version must be an ssl.TLSVersion, not 771"),
        ({"minimum_version": None}, "minimum_version must be an ssl.TLSVersion, not None"),
        ({"context": True}, "context must be an ssl.SSLContext, not bool"),
        ({"context": ssl.SSLContext}, "context must be an instance of SSLContext, not the class"),
        ({"unverified_servers": None}, "unverified_servers must be one of"),
    ],
)
def test_values_of_the_wrong_type(options: dict[str, Any], fault: str) -> None:
    assert fault in wrong_type(TLSOptions, **options)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"ca_file": "f"}, "ca_file"),
        ({"ca_data": "d"}, "ca_data"),
        ({"cert_file": "c"}, "cert_file"),
        ({"cert_file": "c", "key_file": "k"}, "cert_file"),
        ({"bundle_file": "b"}, "bundle_file"),
        ({"insecure_skip_verify": True}, "insecure_skip_verify"),
        ({"ca_file": "f", "insecure_skip_verify": True}, "ca_file, insecure_skip_verify"),
    ],
)
def test_a_ready_context_is_used_as_it_is(options: dict[str, Any], named: str) -> None:
    text = tls_refused(context=context(), **options)
    assert f"context is used as it is; {named} would have no effect" in text


def test_a_minimum_version_beside_a_ready_context_would_have_no_effect() -> None:
    text = tls_refused(context=context(), minimum_version=ssl.TLSVersion.TLSv1_3)
    assert "minimum_version" in text


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("insecure_skip_verify", "false"),
        ("insecure_skip_verify", None),
        ("configure", 5),
        ("server_hostname", b"host"),
        ("ca_file", 5),
    ],
)
def test_options_of_the_wrong_type(option: str, value: object) -> None:
    """A mistake surfaces in the line that makes it; here it could also switch a check off."""
    assert option in wrong_type(TLSOptions, **{option: value})


@pytest.mark.parametrize(
    ("options", "material"),
    [
        ({}, False),
        ({"server_hostname": "h"}, False),
        ({"minimum_version": ssl.TLSVersion.TLSv1_3}, False),
        ({"insecure_skip_verify": True}, False),
        ({"mode": TLSMode.REQUIRE}, False),
        ({"ca_file": "f"}, True),
        ({"ca_data": "d"}, True),
        ({"ca_data": b""}, True),
        ({"cert_file": "c"}, True),
        ({"bundle_file": "b"}, True),
        ({"configure": print}, True),
        ({"context": context()}, True),
    ],
)
def test_has_material(options: dict[str, Any], material: bool) -> None:
    assert TLSOptions(**options).has_material is material


def test_repr_shows_no_secret() -> None:
    for options in (
        {"cert_file": "c.pem", "key_password": "SECRET", "ca_data": "SECRET"},
        {"bundle_file": "b.p12", "bundle_password": "SECRET", "ca_data": b"SECRET"},
    ):
        shown = repr(TLSOptions(**options))
        assert "SECRET" not in shown
        assert "server_hostname" in shown
    assert "c.pem" in repr(TLSOptions(cert_file="c.pem"))


def test_errors_show_no_secret() -> None:
    for options in (
        {"key_password": "SECRET"},
        {"bundle_password": "SECRET"},
        {"cert_file": "c", "bundle_file": "b", "key_password": "SECRET"},
        {"context": context(), "ca_data": "SECRET"},
        {"cert_file": "c", "key_password": "SECRET\udc80"},
        {"bundle_file": "b", "bundle_password": "SECRET\udc80"},
        {"mode": "nonsense", "cert_file": "c", "key_password": "SECRET"},
    ):
        assert "SECRET" not in tls_refused(**options)


@pytest.mark.parametrize("make", [TLSOptions, ReconnectPolicy, PendingLimits, ProtocolLimits])
def test_groups_are_frozen_and_take_keywords_only(make: type[Any]) -> None:
    made = make()
    assert made == make()
    for field in fields(made):
        with pytest.raises(FrozenInstanceError):
            setattr(made, field.name, None)
    with pytest.raises(TypeError, match="positional"):
        make(1)


# --- reconnecting --------------------------------------------------------------------------------


def test_reconnect_policy() -> None:
    policy = ReconnectPolicy()
    assert (policy.wait, policy.max_wait, policy.max_attempts) == (0.25, 4.0, None)
    assert (policy.jitter, policy.delay, policy.pick) == (1.0, None, None)
    assert (policy.retry_on_initial_connect, policy.refused_credentials_timeout) == (False, 30)
    assert policy.requests == "wait"
    assert ReconnectPolicy(wait=0, max_wait=0, max_attempts=0).max_attempts == 0
    assert ReconnectPolicy(wait=8, max_wait=8.0).wait == 8
    assert ReconnectPolicy(jitter=0, requests="fail").jitter == 0


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"wait": -1}, "ReconnectPolicy.wait must be zero or more seconds, not -1"),
        ({"max_wait": -0.5}, "ReconnectPolicy.max_wait must be zero or more seconds, not -0.5"),
        ({"wait": math.nan}, "ReconnectPolicy.wait must be a number of seconds, not nan"),
        ({"max_wait": math.nan}, "ReconnectPolicy.max_wait must be a number of seconds, not nan"),
        ({"wait": 9}, "ReconnectPolicy.max_wait must be at least wait (9), not 4.0"),
        ({"max_wait": 0.1}, "ReconnectPolicy.max_wait must be at least wait (0.25), not 0.1"),
        ({"max_attempts": -1}, "ReconnectPolicy.max_attempts must be at least 0, not -1"),
        ({"jitter": -0.1}, "ReconnectPolicy.jitter must be a number from 0 to 1, not -0.1"),
        ({"jitter": 1.1}, "ReconnectPolicy.jitter must be a number from 0 to 1, not 1.1"),
        ({"jitter": math.nan}, "ReconnectPolicy.jitter must be a number from 0 to 1, not nan"),
        (
            {"requests": "drop"},
            "ReconnectPolicy.requests must be one of 'wait', 'fail', not 'drop'",
        ),
    ],
)
def test_reconnect_policy_faults(options: dict[str, Any], fault: str) -> None:
    assert refused(ReconnectPolicy, **options) == fault


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("wait", True),
        ("wait", "1"),
        ("wait", None),
        ("max_attempts", 1.0),
        ("max_attempts", False),
        ("jitter", True),
        ("jitter", "half"),
        ("jitter", None),
        ("delay", 5),
        ("pick", 5),
        ("retry_on_initial_connect", "no"),
        ("refused_credentials_timeout", "long"),
    ],
)
def test_reconnect_policy_options_of_the_wrong_type(option: str, value: object) -> None:
    text = wrong_type(ReconnectPolicy, **{option: value})
    assert text.startswith(f"ReconnectPolicy.{option} must be ")


# --- limits --------------------------------------------------------------------------------------


def test_pending_limits() -> None:
    limits = PendingLimits()
    assert (limits.messages, limits.bytes) == (500_000, 64 * 1024 * 1024)
    assert limits.when_full == "drop_newest"
    assert PendingLimits(messages=1, bytes=1, when_full="wait").messages == 1
    assert PendingLimits(when_full="drop_oldest").when_full == "drop_oldest"


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"messages": 0}, "PendingLimits.messages must be at least 1, not 0"),
        ({"bytes": 0}, "PendingLimits.bytes must be at least 1, not 0"),
        ({"bytes": -1}, "PendingLimits.bytes must be at least 1, not -1"),
        (
            {"when_full": "drop"},
            (
                "PendingLimits.when_full must be one of 'drop_newest', 'drop_oldest', 'wait', "
                "not 'drop'"
            ),
        ),
    ],
)
def test_pending_limits_faults(options: dict[str, Any], fault: str) -> None:
    assert refused(PendingLimits, **options) == fault


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"messages": 1.5}, "PendingLimits.messages must be a whole number, not 1.5"),
        ({"messages": None}, "PendingLimits.messages must be a whole number, not None"),
        ({"bytes": True}, "PendingLimits.bytes must be a whole number, not True"),
        ({"bytes": "1"}, "PendingLimits.bytes must be a whole number, not '1'"),
        (
            {"when_full": None},
            "PendingLimits.when_full must be one of 'drop_newest', 'drop_oldest', 'wait', not None",
        ),
    ],
)
def test_pending_limits_of_the_wrong_type(options: dict[str, Any], fault: str) -> None:
    assert wrong_type(PendingLimits, **options) == fault


LEAST = {"payload": 1, "headers": 16, "control_line": 512, "info": 512}


def test_protocol_limits() -> None:
    limits = ProtocolLimits()
    assert (limits.payload, limits.headers) == (64 * 1024 * 1024, 4 * 1024 * 1024)
    assert (limits.control_line, limits.info) == (64 * 1024, 1024 * 1024)
    smallest = ProtocolLimits(**LEAST)
    assert {name: getattr(smallest, name) for name in LEAST} == LEAST


@pytest.mark.parametrize("name", LEAST)
def test_protocol_limits_faults(name: str) -> None:
    least = LEAST[name]
    for value in (least - 1, 0, -1):
        text = refused(ProtocolLimits, **{name: value})
        assert text == f"ProtocolLimits.{name} must be at least {least}, not {value}"
    for wrong in (True, 1e6, "1000", None):
        text = wrong_type(ProtocolLimits, **{name: wrong})
        assert text == f"ProtocolLimits.{name} must be a whole number, not {wrong!r}"


# --- the checks themselves -----------------------------------------------------------------------


@pytest.mark.parametrize("value", [1, 0.001, 1e9, math.inf, 5e-324])
def test_seconds(value: float) -> None:
    assert check_seconds("timeout", value) == value
    assert check_seconds("timeout", value, zero=True) == value


def test_zero_seconds_where_they_mean_something() -> None:
    assert check_seconds("timeout", 0, zero=True) == 0
    assert check_seconds("timeout", -0.0, zero=True) == 0
    for zero in (0, 0.0, -0.0):
        text = f"timeout must be more than zero seconds, not {zero!r}"
        assert refused(check_seconds, name="timeout", value=zero) == text


@pytest.mark.parametrize("zero", [False, True])
def test_seconds_faults(zero: bool) -> None:
    least = "zero or more" if zero else "more than zero"
    for value in (-1, -0.001, -math.inf):
        text = refused(check_seconds, name="timeout", value=value, zero=zero)
        assert text == f"timeout must be {least} seconds, not {value!r}"
    text = refused(check_seconds, name="timeout", value=math.nan, zero=zero)
    assert text == "timeout must be a number of seconds, not nan"
    for wrong in (True, False, None, "1", b"1", [1], 1j):
        text = wrong_type(check_seconds, name="timeout", value=wrong, zero=zero)
        assert text == f"timeout must be a number of seconds, not {wrong!r}"


def test_seconds_beyond_what_a_float_holds() -> None:
    """They would be an OverflowError out of the middle of nowhere."""
    for value in (10**400, 10**5000):
        text = refused(check_seconds, name="timeout", value=value)
        assert text == "timeout is too large; for no limit use math.inf"
        refused(ReconnectPolicy, wait=value, max_wait=value)
    assert check_seconds("timeout", math.inf) == math.inf


def test_counts() -> None:
    assert check_count("count", 0) == 0
    assert check_count("count", 5, 5) == 5
    assert check_count("count", 10**30, 1) == 10**30
    assert refused(check_count, name="count", value=4, least=5) == "count must be at least 5, not 4"
    assert refused(check_count, name="count", value=-1) == "count must be at least 0, not -1"


def test_invalid_choices() -> None:
    check_choice("colour", "red", ("red", "blue"))
    others: list[object] = ["green", "", "RED", None, [], 5]
    for wrong in others:
        refuse = refused if isinstance(wrong, str) else wrong_type
        text = refuse(check_choice, name="colour", value=wrong, choices=("red", "blue"))
        assert re.fullmatch(r"colour must be one of 'red', 'blue', not .+", text)
        assert text.endswith(repr(wrong))
