"""Between fork and execve: how a process becomes the container's.

`run_container` and `run_exec` are called in a fresh child of the monitor and never return. Each is
a numbered sequence whose order is the content. From the moment the container's root is the
process's own, nothing is imported and no file is opened but by openat2 for a purpose named here:
whatever a path finds there belongs to the container. No descriptor above 2 survives the execve.

A failure before the execve travels to the monitor as `Failed`; one of the execve itself is written
to the container's stderr and ends it with 255, as with the reference runtime.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import signal
import socket
import stat
import struct

from engine.linux import capability, cgroup, mount, namespace, path, process, pty, syscalls, title
from engine.linux.oserror import reason
from engine.runtime import protocol
from engine.runtime.rootfs import Root, StepFailed, open_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn

    Json = dict[str, Any]

GO = b"g"
_EXEC_FAILED = 255
# Exit codes of a shell, which tini gives too.
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_INIT_PATH = "/sbin/docker-init"
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1
_ID_MAX = (1 << 31) - 1
_UMASK = 0o022
_PLAIN_JOIN = (
    syscalls.CLONE_NEWNS
    | syscalls.CLONE_NEWUTS
    | syscalls.CLONE_NEWIPC
    | syscalls.CLONE_NEWNET
    | syscalls.CLONE_NEWCGROUP
)


class Confinement:
    """What holds for every process of a container, read from its spec once."""

    __slots__ = ("cgroup_path", "flags", "identity", "process", "seccomp")

    def __init__(self, bundle: protocol.Bundle) -> None:
        self.identity = bundle.id
        self.process: Json = bundle.spec["process"]
        self.cgroup_path: str = bundle.spec.get("linux", {}).get("cgroupsPath") or ""
        self.seccomp = bundle.seccomp
        flags = bundle.seccomp_flags
        self.flags = syscalls.SECCOMP_FILTER_FLAG_SPEC_ALLOW if flags is None else flags


# The two sequences


def run_container(
    bundle: protocol.Bundle,
    sync: socket.socket,
    stdio: tuple[int, int, int],
    joined: dict[str, int],
) -> NoReturn:
    """Become PID 1 of a container, or its only process. `stdio` is unused with a terminal; `joined`
    are the namespaces of others that came as descriptors.
    """
    _guard(sync, lambda: _container(bundle, sync, stdio, joined))


def run_exec(
    confinement: Confinement,
    exec_process: Json,
    target: int,
    sync: socket.socket,
    stdio: tuple[int, int, int],
    *,
    tty: bool,
    console_size: list[int] | None,
) -> NoReturn:
    """Become one more process of the container whose first process is the pidfd `target`."""
    _guard(
        sync,
        lambda: _exec(confinement, exec_process, target, sync, stdio, tty, console_size),
    )


def _guard(sync: socket.socket, sequence: Callable[[], None]) -> NoReturn:
    """Nothing may unwind into the monitor's code: report and end here."""
    gc.disable()
    try:
        sequence()
    except StepFailed as exc:
        _report(sync, exc.step, exc.errno, str(exc))
    except OSError as exc:
        _report(sync, "init", exc.errno or 0, f"{exc.filename or 'init'}: {reason(exc)}")
    except BaseException as exc:
        _report(sync, "init", 0, f"{type(exc).__name__}: {exc}")
    os._exit(_EXEC_FAILED)


def _container(
    bundle: protocol.Bundle,
    sync: socket.socket,
    stdio: tuple[int, int, int],
    joined: dict[str, int],
) -> None:
    spec: Json = bundle.spec
    linux: Json = spec.get("linux") or {}
    namespaces: list[Json] = linux.get("namespaces") or []
    wanted: dict[str, str] = {str(n["type"]): str(n.get("path") or "") for n in namespaces}
    confinement = Confinement(bundle)

    # 1. A session of its own with nothing of the monitor's but its stdio.
    _leave_monitor(sync, None if bundle.tty else stdio, *joined.values())
    # 2. What lies on the host: group, OOM score, filter, security label. The cgroup comes before
    #    its namespace, which takes what the process is in for its root.
    _enter_cgroup(confinement.cgroup_path)
    host = _Host(confinement, spec["process"], stays=bundle.init)
    # 3. Namespaces: those of others are joined, the rest is new. The pid namespace was chosen
    #    by the monitor before the fork.
    _enter_namespaces(wanted, joined)
    _join_keyring(bundle.id)
    # 4. Names and interfaces of the new namespaces.
    _set_names(spec, wanted)
    if wanted.get("network") == "":
        _bring_up_loopback()
    # 5. The root, while the host's tree is still visible for the sources of mounts.
    has_cgroup_namespace = "cgroup" in wanted
    root = Root(
        spec["root"]["path"],
        has_cgroup_namespace=has_cgroup_namespace,
        cgroup_path=confinement.cgroup_path,
    )
    entries = spec.get("mounts") or ()
    root.take_shared(entries, bundle.subpaths)
    root.cut_off(linux.get("rootfsPropagation") or "")
    root.take_trees(entries, bundle.trees, bundle.subpaths)
    root.mount_root(bundle.rootfs)
    for entry in entries:
        root.add(entry, bundle.subpaths.get(entry["destination"], ""))
    if not _has_own_dev(spec):
        root.make_devices(linux.get("devices") or [])
    # 6. The terminal, from the container's devpts; the master goes to the monitor with Ready.
    master = terminal = -1
    if bundle.tty:
        master, terminal = root.open_console()
        _set_size(master, bundle.console_size)
    # 7. Kernel parameters, through a procfs of our own that nobody can have mounted over.
    _write_sysctls(linux.get("sysctl") or {})
    # 8. What is seen but not touched, the working directory, and the pivot.
    root.mask(linux.get("maskedPaths") or [])
    root.write_protect(linux.get("readonlyPaths") or [])
    _make_cwd(root.fd, spec["process"].get("cwd") or "/")
    root.seal()
    root.pivot(read_only=bool(spec["root"].get("readonly")))
    # 9. From here on every path is the container's.
    if terminal >= 0:
        pty.adopt(terminal)
        os.close(terminal)
    _become(confinement, spec["process"], host, sync, master, stays=bundle.init)


def _exec(
    confinement: Confinement,
    exec_process: Json,
    target: int,
    sync: socket.socket,
    stdio: tuple[int, int, int],
    tty: bool,
    console_size: list[int] | None,
) -> None:
    inherited: Json = {
        key: confinement.process[key]
        for key in ("capabilities", "noNewPrivileges", "rlimits", "oomScoreAdj", "apparmorProfile")
        if key in confinement.process
    }
    merged = {**inherited, **exec_process}
    # 1. As above; the pidfd stays for step 3.
    _leave_monitor(sync, None if tty else stdio, target)
    # 2. The group and what is read on the host.
    _enter_cgroup(confinement.cgroup_path)
    host = _Host(confinement, merged, stays=False)
    # 3. The namespaces, in one step by the pidfd: no path, no race with the pid's reuse.
    try:
        syscalls.setns(target, _PLAIN_JOIN)
    except OSError as exc:
        raise StepFailed.of("setns", "unable to join the container's namespaces", exc) from exc
    os.close(target)
    _join_keyring(confinement.identity)
    # 4. From here on every path is the container's.
    root = syscalls.openat2(syscalls.AT_FDCWD, "/", os.O_PATH | os.O_DIRECTORY)
    master = -1
    if tty:
        try:
            master, terminal = open_terminal(root)
        except OSError as exc:
            raise StepFailed.of("console", "error opening the console", exc) from exc
        _set_size(master, console_size)
        pty.adopt(terminal)
        os.close(terminal)
    os.close(root)
    _become(confinement, merged, host, sync, master, stays=False)


# Steps on the host's side


class _Host:
    """What must be read or opened while paths are still the host's."""

    __slots__ = ("label", "label_fd", "program")

    def __init__(self, confinement: Confinement, wanted: Json, *, stays: bool) -> None:
        self.program = b""
        if confinement.seccomp:
            with open(confinement.seccomp, "rb") as file:
                self.program = file.read()
        self.label, self.label_fd = _open_label(wanted, stays=stays)
        adjustment = wanted.get("oomScoreAdj")
        if adjustment is not None:
            _set_oom_score(adjustment)


def _leave_monitor(sync: socket.socket, stdio: tuple[int, int, int] | None, *keep: int) -> None:
    process.restore_signals()
    os.setsid()
    os.umask(0)
    if stdio is not None:
        # None of the three is below 3: the monitor holds 0, 1 and 2 itself.
        for standard, fd in enumerate(stdio):
            os.dup2(fd, standard, inheritable=True)
    process.keep_only([sync.fileno(), *keep])


def _enter_cgroup(where: str) -> None:
    if not where:
        return
    try:
        cgroup.enter(where)
    except OSError as exc:
        raise StepFailed.of("cgroup", "unable to join the container's cgroup", exc) from exc


def label_of(wanted: Json, *, stays: bool) -> tuple[str, list[str]]:
    """AppArmor's or SELinux's label: the text, and where to write it, the first that is there.

    It takes effect at the execve; an init that stays has none before it, so it changes over at
    once, and the program inherits that.
    """
    profile = wanted.get("apparmorProfile")
    if not profile:
        return wanted.get("selinuxLabel") or "", ["/proc/thread-self/attr/exec"]
    verb, name = ("changeprofile", "current") if stays else ("exec", "exec")
    # The second is shared by all security modules, and may be another's (Linux 5.1 has both).
    places = [f"/proc/thread-self/attr/{folder}{name}" for folder in ("apparmor/", "")]
    return f"{verb} {profile}", places


def _open_label(wanted: Json, *, stays: bool) -> tuple[str, int]:
    """The label and a descriptor to write it to, -1 for none."""
    label, places = label_of(wanted, stays=stays)
    if not label:
        return "", -1
    for place in places:
        try:
            fd = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        if syscalls.fstatfs_type(fd) != syscalls.PROC_SUPER_MAGIC:
            raise StepFailed("label", f"{place} is not on procfs")
        return label, fd
    raise StepFailed("label", "this kernel takes no security label")


def _set_oom_score(adjustment: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) != adjustment:
                file.seek(0)
                file.write(str(adjustment))
                file.flush()
    except OSError as exc:
        raise StepFailed.of("oom_score_adj", "write /proc/self/oom_score_adj", exc) from exc


def _enter_namespaces(wanted: dict[str, str], joined: dict[str, int]) -> None:
    new = 0
    for kind, where in wanted.items():
        if kind == "user":
            raise StepFailed("namespaces", "user namespaces are not supported by this runtime")
        if kind == "pid":
            continue
        if not where and kind not in joined:
            new |= namespace.flag(kind)
            continue
        try:
            fd = joined[kind] if kind in joined else namespace.open_file(where)
            syscalls.setns(fd, namespace.flag(kind))
            if kind not in joined:
                os.close(fd)
        except OSError as exc:
            what = f"failed to join {kind} namespace {where}"
            raise StepFailed.of("namespaces", what, exc) from exc
    for fd in joined.values():
        os.close(fd)
    try:
        syscalls.unshare(new)
    except OSError as exc:
        raise StepFailed.of("namespaces", "failed to unshare namespaces", exc) from exc


def _join_keyring(identity: str) -> None:
    """A session keyring of its own, so that no key of the host's session is reachable."""
    try:
        syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING, f"_ses.{identity}".encode())
    except OSError as exc:
        if exc.errno not in (errno.ENOSYS, errno.EDQUOT):
            raise StepFailed.of("keyring", "unable to join session keyring", exc) from exc


def _set_names(spec: Json, wanted: dict[str, str]) -> None:
    if wanted.get("uts") != "":
        return
    try:
        if spec.get("hostname"):
            socket.sethostname(spec["hostname"])
        if spec.get("domainname"):
            syscalls.setdomainname(spec["domainname"])
    except OSError as exc:
        raise StepFailed.of("hostname", "sethostname", exc) from exc


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = struct.pack("16sH14x", b"lo", 0)
        name, flags = struct.unpack("16sH14x", fcntl.ioctl(sock, _SIOCGIFFLAGS, request))
        fcntl.ioctl(sock, _SIOCSIFFLAGS, struct.pack("16sH14x", name, flags | _IFF_UP))


def _has_own_dev(spec: Json) -> bool:
    """The user bound a /dev of theirs: it is not ours to fill."""
    return any(
        entry["destination"].rstrip("/") == "/dev" and (entry.get("type") or "bind") == "bind"
        for entry in spec.get("mounts") or ()
    )


def _set_size(master: int, size: list[int] | None) -> None:
    if size and (size[0] or size[1]):
        pty.resize(master, size[0], size[1])


def _write_sysctls(sysctls: dict[str, str]) -> None:
    if not sysctls:
        return
    proc = mount.new_filesystem("proc")
    for key, value in sysctls.items():
        _write_sysctl(proc, key, value)
    os.close(proc)


def _write_sysctl(proc: int, key: str, value: str) -> None:
    where = "./sys/" + key.replace(".", "/")
    shown = f"fsmount:fscontext:proc/{where}"
    try:
        fd = path.open_beneath(proc, where, os.O_WRONLY)
    except OSError as exc:
        what = f"open sysctl {key} file: unsafe procfs detected: openat2 {shown}"
        raise StepFailed.of("sysctl", what, exc) from exc
    try:
        os.write(fd, value.encode())
    except OSError as exc:
        what = f'failed to write sysctl {key} = "{value}": write {shown}'
        raise StepFailed.of("sysctl", what, exc) from exc
    finally:
        os.close(fd)


def _make_cwd(root: int, cwd: str) -> None:
    try:
        os.close(path.mkdir_in_root(root, cwd))
    except OSError as exc:
        if exc.errno == errno.ENOTDIR:
            text = f"Cannot mkdir: {cwd} is not a directory"
            raise StepFailed("cwd", text, exc.errno) from exc
        # A working directory that is there but may not be entered is chdir's to judge.
        if exc.errno == errno.EROFS:
            there, missing = path.trace_in_root(root, cwd)
            first = "/".join(["", *there, *missing[:1]])
            raise StepFailed.of("cwd", f"mkdir {first}", exc) from exc
        if exc.errno not in (errno.EACCES, errno.EPERM):
            raise StepFailed.of("cwd", f"mkdir {cwd}", exc) from exc


# Steps on the container's side


def _become(
    confinement: Confinement,
    wanted: Json,
    host: _Host,
    sync: socket.socket,
    master: int,
    *,
    stays: bool,
) -> None:
    """The last steps: privileges fall away, the filter comes as late as possible, execve."""
    user = _User(wanted.get("user") or {})
    sets = _capability_sets(wanted.get("capabilities") or {})
    cwd = wanted.get("cwd") or "/"
    # 1. Limits while raising them is still allowed, and a null device of the container's own.
    _set_rlimits(wanted.get("rlimits") or [])
    _own_stdio(user)
    # 2. The working directory, as root, because its parents may be closed to the user; it is
    #    tried again as the user where root may not enter it (a network file system).
    entered = _chdir(cwd, final=False)
    # 3. The user. The permitted set is kept to install the filter.
    capability.limit_bounding(sets["bounding"])
    _set_user(user)
    if not entered:
        _chdir(cwd, final=True)
    _verify_cwd()
    os.umask(user.umask)
    if wanted.get("noNewPrivileges"):
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    # 4. The program is looked for as the user will find it: only with what stays effective.
    _effective, permitted, _inheritable = syscalls.capget()
    syscalls.capset(sets["effective"] & permitted, permitted, 0)
    environment = _environment(wanted)
    arguments: list[str] = wanted["args"]
    if stays:
        # What becomes PID 1 takes any command, and ends as a shell would where there is none.
        program = ""
        title.write([_INIT_PATH, "--", *arguments])
        syscalls.set_name(os.path.basename(_INIT_PATH))
    else:
        program = find_program(arguments[0], environment.get("PATH"))
    # 5. Ready: the monitor answers with one byte when it is time.
    _report_ready(sync, master)
    # 6. Label, filter, capabilities, execve.
    if host.label_fd >= 0:
        os.write(host.label_fd, host.label.encode())
        os.close(host.label_fd)
    if host.program:
        _load_filter(host.program, confinement.flags, sets, permitted)
    capability.set_sets(
        effective=sets["effective"],
        permitted=sets["permitted"],
        inheritable=sets["inheritable"],
        ambient=sets["ambient"],
    )
    if stays:
        _stay_as_init(sync, arguments, environment)
    _execve(program, arguments, environment)


def _set_rlimits(limits: list[Json]) -> None:
    for limit in limits:
        number = process.rlimit_number(limit["type"])
        soft, hard = int(limit["soft"]), int(limit["hard"])
        what = f"error setting rlimits for ready process: error setting rlimit type {number}"
        try:
            process.set_rlimit(number, soft, hard)
        except OSError as exc:
            raise StepFailed.of("rlimits", what, exc) from exc
        except ValueError as exc:
            # The resource module turns EPERM and EINVAL into ValueError.
            raised = soft <= hard or hard < 0
            code = errno.EPERM if raised else errno.EINVAL
            raise StepFailed("rlimits", f"{what}: {os.strerror(code).lower()}", code) from exc


def _own_stdio(user: _User) -> None:
    """The user may reopen stdio by /proc/self/fd; a null device becomes the container's."""
    null = -1
    for fd in (0, 1, 2):
        facts = os.fstat(fd)
        if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(1, 3):
            null = _open_null() if null < 0 else null
            if null >= 0:
                os.dup2(null, fd, inheritable=True)
            continue
        try:
            os.fchown(fd, user.uid, -1)
        except OSError as exc:
            # Sockets and files of read-only file systems stay as they are.
            if exc.errno not in (errno.EPERM, errno.EROFS, errno.EINVAL):
                raise StepFailed.of("stdio", "fchown", exc) from exc
    if null >= 0:
        os.close(null)


def _open_null() -> int:
    """The container's null device, -1 if it has none; never what only goes by that name."""
    try:
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        fd = syscalls.openat2(
            syscalls.AT_FDCWD, "/dev/null", flags, 0, syscalls.RESOLVE_NO_MAGICLINKS
        )
    except OSError:
        return -1
    facts = os.fstat(fd)
    if stat.S_ISCHR(facts.st_mode) and facts.st_rdev == os.makedev(1, 3):
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_RDWR)
        return fd
    os.close(fd)
    return -1


def _chdir(cwd: str, *, final: bool) -> bool:
    try:
        os.chdir(cwd)
    except PermissionError as exc:
        if not final:
            return False
        raise _cwd_failed(cwd, exc) from exc
    except OSError as exc:
        raise _cwd_failed(cwd, exc) from exc
    return True


def _cwd_failed(cwd: str, exc: OSError) -> StepFailed:
    return StepFailed.of("cwd", f'chdir to cwd ("{cwd}") set in config.json failed', exc)


def _verify_cwd() -> None:
    """A directory outside the root has no path here: the kernel says so, and libc ENOENT."""
    try:
        where = os.getcwd()
    except OSError as exc:
        text = "current working directory is outside of container mount namespace root"
        raise StepFailed("cwd", f"{text} -- possible container breakout detected") from exc
    if not where.startswith("/"):
        raise StepFailed("cwd", "current working directory is not absolute")


class _User:
    """Who the process is to be; a number that the kernel would cut is refused, never wrapped."""

    __slots__ = ("gid", "groups", "uid", "umask")

    def __init__(self, wanted: Json) -> None:
        self.uid, self.gid = int(wanted.get("uid") or 0), int(wanted.get("gid") or 0)
        self.groups = [int(group) for group in wanted.get("additionalGids") or ()]
        self.umask = int(wanted.get("umask", _UMASK))
        if not all(0 <= number <= _ID_MAX for number in (self.uid, self.gid, *self.groups)):
            raise StepFailed("user", "uids and gids must be in range 0-2147483647")


def _set_user(user: _User) -> None:
    try:
        capability.keep_across_setuid(True)
        os.setgroups(user.groups)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
        capability.keep_across_setuid(False)
    except OSError as exc:
        raise StepFailed.of("user", f"setup user {user.uid}:{user.gid}", exc) from exc


def _capability_sets(wanted: dict[str, list[str]]) -> dict[str, int]:
    try:
        return {
            kind: capability.to_set(wanted.get(kind) or ())
            for kind in ("bounding", "effective", "permitted", "inheritable", "ambient")
        }
    except KeyError as exc:
        raise StepFailed("capabilities", f"unknown capability {exc.args[0]}") from exc


def _environment(wanted: Json) -> dict[str, str]:
    """Later pairs win."""
    environment: dict[str, str] = {}
    for pair in wanted.get("env") or ():
        name, _, value = pair.partition("=")
        environment[name] = value
    return environment


def find_program(name: str, search: str | None) -> str:
    """Where execve finds it; fails with the sentences that clients pick exit codes by.

    A name with a slash is taken as it is, any other looked for in the container's PATH; a match in
    a relative entry of PATH is refused.
    """
    if "/" in name:
        problem = _not_executable(name)
        if problem:
            raise StepFailed("exec", f'exec: "{name}": {problem[1]}', problem[0])
        return name
    for folder in (search or "").split(":"):
        candidate = f"{folder or '.'}/{name}"
        if name and _not_executable(candidate) is None:
            if not candidate.startswith("/"):
                text = "cannot run executable found relative to current directory"
                raise StepFailed("exec", f'exec: "{name}": {text}', errno.EACCES)
            return candidate
    text = f'exec: "{name}": executable file not found in $PATH'
    raise StepFailed("exec", text, errno.ENOENT)


def _not_executable(where: str) -> tuple[int, str] | None:
    try:
        mode = os.stat(where).st_mode
    except OSError as exc:
        return exc.errno or errno.ENOENT, f"stat {where}: {reason(exc)}"
    if stat.S_ISDIR(mode):
        return errno.EACCES, "is a directory: permission denied"
    if not mode & 0o111 or not os.access(where, os.X_OK, effective_ids=True):
        return errno.EACCES, "permission denied"
    return None


def _load_filter(program: bytes, flags: int, sets: dict[str, int], permitted: int) -> None:
    # Loading needs no_new_privs or CAP_SYS_ADMIN: it is effective for this one call.
    effective = sets["effective"] & permitted
    admin = 1 << capability.number("CAP_SYS_ADMIN") & permitted
    syscalls.capset(effective | admin, permitted, 0)
    try:
        try:
            syscalls.seccomp(syscalls.SECCOMP_SET_MODE_FILTER, flags, program)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not flags:
                raise
            syscalls.seccomp(syscalls.SECCOMP_SET_MODE_FILTER, 0, program)
    except OSError as exc:
        raise StepFailed.of("seccomp", "unable to init seccomp", exc) from exc


def _execve(program: str, arguments: list[str], environment: dict[str, str]) -> NoReturn:
    try:
        os.execve(program, arguments, environment)
    except (OSError, ValueError) as exc:
        text = reason(exc) if isinstance(exc, OSError) else str(exc)
        os.write(2, f"exec {program}: {text}\n".encode("utf-8", "surrogateescape"))
    os._exit(_EXEC_FAILED)


def _stay_as_init(
    sync: socket.socket, arguments: list[str], environment: dict[str, str]
) -> NoReturn:
    """PID 1 that reaps and forwards signals; the program is its child, as with `--init`."""
    forwarded = set(signal.valid_signals()) - {
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGABRT,
        signal.SIGTRAP,
        signal.SIGSYS,
    }
    signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    child = os.fork()
    if child == 0:
        _take_foreground()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded)
        _execve(_program_of_init(arguments[0], environment), arguments, environment)
    # A shell in the background would be stopped by its own terminal; so would this process.
    signal.signal(signal.SIGTTIN, signal.SIG_IGN)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    sync.close()
    while True:
        signo = signal.sigwaitinfo(forwarded).si_signo
        if signo == signal.SIGCHLD:
            _reap_until(child)
        elif signo not in (signal.SIGTTIN, signal.SIGTTOU):
            try:
                os.kill(child, signo)
            except ProcessLookupError:
                continue  # it is a zombie: SIGCHLD follows


def _program_of_init(name: str, environment: dict[str, str]) -> str:
    """Where it is; ends the process where it is not, with tini's words and codes."""
    try:
        return find_program(name, environment.get("PATH"))
    except StepFailed as exc:
        text = f"[FATAL tini ({os.getpid()})] exec {name} failed: {os.strerror(exc.errno)}\n"
        os.write(2, text.encode("utf-8", "surrogateescape"))
        os._exit(_NOT_FOUND if exc.errno == errno.ENOENT else _NOT_EXECUTABLE)


def _take_foreground() -> None:
    """The program leads a process group of its own; on a terminal, the one in front."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        os.tcsetpgrp(0, os.getpgrp())
    except OSError:
        pass  # stdin is no terminal
    finally:
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)


def _reap_until(child: int) -> None:
    """Reap what has ended; end with the child's code once it has."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


# To the monitor


def _report_ready(sync: socket.socket, master: int) -> None:
    fds = [] if master < 0 else [master]
    data = protocol.encode(protocol.Ready(), len(fds))
    if fds:
        socket.send_fds(sync, [data], fds)
        os.close(master)
    else:
        sync.sendall(data)
    if sync.recv(1) != GO:
        os._exit(_EXEC_FAILED)  # the monitor is gone, or the container was given up


def _report(sync: socket.socket, step: str, number: int, text: str) -> None:
    with contextlib.suppress(OSError):  # nobody may be left to hear it
        sync.sendall(protocol.encode(protocol.Failed(step=step, errno=number, text=text), 0))
