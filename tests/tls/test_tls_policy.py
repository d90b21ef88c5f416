"""What TLS has to happen, as a pure function: the whole table."""

from __future__ import annotations

import itertools

import pytest

from trio_nats import TLSConfigurationError, TLSMode, TLSRequiredError
from trio_nats._transport.tls_policy import TLSPlan, effective_mode, plan_tls, should_upgrade_to_tls
from trio_nats.server_info import ServerInfo
from trio_nats.servers import Scheme

NEVER, IF_OFFERED, AT_ONCE, FIRST = (
    TLSPlan.NEVER,
    TLSPlan.IF_OFFERED,
    TLSPlan.AT_ONCE,
    TLSPlan.FIRST,
)
AUTO, PREFER, REQUIRE, IMPLICIT, DISABLE = TLSMode

# mode: (nats, nats with material, tls, tls with material); None is a configuration error
TCP: dict[TLSMode, tuple[TLSPlan | None, ...]] = {
    AUTO: (IF_OFFERED, AT_ONCE, AT_ONCE, AT_ONCE),
    PREFER: (IF_OFFERED, IF_OFFERED, AT_ONCE, AT_ONCE),
    REQUIRE: (AT_ONCE, AT_ONCE, AT_ONCE, AT_ONCE),
    IMPLICIT: (FIRST, FIRST, FIRST, FIRST),
    DISABLE: (NEVER, NEVER, None, None),
}
# mode: (ws, ws with material, wss, wss with material) being allowed
WEBSOCKET: dict[TLSMode, tuple[bool, ...]] = {
    AUTO: (True, False, True, True),
    PREFER: (True, True, True, True),
    REQUIRE: (False, False, True, True),
    IMPLICIT: (False, False, True, True),
    DISABLE: (True, True, False, False),
}


def cells(first: Scheme, second: Scheme) -> list[tuple[Scheme, bool]]:
    return [(first, False), (first, True), (second, False), (second, True)]


@pytest.mark.parametrize("mode", TLSMode)
def test_tcp(mode: TLSMode) -> None:
    for (scheme, material), expected in zip(cells("nats", "tls"), TCP[mode], strict=True):
        if expected is None:
            with pytest.raises(
                TLSConfigurationError, match=r"use nats:// if plaintext is acceptable"
            ):
                plan_tls(scheme, mode, has_material=material)
        else:
            assert plan_tls(scheme, mode, has_material=material) is expected


@pytest.mark.parametrize("mode", TLSMode)
def test_websocket(mode: TLSMode) -> None:
    for (scheme, material), allowed in zip(cells("ws", "wss"), WEBSOCKET[mode], strict=True):
        if allowed:
            assert plan_tls(scheme, mode, has_material=material) is TLSPlan.BY_SCHEME
        else:
            with pytest.raises(TLSConfigurationError, match=r"wss?://"):
                plan_tls(scheme, mode, has_material=material)


@pytest.mark.parametrize("mode", TLSMode)
@pytest.mark.parametrize("material", [False, True])
def test_sticky_never_ends_in_plaintext(mode: TLSMode, material: bool) -> None:
    """A connection that was encrypted stays so; DISABLE never was."""
    plan = plan_tls("nats", mode, has_material=material, sticky=True)
    assert plan.promises_tls or mode is DISABLE


def test_tls_schemes_are_a_floor() -> None:
    for mode, material, sticky in itertools.product(TLSMode, (False, True), (False, True)):
        if mode is not DISABLE:
            assert plan_tls("tls", mode, has_material=material, sticky=sticky).promises_tls


def test_effective_mode_is_never_auto() -> None:
    schemes: list[Scheme] = ["nats", "tls", "ws", "wss"]
    for scheme, mode, material, sticky in itertools.product(
        schemes, TLSMode, (False, True), (False, True)
    ):
        assert effective_mode(scheme, mode, material, sticky) is not AUTO


@pytest.mark.parametrize(
    ("info", "never", "if_offered"),
    [
        (ServerInfo(), False, False),
        (ServerInfo(tls_available=True), False, True),
        (ServerInfo(tls_required=True), None, True),
        (ServerInfo(tls_required=True, tls_available=True), None, True),
    ],
)
def test_after_a_plaintext_info(info: ServerInfo, never: bool | None, if_offered: bool) -> None:
    assert should_upgrade_to_tls(IF_OFFERED, info, "tls://h:1") is if_offered
    if never is None:
        with pytest.raises(TLSRequiredError, match=r"tls://h:1 requires TLS, but .* DISABLE"):
            should_upgrade_to_tls(NEVER, info, "tls://h:1")
    else:
        assert should_upgrade_to_tls(NEVER, info, "tls://h:1") is never
