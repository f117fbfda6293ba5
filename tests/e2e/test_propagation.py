"""Mounts that come and go on both sides of a bind, where its source lets them."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import eventually, load
from tests.support.engine import Wharf

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.engine import Engine

SHOW = ("busybox", "grep", " /t ", "/proc/self/mountinfo")
TAGS = {
    "shared": "shared:",
    "rshared": "shared:",
    "slave": "master:",
    "rslave": "master:",
    "private": "",
    "rprivate": "",
}


def tags_of(line: str) -> list[str]:
    return line.partition(" - ")[0].split()[6:]


@pytest.mark.stock
@pytest.mark.parametrize("word", TAGS)
def test_kept_or_refused(engine: Engine, folder: Path, word: str) -> None:
    """Whichever it is here: a private source is refused, never taken for what it is not."""
    done = engine.docker("run", "--rm", "-v", f"{folder}:/t:{word}", *SHOW, check=False)
    if done.returncode:
        kind = "shared" if TAGS[word] == "shared:" else "shared or slave"
        sentence = rf"path {folder} is mounted on /\S* but it is not a {kind} mount"
        assert TAGS[word]
        assert re.search(sentence, done.stderr.decode())
    else:
        tags = tags_of(done.stdout.decode())
        assert [tag for tag in tags if TAGS[word] and tag.startswith(TAGS[word])] == tags


class InMounts(Wharf):
    """A daemon in a mount namespace of its own, whose mounts are all of one kind."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def command(self) -> list[str]:
        script = f'mount --make-r{self.kind} / && exec "$@"'
        private = ("unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh")
        return [*private, *super().command()]

    def mounts(self) -> list[str]:
        """Where something is mounted, as the daemon sees it."""
        assert self.process is not None
        with open(f"/proc/{self.process.pid}/mountinfo") as file:
            return sorted(line.split()[4] for line in file)


@pytest.fixture(scope="module", params=["shared", "private"])
def other(request: pytest.FixtureRequest) -> Iterator[InMounts]:
    wharf = InMounts(request.param)
    try:
        wharf.start()
        load(wharf)
        yield wharf
        wharf.remove_everything()
        wharf.stop()
    finally:
        wharf.close()


@pytest.mark.beyond
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_by_what_the_source_is(other: InMounts) -> None:
    folder = other.binds
    # The one before may still be on its way out.
    before = eventually(other.mounts, lambda mounts: not any("/netns/" in m for m in mounts))
    for word, tag in TAGS.items():
        done = other.docker("run", "--rm", "-v", f"{folder}:/t:{word}", *SHOW, check=False)
        allowed = not tag or other.kind == "shared"
        assert (done.returncode == 0) is allowed, (word, done)
        if allowed:
            tags = tags_of(done.stdout.decode())
            assert len(tags) == bool(tag)
            assert "".join(tags).startswith(tag)
    assert eventually(other.mounts, lambda mounts: mounts == before) == before
    # What holds the engine's own data is a slave where it can be, and private where not.
    seen = other.out("run", "--rm", "-v", f"{other.root}:/t", *SHOW)
    assert "".join(tags_of(seen)).startswith("master:" if other.kind == "shared" else "")


@pytest.mark.beyond
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare")
def test_mounts_of_the_host_arrive(other: InMounts) -> None:
    if other.kind != "shared" or other.process is None:
        pytest.skip("needs a shared source")
    inside = ("nsenter", "-m", "-t", str(other.process.pid))
    for word in ("rshared", "rslave", "rprivate"):
        source = other.binds / word
        (source / "sub").mkdir(parents=True)
        flags = ("--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined")
        other.docker(
            *("run", "-d", "--name", word, *flags, "-v", f"{source}:/t:{word}"),
            *("busybox", "sleep", "100"),
        )
        subprocess.run([*inside, "mount", "-t", "tmpfs", "late", f"{source}/sub"], check=True)
        seen = other.out("exec", word, "cat", "/proc/self/mountinfo")
        assert (" /t/sub " in seen) is (word != "rprivate")
        subprocess.run([*inside, "umount", f"{source}/sub"], check=True)
        other.docker("exec", word, "mount", "-t", "tmpfs", "up", "/t/sub")
        assert (f"{source}/sub" in other.mounts()) is (word == "rshared")
        other.docker("rm", "-f", word)
