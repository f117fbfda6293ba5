"""An image as large as those that people wait for: many layers, many small files, some large ones.

It is made of what this host has installed, so its bytes compress as programs and texts do. Made
once a run; a registry in this process serves it, to each engine the same.
"""

from __future__ import annotations

import functools
import os
import random
from typing import TYPE_CHECKING

from tests.support import images
from tests.support.images import Image, Layer

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "bench/large:1"
HUGE_NAME = "bench/huge:1"
LAYERS = 10
SMALL_FILES = 30_000
SMALL_BYTES = 100_000
BYTES = 600_000_000
SOURCES = ("/usr/share", "/usr/lib", "/usr/include", "/usr/bin")


@functools.cache
def image() -> Image:
    """Some half a minute's work."""
    return Image(tuple(_layer(number, paths) for number, paths in enumerate(_parts())))


@functools.cache
def huge() -> Image:
    """Two gigabytes, of which the wire has one: random bytes with as many zeros behind them."""
    return Image(tuple(_huge_layer(number) for number in range(4)))


def _huge_layer(number: int) -> Layer:
    noise = random.Random(number).randbytes(1 << 20)
    files = {
        f"{number}-{at}": images.file(noise[at:] + noise[:at] + bytes(1 << 20)) for at in range(250)
    }
    return Layer(images.tar(files))


@functools.cache
def archive() -> bytes:
    """The same as `docker save` has it."""
    return images.docker_archive({NAME: image()})


def _parts() -> list[list[str]]:
    """Which files go into which layer: neighbours together, the large ones dealt out."""
    small: list[str] = []
    large: list[str] = []
    total = 0
    for path, size in _files():
        if size < SMALL_BYTES and len(small) < SMALL_FILES:
            small.append(path)
        elif size >= SMALL_BYTES and total + size < BYTES:
            large.append(path)
        else:
            continue
        total += size
    if len(small) < SMALL_FILES:
        raise RuntimeError(f"this host has {len(small)} small files, and {SMALL_FILES} are wanted")
    each = len(small) // LAYERS + 1
    return [small[n * each : (n + 1) * each] + large[n::LAYERS] for n in range(LAYERS)]


def _files() -> Iterator[tuple[str, int]]:
    for source in SOURCES:
        for folder, below, names in os.walk(source):
            below.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path, os.path.getsize(path)


def _layer(number: int, paths: list[str]) -> Layer:
    members: dict[str, images.Entry] = {}
    for path in paths:
        parts = path.strip("/").split("/")
        for depth in range(1, len(parts)):
            members.setdefault("/".join(parts[:depth]), images.directory())
        with open(path, "rb") as file:
            members["/".join(parts)] = images.file(file.read())
    members[f"layer{number}"] = images.file()
    return Layer(images.tar(members))
