"""Platforms: containerd's grammar and matching."""

from __future__ import annotations

import pytest

from engine.oci import platform
from engine.oci.platform import InvalidPlatform, Platform


@pytest.mark.parametrize(
    ("typed", "means"),
    [
        ("linux/amd64", "linux/amd64"),
        ("Linux/x86_64", "linux/amd64"),
        ("arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/arm", "linux/arm"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/amd64/v3", "linux/amd64/v3"),
        ("i386", "linux/386"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("macos/arm64", "darwin/arm64"),
    ],
)
def test_spellings(typed: str, means: str) -> None:
    assert str(platform.parse(typed)) == means


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("linux/*", '"linux/*": wildcards not yet supported: invalid argument'),
        ("foo", '"foo": unknown operating system or architecture: invalid argument'),
        ("", '"" is an invalid OS component of ""'),
        ("linux/a b", '"a b" is an invalid component of "linux/a b"'),
        ("a/b/c/d", '"a/b/c/d": cannot parse platform specifier: invalid argument'),
    ],
)
def test_what_is_no_platform(typed: str, sentence: str) -> None:
    with pytest.raises(InvalidPlatform) as caught:
        platform.parse(typed)
    assert str(caught.value).startswith(sentence)


def p(text: str) -> Platform:
    os, architecture, *variant = text.split("/")
    return Platform(os=os, architecture=architecture, variant="".join(variant))


@pytest.mark.parametrize(
    ("here", "image", "runs"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/386", True),
        ("linux/386", "linux/amd64", False),
        ("linux/amd64/v3", "linux/amd64/v2", True),
        ("linux/amd64/v2", "linux/amd64/v3", False),
        ("linux/arm/v7", "linux/arm/v5", True),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/arm64", "linux/arm/v7", True),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v9.1", "linux/arm64/v8.6", True),
        ("linux/arm64/v8.2", "linux/arm64/v8.3", False),
        ("linux/amd64", "windows/amd64", False),
    ],
)
def test_what_runs_where(here: str, image: str, runs: bool) -> None:
    assert platform.matches(p(here), p(image)) is runs


def test_the_nearest_is_best() -> None:
    ranks = [platform.rank(p("linux/arm/v7"), p(f"linux/arm/v{v}")) for v in (7, 6, 5)]
    assert ranks == [0, 1, 2]
    assert platform.rank(p("linux/amd64"), p("linux/riscv64")) is None


def test_a_config_without_a_variant_fits_any() -> None:
    assert not platform.matches(p("linux/arm/v6"), p("linux/arm"))
    assert platform.matches_image(p("linux/arm/v6"), p("linux/arm"))
    assert not platform.matches_image(p("linux/arm/v6"), p("linux/arm/v7"))
