from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.container import names


@pytest.mark.parametrize("text", ["web", "/web", "a1", "0_a", "A.b-c_d"])
def test_names_with_and_without_their_slash(text: str) -> None:
    assert names.parse(text) == text.removeprefix("/")


@pytest.mark.parametrize("text", ["", "/", "a", "-a", "_a", ".a", "a b", "//a", "a/b", "ä1", "a\n"])
def test_what_is_no_name_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(names.InvalidContainerName) as caught:
        names.parse(text)
    assert str(caught.value) == (
        f"Invalid container name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )


@given(st.integers(0, 20))
def test_generated_names_are_names(attempt: int) -> None:
    name = names.generate(attempt)
    assert names.parse(name) == name
    assert "_" in name
