"""Just enough of a BPF machine to run what the engine hands to the kernel."""

from __future__ import annotations

import struct

_WORD = 0xFFFFFFFF


def run_seccomp(program: bytes, *, arch: int, number: int, args: tuple[int, ...] = ()) -> int:
    """What a classic filter returns for a call: SECCOMP_RET_*."""
    padded = (*args, 0, 0, 0, 0, 0, 0)[:6]
    data = struct.pack("=IIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("=HBBI", program))
    place, accumulator = 0, 0
    while True:
        op, if_true, if_false, k = code[place]
        place += 1
        match op:
            case 0x20:  # ld [k]
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x54:  # and #k
                accumulator &= k
            case 0x05:  # ja
                place += k
            case 0x15:  # jeq
                place += if_true if accumulator == k else if_false
            case 0x25:  # jgt
                place += if_true if accumulator > k else if_false
            case 0x35:  # jge
                place += if_true if accumulator >= k else if_false
            case 0x45:  # jset
                place += if_true if accumulator & k else if_false
            case 0x06:  # ret #k
                return k
            case _:
                raise AssertionError(f"instruction {op:#x} is not known here")


def run_device(program: bytes, *, kind: int, major: int, minor: int, access: int) -> int:
    """What a device program of a control group v2 answers: 1 lets pass."""
    context = {0: kind | access << 16, 4: major, 8: minor}
    code = list(struct.iter_unpack("=BBhi", program))
    registers = [0] * 11
    place = 0
    while True:
        op, names, offset, k = code[place]
        target, source = names & 15, names >> 4
        place += 1
        match op:
            case 0x61:
                registers[target] = context[offset]
            case 0x54:
                registers[target] &= k & _WORD
            case 0x74:
                registers[target] = (registers[target] & _WORD) >> k
            case 0xBC:
                registers[target] = registers[source] & _WORD
            case 0xB7:
                registers[target] = k
            case 0x15:
                place += offset if registers[target] == k else 0
            case 0x55:
                place += offset if registers[target] != k else 0
            case 0x5D:
                place += offset if registers[target] != registers[source] else 0
            case 0x95:
                return registers[0]
            case _:
                raise AssertionError(f"instruction {op:#x} is not known here")
