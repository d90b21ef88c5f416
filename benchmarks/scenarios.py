"""What is measured. Every client and every load reads the same description."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["SCENARIOS", "Scenario", "select"]

Kind = Literal[
    "publish", "receive", "fan_in", "request", "respond", "subscribe", "connect", "import_time"
]
Style = Literal["usual", "for", "call", "batches"]
Load = Literal["feed", "answer", "ask"]

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One thing to measure."""

    name: str
    group: str
    kind: Kind
    title: str
    unit: str = "msg/s"
    size: int = 128
    """Bytes of payload."""
    style: Style = "usual"
    """How the user's code takes messages out. ``usual`` is ``async for`` or a callback, whichever
    is quicker with this client."""
    headers: bool = False
    tls: bool = False
    subscriptions: int = 1
    """How many the client has."""
    subjects: int = 1
    """On how many of them messages come, in turn; each has a task of its own."""
    burst: int = 0
    """The client asks for so many messages at a time; otherwise the load is ahead of it."""
    concurrency: int = 1
    """Requests in flight."""
    fixed: int | None = None
    """How many operations a run is, where it is not a matter of how long they take."""
    runs: int | None = None
    """How many processes, where it is not a matter of ``--rounds``."""

    @property
    def lower_is_better(self) -> bool:
        return self.unit == "ms"

    @property
    def load(self) -> Load | None:
        """Which process beside server and client it needs."""
        loads: dict[str, Load] = {
            "receive": "feed",
            "fan_in": "feed",
            "request": "answer",
            "respond": "ask",
        }
        return loads.get(self.kind)

    @property
    def multiple(self) -> int:
        """The number of operations is a multiple of this."""
        if self.kind == "request":
            return self.concurrency
        return self.burst or 1

    @property
    def window(self) -> int:
        """How many messages the load may be ahead of the client.

        Enough that the client always has work, and little enough that no client drops anything.
        The smallest limit on what may be pending in a subscription that any of the clients has is
        65,536 messages; that of the server on what may wait for a client is 64 MiB.
        """
        return self.burst or min(32_000, 16 * MIB // (self.size + 64))

    @property
    def step(self) -> int:
        """After how many messages the client lets the load send as many again."""
        return self.burst or self.window // 4

    def with_size(self, size: int) -> Scenario:
        """The same with another size of payload."""
        return replace(self, size=size)


def _label(size: int) -> str:
    return f"{size // 1024} KiB" if size >= 1024 else f"{size} B"


def _name(size: int) -> str:
    return _label(size).replace(" ", "")


STYLES: dict[Style, str] = {
    "usual": "one by one, the client's quickest way",
    "for": "async for",
    "call": "one call per message",
    "batches": "in batches",
}
SIZES = (16, 128, 1024, 8192)


def _publish() -> Iterable[Scenario]:
    for size in SIZES:
        yield Scenario(
            name=f"publish-{_name(size)}",
            group="publish",
            kind="publish",
            title=f"publish {_label(size)}",
            size=size,
        )


def _receive() -> Iterable[Scenario]:
    for style, words in STYLES.items():
        prefix = "receive" if style == "usual" else f"receive-{style}"
        for size in (16, 128, 1024) if style == "for" else SIZES:
            yield Scenario(
                name=f"{prefix}-{_name(size)}",
                group=prefix,
                kind="receive",
                title=f"receive {_label(size)}, {words}",
                size=size,
                style=style,
            )


def _headers() -> Iterable[Scenario]:
    yield Scenario(
        name="publish-headers",
        group="headers",
        kind="publish",
        title="publish 128 B with one header",
        headers=True,
    )
    yield Scenario(
        name="receive-headers",
        group="headers",
        kind="receive",
        title="receive 128 B with one header and read it",
        headers=True,
    )


def _tls() -> Iterable[Scenario]:
    for size in (1024, 8192):
        yield Scenario(
            name=f"tls-publish-{_name(size)}",
            group="tls",
            kind="publish",
            title=f"publish {_label(size)} over TLS",
            size=size,
            tls=True,
        )
        yield Scenario(
            name=f"tls-receive-{_name(size)}",
            group="tls",
            kind="receive",
            title=f"receive {_label(size)} over TLS",
            size=size,
            tls=True,
        )


def _requests() -> Iterable[Scenario]:
    for concurrency in (1, 10, 100):
        yield Scenario(
            name=f"request-{concurrency}",
            group="request",
            kind="request",
            title=f"requests, {concurrency} in flight",
            unit="req/s",
            concurrency=concurrency,
        )
    yield Scenario(
        name="responder",
        group="responder",
        kind="respond",
        title="answer requests, 100 in flight",
        unit="req/s",
        concurrency=100,
    )


def _many() -> Iterable[Scenario]:
    yield Scenario(
        name="fan-in-1000",
        group="fan-in",
        kind="fan_in",
        title="1,000 subscriptions with a task each, messages to all in turn",
        subscriptions=1000,
        subjects=1000,
    )
    for count in (10, 10_000):
        yield Scenario(
            name=f"dispatch-{count}",
            group="dispatch",
            kind="fan_in",
            title=f"{count:,} subscriptions, messages to 10 of them in turn",
            subscriptions=count,
            subjects=10,
        )
    yield Scenario(
        name="subscribe-10000",
        group="subscribe",
        kind="subscribe",
        title="make 10,000 subscriptions, and flush",
        unit="sub/s",
        subscriptions=10_000,
        fixed=10_000,
    )
    for burst in (1, 100, 10_000):
        yield Scenario(
            name=f"burst-{burst}",
            group="burst",
            kind="receive",
            title=f"receive 128 B in bursts of {burst:,}, asking for each",
            burst=burst,
        )


def _others() -> Iterable[Scenario]:
    yield Scenario(
        name="connect",
        group="connect",
        kind="connect",
        title="connect and close",
        unit="conn/s",
    )
    yield Scenario(
        name="import",
        group="import",
        kind="import_time",
        title="import, beyond the event loop's own",
        unit="ms",
        fixed=1,
        runs=15,
    )


SCENARIOS: dict[str, Scenario] = {
    scenario.name: scenario
    for part in (_publish, _receive, _headers, _tls, _requests, _many, _others)
    for scenario in part()
}


def select(names: Iterable[str], sizes: Iterable[int] | None = None) -> list[Scenario]:
    """The scenarios of these names or groups, all if there are none, in their usual order.

    ``sizes`` keeps those of these sizes, and leaves alone what is not about size. Raises
    :exc:`ValueError` for a name that does not exist.
    """
    wanted = set(names)
    known = {scenario.group for scenario in SCENARIOS.values()} | set(SCENARIOS)
    if unknown := wanted - known:
        raise ValueError(f"no scenario {', '.join(sorted(unknown))}; there are {_words(known)}")
    chosen = [
        scenario
        for scenario in SCENARIOS.values()
        if not wanted or wanted & {scenario.name, scenario.group}
    ]
    if sizes is None:
        return chosen
    kept = set(sizes)
    sized = {"publish", "tls", *(group for group in known if group.startswith("receive"))}
    return [item for item in chosen if item.group not in sized or item.size in kept]


def _words(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
