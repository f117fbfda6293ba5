"""Volumes and mounts as the stock client asks for them, on either engine."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support import images

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.engine import Engine


# Images as mounts


@pytest.fixture
def layered(built: Callable[..., str]) -> str:
    """Two layers over busybox; the upper one hides a file of the lower."""
    low, high = images.file(b"low\n"), images.file(b"high\n")
    return built({"tree/low": low, "tree/both": low}, {"tree/both": high})


def _of_image(image: str, *words: str) -> tuple[str, str]:
    return "--mount", ",".join((f"type=image,src={image},dst=/i", *words))


def test_an_image_of_several_layers_is_mounted(engine: Engine, layered: str) -> None:
    script = "cat /i/tree/low /i/tree/both; touch /i/x 2>&1; ls /i/bin/busybox"
    done = engine.docker("run", "--rm", *_of_image(layered), "busybox", "sh", "-c", script)
    assert done.stdout.decode().splitlines() == [
        "low",
        "high",
        "touch: /i/x: Read-only file system",
        "/i/bin/busybox",
    ]
    assert b"WARNING: Image mount is an experimental feature" in done.stderr


def test_a_part_of_an_image_is_mounted(engine: Engine, layered: str) -> None:
    mounted = _of_image(layered, "image-subpath=tree")
    assert engine.out("run", "--rm", *mounted, "busybox", "ls", "/i").split() == ["both", "low"]
    file = _of_image(layered, "image-subpath=tree/both")
    assert engine.out("run", "--rm", *file, "busybox", "cat", "/i") == "high"


def test_two_images_at_once_and_again(engine: Engine, layered: str, name: str) -> None:
    second = "--mount", "type=image,src=busybox,dst=/j,image-subpath=bin"
    script = "cat /i/tree/low; ls /j/busybox"
    mounted = (*_of_image(layered), *second)
    engine.docker("create", "--name", name, *mounted, "busybox", "sh", "-c", script)
    for _ in range(2):
        assert engine.out("start", "-a", name).split() == ["low", "/j/busybox"]


def test_a_part_that_an_image_does_not_have(engine: Engine, layered: str) -> None:
    mounted = _of_image(layered, "image-subpath=none")
    done = engine.docker("run", "--rm", *mounted, "busybox", "true", check=False)
    said = r"cannot access path (\S+)/none: lstat \1/none: no such file or directory"
    assert re.search(said, done.stderr.decode())


def test_an_image_that_is_mounted_is_in_use(engine: Engine, layered: str, name: str) -> None:
    engine.docker("create", "--name", name, *_of_image(layered), "busybox", "cat", "/i/tree/low")
    done = engine.docker("rmi", layered, check=False)
    assert done.returncode == 1
    assert f'unable to remove repository reference "{layered}" (must force)' in (
        done.stderr.decode()
    )
    assert engine.out("start", "-a", name) == "low"


def test_an_image_and_a_volume_of_one_name(engine: Engine, name: str) -> None:
    engine.docker("volume", "create", "busybox")
    engine.docker("create", "--name", name, *_of_image("busybox"), "busybox")
    engine.docker("volume", "rm", "busybox")
