"""`docker exec`: another process in a running container."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


@pytest.fixture
def box(engine: Engine, name: str) -> Iterator[str]:
    engine.docker("run", "-d", "--name", name, "-e", "FROM=run", "busybox", "sleep", "120")
    return name


def test_output_and_exit_code(engine: Engine, box: str) -> None:
    done = engine.docker("exec", box, "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, b"out\n", b"err\n")


def test_stdin(engine: Engine, box: str) -> None:
    data = os.urandom(4 << 20)
    done = engine.docker("exec", "-i", box, "cat", input=data)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_user_env_and_workdir(engine: Engine, box: str) -> None:
    out = engine.out(
        "exec",
        "-u",
        "nobody",
        "-e",
        "MORE=1",
        "-w",
        "/tmp",
        box,
        "sh",
        "-c",
        "id -u; pwd; echo $FROM $MORE",
    )
    assert out.splitlines() == ["65534", "/tmp", "run 1"]


def test_tty(engine: Engine, box: str) -> None:
    assert engine.docker("exec", "-t", box, "tty").stdout.startswith(b"/dev/pts/")


def test_shares_the_container(engine: Engine, box: str) -> None:
    probe = (
        "for n in mnt pid net ipc uts; do readlink /proc/self/ns/$n; done; cat /proc/self/cgroup"
    )
    script = ("sh", "-c", probe)
    first = engine.out("exec", box, *script)
    assert first == engine.out("exec", box, *script)
    pid = engine.inspect(box)["State"]["Pid"]
    assert os.readlink(f"/proc/{pid}/ns/mnt") in first


def test_same_sandbox_as_the_container(engine: Engine, box: str) -> None:
    out = engine.out("exec", box, "grep", "-E", "CapEff|CapInh|Seccomp:", "/proc/self/status")
    values = dict(re.split(r":\s+", line) for line in out.splitlines())
    assert values == {"CapInh": "0" * 16, "CapEff": "00000000a80425fb", "Seccomp": "2"}


def test_privileged(engine: Engine, box: str) -> None:
    out = engine.out("exec", "--privileged", box, "grep", "CapEff", "/proc/self/status")
    assert int(out.split()[1], 16) > 0xA80425FB


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("nosuchprogram", 127, 'exec: "nosuchprogram": executable file not found in $PATH'),
        ("/etc", 126, "is a directory"),
        ("/etc/passwd", 126, "permission denied"),
    ],
)
def test_command_that_cannot_run(
    engine: Engine, box: str, command: str, code: int, text: str
) -> None:
    done = engine.docker("exec", box, command, check=False)
    assert done.returncode == code
    assert text in (done.stderr + done.stdout).decode()


def test_detached(engine: Engine, box: str) -> None:
    engine.docker("exec", "-d", box, "sh", "-c", "echo done > /tmp/mark")
    found = eventually(
        lambda: engine.docker("exec", box, "cat", "/tmp/mark", check=False).stdout,
        lambda out: out == b"done\n",
    )
    assert found == b"done\n"


def test_inspect_tells_the_exit_code(engine: Engine, box: str) -> None:
    created = engine.call("POST", f"/containers/{box}/exec", {"Cmd": ["sh", "-c", "exit 11"]})
    assert created.status == 201
    identifier = created.json()["Id"]
    before = engine.call("GET", f"/exec/{identifier}/json").json()
    assert (before["Running"], before["ExitCode"], before["Pid"]) == (False, None, 0)
    assert engine.call("POST", f"/exec/{identifier}/start", {"Detach": True}).status == 200
    after = eventually(
        lambda: engine.call("GET", f"/exec/{identifier}/json").json(),
        lambda answer: answer["ExitCode"] is not None,
    )
    assert (after["Running"], after["ExitCode"]) == (False, 11)
    assert after["ProcessConfig"]["entrypoint"] == "sh"
    assert after["ProcessConfig"]["arguments"] == ["-c", "exit 11"]
    assert after["ContainerID"] == engine.inspect(box)["Id"]


def test_refusals(engine: Engine, name: str) -> None:
    identifier = engine.out("create", "--name", name, "busybox", "true")
    reply = engine.call("POST", f"/containers/{name}/exec", {"Cmd": ["true"]})
    assert (reply.status, reply.message) == (409, f"container {identifier} is not running")
    reply = engine.call("POST", "/containers/nosuch/exec", {"Cmd": ["true"]})
    assert (reply.status, reply.message) == (404, "No such container: nosuch")
    reply = engine.call("POST", "/exec/nosuch/start", {})
    assert (reply.status, reply.message) == (404, "No such exec instance: nosuch")
    reply = engine.call("GET", "/exec/nosuch/json")
    assert (reply.status, reply.message) == (404, "No such exec instance: nosuch")


def test_no_command(engine: Engine, box: str) -> None:
    reply = engine.call("POST", f"/containers/{box}/exec", {"Cmd": []})
    assert (reply.status, reply.message) == (400, "No exec command specified")


def test_ends_with_its_container(engine: Engine, box: str) -> None:
    with engine.popen("exec", box, "sleep", "100") as process:
        eventually(lambda: engine.inspect(box)["ExecIDs"], bool)
        engine.docker("kill", box)
        assert process.wait(10) == 137


def take_one_line(engine: Engine, command: str) -> None:
    """A shell pipe whose reader has had enough: the socket ends by a reset, not an end of file."""
    subprocess.run(
        ["sh", "-c", f"seq 300000 | docker {command} | head -n 1"],
        env=engine.environment(),
        check=True,
        capture_output=True,
        timeout=30,
    )


def test_a_client_that_leaves_output_unread_ends_the_input(engine: Engine, box: str) -> None:
    for _ in range(3):
        take_one_line(engine, f"exec -i {box} cat")
    left = eventually(lambda: engine.out("top", box, "-eo", "pid,args"), lambda t: " cat" not in t)
    assert " cat" not in left


def test_a_container_whose_client_leaves_output_unread_ends(engine: Engine, name: str) -> None:
    take_one_line(engine, f"run -i --rm --name {name} busybox cat")
    found = eventually(lambda: engine.out("ps", "-aq", "--filter", f"name={name}"), lambda t: not t)
    assert found == ""
