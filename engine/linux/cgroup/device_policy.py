"""Which devices a control group may use: rules of the runtime spec, reduced: pure.

The rules are commands in order. What they come to is a default and exceptions from it, the form
in which version 1 keeps them; version 2 gets the same from a small program (device_program.py).
"""

from __future__ import annotations

import errno

from engine.linux.cgroup.limit import LimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Rule = dict[str, Any]
    Key = tuple[str, int, int]

# <linux/bpf.h> BPF_DEVCG_ACC_*
MKNOD = 1
READ = 2
WRITE = 4
_BITS = {"m": MKNOD, "r": READ, "w": WRITE}
ALL = MKNOD | READ | WRITE
ANY = -1


def _allow(kind: str, major: int, minor: int, access: str = "rwm") -> Rule:
    return {"allow": True, "type": kind, "major": major, "minor": minor, "access": access}


RUNTIME_RULES: tuple[Rule, ...] = (
    _allow("c", ANY, ANY, "m"),  # a node may be made; opening it is another matter
    _allow("b", ANY, ANY, "m"),
    _allow("c", 1, 3),  # null
    _allow("c", 1, 5),  # zero
    _allow("c", 1, 7),  # full
    _allow("c", 1, 8),  # random
    _allow("c", 1, 9),  # urandom
    _allow("c", 5, 0),  # tty
    _allow("c", 5, 1),  # console
    _allow("c", 5, 2),  # ptmx
    _allow("c", 10, 200),  # net/tun
    _allow("c", 136, ANY),  # pts/*
)
"""What every container gets from its runtime beyond its spec (runc specconv/AllowedDevices)."""


class Policy:
    """`exceptions` from the default: (type, major, minor) to the kinds of access."""

    __slots__ = ("exceptions", "is_allowed_by_default")

    def __init__(self) -> None:
        self.is_allowed_by_default = False
        self.exceptions: dict[Key, int] = {}


def policy(rules: list[Rule]) -> Policy:
    """Raises LimitError for a rule that neither version of the kernel's interface can express."""
    result = Policy()
    for rule in rules:
        _apply(result, rule)
    return result


def _apply(result: Policy, rule: Rule) -> None:
    is_allowing = bool(rule.get("allow"))
    kind = rule.get("type") or "a"
    if kind == "a":
        result.is_allowed_by_default = is_allowing
        result.exceptions.clear()
        return
    key = _key(kind, rule)
    access = _access(rule)
    if is_allowing != result.is_allowed_by_default:
        result.exceptions[key] = result.exceptions.get(key, 0) | access
        return
    _refuse_holes(result, key, access)
    left = result.exceptions.pop(key, 0) & ~access
    if left:
        result.exceptions[key] = left


def _key(kind: str, rule: Rule) -> Key:
    if kind == "u":
        kind = "c"  # mknod(1): a character device, unbuffered
    if kind not in ("b", "c"):
        raise LimitError(errno.EINVAL, f"invalid device type: {kind}")
    numbers: list[int] = []
    for name in ("major", "minor"):
        value = rule.get(name)
        value = ANY if value is None else int(value)
        if not ANY <= value < 1 << 31:
            raise LimitError(errno.EINVAL, f"invalid {name} {value} in device rule")
        numbers.append(value)
    return (kind, numbers[0], numbers[1])


def _access(rule: Rule) -> int:
    bits = 0
    for letter in rule.get("access") or "rwm":
        if letter not in _BITS:
            raise LimitError(errno.EINVAL, f"invalid device permissions: {rule['access']}")
        bits |= _BITS[letter]
    return bits


def _refuse_holes(result: Policy, key: Key, access: int) -> None:
    """An exception can be taken back as it was made, not a part of a wider one."""
    kind, major, minor = key
    for wider in ((kind, ANY, ANY), (kind, major, ANY), (kind, ANY, minor)):
        if wider != key and result.exceptions.get(wider, 0) & access:
            raise LimitError(
                errno.EINVAL,
                f"device rule {_text(key, access)} cannot be taken out of the wider "
                f"{_text(wider, result.exceptions[wider])}",
            )


def _text(key: Key, access: int) -> str:
    kind, major, minor = key
    numbers = ":".join("*" if n == ANY else str(n) for n in (major, minor))
    letters = "".join(letter for letter in "rwm" if access & _BITS[letter])
    return f"{kind} {numbers} {letters}"


def commands(wanted: Policy) -> list[tuple[str, str]]:
    """What to write to which file of version 1, in order: the default first, it clears all."""
    default, exception = "devices.deny", "devices.allow"
    if wanted.is_allowed_by_default:
        default, exception = exception, default
    lines = [_text(key, access) for key, access in wanted.exceptions.items()]
    return [(default, "a"), *((exception, line) for line in lines)]
