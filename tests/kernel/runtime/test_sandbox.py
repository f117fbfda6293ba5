"""What a container can see and do, and what those who attack it get."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest

from engine.runtime.client import RuntimeFailure
from tests.kernel.runtime.harness import Box, attach, read_all

if TYPE_CHECKING:
    from collections.abc import Callable

    InBox = Callable[[Any], Any]


def status(output: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in output.splitlines() if ":\t" in line)


def test_docker_default_capabilities_and_nothing_inheritable(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("cat", "/proc/self/status")
        bundle.spec["process"]["user"] = {"uid": 0, "gid": 0, "additionalGids": [5, 10]}
        _code, output = await box.run(bundle=bundle)
        facts = status(output)
        assert facts["CapBnd"] == facts["CapPrm"] == facts["CapEff"] == "00000000a80425fb"
        assert facts["CapInh"] == facts["CapAmb"] == "0" * 16
        assert facts["Groups"].split() == ["5", "10"]
        assert facts["NoNewPrivs"] == "0"
        assert facts["Umask"] == "0022"
        assert facts["SigBlk"] == facts["SigIgn"] == "0" * 16

    in_box(scenario)


def test_another_user_has_no_capability_but_the_bound(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        script = "cat /proc/self/status; echo x > /dev/stdout"
        bundle = box.bundle("sh", "-c", script)
        bundle.spec["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [1000]}
        bundle.spec["process"]["noNewPrivileges"] = True
        code, output = await box.run(bundle=bundle)
        facts = status(output)
        assert code == 0
        assert facts["Uid"].split() == ["1000"] * 4
        assert facts["Groups"].split() == ["1000"]
        assert facts["CapEff"] == facts["CapPrm"] == "0" * 16
        assert facts["NoNewPrivs"] == "1"

    in_box(scenario)


@pytest.mark.parametrize("uid", [1 << 31, 1 << 32, -1])
def test_a_uid_out_of_range_is_never_root(in_box: InBox, uid: int) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("id")
        bundle.spec["process"]["user"] = {"uid": uid, "gid": 0}
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        assert str(failure.value) == "uids and gids must be in range 0-2147483647"

    in_box(scenario)


@pytest.mark.parametrize("how", ["run", "exec"])
def test_no_descriptor_above_two_survives(in_box: InBox, how: str) -> None:
    program = ["sh", "-c", "ls -l /proc/self/fd 2>/dev/null | grep -c '[0-9] ->'"]

    async def scenario(box: Box) -> None:
        (box.lower / "bin" / "grep").symlink_to("busybox")
        if how == "run":
            assert await box.run(*program) == (0, "3\n")
            return
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        attachment, client = attach(stdin=False)
        process = {"args": program, "cwd": "/", "env": ["PATH=/bin"]}
        await task.exec("e", process, attachment=attachment)
        assert await read_all(client) == b"3\n"
        client.close()
        await task.signal(9)
        await box.events.exit_of(bundle.id)

    in_box(scenario)


@pytest.mark.parametrize("number", range(3, 20))
def test_a_working_directory_through_a_descriptor_fails(in_box: InBox, number: int) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("pwd")
        bundle.spec["process"]["cwd"] = f"/proc/self/fd/{number}"
        with pytest.raises(RuntimeFailure):
            await box.runtime.create(bundle)

    in_box(scenario)


def overwrite(path: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, b"x")
    finally:
        os.close(fd)


def test_the_executable_of_a_process_on_its_way_in_is_a_sealed_copy(in_box: InBox) -> None:
    """CVE-2019-5736: the program is a script whose interpreter is /proc/self/exe."""

    async def scenario(box: Box) -> None:
        script = box.lower / "bin" / "evil"
        script.write_text("#!/proc/self/exe -c\n")
        script.chmod(0o755)
        mine = f"/proc/{box.launcher_pid}/exe"
        assert os.stat(mine).st_nlink == 0
        with pytest.raises(OSError, match=r"not permitted|busy"):
            overwrite(mine)
        await box.run("/bin/evil")

    in_box(scenario)


def test_missing_working_directories_are_made(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("pwd")
        bundle.spec["process"]["cwd"] = "/a/b c"
        assert await box.run(bundle=bundle) == (0, "/a/b c\n")

    in_box(scenario)


def test_masked_and_read_only_paths(in_box: InBox) -> None:
    script = (
        "exec 2>&1; wc -c < /proc/keys; ls /proc/acpi /sys/firmware | grep -v :; "
        "echo 1 > /proc/sys/kernel/domainname; touch /sys/x; stat -c %F /dev/null; "
        "mknod /dev/sda b 8 0 && cat /dev/sda"
    )

    async def scenario(box: Box) -> None:
        (box.lower / "bin" / "grep").symlink_to("busybox")
        _code, output = await box.run("sh", "-c", script)
        lines = output.splitlines()
        assert lines[0] == "0"
        assert sum("Read-only file system" in line for line in lines) == 2
        assert "character special file" in lines
        assert any("Operation not permitted" in line for line in lines)

    in_box(scenario)


def test_an_image_whose_null_device_is_a_link_does_not_open_the_masks(in_box: InBox) -> None:
    """CVE-2025-31133: without a tmpfs on /dev the image's own /dev/null would be bound."""

    async def scenario(box: Box) -> None:
        (box.lower / "dev" / "null").symlink_to("/proc/sys/kernel/core_pattern")
        bundle = box.bundle("true")
        bundle.spec["mounts"] = [
            m for m in bundle.spec["mounts"] if not m["destination"].startswith("/dev")
        ]
        bundle.spec["mounts"].append(
            {"destination": "/dev", "source": str(box.lower / "dev"), "options": ["rbind"]}
        )
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        assert failure.value.step == "mask"

    in_box(scenario)


@pytest.mark.parametrize("name", ["proc", "sys"])
def test_an_image_may_not_choose_where_proc_is(in_box: InBox, name: str) -> None:
    async def scenario(box: Box) -> None:
        (box.lower / name).rmdir()
        (box.lower / name).symlink_to("tmp")
        with pytest.raises(RuntimeFailure, match="must be mounted on ordinary directory"):
            await box.runtime.create(box.bundle("true"))

    in_box(scenario)


def test_links_in_an_image_lead_mounts_nowhere_but_into_it(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        outside = box.where / "outside"
        outside.mkdir()
        volume = box.where / "volume"
        volume.mkdir()
        (volume / "file").write_text("mine\n")
        (box.lower / "data").symlink_to(f"../../../../../..{outside}")
        bundle = box.bundle("cat", "/data/file")
        bundle.spec["mounts"].append(
            {"destination": "/data", "source": str(volume), "options": ["rbind", "rprivate"]}
        )
        assert await box.run(bundle=bundle) == (0, "mine\n")
        assert list(outside.iterdir()) == []

    in_box(scenario)


def test_nothing_is_mounted_over_procfs(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        (box.lower / "sneak").symlink_to("/proc/self/attr")
        for destination in ("/proc/self/attr", "/sneak"):
            bundle = box.bundle("true")
            bundle.spec["mounts"].append(
                {"destination": destination, "source": "/tmp", "options": ["bind"]}
            )
            with pytest.raises(RuntimeFailure, match="because it is inside /proc"):
                await box.runtime.create(bundle)

    in_box(scenario)


def test_bind_mounts_with_their_options(in_box: InBox) -> None:
    script = "exec 2>&1; cat /v/a /one; touch /v/x; echo y > /w/y; mount | grep -c '/v .*ro,nosuid'"

    async def scenario(box: Box) -> None:
        (box.lower / "bin" / "grep").symlink_to("busybox")
        volume = box.where / "volume"
        volume.mkdir()
        (volume / "a").write_text("A\n")
        bundle = box.bundle("sh", "-c", script)
        bundle.spec["mounts"] += [
            {"destination": "/v", "source": str(volume), "options": ["rbind", "ro", "nosuid"]},
            {"destination": "/w", "source": str(volume), "options": ["rbind"]},
            {"destination": "/one", "source": str(volume / "a"), "options": ["bind"]},
            {"destination": "/t", "type": "tmpfs", "options": ["size=1m", "mode=1700"]},
        ]
        _code, output = await box.run(bundle=bundle)
        assert output.startswith("A\nA\n")
        assert "Read-only file system" in output
        assert output.endswith("1\n")
        assert (volume / "y").read_text() == "y\n"

    in_box(scenario)


def test_a_mount_that_cannot_be_says_so(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("true")
        bundle.spec["mounts"].append(
            {"destination": "/etc", "source": "/etc/passwd", "options": ["rbind"]}
        )
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        text = str(failure.value)
        assert text.startswith('error mounting "/etc/passwd" to rootfs at "/etc": ')
        assert text.endswith(": not a directory")
        bundle = box.bundle("true")
        bundle.spec["mounts"].append({"destination": "/x", "source": "/no", "options": ["bind"]})
        with pytest.raises(RuntimeFailure, match="stat /no: no such file or directory"):
            await box.runtime.create(bundle)

    in_box(scenario)


def test_a_read_only_root(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "exec 2>&1; touch /x; touch /dev/shm/y && echo ok")
        bundle.spec["root"]["readonly"] = True
        _code, output = await box.run(bundle=bundle)
        assert "Read-only file system" in output
        assert output.endswith("ok\n")

    in_box(scenario)


def test_kernel_parameters_of_its_namespaces(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax")
        bundle.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1", "kernel.msgmax": "65536"}
        assert await box.run(bundle=bundle) == (0, "1\n65536\n")

    in_box(scenario)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        (
            "net.ipv4.nonexist",
            "1",
            "open sysctl net.ipv4.nonexist file: unsafe procfs detected: openat2 "
            "fsmount:fscontext:proc/./sys/net/ipv4/nonexist: no such file or directory",
        ),
        (
            "kernel.shmmax",
            "abc",
            'failed to write sysctl kernel.shmmax = "abc": '
            "write fsmount:fscontext:proc/./sys/kernel/shmmax: invalid argument",
        ),
    ],
)
def test_kernel_parameters_that_are_none(
    in_box: InBox, key: str, value: str, sentence: str
) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("true")
        bundle.spec["linux"]["sysctl"] = {key: value}
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        assert str(failure.value) == sentence

    in_box(scenario)


def test_resource_limits(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sh", "-c", "ulimit -n; ulimit -Hn")
        limit = {"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}
        bundle.spec["process"]["rlimits"] = [limit]
        assert await box.run(bundle=bundle) == (0, "100\n200\n")
        bundle = box.bundle("true")
        bundle.spec["process"]["rlimits"] = [{**limit, "soft": 300}]
        with pytest.raises(RuntimeFailure, match="error setting rlimit type 7: invalid argument"):
            await box.runtime.create(bundle)

    in_box(scenario)


def test_devices_asked_for_are_there(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("stat", "-c", "%t:%T %a %u %F", "/dev/deep/foo")
        bundle.spec["linux"]["devices"] = [
            {"path": "/dev/deep/foo", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640}
        ]
        code, output = await box.run(bundle=bundle)
        assert (code, output) == (0, "1:3 640 0 character special file\n")

    in_box(scenario)


def test_namespaces_of_another_container_are_joined(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        first = box.bundle("sleep", "100")
        task = await box.start(first)
        second = box.bundle("sh", "-c", "hostname; ps | grep -c 'sleep 100'")
        (box.lower / "bin" / "grep").symlink_to("busybox")
        names = {"uts": "uts", "ipc": "ipc", "pid": "pid", "network": "net"}
        second.spec["hostname"] = "other"
        second.spec["linux"]["namespaces"] = [
            {"type": "mount"},
            *(
                {"type": kind, "path": f"/proc/{task.pid}/ns/{file}"}
                for kind, file in names.items()
            ),
        ]
        code, output = await box.run(bundle=second)
        assert code == 0
        assert output.splitlines()[0] == "box"
        assert int(output.splitlines()[1]) >= 1
        await task.signal(9)
        await box.events.exit_of(first.id)

    in_box(scenario)


def test_the_terminal_is_the_containers_own(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        script = "tty; stat -c '%F %a %u:%g' /dev/console; ls -1 /dev/pts"
        code, output = await box.run(bundle=box.bundle("sh", "-c", script, tty=True))
        assert code == 0
        assert output == "/dev/pts/0\r\ncharacter special file 620 0:5\r\n0\r\nptmx\r\n"

    in_box(scenario)


def test_a_devpts_swapped_for_something_else_is_not_opened(in_box: InBox) -> None:
    async def scenario(box: Box) -> None:
        swapped = box.where / "pts"
        swapped.mkdir()
        os.mkfifo(swapped / "ptmx")
        bundle = box.bundle("true", tty=True)
        for entry in bundle.spec["mounts"]:
            if entry["destination"] == "/dev/pts":
                entry.update(type="bind", source=str(swapped), options=["bind"])
        with pytest.raises(RuntimeFailure) as failure:
            await box.runtime.create(bundle)
        assert failure.value.step == "console"
        assert stat.S_ISFIFO(os.stat(swapped / "ptmx").st_mode)

    in_box(scenario)
