"""Platforms: the grammar `os[(version)][/arch[/variant]]`, and which runs on which.

The rules and names are those of containerd/platforms, which dockerd, buildx and compose share.
"""

from __future__ import annotations

import functools
import os
import re

from engine.errors import InvalidParameter
from engine.oci.document import Document

_OS_AND_VERSION = re.compile(
    r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?"
)
_SPECIFIER = re.compile(r"[A-Za-z0-9_.-]+")

# Written as lines of words: a list of strings would stand a name a line.
KNOWN_OS = frozenset(
    """
    aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9
    solaris windows zos
    """.split()  # noqa: SIM905
)
KNOWN_ARCHITECTURES = frozenset(
    """
    386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le
    mips64p32 mips64p32le ppc riscv riscv64 s390 s390x sparc sparc64 wasm
    """.split()  # noqa: SIM905
)
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "loongarch64": "loong64"}


class InvalidPlatform(InvalidParameter):
    """`specifier` does not name a platform."""

    def __init__(self, specifier: str, reason: str) -> None:
        super().__init__(f"{reason}: invalid argument")
        self.specifier = specifier


class Platform(
    Document,
    frozen=True,
    kw_only=True,
    rename={"os_version": "os.version", "os_features": "os.features"},
):
    """image-spec, image-index.md §platform."""

    architecture: str = ""
    os: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] | None = None
    variant: str = ""

    def __str__(self) -> str:
        """As containerd's FormatAll writes it."""
        if not self.os:
            return "unknown"
        system = f"{self.os}({self.os_version})" if self.os_version else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)


def _normalize_os(name: str) -> str:
    lower = name.lower() or "linux"
    return "darwin" if lower == "macos" else lower


def _normalize_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    match architecture:
        case "i386":
            return "386", ""
        case "x86_64" | "x86-64" | "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            return "arm64", {
                "8": "",
                "v8": "",
                "v8.0": "",
                "9": "v9",
                "9.0": "v9",
                "v9.0": "v9",
            }.get(variant, variant)
        case "armhf":
            return "arm", "v7"
        case "armel":
            return "arm", "v6"
        case "arm":
            known = {"": "v7", "7": "v7", "5": "v5", "6": "v6", "8": "v8"}
            return "arm", known.get(variant, variant)
        case _:
            return architecture, variant


def normalize(platform: Platform) -> Platform:
    architecture, variant = _normalize_architecture(platform.architecture, platform.variant)
    return Platform(
        os=_normalize_os(platform.os),
        architecture=architecture,
        variant=variant,
        os_version=platform.os_version,
        os_features=platform.os_features,
    )


@functools.cache
def default() -> Platform:
    """The platform of this host."""
    machine = os.uname().machine
    if machine.startswith("armv"):
        return Platform(os="linux", architecture="arm", variant=f"v{machine[4:5]}")
    return normalize(Platform(os="linux", architecture=_MACHINES.get(machine, machine)))


def parse(specifier: str) -> Platform:
    """The platform that a user named; raises InvalidPlatform with containerd's sentence."""
    if "*" in specifier:
        raise InvalidPlatform(specifier, f'"{specifier}": wildcards not yet supported')
    parts = specifier.split("/", 3)
    system = _OS_AND_VERSION.fullmatch(parts[0])
    if system is None:
        raise InvalidPlatform(
            specifier,
            f'"{parts[0]}" is an invalid OS component of "{specifier}": OSAndVersion specifier '
            f'component must match "^([A-Za-z0-9_-]+)(?:\\\\(([A-Za-z0-9_.%-]*)'
            '((?:\\\\+[A-Za-z0-9_.%-]+)*)\\\\))?$"',
        )
    for part in parts[1:]:
        if not _SPECIFIER.fullmatch(part):
            raise InvalidPlatform(
                specifier,
                f'"{part}" is an invalid component of "{specifier}": platform specifier component '
                f'must match "^[A-Za-z0-9_.-]+$"',
            )
    return _assemble(specifier, parts, _normalize_os(system[1]), system[2] or "")


def _assemble(specifier: str, parts: list[str], system: str, version: str) -> Platform:
    match parts:
        case [_] if system in KNOWN_OS:
            here = default()
            variant = here.variant if here.architecture == "arm" and here.variant != "v7" else ""
            return Platform(
                os=system, os_version=version, architecture=here.architecture, variant=variant
            )
        case [only]:
            architecture, variant = _without_v7(_normalize_architecture(only, ""))
            if architecture not in KNOWN_ARCHITECTURES:
                raise InvalidPlatform(
                    specifier, f'"{specifier}": unknown operating system or architecture'
                )
            return Platform(os="linux", architecture=architecture, variant=variant)
        case [_, second]:
            architecture, variant = _without_v7(_normalize_architecture(second, ""))
        case [_, second, third]:
            architecture, variant = _normalize_architecture(second, third)
            if architecture == "arm64" and not variant:
                variant = "v8"
        case _:
            raise InvalidPlatform(specifier, f'"{specifier}": cannot parse platform specifier')
    return Platform(os=system, os_version=version, architecture=architecture, variant=variant)


def _without_v7(pair: tuple[str, str]) -> tuple[str, str]:
    return (pair[0], "") if pair == ("arm", "v7") else pair


def matches_strictly(wanted: Platform, other: Platform) -> bool:
    """The same platform in other words, or not."""
    a, b = normalize(wanted), normalize(other)
    return (a.os, a.architecture, a.variant) == (b.os, b.architecture, b.variant)


def candidates(platform: Platform) -> tuple[Platform, ...]:
    """What runs on `platform`, the best first (containerd's platformVector)."""
    wanted = normalize(platform)
    if wanted.architecture == "arm64":
        return _arm64_candidates(wanted)
    found = [wanted]
    match wanted.architecture:
        case "amd64":
            found += [_variant(wanted, f"v{v}") for v in _below(wanted.variant, lowest=1)]
            found.append(_variant(wanted, "", architecture="386"))
        case "arm":
            found += [_variant(wanted, f"v{v}") for v in _below(wanted.variant, lowest=5)]
        case _:
            pass
    return tuple(found)


def _arm64_candidates(wanted: Platform) -> tuple[Platform, ...]:
    """v9.x runs v9.x down to v9, then v8.(x+5) down to v8 and all of 32-bit arm v8."""
    match = re.fullmatch(r"v([89])(?:\.([0-9]))?", wanted.variant or "v8")
    if match is None or (match[1] == "9" and match[2] in ("8", "9")):
        found: list[Platform] = []
    else:
        minor = int(match[2] or 0)
        ranks = [(9, minor), (8, minor + 5)] if match[1] == "9" else [(8, minor)]
        found = [
            _variant(wanted, f"v{major}.{m}" if m else f"v{major}")
            for major, top in ranks
            for m in range(min(top, 9), -1, -1)
        ]
    arm = "v8" if match else wanted.variant
    return (*found, *candidates(_variant(wanted, arm, architecture="arm")))


def _variant(platform: Platform, variant: str, architecture: str = "") -> Platform:
    return Platform(
        os=platform.os,
        os_version=platform.os_version,
        os_features=platform.os_features,
        architecture=architecture or platform.architecture,
        variant=variant,
    )


def _below(variant: str, *, lowest: int) -> range:
    number = variant.removeprefix("v")
    return range(int(number) - 1, lowest - 1, -1) if number.isdecimal() else range(0)


def rank(wanted: Platform, other: Platform) -> int | None:
    """How well `other` serves `wanted`: 0 is best, None not at all."""
    for place, candidate in enumerate(candidates(wanted)):
        if matches_strictly(candidate, other):
            return place
    return None


def matches(wanted: Platform, other: Platform) -> bool:
    """Whether `other` runs where `wanted` does."""
    return rank(wanted, other) is not None


def matches_image(wanted: Platform, image: Platform) -> bool:
    """As `matches`, but a config that names no variant fits any (many builders leave it out)."""
    if matches(wanted, image):
        return True
    if image.variant:
        return False
    a, b = normalize(wanted), normalize(image)
    return (a.os, a.architecture) == (b.os, b.architecture)
