"""`docker top`: the processes of a container as ps(1) shows them, read from /proc.

No ps is called: the host may have none. The forms people use are known: `-ef`, `aux`, `-l`, `axj`
and the like, `-o` with columns; others are refused in ps's words.
"""

from __future__ import annotations

import os
import pwd
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from engine.container.model import Processes
from engine.errors import EngineError, InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_RENAMED_PID = re.compile(r"\s+([^\s]*)=\s*(PID[^\s]*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process; times in seconds, sizes in bytes. `started_s` is since the epoch."""

    pid: int
    ppid: int
    pgid: int
    session: int
    foreground: int  # the process group that its terminal listens to; -1 without one
    uid: int
    gid: int
    state: str
    tty: str
    nice: int
    priority: int
    threads: int
    flags: int  # the kernel's PF_ flags
    processor: int  # the last it ran on
    waits_in: str  # the kernel's function; "-" if it runs
    cpu_s: float
    started_s: float
    virtual_bytes: int
    resident_bytes: int
    memory_total_bytes: int
    name: str
    command: str
    now_s: float


def read(pids: Iterable[int]) -> list[Process]:
    """The processes that still are; one that ends meanwhile is left out. Blocks for /proc."""
    boot_s, now_s, total = _boot_time(), time.time(), _memory_total()
    found = [_read_one(pid, boot_s, now_s, total) for pid in sorted(pids)]
    return [process for process in found if process is not None]


def _read_one(pid: int, boot_s: float, now_s: float, total: int) -> Process | None:
    try:
        stat = _read(f"/proc/{pid}/stat")
        lines = (line.partition(":\t") for line in _read(f"/proc/{pid}/status").split("\n"))
        status = {key: value for key, _, value in lines}
        command = _read(f"/proc/{pid}/cmdline").replace("\0", " ").strip()
        waits_in = _read(f"/proc/{pid}/wchan")
    except (FileNotFoundError, ProcessLookupError):
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    return Process(
        pid=pid,
        ppid=int(fields[1]),
        pgid=int(fields[2]),
        session=int(fields[3]),
        foreground=int(fields[5]),
        uid=int(status["Uid"].split()[1]),
        gid=int(status["Gid"].split()[1]),
        state=_state(pid, fields),
        tty=_tty(int(fields[4])),
        nice=int(fields[16]),
        priority=int(fields[15]),
        threads=int(fields[17]),
        flags=int(fields[6]),
        processor=int(fields[36]),
        waits_in="-" if waits_in in ("", "0") else waits_in,
        cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS,
        started_s=boot_s + int(fields[19]) / _TICKS,
        virtual_bytes=int(fields[20]),
        resident_bytes=int(fields[21]) * _PAGE,
        memory_total_bytes=total,
        name=name,
        command=command or f"[{name}]",
        now_s=now_s,
    )


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _state(pid: int, fields: list[str]) -> str:
    """ps's letters behind the state: s leads its session, l has threads, + is in front."""
    group, session, foreground, nice = (int(fields[at]) for at in (2, 3, 5, 16))
    return (
        fields[0]
        + ("<" if nice < 0 else "N" if nice > 0 else "")
        + ("s" if session == pid else "")
        + ("l" if int(fields[17]) > 1 else "")
        + ("+" if group == foreground else "")
    )


def _tty(number: int) -> str:
    if number == 0:
        return "?"
    major, minor = os.major(number), os.minor(number)
    return f"pts/{minor + (major - 136) * 256}" if 136 <= major <= 143 else f"tty{minor}"


def _boot_time() -> float:
    for line in _read("/proc/stat").split("\n"):
        if line.startswith("btime "):
            return float(line.split()[1])
    return 0.0


def _memory_total() -> int:
    return int(_read("/proc/meminfo").split()[1]) * 1024


# Columns


def _user(p: Process) -> str:
    """The host's name for the id, as ps would show it; long ones are cut with a +."""
    try:
        name = pwd.getpwuid(p.uid).pw_name
    except KeyError:
        return str(p.uid)
    return name if len(name) <= 8 else f"{name[:7]}+"


def _clock(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"


def _elapsed(p: Process) -> str:
    whole = max(0, int(p.now_s - p.started_s))
    days, clock = divmod(whole, 86400)
    text = f"{clock // 60 % 60:02}:{clock % 60:02}"
    if days or clock >= 3600:
        text = f"{clock // 3600:02}:{text}"
    return f"{days}-{text}" if days else text


def _started(p: Process) -> str:
    began, now = time.localtime(p.started_s), time.localtime(p.now_s)
    if p.now_s - p.started_s < 86400:
        return time.strftime("%H:%M", began)
    return time.strftime("%b%d" if began.tm_year == now.tm_year else "%Y", began)


def _cpu_share(p: Process) -> float:
    alive = p.now_s - p.started_s
    return 100 * p.cpu_s / alive if alive > 0 else 0.0


Column = tuple[str, "Callable[[Process], str]"]

# Name in -o → title, value.
_COLUMNS: dict[str, Column] = {
    "pid": ("PID", lambda p: str(p.pid)),
    "ppid": ("PPID", lambda p: str(p.ppid)),
    "pgid": ("PGID", lambda p: str(p.pgid)),
    "pgrp": ("PGRP", lambda p: str(p.pgid)),
    "sid": ("SID", lambda p: str(p.session)),
    "tpgid": ("TPGID", lambda p: str(p.foreground)),
    "sess": ("SESS", lambda p: str(p.session)),
    "uid": ("UID", lambda p: str(p.uid)),
    "euid": ("EUID", lambda p: str(p.uid)),
    "gid": ("GID", lambda p: str(p.gid)),
    "egid": ("EGID", lambda p: str(p.gid)),
    "user": ("USER", _user),
    "euser": ("EUSER", _user),
    "uname": ("USER", _user),
    "ruser": ("RUSER", _user),
    "s": ("S", lambda p: p.state[0]),
    "state": ("S", lambda p: p.state[0]),
    "stat": ("STAT", lambda p: p.state),
    "tty": ("TT", lambda p: p.tty),
    "tt": ("TT", lambda p: p.tty),
    "ni": ("NI", lambda p: str(p.nice)),
    "nice": ("NI", lambda p: str(p.nice)),
    "pri": ("PRI", lambda p: str(39 - p.priority)),
    "nlwp": ("NLWP", lambda p: str(p.threads)),
    "thcount": ("THCNT", lambda p: str(p.threads)),
    "c": ("C", lambda p: str(int(_cpu_share(p)))),
    "pcpu": ("%CPU", lambda p: f"{_cpu_share(p):.1f}"),
    "%cpu": ("%CPU", lambda p: f"{_cpu_share(p):.1f}"),
    "pmem": ("%MEM", lambda p: f"{100 * p.resident_bytes / p.memory_total_bytes:.1f}"),
    "%mem": ("%MEM", lambda p: f"{100 * p.resident_bytes / p.memory_total_bytes:.1f}"),
    "vsz": ("VSZ", lambda p: str(p.virtual_bytes // 1024)),
    "vsize": ("VSZ", lambda p: str(p.virtual_bytes // 1024)),
    "rss": ("RSS", lambda p: str(p.resident_bytes // 1024)),
    "rssize": ("RSS", lambda p: str(p.resident_bytes // 1024)),
    "wchan": ("WCHAN", lambda p: p.waits_in[:6]),
    "f": ("F", lambda p: str(p.flags >> 6 & 7)),
    "psr": ("PSR", lambda p: str(p.processor)),
    "stime": ("STIME", _started),
    "start": ("STARTED", lambda p: time.strftime("%H:%M:%S", time.localtime(p.started_s))),
    "start_time": ("START", _started),
    "bsdstart": ("START", _started),
    "lstart": ("STARTED", lambda p: time.ctime(p.started_s)),
    "etime": ("ELAPSED", _elapsed),
    "etimes": ("ELAPSED", lambda p: str(max(0, int(p.now_s - p.started_s)))),
    "time": ("TIME", lambda p: _clock(p.cpu_s)),
    "cputime": ("TIME", lambda p: _clock(p.cpu_s)),
    "bsdtime": ("TIME", lambda p: _minutes(p.cpu_s)),
    "comm": ("COMMAND", lambda p: p.name),
    "ucmd": ("CMD", lambda p: p.name),
    "ucomm": ("COMMAND", lambda p: p.name),
    "args": ("COMMAND", lambda p: p.command),
    "cmd": ("CMD", lambda p: p.command),
    "command": ("COMMAND", lambda p: p.command),
}

_FULL: tuple[Column, ...] = (
    ("UID", _user),
    ("PID", lambda p: str(p.pid)),
    ("PPID", lambda p: str(p.ppid)),
    ("C", lambda p: str(int(_cpu_share(p)))),
    ("STIME", _started),
    ("TTY", lambda p: p.tty),
    ("TIME", lambda p: _clock(p.cpu_s)),
    ("CMD", lambda p: p.command),
)
_FULLER: tuple[Column, ...] = (
    *_FULL[:4],
    ("SZ", lambda p: str(p.virtual_bytes // _PAGE)),
    ("RSS", lambda p: str(p.resident_bytes // 1024)),
    ("PSR", lambda p: str(p.processor)),
    *_FULL[4:],
)
_LONG: tuple[Column, ...] = (
    ("F", lambda p: str(p.flags >> 6 & 7)),
    ("S", lambda p: p.state[0]),
    ("UID", lambda p: str(p.uid)),
    *_FULL[1:4],
    ("PRI", lambda p: str(p.priority + 60)),
    ("NI", lambda p: str(p.nice)),
    ("ADDR", lambda p: "-"),
    ("SZ", lambda p: str(p.virtual_bytes // _PAGE)),
    ("WCHAN", lambda p: p.waits_in[:6]),
    ("TTY", lambda p: p.tty),
    ("TIME", lambda p: _clock(p.cpu_s)),
    ("CMD", lambda p: p.name),
)
_LONG_AND_FULL: tuple[Column, ...] = (*_LONG[:2], _FULL[0], *_LONG[3:11], *_FULL[4:])
_JOBS: tuple[Column, ...] = (
    ("PID", lambda p: str(p.pid)),
    ("PGID", lambda p: str(p.pgid)),
    ("SID", lambda p: str(p.session)),
    ("TTY", lambda p: p.tty),
    ("TIME", lambda p: _clock(p.cpu_s)),
    ("CMD", lambda p: p.name),
)
_SHORT: tuple[Column, ...] = (
    ("PID", lambda p: str(p.pid)),
    ("TTY", lambda p: p.tty),
    ("TIME", lambda p: _clock(p.cpu_s)),
    ("CMD", lambda p: p.name),
)
_BSD: tuple[Column, ...] = (
    ("PID", lambda p: str(p.pid)),
    ("TTY", lambda p: p.tty),
    ("STAT", lambda p: p.state),
    ("TIME", lambda p: _minutes(p.cpu_s)),
    ("COMMAND", lambda p: p.command),
)
_BSD_LONG: tuple[Column, ...] = (
    ("F", lambda p: str(p.flags >> 6 & 7)),
    ("UID", lambda p: str(p.uid)),
    ("PID", lambda p: str(p.pid)),
    ("PPID", lambda p: str(p.ppid)),
    ("PRI", lambda p: str(p.priority)),
    ("NI", lambda p: str(p.nice)),
    ("VSZ", lambda p: str(p.virtual_bytes // 1024)),
    ("RSS", lambda p: str(p.resident_bytes // 1024)),
    ("WCHAN", lambda p: p.waits_in[:6]),
    ("STAT", lambda p: p.state),
    ("TTY", lambda p: p.tty),
    *_BSD[3:],
)
_BSD_JOBS: tuple[Column, ...] = (
    ("PPID", lambda p: str(p.ppid)),
    *_JOBS[:4],
    ("TPGID", lambda p: str(p.foreground)),
    ("STAT", lambda p: p.state),
    ("UID", lambda p: str(p.uid)),
    *_BSD[3:],
)
_BSD_USERS: tuple[Column, ...] = (
    ("USER", _user),
    ("PID", lambda p: str(p.pid)),
    ("%CPU", lambda p: f"{_cpu_share(p):.1f}"),
    ("%MEM", lambda p: f"{100 * p.resident_bytes / p.memory_total_bytes:.1f}"),
    ("VSZ", lambda p: str(p.virtual_bytes // 1024)),
    ("RSS", lambda p: str(p.resident_bytes // 1024)),
    ("TTY", lambda p: p.tty),
    ("STAT", lambda p: p.state),
    ("START", _started),
    ("TIME", lambda p: _minutes(p.cpu_s)),
    ("COMMAND", lambda p: p.command),
)


def parse(arguments: str) -> tuple[Column, ...]:
    """The columns that ps's arguments ask for; raises what ps says of those it does not know."""
    for group in _RENAMED_PID.finditer(" " + arguments):
        if group[1] != "pid":
            raise InvalidParameter(f'specifying "{group[1]}={group[2]}" is not allowed')
    words = arguments.split() or ["-ef"]
    formats: list[str] = []
    columns: tuple[Column, ...] = _SHORT
    while words:
        word = words.pop(0)
        flags, attached = _split_format(word)
        if attached is not None:
            formats.append(attached or (words.pop(0) if words else ""))
        columns = _by_flags(flags, columns)
    return _by_formats(formats) if formats else columns


def _split_format(word: str) -> tuple[str, str | None]:
    """("-e", "pid") of `-eopid`, ("-e", "") of `-eo`; None where no format is named."""
    if word.startswith("--"):
        name, separator, value = word.partition("=")
        if name == "--format":
            return "", value if separator else ""
        raise EngineError("ps: error: unknown gnu long option")
    flags, has_format, value = word.partition("o")
    return flags, value if has_format else None


def _by_flags(flags: str, columns: tuple[Column, ...]) -> tuple[Column, ...]:
    """The set of columns that a word of letters chooses; letters that choose processes do not."""
    letters = flags.removeprefix("-")
    unknown = set(letters) - set("aAdefFgHjlNuwx")
    if unknown:
        what = "SysV option" if flags.startswith("-") else "option (BSD syntax)"
        raise EngineError(f"ps: error: unsupported {what}")
    if not letters:
        return columns
    known: tuple[tuple[str, tuple[Column, ...]], ...]
    if not flags.startswith("-"):
        known = (("u", _BSD_USERS), ("l", _BSD_LONG), ("j", _BSD_JOBS), ("", _BSD))
    elif "l" in letters and "f" in letters:
        return _LONG_AND_FULL
    else:
        known = (("l", _LONG), ("F", _FULLER), ("f", _FULL), ("j", _JOBS), ("x", _BSD))
    return next((found for letter, found in known if letter in letters), columns)


def _by_formats(formats: list[str]) -> tuple[Column, ...]:
    chosen: list[Column] = []
    for text in formats:
        for part in text.split(","):
            name, separator, title = part.partition("=")
            name = name.partition(":")[0]  # behind it is a width
            if name not in _COLUMNS:
                raise EngineError(f'ps: error: unknown user-defined format specifier "{name}"')
            own, value = _COLUMNS[name]
            chosen.append((title if separator else own, value))
    if not any(title == "PID" for title, _ in chosen):
        raise EngineError("Couldn't find PID field in ps output")
    return tuple(chosen)


def table(columns: tuple[Column, ...], processes: Iterable[Process]) -> Processes:
    """Looks up users on the host, and blocks for that."""
    return Processes(
        titles=tuple(title for title, _ in columns),
        rows=tuple(tuple(value(p) for _, value in columns) for p in processes),
    )
