"""What stands before a compiled filter: ENOSYS for calls younger than its profile. Pure.

A profile lists what it knows; a call invented later would get the default, EPERM, and a C library
that tries it first would believe that it is forbidden, not missing, and never fall back. So calls
with numbers above all that the profile names answer ENOSYS, as under runc.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# <linux/bpf_common.h>: class | size or operation | mode or source.
_LD_W_ABS = 0x20
_JA = 0x05
_JEQ_K = 0x15
_JGT_K = 0x25
_JSET_K = 0x45
_RET_K = 0x06

# struct seccomp_data
_NR_OFFSET = 0
_ARCH_OFFSET = 4

_RET_ENOSYS = 0x00050000 | 38  # SECCOMP_RET_ERRNO
X32_BIT = 1 << 30
AUDIT_ARCH_X86_64 = 0xC000003E


def _instruction(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def build(last: Mapping[int, int], last_x32: int | None) -> bytes:
    """`last`: AUDIT_ARCH_* → the highest number named; `last_x32` has the x32 bit in it."""
    sections = [_section(arch, highest, last_x32) for arch, highest in last.items()]
    if not sections:
        return b""
    program = _instruction(_LD_W_ABS, _ARCH_OFFSET)
    left = sum(len(section) for section in sections)
    for section in sections:
        left -= len(section)
        program += b"".join(_resolve(section, left))
    return program


# Where a section ends its work the filter follows; how far that is, is known at the end.
_TO_FILTER = None


def _section(arch: int, highest: int, last_x32: int | None) -> list[bytes | None]:
    checks = _check(highest)
    if arch == AUDIT_ARCH_X86_64:
        # x32 calls come under the same architecture, told by a bit of the number.
        other = _check(last_x32) if last_x32 is not None else [_TO_FILTER]
        checks = [_instruction(_JSET_K, X32_BIT, if_true=len(checks)), *checks, *other]
    load = _instruction(_LD_W_ABS, _NR_OFFSET)
    return [_instruction(_JEQ_K, arch, if_false=1 + len(checks)), load, *checks]


def _check(highest: int) -> list[bytes | None]:
    return [
        _instruction(_JGT_K, highest, if_false=1),
        _instruction(_RET_K, _RET_ENOSYS),
        _TO_FILTER,
    ]


def _resolve(section: list[bytes | None], behind: int) -> list[bytes]:
    return [
        instruction
        if instruction is not None
        else _instruction(_JA, len(section) - index - 1 + behind)
        for index, instruction in enumerate(section)
    ]
