"""The report of a JetStream soak: counts, errors and violations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from trio_nats import NatsError
from trio_nats.jetstream import JetStreamAPIError

__all__ = ["Report"]

MAX_VIOLATIONS = 100


@dataclass
class Report:
    """What happened in a run."""

    seed: int | str
    show: Callable[[str], None]
    counts: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    """Errors that a user has to expect under such faults."""
    violations: list[str] = field(default_factory=list)

    def violation(self, text: str) -> None:
        """Note something that must not happen, and show it."""
        if text not in self.violations and len(self.violations) < MAX_VIOLATIONS:
            self.violations.append(text)
            self.show(f"  VIOLATION: {text}")

    def error(self, operation: str, error: Exception) -> None:
        """Count an error of the connection, or of JetStream."""
        if not isinstance(error, NatsError):
            raise error
        code = f" {error.err_code}" if isinstance(error, JetStreamAPIError) else ""
        self.errors[f"{operation}: {type(error).__name__}{code}"] += 1

    def __str__(self) -> str:
        counts = "\n".join(f"  {value:>9,} {name}" for name, value in sorted(self.counts.items()))
        errors = "\n".join(f"  {value:>9,} {name}" for name, value in sorted(self.errors.items()))
        return (
            f"seed {self.seed}\n{counts}\nerrors that were retried or counted as unknown\n{errors}"
        )
