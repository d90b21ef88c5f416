"""The TLS policy, a pure function: the plan for each scheme, mode, material and history.

The history is whether the connection was encrypted before, in which case it must stay encrypted.
"""

from __future__ import annotations

import itertools

import pytest

from trio_nats import (
    ConfigurationError,
    TLSConfigurationError,
    TLSMode,
    TLSOptions,
    TLSRequiredError,
    open_nats,
)
from trio_nats._transport.tls_policy import (
    TLSPlan,
    check_server,
    effective_mode,
    plan_tls,
    should_upgrade_to_tls,
    tls_requirement_reason,
)
from trio_nats.server_info import ServerInfo
from trio_nats.servers import Scheme, parse_server

SCHEMES: tuple[Scheme, ...] = ("nats", "tls", "ws", "wss")
AUTO, PREFER, REQUIRE, IMPLICIT, DISABLE = TLSMode

# The words of the refusals.
FLOOR = "asks for TLS, but the TLS mode is DISABLE"
MATERIAL = "certificates or other TLS options ask for TLS"
STICKY = "the connection was encrypted before and must stay encrypted"
ASKED = "TLS mode {} asks for TLS"

# One column per (scheme, material); "!" begins the words of a configuration error.
COLUMNS = list(itertools.product(SCHEMES, (False, True)))
FRESH = {
    #          nats                        tls                   ws                     wss
    AUTO: ["offered", "at once", "at once", "at once", "scheme", "!" + MATERIAL, "scheme"],
    PREFER: ["offered", "offered", "at once", "at once", "scheme", "scheme", "scheme"],
    REQUIRE: ["at once", "at once", "at once", "at once", "!" + ASKED, "!" + ASKED, "scheme"],
    IMPLICIT: ["first", "first", "first", "first", "!" + ASKED, "!" + ASKED, "scheme"],
    DISABLE: ["never", "never", "!" + FLOOR, "!" + FLOOR, "scheme", "scheme", "!" + FLOOR],
}
ENCRYPTED_BEFORE = {
    **FRESH,
    AUTO: ["at once", "at once", "at once", "at once", "!" + STICKY, "!" + STICKY, "scheme"],
    PREFER: ["at once", "at once", "at once", "at once", "!" + STICKY, "!" + STICKY, "scheme"],
}
PLANS = {
    "never": TLSPlan.NEVER,
    "offered": TLSPlan.IF_OFFERED,
    "at once": TLSPlan.AT_ONCE,
    "first": TLSPlan.FIRST,
    "scheme": TLSPlan.BY_SCHEME,
}
CELLS = [
    pytest.param(
        scheme, mode, material, sticky, expected, id=f"{scheme}-{mode}-{material}-{sticky}"
    )
    for sticky, rows in ((False, FRESH), (True, ENCRYPTED_BEFORE))
    for mode, row in rows.items()
    # Material makes no difference to wss.
    for (scheme, material), expected in zip(COLUMNS, [*row, row[-1]], strict=True)
]


def test_no_cell_is_missing() -> None:
    assert len(CELLS) == len(SCHEMES) * len(TLSMode) * 2 * 2


@pytest.mark.parametrize(("scheme", "mode", "material", "sticky", "expected"), CELLS)
def test_plan(scheme: Scheme, mode: TLSMode, material: bool, sticky: bool, expected: str) -> None:
    if expected.startswith("!"):
        with pytest.raises(TLSConfigurationError) as caught:
            plan_tls(scheme, mode, has_material=material, sticky=sticky)
        assert expected[1:].format(mode) in str(caught.value)
        other = {
            "tls": "use nats:// if plaintext is acceptable",
            "wss": "use ws://",
            "ws": "use wss://",
        }[scheme]
        assert other in str(caught.value)
    else:
        plan = plan_tls(scheme, mode, has_material=material, sticky=sticky)
        assert plan is PLANS[expected]


@pytest.mark.parametrize("mode", TLSMode)
def test_once_encrypted_the_opportunistic_modes_require(mode: TLSMode) -> None:
    expected = REQUIRE if mode in (AUTO, PREFER) else mode
    assert effective_mode("nats", mode, has_material=False, sticky=True) is expected


@pytest.mark.parametrize(
    ("scheme", "mode", "material", "sticky", "expected"),
    [
        ("nats", REQUIRE, False, False, "(mode REQUIRE)"),
        ("tls", REQUIRE, True, True, "(mode REQUIRE)"),
        ("tls", AUTO, True, True, "(mode REQUIRE, which AUTO becomes with a tls:// URL)"),
        ("tls", PREFER, True, False, "(mode REQUIRE, which PREFER becomes with a tls:// URL)"),
        (
            "nats",
            AUTO,
            True,
            True,
            "(mode REQUIRE, which AUTO becomes when certificates or other TLS options are given)",
        ),
        (
            "nats",
            AUTO,
            False,
            True,
            "(mode REQUIRE, which AUTO becomes after the connection has been encrypted)",
        ),
        (
            "nats",
            PREFER,
            True,
            True,
            "(mode REQUIRE, which PREFER becomes after the connection has been encrypted)",
        ),
        ("nats", PREFER, False, False, "(mode PREFER)"),
    ],
)
def test_reasons_that_require_tls(
    scheme: Scheme, mode: TLSMode, material: bool, sticky: bool, expected: str
) -> None:
    assert tls_requirement_reason(scheme, mode, material, sticky) == expected


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
    for scheme, mode, material, sticky in itertools.product(
        SCHEMES, TLSMode, (False, True), (False, True)
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
    assert should_upgrade_to_tls(TLSPlan.IF_OFFERED, info, "tls://h:1") is if_offered
    if never is None:
        with pytest.raises(TLSRequiredError, match=r"tls://h:1 requires TLS, but .* DISABLE"):
            should_upgrade_to_tls(TLSPlan.NEVER, info, "tls://h:1")
    else:
        assert should_upgrade_to_tls(TLSPlan.NEVER, info, "tls://h:1") is never


# --- the same, where users meet it: at the call -----------------------------------------------


def tls(mode: TLSMode, material: bool) -> TLSOptions:
    return TLSOptions(mode=mode, ca_data="not looked at before connecting" if material else None)


@pytest.mark.parametrize("mode", TLSMode)
@pytest.mark.parametrize("material", [False, True])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_open_nats_rejects_invalid_arguments(scheme: Scheme, mode: TLSMode, material: bool) -> None:
    expected = [*FRESH[mode], FRESH[mode][-1]][COLUMNS.index((scheme, material))]
    if expected.startswith("!"):
        with pytest.raises(TLSConfigurationError) as caught:
            open_nats(f"{scheme}://h", tls=tls(mode, material))
        assert expected[1:].format(mode) in str(caught.value)
    else:
        open_nats(f"{scheme}://h", tls=tls(mode, material))


def test_one_invalid_url_is_an_error() -> None:
    with pytest.raises(TLSConfigurationError, match="a tls:// URL asks for TLS"):
        open_nats("nats://a,nats://b,tls://c", tls=TLSOptions(mode=DISABLE))


def test_errors_do_not_contain_secrets_of_the_url() -> None:
    with pytest.raises(ConfigurationError) as caught:
        plaintext = parse_server("ws://joe:verysecret@h/path?key=alsosecret")
        check_server(plaintext, TLSOptions(mode=TLSMode.REQUIRE))
    assert "secret" not in str(caught.value)
