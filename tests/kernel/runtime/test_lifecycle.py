"""Containers begin, speak and end, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest

from engine.linux import cgroup
from engine.runtime.client import Entry, Exit, MonitorUnreached, Runtime, RuntimeFailure
from engine.runtime.protocol import Channel
from tests.kernel.runtime.harness import (
    Box,
    Recorder,
    attach,
    is_alive,
    read_all,
    read_until,
    size_of,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    InBox = Callable[[Any], Any]


def test_exit_code_and_both_streams_reach_the_log(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        code, output = await box.run("sh", "-c", "echo out; echo err >&2; exit 7")
        assert code == 7
        assert sorted(output.split()) == ["err", "out"]

    in_box(scenario)


def test_a_signal_ends_with_128_more(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        await task.signal(signal.SIGKILL)
        exit = await asyncio.wait_for(box.events.exit_of(bundle.id), 5)
        assert (exit.code, exit.signal, exit.oom) == (137, 9, False)
        with pytest.raises(ProcessLookupError):
            await task.signal(signal.SIGTERM)

    in_box(scenario)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["foo"], 'exec: "foo": executable file not found in $PATH'),
        (["/x"], 'exec: "/x": stat /x: no such file or directory'),
        (["/etc"], 'exec: "/etc": is a directory: permission denied'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied'),
        (["./foo"], 'exec: "./foo": stat ./foo: no such file or directory'),
        ([""], 'exec: "": executable file not found in $PATH'),
    ],
)
def test_a_program_that_cannot_run_fails_the_creation(
    in_box: InBox, args: list[str], sentence: str
) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle(*args)
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        assert str(failure.value) == sentence
        assert failure.value.step == "exec"
        assert not cgroup.exists(bundle.spec["linux"]["cgroupsPath"])

    in_box(scenario)


def test_a_file_that_is_no_program_ends_with_255(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        (box.lower / "bin" / "bad").write_bytes(b"\x00\x01")
        (box.lower / "bin" / "bad").chmod(0o755)
        assert await box.run("/bin/bad") == (255, "exec /bin/bad: exec format error\n")

    in_box(scenario)


def test_stdin_passes_byte_for_byte(in_box: InBox) -> None:
    payload = os.urandom(1 << 20) * 64

    async def scenario(box: Box) -> None:
        bundle = box.bundle("cat", open_stdin=True, stdin_once=True)
        bundle.log = {"driver": "none"}
        attachment, client = attach(prefix=payload[:10])
        await box.start(bundle, attachment)
        with client:
            reading = asyncio.create_task(read_all(client, 60))
            await asyncio.get_running_loop().sock_sendall(client, payload[10:])
            client.shutdown(socket.SHUT_WR)
            back = await reading
        assert hashlib.sha256(back).digest() == hashlib.sha256(payload).digest()
        assert (await box.events.exit_of(bundle.id)).code == 0

    in_box(scenario)


def test_output_after_the_half_close_still_arrives(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle(
            "sh", "-c", "cat; sleep 0.3; echo late", open_stdin=True, stdin_once=True
        )
        attachment, client = attach(multiplexed=True)
        await box.start(bundle, attachment)
        with client:
            client.send(b"early\n")
            client.shutdown(socket.SHUT_WR)
            data = await read_all(client)
        assert data == b"\1\0\0\0\0\0\0\6early\n\1\0\0\0\0\0\0\5late\n"

    in_box(scenario)


def test_without_stdin_the_program_reads_nothing(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        assert await box.run("wc", "-c") == (0, "0\n")

    in_box(scenario)


def test_a_terminal_has_its_size_and_controls_its_session(in_box: InBox) -> None:
    script = "stty size; trap 'stty size; exit 5' WINCH; tty; while :; do sleep 0.1; done"

    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", script, tty=True, open_stdin=True, console_size=[30, 100])
        attachment, client = attach()
        task = await box.start(bundle, attachment)
        with client:
            seen = await read_until(client, b"\n/dev/")
            assert b"30 100" in seen
            await task.resize(40, 120)
            assert b"40 120" in await read_until(client, b"40 120")
        assert (await box.events.exit_of(bundle.id)).code == 5

    in_box(scenario)


def test_ctrl_c_reaches_the_foreground_of_a_terminal(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "echo on; sleep 100; echo $?", tty=True, open_stdin=True)
        attachment, client = attach()
        await box.start(bundle, attachment)
        with client:
            await read_until(client, b"on")
            client.send(b"\x03")
            await read_all(client)
        assert (await box.events.exit_of(bundle.id)).code == 130

    in_box(scenario)


def test_detach_keys_end_the_attachment_alone(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("cat", tty=True, open_stdin=True)
        attachment, client = attach(detach_keys=b"ab")
        task = await box.start(bundle, attachment)
        with client:
            client.send(b"xa")
            client.send(b"ya")
            assert await read_until(client, b"xay") == b"xay"
            client.send(b"b")
            assert await read_all(client) == b""
        await until(lambda: box.events.detaches == [None])
        late, again = attach()
        await task.attach(late)
        with again:
            again.send(b"more\n")
            await read_until(again, b"more\r\nxaymore\r\n")
        await task.signal(signal.SIGKILL)
        await box.events.exit_of(bundle.id)

    in_box(scenario)


def test_several_clients_see_the_same(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "read x; seq 20000", open_stdin=True, stdin_once=True)
        pairs = [attach(stdin=False) for _ in range(3)]
        driver, stdin = attach(stdout=False, stderr=False)
        await box.start(bundle, driver, *(one for one, _ in pairs))
        stdin.send(b"go\n")
        outputs = await asyncio.gather(*(read_all(client) for _, client in pairs))
        wanted = "".join(f"{n}\n" for n in range(1, 20001)).encode()
        assert outputs == [wanted] * 3
        await box.events.exit_of(bundle.id)
        assert box.output(bundle).encode() == wanted
        stdin.close()
        for _, client in pairs:
            client.close()

    in_box(scenario)


def test_a_client_that_does_not_read_costs_no_byte(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "yes 0123456789 | head -c 8000000")
        attachment, client = attach(stdin=False)
        await box.start(bundle, attachment)
        with client:
            await asyncio.sleep(0.5)
            assert not box.events.exit_of(bundle.id).done()
            data = await read_all(client)
        assert len(data) == 8000000
        await box.events.exit_of(bundle.id)
        assert size_of(bundle.log["path"]) > 8000000

    in_box(scenario)


def test_exec_runs_beside_with_its_own_streams_and_code(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        attachment, client = attach(multiplexed=True)
        process = {
            "args": ["sh", "-c", "cat; echo $PPID $$; pwd; echo oops >&2; exit 9"],
            "cwd": "/tmp",
            "env": ["PATH=/bin"],
        }
        pid = await task.exec("e1", process, stdin=True, attachment=attachment)
        assert pid > 0
        with client:
            client.send(b"in\n")
            client.shutdown(socket.SHUT_WR)
            data = await read_all(client)
        assert b"in\n" in data
        assert b"0 " in data
        assert b"/tmp\n" in data
        assert b"\2\0\0\0\0\0\0\5oops\n" in data
        assert await asyncio.wait_for(box.events.exec_exit_of("e1"), 5) == 9
        assert box.output(bundle) == ""
        await task.signal(signal.SIGKILL)
        await box.events.exit_of(bundle.id)
        with pytest.raises(RuntimeFailure):
            await task.exec("e2", process)

    in_box(scenario)


@pytest.mark.parametrize(
    ("process", "sentence"),
    [
        ({"args": ["foo"]}, 'exec: "foo": executable file not found in $PATH'),
        (
            {"args": ["pwd"], "cwd": "/nonexist"},
            'chdir to cwd ("/nonexist") set in config.json failed: no such file or directory',
        ),
    ],
)
def test_exec_that_cannot_run_says_why(
    in_box: InBox, process: dict[str, Any], sentence: str
) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        with pytest.raises(RuntimeFailure) as failure:
            await task.exec("e", {"env": ["PATH=/bin"], "cwd": "/", **process})
        assert str(failure.value) == sentence
        await task.signal(signal.SIGKILL)
        await box.events.exit_of(bundle.id)

    in_box(scenario)


def test_exec_with_a_terminal(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        attachment, client = attach()
        process = {"args": ["sh"], "cwd": "/", "env": ["PATH=/bin"]}
        await task.exec(
            "t", process, stdin=True, tty=True, console_size=(10, 20), attachment=attachment
        )
        with client:
            client.send(b"stty size; tty\n")
            assert b"10 20" in await read_until(client, b"/dev/pts/0")
            await task.resize(11, 22, "t")
            client.send(b"stty size; exit 4\n")
            assert b"11 22" in await read_all(client)
        assert await box.events.exec_exit_of("t") == 4
        await task.signal(signal.SIGKILL)
        await box.events.exit_of(bundle.id)

    in_box(scenario)


def test_no_message_ends_the_monitor(in_box: InBox) -> None:
    """One that cannot be served is answered and journalled; the container goes on."""

    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100", tty=True)
        task = await box.start(bundle)
        await task.resize(70_000, 1)
        with pytest.raises(RuntimeFailure, match="TypeError"):
            await task.resize(1, "wide")  # type: ignore[arg-type]
        with pytest.raises(RuntimeFailure, match="no such exec"):
            await task.resize(1, 1, "nobody")
        assert "fault" in [entry.event for entry in box.runtime.recorded(bundle.id)]
        await task.signal(signal.SIGKILL)
        assert (await box.events.exit_of(bundle.id)).code == 137

    in_box(scenario)


def test_containers_of_no_duration_never_hang(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        async def one() -> int:
            return (await box.run("true"))[0]

        for _ in range(5):
            assert await asyncio.gather(*(one() for _ in range(10))) == [0] * 10

    in_box(scenario)


def test_init_reaps_and_forwards(in_box: InBox) -> None:
    script = "trap 'echo term; exit 3' TERM; (sleep 0.05 &); echo up; while :; do sleep 0.05; done"

    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", script, init=True)
        attachment, client = attach(stdin=False)
        task = await box.start(bundle, attachment)
        with client:
            await read_until(client, b"up")
            await asyncio.sleep(0.3)
            zombies = [
                pid
                for pid in cgroup.processes(bundle.spec["linux"]["cgroupsPath"])
                if "State:\tZ" in _status(pid)
            ]
            assert zombies == []
            await task.signal(signal.SIGTERM)
            assert await read_all(client) == b"term\n"
        assert (await box.events.exit_of(bundle.id)).code == 3

    in_box(scenario)


def _status(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/status", encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""  # reaped since it was listed


def test_the_next_daemon_adopts_what_runs(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "read x; echo $x; exit 6", open_stdin=True)
        first = await box.start(bundle)
        await first.exec("e", {"args": ["false"], "cwd": "/", "env": ["PATH=/bin"]})
        await box.events.exec_exit_of("e")
        await box.runtime.close()
        assert is_alive(first.pid)

        events = Recorder()
        runtime = Runtime(box.exec_root, events=events)
        await runtime.open()
        task = await runtime.adopt(bundle.id)
        assert task is not None
        assert task.pid == first.pid
        assert (await task.state())["status"] == "running"
        attachment, client = attach()
        await task.attach(attachment)
        with client:
            client.send(b"hello\n")
            assert await read_until(client, b"hello\n") == b"hello\n"
        assert (await asyncio.wait_for(events.exit_of(bundle.id), 5)).code == 6
        runtime.forget(bundle.id)
        with pytest.raises(FileNotFoundError):
            os.stat(box.folder_of(bundle))
        await runtime.close()

    in_box(scenario)


def test_what_ended_while_no_daemon_listened_is_recorded(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "sleep 0.3; exit 11")
        task = await box.start(bundle)
        await task.exec(
            "e", {"args": ["sh", "-c", "sleep 0.1; exit 2"], "cwd": "/", "env": ["PATH=/bin"]}
        )
        pid = task.pid
        await box.runtime.close()
        await until(lambda: not is_alive(pid))
        await until(lambda: box.runtime.recorded(bundle.id)[-1].event == Entry.EXITED)
        await asyncio.sleep(0.05)
        assert await box.runtime.adopt(bundle.id) is None
        entries = {entry.event: entry for entry in box.runtime.recorded(bundle.id)}
        assert Exit.from_json(entries[Entry.EXITED].facts).code == 11
        assert entries[Entry.EXEC_EXITED].facts == {"exec_id": "e", "code": 2}
        times = [entry.at_ns for entry in box.runtime.recorded(bundle.id)]
        assert times == sorted(times)

    in_box(scenario)


def test_a_monitor_that_stands_still_is_not_dead(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        task.close()
        os.kill(task.monitor_pid, signal.SIGSTOP)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("engine.runtime.client._ADOPTION_TIMEOUT_S", 0.1)
                for _ in range(8):  # more than its queue has room for
                    with pytest.raises(MonitorUnreached):
                        await box.runtime.adopt(bundle.id)
        finally:
            os.kill(task.monitor_pid, signal.SIGCONT)
        again = None
        async with asyncio.timeout(20):
            while again is None:  # until it has let in those who have left since
                with contextlib.suppress(MonitorUnreached):
                    again = await box.runtime.adopt(bundle.id)
                    assert again is not None
                await asyncio.sleep(0.01)
        assert again.pid == task.pid

    in_box(scenario)


def test_a_monitor_that_cannot_be_looked_for_is_not_dead(in_box: InBox) -> None:
    def exhausted(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        task.close()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "open", exhausted)
            with pytest.raises(OSError, match="Too many open files"):
                await box.runtime.adopt(bundle.id)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Channel, "receive", exhausted)
            with pytest.raises(MonitorUnreached):
                await box.runtime.adopt(bundle.id)
        assert await box.runtime.adopt(bundle.id) is not None

    in_box(scenario)


def test_a_killed_launcher_is_replaced_and_nothing_notices(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        launcher = box.launcher_pid
        os.kill(launcher, signal.SIGKILL)
        assert await box.run("echo", "again") == (0, "again\n")
        assert box.launcher_pid != launcher
        assert is_alive(task.pid)
        await task.signal(signal.SIGKILL)
        assert (await box.events.exit_of(bundle.id)).code == 137

    in_box(scenario)


def test_a_killed_monitor_is_reported_and_known_to_be_dead(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        os.kill(task.monitor_pid, signal.SIGKILL)
        await until(lambda: bool(box.events.lost))
        assert box.events.lost == [bundle.id]
        assert await box.runtime.adopt(bundle.id) is None
        assert not box.events.exit_of(bundle.id).done()

    in_box(scenario)


def test_a_killed_daemon_leaves_everything_running(in_box: InBox) -> None:
    """The daemon is another process here, killed for good."""

    async def scenario(box: Box) -> None:
        program = (
            "import asyncio, pathlib, sys\n"
            "from tests.kernel.runtime.harness import Recorder\n"
            "from engine.runtime.client import Bundle, Runtime\n"
            "import json\n"
            "async def main():\n"
            "    runtime = Runtime(sys.argv[1], events=Recorder())\n"
            "    await runtime.open()\n"
            "    task = await runtime.create(Bundle.from_json(json.load(sys.stdin)))\n"
            "    await task.start()\n"
            "    print(task.pid, flush=True)\n"
            "    await asyncio.sleep(1000)\n"
            "asyncio.run(main())\n"
        )
        bundle = box.bundle("sh", "-c", "while [ ! -e /go ]; do sleep 0.05; done; seq 3; exit 8")
        daemon = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            program,
            box.exec_root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        daemon.stdin.write(json.dumps(bundle.to_json()).encode())
        daemon.stdin.close()
        pid = int(await asyncio.wait_for(daemon.stdout.readline(), 20))
        daemon.kill()
        await daemon.wait()
        task = await box.runtime.adopt(bundle.id)
        assert task is not None
        assert task.pid == pid
        await task.exec("go", {"args": ["touch", "/go"], "cwd": "/", "env": ["PATH=/bin"]})
        assert (await asyncio.wait_for(box.events.exit_of(bundle.id), 10)).code == 8
        assert box.output(bundle) == "1\n2\n3\n"

    in_box(scenario)
