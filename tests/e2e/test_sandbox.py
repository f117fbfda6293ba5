"""Attacks from inside a container and from an image; ids as in the list of attack cases."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import tarfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import images

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Engine, Wharf

pytestmark = pytest.mark.stock
Build = "Callable[..., str]"


@pytest.fixture
def built(engine: Engine, name: str) -> Iterator[Callable[..., str]]:
    """Loads an image of busybox and some more files; its tag."""
    tags: list[str] = []

    def build(*trees: images.Tree, **config: object) -> str:
        tag = f"{name}:{len(tags)}"
        tags.append(tag)
        engine.docker(
            "load", input=images.docker_archive({tag: images.on_busybox(*trees, config=config)})
        )
        return tag

    yield build
    for tag in tags:
        for ref in engine.out("ps", "-aq", "--filter", f"ancestor={tag}").split():
            engine.docker("rm", "-f", ref, check=False)
        engine.docker("rmi", "-f", tag, check=False)


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
    out = engine.docker(
        "run",
        "--rm",
        "-t",
        "busybox",
        "sh",
        "-c",
        "stat -c %t /dev/console; [ /dev/console -ef /dev/pts/0 ] && echo same",
    ).stdout
    assert out.split() == [b"88", b"same"]


def test_r5_proc_is_procfs_and_read_only_where_it_must(engine: Engine) -> None:
    script = (
        "grep -c '^proc /proc proc' /proc/mounts; for f in bus fs irq sys; do "
        "grep \" /proc/$f \" /proc/mounts | cut -d' ' -f4 | cut -d, -f1; done; "
        "echo x > /proc/sys/kernel/hostname"
    )
    done = engine.docker("run", "--rm", "busybox", "sh", "-c", script, check=False)
    assert done.stdout.split() == [b"1", b"ro", b"ro", b"ro", b"ro"]
    assert b"Read-only file system" in done.stderr


@pytest.mark.parametrize("where", ["proc", "sys", "dev"])
def test_r6_system_folders_that_are_symlinks(
    engine: Engine, built: Callable[..., str], where: str
) -> None:
    tag = built({where: images.symlink("/etc")})
    before = sorted(os.listdir("/etc"))
    engine.docker("run", "--rm", tag, "true", check=False)
    assert sorted(os.listdir("/etc")) == before
    assert f" /etc/{where}" not in Path("/proc/self/mountinfo").read_text()


def test_r8_users_that_overflow(engine: Engine) -> None:
    for user in ("4294967296", "2147483648", "99999999999999999999", "0x0", "-0"):
        done = engine.docker("run", "--rm", f"--user={user}", "busybox", "id", "-u", check=False)
        assert done.returncode != 0 or done.stdout.strip() != b"0" or user == "-0", user


@pytest.mark.beyond  # dockerd waits for ever for a FIFO
@pytest.mark.parametrize("kind", ["fifo", "device", "symlink"])
def test_r9_a_passwd_that_is_no_file(engine: Engine, built: Callable[..., str], kind: str) -> None:
    entry = {
        "fifo": images.fifo(),
        "device": images.character_device(1, 5),
        "symlink": images.symlink("/proc/kmsg"),
    }[kind]
    tag = built({"etc": images.directory(), "etc/passwd": entry})
    started = time.monotonic()
    done = engine.docker("run", "--rm", "-u", "someone", tag, "true", check=False, timeout=30)
    assert done.returncode != 0
    assert time.monotonic() - started < 5


@pytest.mark.beyond
def test_r9_a_passwd_symlink_does_not_reach_the_host(
    engine: Engine, built: Callable[..., str], folder: Path
) -> None:
    (folder / "passwd").write_text("hostonly:x:4242:4242::/:/bin/sh\n")
    tag = built({"etc": images.directory(), "etc/passwd": images.symlink(f"{folder}/passwd")})
    done = engine.docker("run", "--rm", "-u", "hostonly", tag, "id", "-u", check=False)
    assert done.returncode != 0
    assert b"4242" not in done.stdout


def test_r10_groups_are_those_asked_for(engine: Engine) -> None:
    assert engine.out(
        "run", "--rm", "-u", "5:6", "busybox", "grep", "Groups", "/proc/self/status"
    ).split() == ["Groups:", "6"]


def test_r11_forbidden_system_calls(engine: Engine) -> None:
    script = "unshare -U true 2>&1; mount -t tmpfs x /mnt 2>&1; echo done"
    out = engine.out("run", "--rm", "busybox", "sh", "-c", script)
    assert out.count("not permitted") + out.count("denied") >= 2


def test_r14_short_lived_containers_never_lose_their_code(engine: Engine, name: str) -> None:
    for attempt in range(15):
        done = engine.docker(
            "run", "--rm", "busybox", "sh", "-c", f"exit {attempt + 1}", check=False
        )
        assert done.returncode == attempt + 1


def crafted(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def member(
    path: str, kind: bytes = tarfile.REGTYPE, target: str = "", content: bytes = b""
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.type, info.linkname, info.mode = kind, target, 0o755
    return info, content


@pytest.mark.parametrize("trick", ["dotdot", "absolute", "symlink", "hardlink"])
def test_c5_a_layer_writes_nothing_outside(
    engine: Engine, name: str, folder: Path, trick: str
) -> None:
    outside = folder / "owned"
    victim = folder / "victim"
    victim.write_text("secret")
    tricks = {
        "dotdot": [member("../" * 40 + str(outside)[1:], content=b"x")],
        "absolute": [member(str(outside), content=b"x")],
        "symlink": [member("out", tarfile.SYMTYPE, str(folder)), member("out/owned", content=b"x")],
        "hardlink": [member("leak", tarfile.LNKTYPE, "../" * 40 + str(victim)[1:])],
    }
    data = crafted([member("bin", tarfile.DIRTYPE), *tricks[trick]])
    engine.docker("import", "-", f"{name}:1", input=data, check=False)
    assert not outside.exists()
    assert victim.read_text() == "secret"
    assert victim.stat().st_nlink == 1
    engine.docker("rmi", "-f", f"{name}:1", check=False)


@pytest.mark.beyond
def test_c5_overlay_attributes_do_not_come_from_a_layer(engine: Engine, name: str) -> None:
    info = tarfile.TarInfo("etc")
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    info.pax_headers = {
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.redirect": "/bin",
    }
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(info)
    layer = data.getvalue()
    base = images.busybox()
    del base
    done = engine.docker("import", "-", f"{name}:1", input=layer, check=False)
    if done.returncode == 0:
        (found,) = json.loads(engine.out("image", "inspect", f"{name}:1"))
        upper = found["GraphDriver"]["Data"].get("UpperDir", "")
        if upper and Path(upper, "etc").exists():
            assert not [
                x for x in os.listxattr(Path(upper, "etc")) if x.startswith("trusted.overlay.")
            ]
    engine.docker("rmi", "-f", f"{name}:1", check=False)


def test_a2_json_that_is_hard_to_read(engine: Engine) -> None:
    bodies = [
        b'{"Image":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"Image":"busybox","HostConfig":{"Memory":' + b"9" * 10_000 + b"}}",
        b'{"Image":"busybox","HostConfig":{"Memory":NaN}}',
        b'{"Image":"busybox","HostConfig":{"Memory":1e999}}',
        b'\xff\xfe{"Image"',
        b'{"Image":"busybox","HostConfig":{"CpuShares":1.5}}',
    ]
    for body in bodies:
        reply = engine.call(
            "POST", "/containers/create", body, headers={"Content-Type": "application/json"}
        )
        assert reply.status == 400, body[:40]
        assert reply.message
        assert "Traceback" not in reply.message


def test_a5_the_socket_and_the_folders_are_closed(wharf: Wharf) -> None:
    assert os.stat(wharf.socket_path).st_mode & 0o777 == 0o660
    assert os.stat(wharf.data_root).st_mode & 0o077 in (0, 0o010)
    assert os.stat(wharf.exec_root).st_mode & 0o077 in (0, 0o010, 0o011)


@pytest.mark.parametrize(
    "body",
    [
        {"Image": "busybox", "Hostname": "a\nb"},
        {"Image": "busybox", "HostConfig": {"ExtraHosts": ["a\nb:1.2.3.4"]}},
        {"Image": "busybox", "HostConfig": {"DnsSearch": ["a\nb"]}},
        {"Image": "busybox", "HostConfig": {"CgroupParent": "../../x"}},
        {"Image": "busybox", "Cmd": ["a\0b"]},
        {"Image": "busybox", "Env": ["A=a\0b"]},
    ],
)
@pytest.mark.beyond
def test_a8_injections(engine: Engine, body: dict[str, object]) -> None:
    reply = engine.call("POST", "/containers/create", body)
    assert reply.status == 400, reply.body
    assert reply.message


def test_a8_a_newline_in_env_and_label_is_ordinary(engine: Engine, name: str) -> None:
    out = engine.out(
        "run",
        "--name",
        name,
        "-e",
        "A=1\n2",
        "--label",
        "l=1\n2",
        "busybox",
        "sh",
        "-c",
        'echo "$A"',
    )
    assert out == "1\n2"
    assert engine.inspect(name)["Config"]["Labels"] == {"l": "1\n2"}


def test_a8_a_sysctl_of_the_host(engine: Engine) -> None:
    done = engine.docker(
        "run", "--rm", "--sysctl", "kernel.panic=1", "busybox", "true", check=False
    )
    assert done.returncode != 0
    assert (
        b"is not in a separate kernel namespace" in done.stderr
        or b"not namespaced" in done.stderr
        or b"kernel.panic" in done.stderr
    )


def test_i1_a_digest_that_lies_is_refused_on_load(engine: Engine, name: str) -> None:
    image = images.on_busybox({"a": images.file(b"1")})
    data = images.docker_archive({f"{name}:1": image})
    assert b"rootfs" in data
    wrong = data.replace(image.layers[-1].diff_id.encode(), b"sha256:" + b"0" * 64)
    done = engine.docker("load", input=wrong, check=False)
    assert done.returncode == 1
    assert engine.docker("image", "inspect", f"{name}:1", check=False).returncode == 1
