"""Control groups version 1: one directory in each hierarchy.

The unified tree of a hybrid host is left alone: moving a process there takes the kernel's global
lock for threads of all processes and with it some 6 ms, and no limit lives there.
"""

from __future__ import annotations

import errno
import os

from engine.linux.cgroup import end, file, limit, setup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from engine.linux.cgroup.limit import Setting

_MODE = 0o755


def _directory(controller: str, path: str) -> str | None:
    root = setup.roots().controllers.get(controller)
    return None if root is None else setup.join(root, path)


def directory(controller: str, path: str) -> str:
    """Raises FileNotFoundError where that controller is not mounted."""
    found = _directory(controller, path)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, f"cgroup controller {controller} is not mounted")
    return found


def directories(path: str) -> list[str]:
    """One a hierarchy."""
    return [setup.join(root, path) for root in setup.roots().hierarchies()]


def create(path: str) -> None:
    for root in setup.roots().hierarchies():
        for step in setup.parents(path):
            os.makedirs(setup.join(root, step), _MODE, exist_ok=True)
    _fill_cpuset(path)


def _fill_cpuset(path: str) -> None:
    """A new cpuset has no CPU and no node, and takes no process until it has: inherit them."""
    root = setup.roots().controllers.get("cpuset")
    if root is None:
        return
    above = root
    for step in setup.parents(path):
        group = setup.join(root, step)
        for name in ("cpuset.cpus", "cpuset.mems"):
            target = os.path.join(group, name)
            if not file.read(target).strip():
                file.write(target, file.read(os.path.join(above, name)).strip())
        above = group


def attach(path: str, pid: int) -> None:
    for group in directories(path):
        _write_pid(os.path.join(group, "cgroup.procs"), pid)


def _write_pid(target: str, pid: int) -> None:
    """EINVAL may only mean that the task is so new that it was never scheduled (runc knows it)."""
    for is_last in (False, False, False, False, True):
        try:
            return file.write(target, str(pid))
        except OSError as exc:
            if exc.errno != errno.EINVAL or is_last:
                raise
        file.wait_until(lambda: False, 0.005)


def enter(path: str) -> None:
    """Move the calling process, which has one thread.

    Writing 0 to "tasks" moves the caller alone, for which the kernel needs no lock that stops
    the forks and exits of all other processes.
    """
    for group in directories(path):
        file.write(os.path.join(group, "tasks"), "0")


def apply(path: str, settings: list[Setting]) -> None:
    for setting in settings:
        carry_out(path, setting, settings)


def carry_out(path: str, setting: Setting, settings: list[Setting]) -> None:
    """One of the settings, which may need to know of its partners."""
    target = os.path.join(directory(setting.controller, path), setting.file)
    _RULES.get(setting.file, _set_plain)(target, setting, settings)


def as_found(path: str, setting: Setting) -> Setting | None:
    group = _directory(setting.controller, path)
    return None if group is None else limit.as_found(group, setting)


def _set_plain(target: str, setting: Setting, _settings: list[Setting]) -> None:
    limit.carry_out(os.path.dirname(target), setting)


def _set_shares(target: str, setting: Setting, _settings: list[Setting]) -> None:
    """The kernel clamps what is out of range without a word."""
    limit.write(target, setting.value)
    asked, taken = int(setting.value), file.read_int(target)
    if asked != taken:
        bound = "maximum" if asked > taken else "minimum"
        raise limit.LimitError(errno.EINVAL, f"the {bound} allowed cpu-shares is {taken}")


def _set_period(target: str, setting: Setting, settings: list[Setting]) -> None:
    """A period that does not fit the old quota may fit the new one: try again after that."""
    _set_before(target, setting, settings, "cpu.cfs_quota_us")


def _set_rt_period(target: str, setting: Setting, settings: list[Setting]) -> None:
    _set_before(target, setting, settings, "cpu.rt_runtime_us")


def _set_before(target: str, setting: Setting, settings: list[Setting], partner: str) -> None:
    try:
        limit.write(target, setting.value)
    except limit.LimitError as exc:
        value = next((s.value for s in settings if s.file == partner), None)
        if exc.errno != errno.EINVAL or value is None:
            raise
        limit.write(os.path.join(os.path.dirname(target), partner), value)
        limit.write(target, setting.value)


def _set_memory(target: str, setting: Setting, settings: list[Setting]) -> None:
    """memory ≤ memory+swap must hold at every instant, so the side that grows goes first."""
    both = next((s.value for s in settings if s.file == "memory.memsw.limit_in_bytes"), None)
    group = os.path.dirname(target)
    if both is not None:
        wanted = file.UNLIMITED if both == "-1" else int(both)
        if wanted > file.read_int(target):
            limit.write(os.path.join(group, "memory.memsw.limit_in_bytes"), both)
    try:
        limit.write(target, setting.value)
    except limit.LimitError as exc:
        if exc.errno != errno.EBUSY:
            raise
        usage = file.read_int(os.path.join(group, "memory.usage_in_bytes"))
        peak = file.read_int(os.path.join(group, "memory.max_usage_in_bytes"))
        raise limit.LimitError(
            errno.EBUSY,
            f"unable to set memory limit to {setting.value} "
            f"(current usage: {usage}, peak usage: {peak})",
        ) from exc


_RULES = {
    "cpu.cfs_period_us": _set_period,
    "cpu.rt_period_us": _set_rt_period,
    "cpu.shares": _set_shares,
    "memory.limit_in_bytes": _set_memory,
}


def devices(path: str, commands: list[tuple[str, str]]) -> None:
    """`commands`: what to write to which of devices.allow and devices.deny, in order."""
    group = directory("devices", path)
    for name, rule in commands:
        limit.write(os.path.join(group, name), rule)


def kill(path: str, timeout_s: float) -> bool:
    """Frozen, no process can fork away from the signal, nor end and leave its pid to another."""

    def is_empty() -> bool:
        left = processes(path)
        if left:
            _freeze_for_a_moment(path)
            end.kill_all(lambda: processes(path))
        # Also thaws what was paused: a frozen process does not take even this signal.
        _thaw_if_there(path)
        return not left

    return file.wait_until(is_empty, timeout_s)


def _freeze_for_a_moment(path: str) -> None:
    try:
        freeze(path, 0.05)
    except (TimeoutError, FileNotFoundError):
        # One that waits for a disk does not freeze: the round after this one tries again. And
        # without a freezer the pidfds still see to it that no stranger is hit.
        return


def _thaw_if_there(path: str) -> None:
    try:
        thaw(path)
    except FileNotFoundError:
        return  # no freezer, or another teardown was faster


def freeze(path: str, timeout_s: float) -> None:
    """Raises TimeoutError, thawed again, when a process does not stop in time."""
    state = os.path.join(directory("freezer", path), "freezer.state")

    def is_frozen() -> bool:
        # A fork that races the freezer leaves it at FREEZING until it is asked again.
        file.write(state, "FROZEN")
        return file.read(state).strip() == "FROZEN"

    if not file.wait_until(is_frozen, timeout_s):
        file.write(state, "THAWED")
        raise TimeoutError(errno.ETIMEDOUT, "unable to freeze", state)


def thaw(path: str) -> None:
    file.write(os.path.join(directory("freezer", path), "freezer.state"), "THAWED")


def is_frozen(path: str) -> bool:
    group = _directory("freezer", path)
    return group is not None and "FR" in file.read_or(os.path.join(group, "freezer.state"), "")


def _process_group(path: str) -> str:
    """A hierarchy whose groups a container's own cgroup manager is least likely to rearrange."""
    for controller in ("devices", "freezer", "pids", "memory"):
        group = _directory(controller, path)
        if group is not None:
            return group
    return directories(path)[0]


def processes(path: str) -> list[int]:
    groups = file.descend(_process_group(path))
    return sorted({pid for group in groups for pid in file.pids_in(group)})


def remove(path: str, timeout_s: float) -> None:
    for group in directories(path):
        file.rmdir_tree(group, timeout_s)


def oom_count(path: str) -> int:
    """How often a process of this group was killed for want of memory (Linux 4.13)."""
    group = _directory("memory", path)
    if group is None:
        return 0
    return file.keyed(file.read_or(os.path.join(group, "memory.oom_control"), "")).get(
        "oom_kill", 0
    )
