"""More output than anyone wanted, and disks with no room; ids as in tests/ATTACKS.md."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import own_wharf, running
from tests.support import images

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine, Wharf

# Wharf rotates logs unless told otherwise.
WHOLE_LOG = ["--log-opt", "max-size=1g"]
STREAMED_MB = int(os.environ.get("WHARF_TEST_STREAM_MB", "256"))


@pytest.mark.stock
def test_a7_a_flood_of_lines_leaves_others_served(engine: Engine, name: str) -> None:
    engine.docker(
        *("run", "-d", "--name", name, *WHOLE_LOG),
        *("busybox", "sh", "-c", "yes | head -n 3000000; exit 4"),
    )
    slowest = 0.0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        started = time.monotonic()
        state = engine.call("GET", f"/containers/{name}/json").json()["State"]
        slowest = max(slowest, time.monotonic() - started)
        if not state["Running"]:
            break
        time.sleep(0.05)
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    # dockerd waits seconds for the streams of a container whose end an inspect meets.
    assert slowest < 2 or not engine.is_wharf
    lines = engine.docker("logs", "--tail", "100000", name).stdout
    assert lines.removesuffix(b"y").replace(b"y\n", b"") == b""  # the last one may be cut off
    assert len(lines) >= 199_000


@pytest.mark.stock
def test_a7_a_line_of_a_hundred_megabytes(engine: Engine, name: str) -> None:
    size = 100_000_000
    script = f"head -c {size} /dev/zero | tr '\\0' x; exit 6"
    engine.docker("run", "-d", "--name", name, *WHOLE_LOG, "busybox", "sh", "-c", script)
    assert engine.out("wait", name, timeout=90) == "6"
    with running(engine.popen("logs", name, stdout=subprocess.PIPE)) as logs:
        assert logs.stdout is not None
        seen = 0
        while chunk := logs.stdout.read(1 << 20):
            assert chunk.count(b"x") == len(chunk)
            seen += len(chunk)
    assert seen == size


@pytest.mark.stock
def test_a7_binary_output_is_attached_to_as_it_is(engine: Engine, name: str) -> None:
    """Its log has replacement characters where the bytes are no text, and each line is whole."""
    script = "head -c 1000000 /dev/urandom > /x; md5sum < /x >&2; cat /x"
    done = engine.docker("run", "--name", name, "busybox", "sh", "-c", script)
    assert hashlib.md5(done.stdout).hexdigest() == done.stderr.split()[0].decode()
    logged = engine.docker("logs", name)
    assert logged.stderr == done.stderr
    assert logged.stdout.count(b"\n") == done.stdout.count(b"\n")
    assert logged.stdout.decode().count("\ufffd") > 100_000


@pytest.mark.stock
def test_what_goes_in_comes_out_the_same(engine: Engine) -> None:
    """`run -i cat` with WHARF_TEST_STREAM_MB megabytes."""
    block = os.urandom(1 << 20)
    sent, received = hashlib.sha256(), hashlib.sha256()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(
        engine.popen("run", "-i", "--rm", "--log-driver", "none", "busybox", "cat", **pipes)
    ) as cat:
        assert cat.stdin is not None
        assert cat.stdout is not None
        writer = os.fork()
        if writer == 0:
            with contextlib.suppress(OSError):
                for _ in range(STREAMED_MB):
                    cat.stdin.write(block)
                cat.stdin.close()
            os._exit(0)
        cat.stdin.close()
        for _ in range(STREAMED_MB):
            sent.update(block)
        count = 0
        while chunk := cat.stdout.read(1 << 20):
            received.update(chunk)
            count += len(chunk)
        os.waitpid(writer, 0)
        assert cat.wait(30) == 0
    assert count == STREAMED_MB << 20
    assert received.digest() == sent.digest()


# A disk with no room


@pytest.fixture
def small() -> Iterator[Wharf]:
    with own_wharf(disk="40m") as wharf:
        yield wharf


@pytest.mark.beyond
def test_a7_a_full_disk_can_be_freed(small: Wharf) -> None:
    """The container whose log filled it goes on, can be removed, and then all is as before."""
    flood = "head -c 60000000 /dev/zero | tr '\\0' '\\n'; exit 3"
    small.docker("run", "-d", "--name", "full", "busybox", "sh", "-c", flood)
    assert small.out("wait", "full", timeout=90) == "3"
    filler = small.data_root / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as rest:
        while rest.write(bytes(4096)):
            pass
    layer = images.Layer(images.tar({"file": images.file(os.urandom(1 << 20))}))
    big = images.docker_archive({"big:1": images.Image((layer,))})
    refused = small.docker("load", input=big, check=False)
    assert refused.returncode == 1
    assert b"no space left on device" in refused.stderr.lower()
    # Rows fit into pages that the database has, and folders take none of this disk's.
    assert small.call("POST", "/volumes/create", {"Name": "more"}).status == 201
    assert small.call("POST", "/networks/create", {"Name": "more"}).status == 201
    assert small.inspect("full")["State"]["ExitCode"] == 3
    small.docker("rm", "-f", "full")
    filler.unlink()
    assert small.call("GET", "/containers/full/json").status == 404
    assert small.out("run", "--rm", "busybox", "echo", "again") == "again"
    assert "Traceback" not in small.log_path.read_text(errors="replace"), small.log_tail()
