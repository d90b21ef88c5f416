"""The scenarios. All clients and loads use the same descriptions."""

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
    """A measurement."""

    name: str
    group: str
    kind: Kind
    title: str
    unit: str = "msg/s"
    size: int = 128
    """Payload size in bytes."""
    style: Style = "usual"
    """How the user's code receives messages. ``usual`` is ``async for`` or a callback, whichever is
    faster with this client."""
    headers: bool = False
    tls: bool = False
    subscriptions: int = 1
    """Number of subscriptions of the client."""
    subjects: int = 1
    """Number of subscriptions that receive messages, in turn. Each has its own task."""
    burst: int = 0
    """Number of messages to request at a time. With 0 the load sends ahead of the client."""
    concurrency: int = 1
    """Requests in flight."""
    fixed: int | None = None
    """Number of operations of a run, if it does not depend on their speed."""
    runs: int | None = None
    """Number of runs, if it does not depend on ``--rounds``."""

    @property
    def lower_is_better(self) -> bool:
        return self.unit == "ms"

    @property
    def load(self) -> Load | None:
        """The load that it needs, if any."""
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
        """Maximum number of messages that the load may be ahead of the client.

        It is large enough that the client always has work, and small enough that no client drops
        messages: the smallest limit of a subscription in any client is 65,536 messages, and the
        server's limit for a client is 64 MiB.
        """
        return self.burst or min(32_000, 16 * MIB // (self.size + 64))

    @property
    def step(self) -> int:
        """Number of messages after which the client grants the load the same number again."""
        return self.burst or self.window // 4

    def with_size(self, size: int) -> Scenario:
        """Return the scenario with another payload size."""
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
    """Return the scenarios with these names or groups, or all if there are none, in order.

    ``sizes`` selects payload sizes, and does not affect scenarios of a fixed size. Raises
    :exc:`ValueError` for an unknown name.
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
