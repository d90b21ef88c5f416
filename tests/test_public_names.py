"""``tests/public_names.txt`` lists the public interface, so a review shows every change to it."""

from __future__ import annotations

from difflib import unified_diff

from .public_names import FILE, public_names


def test_the_list_of_public_names_is_up_to_date() -> None:
    listed = FILE.read_text("utf-8").splitlines()
    changes = unified_diff(listed, public_names(), "listed", "found", n=0, lineterm="")
    assert not list(changes), "write the list again: python -m tests.public_names"
