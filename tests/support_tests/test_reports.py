"""A test about text that cannot be encoded may fail, but must not take its process with it."""

from __future__ import annotations

import pytest

from tests.conftest import encodable


def test_reports_can_be_encoded(request: pytest.FixtureRequest) -> None:
    report = pytest.TestReport(
        "nodeid", ("file", 1, "name"), {}, "failed", "said '\ud800'", "call", [("log", "\udfff")]
    )
    data = request.config.hook.pytest_report_to_serializable(config=request.config, report=report)
    assert data["longrepr"] == r"said '\ud800'"
    assert data["sections"] == [("log", r"\udfff")]


def test_encodable_text_is_unchanged() -> None:
    value = {"a": ["é\n\\", ("\U0001f600", 1, None, True)]}
    assert encodable(value) == value
    assert encodable({"\ud800": 1}) == {r"\ud800": 1}
