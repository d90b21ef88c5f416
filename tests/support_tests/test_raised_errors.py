"""What the source of a function tells about the errors that it raises."""

from __future__ import annotations

import trio

from tests.support.raised_errors import raised_errors
from trio_nats import ConfigurationError, RequestTimeoutError
from trio_nats.errors import timed_out
from trio_nats.options import check_count, check_seconds


class Example:
    def plain(self) -> None:
        raise ConfigurationError

    def checking(self) -> None:
        check_count("n", 1)

    def checking_itself(self) -> None:
        self._check()

    def _check(self) -> None:
        raise trio.ClosedResourceError

    def from_a_function(self) -> None:
        raise timed_out("too late", None)

    def from_a_method(self) -> None:
        raise self._error()

    def _error(self) -> RequestTimeoutError:
        raise NotImplementedError

    def caught(self) -> None:
        try:
            check_seconds("s", 1)
        except ConfigurationError:
            raise RuntimeError from None

    def inside(self) -> object:
        def function() -> None:
            raise ConfigurationError

        return function

    def of_types(self) -> None:
        raise TypeError


def test_which_errors_are_found() -> None:
    found = {
        name: raised_errors(function, Example)
        for name, function in vars(Example).items()
        if not name.startswith("_")
    }
    assert found == {
        "plain": {ConfigurationError},
        "checking": {ConfigurationError},
        "checking_itself": {trio.ClosedResourceError},
        "from_a_function": {RequestTimeoutError},
        "from_a_method": {RequestTimeoutError},
        "caught": set(),
        "inside": set(),
        "of_types": set(),
    }


def test_functions_without_source() -> None:
    assert raised_errors(len, None) == set()
