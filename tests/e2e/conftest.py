"""One engine for the whole run, and names that lead back to the test that used them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
import uuid
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from tests.support import images, leftovers
from tests.support.engine import Engine, Wharf, named_by_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

T = TypeVar("T")


def missing() -> str | None:
    """What this machine lacks for end-to-end tests, if anything."""
    if os.geteuid() != 0:
        return "root"
    if shutil.which("docker") is None:
        return "the stock docker CLI"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    lacking = missing()
    other = named_by_environment() is not None
    for item in items:
        if "tests/e2e" not in str(item.path):
            continue
        if lacking:
            item.add_marker(pytest.mark.skip(reason=f"needs {lacking}"))
        elif other and item.get_closest_marker("beyond"):
            item.add_marker(pytest.mark.skip(reason="goes beyond stock Docker"))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    other = named_by_environment()
    if other is not None:
        load(other)
        yield other
        other.close()
        return
    wharf = Wharf()
    try:
        wharf.start()
        load(wharf)
        yield wharf
        if wharf.process is not None:
            wharf.remove_everything()
            wharf.stop()
        left = wait_for_nothing(lambda: leftovers.of(wharf.root, wharf.instance))
        assert not left, "left behind:\n" + "\n".join(left)
        assert "Traceback" not in wharf.log_path.read_text(errors="replace"), wharf.log_tail()
    finally:
        if wharf.process is not None:
            wharf.kill()
        wharf.close()


def load(engine: Engine) -> None:
    base = {"busybox:latest": images.busybox(), "hello-world:latest": images.hello_world()}
    engine.docker("load", input=images.docker_archive(base), timeout=120)


@contextlib.contextmanager
def own_wharf(
    *, disk: str = "", has_base: bool = True, config: dict[str, Any] | None = None
) -> Iterator[Wharf]:
    """An instance for one test alone, with busybox unless it is to be bare, and a daemon.json.

    Its data lies on a disk of its own if `disk` says how large that is ("30m"). The end checks that
    nothing is left of it on the host, and no fault of its own in its log.
    """
    if named_by_environment() is not None:
        pytest.skip("only Wharf is asked for this")
    wharf = Wharf()
    (wharf.root / "daemon.json").write_text(json.dumps(config or {}))
    try:
        with own_disk(wharf.data_root, disk) if disk else contextlib.nullcontext():
            try:
                wharf.start()
                if has_base:
                    base = {"busybox:latest": images.busybox()}
                    wharf.docker("load", input=images.docker_archive(base), timeout=120)
                yield wharf
                if wharf.process is None:
                    wharf.start()
                wharf.remove_everything()
                wharf.stop()
            finally:
                wharf.kill()
        left = wait_for_nothing(lambda: leftovers.of(wharf.root, wharf.instance))
        assert not left, "left behind:\n" + "\n".join(left) + "\n" + wharf.log_tail()
        assert "Traceback" not in wharf.log_path.read_text(errors="replace"), wharf.log_tail()
    finally:
        wharf.close()


@contextlib.contextmanager
def own_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir(mode=0o710)
    options = f"size={size},mode=710"
    subprocess.run(("mount", "-t", "tmpfs", "-o", options, "wharf-disk", str(folder)), check=True)
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(folder)), check=True)


@pytest.fixture(scope="session")
def wharf(engine: Engine) -> Wharf:
    if not isinstance(engine, Wharf):
        pytest.skip("only Wharf is asked for this")
    return engine


@pytest.fixture
def name(engine: Engine, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for the test's container, removed afterwards with all that begin with it."""
    safe = re.sub(r"[^a-zA-Z0-9]+", "-", request.node.name).strip("-")[:40].lower()
    base = f"{safe}-{uuid.uuid4().hex[:6]}"
    yield base
    for kind, remove in (
        ("ps -aq", ("rm", "-fv")),
        ("network ls -q", ("network", "rm")),
        ("volume ls -q", ("volume", "rm", "-f")),
    ):
        for ref in engine.out(*kind.split(), "--filter", f"name={base}").split():
            engine.docker(*remove, ref, check=False)


@pytest.fixture
def folder(engine: Engine) -> Iterator[Path]:
    """A folder that the engine sees under the same path."""
    path = engine.binds / f"wharf-{uuid.uuid4().hex[:8]}"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


def wait_for_nothing(probe: Callable[[], list[str]], timeout_s: float = 10) -> list[str]:
    """What `probe` still finds when nothing was left, or when time was up."""
    return eventually(probe, lambda found: not found, timeout_s)


def eventually(probe: Callable[[], T], accept: Callable[[T], bool], timeout_s: float = 10) -> T:
    """The first value that is accepted, or the last one seen when time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = probe()
        if accept(value) or time.monotonic() > deadline:
            return value
        time.sleep(0.05)


@contextlib.contextmanager
def running(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Ends `process` on the way out, whatever happened."""
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


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
