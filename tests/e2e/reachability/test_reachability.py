"""Who reaches what, on whichever engine is asked: the table, row by row."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.e2e.reachability import scene
from tests.e2e.reachability.table import SCENES
from tests.support.internet import Internet, internet
from tests.support.questions import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.engine import Engine


@pytest.fixture(scope="module")
def net(engine: Engine) -> Iterator[Internet]:
    """The machines outside, and a container on a network that no scene is about."""
    name = scene.STRANGER
    subnets = ("--ipv6", "--subnet", "10.231.9.0/24", "--subnet", "fd00:231:9::/64")
    with contextlib.ExitStack() as stack:
        machines = stack.enter_context(internet())
        for namespace in (machines.neighbour, machines.far):
            stack.enter_context(serving(namespace, (scene.OUTSIDE,)))
        stack.callback(engine.docker, "network", "rm", name, check=False)
        stack.callback(engine.docker, "rm", "-f", name, check=False)
        engine.docker("network", "create", *subnets, name)
        engine.docker("run", "-d", "--name", name, "--network", name, "busybox", "sleep", "3600")
        yield machines


@pytest.mark.stock
@pytest.mark.parametrize("row", SCENES, ids=lambda row: row.name.replace(" ", "-"))
def test_who_reaches_what(row: scene.Scene, engine: Engine, net: Internet, name: str) -> None:
    assert scene.play(row, engine, net, name) == scene.expected(row, is_wharf=engine.is_wharf)
