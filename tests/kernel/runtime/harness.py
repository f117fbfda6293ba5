"""Real containers through `Runtime`, from a busybox rootfs and a minimal specification."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
from typing import TYPE_CHECKING, Any, Self

from engine.linux import cgroup
from engine.runtime.client import Attachment, Bundle, Exit, Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from engine.runtime.client import Task

CAPABILITIES = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
]
MASKED = [
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/timer_list",
    "/sys/firmware",
]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
_APPLETS = (
    *("sh", "cat", "true", "false", "sleep", "echo", "id", "ls", "mount", "env", "head", "wc"),
    *("md5sum", "stty", "kill", "ps", "pwd", "hostname", "touch", "mkdir", "dd", "yes", "nc"),
    *("readlink", "stat", "test", "seq", "timeout", "mknod", "umount", "chmod", "setsid", "tty"),
)


def make_rootfs(path: Path) -> Path:
    """A busybox rootfs as an image layer would hold it."""
    for folder in ("bin", "etc", "proc", "sys", "dev", "tmp", "root", "home"):
        (path / folder).mkdir(parents=True)
    (path / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", path / "bin" / "busybox")
    for applet in _APPLETS:
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home:\n")
    (path / "etc" / "group").write_text("root:x:0:\n")
    return path


def default_mounts() -> list[dict[str, Any]]:
    strict = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": strict},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/sys",
            "type": "sysfs",
            "source": "sysfs",
            "options": [*strict, "ro"],
        },
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": ["ro", *strict],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": strict},
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*strict, "mode=1777", "size=65536k"],
        },
    ]


def make_spec(args: Sequence[str], *, root: str, cgroup_path: str, tty: bool) -> dict[str, Any]:
    namespaces = ["mount", "uts", "ipc", "pid", "network"]
    if cgroup.version() == 2:
        namespaces.append("cgroup")
    return {
        "ociVersion": "1.2.0",
        "process": {
            "terminal": tty,
            "user": {"uid": 0, "gid": 0, "additionalGids": []},
            "args": list(args),
            "env": ["PATH=/usr/bin:/bin", "HOSTNAME=box"],
            "cwd": "/",
            "capabilities": {
                kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")
            },
            "oomScoreAdj": 0,
        },
        "root": {"path": root},
        "hostname": "box",
        "mounts": default_mounts(),
        "linux": {
            "cgroupsPath": cgroup_path,
            "namespaces": [{"type": kind} for kind in namespaces],
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READ_ONLY),
        },
    }


class Recorder:
    """RuntimeEvents that can be awaited."""

    def __init__(self) -> None:
        self.exits: dict[str, asyncio.Future[Exit]] = {}
        self.exec_exits: dict[str, asyncio.Future[int]] = {}
        self.ends: list[Exit] = []  # of runs that another one followed
        self.restarts: list[tuple[int, int]] = []  # (pid, count)
        self.ooms: list[str] = []
        self.detaches: list[str | None] = []
        self.lost: list[str] = []

    def exit_of(self, container_id: str) -> asyncio.Future[Exit]:
        return self.exits.setdefault(container_id, asyncio.get_running_loop().create_future())

    def exec_exit_of(self, exec_id: str) -> asyncio.Future[int]:
        return self.exec_exits.setdefault(exec_id, asyncio.get_running_loop().create_future())

    def on_exit(self, container_id: str, exit: Exit) -> None:
        if exit.again_ns is not None:
            self.ends.append(exit)
            return
        self.exit_of(container_id).set_result(exit)

    def on_restarted(self, container_id: str, pid: int, started_ns: int, count: int) -> None:
        self.restarts.append((pid, count))

    def on_exec_exit(self, container_id: str, exec_id: str, code: int, at_ns: int) -> None:
        self.exec_exit_of(exec_id).set_result(code)

    def on_oom(self, container_id: str) -> None:
        self.ooms.append(container_id)

    def on_detach(self, container_id: str, exec_id: str | None) -> None:
        self.detaches.append(exec_id)

    def on_lost(self, container_id: str) -> None:
        self.lost.append(container_id)


class Box:
    """A runtime with its folders, and the containers made with it."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.parent = f"wharf-test-{secrets.token_hex(4)}"
        self.exec_root = str(where / "run")
        self.events = Recorder()
        self.runtime = Runtime(self.exec_root, events=self.events)
        self.lower = make_rootfs(where / "lower")

    async def __aenter__(self) -> Self:
        self.cgroup_parent = cgroup.open_parent(self.parent)
        await self.runtime.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.runtime.close()
        cgroup.kill(self.cgroup_parent, 5.0)
        cgroup.remove(self.cgroup_parent, 5.0)

    @property
    def launcher_pid(self) -> int:
        """The fork server's process, which the last start left alive."""
        assert self.runtime._launcher is not None
        return self.runtime._launcher.process.pid

    def bundle(self, *args: str, tty: bool = False, **facts: Any) -> Bundle:
        identity = secrets.token_hex(32)
        base = self.where / identity[:12]
        for folder in ("root", "upper", "work"):
            (base / folder).mkdir(parents=True)
        spec = make_spec(
            args,
            root=str(base / "root"),
            cgroup_path=f"{self.cgroup_parent}/{identity}",
            tty=tty,
        )
        options = [f"lowerdir={self.lower}", f"upperdir={base}/upper", f"workdir={base}/work"]
        log = {"driver": "json-file", "path": str(base / "log"), "max_size": -1, "max_file": 1}
        return Bundle(
            id=identity,
            spec=spec,
            rootfs=[{"type": "overlay", "source": "overlay", "options": options}],
            log=log,
            tty=tty,
            **facts,
        )

    async def start(self, bundle: Bundle, *attachments: Attachment) -> Task:
        task = await self.runtime.create(bundle, attachments=attachments)
        await task.start()
        return task

    async def run(self, *args: str, bundle: Bundle | None = None) -> tuple[int, str]:
        """(exit code, output as the log has it)."""
        bundle = bundle or self.bundle(*args)
        await self.start(bundle)
        exit = await asyncio.wait_for(self.events.exit_of(bundle.id), 20)
        return exit.code, self.output(bundle)

    def folder_of(self, bundle: Bundle) -> str:
        """The container's folder under the exec-root."""
        return os.path.join(self.exec_root, "containers", bundle.id)

    def output(self, bundle: Bundle) -> str:
        with open(bundle.log["path"], encoding="utf-8") as file:
            return "".join(json.loads(line)["log"] for line in file)


def attach(*, stdin: bool = True, **options: Any) -> tuple[Attachment, socket.socket]:
    """An attachment and the client's end of its socket."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    return Attachment(theirs.detach(), stdin=stdin, **options), ours


async def read_all(sock: socket.socket, timeout_s: float = 20) -> bytes:
    """Until the end of the stream."""
    loop = asyncio.get_running_loop()
    chunks: list[bytes] = []

    async def read() -> None:
        while chunk := await loop.sock_recv(sock, 1 << 16):
            chunks.append(chunk)

    await asyncio.wait_for(read(), timeout_s)
    return b"".join(chunks)


async def read_until(sock: socket.socket, wanted: bytes, timeout_s: float = 10) -> bytes:
    loop = asyncio.get_running_loop()
    data = b""
    async with asyncio.timeout(timeout_s):
        while wanted not in data:
            chunk = await loop.sock_recv(sock, 1 << 16)
            if not chunk:
                break
            data += chunk
    return data


def is_alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def size_of(path: str) -> int:
    return os.path.getsize(path)


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """For what the kernel or another process does in its own time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
