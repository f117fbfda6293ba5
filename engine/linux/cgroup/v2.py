"""Control groups version 2: one tree, its controllers enabled from the top down.

A group other than the root holds either processes or groups with controllers, never both ("no
internal process", admin-guide/cgroup-v2): containers are leaves, and so is the daemon.
"""

from __future__ import annotations

import errno
import os

from engine.linux import syscalls
from engine.linux.cgroup import device_program, end, file, limit, setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.linux.cgroup.device_policy import Policy
    from engine.linux.cgroup.limit import Setting

_MODE = 0o755


def root() -> str:
    unified = setup.roots().unified
    if unified is None:
        raise FileNotFoundError(errno.ENOENT, "no cgroup2 file system is mounted")
    return unified


def directory(path: str) -> str:
    return setup.join(root(), path)


def create(path: str) -> None:
    """Make the group and enable controllers all the way down.

    What lies above a delegated group is systemd's, which has enabled there what it grants.
    """
    steps = ["", *setup.parents(path)]
    delegated = next((index for index, step in enumerate(steps) if is_delegated(step)), 0)
    for index, step in enumerate(steps):
        os.makedirs(directory(step), _MODE, exist_ok=True)
        if delegated <= index < len(steps) - 1:
            enable_controllers(directory(step))


def is_delegated(path: str) -> bool:
    """systemd.resource-control(5), Delegate=: told by an attribute on the directory."""
    for name in ("trusted.delegate", "user.delegate"):
        try:
            return os.getxattr(directory(path), name) == b"1"
        except OSError as exc:
            if exc.errno not in (errno.ENODATA, errno.ENOTSUP, errno.EPERM, errno.ENOENT):
                raise
    return False


def enable_controllers(group: str) -> None:
    """Give the groups below all controllers that this one has.

    A controller that cannot be enabled (realtime threads for "cpu", say) is left out: setting a
    limit of it fails later, with its own reason.
    """
    has = set(file.read(os.path.join(group, "cgroup.controllers")).split())
    target = os.path.join(group, "cgroup.subtree_control")
    missing = sorted(has - set(file.read(target).split()))
    if not missing:
        return
    try:
        file.write(target, " ".join(f"+{name}" for name in missing))
    except OSError:
        for name in missing:
            _try_write(target, f"+{name}")


def _try_write(target: str, value: str) -> None:
    try:
        file.write(target, value)
    except OSError:
        return  # see enable_controllers


def attach(path: str, pid: int) -> None:
    """An own manager inside the container (systemd) may have made the group an inner one: then
    the process goes to where the container's others are."""
    group = directory(path)
    try:
        file.write(os.path.join(group, "cgroup.procs"), str(pid))
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        leaf = next((g for g in sorted(file.descend(group)) if file.pids_in(g)), None)
        if leaf is None:
            raise
        file.write(os.path.join(leaf, "cgroup.procs"), str(pid))


def enter(path: str) -> None:
    """`attach` of the calling process, which the kernel knows as 0."""
    attach(path, 0)


def apply(path: str, settings: list[Setting]) -> None:
    for setting in settings:
        carry_out(path, setting, settings)


def carry_out(path: str, setting: Setting, _settings: list[Setting]) -> None:
    limit.carry_out(directory(path), setting)


def as_found(path: str, setting: Setting) -> Setting | None:
    return limit.as_found(directory(path), setting)


def devices(path: str, policy: Policy) -> None:
    """The new program is attached before the old ones go: at no instant is there none.

    Several programs must all say yes, so in between both policies hold.
    """
    group = os.open(directory(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = syscalls.bpf_prog_query(group, syscalls.BPF_CGROUP_DEVICE)
        program = syscalls.bpf_prog_load(
            syscalls.BPF_PROG_TYPE_CGROUP_DEVICE,
            device_program.assemble(policy),
            license=device_program.LICENSE,
        )
        try:
            syscalls.bpf_prog_attach(
                group, program, syscalls.BPF_CGROUP_DEVICE, syscalls.BPF_F_ALLOW_MULTI
            )
        finally:
            os.close(program)
        for program_id in old:
            _detach(group, program_id)
    finally:
        os.close(group)


def _detach(group: int, program_id: int) -> None:
    program = syscalls.bpf_prog_get_fd_by_id(program_id)
    try:
        syscalls.bpf_prog_detach(group, program, syscalls.BPF_CGROUP_DEVICE)
    finally:
        os.close(program)


def _events(path: str) -> dict[str, int]:
    return file.keyed(file.read_or(os.path.join(directory(path), "cgroup.events"), ""))


def freeze(path: str, timeout_s: float) -> None:
    """Raises TimeoutError, thawed again, when a process does not stop in time."""
    group = directory(path)
    file.write(os.path.join(group, "cgroup.freeze"), "1")
    if not file.wait_until(lambda: is_frozen(path), timeout_s):
        thaw(path)
        raise TimeoutError(errno.ETIMEDOUT, "unable to freeze", group)


def thaw(path: str) -> None:
    file.write(os.path.join(directory(path), "cgroup.freeze"), "0")


def is_frozen(path: str) -> bool:
    return _events(path).get("frozen") == 1


def kill(path: str, timeout_s: float) -> bool:
    """`cgroup.kill` (Linux 5.14) reaches frozen processes and those just being forked."""
    target = os.path.join(directory(path), "cgroup.kill")

    def is_empty() -> bool:
        left = _events(path).get("populated") == 1
        if left and not os.path.exists(target):
            end.kill_all(lambda: processes(path))
        return not left

    _write_if_there(target, "1")
    return file.wait_until(is_empty, timeout_s)


def _write_if_there(target: str, value: str) -> None:
    try:
        file.write(target, value)
    except FileNotFoundError:
        return


def processes(path: str) -> list[int]:
    groups = file.descend(directory(path))
    return sorted({pid for group in groups for pid in file.pids_in(group)})


def remove(path: str, timeout_s: float) -> None:
    file.rmdir_tree(directory(path), timeout_s)


def oom_count(path: str) -> int:
    """How often a process of this group or one below was killed for want of memory."""
    events = file.read_or(os.path.join(directory(path), "memory.events"), "")
    return file.keyed(events).get("oom_kill", 0)
