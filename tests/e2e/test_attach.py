"""Terminals and attached streams, through a pseudo-terminal as a person has."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


class Terminal:
    """The stock CLI in a terminal of ours."""

    def __init__(self, engine: Engine, *args: str, rows: int = 24, columns: int = 80) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe("docker", ["docker", *args], engine.environment())
        self.resize(rows, columns)
        self.seen = b""

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def expect(self, text: str, timeout_s: float = 15) -> bytes:
        """Read until `text` has come; what was read up to there."""
        wanted = text.encode()
        deadline = time.monotonic() + timeout_s
        while wanted not in self.seen:
            if not select.select([self.fd], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"{text!r} did not come; saw {self.seen[-500:]!r}")
            try:
                chunk = os.read(self.fd, 65536)
            except OSError:
                chunk = b""
            if not chunk:
                raise AssertionError(f"ended before {text!r}; saw {self.seen[-500:]!r}")
            self.seen += chunk
        before, _, self.seen = self.seen.partition(wanted)
        return before

    def wait(self, timeout_s: float = 15) -> int:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if select.select([self.fd], [], [], 0.05)[0]:
                with contextlib.suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"did not end; saw {self.seen[-500:]!r}")

    def close(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    opened: list[Terminal] = []
    yield opened
    for terminal in opened:
        terminal.close()


def test_a_shell_in_a_terminal(engine: Engine, name: str, terminals: list[Terminal]) -> None:
    shell = Terminal(
        engine, "run", "-it", "--rm", "--name", name, "busybox", "sh", rows=30, columns=100
    )
    terminals.append(shell)
    shell.expect("# ")
    shell.type("stty size; echo mark$((1+1))\n")
    assert b"30 100" in shell.expect("mark2")
    shell.resize(41, 123)
    eventually(
        lambda: engine.docker("exec", name, "stty", "-F", "/dev/pts/0", "size").stdout,
        lambda out: out == b"41 123\n",
    )
    shell.expect("# ")
    shell.type("stty size; echo mark$((2+1))\n")
    assert b"41 123" in shell.expect("mark3")
    shell.type("exit 7\n")
    assert shell.wait() == 7


SIZES = ("h=1&w=1", "h=70000&w=1", "h=4294967295&w=4294967295", "h=0&w=0")


@pytest.mark.parametrize("flags", [(), ("-i",), ("-t",)])
def test_no_size_disturbs_what_runs(engine: Engine, name: str, flags: tuple[str, ...]) -> None:
    """A size means nothing without a terminal, and a terminal keeps 16 bits of it."""
    engine.docker("run", "-d", *flags, "--name", name, "busybox", "sleep", "100")
    for size in SIZES:
        assert engine.call("POST", f"/containers/{name}/resize?{size}").status == 200
    if flags == ("-t",):
        engine.call("POST", f"/containers/{name}/resize?h=70000&w=65543")
        size = engine.out("exec", name, "stty", "-F", "/dev/pts/0", "size")
        assert size == "4464 7"
    assert engine.inspect(name)["State"]["Running"] is True


@pytest.mark.parametrize("tty", [False, True])
def test_no_size_disturbs_an_exec(engine: Engine, name: str, tty: bool) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "100")
    asked = {"Cmd": ["sleep", "100"], "Tty": tty, "AttachStdin": True}
    exec_id = engine.call("POST", f"/containers/{name}/exec", asked).json()["Id"]
    start = {"Detach": True, "Tty": tty}
    if tty:
        start["ConsoleSize"] = [70000, 1]
    assert engine.call("POST", f"/exec/{exec_id}/start", start).status == 200
    for size in SIZES:
        assert engine.call("POST", f"/exec/{exec_id}/resize?{size}").status == 200
    assert engine.call("GET", f"/exec/{exec_id}/json").json()["Running"] is True
    assert engine.inspect(name)["State"]["Running"] is True


def test_a_console_larger_than_any(engine: Engine, name: str) -> None:
    body = {"Image": "busybox", "Tty": True, "Cmd": ["stty", "size"]}
    host_config = {"ConsoleSize": [70000, 7]}
    created = engine.call(
        "POST", f"/containers/create?name={name}", {**body, "HostConfig": host_config}
    )
    assert created.status == 201
    assert engine.out("start", "-a", name).strip() == "4464 7"


def test_control_c_reaches_the_foreground_process(
    engine: Engine, name: str, terminals: list[Terminal]
) -> None:
    shell = Terminal(engine, "run", "-it", "--rm", "--name", name, "busybox", "sh")
    terminals.append(shell)
    shell.expect("# ")
    shell.type("sleep 100; echo rc$?\n")
    time.sleep(0.5)
    shell.type("\x03")
    shell.expect("# ")
    shell.type("echo alive$((3+4))\n")
    shell.expect("alive7")


def test_detach_and_reattach(engine: Engine, name: str, terminals: list[Terminal]) -> None:
    shell = Terminal(engine, "run", "-it", "--name", name, "busybox", "sh")
    terminals.append(shell)
    shell.expect("# ")
    shell.type("x=kept\n")
    shell.expect("# ")
    shell.type("\x10\x11")  # ctrl-p ctrl-q
    assert shell.wait() == 0
    assert engine.inspect(name)["State"]["Running"] is True
    again = Terminal(engine, "attach", name)
    terminals.append(again)
    again.type("echo $x-here\n")
    again.expect("kept-here")
    again.type("exit\n")
    assert again.wait() == 0


def test_detach_keys_of_ones_own(engine: Engine, name: str, terminals: list[Terminal]) -> None:
    shell = Terminal(
        engine, "run", "-it", "--detach-keys", "ctrl-x,z", "--name", name, "busybox", "sh"
    )
    terminals.append(shell)
    shell.expect("# ")
    shell.type("\x18z")
    assert shell.wait() == 0
    assert engine.inspect(name)["State"]["Running"] is True


def test_several_clients_see_the_same(engine: Engine, name: str) -> None:
    engine.docker("run", "-di", "--name", name, "busybox", "cat")
    clients = [engine.popen("attach", "--no-stdin", name, stdout=subprocess.PIPE) for _ in range(3)]
    time.sleep(1)
    writer = engine.popen("attach", name, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert writer.stdin is not None
    try:
        writer.stdin.write(b"to all\n")
        writer.stdin.flush()
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == b"to all\n"
    finally:
        engine.docker("kill", name, check=False)
        writer.stdin.close()
        writer.wait(10)
        for client in clients:
            client.wait(10)
            assert client.stdout is not None
            client.stdout.close()


def upgrade(engine: Engine, path: str, extra: bytes = b"", body: bytes = b"") -> socket.socket:
    connection = engine.raw()
    head = f"POST {path} HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    connection.sendall(head.encode() + b"\r\n" + body + extra)
    return connection


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        chunk = connection.recv(65536)
        assert chunk, data
        data += chunk
    return data


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    connection.close()
    return data


def test_upgrade_headers(engine: Engine, name: str) -> None:
    engine.docker("create", "-i", "--name", name, "busybox", "cat")
    connection = upgrade(engine, f"/v1.51/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    head = connection.recv(4096).decode()
    connection.close()
    assert head.startswith("HTTP/1.1 101 UPGRADED\r\n")
    lines = {line.lower() for line in head.split("\r\n")}
    assert "content-type: application/vnd.docker.multiplexed-stream" in lines
    assert "connection: upgrade" in lines
    assert "upgrade: tcp" in lines


def test_attach_without_upgrade_is_200(engine: Engine, name: str) -> None:
    engine.docker("create", "--name", name, "busybox", "echo", "x")
    connection = engine.raw()
    connection.sendall(
        f"POST /containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    )
    head = connection.recv(4096)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"application/vnd.docker.raw-stream" in head
    engine.docker("start", name)
    assert read_all(connection).endswith(b"\1\0\0\0\0\0\0\2x\n")


@pytest.mark.beyond
def test_bytes_sent_behind_the_request_are_stdin(engine: Engine, name: str) -> None:
    """dockerd loses them."""
    engine.docker("create", "-i", "--name", name, "busybox", "cat")
    connection = upgrade(
        engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1", extra=b"early\n"
    )
    engine.docker("start", name)
    read_until(connection, b"\1\0\0\0\0\0\0\6early\n")
    connection.shutdown(socket.SHUT_WR)
    read_all(connection)


@pytest.mark.beyond
def test_half_close_before_the_start(engine: Engine, name: str) -> None:
    """dockerd takes the early end of input for a client that left."""
    engine.docker("create", "-i", "--name", name, "busybox", "cat")
    connection = upgrade(
        engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1", extra=b"early\n"
    )
    connection.shutdown(socket.SHUT_WR)
    engine.docker("start", name)
    assert read_all(connection).endswith(b"\1\0\0\0\0\0\0\6early\n")


@pytest.mark.beyond
def test_exec_input_right_behind_the_request(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    created = engine.call(
        "POST",
        f"/containers/{name}/exec",
        {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True},
    )
    connection = upgrade(
        engine,
        f"/exec/{created.json()['Id']}/start",
        body=json.dumps({"Detach": False, "Tty": False}).encode(),
        extra=b"early\n",
    )
    read_until(connection, b"\1\0\0\0\0\0\0\6early\n")
    connection.shutdown(socket.SHUT_WR)
    read_all(connection)


@pytest.mark.beyond
def test_exec_with_a_half_close_right_behind(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    created = engine.call(
        "POST",
        f"/containers/{name}/exec",
        {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True},
    )
    connection = upgrade(
        engine,
        f"/exec/{created.json()['Id']}/start",
        body=json.dumps({"Detach": False, "Tty": False}).encode(),
        extra=b"early\n",
    )
    connection.shutdown(socket.SHUT_WR)
    assert read_all(connection).endswith(b"\1\0\0\0\0\0\0\6early\n")


def test_logs_replayed_on_attach(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "-d", "--name", name, "busybox", "sh", "-c", "echo before; sleep 1; echo after"
    )
    eventually(lambda: engine.out("logs", name), lambda text: text == "before")
    connection = upgrade(engine, f"/containers/{name}/attach?logs=1&stream=1&stdout=1&stderr=1")
    assert read_all(connection).endswith(b"\1\0\0\0\0\0\0\7before\n\1\0\0\0\0\0\0\6after\n")


NOTHING = ("stream=1", "stream=1&stdin=1", "stream=1&logs=1")  # a container without stdin has


@pytest.mark.parametrize("is_running", [False, True])
@pytest.mark.parametrize("words", NOTHING)
def test_attached_to_nothing(engine: Engine, name: str, words: str, is_running: bool) -> None:
    engine.docker("create", "--name", name, "busybox", "sleep", "100")
    if is_running:
        engine.docker("start", name)
    with upgrade(engine, f"/containers/{name}/attach?{words}") as connection:
        assert read_all(connection).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("flags", [("-i",), ("-it",)])
def test_attached_to_nothing_of_what_has_its_stdin_once(
    engine: Engine, name: str, flags: tuple[str, ...]
) -> None:
    """Without a terminal that lasts as long as the container does."""
    engine.docker("create", *flags, "--name", name, "busybox", "sleep", "100")
    engine.docker("start", name)
    with upgrade(engine, f"/containers/{name}/attach?stream=1") as connection:
        read_until(connection, b"\r\n\r\n")
        if flags == ("-i",):
            assert not select.select([connection], [], [], 0.5)[0]
            engine.docker("kill", name)
        assert read_all(connection) == b""


def test_refusals(engine: Engine, name: str) -> None:
    reply = engine.call("POST", "/containers/nosuch/attach?stream=1&stdout=1")
    # once it has the connection, dockerd answers in plain text
    assert (reply.status, reply.body) == (404, b"No such container: nosuch\r\n")
    assert reply.headers["Content-Type"] == "application/vnd.docker.raw-stream"
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "60")
    engine.docker("pause", name)
    reply = engine.call("POST", f"/containers/{name}/attach?stream=1&stdout=1")
    assert reply.status == 409
    assert b"is paused, unpause the container before attach" in reply.body
