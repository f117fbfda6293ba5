"""What /proc shows as a process's command line (proc_pid_cmdline(5)).

A fork has its parent's, and in a container that would tell of the host: its paths and how the
engine was started. `learn` is called once, while /proc is the host's; forks of that process may
then `write` another line wherever they are.
"""

from __future__ import annotations

from engine.linux import syscalls

_map: syscalls.prctl_mm_map | None = None
# The kernel points into the last one written.
_shown: object = None


def learn() -> None:
    """Find out where this process keeps its arguments and environment."""
    global _map
    with open("/proc/self/stat", encoding="utf-8") as file:
        # proc_pid_stat(5); the name, which may hold anything, ends with the last parenthesis.
        fields = (file.read().rpartition(")")[2]).split()
    field = {number: int(text) for number, text in enumerate(fields[1:], start=4)}
    _map = syscalls.prctl_mm_map(
        start_code=field[26],
        end_code=field[27],
        start_data=field[45],
        end_data=field[46],
        start_brk=field[47],
        start_stack=field[28],
        arg_start=field[48],
        arg_end=field[49],
        env_start=field[50],
        env_end=field[51],
        exe_fd=0xFFFFFFFF,
    )


def write(arguments: list[str]) -> None:
    """Show these arguments; the old ones and the environment are overwritten first.

    Where the kernel cannot show others (no CONFIG_CHECKPOINT_RESTORE) they take the place of the
    old ones, cut to that length.
    """
    global _shown
    if _map is None:
        return
    line = b"".join(argument.encode("utf-8", "surrogateescape") + b"\0" for argument in arguments)
    length = _map.arg_end - _map.arg_start
    syscalls.fill(_map.arg_start, line[: length - 1], length)
    syscalls.fill(_map.env_start, b"", _map.env_end - _map.env_start)
    try:
        _shown = syscalls.show_arguments(_map, line)
    except OSError:
        return
