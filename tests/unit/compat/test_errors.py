"""Every kind of failure has a status, and no kind has two."""

from __future__ import annotations

import re

import pytest

from compat import errors as compat
from engine import errors

KINDS = re.findall(r"[├└]── (\w+)", errors.__doc__ or "")


def test_the_tree_in_the_docstring_is_the_table() -> None:
    assert {cls.__name__ for cls in compat.STATUS} == set(KINDS)


@pytest.mark.parametrize("name", KINDS)
def test_a_kind_is_no_bug_of_ours(name: str) -> None:
    failure = getattr(errors, name)("why")
    assert not compat.is_bug(failure)
    assert compat.sentence(failure) == "why"


def test_too_many_requests_are_told_as_such() -> None:
    assert compat.status(errors.TooManyRequests("toomanyrequests: wait")) == 429
