"""Which capabilities a container has: Docker's fourteen, with what was added and dropped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import InvalidParameter
from engine.linux.capability import NAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

# Docker's default set (moby oci/caps/defaults.go).
_DOCKERS = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
    "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)
DEFAULT = tuple(f"CAP_{name}" for name in _DOCKERS.split())

ALL = "ALL"


def normalize(names: Iterable[str], within: frozenset[str], field: str) -> tuple[str, ...]:
    """Upper case with the CAP_ prefix; ALL stays. `field` is named in the error."""
    result: list[str] = []
    for name in names:
        upper = name.upper()
        full = upper if upper == ALL or upper.startswith("CAP_") else f"CAP_{upper}"
        if full != ALL and full not in NAMES:
            raise InvalidParameter(f'invalid {field}: unknown capability: "{full}"')
        if full != ALL and full not in within:
            raise InvalidParameter(
                f"invalid {field}: capability not supported by your kernel or not available in "
                f'the current environment: "{full}"'
            )
        result.append(full)
    return tuple(result)


def effective(
    *, add: tuple[str, ...], drop: tuple[str, ...], privileged: bool, within: frozenset[str]
) -> tuple[str, ...]:
    """The set a container gets; `add` and `drop` are normalized (moby TweakCapabilities)."""
    everything = tuple(name for name in NAMES if name in within)
    if privileged:
        return everything
    if ALL in add:
        return tuple(name for name in everything if name not in drop)
    if ALL in drop:
        return tuple(dict.fromkeys(add))
    kept = [name for name in DEFAULT if name not in drop and name in within]
    return tuple(dict.fromkeys([*kept, *add]))
