"""Mirrors of any registry: asked in their order, then the registry itself. Beyond Docker, which
knows mirrors of its hub alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.conftest import own_wharf
from tests.support import images
from tests.support.registry import Answer, Registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Wharf

pytestmark = pytest.mark.beyond


class House:
    """A daemon, the first and the second mirror of `away`, and the registry `home` with none."""

    def __init__(self, wharf: Wharf, first: Registry, second: Registry, home: Registry) -> None:
        self.wharf = wharf
        self.first = first
        self.second = second
        self.home = home


AWAY = "registry.invalid"  # RFC 2606: never there


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    with Registry() as first, Registry() as second, Registry() as home:
        config = {
            "registry-mirrors": [second.url],
            "registries": {
                AWAY: {"mirrors": ["http://127.0.0.1:1", first.url, second.url]},
                home.host: {"mirrors": [first.url]},
            },
        }
        with own_wharf(config=config) as wharf:
            yield House(wharf, first, second, home)


def image(name: str) -> images.Image:
    return images.on_busybox({"name": images.file(name.encode())})


def test_the_first_that_has_it(house: House) -> None:
    house.first.add("a/one:1", image("first"))
    house.second.add("a/one:1", image("second"))
    house.wharf.docker("pull", f"{AWAY}/a/one:1")
    assert house.wharf.out("run", "--rm", f"{AWAY}/a/one:1", "cat", "/name") == "first"


def test_the_next_where_the_first_has_it_not(house: House) -> None:
    house.second.add("a/two:1", image("second"))
    house.wharf.docker("pull", f"{AWAY}/a/two:1")
    assert house.wharf.out("run", "--rm", f"{AWAY}/a/two:1", "cat", "/name") == "second"


@pytest.mark.parametrize("status", [429, 500, 503])
def test_the_next_where_the_first_is_busy(house: House, status: int) -> None:
    name = f"a/busy{status}"
    house.first.add(f"{name}:1", image("first"))
    house.second.add(f"{name}:1", image("second"))
    for method in ("HEAD", "GET"):
        house.first.fault(method, f"{name}/manifests/", Answer(status))
    house.wharf.docker("pull", f"{AWAY}/{name}:1")
    assert house.wharf.out("run", "--rm", f"{AWAY}/{name}:1", "cat", "/name") == "second"


def test_the_registry_itself_comes_last(house: House) -> None:
    house.home.add("a/three:1", image("home"))
    house.wharf.docker("pull", f"{house.home.host}/a/three:1")
    out = house.wharf.out("run", "--rm", f"{house.home.host}/a/three:1", "cat", "/name")
    assert out == "home"
    assert house.first.seen("HEAD", "/a/three/manifests/") == 1


def test_a_mirror_of_the_hub(house: House) -> None:
    house.second.add("library/four:1", image("hub"))
    house.wharf.docker("pull", "four:1")
    assert house.wharf.out("run", "--rm", "four:1", "cat", "/name") == "hub"


def test_nothing_is_pushed_to_a_mirror(house: House) -> None:
    house.wharf.docker("tag", "busybox", f"{house.home.host}/a/five:1")
    house.wharf.docker("push", f"{house.home.host}/a/five:1")
    assert house.home.seen("PUT", "/a/five/manifests/") == 1
    assert house.first.seen("PUT", "/a/five/") == 0
