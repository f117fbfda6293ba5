"""System calls that Python does not offer, each under its own name.

The only `import ctypes` of the tree. Constants carry their header names, structs their C names;
every failure becomes an `OSError` with errno and, where there is one, the path. No policy lives
here, and nothing here opens a file, so all of it may run inside a container's namespaces.
"""

from __future__ import annotations

import ctypes
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

# <fcntl.h>, <linux/fcntl.h>
AT_EMPTY_PATH: Final = 0x1000
AT_FDCWD: Final = -100
AT_NO_AUTOMOUNT: Final = 0x800
AT_RECURSIVE: Final = 0x8000
AT_SYMLINK_FOLLOW: Final = 0x400
AT_SYMLINK_NOFOLLOW: Final = 0x100
F_ADD_SEALS: Final = 1033
F_SEAL_EXEC: Final = 0x20
F_SEAL_GROW: Final = 0x4
F_SEAL_SEAL: Final = 0x1
F_SEAL_SHRINK: Final = 0x2
F_SEAL_WRITE: Final = 0x8
O_PATH: Final = os.O_PATH

# <linux/bpf.h>
BPF_CGROUP_DEVICE: Final = 6
BPF_F_ALLOW_MULTI: Final = 2
BPF_PROG_ATTACH: Final = 8
BPF_PROG_DETACH: Final = 9
BPF_PROG_GET_FD_BY_ID: Final = 13
BPF_PROG_LOAD: Final = 5
BPF_PROG_QUERY: Final = 16
BPF_PROG_TYPE_CGROUP_DEVICE: Final = 15

# <linux/openat2.h>
RESOLVE_BENEATH: Final = 0x08
RESOLVE_CACHED: Final = 0x20
RESOLVE_IN_ROOT: Final = 0x10
RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_NO_XDEV: Final = 0x01

# <linux/sched.h>
CLONE_NEWCGROUP: Final = 0x02000000
CLONE_NEWIPC: Final = 0x08000000
CLONE_NEWNET: Final = 0x40000000
CLONE_NEWNS: Final = 0x00020000
CLONE_NEWPID: Final = 0x20000000
CLONE_NEWTIME: Final = 0x00000080
CLONE_NEWUSER: Final = 0x10000000
CLONE_NEWUTS: Final = 0x04000000

# <linux/mount.h>
FSCONFIG_CMD_CREATE: Final = 6
FSCONFIG_SET_FD: Final = 5
FSCONFIG_SET_FLAG: Final = 0
FSCONFIG_SET_STRING: Final = 1
FSMOUNT_CLOEXEC: Final = 0x1
FSOPEN_CLOEXEC: Final = 0x1
MNT_DETACH: Final = 0x2
MOUNT_ATTR_NOATIME: Final = 0x10
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NODIRATIME: Final = 0x80
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NOSYMFOLLOW: Final = 0x200000
MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_RELATIME: Final = 0x0
MOUNT_ATTR_STRICTATIME: Final = 0x20
MOUNT_ATTR__ATIME: Final = 0x70
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40
MS_BIND: Final = 0x1000
MS_DIRSYNC: Final = 0x80
MS_I_VERSION: Final = 0x800000
MS_MANDLOCK: Final = 0x40
MS_MOVE: Final = 0x2000
MS_NOATIME: Final = 0x400
MS_NODEV: Final = 0x4
MS_NODIRATIME: Final = 0x800
MS_NOEXEC: Final = 0x8
MS_NOSUID: Final = 0x2
MS_NOSYMFOLLOW: Final = 0x100
MS_PRIVATE: Final = 0x40000
MS_RDONLY: Final = 0x1
MS_REC: Final = 0x4000
MS_RELATIME: Final = 0x200000
MS_REMOUNT: Final = 0x20
MS_SHARED: Final = 0x100000
MS_SILENT: Final = 0x8000
MS_SLAVE: Final = 0x80000
MS_STRICTATIME: Final = 0x1000000
MS_SYNCHRONOUS: Final = 0x10
MS_UNBINDABLE: Final = 0x20000
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
OPEN_TREE_CLONE: Final = 0x1
UMOUNT_NOFOLLOW: Final = 0x8

# <linux/prctl.h>
PR_CAPBSET_DROP: Final = 24
PR_CAPBSET_READ: Final = 23
PR_CAP_AMBIENT: Final = 47
PR_CAP_AMBIENT_CLEAR_ALL: Final = 4
PR_CAP_AMBIENT_RAISE: Final = 2
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_DUMPABLE: Final = 4
PR_SET_KEEPCAPS: Final = 8
PR_SET_MM: Final = 35
PR_SET_MM_MAP: Final = 14
PR_SET_NAME: Final = 15
PR_SET_NO_NEW_PRIVS: Final = 38
PR_SET_PDEATHSIG: Final = 1
PR_SET_SECCOMP: Final = 22
SECCOMP_MODE_FILTER: Final = 2

# <linux/seccomp.h>
SECCOMP_FILTER_FLAG_LOG: Final = 2
SECCOMP_FILTER_FLAG_SPEC_ALLOW: Final = 4
SECCOMP_FILTER_FLAG_TSYNC: Final = 1
SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV: Final = 32
SECCOMP_SET_MODE_FILTER: Final = 1

# <linux/keyctl.h>
KEYCTL_JOIN_SESSION_KEYRING: Final = 1
KEYCTL_SETPERM: Final = 5

# <linux/capability.h>
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522

# <linux/magic.h>
CGROUP2_SUPER_MAGIC: Final = 0x63677270
CGROUP_SUPER_MAGIC: Final = 0x27E0EB
DEVPTS_SUPER_MAGIC: Final = 0x1CD1
OVERLAYFS_SUPER_MAGIC: Final = 0x794C7630
PROC_SUPER_MAGIC: Final = 0x9FA0
SYSFS_MAGIC: Final = 0x62656572
TMPFS_MAGIC: Final = 0x01021994

# <asm/ioctls.h>
TIOCGPTPEER: Final = 0x5441

# <linux/inotify.h>
IN_ATTRIB: Final = 0x4
IN_CLOEXEC: Final = os.O_CLOEXEC
IN_CLOSE_WRITE: Final = 0x8
IN_CREATE: Final = 0x100
IN_DELETE: Final = 0x200
IN_DELETE_SELF: Final = 0x400
IN_IGNORED: Final = 0x8000
IN_MODIFY: Final = 0x2
IN_MOVED_FROM: Final = 0x40
IN_MOVED_TO: Final = 0x80
IN_MOVE_SELF: Final = 0x800
IN_NONBLOCK: Final = os.O_NONBLOCK
IN_ONLYDIR: Final = 0x01000000
IN_Q_OVERFLOW: Final = 0x4000

# <sys/signalfd.h>
SFD_CLOEXEC: Final = os.O_CLOEXEC
SFD_NONBLOCK: Final = os.O_NONBLOCK

# <linux/fs.h>
RENAME_NOREPLACE: Final = 0x1

# <linux/memfd.h>
MFD_ALLOW_SEALING: Final = 0x2
MFD_CLOEXEC: Final = 0x1
MFD_EXEC: Final = 0x10

# <asm/unistd.h>. From 424 on the numbers are the same on every architecture.
NR_pidfd_send_signal: Final = 424
NR_open_tree: Final = 428
NR_move_mount: Final = 429
NR_fsopen: Final = 430
NR_fsconfig: Final = 431
NR_fsmount: Final = 432
NR_pidfd_open: Final = 434
NR_close_range: Final = 436
NR_openat2: Final = 437
NR_mount_setattr: Final = 442
_NR_OF_MACHINE: Final = {
    "x86_64": {"bpf": 321, "keyctl": 250, "seccomp": 317},
    "aarch64": {"bpf": 280, "keyctl": 219, "seccomp": 277},
    "riscv64": {"bpf": 280, "keyctl": 219, "seccomp": 277},
    "armv7l": {"bpf": 386, "keyctl": 311, "seccomp": 383},
    "ppc64le": {"bpf": 361, "keyctl": 271, "seccomp": 358},
    "s390x": {"bpf": 351, "keyctl": 280, "seccomp": 348},
}
_MACHINE_NR: Final = _NR_OF_MACHINE.get(os.uname().machine, {})
NR_bpf: Final = _MACHINE_NR.get("bpf", -1)
NR_keyctl: Final = _MACHINE_NR.get("keyctl", -1)
NR_seccomp: Final = _MACHINE_NR.get("seccomp", -1)


class open_how(ctypes.Structure):
    _fields_ = [
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    ]


class mount_attr(ctypes.Structure):
    _fields_ = [
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    ]


class prctl_mm_map(ctypes.Structure):
    _fields_ = [
        ("start_code", ctypes.c_uint64),
        ("end_code", ctypes.c_uint64),
        ("start_data", ctypes.c_uint64),
        ("end_data", ctypes.c_uint64),
        ("start_brk", ctypes.c_uint64),
        ("brk", ctypes.c_uint64),
        ("start_stack", ctypes.c_uint64),
        ("arg_start", ctypes.c_uint64),
        ("arg_end", ctypes.c_uint64),
        ("env_start", ctypes.c_uint64),
        ("env_end", ctypes.c_uint64),
        ("auxv", ctypes.c_uint64),
        ("auxv_size", ctypes.c_uint32),
        ("exe_fd", ctypes.c_uint32),
    ]


class __user_cap_header_struct(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class __user_cap_data_struct(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


class bpf_attr_prog_load(ctypes.Structure):
    """The arm of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type` (Linux 4.17)."""

    _fields_ = [
        ("prog_type", ctypes.c_uint32),
        ("insn_cnt", ctypes.c_uint32),
        ("insns", ctypes.c_uint64),
        ("license", ctypes.c_uint64),
        ("log_level", ctypes.c_uint32),
        ("log_size", ctypes.c_uint32),
        ("log_buf", ctypes.c_uint64),
        ("kern_version", ctypes.c_uint32),
        ("prog_flags", ctypes.c_uint32),
        ("prog_name", ctypes.c_char * 16),
        ("prog_ifindex", ctypes.c_uint32),
        ("expected_attach_type", ctypes.c_uint32),
    ]


class bpf_attr_prog_attach(ctypes.Structure):
    """The arm for BPF_PROG_ATTACH and BPF_PROG_DETACH."""

    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_bpf_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
    ]


class bpf_attr_query(ctypes.Structure):
    _fields_ = [
        ("target_fd", ctypes.c_uint32),
        ("attach_type", ctypes.c_uint32),
        ("query_flags", ctypes.c_uint32),
        ("attach_flags", ctypes.c_uint32),
        ("prog_ids", ctypes.c_uint64),
        ("prog_cnt", ctypes.c_uint32),
        ("_pad", ctypes.c_uint32),
    ]


class bpf_attr_id(ctypes.Structure):
    _fields_ = [
        ("id", ctypes.c_uint32),
        ("next_id", ctypes.c_uint32),
        ("open_flags", ctypes.c_uint32),
    ]


class sock_filter(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


class sock_fprog(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


class statfs_t(ctypes.Structure):
    """`struct statfs` of 64-bit Linux; only `f_type` is read."""

    _fields_ = [("f_type", ctypes.c_long), ("_rest", ctypes.c_long * 31)]


_user_cap_header = __user_cap_header_struct
_user_cap_data = __user_cap_data_struct

libc = ctypes.CDLL(None, use_errno=True)
_bare_prctl = ctypes.PyDLL(None).prctl

_int, _long, _ulong, _str = ctypes.c_int, ctypes.c_long, ctypes.c_ulong, ctypes.c_char_p
_PROTOTYPES: dict[str, list[Any]] = {
    "capget": [ctypes.c_void_p, ctypes.c_void_p],
    "capset": [ctypes.c_void_p, ctypes.c_void_p],
    "fstatfs": [_int, ctypes.c_void_p],
    "getsockopt": [_int, _int, _int, ctypes.c_void_p, ctypes.c_void_p],
    "inotify_add_watch": [_int, _str, ctypes.c_uint32],
    "inotify_init1": [_int],
    "inotify_rm_watch": [_int, _int],
    "mount": [_str, _str, _str, _ulong, _str],
    "pivot_root": [_str, _str],
    "prctl": [_int, _ulong, _ulong, _ulong, _ulong],
    "renameat2": [_int, _str, _int, _str, ctypes.c_uint],
    "sbrk": [_long],
    "setdomainname": [_str, ctypes.c_size_t],
    "setns": [_int, _int],
    "signalfd": [_int, ctypes.c_void_p, _int],
    "syncfs": [_int],
    "umount2": [_str, _int],
    "unshare": [_int],
}
for _name, _argtypes in _PROTOTYPES.items():
    getattr(libc, _name).argtypes = _argtypes
# syscall(2) is variadic: every argument is widened to a long, as the kernel reads it.
libc.syscall.restype = _long
libc.sbrk.restype = _ulong


def oserror(filename: str | None = None) -> OSError:
    """The last failed call's errno as an exception to raise."""
    number = ctypes.get_errno()
    if filename is None:
        return OSError(number, os.strerror(number))
    return OSError(number, os.strerror(number), filename)


def _syscall(number: int, *args: int | bytes | Any, filename: str | None = None) -> int:
    wide = [_long(a) if isinstance(a, int) else a for a in args]
    result: int = libc.syscall(_long(number), *wide)
    if result < 0:
        raise oserror(filename)
    return result


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else os.fsencode(text)


def mount(
    source: str | None, target: str, fstype: str | None, flags: int, data: str | None
) -> None:
    if libc.mount(_bytes(source), _bytes(target), _bytes(fstype), flags, _bytes(data)) < 0:
        raise oserror(target)


def renameat2(olddirfd: int, oldpath: str, newdirfd: int, newpath: str, flags: int) -> None:
    if libc.renameat2(olddirfd, _bytes(oldpath), newdirfd, _bytes(newpath), flags) < 0:
        raise oserror(newpath)


def syncfs(fd: int) -> None:
    if libc.syncfs(fd) < 0:
        raise oserror()


def umount2(path: str, flags: int = 0) -> None:
    if libc.umount2(_bytes(path), flags) < 0:
        raise oserror(path)


def pivot_root(new_root: str, put_old: str) -> None:
    if libc.pivot_root(_bytes(new_root), _bytes(put_old)) < 0:
        raise oserror(new_root)


def unshare(flags: int) -> None:
    if libc.unshare(flags) < 0:
        raise oserror()


def setns(fd: int, nstype: int) -> None:
    if libc.setns(fd, nstype) < 0:
        raise oserror()


def setdomainname(name: str) -> None:
    text = name.encode()
    if libc.setdomainname(text, len(text)) < 0:
        raise oserror()


def malloc_trim() -> None:
    """Give the C library's free pages back to the kernel (malloc_trim(3)); glibc alone has it."""
    trim = getattr(libc, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    result: int = libc.prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise oserror()
    return result


def set_child_subreaper(value: bool) -> None:
    """prctl(PR_SET_CHILD_SUBREAPER), which cannot fail.

    Every monitor does it once. The usual way, with its conversions and errno, writes to ten pages
    that it would share with all others.
    """
    _bare_prctl(PR_SET_CHILD_SUBREAPER, value)


def set_name(name: str) -> None:
    """prctl(PR_SET_NAME): the thread's name, cut to 15 bytes by the kernel."""
    buffer = ctypes.create_string_buffer(name.encode()[:15])
    prctl(PR_SET_NAME, ctypes.addressof(buffer))


def fill(address: int, data: bytes, length: int) -> None:
    """`data` and then zeros, `length` bytes in all, into this process's memory."""
    ctypes.memset(address, 0, length)
    ctypes.memmove(address, data, min(len(data), length))


def show_arguments(layout: prctl_mm_map, line: bytes) -> object:
    """prctl(PR_SET_MM_MAP): what /proc shows as the command line; no environment any more.

    `layout` is this process's but for its break. What is returned must live as long as the process.
    """
    buffer = ctypes.create_string_buffer(line, len(line))
    changed = prctl_mm_map.from_buffer_copy(layout)
    changed.brk = libc.sbrk(0)
    changed.arg_start = ctypes.addressof(buffer)
    changed.arg_end = changed.arg_start + len(line)
    changed.env_end = changed.env_start
    prctl(PR_SET_MM, PR_SET_MM_MAP, ctypes.addressof(changed), ctypes.sizeof(changed))
    return buffer


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """A new close-on-exec descriptor. The kernel answers EAGAIN when a rename races a `..`."""
    how = open_how(flags | os.O_CLOEXEC, mode, resolve)
    return _syscall(
        NR_openat2,
        dirfd,
        _bytes(path),
        ctypes.byref(how),
        ctypes.sizeof(how),
        filename=path,
    )


def open_tree(dirfd: int, path: str, flags: int) -> int:
    return _syscall(NR_open_tree, dirfd, _bytes(path), flags | OPEN_TREE_CLOEXEC, filename=path)


def move_mount(from_dirfd: int, from_path: str, to_dirfd: int, to_path: str, flags: int) -> None:
    _syscall(
        NR_move_mount,
        from_dirfd,
        _bytes(from_path),
        to_dirfd,
        _bytes(to_path),
        flags,
        filename=to_path,
    )


def fsopen(fsname: str, flags: int = FSOPEN_CLOEXEC) -> int:
    return _syscall(NR_fsopen, _bytes(fsname), flags, filename=fsname)


def fsconfig(
    fd: int, cmd: int, key: str | None = None, value: str | None = None, aux: int = 0
) -> None:
    _syscall(NR_fsconfig, fd, cmd, _bytes(key), _bytes(value), aux, filename=key)


def fsmount(fd: int, flags: int = FSMOUNT_CLOEXEC, attr_flags: int = 0) -> int:
    return _syscall(NR_fsmount, fd, flags, attr_flags)


def mount_setattr(
    dirfd: int,
    path: str,
    flags: int,
    *,
    attr_set: int = 0,
    attr_clr: int = 0,
    propagation: int = 0,
    userns_fd: int = 0,
) -> None:
    attr = mount_attr(attr_set, attr_clr, propagation, userns_fd)
    _syscall(
        NR_mount_setattr,
        dirfd,
        _bytes(path),
        flags,
        ctypes.byref(attr),
        ctypes.sizeof(attr),
        filename=path,
    )


def close_range(first: int, last: int, flags: int = 0) -> None:
    _syscall(NR_close_range, first, last, flags)


def keyctl(operation: int, *args: int | bytes | None) -> int:
    return _syscall(NR_keyctl, operation, *args)


def seccomp(operation: int, flags: int, program: bytes) -> None:
    """Install a filter; `program` is an array of `struct sock_filter`."""
    code = ctypes.create_string_buffer(program, len(program))
    count = len(program) // ctypes.sizeof(sock_filter)
    fprog = sock_fprog(count, ctypes.addressof(code))
    _syscall(NR_seccomp, operation, flags, ctypes.byref(fprog))


def capget(pid: int = 0) -> tuple[int, int, int]:
    """(effective, permitted, inheritable) as bit sets."""
    header = _user_cap_header(_LINUX_CAPABILITY_VERSION_3, pid)
    data = (_user_cap_data * 2)()
    if libc.capget(ctypes.byref(header), ctypes.byref(data)) < 0:
        raise oserror()
    low, high = data
    return (
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(effective: int, permitted: int, inheritable: int) -> None:
    header = _user_cap_header(_LINUX_CAPABILITY_VERSION_3, 0)
    word = 0xFFFFFFFF
    data = (_user_cap_data * 2)(
        _user_cap_data(effective & word, permitted & word, inheritable & word),
        _user_cap_data(effective >> 32, permitted >> 32, inheritable >> 32),
    )
    if libc.capset(ctypes.byref(header), ctypes.byref(data)) < 0:
        raise oserror()


def fstatfs_type(fd: int) -> int:
    """The file system's magic number (`f_type`)."""
    buffer = statfs_t()
    if libc.fstatfs(fd, ctypes.byref(buffer)) < 0:
        raise oserror()
    return int(buffer.f_type)


def getsockopt(fd: int, level: int, optname: int, question: bytes, length: int) -> bytes:
    """For options that read `question` from the buffer before they write `length` bytes there."""
    buffer = ctypes.create_string_buffer(question, length)
    size = ctypes.c_uint32(length)
    if libc.getsockopt(fd, level, optname, buffer, ctypes.byref(size)) < 0:
        raise oserror()
    return buffer.raw[: size.value]


def signalfd(fd: int, signals: set[int], flags: int = SFD_CLOEXEC | SFD_NONBLOCK) -> int:
    """A descriptor that reads `struct signalfd_siginfo` (128 bytes) for each signal taken."""
    mask = sum(1 << (signo - 1) for signo in signals)
    # glibc's sigset_t is 128 bytes, musl's too; the kernel reads the first 8.
    buffer = ctypes.create_string_buffer(mask.to_bytes(8, "little"), 128)
    result: int = libc.signalfd(fd, buffer, flags)
    if result < 0:
        raise oserror()
    return result


def pidfd_send_signal(pidfd: int, signo: int) -> None:
    """The module `signal` has it too, but brings `enum` along."""
    _syscall(NR_pidfd_send_signal, pidfd, signo, 0, 0)


def _bpf(command: int, attr: ctypes.Structure) -> int:
    return _syscall(NR_bpf, command, ctypes.byref(attr), ctypes.sizeof(attr))


def bpf_prog_load(prog_type: int, instructions: bytes, *, license: str) -> int:
    """A new close-on-exec descriptor. `instructions` is an array of `struct bpf_insn`."""
    insns = ctypes.create_string_buffer(instructions, len(instructions))
    name = ctypes.create_string_buffer(license.encode())
    attr = bpf_attr_prog_load(
        prog_type=prog_type,
        insn_cnt=len(instructions) // 8,
        insns=ctypes.addressof(insns),
        license=ctypes.addressof(name),
    )
    return _bpf(BPF_PROG_LOAD, attr)


def bpf_prog_attach(target_fd: int, prog_fd: int, attach_type: int, flags: int) -> None:
    _bpf(BPF_PROG_ATTACH, bpf_attr_prog_attach(target_fd, prog_fd, attach_type, flags))


def bpf_prog_detach(target_fd: int, prog_fd: int, attach_type: int) -> None:
    _bpf(BPF_PROG_DETACH, bpf_attr_prog_attach(target_fd, prog_fd, attach_type, 0))


def bpf_prog_query(target_fd: int, attach_type: int) -> list[int]:
    """The ids of the programs attached to exactly this group (at most 64, the kernel's bound)."""
    ids = (ctypes.c_uint32 * 64)()
    attr = bpf_attr_query(
        target_fd=target_fd,
        attach_type=attach_type,
        prog_ids=ctypes.addressof(ids),
        prog_cnt=len(ids),
    )
    _bpf(BPF_PROG_QUERY, attr)
    return list(ids[: attr.prog_cnt])


def bpf_prog_get_fd_by_id(prog_id: int) -> int:
    return _bpf(BPF_PROG_GET_FD_BY_ID, bpf_attr_id(prog_id, 0, 0))


def inotify_init1(flags: int = IN_CLOEXEC | IN_NONBLOCK) -> int:
    result: int = libc.inotify_init1(flags)
    if result < 0:
        raise oserror()
    return result


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    result: int = libc.inotify_add_watch(fd, _bytes(path), mask)
    if result < 0:
        raise oserror(path)
    return result


def inotify_rm_watch(fd: int, wd: int) -> None:
    if libc.inotify_rm_watch(fd, wd) < 0:
        raise oserror()
