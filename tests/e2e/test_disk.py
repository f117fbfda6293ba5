"""The disk and what the engine says of it, after any history of its images.

A history is a random mix of all that makes and removes images, with kills of the daemon between
and within. Afterwards `system df` and a walk over the folders have to come to the same sum, and
what is visible has to be whole.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from tests.e2e.conftest import eventually, own_wharf
from tests.support import images
from tests.support.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.engine import Wharf

pytestmark = pytest.mark.beyond

HISTORIES = int(os.environ.get("WHARF_TEST_HISTORIES", "8"))
STEPS = 12
LAYERS = 7
TOLERANCE = 0.01
FIXED_BYTES = 16 * 1024
"""Of init layers and of recipes that no layer outweighs."""


@pytest.fixture
def engine() -> Iterator[Wharf]:
    with own_wharf(has_base=False) as wharf:
        yield wharf


def _layer(number: int) -> images.Layer:
    """Hundreds of kilobytes that cannot be compressed, one inode of them under two names."""
    data = random.Random(number).randbytes(200_000 + 60_000 * number)
    tree: images.Tree = {
        f"{number}": images.directory(),
        f"{number}/data": images.file(data),
        f"{number}/again": images.hardlink(f"{number}/data"),
        "shared": images.file(b"%d" % number),
        f"{number}/link": images.symlink("data"),
    }
    if number:
        tree |= images.whiteout(f"{number - 1}/link")
    return images.Layer(images.tar(tree), "gzip" if number % 2 else "zstd")


@dataclass(frozen=True)
class Stock:
    """What histories are made of: images that share layers, at a registry and as archives."""

    pulled: tuple[str, ...]
    archives: tuple[bytes, ...]
    tars: tuple[bytes, ...]

    @classmethod
    def of(cls, registry: Registry) -> Stock:
        layers = [_layer(number) for number in range(LAYERS)]
        dice = random.Random(0)
        made = [
            images.Image(tuple(layers[: dice.randrange(1, LAYERS)]), {"Labels": {"n": str(n)}})
            for n in range(4)
        ]
        # The same layers in another order, so that a folder serves several stacks.
        made += [images.Image((layers[0], layers[3]), {}), images.Image((layers[3],), {})]
        for number, image in enumerate(made):
            registry.add(f"stock/{number}:latest", image)
        return cls(
            pulled=tuple(f"{registry.host}/stock/{n}" for n in range(len(made))),
            archives=tuple(
                images.docker_archive({f"loaded:{n}": image, f"other:{n}": made[n - 1]})
                for n, image in enumerate(made)
            ),
            tars=tuple(layer.tar for layer in layers),
        )


class History:
    """One history; `told` lists its steps, for whoever has to repeat it."""

    def __init__(self, engine: Wharf, stock: Stock, seed: int) -> None:
        self._engine = engine
        self._stock = stock
        self._dice = random.Random(seed)
        self.told: list[str] = [f"seed {seed}"]

    def run(self) -> None:
        steps = (
            *(self._pull, self._pull, self._load, self._import, self._commit, self._tag),
            *(self._remove, self._remove, self._prune, self._container, self._rm),
        )
        for _ in range(STEPS):
            step = self._dice.choice(steps)
            if self._dice.random() < 0.06:
                self._killed_in(step)
            else:
                step()

    def _killed_in(self, step: Callable[[], None]) -> None:
        """The daemon ends within the step, or just before or after it."""
        timer = threading.Timer(self._dice.random() ** 2 * 0.15, self._engine.kill)
        timer.start()
        with contextlib.suppress(OSError, http.client.HTTPException):
            step()
        timer.join()
        self.told.append("… killed")
        self._engine.start()

    def _call(self, method: str, path: str, body: Any = None, **query: str) -> None:
        url = f"{path}?{urlencode(query)}"
        self.told.append(f"{method} {url}")
        reply = self._engine.call(method, url, body)
        assert reply.status < 500, (self.told, reply)

    def _images(self) -> list[dict[str, Any]]:
        return self._engine.call("GET", "/images/json?all=1").json()

    def _some_image(self) -> str | None:
        """A name or an id."""
        found = self._images()
        if not found:
            return None
        image = self._dice.choice(found)
        return self._dice.choice([*image["RepoTags"], image["Id"]])

    # Steps

    def _pull(self) -> None:
        name = self._dice.choice(self._stock.pulled)
        self._call("POST", "/images/create", fromImage=name, tag="latest")

    def _load(self) -> None:
        self._call("POST", "/images/load", self._dice.choice(self._stock.archives), quiet="1")

    def _import(self) -> None:
        tar = self._dice.choice(self._stock.tars)
        repo = self._dice.choice(["imported", ""])
        self._call("POST", "/images/create", tar, fromSrc="-", repo=repo)

    def _commit(self) -> None:
        ids = self._container_ids()
        if ids:
            self._call("POST", "/commit", {}, container=self._dice.choice(ids), repo="committed")

    def _tag(self) -> None:
        if (ref := self._some_image()) is not None:
            tag = str(self._dice.randrange(5))
            self._call("POST", f"/images/{ref}/tag", repo="named", tag=tag)

    def _remove(self) -> None:
        if (ref := self._some_image()) is not None:
            force = self._dice.choice(["0", "1"])
            self._call("DELETE", f"/images/{ref}", force=force)

    def _prune(self) -> None:
        dangling = self._dice.choice(['{"dangling":["true"]}', '{"dangling":["false"]}'])
        self._call("POST", "/images/prune", filters=dangling)

    def _container_ids(self) -> list[str]:
        return [c["Id"] for c in self._engine.call("GET", "/containers/json?all=1").json()]

    def _container(self) -> None:
        if (ref := self._some_image()) is not None:
            self._call("POST", "/containers/create", {"Image": ref, "Cmd": ["/true"]})

    def _rm(self) -> None:
        if ids := self._container_ids():
            self._call("DELETE", f"/containers/{self._dice.choice(ids)}")


def walked(engine: Wharf) -> int:
    """Bytes of all files that images take up, hard links once."""
    seen: dict[tuple[int, int], int] = {}
    for folder in ("overlay2", "content"):
        for path, _, names in os.walk(engine.data_root / folder):
            for name in names:
                found = os.lstat(os.path.join(path, name))
                seen[found.st_dev, found.st_ino] = found.st_size
    return sum(seen.values())


def told(engine: Wharf) -> int:
    """The same as `system df` says it."""
    return int(engine.call("GET", "/system/df?type=image").json()["LayersSize"])


def untruth(engine: Wharf) -> int:
    """By how many bytes the two differ, beyond what they may."""
    expected, actual = told(engine), walked(engine)
    return max(abs(actual - expected) - int(expected * TOLERANCE) - FIXED_BYTES, 0)


@pytest.mark.timeout(120 + 4 * HISTORIES)
def test_df_is_du_after_any_history(engine: Wharf) -> None:
    with Registry() as registry:
        stock = Stock.of(registry)
        for seed in range(HISTORIES):
            history = History(engine, stock, seed)
            history.run()
            off = eventually(lambda: untruth(engine), lambda bytes_: not bytes_)
            assert not off, (history.told, told(engine), walked(engine))
            for image in engine.call("GET", "/images/json?all=1").json()[:2]:
                saved = engine.call("GET", f"/images/{image['Id']}/get")
                assert saved.status == 200, (history.told, saved)
            if seed % 5 == 4:
                _remove_all(engine)
                left = eventually(lambda: walked(engine), lambda bytes_: bytes_ <= FIXED_BYTES)
                assert left <= FIXED_BYTES, history.told


def _remove_all(engine: Wharf) -> None:
    for container in engine.call("GET", "/containers/json?all=1").json():
        engine.call("DELETE", f"/containers/{container['Id']}?force=1")
    engine.call("POST", '/images/prune?filters={"dangling":["false"]}')
