"""Processes: what one inherits, may use, and how it ended."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal

from engine.linux import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_LAST_FD = 0xFFFFFFFF
_ALL_SIGNALS = range(1, signal.NSIG)
# A terminal's Ctrl-C and hang-up are for the daemon; a broken pipe and a file that may not grow are
# errors of a call.
_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ)


def keep_only(fds: Iterable[int]) -> None:
    """Close every descriptor above 2 but these."""
    first = 3
    for fd in sorted(set(fds)):
        if fd > first:
            syscalls.close_range(first, fd - 1)
        first = max(first, fd + 1)
    syscalls.close_range(first, _LAST_FD)


def settle_signals() -> None:
    """Default actions for all but what this process and its forks must not die of."""
    for signo in _ALL_SIGNALS:
        if signo in (signal.SIGKILL, signal.SIGSTOP):
            continue
        with contextlib.suppress(OSError, ValueError):  # glibc keeps 32 and 33 for itself
            signal.signal(signo, signal.SIG_DFL)
    for signo in _IGNORED:
        signal.signal(signo, signal.SIG_IGN)


def restore_signals() -> None:
    """Undo `settle_signals` before an execve: what is ignored or blocked stays so across it."""
    for signo in _IGNORED:
        signal.signal(signo, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def rlimit_number(name: str) -> int:
    """RLIMIT_NOFILE → 7; raises ValueError."""
    number = getattr(resource, name, None)
    if not name.startswith("RLIMIT_") or not isinstance(number, int):
        raise ValueError(f"invalid rlimit type: {name}")
    return number


def set_rlimit(number: int, soft: int, hard: int) -> None:
    """Limits beyond what a signed long holds mean no limit."""

    def clamp(value: int) -> int:
        return resource.RLIM_INFINITY if value < 0 or value >= 1 << 63 else value

    resource.setrlimit(number, (clamp(soft), clamp(hard)))


def reap(pidfd: int) -> int | None:
    """The wait status of a child that ended, as an exit code: 128 + n after signal n."""
    result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status


def has_ended(pidfd: int) -> bool:
    return wait(pidfd, 0)


def wait(pidfd: int, timeout_s: float) -> bool:
    """Whether the process has ended by then."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def send_signal(pidfd: int, signo: int) -> bool:
    """False when the process has ended."""
    try:
        signal.pidfd_send_signal(pidfd, signo)
    except ProcessLookupError:
        return False
    return True
