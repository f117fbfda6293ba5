"""References: dockerd's grammar, defaults and sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.oci import reference
from engine.oci.digest import InvalidDigest
from engine.oci.reference import InvalidReference, Reference

SHA = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("typed", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox", "busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("user/app", "docker.io/user/app", "user/app"),
        ("docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
        ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
        ("localhost/app", "localhost/app", "localhost/app"),
        ("LOCAL/app", "LOCAL/app", "LOCAL/app"),
        ("host:5000/app:x", "host:5000/app:x", "host:5000/app:x"),
        ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
        ("a.b/c__d/e--f", "a.b/c__d/e--f", "a.b/c__d/e--f"),
        (f"busybox@{SHA}", f"docker.io/library/busybox@{SHA}", f"busybox@{SHA}"),
        (f"busybox:1@{SHA}", f"docker.io/library/busybox:1@{SHA}", f"busybox:1@{SHA}"),
    ],
)
def test_what_is_meant(typed: str, full: str, familiar: str) -> None:
    parsed = reference.parse(typed)
    assert str(parsed) == full
    assert parsed.familiar == familiar
    assert reference.parse(full) == parsed
    assert reference.parse(familiar) == parsed


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "invalid reference format"),
        (":x", "invalid reference format"),
        ("a:", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("http://a", "invalid reference format"),
        ("a//b", "invalid reference format"),
        ("-a", "invalid reference format"),
        ("a\n", "invalid reference format"),
        ("a:x\n", "invalid reference format"),
        ("a:" + "t" * 129, "invalid reference format"),
        (
            "Busybox",
            "invalid reference format: repository name (library/Busybox) must be lowercase",
        ),
        ("a/B:x", "invalid reference format: repository name (a/B) must be lowercase"),
        (
            "a1" * 32,
            f"invalid repository name ({'a1' * 32}), cannot specify 64-byte hexadecimal strings",
        ),
        ("a/" * 127 + "ab", "repository name must not be more than 255 characters"),
    ],
)
def test_what_means_nothing(typed: str, sentence: str) -> None:
    with pytest.raises(InvalidReference) as caught:
        reference.parse(typed)
    assert str(caught.value) == sentence


def test_a_digest_of_another_length() -> None:
    with pytest.raises(InvalidDigest, match="invalid checksum digest length"):
        reference.parse("busybox@sha256:" + "a" * 40)


def test_ids() -> None:
    assert reference.parse_any("a1" * 32) == SHA
    assert reference.parse_any(SHA) == SHA
    assert isinstance(reference.parse_any("a1b2c3"), Reference)


def test_defaults() -> None:
    assert reference.parse("a").with_default_tag().tag == "latest"
    assert reference.parse(f"a@{SHA}").with_default_tag().tag is None
    assert str(reference.parse(f"a:1@{SHA}").stored()) == f"docker.io/library/a@{SHA}"
    with pytest.raises(InvalidReference, match="invalid tag format"):
        reference.parse("a").with_tag("-")


def test_repo_and_tag_of_a_request() -> None:
    assert reference.from_repo_and_tag("", "x") is None
    assert str(reference.from_repo_and_tag("a", "")) == "docker.io/library/a:latest"
    assert str(reference.from_repo_and_tag("a:1", "2")) == "docker.io/library/a:2"
    with pytest.raises(InvalidReference, match="cannot import digest reference"):
        reference.from_repo_and_tag(f"a@{SHA}", "")


@pytest.mark.parametrize(
    ("pattern", "matches"),
    [
        ("busybox", True),
        ("busybox:1", True),
        ("busy*", True),
        ("*", True),
        ("*:1", True),
        ("bus?box", True),
        ("[a-c]usybox", True),
        ("[^a]usybox:*", True),
        ("\\busybox", True),
        ("busybox:2", False),
        ("usybox", False),
        ("*/busybox", False),
    ],
)
def test_patterns(pattern: str, matches: bool) -> None:
    assert reference.familiar_match(pattern, reference.parse("busybox:1")) is matches


def test_patterns_stop_at_a_slash() -> None:
    assert not reference.familiar_match("*", reference.parse("user/app"))
    assert reference.familiar_match("*/*", reference.parse("user/app"))
    with pytest.raises(InvalidReference, match="syntax error in pattern"):
        reference.familiar_match("[a", reference.parse("a"))


@given(st.text(max_size=40))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        parsed = reference.parse(text)
    except (InvalidReference, InvalidDigest):
        return
    assert reference.parse(str(parsed)) == parsed
    if is_clear(parsed):
        assert reference.parse(parsed.familiar) == parsed


def is_clear(parsed: Reference) -> bool:
    """Whether the familiar form says it all: docker.io/a.b/c does not, in Docker as here."""
    first = parsed.path.partition("/")[0]
    return parsed.domain != "docker.io" or not ("." in first or first == "localhost")


_part = st.from_regex(r"[a-z0-9]+([._-][a-z0-9]+)?", fullmatch=True)


@given(
    st.sampled_from(["", "docker.io/", "localhost/", "h.example:50/"]),
    st.lists(_part, min_size=1, max_size=3),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
)
def test_spelling_out_and_back(domain: str, path: list[str], tag: str) -> None:
    parsed = reference.parse(f"{domain}{'/'.join(path)}:{tag}")
    assert parsed.tag == tag
    assert str(parsed).endswith(f"{'/'.join(path)}:{tag}")
    if is_clear(parsed):
        assert reference.parse(parsed.familiar) == parsed
