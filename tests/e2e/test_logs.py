"""`docker logs`: what was written, when, and as it comes."""

from __future__ import annotations

import json
import re
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import running

if TYPE_CHECKING:
    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


def test_both_streams_apart(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "echo out; echo err >&2")
    done = engine.docker("logs", name)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize(
    ("option", "cause"),
    [
        ("max-size=-1", "invalid size: '-1'"),
        ("max-file=1.5", 'strconv.Atoi: parsing "1.5": invalid syntax'),
        ("compress=yes", 'strconv.ParseBool: parsing "yes": invalid syntax'),
        (
            "compress=true",
            "compress cannot be true when max-file is less than 2 or max-size is not set",
        ),
        ("tag={{", "template: log-tag:1: unclosed action"),
    ],
)
def test_options_that_make_no_sense(engine: Engine, option: str, cause: str) -> None:
    done = engine.docker("run", "--rm", "--log-opt", option, "busybox", "true", check=False)
    assert done.returncode == 125
    assert f"failed to initialize logging driver: {cause}\n" in done.stderr.decode()


def test_tail(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "seq", "1", "1000")
    assert engine.out("logs", "--tail", "3", name).split() == ["998", "999", "1000"]
    assert engine.out("logs", "--tail", "0", name) == ""
    assert len(engine.out("logs", "--tail", "all", name).split()) == 1000


def test_timestamps(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "echo", "x")
    line = engine.out("logs", "-t", name)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z x", line)


def test_since_and_until(engine: Engine, name: str) -> None:
    engine.docker(
        "run", "--name", name, "busybox", "sh", "-c", "echo 1; sleep 1.2; echo 2; sleep 1.2; echo 3"
    )
    stamps = [line.split()[0] for line in engine.out("logs", "-t", name).splitlines()]
    assert engine.out("logs", "--since", stamps[1], name).split() == ["2", "3"]
    assert engine.out("logs", "--until", stamps[1], name).split() == ["1", "2"]
    assert engine.out("logs", "--since", "0.1s", name) in ("", "3")


def test_follow_until_the_end(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "for i in 1 2 3 4; do echo $i; sleep 0.3; done",
    )
    assert engine.out("logs", "-f", name).split() == ["1", "2", "3", "4"]


def test_follow_comes_without_delay(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "while true; do cat /proc/uptime; sleep 0.2; done",
    )
    with running(
        engine.popen("logs", "-f", "--tail", "0", name, stdout=subprocess.PIPE)
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        written = float(process.stdout.readline().split()[0])
        assert time.clock_gettime(time.CLOCK_BOOTTIME) - written < 2


def test_partial_line_and_long_line(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "head -c 50000 /dev/zero | tr '\\0' a; echo; printf unended",
    )
    assert engine.docker("logs", name).stdout == b"a" * 50000 + b"\nunended"


def test_bytes_that_are_not_text(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "printf", 'a\\000b\\377\\t"\\\\\\n')
    assert engine.docker("logs", name).stdout in (
        b'a\x00b\xef\xbf\xbd\t"\\\n',
        b'a\x00b\xff\t"\\\n',
    )


def test_tty_log_is_raw(engine: Engine, name: str) -> None:
    engine.docker("run", "-t", "--name", name, "busybox", "echo", "x")
    assert engine.docker("logs", name).stdout == b"x\r\n"


def test_driver_none_has_no_log(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "--log-driver", "none", "busybox", "echo", "x")
    done = engine.docker("logs", name, check=False)
    assert b"configured logging driver does not support reading" in done.stderr


def test_streams_must_be_chosen(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "echo", "x")
    reply = engine.call("GET", f"/containers/{name}/logs")
    assert reply.status == 400
    assert reply.message == "Bad parameters: you must choose at least one stream"


def test_unknown_container(engine: Engine) -> None:
    reply = engine.call("GET", "/containers/nosuch/logs?stdout=1")
    assert (reply.status, reply.message) == (404, "No such container: nosuch")


def test_frames_a_line_each(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "sh", "-c", "echo a; echo b")
    reply = engine.call("GET", f"/v1.51/containers/{name}/logs?stdout=1&stderr=1")
    assert reply.headers["Content-Type"] == "application/vnd.docker.multiplexed-stream"
    assert reply.body == b"\1\0\0\0\0\0\0\2a\n\1\0\0\0\0\0\0\2b\n"


def test_rotation_keeps_the_newest(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "--name",
        name,
        "--log-opt",
        "max-size=10k",
        "--log-opt",
        "max-file=2",
        "busybox",
        "seq",
        "1",
        "2000",
    )
    kept = [int(x) for x in engine.out("logs", name).split()]
    assert kept[-1] == 2000
    assert kept == list(range(kept[0], 2001))
    assert 100 < len(kept) < 1000


def test_a_kilobyte_of_log_is_a_thousand_bytes(engine: Engine, name: str) -> None:
    # Each makes a record of 501 to 511 bytes: two reach 1000, and do not reach 1024.
    lines = ("printf", "%0440d\n", "1", "2", "3", "4", "5")
    engine.docker("run", "--name", name, "--log-opt", "max-size=1k", "busybox", *lines)
    assert [int(line) for line in engine.out("logs", name).split()] == [5]


@pytest.mark.beyond
def test_the_file_is_dockers_format(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "echo out; sleep 0.2; echo err >&2; sleep 0.2; printf end",
    )
    found = engine.inspect(name)
    path = Path(found["LogPath"])
    assert path.name == f"{found['Id']}-json.log"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(r["log"], r["stream"]) for r in rows] == [
        ("out\n", "stdout"),
        ("err\n", "stderr"),
        ("end", "stdout"),
    ]
    assert all(
        re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", r["time"]) for r in rows
    )


@pytest.mark.beyond
def test_a_damaged_line_does_not_hide_the_rest(engine: Engine, name: str) -> None:
    engine.docker("run", "--name", name, "busybox", "seq", "1", "5")
    path = Path(engine.inspect(name)["LogPath"])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"log":"3\\n","str\0\0\n'
    path.write_bytes(b"".join(lines))
    assert engine.out("logs", name).split() == ["1", "2", "4", "5"]
