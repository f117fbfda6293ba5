"""Requests made to deceive, to race and to stall; ids as in tests/ATTACKS.md."""

from __future__ import annotations

import contextlib
import os
import socket
import statistics
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.conftest import eventually
from tests.support.engine import Wharf

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock
JSON = {"Content-Type": "application/json"}


def create(engine: Engine, command: list[str], name: str = "", **host: Any) -> str:
    query = f"?name={name}" if name else ""
    body = {"Image": "busybox", "Cmd": command, "HostConfig": host}
    reply = engine.call("POST", f"/containers/create{query}", body)
    assert reply.status == 201, reply.body
    return str(reply.json()["Id"])


# A2


def test_a2_json_that_is_hard_to_read(engine: Engine) -> None:
    bodies = [
        b'{"Image":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"Image":"busybox","HostConfig":{"Memory":' + b"9" * 10_000 + b"}}",
        b'{"Image":"busybox","HostConfig":{"Memory":NaN}}',
        b'{"Image":"busybox","HostConfig":{"Memory":1e999}}',
        b'\xff\xfe{"Image"',
        b'{"Image":"busybox","HostConfig":{"CpuShares":1.5}}',
        b'{"Image":"busybox\x00"}',
        b'{"Image":"busybox"}\x00',
        b'{"Image":"busybox"}{"Image":"busybox"}',
        b'{"Image":"busy\\u0000box"}',
    ]
    for body in bodies:
        reply = engine.call("POST", "/containers/create", body, headers=JSON)
        assert reply.status == 400, body[:40]
        assert reply.message
        assert "Traceback" not in reply.message


def test_a2_of_duplicate_keys_the_last_one_counts(engine: Engine) -> None:
    """A policy in front of the engine must see what it sees: also for another spelling's case."""
    for body in (
        b'{"Image":"busybox","Image":"nosuch"}',
        b'{"Image":"busybox","image":"nosuch"}',
        b'{"HostConfig":{},"Image":"busybox","IMAGE":"nosuch"}',
    ):
        reply = engine.call("POST", "/containers/create", body, headers=JSON)
        assert (reply.status, reply.message) == (404, "No such image: nosuch:latest"), body
    body = b'{"Image":"nosuch","image":"busybox","HostConfig":{"Memory":1,"Memory":67108864}}'
    reply = engine.call("POST", "/containers/create", body, headers=JSON)
    assert reply.status == 201
    found = engine.call("GET", f"/containers/{reply.json()['Id']}/json").json()
    engine.call("DELETE", f"/containers/{reply.json()['Id']}")
    assert found["HostConfig"]["Memory"] == 67108864


def test_a2_lone_surrogates_become_replacement_characters(engine: Engine) -> None:
    body = rb'{"Image":"busybox","Cmd":["echo","\ud800-\udfff"],"Labels":{"a":"x\ud800"}}'
    reply = engine.call("POST", "/containers/create", body, headers=JSON)
    assert reply.status == 201
    ref = reply.json()["Id"]
    try:
        found = engine.call("GET", f"/containers/{ref}/json").json()["Config"]
        assert found["Labels"] == {"a": "x\ufffd"}
        assert found["Cmd"] == ["echo", "\ufffd-\ufffd"]
        assert engine.out("start", "-a", ref) == "\ufffd-\ufffd"
    finally:
        engine.call("DELETE", f"/containers/{ref}?force=1")


@pytest.mark.beyond  # dockerd creates most of these, and fails later or cuts the text off
@pytest.mark.parametrize(
    "more",
    [
        {"Cmd": ["a\0b"]},
        {"Env": ["A=a\0b"]},
        {"Labels": {"a": "x\0y"}},
        {"WorkingDir": "/a\0b"},
        {"User": "a\0b"},
        {"Domainname": "a\0"},
        {"Volumes": {"/a\0": {}}},
        {"HostConfig": {"Binds": ["/tmp\0:/x"]}},
        {"HostConfig": {"Tmpfs": {"/a\0": ""}}},
        {"HostConfig": {"Sysctls": {"net.ipv4.ip_forward": "1\0"}}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_a2_nul_is_refused_wherever_it_stands(engine: Engine, more: dict[str, object]) -> None:
    before = engine.out("ps", "-aq")
    reply = engine.call("POST", "/containers/create", {"Image": "busybox", **more})
    assert (reply.status, "NUL" in reply.message) == (400, True)
    assert engine.out("ps", "-aq") == before


# A5


def test_a5_the_socket_and_the_folders_are_closed(wharf: Wharf) -> None:
    assert os.stat(wharf.socket_path).st_mode & 0o777 == 0o660
    assert os.stat(wharf.data_root).st_mode & 0o077 in (0, 0o010)
    assert os.stat(wharf.exec_root).st_mode & 0o077 in (0, 0o010, 0o011)


@pytest.mark.beyond
def test_a5_the_socket_is_closed_from_its_first_moment(engine: Engine) -> None:
    """Even when whoever started the daemon masks nothing."""
    if not engine.is_wharf:
        pytest.skip("only Wharf is asked for this")
    wharf = Wharf()
    modes: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            with contextlib.suppress(FileNotFoundError):
                modes.add(os.stat(wharf.socket_path).st_mode & 0o777)

    watcher = threading.Thread(target=watch)
    watcher.start()
    old = os.umask(0)
    try:
        wharf.start()
    finally:
        os.umask(old)
        over.set()
        watcher.join()
        if wharf.process is not None:
            wharf.stop()
        wharf.close()
    assert 0o660 in modes
    assert not {mode for mode in modes if mode & ~0o660}, modes


# A6


class Silent:
    """Clients that asked for a stream and never read of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.connections: list[socket.socket] = []

    def ask(self, method: str, path: str, body: bytes = b"", *, upgrade: bool = False) -> None:
        head = f"{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {len(body)}\r\n"
        head += "Content-Type: application/json\r\n"
        if upgrade:
            head += "Connection: Upgrade\r\nUpgrade: tcp\r\n"
        connection = self.engine.raw()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(head.encode() + b"\r\n" + body)
        self.connections.append(connection)

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


@pytest.fixture
def silent(engine: Engine) -> Iterator[Silent]:
    clients = Silent(engine)
    yield clients
    clients.close()


def resident(wharf: Wharf) -> int:
    """Bytes of memory of the daemon's process."""
    assert wharf.process is not None
    pages = Path(f"/proc/{wharf.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


OUTPUT_MB = 20


@pytest.mark.beyond
@pytest.mark.timeout(180)
def test_a6_a_thousand_who_never_read(wharf: Wharf, name: str, silent: Silent) -> None:
    block = f"dd if=/dev/zero bs=1M count={OUTPUT_MB} 2>/dev/null | tr '\\0' '\\n' | sed s/^/line/"
    script = f"while [ ! -e /go ]; do sleep 0.1; done; {block} | head -c {OUTPUT_MB}000000"
    whole = ["--log-opt", "max-size=1g"]
    shell = ["busybox", "sh", "-c", f"{script}; exit 9"]
    wharf.docker("run", "-d", "--name", name, *whole, *shell)
    before = resident(wharf)
    attach = f"/containers/{name}/attach?stream=1&stdout=1&stderr=1"
    for _ in range(200):
        silent.ask("POST", attach, upgrade=True)
        silent.ask("GET", f"/containers/{name}/logs?follow=1&stdout=1")
        silent.ask("GET", "/events")
        silent.ask("GET", f"/containers/{name}/stats")
    for _ in range(200):
        created = wharf.call(
            "POST",
            f"/containers/{name}/exec",
            {"Cmd": ["sh", "-c", "yes | head -c 1000000"], "AttachStdout": True},
        )
        silent.ask("POST", f"/exec/{created.json()['Id']}/start", b"{}", upgrade=True)
    wharf.docker("exec", name, "touch", "/go")
    peak, waits = 0, []
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        started = time.monotonic()
        status = wharf.call("GET", f"/containers/{name}/json").json()["State"]
        waits.append(time.monotonic() - started)
        peak = max(peak, resident(wharf))
        if not status["Running"]:
            break
        time.sleep(0.1)
    assert (status["Status"], status["ExitCode"]) == ("exited", 9)
    assert peak - before < 128 << 20
    assert statistics.median(waits) < 0.25
    assert wharf.docker("logs", name, timeout=60).stdout.count(b"line") == OUTPUT_MB * 200_000


# A8


@pytest.mark.parametrize(
    "body",
    [
        {"Image": "busybox", "Hostname": "a\nb"},
        {"Image": "busybox", "HostConfig": {"ExtraHosts": ["a\nb:1.2.3.4"]}},
        {"Image": "busybox", "HostConfig": {"DnsSearch": ["a\nb"]}},
        {"Image": "busybox", "HostConfig": {"CgroupParent": "../../x"}},
    ],
)
@pytest.mark.beyond
def test_a8_injections(engine: Engine, body: dict[str, object]) -> None:
    reply = engine.call("POST", "/containers/create", body)
    assert reply.status == 400, reply.body
    assert reply.message


NAMES = ["a\nb", "a\0b", "a\x1b[31mb", "a\x7f", "a\x85b", "a\tb", "..", "a/b", "a/../b", " a", "-a"]


@pytest.mark.parametrize("bad", NAMES)
def test_a8_control_characters_in_names(engine: Engine, bad: str) -> None:
    quoted = "".join(f"%{byte:02x}" for byte in bad.encode())
    reply = engine.call("POST", f"/containers/create?name={quoted}", {"Image": "busybox"})
    assert reply.status == 400
    assert "name" in reply.message
    reply = engine.call("POST", "/volumes/create", {"Name": bad})
    assert reply.status == 400
    assert "includes invalid characters for a local volume name" in reply.message
    volumes = engine.call("GET", "/volumes").json()["Volumes"] or []
    assert bad not in [volume["Name"] for volume in volumes]


def test_a8_a_network_may_be_called_anything(engine: Engine, name: str) -> None:
    """Its name reaches no rule, link or path: two containers on it talk, and it goes away."""
    called = f'{name}\n";}}\nflush ruleset; ../../x \x1b[31m'
    made = engine.call("POST", "/networks/create", {"Name": called})
    assert made.status == 201
    ref = made.json()["Id"]
    box = create(engine, ["sleep", "60"], name, NetworkMode=ref)
    assert engine.call("POST", f"/containers/{box}/start").status == 204
    try:
        assert engine.call("GET", f"/networks/{ref}").json()["Name"] == called
        other = ["run", "--rm", "--network", ref, "busybox"]
        address = engine.inspect(name)["NetworkSettings"]["Networks"][called]["IPAddress"]
        assert "1 packets received" in engine.out(*other, "ping", "-c1", "-W3", address)
    finally:
        engine.docker("rm", "-f", box)
        assert engine.call("DELETE", f"/networks/{ref}").status == 204


def test_a8_a_newline_in_env_and_label_is_ordinary(engine: Engine, name: str) -> None:
    lines = ["-e", "A=1\n2", "--label", "l=1\n2"]
    out = engine.out("run", "--name", name, *lines, "busybox", "sh", "-c", 'echo "$A"')
    assert out == "1\n2"
    assert engine.inspect(name)["Config"]["Labels"] == {"l": "1\n2"}


def test_a8_a_sysctl_of_the_host(engine: Engine) -> None:
    before = Path("/proc/sys/kernel/panic").read_text()
    sysctl = ["--sysctl", "kernel.panic=1"]
    done = engine.docker("run", "--rm", *sysctl, "busybox", "true", check=False)
    assert done.returncode != 0
    assert b"kernel.panic" in done.stderr
    assert Path("/proc/sys/kernel/panic").read_text() == before


# R14


def read_all(connection: socket.socket) -> bytes:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data


def short_life(engine: Engine, number: int) -> None:
    """One container that ends at once, attached to, with an exec racing its end."""
    code = number % 200 + 1
    ref = create(engine, ["sh", "-c", f"echo {number}; exit {code}"])
    attach = f"POST /containers/{ref}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n"
    with engine.raw() as stream:
        stream.sendall(attach.encode() + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n")
        head = stream.recv(4096)
        assert b" 101 " in head
        assert engine.call("POST", f"/containers/{ref}/start").status == 204
        race_an_exec(engine, ref)
        assert head.partition(b"\r\n\r\n")[2] + read_all(stream) == frame(f"{number}\n".encode())
    waited = engine.call("POST", f"/containers/{ref}/wait").json()
    state = engine.call("GET", f"/containers/{ref}/json").json()["State"]
    assert (waited["StatusCode"], state["ExitCode"], state["Status"]) == (code, code, "exited")
    assert engine.call("DELETE", f"/containers/{ref}").status == 204


def frame(data: bytes) -> bytes:
    return b"\x01\0\0\0" + len(data).to_bytes(4, "big") + data


def race_an_exec(engine: Engine, ref: str) -> None:
    made = engine.call("POST", f"/containers/{ref}/exec", {"Cmd": ["true"]})
    assert made.status in (201, 409), made.body
    if made.status == 201:
        began = engine.call("POST", f"/exec/{made.json()['Id']}/start", {"Detach": True})
        assert began.status in (200, 400, 404, 409, 500), began.body
        assert "Traceback" not in began.body.decode()
        assert not engine.call("GET", f"/exec/{made.json()['Id']}/json").body.startswith(b"Trace")


def test_r14_hundreds_of_short_lives_at_once(engine: Engine) -> None:
    count = int(os.environ.get("WHARF_TEST_RACES", "200" if engine.is_wharf else "40"))
    with ThreadPoolExecutor(8) as threads:
        for _ in threads.map(lambda number: short_life(engine, number), range(count)):
            pass


# R15


def reuse(pid: int) -> subprocess.Popen[bytes] | None:
    """A process of ours that carries the number of one that ended; None where it cannot be had."""
    last = Path("/proc/sys/kernel/ns_last_pid")
    for _ in range(200):
        try:
            last.write_text(str(pid - 1))
        except OSError:
            return None
        process = subprocess.Popen(["sleep", "300"])
        if process.pid == pid:
            return process
        process.kill()
        process.wait()
    return None


def test_r15_a_number_used_again_is_not_signalled(engine: Engine, name: str) -> None:
    """kill, stop, exec, top, pause and rm of an ended container never reach who has its pid now."""
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "300")
    pid = int(engine.inspect(name)["State"]["Pid"])
    stale = engine.call("POST", f"/containers/{name}/exec", {"Cmd": ["kill", "-9", "-1"]}).json()
    engine.docker("kill", name)
    eventually(lambda: engine.inspect(name)["State"]["Running"], lambda running: not running)
    eventually(lambda: Path(f"/proc/{pid}").exists(), lambda exists: not exists)
    other = reuse(pid)
    if other is None:
        pytest.skip("this machine does not let a pid be chosen")
    try:
        for verb in ("kill", "kill?signal=TERM", "pause"):
            assert engine.call("POST", f"/containers/{name}/{verb}").status == 409, verb
        assert "not paused" in engine.call("POST", f"/containers/{name}/unpause").message
        assert engine.call("GET", f"/containers/{name}/top").status == 409
        assert engine.call("POST", f"/containers/{name}/stop").status == 304
        again = engine.call("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
        assert again.status == 409
        assert engine.call("POST", f"/exec/{stale['Id']}/start", {}).status in (404, 409)
        assert engine.inspect(name)["State"]["Pid"] == 0
        assert engine.call("DELETE", f"/containers/{name}?force=1").status == 204
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


# A client that is gone, and what never was one


def test_clients_that_vanish_leave_no_word_in_the_log(wharf: Wharf, name: str) -> None:
    talks = "while :; do echo hi; usleep 1000; done"
    wharf.out("run", "-di", "--name", name, "busybox", "sh", "-c", talks)
    before = wharf.log_path.stat().st_size
    heads = [
        f"POST /containers/{name}/attach?stream=1&stdin=1&stdout=1&logs=1",
        f"GET /containers/{name}/logs?stdout=1&follow=1",
        f"POST /containers/{name}/wait",
        "GET /events",
        "GET /images/busybox/get",
        "GARBAGE",
    ]

    def vanish(number: int) -> None:
        for at in range(30):
            with wharf.raw() as connection:
                head = heads[(number + at) % len(heads)]
                connection.sendall(f"{head} HTTP/1.1\r\nHost: d\r\n\r\n".encode())
                time.sleep(at % 4 * 0.001)

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(vanish, range(20)))
    assert wharf.call("GET", "/_ping").status == 200
    with wharf.log_path.open("rb") as log:
        log.seek(before)
        assert b"level=error" not in log.read()
