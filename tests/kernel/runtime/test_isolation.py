"""Once inside a container the interpreter loads and opens nothing by path.

An audit hook in the launcher, inherited by every monitor and init, notes each such event that comes
while "/" is not the host's. It writes to a shared mapping, for descriptors do not survive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from engine.runtime import forkserver
from engine.runtime.client import RuntimeFailure
from tests.kernel.runtime.harness import Box, attach, read_all

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    InBox = Callable[[Any], Any]

_HOOK = """
import mmap, os, sys
def _watch(path):
    with open(path, "r+b") as file:
        notes = mmap.mmap(file.fileno(), 1 << 16)
    host = os.stat("/")
    watched = {"import", "open", "compile", "exec", "ctypes.dlopen", "os.system",
               "os.posix_spawn", "subprocess.Popen", "os.listdir", "os.scandir"}
    def hook(event, args):
        if event not in watched:
            return
        root = os.stat("/")
        if (root.st_dev, root.st_ino) != (host.st_dev, host.st_ino):
            notes.write(f"{event} {args!r}\\n".encode())
            notes.flush()
    sys.addaudithook(hook)
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notes"
    path.write_bytes(bytes(1 << 16))
    program = f"{_HOOK}\n_watch({str(path)!r})\n" + forkserver._PROGRAM
    monkeypatch.setattr(forkserver, "_PROGRAM", program)
    return path


def events(notes: Path) -> list[str]:
    return notes.read_bytes().rstrip(b"\0").decode().splitlines()


@pytest.mark.parametrize("facts", [{}, {"init": True}, {"tty": True}])
def test_nothing_on_the_way_into_a_container(
    in_box: InBox, notes: Path, facts: dict[str, Any]
) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("true", **facts)
        bundle.spec["process"]["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
        bundle.spec["process"]["cwd"] = "/new"
        bundle.spec["linux"]["sysctl"] = {"net.ipv4.ip_forward": "1"}
        assert (await box.run(bundle=bundle))[0] == 0
        if facts.get("init"):
            assert (await box.run(bundle=box.bundle("nothing", **facts)))[0] == 127
        else:
            with pytest.raises(RuntimeFailure):
                await box.runtime.create(box.bundle("nothing", **facts))

    in_box(scenario)
    assert events(notes) == []


@pytest.mark.parametrize("tty", [False, True])
def test_nothing_on_the_way_into_an_exec(in_box: InBox, notes: Path, tty: bool) -> None:
    async def scenario(box: Box) -> None:
        bundle = box.bundle("sleep", "100")
        task = await box.start(bundle)
        attachment, ours = attach(stdin=False)
        process = {"args": ["id"], "cwd": "/", "env": ["PATH=/bin"]}
        await task.exec("e", process, tty=tty, attachment=attachment)
        assert b"uid=0" in await read_all(ours)
        ours.close()
        with pytest.raises(RuntimeFailure):
            await task.exec("f", {**process, "args": ["nothing"]}, tty=tty)
        with pytest.raises(RuntimeFailure):
            await task.exec("g", {**process, "cwd": "/nothing"}, tty=tty)
        await task.signal(9)
        await box.events.exit_of(bundle.id)

    in_box(scenario)
    assert events(notes) == []


def test_the_hook_would_have_seen_it(notes: Path) -> None:
    """The test's own instrument: in another root an import is noted."""
    import subprocess
    import sys

    program = (
        f"{_HOOK}\n_watch({str(notes)!r})\nimport os\nos.chroot('/proc')\n"
        "try:\n    import nothing_of_that_name\nexcept ImportError:\n    pass\n"
    )
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)
    assert any(line.startswith("import ") for line in events(notes))
