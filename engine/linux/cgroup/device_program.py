"""The device policy of a control group v2 as an eBPF program: pure, bytes out.

The kernel runs it at every mknod(2) and open(2) of a device by a process in the group, with
`struct bpf_cgroup_dev_ctx {u32 access_type, major, minor}`; 1 lets it pass, 0 is EPERM.
`access_type` holds the kinds of access in its upper half and the type of device in its lower.
"""

from __future__ import annotations

import struct

from engine.linux.cgroup.device_policy import ALL, ANY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.linux.cgroup.device_policy import Key, Policy

LICENSE = "Apache-2.0"

# <linux/bpf_common.h>, <linux/bpf.h>: class | operation | source.
_LDX_MEM_W = 0x61
_AND_K = 0x54  # on 32 bits
_RSH_K = 0x74
_MOV_X = 0xBC
_MOV64_K = 0xB7
_JEQ_K = 0x15
_JNE_K = 0x55
_JNE_X = 0x5D
_EXIT = 0x95

_RESULT, _SCRATCH, _TYPE, _ACCESS, _MAJOR, _MINOR = range(6)
_CONTEXT = _SCRATCH  # free once its three words are loaded
_DEVICE_TYPE = {"b": 1, "c": 2}  # BPF_DEVCG_DEV_*


def _instruction(code: int, target: int = 0, source: int = 0, offset: int = 0, k: int = 0) -> bytes:
    return struct.pack("=BBhi", code, target | source << 4, offset, k)


def assemble(policy: Policy) -> bytes:
    """An array of `struct bpf_insn`."""
    program = [
        _instruction(_LDX_MEM_W, _TYPE, _CONTEXT, 0),
        _instruction(_AND_K, _TYPE, k=0xFFFF),
        _instruction(_LDX_MEM_W, _ACCESS, _CONTEXT, 0),
        _instruction(_RSH_K, _ACCESS, k=16),
        _instruction(_LDX_MEM_W, _MAJOR, _CONTEXT, 4),
        _instruction(_LDX_MEM_W, _MINOR, _CONTEXT, 8),
    ]
    for key, access in policy.exceptions.items():
        program += _exception(key, access, is_allowed_by_default=policy.is_allowed_by_default)
    return b"".join(program) + _answer(policy.is_allowed_by_default)


def _answer(is_allowed: bool) -> bytes:
    return _instruction(_MOV64_K, _RESULT, k=int(is_allowed)) + _instruction(_EXIT)


def _exception(key: Key, access: int, *, is_allowed_by_default: bool) -> list[bytes]:
    """Tests that jump to the next exception, then the answer opposite to the default.

    As in version 1: what is asked for must be allowed wholly by one exception, and is refused if
    an exception refuses any part of it.
    """
    kind, major, minor = key
    tests = [(_JNE_K, _TYPE, 0, _DEVICE_TYPE[kind])]
    if major != ANY:
        tests.append((_JNE_K, _MAJOR, 0, major))
    if minor != ANY:
        tests.append((_JNE_K, _MINOR, 0, minor))
    if access != ALL:
        tests += [(_MOV_X, _SCRATCH, _ACCESS, 0), (_AND_K, _SCRATCH, 0, access)]
        miss = (_JEQ_K, _SCRATCH, 0, 0) if is_allowed_by_default else (_JNE_X, _SCRATCH, _ACCESS, 0)
        tests.append(miss)
    answer_length = 2
    block: list[bytes] = []
    for index, (code, target, source, k) in enumerate(tests):
        is_jump = code in (_JNE_K, _JEQ_K, _JNE_X)
        behind = len(tests) - index - 1 + answer_length
        block.append(_instruction(code, target, source, behind if is_jump else 0, k))
    return [*block, _answer(not is_allowed_by_default)]
