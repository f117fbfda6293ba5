"""`--security-opt`: what confines a container beyond capabilities and namespaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine import literals
from engine.errors import Unclassified

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityOptions:
    """`seccomp` is "" for the engine's default, "unconfined", or a profile as JSON text."""

    seccomp: str = ""
    apparmor: str = ""
    no_new_privileges: bool = False
    writable_cgroups: bool | None = None


def parse(options: Iterable[str], *, no_new_privileges: bool = False) -> SecurityOptions:
    """dockerd's grammar: `name`, `name=value`, and the old `name:value`."""
    seccomp, apparmor = "", ""
    writable_cgroups: bool | None = None
    for option in options:
        if option == "no-new-privileges":
            no_new_privileges = True
        elif option == "writable-cgroups":
            writable_cgroups = True
        elif option != "disable":
            name, value = _split(option)
            match name:
                case "seccomp":
                    seccomp = value
                case "apparmor":
                    apparmor = value
                case "no-new-privileges":
                    no_new_privileges = _boolean(value, option)
                case "writable-cgroups":
                    writable_cgroups = _boolean(value, option)
                case "label":
                    pass  # SELinux is not used; dockerd without it takes labels and ignores them
                case _:
                    raise Unclassified(f'invalid --security-opt 2: "{option}"')
    return SecurityOptions(
        seccomp=seccomp,
        apparmor=apparmor,
        no_new_privileges=no_new_privileges,
        writable_cgroups=writable_cgroups,
    )


def _split(option: str) -> tuple[str, str]:
    name, separator, value = option.partition("=" if "=" in option else ":")
    if not separator:
        raise Unclassified(f'invalid --security-opt 1: "{option}"')
    return name, value


def _boolean(text: str, option: str) -> bool:
    try:
        return literals.boolean(text)
    except ValueError:
        raise Unclassified(f'invalid --security-opt 2: "{option}"') from None
