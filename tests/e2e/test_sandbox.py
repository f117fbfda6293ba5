"""Attacks from inside a container and from an image; ids as in tests/ATTACKS.md."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually
from tests.support import images

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from tests.support.engine import Engine

    Completed = subprocess.CompletedProcess[bytes]

pytestmark = pytest.mark.stock


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.beyond
def test_r1_the_engines_program_cannot_be_written(
    engine: Engine, built: Callable[..., str]
) -> None:
    before = digest(sys.executable), digest(os.path.realpath(sys.executable))
    tag = built({"grab": images.symlink("/proc/self/exe")})
    engine.docker("run", "--rm", tag, "/grab", "true", check=False)
    script = "for p in /proc/[0-9]*; do (echo x > $p/exe) 2>/dev/null; done; echo tried"
    assert engine.out("run", "--rm", "--privileged", tag, "sh", "-c", script) == "tried"
    assert (digest(sys.executable), digest(os.path.realpath(sys.executable))) == before


@pytest.mark.parametrize("number", [3, 5, 7, 8, 9, 10, 12, 15])
def test_r2_a_leaked_descriptor_is_no_working_directory(engine: Engine, number: int) -> None:
    done = engine.docker(
        "run",
        "--rm",
        "-w",
        f"/proc/self/fd/{number}",
        "busybox",
        "ls",
        "-a",
        "../../../..",
        check=False,
    )
    inside = engine.out("run", "--rm", "busybox", "ls", "-a", "/")
    assert done.returncode != 0 or done.stdout.decode().rstrip() == inside


def test_r3_dev_null_of_the_image_is_not_used(engine: Engine, built: Callable[..., str]) -> None:
    tag = built(
        {"dev": images.directory(), "dev/null": images.symlink("/proc/sys/kernel/core_pattern")}
    )
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    out = engine.out(
        "run",
        "--rm",
        tag,
        "sh",
        "-c",
        "stat -c %t:%T /dev/null; head -c1 /proc/keys | wc -c; echo x > /dev/null",
    )
    assert out.split() == ["1:3", "0"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before


def test_r4_the_console_is_a_terminal_of_the_container(engine: Engine) -> None:
    out = engine.docker("run", "--rm", "-t", "busybox", "sh", "-c", CONSOLE).stdout
    assert out.split() == [b"88", b"same"]


CONSOLE = "stat -c %t /dev/console; [ /dev/console -ef /dev/pts/0 ] && echo same"


@pytest.mark.parametrize("trick", ["image", "volume"])
def test_r4_links_in_place_of_terminals_lead_nowhere(
    engine: Engine, built: Callable[..., str], folder: Path, trick: str
) -> None:
    before = Path("/proc/sys/kernel/core_pattern").read_text()
    link = images.symlink("/proc/sys/kernel/core_pattern")
    tag = built(
        {
            "dev": images.directory(),
            "dev/console": link,
            "dev/ptmx": link,
            "dev/pts": images.directory(),
            **{f"dev/pts/{number}": link for number in range(4)},
        }
    )
    for number in range(4):
        (folder / str(number)).symlink_to("/proc/sys/kernel/core_pattern")
    flags = ["-v", f"{folder}:/dev/pts"] if trick == "volume" else []
    done = engine.docker("run", "--rm", "-t", *flags, tag, "sh", "-c", CONSOLE, check=False)
    assert Path("/proc/sys/kernel/core_pattern").read_text() == before
    if trick == "image":
        assert done.stdout.split() == [b"88", b"same"]
    else:
        # Docker's status for a file that is not there; runc misses the folder's ptmx, Wharf its
        # console.
        missing = b"opening the console" if engine.is_wharf else b"open /dev/pts/ptmx"
        assert done.returncode == 127
        assert missing + b": no such file or directory" in done.stderr
        assert done.stdout == b""


def test_r5_proc_is_procfs_and_read_only_where_it_must(engine: Engine) -> None:
    script = (
        "grep -c '^proc /proc proc' /proc/mounts; for f in bus fs irq sys; do "
        "grep \" /proc/$f \" /proc/mounts | cut -d' ' -f4 | cut -d, -f1; done; "
        "echo x > /proc/sys/kernel/hostname"
    )
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", script, check=False)
    assert done.stdout.split() == [b"1", b"ro", b"ro", b"ro", b"ro"]
    assert b"Read-only file system" in done.stderr


@pytest.mark.parametrize("where", ["/proc", "/proc/sys", "/proc/self/attr"])
@pytest.mark.parametrize("kind", ["bind", "volume", "tmpfs"])
def test_r5_a_false_proc_is_refused(
    engine: Engine, name: str, folder: Path, where: str, kind: str
) -> None:
    """CVE-2019-19921, CVE-2025-52881: what is written to confine would land in a file of theirs."""
    for fake in ("self/attr", "sys/net/ipv4", "thread-self/attr"):
        (folder / fake).mkdir(parents=True, exist_ok=True)
    flags = {
        "bind": ["-v", f"{folder}:{where}"],
        "volume": ["-v", f"{name}:{where}"],
        "tmpfs": ["--tmpfs", where],
    }[kind]
    sysctl = ["--sysctl", "net.ipv4.ip_forward=1"]
    done = engine.docker(
        "run", "--rm", "--name", name, *flags, *sysctl, "busybox", "echo", "ran", check=False
    )
    assert done.returncode == 125
    assert done.stdout == b""
    assert b"cannot be mounted because it is" in done.stderr
    assert not [path for path in folder.rglob("*") if path.is_file()]


def test_r5_a_link_to_proc_is_no_way_around(
    engine: Engine, built: Callable[..., str], folder: Path
) -> None:
    tag = built({"way": images.symlink("/proc"), "attr": images.symlink("/proc/self/attr")})
    for where in ("/way/self/attr", "/attr", "/way/sys"):
        done = engine.docker("run", "--rm", "-v", f"{folder}:{where}", tag, "true", check=False)
        assert b"cannot be mounted because it is inside /proc" in done.stderr, where


def test_r5_the_whole_real_proc_may_be_bound(engine: Engine) -> None:
    out = engine.out(
        "run", "--rm", "-v", "/proc:/proc", "busybox", "stat", "-f", "-c", "%T", "/proc"
    )
    assert out == "proc"


@pytest.mark.parametrize("where", ["proc", "sys", "dev"])
def test_r6_system_folders_that_are_symlinks(
    engine: Engine, built: Callable[..., str], where: str
) -> None:
    """The container has a folder there, and the link's target is nobody's but the image's."""
    tag = built({where: images.symlink("/inner"), "inner": images.directory()})
    before = sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text().count(" /inner")
    script = f"stat -c %F /{where}; stat -c %t:%T /dev/null; ls /inner | wc -l"
    assert engine.out("run", "--rm", tag, "sh", "-c", script).split() == ["directory", "1:3", "0"]
    after = sorted(os.listdir("/")), Path("/proc/self/mountinfo").read_text().count(" /inner")
    assert after == before


@pytest.mark.parametrize("what", ["a file", "../../etc"])
def test_r6_system_folders_that_are_none(
    engine: Engine, built: Callable[..., str], what: str
) -> None:
    for where in ("proc", "etc"):
        tag = built({where: images.symlink(what) if "/" in what else images.file(b"text")})
        script = f"stat -c %F /{where}; head -1 /etc/hosts"
        out = engine.out("run", "--rm", tag, "sh", "-c", script)
        assert out.splitlines() == ["directory", "127.0.0.1\tlocalhost"], where


RANGE = b"uids and gids must be in range 0-2147483647"
TOO_LARGE = ["2147483648", "4294967296", "-1", "99999999999999999999", "18446744073709551616"]


@pytest.mark.parametrize("user", [*TOO_LARGE, *(f"5:{number}" for number in TOO_LARGE[:3])])
def test_r8_numbers_out_of_range(engine: Engine, built: Callable[..., str], user: str) -> None:
    done = engine.docker("run", "--rm", f"--user={user}", "busybox", "id", check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert RANGE in done.stderr
    done = engine.docker("run", "--rm", built(User=user), "id", check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert RANGE in done.stderr


@pytest.mark.parametrize("user", ["0x0", " 0", "0 ", "1e9", "0b0", "0.0", "5:0x0"])
def test_r8_what_only_looks_like_a_number_is_a_name(engine: Engine, user: str) -> None:
    done = engine.docker("run", "--rm", f"--user={user}", "busybox", "id", check=False)
    assert (done.returncode, done.stdout) == (125, b"")
    assert b"nable to find" in done.stderr


def test_r8_supplementary_groups_out_of_range(engine: Engine) -> None:
    for number in TOO_LARGE:
        done = engine.docker("run", "--rm", f"--group-add={number}", "busybox", "id", check=False)
        assert (done.returncode, done.stdout) == (125, b""), number
        assert RANGE in done.stderr, number


def test_r8_minus_nought_is_nought(engine: Engine) -> None:
    """Who asks for 0 in another spelling gets root of the container, and is shown as such."""
    assert engine.out("run", "--rm", "--user=-0", "busybox", "id", "-u") == "0"
    assert engine.out("run", "--rm", "--user=5:-0", "busybox", "id", "-g") == "0"


QUICK_S = 1.0


def quickest(refused: Callable[[], Completed], attempts: int = 3) -> float:
    """Seconds of the fastest attempt, each of which must fail: what the engine needs at most."""
    spent = []
    for _ in range(attempts):
        started = time.monotonic()
        assert refused().returncode != 0
        spent.append(time.monotonic() - started)
    return min(spent)


@pytest.mark.beyond  # dockerd waits for ever for a FIFO
@pytest.mark.parametrize("kind", ["fifo", "device", "symlink"])
@pytest.mark.parametrize(("file", "user"), [("passwd", "someone"), ("group", "0:someone")])
def test_r9_accounts_that_are_no_files(
    engine: Engine, built: Callable[..., str], kind: str, file: str, user: str
) -> None:
    entry = {
        "fifo": images.fifo(),
        "device": images.character_device(1, 5),
        "symlink": images.symlink("/proc/kmsg"),
    }[kind]
    tag = built({"etc": images.directory(), f"etc/{file}": entry})
    run = ("run", "--rm", "-u", user, tag, "true")
    assert quickest(lambda: engine.docker(*run, check=False, timeout=30)) < QUICK_S


@pytest.mark.beyond  # dockerd reads whatever it finds
@pytest.mark.parametrize(("file", "user"), [("passwd", "someone"), ("group", "0:someone")])
def test_r9_accounts_of_10_gb(engine: Engine, name: str, file: str, user: str) -> None:
    """The file is a hole: what would be read is memory, not disk."""
    grow = f"truncate -s 10G /etc/{file}; echo grown; exec sleep 300"
    engine.docker("run", "-d", "--name", name, "busybox", "sh", "-c", grow)
    eventually(lambda: engine.out("logs", name), lambda out: out == "grown")
    asked = ("exec", "-u", user, name, "true")
    assert quickest(lambda: engine.docker(*asked, check=False, timeout=30)) < QUICK_S
    assert engine.inspect(name)["State"]["Running"] is True


@pytest.mark.beyond
def test_r9_a_device_bound_over_passwd(engine: Engine) -> None:
    run = ("run", "--rm", "-v", "/dev/zero:/etc/passwd", "-u", "someone", "busybox", "true")
    assert quickest(lambda: engine.docker(*run, check=False, timeout=30)) < QUICK_S


@pytest.mark.beyond
def test_r9_a_passwd_symlink_does_not_reach_the_host(
    engine: Engine, built: Callable[..., str], folder: Path
) -> None:
    (folder / "passwd").write_text("hostonly:x:4242:4242::/:/bin/sh\n")
    tag = built({"etc": images.directory(), "etc/passwd": images.symlink(f"{folder}/passwd")})
    done = engine.docker("run", "--rm", "-u", "hostonly", tag, "id", "-u", check=False)
    assert done.returncode != 0
    assert b"4242" not in done.stdout


DEFAULT_CAPABILITIES = "00000000a80425fb"
ACCOUNTS: images.Tree = {
    "etc": images.directory(),
    "etc/passwd": images.file(b"root:x:0:0::/:/bin/sh\nann:x:1001:1001::/:/bin/sh\n"),
    "etc/group": images.file(b"root:x:0:\nwheel:x:10:root\nann:x:1001:\nclub:x:2000:ann,root\n"),
}


@pytest.mark.parametrize(
    ("user", "flags", "groups"),
    [
        ("", [], "0 10 2000"),
        ("ann", [], "1001 2000"),
        ("1001", [], "1001 2000"),
        ("ann:0", [], "0"),
        ("5:6", [], "6"),
        ("5", [], "0"),
        ("5:6", ["--group-add", "club", "--group-add", "77"], "6 77 2000"),
    ],
)
def test_r10_groups_and_capabilities_are_those_asked_for(
    engine: Engine, name: str, built: Callable[..., str], user: str, flags: list[str], groups: str
) -> None:
    tag = built(ACCOUNTS)
    wanted = ["-u", user] if user else []
    read = ["grep", "-E", "Groups|Cap", "/proc/self/status"]
    out = engine.out("run", "--rm", *wanted, *flags, tag, *read)
    assert_confined(out, groups, is_root=not user)
    engine.docker("run", "-d", "--name", name, *flags, tag, "sleep", "300")
    assert_confined(engine.out("exec", *wanted, name, *read), groups, is_root=not user)


def assert_confined(status: str, groups: str, *, is_root: bool) -> None:
    found = {k: v.strip() for k, _, v in (line.partition(":") for line in status.splitlines())}
    assert sorted(found["Groups"].split(), key=int) == groups.split()
    own = DEFAULT_CAPABILITIES if is_root else "0" * 16
    assert found["CapBnd"] == DEFAULT_CAPABILITIES
    assert (found["CapEff"], found["CapPrm"]) == (own, own)
    assert (found["CapInh"], found["CapAmb"]) == ("0" * 16, "0" * 16)


def test_r11_forbidden_system_calls(engine: Engine) -> None:
    script = "unshare -U true 2>&1; mount -t tmpfs x /mnt 2>&1; echo done"
    out = engine.out("run", "--rm", "busybox", "sh", "-c", script)
    assert out.count("not permitted") + out.count("denied") >= 2
