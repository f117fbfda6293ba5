"""Small answers that clients read: what is null, what is empty, what is ignored, what is said."""

from __future__ import annotations

import io
import json
import re
import socket
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.e2e.conftest import eventually
from tests.support import images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


@pytest.fixture
def running(engine: Engine, name: str) -> Iterator[str]:
    engine.docker("run", "-d", "--name", name, "busybox", "sleep", "1000")
    yield name
    engine.docker("rm", "-f", name)


def filters(**values: str) -> str:
    return "filters=" + quote(json.dumps({key: [value] for key, value in values.items()}))


@pytest.mark.parametrize(("sent", "shown"), [({}, None), ({"PortBindings": {}}, {})])
def test_ports_that_nobody_named(engine: Engine, name: str, sent: object, shown: object) -> None:
    body = {"Image": "busybox", "HostConfig": sent}
    assert engine.call("POST", f"/containers/create?name={name}", body).status == 201
    assert engine.inspect(name)["HostConfig"]["PortBindings"] == shown


def test_no_volumes_are_an_empty_list(engine: Engine, name: str) -> None:
    listed = engine.call("GET", f"/volumes?{filters(name=name)}").json()
    assert listed["Volumes"] == []
    pruned = engine.call("POST", f"/volumes/prune?{filters(label=name)}").json()
    assert pruned["VolumesDeleted"] == []


def test_a_start_that_fails_connects_nothing(engine: Engine, name: str) -> None:
    before = time.time()
    engine.docker("create", "--name", name, "busybox", "nope")
    assert engine.call("POST", f"/containers/{name}/start").status == 400
    seen = engine.out("events", f"--since={before}", f"--until={time.time()}", "--format=json")
    identifier = engine.inspect(name)["Id"]
    actions = [
        event["Action"]
        for event in map(json.loads, seen.splitlines())
        if event["Actor"]["Attributes"].get("container") == identifier
    ]
    assert actions == ["disconnect"]


def test_isolation_filters_nothing(engine: Engine, running: str) -> None:
    for value in ("default", "x"):
        found = engine.call("GET", f"/containers/json?{filters(isolation=value, name=running)}")
        assert [c["Names"] for c in found.json()] == [[f"/{running}"]]


def test_the_version_says_when_it_was_built(engine: Engine) -> None:
    server = engine.call("GET", "/version").json()
    details = server["Components"][0]["Details"]
    assert server["GitCommit"] == details["GitCommit"] != ""
    assert server["BuildTime"] == details["BuildTime"]
    assert datetime.fromisoformat(server["BuildTime"]).tzinfo is not None
    assert engine.out("version", "--format", "{{.Server.BuildTime}}")


def test_what_old_versions_tell_of_kernel_memory(engine: Engine) -> None:
    assert "KernelMemory" in engine.call("GET", "/v1.41/info").json()
    assert "KernelMemory" not in engine.call("GET", "/v1.42/info").json()


def test_disk_usage_counts_containers_in_every_version(engine: Engine, running: str) -> None:
    image = engine.inspect(running)["Image"]
    for version in ("1.40", "1.50", "1.51"):
        used = engine.call("GET", f"/v{version}/system/df").json()["Images"]
        assert next(i["Containers"] for i in used if i["Id"] == image) >= 1


@pytest.mark.parametrize(
    "body", [{"StopSignal": "99"}, {"HostConfig": {"UsernsMode": "foo"}}], ids=str
)
def test_what_means_nothing_is_let_through(engine: Engine, name: str, body: object) -> None:
    sent = {"Image": "busybox", "Cmd": ["true"]} | dict(body)  # type: ignore[call-overload]
    assert engine.call("POST", f"/containers/create?name={name}", sent).status == 201
    assert engine.call("POST", f"/containers/{name}/start").status == 204


def test_a_start_does_not_look_at_detach_keys(engine: Engine, running: str) -> None:
    assert engine.call("POST", f"/containers/{running}/start?detachKeys=zz").status == 304


def test_a_tag_without_a_name_is_nothing_to_do(engine: Engine) -> None:
    assert engine.call("POST", "/images/busybox/tag").status == 200


def test_real_time_shares_wait_for_the_next_start(engine: Engine, running: str) -> None:
    engine.docker("update", "--cpu-rt-runtime", "5", running)


def told(engine: Engine, method: str, path: str, body: object = None) -> str:
    """The sentence of a refusal: 400, or 500 where dockerd blames itself for it."""
    reply = engine.call(method, path, body)
    assert reply.status in (400, 500)
    return reply.message


@pytest.mark.parametrize(
    ("path", "body", "sentence"),
    [
        ("stop?signal=FOO", None, "cannot stop container: {}: invalid signal: FOO"),
        ("restart?signal=FOO", None, "Cannot restart container {}: invalid signal: FOO"),
    ],
)
def test_refusals_of_a_running_container(
    engine: Engine, running: str, path: str, body: object, sentence: str
) -> None:
    assert told(engine, "POST", f"/containers/{running}/{path}", body) == sentence.format(running)


def test_kernel_memory_is_looked_at_by_old_versions(engine: Engine, running: str) -> None:
    path = f"/containers/{running}/update"
    for version in ("1.24", "1.41"):
        assert told(engine, "POST", f"/v{version}{path}", {"KernelMemory": 5}) == (
            "Minimum kernel memory limit allowed is 6MB"
        )
    assert engine.call("POST", f"/v1.42{path}", {"KernelMemory": 5}).status == 200


def test_a_second_network_that_cannot_be(engine: Engine) -> None:
    done = engine.docker(
        "run", "--rm", "--network=bridge", "--network=host", "busybox", "true", check=False
    )
    sentences = ["cannot connect container to host network - container must be created in"]
    if not engine.is_wharf:  # dockerd comes to either of the two first
        sentences.append("container sharing network namespace with another container or host")
    said = done.stderr.decode()
    assert any(sentence in said for sentence in sentences), said


@pytest.mark.parametrize(
    ("where", "sentence"),
    [
        ("/app", "Cannot mkdir: /app is not a directory"),
        ("/to-app/", "Cannot mkdir: /to-app is not a directory"),
        ("/app/deep", "lstat .*/merged/app/deep: not a directory"),
        ("/loop", "evalSymlinksInScope: too many links in .*/merged/loop"),
    ],
)
def test_a_working_directory_that_cannot_be_made(
    engine: Engine, name: str, built: Callable[..., str], where: str, sentence: str
) -> None:
    """It is the create that is refused, so nothing is left to be removed."""
    links = {"to-app": images.symlink("app"), "loop": images.symlink("loop")}
    body = {"Image": built({"app": images.file(), **links}), "WorkingDir": where}
    reply = engine.call("POST", f"/containers/create?name={name}", body)
    assert reply.status == 500
    assert re.fullmatch(sentence, reply.message)
    assert engine.out("ps", "-aq", "--filter", f"name={name}") == ""


@pytest.mark.parametrize("where", ["/new/deep", "/dangling", "/app"])
def test_a_working_directory_that_is_made(
    engine: Engine, name: str, built: Callable[..., str], where: str
) -> None:
    tag = built({"dangling": images.symlink("nowhere"), "app": images.directory()})
    out = engine.out("run", "--rm", "--name", name, "-w", where, tag, "pwd")
    assert out == where.replace("dangling", "nowhere")


@pytest.mark.parametrize("file", ["hosts", "hostname", "resolv.conf"])
def test_a_directory_in_the_place_of_a_file_of_the_network(
    engine: Engine, name: str, built: Callable[..., str], file: str
) -> None:
    tag = built({f"etc/{file}": images.directory()})
    done = engine.docker("run", "--name", name, tag, "true", check=False)
    assert done.returncode == 125
    assert f'{file}" to rootfs at "/etc/{file}": mount src=' in done.stderr.decode()
    assert "not a directory: Are you trying to mount a directory onto a file" in (
        done.stderr.decode()
    )


# Execs


def made(engine: Engine, container: str, **config: object) -> str:
    body = {"Cmd": ["true"], "AttachStdout": True} | config
    return str(engine.call("POST", f"/containers/{container}/exec", body).json()["Id"])


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"WorkingDir": "rel"}, "Cwd must be an absolute path"),
        (
            {"Env": ["=x"]},
            "unable to start container process: invalid environment variable: name cannot be empty",
        ),
    ],
)
def test_an_exec_that_the_runtime_refuses(
    engine: Engine, running: str, config: dict[str, object], sentence: str
) -> None:
    identifier = made(engine, running, **config)
    stream = engine.call("POST", f"/exec/{identifier}/start", {}).body
    assert stream[8:].decode() == f"OCI runtime exec failed: exec failed: {sentence}\r\n"
    assert engine.call("GET", f"/exec/{identifier}/json").json()["ExitCode"] == 128


def test_an_exec_runs_once(engine: Engine, running: str) -> None:
    identifier = made(engine, running, Cmd=["echo", "hi"])
    assert engine.call("POST", f"/exec/{identifier}/start", {}).body[8:] == b"hi\n"
    for _ in range(100):
        if not engine.call("GET", f"/exec/{identifier}/json").json()["Running"]:
            break
        time.sleep(0.05)
    again = engine.call("POST", f"/exec/{identifier}/start", {})
    assert again.status == 200
    assert again.body[8:].decode() == f"exec command {identifier} has already run\r\n"
    assert engine.call("GET", f"/exec/{identifier}/json").json()["ExitCode"] == 0


def test_an_exec_that_was_not_started_has_no_size(engine: Engine, running: str) -> None:
    identifier = made(engine, running, Tty=True)
    reply = engine.call("POST", f"/exec/{identifier}/resize?h=10&w=10")
    assert (reply.status, reply.message) == (500, "timeout waiting for exec session ready")


def test_a_size_waits_for_the_start_of_its_exec(engine: Engine, running: str) -> None:
    identifier = made(engine, running, Tty=True, Cmd=["sleep", "100"])
    with ThreadPoolExecutor(1) as pool:
        sized = pool.submit(engine.call, "POST", f"/exec/{identifier}/resize?h=41&w=123")
        time.sleep(0.5)
        assert not sized.done()
        started = engine.call("POST", f"/exec/{identifier}/start", {"Detach": True, "Tty": True})
        assert started.status == 200
        assert sized.result(8).status == 200


@pytest.mark.parametrize("tty", [False, True])
def test_an_exec_that_has_ended_has_no_size(engine: Engine, running: str, tty: bool) -> None:
    identifier = made(engine, running, Tty=tty)
    engine.call("POST", f"/exec/{identifier}/start", {"Detach": True, "Tty": tty})
    reply = eventually(  # dockerd has other words while it is cleared away
        lambda: engine.call("POST", f"/exec/{identifier}/resize?h=10&w=10"),
        lambda reply: reply.status == 404,
    )
    assert reply.message == f"NotFound: process does not exist {identifier}: not found"


def test_an_exec_that_could_not_start_has_no_size(engine: Engine, running: str) -> None:
    identifier = made(engine, running, Cmd=["/nosuch"])
    engine.call("POST", f"/exec/{identifier}/start", {"Detach": True})
    reply = engine.call("POST", f"/exec/{identifier}/resize?h=10&w=10")
    assert (reply.status, reply.message) == (400, "exec process is not started")


# Limits that the kernel refuses


def test_an_update_that_the_runtime_refuses(engine: Engine, running: str) -> None:
    if engine.call("GET", "/info").json()["CgroupVersion"] != "1":
        pytest.skip("with cgroup v2 any share will do")
    reply = engine.call("POST", f"/containers/{running}/update", {"CpuShares": 1})
    assert (reply.status, reply.message) == (
        500,
        f"Cannot update container {engine.inspect(running)['Id']}: runc did not terminate "
        "successfully: exit status 1: the minimum allowed cpu-shares is 2\n",
    )


# Clients that say no more

FOLLOWED = {
    "POST /containers/{}/wait": '{"Error":{"Message":"context canceled"},"StatusCode":-1}\n',
    "GET /containers/{}/logs?follow=1&stdout=1": "",
    "GET /events?filters=%7B%22container%22%3A%5B%22nosuch%22%5D%7D": "",
}


@pytest.mark.parametrize("followed", FOLLOWED)
def test_what_only_waits_ends_with_a_half_close(
    engine: Engine, running: str, followed: str
) -> None:
    with engine.raw() as connection:
        request = followed.format(running)
        connection.sendall(f"{request} HTTP/1.1\r\nHost: d\r\nContent-Length: 0\r\n\r\n".encode())
        heard = b""
        while not heard.endswith(b"\r\n\r\n"):
            heard = heard + connection.recv(4096)
        connection.settimeout(3)
        connection.shutdown(socket.SHUT_WR)
        rest = b"".join(iter(lambda: connection.recv(4096), b"")).decode()
    last = FOLLOWED[followed]
    assert rest == (f"{len(last):x}\r\n{last}\r\n" if last else "") + "0\r\n\r\n"


def test_what_changes_something_goes_on_after_a_half_close(engine: Engine, running: str) -> None:
    with engine.raw() as connection:
        connection.sendall(
            f"POST /containers/{running}/stop?t=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode()
        )
        connection.shutdown(socket.SHUT_WR)
        heard = b"".join(iter(lambda: connection.recv(4096), b""))
    assert heard.startswith(b"HTTP/1.1 204 ")
    assert engine.inspect(running)["State"]["Running"] is False


# Archives


@pytest.mark.parametrize("member", ["../evil", "a/../../evil", "/../evil", ".."])
def test_an_archive_that_leads_out_is_refused(engine: Engine, member: str) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(member))
    done = engine.docker("load", input=data.getvalue(), check=False)
    assert done.returncode == 1
    assert f'invalid entry name "{member}"' in done.stderr.decode()
