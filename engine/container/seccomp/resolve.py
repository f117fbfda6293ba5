"""What of a profile holds for a container, a machine and a kernel. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from engine.container.seccomp.profile import ConditionalRule, Conditions, Kernel, Profile
    from engine.linux.seccomp import Rule

# Machine, as uname(2) has it → what profiles call it in conditions, and in their lists.
_MACHINES = {
    "x86_64": ("amd64", "SCMP_ARCH_X86_64"),
    "i386": ("x86", "SCMP_ARCH_X86"),
    "i686": ("x86", "SCMP_ARCH_X86"),
    "aarch64": ("arm64", "SCMP_ARCH_AARCH64"),
    "armv7l": ("arm", "SCMP_ARCH_ARM"),
    "armv6l": ("arm", "SCMP_ARCH_ARM"),
    "ppc64le": ("ppc64le", "SCMP_ARCH_PPC64LE"),
    "riscv64": ("riscv64", "SCMP_ARCH_RISCV64"),
    "s390x": ("s390x", "SCMP_ARCH_S390X"),
}


def architectures(profile: Profile, machine: str) -> tuple[str, ...]:
    """Those to filter: as listed, or what the map has for this machine."""
    _name, own = _MACHINES.get(machine, ("", ""))
    for architecture, others in profile.arch_map:
        if architecture == own:
            return (*profile.architectures, architecture, *others)
    return profile.architectures


def select(
    profile: Profile, *, capabilities: frozenset[str], machine: str, kernel: Kernel
) -> list[Rule]:
    """The rules whose conditions hold; `capabilities` is the container's bounding set."""
    name, _own = _MACHINES.get(machine, ("", ""))

    def counts(rule: ConditionalRule) -> bool:
        excludes, includes = rule.excludes, rule.includes
        if excludes is not None and _any_holds(excludes, capabilities, name, kernel):
            return False
        return includes is None or _all_hold(includes, capabilities, name, kernel)

    return [conditional.rule for conditional in profile.rules if counts(conditional)]


def _any_holds(
    conditions: Conditions, capabilities: frozenset[str], machine: str, kernel: Kernel
) -> bool:
    return (
        machine in conditions.arches
        or any(capability in capabilities for capability in conditions.caps)
        or (conditions.min_kernel is not None and kernel >= conditions.min_kernel)
    )


def _all_hold(
    conditions: Conditions, capabilities: frozenset[str], machine: str, kernel: Kernel
) -> bool:
    return (
        (not conditions.arches or machine in conditions.arches)
        and all(capability in capabilities for capability in conditions.caps)
        and (conditions.min_kernel is None or kernel >= conditions.min_kernel)
    )


def kernel_of(release: str) -> Kernel:
    """ "6.18.44-generic" → (6, 18)."""
    parts = release.replace("-", ".").split(".")
    return int(parts[0]), int(parts[1])
