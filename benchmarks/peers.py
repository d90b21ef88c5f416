"""The clients to compare, and whether they are installed."""

from __future__ import annotations

from dataclasses import dataclass

from .clients.common import installed
from .scenarios import Scenario

__all__ = ["PEERS", "Peer"]


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A client, with its event loop."""

    name: str
    module: str
    loop: str = ""
    needs: tuple[str, ...] = ()
    """Distributions that it needs."""
    imports: str = ""
    """``BASE:MODULE``, to measure the import time."""
    ours: bool = False
    """Whether it belongs to this project, so that its failure is an error."""

    def missing(self) -> str | None:
        """Why it cannot take part, if so."""
        absent = [name for name in self.needs if installed(name) is None]
        return f"not installed: {', '.join(absent)}" if absent else None

    def arguments(self, scenario: Scenario) -> list[str]:
        """Return the command line arguments to run it, or none if it cannot run this scenario."""
        if scenario.kind != "import_time":
            loop = ["--loop", self.loop] if self.loop else []
            return ["-m", f"benchmarks.clients.{self.module}", scenario.name, *loop]
        if not self.imports:
            return []
        return ["-m", "benchmarks.clients.import_time", scenario.name, "--loop", self.imports]


_ALL = (
    Peer(name="trio_nats", module="trio_nats_client", imports="trio:trio_nats", ours=True),
    Peer(
        name="nats-py",
        module="nats_py_client",
        needs=("nats-py",),
        imports="asyncio:nats",
    ),
    Peer(
        name="nats-py+uvloop",
        module="nats_py_client",
        loop="uvloop",
        needs=("nats-py", "uvloop"),
    ),
    Peer(
        name="nats-core",
        module="nats_core_client",
        needs=("nats-core",),
        imports="asyncio:nats.client",
    ),
    Peer(
        name="nats-core+uvloop",
        module="nats_core_client",
        loop="uvloop",
        needs=("nats-core", "uvloop"),
    ),
    Peer(
        name="natsrpy",
        module="natsrpy_client",
        needs=("natsrpy",),
        imports="asyncio:natsrpy",
    ),
    Peer(name="limit", module="limit_client", ours=True),
    Peer(name="load", module="limit_client", loop="load", ours=True),
)

PEERS = {peer.name: peer for peer in _ALL}
