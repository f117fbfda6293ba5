"""What dockerd leaves to its runtime to refuse in a profile: in runc's order and words. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.errors import NotImplementedHere, SeccompProfileRefused
from engine.linux import syscalls
from engine.linux.seccomp import ACTIONS, OPERATORS

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from engine.container.seccomp.profile import Profile
    from engine.linux.seccomp import Rule

FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 0,  # of no use: init has one thread
    "SECCOMP_FILTER_FLAG_LOG": syscalls.SECCOMP_FILTER_FLAG_LOG,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": syscalls.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
}

_MAX_ARGUMENTS = 6
# How the runtime says that it failed at this stage rather than before.
_IN_INIT = "unable to start container process: error during container init: "
# fmt: off
_ARCHITECTURES = frozenset("SCMP_ARCH_" + name for name in (
    "X86", "X86_64", "X32", "ARM", "AARCH64", "PPC", "PPC64", "PPC64LE", "S390", "S390X",
    "MIPS", "MIPS64", "MIPS64N32", "MIPSEL", "MIPSEL64", "MIPSEL64N32", "RISCV64", "LOONGARCH64",
))
# fmt: on


def check(profile: Profile, architectures: tuple[str, ...], rules: list[Rule]) -> None:
    """Raises SeccompProfileRefused, and NotImplementedHere for what runc would take."""
    _check_known(profile.flags or (), FLAGS, "seccomp flag {} is not known to runc")
    _check_known(architectures, _ARCHITECTURES, "string {} is not a valid arch for seccomp")
    action = "string {} is not a valid action for seccomp"
    _check_known([profile.default_action], ACTIONS, action)
    for rule in rules:
        _check_known([rule.action], ACTIONS, action)
        operators = [arg.op for arg in rule.args]
        _check_known(operators, OPERATORS, "string {} is not a valid operator for seccomp")
    _check_notify(profile, rules)
    for rule in rules:
        _check_rule(rule)


def of_rule(syscall: str, reason: str) -> SeccompProfileRefused:
    """For the call of a rule that libseccomp does not take."""
    return SeccompProfileRefused(
        f"{_IN_INIT}error adding seccomp filter rule for syscall {syscall}: {reason}"
    )


def _check_known(values: Iterable[str], known: Container[str], sentence: str) -> None:
    for value in values:
        if value not in known:
            raise SeccompProfileRefused(sentence.format(value))


def _check_notify(profile: Profile, rules: list[Rule]) -> None:
    if profile.default_action == "SCMP_ACT_NOTIFY":
        raise SeccompProfileRefused(_IN_INIT + "SCMP_ACT_NOTIFY cannot be used as default action")
    if not any(rule.action == "SCMP_ACT_NOTIFY" for rule in rules):
        return
    if not profile.listener_path:
        raise SeccompProfileRefused(_IN_INIT + "seccomp listenerPath is not set")
    raise NotImplementedHere("seccomp profiles with SCMP_ACT_NOTIFY are not supported")


def _check_rule(rule: Rule) -> None:
    if "" in rule.names:
        raise SeccompProfileRefused(_IN_INIT + "empty string is not a valid syscall")
    for arg in rule.args:
        if arg.index >= _MAX_ARGUMENTS:
            name = rule.names[0] if rule.names else ""
            raise SeccompProfileRefused(
                f"{_IN_INIT}error creating seccomp syscall condition for syscall {name}: "
                f"syscalls only have up to 6 arguments ({arg.index} given)"
            )
