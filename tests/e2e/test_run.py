"""`docker run`: what the process sees, what comes back, and how it ends."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually, running

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.engine import Engine

pytestmark = pytest.mark.stock


def test_prints_and_exits_zero(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "busybox", "echo", "hello")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello\n", b"")


def test_hello_world_runs_its_own_command(engine: Engine) -> None:
    assert "Hello from Docker!" in engine.out("run", "--rm", "hello-world")


def test_stdout_and_stderr_stay_apart(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


@pytest.mark.parametrize("code", [1, 42, 255])
def test_exit_code_is_the_process_own(engine: Engine, code: int) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", f"exit {code}", check=False)
    assert done.returncode == code


def test_death_by_signal_is_128_and_the_signal(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", "kill -9 $$", check=False)
    assert done.returncode in (0, 137)  # PID 1 is deaf to its own SIGKILL
    done = engine.docker(
        "run", "--rm", "--init", "busybox", "sh", "-c", "kill -TERM $$; sleep 5", check=False
    )
    assert done.returncode == 143


@pytest.mark.parametrize(
    ("command", "code", "text"),
    [
        ("nosuchprogram", 127, 'exec: "nosuchprogram": executable file not found in $PATH'),
        ("/no/such/program", 127, 'exec: "/no/such/program": stat /no/such/program: no such file'),
        ("/etc", 126, 'exec: "/etc": is a directory'),
        ("/etc/passwd", 126, 'exec: "/etc/passwd": permission denied'),
    ],
)
def test_command_that_cannot_run(engine: Engine, command: str, code: int, text: str) -> None:
    done = engine.docker("run", "--rm", "busybox", command, check=False)
    assert done.returncode == code
    assert text in done.stderr.decode()


def test_unknown_image_is_125(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--pull", "never", "no-such-image:1", check=False)
    assert done.returncode == 125
    assert b"No such image: no-such-image:1" in done.stderr


def test_unknown_flag_value_is_125(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--memory", "4m", "busybox", "true", check=False)
    assert done.returncode == 125
    assert b"Minimum memory limit allowed is 6MB" in done.stderr


def test_failed_start_with_rm_leaves_no_container(engine: Engine, name: str) -> None:
    engine.docker("run", "--rm", "--name", name, "busybox", "nosuchprogram", check=False)
    left = eventually(
        lambda: engine.out("ps", "-aq", "--filter", f"name={name}"), lambda text: not text
    )
    assert left == ""


def test_stdin_reaches_the_process_and_its_end_too(engine: Engine) -> None:
    done = engine.docker("run", "-i", "--rm", "busybox", "cat", input=b"one\ntwo\n")
    assert done.stdout == b"one\ntwo\n"


def test_output_after_the_end_of_stdin_arrives(engine: Engine) -> None:
    done = engine.docker(
        "run", "-i", "--rm", "busybox", "sh", "-c", "cat; sleep 1; echo late", input=b"x\n"
    )
    assert done.stdout == b"x\nlate\n"


def test_a_large_stream_comes_back_byte_for_byte(engine: Engine) -> None:
    data = os.urandom(32 << 20)
    done = engine.docker("run", "-i", "--rm", "busybox", "cat", input=data, timeout=120)
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(data).digest()


def test_stdin_is_empty_without_i(engine: Engine) -> None:
    assert engine.docker("run", "--rm", "busybox", "cat").stdout == b""


def test_environment_of_image_and_user(engine: Engine, name: str) -> None:
    lines = engine.out(
        "run", "--rm", "-h", "box", "-e", "A=1", "-e", "B=two words", "busybox", "env"
    ).splitlines()
    assert "A=1" in lines
    assert "B=two words" in lines
    assert "HOSTNAME=box" in lines
    assert "HOME=/root" in lines
    assert any(line.startswith("PATH=/usr/local/sbin:") for line in lines)
    assert not any(line.startswith("TERM=") for line in lines)


def test_tty_has_term_and_is_a_terminal(engine: Engine) -> None:
    out = engine.docker("run", "--rm", "-t", "busybox", "sh", "-c", "tty; echo $TERM").stdout
    assert out == b"/dev/pts/0\r\nxterm\r\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("nobody", "uid=65534(nobody) gid=65534(nobody)|uid=65534(nobody) gid=65534(nogroup)"),
        ("1234", "uid=1234 gid=0(root)"),
        ("1234:56", "uid=1234 gid=56"),
        ("nobody:0", "uid=65534(nobody) gid=0(root)"),
        ("0", "uid=0(root) gid=0(root)"),
    ],
)
def test_user_by_name_and_number(engine: Engine, user: str, expected: str) -> None:
    out = engine.out("run", "--rm", "-u", user, "busybox", "id")
    assert any(out.startswith(e) for e in expected.split("|")), out


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("nosuchuser", "unable to find user nosuchuser: no matching entries in passwd file"),
        ("0:nosuchgroup", "unable to find group nosuchgroup: no matching entries in group file"),
        ("4294967296", "uids and gids must be in range 0-2147483647"),
        ("-1", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_user_that_cannot_be(engine: Engine, user: str, text: str) -> None:
    done = engine.docker("run", "--rm", f"--user={user}", "busybox", "id", check=False)
    assert done.returncode == 125 or done.returncode == 126
    assert text in done.stderr.decode()


def test_group_add(engine: Engine) -> None:
    out = engine.out("run", "--rm", "--group-add", "777", "-u", "5:6", "busybox", "id", "-G")
    assert out.split() == ["6", "777"]


def test_workdir_is_made(engine: Engine) -> None:
    assert engine.out("run", "--rm", "-w", "/a/b/c", "busybox", "pwd") == "/a/b/c"


def test_entrypoint_replaces_and_clears(engine: Engine) -> None:
    assert engine.out("run", "--rm", "--entrypoint", "echo", "busybox", "a", "b") == "a b"


def test_hostname_and_domainname(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "-h",
        "web",
        "--domainname",
        "example.test",
        "busybox",
        "sh",
        "-c",
        "hostname; cat /proc/sys/kernel/domainname; cat /etc/hostname",
    )
    assert out.splitlines() == ["web", "example.test", "web.example.test"] or out.splitlines() == [
        "web",
        "example.test",
        "web",
    ]


def test_default_hostname_is_the_short_id(engine: Engine, name: str) -> None:
    hostname = engine.out("run", "--name", name, "busybox", "hostname")
    assert engine.inspect(name)["Id"].startswith(hostname)
    assert len(hostname) == 12


def test_read_only_root(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--read-only", "busybox", "touch", "/x", check=False)
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
    assert (
        engine.out(
            "run",
            "--rm",
            "--read-only",
            "--tmpfs",
            "/run:size=1m",
            "busybox",
            "sh",
            "-c",
            "touch /run/x /dev/shm/y && echo ok",
        )
        == "ok"
    )


def test_tmpfs_options(engine: Engine) -> None:
    line = engine.out(
        "run",
        "--rm",
        "--tmpfs",
        "/t:rw,size=64k,mode=1770",
        "busybox",
        "grep",
        " /t ",
        "/proc/mounts",
    )
    assert line.startswith("tmpfs /t tmpfs rw,nosuid,nodev,noexec,relatime,size=64k,mode=1770")


@pytest.mark.parametrize(
    ("options", "place"),
    [
        (("--tmpfs", "/etc:ro"), "/etc"),
        (("--tmpfs", "/x:ro,size=64k"), "/x"),
        (("--mount", "type=tmpfs,dst=/x,readonly", "-v", "/x/a/b"), "/x"),
        (("--tmpfs", "/x:ro", "--tmpfs", "/x/inner:ro", "-w", "/x/inner/deep"), "/x/inner"),
        (("--tmpfs", "/x:ro", "-w", "/x/a/b"), "/x"),
        (("--mount", "type=tmpfs,dst=/x,readonly", "-w", "/x/a/b"), "/x"),
        (("--read-only", "--tmpfs", "/x:ro", "-w", "/x/a"), "/x"),
    ],
)
def test_a_read_only_tmpfs_holds_what_is_mounted_and_worked_in(
    engine: Engine, options: tuple[str, ...], place: str
) -> None:
    script = f"grep ' {place} ' /proc/mounts; touch {place}/t 2>&1; pwd; cat /etc/hostname"
    lines = engine.out("run", "--rm", *options, "busybox", "sh", "-c", script).splitlines()
    assert lines[0].startswith(f"tmpfs {place} tmpfs ro,nosuid,nodev,noexec,relatime")
    assert lines[1].endswith("Read-only file system")
    assert lines[2] == (options[-1] if "-w" in options else "/")
    assert len(lines[3]) == 12


def test_a_working_directory_below_a_read_only_bind(engine: Engine, folder: Path) -> None:
    (folder / "there").mkdir()
    run = ("run", "--rm", "-v", f"{folder}:/b:ro", "-w")
    assert engine.out(*run, "/b/there", "busybox", "pwd") == "/b/there"
    done = engine.docker(*run, "/b/there/not/deep", "busybox", "pwd", check=False)
    assert done.returncode == 125
    assert b"container init: mkdir /b/there/not: read-only file system" in done.stderr
    assert not (folder / "there/not").exists()


def test_bind_mount_both_ways(engine: Engine, folder: Path) -> None:
    (folder / "in").write_text("from outside")
    out = engine.out(
        "run",
        "--rm",
        "-v",
        f"{folder}:/b",
        "busybox",
        "sh",
        "-c",
        "cat /b/in; echo inside > /b/out",
    )
    assert out == "from outside"
    assert (folder / "out").read_text() == "inside\n"


def test_bind_mount_read_only(engine: Engine, folder: Path) -> None:
    done = engine.docker(
        "run", "--rm", "-v", f"{folder}:/b:ro", "busybox", "touch", "/b/x", check=False
    )
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr


def test_missing_bind_source(engine: Engine, folder: Path) -> None:
    engine.docker("run", "--rm", "-v", f"{folder}/made:/b", "busybox", "true")
    assert (folder / "made").is_dir()
    done = engine.docker(
        "run",
        "--rm",
        "--mount",
        f"type=bind,src={folder}/not,dst=/b",
        "busybox",
        "true",
        check=False,
    )
    assert done.returncode == 125
    assert f"bind source path does not exist: {folder}/not" in done.stderr.decode()
    assert not (folder / "not").exists()


def test_named_volume_keeps_and_copies_up(engine: Engine, name: str) -> None:
    volume = f"{name}-v"
    engine.docker("run", "--rm", "-v", f"{volume}:/etc", "busybox", "sh", "-c", "echo 1 > /etc/new")
    out = engine.out("run", "--rm", "-v", f"{volume}:/d", "busybox", "cat", "/d/new", "/d/group")
    assert out.startswith("1\nroot:x:0:")


def test_anonymous_volume_goes_with_rm(engine: Engine, name: str) -> None:
    before = set(engine.out("volume", "ls", "-q").split())
    engine.docker("run", "--rm", "-v", "/data", "busybox", "touch", "/data/x")
    after = eventually(lambda: set(engine.out("volume", "ls", "-q").split()), lambda v: v == before)
    assert after - before == set()


def test_memory_limit_and_oom(engine: Engine, name: str) -> None:
    done = engine.docker(
        "run",
        "--name",
        name,
        "-m",
        "16m",
        "--memory-swap",
        "16m",
        "busybox",
        "sh",
        "-c",
        "x=a; while true; do x=$x$x; done",
        check=False,
        timeout=60,
    )
    assert done.returncode == 137
    state = engine.inspect(name)["State"]
    assert (state["OOMKilled"], state["ExitCode"], state["Status"]) == (True, 137, "exited")


def test_limits_are_what_the_cgroup_says(engine: Engine, name: str) -> None:
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--cpuset-cpus",
        "0",
        "--pids-limit",
        "50",
        "busybox",
        "sleep",
        "60",
    )
    host = engine.inspect(name)["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["PidsLimit"]) == (64 << 20, 500_000_000, 50)
    probe = (
        "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
        " /sys/fs/cgroup/cpuset/cpuset.cpus /sys/fs/cgroup/pids/pids.max 2>/dev/null ||"
        " cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max /sys/fs/cgroup/cpuset.cpus"
        " /sys/fs/cgroup/pids.max"
    )
    values = engine.out("exec", name, "sh", "-c", probe).split()
    assert values in (
        ["67108864", "50000", "0", "50"],
        ["67108864", "50000", "100000", "0", "50"],
    )


def test_ulimit_and_shm_size(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--ulimit",
        "nofile=123:456",
        "--shm-size",
        "2m",
        "busybox",
        "sh",
        "-c",
        "ulimit -n; ulimit -Hn; df -k /dev/shm | tail -1 | awk '{print $2}'",
    )
    assert out.split() == ["123", "456", "2048"]


def test_capabilities(engine: Engine) -> None:
    def effective(*flags: str) -> int:
        return int(
            engine.out(
                "run", "--rm", *flags, "busybox", "sh", "-c", "grep CapEff /proc/self/status"
            ).split()[1],
            16,
        )

    assert effective() == 0x00000000A80425FB
    assert effective("--cap-drop", "ALL") == 0
    assert effective("--cap-drop", "ALL", "--cap-add", "NET_ADMIN") == 1 << 12
    assert effective("--cap-add", "SYS_ADMIN") == 0x00000000A80425FB | 1 << 21


def test_inheritable_capabilities_are_empty(engine: Engine) -> None:
    out = engine.out(
        "run", "--rm", "busybox", "grep", "-E", "CapInh|CapAmb|CapPrm|CapBnd", "/proc/self/status"
    )
    sets = dict(line.split(":\t") for line in out.splitlines())
    assert sets["CapInh"] == sets["CapAmb"] == "0" * 16
    assert sets["CapPrm"] == sets["CapBnd"] == "00000000a80425fb"


def test_unknown_capability(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--cap-add", "NOPE", "busybox", "true", check=False)
    assert done.returncode == 125
    assert b'invalid CapAdd: unknown capability: "CAP_NOPE"' in done.stderr


def test_privileged_sees_devices(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--privileged",
        "busybox",
        "sh",
        "-c",
        "test -e /dev/kmsg && echo kmsg; grep ' /proc/sys ' /proc/mounts; true",
    )
    assert "kmsg" in out
    assert "/proc/sys proc ro" not in out


def test_no_new_privileges(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--security-opt",
        "no-new-privileges",
        "busybox",
        "grep",
        "NoNewPrivs",
        "/proc/self/status",
    )
    assert out.split() == ["NoNewPrivs:", "1"]


def test_seccomp_is_on_and_can_be_off(engine: Engine) -> None:
    def mode(*flags: str) -> str:
        return engine.out(
            "run", "--rm", *flags, "busybox", "grep", "Seccomp:", "/proc/self/status"
        ).split()[1]

    assert mode() == "2"
    assert mode("--security-opt", "seccomp=unconfined") == "0"
    assert mode("--privileged") == "0"


def test_seccomp_profile_of_ones_own(engine: Engine, folder: Path) -> None:
    profile = folder / "profile.json"
    profile.write_text(
        '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":'
        '[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}'
    )
    done = engine.docker(
        "run", "--rm", "--security-opt", f"seccomp={profile}", "busybox", "mkdir", "/x", check=False
    )
    assert done.returncode == 1
    assert b"Operation not permitted" in done.stderr


def test_device(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--device",
        "/dev/zero:/dev/nought:r",
        "busybox",
        "sh",
        "-c",
        "head -c 3 /dev/nought | wc -c; ls -l /dev/nought",
    )
    assert out.splitlines()[0] == "3"
    assert re.search(r"1, +5", out)


def test_missing_device(engine: Engine) -> None:
    done = engine.docker("run", "--rm", "--device", "/dev/nope", "busybox", "true", check=False)
    assert done.returncode in (125, 126, 127)
    assert b"/dev/nope" in done.stderr
    assert b"no such file or directory" in done.stderr


def test_devices_are_closed_by_default(engine: Engine) -> None:
    done = engine.docker(
        "run", "--rm", "busybox", "sh", "-c", "mknod /x b 7 0 && cat /x", check=False
    )
    assert done.returncode != 0
    assert b"Operation not permitted" in done.stderr


def test_sysctl(engine: Engine) -> None:
    out = engine.out(
        "run",
        "--rm",
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=99",
        "busybox",
        "cat",
        "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    )
    assert out == "99"


def test_init_is_pid_one(engine: Engine) -> None:
    script = "echo $$; cat /proc/1/comm; tr '\\0' '|' </proc/1/cmdline; ps"
    out = engine.out("run", "--rm", "--init", "busybox", "sh", "-c", script)
    pid, comm, arguments = out.splitlines()[:3]
    assert int(pid) > 1
    assert comm == "docker-init"
    assert arguments.startswith(f"/sbin/docker-init|--|sh|-c|{script}|PID")
    assert "python" not in out


@pytest.mark.parametrize(("command", "code"), [("nope", 127), ("/etc", 126), ("/etc/passwd", 126)])
def test_init_ends_as_a_shell_would(engine: Engine, name: str, command: str, code: int) -> None:
    engine.docker("create", "--name", name, "--init", "busybox", command)
    assert engine.call("POST", f"/containers/{name}/start").status == 204
    assert engine.out("wait", name) == str(code)
    assert f"exec {command} failed: " in engine.docker("logs", name).stderr.decode()


def test_no_command_line_of_the_host_is_seen(engine: Engine, name: str) -> None:
    """Not even while something enters: what the container sees of it is looked at as it comes."""
    spy = "while :; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/comm 2>/dev/null; done"
    engine.docker("run", "-d", "--name", name, "busybox", "sh", "-c", f"{spy} >/seen")
    for _ in range(10):
        engine.docker("exec", name, "true")
    seen = engine.docker("exec", name, "cat", "/seen").stdout
    assert b"sh\0-c\0while" in seen
    assert b"python" not in seen


def test_labels_and_cidfile(engine: Engine, name: str, folder: Path) -> None:
    cid = folder / "cid"
    engine.docker(
        "run",
        "-d",
        "--name",
        name,
        "--label",
        "a=b",
        "-l",
        "empty",
        "--cidfile",
        str(cid),
        "busybox",
        "true",
    )
    found = engine.inspect(name)
    assert found["Config"]["Labels"] == {"a": "b", "empty": ""}
    assert found["Id"] == cid.read_text()


def test_detached_prints_the_id(engine: Engine, name: str) -> None:
    assert re.fullmatch(r"[0-9a-f]{64}", engine.out("run", "-d", "--name", name, "busybox", "true"))


def test_two_containers_share_nothing(engine: Engine) -> None:
    def namespaces() -> set[str]:
        return set(
            engine.out(
                "run",
                "--rm",
                "busybox",
                "sh",
                "-c",
                "for n in mnt pid net ipc uts; do readlink /proc/self/ns/$n; done",
            ).split()
        )

    first, second = namespaces(), namespaces()
    assert len(first) == 5
    host = {os.readlink(f"/proc/self/ns/{n}") for n in ("mnt", "pid", "net", "ipc", "uts")}
    assert not (first | second) & host


@pytest.mark.parametrize(
    ("flag", "namespace"),
    [("--pid", "pid"), ("--network", "net"), ("--ipc", "ipc"), ("--uts", "uts")],
)
def test_host_namespaces(engine: Engine, flag: str, namespace: str) -> None:
    out = engine.out(
        "run", "--rm", flag, "host", "busybox", "readlink", f"/proc/self/ns/{namespace}"
    )
    assert out == os.readlink(f"/proc/self/ns/{namespace}")


def test_joins_another_container(engine: Engine, name: str) -> None:
    engine.docker("run", "-d", "--name", name, "--ipc", "shareable", "busybox", "sleep", "60")
    probe = "for n in pid net ipc; do readlink /proc/self/ns/$n; done"
    own = engine.out("exec", name, "sh", "-c", probe)
    other = engine.out(
        "run",
        "--rm",
        "--pid",
        f"container:{name}",
        "--network",
        f"container:{name}",
        "--ipc",
        f"container:{name}",
        "busybox",
        "sh",
        "-c",
        probe,
    )
    assert other == own


def test_interrupt_is_passed_on(engine: Engine, name: str) -> None:
    command = [
        "run",
        "--name",
        name,
        "busybox",
        "sh",
        "-c",
        "trap 'echo got; exit 7' INT; echo ready; while true; do sleep 0.1; done",
    ]
    with running(engine.popen(*command, stdout=subprocess.PIPE)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(2)
        assert process.stdout.readline() == b"got\n"
        assert process.wait(10) == 7


def test_no_descriptor_survives_into_the_container(engine: Engine) -> None:
    out = engine.out("run", "--rm", "busybox", "sh", "-c", "ls -l /proc/self/fd | grep -v 'total'")
    numbers = {int(m) for m in re.findall(r" (\d+) ->", out)}
    assert numbers <= {0, 1, 2, 3}  # 3 is ls reading the folder


def test_a_process_that_ends_at_once_never_hangs(engine: Engine) -> None:
    started = time.monotonic()
    for _ in range(10):
        assert engine.docker("run", "--rm", "busybox", "true").returncode == 0
    assert time.monotonic() - started < 60


def test_every_container_finds_what_dockerd_makes(engine: Engine) -> None:
    looked = "stat -c '%n %A %s' /.dockerenv; readlink /etc/mtab"
    found = engine.out("run", "--rm", "busybox", "sh", "-c", looked)
    assert found.splitlines() == ["/.dockerenv -rwxr-xr-x 0", "/proc/mounts"]


@pytest.mark.parametrize("path", ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"])
def test_a_read_only_root_holds_for_the_engines_own_files(engine: Engine, path: str) -> None:
    touch = ("busybox", "touch", path)
    done = engine.docker("run", "--rm", "--read-only", *touch, check=False)
    assert done.returncode == 1
    assert b"Read-only file system" in done.stderr
    engine.docker("run", "--rm", *touch)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((), None),
        (("--privileged",), ["label=disable"]),
        (("--pid", "host"), ["label=disable"]),
        (
            ("--ipc", "host", "--security-opt", "seccomp=unconfined"),
            ["seccomp=unconfined", "label=disable"],
        ),
        (("--privileged", "--security-opt", "label=level:s0"), ["label=level:s0"]),
    ],
)
def test_a_created_container_as_inspect_shows_it(
    engine: Engine, name: str, flags: tuple[str, ...], expected: list[str] | None
) -> None:
    engine.docker("create", "--name", name, *flags, "busybox", "true")
    shown = engine.inspect(name)
    assert shown["HostConfig"]["SecurityOpt"] == expected
    assert shown["LogPath"] == ""
    engine.docker("start", "-a", name)
    assert engine.inspect(name)["LogPath"].endswith("-json.log")


def test_the_open_files_of_a_container_are_the_daemons_own(engine: Engine) -> None:
    soft, hard = engine.out("run", "--rm", "busybox", "sh", "-c", "ulimit -n; ulimit -Hn").split()
    assert (int(soft), int(hard)) == resource.getrlimit(resource.RLIMIT_NOFILE)
