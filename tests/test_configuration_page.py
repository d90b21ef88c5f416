"""The page of all settings in the documentation."""

from __future__ import annotations

import msgspec

from tests.configuration_page import LEFT_OUT, PAGE, STRUCTS, configuration_page


def test_the_page_is_up_to_date() -> None:
    text = PAGE.read_text("utf-8")
    assert text == configuration_page(), "write it again: python -m tests.configuration_page"


def test_all_settings_are_on_the_page() -> None:
    text = configuration_page()
    for struct in STRUCTS:
        (table,) = [part for part in text.split("\n## ") if part.startswith(f"{struct.__name__}\n")]
        rows = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
        names = [one.name for one in msgspec.structs.fields(struct)]
        assert rows == [name for name in names if name not in LEFT_OUT]
