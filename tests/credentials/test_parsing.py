"""What credentials are made of: every way of getting them wrong is said, early and in private."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.jwts import Key, Operator, User, creds_text, encode_part
from tests.support.peer import Peer, ScriptedServer
from trio_nats import JWT, Auth, Credentials, NKey, Token, UserPassword, open_nats
from trio_nats.auth import Answer, prepare
from trio_nats.errors import CredentialsError

OPERATOR = Operator()
USER = OPERATOR.user("alice")
OTHER = OPERATOR.user("bob")
BEARER = OPERATOR.user("carol", bearer=True)

JWT_BEGIN, JWT_END = "-----BEGIN NATS USER JWT-----", "------END NATS USER JWT------"
SEED_BEGIN, SEED_END = "-----BEGIN USER NKEY SEED-----", "------END USER NKEY SEED------"
NONCE = "b64nonce_b64nonc"


def jwt_for(key: Key, **claims: Any) -> str:
    """A JWT of the right shape, but signed by nobody."""
    return f"{encode_part({})}.{encode_part({'sub': key.public, **claims})}.c2ln"


def reseeded(raw: bytes) -> str:
    """A seed of any content, with a checksum that is right."""
    import nkeys

    checksum = nkeys.crc16(raw).to_bytes(2, "little")
    return base64.b32encode(raw + checksum).decode().rstrip("=")


async def logs_in_as(auth: Auth, user: User) -> None:
    """Assert that ``auth`` stands for ``user`` and signs with their key."""
    answer = await prepare(auth)
    fields = await answer.connect_fields(NONCE)
    expected = base64.urlsafe_b64encode(user.key.sign(NONCE.encode())).decode().rstrip("=")
    assert fields == {"jwt": user.jwt, "sig": expected}


# -- seeds ---------------------------------------------------------------------------------------

SEED = USER.seed
SWAPPED = SEED[:20] + ("A" if SEED[20] != "A" else "B") + SEED[21:]

BAD_SEEDS = {
    "empty": ("", "empty"),
    "blank": (" \n", "empty"),
    "mistyped": (SWAPPED, "checksum"),
    "cut short": (SEED[:-1], "57 characters"),
    "cut very short": ("SU", "2 characters"),
    "too long": (SEED + "A", "59 characters"),
    "doubled": (SEED * 2, "116 characters"),
    "lower case": (SEED.lower(), "not an NKey seed"),
    "lower case inside": ("SU" + SEED[2:].lower(), "must have the letters A-Z and digits 2-7"),
    "digits of no base32": ("SU" + "1" * 56, "must have the letters A-Z and digits 2-7"),
    "padded": (SEED[:56] + "==", "must have the letters A-Z and digits 2-7"),
    "space inside": (SEED[:30] + " " + SEED[31:], "must have the letters A-Z and digits 2-7"),
    "umlaut": (SEED[:30] + "Ä" + SEED[31:], "SU"),
    "full width": ("\uff33" + SEED[1:], "SU"),
    "surrogate": (SEED[:30] + "\udc80" + SEED[31:], "must be valid Unicode"),
    "account": (Key("account").seed, "account seed"),
    "operator": (Key("operator").seed, "operator seed"),
    "public key": (USER.key.public, "SU"),
    "padded public key": (USER.key.public + "AA", "public key"),
    "JWT": (USER.jwt, "SU"),
    "creds": (USER.creds, "SU"),
    "reserved bits": (reseeded(bytes([0x95, 0x08]) + bytes(32)), "seed"),
    "prefix of nothing": (reseeded(bytes([0x96, 0x80]) + bytes(32)), "unknown"),
}


@pytest.mark.parametrize("make", [lambda s: NKey(seed=s), lambda s: JWT(USER.jwt, seed=s)])
@pytest.mark.parametrize("kind", BAD_SEEDS)
def test_invalid_seeds(make: Callable[[str], Auth], kind: str) -> None:
    seed, hint = BAD_SEEDS[kind]
    with pytest.raises(CredentialsError) as caught:
        make(seed)
    assert hint in str(caught.value)


async def test_a_seed_may_have_white_space_around_it() -> None:
    answer = await prepare(NKey(seed=f"\t {SEED} \r\n"))
    assert answer.nkey == USER.key.public
    await logs_in_as(JWT(f"\n{USER.jwt} \n", seed=f" {SEED}\r\n"), USER)


# -- creds ---------------------------------------------------------------------------------------

GOOD_CREDS = {
    "as the tools write it": USER.creds,
    "CRLF": USER.creds.replace("\n", "\r\n"),
    "CR only": USER.creds.replace("\n", "\r"),
    "indented": "".join(f"\t  {line}\n" for line in USER.creds.splitlines()),
    "trailing spaces": "".join(f"{line}   \n" for line in USER.creds.splitlines()),
    "blank lines": USER.creds.replace("\n", "\n\n"),
    "no line end at the end": USER.creds.rstrip("*\n"),
    "seed first": (f"{SEED_BEGIN}\n{USER.seed}\n{SEED_END}\n{JWT_BEGIN}\n{USER.jwt}\n{JWT_END}\n"),
    "one line": f"{JWT_BEGIN} {USER.jwt} {JWT_END} {SEED_BEGIN} {USER.seed} {SEED_END}",
    "three dashes": (
        f"---BEGIN NATS USER JWT---\n{USER.jwt}\n---END NATS USER JWT---\n"
        f"---BEGIN USER NKEY SEED---\n{USER.seed}\n---END USER NKEY SEED---\n"
    ),
    "spaces in the markers": USER.creds.replace("BEGIN ", "  BEGIN   ").replace("END ", " END  "),
    "JWT folded": USER.creds.replace(USER.jwt, f"{USER.jwt[:64]}\n{USER.jwt[64:]}"),
    "comments before": f"# the key of alice -- do not share\n--\n{USER.creds}",
    "something after": f"{USER.creds}\n----- that is all -----\n",
    "another user behind": f"{USER.creds}\n{OTHER.creds}",
}


@pytest.mark.parametrize("kind", GOOD_CREDS)
async def test_creds_however_they_are_laid_out(kind: str, tmp_path: Path) -> None:
    await logs_in_as(Credentials(text=GOOD_CREDS[kind]), USER)
    file = tmp_path / "alice.creds"
    for data in (GOOD_CREDS[kind].encode(), b"\xef\xbb\xbf" + GOOD_CREDS[kind].encode()):
        file.write_bytes(data)
        await logs_in_as(Credentials(file=file), USER)


@pytest.mark.parametrize("tail", ["-", "---", "-_-", "---END-", "-----BEGIN-"])
async def test_dashes_are_part_of_base64(tail: str) -> None:
    # No key can be made to sign like this, but some signature may well look like it.
    jwt = jwt_for(USER.key).removesuffix("c2ln") + "A" * 20 + tail
    answer = await prepare(Credentials(text=creds_text(jwt, SEED)))
    assert answer.jwt == jwt


BAD_CREDS = {
    "empty": ("", "empty"),
    "blank": (" \r\n\t", "empty"),
    "other text": ("hello", "BEGIN NATS USER JWT"),
    "bare JWT": (USER.jwt, "BEGIN NATS USER JWT"),
    "bare seed": (USER.seed, "BEGIN NATS USER JWT"),
    "bare pair": (f"{USER.jwt}\n{USER.seed}\n", "BEGIN NATS USER JWT"),
    "JWT only": (f"{JWT_BEGIN}\n{USER.jwt}\n{JWT_END}\n", "BEGIN USER NKEY SEED"),
    "seed only": (f"{SEED_BEGIN}\n{USER.seed}\n{SEED_END}\n", "BEGIN NATS USER JWT"),
    "JWT empty": (USER.creds.replace(USER.jwt, ""), "JWT"),
    "seed empty": (USER.creds.replace(USER.seed, ""), "0 characters"),
    "contents swapped": (creds_text(USER.seed, USER.jwt), "SU"),
    "cut in the JWT": (USER.creds[:100], "BEGIN NATS USER JWT"),
    "cut in the seed": (USER.creds[: USER.creds.index(SEED) + 20], "BEGIN USER NKEY SEED"),
    "JWT never ends": (USER.creds.replace(JWT_END, ""), "BEGIN NATS USER JWT"),
    "certificate": (
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n",
        "BEGIN NATS USER JWT",
    ),
    "mistyped seed": (USER.creds.replace(SEED, SWAPPED), "checksum"),
    "account seed": (creds_text(USER.jwt, Key("account").seed), "account seed"),
    "another's seed": (creds_text(USER.jwt, OTHER.seed), "JWT was issued to"),
    "JWT of two parts": (creds_text(USER.jwt.rpartition(".")[0], SEED), "must be a JWT"),
    "surrogate": (f"{USER.creds}\udc80", "must be valid Unicode"),
    "too large": (USER.creds + "\n" * (1024 * 1024), "larger"),
}


@pytest.mark.parametrize("kind", BAD_CREDS)
def test_invalid_creds_files(kind: str) -> None:
    text, hint = BAD_CREDS[kind]
    with pytest.raises(CredentialsError) as caught:
        Credentials(text=text)
    assert hint in str(caught.value)


@pytest.mark.parametrize(
    "piece", ["-", " ", "--- ", f"{JWT_BEGIN}\n", f"{JWT_END}\n", "---BEGIN ", "- -\n"]
)
def test_garbage_of_any_size_is_rejected_at_once(piece: str) -> None:
    # A parser that looks back and forth would take minutes or ages for these.
    text = "---BEGIN A" + piece * (1_000_000 // len(piece))
    with pytest.raises(CredentialsError, match="BEGIN NATS USER JWT"):
        Credentials(text=text)


async def test_a_bearer_jwt_needs_no_seed() -> None:
    for auth in (
        JWT(BEARER.jwt),
        Credentials(text=f"{JWT_BEGIN}\n{BEARER.jwt}\n{JWT_END}\n"),
    ):
        answer = await prepare(auth)
        assert await answer.connect_fields(NONCE) == {"jwt": BEARER.jwt}
        assert answer.replayable
    # With its seed it may as well prove that it is more than overheard.
    await logs_in_as(Credentials(text=BEARER.creds), BEARER)


async def test_a_seed_is_never_read_as_part_of_a_jwt() -> None:
    text = BEARER.creds.replace(JWT_END, "").partition("*")[0] + (
        f"{SEED_BEGIN}\n{BEARER.seed}\n{SEED_END}\n"
    )
    try:
        answer = await prepare(Credentials(text=text))
    except CredentialsError:
        return
    assert BEARER.seed not in str(await answer.connect_fields(NONCE))


# -- JWTs ----------------------------------------------------------------------------------------

_HEAD = encode_part({"typ": "JWT"})
DEEP = b'{"a":' + b"[" * 100_000
BAD_JWTS = {
    "empty": ("", "empty"),
    "one part": ("eyJ", "must be a JWT"),
    "two parts": (f"{_HEAD}.{encode_part({'sub': 'U'})}", "must be a JWT"),
    "four parts": (f"{USER.jwt}.AAAA", "must be a JWT"),
    "empty body": (f"{_HEAD}..c2ln", "must be a JWT"),
    "no base64": (f"{_HEAD}.!!!.c2ln", "must be a JWT"),
    "cut base64": (f"{_HEAD}.{encode_part({'sub': USER.key.public})[:-3]}.c2ln", "must be a JWT"),
    "umlaut": (f"{_HEAD}.Ä{encode_part({})}.c2ln", "must be a JWT"),
    "no JSON": (f"{_HEAD}.aGVsbG8.c2ln", "must be a JWT"),
    "no UTF-8": (f"{_HEAD}._____w.c2ln", "must be a JWT"),
    "list": (f"{_HEAD}.{encode_part([])}.c2ln", "must be a JWT"),
    "number for a subject": (f"{_HEAD}.{encode_part({'sub': 5})}.c2ln", "must be a JWT"),
    "text for a time": (f"{_HEAD}.{encode_part({'exp': 'soon'})}.c2ln", "must be a JWT"),
    "deep": (
        f"{_HEAD}.{base64.b64encode(DEEP).decode()}.c2ln",
        "must be a JWT",
    ),
    "seed": (SEED, "must be a JWT"),
}


@pytest.mark.parametrize("kind", BAD_JWTS)
def test_invalid_jwts(kind: str) -> None:
    jwt, hint = BAD_JWTS[kind]
    for options in ({}, {"seed": SEED}, {"sign": USER.key.sign}):
        with pytest.raises(CredentialsError) as caught:
            JWT(jwt, **options)
        assert hint in str(caught.value)


@pytest.mark.parametrize("expires", [-1, 1, -(10**18), 10**18, 2**63 - 1])
def test_any_expiry_of_a_jwt_can_be_explained(expires: int) -> None:
    answer = Answer(method="JWT", jwt=jwt_for(USER.key, exp=expires))
    assert ("expired" in answer.refusal_hint()) is (expires < 10**9)


def test_a_seed_must_belong_to_the_jwt() -> None:
    with pytest.raises(CredentialsError) as caught:
        JWT(USER.jwt, seed=OTHER.seed)
    assert OTHER.key.public in str(caught.value)
    assert USER.key.public in str(caught.value)
    with pytest.raises(CredentialsError, match="nobody"):
        JWT(f"{_HEAD}.{encode_part({})}.c2ln", seed=SEED)


async def _sign_late(nonce: bytes) -> bytes:
    return USER.key.sign(nonce)


@pytest.mark.parametrize("sign", [USER.key.sign, _sign_late], ids=["sync", "async"])
async def test_signing_elsewhere(sign: Any) -> None:
    await logs_in_as(JWT(USER.jwt, sign=sign), USER)


@pytest.mark.parametrize(
    "result", [b"", b"x" * 63, b"x" * 65, "x" * 64, None, bytearray(64), 64, [b"x" * 64]]
)
async def test_an_invalid_signature_is_not_sent(result: Any) -> None:
    async def late(nonce: bytes) -> Any:
        return result

    for sign in (lambda nonce: result, late):
        answer = await prepare(JWT(USER.jwt, sign=sign))
        with pytest.raises(CredentialsError, match="64 bytes"):
            await answer.connect_fields(NONCE)


async def test_a_sign_callable_that_fails() -> None:
    def sign(nonce: bytes) -> bytes:
        raise OSError("the vault is sealed")

    answer = await prepare(JWT(USER.jwt, sign=sign))
    with pytest.raises(CredentialsError, match="sign callable raised OSError") as caught:
        await answer.connect_fields(NONCE)
    assert isinstance(caught.value.__cause__, OSError)


# -- arguments -----------------------------------------------------------------------------------

MISTAKES: dict[str, Callable[[], Any]] = {
    "NKey without anything": lambda: NKey(),
    "NKey with both": lambda: NKey(seed=SEED, file="x.nk"),
    "Credentials without anything": lambda: Credentials(),
    "Credentials with both": lambda: Credentials(text=USER.creds, file="x.creds"),
    "Credentials of an impossible file": lambda: Credentials(file="a\0b"),
    "Credentials of half a character": lambda: Credentials(file="a\ud800b"),
    "JWT with both": lambda: JWT(USER.jwt, seed=SEED, sign=USER.key.sign),
    "user is empty": lambda: UserPassword("", "x"),
    "password is half a character": lambda: UserPassword("u", "\ud800"),
    "token is empty": lambda: Token(" "),
}
WRONG_TYPES: dict[str, Callable[[], Any]] = {
    "NKey of bytes": lambda: NKey(seed=SEED.encode()),  # type: ignore[arg-type]
    "NKey of a number": lambda: NKey(file=5),  # type: ignore[arg-type]
    "NKey of bytes for a file": lambda: NKey(file=b"x.nk"),  # type: ignore[arg-type]
    "Credentials of bytes": lambda: Credentials(text=USER.creds.encode()),  # type: ignore[arg-type]
    "Credentials of a number": lambda: Credentials(file=5),  # type: ignore[arg-type]
    "JWT of bytes": lambda: JWT(USER.jwt.encode()),  # type: ignore[arg-type]
    "JWT with a seed of bytes": lambda: JWT(USER.jwt, seed=b"SU"),  # type: ignore[arg-type]
    "JWT with a seed to sign": lambda: JWT(USER.jwt, sign=SEED),  # type: ignore[arg-type]
    "user is no text": lambda: UserPassword(None, "x"),  # type: ignore[arg-type]
    "password is no text": lambda: UserPassword("u", None),  # type: ignore[arg-type]
    "token is no text": lambda: Token(b"token"),  # type: ignore[arg-type]
}


async def never(peer: Peer) -> None:
    raise AssertionError("somebody dialled")


@pytest.mark.parametrize("kind", MISTAKES | WRONG_TYPES)
async def test_mistakes_are_found_before_dialling(kind: str) -> None:
    async with ScriptedServer(never) as server:
        with pytest.raises(CredentialsError if kind in MISTAKES else TypeError):
            async with open_nats(server.url, auth=(MISTAKES | WRONG_TYPES)[kind]()):
                pass
        assert server.peers == []


# -- files ---------------------------------------------------------------------------------------

FILES: dict[str, tuple[bytes | None, str]] = {
    "missing": (None, "cannot read"),
    "empty": (b"", ""),
    "binary": (bytes(range(256)), "must be a text file"),
    "UTF-16": (USER.creds.encode("utf-16"), "must be a text file"),
    "too large": (b" " * (1024 * 1024 + 1), "larger"),
    "other text": (b"hello\n", ""),
    "zeros": (bytes(1000), ""),
    "public key": (USER.key.public.encode(), ""),
    "account seed": (creds_text(USER.jwt, Key("account").seed).encode(), "account seed"),
    "mistyped": (USER.creds.replace(SEED, SWAPPED).encode(), "checksum"),
}


@pytest.mark.parametrize("make", [NKey, Credentials])
@pytest.mark.parametrize("kind", FILES)
async def test_files_are_checked_before_dialling(make: Any, kind: str, tmp_path: Path) -> None:
    file = tmp_path / "secret.file"
    data, hint = FILES[kind]
    if data is not None:
        file.write_bytes(data)
    async with ScriptedServer(never) as server:
        with pytest.raises(CredentialsError) as caught:
            async with open_nats(server.url, auth=make(file=file)):
                pass
        assert server.peers == []
    assert hint in str(caught.value)
    assert repr(str(file)) in str(caught.value) or hint in ("account seed", "checksum")


@pytest.mark.parametrize("make", [NKey, Credentials])
async def test_a_directory_is_not_accepted_as_a_file(make: Any, tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match="cannot read"):
        await prepare(make(file=tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        SEED,
        f"{SEED}\n",
        f"\ufeff{SEED}\r\n",
        f"\n  {SEED}  \n\n",
        f"# the seed of alice\n# Public: {USER.key.public}\n\n{SEED}\n",
        f"{SEED}\n{USER.key.public}\n",
        f"{SEED_BEGIN}\n{SEED}\n{SEED_END}\n",
        USER.creds,
    ],
    ids=["alone", "line", "BOM", "spaces", "comments", "public key", "section", "creds"],
)
async def test_files_that_hold_a_seed(text: str, tmp_path: Path) -> None:
    file = tmp_path / "alice.nk"
    file.write_text(text, encoding="utf-8", newline="")
    for path in (file, str(file)):
        answer = await prepare(NKey(file=path))
        assert set(await answer.connect_fields(NONCE)) == {"nkey", "sig"}
        assert answer.nkey == USER.key.public
        assert not answer.replayable


def test_the_table_of_creds_is_what_it_says() -> None:
    # The bodies that the tests above cut and replace are really in there.
    assert json.loads(base64.urlsafe_b64decode(_HEAD + "==")) == {"typ": "JWT"}
    assert USER.creds.count(USER.jwt) == USER.creds.count(SEED) == 1
    assert SEED_END in USER.creds
    assert JWT_END in USER.creds
