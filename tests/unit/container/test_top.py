from __future__ import annotations

import asyncio
import os
import pty
import pwd
import signal
import sys
import threading
import time
from unittest import mock

import pytest

from engine.container import top
from engine.errors import InvalidParameter, WharfError

SELF = top.Process(
    pid=7,
    ppid=1,
    pgid=7,
    session=7,
    foreground=-1,
    uid=0,
    gid=0,
    state="S",
    tty="?",
    nice=0,
    priority=20,
    threads=1,
    flags=0x400100,
    processor=1,
    waits_in="hrtimer_nanosleep",
    cpu_s=3661,
    started_s=1000,
    virtual_bytes=2048,
    resident_bytes=1024,
    memory_total_bytes=4096,
    name="prog",
    command="prog arg",
    now_s=1000 + 90061,
)


def rows(arguments: str) -> dict[str, str]:
    shown = top.table(top.parse(arguments), [SELF])
    return dict(zip(shown.titles, shown.rows[0], strict=True))


def test_full_format_is_the_default() -> None:
    for arguments in ("", "-ef"):
        shown = rows(arguments)
        assert list(shown) == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
        assert (shown["PID"], shown["TIME"], shown["CMD"]) == ("7", "01:01:01", "prog arg")


def test_bsd_format() -> None:
    shown = rows("aux")
    assert (shown["VSZ"], shown["RSS"], shown["%MEM"]) == ("2", "1", "25.0")
    assert shown["TIME"] == "61:01"


@pytest.mark.parametrize(
    ("arguments", "titles"),
    [
        ("ax", "PID TTY STAT TIME COMMAND"),
        ("-ax", "PID TTY STAT TIME COMMAND"),
        ("-e", "PID TTY TIME CMD"),
        ("axl", "F UID PID PPID PRI NI VSZ RSS WCHAN STAT TTY TIME COMMAND"),
        ("axj", "PPID PID PGID SID TTY TPGID STAT UID TIME COMMAND"),
        ("-el", "F S UID PID PPID C PRI NI ADDR SZ WCHAN TTY TIME CMD"),
        ("-elf", "F S UID PID PPID C PRI NI ADDR SZ WCHAN STIME TTY TIME CMD"),
        ("-eF", "UID PID PPID C SZ RSS PSR STIME TTY TIME CMD"),
        ("-j", "PID PGID SID TTY TIME CMD"),
    ],
)
def test_letters_that_choose_columns(arguments: str, titles: str) -> None:
    assert list(rows(arguments)) == titles.split()


def test_the_long_format() -> None:
    shown = rows("axl")
    assert (shown["F"], shown["PRI"], shown["WCHAN"]) == ("4", "20", "hrtime")
    assert rows("-l")["PRI"] == "80"


@pytest.mark.parametrize(
    "arguments", ["-eo pid,comm", "-o pid:20,comm", "-eopid,comm", "-o pid -o comm", "o pid,comm"]
)
def test_chosen_columns(arguments: str) -> None:
    assert rows(arguments) == {"PID": "7", "COMMAND": "prog"}


def test_titles_may_be_renamed_but_not_into_a_pid() -> None:
    assert rows("-o pid,args=WHAT") == {"PID": "7", "WHAT": "prog arg"}
    with pytest.raises(InvalidParameter, match=r'^specifying "comm=PID" is not allowed$'):
        top.parse("-o pid -o comm=PID")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("-o pid,xxx", 'ps: error: unknown user-defined format specifier "xxx"'),
        ("-o comm", "Couldn't find PID field in ps output"),
        ("--nope", "ps: error: unknown gnu long option"),
        ("-T", "ps: error: unsupported SysV option"),
        ("Z!", "ps: error: unsupported option (BSD syntax)"),
    ],
)
def test_what_ps_refuses(arguments: str, sentence: str) -> None:
    with pytest.raises(WharfError) as caught:
        top.parse(arguments)
    assert str(caught.value) == sentence


def test_elapsed_time() -> None:
    assert rows("-o pid,etime")["ELAPSED"] == "1-01:01:01"


def test_what_has_gone_is_left_out() -> None:
    found = top.read([os.getpid(), 2**22 + 5])
    assert [process.pid for process in found] == [os.getpid()]
    assert found[0].started_s > 0


def test_the_letters_behind_a_state() -> None:
    """Of what leads a session in a terminal, and of its child that was put into the background."""
    pid, terminal = pty.fork()
    if pid == 0:
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(60)"])
        os.write(1, b"%d\n" % child)
        os.execv(sys.executable, [sys.executable, "-c", "import sys; sys.stdin.read()"])
    try:
        child = int(os.read(terminal, 100).split()[0])
        os.setpriority(os.PRIO_PROCESS, child, 5)
        deadline = time.monotonic() + 10
        shown: list[str] = []
        while shown != ["Ss+", "SN"] and time.monotonic() < deadline:
            shown = [found.state for found in top.read([pid, child])]
            time.sleep(0.02)
        assert shown == ["Ss+", "SN"]
        assert [found.foreground for found in top.read([pid, child])] == [pid, pid]
        os.kill(child, signal.SIGKILL)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(terminal)


def test_users_are_looked_up_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names may come from the network (nsswitch.conf), and take their time."""
    from engine.container.containers import Containers

    threads: list[threading.Thread] = []

    def look_up(uid: int) -> pwd.struct_passwd:
        threads.append(threading.current_thread())
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", look_up)
    monkeypatch.setattr(top, "read", lambda _: [SELF])
    monkeypatch.setattr("engine.container.containers.cgroup.processes", lambda _: [])
    monkeypatch.setattr("engine.container.containers.next_status", lambda *_, **__: None)
    monkeypatch.setattr("engine.container.containers.publish", lambda *_: None)
    containers = Containers.__new__(Containers)
    containers._rooms = mock.MagicMock()
    assert asyncio.run(containers.top("x", "-ef")).rows
    assert threads
    assert threading.main_thread() not in threads
