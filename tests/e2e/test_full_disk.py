"""A data-root with no room left: refusals in plain words, and removing is what helps."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually, own_wharf
from tests.support import images
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Wharf

pytestmark = pytest.mark.beyond


@pytest.fixture
def engine() -> Iterator[Wharf]:
    with own_wharf(disk="30m") as wharf:
        yield wharf


def free_bytes(engine: Wharf) -> int:
    found = os.statvfs(engine.data_root)
    return found.f_bavail * found.f_frsize


def fill(engine: Wharf) -> None:
    path = engine.data_root / "filler"
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return


def refused(engine: Wharf, *arguments: str) -> str:
    ran = engine.docker(*arguments, check=False)
    text = ran.stderr.decode() if isinstance(ran.stderr, bytes) else ran.stderr
    assert ran.returncode != 0
    assert "internal error" not in text
    return text


def test_what_filled_the_disk_can_be_removed(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "kept", "busybox", "sleep", "1000")
    engine.docker(
        "run",
        "-d",
        "--name",
        "full",
        "busybox",
        "sh",
        "-c",
        "head -c 40000000 /dev/zero > /file; sleep 1000",
    )
    engine.docker("exec", "full", "sh", "-c", "until ! echo x >> /more; do :; done", check=False)
    fill(engine)
    assert free_bytes(engine) == 0
    for _ in range(3):
        text = refused(engine, "run", "-d", "busybox", "sh", "-c", "x" * 100_000)
        assert "no space left on device" in text
    engine.docker("kill", "kept")
    assert engine.inspect("kept")["State"]["ExitCode"] == 137
    engine.docker("rm", "-f", "full")
    assert free_bytes(engine) > 1 << 20
    engine.docker("rm", "kept")
    (engine.data_root / "filler").unlink()
    engine.docker("run", "--rm", "busybox", "true")


def test_a_daemon_starts_on_a_full_disk(engine: Wharf) -> None:
    engine.docker("run", "-d", "--name", "one", "busybox", "sleep", "1000")
    engine.docker("run", "-d", "--name", "two", "busybox", "sleep", "1000")
    fill(engine)
    engine.kill()
    engine.start()
    engine.docker("rm", "-f", "one")
    fill(engine)
    engine.stop()
    fill(engine)
    engine.start()
    engine.docker("rm", "-f", "two")
    assert engine.out("ps", "-aq") == ""
    (engine.data_root / "filler").unlink()


def test_a_commit_that_fills_the_disk_leaves_nothing(engine: Wharf) -> None:
    script = "head -c 16000000 /dev/urandom > /file; exec sleep 1000"
    engine.docker("run", "-d", "--name", "large", "busybox", "sh", "-c", script)
    eventually(
        lambda: engine.out("exec", "large", "stat", "-c", "%s", "/file"),
        lambda size: size == "16000000",
    )
    before = free_bytes(engine)
    assert "no space left on device" in refused(engine, "commit", "large", "committed")
    assert engine.inspect("large")["State"]["Status"] == "running"
    assert engine.out("images", "-q", "committed") == ""
    assert eventually(lambda: free_bytes(engine), lambda now: now > before - (1 << 20))
    assert free_bytes(engine) > before - (1 << 20)
    engine.docker("exec", "large", "rm", "/file")
    engine.docker("commit", "large", "committed")


def test_volumes_go_with_their_container(engine: Wharf) -> None:
    script = "head -c 4000000 /dev/zero > /data/file; exec sleep 1000"
    for name in ("one", "two"):
        engine.docker("run", "-d", "--name", name, "-v", "/data", "busybox", "sh", "-c", script)
        eventually(
            lambda name=name: engine.out("exec", name, "stat", "-c", "%s", "/data/file"),
            lambda size: size == "4000000",
        )
    fill(engine)
    engine.docker("rm", "-f", "-v", "one")
    assert free_bytes(engine) > 3 << 20
    fill(engine)
    engine.docker("rm", "-f", "-v", "two")
    assert engine.out("volume", "ls", "-q") == ""
    assert free_bytes(engine) > 3 << 20
    (engine.data_root / "filler").unlink()


def test_a_push_needs_no_room_but_for_what_it_remembers(engine: Wharf) -> None:
    """The layers are packed on their way; the manifest that was made is part of the image then."""
    with Registry() as registry:
        ref = f"{registry.host}/full/a:1"
        image = images.on_busybox({"own": images.file(os.urandom(4 << 20))})
        engine.docker("load", input=images.docker_archive({ref: image}))
        fill(engine)
        assert free_bytes(engine) == 0
        done = engine.docker("push", ref, check=False)
        if done.returncode:
            assert b"no space left on device" in done.stderr
        assert set(registry.tags("full/a")) == {"1"}
        (engine.data_root / "filler").unlink()
        assert "digest: sha256:" in engine.out("push", ref)
        (digest,) = engine.inspect(ref)["RepoDigests"]
        assert digest.partition("@")[2] == registry.tags("full/a")["1"]
